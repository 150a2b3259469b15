"""Makes the pair that the benchmarks work on: theta0 and theta1 in bf16, with the shapes of a real model.

    python bench/pair.py {0.01B,0.1B,1B,3B} FOLDER [--shard-size GB]

Writes FOLDER/theta0 and FOLDER/theta1, which transformers loads as Llama models; there is no tokenizer. theta0 is drawn
from N(0, 0.02), theta1 lies a standard deviation of 3e-5 from it, as after preference training: stored in bf16 that
changes about a third of the weights, nearly all of them by one unit in the last place. Tensors are cut from one pool of
8 Mi weights, so that gigabytes are written at the disk's speed and within 250 MB of memory.

Needs numpy.
"""

import argparse
import json
import math
import os
import random
from dataclasses import dataclass
from io import BufferedWriter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.uint16]  # of bfloat16

WEIGHTS, NORMS = 1 << 23, 1 << 16  # sizes of the pools
WEIGHT_BYTES = 2


@dataclass(frozen=True, slots=True)
class Shape:
    like: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool


SHAPES = {
    "0.01B": Shape("no real model", 256, 688, 4, 4, 2, 32000, True),
    "0.1B": Shape("SmolLM2-135M", 576, 1536, 30, 9, 3, 49152, True),
    "1B": Shape("TinyLlama-1.1B", 2048, 5632, 22, 32, 4, 32000, False),
    "3B": Shape("StableLM-3B-4E1T", 2560, 6912, 32, 32, 32, 50304, False),
}


def tensors(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Names and shapes in the model's own order."""
    hidden, kv = shape.hidden, shape.hidden // shape.heads * shape.kv_heads
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (shape.vocabulary, hidden)}
    for layer in range(shape.layers):
        inside = {
            "self_attn.q_proj": (hidden, hidden),
            "self_attn.k_proj": (kv, hidden),
            "self_attn.v_proj": (kv, hidden),
            "self_attn.o_proj": (hidden, hidden),
            "mlp.gate_proj": (shape.intermediate, hidden),
            "mlp.up_proj": (shape.intermediate, hidden),
            "mlp.down_proj": (hidden, shape.intermediate),
            "input_layernorm": (hidden,),
            "post_attention_layernorm": (hidden,),
        }
        found |= {f"model.layers.{layer}.{name}.weight": size for name, size in inside.items()}
    found["model.norm.weight"] = (hidden,)
    if not shape.tied:
        found["lm_head.weight"] = (shape.vocabulary, hidden)
    return found


def parameters(shape: Shape) -> int:
    return sum(math.prod(size) for size in tensors(shape).values())


def write_pair(folder: Path, shape: Shape, shard_bytes: int) -> None:
    """Write FOLDER/theta0 and FOLDER/theta1, synced; a shard ends before it would exceed `shard_bytes`."""
    paths = (folder / "theta0", folder / "theta1")
    sizes = tensors(shape)
    shards = _shards(sizes, shard_bytes)
    for path in paths:
        path.mkdir(parents=True)
        (path / "config.json").write_text(json.dumps(_config(shape), indent=2))
        if len(shards) > 1:
            (path / "model.safetensors.index.json").write_text(json.dumps(_index(sizes, shards), indent=2))
    rng = np.random.default_rng(0)
    weights = _pool(rng, WEIGHTS, mean=0.0, spread=0.02, step=3e-5)
    norms = _pool(rng, NORMS, mean=1.0, spread=0.1, step=3e-5)
    place = random.Random(0)
    for number in range(len(shards)):
        names = sorted(shards[number])
        header = _header({name: sizes[name] for name in names})
        files = [(path / _file_name(number, len(shards))).open("wb") for path in paths]
        for file in files:
            file.write(header)
        for name in names:
            pools = norms if name.endswith("norm.weight") else weights
            count, at = math.prod(sizes[name]), place.randrange(len(pools[0]))
            for file, pool in zip(files, pools, strict=True):
                _write_cyclic(file, pool, at, count)
        for file in files:
            file.flush()
            os.fsync(file.fileno())
            file.close()


def _write_cyclic(file: BufferedWriter, pool: Bits, at: int, count: int) -> None:
    while count:
        part = pool[at : at + count]
        file.write(part.data)
        count, at = count - len(part), 0


def _pool(rng: np.random.Generator, size: int, mean: float, spread: float, step: float) -> tuple[Bits, Bits]:
    initial = rng.standard_normal(size, np.float32) * np.float32(spread) + np.float32(mean)
    bits = _bfloat16(initial)
    stored = (bits.astype(np.uint32) << 16).view(np.float32)
    return bits, _bfloat16(stored + rng.standard_normal(size, np.float32) * np.float32(step))


def _bfloat16(values: NDArray[np.float32]) -> Bits:
    """Round to nearest, ties to even."""
    bits = values.view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def _shards(sizes: dict[str, tuple[int, ...]], shard_bytes: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    room = shard_bytes
    for name, size in sizes.items():
        nbytes = math.prod(size) * WEIGHT_BYTES
        if shards[-1] and nbytes > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(name)
        room -= nbytes
    return shards


def _file_name(number: int, of: int) -> str:
    return "model.safetensors" if of == 1 else f"model-{number + 1:05}-of-{of:05}.safetensors"


def _header(sizes: dict[str, tuple[int, ...]]) -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, size in sizes.items():
        end = offset + math.prod(size) * WEIGHT_BYTES
        header[name] = {"dtype": "BF16", "shape": size, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _index(sizes: dict[str, tuple[int, ...]], shards: list[list[str]]) -> dict[str, object]:
    total = sum(math.prod(size) for size in sizes.values())
    files = {name: _file_name(number, len(shards)) for number, names in enumerate(shards) for name in names}
    return {"metadata": {"total_parameters": total, "total_size": total * WEIGHT_BYTES}, "weight_map": files}


def _config(shape: Shape) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "vocab_size": shape.vocabulary,
        "tie_word_embeddings": shape.tied,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-05,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shard-size", type=float, default=5.0, metavar="GB", help="of one file; default 5")
    options = parser.parse_args()
    shape = SHAPES[options.size]
    write_pair(options.folder, shape, round(options.shard_size * 1e9))
    print(f"{options.folder}: {parameters(shape) / 1e9:.3f} B parameters, {shape.like}")


if __name__ == "__main__":
    main()
