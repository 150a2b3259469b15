"""Make the pair that `llm-expo demo` ships: theta1 = theta0 + a LoRA adapter after a fifth of its DPO training.

    python experiments/demo_pair/make.py THETA0 --work DIR [--ship llm_expo/demo/adapter]

THETA0 is SmolLM2-135M-Instruct in float32 as a transformers folder. theta0 answers every prompt of prompts.jsonl a few
times, llm_expo.demo.positivity scores the replies, the best and the worst of a prompt make a pair, and TRL's DPO trains
an adapter on the pairs. DIR receives the samples, the pairs, and the adapters after SAVED_SHARES of one schedule. A
killed run goes on where it stood when it is started again. --ship copies the adapter of SHIPPED_SHARE in PEFT's format.

Every phase adds a line with its figures and minutes to log.jsonl. About 18 minutes on 2 cores, no GPU
(8 for the samples, 3 for theta0's log-probabilities of them, 7 for the training).
"""

import argparse
import json
import shutil
import sys
import time
from itertools import takewhile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from llm_expo.demo import positivity

HERE = Path(__file__).parent
MODEL_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"

# Samples of theta0
SAMPLES_PER_PROMPT = 4
TEMPERATURE = 1.0
MAX_NEW_TOKENS = 64
PROMPTS_PER_BATCH = 16
SAMPLE_SEED = 20261
# Pairs: the best against the worst reply of a prompt, where they differ by at least
MARGIN = 0.5
# DPO: warm-up, then a constant rate, so that an early checkpoint is a prefix of the one schedule
BETA = 0.1
LEARNING_RATE = 3e-3
STEPS = 30
WARM_UP_STEPS = 3
PAIRS_PER_STEP = 16
LORA_RANK = 4
LORA_ALPHA = 8
TRAIN_SEED = 0
SAVED_SHARES = (10, 20, 40, 100)
SHIPPED_SHARE = 20

Tokens = list[int]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("theta0", type=Path)
    arguments.add_argument("--work", type=Path, required=True, help="folder for samples, pairs and adapters")
    arguments.add_argument("--ship", type=Path, help="folder that receives the adapter")
    arguments.add_argument("--learning-rate", type=float, default=LEARNING_RATE)
    arguments.add_argument("--seed", type=int, default=TRAIN_SEED, help="adapter initialisation and order of the pairs")
    options = arguments.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)

    run = train_folder(options.work, options.learning_rate, options.seed)
    sample(options.theta0, options.work / "samples.jsonl")
    make_pairs(options.theta0, options.work / "samples.jsonl", options.work / "pairs.jsonl")
    train(options.theta0, options.work / "pairs.jsonl", run, options.learning_rate, options.seed)
    if options.ship:
        ship(run / f"checkpoint-{steps_at(SHIPPED_SHARE)}", options.ship)


def train_folder(work: Path, learning_rate: float, seed: int) -> Path:
    return work / f"rate-{learning_rate:g}-seed-{seed}"


def steps_at(share: int) -> int:
    return round(STEPS * share / 100)


def sample(theta0: Path, out: Path) -> None:
    """theta0's replies to the training prompts with their rewards, a line per prompt; goes on after whole batches."""
    prompts = read_jsonl(HERE / "prompts.jsonl")
    kept = read_jsonl(out) if out.exists() else []
    if any(row["prompt"] != prompt["prompt"] for row, prompt in zip(kept, prompts, strict=False)):
        sys.exit(f"{out} answers other prompts than prompts.jsonl has now; remove it")
    if len(kept) == len(prompts):
        return
    done = len(kept) - len(kept) % PROMPTS_PER_BATCH
    write_jsonl(out, kept[:done])
    model, tokenizer = load(theta0)
    model = model.to(torch.bfloat16)  # 1.6 times as fast; evaluation and training keep float32 weights
    clock = time.monotonic()
    for start in range(done, len(prompts), PROMPTS_PER_BATCH):
        batch = prompts[start : start + PROMPTS_PER_BATCH]
        texts = [prompt["prompt"] for prompt in batch]
        replies = sample_replies(
            model,
            tokenizer,
            texts,
            seed=SAMPLE_SEED + start,
            samples=SAMPLES_PER_PROMPT,
            temperature=TEMPERATURE,
        )
        texts = [text for text in texts for _ in range(SAMPLES_PER_PROMPT)]
        rewards = score(tokenizer, texts, replies)
        groups = range(0, len(texts), SAMPLES_PER_PROMPT)
        rows = [
            {
                "id": prompt["id"],
                "prompt": prompt["prompt"],
                "replies": replies[i : i + SAMPLES_PER_PROMPT],
                "rewards": rewards[i : i + SAMPLES_PER_PROMPT],
            }
            for prompt, i in zip(batch, groups, strict=True)
        ]
        with out.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        print(f"sampled {start + len(batch)} of {len(prompts)} prompts, {time.monotonic() - clock:.0f} s", flush=True)
    rewards = [reward for row in read_jsonl(out) for reward in row["rewards"]]
    log(phase="sample", replies=len(rewards), mean_reward=mean(rewards), minutes=minutes_since(clock))


