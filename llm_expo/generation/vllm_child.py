"""vLLM in a process of its own: generates, reads, and sets the running model to theta(alpha), by weights or an adapter.

`vllm_engine.py` runs this file under the interpreter that the user names, where vLLM is installed and llm_expo is not:
it imports nothing of ours. It is told in steps what to calculate from which bytes of which files (`apply`'s plan), and
by which kernel (the compiled file, which any Python from 3.11 on loads); it decides nothing.

One line of JSON on standard input is a question, one on standard output its answer.
"""

# What goes to other ranks goes by value, without the names that annotations in a class body would be looked up by.
from __future__ import annotations

import importlib.machinery
import importlib.metadata
import importlib.util
import itertools
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, get_args

Tokens = list[list[int]]

_GRACE = 10.0
"""Seconds that a child without a parent has to end by itself."""

_CACHE_ON_CPU = 4 << 30
"""Bytes for keys and values; the variable VLLM_CPU_KVCACHE_SPACE, in GiB, goes before."""

_SPAN = 1 << 22
"""Elements that a thread calculates at a time."""


def facts() -> dict[str, str]:
    """What may change the replies' last bits. Does without importing vLLM, which takes long."""
    if sys.version_info < (3, 11):  # noqa: UP036 (it is not our interpreter)
        raise RuntimeError(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}")
    if importlib.util.find_spec("vllm") is None:
        raise RuntimeError(f"vLLM is not installed there: {sys.executable} -m pip install vllm")
    import torch

    package = importlib.metadata.packages_distributions()["vllm"][0]
    on_gpu = torch.cuda.is_available()
    return {
        package: importlib.metadata.version(package),
        "torch": torch.__version__,
        "device": f"cuda {torch.cuda.get_device_name()}"
        if on_gpu
        else f"cpu {torch.backends.cpu.get_cpu_capability()}",
    }


def beside(adapter: dict[str, Any]) -> dict[str, Any]:
    """vLLM's own options for an adapter, one at a time.

    The layers that may be adapted are named. Otherwise vLLM wraps the head, too, which then looks up one adapter for
    each request, where log-probabilities of a prompt want logits of all its positions: on a CPU, 0.32 fails.
    """
    from vllm.config.lora import MaxLoRARanks

    ranks = [rank for rank in get_args(MaxLoRARanks) if rank >= adapter["rank"]]
    if not ranks:
        raise ValueError(f"rank {adapter['rank']} is more than vLLM takes, which is {max(get_args(MaxLoRARanks))}")
    names = {module.rpartition(".")[2] for module in adapter["modules"]}
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": min(ranks), "lora_target_modules": sorted(names)}


def fitted(options: dict[str, Any]) -> dict[str, Any]:
    """vLLM's own options, with what it needs on this machine."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        # The logits of a step's whole prompts are held when log-probabilities are read; vLLM sets none aside.
        return {"max_num_batched_tokens": 2048, **options}
    # A compiled graph would keep the packed weights that it was made with; and a seeded request whose prompt is read in
    # pieces makes vLLM 0.32 fail there.
    options = {**options, "enforce_eager": True, "enable_chunked_prefill": False}
    if "gpu_memory_utilization" not in options:  # 0.92 of all memory by default, which nothing else has there
        options["kv_cache_memory_bytes"] = _CACHE_ON_CPU
    return options


class Engine:
    """A running vLLM.

    Args:
        model: the folder that it starts from, which says what model it is.
        kernel: the compiled file of llm_expo's kernel.
        options: of vLLM's own.
        adapter: where the model is theta0 and stays it: folder, rank and modules of an adapter like those to come.
    """

    def __init__(self, model: str, kernel: str, options: dict[str, Any], adapter: dict[str, Any] | None = None) -> None:
        from vllm import LLM
        from vllm.platforms import current_platform

        self._kernel = kernel
        self._sleeps = not current_platform.is_cpu()
        self._asleep = False
        self._lora: Any = None
        self._loras = itertools.count(1)
        self._llm = LLM(
            model,
            skip_tokenizer_init=True,  # tokens in, tokens out
            generation_config="vllm",  # no sampling settings of the model's
            enable_prefix_caching=False,  # keys and values of another alpha; and replies that depend on who came before
            enable_sleep_mode=self._sleeps,
            **fitted(options),
            **(beside(adapter) if adapter else {}),
        )
        if adapter:
            if current_platform.is_cpu():
                self._llm.collective_rpc(multiply_by_one_adapter, args=())
            # Whatever vLLM cannot do with it is to show now: with several texts of several tokens.
            self.adapt(adapter["folder"])
            self.read([[0, 0, 0], [0, 0, 0]], [[0], [0]])

    def move(self, steps: list[dict[str, Any]]) -> None:
        """Calculate every tensor and have each rank of vLLM load its part."""
        self._wake()
        self._llm.collective_rpc(set_weights, args=(self._kernel, steps))

    def adapt(self, folder: str | None) -> None:
        """Have each rank of vLLM load an adapter in the place of the one before; None is the model without any."""
        from vllm.lora.request import LoRARequest

        self._wake()
        self._lora = None
        if folder is not None:
            number = next(self._loras)  # vLLM tells adapters apart by names and numbers, not by what is in the folder
            request = LoRARequest(f"adapter {number}", number, folder)
            self._llm.llm_engine.add_lora(request)
            self._llm.collective_rpc(refuse_lost, args=(number,))
            self._lora = request

    def generate(self, prompts: Tokens, seeds: list[int], sampling: dict[str, Any]) -> Tokens:
        """Token ids of a reply to each prompt, the one that ended it included."""
        from vllm import SamplingParams

        self._wake()
        each = [SamplingParams(**sampling, seed=seed, detokenize=False, ignore_eos=True) for seed in seeds]
        return [list(output.outputs[0].token_ids) for output in self._run(prompts, each)]

    def read(self, prompts: Tokens, replies: Tokens) -> list[float]:
        """The mean log-probability of each reply's tokens behind its prompt."""
        from vllm import SamplingParams

        self._wake()
        reading = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0, detokenize=False, ignore_eos=True)
        texts = [[*prompt, *reply] for prompt, reply in zip(prompts, replies, strict=True)]
        means: list[float] = []
        for output, reply in zip(self._run(texts, reading), replies, strict=True):
            spoken = output.prompt_logprobs[-len(reply) :]
            values = [said[token].logprob for said, token in zip(spoken, reply, strict=True)]
            means.append(sum(values) / len(values))
        return means

    def rest(self) -> bool:
        """Give the device's memory back; whether that is possible."""
        if self._sleeps and not self._asleep:
            self._llm.sleep(level=1)
            self._asleep = True
        return self._sleeps

    def _run(self, texts: Tokens, sampling: Any) -> list[Any]:
        prompts = [{"prompt_token_ids": text} for text in texts]
        outputs: list[Any] = self._llm.generate(prompts, sampling, use_tqdm=False, lora_request=self._lora)
        return outputs

    def _wake(self) -> None:
        if self._asleep:
            self._llm.wake_up()
            self._asleep = False


