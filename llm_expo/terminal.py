"""What a person sees: progress and tables on standard error, results on standard output. Knows no arguments.

Models' and users' text is shown as it is but for control characters, so that a reply cannot steer the terminal.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from llm_expo.training.events import Kept, Stepped
from llm_expo.weights import Comparison, Extrapolation, Judgement, Lineage, Written
from llm_expo.weights.distance import Distance

if TYPE_CHECKING:  # loaded by those who search: `apply` starts in less time without
    from llm_expo.search import Event, Outcome
    from llm_expo.search.events import Tried
    from llm_expo.search.outcome import Row


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise  # as print does; rich's own way is to exit with status 1


def note(text: str) -> None:
    """One line on standard error."""
    print(_printable(text), file=sys.stderr, flush=True)


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
def search_watched() -> "Iterator[Callable[[Event], None]]":
    """A line for each step of the search; where somebody watches, the standings and a bar for what is in hand, too."""
    from llm_expo.report import words
    from llm_expo.search.events import Done

    if not sys.stderr.isatty():
        yield lambda event: None if isinstance(event, Done) else note(words.told(event))
        return
    standings = _Standings()
    # Lines that are printed meanwhile, a log's too, come to stand above it.
    with Live(get_renderable=standings.shown, console=Console(stderr=True), transient=True):

        def watch(event: "Event") -> None:
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

    def watch(self, event: "Event") -> None:
        from llm_expo.report import words
        from llm_expo.search.events import Begun, Chosen, Done, Split

        match event:
            case Begun():
                self._round, self._left, self._later = f"round {event.number}", event.replies, event.later
                if event.number == 1:
                    self._made, self._began = 0, time.monotonic()
            case Chosen():
                self._alive, self._round = {}, "confirmation"
                self._left, self._later = 3 * event.prompts if event.alpha else 2 * event.prompts, 0
            case Done():
                of = "" if event.alpha is None else f" alpha {words.name(event.alpha)}"
                what = {"generate": "replies of", "read": "reading replies of", "score": "scoring"}[event.activity]
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
        from llm_expo.report import words

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


@contextmanager
def search_logged() -> "Iterator[Callable[[Event], None]]":
    """The same as JSON on standard error, an object a line."""
    from llm_expo.report.record import event_as_json

    yield lambda event: note(json.dumps(event_as_json(event), ensure_ascii=False))


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


def show_line(line: str) -> None:
    print(_printable(line))


def show_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """The first column is a name, the others are figures."""
    table = Table(box=box.SIMPLE, pad_edge=False)
    for place, column in enumerate(head):
        table.add_column(column, justify="right" if place else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(_printable(cell)) for cell in row))
    _console(160).print(table)


def show_lines(lines: Iterable[tuple[str, str]]) -> None:
    """(what, in words), one below the other."""
    for what, said in lines:
        print(_printable(f"{what:8}  {said}"))


def show_plan(extrapolation: Extrapolation) -> None:
    print(f"alpha {extrapolation.alpha:g}: {extrapolation.moved} tensors to move, {extrapolation.copied} to copy,")
    print(f"{extrapolation.nbytes / 1e9:.3f} GB in {len(extrapolation.files)} files; nothing is written")
    for step in extrapolation.steps:
        shape = "x".join(map(str, step.target.shape)) or "scalar"
        print(_printable(f"  {step.action}  {step.target.name}  {shape}  ({step.reason})"))
    show_warnings((*extrapolation.notes, *extrapolation.direction.warnings()))


def plan_record(extrapolation: Extrapolation) -> dict[str, Any]:
    """The plan as JSON."""
    return {
        "alpha": extrapolation.alpha,
        "moved": extrapolation.moved,
        "copied": extrapolation.copied,
        "nbytes": extrapolation.nbytes,
        "files": [file.name for file in extrapolation.files],
        "steps": [
            {
                "action": step.action,
                "name": step.target.name,
                "shape": list(step.target.shape),
                "dtype": step.target.dtype,
                "file": str(step.target.file),
                "reason": step.reason,
            }
            for step in extrapolation.steps
        ],
        "warnings": [*extrapolation.notes, *extrapolation.direction.warnings()],
    }


def show_warnings(warnings: Sequence[str]) -> None:
    for warning in warnings:
        note(f"llm-expo: warning: {warning}")


def show_written(written: Written) -> None:
    print(
        f"{written.path}: {written.moved} tensors moved, {written.copied} copied, {written.nbytes / 1e9:.3f} GB", end=""
    )
    print(f" in {written.seconds:.1f} s")
    if written.share_differing is not None:
        print(f"{written.share_differing:.1%} of the weights differ between theta0 and theta1", end="")
        print(f"; rounding left {written.share_swallowed or 0:.1%} of those where they were", end="")
        print("" if written.realised_alpha is None else f"; realised alpha {written.realised_alpha:.6g}")
    if written.resumed:
        print(f"{written.resumed} of its files had been finished by a run that was killed")
    show_warnings(written.warnings)


def show_comparison(comparison: Comparison, judgement: Judgement) -> None:
    """The paper's figures in total, by kind and by layer, what moved farthest, what else differs, the judgement."""
    console = _console()
    print(f"{len(comparison.distances)} tensors with {comparison.total.elements:,} weights compared")
    console.print(_distances("kind", [("total", comparison.total), *comparison.by_kind().items()]))
    layers = comparison.by_layer()
    if layers:
        one_stack = len({layer.stack for layer in layers}) == 1
        named = (
            (str(layer.number) if one_stack else f"{layer.stack}.{layer.number}", layers[layer]) for layer in layers
        )
        console.print(_distances("layer", named))
    movers = comparison.movers()
    if movers:
        print("farthest, relative to theta0's tensor:")
    for mover in movers:
        relative = "theirs was zero" if mover.relative is None else f"{mover.relative:.3g}"
        print(_printable(f"  {relative:>10}  {mover.name}"))
    _show_differences(comparison)
    console.print(Text(_printable(str(judgement)), style="bold"), soft_wrap=True)


