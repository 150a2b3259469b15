"""Adapters at the command line: what is written for which two sides, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llm_expo.cli import main


@pytest.fixture
def sides(causal_model: Callable[..., Path], lora: Callable[..., Path]) -> dict[str, str]:
    base = causal_model("base")
    return {name: str(lora(base, name, seed)) for seed, name in enumerate(("sft", "dpo"))} | {"base": str(base)}


def run(theta0: str, theta1: str, out: Path, *options: str) -> int:
    return main(["apply", theta0, theta1, "--alpha", "0.5", "--out", str(out), *options])


def test_an_adapter_stays_one_and_can_be_merged(sides: dict[str, str], tmp_path: Path, capsys) -> None:
    assert run(sides["base"], sides["dpo"], tmp_path / "scaled") == 0
    assert "an adapter: theta1's adapter, its lora_alpha times 1 + alpha" in capsys.readouterr().out
    before, after = (
        json.loads((side / "adapter_config.json").read_text()) for side in (Path(sides["dpo"]), tmp_path / "scaled")
    )
    assert after["lora_alpha"] == 1.5 * before["lora_alpha"]
    assert run(sides["base"], sides["dpo"], tmp_path / "whole", "--merge") == 0
    names = load_file(Path(sides["base"]) / "model.safetensors").keys()
    assert load_file(tmp_path / "whole" / "model.safetensors").keys() == names


def test_two_adapters_on_one_base(sides: dict[str, str], tmp_path: Path, capsys) -> None:
    assert run(sides["sft"], sides["dpo"], tmp_path / "stacked") == 0
    assert "warning" not in capsys.readouterr().err
    stacked = load_file(tmp_path / "stacked" / "adapter_model.safetensors")
    assert {tensor.shape[0] for name, tensor in stacked.items() if "lora_A" in name} == {8}, "the ranks add up"
    # theta0 merged, and then theta1, is the same sum
    assert run(sides["sft"], sides["dpo"], tmp_path / "whole", "--merge", "--base", sides["base"]) == 0
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    merge = ["apply", sides["base"], str(tmp_path / "stacked"), "--alpha", "0", "--merge", "--out"]
    assert main([*merge, str(tmp_path / "again")]) == 0
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert all(torch.allclose(whole[name], again[name], rtol=1e-5, atol=1e-5) for name in whole)


def test_a_whole_theta1_over_an_adapter(
    sides: dict[str, str], causal_model: Callable[..., Path], tmp_path: Path
) -> None:
    """The adapter is seen merged into the base that it names."""
    assert run(sides["base"], sides["dpo"], tmp_path / "theta1", "--merge") == 0
    assert run(sides["sft"], str(tmp_path / "theta1"), tmp_path / "out") == 0
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_an_adapter_of_another_base_is_warned_of(
    sides: dict[str, str], causal_model: Callable[..., Path], tmp_path: Path, capsys
) -> None:
    other = causal_model("other")
    assert run(str(other), sides["dpo"], tmp_path / "out") == 0
    assert f"was trained on {sides['base']}, as its adapter_config.json says, not on" in capsys.readouterr().err
    assert run(str(other), sides["dpo"], tmp_path / "whole", "--merge") == 0
    assert f"was trained on {sides['base']}, as its adapter_config.json says, not on" in capsys.readouterr().err


def test_options_for_whole_models(sides: dict[str, str], tmp_path: Path, capsys) -> None:
    assert run(sides["base"], sides["dpo"], tmp_path / "out", "--dtype", "float16") == 1
    assert "--dtype is for whole models, and theta1 is an adapter: add --merge" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_adapter_whose_base_is_gone(sides: dict[str, str], tmp_path: Path, capsys) -> None:
    settings = Path(sides["dpo"]) / "adapter_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"base_model_name_or_path": "/gone/away"}))
    assert run(sides["sft"], sides["dpo"], tmp_path / "out", "--merge") == 1
    message = capsys.readouterr().err
    assert "lies on /gone/away, which cannot be read" in message
    assert "name it with --base" in message
