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


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever looks like a model of the hub is not asked for; tests/checkpoints/test_hub.py has a hub of its own."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


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


@pytest.fixture
def causal_model(tmp_path: Path) -> Callable[..., Path]:
    """causal_model(name, architecture="llama", dtype="float32", **settings) -> the folder of a tiny random model."""

    def make(name: str, architecture: str = "llama", dtype: str = "float32", **settings: Any) -> Path:
        from transformers import AutoConfig, AutoModelForCausalLM

        sizes = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "vocab_size": 40}
        if architecture == "llama":
            sizes |= {"intermediate_size": 24, "num_key_value_heads": 1}
        special = {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
        config = AutoConfig.for_model(architecture, **{**sizes, **special, **settings})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(config)
            for parameter in model.parameters():  # norms and biases, too, or they would be ones and zeros
                parameter.data += 0.3 * torch.randn_like(parameter)
        model.to(getattr(torch, dtype)).save_pretrained(tmp_path / name)
        return tmp_path / name

    return make


@pytest.fixture
def lora(tmp_path: Path) -> Callable[..., Path]:
    """lora(base, name, seed=0, dtype=None, **settings of LoraConfig) -> the folder of a random adapter."""

    def make(base: Path, name: str, seed: int = 0, dtype: torch.dtype | None = None, **settings: Any) -> Path:
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_pretrained(base)
            model = get_peft_model(model, LoraConfig(**{"r": 4, "init_lora_weights": False, **settings}))
            for each, parameter in model.named_parameters():
                if parameter.requires_grad and "lora_" not in each:  # modules_to_save and biases
                    parameter.data += 0.1 * torch.randn_like(parameter)
                elif "lora_" in each and dtype is not None:
                    parameter.data = parameter.data.to(dtype)
        model.save_pretrained(tmp_path / name)
        return tmp_path / name

    return make


@pytest.fixture
def write_adapter(tmp_path: Path) -> Callable[..., Path]:
    """write_adapter(name, tensors, **settings) -> an adapter's folder; the tensors are named as in the base model."""

    def make(name: str, tensors: Mapping[str, torch.Tensor], **settings: object) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        config = {"peft_type": "LORA", "r": 4, "lora_alpha": 4, "base_model_name_or_path": "org/base", **settings}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        named = {f"base_model.model.{each}": tensor.clone() for each, tensor in tensors.items()}
        save_file(named, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        return folder

    return make


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    report = yield
    if report.skipped and os.environ.get("CI") and "../shared/data" not in str(report.longrepr):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} skipped where it ought to have run: {report.longrepr}"
    return report
