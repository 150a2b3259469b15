"""theta0's replies to the training prompts: what the pairs of replies are made of.

    python experiments/zoo/sample.py DIR [--part I/N]

A line of DIR/samples/I-of-N.jsonl is a batch. N processes, each with its own I from 0, share the work; a killed one
goes on behind its last whole line.
"""

import argparse
import time
from pathlib import Path

import journal
from pairs import THETA0, theta1_of
from questions import MAX_TOKENS, training_prompts

from llm_expo.generation import Request, Sampling, TransformersEngine
from llm_expo.weights import Direction

SAMPLES = 4
PROMPTS_PER_BATCH = 16
# The filters keep theta0, which babbles without them, on the subject; no penalties, which are no part of a model.
SAMPLING = Sampling(temperature=1.0, presence_penalty=0, frequency_penalty=0, seed=20261, max_tokens=MAX_TOKENS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--part", default="0/1", metavar="I/N")
    options = parser.parse_args()
    folder: Path = options.folder
    part, parts = map(int, options.part.split("/"))
    out = folder / "samples" / f"{part}-of-{parts}.jsonl"
    out.parent.mkdir(exist_ok=True)
    done = {line["batch"] for line in journal.read(out)}
    engine = TransformersEngine(Direction.open(folder / "theta0", theta1_of(folder, THETA0["positivity"])), SAMPLING)
    prompts = training_prompts()
    for number in range(part, len(prompts) // PROMPTS_PER_BATCH, parts):
        if number in done:
            continue
        batch = prompts[number * PROMPTS_PER_BATCH : (number + 1) * PROMPTS_PER_BATCH]
        clock = time.monotonic()
        encoded = engine.encode(batch)
        requests = [
            Request(prompt.id, tokens, f"sample {i}")
            for prompt, tokens in zip(batch, encoded, strict=True)
            for i in range(SAMPLES)
        ]
        (replies,) = engine.generate(-1.0, [requests])
        rows = [
            {
                "id": request.prompt,
                "reply": reply.text,
                "tokens": len(reply.tokens),
                "truncated": reply.truncated,
            }
            for request, reply in zip(requests, replies, strict=True)
        ]
        journal.append(out, {"batch": number, "minutes": journal.minutes_since(clock), "rows": rows})


if __name__ == "__main__":
    main()
