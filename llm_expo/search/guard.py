"""Whether theta(alpha) has collapsed, from its replies beside theta1's. Pure; it knows neither rewards nor models.

A reward does not see the first stages of collapse, so the guard looks at the replies alone. Every symptom is compared
prompt by prompt with theta1's replies, and what counts is how far alpha is *beyond theta1*: no figure is good or bad in
itself. The distance that is too far is calibrated on theta0 and theta1 (`calibrate`), as the greatest of

- twice the standard deviation between the replies of theta0 and theta1: alpha's usual reply is then like the oddest one
  in forty of theirs. One and a half, one in fifteen, for what the text itself shows: extrapolation has to make replies
  less likely, but nothing has to make them repeat;
- a part of what theta1 has: half of its distinct openings, nine in ten of its replies that come to an end;
- how far theta1 is from theta0: what training did by itself is no collapse, nor is as much again. So theta0, theta1 and
  what lies between them are not objected to;
- a floor, for replies that hardly differ from each other.

An objection needs `FEWEST` replies at least, and a one-sided bound of the paired difference beyond that distance. The
bound errs rarely (`LOOK_ERROR`), since a search asks about many symptoms after every batch of every alpha.

Length is told apart (`lengthening`): it is the first thing that extrapolation changes, and no collapse.
"""

import math
import statistics
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace

from llm_expo.generation import Reply
from llm_expo.search.curve import fit, heights, standard_errors
from llm_expo.search.rounds import THETA0, THETA1
from llm_expo.search.symptoms import Symptom, readings
from llm_expo.stats import Interval, paired_difference

FEWEST = 8
"""Fewer replies are never objected to."""

LOOK_ERROR = 0.001
"""How often one look at one symptom may object to an alpha that lies exactly at the limit."""

AT_CONFIRMATION = 0.2
"""The same for the one look at the choice, where alpha has more to prove than the guard."""

FLUENT = 0.5
"""The part of the guard's distances that a fluent alpha may be away from theta1."""

ASTRAY_ERROR = 0.05
"""How often one look at one symptom may take an alpha that lies exactly at the limit of `fluent` for astray."""

FLUENT_BY = (Symptom.LOG_PROBABILITY, Symptom.OPENINGS, Symptom.NGRAMS)


@dataclass(frozen=True, slots=True)
class _Rule:
    """How a symptom's distance is calibrated.

    `worse` is the sign of a change for the worse. `spreads` standard deviations between replies, `part` of theta1's
    figure and `floor` are the distances of which the greatest holds, beside that from theta0 to theta1.
    """

    worse: int
    floor: float
    spreads: float = 0.0
    part: float = 0.0


# The floors. Half a nat a token: a perplexity 1.65 times as high. The demo's alpha 2, which is as good as five times
# the training, has 1.55; its alpha 4, which gushes past every prompt, 3.3. Openings: where theta1's own replies mostly
# open alike, half of what is left is too little to tell. Ends: where the limit cuts off half of theta1's replies, that
# alpha's hardly end says something about the limit. The others: a tenth to a fifth of what is said.
_RULES: Mapping[Symptom, _Rule] = {
    Symptom.LOG_PROBABILITY: _Rule(worse=-1, floor=0.5, spreads=2),
    Symptom.RECALL: _Rule(worse=-1, floor=0.5, spreads=2),
    Symptom.OPENINGS: _Rule(worse=-1, floor=0.25, part=0.5),
    Symptom.NGRAMS: _Rule(worse=-1, floor=0.2, spreads=1.5),
    Symptom.REPETITION: _Rule(worse=1, floor=0.1, spreads=1.5),
    Symptom.COMPRESSION: _Rule(worse=-1, floor=0.15, spreads=1.5),
    Symptom.SPECIAL: _Rule(worse=1, floor=0.1),
    Symptom.ENDED: _Rule(worse=-1, floor=0.45, part=0.9),
}


