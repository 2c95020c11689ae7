"""`python -m sagetune` is the console command `sagetune`."""

from sagetune.commands import main

main()
