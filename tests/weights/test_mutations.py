"""Headers and indexes broken at random, by the thousand: one clear refusal, or exactly the right bytes.

What is right, strict_safetensors.py (is it a model?) and oracle.py (which bytes?) say, which share nothing with
llm_expo. `apply` may succeed only where they agree, has to where the pair matches, and leaves nothing when it refuses.
"""

import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import FLOATS, extrapolated, widened
from strict_safetensors import BITS, Entry, InvalidError, read_file, read_model

from llm_expo.errors import ExpoError
from llm_expo.weights import apply

INDEX = "model.safetensors.index.json"
CONFIG = b'{"model_type": "llama"}'
# Not numbers: theta1's are taken, whatever theta0's are.
CODES = {"BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64"}
ALPHAS = (0.5, 1.5, -0.5, 0.3, 2.0, -1.75, 1e-3)

# A file of a folder: its bytes, or what makes something else of that name. Header: name and entry, in order.
Content = bytes | Callable[[Path], None]
Files = dict[str, Content]
Header = list[tuple[str, object]]


# ---- models as bytes ----


def render(header: Header, data: bytes) -> bytes:
    """A safetensors file; written by hand, so that a name may stand there twice."""
    text = "{" + ",".join(f"{json.dumps(name)}:{json.dumps(entry)}" for name, entry in header) + "}"
    return len(text).to_bytes(8, "little") + text.encode() + data


def parsed(raw: bytes) -> tuple[Header, bytes]:
    stop = 8 + int.from_bytes(raw[:8], "little")
    return json.loads(raw[8:stop], object_pairs_hook=list_of_tables), raw[stop:]


def list_of_tables(pairs: list[tuple[str, object]]) -> object:
    # Entries become dictionaries again, the header itself stays a list.
    return dict(pairs) if all(key in ("dtype", "shape", "data_offsets", "format") for key, _ in pairs) else pairs


def file_of(tensors: dict[str, tuple[str, list[int], bytes]]) -> bytes:
    header: Header = [("__metadata__", {"format": "pt"})]
    data = b""
    for name, (dtype, shape, raw) in tensors.items():
        header.append((name, {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}))
        data += raw
    return render(header, data)


def tensors_of(side: int) -> dict[str, tuple[str, list[int], bytes]]:
    numbers = np.random.default_rng(7 + side)

    def floats(dtype: str, *shape: int) -> tuple[str, list[int], bytes]:
        values = numbers.normal(size=shape).astype("<f4")
        kind = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}.get(dtype)
        raw = values.astype(kind) if kind else (values.view("<u4") >> 16).astype("<u2")
        return dtype, list(shape), raw.tobytes()

    return {
        "model a": floats("BF16", 3, 4),
        "mask": ("BOOL", [3], b"\1\0\1"),  # three bytes, so that what follows lies crooked
        "model b": floats("F16", 5),
        "c": floats("F32", 2, 2),
        "d": floats("F64", 2),
        "mixed": floats("F32" if side == 0 else "BF16", 4),
        "ids": ("I64", [2], bytes(16)),
        "f8": ("F8_E4M3", [2, 1], b"\x38\x39"),
        "scalar": floats("F32"),
        "empty": floats("F32", 0, 3),
    }


def model(side: int, shards: int) -> Files:
    tensors = tensors_of(side)
    if shards == 1:
        return {"config.json": CONFIG, "model.safetensors": file_of(tensors)}
    files: Files = {"config.json": CONFIG}
    weight_map = {}
    for shard in range(shards):
        name = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {key: tensors[key] for key in list(tensors)[shard::shards]}
        files[name] = file_of(part)
        weight_map.update(dict.fromkeys(part, name))
    files[INDEX] = json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}).encode()
    return files


PAIRS = [(model(0, left), model(1, right)) for left, right in ((1, 1), (1, 1), (3, 2), (1, 3), (2, 1))]


# ---- mutations ----

# What comes of editing a header that an earlier mutation has broken.
NOTHING_TO_EDIT = (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError)


def junk(rng: random.Random, depth: int = 2) -> object:
    simple = [
        *(None, True, False, 0, 1, -1, 2, 3, 8, 2**31, 2**32, 2**53 + 1, 2**62, 2**63 - 1, 2**63, 2**64, 10**40),
        *(0.0, 1.0, 2.5, -0.5, 1e300, "", "F32", "BF16", "../x", "ü\n\x1b[2J", "w" * 5000, [], {}),
    ]
    if depth and rng.random() < 0.3:
        return [junk(rng, depth - 1) for _ in range(rng.randrange(4))]
    if depth and rng.random() < 0.2:
        return {str(junk(rng, 0)): junk(rng, depth - 1) for _ in range(rng.randrange(3))}
    return rng.choice(simple)


