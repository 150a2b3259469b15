"""Extrapolation of LoRA adapters that stays an adapter: theta(alpha) costs megabytes, and the base is not touched.

Where theta1 is an adapter on theta0, theta1 - theta0 is what the adapter adds, so that theta(alpha) is theta1's adapter
with 1 + alpha times its scale: the settings change, the factors do not. Where both are adapters on one base,

    theta(alpha) = base + [(1 + alpha) s1 B1, -alpha s0 B0] @ [A1; A0],

one adapter whose ranks add up, in float32. Whole tensors that an adapter holds (modules_to_save, biases) move as in any
checkpoint. Merging is not here: checkpoints/adapted.py makes a checkpoint of an adapter on its base, which goes the
ordinary way.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from llm_expo.checkpoints.adapted import Fit, as_checkpoint, fit
from llm_expo.checkpoints.adapter import BIASES, PREFIX, Adapter, Update
from llm_expo.checkpoints.calculated import Part, Source, Stacked
from llm_expo.checkpoints.checkpoint import Checkpoint
from llm_expo.checkpoints.files import shown
from llm_expo.checkpoints.header import Tensor, laid_out
from llm_expo.checkpoints.layout import ADAPTER_CONFIG_NAME, ADAPTER_NAME
from llm_expo.checkpoints.reader import same_bytes
from llm_expo.errors import ExpoError, MismatchError, listed
from llm_expo.weights.direction import Direction, Sides
from llm_expo.weights.equality import add_nothing, all_equal
from llm_expo.weights.extrapolation import Copy, Extrapolation, Move, OutputFile, Step, finite, plan
from llm_expo.weights.hints import same_place
from llm_expo.weights.kernel import Rounding


def plan_adapter(
    initial: Checkpoint | Adapter, aligned: Adapter, alpha: float, base: Checkpoint | None = None
) -> Extrapolation:
    """Plan theta(alpha) as an adapter: on theta0 if that is a checkpoint, else on the base of both adapters.

    alpha: any finite number. 0 gives theta1's adapter; -1 gives theta0's adapter, or one that adds nothing to theta0.
    base:  the checkpoint under both adapters, if at hand. It is needed where only one of them holds a whole tensor, and
           where they do not name the same base.

    Raises MismatchError for an adapter that does not fit what it is to lie on, for two of which that cannot be told,
    and, at any alpha but 0 and -1, where theta0 and theta1 are the same model; ExpoError where
    the base is needed, or where scales leave the range of float32.
    """
    alpha = finite(alpha)
    if isinstance(initial, Checkpoint):
        if base is not None and not same_place(str(base.path), str(initial.path)):
            raise MismatchError(
                f"theta1 {shown(aligned.path)} is an adapter on {shown(base.path)}, and theta0 {shown(initial.path)} "
                "is another model: what lies between them is no adapter; --merge writes a whole model"
            )
        return _scaled(initial, aligned, alpha)
    if base is None:
        _check_same_base(initial, aligned)
    return _stacked(initial, aligned, alpha, base)


def adapter_on_theta0(direction: Direction) -> Adapter | None:
    """theta1's adapter, where it lies on theta0 itself and holds no whole tensor: then alpha is nothing but a scale."""
    adapter = direction.aligned.adapter
    if adapter is None or adapter.saved or not direction.initial.is_whole:
        return None
    return adapter if direction.aligned.path == direction.initial.path else None


def plan_as_given(sides: Sides, alpha: float, merge: bool = False) -> Extrapolation:
    """`plan_adapter` where theta1 is an adapter, unless it is to be merged into its base; `plan` otherwise."""
    if sides.adapter_on_top and not merge:
        return plan_adapter(sides.initial, sides.adapter_on_top, alpha, sides.base)
    return plan(sides.merged(), alpha)


def _check_same_base(initial: Adapter, aligned: Adapter) -> None:
    bases, revisions = [], []
    for side in (initial, aligned):
        bases.append(side.base)
        revisions.append(side.config.get("revision") or "main")
    if bases[0] and bases[1] and same_place(bases[0], bases[1]) and revisions[0] == revisions[1]:
        return
    named = " and ".join(
        f"{shown(base or 'nothing')}{'' if revision == 'main' else f'@{shown(revision)}'}"
        for base, revision in zip(bases, revisions, strict=True)
    )
    raise MismatchError(
        f"the adapters {shown(initial.path)} and {shown(aligned.path)} name {named} as their bases; if it is one "
        "checkpoint, name it with --base; if theta1 was trained on theta0 merged into its base, merge theta0 first"
    )


