"""The engine on tiny random models: what is generated, with which noise, and by which weights."""

import json
import shutil
import weakref
from threading import Event

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

from llm_expo.checkpoints import Checkpoint
from llm_expo.errors import EngineError, PromptError
from llm_expo.generation import Prompt, Request, Sampling, TransformersEngine
from llm_expo.generation.decoding import decode
from llm_expo.generation.moving import InMemory, OnDisk, Scaled, fits_in_memory
from llm_expo.testing import WORDS, tiny_pair
from llm_expo.weights import Direction, adapter_on_theta0, apply, plan, plan_adapter, write, write_difference

CPU = torch.device("cpu")
SAMPLING = Sampling(max_tokens=12)


def prompt(index: int) -> Prompt:
    words = [WORDS[(index * 7 + place) % len(WORDS)] for place in range(1 + index % 5)]
    return Prompt(f"p{index}", ({"role": "user", "content": " ".join(words)},))


def requests(engine: TransformersEngine, *indices: int, noise: str = "search") -> list[Request]:
    prompts = [prompt(index) for index in indices]
    return [Request(p.id, tokens, noise) for p, tokens in zip(prompts, engine.encode(prompts), strict=True)]


@pytest.fixture
def engine(pair) -> TransformersEngine:
    return TransformersEngine(Direction.open(*pair), SAMPLING, device="cpu")


