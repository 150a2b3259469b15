"""A tiny theta0 and pairs to train it on."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llm_expo.testing import WORDS, tiny_pair
from llm_expo.training.recipe import Recipe


@pytest.fixture(scope="session")
def theta0(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pair(tmp_path_factory.mktemp("theta0"))[0]


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 pairs of made-up replies of unlike lengths; the chosen one begins with "good"."""
    rng = random.Random(0)

    def text(words: int) -> str:
        return " ".join(rng.choice(WORDS) for _ in range(words))

    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    with path.open("w") as file:
        for _ in range(40):
            prompt, chosen, rejected = text(5), f"good {text(rng.randint(2, 9))}", f"bad {text(rng.randint(2, 9))}"
            file.write(json.dumps({"prompt": prompt, "chosen": chosen, "rejected": rejected}) + "\n")
    return path


@pytest.fixture(scope="session")
def examples(pairs: Path) -> Path:
    """The chosen replies alone, for SFT."""
    path = pairs.with_name("examples.jsonl")
    with path.open("w") as file:
        for pair in map(json.loads, pairs.read_text().splitlines()):
            file.write(json.dumps({"prompt": pair["prompt"], "completion": pair["chosen"]}) + "\n")
    return path


@pytest.fixture
def recipe(theta0: Path, pairs: Path) -> Callable[..., Recipe]:
    """A recipe of five steps on the tiny theta0; keywords change it."""
    plain = Recipe(
        model=str(theta0), data=str(pairs), algorithm="dpo", learning_rate=1e-2, batch_size=8, precision="float32"
    )

    def make(**changes: Any) -> Recipe:
        return replace(plain, **changes)

    return make