def _scaled(initial: Checkpoint, aligned: Adapter, alpha: float) -> Extrapolation:
    found = fit(initial, aligned)
    saved = {tensor.name: found.replaced[name] for name, tensor in aligned.saved.items()}
    if alpha not in (0, -1) and _is_untrained(initial, aligned, found):
        raise MismatchError(
            f"the adapter {shown(aligned.path)} adds nothing to theta0 {shown(initial.path)}, as before training: "
            "there is no direction to go"
        )
    steps: list[Step] = []
    for tensor in aligned.file.tensors:
        target = replace(tensor, file=Path(ADAPTER_NAME))
        if tensor.name in saved:
            steps.append(_whole(target, saved[tensor.name], tensor, alpha))
        else:
            # Nothing is calculated, but NaN is noticed.
            steps.append(Move(target, tensor, tensor, 0.0, "the settings hold the scale"))
    scales = aligned.scales
    config = {
        **aligned.config,
        "lora_alpha": _times(scales.alpha, 1 + alpha),
        "alpha_pattern": {pattern: _times(value, 1 + alpha) for pattern, value in scales.alphas.items()},
    }
    file = OutputFile(ADAPTER_NAME, aligned.file.header, tuple(steps))
    how = "theta1's adapter, its lora_alpha times 1 + alpha"
    return _extrapolation(Direction(initial, as_checkpoint(aligned)), alpha, file, config, how)


def _is_untrained(base: Checkpoint, adapter: Adapter, found: Fit) -> bool:
    """Whether the adapter on its base is the base."""
    shards = (*base.shards, adapter.file)
    saved = [(found.replaced[name], tensor) for name, tensor in adapter.saved.items() if tensor.is_float]
    return add_nothing(shards, adapter.updates.values()) and all_equal(shards, saved)


def _extrapolation(
    direction: Direction,
    alpha: float,
    file: OutputFile,
    config: Mapping[str, object],
    how: str,
    base: Checkpoint | None = None,
) -> Extrapolation:
    # Not sorted, as PEFT does it: the first pattern that matches decides.
    raw = f"{json.dumps(config, indent=2)}\n".encode()
    return Extrapolation(
        direction,
        alpha,
        "keep",
        Rounding(),
        (file,),
        None,
        {"output": how},
        (),
        made={ADAPTER_CONFIG_NAME: raw},
        base=base,
    )


def _times(value: float, factor: float) -> int | float:
    product = value * factor
    if not math.isfinite(product):
        raise ExpoError(f"lora_alpha {value:g} times 1 + alpha is out of range; a smaller alpha may fit")
    # PEFT writes integers, and some readers want them.
    return int(product) if product == int(product) else product


def _stacked(initial: Adapter, aligned: Adapter, alpha: float, base: Checkpoint | None) -> Extrapolation:
    fits = None if base is None else (fit(base, initial), fit(base, aligned))
    _check_alike(initial, aligned)
    direction = Direction(as_checkpoint(initial), as_checkpoint(aligned))
    if alpha in (0, -1):
        # Bit for bit, and without the other side's rank.
        side, name = (aligned, "theta1") if alpha == 0 else (initial, "theta0")
        steps = tuple(_whole(replace(each, file=Path(ADAPTER_NAME)), each, each, 0.0) for each in side.file.tensors)
        file = OutputFile(ADAPTER_NAME, side.file.header, steps)
        return _extrapolation(direction, alpha, file, side.config, f"{name}'s adapter")
    if _same(initial, aligned):
        raise MismatchError(
            f"the adapters {shown(initial.path)} and {shown(aligned.path)} hold the same numbers: there is no "
            "direction to go"
        )

    ranks: dict[str, int] = {}
    sources: list[tuple[Source, Source | None]] = []  # what is to be written, and theta0's part where that is moved
    for module in sorted({*aligned.updates, *initial.updates}):
        sides = [
            (side.updates[module], factor)
            for side, factor in ((aligned, 1 + alpha), (initial, -alpha))
            if module in side.updates
        ]
        ranks[module] = sum(update.rank for update, _ in sides)
        sources += [(factor, None) for factor in _factors(module, sides)]
    for name in sorted({*aligned.saved, *initial.saved}):
        before, after = initial.saved.get(name), aligned.saved.get(name)
        if before is None or after is None:
            if fits is None:
                side = aligned if before is None else initial
                raise ExpoError(
                    f"only {shown(side.path)} holds {shown(name)} as a whole, so that the base's is needed: name the "
                    "base with --base"
                )
            before, after = before or fits[1].replaced[name], after or fits[0].replaced[name]
        sources.append((replace(after, name=PREFIX + _live_name(name, ranks)), before))

    file = _new_file(sources, alpha)
    config = _stacked_config(initial, aligned, ranks)
    how = "[theta1's, theta0's] adapter stacked: B times (1 + alpha) scale and -alpha scale, ranks added, in float32"
    return _extrapolation(direction, alpha, file, config, how, base)


def _same(initial: Adapter, aligned: Adapter) -> bool:
    """Whether two adapters add the same to their base: nothing, or with equal scales, names and bytes."""
    if not (initial.saved or aligned.saved):
        updates = (*initial.updates.values(), *aligned.updates.values())
        if add_nothing((initial.file, aligned.file), updates):
            return True
    scales = [{module: update.scale for module, update in side.updates.items()} for side in (initial, aligned)]
    if scales[0] != scales[1] or initial.file.header != aligned.file.header:
        return False
    both = zip(initial.file.tensors, aligned.file.tensors, strict=True)
    return all(same_bytes((initial.file, aligned.file), before, after) for before, after in both)


