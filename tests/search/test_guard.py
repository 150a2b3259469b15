import dataclasses
import math
import random
from collections.abc import Callable, Sequence

import pytest

from llm_expo.generation import Reply
from llm_expo.search.guard import (
    AT_CONFIRMATION,
    FEWEST,
    Calibration,
    Observed,
    astray,
    calibrate,
    examine,
    fluent,
    judge,
    lengthening,
    words,
)
from llm_expo.search.symptoms import Symptom

END, USER = 1, 2
SPECIAL = {END: "<|end|>", USER: "<|user|>"}
PROMPTS = tuple(f"p{number}" for number in range(64))


def prose(rng: random.Random, length: int = 60) -> list[int]:
    """Token ids with the frequencies of a natural text (Zipf's law), above those of special tokens."""
    return [10 + min(int(rng.paretovariate(0.9)), 5000) for _ in range(length)]


def reply(tokens: Sequence[int], ends: bool = True) -> Reply:
    return Reply(" ".join(f"word{token}" for token in tokens), (*tokens, END) if ends else tuple(tokens), not ends)


def observed(
    seed: int,
    make: Callable[[random.Random], Reply] = lambda rng: reply(prose(rng)),
    log_probability: float = -1.1,
    recall: float | None = None,
    prompts: Sequence[str] = PROMPTS,
) -> Observed:
    """Replies by `make`, their log-probabilities spread by 0.3; theta1's under this alpha, where recall is given."""
    rng, spread, own = (random.Random(f"{seed} {what}") for what in ("replies", "spread", 0))
    return Observed(
        {prompt: make(rng) for prompt in prompts},
        {prompt: rng.gauss(log_probability, 0.3) for prompt in prompts},
        {} if recall is None else {prompt: own.gauss(recall, 0.3) + spread.gauss(0, 0.03) for prompt in prompts},
    )


def first(alpha: Observed, count: int) -> Observed:
    return dataclasses.replace(alpha, replies={prompt: alpha.replies[prompt] for prompt in PROMPTS[:count]})


def without_log_probabilities(alpha: Observed) -> Observed:
    return Observed(alpha.replies)


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return calibrate(observed(0), observed(1, log_probability=-1.2, recall=-1.0), SPECIAL)


def loop(rng: random.Random) -> Reply:
    return reply((prose(rng, 5) * 12), ends=False)


def late_loop(rng: random.Random) -> Reply:
    return reply(prose(rng, 30) + prose(rng, 3) * 40, ends=False)


def same_opening(rng: random.Random) -> Reply:
    return reply([11, 12, 13, 14, *prose(rng, 56)])


def same_start(rng: random.Random) -> Reply:
    return reply([*range(11, 40), *prose(rng, 31)])


def empty(rng: random.Random) -> Reply:
    return Reply("", (END,), False)


def speaks_for_the_user(rng: random.Random) -> Reply:
    return reply([*prose(rng, 30), USER, *prose(rng, 30)] if rng.random() < 0.5 else prose(rng))


def spells_a_special_token(rng: random.Random) -> Reply:
    plain = reply(prose(rng))
    return dataclasses.replace(plain, text=plain.text + "<|user|> And now?") if rng.random() < 0.5 else plain


def never_ends(rng: random.Random) -> Reply:
    return reply(prose(rng, 100), ends=False)


DEGENERATE = {
    Symptom.REPETITION: (loop, late_loop),
    Symptom.OPENINGS: (same_opening, empty),
    Symptom.NGRAMS: (same_start,),
    Symptom.SPECIAL: (speaks_for_the_user, spells_a_special_token),
    Symptom.ENDED: (never_ends,),
}


@pytest.mark.parametrize(
    ("symptom", "make"), [(symptom, make) for symptom, makes in DEGENERATE.items() for make in makes]
)
def test_degenerate_replies(calibration, symptom, make):
    """From the text alone, with half of the replies."""
    objection = judge(first(without_log_probabilities(observed(2, make)), 32), calibration)
    assert objection is not None and symptom in [finding.symptom for finding in objection.findings]
    assert all(finding.symptom in str(objection) or words(finding) in str(objection) for finding in objection.findings)


def test_a_loop_is_seen_within_the_first_replies(calibration):
    objection = judge(first(without_log_probabilities(observed(2, loop)), FEWEST), calibration)
    assert Symptom.REPETITION in [finding.symptom for finding in objection.findings]
    assert judge(first(without_log_probabilities(observed(2, loop)), FEWEST - 1), calibration) is None


