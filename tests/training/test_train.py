"""Whole runs of the tiny model, with TRL's real trainers."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from llm_expo.checkpoints import Checkpoint
from llm_expo.errors import ExpoError, OutputError, RecipeError, TrainingError
from llm_expo.training.events import Kept, Stepped
from llm_expo.training.folder import last_state, step_of
from llm_expo.training.plan import make_plan
from llm_expo.training.recipe import AlgorithmName, Lora, Recipe, Save, read_recipe
from llm_expo.training.run import train
from llm_expo.weights import Direction, apply, compare, plan, write

Make = Callable[..., Recipe]


def losses(out: Path) -> list[float]:
    return column(out, "loss")


def column(out: Path, name: str) -> list[float]:
    return [json.loads(line)[name] for line in (out / "metrics.jsonl").read_text().splitlines()]


def weights(model: Path) -> bytes:
    return (model / "model.safetensors").read_bytes()


@pytest.mark.parametrize("algorithm", sorted(set(get_args(AlgorithmName)) - {"sft", "reward"}))
def test_every_algorithm_moves_theta0_and_apply_takes_it_further(
    recipe: Make, theta0: Path, tmp_path: Path, algorithm: AlgorithmName
) -> None:
    train(recipe(algorithm=algorithm), tmp_path / "run")
    found = losses(tmp_path / "run")
    assert len(found) == (10 if algorithm == "kto" else 5)
    assert compare(Direction.open(theta0, tmp_path / "run/model")).total.norm_relative > 1e-3
    apply(theta0, tmp_path / "run/model", 0.5, tmp_path / "further")
    AutoModelForCausalLM.from_pretrained(tmp_path / "further")


@pytest.mark.parametrize("algorithm", ["dpo", "simpo", "rrhf", "ipo", "sft", "reward"])
def test_what_is_trained_is_learned(
    recipe: Make, pairs: Path, examples: Path, tmp_path: Path, algorithm: AlgorithmName
) -> None:
    data = str(examples if algorithm == "sft" else pairs)
    train(recipe(algorithm=algorithm, data=data, steps=60, warmup=0.0), tmp_path / "run")
    found = losses(tmp_path / "run")
    assert sum(found[-10:]) < 0.7 * sum(found[:10])


def test_a_reward_model_rewards_the_chosen(recipe: Make, pairs: Path, tmp_path: Path) -> None:
    from llm_expo.scoring import scorer_from

    train(recipe(algorithm="reward", steps=150, warmup=0.0), tmp_path / "run")
    model = tmp_path / "run/model"
    _, loading = AutoModelForSequenceClassification.from_pretrained(model, output_loading_info=True)
    assert not any(loading.values())
    scorer = scorer_from(f"reward-model:{model}", device="cpu", trust_remote_code=False)
    right = 0
    for line in pairs.read_text().splitlines():
        pair = json.loads(line)
        asked = {"role": "user", "content": pair["prompt"]}
        replies = [{"role": "assistant", "content": pair[side]} for side in ("chosen", "rejected")]
        chosen, rejected = scorer.score([[asked, reply] for reply in replies])
        right += chosen > rejected
    assert right >= 36  # 39 on one machine


def test_models_are_kept_at_the_steps_that_were_asked_for(recipe: Make, theta0: Path, tmp_path: Path) -> None:
    events: list[Any] = []
    trained = train(recipe(save_at=[0.2, 3]), tmp_path / "run", events.append)
    assert [path.name for path in trained.models] == ["step-1", "step-3", "model"]
    assert [event.step for event in events if isinstance(event, Stepped)] == [1, 2, 3, 4, 5]
    assert [event.path.name for event in events if isinstance(event, Kept)] == ["step-1", "step-3", "model"]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        *("lock", "metrics.jsonl", "model", "recipe.json", "step-1", "step-3"),
    ]
    # The first step of a warm-up has rate 0; a fraction of the schedule ends where the whole one passes.
    assert weights(tmp_path / "run/step-1") != weights(tmp_path / "run/step-3") != weights(tmp_path / "run/model")
    train(recipe(fraction=0.6), tmp_path / "part")
    assert weights(tmp_path / "part/model") == weights(tmp_path / "run/step-3")
    train(recipe(fraction=0.6, fraction_of="schedule"), tmp_path / "own")
    assert weights(tmp_path / "own/model") != weights(tmp_path / "run/step-3")
    assert len(losses(tmp_path / "own")) == len(losses(tmp_path / "part")) == 3
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (tmp_path / "run/model" / name).read_bytes() == (theta0 / name).read_bytes()


def test_a_finished_run_is_not_run_again(recipe: Make, tmp_path: Path) -> None:
    first = train(recipe(), tmp_path / "run")
    events: list[Any] = []
    assert train(recipe(), tmp_path / "run", events.append) == first
    assert not any(isinstance(event, Stepped) for event in events)


def test_an_adapter_stays_one_and_names_theta0(recipe: Make, theta0: Path, tmp_path: Path) -> None:
    train(recipe(lora=Lora(rank=2)), tmp_path / "run")
    settings = json.loads((tmp_path / "run/model/adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(theta0)
    apply(theta0, tmp_path / "run/model", 1.0, tmp_path / "further")
    assert (tmp_path / "further/adapter_model.safetensors").exists()


def test_theta0_in_16_bits_is_trained_in_32(recipe: Make, theta0: Path, tmp_path: Path) -> None:
    half = AutoModelForCausalLM.from_pretrained(theta0, dtype=torch.bfloat16)
    half.save_pretrained(tmp_path / "half")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / "half" / name).write_bytes((theta0 / name).read_bytes())
    train(recipe(model=str(tmp_path / "half"), learning_rate=1e-5), tmp_path / "run")
    trained = load_file(tmp_path / "run/model/model.safetensors")
    assert {tensor.dtype for tensor in trained.values()} == {torch.float32}
    assert json.loads((tmp_path / "run/model/config.json").read_text())["dtype"] == "float32"
    # A step of 1e-5 would have left most bfloat16 weights where they were.
    assert compare(Direction.open(tmp_path / "half", tmp_path / "run/model")).total.share_equal < 0.2


@pytest.mark.parametrize("save", ["float32", "difference", "bfloat16"])
def test_a_model_alone_finds_its_theta0_however_it_is_kept(
    recipe: Make, theta0: Path, tmp_path: Path, save: Save
) -> None:
    events: list[Any] = []
    train(recipe(save=save, learning_rate=1e-3), tmp_path / "run", events.append)
    model = tmp_path / "run/model"
    record = json.loads((model / "llm_expo.json").read_text())
    assert record["training"]["recipe"]["coefficients"] == {"beta": 0.1}
    assert (record["training"]["step"], record["training"]["steps"]) == (5, 5)
    pair = Direction.open(None, model)
    assert pair.initial.path == theta0
    written = write(plan(pair, 1.0, dtype="float32"), tmp_path / "further")
    assert written.realised_alpha == pytest.approx(1.0, abs=1e-3)
    (warnings,) = [event.warnings for event in events if isinstance(event, Kept)]
    if save == "float32":
        assert not warnings and "stored" not in record
        return
    stored = record["stored"]
    assert stored["as"] == save
    assert (stored["noise"] < 0.01) == (save == "difference")
    if save == "bfloat16":
        said = f"keeps {stored['share']:.1%} of the direction from theta0 and adds noise of {stored['noise']:.3g} times"
        assert said in warnings[0] and f"(cosine {stored['cosine']:.2f})" in warnings[0]


def test_interrupted_and_run_again_it_ends_with_the_same_weights(recipe: Make, tmp_path: Path) -> None:
    asked = recipe(steps=8, save_at=[4], resume_every=3)
    train(asked, tmp_path / "whole")

    def interrupt(event: object) -> None:
        if isinstance(event, Stepped) and event.step in stops:
            stops.remove(event.step)
            raise KeyboardInterrupt

    stops = [2, 5, 7]
    while stops:
        with pytest.raises(KeyboardInterrupt):
            train(asked, tmp_path / "run", interrupt)
    train(asked, tmp_path / "run", interrupt)
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    assert column(tmp_path / "run", "num_tokens") == column(tmp_path / "whole", "num_tokens")
    seconds = column(tmp_path / "run", "seconds")
    assert seconds == sorted(seconds)
    for name in ("step-4", "model"):
        assert weights(tmp_path / "run" / name) == weights(tmp_path / "whole" / name)


def test_killed_it_ends_with_the_same_weights(recipe: Make, tmp_path: Path) -> None:
    """Once, right after a step; the slow test below kills at any moment."""
    file = written(recipe(), tmp_path / "recipe.toml", save_at=[1, 4], resume_every=2)
    kill = "lambda event: getattr(event, 'step', 0) == 3 and os.kill(os.getpid(), 9)"
    killed = subprocess.run(
        [sys.executable, "-c", f"import os; {_TRAIN[:-1]}, {kill})", file, tmp_path / "run"],
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},  # of another number: other roundings
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert step_of(last_state(tmp_path / "run")) == 2
    asked = read_recipe(file)
    train(asked, tmp_path / "run")
    train(asked, tmp_path / "whole")
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    for name in ("step-4", "model"):
        assert weights(tmp_path / "run" / name) == weights(tmp_path / "whole" / name)


def test_another_recipe_does_not_go_on_in_the_same_folder(recipe: Make, tmp_path: Path) -> None:
    train(recipe(), tmp_path / "run")
    with pytest.raises(OutputError, match=r"begun with recipe\.learning_rate = 0\.01, now it is 0\.02"):
        train(recipe(learning_rate=0.02), tmp_path / "run")


def test_nan_stops_and_keeps_what_was_saved(recipe: Make, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"step 2, micro-batch 1: the loss is nan; its first text begins with \""):
        train(recipe(learning_rate=1e30, warmup=0.0, save_at=[1]), tmp_path / "run")
    assert Checkpoint.open(tmp_path / "run/step-1").tensors
    assert not (tmp_path / "run/model").exists()


def test_out_of_memory_says_what_to_lower(recipe: Make, tmp_path: Path) -> None:
    def exhausted(event: object) -> None:
        if isinstance(event, Stepped):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with pytest.raises(TrainingError, match=r"micro_batch_size \(now 8\) or max_length \(now 1024\), or set gradient"):
        train(recipe(), tmp_path / "run", exhausted)


def test_a_full_disk_before_the_first_step_names_the_place(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Dataset, "save_to_disk", full)
    with pytest.raises(OutputError, match=r"/run: no space left on device; what was kept stays"):
        train(recipe(), tmp_path / "run")


@pytest.mark.parametrize(
    "torchs", ["basic_ios::clear: iostream error", "[enforce fail at inline_container.cc:672]", "PytorchStreamWriter"]
)
def test_a_full_disk_in_torchs_words(recipe: Make, tmp_path: Path, torchs: str) -> None:
    def full(event: object) -> None:
        raise RuntimeError(torchs)

    with pytest.raises(OutputError, match=r"/run: TRL's state cannot be written, the disk may be full; what was kept"):
        train(recipe(), tmp_path / "run", full)


def test_a_full_disk_beneath_another_error(recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        try:
            raise OSError(28, "No space left on device")
        finally:
            raise ValueError("I/O operation on closed file")  # as datasets closes its cache

    monkeypatch.setattr("llm_expo.training.run.make_trainer", full)
    with pytest.raises(OutputError, match=r"/run: no space left on device; what was kept stays"):
        train(recipe(), tmp_path / "run")


def test_no_memory_to_look_at_theta0(recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object) -> None:
        raise MemoryError("Cannot allocate memory (os error 12)")

    monkeypatch.setattr("llm_expo.training.run.refuse_model", exhausted)
    with pytest.raises(TrainingError, match=r"out of memory: lower micro_batch_size \(now 8\) or max_length"):
        train(recipe(), tmp_path / "run")


def test_fields_for_trl(recipe: Make, tmp_path: Path) -> None:
    train(recipe(), tmp_path / "plain")
    train(recipe(trl={"adam_beta1": 0.5}), tmp_path / "other")
    assert losses(tmp_path / "plain") != losses(tmp_path / "other")


def test_what_is_not_ours_stays(recipe: Make, theta0: Path, tmp_path: Path) -> None:
    mine = tmp_path / "run/work/thesis.tex"
    mine.parent.mkdir(parents=True)
    mine.write_text("years of work")
    with pytest.raises(OutputError, match="holds something else, not a training"):
        train(recipe(), tmp_path / "run")
    assert mine.exists()
    with pytest.raises(OutputError, match="lies in theta0's folder"):
        train(recipe(), theta0 / "run")


def test_a_recipe_that_never_began_can_be_mended(recipe: Make, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="this model cannot be trained so"):
        train(recipe(lora=Lora(modules="nothing_here")), tmp_path / "run")
    train(recipe(lora=Lora(rank=2)), tmp_path / "run")
    train(recipe(lora=Lora(rank=2)), tmp_path / "run")
    assert not (tmp_path / "run/work").exists()


def test_a_model_that_lacks_weights_is_refused_before_it_is_trained(recipe: Make, theta0: Path, tmp_path: Path) -> None:
    shutil.copytree(theta0, tmp_path / "part")
    weights = load_file(theta0 / "model.safetensors")
    weights.pop("lm_head.weight")
    save_file(weights, tmp_path / "part/model.safetensors", {"format": "pt"})
    for refuse in (make_plan, lambda asked: train(asked, tmp_path / "run")):
        with pytest.raises(RecipeError, match=r"lm_head.weight for one, and would be drawn at random"):
            refuse(recipe(model=str(tmp_path / "part")))
    assert not (tmp_path / "run").exists()


def test_what_training_refuses_its_plan_refuses_too(recipe: Make, theta0: Path, tmp_path: Path) -> None:
    shutil.copytree(theta0, tmp_path / "short")
    config = json.loads((theta0 / "config.json").read_text())
    (tmp_path / "short/config.json").write_text(json.dumps({**config, "max_position_embeddings": 8}))
    shutil.copytree(theta0, tmp_path / "empty")
    (tmp_path / "empty/model.safetensors").unlink()
    for changes, words in (
        ({"model": str(tmp_path / "short")}, r"the longest record has \d+ tokens, .*; set max_length = 8"),
        ({"model": str(tmp_path / "empty")}, "empty: "),
        ({"trl": {"learning_rate": 1.0}}, r"trl\.learning_rate: is set by the recipe itself"),
        ({"trl": {"adam_beta": 0.9}}, r"trl\.adam_beta: DPOConfig has no such field; adam_beta[12]\?"),
        ({"trl": {"adam_beta1": "x"}}, r'trl\.adam_beta1 is "x": in DPOConfig it is of the type float$'),
        ({"trl": {"neftune_noise_alpha": "x"}}, r"in DPOConfig it is of the type float \| None$"),
        ({"trl": {"packing": True}, "algorithm": "sft"}, r"trl\.packing: cannot be had here"),
    ):
        for refuse in (make_plan, lambda asked: train(asked, tmp_path / "run")):
            with pytest.raises(ExpoError, match=words):
                refuse(recipe(**changes))
    assert not (tmp_path / "run").exists()


def test_dropout_of_an_adapter_is_applied(recipe: Make, tmp_path: Path) -> None:
    for share in (0.0, 0.5):
        train(recipe(lora=Lora(rank=2, dropout=share)), tmp_path / str(share))
    assert losses(tmp_path / "0.0") != losses(tmp_path / "0.5")


def test_a_reward_model_can_be_an_adapter(recipe: Make, tmp_path: Path) -> None:
    train(recipe(algorithm="reward", lora=Lora(rank=2)), tmp_path / "run")
    assert "score" in " ".join(load_file(tmp_path / "run/model/adapter_model.safetensors"))


_TRAIN = "import sys; from pathlib import Path; from llm_expo.training.recipe import read_recipe; "
_TRAIN += "from llm_expo.training.run import train; "
_TRAIN += "train(read_recipe(Path(sys.argv[1])), Path(sys.argv[2]))"


def written(recipe: Recipe, path: Path, **more: Any) -> Path:
    keys = {
        key: getattr(recipe, key) for key in ("model", "data", "algorithm", "learning_rate", "batch_size", "precision")
    }
    path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in {**keys, **more}.items()))
    return path


def test_two_processes_have_the_losses_of_one(recipe: Make, tmp_path: Path) -> None:
    # Two epochs of five steps; 40 records leave no remainder, which several processes share in another way.
    file = written(recipe(algorithm="r_dpo"), tmp_path / "recipe.toml", micro_batch_size=2, epochs=2.0)
    train(recipe(algorithm="r_dpo", epochs=2.0), tmp_path / "one")
    world = "from accelerate import PartialState\nprint('processes', PartialState().num_processes)\n"
    (tmp_path / "train.py").write_text(_TRAIN.replace("; ", "\n") + "\n" + world)
    assert by_two(tmp_path / "train.py", file, tmp_path / "two").split() == ["processes", "2"] * 2
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)


def by_two(script: Path, *arguments: Path) -> str:
    """What a script prints in two processes together."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(
        [*launch, script, *arguments], check=True, env=environment, capture_output=True, text=True, timeout=600
    ).stdout


