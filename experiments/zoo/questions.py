"""What the models of the zoo are asked, and in which words. Knows no model.

Held-out prompts are for the tables and for nothing else; training prompts are the demo's and some more. All were
written for this project.
"""

from pathlib import Path

from llm_expo.generation import Prompt, read_prompts

HERE = Path(__file__).parent
SYSTEM = "Answer in one short sentence."  # of those in lengths.py, the one that theta0 heeds


def training_prompts() -> list[Prompt]:
    files = HERE.parent / "demo_pair" / "prompts.jsonl", HERE / "more_training.jsonl"
    return [_asked(prompt) for file in files for prompt in read_prompts(file)]


def held_out_prompts() -> list[Prompt]:
    return [_asked(prompt) for prompt in read_prompts(HERE / "held_out.jsonl")]


def _asked(prompt: Prompt) -> Prompt:
    return Prompt(prompt.id, ({"role": "system", "content": SYSTEM}, *prompt.messages))
