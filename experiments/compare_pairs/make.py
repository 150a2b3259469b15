"""Train the pairs by which `llm-expo compare` was calibrated: SFT and DPO of one small model, and unrelated models.

    python experiments/compare_pairs/make.py THETA0 PAIRS_JSONL_GZ DIR [--threads 1]

THETA0 is SmolLM2-135M-Instruct (`llm_expo.demo` makes the folder), PAIRS_JSONL_GZ holds lines with `prompt`, `chosen`
and `rejected`. Every parameter is trained, in float32 with bfloat16 autocast: AdamW, cosine schedule, gradients clipped
to 1. As with released models, a training starts from what a bfloat16 file holds: `pre` is THETA0 rounded, and DPO
starts from the rounded SFT model. Each run writes DIR/NAME (float32), and the same rounded as DIR/bf16/NAME, and adds
lines to DIR/log.jsonl: the root mean square change of a weight so far, beside the sum of the learning rates, which no
weight can outrun by much under Adam.

A run that is there already is left out. About 45 minutes on one core; measure.py compares the pairs.
"""

import argparse
import gzip
import json
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

SEED = 7
TOKENS = 112  # of a whole sequence; longer replies are cut
PROMPT_TOKENS = 48
BETA = 0.1
WARM_UP = 0.1
SHOWN_STEPS = {1, 2, 5, 10, 20, 40, 60, 80, 100, 150}

Sequence = tuple[list[int], list[int]]  # prompt, reply


@dataclass(frozen=True)
class Run:
    """One training: from where, on what, how fast and how long. A batch is so many SFT texts or DPO pairs."""

    name: str
    start: str
    kind: str
    learning_rate: float
    steps: int
    batch: int = 4


RUNS = (
    Run("sft-2e-5", "pre", "sft", 2e-5, 150),
    Run("dpo-5e-7", "sft-2e-5", "dpo", 5e-7, 60),
    Run("dpo-5e-6", "sft-2e-5", "dpo", 5e-6, 60),
    Run("sft-1e-4", "pre", "sft", 1e-4, 40),
    Run("sft-2e-5-early", "pre", "sft", 2e-5, 20),
    Run("dpo-1e-6", "sft-2e-5", "dpo", 1e-6, 60),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("theta0", type=Path)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(options.theta0)

    save(folder / "pre", tokenizer, lambda: rounded(AutoModelForCausalLM.from_pretrained(options.theta0)))
    save(folder / "random", tokenizer, lambda: rounded(random_model(options.theta0)))
    save(folder / "permuted", tokenizer, lambda: permuted(AutoModelForCausalLM.from_pretrained(folder / "pre")))
    pairs = list(read_pairs(options.pairs, tokenizer))
    for run in RUNS:
        save(folder / run.name, tokenizer, lambda run=run: train(folder, run, pairs))


def save(path: Path, tokenizer: Any, make: Callable[[], torch.nn.Module]) -> None:
    if not path.exists():
        model = make()
        partial = path.with_name(f"{path.name}.partial")
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        partial.rename(path)
    half = path.parent / "bf16" / path.name
    if not half.exists():
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16)
        model.save_pretrained(half)
        tokenizer.save_pretrained(half)


def rounded(model: Any) -> Any:
    """To what a bfloat16 file holds, in float32."""
    return model.bfloat16().float()


def random_model(theta0: Path) -> Any:
    torch.manual_seed(SEED)
    return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(theta0))


def permuted(model: Any) -> Any:
    """The layers in another order: every tensor is a real one, in the wrong place; the embeddings stay."""
    layers = list(model.model.layers)
    random.Random(SEED).shuffle(layers)
    model.model.layers = torch.nn.ModuleList(layers)
    return model


