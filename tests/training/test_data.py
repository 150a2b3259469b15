"""What a recipe's data becomes, with a real tokenizer and the hub's loader."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from llm_expo.errors import RecipeError
from llm_expo.training.data import Records, read_records
from llm_expo.training.recipe import Recipe

USER, CHOSEN, REJECTED = (
    {"role": role, "content": text} for role, text in (("user", "the cat"), ("assistant", "runs"), ("assistant", "sun"))
)
TEXTS = {"prompt": "the cat", "chosen": "runs", "rejected": "sun"}


@pytest.fixture(scope="module")
def tokenizer(theta0: Path) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(theta0)


@pytest.fixture
def read(tmp_path, tokenizer):
    """read(*records, **settings of the recipe) -> Records of a JSONL file; a record that is a text is a line."""

    def read_them(*records: Any, **settings: Any) -> Records:
        lines = (record if isinstance(record, str) else json.dumps(record) for record in records)
        (tmp_path / "d.jsonl").write_text("\n".join(lines))
        data = str(tmp_path / "d.jsonl")
        recipe = Recipe(model="m", data=data, algorithm="dpo", learning_rate=1e-6, batch_size=2)
        return read_records(replace(recipe, **settings), tokenizer)

    return read_them


def pair(prompt: int, chosen: int, rejected: int) -> dict[str, str]:
    """A pair with so many words; each of its messages has two tokens more, and the assistant is asked with one."""
    words = ("the", "cat", "runs")
    return {
        key: " ".join([word] * count) for key, word, count in zip(TEXTS, words, (prompt, chosen, rejected), strict=True)
    }


@pytest.mark.parametrize(
    "record",
    [
        TEXTS,
        {**TEXTS, "chosen-model": "x", "score_chosen": 8.5, "tools": None},
        {**TEXTS, "chosen": [{**CHOSEN, "tool_calls": None, "language": "en"}]},
        {"prompt": "Human: the cat\n\nAssistant:", "chosen": [USER, CHOSEN], "rejected": [USER, REJECTED]},
        {"prompt": [USER], "chosen": [CHOSEN], "rejected": [REJECTED]},
        {"prompt": "the cat", "chosen": [CHOSEN], "rejected": "sun"},
        {"chosen": [USER, CHOSEN], "rejected": [USER, REJECTED]},
        {"prompt": [USER], "chosen": [USER, CHOSEN], "rejected": [USER, REJECTED]},
        {  # as HuggingFaceH4/ultrafeedback_binarized has them
            "prompt": "the cat",
            "prompt_id": "7",
            "chosen": [USER, CHOSEN],
            "rejected": [USER, REJECTED],
            "messages": [USER, CHOSEN],
            "score_chosen": 8.5,
        },
    ],
)
def test_the_forms_of_a_pair(read, record):
    found = read(record)
    assert found.dataset[:] == {"prompt": [[USER]], "chosen": [[CHOSEN]], "rejected": [[REJECTED]]}
    assert (found.tokens, found.longest, found.dropped, found.sequential) == (14, 7, {}, False)


def test_a_conversation_of_several_turns(read):
    turns = [{"role": "system", "content": "good"}, USER, CHOSEN, {"role": "user", "content": "and then"}]
    found = read({"chosen": [*turns, CHOSEN], "rejected": [*turns, REJECTED]})
    assert found.dataset[0] == {"prompt": turns, "chosen": [CHOSEN], "rejected": [REJECTED]}


@pytest.mark.parametrize(
    "record", [{"prompt": "the cat", "completion": "runs"}, {"prompt": [USER], "completion": [CHOSEN]}]
)
def test_supervised_by_replies(read, record):
    found = read(record, algorithm="sft")
    assert found.dataset[:] == {"prompt": [[USER]], "completion": [[CHOSEN]]}
    assert (found.tokens, found.longest) == (7, 7)


def test_supervised_by_conversations(read):
    found = read({"messages": [USER, CHOSEN], "prompt": "the cat", "chosen": "ignored"}, algorithm="sft")
    assert found.dataset[:] == {"messages": [[USER, CHOSEN]]}
    with pytest.raises(
        RecipeError, match="line 2: `messages`, and `prompt` with `completion`, do not mix; see .*line 1"
    ):
        read({"messages": [USER, CHOSEN]}, {"prompt": "a", "completion": "b"}, algorithm="sft")


def test_padding_is_up_to_the_longest_at_once(read):
    found = read(*(pair(1, words, words) for words in (1, 2, 9, 3)), order="length_biased")  # all alike: as they come
    assert found.lengths == [[6, 6], [7, 7], [14, 14], [8, 8]]
    assert (found.padded(2), found.padded(4), found.padded(6)) == (found.tokens, 4 * 7 + 4 * 14, 6 * 14 + 2 * 8)
    drawn = read(*(pair(1, words, words) for words in (1, 2, 9, 3)))
    assert drawn.padded(2) == drawn.tokens < drawn.padded(4) < drawn.padded(8) == 8 * 14


def test_replies_for_kto_are_shuffled(read):
    pairs = [pair(1, n, n + 20) for n in range(1, 20)]
    first, again, other = (read(*pairs, algorithm="kto", seed=seed) for seed in (1, 1, 2))
    assert first.dataset.column_names == ["prompt", "completion", "label"]
    assert len(first.dataset) == 38 and sum(first.dataset["label"]) == 19 and first.sequential
    chosen = {row["completion"][0]["content"].split()[0]: row["label"] for row in first.dataset}
    assert chosen == {"cat": True, "runs": False}
    assert len(set(first.dataset["label"][:8])) == 2
    assert first.dataset[:] == again.dataset[:] != other.dataset[:]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2: not JSON"),
        ("3", "line 2: a record is an object, this is a number"),
        ({"prompt": "a", "chosen": "b"}, "line 2: no `rejected`; it has prompt, chosen"),
        ({"text": "a"}, "line 2: no `chosen` and no `rejected`; it has text"),
        ({"chosen": "a", "rejected": "b"}, "line 2: no `prompt`, nor do chosen and rejected begin with one"),
        ({**TEXTS, "prompt": 3}, "line 2: the prompt is a number, not a text or a list of messages"),
        ({**TEXTS, "prompt": " "}, "line 2: the user's message has no text"),
        ({**TEXTS, "chosen": {"a": 1}}, "line 2: chosen is an object, not a text or a list"),
        ({**TEXTS, "chosen": [{"role": "assistant"}]}, "line 2: the assistant's message has no text"),
        ({**TEXTS, "rejected": ["x"]}, "line 2: a message is"),
        ({**TEXTS, "rejected": [USER]}, "line 2: rejected ends with the user's message, not the assistant's"),
        ({**TEXTS, "prompt": [CHOSEN]}, "line 2: the prompt ends with the assistant's message, not the user's"),
        ({"prompt": "a", "chosen": [USER, CHOSEN], "rejected": [CHOSEN]}, "line 2: chosen and rejected differ before"),
        (
            {"prompt": [USER, CHOSEN, USER], "chosen": [USER, CHOSEN], "rejected": [USER, REJECTED]},
            "does not begin with",
        ),
        ({**TEXTS, "chosen": "sun"}, 'line 2: chosen equals rejected, which teaches nothing; degenerate = "drop"'),
        ({**TEXTS, "rejected": ""}, 'line 2: a reply has no text, which teaches nothing; degenerate = "drop"'),
        ({**TEXTS, "chosen": "\ud800"}, "line 2: holds half of a character"),
        (
            {**TEXTS, "chosen": [{**CHOSEN, "tool_calls": [{"name": "f"}]}]},
            "line 2: a message in chosen holds `tool_calls`, which is part of what it says",
        ),
        ({**TEXTS, "tools": [{"name": "f"}]}, "line 2: `tools` would change what the model reads"),
        (
            {"prompt": "the dog", "chosen": [USER, CHOSEN], "rejected": [USER, REJECTED]},
            "line 2: the prompt is another text than the messages that chosen and rejected share",
        ),
    ],
)
def test_a_bad_pair_names_its_line(read, line, words):
    with pytest.raises(RecipeError, match=words):
        read(TEXTS, line)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (TEXTS, "line 2: neither `messages` nor `prompt` and `completion`; it has prompt, chosen, rejected"),
        ({"messages": "a"}, "line 2: neither `messages` nor"),
        ({"messages": [USER]}, "line 2: messages ends with the user's message, not the assistant's"),
        ({"completion": "a"}, "line 2: no `prompt`; it has completion"),
        ({"prompt": "a", "completion": [USER, CHOSEN]}, "line 2: completion holds 2 messages; a reply is one"),
        ({"messages": [USER, {"role": "assistant", "content": ""}]}, "line 2: a reply has no text"),
    ],
)
def test_a_bad_example_names_its_line(read, line, words):
    with pytest.raises(RecipeError, match=words):
        read({"messages": [USER, CHOSEN]}, line, algorithm="sft")


def test_what_the_template_reads_of_a_message_is_not_left_out_silently(read, tokenizer, monkeypatch):
    record = {**TEXTS, "chosen": [{**CHOSEN, "reasoning_content": "hm"}]}
    assert len(read(record).dataset) == 1, "this model's template knows nothing of it"
    monkeypatch.setattr(tokenizer, "chat_template", tokenizer.chat_template + "{{ messages[0].reasoning_content }}")
    with pytest.raises(RecipeError, match="line 1: a message in chosen holds `reasoning_content`"):
        read(record)


def test_what_teaches_nothing_is_dropped_if_the_recipe_says_so(read):
    found = read(TEXTS, {**TEXTS, "chosen": "sun"}, {**TEXTS, "chosen": " "}, TEXTS, degenerate="drop")
    assert len(found.dataset) == 1
    assert found.dropped == {"chosen equals rejected": 1, "a reply has no text": 1, "stands there before": 1}


def test_too_long_is_dropped_and_counted(read):
    found = read(pair(2, 1, 1), pair(2, 9, 1), pair(2, 1, 9), pair(9, 1, 1), max_length=14, max_prompt_length=8)
    assert found.dropped == {"longer than max_length = 14": 2, "prompt longer than max_prompt_length = 8": 1}
    assert len(found.dataset) == 1 and found.longest == 7
    assert not read(pair(2, 8, 1), max_length=14).dropped, "the limit itself is not beyond the limit"


def test_too_long_is_refused(read):
    with pytest.raises(
        RecipeError, match=r"line 2: longer than max_length = 14: 15 and 7 with the replies; too_long = "
    ):
        read(pair(2, 8, 1), pair(2, 9, 1), max_length=14, too_long="refuse")
    with pytest.raises(
        RecipeError, match="prompt longer than max_prompt_length = 8: 12 tokens of prompt, 14 and 14 with"
    ):
        read(pair(9, 1, 1), max_length=14, max_prompt_length=8, too_long="refuse")
    with pytest.raises(RecipeError, match="line 1: longer than max_length = 6: 7 with the reply"):
        read({"messages": [USER, CHOSEN]}, algorithm="sft", max_length=6, too_long="refuse")


def test_too_long_is_truncated_at_the_end_but_for_prompts(read):
    """TRL cuts the sequences off at max_length; a prompt that fills it would leave nothing to learn."""
    records = [pair(2, 9, 1), pair(12, 1, 2), pair(9, 1, 1), {**pair(2, 9, 9), "rejected": "cat " * 8 + "sun"}]
    found = read(*records, max_length=13, too_long="truncate")
    assert found.dataset["chosen"] == [
        [{"role": "assistant", "content": "cat " * 8 + "cat"}],
        [{"role": "assistant", "content": "cat"}],
    ]
    assert found.tokens == 13 + 7 + 13 + 13 and found.longest == 13
    assert found.dropped == {
        "prompt fills max_length = 13": 1,
        "chosen and rejected are the same tokens up to max_length = 13": 1,
    }
    assert read(*records, max_length=13, max_prompt_length=5, too_long="truncate").dropped == {
        "prompt longer than max_prompt_length = 5": 2,
        "chosen and rejected are the same tokens up to max_length = 13": 1,
    }


def test_the_orders(read):
    pairs = [pair(1, 3, 3), pair(2, 5, 1), pair(3, 1, 5), pair(4, 2, 2), pair(5, 9, 1)]

    def order(**settings: Any) -> list[int]:
        return [len(prompt[0]["content"].split()) for prompt in read(*pairs, **settings).dataset["prompt"]]

    assert order(order="length_biased") == [5, 2, 1, 4, 3], "ties stay as they stood"
    assert order(order="as_given") == order(order="random") == [1, 2, 3, 4, 5]
    assert [read(*pairs, order=name).sequential for name in ("length_biased", "as_given", "random")] == [
        True,
        True,
        False,
    ]


def test_length_is_that_of_what_is_trained_on(read):
    """Cut at max_length, the first pair's replies are of one length; uncut, it would come first."""
    found = read(pair(1, 30, 10), pair(1, 3, 2), order="length_biased", too_long="truncate", max_length=12)
    assert [len(row["chosen"][0]["content"].split()) for row in found.dataset] == [3, 30]


