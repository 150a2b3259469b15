"""The pair of the tests of weights/."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch


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
