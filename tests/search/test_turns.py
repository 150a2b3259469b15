"""A process whose memory holds the engine or the reward model, and not both."""

import json
import subprocess
import sys

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from llm_expo.testing import tiny_pair

_SEARCH = """
import resource, sys
from pathlib import Path
import llm_expo.generation, llm_expo.scoring.reward_model, llm_expo.search, scipy.stats, torch
from llm_expo.cli import main

torch.set_num_threads(1)
field = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData"))
held = int(field.split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (held + MEGABYTES * 1_000_000,) * 2)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_search_in_memory_for_one_of_two(tmp_path):
    small, _ = tiny_pair(tmp_path / "tiny")
    tokenizer = AutoTokenizer.from_pretrained(small)
    sizes = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8, "vocab_size": len(tokenizer)}
    special = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**sizes, **special, num_hidden_layers=6))  # 25M: 100 MB, four times
    for name in ("theta0", "theta1"):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        for parameter in model.parameters():
            parameter.data += 0.01 * torch.randn_like(parameter)
    reward = LlamaForSequenceClassification(LlamaConfig(**sizes, **special, num_hidden_layers=24, num_labels=1))
    reward.save_pretrained(tmp_path / "reward")  # 400 MB
    tokenizer.save_pretrained(tmp_path / "reward")
    del model, reward
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("\n".join(json.dumps({"prompt": f"the cat {'sun ' * i}"}) for i in range(8)))

    def run(out: str, *options: str) -> subprocess.CompletedProcess[str]:
        places = [str(tmp_path / name) for name in ("theta0", "theta1")]
        usual = f"--strategy grid --alphas 1 --max-tokens 4 --device cpu --prompts {prompts} --out {tmp_path / out}"
        command = [sys.executable, "-c", _SEARCH.replace("MEGABYTES", "800"), "search", *places, *usual.split()]
        command += ["--scorer", f"reward-model:{tmp_path / 'reward'}", *options]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = run("study", "--take-turns")
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "study" / "report.md").exists()
    assert run("both").returncode != 0
