"""Every situation of docs/checkpoints.md on real files, through the public functions or the command line."""

import ast
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from llm_expo.checkpoints import Checkpoint
from llm_expo.cli import main
from llm_expo.errors import ExpoError
from llm_expo.weights import Direction, Rounding, apply, plan, stream, write

ALPHA = 0.5  # exact in float32, as is its product with a difference of bfloat16 numbers
Tensors = dict[str, Tensor]
Save = Callable[..., Path]
Refused = Callable[..., str]
ROOT = Path(__file__).parents[2]
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def config(**settings: Any) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 24,
        "hidden_size": 16,
        "intermediate_size": 20,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "tie_word_embeddings": False,
        "dtype": "float32",
        **settings,
    }


def llama(seed: int, dtype: torch.dtype = torch.float32, **settings: Any) -> Tensors:
    """The weights of a tiny Llama, each side of a pair by its own seed. Tied, it has no head, as in its file."""
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig(**config(**settings)))
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: (0.2 * torch.randn(tensor.shape, generator=generator)).to(dtype)
        for name, tensor in model.state_dict().items()
    }
    if settings.get("tie_word_embeddings"):
        del tensors[HEAD]
    return tensors


def moved(before: Tensor, after: Tensor, alpha: float = ALPHA) -> Tensor:
    """theta(alpha), calculated without llm_expo."""
    return (after.float() + alpha * (after.float() - before.float())).to(after.dtype)


