"""An adapter on its base, seen as a checkpoint: PEFT's own merging says what its tensors have to be."""

import json
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from reading import tensors_of
from safetensors.torch import load_file

from llm_expo.checkpoints import Checkpoint
from llm_expo.checkpoints.adapted import adapted
from llm_expo.checkpoints.adapter import Adapter
from llm_expo.checkpoints.calculated import LowRank
from llm_expo.checkpoints.reader import Buffer, Reader
from llm_expo.errors import CheckpointError, MismatchError


def merged_by_peft(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return dict(PeftModel.from_pretrained(model, str(adapter)).merge_and_unload().state_dict())


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {"target_modules": ["q_proj", "down_proj"], "lora_alpha": 12}),
    "rslora": ({}, {"target_modules": "all-linear", "use_rslora": True, "r": 3}),
    "patterns": (
        {},
        {
            "target_modules": ["q_proj", "k_proj", "up_proj"],
            "rank_pattern": {"k_proj": 2, r"layers\.1\.mlp\.up_proj": 7},
            "alpha_pattern": {"^model.layers.0.self_attn.q_proj": 5, "up_proj": 3.5},
        },
    ),
    "modules_to_save": ({}, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]}),
    "all biases": ({"attention_bias": True}, {"target_modules": ["q_proj"], "bias": "all"}),
    "their biases": ({"attention_bias": True}, {"target_modules": ["q_proj", "o_proj"], "bias": "lora_only"}),
    "embedding": ({}, {"target_modules": ["embed_tokens", "lm_head", "v_proj"]}),
    "one layer": ({}, {"target_modules": ["q_proj"], "layers_to_transform": [1]}),
    # attn.c_proj is square: only the settings tell which way it lies.
    "conv1d": ({"architecture": "gpt2"}, {"target_modules": ["c_attn", "c_proj", "c_fc"], "bias": "all"}),
    "bfloat16 base": ({"dtype": "bfloat16"}, {"target_modules": ["q_proj", "down_proj"]}),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_what_peft_merges(case: str, causal_model: Callable[..., Path], lora: Callable[..., Path]) -> None:
    model, settings = CASES[case]
    base = causal_model("base", **model)
    adapter = lora(base, "adapter", **settings)
    found = adapted(Checkpoint.open(base), Adapter.open(adapter))
    assert found.adapter is not None
    assert sum(isinstance(each, LowRank) for each in found.tensors.values()) == len(found.adapter.updates)
    wanted = merged_by_peft(base, adapter)
    got, before = tensors_of(found), load_file(base / "model.safetensors")
    changed = [name for name in got if not torch.equal(got[name], before[name].float())]
    assert changed
    for name, tensor in got.items():
        torch.testing.assert_close(tensor, wanted[name], rtol=1e-6, atol=1e-6)
        assert (name in changed) == (not torch.equal(wanted[name], before[name].float()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("transposed", [False, True])
def test_runs_and_threads_do_not_change_a_bit(
    dtype: torch.dtype, transposed: bool, save: Callable[..., Path], write_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    rows, columns, rank = 37, 700, 5
    generator = torch.Generator().manual_seed(0)
    weight, a, b = (
        torch.randn(shape, generator=generator).to(dtype) for shape in ((rows, columns), (rank, columns), (rows, rank))
    )
    base = save(tmp_path / "base", {"m.weight": weight.T.contiguous() if transposed else weight})
    adapter = write_adapter("adapter", {"m.lora_A.weight": a, "m.lora_B.weight": b}, r=rank, lora_alpha=10)
    checkpoint = adapted(Checkpoint.open(base), Adapter.open(adapter))
    whole = tensors_of(checkpoint)["m.weight"]
    exact = weight.double() + 2 * b.double() @ a.double()
    torch.testing.assert_close(whole.double(), exact.T if transposed else exact, rtol=1e-5, atol=1e-5)
    for run in (333, 701, 4096):
        assert torch.equal(tensors_of(checkpoint, run)["m.weight"], whole)
    with Reader(checkpoint.shards) as reader, ThreadPoolExecutor(4) as pool:
        source, half = checkpoint.tensors["m.weight"], rows * columns // 2

        def read(at: int) -> torch.Tensor:
            view, _ = reader.elements(source, at, half, Buffer(half * 8))
            return torch.frombuffer(bytearray(view), dtype=torch.float32)

        for at, part in zip(range(0, half, 2999), pool.map(read, range(0, half, 2999)), strict=True):
            assert torch.equal(part, whole.flatten()[at : at + half])


def test_names_may_differ_by_a_first_component(
    causal_model: Callable[..., Path], lora: Callable[..., Path], save: Callable[..., Path], tmp_path: Path
) -> None:
    base = causal_model("base", architecture="gpt2")
    adapter = lora(base, "adapter", target_modules=["c_attn"])
    tensors = load_file(base / "model.safetensors")
    config = json.loads((base / "config.json").read_text())
    # The hub's own gpt2 has its names without "transformer.".
    short = save(tmp_path / "short", {k.removeprefix("transformer."): v for k, v in tensors.items()}, config=config)
    got = tensors_of(adapted(Checkpoint.open(short), Adapter.open(adapter)))
    wanted = tensors_of(adapted(Checkpoint.open(base), Adapter.open(adapter)))
    assert {name: tensor.tolist() for name, tensor in got.items()} == {
        name.removeprefix("transformer."): tensor.tolist() for name, tensor in wanted.items()
    }


def test_tied_embeddings_that_are_trained_as_one(causal_model: Callable[..., Path], lora: Callable[..., Path]) -> None:
    base = causal_model("base", tie_word_embeddings=True)
    settings = {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapter = lora(base, "tied", **settings, ensure_weight_tying=True)
    found = adapted(Checkpoint.open(base), Adapter.open(adapter))
    saved = load_file(adapter / "adapter_model.safetensors")
    assert torch.equal(tensors_of(found)["model.embed_tokens.weight"], saved["base_model.model.lm_head.weight"])

    for name, more in (("one", {}), ("both", {"modules_to_save": ["embed_tokens", "lm_head"]})):
        half = lora(base, name, **{**settings, **more})
        with pytest.raises(CheckpointError, match="while the base .* ties its head to its embedding.*write an adapter"):
            adapted(Checkpoint.open(base), Adapter.open(half))


def test_what_does_not_fit_is_named_with_both_shapes(
    save: Callable[..., Path], write_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    base = save(
        tmp_path / "base",
        {"m.weight": torch.zeros(6, 8), "m.bias": torch.zeros(3), "i.weight": torch.zeros(2, 2).int()},
    )
    a, b = torch.zeros(2, 7), torch.zeros(6, 2)
    factors = {"m.lora_A.weight": a, "m.lora_B.weight": b, "gone.lora_A.weight": a, "gone.lora_B.weight": b}
    more = {
        "m.bias": torch.zeros(4),
        "lost": torch.zeros(1),
        "i.lora_A.weight": torch.zeros(2, 2),
        "i.lora_B.weight": torch.zeros(2, 2),
    }
    adapter = write_adapter("adapter", factors | more, r=2, base_model_name_or_path="org/base")
    with pytest.raises(MismatchError) as caught:
        adapted(Checkpoint.open(base), Adapter.open(adapter))
    for words in (
        "in 5 of 5 places",
        "m: shape [6, 8] in the base, the adapter is for [6, 7]",
        "gone: no such weight in the base",
        "i: I32 in the base, which is no float type to add to",
        "m.bias: shape [3] in the base, [4] in the adapter",
        "lost: no such tensor in the base",
        "(it names org/base)",
    ):
        assert words in str(caught.value)