def make_pairs(theta0: Path, samples: Path, out: Path) -> None:
    """Best against worst, as the very tokens that were sampled: TRL would end a cut-off text as if it were whole."""
    if out.exists():
        return
    tokenizer = AutoTokenizer.from_pretrained(theta0)
    pairs = []
    for row in read_jsonl(samples):
        (worst, rejected), *_, (best, chosen) = sorted(zip(row["rewards"], row["replies"], strict=True))
        if best - worst >= MARGIN:
            pairs.append(
                {
                    "prompt_ids": prompt_tokens(tokenizer, row["prompt"]),
                    "chosen_ids": chosen,
                    "rejected_ids": rejected,
                    "margin": best - worst,
                }
            )
    reference_of(out).unlink(missing_ok=True)
    write_jsonl(out, pairs)
    log(
        phase="pairs",
        pairs=len(pairs),
        margin=mean([pair["margin"] for pair in pairs]),
        chosen_tokens=mean([len(pair["chosen_ids"]) for pair in pairs]),
        rejected_tokens=mean([len(pair["rejected_ids"]) for pair in pairs]),
    )


def reference_of(pairs: Path) -> Path:
    """theta0's log-probabilities of the pairs: computed once, the same for every run."""
    return pairs.with_name("reference.jsonl")


def train(theta0: Path, pairs: Path, run: Path, learning_rate: float, seed: int) -> None:
    """DPO of a LoRA adapter on all linear layers; checkpoints at SAVED_SHARES of the schedule."""
    import trl.trainer.utils
    from datasets import Dataset, concatenate_datasets
    from peft import LoraConfig
    from transformers import TrainerCallback, set_seed
    from transformers.trainer_utils import get_last_checkpoint
    from trl import DPOConfig, DPOTrainer

    if (run / f"checkpoint-{STEPS}").exists():
        return
    saved_steps = {steps_at(share) for share in SAVED_SHARES}

    class SaveAtShares(TrainerCallback):
        def on_step_end(self, _args, state, control, **_):
            control.should_save = state.global_step in saved_steps
            return control

    # Off Triton, TRL scores every position, prompts included; those of the replies are enough
    trl.trainer.utils._use_triton = lambda _device: True
    reference = reference_of(pairs)

    class TokenTrainer(DPOTrainer):
        """Takes the pairs as the tokens that they already are, and theta0's log-probabilities from the run before."""

        def _prepare_dataset(self, dataset, *_):
            return dataset

        def _precompute_ref_logps(self, dataset, *others):
            if not reference.exists():
                whole = super()._precompute_ref_logps(dataset, *others)
                write_jsonl(reference, whole.select_columns(["ref_chosen_logps", "ref_rejected_logps"]).to_list())
            return concatenate_datasets([dataset, Dataset.from_list(read_jsonl(reference))], axis=1)

    model, tokenizer = load(theta0)
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
        model=model,
        args=settings,
        train_dataset=Dataset.from_list(read_jsonl(pairs)).remove_columns("margin"),
        processing_class=tokenizer,
        peft_config=LoraConfig(
            r=LORA_RANK, lora_alpha=LORA_ALPHA, target_modules="all-linear", lora_dropout=0.0, task_type="CAUSAL_LM"
        ),
        callbacks=[SaveAtShares()],
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(run) if run.exists() else None)
    history = [row for row in trainer.state.log_history if "loss" in row]
    log(
        phase="train",
        learning_rate=learning_rate,
        seed=seed,
        steps=STEPS,
        loss=[round(row["loss"], 4) for row in history],
        accuracy=[round(row["rewards/accuracies"], 3) for row in history],
        minutes=minutes_since(clock),
    )


