"""The two controls: differences as long as a trained one that no preference training made.

    python experiments/zoo/controls.py DIR NAME

`noise`: every tensor of theta0 is moved by Gaussian noise whose norm is that of the tensor's trained difference.
`reversed`: theta0 - (theta1 - theta0), which is alpha -2 of the trained pair.
"""

import sys
from pathlib import Path

import torch
from pairs import CONTROLLED, theta1_of
from transformers import AutoModelForCausalLM, AutoTokenizer

from llm_expo.weights import apply

SEED = 0


def main() -> None:
    folder, name = Path(sys.argv[1]), sys.argv[2]
    theta0, theta1, out = folder / "theta0", theta1_of(folder, CONTROLLED), theta1_of(folder, name)
    out.parent.mkdir(exist_ok=True)
    if name == "reversed":
        apply(theta0, theta1, -2.0, out)
    else:
        write_noise(theta0, theta1, out)


def write_noise(theta0: Path, theta1: Path, out: Path) -> None:
    before, after = (AutoModelForCausalLM.from_pretrained(side, dtype=torch.float32) for side in (theta0, theta1))
    trained = dict(after.named_parameters())
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, parameter in before.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter += noise * ((trained[name] - parameter).norm() / noise.norm())
    partial = out.with_name(f"{out.name}.partial")
    before.save_pretrained(partial)
    AutoTokenizer.from_pretrained(theta0).save_pretrained(partial)
    partial.rename(out)


if __name__ == "__main__":
    main()
