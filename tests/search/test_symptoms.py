import pytest

from llm_expo.generation import Reply
from llm_expo.search.symptoms import symptoms


def test_by_hand():
    replies = [
        Reply("I am so happy today", (1, 2, 3, 4), truncated=True),
        Reply("i  am SO happy and glad", (1, 2), truncated=False),
        Reply("No.", (1,), truncated=False),
        Reply("", (1,), truncated=False),
    ]
    found = symptoms(replies)
    assert found.tokens == pytest.approx(2.0)
    assert found.truncated == 0.25
    assert found.distinct_openings == 0.75  # case and spacing aside, two open alike
