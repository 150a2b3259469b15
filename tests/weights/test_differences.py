"""theta1 kept as its difference from theta0: the bytes against an oracle, what it keeps, both ends, kills, refusals."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from oracle import narrowed
from safetensors.torch import load_file

from llm_expo.checkpoints import Checkpoint, fingerprint
from llm_expo.checkpoints.adapted import adapted
from llm_expo.checkpoints.adapter import Adapter
from llm_expo.checkpoints.reader import CHUNK
from llm_expo.cli import main
from llm_expo.errors import CheckpointError, MismatchError, OutputError
from llm_expo.testing import tiny_pair
from llm_expo.weights import Direction, WrittenDifference, apply, compare, plan, share_kept, write, write_difference

Save = Callable[..., Path]
Tensors = dict[str, torch.Tensor]


def kept(theta0: Path, theta1: Path, out: Path) -> WrittenDifference:
    return write_difference(Checkpoint.open(theta0), Checkpoint.open(theta1), out)


def read(folder: Path) -> Tensors:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def kept_in(folder: Path) -> Tensors:
    """A difference's tensors, by theta1's names."""
    return {name.partition(".")[2]: tensor for name, tensor in read(folder).items()}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def small_step(save: Save, tmp_path: Path, dtype: torch.dtype = torch.bfloat16) -> tuple[Path, Path, Tensors, Tensors]:
    """theta0 in `dtype` and a float32 theta1 that is about one part in a thousand away, as preference training is."""
    generator = torch.Generator().manual_seed(0)
    before = {name: 0.05 * torch.randn(60, 50, generator=generator) for name in ("a", "b", "c")}
    before = {name: tensor.to(dtype) for name, tensor in before.items()}
    after = {name: tensor.float() + 5e-5 * torch.randn(60, 50, generator=generator) for name, tensor in before.items()}
    config = {"model_type": "llama", "dtype": "bfloat16"}
    return save(tmp_path / "theta0", before, config), save(tmp_path / "theta1", after, config, 2), before, after


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_against_numpy(save: Save, tmp_path: Path, dtype: torch.dtype) -> None:
    theta0, theta1, before, after = small_step(save, tmp_path, dtype)
    written = kept(theta0, theta1, tmp_path / "kept")
    found = kept_in(tmp_path / "kept")
    wide = {name: (before[name].float().numpy(), after[name].numpy()) for name in after}
    for name, (t0, t1) in wide.items():
        assert found[name].dtype == torch.bfloat16
        assert raw(found[name]) == narrowed(t1 - t0, "BF16"), name
    assert (written.differences, written.whole, written.warnings) == (3, 0, ())
    assert written.nbytes == sum(path.stat().st_size for path in (tmp_path / "kept").iterdir())
    ways = [np.float64(t1) - t0 for t0, t1 in wide.values()]
    stored = [torch.from_numpy(t1).bfloat16().double().numpy() - t0 for t0, t1 in wide.values()]
    apart = [found[name].double().numpy() for name in after]
    length = sum((way * way).sum() for way in ways)
    assert written.kept.difference.share == pytest.approx(
        sum((a * b).sum() for a, b in zip(apart, ways, strict=True)) / length
    )
    assert written.kept.bfloat16.share == pytest.approx(
        sum((a * b).sum() for a, b in zip(stored, ways, strict=True)) / length
    )
    assert written.kept == share_kept(Direction.open(theta0, theta1))


def test_what_is_kept_of_a_small_step(save: Save, tmp_path: Path) -> None:
    """The reason for it all: as weights in bfloat16 most of the direction is lost, as a difference nothing is."""
    theta0, theta1, before, after = small_step(save, tmp_path)
    shares = kept(theta0, theta1, tmp_path / "kept").kept
    assert shares.bfloat16 is not None and shares.difference is not None
    assert shares.bfloat16.share < 0.9
    assert abs(shares.difference.share - 1) < 1e-3 and shares.difference.noise < 0.002
    found = kept_in(tmp_path / "kept")
    way = torch.cat([(after[name] - before[name].float()).flatten() for name in after]).double()
    for measured, stored in (
        (shares.difference, {name: tensor.float() for name, tensor in found.items()}),
        (shares.bfloat16, {name: after[name].bfloat16().float() - before[name].float() for name in after}),
    ):
        kept_way = torch.cat([stored[name].flatten() for name in after]).double()
        assert measured.share == pytest.approx(float(kept_way @ way / (way @ way)), rel=1e-5)
        assert measured.noise == pytest.approx(float((kept_way - way).norm() / way.norm()), rel=1e-4)
        assert measured.cosine == pytest.approx(float(kept_way @ way / kept_way.norm() / way.norm()), rel=1e-5)


def test_noise_is_told_where_the_share_says_that_all_is_kept(save: Save, tmp_path: Path) -> None:
    """From a theta0 between bfloat16's numbers, rounding is right on average and wrong in every weight."""
    generator = torch.Generator().manual_seed(0)
    before = {"w": 0.05 * torch.randn(200, 500, generator=generator)}
    after = {"w": before["w"] + 1e-5 * torch.randn(200, 500, generator=generator)}
    sides = save(tmp_path / "theta0", before), save(tmp_path / "theta1", after)
    stored = share_kept(Direction.open(*sides)).bfloat16
    assert stored is not None
    assert stored.share == pytest.approx(1, abs=0.1)
    assert stored.noise > 5 and stored.cosine < 0.2


