"""An adapter on its base: where each of its tensors belongs, and the two seen as one checkpoint.

An adapter names modules as the live model does, its base's files name tensors as the checkpoint does: the two differ at
most by a first component ("transformer.h.0" and "h.0"). There is no list of architectures: names and shapes decide.
Reads headers only, but for two embeddings that have to be equal. Knows nothing of a second checkpoint, or of alpha.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from llm_expo.checkpoints.adapter import Adapter
from llm_expo.checkpoints.calculated import LowRank, Source
from llm_expo.checkpoints.checkpoint import Checkpoint
from llm_expo.checkpoints.files import shown
from llm_expo.checkpoints.header import Tensor
from llm_expo.checkpoints.reader import same_bytes
from llm_expo.errors import CheckpointError, MismatchError, listed

# The two ends of a language model, by the last component of the module's name. They matter where one is tied to the
# other, which files do not show.
_EMBEDDINGS = frozenset({"embed_tokens", "wte", "word_embeddings", "embed_in", "shared", "tok_embeddings"})
_HEADS = frozenset({"lm_head", "embed_out"})


@dataclass(frozen=True, slots=True)
class Place:
    """Where an update belongs: the base's weight, and whether that is [in, out] instead of [out, in]."""

    weight: Tensor
    transposed: bool


@dataclass(frozen=True, slots=True)
class Fit:
    """An adapter's tensors, each with its counterpart in the base's checkpoint."""

    places: Mapping[str, Place]  # by module, for every update
    replaced: Mapping[str, Tensor]  # by name, for every saved tensor: the base's tensor that it stands in for


def fit(base: Checkpoint, adapter: Adapter) -> Fit:
    """Find every module and saved tensor of `adapter` in `base`.

    Where the base's head is tied to its embedding, a head's counterpart is the embedding. Raises MismatchError, which
    names what is missing and what has another shape, with both shapes.
    """
    names = _Names(base)
    places: dict[str, Place] = {}
    replaced: dict[str, Tensor] = {}
    wrong = []
    updated: set[str] = set()
    for module, update in adapter.updates.items():
        weight = names.find(f"{module}.weight")
        product = (update.b.shape[0], update.a.shape[1])
        if weight is None:
            wrong.append(f"{shown(module)}: no such weight in the base")
        elif weight.shape not in ((product[::-1],) if update.embedding else (product, product[::-1])):
            wanted = list(product[::-1] if update.embedding else product)
            wrong.append(f"{shown(module)}: shape {list(weight.shape)} in the base, the adapter is for {wanted}")
        elif not weight.is_float:
            wrong.append(f"{shown(module)}: {weight.dtype} in the base, which is no float type to add to")
        elif weight.name in updated:
            wrong.append(
                f"{shown(module)}: another module's update has the same weight in the base, {shown(weight.name)}"
            )
        else:
            # A tied head has its weight in common with the embedding.
            if module.rpartition(".")[2] not in _HEADS:
                updated.add(weight.name)
            # A square matrix does not show which way it lies; the settings do (GPT-2's Conv1D).
            square = product[0] == product[1]
            transposed = bool(adapter.config.get("fan_in_fan_out")) if square else weight.shape != product
            places[module] = Place(weight, update.embedding or transposed)
    for name, tensor in adapter.saved.items():
        found = names.find(name)
        if found is None:
            wrong.append(f"{shown(name)}: no such tensor in the base")
        elif found.shape != tensor.shape:
            wrong.append(f"{shown(name)}: shape {list(found.shape)} in the base, {list(tensor.shape)} in the adapter")
        elif found.is_float != tensor.is_float:
            wrong.append(f"{shown(name)}: {found.dtype} in the base, {tensor.dtype} in the adapter")
        else:
            replaced[name] = found
    if wrong:
        raise MismatchError(
            f"the adapter {shown(adapter.path)} does not fit the base {shown(base.path)} in {len(wrong)} of "
            f"{len(adapter.updates) + len(adapter.saved)} places: {listed(wrong)}. "
            f"{_way_out(adapter)}"
        )
    return Fit(places, replaced)


