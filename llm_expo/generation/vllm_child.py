"""vLLM in a process of its own: generates, reads, and sets the weights of the running model to theta(alpha).

`vllm_engine.py` runs this file under the interpreter that the user names, where vLLM is installed and llm_expo is not:
it imports nothing of ours. It is told in steps what to calculate from which bytes of which files (`apply`'s plan), and
by which kernel (the compiled file, which any Python from 3.11 on loads); it decides nothing.

One line of JSON on standard input is a question, one on standard output its answer.
"""

import importlib.machinery
import importlib.metadata
import importlib.util
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

_GRACE = 10.0
"""Seconds that a child without a parent has to end by itself."""

_SPAN = 1 << 22
"""Elements that a thread calculates at a time."""


def facts():
    """What may change the replies' last bits. Does without importing vLLM, which takes long."""
    if sys.version_info < (3, 11):
        raise RuntimeError(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}")
    if importlib.util.find_spec("vllm") is None:
        raise RuntimeError(f"vLLM is not installed there: {sys.executable} -m pip install vllm")
    import torch

    package = importlib.metadata.packages_distributions()["vllm"][0]
    on_gpu = torch.cuda.is_available()
    return {
        package: importlib.metadata.version(package),
        "torch": torch.__version__,
        "device": f"cuda {torch.cuda.get_device_name()}" if on_gpu else f"cpu {torch.backends.cpu.get_cpu_capability()}",
    }


class Engine:
    """A running vLLM.

    Args:
        model: the folder that it starts from, which says what model it is.
        kernel: the compiled file of llm_expo's kernel.
        options: of vLLM's own.
    """

    def __init__(self, model, kernel, options):
        from vllm import LLM
        from vllm.platforms import current_platform

        on_cpu = current_platform.is_cpu()
        if on_cpu:
            # A compiled graph would keep the packed weights that it was made with; and a seeded request whose prompt
            # is read in pieces makes vLLM 0.32 fail there.
            options = {**options, "enforce_eager": True, "enable_chunked_prefill": False}
        else:
            # The logits of a step's whole prompts are held when log-probabilities are read; vLLM sets none aside.
            options = {"max_num_batched_tokens": 2048, "enable_sleep_mode": True, **options}
        self._kernel = kernel
        self._sleeps = not on_cpu
        self._asleep = False
        self._llm = LLM(
            model,
            skip_tokenizer_init=True,  # tokens in, tokens out
            generation_config="vllm",  # no sampling settings of the model's
            enable_prefix_caching=False,  # keys and values of another alpha; and replies that depend on who came before
            **options,
        )

    def move(self, steps):
        """Calculate every tensor and have each rank of vLLM load its part."""
        self._wake()
        self._llm.collective_rpc(set_weights, args=(self._kernel, steps))

    def generate(self, prompts, seeds, sampling, adapter=None):
        """Token ids of a reply to each prompt, the one that ended it included."""
        from vllm import SamplingParams

        self._wake()
        each = [SamplingParams(**sampling, seed=seed, detokenize=False, ignore_eos=True) for seed in seeds]
        return [list(output.outputs[0].token_ids) for output in self._run(prompts, each, adapter)]

    def read(self, prompts, replies, adapter=None):
        """The mean log-probability of each reply's tokens behind its prompt."""
        from vllm import SamplingParams

        self._wake()
        reading = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0, detokenize=False, ignore_eos=True)
        texts = [[*prompt, *reply] for prompt, reply in zip(prompts, replies, strict=True)]
        means = []
        for output, reply in zip(self._run(texts, reading, adapter), replies, strict=True):
            spoken = output.prompt_logprobs[-len(reply) :]
            values = [said[token].logprob for said, token in zip(spoken, reply, strict=True)]
            means.append(sum(values) / len(values))
        return means

    def rest(self):
        """Give the device's memory back; whether that is possible."""
        if self._sleeps and not self._asleep:
            self._llm.sleep(level=1)
            self._asleep = True
        return self._sleeps

    def _run(self, texts, sampling, adapter):
        from vllm.lora.request import LoRARequest

        request = None if adapter is None else LoRARequest(*adapter)
        prompts = [{"prompt_token_ids": text} for text in texts]
        return self._llm.generate(prompts, sampling, use_tqdm=False, lora_request=request)

    def _wake(self):
        if self._asleep:
            self._llm.wake_up()
            self._asleep = False