_FAIL = """
import sys
from pathlib import Path
from llm_expo.errors import ExpoError
from llm_expo.training.events import Kept
from llm_expo.training.recipe import read_recipe
from llm_expo.training.run import train

def full(event):
    if isinstance(event, Kept):
        raise OSError(28, "No space left on device")

for out, watch in (("thesis", print), ("run", full)):
    try:
        train(read_recipe(Path(sys.argv[1])), Path(sys.argv[2]) / out, watch)
    except ExpoError as error:
        sys.stdout.write(f"{type(error).__name__}: {error}\\n")
        sys.stdout.flush()
"""


def test_what_fails_in_one_process_stops_the_others(recipe: Make, tmp_path: Path) -> None:
    """Both go on to the next line, so neither waits for the other nor is ended by the launcher."""
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/thesis.tex").write_text("years of work")
    file = written(recipe(), tmp_path / "recipe.toml", micro_batch_size=4, save_at=[2])
    (tmp_path / "fail.py").write_text(_FAIL)
    said = sorted(by_two(tmp_path / "fail.py", file, tmp_path).splitlines())
    kept = "what was kept stays, and the same command goes on from the last state, if there is one"
    assert said == sorted(
        [
            f"OutputError: {tmp_path}/run: no space left on device; {kept}",
            f"OutputError: {tmp_path}/thesis: holds something else, not a training; name a new folder",
            "TrainingError: process 0 of 2 stopped: [Errno 28] No space left on device",
            f"TrainingError: process 0 of 2 stopped: {tmp_path}/thesis: holds something else, not a training; "
            "name a new folder",
        ]
    )


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_weights(recipe: Make, tmp_path: Path) -> None:
    file = written(recipe(), tmp_path / "recipe.toml", steps=60, save_at=[20], resume_every=7)
    command = [sys.executable, "-c", _TRAIN, file, tmp_path / "run"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # for both runs: another number of threads, other roundings
    subprocess.run([*command[:-1], tmp_path / "whole"], check=True, env=environment)
    rng = random.Random(0)
    for _ in range(8):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not (tmp_path / "run/metrics.jsonl").exists():
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 8))
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, check=True, env=environment)
    for name in ("step-20", "model"):
        assert weights(tmp_path / "run" / name) == weights(tmp_path / "whole" / name)