def _check_alike(initial: Adapter, aligned: Adapter) -> None:
    wrong = []
    for module, update in aligned.updates.items():
        other = initial.updates.get(module)
        if other is not None and _form(other) != _form(update):
            wrong.append(f"{shown(module)}: {_form(other)} in theta0, {_form(update)} in theta1")
    for name, tensor in aligned.saved.items():
        before = initial.saved.get(name)
        if before is not None and (before.shape, before.is_float) != (tensor.shape, tensor.is_float):
            wrong.append(
                f"{shown(name)}: {before.dtype} {list(before.shape)} in theta0, {tensor.dtype} {list(tensor.shape)} "
                "in theta1"
            )
    if wrong:
        raise MismatchError(
            f"the adapters {shown(initial.path)} and {shown(aligned.path)} are not for one base: {listed(wrong)}"
        )


def _form(update: Update) -> str:
    """What both sides have to have in common in a module."""
    return f"{'an embedding' if update.embedding else 'a matrix'} [{update.b.shape[0]}, {update.a.shape[1]}]"


def _factors(module: str, sides: Sequence[tuple[Update, float]]) -> tuple[Stacked, Stacked]:
    """A and B of one module; the scales go into B."""
    first, rank = sides[0][0], sum(update.rank for update, _ in sides)
    a, b = ("lora_embedding_A", "lora_embedding_B") if first.embedding else ("lora_A.weight", "lora_B.weight")
    return (
        Stacked(
            f"{PREFIX}{module}.{a}", (rank, first.a.shape[1]), tuple(Part(update.a, 1.0) for update, _ in sides), axis=0
        ),
        Stacked(
            f"{PREFIX}{module}.{b}",
            (first.b.shape[0], rank),
            tuple(Part(update.b, factor * update.scale) for update, factor in sides),
            axis=1,
        ),
    )


def _live_name(name: str, updated: Mapping[str, int]) -> str:
    """A tensor's name in the live model, where PEFT puts what it adapts one level deeper."""
    module, _, leaf = name.rpartition(".")
    return f"{module}.base_layer.{leaf}" if module in updated else name


def _new_file(sources: Sequence[tuple[Source, Source | None]], alpha: float) -> OutputFile:
    # Wide types first, so that each tensor is aligned to its own.
    ordered = sorted(
        sources, key=lambda pair: (pair[0].dtype not in ("F64", "I64"), pair[0].dtype != "F32", pair[0].name)
    )
    header, targets = laid_out(Path(ADAPTER_NAME), [(source.name, source.dtype, source.shape) for source, _ in ordered])
    steps: list[Step] = []
    for target, (source, before) in zip(targets, ordered, strict=True):
        if before is None:
            steps.append(Move(target, source, source, 0.0, "stacked"))
        else:
            assert isinstance(source, Tensor)
            steps.append(_whole(target, before, source, alpha))
    return OutputFile(ADAPTER_NAME, header, tuple(steps))


def _whole(target: Tensor, initial: Source, aligned: Tensor, alpha: float) -> Step:
    if aligned.is_float:
        return Move(target, initial, aligned, alpha)
    return Copy(target, aligned, f"{aligned.dtype} is no type to calculate with: theta1's")


def _stacked_config(initial: Adapter, aligned: Adapter, ranks: Mapping[str, int]) -> dict[str, object]:
    config = dict(aligned.config)
    rank = max(Counter(ranks.values()).items(), key=lambda each: (each[1], each[0]), default=(1, 0))[0]
    # Scales are in the factors, so lora_alpha is the rank, module by module.
    others = {f"^{re.escape(module)}": number for module, number in ranks.items() if number != rank}
    config |= {"r": rank, "lora_alpha": rank, "rank_pattern": others, "alpha_pattern": others, "use_rslora": False}
    config["init_lora_weights"] = True
    if set(initial.updates) != set(aligned.updates):
        # Neither side's own selection would give this one.
        config |= {"target_modules": sorted(ranks), "exclude_modules": None}
        config |= {"layers_to_transform": None, "layers_pattern": None}
    modules = sorted({*_modules_to_save(initial), *_modules_to_save(aligned)})
    config["modules_to_save"] = modules or None
    config["fan_in_fan_out"] = bool(initial.config.get("fan_in_fan_out") or config.get("fan_in_fan_out"))
    config["bias"] = max((str(side.config.get("bias", "none")) for side in (initial, aligned)), key=BIASES.index)
    return config


def _modules_to_save(adapter: Adapter) -> list[str]:
    found = adapter.config.get("modules_to_save") or []
    return [str(name) for name in found] if isinstance(found, list) else [str(found)]
