"""pytorch_model.bin: what is read lies where torch itself has it, everything else is refused, and nothing runs."""

import json
import os
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from llm_expo.checkpoints import Checkpoint, Tensor
from llm_expo.errors import CheckpointError

DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32,
    "I64": torch.int64, "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz, "F8_E8M0": torch.float8_e8m0fnu, "U16": torch.uint16, "U32": torch.uint32,
    "U64": torch.uint64, "C64": torch.complex64,
}  # fmt: skip


@pytest.fixture
def pickled(tmp_path: Path) -> Callable[..., Path]:
    """pickled(content) -> a model folder with that in pytorch_model.bin."""

    def write(content: object, name: str = "pytorch_model.bin", **how: object) -> Path:
        (tmp_path / "model").mkdir(exist_ok=True)
        torch.save(content, tmp_path / "model" / name, **how)
        return tmp_path / "model"

    return write


def content(tensor: Tensor) -> bytes:
    return tensor.file.read_bytes()[tensor.start : tensor.stop]


def as_torch_has_it(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()) if tensor.numel() else b""


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(folder, allow_bin=True)
    message = str(caught.value)
    assert message.startswith(str(folder))
    assert message.isprintable()
    assert len(message) < 600
    return message


def assert_agrees(folder: Path, *files: str) -> Checkpoint:
    """Every byte of every tensor is that of torch.load, memory-mapped."""
    checkpoint = Checkpoint.open(folder, allow_bin=True)
    loaded = {}
    for file in files:
        loaded |= torch.load(folder / file, mmap=True, weights_only=True)
    assert set(checkpoint.tensors) == set(loaded)
    for name, tensor in checkpoint.tensors.items():
        assert (DTYPES[tensor.dtype], tensor.shape) == (loaded[name].dtype, loaded[name].shape)
        assert content(tensor) == as_torch_has_it(loaded[name]), name
    return checkpoint


def test_every_dtype_and_shape(pickled) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randint(0, 2, (5, 3), generator=generator).to(dtype)
        for name, dtype in DTYPES.items()
        if name != "F8_E8M0"
    }
    whole = torch.arange(100.0)
    tensors |= {
        "F8_E8M0": torch.ones(3).to(torch.float8_e8m0fnu),
        "scalar": torch.tensor(3.0),
        "empty": torch.zeros(0, 4),
        "rows of another": whole[10:20],
        "tied": whole,
        "tied too": whole,
        "name ü": torch.nn.Parameter(torch.ones(2)),
    }
    folder = pickled(OrderedDict(tensors))
    found = assert_agrees(folder, "pytorch_model.bin")
    assert found.files[0].header == b""
    assert found.files[0].size == found.nbytes == (folder / "pytorch_model.bin").stat().st_size
    assert found.index is None
    tied = found.tensors["tied"]
    assert (tied.start, tied.stop) == (found.tensors["tied too"].start, found.tensors["tied too"].stop)
    assert found.tensors["rows of another"].start == tied.start + 40
    starts = [tensor.start for tensor in found.tensors.values()]
    assert starts == sorted(starts)


def test_random_state_dicts(pickled) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        count = int(torch.randint(1, 30, (), generator=generator))
        sizes = torch.randint(0, 200, (count,), generator=generator).tolist()
        tensors = {f"t{i}": torch.randn(size, generator=generator).bfloat16() for i, size in enumerate(sizes)}
        assert_agrees(pickled(tensors), "pytorch_model.bin")


