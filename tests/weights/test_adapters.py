"""Adapters in, an adapter or a whole model out: PEFT loads it, and float32 sums in memory say what it has to answer."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llm_expo.checkpoints import Checkpoint
from llm_expo.checkpoints.adapted import adapted
from llm_expo.checkpoints.adapter import Adapter
from llm_expo.errors import CheckpointError, ExpoError, MismatchError
from llm_expo.weights import Direction, plan, write
from llm_expo.weights.adapters import plan_adapter
from llm_expo.weights.hints import other_base

ALPHA = 0.7
State = dict[str, torch.Tensor]


def load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def on(base: Path, adapter: Path) -> Any:
    from peft import PeftModel

    return PeftModel.from_pretrained(load(base), str(adapter))


def answers(model: Any) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=torch.arange(2, 22).reshape(2, 10)).logits
    return logits


def merged(base: Path, adapter: Path) -> State:
    return dict(on(base, adapter).merge_and_unload().state_dict())


def expected(base: Path, initial: State, aligned: State, alpha: float) -> torch.Tensor:
    """The answers of a live model whose weights are summed in float32."""
    model = load(base)
    model.load_state_dict({name: aligned[name] + alpha * (aligned[name] - initial[name]) for name in aligned})
    return answers(model)


def assert_close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {"target_modules": ["q_proj", "down_proj"]}),
    "rslora and patterns": (
        {},
        {
            "target_modules": "all-linear",
            "use_rslora": True,
            "rank_pattern": {"k_proj": 2},
            "alpha_pattern": {"layers.0.mlp.up_proj": 3},
        },
    ),
    "modules_to_save": ({}, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]}),
    "tied": (
        {"tie_word_embeddings": True},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    ),
    "biases": ({"attention_bias": True}, {"target_modules": ["q_proj"], "bias": "all"}),
    "embedding": ({}, {"target_modules": ["embed_tokens", "lm_head"]}),
    "conv1d": ({"architecture": "gpt2"}, {"target_modules": ["c_attn", "c_proj", "c_fc"]}),
    "bfloat16 base": ({"dtype": "bfloat16"}, {"target_modules": ["q_proj", "down_proj"]}),
}


@pytest.mark.parametrize("case", CASES)
def test_theta1_is_an_adapter_on_theta0(
    case: str, causal_model: Callable[..., Path], lora: Callable[..., Path], tmp_path: Path
) -> None:
    model, settings = CASES[case]
    base = causal_model("base", **model)
    theta1 = lora(base, "theta1", **settings)
    wanted = expected(base, dict(load(base).state_dict()), merged(base, theta1), ALPHA)
    written = write(plan_adapter(Checkpoint.open(base), Adapter.open(theta1), ALPHA), tmp_path / "out")
    assert_close(answers(on(base, tmp_path / "out")), wanted)
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (theta1, tmp_path / "out"))
    assert all(torch.equal(before[name], after[name]) for name in before if "lora_" in name)
    assert written.copied + written.moved == len(before)
    # merged, the ordinary way
    whole = Direction(Checkpoint.open(base), adapted(Checkpoint.open(base), Adapter.open(theta1)))
    write(plan(whole, ALPHA, dtype="float32"), tmp_path / "whole")
    assert_close(answers(load(tmp_path / "whole")), wanted)


@pytest.mark.parametrize("case", CASES)
def test_both_are_adapters_on_one_base(
    case: str, causal_model: Callable[..., Path], lora: Callable[..., Path], tmp_path: Path
) -> None:
    model, settings = CASES[case]
    base = causal_model("base", **model)
    theta0, theta1 = lora(base, "theta0", seed=1, **settings), lora(base, "theta1", seed=2, **{**settings, "r": 3})
    wanted = expected(base, merged(base, theta0), merged(base, theta1), ALPHA)
    write(plan_adapter(Adapter.open(theta0), Adapter.open(theta1), ALPHA), tmp_path / "out")
    assert_close(answers(on(base, tmp_path / "out")), wanted)
    sides = [adapted(Checkpoint.open(base), Adapter.open(each)) for each in (theta0, theta1)]
    write(plan(Direction(*sides), ALPHA, dtype="float32"), tmp_path / "whole")
    assert_close(answers(load(tmp_path / "whole")), wanted)


def test_an_embedding_that_is_adapted_with_its_tied_head(
    causal_model: Callable[..., Path], lora: Callable[..., Path], tmp_path: Path
) -> None:
    base = causal_model("base", tie_word_embeddings=True)
    settings = {"target_modules": ["embed_tokens"], "ensure_weight_tying": True, "lora_alpha": 6}
    theta0, theta1 = (lora(base, name, seed=seed, **settings) for name, seed in (("theta0", 1), ("theta1", 2)))
    model = load(base)
    for folder, factor in ((theta1, 1 + ALPHA), (theta0, -ALPHA)):
        factors = load_file(folder / "adapter_model.safetensors")
        a, b = (factors[f"base_model.model.model.embed_tokens.lora_embedding_{each}"] for each in "AB")
        model.get_input_embeddings().weight.data += factor * 1.5 * (b @ a).T
    write(plan_adapter(Adapter.open(theta0), Adapter.open(theta1), ALPHA), tmp_path / "out")
    assert_close(answers(on(base, tmp_path / "out")), answers(model))
    with pytest.raises(CheckpointError, match="adapts lm_head, model.embed_tokens, while the base"):
        adapted(Checkpoint.open(base), Adapter.open(theta1))


def test_modules_on_one_side_only(causal_model: Callable[..., Path], lora: Callable[..., Path], tmp_path: Path) -> None:
    base = causal_model("base", attention_bias=True)
    theta0 = lora(base, "theta0", seed=1, target_modules=["q_proj", "k_proj"], r=2, modules_to_save=["lm_head"])
    theta1 = lora(
        base,
        "theta1",
        seed=2,
        target_modules=["q_proj", "up_proj"],
        layers_to_transform=[0],
        bias="lora_only",
        modules_to_save=["embed_tokens"],
    )
    wanted = expected(base, merged(base, theta0), merged(base, theta1), ALPHA)
    initial, aligned = Adapter.open(theta0), Adapter.open(theta1)
    with pytest.raises(ExpoError, match="only .*theta0 holds lm_head.weight as a whole, so that the base's is needed"):
        plan_adapter(initial, aligned, ALPHA)
    write(plan_adapter(initial, aligned, ALPHA, Checkpoint.open(base)), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["modules_to_save"] == ["embed_tokens", "lm_head"]
    assert config["bias"] == "lora_only"
    assert_close(answers(on(base, tmp_path / "out")), wanted)


def test_alpha_0_and_minus_1(causal_model: Callable[..., Path], lora: Callable[..., Path], tmp_path: Path) -> None:
    base = causal_model("base")
    settings = {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}
    theta0, theta1 = (lora(base, name, seed=seed, **settings) for name, seed in (("theta0", 1), ("theta1", 2)))
    initial, aligned = Adapter.open(theta0), Adapter.open(theta1)

    def weights(plan: Any, name: str) -> bytes:
        write(plan, tmp_path / name)
        return (tmp_path / name / "adapter_model.safetensors").read_bytes()

    for name, alpha, side in (("a", 0, theta1), ("b", -1, theta0)):
        assert weights(plan_adapter(initial, aligned, alpha), name) == (side / "adapter_model.safetensors").read_bytes()
        configs = [json.loads((folder / "adapter_config.json").read_text()) for folder in (tmp_path / name, side)]
        assert configs[0] == configs[1]
    on_base = Checkpoint.open(base)
    assert weights(plan_adapter(on_base, aligned, 0), "c") == (theta1 / "adapter_model.safetensors").read_bytes()
    weights(plan_adapter(on_base, aligned, -1), "d")
    assert json.loads((tmp_path / "d" / "adapter_config.json").read_text())["lora_alpha"] == 0
    assert torch.equal(answers(on(base, tmp_path / "d")), answers(load(base)))


def test_bfloat16_factors_are_scaled_in_float32(
    causal_model: Callable[..., Path], lora: Callable[..., Path], tmp_path: Path
) -> None:
    base = causal_model("base", dtype="bfloat16")
    theta0, theta1 = (
        lora(base, name, seed=seed, dtype=torch.bfloat16, target_modules=["q_proj"], lora_alpha=3)
        for name, seed in (("theta0", 1), ("theta1", 2))
    )
    write(plan_adapter(Adapter.open(theta0), Adapter.open(theta1), 0.3), tmp_path / "out")
    before, after, out = (
        load_file(folder / "adapter_model.safetensors") for folder in (theta0, theta1, tmp_path / "out")
    )
    assert {tensor.dtype for tensor in after.values()} == {torch.bfloat16}
    for name, tensor in out.items():
        if "lora_A" in name:
            assert torch.equal(tensor, torch.cat([after[name], before[name]]).float())
        else:
            wanted = torch.cat([1.3 * 0.75 * after[name].double(), -0.3 * 0.75 * before[name].double()], dim=1)
            torch.testing.assert_close(tensor, wanted.float(), rtol=2e-7, atol=0)


def test_what_lies_beside(
    causal_model: Callable[..., Path], lora: Callable[..., Path], write_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    base = causal_model("base")
    theta1 = lora(base, "theta1", target_modules=["q_proj"])
    (theta1 / "chat_template.jinja").write_text("theta1's")
    (base / "chat_template.jinja").write_text("the base's")
    written = write(plan_adapter(Checkpoint.open(base), Adapter.open(theta1), 1.5), tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "llm_expo.json"}
    record = json.loads((tmp_path / "out" / "llm_expo.json").read_text())
    assert record["output"] == "theta1's adapter, its lora_alpha times 1 + alpha"
    assert record["aligned"]["files"] == [
        {"name": "adapter_model.safetensors", "bytes": (theta1 / "adapter_model.safetensors").stat().st_size}
    ]
    assert any("chat_template.jinja: differs" in warning for warning in written.warnings)
    # A merged model's folder is the base's, but for what the adapter brings.
    whole = Direction(Checkpoint.open(base), adapted(Checkpoint.open(base), Adapter.open(theta1)))
    written = write(plan(whole, 1.5), tmp_path / "whole")
    assert any("chat_template.jinja: differs" in warning for warning in written.warnings)
    assert (tmp_path / "whole" / "chat_template.jinja").read_text() == "theta1's"
    assert (tmp_path / "whole" / "config.json").read_bytes() == (base / "config.json").read_bytes()
    assert not (tmp_path / "whole" / "adapter_config.json").exists()
    with pytest.raises(ExpoError, match="lies in the input folder .*theta1; inputs are never written to"):
        write(plan(whole, 1.5), theta1 / "out")


FACTORS = {"m.lora_A.weight": torch.ones(4, 6), "m.lora_B.weight": torch.ones(8, 4)}


def test_bases_that_may_not_be_the_same(
    write_adapter: Callable[..., Path], save: Callable[..., Path], tmp_path: Path
) -> None:
    base = save(tmp_path / "base", {"m.weight": torch.zeros(8, 6)})
    named = {"here": str(base), "link": str(tmp_path / "elsewhere"), "hub": "org/base", "no": None, "none": None}
    (tmp_path / "elsewhere").symlink_to(base)
    adapters = {
        name: Adapter.open(write_adapter(name, FACTORS, base_model_name_or_path=where, lora_alpha=number + 1))
        for number, (name, where) in enumerate(named.items())
    }
    old = Adapter.open(write_adapter("old", FACTORS, revision="v1"))
    plan_adapter(adapters["here"], adapters["link"], 1.0)
    for one, other, words in (
        (adapters["here"], adapters["hub"], "base and org/base as their bases"),
        (adapters["no"], adapters["none"], "nothing and nothing"),
        (adapters["hub"], old, "org/base and org/base@v1"),
    ):
        with pytest.raises(MismatchError) as caught:
            plan_adapter(one, other, 1.0)
        assert words in str(caught.value)
        assert "name it with --base; if theta1 was trained on theta0 merged into its base, merge theta0 first" in str(
            caught.value
        )
        plan_adapter(one, other, 1.0, Checkpoint.open(base))

    assert other_base(adapters["link"], "theta0", base) is None
    assert other_base(adapters["hub"], "org/base") is None
    assert other_base(adapters["no"], base) is None
    assert "was trained on org/base, as its adapter_config.json says, not on" in (
        other_base(adapters["hub"], base) or ""
    )


def test_adapters_that_do_not_belong_together(write_adapter: Callable[..., Path]) -> None:
    one = Adapter.open(write_adapter("one", FACTORS | {"n.bias": torch.ones(2)}))
    wide = {"m.lora_A.weight": torch.ones(4, 7), "m.lora_B.weight": torch.ones(8, 4), "n.bias": torch.ones(3)}
    with pytest.raises(MismatchError) as caught:
        plan_adapter(one, Adapter.open(write_adapter("other", wide)), 1.0)
    assert "m: a matrix [8, 6] in theta0, a matrix [8, 7] in theta1" in str(caught.value)
    assert "n.bias: F32 [2] in theta0, F32 [3] in theta1" in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_named(
    value: float, write_adapter: Callable[..., Path], save: Callable[..., Path], tmp_path: Path
) -> None:
    base = save(tmp_path / "base", {"m.weight": torch.zeros(8, 6)})
    broken = {name: tensor.clone() for name, tensor in FACTORS.items()}
    broken["m.lora_B.weight"][5, 2] = value
    theta0, theta1 = Adapter.open(write_adapter("good", FACTORS)), Adapter.open(write_adapter("broken", broken))
    merging = plan(Direction(Checkpoint.open(base), adapted(Checkpoint.open(base), theta1)), 1.0)
    for extrapolation in (
        plan_adapter(Checkpoint.open(base), theta1, 1.0),
        plan_adapter(theta0, theta1, 1.0),
        merging,
    ):
        with pytest.raises(CheckpointError, match="broken/adapter_model.safetensors.*: .*m.* holds (nan|inf) at index"):
            write(extrapolation, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_scales_out_of_range(write_adapter: Callable[..., Path], save: Callable[..., Path], tmp_path: Path) -> None:
    base = Checkpoint.open(save(tmp_path / "base", {"m.weight": torch.zeros(8, 6)}))
    theta1 = Adapter.open(write_adapter("theta1", FACTORS, lora_alpha=1e299))
    with pytest.raises(ExpoError, match="lora_alpha 1e\\+299 times 1 \\+ alpha is out of range"):
        plan_adapter(base, theta1, 1e38)
    with pytest.raises(ExpoError, match="alpha must be a finite number"):
        plan_adapter(base, theta1, float("inf"))


def test_a_killed_run_goes_on(
    causal_model: Callable[..., Path], lora: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = causal_model("base")
    extrapolation = plan_adapter(
        Checkpoint.open(base), Adapter.open(lora(base, "theta1", target_modules=["q_proj"])), 1.0
    )
    write(extrapolation, tmp_path / "whole")
    work = tmp_path / "out.partial"

    def killed(*_: object) -> None:
        shutil.copytree(work, tmp_path / "kept")
        raise OSError("killed")

    with monkeypatch.context() as patch:
        patch.setattr("llm_expo.weights.partial._finish", killed)
        with pytest.raises(ExpoError):
            write(extrapolation, tmp_path / "out")
    shutil.move(tmp_path / "kept", work)
    written = write(extrapolation, tmp_path / "out")
    assert written.resumed == 1
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()


def test_two_adapters_without_a_difference(write_adapter: Callable[..., Path], tmp_path: Path) -> None:
    one, other = (Adapter.open(write_adapter(name, FACTORS)) for name in ("one", "other"))
    for aligned in (one, other):
        with pytest.raises(MismatchError, match="hold the same numbers: there is no direction to go"):
            plan_adapter(one, aligned, 1.0)
        plan_adapter(one, aligned, 0)
    # the same factors, and twice the scale
    plan_adapter(one, Adapter.open(write_adapter("scaled", FACTORS, lora_alpha=8)), 1.0)


@pytest.mark.parametrize("case", ["plain", "modules_to_save", "biases", "embedding", "conv1d", "bfloat16 base"])
def test_an_adapter_before_training(case: str, causal_model: Callable[..., Path], tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model, settings = CASES[case]
    base = causal_model("base", **model)
    folders = tmp_path / "theta0", tmp_path / "theta1"
    for folder in folders:  # alike but for the factors that begin with chance
        adapter = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**settings))
        adapter.save_pretrained(folder, save_embedding_layers=False)
    under, (other, theta1) = Checkpoint.open(base), map(Adapter.open, folders)
    with pytest.raises(MismatchError, match="theta1 adds nothing to theta0 .*base, as before training: there is no di"):
        plan_adapter(under, theta1, 0.5)
    if not theta1.saved:
        with pytest.raises(MismatchError, match="hold the same numbers: there is no direction to go"):
            plan_adapter(other, theta1, 0.5)
    for alpha in (0, -1):
        plan_adapter(under, theta1, alpha)
    merged = Direction(under, adapted(under, theta1))
    with pytest.raises(MismatchError, match="theta0 .*base and theta1 .*theta1 hold the same numbers in every tensor"):
        write(plan(merged, 0.5), tmp_path / "whole")
    with pytest.raises(MismatchError, match="theta0 .*base and theta1 .*theta1 hold the same numbers in every tensor"):
        merged.refuse_equal()

    factors = load_file(folders[1] / "adapter_model.safetensors")
    for name in sorted(factors):  # one number is enough, whichever tensor holds it, unless the other factor is zero
        if ("lora_A" in name, "embedding" in name) not in ((True, False), (False, True)):
            trained = {key: tensor.clone() for key, tensor in factors.items()}
            trained[name].view(-1)[-1] += 1
            save_file(trained, folders[1] / "adapter_model.safetensors", metadata={"format": "pt"})
            plan_adapter(under, Adapter.open(folders[1]), 0.5)
            Direction(under, adapted(under, Adapter.open(folders[1]))).refuse_equal()


def test_an_adapter_on_another_base_than_theta0(
    write_adapter: Callable[..., Path], save: Callable[..., Path], tmp_path: Path
) -> None:
    theta0, base = (Checkpoint.open(save(tmp_path / name, {"m.weight": torch.zeros(8, 6)})) for name in ("t", "base"))
    theta1 = Adapter.open(write_adapter("theta1", FACTORS))
    plan_adapter(theta0, theta1, 1.0, theta0)
    with pytest.raises(MismatchError, match="is an adapter on .*base, and theta0 .*t is another model.*; --merge"):
        plan_adapter(theta0, theta1, 1.0, base)
