from llm_expo.search.rounds import Seen, answered

PROMPTS = ("a", "b", "c")


def test_answered_are_the_first_prompts_without_a_gap():
    rewards = {1.0: {"c": 3.0, "a": 1.0}, 0.0: {"b": 2.0, "a": 1.0}, 2.0: {"b": 1.0}, 4.0: dict.fromkeys(PROMPTS, 1.0)}
    assert answered(Seen(PROMPTS, rewards, {4.0: "gibberish"})) == {0.0: [1.0, 2.0], 1.0: [1.0]}
