"""A recipe's data, from JSONL or a data set of the hub to what TRL trains on. Knows tokens, nothing of losses.

Forms of a record, which are TRL's; other fields are left alone, but for `tools` and `chat_template_kwargs`, which would
change what is trained on and are refused. For all algorithms but SFT it is a pair:

- `prompt`, `chosen`, `rejected` as texts: the user's message and two of the assistant's;
- the same as lists of messages, the replies of one message each;
- `chosen` and `rejected` as whole conversations, which differ in their last message: their shared beginning is the
  prompt, and a field `prompt` beside them repeats it, or as a text one of the user's messages in it.

For SFT: `prompt` and `completion` as texts or lists of messages (the reply alone is trained on), or `messages`, a whole
conversation (all of it is trained on).

A message is a role and a text. What else it holds is left alone, unless it says something: what the model's chat
template reads, and calls of tools whether or not it does, are refused.
"""

import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from llm_expo import records
from llm_expo.errors import RecipeError
from llm_expo.records import Message
from llm_expo.training.recipe import Recipe

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

_BATCH = 1000
"""Records that are tokenised at once."""


@dataclass(frozen=True, slots=True)
class Records:
    """What is trained on, in its order."""

    dataset: "Dataset"  # columns prompt, chosen, rejected; KTO: prompt, completion, label; SFT: messages, or prompt and
    # completion. All but label are lists of messages, as TRL's conversational form has them
    lengths: Sequence[Sequence[int]]  # tokens of each example's sequences, its prompt in each, cut at max_length
    dropped: Mapping[str, int]  # why -> how many records of the source
    sequential: bool  # TRL has to keep the order; otherwise its sampler shuffles by the recipe's seed

    @property
    def tokens(self) -> int:
        """Of all sequences."""
        return sum(map(sum, self.lengths))

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(map(max, self.lengths))

    def padded(self, sequences: int) -> int:
        """`tokens` and the padding: of so many sequences at once, each is filled up to the longest.

        Where TRL draws the records, of another draw than its own.
        """
        lengths = list(self.lengths)
        if not self.sequential:
            random.Random(0).shuffle(lengths)
        each = [length for example in lengths for length in example]
        parts = (each[begin : begin + sequences] for begin in range(0, len(each), sequences))
        return sum(max(part) * len(part) for part in parts)


@dataclass(frozen=True, slots=True)
class _Example:
    place: str
    prompt: list[Message]  # empty where all of a conversation is trained on
    replies: tuple[list[Message], ...]  # chosen and rejected; or one


def read_records(recipe: Recipe, tokenizer: "PreTrainedTokenizerBase") -> Records:
    """The records of `recipe.data`, checked, counted with the model's tokenizer and chat template, and in order.

    What is left out, and counted: records that stand there before; with `too_long = "drop"` those beyond max_length or
    max_prompt_length; with `too_long = "truncate"` those whose prompt is beyond max_prompt_length or fills max_length,
    or whose replies are alike as far as max_length, because TRL cuts ends off and nothing cuts a question; with
    `degenerate = "drop"` pairs of equal replies and replies without a text.

    Under KTO a record of the dataset is one reply, so there are two of each pair. They are shuffled here: TRL keeps
    their order for its KL term, and unpairs by the thousand, which would make batches of one kind.

    Raises RecipeError, naming the file and line or the data set and row: a record of another form, of another form than
    the first (SFT), equal or empty replies, messages that hold more than is trained on, too long with
    `too_long = "refuse"`, one that the chat template refuses; a tokenizer without a chat template; nothing left.
    """
    if not tokenizer.chat_template:
        raise RecipeError(
            f"{recipe.model}: its tokenizer has no chat template, so a prompt is not told from a reply; put one into "
            "the model's folder as chat_template.jinja, such as that of the chat model that belongs to it"
        )
    dropped: Counter[str] = Counter()
    examples = list(_examples(recipe, str(tokenizer.chat_template), dropped))
    kept: list[_Example] = []
    lengths: list[list[int]] = []  # tokens of each example's sequences
    for begin in range(0, len(examples), _BATCH):
        for example, sizes, why in _measured(recipe, tokenizer, examples[begin : begin + _BATCH]):
            if why is None:
                kept.append(example)
                lengths.append([min(size, recipe.max_length) for size in sizes])
            else:
                dropped[why] += 1
    if not kept:
        why = "; ".join(f"{count} {reason}" for reason, count in dropped.items()) or "it holds no records"
        raise RecipeError(f"{recipe.data}: nothing is left to train on: {why}")
    if recipe.order == "length_biased":
        # The prompt is in both, so the difference is that of the replies, as they are trained on: cut at max_length.
        by_difference = sorted(range(len(kept)), key=lambda index: lengths[index][1] - lengths[index][0])
        kept, lengths = [kept[index] for index in by_difference], [lengths[index] for index in by_difference]
    return Records(
        dataset=_dataset(recipe, kept),
        lengths=lengths,
        dropped=dict(dropped),
        sequential=recipe.order != "random" or recipe.algorithm == "kto",
    )