def test_gibberish_is_seen_by_its_log_probability(calibration):
    """Fragments are diverse again: only theta0 finds them odd. Eight replies are enough for what is far off."""
    objection = judge(first(observed(2, log_probability=-4.1), FEWEST), calibration)
    assert [finding.symptom for finding in objection.findings] == [Symptom.LOG_PROBABILITY]
    assert judge(observed(2, log_probability=-1.6), calibration) is None


def test_forgetting_is_seen_before_anything_is_generated(calibration):
    assert judge(Observed({}, {}, observed(2, recall=-1.3).recall), calibration) is None
    objection = judge(Observed({}, {}, observed(2, recall=-2.5).recall), calibration)
    assert objection.symptom is Symptom.RECALL
    assert str(objection).startswith("log-probability of theta1's replies -2.5")


def test_an_objection_names_its_figures(calibration):
    text = str(
        judge(observed(2, lambda rng: reply([11, 12, 13, 14, *prose(rng, 56)]), log_probability=-4), calibration)
    )
    assert text.startswith("log-probability under theta0 -3.98 nats a token (theta1: -1.13, limit -1.63")
    assert text.endswith("; also distinct openings")
    alike = judge(without_log_probabilities(observed(2, same_opening)), calibration)
    assert str(alike).startswith("2 % of openings are distinct (theta1: 94 %, limit 47 %)")


def test_what_theta1_does_is_never_objected_to():
    """Symptoms that theta1 has itself: its own replies loop, open alike, hold special tokens and never end."""

    def broken(rng: random.Random) -> Reply:
        return reply([11, 12, 13, 14, USER, *prose(rng, 3) * 20], ends=False)

    calibration = calibrate(observed(0), observed(1, broken, log_probability=-4), SPECIAL)
    for seed in range(2, 12):
        assert judge(observed(seed, broken, log_probability=-4), calibration) is None
        assert judge(observed(seed, broken, log_probability=-4), calibration, AT_CONFIRMATION) is None


@pytest.mark.parametrize("make", [loop, same_opening, never_ends, speaks_for_the_user])
def test_theta0_is_not_objected_to_where_training_mended_it(make):
    theta0, theta1 = observed(0, make, log_probability=-0.5), observed(1)
    assert judge(theta0, calibrate(theta0, theta1, SPECIAL)) is None


def test_as_much_again_as_training_did_is_no_collapse():
    """Training makes a third of the replies open alike; as many more are still within what it did."""

    def partly(share: float) -> Callable[[random.Random], Reply]:
        return lambda rng: same_opening(rng) if rng.random() < share else reply(prose(rng))

    theta0, theta1, alpha = observed(0), observed(1, partly(0.35)), observed(2, partly(0.65))
    assert judge(alpha, calibrate(theta0, theta1)) is None
    assert judge(observed(2, partly(1.0)), calibrate(theta0, theta1)) is not None


def test_longer_replies_are_no_collapse(calibration):
    """Six times as long, some cut off: the first thing that extrapolation changes."""

    def long(rng: random.Random) -> Reply:
        return reply(prose(rng, 400), ends=rng.random() < 0.6)

    alpha = without_log_probabilities(observed(2, long))
    assert judge(alpha, calibration, AT_CONFIRMATION) is None
    seen = lengthening(alpha, calibration.theta1)
    assert (round(seen.tokens), round(seen.theta1), seen.theta1_truncated) == (401, 61, 0)
    assert seen.difference.low > 300 and 0.2 < seen.truncated < 0.6


def test_a_limit_that_cuts_theta1_off_says_nothing_of_ends():
    def cut(share: float) -> Callable[[random.Random], Reply]:
        return lambda rng: reply(prose(rng), ends=rng.random() >= share)

    assert judge(observed(2, never_ends), calibrate(observed(0, cut(0.6)), observed(1, cut(0.6)))) is None
    objection = judge(observed(2, never_ends), calibrate(observed(0, cut(0.2)), observed(1, cut(0.2))))
    assert objection.symptom is Symptom.ENDED
    assert str(objection).startswith("0 % of replies end within the token limit (theta1: ")


def test_what_is_missing_is_not_looked_at(calibration):
    short = observed(2, lambda rng: Reply("Yes.", (5, END), False))
    found = {finding.symptom for finding in examine(without_log_probabilities(short), calibration)}
    assert found == {Symptom.OPENINGS, Symptom.REPETITION, Symptom.SPECIAL, Symptom.ENDED}
    assert examine(Observed({}), calibration) == ()
    strangers = observed(3, prompts=("elsewhere", "nowhere"))
    assert examine(strangers, calibration) == ()


