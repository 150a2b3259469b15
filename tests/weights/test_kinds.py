"""The names' kinds and layers, on models as transformers builds them, and on names as the hub's files have them."""

from collections.abc import Callable

import pytest
import torch
import transformers as t

from llm_expo.weights.kinds import Layer, kind_of, layer_of

SMALL = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
GROUPED = SMALL | {"num_key_value_heads": 2}
MIXED = GROUPED | {"num_experts_per_tok": 1}
STACKS = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
MODELS: dict[str, Callable[[], torch.nn.Module]] = {
    "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**GROUPED)),
    "qwen3": lambda: t.Qwen3ForCausalLM(t.Qwen3Config(**GROUPED, head_dim=8)),
    "gemma3": lambda: t.Gemma3ForCausalLM(t.Gemma3TextConfig(**GROUPED, head_dim=8)),
    "mixtral": lambda: t.MixtralForCausalLM(t.MixtralConfig(**MIXED, num_local_experts=2)),
    "qwen2_moe": lambda: t.Qwen2MoeForCausalLM(
        t.Qwen2MoeConfig(**MIXED, num_experts=2, moe_intermediate_size=8, shared_expert_intermediate_size=8)
    ),
    "gpt2": lambda: t.GPT2LMHeadModel(t.GPT2Config(vocab_size=32, n_embd=16, n_layer=2, n_head=2)),
    "gpt_neox": lambda: t.GPTNeoXForCausalLM(t.GPTNeoXConfig(**SMALL)),
    "phi": lambda: t.PhiForCausalLM(t.PhiConfig(**GROUPED)),
    "phi3": lambda: t.Phi3ForCausalLM(t.Phi3Config(**GROUPED, pad_token_id=0)),
    "opt": lambda: t.OPTForCausalLM(
        t.OPTConfig(vocab_size=32, hidden_size=16, ffn_dim=32, num_hidden_layers=2, num_attention_heads=2)
    ),
    "mpt": lambda: t.MptForCausalLM(t.MptConfig(vocab_size=32, d_model=16, n_layers=2, n_heads=2)),
    "t5": lambda: t.T5ForConditionalGeneration(
        t.T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, tie_word_embeddings=False)
    ),
    "bart": lambda: t.BartForConditionalGeneration(t.BartConfig(vocab_size=32, d_model=16, **STACKS)),
    "bert": lambda: t.BertForMaskedLM(t.BertConfig(**SMALL)),
}


@pytest.mark.parametrize("architecture", MODELS)
def test_every_tensor_of_a_real_model_has_its_kind(architecture: str) -> None:
    with torch.device("meta"):
        model = MODELS[architecture]()
    parameters = dict(model.state_dict())
    kinds = {name: kind_of(name) for name in parameters}
    assert {"embeddings", "attention", "MLP", "norms", "head"} <= set(kinds.values())
    # Two kinds by what the tensors are, not by how they are called. T5 embeds distances inside its attention, and
    # BART's constant bias is nobody's.
    modules = dict(model.named_modules())
    for name, kind in kinds.items():
        owner = type(modules[name.rpartition(".")[0]]).__name__
        assert (kind == "norms") == ("Norm" in owner), name
        assert (kind == "embeddings") == ("Embedding" in owner and "relative_attention_bias" not in name), name
        assert kind != "other" or name == "final_logits_bias", name
    layers = {layer_of(name) for name in parameters} - {None}
    assert {layer.number for layer in layers if layer} == {0, 1}
    assert len({layer.stack for layer in layers if layer}) == (2 if architecture in ("t5", "bart") else 1)
    # What is computed in a layer belongs to one, what is not does not.
    for name, kind in kinds.items():
        if kind != "norms":
            assert (layer_of(name) is not None) == (kind in ("attention", "MLP")), name


@pytest.mark.parametrize(
    ("name", "kind", "layer"),
    [
        ("model.layers.11.block_sparse_moe.experts.7.w1.weight", "MLP", Layer("model.layers", 11)),
        ("model.layers.3.block_sparse_moe.gate.weight", "MLP", Layer("model.layers", 3)),
        ("model.layers.3.mlp.experts.12.down_proj.weight", "MLP", Layer("model.layers", 3)),
        ("model.layers.3.self_attn.q_norm.weight", "norms", Layer("model.layers", 3)),
        ("model.layers.3.self_attn.rotary_emb.inv_freq", "attention", Layer("model.layers", 3)),
        ("model.vision_tower.encoder.layers.5.mlp.fc1.bias", "MLP", Layer("model.vision_tower.encoder.layers", 5)),
        ("decoder.block.2.layer.1.EncDecAttention.o.weight", "attention", Layer("decoder.block", 2)),
        ("h.0.attn.c_attn.weight", "attention", Layer("h", 0)),  # GPT-2 as it was first saved
        ("v_head.summary.weight", "head", None),  # TRL's value head
        ("score.weight", "head", None),
        ("backbone.layers.0.mixer.out_proj.weight", "other", Layer("backbone.layers", 0)),  # a state space
        ("something.else", "other", None),
        ("", "other", None),
    ],
)
def test_names_as_files_have_them(name: str, kind: str, layer: Layer | None) -> None:
    assert (kind_of(name), layer_of(name)) == (kind, layer)
