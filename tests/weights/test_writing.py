"""What is written: the bytes, against oracles; the files beside them; the statistics; memory."""

import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from llm_expo.checkpoints.reader import CHUNK
from llm_expo.errors import CheckpointError, ExpoError, MismatchError
from llm_expo.weights import Direction, apply, plan, write
from llm_expo.weights.memory import extrapolate


def bits(tensor: torch.Tensor) -> list[int]:
    return tensor.flatten().view(torch.uint8).tolist()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def odd_pair(save, tmp_path: Path) -> tuple[Path, Path, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """All kinds of tensors, dealt differently to the files of the two sides."""
    generator = torch.Generator().manual_seed(3)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    before = {
        "bf16": noise(3, 5).bfloat16(),
        "f16": noise(7).half(),
        "f32": noise(2, 2, 2),
        "f64": noise(4).double(),
        "zeros": torch.tensor([-0.0, 0.0, -0.0]),
        "mixed": noise(6),
        "ids": torch.arange(4),
        "mask": torch.tensor([True, False]),
        "f8": noise(4).to(torch.float8_e4m3fn),
        "scalar": torch.tensor(2.0),
        "empty": torch.zeros(0, 3),
        "long": noise(CHUNK + 3).bfloat16(),
    }
    after = {
        name: (tensor + 0.1 * noise(*tensor.shape)).to(tensor.dtype)
        if tensor.dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64)
        else tensor.clone()
        for name, tensor in before.items()
    }
    after["mixed"] = after["mixed"].bfloat16()
    after["zeros"] = torch.tensor([-0.0, -0.0, 0.0])
    return save(tmp_path / "theta0", before, shards=3), save(tmp_path / "theta1", after, shards=2), before, after


