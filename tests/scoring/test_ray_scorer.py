"""The scorer in replicas, as far as it needs no cluster; tests/cluster has it on one."""

import random

import pytest

from llm_expo.errors import ScorerError
from llm_expo.scoring.ray_scorer import _made, chunked, ray_scorer_from


def test_chunks_hold_what_is_of_one_length():
    lengths = [random.Random(0).choice([0, 10, 3000, 40000]) for _ in range(5000)]
    chunks = chunked(lengths)
    assert sorted(place for chunk in chunks for place in chunk) == list(range(5000))
    in_order = [lengths[place] for chunk in chunks for place in chunk]
    assert in_order == sorted(lengths, reverse=True)
    for chunk in chunks:
        assert len(chunk) == 1 or lengths[chunk[0]] * len(chunk) <= 32768
    assert chunked([]) == []
    assert chunked([5, 5, 9]) == [[2, 0, 1]]


def test_replicas_are_of_reward_models(tmp_path):
    for spec in ("judge:gpt", "function:a:b", "reward-model:"):
        with pytest.raises(ScorerError, match=f"{spec}: replicas are of reward models only; write reward-model:PATH"):
            with ray_scorer_from(spec, replicas=2):
                pass
    with pytest.raises(ScorerError, match="0 replicas of reward-model:rm: there has to be at least one"):
        with ray_scorer_from("reward-model:rm", replicas=0):
            pass


def test_a_node_has_to_see_the_folder(tmp_path):
    with pytest.raises(ScorerError, match=r"^reward-model:.*/rm: is not there; it has to lie on storage that every"):
        _made(f"reward-model:{tmp_path}/rm", True, 1, "cpu", False)
