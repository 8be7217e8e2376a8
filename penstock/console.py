"""What a person sees while a stage runs: progress, a closing line, and errors on one screen."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from penstock.errors import PenstockError

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["USER_ERROR", "fail", "progress", "run_stage", "say"]

USER_ERROR = 2


def say(message: str) -> None:
    """Tell the person at the terminal. Goes to standard error: standard output belongs to results."""
    print(message, file=sys.stderr, flush=True)


def fail(error: PenstockError, *, where: str) -> int:
    """Print a mistake that the user can mend, without a traceback, and return the exit code."""
    say(f"\nerror in {where}: {error}\n")
    return USER_ERROR


def run_stage(stage: str, main: Callable[[str], None]) -> None:
    """Run a stage for the data set named on the command line, and exit.

    Args:
        stage: The stage's name in dvc.yaml.
        main: The stage; takes the data set's name.
    """
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        say(f"usage: python -m stages.{stage} DATASET")
        sys.exit(0 if sys.argv[1:] in (["-h"], ["--help"]) else USER_ERROR)
    dataset = sys.argv[1]
    try:
        main(dataset)
    except PenstockError as error:
        sys.exit(fail(error, where=f"{stage}@{dataset}"))


@contextmanager
def progress(description: str, total: float | None, *, unit: str = "") -> Iterator[Callable[[float], None]]:
    """Show a progress bar on standard error and yield a function that advances it.

    On anything but a terminal (DVC, CI) rich prints the bar once, at the end.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar: Progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=Console(stderr=True),
    )
    with bar:
        task = bar.add_task(description, total=total)
        yield lambda amount: bar.advance(task, amount)
