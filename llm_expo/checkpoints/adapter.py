"""A LoRA adapter as PEFT saves it: which modules it adds to, by which factors, and what else it holds. Reads no tensor.

An update adds `scale * B @ A` to the weight of one module, A of shape [rank, in] and B of shape [out, rank] (LoRA,
arXiv 2106.09685, section 4.1; rsLoRA, arXiv 2312.03732, changes the scale only). Whatever PEFT can save that is not
this sum on the base as it is stored, DoRA for one, is refused by name. Knows nothing of the base's own tensors:
adapted.py fits the two together.
"""

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llm_expo.checkpoints.files import parse_json, read_bytes, shown
from llm_expo.checkpoints.header import Shard, Tensor
from llm_expo.checkpoints.hub import Located, resolve
from llm_expo.checkpoints.layout import ADAPTER_CONFIG_NAME, ADAPTER_NAME
from llm_expo.errors import CheckpointError

# What PEFT puts before the name that a tensor has in the base model.
PREFIX = "base_model.model."

# Which biases were trained, from the least to the most.
BIASES = ("none", "lora_only", "all")

_KEY = re.compile(r"(?P<module>.+)\.(?P<factor>lora_A|lora_B)(?:\.(?P<adapter>[^.]+))?\.weight")
_EMBEDDING_KEY = re.compile(r"(?P<module>.+)\.lora_embedding_(?P<factor>A|B)(?:\.(?P<adapter>[^.]+))?")
# Settings that do not change what the adapter adds, and those that are read here. A setting that is neither among them
# nor below may be of a kind of LoRA that is not a plain sum; PEFT gains several with each version.
_HARMLESS = frozenset(
    "alpha_pattern auto_mapping base_model_name_or_path bias corda_config ensure_weight_tying eva_config "
    "exclude_modules fan_in_fan_out inference_mode init_lora_weights layers_pattern layers_to_transform loftq_config "
    "lora_alpha lora_dropout lora_ga_config megatron_config megatron_core modules_to_save peft_type peft_version "
    "qalora_group_size r rank_pattern revision runtime_config target_modules task_type use_rslora".split()
)
_MERGE = "merge it into its base with peft (merge_and_unload, save_pretrained) and give the merged checkpoint"
_REFUSED = {
    "use_dora": f"is DoRA, which is not linear in its weights; {_MERGE}",
    "lora_bias": f"adds biases beside its factors (lora_bias), which is not supported; {_MERGE}",
    "target_parameters": f"adapts parameters instead of modules (target_parameters), which is not supported; {_MERGE}",
    "trainable_token_indices": f"holds single trained tokens (trainable_token_indices), not supported; {_MERGE}",
    "layer_replication": f"repeats layers of its base (layer_replication), so that the two have other names; {_MERGE}",
    "alora_invocation_tokens": "is an activated LoRA (alora_invocation_tokens), which works on some tokens only",
}
# Initialisations that leave the base's weights as they are. The others (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA, and what
# is to come) may subtract something from them whenever the adapter is loaded.
_INITIAL = (True, False, None, "gaussian", "eva", "orthogonal")
_LARGEST = 1e300


@dataclass(frozen=True, slots=True)
class Scales:
    """What the settings say of ranks and scales; the patterns are regular expressions of modules' names."""

    rank: float  # r
    alpha: float  # lora_alpha
    ranks: Mapping[str, float]  # rank_pattern
    alphas: Mapping[str, float]  # alpha_pattern
    root: bool  # use_rslora: the scale is alpha / sqrt(rank), not alpha / rank


