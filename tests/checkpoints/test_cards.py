"""What a folder says of its origin, and when that tells of swapped arguments."""

import json
import os
from pathlib import Path

import pytest

from llm_expo.checkpoints.cards import base_models, swapped
from llm_expo.checkpoints.hub import Located


def model(folder: Path, card: str | bytes | None = None, **records: object) -> Path:
    """A folder with a card and records: config=..., llm_expo=..."""
    folder.mkdir(parents=True)
    if card is not None:
        (folder / "README.md").write_bytes(card if isinstance(card, bytes) else card.encode())
    for name, content in records.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def card(base: str) -> str:
    return f"---\nlicense: mit\nbase_model: {base}\n---\n# A model\n"


def bases_of(folder: Path) -> tuple[str, ...]:
    return tuple(dict.fromkeys(base for _, base in base_models(folder)))


@pytest.mark.parametrize(
    ("text", "bases"),
    [
        (card("org/sft"), ("org/sft",)),
        (card("\n- org/a\n- org/b\n- org/a"), ("org/a", "org/b")),
        (card("[org/a, 3, null, '']"), ("org/a",)),
        ("\ufeff" + card("org/sft").replace("\n", "\r\n"), ("org/sft",)),
        (card("3"), ()),
        (card("{a: b}"), ()),
        (card(""), ()),
        ("# base_model: org/sft", ()),
        ("---\n- base_model\n---\n", ()),
        ("---\nbase_model: [\n---\n", ()),
        ("---\nbase_model: !!python/object/apply:os.system ['exit']\n---\n", ()),
        ("---\nbase_model: " + "[" * 1000 + "\n---\n", ()),
        (b"---\nbase_model: \xff\n---\n", ()),
        ("", ()),
        (None, ()),
    ],
)
def test_the_card(tmp_path: Path, text: str | None, bases: tuple[str, ...]) -> None:
    assert bases_of(model(tmp_path / "m", text)) == bases


def test_the_records(tmp_path: Path) -> None:
    made = {"initial": {"path": "/models/sft", "repo": "org/sft"}, "aligned": {"path": "/models/dpo"}}
    folder = model(tmp_path / "m", card("org/sft"), llm_expo=made, config={"_name_or_path": "org/start"})
    assert bases_of(folder) == ("org/sft", "/models/sft", "/models/dpo", "org/start")


@pytest.mark.parametrize("record", [[], {"initial": 3, "aligned": {"path": 3}}, {"initial": {"path": ""}}])
def test_records_that_say_nothing(tmp_path: Path, record: object) -> None:
    assert bases_of(model(tmp_path / "m", llm_expo=record, config={"_name_or_path": ""})) == ()


def test_what_is_no_file_says_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    os.mkfifo(folder / "README.md")
    (folder / "config.json").write_text("{")
    (folder / "llm_expo.json").symlink_to("llm_expo.json")
    assert bases_of(folder) == ()
    assert bases_of(tmp_path / "gone") == ()


def test_an_adapters_base_is_not_what_is_meant(tmp_path: Path) -> None:
    assert bases_of(model(tmp_path / "m", adapter_config={"base_model_name_or_path": "org/sft"})) == ()


def test_swapped_by_hub_id(tmp_path: Path) -> None:
    sft = Located(model(tmp_path / "a", card("org/pretrained")), "org/sft")
    dpo = Located(model(tmp_path / "b", card("Org/SFT")), "org/dpo")
    assert swapped(dpo, sft) == (
        f"{tmp_path / 'b' / 'README.md'} of theta0 says that it was made from Org/SFT, and that is theta1 (org/sft): "
        "they look swapped"
    )
    assert swapped(sft, dpo) is None


def test_swapped_by_a_folders_name(tmp_path: Path) -> None:
    sft = Located(model(tmp_path / "zephyr-sft"))
    for place, base in enumerate(("HuggingFaceH4/zephyr-sft", "./zephyr-sft", "runs/Zephyr-SFT/")):
        dpo = Located(model(tmp_path / f"dpo-{place}", card(base)))
        evidence = swapped(dpo, sft)
        assert evidence is not None
        assert f"made from {base}, and that is theta1 ({sft.folder})" in evidence
        assert swapped(sft, dpo) is None


def test_swapped_by_path(tmp_path: Path) -> None:
    sft = model(tmp_path / "model")
    (tmp_path / "link").symlink_to(sft)
    made = {"initial": {"path": str(tmp_path / "other")}, "aligned": {"path": str(tmp_path / "link")}}
    better = Located(model(tmp_path / "better", llm_expo=made))
    evidence = swapped(better, Located(sft))
    assert evidence is not None
    assert "better/llm_expo.json of theta0 says" in evidence
    assert swapped(Located(sft), better) is None


@pytest.mark.parametrize(
    ("base", "folder", "repo"),
    [
        ("org/model", "model", None),  # a name that many have
        ("out/checkpoint-500", "checkpoint-500", None),
        ("runs/final", "final", None),
        ("org/zephyr-sft", "zephyr-sft-2", None),  # another name
        ("/gone/zephyr-sft", "zephyr-sft", None),  # another path
        ("fork/zephyr-sft", "snapshot", "org/zephyr-sft"),  # another owner
        ("zephyr-sft", "snapshot", "org/zephyr-sft"),
        ("org/dpo", "zephyr-sft", None),  # itself
    ],
)
def test_no_evidence(tmp_path: Path, base: str, folder: str, repo: str | None) -> None:
    sft = Located(model(tmp_path / folder), repo)
    assert swapped(Located(model(tmp_path / "x" / "dpo", card(base)), "org/dpo"), sft) is None


def test_two_revisions_of_one_model(tmp_path: Path) -> None:
    before = Located(model(tmp_path / "a", config={"_name_or_path": "org/m"}), "org/m", "sft", "0" * 40)
    after = Located(model(tmp_path / "b", config={"_name_or_path": "org/m"}), "org/m", "dpo", "1" * 40)
    assert swapped(before, after) is None


def test_two_folders_of_one_name(tmp_path: Path) -> None:
    before = Located(model(tmp_path / "sft" / "zephyr", card("org/zephyr")))
    after = Located(model(tmp_path / "dpo" / "zephyr"))
    assert swapped(before, after) is None


def test_records_that_contradict_each_other(tmp_path: Path) -> None:
    sft = Located(model(tmp_path / "a", card("org/dpo")), "org/sft")
    dpo = Located(model(tmp_path / "b", card("org/sft")), "org/dpo")
    assert swapped(sft, dpo) is None
    assert swapped(dpo, sft) is None


def test_a_path_that_no_system_has(tmp_path: Path) -> None:
    dpo = Located(model(tmp_path / "dpo", config={"_name_or_path": "/models\0/sft"}))
    assert swapped(dpo, Located(model(tmp_path / "sft"))) is None
