"""What a tensor's name tells of its place in the model: the kind of module, and the layer.

For reporting only: nothing that is written depends on it, and a name that it does not know is "other". The patterns
are those of the architectures in transformers; tests/weights/test_kinds.py holds them to real models. Knows no tensor.
"""

import re
from typing import Literal, NamedTuple

Kind = Literal["embeddings", "attention", "MLP", "norms", "head", "other"]
KINDS: tuple[Kind, ...] = ("embeddings", "attention", "MLP", "norms", "head", "other")


class Layer(NamedTuple):
    """One layer of a stack; most models have one stack, encoder-decoders and those that see have two."""

    stack: str  # such as "model.layers" or "encoder.block"
    number: int


# The outermost numbered list: inside a layer, T5 numbers its sublayers, and mixtures their experts.
_LAYER = re.compile(r"(?P<stack>(?:[^.]+\.)*?(?:layers|layer|h|blocks|block))\.(?P<number>\d+)\.")

# Tried in this order, on a name such as ".self_attn.q_proj.": a norm inside the attention is a norm, and an attention's
# output is no MLP's.
_IN_A_LAYER: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    ("norms", re.compile(r"norm\w*\.(weight\.|bias\.)?$|\.ln_?\w+\.|\.ln\.", re.IGNORECASE)),
    ("attention", re.compile(r"attn|attention", re.IGNORECASE)),
    (
        "MLP",
        re.compile(
            r"mlp|ffn|feed_forward|expert|moe|DenseReluDense|\.router|\.fc_?(\d|in|out)\.|\.c_fc\.|"
            r"\.(gate|up|down|gate_up)_proj\.|\.linear_?\d\.|\.(intermediate|output)\.dense\.",
            re.IGNORECASE,
        ),
    ),
)
_OUTSIDE: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    _IN_A_LAYER[0],
    ("head", re.compile(r"head\b|\.embed_out\.|\.(score|classifier|classification_head|qa_outputs|cls)\.|predictions")),
    ("embeddings", re.compile(r"emb|\.(wte|wpe|shared)\.", re.IGNORECASE)),
)


def layer_of(name: str) -> Layer | None:
    """The layer that a tensor belongs to; None for what stands outside all layers."""
    found = _LAYER.match(name)
    return Layer(found["stack"], int(found["number"])) if found else None


def kind_of(name: str) -> Kind:
    found = _LAYER.match(name)
    rest = f".{name[found.end() :] if found else name}."
    return next((kind for kind, pattern in (_IN_A_LAYER if found else _OUTSIDE) if pattern.search(rest)), "other")
