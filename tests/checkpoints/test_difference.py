"""A difference's folder, seen as a checkpoint: theta0 + difference, from the theta0 that it names and from no other."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reading import tensors_of
from safetensors.torch import save_file

from llm_expo.checkpoints import Checkpoint, fingerprint
from llm_expo.checkpoints.difference import Difference, holds_difference, shifted
from llm_expo.checkpoints.hub import Located
from llm_expo.errors import CheckpointError

Tensors = dict[str, torch.Tensor]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def theta0(save: Callable[..., Path], tmp_path: Path) -> Path:
    return save(tmp_path / "theta0", {"a": noise(3, 5).bfloat16(), "b": noise(7, seed=1).bfloat16()}, {"x": 1})


@pytest.fixture
def kept(theta0: Path, tmp_path: Path) -> Callable[..., Path]:
    """kept(tensors=None, name="kept", **changes of the JSON) -> a difference's folder, written without llm_expo."""

    def write(tensors: Tensors | None = None, name: str = "kept", **changes: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        if tensors is None:
            tensors = {"a": (1e-4 * noise(3, 5, seed=2)).bfloat16(), "b": (1e-4 * noise(7, seed=3)).bfloat16()}
        named = {name if "." in name else f"difference.{name}": tensor for name, tensor in tensors.items()}
        save_file(named, folder / "difference.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text('{"dtype": "float32"}')
        initial = {"path": str(theta0), "fingerprint": fingerprint(Checkpoint.open(theta0))}
        record = {"format": 1, "initial": initial, "files": ["difference.safetensors"], **changes}
        (folder / "difference.json").write_text(json.dumps(record))
        return folder

    return write


def opened(folder: Path, given: Path | None = None) -> Checkpoint:
    assert holds_difference(folder)
    return shifted(Difference.open(Located(folder)), None if given is None else Checkpoint.open(given))


def refusal(folder: Path, given: Path | None = None) -> str:
    with pytest.raises(CheckpointError) as caught:
        opened(folder, given)
    return str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_its_tensors_are_the_sum_in_float32(
    dtype: torch.dtype, save: Callable[..., Path], kept: Callable[..., Path], tmp_path: Path
) -> None:
    base = {"w": noise(37, 700).to(dtype), "scalar": torch.tensor(2.0).to(dtype), "empty": torch.zeros(0, 3).to(dtype)}
    theta0 = save(tmp_path / "base", {**base, "gone": torch.zeros(2)})
    difference = {name: (1e-4 * noise(*tensor.shape, seed=5)).bfloat16() for name, tensor in base.items()}
    own = {"v_head": noise(4, seed=6).half(), "ids": torch.arange(3)}
    initial = {"path": str(theta0), "fingerprint": fingerprint(Checkpoint.open(theta0))}
    found = opened(kept({**difference, **{f"whole.{name}": it for name, it in own.items()}}, initial=initial))

    dtypes = {"w": "F32", "scalar": "F32", "empty": "F32", "v_head": "F16", "ids": "I64"}
    assert {name: (tensor.name, tensor.dtype, tensor.shape) for name, tensor in found.tensors.items()} == {
        name: (name, dtypes[name], tuple(tensor.shape)) for name, tensor in {**difference, **own}.items()
    }
    assert (found.path.name, found.config, found.is_whole) == ("kept", {"dtype": "float32"}, False)
    assert {shard.path.name for shard in found.shards} == {"difference.safetensors", "model.safetensors"}
    whole = tensors_of(found)
    for name, tensor in base.items():
        wanted = np.asarray(tensor.float().numpy() + difference[name].float().numpy(), np.float32)
        assert whole[name].numpy().tobytes() == wanted.tobytes(), name
    assert all(torch.equal(whole[name], tensor.float()) for name, tensor in own.items())
    for run in (333, 701, 4096):
        assert torch.equal(tensors_of(found, run)["w"], whole["w"])
    assert found.tensors["w"].position(701) == [1, 1]


def test_theta0_by_either_path_or_as_given(theta0: Path, kept: Callable[..., Path], tmp_path: Path) -> None:
    wanted = tensors_of(opened(kept()))
    name = fingerprint(Checkpoint.open(theta0))
    relative = kept(name="runs/1", initial={"path": "../../theta0", "fingerprint": name})
    gone = kept(name="gone", initial={"path": "/no/such/folder", "fingerprint": name})
    moved = shutil.copytree(theta0, tmp_path / "moved")
    for found in (opened(relative), opened(gone, given=moved), opened(relative, given=tmp_path / "theta0")):
        assert all(torch.equal(tensor, wanted[each]) for each, tensor in tensors_of(found).items())
    under = opened(relative, given=moved).under
    assert under is not None and under.path == moved


def test_a_given_checkpoint_that_is_not_its_theta0_is_not_added_to(
    save: Callable[..., Path], kept: Callable[..., Path], theta0: Path, tmp_path: Path
) -> None:
    other = save(tmp_path / "other", {"a": torch.zeros(3, 5).bfloat16(), "b": torch.zeros(7).bfloat16()})
    under = opened(kept(), given=other).under
    assert under is not None and under.path == theta0


def test_theta0_is_gone_changed_or_another(save: Callable[..., Path], kept: Callable[..., Path], theta0: Path) -> None:
    folder = kept()
    was = fingerprint(Checkpoint.open(theta0))
    theta0.rename(away := theta0.with_name("away"))
    assert refusal(folder) == (
        f"{folder}/difference.json: theta1 was made from the theta0 with the fingerprint {was}, and that is not here: "
        f"{theta0}: no such folder; give the right theta0, before theta1"
    )
    save(theta0, {"a": torch.zeros(3, 5).bfloat16(), "b": torch.zeros(7).bfloat16()})
    now = fingerprint(Checkpoint.open(theta0))
    assert f"is not here: {theta0} has {now}, so that it has changed or is another; give" in refusal(folder)
    assert f"is not here: {theta0} has {now}; give" in refusal(folder, given=theta0)
    other = save(theta0.with_name("other"), {"a": torch.ones(3, 5)})
    both = refusal(folder, given=other)
    assert f"{other} has {fingerprint(Checkpoint.open(other))}; {theta0} has {now}" in both
    assert opened(folder, given=away).under is not None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 2}, "difference.json: has the format 2, and 1 is read; install a newer llm-expo"),
        ({"format": None}, "has the format None"),
        ({"initial": None}, "does not say where theta0 lies and which fingerprint it has"),
        ({"initial": {"path": ""}}, "does not say where theta0 lies"),
        ({"initial": {"path": "../theta0"}}, "which fingerprint it has"),
        ({"initial": {"repo": "org/sft", "fingerprint": "0"}}, "does not say where theta0 lies"),
        ({"files": []}, "difference.json: names no files"),
        ({"files": "difference.safetensors"}, "difference.json: names no files"),
        ({"files": ["../theta0/model.safetensors"]}, '"../theta0/model.safetensors" is not the name of a difference'),
        ({"files": ["model.safetensors"]}, '"model.safetensors" is not the name of a difference\'s file'),
        ({"files": [3]}, '"3" is not the name of a difference\'s file'),
        ({"files": ["difference-00001-of-00002.safetensors"]}, "00001-of-00002.safetensors: no such file"),
        (
            {"files": ["difference.safetensors", "difference-1-of-2.safetensors"]},
            "difference-1-of-2.safetensors: no such",
        ),
    ],
)
def test_a_json_that_cannot_be_followed(kept: Callable[..., Path], changes: dict[str, Any], words: str) -> None:
    assert words in refusal(kept(**changes))


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"a": torch.zeros(3, 5)}, "a is F32 [3, 5], which is no difference from BF16 [3, 5] in theta0"),
        ({"a": torch.zeros(5, 3).bfloat16()}, "a is BF16 [5, 3], which is no difference from BF16 [3, 5] in theta0"),
        ({"new": torch.zeros(2).bfloat16()}, "new is BF16 [2], which is no difference from nothing in theta0"),
        ({"b": torch.arange(7)}, "b is I64 [7], which is no difference from BF16 [7]"),
        ({"other.a": torch.zeros(2)}, 'other.a begins neither with "difference." nor with "whole."'),
        ({"a": torch.zeros(3, 5).bfloat16(), "whole.a": torch.zeros(3, 5)}, "holds a, which was there before"),
        ({}, "kept: its files hold no tensor"),
    ],
)
def test_tensors_that_do_not_fit_theta0(kept: Callable[..., Path], tensors: Tensors, words: str) -> None:
    assert words in refusal(kept(tensors))


