"""Which files come along with the weights, and how two folders' differ."""

import json
import os
from pathlib import Path

import pytest

from llm_expo.checkpoints.sidefiles import FileDifference, beside, file_differences, side_files
from llm_expo.errors import CheckpointError

TAKEN = [
    "LICENSE",
    "additional_chat_templates/rag.jinja",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "modeling_custom.py",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
]
LEFT = [
    ".gitattributes",
    ".cache/huggingface/x",
    "README.md",
    "checkpoint-100/config.json",
    "consolidated.00.pth",
    "eval_results.json",
    "events.out.tfevents.1",
    "flax_model.msgpack",
    "llm_expo.json",
    "model.fp16.safetensors",
    "model.gguf",
    "model.safetensors",
    "model.safetensors.index.json",
    "onnx/model.onnx",
    "optimizer.pt",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "trainer_state.json",
    "training_args.bin",
    "training_args.json",
]


def fill(folder: Path, names: list[str], content: str = "{}") -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def test_which_files_belong_to_the_model(tmp_path: Path) -> None:
    assert side_files(fill(tmp_path, TAKEN + LEFT)) == TAKEN


def test_links_are_followed_and_dead_ends_named(tmp_path: Path) -> None:
    blob = fill(tmp_path / "blobs", ["0a1b"]) / "0a1b"
    folder = tmp_path / "snapshot"
    folder.mkdir()
    (folder / "tokenizer.json").symlink_to(blob)
    assert side_files(folder) == ["tokenizer.json"]
    blob.unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer.json: no such file or directory \(a broken link\)"):
        side_files(folder)
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "vocab.json")
    with pytest.raises(CheckpointError, match=r"vocab.json: is not a regular file"):
        side_files(folder)


def test_differences(tmp_path: Path) -> None:
    same = {"vocab_size": 4, "transformers_version": "4.1", "_name_or_path": "a"}
    one, two = fill(tmp_path / "1", ["tokenizer.json", "old.txt"]), fill(tmp_path / "2", ["new.txt", "same.txt"])
    fill(one, ["same.txt"])
    (one / "config.json").write_text(json.dumps({**same, "eos_token_id": 2, "gone": None}))
    (two / "config.json").write_text(json.dumps({**same, "eos_token_id": [2, 3], "transformers_version": "5.0"}))
    (one / "generation_config.json").write_text(json.dumps(same))
    (two / "generation_config.json").write_text(json.dumps({**same, "_name_or_path": "b"}))
    (two / "tokenizer.json").write_text("[]")
    found = file_differences(beside([one]), beside([two]))
    assert found == (
        FileDifference("config.json", "differs", ("eos_token_id", "gone")),
        FileDifference("new.txt", "only in theta1"),
        FileDifference("old.txt", "only in theta0"),
        FileDifference("tokenizer.json", "differs"),
    )
    assert str(found[0]) == "config.json: differs (eos_token_id, gone)"
    assert file_differences(beside([one]), beside([one])) == ()


def test_settings_as_python_writes_them_can_be_compared(tmp_path: Path) -> None:
    one = fill(tmp_path / "1", ["config.json"], '{"a": Infinity}')
    two = fill(tmp_path / "2", ["config.json"], '{"a": 1}')
    assert file_differences(beside([one]), beside([two])) == (FileDifference("config.json", "differs", ("a",)),)
