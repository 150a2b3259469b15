"""What hints at the wrong pair without forbidding it: text becomes tokens, or weights become a model, in two ways.

Looks at the files beside the weights, theta1's record of its theta0 among them, and at no tensor but for theta0's
fingerprint.
"""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from llm_expo.checkpoints import Checkpoint, fingerprint
from llm_expo.checkpoints.adapter import Adapter
from llm_expo.checkpoints.files import parse_settings, read_bytes, shown
from llm_expo.checkpoints.layout import ADAPTER_CONFIG_NAME
from llm_expo.checkpoints.origins import initial_of
from llm_expo.checkpoints.sidefiles import beside, file_differences
from llm_expo.errors import listed

_TOKENIZER_NAME = "tokenizer.json"
# The files that turn text into tokens. A pair that disagrees in them was hardly trained one from the other.
_TEXT_FILES = (
    "tokenizer",
    "vocab",
    "merges",
    "special_tokens_map",
    "added_tokens",
    "chat_template",
    "spiece",
)
# What config.json says of saving, training and reporting: runs of one model may differ in it. All else changes what the
# weights mean.
_NO_MATTER = {
    *("_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache", "auto_map", "torchscript"),
    *("_attn_implementation", "attn_implementation", "_attn_implementation_autoset", "pretraining_tp"),
    *("output_attentions", "output_hidden_states", "output_router_logits", "return_dict", "router_aux_loss_coef"),
    *("gradient_checkpointing", "initializer_range", "dropout", "dropout_rate", "attention_dropout", "resid_pdrop"),
    *("attn_pdrop", "embd_pdrop", "hidden_dropout", "hidden_dropout_prob", "attention_probs_dropout_prob"),
    *("activation_dropout", "embedding_dropout", "classifier_dropout", "id2label", "label2id", "problem_type"),
    *("finetuning_task", "task_specific_params", "unsloth_version", "unsloth_fixed"),
}
# The merges of a BPE tokenizer.json, strings or pairs of them. Quotes inside a string are escaped, so that none looks
# like this key; and no byte is matched twice, so that it takes one pass.
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_MERGES = re.compile(
    rb'"merges"\s*+:\s*+\[(?:[^"\[\]]++|%b|\[(?:[^"\[\]]++|%b)*+\])*+\]' % (_STRING, _STRING), re.DOTALL
)


def hints(initial: Checkpoint, aligned: Checkpoint) -> list[str]:
    """A line for each file that tokenizes differently, tokens of other ids, another base or theta0, and config.json.

    Raises CheckpointError for a file that cannot be read.
    """
    return [
        *_of_text(initial, aligned),
        *_of_bases(initial, aligned),
        *_of_origin(initial, aligned),
        *_of_settings(initial, aligned),
    ]


def _of_text(initial: Checkpoint, aligned: Checkpoint) -> Iterator[str]:
    """What turns text into tokens, and which tokens have other ids."""
    theirs, ours = beside(initial.folders), beside(aligned.folders)
    files = [
        each
        for each in file_differences(theirs, ours)
        if Path(each.name).name.startswith(_TEXT_FILES)
        # An adapter's folder need not hold what its base has.
        and not (each.what == "only in theta0" and aligned.adapter is not None)
        and not (each.what == "only in theta1" and initial.adapter is not None)
    ]
    for each in files:
        yield f"{each}: a tokenizer or template that differs hints at the wrong pair; theta1's is used"
    if any((each.name, each.what) == (_TOKENIZER_NAME, "differs") for each in files):
        before, after = (_tokens(side[_TOKENIZER_NAME]) for side in (theirs, ours))
        other = sorted((after[token], token) for token in before.keys() & after.keys() if before[token] != after[token])
        if other:
            after_id, token = other[0]
            yield (
                f'{_TOKENIZER_NAME}: {len(other)} tokens have other ids ("{shown(token)}" is {before[token]} in '
                f"theta0, {after_id} in theta1): the rows of the two embeddings do not belong to the same tokens"
            )


def _of_bases(initial: Checkpoint, aligned: Checkpoint) -> Iterator[str]:
    """Adapters that say that they were trained on something else than what is under them here."""
    for side in (initial, aligned):
        if side.adapter is None:
            continue
        merged = side.path != side.adapter.path
        under = side if merged else initial  # unmerged, it lies on theta0, if that is a whole model
        if merged or under.adapter is None:
            warning = other_base(side.adapter, under.path, under.located.repo or under.path)
            if warning is not None:
                yield warning