def set_weights(worker: Any, kernel: str, steps: list[dict[str, Any]]) -> None:
    """On each rank: what the files of theta(alpha) would hold goes through vLLM's own loading of a running model.

    That cuts and fuses tensors as the model wants them, and repacks them where the device does.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    runner = worker.model_runner
    runner.reload_weights(weights_iterator=theta(kernel, steps))
    # On a CPU a layer works with a packed copy of its weights, and vLLM renews that where it has loaded the weights. A
    # head that is tied to the embeddings is not loaded, and would go on with those of the alpha before.
    for layer in runner.get_model().modules():
        if isinstance(layer, ParallelLMHead):
            layer.quant_method.process_weights_after_loading(layer)


def refuse_lost(worker: Any, number: int) -> None:
    """On each rank: an adapter's factors for a layer that vLLM does not have under that name would do nothing."""
    manager = worker.model_runner.lora_manager._adapter_manager
    lost = sorted(manager.get_adapter(number).loras.keys() - manager.modules.keys())
    if lost:
        raise ValueError(f"vLLM has no place for the adapter's {lost[0]}, and {len(lost) - 1} others")


def multiply_by_one_adapter(_: Any) -> None:
    """On each rank, on a CPU: all tokens of a step have the same adapter, or none, and are multiplied by it together.

    vLLM lets them differ and copies the factors for each token, which takes twice as long as all else in SmolLM2.
    """
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

    def shrink(self: Any, y: Any, x: Any, a: Any, scale: float) -> None:
        if not self.no_lora:
            y[:] = scale * (x.to(y.dtype) @ a[0, 0].to(y.dtype).t())

    def expand(self: Any, y: Any, x: Any, b: Any, start: int, size: int, add_inputs: bool = True) -> None:
        if not self.no_lora:
            part = y[:, start : start + size]
            part.copy_(x.to(y.dtype) @ b[0, 0].to(y.dtype).t() + (part if add_inputs else 0))

    PunicaWrapperCPU._apply_shrink, PunicaWrapperCPU._apply_expand = shrink, expand


