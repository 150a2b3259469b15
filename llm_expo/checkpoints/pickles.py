"""One .bin file, as torch.save writes it: which tensor lies where. Reads no tensor and executes nothing.

torch's restricted unpickler (weights_only) reads the small pickle inside; it builds tensors and plain containers and
refuses to name anything else. The tensors are made on the meta device, so that none of their bytes is read; torch notes
where in the file each of them begins. That note is held to the file's own zip directory, since it is partly calculated.
The bytes are then read like those of any other checkpoint. Knows nothing of folders, indexes or arithmetic.
"""

import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from llm_expo.checkpoints.files import open_regular, shown
from llm_expo.checkpoints.header import Shard, Tensor
from llm_expo.errors import CheckpointError, MissingExtraError

if TYPE_CHECKING:
    import torch

# torch's dtypes by the names that safetensors gives to them.
_CODES = {
    **{"bool": "BOOL", "uint8": "U8", "int8": "I8", "uint16": "U16", "int16": "I16", "uint32": "U32", "int32": "I32"},
    **{"uint64": "U64", "int64": "I64", "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"},
    **{"complex64": "C64", "float8_e5m2": "F8_E5M2", "float8_e4m3fn": "F8_E4M3", "float8_e8m0fnu": "F8_E8M0"},
    **{"float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e5m2fnuz": "F8_E5M2FNUZ"},
}
_SAVE_AGAIN = "load it with torch.load(..., weights_only=True) and save it again, best as safetensors"
_LOCAL_HEADER = 30  # bytes of a zip record's header before its name; the lengths of name and extra field end it


def open_pickle(path: Path) -> Shard:
    """The tensors of a state dict that torch.save wrote; the Shard's `header` is b"", since the file has none.

    Tied tensors share their bytes. Raises CheckpointError, naming file and tensor: a pickle that asks for anything but
    tensors and plain containers, a file of torch < 1.6, a truncated or re-packed file, a table of other things than
    tensors, and tensors that do not lie in one piece in a dtype that safetensors has.
    """
    with os.fdopen(open_regular(path), "rb") as file:
        status = os.fstat(file.fileno())
        records = _records(file, path)
        table = _load(file, path)
    if not isinstance(table, dict):
        raise CheckpointError(f"{shown(path)}: holds a {type(table).__name__}, not a state dict")
    tensors = [_tensor(name, value, records, path) for name, value in table.items()]
    tensors.sort(key=lambda tensor: (tensor.start, tensor.stop))
    return Shard(path, b"", status.st_size, status.st_mtime_ns, tuple(tensors))


def _records(file: BinaryIO, path: Path) -> dict[int, int]:
    """Where the file's storages begin, and their sizes, as its zip directory has them."""
    start = file.read(8)
    if start == b"version ":
        raise CheckpointError(f"{shown(path)}: is a git-lfs pointer, not the weights; fetch them with: git lfs pull")
    if start[:2] == b"\x80\x02":
        raise CheckpointError(f"{shown(path)}: is in the format of torch before 1.6; {_SAVE_AGAIN}")
    if start[:4] != b"PK\x03\x04":
        raise CheckpointError(f"{shown(path)}: is not a file that torch.save wrote")
    found = {}
    try:
        with zipfile.ZipFile(file) as archive:
            for entry in archive.infolist():
                if entry.compress_type != zipfile.ZIP_STORED:
                    raise CheckpointError(f"{shown(path)}: is compressed; {_SAVE_AGAIN}")
                if entry.filename.endswith("/byteorder") and entry.file_size == 3 and archive.read(entry) == b"big":
                    raise CheckpointError(f"{shown(path)}: is big-endian; {_SAVE_AGAIN}")
                file.seek(entry.header_offset + _LOCAL_HEADER - 4)
                lengths = file.read(4)
                name, extra = int.from_bytes(lengths[:2], "little"), int.from_bytes(lengths[2:], "little")
                found[entry.header_offset + _LOCAL_HEADER + name + extra] = entry.file_size
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CheckpointError(f"{shown(path)}: truncated or damaged ({shown(error)}); fetch it again") from error
    return found


def _load(file: BinaryIO, path: Path) -> object:
    """What the pickle holds, its tensors without their bytes."""
    try:
        import torch
    except ImportError:
        raise MissingExtraError("torch", "torch") from None

    try:
        file.seek(0)
        return torch.load(file, map_location="meta", weights_only=True)
    # A stranger chose the unpickler's instructions, so that it can fail in any way; and torch's own advice is to trust.
    except Exception as error:
        refused = _refused(file)
        if refused:
            raise CheckpointError(
                f"{shown(path)}: refused, its pickle asks for {shown(refused)}, where weights need none of it; nothing "
                "was executed. Get the model as safetensors"
            ) from error
        if isinstance(error, NotImplementedError):
            raise CheckpointError(f"{shown(path)}: holds a tensor that is not read, a quantised one?") from error
        raise CheckpointError(f"{shown(path)}: damaged, or no state dict ({type(error).__name__})") from error


def _refused(file: BinaryIO) -> str:
    """What the pickle names that weights_only does not allow; empty where that is not the trouble."""
    import torch

    try:
        file.seek(0)
        return ", ".join(sorted(torch.serialization.get_unsafe_globals_in_checkpoint(file)))
    except Exception:  # noqa: BLE001 (as above)
        return ""


def _tensor(name: object, value: object, records: dict[int, int], path: Path) -> Tensor:
    """One entry of the state dict; `records` are the storages that the file really has."""
    import torch

    def refuse(what: str) -> CheckpointError:
        return CheckpointError(f"{shown(path)}: {shown(name)}: {what}")

    if not isinstance(name, str) or not _is_name(name):
        raise refuse("is not a tensor's name")
    if isinstance(value, dict):
        raise refuse(
            "is a table of its own, as in a training checkpoint; "
            "save the model's state dict alone (save_pretrained), best as safetensors"
        )
    if not isinstance(value, torch.Tensor):
        raise refuse(f"is a {type(value).__name__}, not a tensor; save the model's state dict alone (save_pretrained)")
    dtype = _CODES.get(str(value.dtype).removeprefix("torch."))
    if value.layout != torch.strided:
        raise refuse(f"is sparse ({value.layout}); make it dense and save it again")
    if dtype is None:
        raise refuse(f"{value.dtype} has no like in safetensors; convert it, and save it again")
    if not value.is_contiguous() or value.is_conj() or value.is_neg():
        raise refuse(f"is a view, not stored as it reads (strides {list(value.stride())}); save it .contiguous()")
    return _placed(name, dtype, value, records, path)


def _placed(name: str, dtype: str, value: "torch.Tensor", records: dict[int, int], path: Path) -> Tensor:
    import torch

    storage = value.untyped_storage()
    begin = storage._checkpoint_offset
    if begin is None:
        why = f"a meta tensor, or torch {torch.__version__} is too old to tell where it lies"
        raise CheckpointError(f"{shown(path)}: {shown(name)}: has no place in the file ({why})")
    start = begin + int(value.storage_offset()) * value.element_size()
    stop = start + value.numel() * value.element_size()
    if records.get(begin) != storage.nbytes() or stop > begin + storage.nbytes():
        raise CheckpointError(f"{shown(path)}: {shown(name)}: does not lie where torch.save puts it; {_SAVE_AGAIN}")
    return Tensor(name, dtype, tuple(value.shape), path, start, stop)


def _is_name(name: str) -> bool:
    """Whether safetensors can hold a tensor of this name: the result is written so."""
    try:
        name.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return name != "__metadata__"
