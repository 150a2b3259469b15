"""Model extrapolation as the paper's script does it, written from its description (arXiv 2404.16792): the comparator.

    python bench/in_memory.py THETA0 THETA1 OUT ALPHA

Both models in memory through transformers in bf16, the sum in bf16, parameter by parameter, and save_pretrained.

Needs torch and transformers.
"""

import sys

import torch
from transformers import AutoModelForCausalLM


def main() -> None:
    theta0, theta1, out, alpha = sys.argv[1:]
    initial = AutoModelForCausalLM.from_pretrained(theta0, dtype=torch.bfloat16)
    aligned = AutoModelForCausalLM.from_pretrained(theta1, dtype=torch.bfloat16)
    before = dict(initial.named_parameters())
    with torch.no_grad():
        for name, parameter in aligned.named_parameters():
            parameter.data = parameter.data + float(alpha) * (parameter.data - before[name].data)
    aligned.save_pretrained(out)


if __name__ == "__main__":
    main()