def bend_bytes(rng: random.Random, raw: bytes, reach: int) -> bytes:
    """Flip, insert, remove or repeat some of the first `reach` bytes, or cut or lengthen the file."""
    at = rng.randrange(max(1, reach))
    length = rng.choice((1, 1, 2, 5, 40))
    what = rng.randrange(8)
    if what <= 2:
        return raw[:at] + bytes([rng.choice((rng.randrange(256), *b'0123456789-.,:"[]{} '))]) + raw[at + 1 :]
    if what == 3:
        return raw[:at] + rng.randbytes(length) + raw[at:]
    if what == 4:
        return raw[:at] + raw[at + length :]
    if what == 5:
        return raw[: at + length] + raw[at:]
    if what == 6:
        return raw[: rng.randrange(len(raw) + 1)]
    return raw + rng.choice((b"\0", b" ", b"}", bytes(length)))


def bend_length(rng: random.Random, raw: bytes) -> bytes:
    """Lie about the header's length, or pad the header, which is allowed."""
    length = int.from_bytes(raw[:8], "little")
    if rng.random() < 0.3:
        spaces = rng.choice((1, 7, 1000))
        return (
            ((length + spaces) % 2**64).to_bytes(8, "little") + raw[8 : 8 + length] + b" " * spaces + raw[8 + length :]
        )
    lie = rng.choice((0, 1, length - 1, length + 1, length + 8, len(raw), 10**8, 10**8 + 1, 2**63, 2**64 - 1))
    return (lie % 2**64).to_bytes(8, "little") + raw[8:]


def bend_entry(rng: random.Random, header: Header) -> None:
    """Edit one tensor's entry."""
    at = rng.randrange(len(header))
    name, entry = header[at]
    if not isinstance(entry, dict) or "data_offsets" not in entry:
        header[at] = (name, rng.choice((junk(rng), {"a": "b"}, {"a": 1}, None)))
        return
    entry = json.loads(json.dumps(entry))
    what = rng.randrange(12)
    if what <= 2:
        entry["dtype"] = rng.choice((*BITS, "F8", "f32", "BF16 ", junk(rng)))
    elif what == 3 and isinstance(entry["shape"], list):
        rng.shuffle(entry["shape"])
        entry["shape"] += [1] * rng.randrange(3)
    elif what == 4 and isinstance(entry["shape"], list) and entry["shape"]:
        entry["shape"][rng.randrange(len(entry["shape"]))] = junk(rng, 0)
    elif what == 5:
        entry["shape"] = junk(rng)
    elif what <= 7 and isinstance(entry["data_offsets"], list) and entry["data_offsets"]:
        which = rng.randrange(len(entry["data_offsets"]))
        offset = entry["data_offsets"][which]
        near = offset + rng.choice((-8, -1, 1, 8)) if type(offset) is int else 0
        entry["data_offsets"][which] = rng.choice((near, near, near, junk(rng, 0)))
    elif what == 8:
        entry["data_offsets"] = rng.choice((junk(rng), [*reversed(entry["data_offsets"] or [])]))
    elif what == 9:
        entry.pop(rng.choice(list(entry)))
    elif what == 10:
        entry[rng.choice(("more", "offsets", "Dtype"))] = junk(rng)
    else:
        header[at] = (name, junk(rng))
        return
    header[at] = (name, entry)


def bend_names(rng: random.Random, header: Header) -> None:
    """Edit names, order, and which entries there are."""
    at, other = rng.randrange(len(header)), rng.randrange(len(header))
    name, entry = header[at]
    what = rng.randrange(7)
    if what == 0:
        new = rng.choice(("", "__metadata__", "new", "ü", "\ud800", "a\nb", "../c", "\0", "x" * 3000, header[other][0]))
        header[at] = (new, entry)
    elif what == 1:
        header[at], header[other] = (header[other][0], entry), (name, header[other][1])
    elif what == 2:
        header.append(header[at])
    elif what == 3:
        del header[at]
    elif what == 4:
        rng.shuffle(header)
    elif what == 5:
        header.append(("nested", json.loads("[" * 60 + "]" * 60)))
    else:
        header.insert(0, ("__metadata__", rng.choice(({}, {"a": "b"}, {"a": None}, {"a": 1}, {"a": {}}, junk(rng)))))


