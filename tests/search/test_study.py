import sqlite3

import pytest

from llm_expo.errors import PromptError, StudyError
from llm_expo.generation import Prompt, Reply
from llm_expo.search import Study
from llm_expo.search.study import Spending

SETTINGS = {"seed": 42, "scorer": "fake"}
ENVIRONMENT = {"torch": "2"}


def prompts(n: int, start: int = 0) -> list[Prompt]:
    return [
        Prompt(f"p{i}", ({"role": "user", "content": "word " * (1 + i % 7) + str(i)},)) for i in range(start, start + n)
    ]


def encode(some):
    return [(7,) * len(prompt.messages[0]["content"].split()) for prompt in some]


def enrol(study, some, extend=False):
    study.enrol(some, encode, confirm_share=0.25, extend=extend)


def ids(study, part):
    return [each.prompt.id for each in study.enrolled(part)]


def both(study):
    return {part: ids(study, part) for part in ("search", "confirm")}


def test_split_and_order_are_fixed(tmp_path):
    with Study.open(tmp_path / "s") as study:
        study.settle(SETTINGS, ENVIRONMENT)
        enrol(study, prompts(40))
        parts = both(study)
        tokens = [len(each.tokens) for each in study.enrolled("confirm")]
    assert [len(each) for each in parts.values()] == [30, 10]
    assert set(parts["search"]).isdisjoint(parts["confirm"])
    assert tokens == sorted(tokens, reverse=True)
    assert parts["search"] != sorted(parts["search"])  # the first of them stand for the rest
    with Study.open(tmp_path / "s") as study:
        enrol(study, list(reversed(prompts(40))))
        assert both(study) == parts
        answer(study)
        enrol(study, prompts(40))
        assert both(study) == parts


def test_extending_adds_behind(tmp_path):
    with Study.open(tmp_path / "s") as study:
        enrol(study, prompts(40))
        answer(study)
        before = both(study)
        enrol(study, prompts(20, start=40), extend=True)
        for part, held in both(study).items():
            assert held[: len(before[part])] == before[part]
        assert sum(map(len, both(study).values())) == 60
        enrol(study, prompts(40))  # the first file, resumed
        enrol(study, prompts(60))  # both, resumed
        with pytest.raises(StudyError, match="the study has 60 prompts; of the 5 given now, 0 are not among them"):
            enrol(study, prompts(5))
        with pytest.raises(StudyError, match="of the 70 given now, 10 are not among them; .* --extend"):
            enrol(study, prompts(70))
        again = [Prompt(f"new name {p.id}", p.messages) for p in prompts(10)]
        enrol(study, again, extend=True)  # the same texts under other names would stand on both sides
        assert sum(map(len, both(study).values())) == 60
        with pytest.raises(PromptError, match="p3: stands in the study with another text"):
            enrol(study, [Prompt("p3", ({"role": "user", "content": "other"},))], extend=True)


def test_looks_are_counted_in_their_order(tmp_path):
    with Study.open(tmp_path / "s") as study:
        enrol(study, prompts(40))
        answer(study)
        assert [study.look(alpha) for alpha in (0.5, 0.3, 0.5, 2)] == [0, 1, 0, 2]
    with Study.open(tmp_path / "s") as study:
        enrol(study, prompts(20, start=40), extend=True)
        assert [study.look(alpha) for alpha in (0.3, 0.5, 0.3)] == [3, 4, 3]


def test_too_few_prompts(tmp_path):
    with Study.open(tmp_path / "s") as study, pytest.raises(PromptError, match="3 prompts are too few: 2 to search"):
        enrol(study, prompts(3))


def test_rows_come_back_as_they_went_in(tmp_path):
    with Study.open(tmp_path / "s") as study:
        enrol(study, prompts(40))
        first = study.enrolled("search")[:4]
        names = [each.prompt.id for each in first]
        replies = [Reply(f"text {name} \x00 \ud7ff 😀", (1, 2, 3), truncated=False) for name in names]
        study.add_replies(0.5, first, replies, seconds=2.0)
        assert study.replies(0.5) == dict(zip(names, replies, strict=True))
        assert (study.replies(0.25), study.alphas()) == ({}, [0.5])
        study.add_rewards("fake", [(0.5, name, 1.0) for name in names[:2]], seconds=0.5)
        assert study.rewards("fake", 0.5) == {names[0]: 1.0, names[1]: 1.0}
        assert study.rewards("other", 0.5) == {}
        study.add_log_probabilities(0.5, -1.0, names[:1], [-2.5], seconds=0.25)
        assert study.log_probabilities(0.5, -1.0) == {names[0]: -2.5}
        assert study.log_probabilities(0.5, 0.0) == study.log_probabilities(-1.0, 0.5) == {}
        spent = study.spent(0.5)
        assert spent[names[0]] == Spending(1, 3, generating=0.5, scoring=0.25, reading=0.25)
        assert sum(spent.values(), Spending()) == Spending(4, 12, generating=2.0, scoring=0.5, reading=0.25)
        study.add_move(3.0)
        study.add_turn(7.0)
        assert (study.moves(), study.turns()) == ([3.0], [7.0])


