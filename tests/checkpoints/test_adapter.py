"""What is read of an adapter's folder, and every way in which it is refused."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llm_expo.checkpoints.adapter import Adapter, holds_adapter
from llm_expo.errors import CheckpointError

FACTORS = {"m.lora_A.weight": torch.ones(4, 6), "m.lora_B.weight": torch.ones(8, 4)}


def test_updates_and_whole_tensors(write_adapter: Callable[..., Path]) -> None:
    more = {
        "e.lora_embedding_A.default": torch.ones(2, 9),
        "e.lora_embedding_B.default": torch.ones(6, 2),
        "m.base_layer.bias": torch.ones(8),
        "lm_head.weight": torch.ones(9, 6),
    }
    folder = write_adapter("a", FACTORS | more, lora_alpha=6, rank_pattern={"e": 2}, alpha_pattern={"x|e": 5})
    assert holds_adapter(folder)
    assert not holds_adapter(folder.parent)
    adapter = Adapter.open(folder)
    assert adapter.base == "org/base"
    assert {m: (u.rank, u.scale, u.embedding) for m, u in adapter.updates.items()} == {
        "m": (4, 1.5, False),
        "e": (2, 2.5, True),
    }
    assert adapter.updates["m"].a.shape == (4, 6)
    assert set(adapter.saved) == {"m.bias", "lm_head.weight"}


def test_scales_are_those_of_peft(causal_model: Callable[..., Path], lora: Callable[..., Path]) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = causal_model("base")
    adapter = lora(
        base,
        "adapter",
        target_modules="all-linear",
        use_rslora=True,
        lora_alpha=7,
        # The first pattern that matches decides, and PEFT sorts them as it saves; a name matches as a whole component.
        rank_pattern={r".*\.self_attn\.[kq]_proj": 6, "proj": 5, "q_proj": 3, "v_proj": 3},
        alpha_pattern={r"layers\.0\.mlp\.(up|down)_proj": 2, "up_proj": 11},
    )
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter))
    wanted = {
        name.removeprefix("base_model.model."): module.scaling["default"]
        for name, module in model.named_modules()
        if isinstance(getattr(module, "scaling", None), dict)
    }
    found = Adapter.open(adapter)
    assert {name: update.scale for name, update in found.updates.items()} == wanted
    assert {update.rank for update in found.updates.values()} == {3, 6, 4}
    assert found.updates["model.layers.0.mlp.down_proj"].scale == 2 / math.sqrt(4)


SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"peft_type": "IA3"}, "peft_type is IA3, and only LORA"),
    ({"peft_type": "LOHA"}, "peft_type is LOHA"),
    ({"peft_type": "PROMPT_TUNING"}, "peft_type is PROMPT_TUNING"),
    ({"peft_type": None}, "peft_type is None"),
    ({"use_dora": True}, "DoRA, which is not linear in its weights; merge it into its base"),
    ({"lora_bias": True}, "lora_bias"),
    ({"target_parameters": ["experts.down_proj"]}, "target_parameters"),
    ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
    ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication"),
    ({"alora_invocation_tokens": [5]}, "alora_invocation_tokens"),
    ({"init_lora_weights": "pissa_niter_16"}, "init_lora_weights is pissa_niter_16, which changes the base's weights"),
    ({"init_lora_weights": "olora"}, "path_initial_model_for_weight_conversion"),
    ({"init_lora_weights": "loftq"}, "init_lora_weights is loftq"),
    ({"kasa_config": {"beta": 1}}, "kasa_config is set, and what it does to the weights is not known here"),
    ({"use_what_comes_next": True}, "use_what_comes_next is set"),
    ({"r": 0}, "the ranks disagree or are none, 4 in lora_A [4, 6], 4 in lora_B [8, 4], 0 in"),
    ({"r": "four"}, "r is four, not a number"),
    ({"r": True}, "r is True, not a number"),
    ({"lora_alpha": None}, "lora_alpha is None, not a number"),
    ({"lora_alpha": 10**400}, "lora_alpha is 1000"),
    ({"alpha_pattern": {"n": [1]}}, "alpha_pattern of n is [1], not a number"),
    ({"bias": "some"}, "bias is some, which is not one of none, lora_only, all"),
    ({"alpha_pattern": {"(": 1}}, "alpha_pattern: ( is not a regular expression"),
    ({"alpha_pattern": {"(?i)m": 1}}, "alpha_pattern: (?i)m is not a regular expression"),
    ({"rank_pattern": {"m{99999999999}": 1}}, "is not a regular expression"),
    ({"rank_pattern": {"(" * 5000 + ")" * 5000: 1}}, "is not a regular expression"),
    ({"rank_pattern": [1]}, "rank_pattern is not a table of numbers"),
    ({"r": 8}, "the ranks disagree or are none, 4 in lora_A [4, 6], 4 in lora_B [8, 4], 8 in adapter_config.json"),
]


@pytest.mark.parametrize(("settings", "words"), SETTINGS, ids=[words[:30] for _, words in SETTINGS])
def test_settings_that_are_refused(settings: dict[str, Any], words: str, write_adapter: Callable[..., Path]) -> None:
    with pytest.raises(CheckpointError) as caught:
        Adapter.open(write_adapter("a", FACTORS, **settings))
    assert words in str(caught.value)


TENSORS: list[tuple[dict[str, torch.Tensor], str]] = [
    ({}, "holds no tensor"),
    ({"m.lora_A.weight": torch.ones(4, 6)}, "m has lora_A, where lora_A and lora_B make an update"),
    (
        FACTORS | {"m.lora_B.weight": torch.ones(8, 3)},
        "the ranks disagree or are none, 4 in lora_A [4, 6], 3 in lora_B [8, 3]",
    ),
    (FACTORS | {"m.lora_A.weight": torch.ones(4, 6, 3, 3)}, "lora_A has shape [4, 6, 3, 3]; only matrices"),
    (FACTORS | {"m.lora_A.weight": torch.ones(4, 6).int()}, "lora_A is I32, which is no float type"),
    (
        FACTORS | {"m.lora_magnitude_vector": torch.ones(8)},
        "m.lora_magnitude_vector is not a factor of a plain LoRA (DoRA",
    ),
    (FACTORS | {"m.lora_B.bias": torch.ones(8)}, "m.lora_B.bias is not a factor of a plain LoRA"),
    (
        {"m.lora_A.one.weight": torch.ones(4, 6), "m.lora_A.two.weight": torch.ones(4, 6)},
        "are both lora_A of one module; save the adapters one by one",
    ),
]


@pytest.mark.parametrize(("tensors", "words"), TENSORS, ids=[words[:30] for _, words in TENSORS])
def test_tensors_that_are_refused(
    tensors: dict[str, torch.Tensor], words: str, write_adapter: Callable[..., Path]
) -> None:
    with pytest.raises(CheckpointError) as caught:
        Adapter.open(write_adapter("a", tensors))
    assert words in str(caught.value)


def test_real_dora_is_refused(causal_model: Callable[..., Path], lora: Callable[..., Path]) -> None:
    adapter = lora(causal_model("base"), "dora", target_modules=["q_proj"], use_dora=True)
    with pytest.raises(CheckpointError, match="is DoRA"):
        Adapter.open(adapter)
    # An adapter whose settings do not tell still has the magnitudes.
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "use_dora": False}))
    with pytest.raises(CheckpointError, match="lora_magnitude_vector is not a factor of a plain LoRA"):
        Adapter.open(adapter)


def test_files_that_are_refused(write_adapter: Callable[..., Path]) -> None:
    folder = write_adapter("a", FACTORS)
    weights = folder / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match="adapter_model.safetensors: truncated"):
        Adapter.open(folder)
    weights.unlink()
    with pytest.raises(CheckpointError, match="adapter_model.safetensors: no such file"):
        Adapter.open(folder)
    (folder / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="only adapter_model.bin; pickles are not read"):
        Adapter.open(folder)
    weights.write_bytes(whole.replace(b"base_model.model.m", b"some_model.model.m"))
    with pytest.raises(CheckpointError, match="its name does not begin with base_model.model."):
        Adapter.open(folder)
    (folder / "adapter_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="adapter_config.json: the file is not a JSON object"):
        Adapter.open(folder)
