"""The figures and the judge against the official package, in an environment of its own (`make test-oracle`)."""

import csv
import gzip
import json
import os
import random
import subprocess
from pathlib import Path

import pytest

from llm_expo.evaluation.alpaca_eval.annotations import read_annotations
from llm_expo.evaluation.alpaca_eval.companion import read_companion
from llm_expo.evaluation.alpaca_eval.judge import second_share, switched
from llm_expo.evaluation.alpaca_eval.length_control import length_controlled
from llm_expo.evaluation.alpaca_eval.win_rate import win_rate
from llm_expo.scoring.answers import Answer, Token

pytestmark = [pytest.mark.oracle, pytest.mark.timeout(1800)]

HERE = Path(__file__).parent
INSTRUCTIONS = 805
SUBSETS = 50
POINTS = 0.05


@pytest.fixture
def oracle() -> str:
    """The interpreter that has the official package."""
    named = os.environ.get("LLM_EXPO_ORACLE")
    assert named, "LLM_EXPO_ORACLE names the oracle's interpreter; `make test-oracle` sets it"
    return named


@pytest.fixture
def annotation_files(shared_data: Path, tmp_path: Path) -> list[Path]:
    """The two official sets and 50 random subsets, half of each, from 100 judgements up; each with its indices."""
    rng = random.Random(0)
    files = []
    for name in ("zephyr_0.1", "zephyr-7b-sft-full"):
        path = shared_data / "official" / "alpaca_eval" / f"{name}.annotations.json.gz"
        whole = [{**each, "index": place} for place, each in enumerate(json.loads(gzip.decompress(path.read_bytes())))]
        subsets = [sorted(rng.sample(range(INSTRUCTIONS), rng.randint(100, 700))) for _ in range(SUBSETS // 2)]
        for number, places in enumerate([range(INSTRUCTIONS), *subsets]):
            files.append(tmp_path / f"{name}-{number}.json")
            files[-1].write_text(json.dumps([whole[place] for place in places]))
    return files


@pytest.fixture
def companion_file(tmp_path: Path) -> Path:
    """Made-up difficulties and gamed baselines, where the package looks for its download."""
    rng = random.Random(1)
    difficulty = [rng.gauss(0, 1.5) for _ in range(INSTRUCTIONS)]
    commit = "0" * 40
    repo = tmp_path / "hub" / "datasets--tatsu-lab--alpaca_eval"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    path = repo / "snapshots" / commit / "df_gamed.csv"
    path.parent.mkdir(parents=True)
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["model", "index", "preference", "std_delta_len", "instruction_difficulty", "not_gamed_baseline"])
        for model, mean in (("concise", 1.0), ("verbose", -1.0)):
            for index in range(INSTRUCTIONS):
                length = rng.gauss(mean, 0.7)
                share = min(1.0, max(0.0, 0.5 - 0.2 * length + rng.gauss(0, 0.2)))
                rows.writerow([model, index, share, length, difficulty[index], False])
    return path


@pytest.mark.parametrize("form", ["minimal", "full"])
def test_the_official_package_gives_the_same(form, oracle, annotation_files, companion_file, tmp_path):
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    command = [oracle, str(HERE / "alpaca_eval_figures.py"), form, *map(str, annotation_files)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout.splitlines()[-1])
    companion = read_companion(companion_file) if form == "full" else None
    assert len(theirs) == len(annotation_files) == SUBSETS + 2
    farthest = 0.0
    for path, expected in zip(annotation_files, theirs, strict=True):
        annotations = read_annotations(path)
        plain = win_rate(annotations)
        for key in ("win_rate", "standard_error", "discrete_win_rate", "n_wins", "n_wins_base", "n_draws", "n_total"):
            assert getattr(plain, key) == pytest.approx(expected[key], rel=1e-12), (path.name, key)
        ours = length_controlled(annotations, companion)
        assert ours.form == form
        farthest = max(farthest, abs(ours.win_rate - expected["length_controlled_winrate"]))
        assert farthest < POINTS, path.name
    print(f"{form}: farthest from the official figure: {farthest:.2g} points")


def test_the_judge_switches_and_weighs_as_the_official_one(oracle):
    instructions = [f"question {number}" for number in range(200)]
    answers = [{"m": -0.1, "M": -2.5}, {"M": -0.001, "m": -9.0, "The": -12.0}, {"m": -0.3}, {"The": -0.1, "M": -4.0}]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OPENAI_API_KEY": "none", "PYTHONPATH": ""}
    done = subprocess.run(
        [oracle, str(HERE / "alpaca_eval_judging.py")],
        input=json.dumps({"instructions": instructions, "likeliest": answers}),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout.splitlines()[-1])
    assert [switched(each) for each in instructions] == theirs["instructions"]
    ours = [1 + (second_share(Answer("", (Token("", tuple(each.items())),))) or 0) for each in answers]
    assert ours == pytest.approx(theirs["likeliest"])