def theta(kernel: str, steps: list[dict[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Names and tensors of theta(alpha).

    The tensors are pairs of theta0's and theta1's, and only calculated once they have been cut down to what the rank
    has. They are read from the files when they are wanted, which the system keeps in memory while there is enough.
    """
    import torch

    loader = importlib.machinery.ExtensionFileLoader("_kernel", kernel)
    spec = importlib.util.spec_from_file_location("_kernel", kernel, loader=loader)
    assert spec is not None
    calculate = importlib.util.module_from_spec(spec)
    loader.exec_module(calculate)
    numbers = {torch.bfloat16: 0, torch.float16: 1, torch.float32: 2, torch.float64: 3}  # as the kernel knows them

    class Pair(torch.Tensor):
        """theta0's and theta1's tensor, or the same part of both, in the place of what they combine to.

        Views are taken of both; anything else that is done with it calculates it first.
        """

        __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

        @staticmethod
        def __new__(cls: Any, about: dict[str, Any], initial: Any, aligned: Any) -> Any:
            return torch.Tensor._make_wrapper_subclass(
                cls,
                aligned.size(),
                strides=aligned.stride(),
                storage_offset=aligned.storage_offset(),
                dtype=_dtype(about["dtype"]),
            )

        def __init__(self, about: dict[str, Any], initial: Any, aligned: Any) -> None:
            self.about, self.initial, self.aligned = about, initial, aligned

        @classmethod
        def __torch_dispatch__(  # type: ignore[override]
            cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            kwargs = kwargs or {}
            if func.is_view and isinstance(args[0], Pair):
                sides = [func(side, *args[1:], **kwargs) for side in (args[0].initial, args[0].aligned)]
                if isinstance(sides[0], torch.Tensor):
                    return Pair(args[0].about, *sides)
                return [Pair(args[0].about, *parts) for parts in zip(*sides, strict=True)]
            if func is torch.ops.aten.copy_.default and args[0].is_meta:
                return args[0]  # vLLM counts what it is going to load
            for argument, declared in zip(args, func._schema.arguments, strict=False):
                alias = declared.alias_info
                if isinstance(argument, Pair) and alias is not None and alias.is_write:
                    raise RuntimeError(f"{argument.about['name']}: {func} changes it while it is loaded")
            args, kwargs = torch.utils._pytree.tree_map_only(Pair, Pair.combined, (args, kwargs))
            return func(*args, **kwargs)

        def combined(self) -> Any:
            initial, aligned = self.initial.contiguous(), self.aligned.contiguous()
            out = torch.empty_like(aligned, dtype=self.dtype)
            sides = [side.view(-1) for side in (initial, aligned, out)]

            def span(at: int) -> bool:
                cut = [side[at : at + _SPAN] for side in sides]
                given = [each for side in cut for each in (_bytes(side), numbers[side.dtype])]
                *_, bad, _ = calculate.step(*given, self.about["alpha"], False, 0, 0, False, False)
                return bool(bad >= 0)

            starts = range(0, out.numel(), _SPAN)
            with ThreadPoolExecutor(max(1, min(len(starts), len(os.sched_getaffinity(0))))) as pool:
                broken = any(pool.map(span, starts))
            if broken:
                name, alpha = self.about["name"], self.about["alpha"]
                raise RuntimeError(f"{name}: NaN or infinity with alpha {alpha:g}, in theta0, theta1 or the result")
            return out

    for step in steps:
        aligned = _mapped(step["aligned"])
        yield step["name"], aligned if step["initial"] is None else Pair(step, _mapped(step["initial"]), aligned)


def _mapped(source: dict[str, Any]) -> Any:
    """A tensor on the bytes of a file."""
    import numpy
    import torch

    dtype, shape, count = _dtype(source["dtype"]), source["shape"], source["stop"] - source["start"]
    if not count:
        return torch.empty(shape, dtype=dtype)
    flat = torch.from_numpy(numpy.memmap(source["file"], numpy.uint8, "c", source["start"], (count,)))
    if flat.data_ptr() % dtype.itemsize:  # as old files have it
        flat = flat.clone()
    return flat.view(dtype).view(shape)


def _dtype(code: str) -> Any:
    import torch

    floats = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    integers = {"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8}
    return {**floats, **integers, "BOOL": torch.bool}[code]


def _bytes(flat: Any) -> memoryview:
    import torch

    return memoryview(flat.view(torch.uint8).numpy())


def _answers(make: Callable[..., Any], asked: Any, answer: Any) -> None:
    """Answer one question after another until there are no more."""
    engine = None
    for line in iter(asked.get, None):
        question = json.loads(line)
        try:
            if engine is None:
                engine = make(**question)
                answer(answer=None)
            else:
                answer(answer=getattr(engine, question.pop("do"))(**question))
        except Exception as error:  # noqa: BLE001 (told to whoever asked)
            traceback.print_exc()
            answer(error=f"{type(error).__name__}: {error}")


def main(make: Callable[..., Any], facts: Callable[[], object]) -> None:
    """The first question holds what `make` takes; the others name a method of what it makes, with its arguments."""
    sys.path.pop(0)  # this file's folder, whose modules have names that others may have, too
    if sys.argv[1:] == ["facts"]:
        try:
            print(json.dumps({"answer": facts()}))  # noqa: T201 (that is how it answers)
        except Exception as error:  # noqa: BLE001
            print(json.dumps({"error": str(error)}))  # noqa: T201
        return
    # Whatever else is printed here, by whichever library or process, goes to the log.
    questions, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    asked: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def listen() -> None:
        for line in questions:
            asked.put(line)
        asked.put(None)  # the parent is gone, or wants an end
        time.sleep(_GRACE)
        os.killpg(0, signal.SIGKILL)

    def answer(**said: object) -> None:
        answers.write(json.dumps(said) + "\n")
        answers.flush()

    threading.Thread(target=listen, daemon=True).start()
    _answers(make, asked, answer)


if __name__ == "__main__":
    main(Engine, facts)
