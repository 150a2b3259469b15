"""The facts about algorithms: complete, as documented, as TRL has them, and refused by name where a recipe errs."""

import inspect
import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from trl import DPOConfig, KTOConfig

from llm_expo.errors import RecipeError
from llm_expo.training.algorithms import ALGORITHMS, algorithm
from llm_expo.training.recipe import AlgorithmName, Recipe

DOCUMENT = Path(__file__).parents[2] / "docs" / "training.md"
RECIPE = Recipe(model="m", data="d", algorithm="dpo", learning_rate=5e-7, batch_size=2)


def test_every_name_of_a_recipe_is_an_algorithm():
    assert set(ALGORITHMS) == set(get_args(AlgorithmName))


def test_losses_take_the_coefficients():
    for each in ALGORITHMS.values():
        if each.loss:
            assert list(inspect.signature(each.loss).parameters)[1:] == list(each.coefficients), each.name


def test_where_trl_computes_the_loss_names_and_defaults_are_trls():
    for name, configuration in (("dpo", DPOConfig), ("kto", KTOConfig)):
        assert ALGORITHMS[name].loss is None
        theirs = {each: configuration.__dataclass_fields__[each].default for each in ALGORITHMS[name].coefficients}
        assert ALGORITHMS[name].coefficients == theirs


def test_the_table_of_the_document_has_the_same_facts():
    section = DOCUMENT.read_text(encoding="utf-8").split("\n## Algorithms\n")[1]
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", section, flags=re.MULTILINE)
    documented = {}
    for name, rest in rows:
        _, reference, coefficients, computed_by, _ = (cell.strip() for cell in rest.split("|"))
        defaults = {key: float(value) for key, value in re.findall(r"`(\w+)` ([\d.]+)", coefficients)}
        documented[name] = (defaults, reference, computed_by)
    assert documented == {
        each.name: (dict(each.coefficients), "yes" if each.reference else "no", "we" if each.loss else "TRL")
        for each in ALGORITHMS.values()
    }


def test_a_recipe_settles_coefficients_and_leaves_the_rest():
    settled = algorithm(replace(RECIPE, algorithm="simpo", coefficients={"gamma": 1.6}))
    assert settled.coefficients == {"beta": 2.0, "gamma": 1.6}
    assert settled.loss is ALGORITHMS["simpo"].loss
    assert ALGORITHMS["simpo"].coefficients == {"beta": 2.0, "gamma": 1.0}
    assert algorithm(RECIPE) == ALGORITHMS["dpo"]
    assert algorithm(replace(RECIPE, coefficients={"beta": 1})).coefficients == {"beta": 1}


@pytest.mark.parametrize(
    "name, coefficients, said",
    [
        ("dpo", {"bete": 0.1}, "unknown coefficient bete; did you mean beta? dpo has beta"),
        ("simpo", {"cpo_alpha": 0.0}, "unknown coefficient cpo_alpha; simpo has beta, gamma"),
        ("sft", {"beta": 0.1}, "unknown coefficient beta; sft has none"),
        ("dpo", {"beta": 0.0}, "coefficient beta is 0; it has to be above 0"),
        ("ipo", {"tau": float("nan")}, "coefficient tau is nan; it has to be above 0"),
        ("r_dpo", {"length_penalty": -0.05}, "coefficient length_penalty is -0.05; it has to be 0 or more"),
        (
            "cpo",
            {"beta": -1, "sft_wait": 1.0},
            "coefficient beta is -1; it has to be above 0; unknown coefficient sft_wait; did you mean sft_weight? "
            "cpo has beta, sft_weight",
        ),
    ],
)
def test_mistakes_are_named(name, coefficients, said):
    with pytest.raises(RecipeError) as caught:
        algorithm(replace(RECIPE, algorithm=name, coefficients=coefficients))
    assert str(caught.value) == said


def test_a_weight_of_zero_is_possible():
    assert algorithm(replace(RECIPE, algorithm="rrhf", coefficients={"sft_weight": 0})).coefficients["sft_weight"] == 0
