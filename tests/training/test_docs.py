"""docs/training.md shows every key of a recipe, with its default."""

import re
import tomllib
from dataclasses import fields
from pathlib import Path

from llm_expo.training.recipe import Lora, Recipe, read_recipe

PAGE = Path(__file__).parents[2] / "docs/training.md"


def test_the_page_shows_every_key_with_its_default(tmp_path: Path) -> None:
    (block,) = (each for each in re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.S) if "model =" in each)
    (tmp_path / "as_shown.toml").write_text(block)
    shown = read_recipe(tmp_path / "as_shown.toml")
    plain = Recipe(model="org/sft-model", data="pairs.jsonl", algorithm="dpo", learning_rate=5e-7, batch_size=128)
    assert shown == plain
    # What is commented out is a key, too.
    keys = set(re.findall(r"^#? ?(\w+) =", block, re.M)) | set(re.findall(r"^#? ?\[(\w+)\]", block, re.M))
    assert keys - {"beta", "report_to"} == {each.name for each in (*fields(Recipe), *fields(Lora))}
    (lora,) = re.findall(r"# \[lora\].*\n((?:# .*\n)+)", block)
    assert Lora(**tomllib.loads(re.sub(r"^# ", "", lora, flags=re.M))) == Lora()
