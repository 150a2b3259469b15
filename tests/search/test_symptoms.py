import pytest

from llm_expo.generation import Reply
from llm_expo.search.symptoms import HEAD, LOOK_BACK, TAIL_BYTES, Symptom, readings, symptoms


def reply(text: str, truncated: bool = False) -> Reply:
    """A reply whose tokens are its words, and an end unless it was cut off."""
    tokens = tuple(sum(map(ord, word)) * 100 + len(word) for word in text.split())
    return Reply(text, tokens if truncated else (*tokens, 2), truncated)


def values(symptom: Symptom, *replies: Reply, special: dict[int, str] | None = None) -> tuple[float | None, ...]:
    return readings(replies, special)[symptom]


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
    assert (found.distinct_ngrams, found.repetition, found.compression) == (1.0, 0.0, None)
    assert found.special_tokens == 0.0


def test_an_opening_is_dealt_out_to_those_who_share_it():
    alike = [reply("well that is it then"), reply("Well, no"), reply("well that is it now"), reply("WELL that is  it")]
    assert values(Symptom.OPENINGS, *alike) == (pytest.approx(1 / 3), 1, pytest.approx(1 / 3), pytest.approx(1 / 3))


def test_ngrams_are_counted_once_a_reply_and_at_its_start_only():
    a, b = Reply("", (1, 2, 3, 4), True), Reply("", (1, 2, 3, 5, 1, 2, 3), True)
    assert values(Symptom.NGRAMS, a, b) == (pytest.approx((1 / 2 + 1) / 2), pytest.approx((1 / 2 + 3) / 4))
    head, tail = tuple(range(HEAD)), tuple(range(100, 110))
    late = (Reply("", head + tail, True), Reply("", tuple(range(1000, 1000 + HEAD)) + tail, True))
    assert values(Symptom.NGRAMS, *late) == (1, 1)
    assert values(Symptom.NGRAMS, Reply("", (1, 2), False)) == (None,)


def test_repetition():
    loop = Reply("", (1, 2) * 10, True)
    assert values(Symptom.REPETITION, loop) == (pytest.approx(15 / 17),)  # all but the first two of 17 4-grams
    far = tuple(range(LOOK_BACK + 10))
    assert values(Symptom.REPETITION, Reply("", far + far, True), Reply("", (1, 2), True)) == (0, 0)


def test_compression_sees_the_end_of_long_replies():
    prose = "".join(f"{n * n} times {n**3} is {n**5}, whatever else; " for n in range(20))
    loop = "I am so very happy for you, my friend! " * 10
    plain, looping, both, short = values(Symptom.COMPRESSION, *map(reply, (prose, loop, prose + loop, loop[:50])))
    assert short is None and len(loop[:50]) < TAIL_BYTES
    assert looping == pytest.approx(both, abs=0.05)
    assert looping < 0.1 < 0.4 < plain


def test_the_end_of_a_reply_is_no_special_token_but_others_are():
    special = {2: "<|end|>", 7: "<|user|>"}
    fine = Reply("Yes.", (5, 2), False)
    tokens = Reply("Yes.", (5, 7, 5, 2), False)
    cut = Reply("Yes.", (5, 7), True)
    text = Reply("Yes.<|user|> And", (5, 2), False)
    assert values(Symptom.SPECIAL, fine, tokens, cut, text, special=special) == (0, 1, 1, 1)
    assert values(Symptom.SPECIAL, fine, tokens, cut, text) == (0, 0, 0, 0)


def test_text_that_is_no_unicode_compresses_all_the_same():
    assert values(Symptom.COMPRESSION, reply("\ud800" * TAIL_BYTES))[0] is not None
