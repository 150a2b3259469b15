"""The figures of an outcome in words and cells, the same on a terminal and on a page."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from llm_expo.search.events import Begun, Chosen, Split, Tried
from llm_expo.search.outcome import Outcome, Row
from llm_expo.search.rounds import THETA0, THETA1, Round
from llm_expo.search.verdict import Decision, Verdict
from llm_expo.stats import Interval

COLUMNS = (
    "alpha",
    "prompts",
    "reward",
    "vs theta1",
    "tokens",
    "cut off",
    "log p (theta0)",
    "distinct openings",
    "guard",
)

HOW_TO_READ = (
    "vs theta1: paired difference of reward over the prompts that both answered ± its standard error; mean rewards "
    "over different numbers of prompts do not compare. tokens: mean reply length; cut off: share of replies that the "
    "token limit ended. log p (theta0): how likely theta0 finds the replies, nats per token. guard: what was taken for "
    "collapsed, and what has come too far from theta1 for --choose fluent. A reward that rises while log p falls far "
    "below theta1's, or while replies open alike (distinct openings), is being gamed: read the replies, and prefer a "
    "smaller alpha."
)


def name(alpha: float) -> str:
    return {THETA0: "-1 (theta0)", THETA1: "0 (theta1)"}.get(alpha, f"{alpha:g}")


def with_error(gain: Interval) -> str:
    return f"{gain.mean:+.3f} ± {gain.se:.3f}"


def cells(row: Row) -> tuple[str, ...]:
    """One row under `COLUMNS`."""
    symptoms = row.symptoms
    return (
        name(row.alpha),
        f"{row.prompts}",
        "" if row.reward is None else f"{row.reward:.3f}",
        "" if row.gain is None else with_error(row.gain),
        "" if symptoms is None else f"{symptoms.tokens:.0f}",
        "" if symptoms is None else f"{symptoms.truncated:.0%}",
        "" if row.log_probability is None else f"{row.log_probability:.2f}",
        "" if symptoms is None else f"{symptoms.distinct_openings:.2f}",
        "collapsed" if row.collapsed else "" if row.fluent or row.alpha == THETA0 else "not fluent",
    )


def tried(event: Tried) -> str:
    """One line on an alpha that has answered."""
    collapsed = f"; collapsed: {event.collapsed}" if event.collapsed else ""
    if not event.prompts:
        return f"alpha {name(event.alpha)}: not asked{collapsed}"
    versus, of = "", ""
    if event.gain is not None:
        versus = f", vs theta1 {with_error(event.gain)}"
        of = f"{event.gain.n} of " if event.gain.n < event.prompts else ""
    reward = f"reward {event.reward:.3f}{versus} on {of}{event.prompts} prompts"
    return f"alpha {name(event.alpha)}: {reward}{collapsed}"


def round_(wanted: Round) -> str:
    """Why a round is run, and what is asked in it."""
    asked: dict[int, list[str]] = {}
    for alpha, count in wanted.wanted.items():
        asked.setdefault(count, []).append("theta1" if alpha == THETA1 else f"{alpha:g}")
    listed = "; ".join(", ".join(alphas) + f" to {count} prompts" for count, alphas in asked.items())
    return f"{wanted.why} ({listed})"


def rounds(outcome: Outcome) -> list[str]:
    """Why each round was run, and what was asked in it."""
    return [round_(each) for each in outcome.rounds]


def told(event: Split | Begun | Chosen | Tried) -> str:
    """One line on where a search has got."""
    match event:
        case Split():
            return f"{event.search} prompts to search on; {event.confirm} are set aside to confirm the choice on"
        case Begun():
            return f"round {event.number}: {round_(event.round)}, {event.replies} new replies"
        case Chosen() if event.alpha == THETA1:
            return f"choice: theta1; it answers the {event.prompts} confirm prompts, and so does theta0"
        case Chosen():
            return (
                f"choice: alpha {name(event.alpha)}; on the {event.prompts} confirm prompts it meets theta1 and theta0"
            )
        case Tried():
            return f"{event.part}, {tried(event)}"


def collapses(rows: Sequence[Row]) -> list[str]:
    """What the guard said, one sentence an alpha."""
    return [f"alpha {name(row.alpha)} has collapsed: {row.collapsed}" for row in rows if row.collapsed]


def prices(outcome: Outcome) -> list[str]:
    """What the finalists cost, where the choice was limited: one sentence an item."""
    limited = outcome.limit
    if limited is None:
        return []
    says = []
    for each in limited.priced:
        held = "within" if each.within else "beyond"
        says.append(
            f"alpha {name(each.alpha)}: {limited.name} {each.price.mean:+.2f} ± {each.price.se:.2f}, with 95 % "
            f"confidence at most {each.price.high:+.2f}: {held} the limit of {limited.most:g}."
        )
    if limited.priced and not any(each.within for each in limited.priced):
        says.append("No alpha with a gain is within the limit, so theta1 is kept.")
    return says


def decision(outcome: Outcome) -> list[str]:
    """What was decided, why, and what to do next: one sentence an item."""
    says = decided(outcome.decision)
    needed, share = outcome.decision.prompts_needed, outcome.settings["confirm_share"]
    if needed is not None and outcome.decision.gain is not None and isinstance(share, float):
        more = max(math.ceil((needed - outcome.decision.gain.n) / share), 1)
        says.append(f"Of prompts that are added, {share:.0%} are set aside to confirm on: add about {more:,}.")
    says.append(f"Training itself: theta1 - theta0 = {_interval(outcome.gain_of_training)}.")
    if left := better_but_not_fluent(outcome):
        says.append(left)
    confirmed = next(row for row in outcome.confirm if row.alpha == outcome.choice)
    if outcome.settings.get("choose") == "fluent" and not (confirmed.fluent or confirmed.collapsed):
        says.append(
            "On the confirm prompts its replies have come farther from theta1's than --choose fluent allows on the "
            "search prompts: read some."
        )
    tried = [row.alpha for row in outcome.search]
    if outcome.choice > 0 and outcome.choice == max(tried):
        says.append(
            f"alpha {outcome.choice:g} is the largest that was tried: the best one may lie beyond; "
            f"try larger ones in a new study."
        )
    if outcome.model is not None:
        says.append(f"The model is in {outcome.model}.")
    elif outcome.choice != THETA1:
        says.append("No model was written; --write always writes it all the same.")
    return says


def better_but_not_fluent(outcome: Outcome) -> str | None:
    """Which alphas had a higher reward than the choice and were left out for their replies, if any."""
    if outcome.settings.get("choose") != "fluent":
        return None
    gains = {row.alpha: row.gain.mean for row in outcome.search if row.gain is not None}
    astray = {row.alpha for row in outcome.search if not (row.fluent or row.collapsed or row.alpha == THETA0)}
    left = [alpha for alpha in gains if alpha in astray and gains[alpha] > gains.get(outcome.choice, 0.0)]
    if not left:
        return None
    best = max(left, key=lambda alpha: gains[alpha])
    named = ", ".join(name(alpha) for alpha in left)
    return (
        f"A higher reward on the search prompts, but replies that have come too far from theta1's to be chosen: alpha "
        f"{named} ({name(best)}: {gains[best]:+.3f}). --choose best would take them in; "
        f"read the replies."
    )


def decided(decision: Decision) -> list[str]:
    """A decision with its figures and what to do next: one sentence an item."""
    gain, longer = decision.gain, decision.longer
    if gain is None or longer is None:
        return [f"{decision.verdict}: no alpha that may be chosen is likely to do better than theta1.", decision.next]
    measured = f"alpha {decision.alpha:g} - theta1 = {_interval(gain)}, on {gain.n} prompts that the search never saw"
    says = [f"{decision.verdict}: {_why(decision)}.", f"Reward: {measured}."]
    says += [f"{name}: {_interval(other)}." for name, other in decision.second.items()]
    ratio = decision.tokens / decision.theta1_tokens - 1
    says.append(
        f"Length: {decision.tokens:.0f} tokens, theta1's {decision.theta1_tokens:.0f} ({100 * ratio:+.0f} %); "
        f"longer by {_interval(longer)}."
    )
    if decision.at_equal_length is not None:
        matched = decision.length_matched
        alike = "fewer than 2 prompts" if matched is None else f"{matched.n} prompts: {_interval(matched)}"
        says.append(
            f"Reward at equal length: {_interval(decision.at_equal_length)} by regression; "
            f"where both replies are about equally long, {alike}."
        )
    return [*says, decision.next]


def _why(decision: Decision) -> str:
    match decision.verdict:
        case Verdict.COLLAPSE:
            return f"{decision.objection}{'; the reward was gamed: it rose' if decision.gamed else ''}"
        case Verdict.NO_GAIN:
            return f"a gain of {decision.least_gain:.3g}, the least that matters, is out of reach"
        case Verdict.UNDERPOWERED:
            return f"neither a gain nor that there is none of {decision.least_gain:.3g} is shown"
        case Verdict.SCORERS_DISAGREE:
            return "better than theta1 for the scorer that chose, but not shown for every other"
        case Verdict.GAIN_IS_LENGTH:
            return "better than theta1, but not shown at equal length"
        case Verdict.SHIP:
            return "better than theta1"


def costs(outcome: Outcome) -> list[str]:
    """Seconds and tokens by activity, one sentence an item."""
    lines = []
    for activity, (seconds, tokens) in outcome.costs.items():
        speed = f", {tokens:,} tokens ({tokens / seconds:,.0f} a second)" if tokens and seconds else ""
        lines.append(f"{activity}: {seconds:,.1f} s{speed}")
    return lines + [f"{name}: {_told(asdict(record))}" for name, record in outcome.records.items()]  # type: ignore[call-overload]


def _told(facts: Mapping[str, object]) -> str:
    """What is known of the facts, those within facts, too."""
    known = [(name, fact) for name, fact in facts.items() if fact is not None]
    return ", ".join(
        _told(fact) if isinstance(fact, dict) else f"{name.replace('_', ' ')} {_number(fact)}" for name, fact in known
    )


def _number(fact: object) -> str:
    return f"{fact:,.4g}" if isinstance(fact, float) else f"{fact:,}" if isinstance(fact, int) else str(fact)


def table(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    return [cells(row) for row in rows]


def _interval(interval: Interval) -> str:
    return (
        f"{interval.mean:+.3f} ({100 * interval.confidence:.4g} % interval {interval.low:+.3f} to {interval.high:+.3f})"
    )
