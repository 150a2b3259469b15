"""What a model folder is taken for, and every way in which it is refused."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from llm_expo.checkpoints import Checkpoint, Tensor
from llm_expo.checkpoints.header import Shard
from llm_expo.errors import CheckpointError


def test_literal_bytes(tmp_path: Path) -> None:
    header = b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"\x36\0\0\0\0\0\0\0" + header + b"\0\0\x80\x3f\0\0\0\x40")
    checkpoint = Checkpoint.open(tmp_path)
    assert checkpoint.tensors == {"w": Tensor("w", "F32", (2,), path, 62, 70)}
    assert checkpoint.files[0].header == b"\x36\0\0\0\0\0\0\0" + header
    assert checkpoint.files[0].size == checkpoint.nbytes == 70
    assert checkpoint.index is None
    assert (checkpoint.tensors["w"].elements, checkpoint.tensors["w"].nbytes) == (2, 8)


def test_every_dtype_that_the_library_writes(tmp_path: Path) -> None:
    dtypes = {
        "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32,
        "I64": torch.int64, "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
        "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "U16": torch.uint16, "U32": torch.uint32,
        "U64": torch.uint64, "C64": torch.complex64, "F8_E8M0": torch.float8_e8m0fnu,
    }  # fmt: skip
    save_file({name: torch.zeros(2, 3, dtype=dtype) for name, dtype in dtypes.items()}, tmp_path / "model.safetensors")
    checkpoint = Checkpoint.open(tmp_path)
    assert {name: tensor.dtype for name, tensor in checkpoint.tensors.items()} == {name: name for name in dtypes}
    assert all(tensor.elements == 6 for tensor in checkpoint.tensors.values())
    assert {name for name, tensor in checkpoint.tensors.items() if tensor.is_float} == {"F16", "BF16", "F32", "F64"}


def test_scalars_empty_tensors_and_names(tmp_path: Path) -> None:
    tensors = {"scalar": torch.tensor(3.0), "empty": torch.zeros(0, 4), "with space ü": torch.zeros(1)}
    folder = tmp_path / "a model ü"
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    found = Checkpoint.open(folder).tensors
    assert {name: tensor.shape for name, tensor in found.items()} == {
        "scalar": (),
        "empty": (0, 4),
        "with space ü": (1,),
    }
    assert found["scalar"].elements == 1
    assert found["empty"].elements == 0


def test_position() -> None:
    tensor = Tensor("w", "F32", (2, 3, 4), Path("f"), 0, 96)
    assert tensor.position(23) == [1, 2, 3]
    assert Tensor("s", "F32", (), Path("f"), 0, 4).position(0) == []


def test_shards(save, tmp_path: Path) -> None:
    folder = save(tmp_path / "m", {name: torch.full((2,), 1.0) for name in "abcde"}, shards=2)
    checkpoint = Checkpoint.open(folder)
    assert [shard.path.name[:11] for shard in checkpoint.files] == ["model-00001", "model-00002"]
    assert list(checkpoint.tensors) == ["a", "c", "e", "b", "d"]
    assert checkpoint.index == (folder / "model.safetensors.index.json").read_bytes()


def test_a_single_file_wins_over_an_index_as_in_transformers(save, tmp_path: Path) -> None:
    folder = save(tmp_path / "m", {"a": torch.zeros(1), "b": torch.zeros(1)}, shards=2)
    save_file({"c": torch.zeros(1)}, folder / "model.safetensors")
    assert list(Checkpoint.open(folder).tensors) == ["c"]


def test_links_of_the_hub_cache_are_followed(save, tmp_path: Path) -> None:
    blobs = save(tmp_path / "blobs", {"a": torch.zeros(1), "b": torch.zeros(1)}, shards=2)
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(Path("..") / "blobs" / path.name)
    assert set(Checkpoint.open(snapshot).tensors) == {"a", "b"}


def test_a_header_of_100_000_tensors(literal) -> None:
    header = {f"t{i}": {"dtype": "U8", "shape": [1], "data_offsets": [i, i + 1]} for i in range(100_000)}
    assert len(Checkpoint.open(literal(header, bytes(100_000))).tensors) == 100_000


def entry(
    begin: int = 0, end: int = 8, shape: object = (2,), dtype: object = "F32", **more: object
) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end], **more}


@pytest.mark.parametrize(
    ("header", "data", "words"),
    [
        ({"w": entry()}, bytes(7), "truncated, w ends at byte"),
        ({"w": entry()}, bytes(9), "1 bytes after w belong to no tensor"),
        ({}, b"", "its safetensors hold no tensor"),
        ({"w": entry(8, 16)}, bytes(16), "a hole of 8 bytes before w"),
        ({"v": entry(), "w": entry(12, 20)}, bytes(20), "a hole of 4 bytes before w"),
        ({"v": entry(), "w": entry(4, 12)}, bytes(12), "w overlaps v"),
        ({"v": entry(), "w": entry()}, bytes(8), "w overlaps v"),
        ({"w": entry(8, 0)}, bytes(8), "w: its data_offsets are not [begin, end]"),
        ({"w": entry(-8, 0)}, bytes(8), "w: its data_offsets are not [begin, end]"),
        ({"w": {"dtype": "F32", "shape": [2]}}, bytes(8), "w: its data_offsets are not [begin, end]"),
        ({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4, 8]}}, bytes(8), "w: its data_offsets are not"),
        ({"w": entry(shape=[3])}, bytes(8), "w: F32 of shape [3] needs 12 bytes, has 8"),
        ({"w": entry(0, 1, [1], "F4")}, bytes(1), "w: F4 of shape [1] needs 0.5 bytes, has 1"),
        ({"w": entry(shape=[2**40, 2**40])}, bytes(8), "is too large"),
        ({"w": entry(shape=[2**62, 0])}, bytes(8), "is too large"),
        ({"w": entry(shape=[0, 2**62, 2**62])}, bytes(8), "is too large"),
        ({"w": entry(shape=[-2])}, bytes(8), "w: its shape is not a list of sizes"),
        ({"w": entry(shape=[2.0])}, bytes(8), "w: its shape is not a list of sizes"),
        ({"w": entry(shape=[True, 2])}, bytes(8), "w: its shape is not a list of sizes"),
        ({"w": entry(shape=2)}, bytes(8), "w: its shape is not a list of sizes"),
        ({"w": entry(dtype="F128")}, bytes(8), "w: unknown dtype F128"),
        ({"w": entry(dtype=["F32"])}, bytes(8), "w: unknown dtype ['F32']"),
        ({"w": 3}, bytes(8), "w: its header entry is not an object"),
        ({"w": entry(), "__metadata__": {"a": 1}}, bytes(8), "__metadata__ is not a table of strings"),
        ({"w": entry(), "__metadata__": []}, bytes(8), "__metadata__ is not a table of strings"),
        (b'{"w":{},"w":{}}', b"", 'the header names "w" twice'),
        (b'{"w":{"dtype":"F32","dtype":"F32"}}', b"", 'the header names "dtype" twice'),
        (b"[1]", b"", "does not begin with a brace"),
        (b' {"w":{}}', b"", "does not begin with a brace"),
        (b'{"w":', b"", "the header is not valid JSON: Expecting value"),
        (b'{"w":NaN}', b"", "the header is not valid JSON"),
        (b'{"\xff":1}', b"", "the header is not valid JSON"),
        (b'{"\\ud800":1}', b"", "the header is not valid JSON: it holds half of a surrogate pair"),
        (b'{"__metadata__":{"a":"\\ud800"}}', b"", "the header is not valid JSON: it holds half of a surrogate pair"),
        (b'{"w":' + b"9" * 5000 + b"}", b"", "the header is not valid JSON"),
        (b'{"w":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b"", "nested too deeply"),
        (b'{"w":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001, b"", "nested too deeply"),
    ],
)
def test_bad_headers(literal, header: object, data: bytes, words: str) -> None:
    folder = literal(header, data)
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(folder)
    message = str(caught.value)
    assert words in message
    assert str(folder) in message
    assert message.isprintable()
    assert len(message) < 600


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "truncated, 0 bytes cannot hold a safetensors header"),
        (b"\x10\0\0", "truncated, 3 bytes"),
        (b"\x10\0\0\0\0\0\0\0{}", "truncated, the header alone has 24 bytes, the file 10"),
        (b"\xff" * 8 + b"{}", "its header would have 18446744073709551615 bytes (at most 100000000)"),
        ((100_000_001).to_bytes(8, "little") + b"{}", "its header would have 100000001 bytes"),
        (b"\0" * 8, "does not begin with a brace"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
    ],
)
def test_bad_files(tmp_path: Path, raw: bytes, words: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(raw)
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(tmp_path)
    assert words in str(caught.value)


def test_names_from_files_cannot_forge_a_message(literal) -> None:
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(literal({"w\nall is well\x1b[2J" + "x" * 10_000: 1}))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"gone: no such folder$"):
        Checkpoint.open(tmp_path / "gone")


def test_a_file_in_place_of_a_folder(save, tmp_path: Path) -> None:
    folder = save(tmp_path / "m", {"a": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="is not a folder; give the folder that holds it"):
        Checkpoint.open(folder / "model.safetensors")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "the folder is empty"),
        (["pytorch_model.bin", "training_args.bin"], "only pytorch_model.bin; pickles are not read"),
        (["model.gguf", "README.md"], "only model.gguf; GGUF is not read"),
        (["consolidated.safetensors"], "only consolidated.safetensors; load it and save it with save_pretrained"),
        (["adapter_model.safetensors", "adapter_config.json"], "holds an adapter (adapter_config.json)"),
        (["adapter_config.json", "model.safetensors"], "merge the two with: llm-expo apply BASE ADAPTER"),
        (["a", "b", "c", "d", "e"], "only a, b, c and 2 more"),
    ],
)
def test_other_folders(tmp_path: Path, names: list[str], words: str) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(tmp_path)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "is quantised (gptq, see config.json)"),
        ({"quantization_config": {"load_in_8bit": True}}, "is quantised (quantization_config"),
        ({"text_config": {"quantization_config": {"quant_method": "fp8"}}}, "is quantised (fp8"),
        ({"compression_config": {"quant_method": "compressed-tensors"}}, "is quantised (compressed-tensors"),
    ],
)
def test_quantised(save, tmp_path: Path, config: object, words: str) -> None:
    folder = save(tmp_path / "m", {"a": torch.zeros(1)}, config=config)
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(folder)
    assert words in str(caught.value)


def test_a_config_that_only_mentions_quantisation_is_read(save, tmp_path: Path) -> None:
    assert Checkpoint.open(save(tmp_path / "m", {"a": torch.zeros(1)}, config={"quantization_config": None})).tensors


def test_a_config_as_python_writes_it(save, tmp_path: Path) -> None:
    """Mamba 2's config.json holds Infinity, which strict JSON does not know."""
    folder = save(tmp_path / "m", {"a": torch.zeros(1)}, config={"time_step_limit": [0.0, float("inf")]})
    assert "Infinity" in (folder / "config.json").read_text()
    assert Checkpoint.open(folder).tensors