def read(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


@pytest.mark.parametrize("alpha", [0.3, -0.4, 0.7, 5.0])
def test_against_the_kernel_and_numpy(save, tmp_path: Path, alpha: float) -> None:
    theta0, theta1, before, after = odd_pair(save, tmp_path)
    written = apply(theta0, theta1, alpha, tmp_path / "out")
    found = read(tmp_path / "out")
    assert set(found) == set(after)
    for name, tensor in found.items():
        assert (tensor.dtype, tensor.shape) == (after[name].dtype, after[name].shape), name
        if name in ("ids", "mask", "f8"):
            assert bits(tensor) == bits(after[name]), name
            continue
        assert bits(tensor) == bits(extrapolate(before[name], after[name], alpha)), name
        t0, t1 = before[name].double().numpy(), after[name].double().numpy()
        np.testing.assert_allclose(
            tensor.double().numpy(), t1 + alpha * (t1 - t0), rtol=1.001 * torch.finfo(tensor.dtype).eps / 2, atol=2e-6
        )
    assert (written.moved, written.copied) == (9, 3)


@pytest.mark.parametrize(("alpha", "side"), [(0, 1), (-1, 0)])
def test_exact_ends(save, tmp_path: Path, alpha: float, side: int) -> None:
    theta0, theta1, *pair = odd_pair(save, tmp_path)
    written = apply(theta0, theta1, alpha, tmp_path / "out")
    for name, tensor in read(tmp_path / "out").items():
        assert bits(tensor) == bits(pair[side][name].to(pair[1][name].dtype)), name
    if alpha == 0:
        for path in theta1.glob("*.safetensors*"):
            assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
        assert (written.moved, written.copied, written.share_differing, written.realised_alpha) == (0, 12, None, None)


def test_bytes_are_those_of_the_safetensors_library(save, tmp_path: Path) -> None:
    theta0, theta1, before, after = odd_pair(save, tmp_path)
    apply(theta0, theta1, 0.3, tmp_path / "out")
    moved = {
        name: extrapolate(before[name], tensor, 0.3) if name not in ("ids", "mask", "f8") else tensor
        for name, tensor in after.items()
    }
    for path in theta1.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            save_file({name: moved[name] for name in file.keys()}, tmp_path / "oracle", metadata={"format": "pt"})  # noqa: SIM118
        assert (tmp_path / "out" / path.name).read_bytes() == (tmp_path / "oracle").read_bytes()


def test_what_is_copied_keeps_even_the_payload_of_a_nan(save, tmp_path: Path) -> None:
    odd = torch.tensor([0x7FC1, 0xFFC2 - 0x10000, 0x7F80, -0x8000], dtype=torch.int16).view(torch.bfloat16)
    theta0 = save(tmp_path / "theta0", {"w": odd})
    theta1 = save(tmp_path / "theta1", {"w": torch.zeros(4).bfloat16()})
    apply(theta0, theta1, -1, tmp_path / "minus one")
    apply(theta1, theta0, 0, tmp_path / "zero")
    for out in ("minus one", "zero"):
        assert bits(read(tmp_path / out)["w"]) == bits(odd)


def test_statistics(save, tmp_path: Path) -> None:
    # One unit in the last place of bfloat16 at 1 is 2**-7: 0.4 of it is swallowed, 0.4 of four is rounded to two.
    before = {"w": torch.tensor([1.0, 1.0, 1.0, 1.0]).bfloat16()}
    after = {"w": torch.tensor([1.0, 1.0, 1 + 1 / 128, 1 + 4 / 128]).bfloat16()}
    theta0, theta1 = save(tmp_path / "theta0", before), save(tmp_path / "theta1", after)
    written = apply(theta0, theta1, 0.4, tmp_path / "out")
    assert (written.share_differing, written.share_swallowed) == (0.5, 0.5)
    assert written.realised_alpha == pytest.approx(2 * 4 / (1 + 16), rel=1e-5)
    assert written.path == tmp_path / "out"
    assert written.nbytes == sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    assert written.seconds > 0


def test_a_pair_without_difference(pair: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match="are the same folder: there is no direction"):
        apply(pair[1], pair[1], 0.3, tmp_path / "out")
    copy = shutil.copytree(pair[1], tmp_path / "copy")
    with pytest.raises(ExpoError, match="hold the same numbers in every tensor that would be moved"):
        apply(copy, pair[1], 0.3, tmp_path / "out")
    assert names(tmp_path) == ["copy", "theta0", "theta1"]


def test_provenance(pair: tuple[Path, Path], tmp_path: Path) -> None:
    written = apply(*pair, 0.3, tmp_path / "out")
    found = json.loads((tmp_path / "out" / "llm_expo.json").read_text())
    assert found["formula"] == "theta1 + alpha * (theta1 - theta0)"
    assert (found["tool"], found["alpha"]) == ("llm-expo", 0.3)
    size = (pair[0] / "model.safetensors").stat().st_size
    assert found["initial"] == {"path": str(pair[0]), "files": [{"name": "model.safetensors", "bytes": size}]}
    assert found["aligned"]["path"] == str(pair[1])
    assert found["tensors"] == {"moved": 3, "copied": 0}
    assert found["statistics"] == {
        "weights_moved": 900,
        "share_differing": written.share_differing,
        "share_swallowed": written.share_swallowed,
        "realised_alpha": written.realised_alpha,
    }


def test_files_beside_the_weights_come_from_theta1(pair: tuple[Path, Path], tmp_path: Path) -> None:
    for folder in pair:
        (folder / "additional_chat_templates").mkdir()
        (folder / "additional_chat_templates" / "rag.jinja").write_text(folder.name)
        (folder / "chat_template.jinja").write_text(folder.name * 1000)
        (folder / "README.md").write_text("a model card")
        (folder / "training_args.bin").write_bytes(b"pickle")
    apply(*pair, 0.3, tmp_path / "out")
    assert sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*")) == [
        "additional_chat_templates",
        "additional_chat_templates/rag.jinja",
        "chat_template.jinja",
        "config.json",
        "llm_expo.json",
        "model.safetensors",
    ]
    assert (tmp_path / "out" / "additional_chat_templates" / "rag.jinja").read_text() == "theta1"
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "theta1" * 1000


