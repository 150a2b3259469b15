"""The demo's objective on replies scored by hand: VADER's lexicon has good 1.9, great 3.1, happy 2.7, bad -2.5."""

import sys

import pytest

from llm_expo.demo.positivity import _lexicon, score
from llm_expo.errors import MissingExtraError


def conversation(reply: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": "A wonderful, happy question"}, {"role": "assistant", "content": reply}]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("", 0.0),
        ("...", 0.0),
        ("The table stands there.", 0.0),
        ("good", 1.9 * 10 / 11),
        ("Good, GOOD good!", 1.9 * 10 / 13),  # each distinct word once; every word counts for the length
        ("great but bad", (3.1 - 2.5) * 10 / 13),
        ("not good", 1.9 * 10 / 12),  # negation is not seen
        ("I'm happy", 2.7 * 10 / 12),  # I'm is one word
        ("bad", -2.5 * 10 / 11),
    ],
)
def test_scores_by_hand(reply: str, expected: float) -> None:
    assert score([conversation(reply)]) == pytest.approx([expected])


def test_only_the_last_message_counts_and_order_is_kept() -> None:
    assert score([conversation("good"), conversation("bad")]) == pytest.approx([19 / 11, -25 / 11])
    assert score([]) == []


def test_a_missing_library_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    _lexicon.cache_clear()
    monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", None)
    with pytest.raises(MissingExtraError, match=r"vaderSentiment .* pip install 'llm-expo\[demo\]'"):
        score([conversation("good")])
