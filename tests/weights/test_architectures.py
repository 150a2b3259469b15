"""What `apply` writes is, to transformers, the model that the sum in memory is: tiny models of many architectures.

Everything that an architecture does to its files (tying, fusing experts, transposing) happens between the file and the
model, on all three sides alike; llm_expo knows no architecture.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from llm_expo.weights import apply

ALPHA = 0.5
SMALL: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ONE_HEAD_EACH = {key: value for key, value in SMALL.items() if key != "num_key_value_heads"}
HEADS = {"head_dim": 8, "query_pre_attn_scalar": 8}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8}
GPT2 = {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
T5 = {
    "vocab_size": 96,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}

# class, settings of its config, type of the weights, largest size of a file
ARCHITECTURES = [
    ("LlamaForCausalLM", SMALL, "bfloat16", "20KB"),
    ("LlamaForCausalLM", SMALL, "float32", "1GB"),
    ("Qwen2ForCausalLM", {**SMALL, "tie_word_embeddings": True}, "bfloat16", "1GB"),
    ("Qwen3ForCausalLM", {**SMALL, "head_dim": 8}, "bfloat16", "20KB"),
    ("MistralForCausalLM", SMALL, "float16", "1GB"),
    ("Gemma2ForCausalLM", {**SMALL, **HEADS}, "bfloat16", "20KB"),
    ("Gemma3ForCausalLM", {**SMALL, **HEADS}, "float32", "20KB"),
    ("MixtralForCausalLM", {**SMALL, "num_local_experts": 4}, "bfloat16", "20KB"),
    ("Qwen3MoeForCausalLM", {**SMALL, **EXPERTS}, "bfloat16", "1GB"),
    ("Qwen3MoeForCausalLM", {**SMALL, **EXPERTS}, "float32", "20KB"),
    ("GPTNeoXForCausalLM", ONE_HEAD_EACH, "float16", "20KB"),
    ("PhiForCausalLM", SMALL, "bfloat16", "1GB"),
    ("Phi3ForCausalLM", SMALL, "bfloat16", "20KB"),
    ("GPT2LMHeadModel", GPT2, "float32", "1GB"),
    ("T5ForConditionalGeneration", T5, "bfloat16", "20KB"),
    ("BertForMaskedLM", ONE_HEAD_EACH, "float32", "20KB"),
]


def save_pair(folder: Path, name: str, settings: dict[str, Any], dtype: str, largest: str) -> tuple[Path, Path]:
    import transformers

    kind = getattr(transformers, name)
    torch.manual_seed(0)
    model = kind(kind.config_class(**settings)).to(getattr(torch, dtype))
    sides = folder / "theta0", folder / "theta1"
    for side in sides:
        with torch.no_grad():
            # A parameter that two modules share is listed once. Larger than at the start, so that logits differ much.
            for parameter in model.parameters():
                parameter += (0.1 if side == sides[0] else 0.02) * torch.randn_like(parameter)
        model.save_pretrained(side, max_shard_size=largest)
    return sides


def load(name: str, folder: Path, dtype: str) -> torch.nn.Module:
    import transformers

    model, loading = getattr(transformers, name).from_pretrained(folder, dtype=dtype, output_loading_info=True)
    assert not any(loading.values()), f"missing, unexpected or mismatched: {loading}"
    return model.eval()


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    tokens = torch.arange(3, 19).view(2, 8)
    more = {"decoder_input_ids": tokens.flip(1)} if model.config.is_encoder_decoder else {}
    return model(input_ids=tokens, **more).logits


@torch.no_grad()
def summed(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    # alpha 0.5: the product is exact in float32, so this rounds as a fused multiply-add does.
    return (after.float() + ALPHA * (after.float() - before.float())).to(after.dtype)


@pytest.mark.parametrize(
    ("name", "settings", "dtype", "largest"),
    ARCHITECTURES,
    ids=[f"{name}-{dtype}{'-sharded' if largest != '1GB' else ''}" for name, _, dtype, largest in ARCHITECTURES],
)
def test_loaded_it_is_the_sum_in_memory(
    tmp_path: Path, name: str, settings: dict[str, Any], dtype: str, largest: str
) -> None:
    sides = save_pair(tmp_path, name, settings, dtype, largest)
    assert (sides[1] / "model.safetensors.index.json").exists() == (largest != "1GB")
    apply(*sides, ALPHA, tmp_path / "out")
    theta0, theta1, found = (load(name, folder, dtype) for folder in (*sides, tmp_path / "out"))

    before, after, made = (model.state_dict() for model in (theta0, theta1, found))
    assert made.keys() == after.keys()
    moved = 0
    for key, tensor in made.items():
        assert tensor.dtype == after[key].dtype
        if tensor.is_floating_point():
            assert torch.equal(tensor, summed(before[key], after[key])), key
            moved += not torch.equal(tensor, after[key])
    assert moved > len(made) // 2

    oracle = load(name, sides[1], dtype)
    with torch.no_grad():
        oracle.load_state_dict({key: summed(before[key], tensor) for key, tensor in after.items()})
    torch.testing.assert_close(logits(found), logits(oracle), rtol=0, atol=0)
    assert (logits(found).float() - logits(theta1).float()).abs().max() > 1e-3

    def tied(model: Any) -> bool:
        head = model.get_output_embeddings()
        return head is not None and head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()

    assert tied(found) == tied(theta1) == bool(theta1.config.tie_word_embeddings)
    stored = json.loads((tmp_path / "out" / "config.json").read_text())
    assert stored["architectures"] == [name]