@dataclass(frozen=True, slots=True)
class Update:
    """What an adapter adds to the weight of one module: scale * B @ A (for an embedding, its transpose)."""

    module: str  # its name in the base model, such as "model.layers.0.self_attn.q_proj"
    a: Tensor  # [rank, in]
    b: Tensor  # [out, rank]
    scale: float
    embedding: bool

    @property
    def rank(self) -> int:
        return self.a.shape[0]


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter's folder, seen through its settings and its safetensors header."""

    located: Located
    file: Shard
    config: Mapping[str, object] = field(repr=False)  # adapter_config.json
    scales: Scales = field(repr=False)  # what it says of ranks and scales
    updates: Mapping[str, Update] = field(repr=False)  # by module
    # Whole tensors that stand in for the base's, by their names in the base model: modules_to_save, trained biases, and
    # embeddings that were resized. The names of the tensors themselves are those in the file.
    saved: Mapping[str, Tensor] = field(repr=False)

    @classmethod
    def open(cls, spec: str | os.PathLike[str] | Located) -> "Adapter":
        """Read the settings and the header of an adapter: a folder, or ORG/NAME[@REVISION]; see hub.resolve.

        Raises CheckpointError, one line that names the file and the setting or tensor: no LoRA, a LoRA that is not a
        plain sum, a pickle, settings that make no sense, factors that do not fit each other.
        """
        located = spec if isinstance(spec, Located) else resolve(spec)
        folder = located.folder
        where = folder / ADAPTER_CONFIG_NAME
        config = parse_json(read_bytes(where), f"{shown(where)}: the file")
        _refuse_settings(config, where)
        if not (folder / ADAPTER_NAME).exists() and (folder / "adapter_model.bin").exists():
            raise CheckpointError(
                f"{shown(folder)}: no {ADAPTER_NAME} here, only adapter_model.bin; pickles are not read (they can run "
                "code): load it in peft and save it with save_pretrained"
            )
        file = Shard.open(folder / ADAPTER_NAME)
        factors, saved = _sorted_out(file)
        scales = _scales(config, where)
        updates = {module: _update(module, found, scales, file.path) for module, found in factors.items()}
        if not updates and not saved:
            raise CheckpointError(f"{shown(file.path)}: holds no tensor")
        return cls(located, file, config, scales, updates, saved)

    @property
    def path(self) -> Path:
        """The folder."""
        return self.located.folder

    @property
    def base(self) -> str | None:
        """What the adapter says it was trained on: a hub id or a path, as it was called there."""
        name = self.config.get("base_model_name_or_path")
        return name if isinstance(name, str) and name else None


def holds_adapter(folder: Path) -> bool:
    """Whether `folder` is an adapter's. transformers takes it for one, too, when whole weights lie beside it."""
    return os.path.isfile(folder / ADAPTER_CONFIG_NAME)  # noqa: PTH113 (which says no where it may not look)


def _refuse_settings(config: Mapping[str, object], where: Path) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(
            f"{shown(where)}: peft_type is {shown(kind)}, and only LORA can be extrapolated as an adapter; if it can "
            f"be merged, {_MERGE}"
        )
    for setting, what in _REFUSED.items():
        if config.get(setting):
            raise CheckpointError(f"{shown(where)}: the adapter {what}")
    if (bias := config.get("bias", "none")) not in BIASES:
        raise CheckpointError(f"{shown(where)}: bias is {shown(bias)}, which is not one of {', '.join(BIASES)}")
    initial = config.get("init_lora_weights", True)
    if initial not in _INITIAL:
        raise CheckpointError(
            f"{shown(where)}: init_lora_weights is {shown(initial)}, which changes the base's weights whenever the "
            "adapter is loaded; save it as an ordinary LoRA (peft: save_pretrained with "
            "path_initial_model_for_weight_conversion)"
        )
    for setting, value in config.items():
        if setting not in _HARMLESS and setting not in _REFUSED and value:
            raise CheckpointError(
                f"{shown(where)}: {shown(setting)} is set, and what it does to the weights is not known here; {_MERGE}"
            )