def ship(checkpoint: Path, out: Path) -> None:
    """The adapter and its configuration, naming the public model instead of a folder of this machine."""
    out.mkdir(parents=True, exist_ok=True)
    config = json.loads((checkpoint / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = MODEL_ID
    config["target_modules"].sort()  # a set in PEFT: its order changes from run to run
    (out / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    shutil.copyfile(checkpoint / "adapter_model.safetensors", out / "adapter_model.safetensors")


@torch.inference_mode()
def sample_replies(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    *,
    seed: int,
    samples: int = 1,
    temperature: float,
    top_k: int | None = None,
    top_p: float = 1.0,
) -> list[Tokens]:
    """Replies with their end token, at most MAX_NEW_TOKENS long, those of a prompt together; all are one batch."""
    noise = torch.Generator().manual_seed(seed)
    rows = [prompt_tokens(tokenizer, prompt) for prompt in prompts]
    # The system prompt that the template begins with is read once for all
    alike = takewhile(lambda tokens: len(set(tokens)) == 1, zip(*rows, strict=False))
    shared = min(len(list(alike)), min(map(len, rows)) - 1)
    cache = model(torch.tensor([rows[0][:shared]]), use_cache=True, logits_to_keep=1).past_key_values
    cache.batch_repeat_interleave(len(rows))
    ids, mask = pad_left([row[shared:] for row in rows], tokenizer.pad_token_id)
    mask = torch.cat([torch.ones(len(rows), shared, dtype=mask.dtype), mask], dim=1)
    written = []
    running = torch.ones(len(rows) * samples, dtype=torch.bool)
    for _ in range(MAX_NEW_TOKENS):
        positions = (mask.cumsum(dim=1) - 1)[:, -ids.shape[1] :]
        logits = (
            model(
                ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            .logits[:, -1]
            .float()
        )
        if not written and samples > 1:
            cache.batch_repeat_interleave(samples)
            logits, mask = logits.repeat_interleave(samples, dim=0), mask.repeat_interleave(samples, dim=0)
        chosen = draw(logits / temperature, top_k, top_p, noise)
        written.append(torch.where(running, chosen, -1))
        running &= chosen != tokenizer.eos_token_id
        if not running.any():
            break
        ids = chosen[:, None]
        mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
    return [[token for token in row if token >= 0] for row in torch.stack(written, dim=1).tolist()]


def draw(logits: torch.Tensor, top_k: int | None, top_p: float, noise: torch.Generator) -> torch.Tensor:
    """One token a row: the greatest of probability / exponential noise, within the top-k and then the top-p."""
    tokens = None
    if top_k is not None:
        logits, tokens = logits.topk(top_k)
    weights = logits.softmax(dim=1)
    if tokens is not None:
        weights = weights.masked_fill(weights.cumsum(dim=1) - weights >= top_p, 0.0)
    best = (weights / torch.empty_like(weights).exponential_(generator=noise)).argmax(dim=1, keepdim=True)
    return (best if tokens is None else tokens.gather(1, best))[:, 0]


def pad_left(rows: list[Tokens], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
    return ids, torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])


def prompt_tokens(tokenizer: PreTrainedTokenizerBase, prompt: str) -> Tokens:
    message = [{"role": "user", "content": prompt}]
    return tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=True)["input_ids"]


def score(tokenizer: PreTrainedTokenizerBase, prompts: list[str], replies: list[Tokens]) -> list[float]:
    texts = [tokenizer.decode(reply, skip_special_tokens=True) for reply in replies]
    return positivity.score(
        [
            [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}]
            for prompt, text in zip(prompts, texts, strict=True)
        ]
    )


def load(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def read_jsonl(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_jsonl(path: Path, rows: list[dict]) -> None:
    """Whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(row) + "\n" for row in rows))
    partial.rename(path)


def log(**facts: object) -> None:
    with (HERE / "log.jsonl").open("a") as file:
        file.write(json.dumps({"at": time.strftime("%Y-%m-%d %H:%M"), **facts}) + "\n")
    print(facts, flush=True)


def mean(values: list[float]) -> float:
    return round(sum(values) / len(values), 4)


def minutes_since(clock: float) -> float:
    return round((time.monotonic() - clock) / 60, 1)


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
