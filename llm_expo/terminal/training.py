"""Training: steps, and the models that are kept."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from llm_expo.terminal import note, show_warnings
from llm_expo.training.events import Kept, Stepped


@contextmanager
def training_watched(every: float = 60.0) -> Iterator[Callable[[Stepped | Kept], None]]:
    """A bar with an estimate over the steps, and a line for each model that is kept.

    every: where nobody watches, a line takes the bar's place after so many seconds, for whoever reads the log.
    """
    told = time.monotonic()
    with Progress(
        TextColumn("training"),
        BarColumn(),
        TextColumn("step {task.completed}/{task.total}"),
        TextColumn("{task.description}"),
        TextColumn("{task.fields[left]}"),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    ) as progress:
        task = progress.add_task("", total=None, left="")

        def watch(event: Stepped | Kept) -> None:
            nonlocal told
            if isinstance(event, Stepped):
                left = f"{timedelta(seconds=round(event.seconds_left))} left"
                if progress.disable and time.monotonic() - told >= every:
                    told = time.monotonic()
                    note(f"training: step {event.step}/{event.steps}, loss {event.loss:.4f}, {left}")
                progress.update(
                    task, completed=event.step, total=event.steps, description=f"loss {event.loss:.4f}", left=left
                )
            else:
                note(f"{event.path}: the model after step {event.step}")
                show_warnings(event.warnings)

        yield watch
