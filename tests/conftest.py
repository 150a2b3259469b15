"""Fixtures, and the rule about skipping: where CI is set, only a missing ../shared/data excuses a test."""

import json
import os
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from llm_expo.testing import tiny_pair

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A tiny float32 pair: the folders of theta0 and theta1."""
    return tiny_pair(tmp_path)


@pytest.fixture
def shared_data() -> Path:
    """Public data beside the project, for tests that check it against something it did not make."""
    if not SHARED_DATA.is_dir():
        pytest.skip("../shared/data is absent")
    return SHARED_DATA


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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    report = yield
    if report.skipped and os.environ.get("CI") and "../shared/data" not in str(report.longrepr):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} skipped where it ought to have run: {report.longrepr}"
    return report
