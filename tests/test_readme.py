"""The README's own examples run."""

import re
import shlex
from pathlib import Path

import pytest

from llm_expo.cli.main import make_parser
from llm_expo.generation import read_prompts
from llm_expo.testing import tiny_pair

README = (Path(__file__).parents[1] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_python_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny_pair(tmp_path)
    words = ["the cat", "a dog", "red sun", "blue sea", "old tree", "new day", "bad dog", "good cat", "sun here"]
    Path("prompts.jsonl").write_text("\n".join(f'{{"prompt": "{word}"}}' for word in words))
    assert len(read_prompts("prompts.jsonl")) == 9
    searching, extrapolating = blocks("python")
    for code, most in ((searching, 16), (extrapolating, 10)):
        assert len([line for line in code.splitlines() if line.strip()]) <= most
        exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    assert capsys.readouterr().out.split()[0] in ("SHIP", "NO", "UNDERPOWERED")
    assert Path("study/study.sqlite").exists()
    assert Path("theta/model.safetensors").exists()


@pytest.mark.parametrize("line", [x for block in blocks("sh") for x in block.splitlines() if x.startswith("llm-expo ")])
def test_the_commands_parse(line):
    assert make_parser().parse_args(shlex.split(line, comments=True)[1:]).run is not None


def test_every_file_in_the_tree_is_there():
    [tree] = [block for block in blocks("text") if block.startswith("llm_expo/")]
    for line in tree.splitlines():
        name = line.split()[0]
        folder = name if not line.startswith(" ") else f"llm_expo/{name}"
        assert (Path(__file__).parents[1] / folder).exists(), name