def move_data(rng: random.Random, header: Header, data: bytes) -> tuple[Header, bytes]:
    """Lay the tensors out in another order, correctly; or put special numbers into them."""
    tensors = [(name, entry) for name, entry in header if isinstance(entry, dict) and "data_offsets" in entry]
    if rng.random() < 0.5:
        changed = bytearray(data)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(data) or 1)
            changed[at : at + 2] = rng.choice((b"\x80\x7f", b"\xc0\x7f", b"\0\x7c", b"\0\x80", b"\xff\x7f", b"\1\0"))
        return header, bytes(changed[: len(data)])
    rng.shuffle(tensors)
    laid, moved = b"", []
    for name, entry in tensors:
        begin, end = entry["data_offsets"]
        moved.append((name, {**entry, "data_offsets": [len(laid), len(laid) + end - begin]}))
        laid += data[begin:end]
    return moved, laid


def bend_weights(rng: random.Random, raw: bytes) -> bytes:
    what = rng.randrange(14)
    if what == 0:
        return bend_length(rng, raw)
    if what == 1:
        deep = rng.choice((200, 100_000))
        return render([("w", 0)], b"").replace(b"0}", b"[" * deep + b"]" * deep + b"}")
    if what == 2:
        return rng.choice((b"", b"\0" * 8, b"version https://git-lfs", rng.randbytes(40), raw[8:]))
    if what <= 4:
        return bend_bytes(rng, raw, 8 + int.from_bytes(raw[:8], "little"))
    try:
        header, data = parsed(raw)
        if what in (5, 12, 13):
            return render(*move_data(rng, header, data))
        for _ in range(rng.choice((1, 1, 2))):
            (bend_entry if what <= 9 else bend_names)(rng, header)
        return render(header, data)
    except NOTHING_TO_EDIT:
        return bend_bytes(rng, raw, len(raw))


def bend_index(rng: random.Random, files: Files) -> None:
    raw = files[INDEX]
    what = rng.randrange(14)
    if not isinstance(raw, bytes) or what == 0:
        files[INDEX] = bend_bytes(rng, raw if isinstance(raw, bytes) else b"{}", 500)
        return
    try:
        index = json.loads(raw)
        places = index["weight_map"]
        name = rng.choice(sorted(places))
        if what <= 4:
            here = [file for file in sorted(files) if file.endswith(".safetensors")]
            elsewhere = (
                "../theta0/model.safetensors",
                "/etc/passwd",
                "./" + here[0],
                "gone.safetensors",
                "",
                ".",
                "..",
            )
            odd = ("config.json", "a\0.safetensors", "ü.safetensors", "x" * 300 + ".safetensors", "..\\a.safetensors")
            places[name] = rng.choice((*here, *elsewhere, *odd, junk(rng)))
        elif what == 5:
            del places[name]
        elif what == 6:
            places[rng.choice(("new", "", "\ud800", "a\nb"))] = places[name]
        elif what == 7:
            index["weight_map"] = rng.choice((junk(rng), {}, list(places.items()), {**places, name: None}))
        elif what == 8:
            index["metadata"] = rng.choice((junk(rng), {"total_size": junk(rng)}))
        elif what == 9:
            index[rng.choice(("more", "weight_map "))] = junk(rng)
        elif what == 10:
            index.pop(rng.choice(sorted(index)))
        elif what == 11:
            items = list(places.items())
            rng.shuffle(items)
            index["weight_map"] = dict(items)
        elif what == 12:
            files[INDEX] = raw.replace(b'{"', b'{"metadata": {}, "', 1)  # a key twice
            return
        else:
            files[INDEX] = b'{"weight_map": ' + b'{"a":' * 50_000
            return
        files[INDEX] = json.dumps(index).encode()
    except NOTHING_TO_EDIT:
        files[INDEX] = bend_bytes(rng, raw, len(raw))


