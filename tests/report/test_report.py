"""The report of one outcome with every awkward thing in it."""

import dataclasses
import json
import math
from xml.etree import ElementTree

import pytest

from llm_expo.generation import Prompt
from llm_expo.report import as_json, as_markdown, model_card, words, write_report
from llm_expo.report.record import event_as_json
from llm_expo.scoring.endpoint import Bill
from llm_expo.scoring.judge import Record
from llm_expo.search import Outcome, Round, Verdict
from llm_expo.search.events import Begun, Chosen, Split, Tried
from llm_expo.search.limit import Priced
from llm_expo.search.outcome import Example, Limited, Row
from llm_expo.search.symptoms import Symptoms
from llm_expo.search.verdict import Confirmed, decide
from llm_expo.stats import Interval

GAIN = Interval(0.5, 0.1, 0.3, 0.7, 40)
HOSTILE = "```\n</pre><script>alert(1)</script>\n````\n# A heading\n"


THETA1 = Confirmed([0.0, 2.0] * 20, [60.0] * 40)
BETTER = Confirmed([reward + 0.5 + (place % 3 - 1) / 10 for place, reward in enumerate(THETA1.rewards)], [60.0] * 40)
SHIPS, NOTHING = decide(2.0, BETTER, THETA1), decide(0.0, THETA1, THETA1)
UNCLEAR = decide(2.0, Confirmed([*THETA1.rewards[1:], 0.1], THETA1.tokens), THETA1)


def row(alpha, gain=GAIN, fluent=True):
    gain = None if alpha == 0 else gain
    return Row(alpha, 40, 1.25, gain, -1.5, Symptoms(61.2, 0.25, 0.9), (), None, None, fluent)


COLLAPSED = Row(8.0, 0, None, None, None, None, (), None, "it_loops", False)


def outcome(folder, **changes):
    fields = {
        "study": folder,
        "theta0": folder / "theta0",
        "theta1": folder / "theta1",
        "settings": {"scorer": "function:a_b:<c>", "seed": 42, "confirm_share": 0.25},
        "rounds": (Round({0.0: 40, 2.0: 40}, "the ladder"),),
        "search": (row(0.0), row(2.0), row(4.0), COLLAPSED),
        "confirm": (row(-1.0), row(0.0), row(2.0)),
        "limit": None,
        "decision": SHIPS,
        "gain_of_training": Interval(0.1, 0.1, -0.1, 0.3, 40),
        "costs": {"generate": (10.0, 500), "score f": (0.5, 0)},
        "records": {"judge:m": Record(8, 0, 0.5, Bill(8, 1234, 16, 0, None))},
        "model": folder / "model",
        "examples": (Example(Prompt("a|b*", ({"role": "user", "content": HOSTILE},)), {-1.0: "x", 2.0: HOSTILE}),),
    }
    return Outcome(**{**fields, **changes})


def test_a_limited_choice_is_told_and_pictured(tmp_path):
    tax = Interval(3.0, 0.5, 2.2, 3.8, 300, 0.9), Interval(0.5, 0.5, -0.3, 1.3, 300, 0.9)
    priced = Priced(4.0, tax[0], within=False), Priced(2.0, tax[1], within=True)
    limited = outcome(tmp_path, limit=Limited("points lost on <arc>", 2.0, priced), model=None)
    assert words.prices(limited) == [
        "alpha 4: points lost on <arc> +3.00 ± 0.50, with 95 % confidence at most +3.80: beyond the limit of 2.",
        "alpha 2: points lost on <arc> +0.50 ± 0.50, with 95 % confidence at most +1.30: within the limit of 2.",
    ]
    page = write_report(limited).read_text()
    assert "## Price" in page and "![reward against price](plane.svg)" in page and "<arc>" not in page
    picture = ElementTree.parse(tmp_path / "plane.svg").getroot()
    space = "{http://www.w3.org/2000/svg}"
    assert {"limit 2", "theta1", "2", "4", "points lost on <arc>"} <= {
        each.text for each in picture.iter(f"{space}text")
    }
    heights = {dot.find(f"{space}title").text: float(dot.get("cy")) for dot in picture.iter(f"{space}circle")}
    assert heights["alpha 4"] < heights["alpha 2"]  # dearer is higher
    dear = outcome(tmp_path, limit=Limited("points lost", 2.0, priced[:1]), decision=NOTHING, model=None)
    assert words.prices(dear)[-1] == "No alpha with a gain is within the limit, so theta1 is kept."
    free = outcome(tmp_path, limit=Limited("points lost", 2.0, ()), decision=NOTHING, model=None)
    assert words.prices(free) == [] and "plane.svg" not in as_markdown(free)