def odd_pair(save: Save, tmp_path: Path) -> tuple[Path, Path, Tensors, Tensors]:
    generator = torch.Generator().manual_seed(3)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    before = {
        "f32": noise(2, 2, 2),
        "f16": noise(7).half(),
        "bf16": noise(3, 5).bfloat16(),
        "f64": noise(4).double(),
        "to f64": noise(4),
        "embed": noise(5, 4),
        "ids": torch.arange(4),
        "scalar": torch.tensor(2.0),
        "empty": torch.zeros(0, 3),
        "long": noise(CHUNK + 3).bfloat16(),
        "zeros": torch.tensor([-0.0, 0.0, 1.0]),
        "only before": noise(3),
    }
    after = {name: tensor + 0.1 * noise(*tensor.shape) for name, tensor in before.items() if tensor.is_floating_point()}
    after |= {"to f64": noise(4).double(), "embed": noise(6, 4), "ids": torch.arange(4) + 1, "new": noise(2).half()}
    after["zeros"] = torch.tensor([-0.0, -0.0, 1.0])
    del after["only before"]
    return save(tmp_path / "theta0", before, shards=3), save(tmp_path / "theta1", after, shards=2), before, after


def test_what_is_no_difference_is_kept_whole(save: Save, tmp_path: Path) -> None:
    theta0, theta1, before, after = odd_pair(save, tmp_path)
    written = kept(theta0, theta1, tmp_path / "kept")
    whole = {"f64", "to f64", "embed", "ids", "new"}
    assert {name.partition(".")[::2] for name in read(tmp_path / "kept")} == {
        ("whole" if name in whole else "difference", name) for name in after
    }
    assert (written.differences, written.whole) == (len(after) - len(whole), len(whole))
    found = kept_in(tmp_path / "kept")
    assert found.keys() == after.keys()
    for name, tensor in found.items():
        if name in whole:
            assert (tensor.dtype, raw(tensor)) == (after[name].dtype, raw(after[name])), name
        else:
            way = after[name].float().numpy() - before[name].float().numpy()
            assert raw(tensor) == narrowed(way, "BF16"), name

    # and so it is seen: theta1's names and order, from any theta0 that has no partner for some of them
    write(plan(Direction.open(None, tmp_path / "kept"), 0.0, new_rows="copy"), tmp_path / "again")
    again = read(tmp_path / "again")
    for name, tensor in after.items():
        if name in whole:
            assert (again[name].dtype, raw(again[name])) == (tensor.dtype, raw(tensor)), name
        else:
            assert (
                again[name].numpy().tobytes() == (before[name].float().numpy() + found[name].float().numpy()).tobytes()
            )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_both_ends(tmp_path: Path, dtype: str) -> None:
    """alpha 0 is theta0 + difference in float32 under theta1's own header; alpha -1 is theta0."""
    theta0, _ = tiny_pair(tmp_path / "a", dtype=dtype, shard_size="8KB")
    _, theta1 = tiny_pair(tmp_path / "b", shard_size="8KB")
    kept(theta0, theta1, tmp_path / "kept")
    for alpha, name in ((0.0, "zero"), (-1.0, "minus one")):
        assert main(["apply", str(tmp_path / "kept"), f"--alpha={alpha}", "--out", str(tmp_path / name)]) == 0
    base, difference = read(theta0), kept_in(tmp_path / "kept")
    names = {path.name for path in theta1.glob("*.safetensors*")}
    for made, expected in (
        ("zero", {name: base[name].float() + difference[name].float() for name in base}),
        ("minus one", {name: tensor.float() for name, tensor in base.items()}),
    ):
        assert {path.name for path in (tmp_path / made).glob("*.safetensors*")} == names
        found = read(tmp_path / made)
        assert all(raw(found[name]) == raw(tensor) for name, tensor in expected.items())
        for path in theta1.glob("*.safetensors"):
            header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
            assert (tmp_path / made / path.name).read_bytes()[:header] == path.read_bytes()[:header]
        assert json.loads((tmp_path / made / "config.json").read_text())["dtype"] == "float32"