def bend_folder(rng: random.Random, files: Files) -> None:
    """Take a weights file away, rename or exchange it, or put something in its place that is no file."""
    weights = sorted(name for name in files if name.endswith(".safetensors"))
    name, other = rng.choice(weights), rng.choice(weights)
    what = rng.randrange(9)
    if what == 0:
        del files[name]
    elif what == 1:
        files[rng.choice(("model.safetensors", "renamed.safetensors", "a.bin"))] = files.pop(name)
    elif what == 2:
        files[name], files[other] = files[other], files[name]
    elif what == 3:
        files["stray.safetensors"] = files[name]
    elif what == 4:
        files[name] = os.mkfifo
    elif what == 5:
        files[name] = Path.mkdir
    elif what == 6:
        files[name] = lambda path: path.symlink_to(path)
    elif what == 7:
        files[name] = lambda path: path.symlink_to("gone")
    else:
        files["blob"] = files[name]
        files[name] = lambda path: path.symlink_to("blob")


def bend_config(rng: random.Random, files: Files) -> None:
    keys = ("quantization_config", "text_config", "tie_word_embeddings", "dtype", "torch_dtype", "model_type", "\ud800")
    config = {rng.choice(keys): rng.choice((junk(rng), {rng.choice(keys): junk(rng)})) for _ in range(2)}
    raw = json.dumps(rng.choice((config, config, {"a": float("inf")}, junk(rng)))).encode()
    files["config.json"] = bend_bytes(rng, raw, len(raw)) if rng.random() < 0.2 else raw


def mutated(rng: random.Random, files: Files) -> Files:
    files = dict(files)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        weights = sorted(name for name in files if name.endswith(".safetensors") and isinstance(files[name], bytes))
        kind = rng.random()
        if kind < 0.04:
            bend_config(rng, files)
        elif INDEX in files and kind < 0.3:
            bend_index(rng, files)
        elif weights and kind < 0.9:
            name = rng.choice(weights)
            raw = files[name]
            assert isinstance(raw, bytes)
            files[name] = bend_weights(rng, raw)
        elif any(name.endswith(".safetensors") for name in files):
            bend_folder(rng, files)
    return files


def cases(rng: random.Random) -> tuple[Files, Files, float]:
    theta0, theta1 = rng.choice(PAIRS)
    side = rng.randrange(4)
    if side == 0:
        theta0 = mutated(rng, theta0)
    elif side == 1:
        theta1 = mutated(rng, theta1)
    else:
        # The same on both sides: so the two stay a pair where the mutation is a lawful one.
        same = rng.getrandbits(64)
        theta0, theta1 = mutated(random.Random(same), theta0), mutated(random.Random(same), theta1)
    return theta0, theta1, rng.choice(ALPHAS)


# ---- the judgement ----


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def put(folder: Path, files: Files) -> None:
    folder.mkdir(exist_ok=True)
    for left in folder.iterdir():
        if left.is_dir() and not left.is_symlink():
            left.rmdir()
        else:
            left.unlink()
    for name, content in files.items():
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            content(folder / name)


def expected(theta0: Path, theta1: Path, alpha: float) -> tuple[dict[str, Entry] | None, bool]:
    """The only model that may be written (None: none at all), and whether it has to be."""
    try:
        before, after = read_model(theta0), read_model(theta1)
    except InvalidError:
        return None, False
    found, direction = {}, False
    for name, ours in after.items():
        theirs = before.get(name)
        if theirs is None:
            found[name] = ours
            continue
        if theirs.shape != ours.shape or (theirs.dtype in FLOATS) != (ours.dtype in FLOATS):
            return None, False
        if ours.dtype not in FLOATS:
            # Of a type in which nobody calculates: alike, wherever it would otherwise have moved.
            if theirs.dtype != ours.dtype or (alpha and theirs != ours):
                return None, False
            found[name] = ours
            continue
        data = extrapolated(theirs.data, theirs.dtype, ours.data, ours.dtype, alpha)
        if data is None:
            return None, False
        found[name] = Entry(ours.dtype, ours.shape, data)
        direction |= bool((widened(theirs.data, theirs.dtype) != widened(ours.data, ours.dtype)).any())
    pair = before.keys() == after.keys() and all(
        before[name].shape == ours.shape and (ours.dtype not in CODES or before[name].dtype == ours.dtype)
        for name, ours in after.items()
    )
    # What a config may say is not judged here.
    plain = all((side / "config.json").read_bytes() == CONFIG for side in (theta0, theta1))
    return found, pair and direction and plain


