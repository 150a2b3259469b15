"""Reward models on a tiny random Llama with one label."""

import json

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

from llm_expo.errors import ScorerError
from llm_expo.scoring import scorer_from
from llm_expo.scoring.reward_model import RewardModelScorer
from llm_expo.testing import WORDS


@pytest.fixture
def reward_model(pair, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(pair[0])
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, num_labels=1, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    model = LlamaForSequenceClassification(config)
    for parameter in model.parameters():
        parameter.data += 0.5 * torch.randn_like(parameter)
    folder = tmp_path / "rm"
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def conversations(n):
    return [
        [
            {"role": "user", "content": "the cat"},
            {"role": "assistant", "content": " ".join(WORDS[(i * 5 + k) % len(WORDS)] for k in range(1 + i % 6))},
        ]
        for i in range(n)
    ]


def by_hand(folder):
    """One conversation at a time, without padding: what the score means."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for conversation in conversations(20):
        text = tokenizer.apply_chat_template(conversation, tokenize=False)
        with torch.no_grad():
            yield float(model(torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])).logits)


def test_the_score_is_the_raw_logit_whatever_the_batch(reward_model):
    scorer = scorer_from(f"reward-model:{reward_model}", device="cpu")
    assert scorer.name == f"reward-model:{reward_model}"
    scores = scorer.score(conversations(20))
    assert scores == pytest.approx(list(by_hand(reward_model)), abs=1e-5)
    assert len(set(scores)) > 10


def test_padding_with_the_end_of_sequence_does_not_move_the_score(reward_model):
    config = json.loads((reward_model / "config.json").read_text())
    (reward_model / "config.json").write_text(json.dumps({**config, "pad_token_id": 1}))
    tokenizer = AutoTokenizer.from_pretrained(reward_model)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(reward_model)
    scorer = RewardModelScorer(str(reward_model), device="cpu")
    assert scorer.score(conversations(20)) == pytest.approx(list(by_hand(reward_model)), abs=1e-5)


def test_what_is_no_reward_model_is_refused(reward_model, pair, tmp_path):
    with pytest.raises(ScorerError, match="cannot be loaded"):
        RewardModelScorer(str(tmp_path / "absent"))
    with pytest.raises(ScorerError, match=r"its files lack score.weight: this is not a trained reward model"):
        RewardModelScorer(str(pair[0]))
    long = [[{"role": "user", "content": "sun " * 80}, {"role": "assistant", "content": "sea"}]]
    with pytest.raises(ScorerError, match="a conversation has 85 tokens; the model takes 64"):
        RewardModelScorer(str(reward_model), device="cpu").score(long)
    (reward_model / "chat_template.jinja").unlink()
    with pytest.raises(ScorerError, match="has no chat template"):
        RewardModelScorer(str(reward_model))


def test_several_labels_are_refused(reward_model):
    model = AutoModelForSequenceClassification.from_pretrained(reward_model)
    config = {**model.config.to_dict(), "id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1}}
    LlamaForSequenceClassification(LlamaConfig(**config)).save_pretrained(reward_model)
    with pytest.raises(ScorerError, match="has 2 labels; a reward model has one"):
        RewardModelScorer(str(reward_model))