@dataclass(frozen=True, slots=True)
class Observed:
    """What one alpha has replied so far, by prompt id; one reply a prompt.

    `log_probabilities` are its replies' under theta0, `recall` those of theta1's replies under theta(alpha), both in
    nats per token; either may be missing, wholly or for some prompts.
    """

    replies: Mapping[str, Reply]
    log_probabilities: Mapping[str, float] = field(default_factory=dict)
    recall: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Calibration:
    """What alphas are compared with.

    `theta1` is what alphas are held against, `theta0` an end of the curve through them. `distances` says how far beyond
    theta1 is too far, in each symptom's own unit, but for the part of what theta1 has.
    """

    theta0: Observed
    theta1: Observed
    special_tokens: Mapping[int, str]
    distances: Mapping[Symptom, float]


@dataclass(frozen=True, slots=True)
class Finding:
    """One symptom of one alpha.

    `here` and `theta1` are means over the same prompts, `worse` is how far `here` is from `theta1` in the direction of
    collapse, `distance` how far is too far. It `objects` where it is too far, whatever chance may have added.
    """

    symptom: Symptom
    here: float
    theta1: float
    worse: Interval
    distance: float
    objects: bool


@dataclass(frozen=True, slots=True)
class Objection:
    """Why an alpha is taken for collapsed: `findings` that object, the one farthest beyond its distance first."""

    findings: tuple[Finding, ...]

    @property
    def symptom(self) -> Symptom:
        return self.findings[0].symptom

    def __str__(self) -> str:
        first, *others = self.findings
        also = f"; also {', '.join(other.symptom for other in others)}" if others else ""
        return words(first) + also


@dataclass(frozen=True, slots=True)
class Lengthening:
    """Mean lengths in tokens over the same prompts, the paired difference (95 %, two-sided), and the shares cut off.

    Where replies are cut off, the true lengths, and so their difference, are greater.
    """

    tokens: float
    theta1: float
    difference: Interval
    truncated: float
    theta1_truncated: float


def calibrate(theta0: Observed, theta1: Observed, special_tokens: Mapping[int, str] | None = None) -> Calibration:
    """From replies to the same prompts; `special_tokens` as for `symptoms.readings`.

    Prompts that theta0 has not answered calibrate nothing: without any, training's own change counts as none. The
    more prompts, the better; all that theta1 has answered may be asked about later.
    """
    special = special_tokens or {}
    return Calibration(theta0, theta1, special, _distances(theta0, theta1, special))


def examine(alpha: Observed, calibration: Calibration, error: float = LOOK_ERROR) -> tuple[Finding, ...]:
    """Every symptom that at least two prompts show for alpha and theta1, in the order of `Symptom`.

    Of a part of the replies, too: theta1's are then taken on the same prompts.
    """
    here, theta1 = _sides(alpha, calibration.theta1, calibration.special_tokens)
    pairs = {symptom: _common(here[symptom], theta1[symptom]) for symptom in Symptom}
    return tuple(
        _finding(symptom, pairs[symptom], calibration.distances[symptom], 1 - 2 * error)
        for symptom in Symptom
        if len(pairs[symptom]) > 1
    )


def judge(alpha: Observed, calibration: Calibration, error: float = LOOK_ERROR) -> Objection | None:
    """What the guard has against an alpha on the replies that there are so far, if anything."""
    objecting = [finding for finding in examine(alpha, calibration, error) if finding.objects]
    if not objecting:
        return None
    return Objection(tuple(sorted(objecting, key=lambda finding: -finding.worse.mean / finding.distance)))


def fluent(
    alphas: Mapping[float, Observed], calibration: Calibration, collapsed: Container[float] = ()
) -> frozenset[float]:
    """The alphas whose log-probability under theta0 and whose diversity have stayed near theta1's.

    Near is within `FLUENT` of the guard's distances, by the best guess, whatever the errors: this ranks, it accuses
    nobody. Whose log-probability was not measured is not among them, nor are those in `collapsed`.
    """
    return frozenset(
        alpha
        for alpha, drifts in _drifts(alphas, calibration, collapsed).items()
        if Symptom.LOG_PROBABILITY in drifts and all(mean <= FLUENT for mean, _ in drifts.values())
    )