def test_what_transformers_saved_in_shards(pickled) -> None:
    tensors = {name: torch.full((6,), float(place)) for place, name in enumerate("abcd")}
    files = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")
    pickled({name: tensors[name] for name in "ac"}, files[0])
    folder = pickled({name: tensors[name] for name in "bd"}, files[1])
    index = {"metadata": {}, "weight_map": {name: files["abcd".index(name) % 2] for name in tensors}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    found = assert_agrees(folder, *files)
    assert [shard.path.name for shard in found.files] == list(files)
    assert list(found.tensors) == ["a", "c", "b", "d"]
    assert found.index is None

    index["weight_map"]["a"] = "../pytorch_model.bin"
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert 'a lies in "../pytorch_model.bin", which is not the name of a pickle file here' in refusal(folder)
    index["weight_map"]["a"] = files[1]
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert f"a lies in {files[1]}, but {files[0]} holds it" in refusal(folder)


def test_refused_unless_allowed(pickled) -> None:
    folder = pickled({"a": torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"convert to safetensors.* or give --allow-bin, which executes nothing"):
        Checkpoint.open(folder)


def test_safetensors_win(pickled, save, tmp_path: Path) -> None:
    folder = save(tmp_path / "model", {"safe": torch.ones(1)})
    pickled({"pickled": torch.ones(1)})
    assert list(Checkpoint.open(folder, allow_bin=True).tensors) == ["safe"]


def test_nothing_is_executed(pickled, tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'run'}",)

    for content in ({"a": Malicious()}, {"a": torch.ones(1), "b": {"c": [Malicious()]}}, Malicious()):
        message = refusal(pickled(content))
        assert "refused, its pickle asks for posix.system" in message
        assert "nothing was executed" in message
        assert "weights_only=False" not in message
        assert not (tmp_path / "run").exists()
    # the same bytes do run where they are trusted
    torch.load(tmp_path / "model" / "pytorch_model.bin", weights_only=False)
    assert (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"t": torch.ones(3, 4).t()}, "t: is a view, not stored as it reads (strides [1, 4]); save it .contiguous()"),
        ({"t": torch.ones(3).expand(2, 3)}, "t: is a view, not stored as it reads (strides [0, 1])"),
        ({"t": torch.ones(2, dtype=torch.complex64).conj()}, "t: is a view, not stored as it reads"),
        ({"t": torch._neg_view(torch.ones(3))}, "t: is a view, not stored as it reads"),
        ({"t": torch.eye(3).to_sparse()}, "t: is sparse (torch.sparse_coo); make it dense and save it again"),
        ({"t": torch.ones(2, dtype=torch.complex128)}, "t: torch.complex128 has no like in safetensors"),
        ({"t": torch.ones(2, device="meta")}, "t: has no place in the file (a meta tensor, or torch 2."),
        ({"state_dict": {"t": torch.ones(2)}}, "state_dict: is a table of its own, as in a training checkpoint"),
        ({"t": torch.ones(2), "epoch": 3}, "epoch: is a int, not a tensor; save the model's state dict alone"),
        ({3: torch.ones(2)}, "3: is not a tensor's name"),
        ({"__metadata__": torch.ones(2)}, "__metadata__: is not a tensor's name"),
        ([torch.ones(2)], "holds a list, not a state dict"),
        (torch.ones(2), "holds a Tensor, not a state dict"),
        ({}, "its pickles hold no tensor"),
        (torch.nn.Linear(2, 2), "refused, its pickle asks for torch.nn.modules.linear.Linear"),
    ],
)
def test_other_content(pickled, content: object, words: str) -> None:
    assert words in refusal(pickled(content))


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor", "ignore:TypedStorage")
def test_quantised_tensors(pickled) -> None:
    folder = pickled({"t": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)})
    assert "holds a tensor that is not read, a quantised one?" in refusal(folder)


def test_the_format_before_torch_1_6(pickled) -> None:
    folder = pickled({"t": torch.ones(3)}, _use_new_zipfile_serialization=False)
    words = "is in the format of torch before 1.6; load it with torch.load(..., weights_only=True) and save it again"
    assert words in refusal(folder)


def test_damaged_files(pickled) -> None:
    folder = pickled({"t": torch.ones(1000)})
    path = folder / "pytorch_model.bin"
    whole = path.read_bytes()
    for length in (4, 100, 1000, len(whole) - 30, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert "truncated or damaged" in refusal(folder)
    for raw in (b"", b"PK", b"GGUF", b"\0" * 100):
        path.write_bytes(raw)
        assert "is not a file that torch.save wrote" in refusal(folder)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert "is a git-lfs pointer, not the weights; fetch them with: git lfs pull" in refusal(folder)
    path.unlink()
    os.mkfifo(path)
    assert "is not a regular file" in refusal(folder)


def repack(path: Path, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> None:
    """Write the archive anew, the way a zip tool would, with each record as `change` makes it."""
    with zipfile.ZipFile(path) as archive:
        records = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, record in records.items():
            archive.writestr(name, change(name, record))


def test_archives_that_torch_did_not_write(pickled) -> None:
    tensors = {"a": torch.ones(100), "b": torch.zeros(100)}
    path = pickled(tensors) / "pytorch_model.bin"
    repack(path, lambda name, record: record)
    assert "does not lie where torch.save puts it" in refusal(path.parent)
    pickled(tensors)
    repack(path, lambda name, record: record, zipfile.ZIP_DEFLATED)
    assert "is compressed; load it with torch.load(..., weights_only=True) and save it again" in refusal(path.parent)
    pickled(tensors)
    repack(path, lambda name, record: b"big" if name.endswith("byteorder") else record)
    assert "is big-endian" in refusal(path.parent)
    pickled(tensors)
    repack(path, lambda name, record: record[:40] if name.endswith("data/0") else record)
    assert "a: does not lie where torch.save puts it" in refusal(path.parent)


def test_random_damage_to_the_pickle_is_refused_or_read_right(pickled) -> None:
    """A byte of the pickle flipped at a time: refused in a line, or read as torch reads it."""
    path = pickled({"a": torch.ones(3, 4), "b": torch.zeros(5).bfloat16()}) / "pytorch_model.bin"
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        begin, size = archive.infolist()[0].header_offset, archive.infolist()[0].file_size
    for at in range(begin + 30, begin + 30 + size, 2):
        for flip in (1, 0x80):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :])
            try:
                found = Checkpoint.open(path.parent, allow_bin=True)
            except CheckpointError as error:
                assert str(error).isprintable()
                continue
            loaded = torch.load(path, map_location="cpu", weights_only=True)
            assert {n: content(t) for n, t in found.tensors.items()} == {
                n: as_torch_has_it(t) for n, t in loaded.items()
            }
