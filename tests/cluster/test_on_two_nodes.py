"""Replicas of engine and reward model on a real cluster of two nodes on this machine: same rows, whatever dies."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

from llm_expo.cluster.connection import connected
from llm_expo.errors import EngineError, ScorerError
from llm_expo.generation import Prompt, Request, Sampling, TransformersEngine
from llm_expo.generation.ray_engine import RayEngine, ray_engine_from
from llm_expo.scoring.ray_scorer import ray_scorer_from
from llm_expo.scoring.reward_model import RewardModelScorer
from llm_expo.testing import WORDS, tiny_pair
from llm_expo.weights import Direction

pytestmark = pytest.mark.slow

SAMPLING = Sampling(max_tokens=12)

# Two nodes of a core each, told by address and by the process id of the second one's raylet; they go when the test's
# end of the pipe is closed.
NODES = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster()
first, second = cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)
print(cluster.address, second.all_processes["raylet"][0].process.pid, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[int]:
    """Be connected to it; the process id of its second node."""
    nodes = subprocess.Popen(
        [sys.executable, "-c", NODES],
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert nodes.stdin and nodes.stdout
    try:
        address, pid = nodes.stdout.readline().split()
        with connected(address):
            yield int(pid)
    finally:
        nodes.stdin.close()
        assert nodes.wait() == 0


@pytest.fixture(scope="module")
def direction(tmp_path_factory) -> Direction:
    return Direction.open(*tiny_pair(tmp_path_factory.mktemp("pair")))


@pytest.fixture(scope="module")
def one(direction) -> TransformersEngine:
    """What the replicas are held to."""
    return TransformersEngine(direction, SAMPLING, device="cpu", workers=1)


def batches(engine, *sizes: int) -> list[list[Request]]:
    made = []
    for size in sizes:
        start = sum(map(len, made))
        texts = [WORDS[place % len(WORDS)] + " red" * (place % 5) for place in range(start, start + size)]
        prompts = [Prompt(f"p{text}{n}", ({"role": "user", "content": text},)) for n, text in enumerate(texts)]
        made.append([Request(p.id, ids, "search") for p, ids in zip(prompts, engine.encode(prompts), strict=True)])
    return made


def pids(engine: RayEngine) -> list[int]:
    """Of the replicas that are free."""
    return engine._dispatcher.spread(lambda engine, abandoned: os.getpid())


def all_pids(engine: RayEngine, count: int) -> list[int]:
    while len(found := pids(engine)) < count:
        engine._dispatcher._hear(None)  # of one that has started
    return found


def test_the_same_rows_as_one_engine(cluster, direction, one):
    with ray_engine_from(direction, SAMPLING, replicas=2) as engine:
        assert engine.settings == one.settings
        assert engine.special_tokens == one.special_tokens
        asked = batches(engine, 40, 3, 5, 1, 7, 32)
        assert asked == batches(one, 40, 3, 5, 1, 7, 32)
        first, second = all_pids(engine, 2)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as a replica has
        try:
            assert engine.environment == one.environment
            for alpha in (0.0, 0.8, -1.0):
                engine.move(alpha)
                replies = list(engine.generate(alpha, asked))
                assert replies == list(one.generate(alpha, asked))
                texts = [
                    [(request.tokens, reply.tokens) for request, reply in zip(batch, answers, strict=True)]
                    for batch, answers in zip(asked, replies, strict=True)
                ]
                assert list(engine.log_probabilities(0.3, texts)) == list(one.log_probabilities(0.3, texts))
        finally:
            torch.set_num_threads(threads)
        # A replica that dies while nobody asks it anything is made again all the same.
        os.kill(first, signal.SIGKILL)
        assert list(engine.generate(0.8, asked)) == list(one.generate(0.8, asked))
        found = all_pids(engine, 2)
        assert second in found and first not in found


def test_a_replica_killed_midway(cluster, direction, one, caplog):
    with ray_engine_from(direction, SAMPLING, replicas=2) as engine:
        asked = batches(one, *[8] * 24)
        _, victim = all_pids(engine, 2)
        answers = engine.generate(0.8, asked)
        rows = [next(answers), next(answers)]
        os.kill(victim, signal.SIGKILL)
        rows += answers
        assert rows == list(one.generate(0.8, asked))
        assert "died and is started again" in caplog.text


def test_replicas_that_never_start(cluster, one, monkeypatch):
    monkeypatch.setattr("llm_expo.cluster.replicas._RESTARTS", 1)
    engine = RayEngine(one, [lambda: os.kill(os.getpid(), signal.SIGKILL)], [], threads=1, gpus=0)
    try:
        with pytest.raises(EngineError, match="^all 1 replicas are gone, the last one with: .*died"):
            engine.move(0.0)
    finally:
        engine.end()


def test_a_node_that_does_not_see_the_checkpoints(cluster, direction, tmp_path):
    (tmp_path / "pair").symlink_to(direction.aligned.path.parent)
    # A folder that only this process has open: no other one finds the path.
    fd = os.open(tmp_path / "pair", os.O_RDONLY | os.O_DIRECTORY)
    private = f"/proc/self/fd/{fd}"
    try:
        with ray_engine_from(Direction.open(f"{private}/theta0", f"{private}/theta1"), SAMPLING, replicas=1) as engine:
            with pytest.raises(
                EngineError,
                match=rf"^node [\d.]+: cannot read {private}/theta0/model.safetensors; both checkpoints have to lie on "
                "storage that every node sees under the same path$",
            ):
                engine.move(0.0)
        with ray_scorer_from(f"reward-model:{private}/theta0", replicas=1) as scorer:
            with pytest.raises(
                ScorerError, match=rf"^node [\d.]+: reward-model:{private}/theta0: is not there; it has to lie on"
            ):
                scorer.score([[{"role": "assistant", "content": "sun"}]])
    finally:
        os.close(fd)


def test_more_replicas_than_there_is_room_for(cluster, direction):
    with pytest.raises(EngineError, match=r"--replicas 3, 1 cores each: the nodes of the Ray cluster have 1 \+ 1"):
        with ray_engine_from(direction, SAMPLING, replicas=3):
            pass
    with pytest.raises(EngineError, match=r"--replicas 1, 2 cores each: the nodes of the Ray cluster have 1 \+ 1"):
        with ray_engine_from(direction, SAMPLING, replicas=1, workers=2):
            pass
    with pytest.raises(EngineError, match=r"--replicas 1: the Ray cluster has fewer GPUs; a replica takes one"):
        with ray_engine_from(direction, SAMPLING, replicas=1, device="cuda"):
            pass
    with pytest.raises(ScorerError, match="1 replicas of reward-model:rm: the Ray cluster has fewer GPUs"):
        with ray_scorer_from("reward-model:rm", replicas=1, device="cuda"):
            pass


def test_the_rewards_of_one_scorer(cluster, direction, tmp_path):
    """While an engine's replicas hold all cores."""
    tokenizer = AutoTokenizer.from_pretrained(direction.aligned.path)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, num_labels=1, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        LlamaForSequenceClassification(config).save_pretrained(tmp_path / "rm")
    tokenizer.save_pretrained(tmp_path / "rm")
    asked = [
        [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": " sun sea"[: i % 9] * (i * 7 % 300)}]
        for i in range(150)
    ]
    spec = f"reward-model:{tmp_path / 'rm'}"
    with ray_engine_from(direction, SAMPLING, replicas=2), ray_scorer_from(spec, replicas=2) as scorer:
        assert scorer.name == spec
        scores = scorer.score(asked)
        assert scores == pytest.approx(RewardModelScorer(str(tmp_path / "rm"), device="cpu").score(asked), abs=1e-5)
        assert len(set(scores)) > 100
        os.kill(scorer._dispatcher.spread(lambda scorer, abandoned: os.getpid())[0], signal.SIGKILL)
        assert scorer.score(asked) == scores
        assert scorer.score([]) == []


def test_a_node_killed_midway(cluster, direction, one, caplog):
    """The last test here: the node does not come back."""
    with ray_engine_from(direction, SAMPLING, replicas=2) as engine:
        asked = batches(one, *[8] * 24)
        all_pids(engine, 2)
        answers = engine.generate(0.8, asked)
        rows = [next(answers), next(answers)]
        raylet = psutil.Process(cluster)
        for process in (raylet, *raylet.children(recursive=True)):
            process.kill()
        rows += answers
        assert rows == list(one.generate(0.8, asked))
        assert "died and is started again" in caplog.text