@pytest.mark.parametrize("alpha", [0.3, 7.0, -0.4])
def test_any_alpha_is_that_of_the_whole_model(save: Save, tmp_path: Path, alpha: float) -> None:
    theta0, theta1, *_ = small_step(save, tmp_path)
    kept(theta0, theta1, tmp_path / "kept")
    write(plan(Direction.open(theta0, tmp_path / "kept"), 0.0, dtype="float32"), tmp_path / "whole")
    apply(theta0, tmp_path / "whole", alpha, tmp_path / "from whole")
    written = apply(theta0, tmp_path / "kept", alpha, tmp_path / "from difference")
    made, wanted = contents(tmp_path / "from difference"), contents(tmp_path / "from whole")
    del made["llm_expo.json"], wanted["llm_expo.json"]
    assert made == wanted
    assert written.realised_alpha == pytest.approx(alpha, rel=1e-3), "the default type swallows nothing"
    provenance = json.loads((tmp_path / "from difference" / "llm_expo.json").read_text())
    assert provenance["aligned"]["difference_from"] == {"path": str(theta0)}
    assert (
        compare(Direction.open(theta0, tmp_path / "kept")).total
        == compare(Direction.open(theta0, tmp_path / "whole")).total
    )


def test_what_lies_beside_theta1_comes_along(save: Save, tmp_path: Path) -> None:
    theta0, theta1, *_ = small_step(save, tmp_path)
    (theta1 / "chat_template.jinja").write_text("{{ x }}")
    (theta1 / "README.md").write_text("a card")
    kept(theta0, theta1, tmp_path / "plain")
    assert json.loads((tmp_path / "plain" / "llm_expo.json").read_text())["output"] == (
        "theta1 as the difference from theta0, in bfloat16"
    )
    record = '{"method": "training"}'
    (theta1 / "llm_expo.json").write_text(record)
    kept(theta0, theta1, tmp_path / "kept")
    assert sorted(contents(tmp_path / "kept")) == [
        "chat_template.jinja",
        "config.json",
        "difference-00001-of-00002.safetensors",
        "difference-00002-of-00002.safetensors",
        "difference.json",
        "llm_expo.json",
    ]
    assert (tmp_path / "kept" / "llm_expo.json").read_text() == record, "it is the same model"
    assert json.loads((tmp_path / "kept" / "config.json").read_text())["dtype"] == "float32"
    said = json.loads((tmp_path / "kept" / "difference.json").read_text())
    assert said["initial"] == {"path": str(theta0), "fingerprint": fingerprint(Checkpoint.open(theta0))}
    # what is made of it has neither its JSON nor its record
    apply(theta0, tmp_path / "kept", 0.5, tmp_path / "moved")
    assert "difference.json" not in contents(tmp_path / "moved")
    assert json.loads((tmp_path / "moved" / "llm_expo.json").read_text())["alpha"] == 0.5


def test_another_theta0_is_warned_of(save: Save, tmp_path: Path) -> None:
    theta0, theta1, before, _ = small_step(save, tmp_path)
    kept(theta0, theta1, tmp_path / "kept")
    other = save(tmp_path / "other", {name: tensor + 1 for name, tensor in before.items()})
    assert Direction.open(theta0, tmp_path / "kept").warnings() == []
    [warning, *_] = Direction.open(other, tmp_path / "kept").warnings()
    assert f"kept/difference.json: theta1 was made from {theta0} (fingerprint " in warning
    assert f"and theta0 {other} has the fingerprint " in warning


