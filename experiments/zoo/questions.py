"""What the models of the zoo are asked, and in which words. Knows no model.

Held-out prompts are for the tables and for nothing else; training prompts are the demo's and some more. All were
written for this project.
"""

from pathlib import Path

from llm_expo.generation import Prompt, read_prompts

HERE = Path(__file__).parent
# Of the wordings in lengths.py the first that theta0 heeds. Replies are to end by themselves: what a reply lacks
# because it was cut off is no fault of the model's, and tokens are what the tables cost.
SYSTEM = "Answer in one short sentence."
SUFFIX = " One short sentence, please."
MAX_TOKENS = 80  # of theta0's replies


def plain_training_prompts() -> list[Prompt]:
    files = HERE.parent / "demo_pair" / "prompts.jsonl", HERE / "more_training.jsonl"
    return [prompt for file in files for prompt in read_prompts(file)]


def training_prompts() -> list[Prompt]:
    return [worded(prompt) for prompt in plain_training_prompts()]


def held_out_prompts() -> list[Prompt]:
    return [worded(prompt) for prompt in read_prompts(HERE / "held_out.jsonl")]


def worded(prompt: Prompt, system: str = SYSTEM, suffix: str = SUFFIX) -> Prompt:
    """`prompt` has one message."""
    question = {"role": "user", "content": prompt.messages[0]["content"] + suffix}
    return Prompt(prompt.id, (*([{"role": "system", "content": system}] if system else []), question))