def _of_origin(initial: Checkpoint, aligned: Checkpoint) -> Iterator[str]:
    """Another theta0 than the one that theta1's record names."""
    origin = initial_of((aligned.adapter or aligned).located)
    if origin is not None and origin.fingerprint is not None and (here := fingerprint(initial)) != origin.fingerprint:
        yield (
            f"{shown(origin.said_by)}: theta1 was made from {shown(origin.places[0])} (fingerprint "
            f"{shown(origin.fingerprint)}), and theta0 {shown(initial.path)} has the fingerprint {here}: if it is "
            "another checkpoint, the direction is not that of the training"
        )


def _of_settings(initial: Checkpoint, aligned: Checkpoint) -> Iterator[str]:
    """What config.json says of the computation."""
    settings = _changed(initial.config, aligned.config)
    if settings:
        yield (
            f"config.json: {listed(settings)}: settings that change the computation hint at the wrong pair; theta1's "
            "are used"
        )


def _tokens(path: Path) -> dict[str, int]:
    """Tokens and their ids, of a tokenizer.json of any kind; what is not understood is left out."""
    # Merges are most of a large file, and as Python's lists they would take ten times the room; no id is in them.
    raw = _MERGES.sub(b'"merges":[]', read_bytes(path), count=1)
    content = parse_settings(raw, f"{shown(path)}: the file")
    model, added = content.get("model"), content.get("added_tokens")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, list):  # of a unigram model: [token, score], the place being the id
        vocabulary = {pair[0]: place for place, pair in enumerate(vocabulary) if isinstance(pair, list) and pair}
    found = dict(vocabulary) if isinstance(vocabulary, dict) else {}
    for token in added if isinstance(added, list) else []:
        if isinstance(token, dict):
            found[token.get("content")] = token.get("id")
    return {token: place for token, place in found.items() if isinstance(token, str) and isinstance(place, int)}


def _changed(initial: Mapping[str, object], aligned: Mapping[str, object]) -> list[str]:
    """What both configs set, and set differently, a piece for each key; then what one of them alone sets."""
    if not initial or not aligned:
        return []
    before, after = dict(_settings(initial)), dict(_settings(aligned))
    found = [
        f"{shown(key)} is {shown(before[key])} in theta0, {shown(after[key])} in theta1"
        for key in sorted(before.keys() & after.keys())
        if before[key] != after[key]
    ]
    return [
        *found,
        *(f"{shown(key)} only in theta0's" for key in sorted(before.keys() - after.keys())),
        *(f"{shown(key)} only in theta1's" for key in sorted(after.keys() - before.keys())),
    ]


def _settings(config: Mapping[str, object], within: str = "") -> Iterator[tuple[str, object]]:
    """The settings that change the computation, by dotted key, whichever version of transformers wrote them."""
    for key, value in config.items():
        if key in _NO_MATTER or value is None or (key, value) == ("rope_type", "default"):
            continue
        if not isinstance(value, Mapping):
            yield within + key, value
        elif key in ("rope_parameters", "rope_scaling"):  # transformers 5 moved rope_theta into the first of these
            yield from _settings({"rope_type" if name == "type" else name: it for name, it in value.items()}, within)
        else:
            yield from _settings(value, f"{within}{key}.")


def other_base(adapter: Adapter, *names: str | os.PathLike[str]) -> str | None:
    """A warning if `adapter` says that it was trained on something else than what goes by these names, paths or ids.

    No error, since paths move.
    """
    if adapter.base is None or any(same_place(adapter.base, str(name)) for name in names):
        return None
    return (
        f"{shown(adapter.path)} was trained on {shown(adapter.base)}, as its {ADAPTER_CONFIG_NAME} says, not on "
        f"{shown(names[0])}; if that is another checkpoint, the result is wrong"
    )


def same_place(one: str, other: str) -> bool:
    """Whether two names, paths or hub ids, are one checkpoint's."""
    return one == other or (os.path.exists(one) and os.path.realpath(one) == os.path.realpath(other))  # noqa: PTH110
