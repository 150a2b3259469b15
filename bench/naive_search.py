"""The paper's procedure as a script does it: for each alpha write a checkpoint, load it, generate, score. No more.

    python bench/naive_search.py THETA0 THETA1 [--intervals 5,1] [--limit 80] [--max-tokens 64] [--batch-size 64]

On the default prompts and the demo's objective. It keeps nothing, confirms nothing and tells no gibberish from a gain.
"""

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llm_expo.demo import positivity
from llm_expo.generation import Prompt, read_prompts
from llm_expo.search import Paper, Seen

SAMPLING = {"do_sample": True, "temperature": 0.7, "top_k": 50, "top_p": 0.9}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("theta0", type=Path)
    parser.add_argument("theta1", type=Path)
    parser.add_argument("--intervals", default="5,1")
    parser.add_argument("--limit", type=int, default=80)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    options = parser.parse_args()

    torch.manual_seed(42)
    prompts = read_prompts(None)[: options.limit]
    ids = tuple(prompt.id for prompt in prompts)
    strategy = Paper(tuple(float(each) for each in options.intervals.split(",")))
    rewards: dict[float, dict[str, float]] = {}
    while (wanted := strategy(Seen(ids, rewards))) is not None:
        for alpha in wanted.wanted.keys() - rewards.keys():
            with tempfile.TemporaryDirectory() as scratch:
                model = extrapolated(options.theta0, options.theta1, alpha, Path(scratch) / "theta")
                replies = answered(model, options.theta1, prompts, options.batch_size, options.max_tokens)
            scores = positivity.score([[{"role": "assistant", "content": reply}] for reply in replies])
            rewards[alpha] = dict(zip(ids, scores, strict=True))
            print(f"alpha {alpha:g}: {statistics.fmean(scores):.3f}", flush=True)


def extrapolated(theta0: Path, theta1: Path, alpha: float, out: Path) -> Any:
    initial, aligned = (AutoModelForCausalLM.from_pretrained(folder, dtype="auto") for folder in (theta0, theta1))
    before = initial.state_dict()
    with torch.no_grad():
        for name, tensor in aligned.state_dict().items():
            before[name].lerp_(tensor, 1 + alpha)
    initial.save_pretrained(out)
    return AutoModelForCausalLM.from_pretrained(out, dtype="auto").eval()


def answered(model: Any, theta1: Path, prompts: list[Prompt], batch_size: int, max_tokens: int) -> list[str]:
    tokenizer = AutoTokenizer.from_pretrained(theta1, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    replies = []
    for start in range(0, len(prompts), batch_size):
        texts = [
            tokenizer.apply_chat_template(list(prompt.messages), tokenize=False, add_generation_prompt=True)
            for prompt in prompts[start : start + batch_size]
        ]
        inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        output = model.generate(**inputs, **SAMPLING, max_new_tokens=max_tokens, pad_token_id=tokenizer.pad_token_id)
        replies += tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return replies


if __name__ == "__main__":
    main()