def read(folder: Path) -> Tensors:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def contents(folder: Path) -> dict[str, bytes]:
    """All files but the provenance, which names the inputs."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "llm_expo.json"}


def same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        (tensor.dtype, tensor.shape) == (expected[name].dtype, expected[name].shape)
        and tensor.flatten().view(torch.uint8).tolist() == expected[name].flatten().view(torch.uint8).tolist()
        for name, tensor in found.items()
    )


def assert_loads(folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """In transformers, whole, as the weights that the files hold, and able to generate."""
    from transformers import AutoModelForCausalLM

    model, report = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", output_loading_info=True)
    assert not any(report.values()), report
    assert model.dtype == dtype
    loaded = model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in read(folder).items())
    assert model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=2, do_sample=False, pad_token_id=0).shape == (1, 5)


@pytest.fixture
def refused(tmp_path: Path) -> Refused:
    """refused(theta0, theta1, alpha, **settings of plan) -> the one line that says why, with nothing written."""

    def run(theta0: Path, theta1: Path, alpha: float = ALPHA, **settings: Any) -> str:
        with pytest.raises(ExpoError) as caught:
            write(plan(Direction.open(theta0, theta1), alpha, **settings), tmp_path / "out")
        assert not list(tmp_path.glob("out*"))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return run


# ---- files, order, names ----


@pytest.mark.parametrize(("left", "right"), [(1, 1), (1, 3), (3, 1), (2, 3)])
def test_files(save: Save, tmp_path: Path, left: int, right: int) -> None:
    before, after = llama(0), llama(1)
    theta0 = save(tmp_path / "theta0", before, config(), shards=left)
    theta1 = save(tmp_path / "theta1", after, config(), shards=right)
    written = apply(theta0, theta1, ALPHA, tmp_path / "out")
    assert same(read(tmp_path / "out"), {name: moved(before[name], after[name]) for name in after})
    assert written.warnings == ()
    names = {"config.json", "llm_expo.json", *(path.name for path in theta1.glob("*.safetensors*"))}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert_loads(tmp_path / "out")


def test_another_order(save: Save, literal: Callable[..., Path], tmp_path: Path) -> None:
    def file(names: str, values: Mapping[str, float], folder: str) -> Path:
        header = {
            name: {"dtype": "F32", "shape": [1], "data_offsets": [4 * place, 4 * place + 4]}
            for place, name in enumerate(names)
        }
        return literal(
            header, torch.tensor([values[name] for name in names], dtype=torch.float32).numpy().tobytes(), folder
        )

    theta0 = file("cab", {"a": 1, "b": 2, "c": 3}, "theta0")
    theta1 = file("bca", {"a": 5, "b": 4, "c": 3}, "theta1")
    apply(theta0, theta1, ALPHA, tmp_path / "out")
    assert same(read(tmp_path / "out"), {name: torch.tensor([x]) for name, x in {"a": 7.0, "b": 5.0, "c": 3.0}.items()})
    assert list(Checkpoint.open(tmp_path / "out").tensors) == ["b", "c", "a"]


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("prefix", ["module.", "base_model.model."])
def test_a_prefix(save: Save, tmp_path: Path, side: int, prefix: str) -> None:
    pair = llama(0), llama(1)
    folders = [
        save(tmp_path / f"theta{i}", {(prefix if i == side else "") + name: t for name, t in pair[i].items()}, config())
        for i in (0, 1)
    ]
    written = apply(*folders, ALPHA, tmp_path / "out")
    expected = {(prefix if side == 1 else "") + name: moved(pair[0][name], pair[1][name]) for name in pair[1]}
    assert same(read(tmp_path / "out"), expected)
    assert written.warnings == (f"theta{side}'s names begin with \"{prefix}\", the other's do not: matched without it",)
    if side == 0:
        assert_loads(tmp_path / "out")


@pytest.mark.parametrize("side", [0, 1])
def test_saved_without_its_head(save: Save, tmp_path: Path, refused: Refused, side: int) -> None:
    """A tied model that was saved as its base: "layers.0...", without "model." before it and without a head."""
    pair = llama(0, tie_word_embeddings=True), llama(1, tie_word_embeddings=True)
    bare = {name.removeprefix("model."): tensor for name, tensor in pair[side].items()}
    sides = [bare if i == side else pair[i] for i in (0, 1)]
    folders = [save(tmp_path / f"theta{i}", sides[i], config(tie_word_embeddings=True)) for i in (0, 1)]
    written = apply(*folders, ALPHA, tmp_path / "tied")
    expected = [moved(before, after) for before, after in zip(*(side.values() for side in pair), strict=True)]
    assert same(read(tmp_path / "tied"), dict(zip(sides[1], expected, strict=True)))
    assert written.warnings == (
        f"theta{1 - side}'s names begin with \"model.\", the other's do not: matched without it",
    )
    # without a head, and not tied: nobody knows what the head was
    untied = [save(tmp_path / f"untied{i}", sides[i] if i == side else llama(i), config()) for i in (0, 1)]
    words = f"lm_head.weight: only in theta{1 - side}, and theta{side}'s config says that nothing is tied"
    assert words in refused(*untied)


def test_two_prefixes_for_one_name(save: Save, tmp_path: Path, refused: Refused) -> None:
    bare = {"layer.0.weight": torch.ones(2, 2), "layer.1.weight": torch.ones(2, 2)}
    both = {f"{part}.{name}": tensor for part in ("encoder", "decoder") for name, tensor in bare.items()}
    both = {name: tensor.clone() for name, tensor in both.items()}
    common = {"head": torch.zeros(9, 9)}
    message = refused(save(tmp_path / "theta0", bare | common), save(tmp_path / "theta1", both | common))
    assert "encoder.layer.0.weight: only in theta1" in message
    assert "layer.0.weight: only in theta0" in message


# ---- .bin ----


def save_bin(folder: Path, tensors: Tensors, settings: object, shards: int = 1) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(settings))
    if shards == 1:
        torch.save(tensors, folder / "pytorch_model.bin")
        return folder
    weight_map = {}
    for shard in range(shards):
        name = f"pytorch_model-{shard + 1:05}-of-{shards:05}.bin"
        part = {key: tensors[key] for key in list(tensors)[shard::shards]}
        torch.save(part, folder / name)
        weight_map |= dict.fromkeys(part, name)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


@pytest.mark.parametrize(("bins", "shards"), [("0", 1), ("1", 1), ("01", 1), ("01", 3)])
def test_bin(save: Save, tmp_path: Path, capsys: pytest.CaptureFixture[str], bins: str, shards: int) -> None:
    pair = llama(0), llama(1)
    folders = [
        save_bin(tmp_path / f"theta{i}", pair[i], config(), shards)
        if str(i) in bins
        else save(tmp_path / f"theta{i}", pair[i], config())
        for i in (0, 1)
    ]
    arguments = ["apply", *map(str, folders), "--alpha", "0.5", "--out", str(tmp_path / "out")]
    assert main(arguments) == 1
    assert "give --allow-bin, which executes nothing" in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))
    assert main([*arguments, "--allow-bin"]) == 0
    assert main(["compare", *map(str, folders), "--allow-bin"]) == 0
    assert same(read(tmp_path / "out"), {name: moved(pair[0][name], pair[1][name]) for name in pair[1]})
    files = {"config.json", "llm_expo.json", "model.safetensors"}
    if shards == 3:
        files = files - {"model.safetensors"} | {f"model-{n:05}-of-00003.safetensors" for n in (1, 2, 3)}
        files |= {"model.safetensors.index.json"}
        index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in pair[1].values())
        assert index["weight_map"].keys() == pair[1].keys()
    assert {path.name for path in (tmp_path / "out").iterdir()} == files
    assert_loads(tmp_path / "out")


@pytest.mark.parametrize("bins", ["0", "1", "01"])
def test_tied_tensors_of_a_bin(save: Save, tmp_path: Path, bins: str) -> None:
    """A pickle names a tied tensor twice, safetensors once."""
    settings = config(tie_word_embeddings=True)
    pair = llama(0, tie_word_embeddings=True), llama(1, tie_word_embeddings=True)
    folders = [
        save_bin(tmp_path / f"theta{i}", pair[i] | {HEAD: pair[i][EMBEDDING]}, settings)
        if str(i) in bins
        else save(tmp_path / f"theta{i}", pair[i], settings)
        for i in (0, 1)
    ]
    write(plan(Direction.open(*folders, allow_bin=True), ALPHA), tmp_path / "out")
    expected = {name: moved(pair[0][name], pair[1][name]) for name in pair[1]}
    if "1" in bins:
        expected[HEAD] = expected[EMBEDDING]
    assert same(read(tmp_path / "out"), expected)
    assert_loads(tmp_path / "out")


@pytest.mark.parametrize("side", [0, 1])
def test_other_tied_tensors_of_a_bin(save: Save, tmp_path: Path, side: int) -> None:
    """BERT's bias of the output has two names. What is equal by chance, as new biases are, is not tied."""
    pair = [{"emb.weight": torch.randn(9, 4), "cls.bias": torch.randn(9), "zero": torch.zeros(4)} for _ in (0, 1)]
    pair[1 - side]["zero"] += 1
    twice = pair[side] | {"cls.decoder.bias": pair[side]["cls.bias"], "score.bias": torch.zeros(4)[:3]}
    folders = [
        save_bin(tmp_path / f"theta{i}", twice, {}) if i == side else save(tmp_path / f"theta{i}", pair[i])
        for i in (0, 1)
    ]
    written = write(plan(Direction.open(*folders, allow_bin=True), ALPHA), tmp_path / "out")
    expected = {name: moved(pair[0][name], pair[1][name]) for name in pair[1]}
    if side == 1:
        expected |= {"cls.decoder.bias": expected["cls.bias"], "score.bias": torch.zeros(3)}
    assert same(read(tmp_path / "out"), expected)
    does = "left out" if side == 0 else "moved like it"
    assert written.warnings[0] == f"cls.decoder.bias: only in theta{side}, where it equals cls.bias: {does}"
    assert written.warnings[1].endswith(": score.bias")


# ---- tied embeddings ----


def test_tied_on_both(save: Save, tmp_path: Path) -> None:
    before, after = llama(0, tie_word_embeddings=True), llama(1, tie_word_embeddings=True)
    sides = [
        save(tmp_path / f"theta{i}", side, config(tie_word_embeddings=True)) for i, side in enumerate((before, after))
    ]
    assert apply(*sides, ALPHA, tmp_path / "out").warnings == ()
    assert same(read(tmp_path / "out"), {name: moved(before[name], after[name]) for name in after})
    assert_loads(tmp_path / "out")


def test_tied_in_theta0(save: Save, tmp_path: Path) -> None:
    before, after = llama(0, tie_word_embeddings=True), llama(1)
    theta0 = save(tmp_path / "theta0", before, config(tie_word_embeddings=True))
    written = apply(theta0, save(tmp_path / "theta1", after, config()), ALPHA, tmp_path / "out")
    before[HEAD] = before[EMBEDDING]
    assert same(read(tmp_path / "out"), {name: moved(before[name], after[name]) for name in after})
    assert f"{HEAD}: theta0 ties it to {EMBEDDING}, which is its theta0 here" in written.warnings
    assert_loads(tmp_path / "out")


