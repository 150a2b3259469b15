"""The chart: valid, self-contained, and its bars are the figures."""

import os
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from llm_expo.errors import OutputError
from llm_expo.weights import Comparison, Direction, chart, compare

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def comparison(save, tmp_path: Path) -> Comparison:
    names = ["shared.weight", "encoder.final_layer_norm.weight"]
    for stack in ("encoder", "decoder"):
        for number in range(3):
            names.append(f"{stack}.block.{number}.layer.0.SelfAttention.q.weight")
            names.append(f"{stack}.block.{number}.layer.1.DenseReluDense.wi.weight")
    before = {name: torch.ones(4) for name in names}
    after = {name: tensor + 0.5 * at for at, (name, tensor) in enumerate(before.items())}
    return compare(Direction.open(save(tmp_path / "a", before), save(tmp_path / "b", after)))


def test_bars_are_the_figures(comparison: Comparison) -> None:
    svg = ElementTree.fromstring(chart.draw({"a <&> b": comparison}))
    assert svg.tag == f"{SVG}svg"
    width, height = float(svg.attrib["width"]), float(svg.attrib["height"])
    bars = {bar.find(f"{SVG}title").text: bar for bar in svg.iter(f"{SVG}rect") if bar.find(f"{SVG}title") is not None}
    # by kind, and by layer
    assert {"embeddings: 0", "norms: 0.5", "encoder.block.0 attention: 1", "decoder.block.2 MLP: 6.5"} <= set(bars)
    assert len(bars) == 4 + 12
    low, high = (
        float(bars[name].attrib["height"]) for name in ("encoder.block.1 MLP: 2.5", "decoder.block.1 MLP: 5.5")
    )
    assert high / low == pytest.approx(5.5 / 2.5, rel=1e-4)
    for bar in bars.values():
        assert float(bar.attrib["x"]) >= 0 and float(bar.attrib["x"]) + float(bar.attrib["width"]) < width
        assert float(bar.attrib["y"]) >= 0 and float(bar.attrib["y"]) + float(bar.attrib["height"]) < height
    texts = [text.text for text in svg.iter(f"{SVG}text")]
    assert {"a <&> b", "encoder.block", "decoder.block"} <= set(texts)
    assert "href" not in chart.draw({"": comparison})


def test_a_column_for_each_comparison(comparison: Comparison) -> None:
    one, three = (chart.draw(dict.fromkeys(titles, comparison)) for titles in ("a", "abc"))
    sizes = [float(ElementTree.fromstring(text).attrib["width"]) for text in (one, three)]
    assert sizes[1] > 2.5 * sizes[0]


@pytest.mark.parametrize("tensors", [{"w": torch.ones(2)}, {"ids": torch.arange(2)}])
def test_nothing_to_draw(save, tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    path = save(tmp_path / "a", tensors)
    ElementTree.fromstring(chart.draw({"": compare(Direction.open(path, path))}))


def test_written_whole_over_an_older_one(comparison: Comparison, tmp_path: Path) -> None:
    path = tmp_path / "chart.svg"
    path.write_text("old")
    chart.check_target(path)
    chart.write({"": comparison}, path)
    assert path.read_text() == chart.draw({"": comparison})
    assert not list(tmp_path.glob("*.partial"))


def test_places_that_cannot_be_written(comparison: Comparison, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"a: is a folder; give the name of a file"):
        chart.check_target(tmp_path / "a")
    with pytest.raises(OutputError, match=r"absent/chart.svg: cannot be written: .*absent is no folder"):
        chart.check_target(tmp_path / "absent" / "chart.svg")
    with pytest.raises(OutputError, match=r"absent/chart.svg: cannot be written: no such file or directory"):
        chart.write({"": comparison}, tmp_path / "absent" / "chart.svg")
    locked = tmp_path / "locked"
    locked.mkdir(0o500)
    if os.geteuid():
        with pytest.raises(OutputError, match="no permission to write"):
            chart.check_target(locked / "chart.svg")
