"""The rounds of a search: what the strategy wants is generated, read, scored, and looked at by the guard.

A walk begins with nothing seen, whatever the study holds, and what the study holds is not made again: so a resumed
search goes the way of an uninterrupted one.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

from llm_expo.scoring import Comparer, Scorer
from llm_expo.search.choice import Rule
from llm_expo.search.events import Begun, Tried
from llm_expo.search.guard import FEWEST, Calibration, Objection, Observed, astray, calibrate, fluent, judge
from llm_expo.search.outcome import gain_over_theta1
from llm_expo.search.rounds import THETA0, THETA1, Round, Seen, Spent, Strategy
from llm_expo.search.study import Enrolled, Spending
from llm_expo.search.work import Work

CALIBRATION = 16
"""Search prompts that theta0 and theta1 answer first, or all if there are fewer, so that the guard knows how they talk.

Beside the budget, but for theta1's replies that the strategy asks for anyway. An alpha that lies farther out than any
that stands reads theta1's, before it replies itself: it may show that it has collapsed."""


@dataclass(frozen=True, slots=True)
class Walked:
    """The end of a walk: what it saw, what it asked for, and what the guard found."""

    seen: Seen
    rounds: tuple[Round, ...]
    calibration: Calibration
    observed: Mapping[float, Observed]
    objections: Mapping[float, Objection]


@dataclass(slots=True)
class _Way:
    """A walk so far. `count` says how many of the prompts each alpha was asked."""

    calibration: Calibration
    count: dict[float, int] = field(default_factory=dict)
    observed: dict[float, Observed] = field(default_factory=dict)
    objections: dict[float, Objection] = field(default_factory=dict)
    astray: set[float] = field(default_factory=set)
    """Those that were so once: an alpha that is left is not taken up again."""


def walk(work: Work, strategy: Strategy, scorer: Scorer | Comparer, rule: Rule) -> Walked:
    """Walk until the strategy has seen enough.

    rule: how the choice will be made. What it clearly cannot be is shown to the strategy as collapsed, and at its end
    all that it would not be: it may want to go on with the others.
    """
    prompts, to_confirm = work.study.enrolled("search"), len(work.study.enrolled("confirm"))
    rounds: list[Round] = []
    seen = Seen(tuple(each.prompt.id for each in prompts))
    strategy(seen)  # a budget that cannot do is told before anything is paid for
    way = _Way(calibrated(work, prompts[:CALIBRATION]))
    while (wanted := _next(strategy, seen, way, rule)) is not None:
        rounds.append(wanted)
        new = sum(max(count - way.count.get(alpha, 0), 0) for alpha, count in wanted.wanted.items())
        later = None if wanted.later is None else wanted.later + 3 * to_confirm
        work.watch(Begun(len(rounds), wanted, new, later))
        _run(work, scorer, prompts, wanted, way)
        if rule == "fluent":
            way.astray |= astray(way.observed, way.calibration, way.objections) - {THETA0, THETA1}
        before, seen = seen, _seen(work, scorer, prompts, way)
        if seen == before:  # it asks for what the guard does not allow, and would do so for ever
            break
    return Walked(seen, tuple(rounds), way.calibration, way.observed, way.objections)


def calibrated(work: Work, prompts: Sequence[Enrolled]) -> Calibration:
    """The guard's measure of theta0 and theta1, from their replies to some of the search prompts."""
    theta1 = work.answered(THETA1, prompts, "search")
    recall = work.read(THETA1, {THETA1: prompts}, "search")[THETA1]
    theta0 = work.answered(THETA0, prompts, "search")
    read = work.read(THETA0, {THETA1: prompts, THETA0: prompts}, "search")
    return calibrate(Observed(theta0, read[THETA0]), Observed(theta1, read[THETA1], recall), work.engine.special_tokens)


def _run(work: Work, scorer: Scorer | Comparer, prompts: Sequence[Enrolled], wanted: Round, way: _Way) -> None:
    counts = dict(wanted.wanted)
    if isinstance(scorer, Comparer):  # what it holds against theta1's replies needs these
        counts[THETA1] = max(counts.values())
    asked = {}
    for alpha in sorted(counts, key=lambda alpha: (abs(alpha), alpha)):  # theta1 first: the others are held against it
        new = prompts[way.count.get(alpha, 0) : counts[alpha]]
        if not new or any(_lies_beyond(alpha, collapsed) for collapsed in way.objections if collapsed in counts):
            continue
        asked[alpha] = _visit(work, alpha, new, prompts[:CALIBRATION], way)
        way.count[alpha] = way.count.get(alpha, 0) + len(asked[alpha])
    for alpha, read in work.read(THETA0, asked, "search").items():
        _look(way, alpha, log_probabilities=read)
    work.score(scorer, asked, "search")
    for alpha in asked:
        work.watch(_tried(work, scorer, prompts, alpha, way))