def test_nothing_left(read):
    with pytest.raises(RecipeError, match="d.jsonl: nothing is left to train on: 2 longer than max_length = 5"):
        read(TEXTS, pair(1, 2, 3), max_length=5)
    with pytest.raises(RecipeError, match="nothing is left to train on: it holds no records"):
        read("")


def test_a_missing_file(read, tmp_path):
    with pytest.raises(RecipeError, match="absent.jsonl: no such file"):
        read(data=str(tmp_path / "absent.jsonl"))


def test_a_tokenizer_without_a_template(tmp_path, theta0):
    tokenizer = AutoTokenizer.from_pretrained(theta0)
    tokenizer.chat_template = None
    recipe = Recipe(model="org/base", data="d", algorithm="dpo", learning_rate=1e-6, batch_size=2)
    with pytest.raises(RecipeError, match="org/base: its tokenizer has no chat template.*chat_template.jinja"):
        read_records(recipe, tokenizer)


def test_a_record_that_the_template_refuses(read, tokenizer, monkeypatch):
    strict = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}{% endfor %}"
    )
    monkeypatch.setattr(tokenizer, "chat_template", strict + tokenizer.chat_template)
    with pytest.raises(RecipeError, match="line 2: the model's chat template does not take it: no system"):
        read(TEXTS, {**TEXTS, "prompt": [{"role": "system", "content": "good"}, USER]})