def test_a_broken_config(save, tmp_path: Path) -> None:
    folder = save(tmp_path / "m", {"a": torch.zeros(1)})
    (folder / "config.json").write_text('{"a": ')
    with pytest.raises(CheckpointError, match=r"config.json: the file is not valid JSON"):
        Checkpoint.open(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"a": "../elsewhere.safetensors"}, 'a lies in "../elsewhere.safetensors", which is not the name of a'),
        ({"a": "/etc/passwd"}, "which is not the name of a safetensors file here"),
        ({"a": "sub/model.safetensors"}, "which is not the name of a safetensors file here"),
        ({"a": "x\0.safetensors"}, "which is not the name of a safetensors file here"),
        ({"a": "pytorch_model.bin"}, "which is not the name of a safetensors file here"),
        ({"a": 3}, "a: the file is not a name"),
        ({"a": "gone.safetensors"}, "a lies in gone.safetensors, which is missing"),
        ({"a": "model-00002-of-00002.safetensors"}, "but model-00001-of-00002.safetensors holds it"),
        (
            {"z": "model-00002-of-00002.safetensors"},
            "z lies in model-00002-of-00002.safetensors, which does not hold it",
        ),
        ({"a": None}, "does not name a, which model-00001-of-00002.safetensors holds"),
    ],
)
def test_bad_indexes(save, tmp_path: Path, change: dict[str, object], words: str) -> None:
    folder = save(tmp_path / "m", {name: torch.zeros(1) for name in "abcd"}, shards=2)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    for name, file in change.items():
        if file is None:
            del index["weight_map"][name]
        else:
            index["weight_map"][name] = file
    path.write_text(json.dumps(index))
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(folder)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b'{"weight_map": []}', b'{"weight_map": {}}', b"[" * 100_000])
def test_indexes_that_are_none(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "model.safetensors.index.json").write_bytes(raw)
    with pytest.raises(CheckpointError):
        Checkpoint.open(tmp_path)


def test_a_tensor_in_two_shards(save, tmp_path: Path) -> None:
    folder = save(tmp_path / "m", {name: torch.zeros(1) for name in "ab"}, shards=2)
    save_file({"a": torch.zeros(1), "b": torch.zeros(1)}, folder / "model-00002-of-00002.safetensors")
    with pytest.raises(CheckpointError, match=r"a lies in model-00001-of-00002.safetensors, but model-00002-of-00002"):
        Checkpoint.open(folder)


def test_pipes_loops_and_broken_links_do_not_hang(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match="is not a regular file"):
        Checkpoint.open(tmp_path)
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(CheckpointError, match="too many levels of symbolic links"):
        Checkpoint.open(tmp_path)
    path.unlink()
    path.symlink_to("gone")
    with pytest.raises(CheckpointError, match=r"no such file or directory \(a broken link\)"):
        Checkpoint.open(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(CheckpointError, match="is not a regular file"):
        Shard.open(path)