def astray(
    alphas: Mapping[float, Observed], calibration: Calibration, collapsed: Container[float] = ()
) -> frozenset[float]:
    """The alphas that are farther from theta1 than `fluent` allows, whatever chance may have added.

    A search for a fluent one need not ask them again.
    """
    return frozenset(
        alpha
        for alpha, drifts in _drifts(alphas, calibration, collapsed).items()
        if len(alphas[alpha].replies) >= FEWEST and any(low > FLUENT for _, low in drifts.values())
    )


def lengthening(alpha: Observed, theta1: Observed) -> Lengthening:
    """Over the prompts that both have answered, at least two."""
    prompts = [prompt for prompt in alpha.replies if prompt in theta1.replies]
    here, there = ([side.replies[prompt] for prompt in prompts] for side in (alpha, theta1))
    tokens = [[float(len(reply.tokens)) for reply in replies] for replies in (here, there)]
    return Lengthening(
        tokens=statistics.fmean(tokens[0]),
        theta1=statistics.fmean(tokens[1]),
        difference=paired_difference(tokens[0], tokens[1]),
        truncated=statistics.fmean(reply.truncated for reply in here),
        theta1_truncated=statistics.fmean(reply.truncated for reply in there),
    )


def words(finding: Finding) -> str:
    """One line with both figures and the limit, such as 'special tokens in 40 % of replies (theta1: 0 %, limit 10 %)'.

    The limit is theta1's figure and the distance.
    """
    limit = finding.theta1 + _RULES[finding.symptom].worse * finding.distance
    match finding.symptom:
        case Symptom.LOG_PROBABILITY | Symptom.RECALL:
            here, theta1, bound = (f"{value:.2f}" for value in (finding.here, finding.theta1, limit))
            return f"{finding.symptom} {here} nats a token (theta1: {theta1}, limit {bound})"
        case Symptom.OPENINGS:
            says = "{} of openings are distinct"
        case Symptom.NGRAMS:
            says = "{} of n-grams at the starts of replies are distinct"
        case Symptom.REPETITION:
            says = "{} of a reply repeats what it said before"
        case Symptom.COMPRESSION:
            says = "the ends of replies compress to {}"
        case Symptom.SPECIAL:
            says = "special tokens in {} of replies"
        case Symptom.ENDED:
            says = "{} of replies end within the token limit"
    here, theta1, bound = (f"{100 * value:.0f} %" for value in (finding.here, finding.theta1, limit))
    return f"{says.format(here)} (theta1: {theta1}, limit {bound})"


# --------------------------------------------------------------------------------------------------------------------

_Values = dict[str, float]  # by prompt


def _drifts(
    alphas: Mapping[float, Observed], calibration: Calibration, collapsed: Container[float]
) -> dict[float, dict[Symptom, tuple[float, float]]]:
    """How far each alpha is from theta1 in the symptoms of `FLUENT_BY`, in parts of the distance: the mean, and its
    lower bound.

    The log-probability is a curve over alpha, so that its neighbours' replies tell of each alpha, too: alone it would
    take about twice as many. Distinct openings and n-grams depend on how many replies there are, and are no curve.
    """
    drifts = {
        alpha: {
            finding.symptom: (finding.worse.mean / finding.distance, finding.worse.low / finding.distance)
            for finding in examine(observed, calibration, ASTRAY_ERROR)
            if finding.symptom in FLUENT_BY
        }
        for alpha, observed in alphas.items()
        if alpha not in collapsed
    }
    log_probability = Symptom.LOG_PROBABILITY
    held = {
        alpha: alphas[alpha].log_probabilities
        for alpha, mine in drifts.items()
        if log_probability in mine and math.isfinite(mine[log_probability][0])
    }
    if held:
        held[THETA0], held[THETA1] = calibration.theta0.log_probabilities, calibration.theta1.log_probabilities
        prompts = dict.fromkeys(prompt for values in held.values() for prompt in values)
        values = {alpha: [mine.get(prompt, math.nan) for prompt in prompts] for alpha, mine in held.items()}
        curve = fit(values, depth=math.inf)
        theta1, distance = curve.alphas.index(THETA1), calibration.distances[log_probability]
        worse = (heights(curve)[theta1] - heights(curve)) / distance
        reach = statistics.NormalDist().inv_cdf(1 - ASTRAY_ERROR) * standard_errors(curve, theta1) / distance
        for alpha, mean, low in zip(curve.alphas, worse.tolist(), (worse - reach).tolist(), strict=True):
            if alpha in drifts:
                drifts[alpha][log_probability] = (mean, low)
    return drifts


