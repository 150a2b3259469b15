"""The judgement, a row for each rule; docs/compare.md has the real pairs behind the thresholds."""

from pathlib import Path

import pytest
import torch

from llm_expo.checkpoints import Checkpoint
from llm_expo.weights import Direction, Judgement, Likeness, compare, compare_three, judge, judge_three

EMBEDDINGS, ATTENTION, NORM = "model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "model.norm.weight"


def weights(spread: float = 0.02) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {EMBEDDINGS: (400, 60), ATTENTION: (60, 60)}
    drawn = {name: spread * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return {**drawn, NORM: torch.ones(60)}


def moved(before: dict[str, torch.Tensor], by: float, *, but: str = "", seed: int = 1) -> dict[str, torch.Tensor]:
    """Each weight by about `by`, those of one tensor excepted."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: tensor.clone() if name == but else tensor + by * torch.randn(tensor.shape, generator=generator)
        for name, tensor in before.items()
    }


def sixteen(model: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.bfloat16() for name, tensor in model.items()}


def small(model: dict[str, torch.Tensor], rows: int) -> dict[str, torch.Tensor]:
    return {**model, EMBEDDINGS: model[EMBEDDINGS][:rows].clone()}


THETA0 = weights()
ROWS = {
    "itself": (THETA0, THETA0, Likeness.IDENTICAL, "all 27,660 weights that both have are equal"),
    "a small step": (
        THETA0,
        moved(THETA0, 1e-5),
        Likeness.PREFERENCE_TRAINING,
        "the root mean square change of a weight is 1e-05, and SFT goes beyond 0.0001",
    ),
    "a small step in 16 bits": (
        sixteen(THETA0),
        sixteen(moved(sixteen(THETA0), 1e-5)),
        Likeness.PREFERENCE_TRAINING,
        "the root mean square change of a weight is",
    ),
    "large weights, whose last place is coarse": (
        sixteen(weights(spread=1.0)),
        sixteen(moved(weights(spread=1.0), 5e-5)),
        Likeness.PREFERENCE_TRAINING,
        "of the weights moved by more than one unit in the last place of 16 bits",
    ),
    "stored in different types": (
        weights(spread=1.0),
        sixteen(moved(weights(spread=1.0), 1e-5)),
        Likeness.PREFERENCE_TRAINING,
        "of the weights moved by more than one unit in the last place of 16 bits",
    ),
    "nothing but rounding": (
        THETA0,
        sixteen(THETA0),
        Likeness.IDENTICAL,
        "no weight differs by more than rounding to the coarser of the two types in which they are stored",
    ),
    "a large step": (
        THETA0,
        moved(THETA0, 5e-4),
        Likeness.PRETRAINED_AGAINST_SFT,
        "the root mean square change of a weight is 0.0005, and preference training stays below 0.0001",
    ),
    "a large step in 16 bits": (
        sixteen(THETA0),
        sixteen(moved(THETA0, 5e-4)),
        Likeness.PRETRAINED_AGAINST_SFT,
        "preference training stays below 0.0001",
    ),
    "a large step that left the embeddings": (
        THETA0,
        moved(THETA0, 5e-4, but=EMBEDDINGS),
        Likeness.ADAPTER,
        "the embeddings stood still",
    ),
    "another model": (
        THETA0,
        {**moved(THETA0, 0.0), ATTENTION: THETA0[ATTENTION].flip(0), EMBEDDINGS: THETA0[EMBEDDINGS].flip(0)},
        Likeness.UNRELATED,
        "the matrices of the two have a median cosine of",
    ),
    "another architecture": (
        THETA0,
        small(THETA0, 10) | {"model.layers.1.self_attn.q_proj.weight": torch.ones(60, 60)},
        Likeness.UNRELATED,
        "only 47% of theta1's weights have a counterpart in theta0",
    ),
    "a vocabulary that grew": (
        small(THETA0, 10),
        moved(small(THETA0, 12), 1e-5),
        Likeness.PREFERENCE_TRAINING,
        "1 tensors do not match",
    ),
    "nothing but integers": (
        {"ids": torch.arange(3)},
        {"ids": torch.arange(3)},
        Likeness.UNRELATED,
        "only 0% of theta1's weights have a counterpart in theta0",
    ),
}


@pytest.mark.parametrize("row", ROWS)
def test_rules(save, tmp_path: Path, row: str) -> None:
    before, after, likeness, reason = ROWS[row]
    found = judge(compare(Direction.open(save(tmp_path / "a", before), save(tmp_path / "b", after))))
    assert found.likeness == likeness
    assert reason in str(found)
    assert str(found).count(".\n") == 0 and str(found).endswith(".")


def test_chat_templates_are_among_the_reasons(save, tmp_path: Path) -> None:
    paths = save(tmp_path / "a", THETA0), save(tmp_path / "b", moved(THETA0, 1e-5))
    (paths[1] / "chat_template.jinja").write_text("{{ messages }}")
    assert "; only theta1 has a chat template." in str(judge(compare(Direction.open(*paths))))
    (paths[0] / "chat_template.jinja").write_text("{{ messages[0] }}")
    assert "; their chat templates differ." in str(judge(compare(Direction.open(*paths))))
    for path, text in zip(paths, ('{"chat_template": "a"}', '{"chat_template": "b"}'), strict=True):
        (path / "chat_template.jinja").unlink()
        (path / "tokenizer_config.json").write_text(text)
    assert "; their chat templates differ." in str(judge(compare(Direction.open(*paths))))


def test_three_checkpoints_are_measured_by_the_first_step(save, tmp_path: Path) -> None:
    sft = moved(THETA0, 5e-4)
    paths = [
        save(tmp_path / "pre", THETA0),
        save(tmp_path / "sft", sft),
        save(tmp_path / "al", moved(sft, 5e-6, seed=2)),
    ]
    pre, sft_, aligned = map(Checkpoint.open, paths)
    found = judge_three(compare_three(pre, sft_, aligned))
    assert found.likeness == Likeness.PREFERENCE_TRAINING
    assert found.reasons[-1].startswith("from PRETRAINED to SFT it is 100 times as far")
    assert str(found).endswith("times as far as from SFT to ALIGNED.")
    turned = judge_three(compare_three(aligned, sft_, pre))
    assert turned.likeness == Likeness.PRETRAINED_AGAINST_SFT
    assert str(turned).endswith("times as far as from SFT to ALIGNED, which is no usual order.")
    assert judge_three(compare_three(pre, sft_, sft_)) == Judgement(
        Likeness.IDENTICAL, ("all 27,660 weights that both have are equal",)
    )
