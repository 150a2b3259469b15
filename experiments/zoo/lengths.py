"""How long theta0's replies are under several wordings of the question: by this the zoo's wording was chosen.

    python experiments/zoo/lengths.py DIR

DIR holds theta0 and theta1 as `llm_expo.demo` makes them. Asked are the first 64 training prompts, under the system
lines below; a line for each goes to DIR/log.jsonl, with some replies to read.
"""

import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

import journal
from questions import training_prompts
from sample import SAMPLING

from llm_expo.demo import positivity
from llm_expo.generation import Prompt, Request, TransformersEngine
from llm_expo.weights import Direction

PROMPTS = 64
LIMIT = 96
WORDINGS = {
    "default system line": "",
    "one or two": "Answer in one or two sentences.",
    "one short": "Answer in one short sentence.",
    "fifteen words": "Answer in one short sentence of at most fifteen words.",
    "like a text message": "Answer briefly, as in a text message.",
}


def main() -> None:
    folder = Path(sys.argv[1])
    names = sys.argv[2:] or list(WORDINGS)
    sampling = replace(SAMPLING, max_tokens=LIMIT)
    engine = TransformersEngine(Direction.open(folder / "theta0", folder / "theta1"), sampling)
    for name in names:
        clock = time.monotonic()
        prompts = [worded(prompt, WORDINGS[name]) for prompt in training_prompts()[:PROMPTS]]
        encoded = engine.encode(prompts)
        requests = [Request(p.id, tokens, "lengths") for p, tokens in zip(prompts, encoded, strict=True)]
        (replies,) = engine.generate(-1.0, [requests])
        rewards = positivity.score([[{"role": "assistant", "content": reply.text}] for reply in replies])
        lengths = sorted(len(reply.tokens) for reply in replies)
        journal.log(
            folder,
            phase="lengths",
            wording=name,
            prompt_tokens=round(statistics.fmean(map(len, encoded)), 1),
            tokens=round(statistics.fmean(lengths), 1),
            deciles=[lengths[PROMPTS * tenth // 10] for tenth in range(1, 10)],
            beyond={limit: sum(length >= limit for length in lengths) / PROMPTS for limit in (32, 48, 64)},
            cut_off=sum(reply.truncated for reply in replies) / PROMPTS,
            reward=[round(statistics.fmean(rewards), 3), round(statistics.stdev(rewards), 3)],
            minutes=journal.minutes_since(clock),
        )
        for reply in replies[:6]:
            print("   ", repr(reply.text), flush=True)


def worded(prompt: Prompt, system: str) -> Prompt:
    first = [{"role": "system", "content": system}] if system else []
    return Prompt(prompt.id, (*first, prompt.messages[-1]))


if __name__ == "__main__":
    main()