def test_progress_tells_every_byte_of_the_plan(save, tmp_path: Path) -> None:
    theta0, theta1, *_ = odd_pair(save, tmp_path)
    planned = plan(Direction.open(theta0, theta1), 0.3)
    told: list[int] = []
    write(planned, tmp_path / "out", told.append)
    assert sum(told) == planned.nbytes == sum(path.stat().st_size for path in theta1.glob("*.safetensors*"))


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("alpha", [0.3, 2.0])
def test_inputs_that_are_not_finite(save, tmp_path: Path, side: int, bad: float, alpha: float) -> None:
    sides = [{"w": torch.ones(2, CHUNK)}, {"w": torch.ones(2, CHUNK)}]
    sides[side]["w"][1, 7] = bad
    theta0, theta1 = save(tmp_path / "theta0", sides[0]), save(tmp_path / "theta1", sides[1])
    with pytest.raises(CheckpointError) as caught:
        apply(theta0, theta1, alpha, tmp_path / "out")
    assert (
        str(caught.value)
        == f"{(theta0, theta1)[side]}/model.safetensors (theta{side}): w holds {bad} at index [1, 7]; "
        "--allow-not-finite keeps theta1's value there"
    )
    assert names(tmp_path) == ["theta0", "theta1"]


def test_overflow(save, tmp_path: Path) -> None:
    theta0 = save(tmp_path / "theta0", {"w": torch.tensor([1.0, -60000.0, 3.0]).half()})
    theta1 = save(tmp_path / "theta1", {"w": torch.tensor([1.0, 60000.0, 3.0]).half()})
    with pytest.raises(
        ExpoError, match=r"^w overflows F16 at index \[1\] with alpha 0.3: -60000 in .*theta0.*, 60000 in"
    ):
        apply(theta0, theta1, 0.3, tmp_path / "out")
    assert names(tmp_path) == ["theta0", "theta1"]


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    mega = 64
    header = json.dumps({"w": {"dtype": "BF16", "shape": [mega << 19], "data_offsets": [0, mega << 20]}}).encode()
    for number in (0, 1):
        (tmp_path / f"theta{number}").mkdir()
        block = (torch.randn(1 << 19) + number).bfloat16().view(torch.uint8).numpy().tobytes()
        with (tmp_path / f"theta{number}" / "model.safetensors").open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            for _ in range(mega):
                file.write(block)
    before, peak = resident(), 0

    def watch(_: int) -> None:
        nonlocal peak
        peak = max(peak, resident())

    apply(tmp_path / "theta0", tmp_path / "theta1", 0.3, tmp_path / "out", watch)
    assert peak - before < 24 << 20


@pytest.mark.parametrize(("dtype", "sharded", "tied"), [("bfloat16", True, False), ("float32", False, True)])
def test_transformers_loads_it(tmp_path: Path, dtype: str, sharded: bool, tied: bool) -> None:
    from transformers import AutoModelForCausalLM

    from llm_expo.testing import tiny_pair

    theta0, theta1 = tiny_pair(tmp_path, dtype=dtype, shard_size="8KB" if sharded else "1GB", tied=tied)
    assert (theta1 / "model.safetensors.index.json").exists() == sharded
    apply(theta0, theta1, 0.3, tmp_path / "out")
    models = []
    for folder in (theta0, theta1, tmp_path / "out"):
        model, loading = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True)
        assert not any(loading.values()), loading
        models.append(model.state_dict())
    before, after, found = models
    assert {str(tensor.dtype) for tensor in found.values()} == {f"torch.{dtype}"}
    for name, tensor in found.items():
        assert bits(tensor) == bits(extrapolate(before[name], after[name], 0.3)), name
        assert not torch.equal(tensor, after[name])


def test_importing_the_room_loads_nothing_heavy() -> None:
    import subprocess
    import sys

    code = "import sys, llm_expo.weights; print(*{'torch', 'numpy', 'transformers', 'safetensors'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
