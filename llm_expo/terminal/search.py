"""A search: the standings while it runs, its outcome."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from llm_expo.report import words
from llm_expo.report.record import event_as_json
from llm_expo.search import Event, Outcome
from llm_expo.search.events import Begun, Chosen, Done, Split, Tried
from llm_expo.search.outcome import Row
from llm_expo.terminal import note, printable, stdout_console


@contextmanager
def search_watched() -> Iterator[Callable[[Event], None]]:
    """A line for each step of the search; where somebody watches, the standings and a bar for what is in hand, too."""
    if not sys.stderr.isatty():
        yield lambda event: None if isinstance(event, Done) else note(words.told(event))
        return
    standings = _Standings()
    # Lines that are printed meanwhile, a log's too, come to stand above it.
    with Live(get_renderable=standings.shown, console=Console(stderr=True), transient=True):

        def watch(event: Event) -> None:
            if not isinstance(event, Done):
                note(words.told(event))
            standings.watch(event)

        yield watch


class _Standings:
    """The alphas that are still in the search with their paired differences, and how far what is in hand has got."""

    MOST = 8

    def __init__(self) -> None:
        self._alive: dict[float, Tried] = {}
        self._round = ""
        self._left = 0  # replies that the round still wants
        self._later: int | None = 0  # and the most that those after it may want
        self._made, self._began = 0, time.monotonic()  # replies of the rounds so far, from their beginning
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[speed]}"),
        )
        self._task = self._bar.add_task("loading", total=None, visible=False, speed="")

    def watch(self, event: Event) -> None:
        match event:
            case Begun():
                self._round, self._left, self._later = f"round {event.number}", event.replies, event.later
                if event.number == 1:
                    self._made, self._began = 0, time.monotonic()
            case Chosen():
                self._alive, self._round = {}, "confirmation"
                self._left, self._later = 3 * event.prompts if event.alpha else 2 * event.prompts, 0
            case Done():
                of = "" if event.alpha is None else f" of alpha {words.name(event.alpha)}"
                what = {"generate": "replies", "read": "reading replies", "score": "scoring"}[event.activity]
                speed = f"{event.tokens / event.seconds:,.0f} tokens/s" if event.tokens and event.seconds else ""
                if event.activity == "generate" and event.done:
                    before = self._bar.tasks[0].completed
                    self._made, self._left = (
                        self._made + int(event.done - before),
                        self._left - int(event.done - before),
                    )
                self._bar.update(
                    self._task, description=f"{what}{of}", completed=event.done, total=event.total, speed=speed,
                    visible=True,
                )  # fmt: skip
            case Split():
                pass
            case _ if event.part == "search":
                self._alive[event.alpha] = event
                if event.collapsed:
                    del self._alive[event.alpha]

    def shown(self) -> Group:
        ranked = sorted(self._alive.values(), key=lambda each: -(each.gain.mean if each.gain else 0.0))
        table = Table(box=box.SIMPLE, pad_edge=False)
        for column in ("still in the search", "prompts", "vs theta1"):
            table.add_column(column, justify="right")
        for each in ranked[: self.MOST]:
            table.add_row(words.name(each.alpha), str(each.prompts), words.with_error(each.gain) if each.gain else "")
        if len(ranked) > self.MOST:
            table.add_row(f"and {len(ranked) - self.MOST} more")
        return Group(*([table] if ranked else []), self._bar, Text(self._ends()))

    def _ends(self) -> str:
        """When round and search are expected to end, by what replies have taken so far, all that is done with them
        included.
        """
        if not self._round or not self._made or self._left <= 0:
            return self._round
        each = (time.monotonic() - self._began) / self._made
        ends = f"{self._round}: about {timedelta(seconds=round(each * self._left))} left"
        if not self._later:
            return ends
        return f"{ends}; of the search, {timedelta(seconds=round(each * (self._left + self._later)))} at most"


@contextmanager
def search_logged() -> Iterator[Callable[[Event], None]]:
    """The same as JSON on standard error, an object a line."""
    yield lambda event: note(json.dumps(event_as_json(event), ensure_ascii=False))


def show_outcome(outcome: Outcome, page: str) -> None:
    """The tables, a few replies side by side, the decision, the cost."""
    screen = stdout_console(120)
    most = max(row.prompts for row in outcome.search)
    screen.print(_table(f"Search: up to {most} prompts, {len(outcome.rounds)} rounds", outcome.search))
    for said in words.collapses(outcome.search):
        screen.print(Text(printable(said)), soft_wrap=True)
    for said in words.prices(outcome):
        screen.print(Text(printable(said)), soft_wrap=True)
    screen.print(_table(f"Confirmation: {outcome.confirm[0].prompts} other prompts, fresh noise", outcome.confirm))
    screen.print(Text(words.HOW_TO_READ, style="dim"))
    for example in outcome.examples[:2]:
        side_by_side = Table(title=Text(printable(example.prompt.messages[-1]["content"])), show_lines=True)
        for alpha in example.replies:
            side_by_side.add_column(f"alpha {words.name(alpha)}", ratio=1)
        side_by_side.add_row(*(Text(printable(reply)) for reply in example.replies.values()))
        screen.print(side_by_side)
    for line in words.decision(outcome):
        screen.print(Text(line, style="bold" if line.startswith(str(outcome.verdict)) else ""))
    screen.print(Text("Spent: " + "; ".join(words.costs(outcome)) + "."))
    screen.print(Text(f"The report is in {page}."), soft_wrap=True)


def _table(title: str, rows: tuple[Row, ...]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE, pad_edge=False)
    for column in words.COLUMNS:  # a head may be broken, a figure with its error not
        table.add_column(column, justify="right", min_width=16 if column == "vs theta1" else None)
    for cells in words.table(rows):
        table.add_row(*cells)
    return table