def test_tied_in_theta1(save: Save, tmp_path: Path, refused: Refused) -> None:
    before, after = llama(0), llama(1, tie_word_embeddings=True)
    theta1 = save(tmp_path / "theta1", after, config(tie_word_embeddings=True))
    assert f"{HEAD}: theta1 ties it to {EMBEDDING}, but theta0's is not equal to {EMBEDDING}" in refused(
        save(tmp_path / "unequal", before, config()), theta1
    )
    before[HEAD] = before[EMBEDDING].clone()
    written = apply(save(tmp_path / "equal", before, config()), theta1, ALPHA, tmp_path / "out")
    assert same(read(tmp_path / "out"), {name: moved(before[name], after[name]) for name in after})
    assert f"{HEAD}: only in theta0, where it equals {EMBEDDING}: left out" in written.warnings
    assert_loads(tmp_path / "out")


@pytest.mark.parametrize("side", [0, 1])
def test_a_stored_copy_of_a_tied_tensor(save: Save, tmp_path: Path, side: int) -> None:
    """T5 with its own head says that nothing is tied, and yet its encoder's embedding is the shared one."""
    pair = [{name: torch.randn(6, 4) for name in ("shared.weight", HEAD)} for _ in (0, 1)]
    sides = [dict(tensors) for tensors in pair]
    sides[side]["encoder.embed_tokens.weight"] = pair[side]["shared.weight"].clone()
    folders = [save(tmp_path / f"theta{i}", sides[i], {"tie_word_embeddings": False}) for i in (0, 1)]
    written = apply(*folders, ALPHA, tmp_path / "out")
    expected = {name: moved(pair[0][name], pair[1][name]) for name in pair[1]}
    if side == 1:
        expected["encoder.embed_tokens.weight"] = expected["shared.weight"]
    assert same(read(tmp_path / "out"), expected)
    does = "left out" if side == 0 else "moved like it"
    assert written.warnings == (
        f"encoder.embed_tokens.weight: only in theta{side}, where it equals shared.weight: {does}",
    )


def test_copies_that_only_theta1_holds_alike(save: Save, tmp_path: Path, refused: Refused) -> None:
    """Both files hold a head. Moved from two different ones, theta1's two copies would no longer be one tensor."""
    before, after = llama(0), llama(1)
    after[HEAD] = after[EMBEDDING].clone()
    theta0 = save(tmp_path / "theta0", before, config())
    theta1 = save(tmp_path / "theta1", after, config(tie_word_embeddings=True))
    words = f"{HEAD}: theta1 ties it to {EMBEDDING}, but theta0's is not equal to {EMBEDDING}"
    assert words in refused(theta0, theta1)


# ---- types ----


CODES = [
    torch.arange(8),
    torch.arange(8, dtype=torch.int32),
    torch.arange(8, dtype=torch.uint8),
    torch.tensor([True, False]),
    torch.arange(8.0).to(torch.float8_e4m3fn),
    torch.arange(8.0).to(torch.float8_e5m2),
]


@pytest.mark.parametrize("codes", CODES, ids=lambda tensor: str(tensor.dtype))
def test_types_without_arithmetic(save: Save, tmp_path: Path, refused: Refused, codes: Tensor) -> None:
    before, after = {"w": torch.zeros(3), "codes": codes}, {"w": torch.ones(3), "codes": codes}
    theta0, theta1 = save(tmp_path / "theta0", before), save(tmp_path / "theta1", after)
    apply(theta0, theta1, ALPHA, tmp_path / "equal")
    assert same(read(tmp_path / "equal"), {"w": torch.full((3,), 1.5), "codes": codes})

    other = {"w": torch.ones(3), "codes": torch.zeros(len(codes)).to(codes.dtype)}
    theta1 = save(tmp_path / "differing", other)
    message = refused(theta0, theta1)
    dtype = Checkpoint.open(theta1).tensors["codes"].dtype
    assert f"codes: {dtype} cannot be calculated with, and {theta0}/model.safetensors and {theta1}/model" in message
    assert message.endswith("keep theta1's with --exclude 'codes'")
    write(plan(Direction.open(theta0, theta1), ALPHA, exclude=["codes"]), tmp_path / "excluded")
    assert same(read(tmp_path / "excluded"), other | {"w": torch.full((3,), 1.5)})
    apply(theta0, theta1, 0, tmp_path / "theta1 itself")
    assert same(read(tmp_path / "theta1 itself"), other)


def test_types_that_differ(save: Save, tmp_path: Path) -> None:
    """theta0 in one float type, theta1 in another: the result has theta1's."""
    floats = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
    values = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([1.5, -1.0, 0.25])
    before = {f"{a} {b}": values[0].to(a, copy=True) for a in floats for b in floats}
    after = {f"{a} {b}": values[1].to(b, copy=True) for a in floats for b in floats}
    apply(save(tmp_path / "theta0", before), save(tmp_path / "theta1", after), ALPHA, tmp_path / "out")
    expected = {name: torch.tensor([1.75, -0.5, 0.125]).to(tensor.dtype) for name, tensor in after.items()}
    assert same(read(tmp_path / "out"), expected)


def test_scalars_and_empty_tensors(save: Save, tmp_path: Path) -> None:
    before = {
        "scalar": torch.tensor(1.0),
        "empty": torch.zeros(0, 4),
        "one": torch.zeros(1, 1, 1),
        "count": torch.tensor(3),
    }
    after = before | {"scalar": torch.tensor(2.0), "one": torch.ones(1, 1, 1)}
    apply(save(tmp_path / "theta0", before), save(tmp_path / "theta1", after), ALPHA, tmp_path / "out")
    expected = after | {"scalar": torch.tensor(2.5), "one": torch.full((1, 1, 1), 1.5)}
    assert same(read(tmp_path / "out"), expected)


# ---- what one side lacks ----


BUFFERS = {
    **{f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.arange(4.0) for i in (0, 1)},
    **{f"model.layers.{i}.self_attn.bias": torch.ones(1, 1, 4, 4).tril().bool() for i in (0, 1)},
    "model.masked_bias": torch.tensor(-1e4),
}


def test_extra_tensors_in_theta1(save: Save, tmp_path: Path) -> None:
    before, after = llama(0), llama(1)
    extra = BUFFERS | {"v_head.summary.weight": torch.randn(1, 16), "v_head.summary.bias": torch.zeros(1)}
    folders = save(tmp_path / "theta0", before, config()), save(tmp_path / "theta1", after | extra, config())
    written = apply(*folders, ALPHA, tmp_path / "out")
    assert same(read(tmp_path / "out"), {name: moved(before[name], after[name]) for name in after} | extra)
    assert written.copied == len(extra)
    [warning] = written.warnings
    assert warning.startswith("only in theta1, which keeps them as they are: model.")
    assert warning.endswith(" and 1 more")