def weights(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same_bits(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype
        assert torch.equal(one[name].view(torch.uint8), other[name].view(torch.uint8)), name


def test_one_model_alone_replies_as_it_does_in_a_pair(pair, engine):
    alone = TransformersEngine(Direction.alone(pair[1]), SAMPLING, device="cpu")
    asked = requests(engine, 0, 1, 2)
    assert next(alone.generate(0.0, [asked])) == next(engine.generate(0.0, [asked]))
    with pytest.raises(EngineError, match="alpha 0.5: one model alone has no direction"):
        next(alone.generate(0.5, [asked]))


def test_an_adapter_alone_replies_on_the_base_that_it_names(pair, lora):
    adapter = lora(pair[0], "adapter")
    directions = Direction.open(pair[0], adapter), Direction.alone(adapter)
    engines = [TransformersEngine(each, SAMPLING, device="cpu") for each in directions]
    one, other = (next(each.generate(0.0, [requests(each, 0, 1)])) for each in engines)
    assert one == other


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_live_weights_are_bit_for_bit_those_that_apply_writes(tmp_path, dtype):
    theta0, theta1 = tiny_pair(tmp_path, dtype=dtype, shard_size="5KB")
    direction = Direction.open(theta0, theta1)
    live = InMemory(direction, CPU, False)
    disk = OnDisk(direction, CPU, False, tmp_path / "scratch")
    for index, alpha in enumerate((0.3, 8.0, -0.5, -1.0, 0.0, 0.3)):
        apply(theta0, theta1, alpha, tmp_path / f"out{index}")
        written = weights(AutoModelForCausalLM.from_pretrained(tmp_path / f"out{index}"))
        assert_same_bits(weights(live.at(alpha)), written)
        assert_same_bits(weights(disk.at(alpha)), written)
    assert_same_bits(written, weights(AutoModelForCausalLM.from_pretrained(tmp_path / "out0")))
    assert not (tmp_path / "scratch").exists()


def test_live_weights_of_a_pair_with_two_dtypes(tmp_path):
    theta0, _ = tiny_pair(tmp_path / "a", dtype="float32")
    _, theta1 = tiny_pair(tmp_path / "b", dtype="bfloat16")
    apply(theta0, theta1, 0.7, tmp_path / "out")
    live = InMemory(Direction.open(theta0, theta1), CPU, False).at(0.7)
    assert_same_bits(weights(live), weights(AutoModelForCausalLM.from_pretrained(tmp_path / "out")))


def test_live_weights_of_a_difference(tmp_path):
    """transformers cannot load it: it is written whole once, and then moved in memory as any other pair."""
    theta0, _ = tiny_pair(tmp_path / "a", dtype="bfloat16")
    _, theta1 = tiny_pair(tmp_path / "b", dtype="float32")
    write_difference(Checkpoint.open(theta0), Checkpoint.open(theta1), tmp_path / "kept")
    direction = Direction.open(None, tmp_path / "kept")
    assert fits_in_memory(direction, CPU)
    scratch = tmp_path / "scratch"
    live, disk = InMemory(direction, CPU, False, scratch), OnDisk(direction, CPU, False, scratch)
    assert not scratch.exists()
    for alpha in (0.0, 0.3, -1.0, 0.0):
        write(plan(direction, alpha), tmp_path / "out")
        written = weights(AutoModelForCausalLM.from_pretrained(tmp_path / "out"))
        assert {tensor.dtype for tensor in written.values()} == {torch.float32}
        assert_same_bits(weights(live.at(alpha)), written)
        assert_same_bits(weights(disk.at(alpha)), written)
        shutil.rmtree(tmp_path / "out")
    engine = TransformersEngine(direction, SAMPLING, device="cpu")
    [replies] = engine.generate(0.3, [requests(engine, 1, 2)])
    assert all(reply.tokens for reply in replies)
    # as theta0 it is written for each alpha
    assert not fits_in_memory(Direction.open(tmp_path / "kept", theta1, as_given=True), CPU)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_live_weights_in_another_type_are_those_that_apply_writes(tmp_path, dtype):
    folders = tiny_pair(tmp_path)
    direction = Direction.open(*folders)
    live = InMemory(direction, CPU, False, dtype=dtype)
    disk = OnDisk(direction, CPU, False, tmp_path / "scratch", dtype)
    for alpha in (0.0, 0.7, -1.0, 0.0):
        write(plan(direction, alpha, dtype=dtype), tmp_path / "out")
        written = weights(AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto"))
        assert {tensor.dtype for tensor in written.values()} == {getattr(torch, dtype)}
        assert_same_bits(weights(live.at(alpha)), written)
        assert_same_bits(weights(disk.at(alpha)), written)
        shutil.rmtree(tmp_path / "out")


@pytest.mark.parametrize("family", ["mixtral", "gpt_neox"])
def test_live_weights_where_names_in_files_are_not_names_in_the_model(tmp_path, pair, family):
    """transformers fuses Mixtral's experts while it loads; GPT-NeoX has buffers and another layout."""
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    folders = []
    for side in (0, 1):
        torch.manual_seed(side)
        if family == "mixtral":
            config = MixtralConfig(**small, num_key_value_heads=1, num_local_experts=4, vocab_size=40)
            model = MixtralForCausalLM(config)
        else:
            model = GPTNeoXForCausalLM(GPTNeoXConfig(**small, vocab_size=40))
        folder = tmp_path / f"{family}{side}"
        model.to(torch.bfloat16).save_pretrained(folder)
        AutoTokenizer.from_pretrained(pair[0]).save_pretrained(folder)
        folders.append(folder)
    apply(*folders, 1.5, tmp_path / "out")
    live = InMemory(Direction.open(*folders), CPU, False).at(1.5)
    assert_same_bits(weights(live), weights(AutoModelForCausalLM.from_pretrained(tmp_path / "out")))


def test_tied_embeddings_move_once(tmp_path):
    folders = tiny_pair(tmp_path, tied=True)
    apply(*folders, 2.0, tmp_path / "out")
    live = InMemory(Direction.open(*folders), CPU, False).at(2.0)
    assert live.lm_head.weight.data_ptr() == live.model.embed_tokens.weight.data_ptr()
    assert_same_bits(weights(live), weights(AutoModelForCausalLM.from_pretrained(tmp_path / "out")))


def test_a_pair_that_loads_differently_is_refused_in_memory(tmp_path):
    """transformers unties embeddings whose two copies in a file differ: then theta0 and theta1 are not one model."""
    theta0, theta1 = tiny_pair(tmp_path)
    tensors = load_file(theta1 / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, theta1 / "model.safetensors", metadata={"format": "pt"})
    for folder in (theta0, theta1):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    with pytest.raises(EngineError, match=r"lm_head.weight: .* --low-memory"):
        InMemory(Direction.open(theta0, theta1), CPU, False)


def test_memory_decides(tmp_path, pair, monkeypatch):
    direction = Direction.open(*pair)
    assert fits_in_memory(direction, CPU)
    monkeypatch.setattr("llm_expo.generation.moving._available_memory", lambda: 1000.0)
    assert not fits_in_memory(direction, CPU)


def test_low_memory_gives_the_same_replies(pair, tmp_path, engine):
    frugal = TransformersEngine(
        Direction.open(*pair), SAMPLING, device="cpu", low_memory=True, scratch=tmp_path / "scratch"
    )
    for alpha in (0.0, 0.8):
        assert list(frugal.generate(alpha, [requests(engine, 1, 2)])) == list(
            engine.generate(alpha, [requests(engine, 1, 2)])
        )


def test_replies_repeat_and_alphas_differ(engine):
    first = list(engine.generate(0.0, [requests(engine, 0, 1, 2), requests(engine, 3, 4)]))
    assert [len(batch) for batch in first] == [3, 2]
    moved = list(engine.generate(3.0, [requests(engine, 0, 1, 2), requests(engine, 3, 4)]))
    assert moved != first
    assert list(engine.generate(0.0, [requests(engine, 0, 1, 2), requests(engine, 3, 4)])) == first


def test_noise_belongs_to_the_prompt_and_not_to_the_batch(engine):
    """In float32 on a tiny model the arithmetic of other batch shapes does not reach the draw."""
    [together] = engine.generate(0.0, [requests(engine, 0, 1, 2, 3, 4)])
    [[alone]] = engine.generate(0.0, [requests(engine, 3)])
    [[other]] = engine.generate(0.0, [requests(engine, 3, noise="confirm")])
    assert together[3] == alone
    assert other != alone


def test_replies_are_those_of_plain_transformers_when_greedy(pair):
    engine = TransformersEngine(
        Direction.open(*pair),
        Sampling(temperature=0, presence_penalty=0, frequency_penalty=0, max_tokens=12),
        device="cpu",
    )
    model, tokenizer = AutoModelForCausalLM.from_pretrained(pair[1]), AutoTokenizer.from_pretrained(pair[1])
    [replies] = engine.generate(0.0, [requests(engine, 0, 1, 2, 3)])
    for index, reply in enumerate(replies):
        inputs = tokenizer.apply_chat_template(
            list(prompt(index).messages), add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        output = model.generate(**inputs, do_sample=False, max_new_tokens=12)
        assert list(reply.tokens) == output[0, inputs["input_ids"].shape[1] :].tolist()


def test_every_end_of_sequence_id_ends_a_reply(pair):
    config = json.loads((pair[1] / "generation_config.json").read_text())
    ends = list(range(1, 15))
    (pair[1] / "generation_config.json").write_text(
        json.dumps({**config, "eos_token_id": ends, "repetition_penalty": 9.0})
    )
    engine = TransformersEngine(Direction.open(*pair), Sampling(max_tokens=40), device="cpu")
    [replies] = engine.generate(0.0, [requests(engine, *range(20))])
    assert {reply.tokens[-1] for reply in replies} <= set(ends)
    assert len({reply.tokens[-1] for reply in replies}) > 1
    for reply in replies:
        assert not set(reply.tokens[:-1]) & set(ends)
        assert not reply.truncated


def test_truncation_is_said(engine):
    [replies] = engine.generate(0.0, [requests(engine, *range(20))])
    for reply in replies:
        assert reply.truncated == (reply.tokens[-1] != 1)
        assert len(reply.tokens) == 12 or not reply.truncated
        assert "<|end|>" not in reply.text
    assert {reply.truncated for reply in replies} == {True, False}


def test_log_probabilities_are_those_of_one_plain_pass(engine, pair, monkeypatch):
    [replies] = engine.generate(1.0, [requests(engine, 0, 1, 2, 3, 4)])
    questions = [request.tokens for request in requests(engine, 0, 1, 2, 3, 4)]
    asked = [(question, reply.tokens) for question, reply in zip(questions, replies, strict=True)]
    [values] = engine.log_probabilities(-1.0, [asked])
    model, tokenizer = AutoModelForCausalLM.from_pretrained(pair[0]), AutoTokenizer.from_pretrained(pair[0])
    for index, ((_, reply), value) in enumerate(zip(asked, values, strict=True)):
        messages = list(prompt(index).messages)
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        head = tokenizer(text, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            scores = model(torch.tensor([[*head, *reply]])).logits[0, len(head) - 1 : -1].log_softmax(-1)
        assert value == pytest.approx(float(scores.gather(1, torch.tensor(reply)[:, None]).mean()), abs=1e-5)
    monkeypatch.setattr("llm_expo.generation.transformers_engine._LOGIT_ELEMENTS", 1)
    [one_by_one] = engine.log_probabilities(-1.0, [asked])
    assert one_by_one == pytest.approx(values, abs=1e-5)


def test_prompt_lengths_and_the_context(engine):
    assert [len(tokens) for tokens in engine.encode([prompt(0), prompt(1)])] == [4, 5]
    long = Prompt("long", ({"role": "user", "content": "sun " * 250},))
    with pytest.raises(
        PromptError, match="prompt long: its 253 tokens and a reply of 12 exceed the model's context of 256"
    ):
        engine.encode([long])


def test_a_model_without_chat_template(pair):
    (pair[1] / "chat_template.jinja").unlink()
    with pytest.raises(EngineError, match="theta1: has no chat template"):
        TransformersEngine(Direction.open(*pair), SAMPLING)


def test_a_template_that_refuses_a_prompt(pair):
    (pair[1] / "chat_template.jinja").write_text("{{ raise_exception('no system role') }}")
    engine = TransformersEngine(Direction.open(*pair), SAMPLING, device="cpu")
    with pytest.raises(PromptError, match="prompt p0: theta1's chat template refuses it: no system role"):
        engine.encode([prompt(0)])


def test_a_checkpoint_with_missing_weights_is_not_filled_at_random(pair):
    for folder in pair:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    engine = TransformersEngine(Direction.open(*pair), SAMPLING)
    with pytest.raises(EngineError, match=r"the model needs weights that the files do not hold: model.layers.2"):
        next(engine.generate(0.0, [requests(engine, 0)]))


def test_an_unknown_architecture(pair):
    for folder in pair:
        (folder / "config.json").write_text(json.dumps({"model_type": "no-such-model"}))
    with pytest.raises(EngineError, match="cannot be loaded|cannot load it"):
        TransformersEngine(Direction.open(*pair), SAMPLING)


def test_weights_that_apply_refuses_are_not_generated_from(tmp_path):
    """Nor NaN in an input, nor an alpha that overflows: the line names the tensor."""
    theta0, theta1 = tiny_pair(tmp_path, dtype="float16")
    live = InMemory(Direction.open(theta0, theta1), CPU, False)
    with pytest.raises(EngineError, match=r"weight: NaN or infinity at flat index \d+ with alpha 300000"):
        live.at(300000.0)
    assert live.at(0.5) is not None
    tensors = load_file(theta0 / "model.safetensors")
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, theta0 / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EngineError, match="model.norm.weight: NaN or infinity at flat index 3 with alpha 0.5"):
        InMemory(Direction.open(theta0, theta1), CPU, False).at(0.5)


def test_settings_cover_what_a_prompt_becomes(pair):
    def settings():
        return TransformersEngine(Direction.open(*pair), SAMPLING).settings

    before = settings()
    template = pair[1] / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    changed = settings()
    assert {name for name in before if before[name] != changed[name]} == {"tokenizer and template"}
    config = json.loads((pair[1] / "generation_config.json").read_text())
    (pair[1] / "generation_config.json").write_text(json.dumps({**config, "eos_token_id": [1, 2]}))
    assert settings()["tokenizer and template"] != changed["tokenizer and template"]


@pytest.mark.parametrize("broken", ["{", '{"eos_token_id": "x"}', '{"eos_token_id": []}'])
def test_a_broken_generation_config(pair, broken):
    (pair[1] / "generation_config.json").write_text(broken)
    if broken == "{":
        with pytest.raises(EngineError, match="its generation config cannot be loaded"):
            _ = TransformersEngine(Direction.open(*pair), SAMPLING).settings
    else:  # the next source names the token
        assert TransformersEngine(Direction.open(*pair), SAMPLING)._vocabulary.stops == [1]


def test_a_leftover_of_a_killed_run_is_cleared(pair, tmp_path):
    (tmp_path / "scratch" / "theta.partial" / "model").mkdir(parents=True)
    (tmp_path / "scratch" / "theta").mkdir()
    OnDisk(Direction.open(*pair), CPU, False, tmp_path / "scratch").at(0.5)
    assert not (tmp_path / "scratch").exists()


def test_a_models_own_code_is_not_run_unasked(pair):
    for folder in pair:
        config = json.loads((folder / "config.json").read_text())
        auto = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
        (folder / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": auto}))
        (folder / "own.py").write_text("raise SystemExit('the code ran')\n")
    with pytest.raises(EngineError, match="trust_remote_code"):
        TransformersEngine(Direction.open(*pair), SAMPLING)


def test_replies_do_not_depend_on_the_number_of_workers(pair, engine):
    """Bit for bit, so that a study may go on with another: what is computed together is the batch's affair."""
    many, few = [requests(engine, *range(40)), requests(engine, 40, 41, 42)], [requests(engine, *range(8))]
    engines = [TransformersEngine(Direction.open(*pair), SAMPLING, device="cpu", workers=n) for n in (1, 2, 3)]
    threads = torch.get_num_threads()
    for alpha, batches in ((0.0, many), (0.8, many), (0.8, few)):
        one, *others = (list(each.generate(alpha, batches)) for each in engines)
        assert all(other == one for other in others)
        texts = [
            [(r.tokens, reply.tokens) for r, reply in zip(*each, strict=True)]
            for each in zip(batches, one, strict=True)
        ]
        read, *others = (list(each.log_probabilities(alpha, texts)) for each in engines)
        assert all(other == read for other in others)
    assert torch.get_num_threads() == threads


def test_a_batch_can_be_abandoned_from_elsewhere(engine):
    abandoned = Event()
    answers = engine.generate(0.0, [requests(engine, 1), requests(engine, 2)] * 40, abandoned=abandoned)
    next(answers)
    abandoned.set()
    with pytest.raises(EngineError, match="abandoned"):
        list(answers)
    assert len(list(engine.generate(0.0, [requests(engine, 1)]))) == 1


def test_out_of_memory_halves_what_is_read_together(engine, monkeypatch, caplog):
    texts = [(prompt, (5, 6, 7)) for prompt in engine.encode([prompt(index) for index in range(12)])]
    [expected] = engine.log_probabilities(0.5, [texts])
    read = engine._read

    def read_some(model, part):
        if len(part) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return read(model, part)

    monkeypatch.setattr(engine, "_read", read_some)
    [values] = engine.log_probabilities(0.5, [texts])
    assert values == pytest.approx(expected, abs=1e-5)
    assert "out of memory at 6 replies at once: going on with 3" in caplog.text


def test_a_model_that_is_spread_replies_alike(pair, engine):
    """Over what there is: here, one CPU."""
    spread = TransformersEngine(Direction.open(*pair), SAMPLING, device="auto")
    if torch.cuda.is_available():
        pytest.skip("the replies of GPUs are not those of a CPU")
    for alpha in (0.0, 0.5):
        assert next(spread.generate(alpha, [requests(spread, 0, 1)])) == next(
            engine.generate(alpha, [requests(engine, 0, 1)])
        )
    spread.rest()
    assert next(spread.generate(0.5, [requests(spread, 2)])) == next(engine.generate(0.5, [requests(engine, 2)]))


def test_out_of_memory_halves_what_is_computed_together(engine, monkeypatch, caplog):
    [expected] = engine.generate(0.0, [requests(engine, *range(16))])
    sizes = []

    def decode_some(model, prompts, *rest):
        sizes.append(len(prompts))
        if len(prompts) > 6:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return decode(model, prompts, *rest)

    monkeypatch.setattr("llm_expo.generation.transformers_engine.decode", decode_some)
    [replies] = engine.generate(0.0, [requests(engine, *range(16))])
    assert replies == expected
    assert sizes == [16, 8, 4, 4, 4, 4]
    assert "out of memory at 16 replies at once: going on with 8" in caplog.text
    list(engine.generate(0.0, [requests(engine, *range(7))]))
    assert max(sizes[6:]) <= 4

    def refused(*_):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] data. DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("llm_expo.generation.transformers_engine.decode", refused)
    with pytest.raises(EngineError, match="memory does not suffice for a single reply; lower --max-tokens"):
        list(engine.generate(0.0, [requests(engine, 1, 2)]))


@pytest.mark.parametrize("low_memory", [False, True])
def test_at_rest_it_holds_no_weights_and_replies_the_same_afterwards(pair, tmp_path, low_memory):
    engine = TransformersEngine(
        Direction.open(*pair), SAMPLING, device="cpu", low_memory=low_memory, scratch=tmp_path / "scratch"
    )
    engine.rest()
    first = list(engine.generate(0.8, [requests(engine, 1, 2)]))
    held = weakref.ref(engine._model(0.8))
    engine.rest()
    assert held() is None
    assert list(engine.generate(0.8, [requests(engine, 1, 2)])) == first


def test_an_adapter_is_scaled_and_no_weights_move(pair, lora, tmp_path):
    adapter = lora(pair[0], "adapter", use_rslora=True, r=3, lora_alpha=5)
    direction = Direction.open(pair[0], adapter)
    live = Scaled(direction, adapter_on_theta0(direction), CPU, False)
    tokens = torch.arange(2, 12)[None]
    before = weights(live.at(0.0))
    for alpha in (0.0, 0.7, -1.0, 2.5):
        write(plan_adapter(direction.initial, direction.aligned.adapter, alpha), tmp_path / f"a{alpha}")
        base = AutoModelForCausalLM.from_pretrained(pair[0])
        written = PeftModel.from_pretrained(base, tmp_path / f"a{alpha}").eval()
        with torch.inference_mode():
            assert torch.equal(live.at(alpha)(tokens).logits, written(tokens).logits)
    assert_same_bits(weights(live.at(0.0)), before)
    engine = TransformersEngine(direction, SAMPLING, device="cpu")
    [at_theta1], [far] = (list(engine.generate(alpha, [requests(engine, 1, 2)])) for alpha in (0.0, 8.0))
    assert at_theta1 != far
    assert isinstance(engine._live, Scaled)


def test_an_adapter_that_is_more_than_a_scale_goes_the_other_way(pair, lora):
    saved = Direction.open(pair[0], lora(pair[0], "saved", modules_to_save=["lm_head"]))
    assert adapter_on_theta0(saved) is None
    assert adapter_on_theta0(Direction.open(*pair)) is None