def open_rows(source: str) -> Iterator[tuple[str, Any]]:
    """(place, record) of a JSONL file, or of a data set as hub:DATASET:SPLIT, which is fetched before this returns.

    SPLIT may be a slice, such as train[:20%].
    """
    if not source.startswith("hub:"):
        return records.from_jsonl(Path(source), RecipeError)
    parts = source.split(":", 2)
    if len(parts) != 3 or not all(parts):
        raise RecipeError(f"{source}: write hub:DATASET:SPLIT")
    rows = records.from_hub(source, parts[1], parts[2], "train", RecipeError)
    return ((f"{source}, row {number}", row) for number, row in enumerate(rows))


def _examples(recipe: Recipe, template: str, dropped: Counter[str]) -> Iterator[_Example]:
    """Every usable record once; `dropped` counts the others. template: the model's chat template."""
    read = _supervised if recipe.algorithm == "sft" else _pair
    seen: set[tuple[str, ...]] = set()
    first: _Example | None = None
    for place, record in open_rows(recipe.data):
        if not isinstance(record, Mapping):
            raise RecipeError(f"{place}: a record is an object, this is {records.kind(record)}")
        _refuse_unread(record, template, place)
        example = read(record, place)
        first = first or example
        if bool(first.prompt) != bool(example.prompt):
            raise RecipeError(f"{place}: `messages`, and `prompt` with `completion`, do not mix; see {first.place}")
        texts = [message[key] for part in (example.prompt, *example.replies) for message in part for key in message]
        records.refuse_surrogates(texts, place, RecipeError)
        if why := _degenerate(example):
            if recipe.degenerate == "refuse":
                raise RecipeError(f'{place}: {why}, which teaches nothing; degenerate = "drop" leaves such records out')
            dropped[why] += 1
        elif (key := tuple(texts)) in seen:
            dropped["stands there before"] += 1
        else:
            seen.add(key)
            yield example


def _refuse_unread(record: Mapping[str, Any], template: str, place: str) -> None:
    """Raise RecipeError for what TRL would give to the chat template, and is not given to it here."""
    for field in ("tools", "chat_template_kwargs"):
        if record.get(field):
            raise RecipeError(f"{place}: `{field}` would change what the model reads, and is not for training here")
    for part in ("prompt", "chosen", "rejected", "completion", "messages"):
        messages = record.get(part)
        for message in messages if isinstance(messages, list) else ():
            for key, value in message.items() if isinstance(message, Mapping) else ():
                if key in ("role", "content") or not value:
                    continue
                if key in ("tool_calls", "function_call") or re.search(rf"\b{re.escape(str(key))}\b", template):
                    raise RecipeError(
                        f"{place}: a message in {part} holds `{key}`, which is part of what it says and is not trained "
                        "on here; leave such records out, or write it into the content"
                    )


def _pair(record: Mapping[str, Any], place: str) -> _Example:
    lacks = [f"`{name}`" for name in ("chosen", "rejected") if record.get(name) is None]
    if lacks:
        raise RecipeError(f"{place}: no {' and no '.join(lacks)}; it has {_fields(record)}")
    chosen, rejected = (_reply(record[name], name, place) for name in ("chosen", "rejected"))
    beginning, asked = chosen[:-1], record.get("prompt")
    if rejected[:-1] != beginning:
        raise RecipeError(f"{place}: chosen and rejected differ before their last message, so they share no prompt")
    if asked is None and not beginning:
        raise RecipeError(f"{place}: no `prompt`, nor do chosen and rejected begin with one; it has {_fields(record)}")
    if isinstance(asked, list) or not beginning:
        prompt = records.conversation(asked, "the prompt", place, RecipeError)
        if beginning and beginning != prompt:
            raise RecipeError(f"{place}: chosen holds {len(chosen)} messages and does not begin with the prompt")
    else:
        prompt = beginning
        if isinstance(asked, str) and not _repeats(asked, beginning):
            raise RecipeError(f"{place}: the prompt is another text than the messages that chosen and rejected share")
    return _Example(place, _question(prompt, place), (chosen[-1:], rejected[-1:]))


def _repeats(asked: str, beginning: list[Message]) -> bool:
    """Whether a prompt beside whole conversations is one of the user's messages, or a text that holds the last one."""
    texts = [message["content"].strip() for message in beginning if message["role"] == "user"]
    return asked.strip() in texts or (bool(texts) and texts[-1] in asked)


def _supervised(record: Mapping[str, Any], place: str) -> _Example:
    if record.get("completion") is not None:
        if record.get("prompt") is None:
            raise RecipeError(f"{place}: no `prompt`; it has {_fields(record)}")
        prompt = records.conversation(record["prompt"], "the prompt", place, RecipeError)
        reply = _reply(record["completion"], "completion", place)
        if len(reply) > 1:
            raise RecipeError(f"{place}: completion holds {len(reply)} messages; a reply is one")
        return _Example(place, _question(prompt, place), (reply,))
    if not isinstance(record.get("messages"), list):
        raise RecipeError(f"{place}: neither `messages` nor `prompt` and `completion`; it has {_fields(record)}")
    return _Example(place, [], (_reply(record["messages"], "messages", place),))


