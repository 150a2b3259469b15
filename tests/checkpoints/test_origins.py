"""Which records tell the theta0 of a model, which do not, and how that theta0 is found."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from llm_expo.checkpoints import Checkpoint, fingerprint
from llm_expo.checkpoints.hub import Located
from llm_expo.checkpoints.origins import Origin, described, initial_of, open_initial
from llm_expo.errors import CheckpointError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def model(folder: Path, **records: object) -> Located:
    """A folder with JSON records: llm_expo=..., difference=..., adapter_config=..."""
    folder.mkdir()
    for name, content in records.items():
        (folder / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return Located(folder)


def test_the_records(tmp_path: Path) -> None:
    initial = {"path": "/models/sft", "fingerprint": "f"}
    on_hub = {"path": "/cache/x", "repo": "org/sft", "revision": "main", "commit": COMMIT, "fingerprint": "g"}
    trained = model(tmp_path / "trained", llm_expo={"training": {"step": 3}, "initial": on_hub})
    said_by = trained.folder / "llm_expo.json"
    assert initial_of(trained) == Origin(said_by, (Path("/cache/x"), f"org/sft@{COMMIT}"), "g")

    both = {"llm_expo": {"training": {}, "initial": on_hub}, "adapter_config": {"base_model_name_or_path": "org/base"}}
    difference = model(tmp_path / "difference", difference={"initial": {**initial, "path": "../sft"}}, **both)
    said_by = difference.folder / "difference.json"
    assert initial_of(difference) == Origin(said_by, (difference.folder / "../sft",), "f")
    lora = model(tmp_path / "trained-lora", **both)
    assert initial_of(lora) == Origin(lora.folder / "llm_expo.json", (Path("/cache/x"), f"org/sft@{COMMIT}"), "g")


def test_an_adapters_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("base").mkdir()
    for name, settings, place in (
        ("a", {"base_model_name_or_path": "org/base"}, "org/base"),
        ("b", {"base_model_name_or_path": "org/base", "revision": "v2"}, "org/base@v2"),
        ("c", {"base_model_name_or_path": "base", "revision": "v2"}, "base"),
    ):
        located = model(tmp_path / name, adapter_config=settings)
        assert initial_of(located) == Origin(located.folder / "adapter_config.json", (place,), None)


@pytest.mark.parametrize(
    "records",
    [
        {},
        # theta(alpha), which `apply` wrote
        {"llm_expo": {"alpha": 0.5, "initial": {"path": "/models/sft"}, "aligned": {"path": "/models/dpo"}}},
        {"config": {"_name_or_path": "org/sft"}},
        {"llm_expo": {"training": {}, "initial": {}}},
        {"llm_expo": {"training": {}, "initial": {"path": 3, "repo": "org/sft"}}},
        {"llm_expo": "{"},
        {"llm_expo": []},
        {"adapter_config": {"base_model_name_or_path": None}},
        {"adapter_config": {"base_model_name_or_path": ""}},
    ],
)
def test_what_does_not_tell(tmp_path: Path, records: dict[str, object]) -> None:
    located = model(tmp_path / "m", **records)
    (located.folder / "README.md").write_text("---\nbase_model: org/sft\n---\n# a card is a hint\n")
    assert initial_of(located) is None


def test_opening(save: Callable[..., Path], tmp_path: Path) -> None:
    theta0 = save(tmp_path / "theta0", {"w": torch.zeros(2)})
    name = fingerprint(Checkpoint.open(theta0))
    assert described(Checkpoint.open(theta0)) == {"path": str(theta0), "fingerprint": name}
    record = tmp_path / "llm_expo.json"
    assert open_initial(Origin(record, (theta0,), name)).path == theta0
    assert open_initial(Origin(record, (theta0,), None)).path == theta0
    with pytest.raises(CheckpointError) as caught:
        open_initial(Origin(record, (tmp_path / "gone", theta0), "0"))
    assert str(caught.value) == (
        f"{record}: theta1 was made from the theta0 with the fingerprint 0, and that is not here: {theta0} has {name}, "
        "so that it has changed or is another; give the right theta0, before theta1"
    )
    with pytest.raises(
        CheckpointError, match="was made from a theta0, and that is not here: .*gone: no such folder; give"
    ):
        open_initial(Origin(record, (tmp_path / "gone",), None))
