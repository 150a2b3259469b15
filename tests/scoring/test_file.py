"""Scores made elsewhere."""

import json
import re
from pathlib import Path

import pytest

from llm_expo.errors import ScorerError
from llm_expo.scoring import FileScorer, rewards, scorer_from
from llm_expo.scoring.file import conversation_key

CONVERSATIONS = [
    [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hey, você"}],
    [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}, {"role": "assistant", "content": ""}],
    [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "two\nlines"}],
]


PAGE = Path(__file__).parents[2] / "docs/scoring.md"


@pytest.fixture
def scores(tmp_path):
    """scores(*records) -> the path of a file of them; a text is a line as it stands."""

    def write(*lines):
        path = tmp_path / "scores.jsonl"
        path.write_text("".join(f"{each if isinstance(each, str) else json.dumps(each)}\n" for each in lines))
        return path

    return write


def test_every_form_of_a_record(scores):
    path = scores(
        {"messages": CONVERSATIONS[0], "reward": 2, "who": "Ann"},
        {"prompt": CONVERSATIONS[1][:-1], "reply": "", "reward": -0.5},
        {"prompt": "hi", "reply": "two\nlines", "reward": 1.25},
    )
    scorer = scorer_from(f"file:{path}")
    assert scorer.name == f"file:{path}"
    assert rewards(scorer, [*CONVERSATIONS, CONVERSATIONS[0]]) == [2.0, -0.5, 1.25, 2.0]


def test_the_forms_on_the_page_are_one_and_the_same(scores):
    [block] = re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
    for line in block.splitlines():
        assert FileScorer(scores(line)).score([said]) == [0.8]


def test_what_is_missing_is_written_out_ready_to_be_filled_in(scores):
    path = scores({"messages": CONVERSATIONS[0], "reward": 1})
    words = r'has no reward for 2 of 3 replies; they are in .*scores.missing.jsonl: add "reward" to each line, append'
    with pytest.raises(ScorerError, match=words):
        FileScorer(path).score([*CONVERSATIONS, CONVERSATIONS[1]])
    missing = [json.loads(line) for line in path.with_name("scores.missing.jsonl").read_text().splitlines()]
    assert [each["messages"] for each in missing] == CONVERSATIONS[1:]
    filled = [{"key": each["key"], "reward": 3 + place} for place, each in enumerate(missing)]
    path.write_text(path.read_text() + "".join(json.dumps(each) + "\n" for each in filled))
    assert FileScorer(path).score(CONVERSATIONS) == [1.0, 3.0, 4.0]


def test_one_begins_with_an_empty_file(scores, tmp_path):
    with pytest.raises(ScorerError, match="no.jsonl: no such file; begin with an empty one, and the first run lists"):
        FileScorer(tmp_path / "no.jsonl")
    with pytest.raises(ScorerError, match="has no reward for 3 of 3 replies"):
        FileScorer(scores()).score(CONVERSATIONS)


def test_keys_do_not_depend_on_the_order_of_fields():
    turned = [{"content": each["content"], "role": each["role"]} for each in CONVERSATIONS[0]]
    assert conversation_key(turned) == conversation_key(CONVERSATIONS[0])
    assert len({conversation_key(each) for each in CONVERSATIONS}) == 3


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2: not JSON"),
        ([1], "line 2: a record is an object with `reward`, this is a list"),
        ({"key": "k"}, "line 2: has no `reward`"),
        ({"key": "k", "reward": None}, "line 2: has no `reward`"),
        ({"key": "k", "reward": "good"}, "line 2: the reward is a text, not a number"),
        ({"key": "k", "reward": True}, "line 2: the reward is a boolean"),
        ('{"key": "k", "reward": NaN}', "line 2: the reward is nan; a reward is a finite number"),
        ({"key": "k", "reward": 10**400}, "a reward is a finite number"),
        (
            {"prompt": "hi", "reward": 1},
            "line 2: holds neither `messages`, nor `prompt` and `reply`, nor `key`; it has",
        ),
        ({"alpha": 0.5, "id": "p1", "reward": 1}, "nor `key`; it has alpha, id, reward"),
        ({"messages": "hi", "reward": 1}, "line 2: the last message is the user's; it has to be the reply"),
        (
            {"messages": [{**CONVERSATIONS[0][0], "name": "Ann"}, CONVERSATIONS[0][1]], "reward": 1},
            "line 2: the user's message holds 'name'; only its role and content",
        ),
        ({"messages": [], "reward": 1}, "line 2: `messages` is a list, not a text or a list of messages"),
        ({"messages": CONVERSATIONS[0], "reward": 5}, r"line 2: gives 5 to what .*line 1 gives 1; leave one of them"),
    ],
)
def test_what_cannot_be_used_is_told_with_its_line(scores, line, words):
    with pytest.raises(ScorerError, match=words):
        FileScorer(scores({"messages": CONVERSATIONS[0], "reward": 1}, line))