def _lies_beyond(alpha: float, collapsed: float) -> bool:
    return alpha * collapsed > 0 and abs(alpha) >= abs(collapsed)


def _visit(
    work: Work, alpha: float, new: Sequence[Enrolled], known: Sequence[Enrolled], way: _Way
) -> Sequence[Enrolled]:
    """Have theta(alpha) answer new prompts, until the guard objects; those that it answered.

    known: those that theta1 answered for the calibration.
    """
    between = THETA0 <= alpha <= THETA1  # where there is no collapse
    near = [other for other in way.observed if alpha * other > 0 and other not in way.objections]
    if not between and all(abs(alpha) > abs(other) for other in near):
        few = known[: max(len(new), FEWEST)]
        _look(way, alpha, recall=work.read(alpha, {THETA1: few}, "search")[THETA1])
    answered = 0
    if alpha not in way.objections:
        with closing(work.answer(alpha, new, "search")) as batches:  # what is under way elsewhere stops at its end
            for replies in batches:
                answered += len(replies)
                _look(way, alpha, replies=replies)
                if alpha in way.objections:
                    break
    return new[:answered]


def _look(way: _Way, alpha: float, **more: Mapping[str, object]) -> None:
    """Add to what was observed of an alpha, and ask the guard."""
    before = way.observed.get(alpha, Observed({}))
    observed = replace(before, **{name: {**getattr(before, name), **values} for name, values in more.items()})
    way.observed[alpha] = observed
    if alpha == THETA1:
        way.calibration = replace(way.calibration, theta1=_both(way.calibration.theta1, observed))
    elif alpha != THETA0 and (objection := judge(observed, way.calibration)) is not None:
        way.objections[alpha] = objection


def _both(one: Observed, other: Observed) -> Observed:
    return Observed(
        {**one.replies, **other.replies},
        {**one.log_probabilities, **other.log_probabilities},
        {**one.recall, **other.recall},
    )


def _seen(work: Work, scorer: Scorer | Comparer, prompts: Sequence[Enrolled], way: _Way) -> Seen:
    """What the walk has come by so far, and no more of what the study may hold."""
    rewards, completions, tokens, spending = {}, {}, {}, Spending()
    for alpha, count in way.count.items():
        ids = [each.prompt.id for each in prompts[:count]]
        held, spent = work.study.rewards(scorer.name, alpha), work.study.spent(alpha, [THETA0, THETA1, *way.observed])
        rewards[alpha] = {prompt: held[prompt] for prompt in ids}
        here = sum((spent[prompt] for prompt in ids), Spending())
        completions[alpha], tokens[alpha] = here.completions, here.tokens
        spending += here
    moves, turns = work.study.moves()[: work.moves], work.study.turns()[: work.turns]
    return Seen(
        tuple(each.prompt.id for each in prompts),
        {alpha: mine for alpha, mine in rewards.items() if mine},
        {alpha: str(way.objections.get(alpha, "not fluent")) for alpha in way.astray | way.objections.keys()},
        Spent(
            completions,
            tokens,
            {
                "generate": spending.generating,
                "score": spending.scoring + spending.reading,
                "move": sum(moves),
                "turn": sum(turns),
            },
            moves=len(moves),
            turns=len(turns),
        ),
    )


def _next(strategy: Strategy, seen: Seen, way: _Way, rule: Rule) -> Round | None:
    """Before it ends: as if all had collapsed that would not be chosen now, clearly or not."""
    wanted = strategy(seen)
    if wanted is not None or rule != "fluent":
        return wanted
    others = way.observed.keys() - fluent(way.observed, way.calibration, way.objections) - {THETA0, THETA1}
    return strategy(replace(seen, collapsed={**dict.fromkeys(others, "not fluent"), **seen.collapsed}))


def _tried(work: Work, scorer: Scorer | Comparer, prompts: Sequence[Enrolled], alpha: float, way: _Way) -> Tried:
    rewards, theta1 = (
        {each.prompt.id: held[each.prompt.id] for each in prompts[: way.count.get(side, 0)]}
        for side, held in ((side, work.study.rewards(scorer.name, side)) for side in (alpha, THETA1))
    )
    objection = way.objections.get(alpha)
    return Tried(
        "search",
        alpha,
        len(rewards),
        statistics.fmean(rewards.values()) if rewards else math.nan,
        None if alpha == THETA1 else gain_over_theta1(rewards, theta1),
        None if objection is None else str(objection),
    )
