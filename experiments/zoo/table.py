"""The dense reward table of a pair: every held-out prompt answered twice by theta(alpha), at each alpha of a lattice.

    python experiments/zoo/table.py DIR PAIR [--seed 42] [--alphas 0,1,4]

A line of DIR/tables/PAIR.jsonl is a batch of replies with what was measured on them; a killed run goes on behind the
last whole line. Sample 0 meets the same noise at every alpha, sample 1 fresh noise at each: as the search's and the
confirmation's replies do (llm_expo/search/run.py), so that either can be replayed. Pair `theta0` is alpha -1 of every
pair of its objective, made once. --alphas names the alphas instead of walking the lattice.

The engine and the scorer are the library's; which alpha comes next is a pure function of the lines so far.
"""

import argparse
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import journal
from objectives import OBJECTIVES, Score
from pairs import THETA0, objective_of, theta1_of
from questions import held_out_prompts

from llm_expo.generation import Prompt, Reply, Request, Sampling, TransformersEngine
from llm_expo.search.symptoms import OPENING_WORDS
from llm_expo.stats import paired_difference
from llm_expo.weights import Direction

SEED, OTHER_SEED = 42, 43
DTYPE = "bfloat16"  # what a model of this size is used in; theta0 is exact in it. Twice as fast here as float32
MAX_TOKENS = 128  # theta0 hardly needs 80; trained and extrapolated models talk longer
BATCH = 64
SAMPLES = 2
REPLIES = SAMPLES * len(held_out_prompts())  # of a whole alpha
CLIMB = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
THEN = (0.25, 0.125, -0.5)
CLIFF_LOG_PROBABILITY = -4.5  # nats a token under theta0; text is in fragments before
CLIFF_ERRORS = 3.0  # standard errors that the reward has fallen from its highest before, paired over prompts
REPETITION_WORDS = 3


@dataclass(frozen=True, slots=True)
class Alpha:
    """What is known of one alpha; `rewards` are the prompts' means over their samples, in the prompts' order."""

    rewards: tuple[float, ...]
    log_probability: float

    @property
    def reward(self) -> float:
        return statistics.fmean(self.rewards)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("pair")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--alphas", type=lambda text: [float(each) for each in text.split(",")])
    options = parser.parse_args()
    folder, pair = options.folder, options.pair
    name = pair if options.seed == SEED else f"{pair}-seed-{options.seed}"
    out = folder / "tables" / f"{name}.jsonl"
    out.parent.mkdir(exist_ok=True)
    direction = Direction.open(folder / "theta0", theta1_of(folder, pair))
    engine = TransformersEngine(direction, Sampling(seed=options.seed, max_tokens=MAX_TOKENS), dtype=DTYPE)
    prompts = held_out_prompts()
    asked = list(zip(prompts, engine.encode(prompts), strict=True))
    alphas = [-1.0] if pair in THETA0.values() else options.alphas
    score = OBJECTIVES[objective_of(pair)].score
    while (alpha := wanted(alphas, finished_alphas(journal.read(out)))) is not None:
        clock = time.monotonic()
        fill(engine, score, alpha, asked, out)
        found = finished_alphas(journal.read(out))[alpha]
        journal.log(
            folder,
            phase="table",
            pair=name,
            alpha=alpha,
            reward=round(found.reward, 3),
            log_probability=round(found.log_probability, 3),
            minutes=journal.minutes_since(clock),
        )


def wanted(alphas: Sequence[float] | None, found: Mapping[float, Alpha]) -> float | None:
    if alphas is None:
        return next_alpha(found)
    return next((alpha for alpha in alphas if alpha not in found), None)