def adapted(base: Checkpoint, adapter: Adapter) -> Checkpoint:
    """The whole model as a checkpoint: the base's files, names and order, and tensors that the adapter changes.

    What the adapter updates is a LowRank, what it saved is the adapter's tensor (of the adapter's dtype), all else is
    the base's. Raises MismatchError as `fit` does, and CheckpointError where a head and an embedding that the base ties
    no longer are the same: no checkpoint in the base's layout can say that.
    """
    found = fit(base, adapter)
    _refuse_half_tied(base, adapter)
    merged: dict[str, Source] = dict(base.tensors)
    for name, tensor in adapter.saved.items():
        target = found.replaced[name].name
        merged[target] = replace(tensor, name=target)
    for module, update in adapter.updates.items():
        place = found.places[module]
        under = merged[place.weight.name]
        assert isinstance(under, Tensor)  # a weight has one update
        if under.dtype == "F64":
            raise CheckpointError(
                f"{shown(under.file)}: {shown(under.name)} is F64, and merging is done in float32; save it as float32"
            )
        merged[place.weight.name] = LowRank(
            place.weight.name, under, update.a, update.b, update.scale, place.transposed
        )
    return replace(base, tensors=merged, adapter=adapter)


def _way_out(adapter: Adapter) -> str:
    trained_on = f" (it names {shown(adapter.base)})" if adapter.base else ""
    return f"Give the very base that the adapter was trained on{trained_on}, with the vocabulary that it had there"


class _Names:
    """The base's tensors by the names that a live model has for them."""

    def __init__(self, base: Checkpoint) -> None:
        self._tensors = {name: tensor for name, tensor in base.tensors.items() if isinstance(tensor, Tensor)}
        self._shorter: dict[str, list[Tensor]] = {}
        for name, tensor in self._tensors.items():
            self._shorter.setdefault(name.partition(".")[2], []).append(tensor)
        embeddings = [tensor for name, tensor in self._tensors.items() if _module(name) in _EMBEDDINGS]
        self._tied = embeddings[0] if len(embeddings) == 1 and is_tied(base) else None

    def find(self, name: str) -> Tensor | None:
        if name in self._tensors:
            return self._tensors[name]
        if (without := name.partition(".")[2]) in self._tensors:
            return self._tensors[without]
        if len(longer := self._shorter.get(name, [])) == 1:
            return longer[0]
        return self._tied if _module(name) in _HEADS and name.endswith(".weight") else None


def is_tied(base: Checkpoint) -> bool:
    """Whether the base's head is its embedding. Where config.json does not say so, a head in the files says no."""
    # Multimodal models keep one config per part, and may say it there.
    parts = [part for part in base.config.values() if isinstance(part, dict) and "tie_word_embeddings" in part]
    if "tie_word_embeddings" in base.config or parts:
        return bool(base.config.get("tie_word_embeddings", any(part["tie_word_embeddings"] for part in parts)))
    return not any(_module(name) in _HEADS for name in base.tensors)


def _module(name: str) -> str:
    """The last component of the name of the module that has this tensor."""
    return name.rpartition(".")[0].rpartition(".")[2]


def _refuse_half_tied(base: Checkpoint, adapter: Adapter) -> None:
    if not is_tied(base):
        return
    ends = _EMBEDDINGS | _HEADS
    updated = [module for module in adapter.updates if module.rpartition(".")[2] in ends]
    saved = [name for name in adapter.saved if _module(name) in ends and name.endswith(".weight")]
    if not updated and len(saved) == 2 and same_bytes([adapter.file], *(adapter.saved[name] for name in saved)):
        return
    if updated or saved:
        modules = sorted({*updated, *(name.removesuffix(".weight") for name in saved)})
        raise CheckpointError(
            f"{shown(adapter.path)}: adapts {', '.join(map(shown, modules))}, while the base {shown(base.path)} ties "
            "its head to its embedding, so that no checkpoint in the base's layout can hold the two apart; write an "
            "adapter instead of merging, or save the base with tie_word_embeddings false first"
        )


def as_checkpoint(adapter: Adapter) -> Checkpoint:
    """An adapter's own tensors as a checkpoint's."""
    tensors: dict[str, Source] = {tensor.name: tensor for tensor in adapter.file.tensors}
    return Checkpoint(adapter.located, (), tensors, None, {}, adapter)
