"""What a person sees: progress and tables on standard error, results on standard output. Knows no arguments.

Here is what every verb needs; weights.py, search.py and training.py show what these rooms make. Models' and users' text
is shown as it is but for control characters, so that a reply cannot steer the terminal.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise  # as print does; rich's own way is to exit with status 1


def note(text: str) -> None:
    """One line on standard error."""
    print(printable(text), file=sys.stderr, flush=True)


def show_warnings(warnings: Sequence[str]) -> None:
    for warning in warnings:
        note(f"llm-expo: warning: {warning}")


def show_line(line: str) -> None:
    print(printable(line))


def show_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """The first column is a name, the others are figures."""
    table = Table(box=box.SIMPLE, pad_edge=False)
    for place, column in enumerate(head):
        table.add_column(column, justify="right" if place else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    stdout_console(160).print(table)


def show_lines(lines: Iterable[tuple[str, str]]) -> None:
    """(what, in words), one below the other."""
    for what, said in lines:
        print(printable(f"{what:8}  {said}"))


@contextmanager
def bytes_written(total: int) -> Iterator[Callable[[int], None]]:
    """A bar with an estimate while a checkpoint is written; nothing where nobody watches."""
    with Progress(
        TextColumn("writing"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    ) as progress:
        task = progress.add_task("", total=total)
        yield lambda count: progress.advance(task, count)


@contextmanager
def counted() -> Iterator[Callable[[str, int, int], None]]:
    """A bar with an estimate for one thing after the other: what it is, how many are done, how many are wanted."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    ) as progress:
        task = progress.add_task("", total=None)

        def watch(what: str, done: int, of: int) -> None:
            if progress.tasks[0].description != what:
                note(what)
                progress.reset(task, description=what, total=of)
            progress.update(task, completed=done, total=of)

        yield watch


def stdout_console(width: int = 110) -> Console:
    """`width` where nobody watches."""
    return _Console(highlight=False, width=None if sys.stdout.isatty() else width)


def printable(text: str) -> str:
    return "".join(char if char.isprintable() or char in "\n\t" else "�" for char in text)