def judge(folder: Path, theta0: Files, theta1: Files, alpha: float) -> str:
    """Run one case in `folder` and hold it to what is right; "written" or "refused"."""
    sides = folder / "theta0", folder / "theta1"
    for side, files in zip(sides, (theta0, theta1), strict=True):
        put(side, files)
    right, needed = expected(*sides, alpha)
    try:
        apply(*sides, alpha, folder / "out")
    except ExpoError as error:
        assert str(error).isprintable(), "one line, of what can be shown"
        assert len(str(error)) < 4000
        assert names(folder) == ["theta0", "theta1"], "nothing is left"
        assert not needed, f"needlessly refused: {error}"
        return "refused"
    finally:
        for side, files in zip(sides, (theta0, theta1), strict=True):
            assert names(side) == sorted(files)
            for name, content in files.items():
                if isinstance(content, bytes):
                    assert (side / name).read_bytes() == content, "inputs stay as they are"
    assert right is not None, "written, where it had to be refused"
    assert read_model(folder / "out") == right
    assert names(folder) == ["out", "theta0", "theta1"]
    shutil.rmtree(folder / "out")
    return "written"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Durability is not looked at here, and thousands of calls of fsync take their time."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    yield


def many(folder: Path, seeds: range) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    for seed in seeds:
        try:
            outcomes[judge(folder, *cases(random.Random(seed)))] += 1
        except BaseException as error:
            error.add_note(f"the case of seed {seed}")
            raise
    return outcomes


def test_the_pairs_themselves_are_written(tmp_path: Path) -> None:
    for theta0, theta1 in PAIRS:
        for alpha in ALPHAS:
            assert judge(tmp_path, theta0, theta1, alpha) == "written"


@pytest.mark.timeout(120)
def test_thousands_of_mutations(tmp_path: Path, quick: None) -> None:
    outcomes = many(tmp_path, range(3000))
    assert outcomes["written"] > 300, "mutations that break everything show little"
    assert outcomes["refused"] > 1500


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_very_many_mutations(tmp_path: Path, quick: None) -> None:
    outcomes = many(tmp_path, range(3000, 63_000))
    assert outcomes["written"] > 6000
    assert outcomes["refused"] > 30_000


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False))
def test_mutations_that_hypothesis_chooses(tmp_path: Path, quick: None, rng: random.Random) -> None:
    judge(tmp_path, *cases(rng))


NAMES = st.sampled_from(("a", "b", "__metadata__")) | st.text(max_size=3)
SIZES = st.integers(0, 4) | st.integers() | st.floats() | st.booleans()
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from((*BITS, "F", None)),
        "shape": st.lists(SIZES, max_size=3),
        "data_offsets": st.lists(SIZES, min_size=1, max_size=3),
    }
)
ANYTHING = st.recursive(
    st.none() | SIZES | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(NAMES, ENTRIES | ANYTHING, max_size=3) | ANYTHING, st.binary(max_size=16))
def test_headers_out_of_thin_air(tmp_path: Path, quick: None, header: object, data: bytes) -> None:
    text = json.dumps(header).encode()
    files: Files = {"config.json": CONFIG, "model.safetensors": len(text).to_bytes(8, "little") + text + data}
    judge(tmp_path, files, files, 0.5)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(ANYTHING | st.fixed_dictionaries({"weight_map": st.dictionaries(NAMES, ANYTHING)}))
def test_indexes_out_of_thin_air(tmp_path: Path, quick: None, index: object) -> None:
    theta0, theta1 = PAIRS[2]
    judge(tmp_path, theta0, {**theta1, INDEX: json.dumps(index).encode()}, 0.5)


def test_what_the_strict_reader_accepts_the_library_reads_alike(tmp_path: Path) -> None:
    """The judge is judged: by the reference implementation, on the same mutations."""
    from safetensors import SafetensorError, deserialize

    both = Counter[tuple[bool, bool]]()
    for seed in range(3000):
        for files in cases(random.Random(seed))[:2]:
            for raw in files.values():
                if not isinstance(raw, bytes) or b"-0" in raw:  # -0 is an integer to JSON, and none to the library
                    continue
                try:
                    ours = read_file(raw)
                except InvalidError:
                    ours = None
                try:
                    theirs = {
                        name: Entry(entry["dtype"], tuple(entry["shape"]), bytes(entry["data"]))
                        for name, entry in deserialize(raw)
                    }
                except SafetensorError:
                    theirs = None
                both[ours is not None, theirs is not None] += 1
                assert ours is None or ours == theirs, f"seed {seed}"
    assert both[True, False] == 0
    assert both[True, True] > 1000
    assert both[False, False] > 1000
    assert both[False, True] < 0.02 * both[False, False], (
        "where the strict one stands alone: keys twice, sizes beyond 2**63"
    )
