"""The report of one outcome with every awkward thing in it."""

import dataclasses
import json

import pytest

from llm_expo.generation import Prompt
from llm_expo.report import as_json, as_markdown, model_card, words, write_report
from llm_expo.search import Outcome, Verdict
from llm_expo.search.outcome import Example, Row
from llm_expo.search.symptoms import Symptoms
from llm_expo.stats import Interval

GAIN = Interval(0.5, 0.1, 0.3, 0.7, 40)
HOSTILE = "```\n</pre><script>alert(1)</script>\n````\n# A heading\n"


def row(alpha, gain=GAIN):
    return Row(alpha, 40, 1.25, None if alpha == 0 else gain, -1.5, Symptoms(61.2, 0.25, 0.9))


def outcome(folder, **changes):
    fields = {
        "study": folder,
        "theta0": folder / "theta0",
        "theta1": folder / "theta1",
        "settings": {"scorer": "function:a_b:<c>", "seed": 42, "confirm_share": 0.25},
        "search": (row(0.0), row(2.0), row(4.0)),
        "confirm": (row(-1.0), row(0.0), row(2.0)),
        "choice": 2.0,
        "verdict": Verdict.SHIP,
        "gain": GAIN,
        "gain_of_training": Interval(0.1, 0.1, -0.1, 0.3, 40),
        "costs": {"generate": (10.0, 500), "score f": (0.5, 0)},
        "model": folder / "model",
        "examples": (Example(Prompt("a|b*", ({"role": "user", "content": HOSTILE},)), {-1.0: "x", 2.0: HOSTILE}),),
    }
    return Outcome(**{**fields, **changes})


def test_every_verdict_in_words(tmp_path):
    def say(**changes):
        return " ".join(words.decision(outcome(tmp_path, **changes)))

    assert say().startswith(
        "SHIP: alpha 2 - theta1 = +0.500 (95 % interval +0.300 to +0.700), on 40 prompts that the search never saw: "
        "better than theta1."
    )
    assert f"The model is in {tmp_path / 'model'}." in say()
    wide = Interval(0.1, 0.1, -0.1, 0.3, 40)
    underpowered = say(verdict=Verdict.UNDERPOWERED, gain=wide, model=None)
    assert "about 1364 more prompts (--extend) would show it in four cases of five" in underpowered
    assert "No model was written; --write always writes it all the same." in underpowered
    assert "no gain that matters. Keep theta1." in say(verdict=Verdict.NO_GAIN, gain=wide, model=None)
    nothing = say(verdict=Verdict.NO_GAIN, gain=None, choice=0.0, model=None)
    assert "no alpha did better than theta1 on the search prompts. Keep theta1." in nothing
    assert "--write" not in nothing
    assert "alpha 4 is the largest that was tried: the best one may lie beyond" in say(choice=4.0)


def test_the_page_holds_the_tables_and_fences_what_models_wrote(tmp_path):
    page = as_markdown(outcome(tmp_path))
    assert "| 2 | 1.250 | +0.500 ± 0.100 | 61 | 25% | -1.50 | 0.90 |" in page
    assert "| 0 (theta1) | 1.250 |  | 61 |" in page
    assert f"`````text\n{HOSTILE}\n`````" in page
    assert "### a\\|b\\*" in page
    assert "- scorer: function:a\\_b:\\<c\\>" in page
    assert "- generate: 10.0 s, 500 tokens (50 a second)" in page


def test_json_is_whole(tmp_path):
    record = json.loads(json.dumps(as_json(outcome(tmp_path)), allow_nan=False))
    assert record["verdict"] == "SHIP"
    assert record["gain"] == dataclasses.asdict(GAIN)
    assert record["search"][1]["symptoms"]["distinct_openings"] == 0.9
    assert record["costs"]["generate"] == {"seconds": 10.0, "tokens": 500}
    assert record["examples"][0]["replies"] == {"-1.0": "x", "2.0": HOSTILE}


def test_files_are_written_beside_the_study_and_the_model(tmp_path):
    (tmp_path / "model").mkdir()
    assert write_report(outcome(tmp_path)) == tmp_path / "report.md"
    assert json.loads((tmp_path / "report.json").read_text())["choice"] == 2.0
    assert (tmp_path / "model" / "README.md").read_text() == model_card(outcome(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "report.json", "report.md"]


@pytest.mark.parametrize("verdict", list(Verdict))
def test_the_card_says_the_verdict(tmp_path, verdict):
    assert f"**{verdict}: " in model_card(outcome(tmp_path, verdict=verdict))