def test_every_verdict_in_words(tmp_path):
    def say(**changes):
        return " ".join(words.decision(outcome(tmp_path, **changes)))

    assert say().startswith("SHIP: better than theta1. Reward: alpha 2 - theta1 = +0.497")
    assert f"The model is in {tmp_path / 'model'}." in say()
    underpowered = say(decision=UNCLEAR, model=None)
    assert UNCLEAR.verdict is Verdict.UNDERPOWERED and UNCLEAR.prompts_needed == 3293
    assert "Add prompts with --extend: 3293 to confirm on" in underpowered
    assert "25% are set aside to confirm on: add about 13,012." in underpowered
    assert "No model was written; --write always writes it all the same." in underpowered
    nothing = say(decision=NOTHING, model=None)
    assert "no alpha that may be chosen is likely to do better than theta1. Keep theta1." in nothing
    assert "--write" not in nothing
    assert "the largest that was tried" not in say()
    highest = say(search=(row(0.0), row(2.0)))
    assert "alpha 2 is the largest that was tried: the best one may lie beyond" in highest


def test_the_page_holds_the_tables_and_fences_what_models_wrote(tmp_path):
    page = as_markdown(outcome(tmp_path))
    assert "| 2 | 40 | 1.250 | +0.500 ± 0.100 | 61 | 25% | -1.50 | 0.90 |  |" in page
    assert "| 0 (theta1) | 40 | 1.250 |  | 61 |" in page
    assert "| 8 | 0 |  |  |  |  |  |  | collapsed |" in page
    assert "alpha 8 has collapsed: it\\_loops" in page
    assert "- the ladder \\(theta1, 2 to 40 prompts\\)" in page
    assert f"`````text\n{HOSTILE}\n`````" in page
    assert "### a\\|b\\*" in page
    assert "- scorer: function:a\\_b:\\<c\\>" in page
    assert "- judge:m: weighted 8, none 0, first 0.5, answers 8, tokens in 1,234, tokens out 16, uncounted 0" in page
    assert "- generate: 10.0 s, 500 tokens (50 a second)" in page


def test_json_is_whole(tmp_path):
    record = json.loads(json.dumps(as_json(outcome(tmp_path)), allow_nan=False))
    assert record["verdict"] == "SHIP"
    assert record["search"][1]["gain"] == dataclasses.asdict(GAIN)
    assert record["decision"]["gain"]["n"] == 40
    assert record["decision"]["at_equal_length"]["low"] > 0
    assert record["rounds"] == [{"wanted": {"0.0": 40, "2.0": 40}, "why": "the ladder", "later": None}]
    assert record["search"][1]["symptoms"]["distinct_openings"] == 0.9
    assert record["costs"]["generate"] == {"seconds": 10.0, "tokens": 500}
    assert record["examples"][0]["replies"] == {"-1.0": "x", "2.0": HOSTILE}