def test_a_tensor_in_two_files(kept: Callable[..., Path]) -> None:
    files = ["difference-00001-of-00002.safetensors", "difference-00002-of-00002.safetensors"]
    folder = kept(files=files)
    for name in files:
        shutil.copy(folder / "difference.safetensors", folder / name)
    assert "difference-00002-of-00002.safetensors: holds a, which was there before" in refusal(folder)


def test_damaged(kept: Callable[..., Path]) -> None:
    folder = kept()
    os.truncate(folder / "difference.safetensors", 100)
    assert "difference.safetensors: truncated" in refusal(folder)
    (folder / "difference.json").write_text('{"format": 1')
    assert "difference.json: the file is not valid JSON" in refusal(folder)


def test_quantised(kept: Callable[..., Path]) -> None:
    folder = kept()
    (folder / "config.json").write_text('{"quantization_config": {"quant_method": "gptq"}}')
    assert "is quantised (gptq" in refusal(folder)


def test_whole_weights_beside_it_are_another_model(kept: Callable[..., Path], theta0: Path) -> None:
    folder = kept()
    shutil.copy(theta0 / "model.safetensors", folder)
    assert "holds a difference (difference.json) and whole weights (model.safetensors), two models" in refusal(folder)


def test_where_a_whole_model_is_wanted_the_way_out_is_named(kept: Callable[..., Path]) -> None:
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(kept())
    assert str(caught.value).endswith(
        "kept: holds a difference from theta0 (difference.json), where a whole model is wanted; write that with: "
        "llm-expo apply DIFFERENCE --alpha 0 --dtype float32 --out DIR"
    )


def test_a_theta0_that_is_a_difference_itself(kept: Callable[..., Path]) -> None:
    first = kept()
    second = kept(name="second", initial={"path": str(first), "fingerprint": "0"})
    assert "is not here: " in refusal(second) and "holds a difference from theta0" in refusal(second)
