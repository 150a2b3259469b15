"""The loop on an engine without a model: what is asked for, what is decided, and that a killed search ends the same."""

import json
import math
import multiprocessing
import random
import resource
import signal
import sqlite3
import time

import pytest

from llm_expo.errors import OutputError, ScorerError, StudyError
from llm_expo.generation import Prompt, Reply, Sampling, TransformersEngine
from llm_expo.scoring import FunctionScorer
from llm_expo.search import Budget, Grid, Paper, Race, Round, Verdict, search
from llm_expo.search.events import Begun, Done, Tried
from llm_expo.testing import FakeEngine, FakeScorer, peak
from llm_expo.weights import Direction

PROMPTS = [Prompt(f"p{i}", ({"role": "user", "content": "word " * (1 + i % 7) + str(i)},)) for i in range(90)]
WORDED = [Prompt(f"w{i}", ({"role": "user", "content": f"the cat {'sun ' * i}"},)) for i in range(12)]
PEAK = peak(2.5)
PAPER = Paper((2.0, 1.0, 0.5))
GRID = Grid((1.0, 2.0, 3.0))
ROWS = (
    "SELECT * FROM prompts ORDER BY id",
    "SELECT alpha, prompt, text, tokens, truncated FROM completions ORDER BY alpha, prompt",
    "SELECT alpha, prompt, scorer, reward FROM rewards ORDER BY alpha, prompt, scorer",
    "SELECT alpha, prompt, under, value FROM log_probabilities ORDER BY alpha, prompt, under",
)


def rows(folder):
    with sqlite3.connect(folder / "study.sqlite") as database:
        return [database.execute(query).fetchall() for query in ROWS]


def by_length(conversations):
    return [len(conversation[-1]["content"]) for conversation in conversations]


def find(direction, out, *, curve=PEAK, prompts=PROMPTS, engine=None, scorer=None, **options):
    options = {"strategy": PAPER, "batch_size": 12, **options}
    return search(direction, prompts, engine or FakeEngine(curve), scorer or FakeScorer(), out, **options)


@pytest.fixture
def direction(pair):
    return Direction.open(*pair)


