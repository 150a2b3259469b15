"""Reward against price as a picture: the finalists of a search under a limit, with their errors, as an SVG."""

from collections.abc import Callable, Mapping, Sequence
from xml.etree import ElementTree

from llm_expo.search.limit import Priced
from llm_expo.search.outcome import Limited
from llm_expo.stats import Interval

_WIDTH, _HEIGHT, _MARGIN = 520, 320, 56
_WITHIN, _BEYOND, _QUIET = "#228833", "#ee6677", "#888888"


def draw(limited: Limited, gains: Mapping[float, Interval]) -> str:
    """The SVG text: rewards to the right, prices upward, theta1 at (0, 0), a line at the limit.

    gains: of the reward against theta1 on the search prompts, by alpha; ± one standard error is drawn, and of prices
    the interval that the limit is held against.
    """
    points = [each for each in limited.priced if each.alpha in gains]
    across = _scale([0.0, *(edge for each in points for edge in _around(gains[each.alpha]))], _MARGIN, _WIDTH - 20)
    prices = [edge for each in points for edge in (each.price.low, each.price.high)]
    upward = _scale([0.0, limited.most, *prices], _HEIGHT - _MARGIN, 20)
    picture = ElementTree.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {_WIDTH} {_HEIGHT}",
            "font-family": "sans-serif",
            "font-size": "12",
        },
    )
    _line(picture, across(0), 20, across(0), _HEIGHT - _MARGIN, _QUIET)
    _line(picture, _MARGIN, upward(0), _WIDTH - 20, upward(0), _QUIET)
    _line(picture, _MARGIN, upward(limited.most), _WIDTH - 20, upward(limited.most), _BEYOND, dashed=True)
    _text(picture, _WIDTH - 20, upward(limited.most) - 4, f"limit {limited.most:g}", "end")
    _text(picture, across(0) + 4, upward(0) - 4, "theta1", "start")
    for each in points:
        _point(picture, each, gains[each.alpha], across, upward)
    _text(picture, _WIDTH / 2, _HEIGHT - 12, "reward, theta(alpha) - theta1, on the search prompts", "middle")
    _text(picture, 8, 14, limited.name, "start")
    return ElementTree.tostring(picture, encoding="unicode") + "\n"


def _scale(values: Sequence[float], start: float, stop: float) -> Callable[[float], float]:
    """From values to places on the picture, with a tenth of room on both sides."""
    room = (max(values) - min(values)) / 10 or 1.0
    low, span = min(values) - room, max(values) - min(values) + 2 * room
    return lambda value: start + (value - low) / span * (stop - start)


def _around(interval: Interval) -> tuple[float, float]:
    return interval.mean - interval.se, interval.mean + interval.se


def _point(
    picture: ElementTree.Element,
    each: Priced,
    gain: Interval,
    across: Callable[[float], float],
    upward: Callable[[float], float],
) -> None:
    colour = _WITHIN if each.within else _BEYOND
    x, y = across(gain.mean), upward(each.price.mean)
    left, right = map(across, _around(gain))
    _line(picture, left, y, right, y, colour)
    _line(picture, x, upward(each.price.low), x, upward(each.price.high), colour)
    dot = ElementTree.SubElement(picture, "circle", {"cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": "4", "fill": colour})
    ElementTree.SubElement(dot, "title").text = f"alpha {each.alpha:g}"
    _text(picture, x + 7, y - 7, f"{each.alpha:g}", "start")


def _line(
    picture: ElementTree.Element, x1: float, y1: float, x2: float, y2: float, colour: str, dashed: bool = False
) -> None:
    places = {name: f"{value:.1f}" for name, value in zip(("x1", "y1", "x2", "y2"), (x1, y1, x2, y2), strict=True)}
    ElementTree.SubElement(
        picture, "line", {**places, "stroke": colour, **({"stroke-dasharray": "5 4"} if dashed else {})}
    )


def _text(picture: ElementTree.Element, x: float, y: float, text: str, anchor: str) -> None:
    element = ElementTree.SubElement(
        picture, "text", {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor, "fill": "#444444"}
    )
    element.text = text
