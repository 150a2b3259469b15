import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from llm_expo.errors import EngineError
from llm_expo.generation.noise import stream
from llm_expo.generation.sampling import Sampling, sample

PLAIN = {"presence_penalty": 0.0, "frequency_penalty": 0.0}


def draw(logits: torch.Tensor, sampling: Sampling, n: int, replies: torch.Tensor | None = None) -> torch.Tensor:
    """n independent draws from one row of logits."""
    replies = torch.zeros((1, 0), dtype=torch.int64) if replies is None else replies
    streams = torch.tensor([stream("draw", index) for index in range(n)])
    return sample(logits.repeat(n, 1), replies.expand(n, -1), streams, sampling)


def test_penalties_are_those_of_vllm():
    """Once if the token stands in the reply, and once more for each time that it stands there."""
    logits = torch.tensor([[1.0, 1.0, 1.0, 1.0]])
    replies = torch.tensor([[0, 0, 2]])
    sample(logits, replies, torch.tensor([0]), Sampling(temperature=0, presence_penalty=0.5, frequency_penalty=0.25))
    assert logits.tolist() == [[0.0, 1.0, 0.25, 1.0]]


def test_penalties_change_the_draw():
    logits = torch.tensor([[1.0, 0.9]])
    replies = torch.tensor([[0]])
    greedy = Sampling(temperature=0, presence_penalty=0.2, frequency_penalty=0)
    assert draw(logits.clone(), greedy, 1, replies).tolist() == [1]
    assert draw(logits.clone(), Sampling(temperature=0, **PLAIN), 1, replies).tolist() == [0]


@pytest.mark.parametrize("penalties", [(0.0, 0.0), (0.1, 0.1), (1.5, 0.7)])
@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(0.7, 50, 0.9), (1.0, 0, 0.9), (1.3, 5, 1.0), (0.5, 0, 1.0)]
)
def test_the_distribution_is_that_of_transformers_on_logits_with_vllms_penalties(temperature, top_k, top_p, penalties):
    """vLLM: logits -= frequency * count; logits -= presence * (count > 0); then temperature, top-k, top-p."""
    torch.manual_seed(1)
    plain = 2 * torch.randn(1, 200)
    replies = plain.topk(30).indices[:, [0, 0, 0, *range(0, 30, 2)]]
    count = replies[0].bincount(minlength=200)
    presence, frequency = penalties
    logits = plain - frequency * count - presence * (count > 0)
    expected = TemperatureLogitsWarper(temperature)(None, logits.clone()) if temperature != 1 else logits.clone()
    expected = TopKLogitsWarper(top_k)(None, expected) if top_k else expected
    expected = TopPLogitsWarper(top_p)(None, expected) if top_p < 1 else expected
    probabilities = expected.softmax(-1)[0]
    n = 20_000
    counts = draw(plain, Sampling(temperature, top_k, top_p, presence, frequency), n, replies).bincount(minlength=200)
    assert (counts[probabilities == 0] == 0).all()
    kept = probabilities > 0
    spread = (n * probabilities * (1 - probabilities)).sqrt()
    assert ((counts - n * probabilities).abs()[kept] < 5 * spread[kept] + 1).all()


def test_ties_with_the_last_of_top_k_all_stay():
    logits = torch.tensor([[2.0, 1.0, 1.0, 1.0, 0.0], [4.0, 3.0, 2.0, 1.0, 0.0]])
    streams = torch.tensor([[stream(index), stream(-index)] for index in range(400)])
    sampling = Sampling(temperature=1, top_k=2, top_p=1, **PLAIN)
    drawn = torch.stack(
        [sample(logits.clone(), torch.zeros((2, 0), dtype=torch.int64), row, sampling) for row in streams]
    )
    assert set(drawn[:, 0].tolist()) == {0, 1, 2, 3}
    assert set(drawn[:, 1].tolist()) == {0, 1}


def test_top_p_always_leaves_one():
    assert draw(torch.tensor([[0.0, 5.0, 0.0]]), Sampling(top_p=1e-9, **PLAIN), 50).unique().tolist() == [1]


@pytest.mark.parametrize(
    ("setting", "value"),
    [("temperature", -0.1), ("top_k", -1), ("top_p", 0), ("top_p", 1.1), ("presence_penalty", 3), ("max_tokens", 0)],
)
def test_impossible_settings_are_named(setting, value):
    with pytest.raises(EngineError, match=f"{setting} is {value}"):
        Sampling(**{setting: value})


def test_nan_settings_are_refused():
    with pytest.raises(EngineError, match="temperature is nan"):
        Sampling(temperature=float("nan"))