def read_pairs(path: Path, tokenizer: Any) -> Iterator[tuple[Sequence, Sequence]]:
    """(chosen, rejected) as tokens: one pair for each prompt that is short enough, in an order of our own."""
    with gzip.open(path, "rt") as file:
        rows = [json.loads(line) for line in file]
    random.Random(SEED).shuffle(rows)
    seen = set()
    for row in rows:
        question = tokenizer.apply_chat_template(
            [{"role": "user", "content": row["prompt"]}], add_generation_prompt=True, return_dict=False
        )
        if row["prompt"] in seen or len(question) > PROMPT_TOKENS:
            continue
        seen.add(row["prompt"])
        chosen, rejected = (
            tokenizer(row[side] + "<|im_end|>")["input_ids"][: TOKENS - len(question)]
            for side in ("chosen", "rejected")
        )
        yield (question, chosen), (question, rejected)


def train(folder: Path, run: Run, pairs: list[tuple[Sequence, Sequence]]) -> Any:
    torch.manual_seed(SEED)
    model = rounded(AutoModelForCausalLM.from_pretrained(folder / run.start, dtype=torch.float32))
    start = [parameter.detach().clone() for parameter in model.parameters()]
    elements = sum(parameter.numel() for parameter in start)
    model.eval()  # no dropout anyway
    batches = list(batched(pairs, run.batch, run.steps))
    reference = [log_probabilities(model, flat(batch), grad=False) for batch in batches] if run.kind == "dpo" else []
    optimizer = torch.optim.AdamW(model.parameters(), lr=run.learning_rate, weight_decay=0.0, foreach=False)
    walked, clock = 0.0, time.monotonic()
    for step, batch in enumerate(batches, start=1):
        rate = run.learning_rate * share_of_rate(step, run.steps)
        walked += rate
        optimizer.param_groups[0]["lr"] = rate
        if run.kind == "sft":
            loss = -log_probabilities(model, [chosen for chosen, _ in batch], mean=True).mean()
        else:
            gain = log_probabilities(model, flat(batch)) - reference[step - 1]
            loss = -torch.nn.functional.logsigmoid(BETA * (gain[0::2] - gain[1::2])).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step in SHOWN_STEPS or step == run.steps:
            with torch.no_grad():
                moved = math.sqrt(
                    sum(float((a - b).square().sum()) for a, b in zip(model.parameters(), start, strict=True))
                    / elements
                )
            line = {"run": run.name, "step": step, "loss": round(loss.item(), 4), "rms_change": moved}
            line |= {"sum_of_rates": walked, "minutes": round((time.monotonic() - clock) / 60, 2)}
            with (folder / "log.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(line, flush=True)
    return model


def batched(pairs: list[Any], size: int, count: int) -> Iterator[list[Any]]:
    for number in range(count):
        yield [pairs[(number * size + place) % len(pairs)] for place in range(size)]


def flat(batch: list[tuple[Sequence, Sequence]]) -> list[Sequence]:
    return [sequence for pair in batch for sequence in pair]


def share_of_rate(step: int, steps: int) -> float:
    warm = max(1, round(WARM_UP * steps))
    return step / warm if step <= warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm + 1)))


def log_probabilities(model: Any, sequences: list[Sequence], *, mean: bool = False, grad: bool = True) -> torch.Tensor:
    """Of each reply given its prompt: the sum over its tokens, or the mean."""
    longest = max(len(prompt) + len(reply) for prompt, reply in sequences)
    tokens = torch.zeros(len(sequences), longest, dtype=torch.long)
    mask, of_reply = torch.zeros_like(tokens), torch.zeros_like(tokens, dtype=torch.bool)
    for row, (prompt, reply) in enumerate(sequences):
        end = len(prompt) + len(reply)
        tokens[row, :end] = torch.tensor([*prompt, *reply])
        mask[row, :end] = 1
        of_reply[row, len(prompt) : end] = True
    with torch.set_grad_enabled(grad), torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(input_ids=tokens, attention_mask=mask).last_hidden_state[:, :-1]
        wanted = of_reply[:, 1:]
        logits = model.lm_head(hidden[wanted]).float()
    each = logits.log_softmax(-1).gather(1, tokens[:, 1:][wanted][:, None])[:, 0]
    rows = wanted.nonzero()[:, 0]
    sums = torch.zeros(len(sequences)).index_add(0, rows, each)
    return sums / wanted.sum(1) if mean else sums


if __name__ == "__main__":
    main()
