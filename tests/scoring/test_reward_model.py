"""Reward models on a tiny random Llama with one label."""

import json
import resource
import weakref
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

from llm_expo.errors import ScorerError
from llm_expo.scoring import scorer_from
from llm_expo.scoring.reward_model import RewardModelScorer
from llm_expo.testing import WORDS


@pytest.fixture
def make(pair, tmp_path):
    """make(**settings) -> the folder of a random reward model in bfloat16."""

    def save(**settings):
        tokenizer = AutoTokenizer.from_pretrained(pair[0])
        torch.manual_seed(3)
        sizes = {"hidden_size": 16, "intermediate_size": 32, "max_position_embeddings": 64, **settings}
        config = LlamaConfig(
            vocab_size=len(tokenizer), num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, num_labels=1,
            pad_token_id=0, eos_token_id=1, **sizes,
        )  # fmt: skip
        model = LlamaForSequenceClassification(config)
        for parameter in model.parameters():
            parameter.data += 0.5 * torch.randn_like(parameter)
        folder = tmp_path / "rm"
        model.to(torch.bfloat16).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return save


@pytest.fixture
def reward_model(make):
    return make()


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
    told = []
    scores = scorer.score(conversations(20), lambda *so_far: told.append(so_far))
    assert told[-1] == (20, 20)
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


def test_the_score_is_float32_whatever_the_weights_are(reward_model):
    exact = torch.tensor(list(by_hand(reward_model)))
    scorer = RewardModelScorer(str(reward_model), device="cpu", dtype=torch.bfloat16)
    scores = torch.tensor(scorer.score(conversations(20)))
    assert (scores - exact).abs().mean() < 0.05 * exact.std()
    assert not torch.equal(scores, scores.to(torch.bfloat16).float())


def test_batches_are_of_like_length_and_what_does_not_fit_is_halved(reward_model, monkeypatch, caplog):
    scorer = RewardModelScorer(str(reward_model), device="cpu")
    exact = scorer.score(conversations(20))
    shapes = []
    forward = scorer._model.forward

    def on_a_small_device(input_ids, **inputs):
        shapes.append(tuple(input_ids.shape))
        if input_ids.numel() > 32:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(input_ids, **inputs)

    monkeypatch.setattr(scorer._model, "forward", on_a_small_device)
    assert scorer.score(conversations(20)) == pytest.approx(exact, abs=1e-5)
    longest = 12
    assert shapes[:5] == [(20, longest), (10, longest), (5, longest), (2, longest), (2, longest)]
    assert "out of memory at 20 conversations of up to 12 tokens; going on with 10 at once" in caplog.text
    lengths = [length for _, length in shapes[4:]]
    assert lengths == sorted(lengths, reverse=True) and max(rows for rows, _ in shapes[4:]) > 2
    shapes.clear()
    scorer.score(conversations(20))
    assert shapes[0] == (2, longest)  # what it found it remembers


def test_what_does_not_fit_even_alone(reward_model, monkeypatch):
    scorer = RewardModelScorer(str(reward_model), device="cpu")

    def full(**inputs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(scorer._model, "forward", full)
    with pytest.raises(ScorerError, match="of 12 tokens does not fit into the memory of cpu, even alone"):
        scorer.score(conversations(20))


def test_under_a_real_cap_on_memory(make, caplog):
    scorer = RewardModelScorer(str(make(intermediate_size=4096)), device="cpu")
    many = [each for each in conversations(6) for _ in range(64)]
    exact = scorer.score(conversations(6))
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    unlimited = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (in_use + 130 * 2**20, unlimited[1]))
    try:
        scores = scorer.score(many)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, unlimited)
    assert "out of memory at 341 conversations" in caplog.text
    assert scores == pytest.approx([value for value in exact for _ in range(64)], rel=1e-4)


def test_a_model_that_needs_code_of_its_own(reward_model):
    config = json.loads((reward_model / "config.json").read_text())
    config |= {"model_type": "of_its_own", "auto_map": {"AutoConfig": "configuration.Own"}}
    (reward_model / "config.json").write_text(json.dumps(config))
    (reward_model / "configuration.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(ScorerError, match="needs Python code that comes with it; read it, and let it run with --trust"):
        RewardModelScorer(str(reward_model))


def test_at_rest_it_holds_no_model_and_scores_the_same_afterwards(reward_model):
    scorer = RewardModelScorer(str(reward_model), device="cpu")
    scores = scorer.score(conversations(4))
    held = weakref.ref(scorer._model)
    scorer.rest()
    assert held() is None
    assert scorer.score(conversations(4)) == scores
