"""The engine on the real vLLM beside the one on transformers, on SmolLM2, whole and by an adapter: `make test-vllm`."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llm_expo.demo.pair import ADAPTER, make_pair
from llm_expo.generation import Request, Sampling, TransformersEngine, read_prompts
from llm_expo.generation.vllm_engine import _CHILD, VARIABLES, VllmEngine, _steps
from llm_expo.weights import Direction, _kernel, plan, write

PYTHON = os.environ.get("LLM_EXPO_VLLM_PYTHON", "")
pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not PYTHON, reason="LLM_EXPO_VLLM_PYTHON does not name a Python with vLLM; see make test-vllm"),
]

ALPHAS = (0.0, 2.0, -0.5)
GREEDY = Sampling(temperature=0, max_tokens=32)  # with the penalties, which change what is likeliest

NEAR_TIE = 1e-3
"""Nats between the two likeliest tokens: in float32, the two engines' sums differ by about 1e-5."""


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> tuple[Path, Path]:
    return make_pair(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module", params=["whole", "adapter"])
def direction(demo, request) -> Direction:
    return Direction.open(demo[0], ADAPTER if request.param == "adapter" else demo[1])


@pytest.fixture(scope="module")
def engine(direction, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vllm")
    made = VllmEngine(direction, GREEDY, python=Path(PYTHON), log=folder / "log", scratch=folder / "scratch")
    yield made
    made.rest()


@pytest.fixture(scope="module")
def requests(engine) -> list[Request]:
    prompts = read_prompts()[:32]
    return [Request(p.id, tokens, "search") for p, tokens in zip(prompts, engine.encode(prompts), strict=True)]


@pytest.fixture(scope="module")
def replies(engine, requests):
    return {alpha: next(engine.generate(alpha, [requests])) for alpha in ALPHAS}


@pytest.fixture(scope="module")
def ours(direction, requests):
    made = TransformersEngine(direction, GREEDY, device="cpu")
    return {alpha: next(made.generate(alpha, [requests])) for alpha in ALPHAS}, made


@pytest.mark.parametrize("alpha", ALPHAS)
def test_greedy_replies_are_those_of_the_engine_on_transformers(ours, replies, requests, alpha):
    expected, engine = ours[0][alpha], ours[1]
    differing = [place for place in range(32) if replies[alpha][place].tokens != expected[place].tokens]
    gaps = {
        place: gap(engine, alpha, requests[place], expected[place].tokens, replies[alpha][place].tokens)
        for place in differing
    }
    print(f"alpha {alpha:g}: {32 - len(differing)} of 32 alike; gaps of the others: {gaps}")
    assert all(abs(value) < NEAR_TIE for value in gaps.values())
    assert len(differing) <= 32 * 0.05
    for place in set(range(32)) - set(differing):
        assert replies[alpha][place] == expected[place]


def gap(
    engine: TransformersEngine, alpha: float, request: Request, one: tuple[int, ...], other: tuple[int, ...]
) -> float:
    """How much likelier the token of `one` is than that of `other` where they part, penalties included."""
    at = next(place for place, pair in enumerate(zip(one, other, strict=False)) if len(set(pair)) == 2)
    with torch.inference_mode():
        logits = engine._model(alpha)(torch.tensor([[*request.tokens, *one[:at]]])).logits[0, -1].float()
    for token in one[:at]:
        logits[token] -= GREEDY.frequency_penalty
    logits[list(set(one[:at]))] -= GREEDY.presence_penalty
    return float(logits[one[at]] - logits[other[at]])


def test_to_return_to_an_alpha_is_to_have_its_replies_again(engine, replies, requests):
    texts = [(request.tokens, reply.tokens) for request, reply in zip(requests, replies[2.0], strict=True)]
    [read] = engine.log_probabilities(2.0, [texts])
    assert next(engine.generate(-0.5, [requests[:8]])) != replies[2.0][:8]
    assert next(engine.generate(2.0, [requests])) == replies[2.0]
    assert next(engine.log_probabilities(2.0, [texts])) == read


def test_no_whole_checkpoint_is_written(engine, direction, monkeypatch):
    sizes, ask = [], engine._ask

    def measured(what, **about):
        sizes.append(sum(each.stat().st_size for each in engine._scratch.rglob("*") if each.is_file()))
        return ask(what, **about)

    monkeypatch.setattr(engine, "_ask", measured)
    for alpha in (0.25, 1.0):
        engine.move(alpha)
    largest = sum(each.stat().st_size for each in ADAPTER.iterdir()) + 10_000 if direction.aligned.adapter else 0
    assert len(sizes) == 2
    assert largest / 2 <= sizes[0] <= largest and largest / 2 <= sizes[1] <= largest
    assert not engine._scratch.exists()


@pytest.mark.parametrize("alpha", [*ALPHAS, -1.0])
def test_log_probabilities_are_those_of_the_engine_on_transformers(engine, ours, replies, requests, alpha):
    texts = [(request.tokens, reply.tokens) for request, reply in zip(requests, replies[0.0], strict=True)]
    [theirs], [expected] = engine.log_probabilities(alpha, [texts]), ours[1].log_probabilities(alpha, [texts])
    print(f"alpha {alpha:g}: at most {max(abs(a - b) for a, b in zip(theirs, expected, strict=True)):.1e} apart")
    assert theirs == pytest.approx(expected, abs=1e-4)


def test_the_same_seed_is_the_same_noise_at_every_alpha(engine, requests):
    """So two models that are almost one give almost the same replies, where independent noise would part them."""
    engine._sampling = Sampling(max_tokens=16)
    one, other = (next(engine.generate(alpha, [requests])) for alpha in (1.0, 1.0001))
    fresh = next(engine.generate(1.0, [[Request(each.prompt, each.tokens, "confirm") for each in requests]]))
    engine._sampling = GREEDY
    near, independent = (sum(a == b for a, b in zip(one, each, strict=True)) for each in (other, fresh))
    print(f"same replies at two close alphas: {near} of 32; with other noise: {independent}")
    assert near >= 28
    assert independent <= 8


def test_many_seeded_requests_at_once(engine, requests):
    """vLLM 0.32 fails on a CPU where it reads a seeded request's prompt in pieces; so it is told not to."""
    engine._sampling = Sampling(max_tokens=2)
    [replies] = engine.generate(
        0.0, [[Request(f"{each.prompt} {n}", each.tokens, "x") for n in range(8) for each in requests]]
    )
    engine._sampling = GREEDY
    assert len(replies) == 256


def test_bits_are_those_that_apply_writes_and_vllm_loads(demo, tmp_path):
    """Of every fused parameter, and of the head that is tied to the embeddings."""
    direction = Direction.open(*demo)

    def held(model: Path, moves: list[object] | None) -> list[dict[str, str]]:
        script = [PYTHON, str(Path(__file__).with_name("vllm_bits.py")), str(_CHILD), str(model), _kernel.__file__]
        done = subprocess.run(
            [*script, "float32", "moves" if moves else "load"],
            input=json.dumps(moves),
            capture_output=True,
            text=True,
            env=os.environ | VARIABLES,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout.splitlines()[-1])

    write(plan(direction, 2.0), tmp_path / "out")
    [loaded] = held(tmp_path / "out", None)
    moves = [_steps(plan(direction, alpha)) for alpha in (-0.5, 2.0)]
    before, moved = held(direction.aligned.path, moves)
    assert moved == loaded
    assert before.keys() == loaded.keys() and before != loaded
    names = " ".join(loaded)
    assert all(part in names for part in ("qkv_proj", "gate_up_proj", "embed_tokens", "lm_head", "layernorm"))


def test_two_ranks_calculate_their_own_parts(pair, tmp_path, monkeypatch):
    """A moved model reads a text as one does that was started from what `apply` writes, to the last bit."""
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # vLLM wants a NUMA node for each rank otherwise
    for seed in (0, 1):
        sizes = {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64, "eos_token_id": 1}
        torch.manual_seed(seed)
        LlamaForCausalLM(LlamaConfig(**sizes, **heads)).save_pretrained(pair[seed])
    direction = Direction.open(*pair)
    write(plan(direction, 1.5), tmp_path / "out")
    texts = [((5, 6, 7), (8, 9, 10, 11)), ((4,), (20, 21))]
    engine = VllmEngine(direction, GREEDY, python=Path(PYTHON), tensor_parallel=2, log=tmp_path / "log")
    [start] = engine.log_probabilities(-1.0, [texts])
    [moved] = engine.log_probabilities(1.5, [texts])
    engine.rest()
    engine._child, engine._alpha = engine._started(tmp_path / "out"), 1.5  # as vLLM itself has loaded it
    [loaded] = engine.log_probabilities(1.5, [texts])
    engine.rest()
    assert moved == loaded
    assert moved != start


def test_two_ranks_share_an_adapter(pair, lora, tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    sizes = {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64, "eos_token_id": 1}
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**sizes, **heads)).save_pretrained(pair[0])
    adapter = lora(pair[0], "adapter", target_modules="all-linear", rank_pattern={"o_proj": 9})
    direction = Direction.open(pair[0], adapter)
    texts = [((5, 6, 7), (8, 9, 10, 11)), ((4,), (20, 21))]
    engine = VllmEngine(direction, GREEDY, python=Path(PYTHON), tensor_parallel=2, log=tmp_path / "log")
    ours = TransformersEngine(direction, GREEDY, device="cpu")
    read = {}
    for alpha in (1.5, -1.0, -0.5):
        [read[alpha]] = engine.log_probabilities(alpha, [texts])
        assert read[alpha] == pytest.approx(next(ours.log_probabilities(alpha, [texts])), abs=1e-4)
    assert abs(read[1.5][0] - read[-1.0][0]) > 0.01
    assert engine._took_adapter
    engine.rest()
