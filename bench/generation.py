"""Tokens a second of the engine, with the paper's full sampling, beside plain transformers' `generate`, and vLLM.

    python bench/generation.py THETA0 THETA1 [--vllm-python PATH] [--device cpu] [--max-tokens 80] [--out FILE.json]

`generate` gets temperature, top-k and top-p, which is what it has; the engine draws with both penalties and keyed noise
as well, and so does vLLM. All answer the same batches of prompts with theta1, in turn, so that a noisy machine is noisy
for all, and as a user meets them: torch's own number of threads for `generate`, the engine's own number of workers, our
engine on vLLM where --vllm-python names a Python that has it. Counted are
the tokens of replies, each with the token that ends it; what is computed for rows that have ended is not.

Seconds of CPU tell what was computed where others use the machine too.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import measure
import psutil
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from llm_expo.generation import DEFAULT_PROMPTS, Engine, Prompt, Request, Sampling, TransformersEngine, read_prompts
from llm_expo.generation.vllm_engine import VllmEngine
from llm_expo.weights import Direction

Batches = Sequence[Sequence[Request]]
Answer = Callable[[Batches], list[tuple[int, bool]]]
"""Tokens of each reply, and whether the limit ended it."""


@dataclass(frozen=True, slots=True)
class Run:
    tokens: int
    replies: int
    cut: int  # replies that the limit ended
    wall: float  # seconds
    cpu: float  # seconds, of all threads


RATES: dict[str, Callable[[Run], float]] = {
    "tokens a second": lambda run: run.tokens / run.wall,
    "tokens a second of CPU": lambda run: run.tokens / run.cpu,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("theta0", type=Path)
    parser.add_argument("theta1", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--vllm-python", type=Path, metavar="PATH", help="the Python under which vLLM is installed")
    parser.add_argument("--workers", type=int, help="of the engine; its own choice if left out")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--batches", type=int, default=2, help="for each to answer in a round")
    parser.add_argument("--max-tokens", type=int, default=80)
    parser.add_argument("--prompts", type=Path, default=DEFAULT_PROMPTS)
    parser.add_argument("--system", help="a system message for all prompts")
    parser.add_argument("--samples", type=int, default=1, help="replies to each prompt")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="a JSON file for the results")
    options = parser.parse_args()

    sampling = Sampling(max_tokens=options.max_tokens)
    direction = Direction.open(options.theta0, options.theta1)
    engine = TransformersEngine(direction, sampling, device=options.device, workers=options.workers)
    prompts = _prompts(options.prompts, options.system)[: options.batches * options.batch_size // options.samples]
    asked = [
        Request(prompt.id, tokens, f"sample {sample}")
        for prompt, tokens in zip(prompts, engine.encode(prompts), strict=True)
        for sample in range(options.samples)
    ]
    batches = [asked[start : start + options.batch_size] for start in range(0, len(asked), options.batch_size)]
    plain = _Plain(options.theta1, sampling, options.device)
    peers: dict[str, Answer] = {
        "generate": lambda batches: [reply for batch in batches for reply in plain.replies(batch)],
        "engine": partial(_answered, engine),
    }
    if options.vllm_python:
        peers["vllm"] = partial(_answered, VllmEngine(direction, sampling, python=options.vllm_python))
    for answer in peers.values():  # loads what is loaded once
        answer([batches[0][:2]])
    rounds = [{name: _timed(answer, batches) for name, answer in peers.items()} for _ in range(options.rounds)]

    print(f"{len(asked)} requests in batches of {options.batch_size}, {options.rounds} rounds; median (min..max)")
    print(f"{'':10}{'tokens a reply':24}{'cut':8}{'tokens a second':24}{'a second of CPU':24}")
    for name in peers:
        runs = [each[name] for each in rounds]
        length = measure.Spread.of(run.tokens / run.replies for run in runs)
        cut = sum(run.cut for run in runs) / sum(run.replies for run in runs)
        by_wall, by_cpu = (measure.Spread.of(map(rate, runs)) for rate in RATES.values())
        print(f"{name:10}{length!s:24}{cut:<8.0%}{by_wall!s:24}{by_cpu!s:24}")
    ratios = {
        f"{what}, {name} to generate": measure.Spread.of(rate(each[name]) / rate(each["generate"]) for each in rounds)
        for name in list(peers)[1:]
        for what, rate in RATES.items()
    }
    for what, ratio in ratios.items():
        print(f"{what}: {ratio}")
    if options.out:
        measure.save(
            options.out,
            {
                "environment": engine.environment,
                "rounds": [{name: asdict(run) for name, run in each.items()} for each in rounds],
                "ratios": {what: asdict(ratio) for what, ratio in ratios.items()},
            },
        )


class _Plain:
    """What a user of transformers writes."""

    def __init__(self, theta1: Path, sampling: Sampling, device: str) -> None:
        self._model = AutoModelForCausalLM.from_pretrained(theta1, dtype="auto").to(device).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(theta1, padding_side="left")
        self._tokenizer.pad_token = self._tokenizer.pad_token or self._tokenizer.eos_token
        self._config = GenerationConfig(
            do_sample=True,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            max_new_tokens=sampling.max_tokens,
            eos_token_id=self._model.generation_config.eos_token_id,
            pad_token_id=self._tokenizer.pad_token_id,
        )

    def replies(self, batch: Sequence[Request]) -> list[tuple[int, bool]]:
        padded = self._tokenizer.pad({"input_ids": [list(each.tokens) for each in batch]}, return_tensors="pt")
        inputs = padded.to(self._model.device)
        output = self._model.generate(**inputs, generation_config=self._config)
        ends = self._config.eos_token_id
        ends = torch.tensor(ends if isinstance(ends, list) else [ends], device=output.device)
        ended = torch.isin(output[:, inputs["input_ids"].shape[1] :], ends).int()
        return [(int(row.argmax()) + 1, False) if row.any() else (len(row), True) for row in ended]


def _answered(engine: Engine, batches: Batches) -> list[tuple[int, bool]]:
    return [(len(reply.tokens), reply.truncated) for replies in engine.generate(0.0, batches) for reply in replies]


def _prompts(path: Path, system: str | None) -> list[Prompt]:
    first = ({"role": "system", "content": system},) if system else ()
    return [Prompt(prompt.id, (*first, *prompt.messages)) for prompt in read_prompts(path)]


def _timed(answer: Answer, batches: Batches) -> Run:
    wall, cpu = time.perf_counter(), _cpu()
    lengths = answer(batches)
    return Run(
        tokens=sum(length for length, _ in lengths),
        replies=len(lengths),
        cut=sum(cut for _, cut in lengths),
        wall=time.perf_counter() - wall,
        cpu=_cpu() - cpu,
    )


def _cpu() -> float:
    """Seconds, of children that run as well."""
    children = (child.cpu_times() for child in psutil.Process().children(recursive=True))
    return time.process_time() + sum(each.user + each.system for each in children)


if __name__ == "__main__":
    main()
