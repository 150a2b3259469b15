"""Judge the demo's pair: theta0, and theta(alpha) from the early and from the fully trained model, on held-out prompts.

    python experiments/demo_pair/evaluate.py THETA0 --run DIR --prompts FILE --out results.json

DIR is the folder of adapters that make.py trained. One reply a prompt, the paper's sampling (temperature 0.7, top-k 50,
top-p 0.9), everything in float32. Each row of the table: mean reward; difference to alpha 0 of the same model and to
theta0, paired over prompts, with standard errors; log-probability per token of the replies under theta0; share of
distinct 4-word openings; mean length in tokens; share cut off. Replies are kept in DIR, so that a killed run goes on.

About 28 minutes of one core, 2.2 a row (no GPU).
"""

import argparse
import json
import re
import statistics
from pathlib import Path

import torch
from make import MAX_NEW_TOKENS, load, pad_left, prompt_tokens, read_jsonl, sample_replies, score, steps_at, write_jsonl
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

# share of the training (percent) -> alphas; alpha = -1 is theta0
ALPHAS = {20: (-1, 0, 1, 2, 4, 8, 16), 100: (0, 0.5, 1, 2, 4)}
PROMPTS_PER_BATCH = 64
SEED = 7
PAPER_SAMPLING = {"temperature": 0.7, "top_k": 50, "top_p": 0.9}
OPENING_WORDS = 4


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("theta0", type=Path)
    arguments.add_argument("--run", type=Path, required=True)
    arguments.add_argument("--prompts", type=Path, required=True)
    arguments.add_argument("--first", type=int, default=0, help="the first prompt of the file to use")
    arguments.add_argument("--count", type=int, default=128)
    arguments.add_argument("--seed", type=int, default=SEED)
    arguments.add_argument("--alphas", type=json.loads, help='as JSON, for example {"20": [-1, 0, 4], "100": [0]}')
    arguments.add_argument("--out", type=Path, required=True)
    options = arguments.parse_args()

    chosen = read_jsonl(options.prompts)[options.first : options.first + options.count]
    prompts = sorted((row["prompt"] for row in chosen), key=lambda prompt: (len(prompt), prompt))
    arms = {int(share): alphas for share, alphas in (options.alphas or ALPHAS).items()}
    theta0, tokenizer = load(options.theta0)
    live, _ = load(options.theta0)
    rows = {}
    for share, alphas in arms.items():
        move = direction(options.theta0, options.run / f"checkpoint-{steps_at(share)}")
        for alpha in alphas:
            kept = options.run / f"replies-seed-{options.seed}-{options.first}-{len(prompts)}-{share}-{alpha:g}.jsonl"
            if not kept.exists():
                set_alpha(live, theta0, move, alpha)
                write_jsonl(kept, judge(live, theta0, tokenizer, prompts, options.seed))
            rows[share, alpha] = read_jsonl(kept)
            print(f"{share:4d} % {alpha:5g} {json.dumps(figures(rows, share, alpha))}", flush=True)

    result = {
        "prompts": f"{options.first} to {options.first + len(prompts) - 1} of {options.prompts.name}",
        "seed": options.seed,
        "sampling": {**PAPER_SAMPLING, "max_tokens": MAX_NEW_TOKENS},
        "rows": [{"trained": share, "alpha": alpha, **figures(rows, share, alpha)} for share, alpha in rows],
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")


def direction(theta0: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """theta1's tensors that the adapter moves."""
    model, _ = load(theta0)
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    return {name: tensor for name, tensor in merged.named_parameters() if not torch.equal(tensor, before[name])}


@torch.no_grad()
def set_alpha(live: PreTrainedModel, theta0: PreTrainedModel, theta1: dict[str, torch.Tensor], alpha: float) -> None:
    initial = dict(theta0.named_parameters())
    for name, parameter in live.named_parameters():
        if name in theta1:
            parameter.copy_(torch.lerp(initial[name], theta1[name], 1.0 + alpha))


def judge(
    live: PreTrainedModel, theta0: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[str], seed: int
) -> list[dict]:
    rows = []
    for start in range(0, len(prompts), PROMPTS_PER_BATCH):
        batch = prompts[start : start + PROMPTS_PER_BATCH]
        replies = sample_replies(live, tokenizer, batch, seed=seed * 1_000_003 + start, **PAPER_SAMPLING)
        rewards = score(tokenizer, batch, replies)
        for prompt, reply, reward in zip(batch, replies, rewards, strict=True):
            rows.append(
                {
                    "prompt": prompt,
                    "reply": tokenizer.decode(reply, skip_special_tokens=True),
                    "reward": reward,
                    "tokens": len(reply),
                    "cut_off": len(reply) == MAX_NEW_TOKENS and reply[-1] != tokenizer.eos_token_id,
                    "log_probability": log_probability(theta0, prompt_tokens(tokenizer, prompt), reply),
                }
            )
    return rows


@torch.inference_mode()
def log_probability(model: PreTrainedModel, prompt: list[int], reply: list[int]) -> float:
    """Of the whole reply, end token included, at temperature 1."""
    ids, mask = pad_left([prompt + reply], 0)
    logits = model(ids, attention_mask=mask, logits_to_keep=len(reply) + 1).logits[0, :-1]
    return logits.log_softmax(dim=1).gather(1, torch.tensor(reply)[:, None]).sum().item()


def figures(rows: dict[tuple[int, float], list[dict]], share: int, alpha: float) -> dict:
    """One row of the table."""
    mine = rows[share, alpha]
    openings = {tuple(re.findall(r"\w+", row["reply"].lower())[:OPENING_WORDS]) for row in mine}
    tokens = sum(row["tokens"] for row in mine)
    return {
        "reward": round(statistics.fmean(row["reward"] for row in mine), 3),
        "to_alpha_0": paired(mine, rows.get((share, 0))),
        "to_theta0": paired(mine, next((rows[key] for key in rows if key[1] == -1), None)),
        "log_probability_per_token": round(sum(row["log_probability"] for row in mine) / tokens, 3),
        "distinct_openings": round(len(openings) / len(mine), 3),
        "tokens": round(tokens / len(mine), 1),
        "cut_off": round(statistics.fmean(row["cut_off"] for row in mine), 3),
    }


def paired(mine: list[dict], others: list[dict] | None) -> list[float] | None:
    """Mean difference in reward and its standard error."""
    if others is None or others is mine:
        return None
    differences = [row["reward"] - other["reward"] for row, other in zip(mine, others, strict=True)]
    return [
        round(statistics.fmean(differences), 3),
        round(statistics.stdev(differences) / len(differences) ** 0.5, 3),
    ]


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
