"""Checkpoints for the tests of weights/: literal bytes, and tensors saved by the safetensors library, our oracle."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file


@pytest.fixture
def save() -> Callable[..., Path]:
    """save(folder, tensors, config=..., shards=1) -> folder, with tensors dealt in turn to that many files."""

    def write(folder: Path, tensors: Mapping[str, torch.Tensor], config: object | None = None, shards: int = 1) -> Path:
        folder.mkdir(parents=True)
        if config is not None:
            (folder / "config.json").write_text(json.dumps(config))
        if shards == 1:
            save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
            return folder
        weight_map = {}
        for shard in range(shards):
            name = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
            part = {key: tensors[key] for key in list(tensors)[shard::shards]}
            save_file(part, folder / name, metadata={"format": "pt"})
            weight_map.update(dict.fromkeys(part, name))
        index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
        return folder

    return write


@pytest.fixture
def literal(tmp_path: Path) -> Callable[..., Path]:
    """literal(header, data, folder="model") -> a folder with model.safetensors of exactly these bytes.

    A header that is not bytes is written as JSON.
    """

    def write(header: object, data: bytes = b"", folder: str = "model") -> Path:
        raw = header if isinstance(header, bytes) else json.dumps(header).encode()
        (tmp_path / folder).mkdir(exist_ok=True)
        path = tmp_path / folder / "model.safetensors"
        path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)
        return path.parent

    return write


@pytest.fixture
def pair(tmp_path: Path, save: Callable[..., Path]) -> tuple[Path, Path]:
    """A small pair of one file each, in bfloat16, with files beside the weights."""
    generator = torch.Generator().manual_seed(0)
    before = {name: torch.randn(6, 50, generator=generator) for name in ("a", "b", "c")}
    after = {name: tensor + 0.02 * torch.randn(6, 50, generator=generator) for name, tensor in before.items()}
    folders = tmp_path / "theta0", tmp_path / "theta1"
    for folder, tensors in zip(folders, (before, after), strict=True):
        save(folder, {name: tensor.bfloat16() for name, tensor in tensors.items()}, config={"model_type": "llama"})
    return folders