def _reply(value: object, name: str, place: str) -> list[Message]:
    """Messages that end with the assistant's; whether that says anything is not yet judged."""
    messages = records.conversation(value, name, place, RecipeError, speaker="assistant", blank_end=True)
    if messages[-1]["role"] != "assistant":
        raise RecipeError(f"{place}: {name} ends with the {messages[-1]['role']}'s message, not the assistant's")
    return messages


def _question(prompt: list[Message], place: str) -> list[Message]:
    if prompt[-1]["role"] != "user":
        raise RecipeError(f"{place}: the prompt ends with the {prompt[-1]['role']}'s message, not the user's")
    return prompt


def _fields(record: Mapping[str, Any]) -> str:
    return ", ".join(map(str, record)) or "no fields"


def _degenerate(example: _Example) -> str | None:
    if not all(reply[-1]["content"].strip() for reply in example.replies):
        return "a reply has no text"
    if len(example.replies) == 2 and example.replies[0] == example.replies[1]:
        return "chosen equals rejected"
    return None


def _measured(
    recipe: Recipe, tokenizer: "PreTrainedTokenizerBase", examples: Sequence[_Example]
) -> Iterator[tuple[_Example, list[int], str | None]]:
    """Each example, the tokens of its sequences (prompt and a reply), and why it has to be left out."""
    sequences = _tokens(
        tokenizer, [(each.place, each.prompt + reply) for each in examples for reply in each.replies], asking=False
    )
    prompts = None
    if examples[0].prompt and (recipe.max_prompt_length is not None or recipe.too_long == "truncate"):
        prompts = _tokens(tokenizer, [(each.place, each.prompt) for each in examples], asking=True)
    replies = len(examples[0].replies)
    for number, example in enumerate(examples):
        own = sequences[number * replies : (number + 1) * replies]
        why = _unfit(recipe, example.place, len(prompts[number]) if prompts else 0, own)
        yield example, list(map(len, own)), why


def _unfit(recipe: Recipe, place: str, prompt: int, sequences: Sequence[Sequence[int]]) -> str | None:
    """Why a record is left out: the tokens of its prompt, and its sequences."""
    sizes, limit, why = list(map(len, sequences)), recipe.max_length, None
    if prompt > (recipe.max_prompt_length or prompt):
        why = f"prompt longer than max_prompt_length = {recipe.max_prompt_length}"
    elif max(sizes) > limit and recipe.too_long != "truncate":
        why = f"longer than max_length = {limit}"
    elif prompt >= limit:
        why = f"prompt fills max_length = {limit}"
    elif len(sizes) == 2 and sequences[0][:limit] == sequences[1][:limit]:
        why = f"chosen and rejected are the same tokens up to max_length = {limit}"
    if why and recipe.too_long == "refuse":
        counted = f"{prompt} tokens of prompt, " if prompt else ""
        counted += f"{' and '.join(map(str, sizes))} with {'the replies' if len(sizes) == 2 else 'the reply'}"
        raise RecipeError(f'{place}: {why}: {counted}; too_long = "drop" leaves such records out')
    return why


def _tokens(
    tokenizer: "PreTrainedTokenizerBase", conversations: Sequence[tuple[str, list[Message]]], *, asking: bool
) -> list[list[int]]:
    """As TRL will tokenise them; `asking`: the reply is still to come."""
    messages = [each for _, each in conversations]
    try:
        texts = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=asking)
    except TemplateError:
        for place, each in conversations:  # which of them it was
            try:
                tokenizer.apply_chat_template(each, tokenize=False, add_generation_prompt=asking)
            except TemplateError as error:
                raise RecipeError(f"{place}: the model's chat template does not take it: {error}") from None
        raise
    encoded: list[list[int]] = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)[
        "input_ids"
    ]
    return encoded


def _dataset(recipe: Recipe, kept: Sequence[_Example]) -> "Dataset":
    from datasets import Dataset

    prompts = [each.prompt for each in kept]
    replies = list(zip(*(each.replies for each in kept), strict=True))
    if recipe.algorithm == "kto":
        rows = [
            {"prompt": each.prompt, "completion": reply, "label": label}
            for each in kept
            for reply, label in zip(each.replies, (True, False), strict=True)
        ]
        random.Random(recipe.seed).shuffle(rows)
        return Dataset.from_list(rows)
    if recipe.algorithm != "sft":
        return Dataset.from_dict({"prompt": prompts, "chosen": replies[0], "rejected": replies[1]})
    if prompts[0]:
        return Dataset.from_dict({"prompt": prompts, "completion": replies[0]})
    return Dataset.from_dict({"messages": replies[0]})