def set_weights(worker, kernel, steps):
    """On each rank: what the files of theta(alpha) would hold goes through vLLM's own loading of a running model.

    That cuts and fuses tensors as the model wants them, and repacks them where the device does. What it is handed are
    pairs, which are only calculated once they have been cut down to what the rank has.
    """
    import numpy
    import torch

    loader = importlib.machinery.ExtensionFileLoader("_kernel", kernel)
    spec = importlib.util.spec_from_file_location("_kernel", kernel, loader=loader)
    calculate = importlib.util.module_from_spec(spec)
    loader.exec_module(calculate)
    dtypes = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    numbers = {torch.bfloat16: 0, torch.float16: 1, torch.float32: 2, torch.float64: 3}
    others = {"BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32}
    codes = {**dtypes, **others, "I64": torch.int64}

    def mapped(source):
        """The bytes of a file as a tensor: read when they are wanted, and kept by the system while there is memory."""
        count = source["stop"] - source["start"]
        if not count:
            return torch.empty(source["shape"], dtype=codes[source["dtype"]])
        raw = numpy.memmap(source["file"], numpy.uint8, "c", source["start"], (count,))
        flat = torch.from_numpy(raw)
        dtype = codes[source["dtype"]]
        if flat.data_ptr() % dtype.itemsize:
            flat = flat.clone()
        return flat.view(dtype).view(source["shape"])

    def flat_bytes(tensor):
        return memoryview(tensor.view(-1).view(torch.uint8).numpy())

    class Pair(torch.Tensor):
        """theta0's and theta1's tensor, or the same part of both, that stands for their combination.

        Views are taken of both; anything else that is done with it calculates it first.
        """

        __torch_function__ = torch._C._disabled_torch_function_impl

        @staticmethod
        def __new__(cls, called, alpha, initial, aligned, dtype):
            return torch.Tensor._make_wrapper_subclass(
                cls, aligned.size(), strides=aligned.stride(), storage_offset=aligned.storage_offset(), dtype=dtype
            )

        def __init__(self, called, alpha, initial, aligned, dtype):
            self.called, self.alpha, self.initial, self.aligned = called, alpha, initial, aligned

        @classmethod
        def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
            kwargs = kwargs or {}
            if func.is_view and isinstance(args[0], Pair):
                pair, *rest = args
                sides = [func(side, *rest, **kwargs) for side in (pair.initial, pair.aligned)]
                if isinstance(sides[0], torch.Tensor):
                    return Pair(pair.called, pair.alpha, *sides, pair.dtype)
                return [Pair(pair.called, pair.alpha, *part, pair.dtype) for part in zip(*sides, strict=True)]
            if func is torch.ops.aten.copy_.default and args[0].is_meta:
                return args[0]  # vLLM only counts
            written = [
                argument
                for argument, declared in zip(args, func._schema.arguments, strict=False)
                if declared.alias_info is not None and declared.alias_info.is_write
            ]
            if any(isinstance(argument, Pair) for argument in written):
                raise RuntimeError(f"{func}: this model changes what it loads in place, which is not provided for")
            args, kwargs = torch.utils._pytree.tree_map_only(Pair, Pair.combined, (args, kwargs))
            return func(*args, **kwargs)

        def combined(self):
            initial, aligned = self.initial.contiguous(), self.aligned.contiguous()
            out = torch.empty_like(aligned, dtype=self.dtype)
            sides = [flat_bytes(side) for side in (initial, aligned, out)]
            kinds = [numbers[side.dtype] for side in (initial, aligned, out)]
            widths = [side.element_size() for side in (initial, aligned, out)]

            def span(at):
                cuts = [side[at * width : (at + _SPAN) * width] for side, width in zip(sides, widths, strict=True)]
                arguments = [each for cut, kind in zip(cuts, kinds, strict=True) for each in (cut, kind)]
                *_, bad, _ = calculate.step(*arguments, self.alpha, False, 0, 0, False, False)
                return bad >= 0

            if any(pool.map(span, range(0, out.numel(), _SPAN))):
                raise RuntimeError(f"{self.called}: NaN or infinity with alpha {self.alpha:g}, in theta0, theta1 or the result")
            return out

    def tensors():
        for step in steps:
            aligned = mapped(step["aligned"])
            if step["initial"] is None:
                yield step["name"], aligned
            else:
                initial, dtype = mapped(step["initial"]), dtypes[step["dtype"]]
                yield step["name"], Pair(step["name"], step["alpha"], initial, aligned, dtype)

    with ThreadPoolExecutor(max(1, len(os.sched_getaffinity(0)))) as pool, torch.no_grad():
        worker.model_runner.reload_weights(weights_iterator=tensors())


def _answers(asked, answer):
    """Answer one question after another until there are no more."""
    engine = None
    for line in iter(asked.get, None):
        question = json.loads(line)
        try:
            if engine is None:
                engine = Engine(**question)
                answer(answer=None)
            else:
                answer(answer=getattr(engine, question.pop("do"))(**question))
        except Exception as error:  # noqa: BLE001 (told to whoever asked)
            traceback.print_exc()
            answer(error=f"{type(error).__name__}: {error}")


def main():
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
    asked = queue.SimpleQueue()

    def listen():
        for line in questions:
            asked.put(line)
        asked.put(None)  # the parent is gone, or wants an end
        time.sleep(_GRACE)
        os.killpg(0, signal.SIGKILL)

    def answer(**said):
        answers.write(json.dumps(said) + "\n")
        answers.flush()

    threading.Thread(target=listen, daemon=True).start()
    _answers(asked, answer)


if __name__ == "__main__":
    main()
