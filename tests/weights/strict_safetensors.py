"""A strict reader of safetensors models for tests: plain, slow, and sharing no line with llm_expo.

After the format's description (https://github.com/huggingface/safetensors#format) and what transformers calls an index:
    8 bytes, little-endian, unsigned: N, at most 100,000,000
    N bytes: UTF-8 JSON that begins with "{", no key twice; trailing spaces are padding
        name -> {"dtype", "shape", "data_offsets": [BEGIN, END]}, and "__metadata__" -> a map of strings
    the rest: the buffer that the offsets count in; every byte of it belongs to exactly one tensor
    model.safetensors.index.json: {"weight_map": {name -> file}}, where every tensor of every named file is listed
Where a description leaves room, this refuses: what it accepts, everybody has to accept.
"""

import json
from dataclasses import dataclass
from pathlib import Path

BITS = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


class InvalidError(Exception):
    """Not a valid file or model."""


@dataclass(frozen=True)
class Entry:
    dtype: str
    shape: tuple[int, ...]
    data: bytes


def demand(condition: object, what: str) -> None:
    if not condition:
        raise InvalidError(what)


def read_json(raw: bytes) -> dict[str, object]:
    def table(pairs: list[tuple[str, object]]) -> dict[str, object]:
        keys = [key for key, _ in pairs]
        demand(len(set(keys)) == len(keys), "a key stands there twice")
        return dict(pairs)

    def number(text: str) -> object:
        raise InvalidError(f"{text} is not JSON")

    try:
        found = json.loads(raw.decode("utf-8"), object_pairs_hook=table, parse_constant=number)
        json.dumps(found, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise InvalidError("not JSON") from error
    demand(isinstance(found, dict), "not a table")
    return found


def is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def read_file(raw: bytes) -> dict[str, Entry]:
    """The tensors of one file by name, or InvalidError."""
    demand(len(raw) >= 8, "no length")
    length = int.from_bytes(raw[:8], "little")
    demand(length <= 100_000_000, "a header that is too long")
    demand(8 + length <= len(raw), "a header longer than the file")
    header, buffer = raw[8 : 8 + length], raw[8 + length :]
    demand(header[:1] == b"{", "no brace at the beginning")
    table = read_json(header)

    metadata = table.pop("__metadata__", {})
    demand(isinstance(metadata, dict), "metadata that is no table")
    demand(all(isinstance(value, str) for value in metadata.values()), "metadata that is no text")

    owned = bytearray(len(buffer))
    spans = []
    found = {}
    for name, entry in table.items():
        demand(isinstance(entry, dict), "an entry that is no table")
        demand({"dtype", "shape", "data_offsets"} <= entry.keys(), "an entry that lacks something")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        demand(isinstance(dtype, str) and dtype in BITS, "an unknown dtype")
        demand(isinstance(shape, list) and all(is_size(extent) for extent in shape), "a shape that is none")
        demand(isinstance(offsets, list) and len(offsets) == 2 and all(is_size(at) for at in offsets), "no offsets")
        begin, end = offsets
        demand(begin <= end <= len(buffer), "offsets beyond the file")
        bits = BITS[dtype]
        for extent in shape:
            bits *= max(extent, 1)
            demand(bits < 2**63, "a shape that is too large")
        demand((0 if 0 in shape else bits) == 8 * (end - begin), "a size that is not the shape's")
        demand(not any(owned[begin:end]), "an overlap")
        owned[begin:end] = b"\1" * (end - begin)
        spans.append((begin, end))
        found[name] = Entry(dtype, tuple(shape), buffer[begin:end])
    demand(all(owned), "bytes that belong to no tensor")
    for at, end in spans:
        demand(end > at or not any(low < at < high for low, high in spans), "an empty tensor inside another one")
    return found


def read_model(folder: Path) -> dict[str, Entry]:
    """The tensors of a model folder by name, or InvalidError."""

    def content(name: str) -> bytes:
        path = folder / name
        demand(path.is_file(), f"{name} is missing, or is no file")
        return path.read_bytes()

    names = {path.name for path in folder.iterdir()}
    if "model.safetensors" in names:
        found = read_file(content("model.safetensors"))
    else:
        index = read_json(content("model.safetensors.index.json"))
        places = index.get("weight_map")
        demand(isinstance(places, dict), "no weight_map")
        demand(all(isinstance(place, str) for place in places.values()), "a file that is no name")
        for place in places.values():
            demand(place in names and place.endswith(".safetensors"), f"{place} is no weights file in the folder")
        found = {}
        for place in set(places.values()):
            part = read_file(content(place))
            demand(part.keys() == {name for name in places if places[name] == place}, f"the index is wrong on {place}")
            found.update(part)
    demand(found, "no tensor")
    return found