def test_theta0_may_be_missing():
    calibration = calibrate(Observed({}), observed(1))
    assert judge(observed(2), calibration) is None
    assert judge(observed(2, loop), calibration) is not None


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_log_probabilities_that_are_no_numbers(calibration, value):
    broken = dataclasses.replace(observed(2), log_probabilities={**dict.fromkeys(PROMPTS, -1.2), PROMPTS[5]: value})
    objection = judge(broken, calibration)
    assert objection.symptom is Symptom.LOG_PROBABILITY
    assert math.isinf(objection.findings[0].worse.low)
    alphas = {0.5: observed(3), 1.0: broken}
    assert fluent(alphas, calibration) == {0.5}
    assert astray(alphas, calibration) == {1.0}


def test_fluent(calibration):
    alphas = {
        0.1: observed(2),
        1.0: observed(3, log_probability=-1.35),
        2.0: observed(4, log_probability=-1.7),  # within the guard's limit, but more than half of it away
        3.0: observed(5, same_opening),
        4.0: without_log_probabilities(observed(6)),
    }
    assert fluent(alphas, calibration) == {0.1, 1.0}
    assert judge(alphas[2.0], calibration) is None


def test_neighbours_tell_whether_an_alpha_is_fluent(calibration):
    unlucky = {1.0: observed(3, log_probability=-1.55, prompts=PROMPTS[:FEWEST])}
    assert not fluent(unlucky, calibration)
    around = {alpha: observed(seed, log_probability=-1.25) for seed, alpha in enumerate((0.5, 0.7, 1.5, 2.0), 4)}
    assert fluent(around | unlucky, calibration) == {*around, 1.0}


def test_all_of_the_way_from_theta0_counts():
    """However deep below theta0's best an alpha lies."""
    calibration = calibrate(observed(0, log_probability=-1.0), observed(1, log_probability=-4.0))
    alphas = {0.5: observed(2, log_probability=-5.0), 1.0: observed(3, log_probability=-6.0)}
    assert fluent(alphas, calibration) == {0.5}
    assert astray(alphas, calibration) == {1.0}


def alarms(pick: Callable[[random.Random], tuple[Observed, Observed, Observed]], tries: int) -> int:
    """How often an alpha is objected to in five looks at more and more of its replies, or at the confirmation."""
    found = 0
    for seed in range(tries):
        theta0, theta1, alpha = pick(random.Random(seed))
        calibration, prompts = calibrate(theta0, theta1, SPECIAL), list(alpha.replies)
        looks = [Observed({prompt: alpha.replies[prompt] for prompt in prompts[:n]}) for n in (8, 16, 24, 32, 48)]
        found += any(judge(look, calibration) is not None for look in looks)
        found += judge(alpha, calibration, AT_CONFIRMATION) is not None
    return found


def test_no_false_alarms_among_equals():
    """Three models that are one, with 16 replies or more to calibrate on."""

    def pick(rng: random.Random) -> tuple[Observed, Observed, Observed]:
        prompts, seed = PROMPTS[: rng.choice((16, 24, 48))], rng.randrange(10**6)

        def mixed(rng: random.Random) -> Reply:
            make = rng.choices((loop, same_opening, speaks_for_the_user, never_ends, None), (5, 10, 2, 20, 63))[0]
            return reply(prose(rng, rng.randrange(5, 90))) if make is None else make(rng)

        a, b, c = (observed(seed + more, mixed, prompts=prompts) for more in range(3))
        return a, b, c

    assert alarms(pick, 60) == 0


def test_astray_is_clearly_less_than_fluent(calibration):
    """Half of the distance, which is at least half a nat."""
    limit = -1.2 - 0.5 * calibration.distances[Symptom.LOG_PROBABILITY]
    alphas = {1.0: observed(2, log_probability=limit + 0.02)}
    assert not astray(alphas, calibration)
    alphas = {1.0: observed(2, log_probability=limit - 0.3)}
    assert astray(alphas, calibration) == {1.0}
    assert not astray(alphas, calibration, collapsed=[1.0])
    assert not astray({1.0: first(alphas[1.0], FEWEST - 1)}, calibration)
    assert astray({1.0: observed(2, same_start)}, calibration)
    assert not astray({1.0: observed(2, loop)}, calibration)  # that is for the guard to say