def test_a_batch_is_committed_whole_or_not_at_all(tmp_path):
    with Study.open(tmp_path / "s") as study:
        enrol(study, prompts(40))
        first = study.enrolled("search")[:4]
        bad = [Reply("fine", (1,), False)] * 3 + [Reply("no text", (object(),), False)]
        with pytest.raises(TypeError):
            study.add_replies(0.0, first, bad, seconds=1.0)
        with pytest.raises(sqlite3.IntegrityError):
            study.add_replies(0.0, [*first[:3], first[0]], [Reply("x", (1,), False)] * 4, seconds=1.0)
        assert study.replies(0.0) == {}
        with pytest.raises(sqlite3.IntegrityError):
            study.add_rewards("fake", [(0.0, first[0].prompt.id, 1.0)], seconds=1.0)  # of no reply


def answer(study):
    first = study.enrolled("search")[:4]
    study.add_replies(0.0, first, [Reply("x", (1,), False)] * len(first), seconds=1.0)


def test_other_settings_are_named_with_both_values(tmp_path, caplog):
    with Study.open(tmp_path / "s") as study:
        study.settle(SETTINGS, ENVIRONMENT)
        enrol(study, prompts(40))
        answer(study)
    with Study.open(tmp_path / "s") as study:
        study.settle(SETTINGS, ENVIRONMENT)
        with pytest.raises(StudyError, match="seed was 42 when the study began and is now 43; give the old value"):
            study.settle({**SETTINGS, "seed": 43}, ENVIRONMENT)
        study.settle(SETTINGS, {"torch": "3"})
    assert "torch was 2 when the study began and is now 3" in caplog.text


def test_a_study_without_replies_takes_other_settings_and_prompts(tmp_path):
    with Study.open(tmp_path / "s") as study:
        study.settle(SETTINGS, ENVIRONMENT)
        enrol(study, prompts(40))
        study.settle({**SETTINGS, "seed": 43}, ENVIRONMENT)
        enrol(study, prompts(20, start=100))
        assert sum(map(len, both(study).values())) == 20
        answer(study)
        with pytest.raises(StudyError, match="seed was 43"):
            study.settle(SETTINGS, ENVIRONMENT)
        with pytest.raises(StudyError, match="the study has 20 prompts"):
            enrol(study, prompts(40))


def test_a_second_process_is_refused(tmp_path):
    with Study.open(tmp_path / "s"):
        with pytest.raises(StudyError, match="another process has this study open"), Study.open(tmp_path / "s"):
            pass
    with Study.open(tmp_path / "s"):
        pass


def test_a_lock_alone_is_no_other_thing(tmp_path):
    """What a kill between making the lock and making the database leaves."""
    (tmp_path / "study.lock").touch()
    with Study.open(tmp_path) as study:
        enrol(study, prompts(40))


def test_what_fails_before_the_first_reply_leaves_nothing(tmp_path):
    (tmp_path / "kept").mkdir()
    for name in ("new", "kept"):
        with pytest.raises(PromptError), Study.open(tmp_path / name) as study:
            enrol(study, prompts(3))
    assert list(tmp_path.iterdir()) == []
    with Study.open(tmp_path / "s") as study:
        enrol(study, prompts(40))
        answer(study)
    with pytest.raises(StudyError), Study.open(tmp_path / "s") as study:
        enrol(study, prompts(3))
    with Study.open(tmp_path / "s") as study:
        assert study.replies(0.0)


def test_places_that_cannot_be(tmp_path):
    with pytest.raises(StudyError, match="cannot be used: File name too long"), Study.open(tmp_path / ("x" * 300)):
        pass


def test_foreign_folders_and_files(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    (tmp_path / "file").touch()
    for name in ("other", "file"):
        with pytest.raises(StudyError, match="exists and is no study"), Study.open(tmp_path / name):
            pass
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "study.sqlite").write_bytes(b"not a database at all, but long enough to look at" * 100)
    with pytest.raises(StudyError, match="study.sqlite: file is not a database"), Study.open(tmp_path / "s"):
        pass
    (tmp_path / "later").mkdir()
    database = sqlite3.connect(tmp_path / "later" / "study.sqlite")
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(StudyError, match="has format 99, this llm-expo reads 4"), Study.open(tmp_path / "later"):
        pass