def test_extra_tensors_in_theta0(save: Save, tmp_path: Path) -> None:
    before, after = llama(0), llama(1)
    extra = {"score.weight": torch.randn(2, 16), "model.masked_bias": torch.tensor(-1e4)}
    folders = save(tmp_path / "theta0", before | extra, config()), save(tmp_path / "theta1", after, config())
    written = apply(*folders, ALPHA, tmp_path / "out")
    assert same(read(tmp_path / "out"), {name: moved(before[name], after[name]) for name in after})
    assert written.warnings == ("only in theta0, left out: model.masked_bias, score.weight",)
    assert_loads(tmp_path / "out")


def test_a_classifier_of_an_embeddings_shape(save: Save, tmp_path: Path) -> None:
    """Two labels and two kinds of segment: of one shape, and not tied."""
    before = {"emb.word.weight": torch.randn(9, 4), "emb.token_type.weight": torch.randn(2, 4)}
    after = {name: torch.randn(tensor.shape) for name, tensor in before.items()}
    extra = {"classifier.weight": torch.randn(2, 4)}
    theta0 = save(tmp_path / "theta0", before, {"tie_word_embeddings": True})
    written = apply(
        theta0, save(tmp_path / "theta1", after | extra, {"tie_word_embeddings": True}), ALPHA, tmp_path / "out"
    )
    assert same(read(tmp_path / "out"), {name: moved(before[name], after[name]) for name in after} | extra)
    assert written.warnings == ("only in theta1, which keeps them as they are: classifier.weight",)


@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize("tied", [False, True])
def test_a_reward_model_of_a_language_model(
    save: Save, tmp_path: Path, refused: Refused, labels: int, tied: bool
) -> None:
    """Trained from the SFT model, it has another head, as its config.json's architecture has it."""
    before, after = llama(0), llama(1)
    head = {"score.weight": torch.randn(labels, 16)}
    body = {name: tensor for name, tensor in after.items() if name != HEAD}
    classifies = config(architectures=["LlamaForSequenceClassification"], num_labels=labels, tie_word_embeddings=tied)
    theta0, theta1 = save(tmp_path / "theta0", before, config()), save(tmp_path / "theta1", body | head, classifies)
    written = apply(theta0, theta1, ALPHA, tmp_path / "made")
    assert same(read(tmp_path / "made"), {name: moved(before[name], body[name]) for name in body} | head)
    assert written.warnings[:2] == (
        f"{HEAD}: only in theta0, and a LlamaForSequenceClassification, as theta1 is, has none: left out",
        "only in theta1, which keeps them as they are: score.weight",
    )
    # a language model without its head is not whole
    for place, settings in enumerate((config(), {"tie_word_embeddings": False})):
        lost = save(tmp_path / f"lost {place}", body, settings)
        assert f"{HEAD}: only in theta0, and theta1's config says that nothing is tied" in refused(theta0, lost)
    # the other way round, theta0 has nothing to move theta1's head from
    message = refused(save(tmp_path / "reward", body | head, classifies | {"tie_word_embeddings": False}), theta0)
    assert f"{HEAD}: only in theta1, and theta0's config says that nothing is tied" in message
    assert message.endswith(f"--exclude '{HEAD}' keeps theta1's")
    direction = Direction.open(tmp_path / "reward", theta0)
    write(plan(direction, ALPHA, exclude=[HEAD]), tmp_path / "with its own head")
    expected = {name: moved(body[name], before[name]) for name in body} | {HEAD: before[HEAD]}
    assert same(read(tmp_path / "with its own head"), expected)
    assert_loads(tmp_path / "with its own head")


def test_a_head_of_another_shape(save: Save, tmp_path: Path, refused: Refused) -> None:
    before, after = ({"emb.weight": torch.randn(9, 4), "score.weight": torch.randn(rows, 4)} for rows in (1, 3))
    theta0, theta1 = save(tmp_path / "theta0", before), save(tmp_path / "theta1", after)
    message = refused(theta0, theta1)
    assert "score.weight: shape [1, 4] in theta0, [3, 4] in theta1" in message
    assert message.endswith("where that is so, and only a new head differs, --exclude 'score.weight' keeps theta1's")
    written = write(plan(Direction.open(theta0, theta1), ALPHA, exclude=["score.*"]), tmp_path / "out")
    emb = moved(before["emb.weight"], after["emb.weight"])
    assert same(read(tmp_path / "out"), {"emb.weight": emb, "score.weight": after["score.weight"]})
    assert written.warnings == (
        "score.weight: shape [1, 4] in theta0, [3, 4] in theta1: theta1's is kept, as was asked",
    )


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_missing_layer(save: Save, tmp_path: Path, refused: Refused, side: int, prefix: str) -> None:
    whole, short = llama(0), llama(1, num_hidden_layers=1)
    sides = (short, whole) if side == 0 else (whole, short)
    theta0 = save(tmp_path / "theta0", {prefix + name: tensor for name, tensor in sides[0].items()})
    message = refused(theta0, save(tmp_path / "theta1", sides[1]))
    missing = f"{prefix if side == 1 else ''}model.layers.1.mlp.down_proj.weight"
    assert f"{missing}: only in theta{1 - side}" in message


def fused(tensors: Tensors) -> Tensors:
    """Query, key and value in one tensor, as Phi-3 has them."""
    kept = {name: tensor for name, tensor in tensors.items() if not re.search(r"[qkv]_proj", name)}
    for layer in (0, 1):
        parts = [tensors[f"model.layers.{layer}.self_attn.{part}_proj.weight"] for part in "qkv"]
        kept[f"model.layers.{layer}.self_attn.qkv_proj.weight"] = torch.cat(parts)
    return kept


