"""The loop on an engine without a model: what is asked for, what is decided, and that a killed search ends the same."""

import json
import multiprocessing
import random
import resource
import signal
import sqlite3
import time

import pytest

from llm_expo.errors import OutputError, ScorerError, StudyError
from llm_expo.generation import Prompt, Sampling, TransformersEngine
from llm_expo.scoring import FunctionScorer
from llm_expo.search import Grid, Paper, Verdict, search
from llm_expo.search.run import Done, Tried
from llm_expo.testing import FakeEngine, FakeScorer, peak
from llm_expo.weights import Direction

PROMPTS = [Prompt(f"p{i}", ({"role": "user", "content": "word " * (1 + i % 7) + str(i)},)) for i in range(90)]
WORDED = [Prompt(f"w{i}", ({"role": "user", "content": f"the cat {'sun ' * i}"},)) for i in range(12)]
PEAK = peak(2.5)
ROWS = (
    "SELECT * FROM prompts ORDER BY id",
    "SELECT * FROM completions ORDER BY alpha, prompt, sample",
    "SELECT * FROM rewards ORDER BY alpha, prompt, sample, scorer",
)


def rows(folder):
    with sqlite3.connect(folder / "study.sqlite") as database:
        return [database.execute(query).fetchall() for query in ROWS]


def by_length(conversations):
    return [len(conversation[-1]["content"]) for conversation in conversations]


def find(direction, out, *, curve=PEAK, prompts=PROMPTS, engine=None, scorer=None, **options):
    options = {"strategy": Paper((2.0, 1.0, 0.5)), "batch_size": 12, **options}
    return search(direction, prompts, engine or FakeEngine(curve), scorer or FakeScorer(), out, **options)


@pytest.fixture
def direction(pair):
    return Direction.open(*pair)


def test_the_best_alpha_is_found_confirmed_and_written(direction, tmp_path):
    events = []
    outcome = find(direction, tmp_path / "s", watch=events.append)
    assert outcome.verdict is Verdict.SHIP
    assert 1.5 <= outcome.choice <= 3.5
    assert [row.alpha for row in outcome.search] == sorted(row.alpha for row in outcome.search)
    assert max(outcome.search, key=lambda row: row.reward).alpha == outcome.choice
    assert [row.alpha for row in outcome.confirm] == [-1.0, 0.0, outcome.choice]
    assert (outcome.search[0].prompts, outcome.confirm[0].prompts) == (60, 30)
    assert outcome.gain is not None and outcome.gain.low > 0
    assert outcome.model == tmp_path / "s" / "model"
    assert json.loads((outcome.model / "llm_expo.json").read_text())["alpha"] == outcome.choice
    for row in outcome.search:
        assert row.log_probability == pytest.approx(-2 - row.alpha)
    tried = [event for event in events if isinstance(event, Tried)]
    assert len(tried) == len(outcome.search) + len(outcome.confirm)
    done = [event for event in events if isinstance(event, Done) and event.activity == "generate"]
    assert {(event.done, event.total) for event in done if event.done == event.total} == {(60, 60), (30, 30)}


def test_nothing_is_written_where_nothing_helps(direction, tmp_path):
    outcome = find(direction, tmp_path / "s", curve=lambda alpha: -abs(alpha))
    assert (outcome.choice, outcome.verdict, outcome.gain, outcome.model) == (0.0, Verdict.NO_GAIN, None, None)
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
    slight = {"engine": FakeEngine(lambda alpha: 0.2 * alpha), "strategy": Grid((0.1,))}
    outcome = find(direction, tmp_path / "a", **slight, prompts=PROMPTS[:36], write_model="always")
    assert (outcome.choice, outcome.verdict) == (0.1, Verdict.UNDERPOWERED)
    assert outcome.model is not None
    assert find(direction, tmp_path / "n", write_model="never").model is None
    assert not (tmp_path / "n" / "model").exists()


def test_an_earlier_model_is_replaced_whole_and_what_is_not_ours_is_left(direction, tmp_path, caplog):
    outcome = find(direction, tmp_path / "s")
    assert find(direction, tmp_path / "s", write_model="never").model == outcome.model
    provenance = outcome.model / "llm_expo.json"
    provenance.write_text(json.dumps({"alpha": 99.0}))
    assert find(direction, tmp_path / "s", write_model="never").model is None
    assert "holds alpha 99, which an earlier decision of this study chose" in caplog.text
    assert find(direction, tmp_path / "s") == outcome
    assert json.loads(provenance.read_text())["alpha"] == outcome.choice
    for broken in ("{}", "{", "[]"):
        provenance.write_text(broken)
        with pytest.raises(OutputError, match="is in the way of the model and not one of ours; move it"):
            find(direction, tmp_path / "s")
    assert provenance.exists()


def test_every_extension_asks_for_more_confidence(direction, tmp_path):
    """Looking again and again at a growing study must not wear its error down."""
    confidences = [
        find(direction, tmp_path / "s", prompts=PROMPTS[:n], extend=n > 30).gain.confidence for n in (30, 60, 90)
    ]
    assert confidences == [0.95, 0.975, 0.9875]


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
    assert len(engine.generated) == len(set(engine.generated)) == 60 * len(outcome.search) + 30 * 3


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

    def score(self, conversations):
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
        find(direction, tmp_path / "s", scorer=Failing(11, how))
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


def test_a_killed_search_ends_as_one_that_ran_through(direction, tmp_path):
    whole = find(direction, tmp_path / "whole")
    fork = multiprocessing.get_context("fork")
    moments = random.Random(7)
    kills = 0
    for _ in range(60):
        process = fork.Process(target=find, args=(direction, tmp_path / "s"), kwargs={"engine": Slow(peak(2.5))})
        process.start()
        process.join(moments.uniform(0.005, 0.12))
        if process.exitcode is not None:
            break
        process.kill()
        process.join()
        kills += 1
    assert kills >= 5
    resumed = find(direction, tmp_path / "s")
    assert rows(tmp_path / "s") == rows(tmp_path / "whole")
    for field in ("search", "confirm", "choice", "verdict", "gain", "examples"):
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