def _sorted_out(file: Shard) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """The file's tensors as factors ("lora_A", "lora_embedding_B", ...) of each module, and all others."""
    factors: dict[str, dict[str, Tensor]] = {}
    saved: dict[str, Tensor] = {}
    for tensor in sorted(file.tensors, key=lambda tensor: tensor.name):
        if not tensor.name.startswith(PREFIX):
            raise CheckpointError(f"{shown(file.path)}: {shown(tensor.name)}: its name does not begin with {PREFIX}")
        name = tensor.name.removeprefix(PREFIX)
        plain, embedding = _KEY.fullmatch(name), _EMBEDDING_KEY.fullmatch(name)
        if (key := plain or embedding) is not None:
            factor = key["factor"] if plain else f"lora_embedding_{key['factor']}"
            found = factors.setdefault(key["module"], {})
            if factor in found:
                raise CheckpointError(
                    f"{shown(file.path)}: {shown(tensor.name)} and {shown(found[factor].name)} are both {factor} of "
                    "one module; save the adapters one by one"
                )
            found[factor] = tensor
        elif "lora_" in name:
            dora = " (DoRA is not linear in its weights)" if "lora_magnitude_vector" in name else ""
            raise CheckpointError(
                f"{shown(file.path)}: {shown(tensor.name)} is not a factor of a plain LoRA{dora}; {_MERGE}"
            )
        else:
            saved[name.replace(".base_layer.", ".")] = tensor
    return factors, saved


def _update(module: str, factors: Mapping[str, Tensor], scales: Scales, path: Path) -> Update:
    where = f"{shown(path)}: {shown(module)}"
    embedding = any(factor.startswith("lora_embedding") for factor in factors)
    wanted = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A", "lora_B")
    if set(factors) != set(wanted):
        raise CheckpointError(
            f"{where} has {' and '.join(sorted(factors))}, where {' and '.join(wanted)} make an update"
        )
    a, b = (factors[factor] for factor in wanted)
    for factor, tensor in zip(wanted, (a, b), strict=True):
        if len(tensor.shape) != 2:
            raise CheckpointError(
                f"{where}: {factor} has shape {list(tensor.shape)}; only matrices are supported, convolutions are not"
            )
        if not tensor.is_float:
            raise CheckpointError(f"{where}: {factor} is {tensor.dtype}, which is no float type to calculate with")
    rank = _of(module, scales.ranks, scales.rank)
    if rank < 1 or not rank == a.shape[0] == b.shape[1]:
        raise CheckpointError(
            f"{where}: the ranks disagree or are none, {a.shape[0]} in {wanted[0]} {list(a.shape)}, {b.shape[1]} in "
            f"{wanted[1]} {list(b.shape)}, {rank} in {ADAPTER_CONFIG_NAME}"
        )
    scale = _of(module, scales.alphas, scales.alpha) / (math.sqrt(rank) if scales.root else rank)
    return Update(module, a, b, scale, embedding)


def _scales(config: Mapping[str, object], where: Path) -> Scales:
    def number(name: str, value: object) -> float:
        # `type`, since true and false are ints to Python; the bounds keep out NaN, too
        if type(value) not in (int, float) or not -_LARGEST < value < _LARGEST:  # type: ignore[operator]
            raise CheckpointError(f"{shown(where)}: {shown(name)} is {shown(value)}, not a number to calculate with")
        return value  # type: ignore[return-value]

    def table(name: str) -> dict[str, float]:
        found = config.get(name) or {}
        if not isinstance(found, dict):
            raise CheckpointError(f"{shown(where)}: {name} is not a table of numbers")
        for pattern in found:
            try:
                re.compile(_ending(pattern))
            except (re.error, OverflowError, RecursionError):
                # `from None`: the chain of a RecursionError is a thousand frames of nothing.
                raise CheckpointError(f"{shown(where)}: {name}: {shown(pattern)} is not a regular expression") from None
        return {pattern: number(f"{name} of {pattern}", value) for pattern, value in found.items()}

    # 8 is what PEFT takes where nothing is said.
    return Scales(
        rank=number("r", config.get("r", 8)),
        alpha=number("lora_alpha", config.get("lora_alpha", 8)),
        ranks=table("rank_pattern"),
        alphas=table("alpha_pattern"),
        root=bool(config.get("use_rslora")),
    )


def _of(module: str, patterns: Mapping[str, float], default: float) -> float:
    """The number of the first pattern that matches the end of the module's name, as in PEFT."""
    return next((number for pattern, number in patterns.items() if re.match(_ending(pattern), module)), default)


def _ending(pattern: str) -> str:
    return rf"(.*\.)?({pattern})$"
