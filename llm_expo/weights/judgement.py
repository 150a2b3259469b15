"""What a comparison says about a pair, in one sentence with its reasons. Pure; docs/compare.md measures the thresholds.

Weights do not tell how they were trained: they tell how far they went. So this says what a pair looks like, from the
size of the change and from what stood still, and where size cannot tell it says that.
"""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from llm_expo.weights.comparison import Comparison, Lineage


class Likeness(StrEnum):
    """What a pair looks like."""

    IDENTICAL = "identical"
    PREFERENCE_TRAINING = "preference training on a common SFT model"
    ADAPTER = "an adapter on theta0"
    PRETRAINED_AGAINST_SFT = "pre-trained against SFT"
    UNRELATED = "unrelated models"


@dataclass(frozen=True, slots=True)
class Judgement:
    likeness: Likeness
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return f"{_OPENINGS[self.likeness]}: {'; '.join(self.reasons)}."


_OPENINGS = {
    Likeness.IDENTICAL: "The two are identical",
    Likeness.PREFERENCE_TRAINING: "Looks like preference training on a common SFT model",
    Likeness.ADAPTER: "Looks like an adapter on theta0, trained by SFT or by preference",
    Likeness.PRETRAINED_AGAINST_SFT: "Looks like pre-trained against SFT, where extrapolation failed in the paper",
    Likeness.UNRELATED: "Looks like unrelated models",
}

# The root mean square change of a weight, norm / sqrt(elements). Adam moves a weight by about the learning rate in a
# step, whatever the weight's size, and preference training has a tenth to a hundredth of SFT's rate.
LARGEST_OF_PREFERENCE_TRAINING = 1e-4
# In 16 bits, small changes of large weights show as whole units in the last place, which the mean square overrates.
BEYOND_ONE_ULP_OF_PREFERENCE_TRAINING = 0.04
# The median, over the matrices, of the cosine between theta0's and theta1's: one origin keeps it near 1.
SMALLEST_COSINE_OF_ONE_ORIGIN = 0.5
# Less of theta1 than this in common, and there is nothing to measure.
SMALLEST_SHARE_IN_COMMON = 0.5


def judge(comparison: Comparison) -> Judgement:
    """What theta0 and theta1 look like to each other."""
    total, aligned = comparison.total, comparison.direction.aligned.tensors
    floats = sum(tensor.elements for tensor in aligned.values() if tensor.is_float)
    if total.elements < SMALLEST_SHARE_IN_COMMON * floats or not total.elements:
        share = total.elements / floats if floats else 0.0
        return Judgement(Likeness.UNRELATED, (f"only {share:.0%} of theta1's weights have a counterpart in theta0",))
    if total.equal == total.elements:
        reason = f"all {total.elements:,} weights that both have are equal"
        return Judgement(Likeness.IDENTICAL, (reason, *_beside(comparison)))
    if total.equal + total.one_ulp == total.elements and _every_type_differs(comparison):
        reason = "no weight differs by more than rounding to the coarser of the two types in which they are stored"
        return Judgement(Likeness.IDENTICAL, (reason, *_beside(comparison)))
    common = _median_cosine(comparison)
    if common is not None and common < SMALLEST_COSINE_OF_ONE_ORIGIN:
        reason = (
            f"the matrices of the two have a median cosine of {common:.2g}, where models of one origin have almost 1"
        )
        return Judgement(Likeness.UNRELATED, (reason,))
    likeness, reason = _by_size(comparison)
    return Judgement(likeness, (reason, *_beside(comparison)))


def judge_three(lineage: Lineage) -> Judgement:
    """What SFT and aligned look like to each other, with the way from the pre-trained model as the measure."""
    found = judge(lineage.sft_to_aligned)
    before, after = lineage.pretrained_to_sft.total, lineage.sft_to_aligned.total
    if (swapped := lineage.pretrained_to_sft.swapped) is not None:
        found = Judgement(found.likeness, (*found.reasons, f"of PRETRAINED and SFT, {swapped}"))
    if not after.squared:
        return found
    ratio = before.norm / after.norm
    reason = f"from PRETRAINED to SFT it is {float(f'{ratio:.2g}'):g} times as far as from SFT to ALIGNED"
    if ratio < 1:
        reason += ", which is no usual order"
    return Judgement(found.likeness, (*found.reasons, reason))


def _median_cosine(comparison: Comparison) -> float | None:
    """Over the tensors with two or more dimensions: norms' scales lie near 1 in any model, and so near each other."""
    tensors = comparison.direction.aligned.tensors
    found = [each.cosine for name, each in comparison.distances.items() if len(tensors[name].shape) > 1]
    cosines = [cosine for cosine in found if cosine is not None]
    return statistics.median(cosines) if cosines else None


def _by_size(comparison: Comparison) -> tuple[Likeness, str]:
    total = comparison.total
    change, beyond = total.norm_per_root_element or 0.0, total.share_beyond or 0.0
    size = f"the root mean square change of a weight is {change:.2g}"
    if change <= LARGEST_OF_PREFERENCE_TRAINING:
        return Likeness.PREFERENCE_TRAINING, f"{size}, and SFT goes beyond {LARGEST_OF_PREFERENCE_TRAINING:g}"
    if _has_16_bits(comparison) and beyond <= BEYOND_ONE_ULP_OF_PREFERENCE_TRAINING:
        share = f"only {beyond:.2%} of the weights moved by more than one unit in the last place of 16 bits"
        return Likeness.PREFERENCE_TRAINING, share
    embeddings = comparison.by_kind().get("embeddings")
    if embeddings is not None and not embeddings.squared:
        return (
            Likeness.ADAPTER,
            f"the embeddings stood still, and {size}, which either training does to an adapter's model",
        )
    return (
        Likeness.PRETRAINED_AGAINST_SFT,
        f"{size}, and preference training stays below {LARGEST_OF_PREFERENCE_TRAINING:g}",
    )


def _every_type_differs(comparison: Comparison) -> bool:
    return all(theta0 != theta1 for theta0, theta1 in _dtypes(comparison))


def _has_16_bits(comparison: Comparison) -> bool:
    return any({"BF16", "F16"} & {*each} for each in _dtypes(comparison))


def _dtypes(comparison: Comparison) -> Iterator[tuple[str, str]]:
    """Theta0's and theta1's, of what was compared."""
    initial, aligned = comparison.direction.initial.tensors, comparison.direction.aligned.tensors
    for name in comparison.distances:
        yield initial[comparison.partners.get(name, name)].dtype, aligned[name].dtype


def _beside(comparison: Comparison) -> Iterator[str]:
    """What beside the size tells of the pair."""
    files = {each.name: each for each in comparison.files}
    template, settings = files.get("chat_template.jinja"), files.get("tokenizer_config.json")
    in_settings = settings is not None and "chat_template" in settings.keys
    if template is not None and template.what == "only in theta1" and not in_settings:
        yield "only theta1 has a chat template"
    elif template is not None or in_settings:
        yield "their chat templates differ"
    if comparison.swapped is not None:
        yield comparison.swapped
    if comparison.mismatches:
        yield f"{len(comparison.mismatches)} tensors do not match"