def fill(
    engine: TransformersEngine,
    score: Score,
    alpha: float,
    asked: Sequence[tuple[Prompt, tuple[int, ...]]],
    out: Path,
) -> None:
    """Add the batches that are missing at `alpha`, each with its rewards and measures."""
    done = {line["batch"] for line in journal.read(out) if line["alpha"] == alpha}
    noise = "search", f"confirm {alpha!r}"
    # Both samples of a prompt in one batch: the engine reads equal prompts once.
    every = [(sample, *each) for each in asked for sample in range(SAMPLES)]
    for number in range(len(every) // BATCH):
        if number in done:
            continue
        batch = every[number * BATCH : (number + 1) * BATCH]
        clock = time.monotonic()
        requests = [Request(prompt.id, tokens, noise[sample]) for sample, prompt, tokens in batch]
        (replies,) = engine.generate(alpha, [requests])
        generated = time.monotonic()
        (fluency,) = engine.log_probabilities(
            -1.0, [[(tokens, reply.tokens) for (_, _, tokens), reply in zip(batch, replies, strict=True)]]
        )
        scores = score([[{"role": "assistant", "content": reply.text}] for reply in replies])
        rows = [
            measured(prompt, sample, reply, reward, log_probability)
            for (sample, prompt, _), reply, reward, log_probability in zip(batch, replies, scores, fluency, strict=True)
        ]
        seconds = [round(generated - clock, 1), round(time.monotonic() - generated, 1)]
        journal.append(out, {"alpha": alpha, "batch": number, "seconds": seconds, "rows": rows})


def measured(prompt: Prompt, sample: int, reply: Reply, reward: float, log_probability: float) -> dict[str, Any]:
    """`log_probability` under theta0 and per token; `tokens` counts the end-of-sequence token."""
    return {
        "prompt": prompt.id,
        "sample": sample,
        "reward": round(reward, 5),
        "log_probability": round(log_probability, 5),
        "tokens": len(reply.tokens),
        "truncated": reply.truncated,
        "repetition": round(repetition(reply.text), 4),
        "opening": " ".join(reply.text.lower().split()[:OPENING_WORDS]),
        "text": reply.text,
    }


def repetition(text: str) -> float:
    """The share of a reply's runs of `REPETITION_WORDS` words that stood in it before; 0 for shorter replies."""
    words = text.lower().split()
    runs = [tuple(words[at : at + REPETITION_WORDS]) for at in range(len(words) - REPETITION_WORDS + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def finished_alphas(lines: Sequence[Mapping[str, Any]]) -> dict[float, Alpha]:
    """The alphas with all their replies."""
    rows: dict[float, list[Any]] = {}
    for line in lines:
        rows.setdefault(line["alpha"], []).extend(line["rows"])
    found = {}
    for alpha, mine in rows.items():
        if len(mine) == REPLIES:
            by_prompt: dict[str, list[float]] = {}
            for row in mine:
                by_prompt.setdefault(row["prompt"], []).append(row["reward"])
            rewards = tuple(statistics.fmean(by_prompt[prompt]) for prompt in sorted(by_prompt))
            found[alpha] = Alpha(rewards, statistics.fmean(row["log_probability"] for row in mine))
    return found


def next_alpha(found: Mapping[float, Alpha]) -> float | None:
    """Up from theta1 to past the cliff; then what lies close to theta1; then the two midpoints beside the highest."""
    for alpha in CLIMB:
        if alpha not in found:
            return alpha
        if past_cliff(alpha, found):
            break
    for alpha in THEN:
        if alpha not in found:
            return alpha
    lattice = sorted(alpha for alpha in found if alpha in CLIMB + THEN)
    best = lattice.index(max(lattice, key=lambda alpha: found[alpha].reward))
    for lower, upper in pairwise(lattice[max(0, best - 1) : best + 2]):
        if (lower + upper) / 2 not in found:
            return (lower + upper) / 2
    return None


def is_whole(folder: Path, pair: str) -> bool:
    return next_alpha(finished_alphas(journal.read(folder / "tables" / f"{pair}.jsonl"))) is None


def past_cliff(alpha: float, found: Mapping[float, Alpha]) -> bool:
    """The replies are in fragments, and below a smaller alpha's in reward, by more than chance."""
    highest = max((found[each] for each in found if each <= alpha), key=lambda each: each.reward)
    fall = paired_difference(highest.rewards, found[alpha].rewards)
    return found[alpha].log_probability < CLIFF_LOG_PROBABILITY and fall.mean > CLIFF_ERRORS * fall.se


if __name__ == "__main__":
    main()
