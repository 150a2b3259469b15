"""compare: figures by hand and by NumPy, mismatches as facts, three checkpoints in one pass."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from llm_expo.checkpoints import Checkpoint
from llm_expo.checkpoints.reader import CHUNK
from llm_expo.errors import CheckpointError
from llm_expo.weights import Direction, Mover, compare, compare_three
from llm_expo.weights.comparison import as_json
from llm_expo.weights.kinds import Layer


def test_literal_figures(save, tmp_path: Path) -> None:
    before = {
        "still": torch.full((4,), 5.0),
        "far": torch.tensor([[3.0, 0.0], [0.0, 4.0]]),
        "near": torch.full((100,), 1.0).bfloat16(),
        "from_zero": torch.zeros(2),
        "grown": torch.zeros(2, 2),
        "ids": torch.arange(3),
    }
    after = {
        **before,
        "far": torch.tensor([[3.0, 0.0], [3.0, 0.0]]),
        "near": torch.full((100,), 1.5),
        "from_zero": torch.tensor([0.0, 1.0]),
        "grown": torch.zeros(3, 2),
    }
    direction = Direction.open(
        save(tmp_path / "theta0", before, config={"a": 1}), save(tmp_path / "theta1", after, config={"a": 2})
    )
    found = compare(direction)
    total = found.total
    assert (len(found.distances), total.elements) == (4, 110)
    assert total.norm == pytest.approx(math.sqrt(25 + 25 + 1))
    assert total.norm_initial == pytest.approx(math.sqrt(100 + 25 + 100))
    assert total.norm_per_root_element == pytest.approx(math.sqrt(51 / 110))
    assert total.norm_relative == pytest.approx(math.sqrt(51 / 225))
    assert total.share_equal == pytest.approx(1 - (2 + 100 + 1) / 110)
    assert (total.share_one_ulp, total.share_beyond) == (0, pytest.approx(103 / 110))
    assert found.movers() == (Mover("from_zero", 1.0, None), Mover("far", 5.0, 1.0), Mover("near", 5.0, 0.5))
    assert found.mismatches == ("grown: shape [2, 2] in theta0, [3, 2] in theta1",)
    assert [str(each) for each in found.files] == ["config.json: differs (a)"]


def test_one_unit_in_the_last_place(save, tmp_path: Path) -> None:
    one = torch.ones(6, dtype=torch.bfloat16)
    step = 2.0**-7
    moved = torch.tensor([1.0, 1 + step, 1 - step / 2, 1 + 2 * step, -1.0, 1 + step], dtype=torch.bfloat16)
    finer = torch.tensor([1.0, 1 + step / 4, 1 + step, 1 + 2 * step, 0.0, 1.0])  # the coarser of the two counts
    tiny = torch.tensor([0.0, -(2.0**-133)]).bfloat16()  # on either side of zero
    before = {"w": one, "mixed": one.clone(), "zero": tiny}
    after = {"w": moved, "mixed": finer, "zero": torch.tensor([2.0**-133, 0.0]).bfloat16()}
    found = compare(Direction.open(save(tmp_path / "theta0", before), save(tmp_path / "theta1", after))).distances
    counts = {name: (each.equal, each.one_ulp) for name, each in found.items()}
    assert counts == {"w": (1, 3), "mixed": (2, 2), "zero": (0, 2)}


NAMES = (
    "model.embed_tokens.weight",
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.0.mlp.up_proj.weight",
    "model.layers.1.self_attn.q_proj.weight",
    "model.layers.1.mlp.up_proj.weight",
    "model.norm.weight",
    "lm_head.weight",
)
DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


def three_models() -> list[dict[str, torch.Tensor]]:
    """Of every float type, one tensor of more than a chunk; the second step partly goes back on the first."""
    generator = torch.Generator().manual_seed(0)
    models: list[dict[str, torch.Tensor]] = [{}, {}, {}]
    for at, name in enumerate(NAMES):
        shape = (3, CHUNK // 2 + 5) if at == 2 else (5, 7 + at)
        first = torch.randn(shape, generator=generator)
        second = first + 0.3 * torch.randn(shape, generator=generator)
        third = second - 0.1 * (second - first) + 0.02 * torch.randn(shape, generator=generator)
        for place, tensor in enumerate((first, second, third)):
            models[place][name] = tensor.to(DTYPES[(at + place) % len(DTYPES)])
    return models


def in_float64(model: dict[str, torch.Tensor], *parts: str) -> np.ndarray:
    wanted = [tensor for name, tensor in model.items() if any(part in name for part in parts)]
    return np.concatenate([tensor.double().numpy().ravel() for tensor in wanted])


def test_kinds_and_layers_against_numpy(save, tmp_path: Path) -> None:
    before, after, _ = three_models()
    found = compare(Direction.open(save(tmp_path / "a", before, shards=3), save(tmp_path / "b", after, shards=2)))
    parts = {
        "embeddings": ["embed"],
        "attention": ["self_attn"],
        "MLP": ["mlp"],
        "norms": ["model.norm"],
        "head": ["lm_head"],
    }
    assert list(found.by_kind()) == list(parts)
    layers = {Layer("model.layers", 0): ["layers.0."], Layer("model.layers", 1): ["layers.1."]}
    assert list(found.by_layer()) == list(layers)
    for group, wanted in ((found.by_kind(), parts), (found.by_layer(), layers)):
        for key, names in wanted.items():
            theta0, theta1 = in_float64(before, *names), in_float64(after, *names)
            distance = group[key]
            assert distance.elements == len(theta0)
            assert distance.norm == pytest.approx(np.linalg.norm(theta1 - theta0), rel=1e-6)
            assert distance.norm_initial == pytest.approx(np.linalg.norm(theta0), rel=1e-6)
            cosine = theta0 @ theta1 / np.linalg.norm(theta0) / np.linalg.norm(theta1)
            assert distance.cosine == pytest.approx(cosine, abs=1e-6)
    assert found.by_kind_and_layer()["MLP", Layer("model.layers", 0)].elements == 3 * (CHUNK // 2 + 5)
    assert found.total.elements == sum(tensor.numel() for tensor in after.values())


def test_three_checkpoints(save, tmp_path: Path) -> None:
    models = three_models()
    paths = [save(tmp_path / name, model) for name, model in zip(("pre", "sft", "aligned"), models, strict=True)]
    found = compare_three(*(Checkpoint.open(path) for path in paths))
    for (first, last), row in zip(((0, 1), (1, 2), (0, 2)), found.rows().values(), strict=True):
        alone = compare(Direction.open(paths[first], paths[last]))
        assert (row.distances, row.mismatches, row.files) == (alone.distances, alone.mismatches, alone.files)
    pretrained, sft, aligned = (in_float64(model, "") for model in models)
    first_step, second_step = sft - pretrained, aligned - sft
    cosine = first_step @ second_step / np.linalg.norm(first_step) / np.linalg.norm(second_step)
    assert -1 < cosine < -0.5
    assert found.turn == pytest.approx(cosine, abs=1e-6)
    assert set(found.turn_by_kind()) == {"embeddings", "attention", "MLP", "norms", "head"}
    mlp = [in_float64(model, "layers.1.mlp", "layers.1.self") for model in models]
    first_step, second_step = mlp[1] - mlp[0], mlp[2] - mlp[1]
    cosine = first_step @ second_step / np.linalg.norm(first_step) / np.linalg.norm(second_step)
    assert found.turn_by_layer()[Layer("model.layers", 1)] == pytest.approx(cosine, abs=1e-6)


def test_three_checkpoints_that_share_only_a_part(save, tmp_path: Path) -> None:
    w = torch.ones(2, 2)
    pretrained = save(tmp_path / "pre", {"w": w, "embed": torch.ones(2, 2)})
    sft = save(tmp_path / "sft", {"w": w + torch.eye(2), "embed": torch.ones(3, 2)})
    aligned = save(
        tmp_path / "aligned", {"w": w + 2 * torch.eye(2), "embed": torch.zeros(3, 2), "v_head": torch.ones(2)}
    )
    found = compare_three(*map(Checkpoint.open, (pretrained, sft, aligned)))
    assert [sorted(row.distances) for row in found.rows().values()] == [["w"], ["embed", "w"], ["w"]]
    assert found.turn == pytest.approx(1)
    assert found.turn_by_layer() == {}
    unmoved = compare_three(*map(Checkpoint.open, (pretrained, sft, sft)))
    assert unmoved.turn is None


def test_json_has_every_figure(save, tmp_path: Path) -> None:
    paths = [save(tmp_path / name, model) for name, model in zip("abc", three_models(), strict=True)]
    record = json.loads(json.dumps(as_json(compare(Direction.open(*paths[:2]))), allow_nan=False))
    assert record["tensors"] == len(NAMES)
    assert record["norm_per_root_element"] == pytest.approx(record["norm"] / record["elements"] ** 0.5)
    assert record["share_equal"] + record["share_one_ulp"] + record["share_beyond"] == pytest.approx(1)
    assert sum(each["elements"] for each in record["kinds"].values()) == record["elements"]
    assert [(each["stack"], each["number"]) for each in record["layers"]] == [("model.layers", 0), ("model.layers", 1)]
    assert set(record) >= {"theta0", "theta1", "movers", "mismatches", "files", "cosine"}
    lineage = compare_three(*map(Checkpoint.open, paths))
    record = json.loads(json.dumps(as_json(lineage), allow_nan=False))
    assert record["sft_to_aligned"]["norm"] == lineage.sft_to_aligned.total.norm
    assert record["turn"] == lineage.turn and record["turn_by_layer"][1]["number"] == 1


def test_partners_under_other_names(save, tmp_path: Path) -> None:
    before, middle, after = three_models()
    renamed = {f"inner.{name}": tensor for name, tensor in middle.items()}
    paths = [save(tmp_path / name, model) for name, model in zip("abc", (before, renamed, after), strict=True)]
    plain = save(tmp_path / "plain", middle)
    found, wanted = (compare_three(*map(Checkpoint.open, (paths[0], each, paths[2]))) for each in (paths[1], plain))
    assert set(found.sft_to_aligned.distances) == set(NAMES)
    assert set(found.pretrained_to_sft.distances) == {f"inner.{name}" for name in NAMES}
    assert found.turn == wanted.turn and found.turn_by_kind() == wanted.turn_by_kind()
    assert found.pretrained_to_sft.total == wanted.pretrained_to_sft.total
    assert found.pretrained_to_sft.notes and not found.pretrained_to_sft.mismatches


def test_a_model_and_itself(pair: tuple[Path, Path]) -> None:
    found = compare(Direction.open(pair[0], pair[0]))
    assert (found.total.norm, found.total.share_equal, found.total.norm_relative) == (0.0, 1.0, 0.0)
    assert (found.movers(), found.mismatches, found.files) == ((), (), ())


def test_nothing_in_common(save, tmp_path: Path) -> None:
    found = compare(
        Direction.open(save(tmp_path / "theta0", {"a": torch.ones(1)}), save(tmp_path / "theta1", {"b": torch.ones(1)}))
    )
    total = found.total
    assert (total.elements, total.share_equal, total.norm_per_root_element, total.norm_relative, total.cosine) == (
        0,
        None,
        None,
        None,
        None,
    )
    assert set(found.mismatches) == {"a: only in theta0", "b: only in theta1"}


def test_not_a_number(save, tmp_path: Path) -> None:
    good, bad = {"w": torch.zeros(2, 3)}, {"w": torch.tensor([[0.0, 0.0, 0.0], [0.0, math.nan, 0.0]])}
    theta0, theta1 = save(tmp_path / "theta0", bad), save(tmp_path / "theta1", good)
    with pytest.raises(CheckpointError, match=r"0/model.safetensors \(theta0\): w holds .* at index \[1, 1\], so "):
        compare(Direction.open(theta0, theta1))
    with pytest.raises(CheckpointError, match=r"theta0/model.safetensors \(SFT\): w holds .* at index \[1, 1\]"):
        compare_three(*map(Checkpoint.open, (theta1, theta0, theta1)))
