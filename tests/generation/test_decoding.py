"""Rows that leave the batch, and prompts that are read once, change nothing but what is computed."""

import functools

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    Mamba2Config,
    MistralConfig,
    MixtralConfig,
    PreTrainedModel,
    Qwen3NextConfig,
    RwkvConfig,
)

from llm_expo.generation import decoding
from llm_expo.generation.decoding import decode

SMALL = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
LLAMA_LIKE = {**SMALL, "intermediate_size": 32, "num_key_value_heads": 1, "head_dim": 8}
BY_ROW = {
    "mistral with a window of 5": MistralConfig(**LLAMA_LIKE, sliding_window=5),
    "gemma3, every other layer with a window": Gemma3TextConfig(
        **LLAMA_LIKE, sliding_window=5, layer_types=["sliding_attention", "full_attention"]
    ),
    "mixtral": MixtralConfig(**LLAMA_LIKE, num_local_experts=4),
    "gpt2, learnt positions": GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2),
    "gpt_neox": GPTNeoXConfig(**SMALL, intermediate_size=32),
    "bloom, positions from the mask": BloomConfig(vocab_size=40, hidden_size=16, n_layer=2, n_head=2),
}
WHOLE = {
    "mamba2, a recurrent state": Mamba2Config(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_heads=4, head_dim=8, state_size=8, n_groups=1
    ),
    "qwen3_next, attention and a recurrent state": Qwen3NextConfig(
        **LLAMA_LIKE,
        layer_types=["linear_attention", "full_attention"],
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
        linear_num_value_heads=2,
        linear_num_key_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
    ),
    "rwkv, no cache of transformers'": RwkvConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, attention_hidden_size=16, intermediate_size=32
    ),
}
# Of several lengths, two of them twice.
PROMPTS = [
    [5, 6, 7],
    [8],
    [5, 6, 7],
    [9, 10, 11, 12, 13, 14, 15],
    [8],
    [16, 17],
    [18, 19, 20, 21],
    [22, 23, 24, 25, 26],
]
STOPS = [1, 2, 3]


def model(config) -> PreTrainedModel:
    torch.manual_seed(3)
    made = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return made


class Drawn:
    """A draw that depends on the row's place and on nothing else but its logits; it notes who is asked."""

    def __init__(self) -> None:
        self.rows: list[list[int]] = []

    def __call__(self, logits: torch.Tensor, replies: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        self.rows.append(rows.tolist())
        assert logits.shape == (len(rows), 40)
        assert replies.shape == (len(rows), len(self.rows) - 1)
        generators = [torch.Generator().manual_seed(1000 * int(row) + replies.shape[1]) for row in rows]
        noise = torch.stack([torch.rand(40, generator=generator, dtype=torch.float64) for generator in generators])
        return (logits.log_softmax(-1) - (-noise.log()).log()).argmax(dim=-1)


def alone(which: PreTrainedModel) -> list[list[int]]:
    """Each prompt by itself, with a pass over the whole text for each token: no batch, no padding and no cache."""
    replies = []
    for row, prompt in enumerate(PROMPTS):
        draw, reply = Drawn(), []
        while not reply or (reply[-1] not in STOPS and len(reply) < 30):
            with torch.no_grad():
                logits = which(torch.tensor([[*prompt, *reply]]), use_cache=False).logits[:, -1]
            draw.rows = [[]] * len(reply)
            reply.append(int(draw(logits.float(), torch.tensor([reply]).long(), torch.tensor([row]))))
        replies.append(reply)
    return replies


@pytest.mark.parametrize("name", BY_ROW)
def test_rows_leave_as_they_end(name):
    which, draw = model(BY_ROW[name]), Drawn()
    replies = decode(which, PROMPTS, draw, STOPS, 30)
    assert replies == alone(which)
    assert len({len(reply) for reply in replies}) > 2
    assert draw.rows[0] == list(range(len(PROMPTS)))
    for step, rows in enumerate(draw.rows):
        assert rows == [row for row, reply in enumerate(replies) if len(reply) > step]


@pytest.mark.parametrize("name", WHOLE)
def test_a_model_with_another_state_keeps_its_rows(name):
    which, draw = model(WHOLE[name]), Drawn()
    replies = decode(which, PROMPTS, draw, STOPS, 30)
    assert [len(rows) for rows in draw.rows] == [len(PROMPTS)] * max(map(len, replies))
    for reply in replies:
        assert not set(reply[:-1]) & set(STOPS)
        assert reply[-1] in STOPS or len(reply) == 30


@pytest.mark.parametrize("stage", [0, 3, 1000])
@pytest.mark.parametrize("name", BY_ROW)
def test_prompts_are_read_in_stages(name, stage, monkeypatch):
    monkeypatch.setattr(decoding, "_STAGE", stage)
    which = model(BY_ROW[name])
    read = []
    forward = which.forward

    @functools.wraps(forward)  # `generate` looks at its arguments
    def noted(input_ids, **rest):
        read.append(tuple(input_ids.shape))
        return forward(input_ids, **rest)

    monkeypatch.setattr(which, "forward", noted)
    replies = decode(which, PROMPTS, Drawn(), STOPS, 2)
    monkeypatch.setattr(which, "forward", forward)
    assert replies == [reply[:2] for reply in alone(which)]
    stages = {
        0: [(1, 2), (2, 1), (3, 1), (4, 1), (5, 1), (6, 1)],
        3: [(1, 2), (3, 2), (6, 3)],
        1000: [(6, 7)],
    }
    assert read[: len(stages[stage])] == stages[stage]


@pytest.mark.parametrize("starts", [[0], [0, 0, 0], [0, 0, 5, 90, 90, 91], [0, *range(40, 70), 99]])
def test_stages_read_every_column_of_every_prompt_once(starts):
    stages = decoding._stages(starts, 100)
    assert [begin for _, begin, _ in stages] == [0, *(end for _, _, end in stages)][:-1]
    assert stages[-1][2] == 100
    assert stages[-1][0] == len(starts)
    for rows, _, end in stages:
        assert rows == sum(start < end for start in starts)
    computed = sum(rows * (end - begin) for rows, begin, end in stages) + 64 * len(stages)
    assert computed <= len(starts) * 100 + 64


def test_a_layer_of_a_derived_kind_may_hold_more(monkeypatch):
    which = model(BY_ROW["gpt_neox"])
    before = decode(which, PROMPTS, Drawn(), STOPS, 30)
    monkeypatch.setattr(decoding, "DynamicLayer", int)
    draw = Drawn()
    assert decode(which, PROMPTS, draw, STOPS, 30) == before
    assert {len(rows) for rows in draw.rows} == {len(PROMPTS)}
