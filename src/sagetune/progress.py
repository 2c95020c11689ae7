"""A progress bar with rate and time left for one stage of work; nothing on a stream that is no terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class Rate(ProgressColumn):
    """Finished units a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.1f}/s" if task.speed else "", style="progress.data.speed")


@contextmanager
def progress_stage(console: Console, title: str, total: int) -> Iterator[Callable[..., None]]:
    """Inside, a bar on `console`; the function that it gives advances the bar by a number of finished units.

    A second argument of that function is the bar's new title.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        bar = progress.add_task(title, total=total)
        yield lambda finished, title=title: progress.update(bar, advance=finished, description=title)
