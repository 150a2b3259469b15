"""How long theta0's replies are under several wordings of the question: by this the zoo's wording was chosen.

    python experiments/zoo/lengths.py DIR [WORDING ...]

DIR holds theta0 and theta1 as `llm_expo.demo` makes them. Asked are 64 training prompts, sampled as the tables are; a
line for each wording goes to DIR/log.jsonl, and some replies are printed.
"""

import statistics
import sys
import time
from pathlib import Path

import journal
from questions import plain_training_prompts, worded

from llm_expo.generation import Request, Sampling, TransformersEngine
from llm_expo.weights import Direction

PROMPTS = slice(64, 128)
LIMIT = 96
SHORT = "Answer in one short sentence."
WORDINGS = {  # system line, end of the user's message
    "brief": ("Be very brief.", ""),
    "ten": ("You answer every message with a single short sentence of about ten words.", ""),
    "sentence": (SHORT, ""),
    "sentence, twice": (SHORT, " One short sentence, please."),
    "sentence, ten words": (SHORT, "\nAnswer in at most ten words."),
}


def main() -> None:
    folder = Path(sys.argv[1])
    engine = TransformersEngine(Direction.open(folder / "theta0", folder / "theta1"), Sampling(max_tokens=LIMIT))
    for name in sys.argv[2:] or WORDINGS:
        clock = time.monotonic()
        prompts = [worded(prompt, *WORDINGS[name]) for prompt in plain_training_prompts()[PROMPTS]]
        encoded = engine.encode(prompts)
        requests = [Request(p.id, tokens, "lengths") for p, tokens in zip(prompts, encoded, strict=True)]
        (replies,) = engine.generate(-1.0, [requests])
        lengths = sorted(len(reply.tokens) for reply in replies)
        journal.log(
            folder,
            phase="lengths",
            wording=name,
            prompt_tokens=round(statistics.fmean(map(len, encoded)), 1),
            tokens=round(statistics.fmean(lengths), 1),
            deciles=[lengths[len(lengths) * tenth // 10] for tenth in range(1, 10)],
            cut_off=statistics.fmean(reply.truncated for reply in replies),
            minutes=journal.minutes_since(clock),
        )
        for reply in replies[:6]:
            print("   ", repr(reply.text), flush=True)


if __name__ == "__main__":
    main()