def norms_renamed(tensors: Tensors) -> Tensors:
    return {name.replace("input_layernorm", "ln_1"): tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("form", [fused, norms_renamed])
def test_weights_in_another_form(
    save: Save, tmp_path: Path, refused: Refused, side: int, form: Callable[[Tensors], Tensors]
) -> None:
    """What one side lacks and what the other lacks may be the same weights: neither is copied or left out."""
    sides = [form(llama(i)) if i == side else llama(i) for i in (0, 1)]
    message = refused(*(save(tmp_path / f"theta{i}", sides[i], config()) for i in (0, 1)))
    names = "qkv_proj" if form is fused else "ln_1"
    assert f"model.layers.0.{'self_attn.' if form is fused else ''}{names}.weight: only in theta{side}" in message
    assert f": only in theta{1 - side}" in message
    assert "may be named, split or fused in two ways: load both with one version of transformers" in message


@pytest.mark.parametrize("side", [0, 1])
def test_another_architecture(save: Save, tmp_path: Path, refused: Refused, side: int) -> None:
    """Qwen2 is Llama with three biases a layer: of one kind of model they would be kept and said."""
    biases = {f"model.layers.{i}.self_attn.{part}_proj.bias": torch.ones(8) for i in (0, 1) for part in "kv"}
    sides = [llama(i) | (biases if i == side else {}) for i in (0, 1)]
    folders = [save(tmp_path / f"theta{i}", sides[i], config()) for i in (0, 1)]
    assert apply(*folders, ALPHA, tmp_path / "one kind").warnings[0].startswith(f"only in theta{side}")
    (folders[side] / "config.json").write_text(json.dumps(config(model_type="qwen2")))
    kinds = ("qwen2", "llama") if side == 0 else ("llama", "qwen2")
    message = refused(*folders)
    assert f"model.layers.1.self_attn.v_proj.bias: only in theta{side}" in message
    assert message.endswith(f"theta0 is a {kinds[0]}, theta1 a {kinds[1]}: two architectures have no direction")


@pytest.mark.parametrize("side", [0, 1])
def test_little_of_a_model(save: Save, tmp_path: Path, refused: Refused, side: int) -> None:
    """A folder that holds less than half of the other's weights is no partner to it."""
    sides = [{HEAD: llama(i)[HEAD]} if i == side else llama(i) for i in (0, 1)]
    message = refused(*(save(tmp_path / f"theta{i}", sides[i]) for i in (0, 1)))
    assert f"model.layers.0.mlp.down_proj.weight: only in theta{1 - side}" in message


# ---- shapes ----


@pytest.mark.parametrize("tied", [False, True])
def test_a_vocabulary_that_grew(save: Save, tmp_path: Path, refused: Refused, tied: bool) -> None:
    """Tied in theta0 alone, too: the head then grew with the embedding."""
    before, after = llama(0, tie_word_embeddings=tied), llama(1, vocab_size=30)
    theta0 = save(tmp_path / "theta0", before, config(tie_word_embeddings=tied))
    theta1 = save(tmp_path / "theta1", after, config(vocab_size=30))
    message = refused(theta0, theta1)
    assert f"{EMBEDDING}: shape [24, 16] in theta0, [30, 16] in theta1" in message
    assert "--new-rows copy keeps its new rows and extrapolates the others" in message
    out = tmp_path / "out"
    assert main(["apply", str(theta0), str(theta1), "--alpha", "0.5", "--new-rows", "copy", "--out", str(out)]) == 0
    before.setdefault(HEAD, before[EMBEDDING])
    expected = {
        name: torch.cat([moved(before[name], tensor[: len(before[name])]), tensor[len(before[name]) :]])
        for name, tensor in after.items()
    }
    assert same(read(out), expected)
    assert (
        f"{HEAD}: theta1's 6 new rows are kept as they are"
        in json.loads((out / "llm_expo.json").read_text())["warnings"]
    )
    assert_loads(out)


def test_a_vocabulary_that_shrank(save: Save, tmp_path: Path, refused: Refused) -> None:
    theta0, theta1 = save(tmp_path / "theta0", llama(0, vocab_size=30)), save(tmp_path / "theta1", llama(1))
    for new_rows in ("refuse", "copy"):
        message = refused(theta0, theta1, new_rows=new_rows)
        assert f"{EMBEDDING}: shape [30, 16] in theta0, [24, 16] in theta1" in message
        assert message.endswith("give both models the same vocabulary")


def test_new_rows_are_a_vocabularys(save: Save, tmp_path: Path, refused: Refused) -> None:
    """More key-value heads are more rows as well, but the first ones are not theta0's."""
    theta0 = save(tmp_path / "theta0", llama(0), config())
    theta1 = save(tmp_path / "theta1", llama(1, num_key_value_heads=2), config(num_key_value_heads=2))
    message = refused(theta0, theta1, new_rows="copy")
    assert "model.layers.0.self_attn.k_proj.weight: shape [8, 16] in theta0, [16, 16] in theta1" in message


def test_other_shapes(save: Save, tmp_path: Path, refused: Refused) -> None:
    shapes = [((3, 4), (4, 3)), ((3, 4), (12,)), ((), (1,)), ((2, 3), (2, 5))]
    before = {f"w{'abcd'[i]}": torch.zeros(left) for i, (left, _) in enumerate(shapes)}
    after = {f"w{'abcd'[i]}": torch.zeros(right) for i, (_, right) in enumerate(shapes)}
    message = refused(save(tmp_path / "theta0", before), save(tmp_path / "theta1", after), new_rows="copy")
    for name, (left, right) in zip(before, shapes, strict=True):
        assert f"{name}: shape {list(left)} in theta0, {list(right)} in theta1" in message


# ---- mixtures of experts ----


def experts(seed: int, fuse: bool) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    gate, up, down = (torch.randn(4, *shape, generator=generator) for shape in ((6, 8), (6, 8), (8, 6)))
    found = {"model.embed_tokens.weight": torch.randn(40, 8, generator=generator)}
    found["model.layers.0.mlp.gate.weight"] = torch.randn(4, 8, generator=generator)
    if fuse:
        names = {"gate_up_proj": torch.cat([gate, up], 1), "down_proj": down}
        return found | {f"model.layers.0.mlp.experts.{name}": tensor for name, tensor in names.items()}
    for expert in range(4):
        each = {"gate_proj": gate[expert], "up_proj": up[expert], "down_proj": down[expert]}
        found |= {f"model.layers.0.mlp.experts.{expert}.{k}.weight": tensor.clone() for k, tensor in each.items()}
    return found


@pytest.mark.parametrize("fuse", [False, True])
def test_experts(save: Save, tmp_path: Path, fuse: bool) -> None:
    before, after = experts(0, fuse), experts(1, fuse)
    apply(save(tmp_path / "theta0", before), save(tmp_path / "theta1", after), ALPHA, tmp_path / "out")
    assert same(read(tmp_path / "out"), {name: moved(before[name], after[name]) for name in after})


@pytest.mark.parametrize("fuse", [False, True])
def test_experts_fused_on_one_side(save: Save, tmp_path: Path, refused: Refused, fuse: bool) -> None:
    message = refused(save(tmp_path / "0", experts(0, fuse)), save(tmp_path / "1", experts(1, not fuse)))
    assert f"model.layers.0.mlp.experts.gate_up_proj: only in theta{0 if fuse else 1}" in message
    assert f"model.layers.0.mlp.experts.0.gate_proj.weight: only in theta{1 if fuse else 0}" in message
    assert "Experts may be fused on one side only: load both with one version of transformers and save them" in message


# ---- quantised ----


I32, U8, I8, F8 = torch.int32, torch.uint8, torch.int8, torch.float8_e4m3fn
PACKED = [
    ("GPTQ", {"qweight": I32, "qzeros": I32, "scales": torch.float16, "g_idx": I32}),
    ("AWQ", {"qweight": I32, "qzeros": I32, "scales": torch.float16}),
    ("bitsandbytes, 4 bits", {"weight": U8, "weight.absmax": U8, "weight.quant_state.bitsandbytes__nf4": U8}),
    ("bitsandbytes, 8 bits", {"weight": I8, "SCB": torch.float32, "weight_format": U8}),
    ("fp8 in blocks", {"weight": F8, "weight_scale_inv": torch.float32}),
    ("fp8 in blocks", {"gate_up_proj": F8, "gate_up_proj_scale_inv": torch.float32}),
    ("compressed-tensors", {"weight_packed": I32, "weight_scale": torch.bfloat16, "weight_shape": torch.int64}),
    ("weights with scales", {"weight": F8, "weight_scale": torch.bfloat16, "input_scale": torch.bfloat16}),
    ("weights with scales", {"weight": I8, "weight_scale": torch.bfloat16}),
    ("MXFP4", {"down_proj_blocks": U8, "down_proj_scales": U8}),
    ("HQQ", {"W_q": U8, "scale": torch.float16, "zero": torch.float16}),
    ("quanto", {"weight._data": I8, "weight._scale": torch.float16}),
    ("AQLM", {"codes": I8, "codebooks": torch.float16, "scales": torch.float16}),
]


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize(("method", "parts"), PACKED, ids=[f"{m}-{next(iter(parts))}" for m, parts in PACKED])
def test_quantised_by_the_tensors_alone(
    save: Save, tmp_path: Path, refused: Refused, method: str, parts: Mapping[str, torch.dtype], side: int
) -> None:
    plain = {"embed.weight": torch.zeros(4, 2), "layers.0.q.weight": torch.zeros(2, 2)}
    packed = plain | {f"layers.0.q.{name}": torch.ones(2, 2).to(dtype) for name, dtype in parts.items()}
    folders = [save(tmp_path / f"theta{i}", packed if i == side else plain, {}) for i in (0, 1)]
    message = refused(*folders)
    assert f"{folders[side]}: is quantised ({method}: layers.0.q.{next(iter(parts))} is " in message
    assert message.endswith("take the checkpoint that it was quantised from, or dequantise it first")


def test_names_that_only_look_quantised(save: Save, tmp_path: Path) -> None:
    """Scales are parameters of many models, and so may be codes that nothing unpacks."""
    before = {
        "logit_scale": torch.tensor(2.0),
        "norm.weight": torch.ones(2),
        "norm.scale": torch.ones(2),
        "attn.k_scale": torch.tensor(1.0),
        "attn.weight_scale": torch.ones(2),
        "router.weight": torch.ones(2, 2),
        "router.weight_scale": torch.ones(2),
        "quantizer.codes": torch.arange(4),
        "position_ids": torch.arange(4),
        "scales": torch.ones(2),
    }
    after = {name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in before.items()}
    folders = save(tmp_path / "theta0", before), save(tmp_path / "theta1", after)
    assert apply(*folders, ALPHA, tmp_path / "out").moved == 8


# ---- what lies beside the weights ----


def test_tokenizer_template_and_special_tokens(save: Save, tmp_path: Path) -> None:
    sides = [save(tmp_path / f"theta{i}", llama(i), config()) for i in (0, 1)]
    for i, side in enumerate(sides):
        (side / "tokenizer.json").write_text(json.dumps({"model": i}))
        (side / "tokenizer_config.json").write_text(json.dumps({"eos_token": f"<{i}>", "chat_template": i, "a": 1}))
        (side / "special_tokens_map.json").write_text(json.dumps({"pad_token": f"<{i}>", "eos_token": "<e>"}))
        (side / "generation_config.json").write_text(json.dumps({"temperature": i}))
    (sides[1] / "chat_template.jinja").write_text("{{ messages }}")
    written = apply(*sides, ALPHA, tmp_path / "out")
    hint = "a tokenizer or template that differs hints at the wrong pair; theta1's is used"
    assert written.warnings == (
        f"chat_template.jinja: only in theta1: {hint}",
        f"special_tokens_map.json: differs (pad_token): {hint}",
        f"tokenizer.json: differs: {hint}",
        f"tokenizer_config.json: differs (chat_template, eos_token): {hint}",
    )
    assert (tmp_path / "out" / "tokenizer.json").read_text() == (sides[1] / "tokenizer.json").read_text()


@pytest.mark.parametrize("unigram", [False, True])
def test_tokens_of_other_ids(save: Save, tmp_path: Path, unigram: bool) -> None:
    """A token added at the end is no trouble to the other rows; one that was inserted is, of the same shapes too."""
    theta0 = save(tmp_path / "theta0", llama(0), config())

    def warned(name: str, tokens: str, added: str) -> list[str]:
        for folder, words, more in ((theta0, "abc", "d"), (save(tmp_path / name, llama(1), config()), tokens, added)):
            vocabulary = [[word, 0.0] for word in words] if unigram else {word: i for i, word in enumerate(words)}
            special = [{"content": word, "id": len(words) + i} for i, word in enumerate(more)]
            content = {"model": {"vocab": vocabulary}, "added_tokens": special}
            (folder / "tokenizer.json").write_text(json.dumps(content))
        return Direction.open(theta0, tmp_path / name).warnings()

    assert warned("same", "abc", "d") == []
    assert len(warned("appended", "abc", "de")) == 1
    assert warned("inserted", "abxc", "d")[1] == (
        'tokenizer.json: 2 tokens have other ids ("c" is 2 in theta0, 3 in theta1): the rows of the two embeddings do '
        "not belong to the same tokens"
    )


def test_settings_that_change_the_computation(save: Save, tmp_path: Path) -> None:
    theirs = config(rope_theta=1e4, eos_token_id=1, num_key_value_heads=2, vision_config={"patch_size": 14})
    ours = config(rope_theta=1e6, eos_token_id=[1, 2], sliding_window=8, vision_config={"patch_size": 16})
    sides = save(tmp_path / "theta0", llama(0), theirs), save(tmp_path / "theta1", llama(1), ours)
    [warning] = Direction.open(*sides).warnings()
    assert warning == (
        "config.json: eos_token_id is 1 in theta0, [1, 2] in theta1; num_key_value_heads is 2 in theta0, 1 in theta1; "
        "rope_theta is 10000.0 in theta0, 1000000.0 in theta1; vision_config.patch_size is 14 in theta0, 16 in theta1; "
        "sliding_window only in theta1's: settings that change the computation hint at the wrong pair; theta1's are "
        "used"
    )


def test_settings_that_do_not_matter(save: Save, tmp_path: Path) -> None:
    """Two versions of transformers, and two trainings, leave the same model."""
    theirs = config(
        rope_theta=1e4, rope_scaling=None, torch_dtype="bfloat16", use_cache=True, transformers_version="4.40.0"
    )
    ours = config(
        rope_parameters={"rope_theta": 1e4, "rope_type": "default"},
        dtype="float32",
        use_cache=False,
        transformers_version="5.0.0",
        attention_dropout=0.1,
        _name_or_path="sft",
        pad_token_id=None,
    )
    sides = save(tmp_path / "theta0", llama(0), theirs), save(tmp_path / "theta1", llama(1), ours)
    assert Direction.open(*sides).warnings() == []


# ---- the pair ----


def test_one_folder_twice(save: Save, tmp_path: Path, refused: Refused) -> None:
    theta = save(tmp_path / "theta", llama(0))
    (tmp_path / "link").symlink_to(theta)
    for other in (theta, tmp_path / "link"):
        assert "are the same folder: there is no direction" in refused(theta, other)


def test_two_models_without_a_difference(save: Save, tmp_path: Path, refused: Refused) -> None:
    theta0, theta1 = save(tmp_path / "theta0", llama(0)), save(tmp_path / "theta1", llama(0), shards=2)
    assert "hold the same numbers in every tensor that would be moved: there is no direction to go" in refused(
        theta0, theta1
    )


def test_swapped(save: Save, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    near = {name: tensor + 0.01 for name, tensor in llama(0).items()}
    sft, dpo = save(tmp_path / "zephyr-sft", llama(0), config()), save(tmp_path / "zephyr-dpo", near, config())
    (dpo / "README.md").write_text(f"---\nbase_model: {sft}\n---\n")
    arguments = ["apply", str(dpo), str(sft), "--alpha", "0.5", "--out", str(tmp_path / "out")]
    assert main(arguments) == 1
    assert "they look swapped; exchange them, or give --as-given if that record is wrong" in capsys.readouterr().err
    assert main([*arguments, "--as-given"]) == 0
    apply(sft, dpo, ALPHA, tmp_path / "right")
    # compare refuses nothing, and says it
    capsys.readouterr()
    assert main(["compare", str(dpo), str(sft)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"and that is theta1 ({sft}): they look swapped.")
    assert main(["compare", str(sft), str(dpo)]) == 0
    assert "swapped" not in capsys.readouterr().out


# ---- numbers ----


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_another_dtype(save: Save, tmp_path: Path, name: str) -> None:
    before, after = llama(0), llama(1)
    codes = {"model.position_ids": torch.arange(5), "model.mask": torch.tensor([True, False, True])}
    kept = {"v_head.weight": torch.randn(1, 16)}
    deep = {"text_config": {"dtype": "float32", "inner": {"torch_dtype": "float32"}}}
    theta0 = save(tmp_path / "theta0", before | codes, config())
    theta1 = save(tmp_path / "theta1", after | codes | kept, config(**deep), shards=2)
    out, dtype = tmp_path / "out", getattr(torch, name)
    assert main(["apply", str(theta0), str(theta1), "--alpha", "0.5", "--dtype", name, "--out", str(out)]) == 0
    expected = {key: moved(before[key], tensor).to(dtype) for key, tensor in after.items()}
    expected |= codes | {key: tensor.to(dtype) for key, tensor in kept.items()}
    assert same(read(out), expected)
    settings = json.loads((out / "config.json").read_text())
    inner = {"dtype": name, "inner": {"torch_dtype": name}}
    assert settings == config(dtype=name) | {"text_config": inner}
    if name != "float32":
        index = json.loads((out / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in expected.values())
    plain = save(tmp_path / "plain", after, config())
    write(plan(Direction.open(theta0, plain), ALPHA, dtype=name), tmp_path / "loadable")
    assert_loads(tmp_path / "loadable", dtype)


def test_stochastic_rounding(save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "BATCH", 1000)
    generator = torch.Generator().manual_seed(0)
    before = {name: torch.randn(60, 70, generator=generator).bfloat16() for name in "abcd"}
    after = {name: (tensor.float() * (1 + 2**-8)).bfloat16() for name, tensor in before.items()}
    theta0 = save(tmp_path / "theta0", before)
    sides = [Direction.open(theta0, save(tmp_path / f"theta1 in {n}", after, shards=n)) for n in (1, 3)]
    runs = {}
    for i, (direction, seed, workers) in enumerate(
        [(sides[0], 7, 1), (sides[0], 7, 3), (sides[1], 7, 2), (sides[0], 8, 1)]
    ):
        out = tmp_path / f"out{i}"
        written = write(plan(direction, 0.3, rounding=Rounding("stochastic", seed)), out, workers=workers)
        runs[i] = read(out)
        assert written.realised_alpha == pytest.approx(0.3, abs=0.02)
    assert contents(tmp_path / "out0") == contents(tmp_path / "out1")
    assert same(runs[0], runs[1])
    assert same(runs[0], runs[2])
    assert not same(runs[0], runs[3])
    nearest = write(plan(sides[0], 0.3), tmp_path / "nearest")
    assert nearest.realised_alpha is not None
    assert abs(nearest.realised_alpha - 0.3) > 0.1


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_not_finite(save: Save, tmp_path: Path, capsys: pytest.CaptureFixture[str], side: int, bad: float) -> None:
    pair = torch.zeros(2, 3), torch.ones(2, 3)
    pair[side][1, 2] = bad
    theta0, theta1 = (save(tmp_path / f"theta{i}", {"w": pair[i]}) for i in (0, 1))
    arguments = ["apply", str(theta0), str(theta1), "--alpha", "0.5", "--out", str(tmp_path / "out")]
    assert main(arguments) == 1
    words = f"theta{side}/model.safetensors (theta{side}): w holds {bad} at index [1, 2]; --allow-not-finite keeps"
    assert words in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))
    assert main([*arguments, "--allow-not-finite"]) == 0
    expected = torch.full((2, 3), 1.5)
    expected[1, 2] = pair[1][1, 2]
    assert same(read(tmp_path / "out"), {"w": expected})


def test_overflow(save: Save, tmp_path: Path, refused: Refused) -> None:
    theta0 = save(tmp_path / "theta0", {"w": torch.tensor([0.0, 0.0]).half()})
    theta1 = save(tmp_path / "theta1", {"w": torch.tensor([1.0, 60000.0]).half()})
    message = refused(theta0, theta1)
    assert "w overflows F16 at index [1] with alpha 0.5: 0 in " in message
    assert message.endswith("a smaller alpha may fit, or --dtype float32")
    write(plan(Direction.open(theta0, theta1), ALPHA, dtype="float32"), tmp_path / "wide")
    assert same(read(tmp_path / "wide"), {"w": torch.tensor([1.5, 90000.0])})


def test_some_tensors_and_other_alphas(save: Save, tmp_path: Path) -> None:
    names = ("a.mlp", "a.attn", "b.mlp", "b.attn", "norm")
    theta0 = save(tmp_path / "theta0", {name: torch.zeros(1) for name in names})
    theta1 = save(tmp_path / "theta1", {name: torch.ones(1) for name in names})

    def made(*options: str) -> dict[str, float]:
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        assert main(["apply", str(theta0), str(theta1), "--alpha", "0.5", "--out", str(out), *options]) == 0
        return {name: tensor.item() for name, tensor in read(out).items()}

    usual = dict.fromkeys(names, 1.5)
    assert made() == usual
    assert made("--include", "a.*", "--include", "norm") == usual | {"b.mlp": 1.0, "b.attn": 1.0}
    assert made("--exclude", "*.mlp") == usual | {"a.mlp": 1.0, "b.mlp": 1.0}
    assert made("--include", "a.*", "--exclude", "*.mlp") == dict.fromkeys(names, 1.0) | {"a.attn": 1.5}
    several = made("--alpha-for", "*.mlp=2", "--alpha-for", "a.*=-1", "--alpha-for", "norm=0")
    assert several == {"a.mlp": 0.0, "a.attn": 0.0, "b.mlp": 3.0, "b.attn": 1.5, "norm": 1.0}
    assert made("--alpha-for", "a.*=-1", "--alpha-for", "*.mlp=2")["a.mlp"] == 3.0


def test_globs_that_do_nothing(save: Save, tmp_path: Path, refused: Refused) -> None:
    before, after = {"w": torch.zeros(1), "ids": torch.arange(2)}, {"w": torch.ones(1), "ids": torch.arange(2)}
    sides = save(tmp_path / "theta0", before), save(tmp_path / "theta1", after)
    nothing = '"*.mlp" matches no tensor of theta1; its names are like '
    assert nothing in refused(*sides, include=["w", "*.mlp"])
    assert nothing in refused(*sides, exclude=["*.mlp"])
    assert nothing in refused(*sides, alpha_for=[("*.mlp", 1.0)])
    left_out = '--alpha-for "w" matches only tensors that --include and --exclude leave out'
    assert refused(*sides, exclude=["w"], alpha_for=[("w", 1.0)]) == left_out
    for settings in ({"exclude": ["*"]}, {"include": ["ids"]}):
        assert refused(*sides, **settings) == "--include and --exclude leave no tensor to move"


@pytest.mark.parametrize(("alpha", "side"), [(0.0, 1), (-1.0, 0)])
def test_both_ends(save: Save, tmp_path: Path, alpha: float, side: int) -> None:
    odd = torch.tensor([-0.0, float("nan"), float("inf"), 1e-45, 3.4e38])
    pair = [llama(i) | {"odd": odd if i == side else torch.zeros(5)} for i in (0, 1)]
    sides = [save(tmp_path / f"theta{i}", pair[i], config()) for i in (0, 1)]
    apply(*sides, alpha, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(sides[side])


def test_any_alpha(save: Save, tmp_path: Path, refused: Refused) -> None:
    theta0 = save(tmp_path / "theta0", {"w": torch.tensor([1.0, 2.0])})
    theta1 = save(tmp_path / "theta1", {"w": torch.tensor([1.5, 2.0])})
    for alpha, expected in ((-0.5, 1.25), (-3.0, 0.0), (64.0, 33.5), (2.0**100, 2.0**99)):
        apply(theta0, theta1, alpha, tmp_path / f"at {alpha}")
        assert same(read(tmp_path / f"at {alpha}"), {"w": torch.tensor([expected, 2.0])})
    wide = save(tmp_path / "wide", {"w": torch.tensor([100.0, 2.0])})
    assert "w overflows F32 at index [0] with alpha 3e+38" in refused(theta0, wide, 3e38)


# ---- the table ----


def test_the_table_and_the_tests_name_each_other() -> None:
    text = (ROOT / "docs" / "checkpoints.md").read_text()
    lines = [
        line for line in text.splitlines() if line.startswith("| ") and not line.startswith(("| **", "| situation"))
    ]
    rows = [line.strip("| ").split(" | ") for line in lines]
    assert len(rows) > 40
    here = str(Path(__file__).relative_to(ROOT / "tests"))
    named: dict[str, set[str]] = {}
    for row in rows:
        assert len(row) == 3, row
        tests = re.findall(r"`(?:([\w/]+\.py)::)?(\w+)`", row[2])
        assert tests, f"no test holds the row: {row}"
        for file, test in tests:
            named.setdefault(file or here, set()).add(test)
    for file, tests in named.items():
        tree = ast.parse((ROOT / "tests" / file).read_text())
        written = {
            node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        }
        assert tests <= written, f"{file} has no {tests - written}"
        if file == here:
            assert tests == written - {test_the_table_and_the_tests_name_each_other.__name__}
