"""The statistics of a step, from their counts and sums."""

from llm_expo.weights.tally import Tally


def test_shares() -> None:
    tally = Tally(elements=3, differing=2, swallowed=1, along=0.5, squared=5.0)
    assert (tally.share_differing, tally.share_swallowed, tally.realised_alpha) == (2 / 3, 0.5, 0.1)
    assert tally + Tally(1, 1, 1, 1.0, 1.0) == Tally(4, 3, 2, 1.5, 6.0)


def test_nothing_to_measure() -> None:
    assert (Tally().share_differing, Tally().share_swallowed, Tally().realised_alpha) == (None, None, None)
    assert Tally(elements=2).share_swallowed is None
