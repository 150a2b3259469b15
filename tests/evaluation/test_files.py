"""Files of data sets on the hub: from the cache, and what is told where they cannot be had."""

from pathlib import Path

import pytest
from huggingface_hub import constants

from llm_expo.errors import EvaluationError
from llm_expo.evaluation.files import fetched


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_a_path_is_a_path():
    assert fetched("a/b.json") == Path("a/b.json")


def test_from_the_cache(cache):
    commit = "0" * 40
    repo = cache / "datasets--org--set"
    path = repo / "snapshots" / commit / "file.json"
    for each, text in ((repo / "refs" / "main", commit), (path, "[]")):
        each.parent.mkdir(parents=True)
        each.write_text(text)
    assert fetched("hub:org/set/file.json") == path
    with pytest.raises(EvaluationError) as error:
        fetched("hub:org/set/other.json")
    assert str(error.value) == (
        "hub:org/set/other.json: cannot be fetched: HF_HUB_OFFLINE is set, and the cache does not have it; give a file "
        "of your own instead"
    )


def test_no_network(cache, monkeypatch, caplog):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(EvaluationError, match="hub:org/set/f.json: cannot be fetched: .*refused; give a file of your"):
        fetched("hub:org/set/f.json")
    assert not caplog.records  # the library's tries are not told


def test_what_names_no_file():
    with pytest.raises(EvaluationError, match="hub:org/set: not a file of a data set; write hub:ORG/DATASET/FILE"):
        fetched("hub:org/set")
