"""What a model writes after each prompt, many prompts at once."""

from sagetune.generation.answers import generate
from sagetune.generation.draws import Draws
from sagetune.generation.plain import until_stop

__all__ = ["Draws", "generate", "until_stop"]