def test_transformers_does_not_take_it_for_a_model(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    theta0, theta1 = tiny_pair(tmp_path, dtype="bfloat16")
    kept(theta0, theta1, tmp_path / "kept")
    with pytest.raises(OSError, match="no file named model.safetensors"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "kept")
    assert AutoTokenizer.from_pretrained(tmp_path / "kept").chat_template
    assert "--alpha 0 --dtype float32" in json.loads((tmp_path / "kept" / "difference.json").read_text())["about"]
    whole = tmp_path / "whole"
    assert main(["apply", str(tmp_path / "kept"), *f"--alpha 0 --dtype float32 --out {whole}".split()]) == 0
    model, report = AutoModelForCausalLM.from_pretrained(whole, dtype="auto", output_loading_info=True)
    assert not any(report.values()) and model.dtype == torch.float32
    assert not read(tmp_path / "kept").keys() & model.state_dict().keys(), "some loaders take any safetensors file"


KILLED = """
import os, signal, sys
from llm_expo.checkpoints import Checkpoint
from llm_expo.weights import write_difference

todo = int(sys.argv[4])
def progress(count):
    global todo
    todo -= count
    if todo < 0:
        os.kill(os.getpid(), signal.SIGKILL)

write_difference(Checkpoint.open(sys.argv[1]), Checkpoint.open(sys.argv[2]), sys.argv[3], progress, workers=1)
"""


def test_killed_midway(save: Save, tmp_path: Path) -> None:
    theta0, theta1, *_ = small_step(save, tmp_path)
    kept(theta0, theta1, tmp_path / "plain")
    expected = contents(tmp_path / "plain")
    out, first = tmp_path / "kept", len(expected["difference-00001-of-00002.safetensors"])
    for nbytes in (0, first - 1, first + 1000):
        command = [sys.executable, "-c", KILLED, str(theta0), str(theta1), str(out), str(nbytes)]
        assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
        assert not out.exists() and (tmp_path / "kept.partial").exists()
    resumed: list[int] = []
    written = write_difference(Checkpoint.open(theta0), Checkpoint.open(theta1), out, resumed.append)
    assert resumed[0] == first, "the first file had been finished"
    assert contents(out) == expected
    assert written.kept == share_kept(Direction.open(theta0, theta1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "plain", "theta0", "theta1"]


def test_refused(save: Save, tmp_path: Path) -> None:
    theta0, theta1, *_ = small_step(save, tmp_path)
    kept(theta0, theta1, tmp_path / "kept")
    with pytest.raises(OutputError, match="kept: already exists"):
        kept(theta0, theta1, tmp_path / "kept")
    with pytest.raises(OutputError, match="lies in the input folder .*theta0; inputs are never written to"):
        kept(theta0, theta1, theta0 / "kept")
    with pytest.raises(OutputError, match="lies in the input folder .*theta0; inputs are never written to"):
        apply(theta1, tmp_path / "kept", 0.5, theta0 / "moved")
    other = save(tmp_path / "other", {"x": torch.zeros(2), "a": torch.zeros(3)})
    with pytest.raises(MismatchError, match="have no float tensor of one name and shape in common.*keep theta1 whole"):
        kept(theta0, other, tmp_path / "out")
    again = Direction.open(theta0, tmp_path / "kept").aligned
    with pytest.raises(
        CheckpointError, match="kept: theta1 is an adapter or a difference itself; write it whole first"
    ):
        write_difference(Checkpoint.open(theta0), again, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_adapter_is_not_kept_as_a_difference(save: Save, write_adapter: Callable[..., Path], tmp_path: Path) -> None:
    base = save(tmp_path / "base", {"m.weight": torch.zeros(4, 3)})
    factors = {"m.lora_A.weight": torch.ones(2, 3), "m.lora_B.weight": torch.ones(4, 2)}
    merged = adapted(Checkpoint.open(base), Adapter.open(write_adapter("adapter", factors, r=2)))
    for sides, words in (((merged, Checkpoint.open(base)), "theta0"), ((Checkpoint.open(base), merged), "theta1")):
        with pytest.raises(CheckpointError, match=f"adapter: {words} is an adapter or a difference itself"):
            write_difference(*sides, tmp_path / "out")


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 3e38])
def test_not_finite(save: Save, tmp_path: Path, side: int, bad: float) -> None:
    pair = torch.full((2, 3), -3e38), torch.full((2, 3), -3e38)
    pair[side][1, 2] = bad
    theta0, theta1 = (save(tmp_path / f"theta{i}", {"w": pair[i]}) for i in (0, 1))
    with pytest.raises(CheckpointError) as caught:
        kept(theta0, theta1, tmp_path / "out")
    assert (
        f"{theta1}/model.safetensors: w has no difference from theta0's ({theta0}/model.safetensors) at index [1, 2]"
        in (str(caught.value))
    )
    assert not list(tmp_path.glob("out*"))


def test_a_model_that_did_not_move(save: Save, tmp_path: Path) -> None:
    sides = [save(tmp_path / name, {"w": torch.ones(3)}) for name in ("theta0", "theta1")]
    written = kept(*sides, tmp_path / "kept")
    assert (written.kept.difference, written.kept.bfloat16) == (None, None)
    assert kept_in(tmp_path / "kept")["w"].tolist() == [0.0] * 3
