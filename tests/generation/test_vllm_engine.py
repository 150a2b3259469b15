"""The engine on vLLM, our side and the child, with a vLLM of a few lines; test_vllm.py has the real one."""

import importlib.util
import os
import select
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fake_python import FAKE_VLLM, interpreter, interpreter_with
from safetensors.torch import load_file, save_file

from llm_expo.errors import EngineError, PromptError
from llm_expo.generation import Prompt, Request, Sampling
from llm_expo.generation.child import Child
from llm_expo.generation.vllm_engine import _CHILD, VARIABLES, VllmEngine, _steps
from llm_expo.testing import WORDS, tiny_pair
from llm_expo.weights import Direction, _kernel, plan, write

SAMPLING = Sampling(max_tokens=12)


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    return interpreter_with(tmp_path_factory.mktemp("fake"), FAKE_VLLM)


@pytest.fixture(scope="module")
def engine(python, tmp_path_factory):
    """One for all tests, since every child of it has to import torch."""
    folder = tmp_path_factory.mktemp("engine")
    made = VllmEngine(Direction.open(*tiny_pair(folder)), SAMPLING, python=python, log=folder / "vllm.log")
    yield made
    made.rest()


def requests(engine: VllmEngine, *indices: int, noise: str = "search") -> list[Request]:
    prompts = [Prompt(f"p{index}", ({"role": "user", "content": WORDS[index]},)) for index in indices]
    return [Request(p.id, tokens, noise) for p, tokens in zip(prompts, engine.encode(prompts), strict=True)]


def test_settings_and_environment_need_no_running_vllm(engine):
    assert engine.settings["engine"] == "vllm/2"
    assert engine.settings["temperature"] == 0.7
    assert engine.environment["vllm"] == "9.9"
    assert engine.environment["tensor parallel"] == 1
    assert engine._child is None


def test_replies_follow_from_seed_and_weights(engine):
    first = list(engine.generate(0.0, [requests(engine, 1, 2), requests(engine, 3)]))
    assert [len(batch) for batch in first] == [2, 1]
    assert list(engine.generate(4.0, [requests(engine, 1, 2), requests(engine, 3)])) != first
    assert list(engine.generate(0.0, [requests(engine, 1, 2), requests(engine, 3)])) == first
    assert list(engine.generate(0.0, [requests(engine, 1, 2, noise="confirm")])) != first[:1]
    [[one, _], _] = first
    assert one.tokens[-1] == 1 and not one.truncated and one.text
    short = replace(SAMPLING, max_tokens=3)
    engine._sampling, whole = short, engine._sampling
    [[cut]] = engine.generate(0.0, [requests(engine, 1)])
    engine._sampling = whole
    assert cut.tokens == one.tokens[:3] and cut.truncated


def test_log_probabilities_are_of_the_replies_tokens(engine):
    batch = [((5, 6, 7), (2, 4)), ((5,), (9,))]
    assert list(engine.log_probabilities(0.5, [batch, batch[1:]])) == [[-3.0, -9.0], [-9.0]]


def test_after_a_rest_it_goes_on(engine):
    [[reply]] = engine.generate(0.5, [requests(engine, 1)])
    engine.rest()
    assert [[reply]] == list(engine.generate(0.5, [requests(engine, 1)]))
    assert "enable_prefix_caching" in engine._log.read_text()


def test_a_prompt_that_leaves_no_room(engine):
    with pytest.raises(PromptError, match=r"p0: its \d+ tokens and a reply of 13 exceed the model's context"):
        engine.encode([Prompt("p0", ({"role": "user", "content": "red " * 5000},))])


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("small", r"vLLM \(.*python\): ValueError: To serve at least one request, more KV cache is needed; its log: "),
        ("die", r"was killed \(by the system, if memory ran out\): RuntimeError: the device is on fire; its log: "),
    ],
)
def test_a_failing_vllm_is_one_line_with_its_reason_and_its_log(engine, monkeypatch, fault, said):
    engine.rest()
    monkeypatch.setenv("FAKE_VLLM", fault)
    with pytest.raises(EngineError, match=said + str(engine._log)) as caught:
        list(engine.generate(0.0, [requests(engine, 1)]))
    assert "\n" not in str(caught.value)
    monkeypatch.delenv("FAKE_VLLM")
    assert list(engine.generate(0.0, [requests(engine, 1)]))  # another child


def test_interpreters_that_will_not_do(pair, tmp_path):
    direction = Direction.open(*pair)

    def environment(python: Path):
        return VllmEngine(direction, SAMPLING, python=python).environment

    with pytest.raises(EngineError, match=r"vLLM \(.*absent\): .*absent cannot be run: No such file or directory"):
        environment(tmp_path / "absent")
    with pytest.raises(EngineError, match="vLLM is not installed there: .* -m pip install vllm"):
        environment(interpreter(tmp_path))
    with pytest.raises(EngineError, match="ended with status 3: no such thing"):
        environment(interpreter(tmp_path, "echo no such thing >&2", "exit 3"))


