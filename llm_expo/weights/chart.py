"""A comparison as a picture: how far each kind of module and each layer moved, as an SVG file that needs nothing else.

Bars and text are all it takes, so it is written here: a plotting library would weigh more than everything else that
`compare` needs. Knows figures, not how they came about.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

from llm_expo.checkpoints.files import reason, shown
from llm_expo.errors import OutputError
from llm_expo.weights.comparison import Comparison
from llm_expo.weights.kinds import Kind, Layer

_COLOURS: Mapping[Kind, str] = {
    "embeddings": "#4477aa",
    "attention": "#228833",
    "MLP": "#ee6677",
    "norms": "#ccbb44",
    "head": "#66ccee",
    "other": "#888888",
}
_MARGIN = 24
_NAMES = 84  # width of the kinds' names, and of the largest value beside a panel
_BAR = 9  # width of a layer
_NARROWEST, _WIDEST = 300, 900  # of a panel
_PANEL, _BETWEEN = 90, 40  # heights
_ROW = 22


def check_target(path: Path) -> None:
    """Raise OutputError if `write` could not write there; to be asked before reading for minutes."""
    if path.is_dir():
        raise OutputError(f"{shown(path)}: is a folder; give the name of a file to write")
    if not path.parent.is_dir():
        raise OutputError(f"{shown(path)}: cannot be written: {shown(path.parent)} is no folder")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"{shown(path)}: cannot be written: no permission to write in {shown(path.parent)}")


def write(comparisons: Mapping[str, Comparison], path: Path) -> None:
    """Write what `draw` draws, whole or not at all; an older file of that name is replaced. Raises OutputError."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_text(draw(comparisons), encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OutputError(f"{shown(path)}: cannot be written: {reason(error)}") from error


def draw(comparisons: Mapping[str, Comparison]) -> str:
    """The SVG text; a column for each comparison, under its title.

    Above, the root mean square change of a weight (norm / sqrt(elements)) by kind, over the whole model; below, the
    same by layer, for each kind that has layers. A bar's tooltip holds its figure.
    """
    columns = [(title, comparison, list(comparison.by_layer())) for title, comparison in comparisons.items()]
    most = max(len(_places(layers)) for _, _, layers in columns)
    panel = min(_WIDEST, max(_NARROWEST, most * _BAR))
    width = _NAMES + panel + 2 * _MARGIN
    svg = ElementTree.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "font-family": "sans-serif"})
    ground = _add(svg, "rect", fill="#ffffff")
    bottom = 0.0
    for number, (title, comparison, layers) in enumerate(columns):
        column = _add(svg, "g", transform=f"translate({_MARGIN + number * width},{_MARGIN})")
        bottom = max(bottom, _column(column, title, comparison, layers, panel))
    size = {"width": f"{_MARGIN + width * len(columns):g}", "height": f"{bottom + 2 * _MARGIN:g}"}
    svg.attrib |= size | {"viewBox": f"0 0 {size['width']} {size['height']}"}
    ground.attrib |= size
    ElementTree.indent(svg)
    return ElementTree.tostring(svg, encoding="unicode") + "\n"


def _column(into: ElementTree.Element, title: str, comparison: Comparison, layers: list[Layer], panel: float) -> float:
    """Draws one comparison and returns how far down it reaches."""
    _text(into, 0, 4, title, size=15, weight="bold")
    _text(into, 0, 22, "root mean square change of a weight; every panel has its own scale", size=11, fill="#555555")
    y = 36.0
    kinds = {kind: each.norm_per_root_element or 0.0 for kind, each in comparison.by_kind().items()}
    largest = max(kinds.values(), default=0.0)
    for kind, value in kinds.items():
        _text(into, _NAMES - 8, y + 14, kind, anchor="end")
        length = (panel - 80) * value / largest if largest else 0.0
        _bar(into, _NAMES, y + 3, length, _ROW - 7, kind, f"{kind}: {value:.3g}")
        _text(into, _NAMES + length + 6, y + 14, f"{value:.3g}", size=11)
        y += _ROW
    y += _BETWEEN
    cells = comparison.by_kind_and_layer()
    for kind in kinds:
        values = {layer: cells[kind, layer].norm_per_root_element or 0.0 for layer in layers if (kind, layer) in cells}
        if values:
            _panel(into, y, panel, kind, values, _places(layers))
            y += _PANEL + _BETWEEN
    return y - _BETWEEN + 12


def _panel(
    into: ElementTree.Element,
    top: float,
    width: float,
    kind: Kind,
    values: Mapping[Layer, float],
    places: Mapping[Layer, int],
) -> None:
    """One kind's bars, a layer each."""
    largest = max(values.values())
    step = width / (max(places.values()) + 1)
    floor = top + _PANEL
    _text(into, _NAMES - 8, top + _PANEL / 2, kind, anchor="end")
    _text(into, _NAMES - 8, top + 8, f"{largest:.3g}", size=11, anchor="end", fill="#555555")
    _text(into, _NAMES - 8, floor, "0", size=11, anchor="end", fill="#555555")
    _add(into, "line", x1=_NAMES, x2=_NAMES + width, y1=floor, y2=floor, stroke="#999999")
    _add(into, "line", x1=_NAMES, x2=_NAMES + width, y1=top, y2=top, stroke="#dddddd")
    for layer, value in values.items():
        height = _PANEL * value / largest if largest else 0.0
        what = f"{layer.stack}.{layer.number} {kind}: {value:.3g}"
        _bar(into, _NAMES + places[layer] * step + step * 0.1, floor - height, step * 0.8, height, kind, what)
    every = max(1, round(28 / step))  # as many numbers as can be read
    for layer, place in places.items():
        if layer.number % every == 0:
            _text(into, _NAMES + (place + 0.5) * step, floor + 12, str(layer.number), size=9, anchor="middle")
    stacks = dict.fromkeys(layer.stack for layer in places)
    for stack in stacks if len(stacks) > 1 else ():
        middle = [place for layer, place in places.items() if layer.stack == stack]
        at = _NAMES + (sum(middle) / len(middle) + 0.5) * step
        _text(into, at, floor + 24, stack, size=9, anchor="middle", fill="#555555")


def _places(layers: Sequence[Layer]) -> dict[Layer, int]:
    """Where each layer stands from left to right, with a gap of one between stacks."""
    stacks = list(dict.fromkeys(layer.stack for layer in layers))
    return {layer: place + stacks.index(layer.stack) for place, layer in enumerate(layers)}


def _bar(into: ElementTree.Element, x: float, y: float, width: float, height: float, kind: Kind, what: str) -> None:
    bar = _add(into, "rect", x=x, y=y, width=width, height=height, fill=_COLOURS[kind])
    _add(bar, "title").text = what


def _text(
    into: ElementTree.Element,
    x: float,
    y: float,
    text: str,
    *,
    size: int = 12,
    anchor: str = "start",
    fill: str = "#222222",
    weight: str = "normal",
) -> None:
    found = _add(into, "text", x=x, y=y, fill=fill)
    found.attrib |= {"font-size": str(size), "text-anchor": anchor, "font-weight": weight}
    found.text = text


def _add(into: ElementTree.Element, tag: str, **attributes: str | float) -> ElementTree.Element:
    shown = {name: each if isinstance(each, str) else f"{each:.6g}" for name, each in attributes.items()}
    return ElementTree.SubElement(into, tag, shown)
