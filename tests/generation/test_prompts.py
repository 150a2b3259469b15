import json
import logging

import pytest

from llm_expo.errors import PromptError
from llm_expo.generation import DEFAULT_PROMPTS, read_prompts


def write(path, *records):
    path.write_text("\n".join(record if isinstance(record, str) else json.dumps(record) for record in records))
    return path


def test_prompts_messages_and_ids(tmp_path):
    file = write(
        tmp_path / "p.jsonl",
        {"prompt": "Hello?", "id": 7},
        "",
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Hi", "tool_calls": None},
            ]
        },
        {"prompt": [{"role": "user", "content": "as a list"}], "messages": "ignored", "chosen": "ignored"},
    )
    first, second, third = read_prompts(file)
    assert (first.id, first.messages) == ("7", ({"role": "user", "content": "Hello?"},))
    assert [message["role"] for message in second.messages] == ["system", "user"]
    assert third.messages[0]["content"] == "as a list"
    assert len(second.id) == 12 and second.id == read_prompts(file)[1].id


def test_the_default_prompts_are_diverse_and_many():
    prompts = read_prompts()
    assert len(prompts) == 320
    assert len({prompt.messages[0]["content"][:40] for prompt in prompts}) == 320
    assert DEFAULT_PROMPTS.parent.name == "generation"


def test_a_prompt_that_stands_twice_is_used_once(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        assert len(read_prompts(write(tmp_path / "p.jsonl", {"prompt": "a"}, {"prompt": "b"}, {"prompt": "a"}))) == 2
    assert "1 prompts stand there more than once" in caplog.text


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2: not JSON"),
        ("[" * 100_000, "line 2: not JSON"),
        ("3", "line 2: a record is an object"),
        ({"text": "x"}, "line 2: neither `prompt` nor `messages`; it has text"),
        ({"prompt": ""}, "line 2: the user's message has no text"),
        ({"prompt": "  "}, "line 2: the user's message has no text"),
        ({"prompt": 3}, "line 2: the prompt is a number"),
        ({"messages": []}, "line 2: the prompt is a list, not a text or a list of messages"),
        ({"messages": [{"role": "user"}]}, "line 2: the user's message has no text"),
        ({"messages": ["x"]}, "line 2: a message is"),
        (
            {"messages": [{"role": "user", "content": "a", "name": "Ann", "tool_calls": []}]},
            "line 2: the user's message holds 'name', 'tool_calls'; only its role and content would",
        ),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
            "line 2: the last message is the assistant's; a prompt ends with the user's",
        ),
        ({"prompt": "other", "id": "first"}, "line 2: the id 'first' already stands at .*line 1"),
        ({"prompt": "x", "id": [1]}, "line 2: the id is a list"),
    ],
)
def test_bad_records_name_their_line(tmp_path, line, words):
    with pytest.raises(PromptError, match=words):
        read_prompts(write(tmp_path / "p.jsonl", {"prompt": "good", "id": "first"}, line))


@pytest.mark.parametrize(
    ("content", "words"), [(b"", "holds no prompts"), (b"\n \n", "no prompts"), (b"\xff\xfe\xff", "UTF-8")]
)
def test_bad_files(tmp_path, content, words):
    (tmp_path / "p.jsonl").write_bytes(content)
    with pytest.raises(PromptError, match=words):
        read_prompts(tmp_path / "p.jsonl")


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(PromptError, match="no such file"):
        read_prompts(tmp_path / "absent.jsonl")
    with pytest.raises(PromptError, match="cannot be read"):
        read_prompts(tmp_path)


def test_a_data_set(tmp_path):
    """The hub's loader, on a data set in a folder: names are resolved by the same call."""
    write(tmp_path / "train.jsonl", {"instruction": "Name a colour.", "n": 1}, {"instruction": "Name a tree.", "n": 2})
    prompts = read_prompts(f"hub:{tmp_path}:train:instruction")
    assert [prompt.messages[0]["content"] for prompt in prompts] == ["Name a colour.", "Name a tree."]
    with pytest.raises(PromptError, match="has no field 'prompt'; it has instruction, n"):
        read_prompts(f"hub:{tmp_path}:train:prompt")
    with pytest.raises(PromptError, match="row 0: neither `prompt` nor `messages`"):
        read_prompts(f"hub:{tmp_path}:train")
    with pytest.raises(PromptError, match="cannot be loaded"):
        read_prompts(f"hub:{tmp_path}:dev")
    with pytest.raises(PromptError, match="write hub:DATASET:SPLIT"):
        read_prompts("hub:name")