def _finding(symptom: Symptom, pairs: Sequence[tuple[float, float]], distance: float, confidence: float) -> Finding:
    rule = _RULES[symptom]
    here, theta1 = ([rule.worse * pair[side] for pair in pairs] for side in (0, 1))
    if all(map(math.isfinite, here)):
        worse = paired_difference(here, theta1, confidence)
        beyond = worse.low > distance
    else:  # log-probabilities are no numbers where the weights of theta(alpha) overflow
        worse = Interval(math.inf, 0.0, math.inf, math.inf, len(pairs), confidence)
        beyond = True
    if rule.part:
        beyond &= paired_difference(here, [(1 - rule.part) * value for value in theta1], confidence).low > 0
    figure = statistics.fmean(value for _, value in pairs)
    return Finding(
        symptom=symptom,
        here=statistics.fmean(value for value, _ in pairs),
        theta1=figure,
        worse=worse,
        distance=max(distance, rule.part * figure),
        objects=beyond and len(pairs) >= FEWEST,
    )


def _distances(theta0: Observed, theta1: Observed, special: Mapping[int, str]) -> dict[Symptom, float]:
    theta0 = replace(theta0, recall=theta1.log_probabilities)  # under theta0, of theta1's replies: the same thing
    whole = _measured(theta1, list(theta1.replies), special)
    initial, aligned = _sides(theta0, theta1, special)
    distances = {}
    for symptom, rule in _RULES.items():
        values = list(whole[symptom].values())
        spreads = [statistics.variance(each) for each in (values, list(initial[symptom].values())) if len(each) > 1]
        pairs = _common(initial[symptom], aligned[symptom])
        distances[symptom] = max(
            rule.floor,
            rule.spreads * math.sqrt(statistics.fmean(spreads)) if spreads else 0.0,
            abs(statistics.fmean(a - b for a, b in pairs)) if pairs else 0.0,
        )
    return distances


def _sides(alpha: Observed, theta1: Observed, special: Mapping[int, str]) -> tuple[dict[Symptom, _Values], ...]:
    """The values of both on the prompts that both have answered."""
    prompts = [prompt for prompt in alpha.replies if prompt in theta1.replies]
    return tuple(_measured(side, prompts, special) for side in (alpha, theta1))


def _measured(side: Observed, prompts: Sequence[str], special: Mapping[int, str]) -> dict[Symptom, _Values]:
    found: dict[Symptom, _Values] = {
        Symptom.LOG_PROBABILITY: {p: side.log_probabilities[p] for p in prompts if p in side.log_probabilities},
        Symptom.RECALL: dict(side.recall),
    }
    for symptom, values in readings([side.replies[prompt] for prompt in prompts], special).items():
        found[symptom] = {p: value for p, value in zip(prompts, values, strict=True) if value is not None}
    return found


def _common(a: _Values, b: _Values) -> list[tuple[float, float]]:
    return [(value, b[prompt]) for prompt, value in a.items() if prompt in b]