def test_a_data_set(read, tmp_path):
    """The hub's loader, on a data set in a folder: names are resolved by the same call."""
    (tmp_path / "set").mkdir()
    rows = [
        {"chosen": [USER, CHOSEN], "rejected": [USER, REJECTED]},
        {"chosen": [USER, REJECTED], "rejected": [USER, CHOSEN]},
    ]
    (tmp_path / "set" / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = f"hub:{tmp_path / 'set'}:train"
    assert read(data=source).dataset["chosen"] == [[CHOSEN], [REJECTED]]
    assert len(read(data=f"{source}[:50%]").dataset) == 1
    with pytest.raises(RecipeError, match="train, row 0: neither `messages`"):
        read(data=source, algorithm="sft")
    with pytest.raises(RecipeError, match=":dev: cannot be loaded"):
        read(data=f"hub:{tmp_path / 'set'}:dev")
    with pytest.raises(RecipeError, match="write hub:DATASET:SPLIT"):
        read(data="hub:name")


@pytest.mark.parametrize("algorithm", ["dpo", "kto", "reward", "sft"])
def test_trl_sees_the_same_tokens(read, theta0, tokenizer, tmp_path, algorithm):
    trl = pytest.importorskip("trl")
    name = "KTO" if algorithm == "kto" else algorithm.capitalize() if algorithm == "reward" else algorithm.upper()
    records = [{**pair(2, 9, 1), "completion": "sun"}, {**pair(3, 2, 4), "completion": "tree sea"}]
    found = read(*records, algorithm=algorithm)
    settings = {"output_dir": str(tmp_path / "out"), "report_to": [], "use_cpu": True, "bf16": False}
    arguments = getattr(trl, f"{name}Config")(**settings, per_device_train_batch_size=2)
    trainer = getattr(trl, f"{name}Trainer")(
        model=str(theta0), args=arguments, train_dataset=found.dataset, processing_class=tokenizer
    )
    columns = [
        column for column in trainer.train_dataset.column_names if column.endswith("_ids") and "KL" not in column
    ]
    seen = sum(len(ids) for column in columns for ids in trainer.train_dataset[column])
    prompts = sum(map(len, trainer.train_dataset["prompt_ids"])) if algorithm == "dpo" else 0
    assert seen + prompts == found.tokens, "a pair's prompt is read with each of its replies"


def test_trl_cuts_where_we_count_and_drops_nothing_more(read, theta0, tokenizer, tmp_path):
    trl = pytest.importorskip("trl")
    found = read(pair(2, 9, 1), pair(12, 1, 2), pair(9, 1, 1), max_length=13, too_long="truncate")
    arguments = trl.DPOConfig(
        output_dir=str(tmp_path / "out"),
        report_to=[],
        use_cpu=True,
        bf16=False,
        max_length=13,
        remove_unused_columns=False,
    )
    trainer = trl.DPOTrainer(model=str(theta0), args=arguments, train_dataset=found.dataset, processing_class=tokenizer)
    assert len(trainer.train_dataset) == len(found.dataset) == 2
    assert trainer.data_collator(list(trainer.train_dataset))["attention_mask"].sum() == found.tokens
