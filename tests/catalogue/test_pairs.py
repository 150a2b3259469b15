"""The paper's pairs are the paper's, and a catalogue of one's own is read or refused by name."""

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from llm_expo.catalogue import COLUMNS, Pair, apply_command, describe, find, read_catalogue, table
from llm_expo.catalogue.pairs import Gain
from llm_expo.checkpoints.hub import hub_id
from llm_expo.cli.main import make_parser
from llm_expo.errors import CatalogueError

PAIR = '[[pair]]\nname = "mine"\ninitial = "org/sft"\naligned = "org/dpo"\n'


def test_the_papers_pairs(shared_data):
    paper = json.loads((shared_data / "paper" / "tables.json").read_text())
    pairs = {pair.name: pair for pair in read_catalogue()}
    assert len(pairs) == 27
    for row in paper["table5_released_models"]:
        pair = pairs.pop(row["name"])
        assert (pair.initial, pair.aligned, pair.alpha) == (row["initial"], row["aligned"], row["alpha"])
        assert (pair.training, pair.source) == (row["training"], "Table 5 of the paper")
        assert pair.remote_code == ("internlm2" in pair.name)
        assert pair.results == {
            key: Gain(row[key], row[f"expo_{key}"]) for key in ("win_rate", "lc_win_rate", "mt_bench")
        }
    zephyr, row = pairs.pop("zephyr-7b-dpo"), paper["table2_training_steps"][-1]
    assert {"initial": zephyr.initial, "aligned": zephyr.aligned, "alpha": zephyr.alpha} == paper["zephyr_7b_dpo"]
    assert row["alpha"] == zephyr.alpha
    assert zephyr.results == {key: Gain(row[key], row[f"expo_{key}"]) for key in ("reward", "win_rate", "lc_win_rate")}
    for model, rows in (("mistral-7b", "mistral"), ("llama3-8b", "llama3")):
        table6 = paper["table6_algorithms"][rows]
        for row in table6["rows"]:
            pair = pairs.pop(f"{model}-{row['algorithm'].lower()}")
            # The hub writes R-DPO without its hyphen.
            aligned = table6["aligned_pattern"].format(algorithm=row["algorithm"].replace("R-DPO", "RDPO"))
            assert (pair.initial, pair.aligned, pair.alpha) == (table6["initial"], aligned, row["alpha"])
            assert (pair.training, pair.source) == (row["algorithm"], "Table 6 of the paper")
            assert pair.results == {"reward": Gain(row["reward"], row["expo_reward"])}
    assert not pairs


def test_every_pair_is_one_of_the_hub_and_its_command_parses():
    for pair in read_catalogue():
        assert hub_id(pair.initial)
        assert hub_id(pair.aligned)
        arguments = make_parser().parse_args(apply_command(pair).split()[1:])
        assert arguments.checkpoints == [pair.initial, pair.aligned]


def test_the_words():
    pairs = read_catalogue()
    rows = table(pairs)
    assert all(len(row) == len(COLUMNS) for row in rows)
    assert rows[2] == ("tulu2-7b", "offline DPO", "0.5", "–", "8.5 → 11.5", "10.2 → 11.7", "6.35 → 6.38")
    said = describe(find(pairs, "tulu2-7b"))
    assert ("alpha", "0.5 (Table 5 of the paper)") in said
    assert ("result", "AlpacaEval 2.0 win rate, %: 8.5 → 11.5") in said
    command = "llm-expo apply allenai/tulu-2-7b allenai/tulu-2-dpo-7b --alpha 0.5 --out tulu2-7b-expo"
    assert ("command", command) in said
    assert ("needs", "disk: about 40 GB, 13 for each of theta0, theta1 and what is written (16 bits)") in said
    assert not any("consent" in words for _, words in said)
    assert any("--trust-remote-code" in words for _, words in describe(find(pairs, "internlm2-7b")))
    unsolved = dict(describe(find(pairs, "mistral-7b-kto")))
    assert unsolved["alpha"] == "none published (Table 6 of the paper)"
    assert unsolved["command"].startswith("llm-expo search alignment-handbook/zephyr-7b-sft-full princeton-nlp/")


def test_a_catalogue_of_ones_own(tmp_path):
    path = tmp_path / "mine.toml"
    (tmp_path / "dpo").mkdir()
    path.write_text(PAIR.replace("org/dpo", "dpo"))
    [pair] = read_catalogue(path)
    assert (pair.initial, pair.aligned, pair.alpha, pair.results) == ("org/sft", str(tmp_path / "dpo"), None, {})
    assert [what for what, _ in describe(pair)] == ["theta0", "theta1", "alpha", "command"]


def test_the_catalogue_that_the_docs_show(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
    [block] = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "shown.toml").write_text(block)
    [pair] = read_catalogue(tmp_path / "shown.toml")
    assert pair.results == {"win_rate": Gain(14.7, 18.0)}
    assert all(f"{each.name} =" in block for each in fields(Pair))


def test_the_nearest_name():
    with pytest.raises(CatalogueError, match=r"no pair is called 'tulu-2-7b'; did you mean tulu2-7b or tulu2-70b"):
        find(read_catalogue(), "tulu-2-7b")
    with pytest.raises(CatalogueError, match=r"no pair is called 'x'; `llm-expo pairs` lists them"):
        find(read_catalogue(), "x")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[pair", "mine.toml: not TOML"),
        ("", "holds tables [[pair]] and nothing else; this holds no [[pair]]"),
        (f"version = 1\n{PAIR}", "this holds version"),
        ("pair = [3]", "pair 1: not a table"),
        (PAIR + PAIR, "pair 2: the name 'mine' stands there twice"),
        ('[[pair]]\nname = "mine"\ninitial = "a/b"', "mine: aligned is missing"),
        (PAIR + "alhpa = 3", "mine: unknown key alhpa; did you mean alpha?"),
        (PAIR + 'alpha = "0.5"', "mine: alpha is '0.5', not a number"),
        (PAIR + "alpha = nan", "mine: alpha is nan, not a number"),
        (PAIR + "training = 3", "mine: training is 3, not a text"),
        (PAIR + "remote_code = 1", "mine: remote_code is 1, not true or false"),
        (PAIR + "results = 3", "mine: results is 3, not a table"),
        (PAIR + "results = { win = [1] }", "mine: unknown results.win; there are reward, win_rate, lc_win_rate"),
        (PAIR + "results = { reward = 1 }", "mine: results.reward is 1, not [theta1's]"),
        (PAIR + "results = { reward = [true] }", "mine: results.reward is True, not a number"),
    ],
)
def test_what_is_no_catalogue(tmp_path, text, words):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(CatalogueError) as error:
        read_catalogue(path)
    assert words in str(error.value)


def test_no_file(tmp_path):
    with pytest.raises(CatalogueError, match=r"none.toml: no such file"):
        read_catalogue(tmp_path / "none.toml")