def show_lineage(lineage: Lineage, judgement: Judgement) -> None:
    """The paper's three rows, the angle between the two steps, what else differs, the judgement."""
    console = _console()
    console.print(_distances("", ((name, row.total) for name, row in lineage.rows().items())))
    if lineage.turn is not None:
        kinds = ", ".join(f"{kind} {turn:.3f}" for kind, turn in lineage.turn_by_kind().items() if turn is not None)
        print(f"cosine of the two steps, PRETRAINED → SFT and SFT → ALIGNED: {lineage.turn:.3f} ({kinds})")
    for name, row in lineage.rows().items():
        print(name)
        _show_differences(row)
    console.print(Text(_printable(str(judgement)), style="bold"), soft_wrap=True)


def _distances(what: str, rows: Iterable[tuple[str, Distance]]) -> Table:
    table = Table(box=box.SIMPLE)
    table.add_column(what)
    for column in ("norm", "norm / √n", "norm / theta0's", "equal", "within 1 ulp", "beyond"):
        table.add_column(column, justify="right")
    for name, each in rows:
        norms = (each.norm, each.norm_per_root_element, each.norm_relative)
        shares = (each.share_equal, each.share_one_ulp, each.share_beyond)
        cells = ["–" if norm is None else f"{norm:.4g}" for norm in norms]
        table.add_row(Text(_printable(name)), *cells, *("–" if share is None else f"{share:.2%}" for share in shares))
    return table


def _show_differences(comparison: Comparison) -> None:
    files = [str(each) for each in comparison.files]
    for title, listed in (("mismatches", comparison.mismatches), ("other files", files), ("notes", comparison.notes)):
        print(f"{title}: {len(listed) or 'none'}")
        for line in listed:
            print(_printable(f"  {line}"))


def show_outcome(outcome: "Outcome", page: str) -> None:
    """The tables, a few replies side by side, the decision, the cost."""
    from llm_expo.report import words

    console = _console(120)
    most = max(row.prompts for row in outcome.search)
    console.print(_table(f"Search: up to {most} prompts, {len(outcome.rounds)} rounds", outcome.search))
    for said in words.collapses(outcome.search):
        console.print(Text(_printable(said)), soft_wrap=True)
    for said in words.prices(outcome):
        console.print(Text(_printable(said)), soft_wrap=True)
    console.print(_table(f"Confirmation: {outcome.confirm[0].prompts} other prompts, fresh noise", outcome.confirm))
    console.print(Text(words.HOW_TO_READ, style="dim"))
    for example in outcome.examples[:2]:
        side_by_side = Table(title=Text(_printable(example.prompt.messages[-1]["content"])), show_lines=True)
        for alpha in example.replies:
            side_by_side.add_column(f"alpha {words.name(alpha)}", ratio=1)
        side_by_side.add_row(*(Text(_printable(reply)) for reply in example.replies.values()))
        console.print(side_by_side)
    for line in words.decision(outcome):
        console.print(Text(line, style="bold" if line.startswith(str(outcome.verdict)) else ""))
    console.print(Text("Spent: " + "; ".join(words.costs(outcome)) + "."))
    console.print(Text(f"The report is in {page}."), soft_wrap=True)


def _console(width: int = 110) -> Console:
    """`width` where nobody watches."""
    return _Console(highlight=False, width=None if sys.stdout.isatty() else width)


def _table(title: str, rows: "tuple[Row, ...]") -> Table:
    from llm_expo.report import words

    table = Table(title=title, title_justify="left", box=box.SIMPLE, pad_edge=False)
    for column in words.COLUMNS:  # a head may be broken, a figure with its error not
        table.add_column(column, justify="right", min_width=16 if column == "vs theta1" else None)
    for cells in words.table(rows):
        table.add_row(*cells)
    return table


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() or char in "\n\t" else "�" for char in text)