def orphan(python: Path, log: Path, fault: str) -> int:
    """The pid of a child whose parent is killed after it has asked it something."""
    script = (
        "from pathlib import Path\nfrom llm_expo.generation.child import Child\n"
        f"child = Child([{str(python)!r}, {str(_CHILD)!r}], { ({**VARIABLES, 'FAKE_VLLM': fault})!r}, "
        f"Path({str(log)!r}), 'x')\n"
        "child.ask({'model': 'x', 'kernel': 'x', 'options': {}})\nprint(child._process.pid, flush=True)\n"
        "child.ask({'do': 'generate', 'prompts': [[1]], 'seeds': [1], "
        "'sampling': {'stop_token_ids': [1], 'max_tokens': 9}})\n"
        "print('done', flush=True)\nimport time\ntime.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    if fault == "hang":
        while "hanging" not in log.read_text():
            pass
    else:
        assert parent.stdout.readline() == "done\n"
    child = os.pidfd_open(pid)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    return child


@pytest.mark.parametrize("fault", ["", pytest.param("hang", marks=pytest.mark.slow)])
def test_the_child_does_not_outlive_its_parent(python, tmp_path, fault):
    child = orphan(python, tmp_path / "log", fault)
    assert select.select([child], [], [], 60)[0]
    os.close(child)


def test_an_interrupt_ends_the_child(python, tmp_path, monkeypatch):
    child = Child([str(python), str(_CHILD)], {}, tmp_path / "log", "x")
    child.ask({"model": "x", "kernel": "x", "options": {}})
    pid = os.pidfd_open(child._process.pid)
    monkeypatch.setattr(child._process.stdout, "readline", lambda: (_ for _ in ()).throw(KeyboardInterrupt), False)
    with pytest.raises(KeyboardInterrupt):
        child.ask({"do": "rest"})
    assert select.select([pid], [], [], 60)[0]
    os.close(pid)


@pytest.fixture(scope="module")
def vllm_child():
    spec = importlib.util.spec_from_file_location("vllm_child", _CHILD)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("dtype", ["keep", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("alpha", [0.7, -0.5, 0.0, -1.0])
def test_the_childs_theta_is_what_apply_writes(vllm_child, tmp_path, dtype, alpha):
    """And so is every part of it, however it is cut."""
    theta0, _ = tiny_pair(tmp_path / "a", dtype="float32")
    _, theta1 = tiny_pair(tmp_path / "b", dtype="bfloat16", shard_size="5KB")
    extrapolation = plan(Direction.open(theta0, theta1), alpha, dtype=dtype)
    write(extrapolation, tmp_path / "out")
    written = {
        name: value for file in (tmp_path / "out").glob("*.safetensors") for name, value in load_file(file).items()
    }
    told = dict(vllm_child.theta(_kernel.__file__, _steps(extrapolation)))
    assert told.keys() == written.keys()
    for name, tensor in told.items():
        expected = written[name]
        assert (tensor.dtype, tensor.shape) == (expected.dtype, expected.shape)
        parts = [lambda t: t, lambda t: t.narrow(0, 1, t.shape[0] - 2)]
        if tensor.ndim == 2:
            parts += [
                lambda t: t.narrow(1, 3, 5),
                lambda t: t.t(),
                lambda t: t.chunk(2, dim=1)[1],
                lambda t: t[1:4].reshape(3, -1, 2).permute(1, 0, 2),
                lambda t: torch.cat([t, t]),
            ]
        for part in parts:
            wanted = part(expected).contiguous()
            got = torch.empty_like(wanted).copy_(part(tensor))
            assert torch.equal(got.view(torch.uint8), wanted.view(torch.uint8)), name


def test_a_model_that_changes_what_it_loads(vllm_child, pair):
    [(name, tensor), *_] = vllm_child.theta(_kernel.__file__, _steps(plan(Direction.open(*pair), 0.5)))
    with pytest.raises(RuntimeError, match=rf"{name}: aten.mul_.Tensor changes it while it is loaded"):
        tensor.mul_(2)
    assert torch.equal(tensor * 2, tensor + tensor)


def test_weights_that_are_not_finite(vllm_child, pair):
    tensors = load_file(pair[1] / "model.safetensors")
    name = max(tensors)
    tensors[name].view(-1)[5] = float("nan")
    save_file(tensors, pair[1] / "model.safetensors", metadata={"format": "pt"})
    told = dict(vllm_child.theta(_kernel.__file__, _steps(plan(Direction.open(*pair), 0.5))))
    with pytest.raises(RuntimeError, match=rf"{name}: NaN or infinity with alpha 0.5, in theta0, theta1 or the result"):
        told[name].clone()


def test_a_difference_is_written_and_loaded(pair, python, tmp_path):
    from llm_expo.checkpoints import Checkpoint
    from llm_expo.weights import write_difference

    write_difference(Checkpoint.open(pair[0]), Checkpoint.open(pair[1]), tmp_path / "kept")
    direction = Direction.open(None, tmp_path / "kept")
    engine = VllmEngine(direction, SAMPLING, python=python, scratch=tmp_path / "scratch", log=tmp_path / "log")
    assert list(engine.generate(0.5, [requests(engine, 1, 2)]))
    assert not (tmp_path / "scratch").exists()
    engine.rest()


def test_an_adapter_on_theta0_is_scaled_and_no_weights_move(pair, lora, python, tmp_path, monkeypatch):
    monkeypatch.setattr("llm_expo.generation.vllm_engine.folder_at", None)  # nobody asks for a whole theta(alpha)
    direction = Direction.open(pair[0], lora(pair[0], "adapter", rank_pattern={"v_proj": 9}))
    engine = VllmEngine(direction, SAMPLING, python=python, scratch=tmp_path / "scratch", log=tmp_path / "log")
    replies = {alpha: list(engine.generate(alpha, [requests(engine, 1, 2)])) for alpha in (0.0, 0.5, -1.0)}
    assert [replies[0.0]] == [list(engine.generate(0.0, [requests(engine, 1, 2)]))]
    assert len({str(each) for each in replies.values()}) == 3
    assert list(engine.log_probabilities(-1.0, [[((5, 6, 7), (2, 4))]])) == [[-3.0]]
    assert not (tmp_path / "scratch").exists()
    engine.rest()
    said = (tmp_path / "log").read_text()
    assert f"started on {pair[0]} with " in said
    for option in (("enable_lora", True), ("lora_target_modules", ["q_proj", "v_proj"]), ("max_lora_rank", 16)):
        assert str(option) in said
    bare = VllmEngine(Direction.alone(pair[0]), SAMPLING, python=python)
    bare._steps = lambda alpha: []
    assert replies[-1.0] == list(bare.generate(0.0, [requests(bare, 1, 2)]))
    bare.rest()


@pytest.mark.parametrize(
    ("fault", "rank", "said"),
    [
        ("no adapters", 4, "ValueError: FakeForCausalLM does not support LoRA yet."),
        ("lost", 4, "vLLM has no place for the adapter's model.layers.0.q_proj, and 0 others"),
        ("", 17, "rank 17 is more than vLLM takes, which is 16"),
    ],
)
def test_an_adapter_that_vllm_does_not_take_is_merged(
    pair, lora, python, tmp_path, monkeypatch, caplog, fault, rank, said
):
    monkeypatch.setenv("FAKE_VLLM", fault)
    caplog.set_level("INFO")
    direction = Direction.open(pair[0], lora(pair[0], "adapter", r=rank))
    engine = VllmEngine(direction, SAMPLING, python=python, scratch=tmp_path / "scratch", log=tmp_path / "log")
    first = list(engine.generate(0.0, [requests(engine, 1, 2)]))
    assert said in caplog.text and "theta(alpha) is written whole, since the adapter will not do: " in caplog.text
    assert list(engine.generate(4.0, [requests(engine, 1, 2)])) != first
    engine.rest()
    assert list(engine.generate(0.0, [requests(engine, 1, 2)])) == first
    assert caplog.text.count("written whole") == 1
    assert not (tmp_path / "scratch").exists()
    engine.rest()


def test_a_vllm_that_took_the_adapter_before_and_does_not_start_again(pair, lora, python, tmp_path, monkeypatch):
    """A study is not to go on in other arithmetic because memory was short for a moment."""
    direction = Direction.open(pair[0], lora(pair[0], "adapter"))
    engine = VllmEngine(direction, SAMPLING, python=python, log=tmp_path / "log")
    list(engine.generate(0.5, [requests(engine, 1)]))
    engine.rest()
    monkeypatch.setenv("FAKE_VLLM", "small")
    with pytest.raises(EngineError, match="more KV cache is needed"):
        list(engine.generate(0.5, [requests(engine, 1)]))
    monkeypatch.delenv("FAKE_VLLM")
    assert list(engine.generate(0.5, [requests(engine, 1)]))
    assert "enable_lora" in (tmp_path / "log").read_text()
    engine.rest()


@pytest.mark.parametrize(
    "settings",
    [{"target_modules": ["q_proj", "lm_head"]}, {"target_modules": ["embed_tokens"]}, {"modules_to_save": ["lm_head"]}],
)
def test_an_adapter_of_the_head_or_the_embeddings_is_merged(pair, lora, python, tmp_path, caplog, settings):
    """Beside an adapter of the head, vLLM 0.32 has no log-probabilities of a prompt."""
    caplog.set_level("INFO")
    direction = Direction.open(pair[0], lora(pair[0], "adapter", **settings))
    engine = VllmEngine(direction, SAMPLING, python=python, scratch=tmp_path / "scratch", log=tmp_path / "log")
    assert list(engine.generate(0.5, [requests(engine, 1)]))
    assert "enable_lora" not in (tmp_path / "log").read_text()
    assert caplog.text.count("theta(alpha) is written whole") == 1
    engine.rest()
