from llm_expo.report.words import decided
from llm_expo.search.verdict import Confirmed, decide

THETA1 = Confirmed([0.0, 2.0] * 20, [50.0] * 40, {"other": [0.0] * 40})


def choice(gain: float, tokens: float = 50.0, other: float = 1.0) -> Confirmed:
    """Better by `gain` give or take a little, and longer on every other prompt."""
    rewards = [reward + gain + (place % 3 - 1) / 10 for place, reward in enumerate(THETA1.rewards)]
    return Confirmed(rewards, [50.0, tokens] * 20, {"other": [other + place % 2 for place in range(40)]})


def test_ship():
    assert decided(decide(0.5, choice(1.0, 60.0), THETA1)) == [
        "SHIP: better than theta1.",
        "Reward: alpha 0.5 - theta1 = +0.997 (90 % interval +0.975 to +1.020), on 40 prompts that the search "
        "never saw.",
        "other: +1.500 (90 % interval +1.365 to +1.635).",
        "Length: 55 tokens, theta1's 50 (+10 %); longer by +5.000 (90 % interval +3.651 to +6.349).",
        "Reward at equal length: +1.000 (90 % interval +0.967 to +1.033) by regression; "
        "where both replies are about equally long, 20 prompts: +1.000 (90 % interval +0.967 to +1.033).",
        "Use the model.",
    ]


def test_theta1_itself():
    assert decided(decide(0, THETA1, THETA1)) == [
        "NO GAIN: no alpha that may be chosen is likely to do better than theta1.",
        "Keep theta1.",
    ]


def test_every_verdict_says_why():
    assert decided(decide(4, choice(1.0), THETA1, objection="it loops"))[0] == (
        "COLLAPSE: it loops; the reward was gamed: it rose."
    )
    assert decided(decide(4, choice(-1.0), THETA1, objection="it loops"))[0] == "COLLAPSE: it loops."
    assert decided(decide(1, choice(-1.0), THETA1))[0] == (
        "NO GAIN: a gain of 0.101, the least that matters, is out of reach."
    )
    assert decided(decide(1, choice(0.01), THETA1, min_gain=0.02))[0] == (
        "UNDERPOWERED: neither a gain nor that there is none of 0.02 is shown."
    )
    assert decided(decide(1, choice(1.0, other=-1.0), THETA1))[0].startswith("SCORERS DISAGREE: better than theta1 for")
    alone = choice(0.0, 60.0)
    alone = Confirmed([reward + place % 2 for place, reward in enumerate(alone.rewards)], alone.tokens)
    assert decided(decide(1, alone, THETA1))[0] == "GAIN IS LENGTH: better than theta1, but not shown at equal length."