def test_files_are_written_beside_the_study_and_the_model(tmp_path):
    (tmp_path / "model").mkdir()
    assert write_report(outcome(tmp_path)) == tmp_path / "report.md"
    assert json.loads((tmp_path / "report.json").read_text())["choice"] == 2.0
    assert (tmp_path / "model" / "README.md").read_text() == model_card(outcome(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "report.json", "report.md"]


@pytest.mark.parametrize("decision", [SHIPS, UNCLEAR, NOTHING])
def test_the_card_says_the_verdict(tmp_path, decision):
    assert f"**{decision.verdict}: " in model_card(outcome(tmp_path, decision=decision))


def test_what_is_not_known_is_null(tmp_path):
    """Without any replies of equal length, the regression's interval is infinite."""
    longer = decide(2.0, Confirmed(BETTER.rewards, [90.0] * 40), THETA1)
    record = json.loads(json.dumps(as_json(outcome(tmp_path, decision=longer)), allow_nan=False))
    assert record["decision"]["at_equal_length"]["low"] is None
    assert record["verdict"] == "GAIN IS LENGTH"


@pytest.mark.parametrize(("fluent", "rule"), [(False, "fluent"), (True, "fluent"), (False, "best")])
def test_a_choice_that_is_not_fluent_on_the_confirm_prompts_is_told(tmp_path, fluent, rule):
    chosen = row(2.0, Interval(0.5, 0.1, 0.3, 0.7, 40), fluent=fluent)
    settings = {"scorer": "s", "confirm_share": 0.25, "choose": rule}
    page = as_markdown(outcome(tmp_path, confirm=(row(-1.0), row(0.0), chosen), settings=settings))
    assert ("On the confirm prompts its replies have come farther" in page) is (not fluent and rule == "fluent")


def test_a_better_alpha_that_was_left_out_for_its_replies_is_told(tmp_path):
    """Or the reader sees a higher reward in the table and is told that there is none."""
    astray = row(4.0, Interval(0.9, 0.1, 0.7, 1.1, 40), fluent=False)
    settings = {"scorer": "s", "confirm_share": 0.25, "choose": "fluent"}
    left = outcome(tmp_path, search=(row(0.0), row(2.0), astray, COLLAPSED), settings=settings)
    page = as_markdown(left)
    assert "| 4 | 40 | 1.250 | +0.900 ± 0.100 | 61 | 25% | -1.50 | 0.90 | not fluent |" in page
    assert "come too far from theta1's to be chosen: alpha 4 (4: +0.900). --choose best would" in page
    for usual in ({"search": (row(0.0), row(2.0), row(4.0))}, {"settings": {**settings, "choose": "best"}}):
        assert "too far from theta1's to be chosen" not in as_markdown(
            outcome(tmp_path, **{"settings": settings, **usual})
        )


def test_what_is_told_before_it_runs():
    assert words.told(Split(40, 20)) == "40 prompts to search on; 20 are set aside to confirm the choice on"
    wanted = Round({0.0: 8, 0.5: 8, 2.0: 4}, "0.5 leads; 2 may be better")
    assert words.told(Begun(3, wanted, 7)) == (
        "round 3: 0.5 leads; 2 may be better (theta1, 0.5 to 8 prompts; 2 to 4 prompts), 7 new replies"
    )
    gain = Interval(0.1, 0.02, 0, 1, 5)
    assert words.told(Tried("search", 1.0, 5, 2.0, gain, None)).endswith("vs theta1 +0.100 ± 0.020 on 5 prompts")
    assert words.told(Tried("search", 1.0, 9, 2.0, gain, None)).endswith("vs theta1 +0.100 ± 0.020 on 5 of 9 prompts")
    assert words.told(Chosen(0.5, 20)) == "choice: alpha 0.5; on the 20 confirm prompts it meets theta1 and theta0"
    assert "choice: theta1; it answers the 20 confirm" in words.told(Chosen(0.0, 20))


def test_events_are_json():
    begun = event_as_json(Begun(1, Round({0.0: 8}, "the ladder", 32), 8, 92))
    assert begun == {
        "event": "begun",
        "number": 1,
        "round": {"wanted": {"0.0": 8}, "why": "the ladder", "later": 32},
        "replies": 8,
        "later": 92,
    }
    tried = event_as_json(Tried("search", 8.0, 0, math.nan, None, "it loops"))
    assert (tried["event"], tried["reward"], tried["collapsed"]) == ("tried", None, "it loops")