def test_scoring_is_told_as_it_goes(direction, tmp_path):
    class Slow(FakeScorer):
        def score(self, conversations, progress):
            for done in range(1, 5):
                progress(done, 4)
            return super().score(conversations)

    events = []
    find(direction, tmp_path / "s", scorer=Slow(), strategy=Grid((1.0,)), watch=events.append)
    scored = [event for event in events if isinstance(event, Done) and event.activity == "score"]
    assert [(event.done, event.total) for event in scored[-5:]] == [(n * 90 // 4, 90) for n in range(5)]


def test_who_reads_what(direction, tmp_path):
    """theta0 reads all replies of a round in one call, an alpha beyond all others as many of theta1's as it makes."""

    reads = []

    class Watched(FakeEngine):
        def log_probabilities(self, alpha, batches):
            batches = list(batches)
            reads.append((alpha, sum(map(len, batches))))
            return super().log_probabilities(alpha, batches)

    def rounds(seen):
        wanted = [{0.0: 8, -0.5: 8, 0.05: 8, 1.0: 4}, {0.5: 12, 3.0: 12}, None][len(seen.rewards) // 3]
        return wanted and Round(wanted, "")

    find(direction, tmp_path / "s", prompts=PROMPTS[:60], engine=Watched(PEAK), strategy=rounds, choice="best")
    assert reads == [
        (0.0, 16),  # the calibration: theta1's own
        (-1.0, 32),
        (0.05, 8),
        (1.0, 8),  # fewer tell the guard nothing
        (-1.0, 20),  # theta1's are read
        (3.0, 12),
        (-1.0, 24),
        (-1.0, 60),  # the confirmation
    ]


def test_the_best_alpha_is_found_confirmed_and_written(direction, tmp_path):
    events = []
    outcome = find(direction, tmp_path / "s", watch=events.append)
    assert outcome.verdict is Verdict.SHIP
    assert 1.5 <= outcome.choice <= 3.5
    assert [row.alpha for row in outcome.search] == sorted(row.alpha for row in outcome.search)
    assert [row.alpha for row in outcome.confirm] == [-1.0, 0.0, outcome.choice]
    assert (outcome.search[0].prompts, outcome.confirm[0].prompts) == (60, 30)
    assert outcome.decision.gain is not None and outcome.decision.gain.low > 0
    assert outcome.model == tmp_path / "s" / "model"
    assert json.loads((outcome.model / "llm_expo.json").read_text())["alpha"] == outcome.choice
    for row in outcome.search:
        assert row.log_probability == pytest.approx(-1 - 0.02 * (1 + row.alpha))
    tried = [event for event in events if isinstance(event, Tried)]
    assert len(tried) == len(outcome.search) + len(outcome.confirm)
    done = [event for event in events if isinstance(event, Done) and event.activity == "generate"]
    assert {(event.done, event.total) for event in done if event.done == event.total} == {
        (16, 16),  # theta0 and theta1, for the guard
        (44, 44),  # the rest of theta1
        (60, 60),
        (30, 30),
    }


def test_nothing_is_written_where_nothing_helps(direction, tmp_path):
    outcome = find(direction, tmp_path / "s", curve=lambda alpha: -abs(alpha))
    assert (outcome.choice, outcome.verdict, outcome.decision.gain, outcome.model) == (0.0, Verdict.NO_GAIN, None, None)
    assert not (tmp_path / "s" / "model").exists()


def test_an_alpha_that_only_looked_good_is_not_shipped(direction, tmp_path):
    """The search picks the luckiest of many useless alphas; fresh prompts and noise tell."""
    alphas = tuple(0.1 * step for step in range(1, 13))
    verdicts = [
        find(
            direction,
            tmp_path / f"s{seed}",
            engine=FakeEngine(lambda alpha: 0.0, seed=seed),
            strategy=Grid(alphas),
            batch_size=60,
        ).verdict
        for seed in range(12)
    ]
    assert verdicts.count(Verdict.SHIP) <= 1


def test_writing_can_be_forced_and_forbidden(direction, tmp_path):
    slight = {"engine": FakeEngine(lambda alpha: 0.2 * alpha), "strategy": Grid((1.0,))}
    outcome = find(direction, tmp_path / "a", **slight, prompts=PROMPTS[:36], write_model="always")
    assert (outcome.choice, outcome.verdict) == (1.0, Verdict.UNDERPOWERED)
    assert outcome.model is not None
    assert find(direction, tmp_path / "n", write_model="never").model is None
    assert not (tmp_path / "n" / "model").exists()


def test_an_earlier_model_is_replaced_whole_and_what_is_not_ours_is_left(direction, tmp_path, caplog):
    outcome = find(direction, tmp_path / "s")
    assert find(direction, tmp_path / "s", write_model="never").model == outcome.model
    provenance = outcome.model / "llm_expo.json"
    provenance.write_text(json.dumps({"alpha": 99.0}))
    assert find(direction, tmp_path / "s", write_model="never").model is None
    assert "held alpha 99, which an earlier decision of this study chose; it is now model.earlier" in caplog.text
    assert not outcome.model.exists()
    assert find(direction, tmp_path / "s") == outcome
    assert json.loads((tmp_path / "s" / "model.earlier" / "llm_expo.json").read_text()) == {"alpha": 99.0}
    assert json.loads(provenance.read_text())["alpha"] == outcome.choice
    for broken in ("{}", "{", "[]"):
        provenance.write_text(broken)
        with pytest.raises(OutputError, match="is in the way of the model and not one of ours; move it"):
            find(direction, tmp_path / "s")
    assert provenance.exists()


def test_a_model_does_not_outlive_the_decision_for_it(direction, tmp_path):
    """Not even where the present one is for theta1."""
    study = {"engine": FakeEngine(PEAK, drift=0.4), "strategy": Grid((1.0,))}
    outcomes = [find(direction, tmp_path / "s", **study, choice=rule) for rule in ("best", "fluent")]
    assert [(outcome.choice, outcome.verdict) for outcome in outcomes] == [(1.0, Verdict.SHIP), (0.0, Verdict.NO_GAIN)]
    assert outcomes[1].model is None
    assert not (tmp_path / "s" / "model").exists()
    assert (tmp_path / "s" / "model.earlier").exists()


def test_every_extension_asks_for_more_confidence(direction, tmp_path):
    """Looking again and again at a growing study must not wear its error down."""
    confidences = [
        find(direction, tmp_path / "s", prompts=PROMPTS[:n], extend=n > 30).decision.gain.confidence
        for n in (30, 60, 90)
    ]
    assert confidences == [0.9, 0.95, 0.975]


def test_another_choice_is_another_look(direction, tmp_path):
    """Where the reward hardly rises any more, the smallest alpha within one standard error of the best is another."""
    decisions = [
        find(
            direction, tmp_path / "s", curve=lambda alpha: min(alpha, 1.0) + 0.05 * alpha, strategy=GRID, choice=rule
        ).decision
        for rule in ("best", "one-se", "best")
    ]
    assert [decision.gain.confidence for decision in decisions] == [0.9, 0.95, 0.9]
    assert decisions[0].alpha == decisions[2].alpha != decisions[1].alpha


def test_a_finished_study_loads_no_model(tmp_path, pair):
    direction = Direction.open(*pair)
    options = {"prompts": WORDED, "scorer": FunctionScorer(by_length, "length"), "strategy": Grid((0.5,))}
    find(direction, tmp_path / "s", engine=TransformersEngine(direction, Sampling(max_tokens=4)), **options)
    engine = TransformersEngine(direction, Sampling(max_tokens=4))
    find(direction, tmp_path / "s", engine=engine, **options)
    assert "_live" not in vars(engine)


def test_a_finished_study_only_reads(direction, tmp_path):
    first = find(direction, tmp_path / "s")
    engine = FakeEngine(peak(2.5))
    assert find(direction, tmp_path / "s", engine=engine) == first
    assert engine.generated == []


def test_every_prompt_is_answered_once_and_confirm_prompts_only_by_finalists(direction, tmp_path):
    engine = FakeEngine(peak(2.5))
    outcome = find(direction, tmp_path / "s", engine=engine)
    assert len(engine.generated) == len(set(engine.generated)) == 16 + 60 * len(outcome.search) + 30 * 3


def test_extending_walks_the_way_again_with_more_prompts(direction, tmp_path):
    find(direction, tmp_path / "s", prompts=PROMPTS[:30])
    extended = find(direction, tmp_path / "s", extend=True)
    assert (extended.search[0].prompts, extended.confirm[0].prompts) == (60, 30)
    assert extended.model is not None
    assert json.loads((extended.model / "llm_expo.json").read_text())["alpha"] == extended.choice


def test_other_settings_are_refused(direction, tmp_path):
    find(direction, tmp_path / "s", strategy=Grid((1.0,)))
    with pytest.raises(StudyError, match=r"strategy was Grid\(alphas=\(1.0,\)\) when the study began"):
        find(direction, tmp_path / "s")
    with pytest.raises(StudyError, match="batch_size was 12"):
        find(direction, tmp_path / "s", strategy=Grid((1.0,)), batch_size=9)


@pytest.mark.parametrize("share", [0.0, 1.0, -1, float("nan")])
def test_impossible_shares(direction, tmp_path, share):
    with pytest.raises(StudyError, match="between 0 and 1"):
        find(direction, tmp_path / "s", confirm_share=share)


class Failing(FakeScorer):
    """Fails at the n-th call."""

    def __init__(self, at, how):
        self.calls, self.at, self.how = 0, at, how

    def score(self, conversations, *_):
        self.calls += 1
        if self.calls != self.at:
            return super().score(conversations)
        if self.how == "raises":
            raise ScorerError("out of order")
        return [float("nan")] * len(conversations) if self.how == "nan" else [1.0]


@pytest.mark.parametrize(
    ("how", "words"),
    [("raises", "out of order"), ("nan", "returned nan for the reply"), ("short", "returned 1 rewards")],
)
def test_a_failing_scorer_loses_nothing(direction, tmp_path, how, words):
    with pytest.raises(ScorerError, match=words):
        find(direction, tmp_path / "s", scorer=Failing(3, how))
    engine = FakeEngine(peak(2.5))
    find(direction, tmp_path / "s", engine=engine)
    find(direction, tmp_path / "whole")
    assert rows(tmp_path / "s") == rows(tmp_path / "whole")
    assert (0.0, "p0") not in engine.generated


class Slow(FakeEngine):
    def generate(self, alpha, batches):
        for replies in super().generate(alpha, batches):
            time.sleep(0.002)
            yield replies


@pytest.mark.parametrize("strategy", [PAPER, Race()])
def test_a_killed_search_ends_as_one_that_ran_through(direction, tmp_path, strategy):
    whole = find(direction, tmp_path / "whole", strategy=strategy, write_model="always")
    fork = multiprocessing.get_context("fork")
    moments = random.Random(7)
    kills = 0
    for _ in range(60):
        options = {"engine": Slow(peak(2.5)), "strategy": strategy, "write_model": "always"}
        process = fork.Process(target=find, args=(direction, tmp_path / "s"), kwargs=options)
        process.start()
        process.join(moments.uniform(0.005, 0.12))
        if process.exitcode is not None:
            break
        process.kill()
        process.join()
        kills += 1
    assert kills >= 5
    resumed = find(direction, tmp_path / "s", strategy=strategy, write_model="always")
    assert rows(tmp_path / "s") == rows(tmp_path / "whole")
    for field in ("rounds", "search", "confirm", "decision", "examples"):
        assert getattr(resumed, field) == getattr(whole, field)
    assert (resumed.model / "model.safetensors").read_bytes() == (whole.model / "model.safetensors").read_bytes()


def limited(direction, out, megabytes, result):
    """A search in a process whose files may not grow beyond a size: as on a full disk, writing fails midway."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(megabytes * 1e6),) * 2)
    try:
        find(direction, out)
    except StudyError as error:
        result.put(str(error))


def test_a_full_disk_is_told_and_loses_nothing(direction, tmp_path):
    fork = multiprocessing.get_context("fork")
    result = fork.Queue()
    process = fork.Process(target=limited, args=(direction, tmp_path / "s", 0.06, result))
    process.start()
    assert "study.sqlite" in (told := result.get(timeout=60)) and "what was committed before is kept" in told
    process.join()
    find(direction, tmp_path / "s")
    find(direction, tmp_path / "whole")
    assert rows(tmp_path / "s") == rows(tmp_path / "whole")


def completions(folder):
    with sqlite3.connect(folder / "study.sqlite") as database:
        return dict(
            database.execute(
                "SELECT alpha, count(*) FROM completions JOIN prompts ON id = prompt "
                "WHERE part = 'search' GROUP BY alpha"
            )
        )


def test_a_race_finds_the_best_alpha_with_a_budget(direction, tmp_path):
    events = []
    outcome = find(direction, tmp_path / "s", strategy=Race(Budget(150)), watch=events.append)
    assert outcome.verdict is Verdict.SHIP
    assert PEAK(outcome.choice) > 0.9
    asked = completions(tmp_path / "s")
    assert sum(asked.values()) <= 150 + 2 * 16  # the guard's own are not of the budget
    begun = [event for event in events if isinstance(event, Begun)]
    assert [event.number for event in begun] == list(range(1, len(begun) + 1))
    assert [event.round for event in begun] == list(outcome.rounds)
    assert "the ladder" in outcome.rounds[0].why


def test_a_budget_may_be_raised_until_the_confirmation(direction, tmp_path):
    """What was made is not made again. Then confirm prompts were looked at, and another way is another look at them."""
    with pytest.raises(StudyError, match="race begins with"):
        find(direction, tmp_path / "s", strategy=Race(Budget(5)))
    assert not (tmp_path / "s").exists()  # told before anything was made
    with pytest.raises(StudyError, match=r"go on with --budget '(\d+) tokens' or more") as refused:
        find(direction, tmp_path / "s", strategy=Race(Budget(100, "tokens")))
    enough = Budget.parse(str(refused.value).split("'")[1])
    engine = FakeEngine(PEAK)
    outcome = find(direction, tmp_path / "s", strategy=Race(enough), engine=engine)
    whole = find(direction, tmp_path / "whole", strategy=Race(enough))
    assert (outcome.rounds, outcome.decision) == (whole.rounds, whole.decision)
    assert len(engine.generated) < len(rows(tmp_path / "s")[1])
    with pytest.raises(StudyError, match="strategy was Race.* when the study began and is now"):
        find(direction, tmp_path / "s", strategy=Race(Budget(5000, "tokens")))


class Heavy(FakeEngine):
    """A move takes as long as some replies."""

    def move(self, alpha):
        time.sleep(0.01)

    def generate(self, alpha, batches):
        for replies in super().generate(alpha, batches):
            time.sleep(0.0005 * len(replies))
            yield replies


@pytest.mark.parametrize("turns", [False, True])
def test_a_finished_study_with_a_budget_of_minutes_only_reads(direction, tmp_path, turns):
    """At each round it counts the moves and turns that were made by then, and not all that there are."""
    options = {"strategy": Race(Budget(0.5 / 60, "minutes")), "turns": turns}
    first = find(direction, tmp_path / "s", engine=Heavy(PEAK), **options)
    assert len(first.rounds) > 3
    engine = Heavy(PEAK)
    assert find(direction, tmp_path / "s", engine=engine, **options) == first
    assert engine.generated == []


class Degenerate(FakeEngine):
    """From alpha 3 on, everybody is told the same, at length; the reward rises all the way."""

    def generate(self, alpha, batches):
        for replies in super().generate(alpha, batches):
            if alpha >= 3:
                replies = [Reply(str(alpha), tuple(range(3, 60)), False) for _ in replies]
            yield replies


def test_a_collapse_ends_the_climb_and_is_told(direction, tmp_path):
    engine = Degenerate(lambda alpha: alpha)
    outcome = find(direction, tmp_path / "s", engine=engine, strategy=Race())
    assert 0 < outcome.choice < 3
    collapsed = {row.alpha: row.collapsed for row in outcome.search if row.collapsed}
    assert collapsed
    assert all(alpha >= 3 and "of openings are distinct" in said for alpha, said in collapsed.items())
    asked = completions(tmp_path / "s")
    assert max(asked) <= max(collapsed)  # nothing behind the cliff
    assert all(asked[alpha] <= 12 for alpha in collapsed)


def test_a_collapsed_alpha_is_abandoned_midway(direction, tmp_path):
    engine = Degenerate(lambda alpha: alpha)
    outcome = find(direction, tmp_path / "s", engine=engine, strategy=Grid((1.0, 8.0)))
    assert completions(tmp_path / "s")[8.0] == 12  # a batch
    assert outcome.choice == 1.0


def test_an_alpha_that_has_forgotten_theta1_is_not_even_asked(direction, tmp_path):
    outcome = find(direction, tmp_path / "s", engine=FakeEngine(PEAK, drift=0.3), strategy=Grid((1.0, 30.0)))
    assert 30.0 not in completions(tmp_path / "s")
    [row] = [row for row in outcome.search if row.alpha == 30.0]
    assert (row.prompts, row.reward, row.symptoms) == (0, None, None)
    assert row.collapsed.startswith("log-probability of theta1's replies")


def test_a_smaller_alpha_than_one_that_has_forgotten_theta1_is_looked_at_in_the_same_way(direction, tmp_path):
    find(direction, tmp_path / "s", engine=FakeEngine(PEAK, drift=0.3), strategy=Grid((30.0, 20.0)))
    assert completions(tmp_path / "s").keys() == {0.0, -1.0}


@pytest.mark.parametrize("least", [math.nan, math.inf, -0.1])
def test_an_impossible_least_gain(direction, tmp_path, least):
    with pytest.raises(StudyError, match="it has to be 0 or more"):
        find(direction, tmp_path / "s", min_gain=least)
    assert not (tmp_path / "s").exists()


class Wordy(FakeEngine):
    """Extrapolation makes replies longer, and nothing else."""

    def generate(self, alpha, batches):
        for replies in super().generate(alpha, batches):
            yield [
                Reply(reply.text, (*reply.tokens[:1], *range(round(50 * math.exp(float(reply.text) / 2)))), False)
                for reply in replies
            ]


def test_a_gain_that_is_length_is_not_shipped(direction, tmp_path):
    engine = Wordy(lambda alpha: 2 + min(alpha, 2) / 2, noise=0.2)
    outcome = find(direction, tmp_path / "s", engine=engine)
    assert (outcome.verdict, outcome.model) == (Verdict.GAIN_IS_LENGTH, None)


class Contrary(FakeScorer):
    name = "contrary"

    def score(self, conversations, *_):
        return [-reward for reward in super().score(conversations)]


def test_a_second_scorer_checks_and_does_not_choose(direction, tmp_path):
    outcome = find(direction, tmp_path / "s", scorer=[FakeScorer(), Contrary()])
    assert (outcome.verdict, outcome.model) == (Verdict.SCORERS_DISAGREE, None)
    assert 1.5 <= outcome.choice <= 3.5
    with sqlite3.connect(tmp_path / "s" / "study.sqlite") as database:
        asked = "SELECT DISTINCT part FROM rewards JOIN prompts ON id = prompt WHERE scorer = 'contrary'"
        assert database.execute(asked).fetchall() == [("confirm",)]


class Preferring:
    """Prefers the larger number."""

    name = "preferring"

    def compare(self, conversations, baselines, _):
        texts = [conversation[-1]["content"] for conversation in conversations]
        return [(float(a) > float(b)) + (a == b) / 2 for a, b in zip(texts, baselines, strict=True)]


def test_a_scorer_that_compares_has_theta1_answer_as_much(direction, tmp_path):
    outcome = find(direction, tmp_path / "s", engine=FakeEngine(PEAK, noise=0.4), scorer=Preferring(), strategy=Race())
    assert outcome.verdict is Verdict.SHIP
    assert outcome.decision.least_gain == 0.05
    asked = completions(tmp_path / "s")
    assert asked[0.0] == max(asked.values())
    assert [row.reward for row in outcome.confirm if row.alpha == 0] == [0.5]


def test_a_strategy_that_asks_for_what_the_guard_forbids_comes_to_an_end(direction, tmp_path):
    class Stubborn:
        def __repr__(self):
            return "Stubborn()"

        def __call__(self, seen):
            return Round({0.0: 20, 30.0: 20}, "again and again")

    outcome = find(direction, tmp_path / "s", engine=FakeEngine(PEAK, drift=0.3), strategy=Stubborn())
    assert (outcome.choice, outcome.verdict) == (0.0, Verdict.NO_GAIN)


def test_a_strategy_at_its_end_is_told_what_would_not_be_chosen(direction, tmp_path, monkeypatch):
    """It was not clear enough before."""

    class Once:
        def __repr__(self):
            return "Once()"

        def __call__(self, seen):
            if not seen.rewards:
                return Round({0.0: 20, 1.0: 20, 2.0: 20}, "begin")
            return Round({1.0: 40}, "instead") if 2.0 in seen.collapsed and len(seen.rewards[1.0]) < 40 else None

    monkeypatch.setattr("llm_expo.search.walk.fluent", lambda alphas, *_: frozenset(alphas) - {2.0})
    outcome = find(direction, tmp_path / "s", strategy=Once())
    assert [each.why for each in outcome.rounds] == ["begin", "instead"]
    assert completions(tmp_path / "s") == {-1.0: 16, 0.0: 20, 1.0: 40, 2.0: 20}
    outcome = find(direction, tmp_path / "best", strategy=Once(), choice="best")
    assert [each.why for each in outcome.rounds] == ["begin"]


def test_engine_and_scorer_take_turns(direction, tmp_path):
    told = []

    class Engine(FakeEngine):
        def move(self, alpha):
            told.append("move")

        def rest(self):
            told.append("engine rests")

    class Scorer(FakeScorer):
        def score(self, conversations, *_):
            told.append("score")
            return super().score(conversations)

        def rest(self):
            told.append("scorer rests")

    outcome = find(direction, tmp_path / "s", engine=Engine(PEAK), scorer=Scorer(), turns=True)
    assert outcome.costs["turn"][0] > 0
    whole = " ".join(told)
    assert whole.count("engine rests score scorer rests") == whole.count("score scorer") == len(outcome.rounds) + 1
    assert whole.count("scorer rests move") == len(outcome.rounds) + 1
    assert find(direction, tmp_path / "t").decision == outcome.decision
