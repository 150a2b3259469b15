"""The verbs as a user types them: what they print, and what they say of bad input."""

import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from llm_expo.cli.main import main, make_parser, parsed
from llm_expo.search import PRESETS
from llm_expo.testing import tiny_pair

LENGTH = "function:rewards_for_tests:length"


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A working directory with a tiny pair, prompts and scorers."""
    tiny_pair(tmp_path)
    monkeypatch.chdir(tmp_path)
    words = ["the cat", "a red dog runs", "sea", "old tree sleeps here now", "good sun", "bad one sings"]
    lines = [json.dumps({"prompt": f"{words[i % 6]} {words[i // 6]}"}) for i in range(36)]
    Path("prompts.jsonl").write_text("\n".join(lines))
    Path("rewards_for_tests.py").write_text(
        "def length(c): return [len(m[-1]['content'].split()) for m in c]\n"
        "def broken(c): raise RuntimeError('the judge is\\nasleep')\n"
        "def words(c): return [-len(m[-1]['content']) for m in c]\n"
        "def nan(c): return [float('nan')] * len(c)\n"
    )
    yield tmp_path
    sys.modules.pop("rewards_for_tests", None)


def search(*options: str, alphas: str = "--strategy grid --alphas 0.5,2", scorer: str = LENGTH) -> list[str]:
    usual = f"--prompts prompts.jsonl --max-tokens 8 {alphas} --device cpu --out study --scorer".split()
    return ["search", "theta0", "theta1", *usual, scorer, *options]


def refused(capsys, arguments: list[str]) -> str:
    """Run a verb that has to fail: the one line that it says, without its prefix."""
    capsys.readouterr()
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    [line] = [
        line
        for line in err.splitlines()
        if not line.startswith(("llm-expo: loading", "search, alpha", "round ")) and "prompts to search on" not in line
    ]
    return line.removeprefix("llm-expo: error: ")


def test_apply_writes_a_model_that_loads(place, capsys):
    assert main("apply theta0 theta1 --alpha 0.5 --out moved".split()) == 0
    out = capsys.readouterr().out
    assert "moved: 21 tensors moved, 0 copied" in out
    assert "realised alpha 0.5" in out
    _, info = AutoModelForCausalLM.from_pretrained("moved", output_loading_info=True)
    assert not any(info.values())
    assert AutoTokenizer.from_pretrained("moved").chat_template
    assert main("apply theta0 theta1 --alpha -0.5 --out back --json".split()) == 0
    assert json.loads(capsys.readouterr().out)["moved"] == 21


@pytest.mark.parametrize("number", ["-1e-3", "-.5", "-1", "-0.5e+1"])
def test_negative_numbers_are_no_options(number):
    assert parsed(["apply", "theta0", "theta1", "--alpha", number, "--dry-run"]).alpha == float(number)
    options = search("--min-gain", number, alphas=f"--strategy grid --alphas {number},0.5")
    assert (parsed(options).alphas, parsed(options).min_gain) == ((float(number), 0.5), float(number))


def test_apply_dry_run_writes_nothing(place, capsys):
    before = sorted(place.iterdir())
    assert main("apply theta0 theta1 --alpha 0.5 --out moved --dry-run".split()) == 0
    assert main("apply theta0 theta1 --alpha 0.5 --dry-run".split()) == 0
    out = capsys.readouterr().out
    assert "alpha 0.5: 21 tensors to move, 0 to copy" in out
    assert "move  model.embed_tokens.weight  27x16  (F32, alpha 0.5)" in out
    assert sorted(place.iterdir()) == before


def test_compare_tells_figures_by_kind_and_layer_and_judges(place, capsys):
    assert main("compare theta0 theta1 --plot chart.svg".split()) == 0
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines() if line.strip()]
    assert "21 tensors with" in out and "norm / √n" in out and "mismatches: none" in out
    rows = [line[0] for line in lines]
    for name in ("total", "embeddings", "attention", "MLP", "norms", "head", "0", "1"):
        assert name in rows
    assert out.splitlines()[-1].startswith("Looks like pre-trained against SFT")
    assert ElementTree.parse("chart.svg").getroot().tag == "{http://www.w3.org/2000/svg}svg"
    assert main("compare theta0 theta1 --json".split()) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["norm_per_root_element"] == pytest.approx(figures["norm"] / figures["elements"] ** 0.5)
    assert 0.05 < figures["norm_per_root_element"] < 0.2
    assert figures["judgement"]["likeness"] == "pre-trained against SFT"
    assert figures["judgement"]["sentence"] in out
    assert main("compare theta0 theta0".split()) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("The two are identical: all ")


@pytest.mark.parametrize("verb", ["compare theta0 theta1", "pairs --json", "apply theta0 theta1 --alpha 1 --dry-run"])
def test_whoever_read_enough_hears_no_more(place, verb):
    command = [sys.executable, "-m", "llm_expo.cli", *verb.split()]
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}  # what is short is then written as Python ends, if not before
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=buffered)
    run.stdout.close()
    assert run.stderr.read() == ""
    assert run.wait() == 141
    run.stderr.close()


def test_compare_of_three_prints_the_papers_rows(place, capsys):
    assert main("apply theta0 theta1 --alpha 0.001 --out aligned".split()) == 0
    capsys.readouterr()
    assert main("compare theta0 theta1 aligned --plot chart.svg".split()) == 0
    out = capsys.readouterr().out
    assert [line.strip()[:20].strip() for line in out.splitlines() if "%" in line] == [
        "PRETRAINED → SFT",
        "SFT → ALIGNED",
        "PRETRAINED → ALIGNED",
    ]
    assert "cosine of the two steps, PRETRAINED → SFT and SFT → ALIGNED: 1.000 (embeddings 1.000, " in out
    assert "SFT it is 1000 times as far as from SFT to ALIGNED." in out.splitlines()[-1]
    titles = [each.text for each in ElementTree.parse("chart.svg").iter("{http://www.w3.org/2000/svg}text")]
    assert {"PRETRAINED → SFT", "SFT → ALIGNED", "PRETRAINED → ALIGNED"} <= set(titles)
    assert main("compare theta0 theta1 aligned --json".split()) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["turn"] == pytest.approx(1, abs=1e-3)
    assert set(record["turn_by_kind"]) == {"embeddings", "attention", "MLP", "norms", "head"}
    assert record["sft_to_aligned"]["norm"] == pytest.approx(record["pretrained_to_sft"]["norm"] / 1000, rel=1e-2)


def test_compare_refuses_a_bad_plot_before_it_reads(place, capsys):
    assert "is no folder" in refused(capsys, "compare theta0 theta1 --plot absent/chart.svg".split())
    Path("folder.svg").mkdir()
    assert "folder.svg: is a folder" in refused(capsys, "compare theta0 theta1 --plot folder.svg".split())
    assert "absent: no such folder" in refused(capsys, "compare theta0 theta1 absent".split())
    with pytest.raises(SystemExit) as exit_:
        main("compare theta0 theta1 --plot chart.png".split())
    assert exit_.value.code == 2
    assert "give a name that ends in .svg" in capsys.readouterr().err


def test_search_goes_all_the_way_and_resumes(place, capsys):
    assert main(search("--write", "always")) == 0
    out = capsys.readouterr().out
    for words in (
        "Search: up to 24 prompts",
        "Confirmation: 12 other prompts",
        "alpha -1 (theta0)",
        "The report is in study/report.md",
    ):
        assert words in out
    assert {"report.md", "report.json", "study.sqlite"} <= {path.name for path in Path("study").iterdir()}
    report = json.loads(Path("study/report.json").read_text())
    if report["choice"] != 0:
        assert AutoModelForCausalLM.from_pretrained("study/model") is not None
        assert "theta(" in Path("study/model/README.md").read_text()
    assert main(search("--write", "always", "--json")) == 0
    assert json.loads(capsys.readouterr().out) == report


def test_a_race_with_everything(place, capsys):
    """On random models nothing helps: whatever comes of it, it has to say so, and exit as asked."""
    options = ("--budget", "90 completions", "--choose", "one-se", "--min-gain", "0.5", "--log-json", "--json")
    second = ("--scorer", "function:rewards_for_tests:words")
    status = main(search(*options, *second, "--require-ship", alphas=""))
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert status == (0 if report["verdict"] == "SHIP" else 3)
    assert main(search(*options, *second, alphas="")) == 0
    assert report["decision"]["least_gain"] == 0.5
    events = [json.loads(line) for line in err.splitlines()]
    assert {event["event"] for event in events} == {"split", "begun", "done", "tried", "chosen"}
    assert [event["event"] for event in events[:2]] == ["split", "done"]
    assert events[-1]["part"] == "confirm"
    assert report["rounds"]


def test_all_that_log_json_tells_is_json(place):
    """Of a process: in this one pytest has the log."""
    command = [sys.executable, "-m", "llm_expo.cli", *search("--log-json", "--limit", "6"), "--extend"]
    environment = os.environ | {"PYTHONPATH": f"{place}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.returncode == 0
    assert any(event["event"] == "info" and "loading both" in event["message"] for event in events)
    done = subprocess.run([*command, "--min-gain", "-1"], capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    [error] = map(json.loads, done.stderr.splitlines())
    assert error == {"event": "error", "message": "the least gain that matters is -1; it has to be 0 or more"}


def test_search_extends_a_study(place, capsys):
    assert main(search("--limit", "24", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["search"][0]["prompts"] == 16
    assert "24 prompts; of the 36 given now, 12 are not among them" in refused(capsys, search())
    assert main(search("--extend", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["search"][0]["prompts"] == 24


@pytest.mark.parametrize("verb", ["apply", "compare", "search"])
def test_bad_checkpoints(place, capsys, verb):
    rest = {"apply": "--alpha 1 --out moved", "compare": "", "search": " ".join(search()[3:])}[verb].split()
    assert "absent: no such folder" in refused(capsys, [verb, "absent", "theta1", *rest])
    assert "is not a folder" in refused(capsys, [verb, "theta0", "prompts.jsonl", *rest])
    Path("empty").mkdir()
    assert "no model.safetensors" in refused(capsys, [verb, "theta0", "empty", *rest])
    shutil.copytree("theta1", "short")
    os.truncate("short/model.safetensors", 5000)
    assert "truncated" in refused(capsys, [verb, "theta0", "short", *rest])
    assert not Path("moved").exists() and not Path("study").exists()


@pytest.mark.parametrize("verb", ["apply", "search"])
def test_mismatched_tensors_are_all_named(place, capsys, verb, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    tiny_pair(other)
    model = AutoModelForCausalLM.from_pretrained(other / "theta1")
    model.resize_token_embeddings(30)
    model.save_pretrained("grown")
    AutoTokenizer.from_pretrained("theta1").save_pretrained("grown")
    rest = {"apply": "--alpha 1 --out moved".split(), "search": search()[3:]}[verb]
    line = refused(capsys, [verb, "theta0", "grown", *rest])
    assert "lm_head.weight: shape [27, 16] in theta0, [30, 16] in theta1" in line
    assert "model.embed_tokens.weight: shape" in line
    assert not Path("moved").exists() and not Path("study").exists()


@pytest.mark.parametrize("verb", ["apply", "search"])
def test_a_pair_without_a_difference(place, capsys, verb):
    shutil.copytree("theta0", "copy")
    rest = {"apply": "--alpha 1 --out moved".split(), "search": search()[3:]}[verb]
    said = "theta0 theta0 and theta1 copy hold the same numbers in every tensor that would be moved: there is no"
    assert said in refused(capsys, [verb, "theta0", "copy", *rest])
    assert not Path("moved").exists() and not Path("study").exists()


def test_bad_alphas(place, capsys):
    for alpha in ("nan", "inf", "-inf", "1e39"):
        assert "alpha must be a finite number" in refused(
            capsys, ["apply", "theta0", "theta1", f"--alpha={alpha}", "--out", "x"]
        )
        assert not Path("x").exists()
    assert "alphas are 0.5, nan" in refused(capsys, search("--alphas", "0.5,nan"))
    assert "intervals are 1, 2" in refused(capsys, search("--strategy", "paper", "--intervals", "1,2", alphas=""))


def test_existing_outputs(place, capsys):
    Path("moved").mkdir()
    Path("moved/keep").touch()
    assert "moved: already exists" in refused(capsys, "apply theta0 theta1 --alpha 1 --out moved".split())
    assert "lies in the input folder" in refused(capsys, "apply theta0 theta1 --alpha 1 --out theta1/new".split())
    assert "moved: exists and is no study" in refused(capsys, search("--out", "moved"))
    assert [path.name for path in Path("moved").iterdir()] == ["keep"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "prompts.jsonl: holds no prompts"),
        ('{"prompt": "a"}\n{"prompt": 3}', "prompts.jsonl, line 2: the prompt is a number"),
        ('{"prompt": "a"}\n{"prompt": ', "prompts.jsonl, line 2: not JSON"),
        ('{"prompt": "a"}', "1 prompts are too few"),
        (
            json.dumps({"prompt": "sun " * 300}) + '\n{"prompt": "a"}' * 9,
            "tokens and a reply of 8 exceed the model's context",
        ),
    ],
)
def test_bad_prompts(place, capsys, content, words):
    lines = [line.replace('"a"', f'"a {index}"') for index, line in enumerate(content.split("\n"))]
    Path("prompts.jsonl").write_text("\n".join(lines))
    assert words in refused(capsys, search())


@pytest.mark.parametrize(
    ("scorer", "words"),
    [
        ("function:rewards_for_tests:broken", "RuntimeError: the judge is asleep (.*rewards_for_tests.py, line 2)"),
        ("function:rewards_for_tests:nan", "returned nan for the reply"),
        ("function:rewards_for_tests:absent", "has no absent"),
        ("reward-model:absent", "reward-model:absent: cannot be loaded"),
        ("judge", "'judge' is no scorer"),
    ],
)
def test_bad_scorers(place, capsys, scorer, words):
    assert re.search(words.replace("(.*", r"\(.*").replace("2)", r"2\)"), refused(capsys, search(scorer=scorer)))
    if scorer.endswith("broken"):  # what was generated before is kept
        with sqlite3.connect("study/study.sqlite") as database:
            assert database.execute("SELECT count(*) FROM completions").fetchone()[0] == 24 + 16  # theta0's, too


def test_a_study_with_other_settings(place, capsys):
    assert main(search()) == 0
    assert "seed was 42 when the study began and is now 43" in refused(capsys, search("--seed", "43"))
    other, _ = tiny_pair(place / "other", seed=1)
    assert "theta0 was" in refused(capsys, [*search()[:1], str(other), *search()[2:]])
    assert "scorer was" in refused(capsys, search(scorer="function:rewards_for_tests:nan"))


def test_a_model_without_chat_template(place, capsys):
    Path("theta1/chat_template.jinja").unlink()
    assert "theta1: has no chat template" in refused(capsys, search())


def test_settings_out_of_range(place, capsys):
    assert "top_p is 2.0; it has to be above 0 and at most 1" in refused(capsys, search("--top-p", "2"))
    assert "share of prompts" in refused(capsys, search("--confirm-share", "1.5"))
    for device in ("no-such-device", "cuda:77", "meta", "hpu"):
        assert f"--device {device}: " in refused(capsys, search("--device", device))


@pytest.mark.parametrize(
    "arguments",
    [[], ["no-such-verb"], ["apply", "a"], "apply a b --alpha x --out c".split(), search("--batch-size", "0"),
     search("--strategy", "paper"), search("--intervals", "5,1"), ["apply", "a", "b", "--alpha", "1"],
     "apply a b --alpha 1 --out c --alpha-for x".split(), "apply a b --alpha 1 --out c --rounding up".split(),
     search("--alphas", "1,x"), search("--limit", "-3"), search("--strategy", "guess")],
)  # fmt: skip
def test_wrong_usage_is_status_2(capsys, arguments):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ("--replicas 2", "--replicas goes with the engine ray"),
        ("--on vllm", "the engine vllm needs --vllm-python PATH"),
        ("--on vllm --vllm-python p --low-memory", "--low-memory goes with the engine transformers or ray"),
        ("--on ray --tensor-parallel 2", "--tensor-parallel goes with the engine vllm"),
    ],
)
def test_an_option_of_another_engine_is_refused(capsys, options, line):
    with pytest.raises(SystemExit):
        main(search(*options.split()))
    assert line in capsys.readouterr().err


def test_vllm_that_cannot_be_run_is_told_before_anything_is_kept(place, capsys):
    assert "absent cannot be run" in refused(capsys, search("--on", "vllm", "--vllm-python", "absent"))
    assert not (place / "study" / "study.sqlite").exists()


@pytest.mark.slow
def test_search_on_ray_writes_the_study_of_one_engine(place, capsys, monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "local")  # whatever cluster runs here
    outcomes = []
    for out, more in (("study", []), ("clustered", ["--on", "ray", "--replicas", "1"])):
        command = [out if each == "study" else each for each in search(*more, "--json")]
        assert main(command) == 0
        outcomes.append(json.loads(capsys.readouterr().out))
    assert not ray.is_initialized()
    one, other = (
        [each["verdict"]] + [(row["alpha"], row["prompts"], row["reward"]) for row in each["search"] + each["confirm"]]
        for each in outcomes
    )
    assert one == other


def test_the_papers_intervals_are_taken_as_they_are_written():
    for text, intervals in PRESETS.items():
        assert make_parser().parse_args(search("--strategy", "paper", "--intervals", text)).intervals == intervals


def test_version_and_help(capsys):
    for option in ("--version", "--help"):
        with pytest.raises(SystemExit) as stopped:
            main([option])
        assert stopped.value.code == 0
    assert "llm-expo 0.1.0" in capsys.readouterr().out


@pytest.mark.slow
def test_killed_at_20_random_moments_a_search_ends_as_one_that_ran_through(place, capsys):
    """The command itself, and real generation."""
    options = "--max-tokens 200 --batch-size 2 --budget 400".split()
    command = [sys.executable, "-m", "llm_expo.cli", *search(*options, alphas="")]

    def rows() -> int:
        try:
            with sqlite3.connect("file:study/study.sqlite?mode=ro", uri=True) as database:
                queries = (f"SELECT count(*) FROM {table}" for table in ("completions", "rewards", "log_probabilities"))
                return sum(database.execute(query).fetchone()[0] for query in queries)
        except sqlite3.OperationalError:  # not there yet, or just being written
            return 0

    moments = random.Random(3)
    kills = 0
    while kills < 20:
        before = rows()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and rows() <= before:
            time.sleep(0.01)
        try:
            process.wait(moments.uniform(0, 0.2))
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
    assert kills == 20
    assert main(search(*options, "--json", alphas="")) == 0
    resumed = json.loads(capsys.readouterr().out)
    assert main(search(*options, "--out", "whole", "--json", alphas="")) == 0
    whole = json.loads(capsys.readouterr().out)
    for record in (resumed, whole):
        for key in ("study", "model", "costs"):
            del record[key]
    assert resumed == whole
