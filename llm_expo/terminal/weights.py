"""Plans, written checkpoints, distances."""

from collections.abc import Iterable

from rich import box
from rich.table import Table
from rich.text import Text

from llm_expo.terminal import printable, show_warnings, stdout_console
from llm_expo.weights import Comparison, Extrapolation, Judgement, Lineage, Written
from llm_expo.weights.distance import Distance


def show_plan(extrapolation: Extrapolation) -> None:
    print(f"alpha {extrapolation.alpha:g}: {extrapolation.moved} tensors to move, {extrapolation.copied} to copy,")
    print(f"{extrapolation.nbytes / 1e9:.3f} GB in {len(extrapolation.files)} files; nothing is written")
    for step in extrapolation.steps:
        shape = "x".join(map(str, step.target.shape)) or "scalar"
        print(printable(f"  {step.action}  {step.target.name}  {shape}  ({step.reason})"))
    show_warnings((*extrapolation.notes, *extrapolation.direction.warnings()))


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
    screen = stdout_console()
    print(f"{len(comparison.distances)} tensors with {comparison.total.elements:,} weights compared")
    screen.print(_distances("kind", [("total", comparison.total), *comparison.by_kind().items()]))
    layers = comparison.by_layer()
    if layers:
        one_stack = len({layer.stack for layer in layers}) == 1
        named = (
            (str(layer.number) if one_stack else f"{layer.stack}.{layer.number}", layers[layer]) for layer in layers
        )
        screen.print(_distances("layer", named))
    movers = comparison.movers()
    if movers:
        print("farthest, relative to theta0's tensor:")
    for mover in movers:
        relative = "theirs was zero" if mover.relative is None else f"{mover.relative:.3g}"
        print(printable(f"  {relative:>10}  {mover.name}"))
    _show_differences(comparison)
    screen.print(Text(printable(str(judgement)), style="bold"), soft_wrap=True)


def show_lineage(lineage: Lineage, judgement: Judgement) -> None:
    """The paper's three rows, the angle between the two steps, what else differs, the judgement."""
    screen = stdout_console()
    screen.print(_distances("", ((name, row.total) for name, row in lineage.rows().items())))
    if lineage.turn is not None:
        kinds = ", ".join(f"{kind} {turn:.3f}" for kind, turn in lineage.turn_by_kind().items() if turn is not None)
        print(f"cosine of the two steps, PRETRAINED → SFT and SFT → ALIGNED: {lineage.turn:.3f} ({kinds})")
    for name, row in lineage.rows().items():
        print(name)
        _show_differences(row)
    screen.print(Text(printable(str(judgement)), style="bold"), soft_wrap=True)


def _distances(what: str, rows: Iterable[tuple[str, Distance]]) -> Table:
    table = Table(box=box.SIMPLE)
    table.add_column(what)
    for column in ("norm", "norm / √n", "norm / theta0's", "equal", "within 1 ulp", "beyond"):
        table.add_column(column, justify="right")
    for name, each in rows:
        norms = (each.norm, each.norm_per_root_element, each.norm_relative)
        shares = (each.share_equal, each.share_one_ulp, each.share_beyond)
        cells = ["–" if norm is None else f"{norm:.4g}" for norm in norms]
        table.add_row(Text(printable(name)), *cells, *("–" if share is None else f"{share:.2%}" for share in shares))
    return table


def _show_differences(comparison: Comparison) -> None:
    files = [str(each) for each in comparison.files]
    for title, listed in (("mismatches", comparison.mismatches), ("other files", files), ("notes", comparison.notes)):
        print(f"{title}: {len(listed) or 'none'}")
        for line in listed:
            print(printable(f"  {line}"))
