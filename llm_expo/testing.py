"""Parts for tests, ours and yours: a small real pair of checkpoints, and an engine and a scorer without a model.

`tiny_pair` makes what the real engine takes; `FakeEngine` and `FakeScorer` answer at once and draw a curve of reward
over alpha that the test chooses.
"""

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from llm_expo.generation import Json, Prompt, Reply, Request
from llm_expo.scoring import Conversation
from llm_expo.search.rounds import Seen, Spent, Strategy

TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|> {{ message['content'] }} <|end|> {% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> {% endif %}"
)
WORDS = tuple("the a one red blue good bad old new cat dog sun sea tree runs sings sleeps and then here now".split())


class FakeEngine:
    """Replies with numbers: `curve(alpha)` plus noise that is keyed like a real engine's.

    Every reply is the same at every call. `log_probabilities` fall from -1 by `drift` for each alpha that lies between
    the reply's model and the one that reads it.
    """

    def __init__(
        self, curve: Callable[[float], float], *, noise: float = 1.0, seed: int = 42, drift: float = 0.02
    ) -> None:
        self._curve = curve
        self._noise = noise
        self._seed = seed
        self._drift = drift
        self.generated: list[tuple[float, str]] = []  # (alpha, prompt id), as they were made

    @property
    def settings(self) -> dict[str, Json]:
        return {"engine": "fake", "seed": self._seed, "noise": self._noise}

    @property
    def environment(self) -> dict[str, Json]:
        return {"device": "none"}

    def encode(self, prompts: Sequence[Prompt]) -> list[tuple[int, ...]]:
        return [tuple(len(word) for message in p.messages for word in message["content"].split()) for p in prompts]

    @property
    def special_tokens(self) -> dict[int, str]:
        return {}

    def move(self, alpha: float) -> None:
        pass

    def rest(self) -> None:
        pass

    def generate(self, alpha: float, batches: Iterable[Sequence[Request]]) -> Iterator[list[Reply]]:
        for batch in batches:
            replies = []
            for request in batch:
                noise = random.Random(f"{self._seed} {request.prompt} {request.noise}").gauss(0, self._noise)
                # Some noise is the alpha's own, or paired differences would have no spread.
                own = random.Random(f"{self._seed} {request.prompt} {alpha!r}").gauss(0, self._noise / 4)
                self.generated.append((alpha, request.prompt))
                replies.append(Reply(f"{self._curve(alpha) + noise + own!r}", (round(alpha * 1000) + 1000, 2), False))
            yield replies

    def log_probabilities(
        self, alpha: float, batches: Iterable[Sequence[tuple[Sequence[int], Sequence[int]]]]
    ) -> Iterator[list[float]]:
        for batch in batches:
            yield [-1.0 - self._drift * abs(reply[0] / 1000 - 1 - alpha) for _, reply in batch]


class FakeScorer:
    """Reads the number that `FakeEngine` replied."""

    name = "fake"

    def score(self, conversations: Sequence[Conversation], _: object = None) -> list[float]:
        return [float(conversation[-1]["content"]) for conversation in conversations]


def play(
    strategy: Strategy,
    prompts: Sequence[str],
    reward: Callable[[float, str], float],
    *,
    collapse: Callable[[float, int], str | None] = lambda _alpha, _count: None,
    spent: Callable[[Mapping[float, int], int], Spent] = lambda completions, _: Spent(completions),
) -> Seen:
    """What `strategy` has seen when it stops, where theta(alpha) earns `reward(alpha, prompt)`.

    `collapse(alpha, count)` is the guard's symptom in so many replies, or None; `spent` says what alpha -> completions
    cost in so many rounds.
    """
    seen, rounds = Seen(tuple(prompts)), 0
    while (wanted := strategy(seen)) is not None:
        rounds += 1
        rewards, collapsed = dict(seen.rewards), dict(seen.collapsed)
        completions = dict(seen.spent.completions)
        for alpha, count in wanted.wanted.items():
            completions[alpha] = max(completions.get(alpha, 0), count)
            if (symptom := collapse(alpha, count)) is not None:
                collapsed[alpha] = symptom
            had = rewards.get(alpha, {})
            rewards[alpha] = {**had, **{each: reward(alpha, each) for each in prompts[len(had) : count]}}
        assert completions != seen.spent.completions, f"{wanted} asks for what is there"
        seen = Seen(seen.prompts, rewards, collapsed, spent(completions, rounds))
    return seen


def peak(at: float, height: float = 1.0) -> Callable[[float], float]:
    """A reward curve with one peak, in log(1 + alpha), and a fall behind it; theta1 (alpha 0) is at 0."""

    def curve(alpha: float) -> float:
        return height * (1 - (math.log1p(max(alpha, -0.99)) / math.log1p(at) - 1) ** 2)

    return curve


def tiny_pair(
    folder: Path,
    *,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    shard_size: str = "5GB",
    tied: bool = False,
    seed: int = 0,
) -> tuple[Path, Path]:
    """Write a random two-layer Llama and a slightly moved one, with a word-level tokenizer and a chat template.

    `tied` shares the weights of embedding and head. Returns the folders of theta0 and theta1. Needs the `search` extra.
    """
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<pad>", "<|end|>", "<unk>", "<|user|>", "<|assistant|>", "<|system|>"]
    vocabulary = {word: index for index, word in enumerate([*special, *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        eos_token="<|end|>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=special[3:],
    )
    tokenizer.chat_template = TEMPLATE
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=None,
        tie_word_embeddings=tied,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        folders = (folder / "theta0", folder / "theta1")
        for place, path in enumerate(folders):
            for parameter in model.parameters():
                spread = (1.0, 0.1)[place]  # theta0's weights are large, so that its replies are not all alike
                parameter.data += spread * torch.randn_like(parameter)
            model.to(getattr(torch, dtype)).save_pretrained(path, max_shard_size=shard_size)
            tokenizer.save_pretrained(path)
            model.float()
    return folders
