"""Replies to a batch of prompts in as few matrix products as the model's cache allows.

A decoding method for transformers' `generate`, which still prepares everything that depends on the model: cache, masks,
positions. Where the cache holds a row's keys and values column by column and nothing else, equal prompts are read once,
short ones without most of their padding, and rows that have ended leave the batch; any other model (a recurrent state,
a cache of its own) keeps all of its rows to the end. Knows nothing of sampling, text or memory.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from llm_expo.generation.cache import make_room

Draw = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(logits, replies so far, rows) to the next token of each.

float32 (n, vocabulary), int64 (n, tokens so far), int64 (n,) places in the batch; returns int64 (n,).
"""

_STAGE = 64
"""What a pass over the model costs beside its columns, in columns of one row."""


def decode(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], draw: Draw, stops: Sequence[int], max_tokens: int
) -> list[list[int]]:
    """Token ids of a reply to each prompt: up to the first of `stops`, which is kept, or `max_tokens` of them.

    The same prompts in the same order are computed in the same shapes, so the same replies come of them.
    """
    inputs, mask = pad_left(prompts, stops[0], model.device)
    ends = torch.tensor(list(stops), device=model.device)
    replies: list[list[int]] = [[] for _ in prompts]

    def loop(
        model: Any,
        ids: Tensor,
        logits_processor: object,  # noqa: ARG001 (nothing that is wanted of it, as of the next two)
        stopping_criteria: object,  # noqa: ARG001
        generation_config: object,  # noqa: ARG001
        **state: Any,
    ) -> None:
        length, rows = ids.shape[1], torch.arange(len(prompts), device=ids.device)
        by_row = _is_by_row(state)
        if by_row:
            for cache in _caches(state):
                make_room(cache)
            distinct, again = _distinct(prompts)
            read = torch.tensor(distinct, device=ids.device)
            ids, state = ids[read], _select(state, read)
            outputs = _read(model, ids, state, [length - len(prompts[place]) for place in distinct])
        else:
            inputs = model.prepare_inputs_for_generation(ids, is_first_iteration=True, **state)
            outputs = model(**inputs, return_dict=True)
        state = model._update_model_kwargs_for_generation(outputs, state)
        logits = outputs.logits[:, -1]
        if by_row and again != list(range(len(again))):
            spread = torch.tensor(again, device=ids.device)
            ids, logits, state = ids[spread], logits[spread], _select(state, spread)
        ended = torch.zeros_like(rows, dtype=torch.bool)
        while True:
            del outputs  # the logits of a whole prompt may be among them
            # a copy, since `draw` may change it in place
            tokens = draw(logits.to(torch.float32, copy=True), ids[:, length:], rows)
            ids = torch.cat([ids, tokens[:, None]], dim=1)
            ended |= torch.isin(tokens, ends)
            over = bool(ended.all()) or ids.shape[1] - length == max_tokens
            # To select is to copy the cache: not for every row that ends.
            if over or (by_row and 8 * int(ended.sum()) >= len(rows)):
                leaving = torch.ones_like(ended) if over else ended
                for row, reply in zip(rows[leaving].tolist(), ids[leaving, length:].tolist(), strict=True):
                    replies[row] = _up_to_end(reply, stops)
                if over:
                    return
                going = (~leaving).nonzero().squeeze(1)
                rows, ids, ended, state = rows[going], ids[going], ended[going], _select(state, going)
            inputs = model.prepare_inputs_for_generation(ids, next_sequence_length=1, **state)
            outputs = model(**inputs, return_dict=True)
            state = model._update_model_kwargs_for_generation(outputs, state)
            logits = outputs.logits[:, -1]

    config = GenerationConfig(
        max_new_tokens=max_tokens, do_sample=False, eos_token_id=list(stops), pad_token_id=stops[0], use_cache=True
    )
    with torch.inference_mode():
        model.generate(inputs, attention_mask=mask, generation_config=config, custom_generate=loop)  # type: ignore[operator]
    return replies


def pad_left(rows: Sequence[Sequence[int]], padding: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, each int64 (batch, longest): replies have to start at one place."""
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), padding)
    mask = torch.zeros((len(rows), longest), dtype=torch.int64)
    for row, tokens in enumerate(rows):
        ids[row, longest - len(tokens) :] = torch.tensor(list(tokens))
        mask[row, longest - len(tokens) :] = 1
    return ids.to(device), mask.to(device)


def _is_by_row(state: Mapping[str, Any]) -> bool:
    """Whether everything that `generate` carries from one token to the next can be taken apart by rows.

    Told by what it is made of, of whatever architecture: matrices with a row each, settings, and a cache whose layers
    are all of the kinds that hold keys and values. A layer of a derived kind may hold more.
    """
    kinds = (DynamicLayer, DynamicSlidingWindowLayer)
    return bool(_caches(state)) and all(
        value.ndim == 2
        if isinstance(value, Tensor)
        else all(type(layer) in kinds for layer in value.layers)
        if type(value) is DynamicCache
        else value is None or isinstance(value, bool | int)
        for value in state.values()
    )


def _read(model: Any, ids: Tensor, state: Mapping[str, Any], starts: Sequence[int]) -> Any:
    """The model's outputs for whole prompts, in stages that leave out most of the padding.

    In a stage, the rows that have begun read some columns. A row that begins in the next one takes a copy of the first
    row's cache along: where its mask is 0, it does not matter what stands there.

    Args:
        ids: (rows, columns), the longest prompt first.
        starts: columns of padding before each row, in ascending order, from 0.
    """
    held, outputs = 0, None
    for rows, begin, end in _stages(starts, ids.shape[1]):
        if begin and rows > held:
            own_or_first = torch.tensor([row if row < held else 0 for row in range(rows)], device=ids.device)
            for cache in _caches(state):
                cache.batch_select_indices(own_or_first)
        so_far = {name: value[:rows, :end] if isinstance(value, Tensor) else value for name, value in state.items()}
        inputs = model.prepare_inputs_for_generation(
            ids[:rows, :end], next_sequence_length=end - begin, is_first_iteration=begin == 0, **so_far
        )
        held, outputs = rows, model(**inputs, return_dict=True)
    return outputs


def _stages(starts: Sequence[int], length: int) -> list[tuple[int, int, int]]:
    """(rows, first column, column behind the last) of each stage, so that the least is computed in all."""
    edges = sorted({*starts, length})
    begun = [bisect_left(starts, edge) for edge in edges]  # rows that start before it
    # of the columns up to each edge: what they cost, and where the last stage begins
    least: list[tuple[int, int]] = [(0, 0)]
    for edge, rows in list(zip(edges, begun, strict=True))[1:]:
        costs = ((cost + _STAGE + rows * (edge - edges[place]), place) for place, (cost, _) in enumerate(least))
        least.append(min(costs))
    stages, place = [], len(edges) - 1
    while place:
        before = least[place][1]
        stages.append((begun[place], edges[before], edges[place]))
        place = before
    return stages[::-1]


def _caches(state: Mapping[str, Any]) -> list[DynamicCache]:
    return [value for value in state.values() if isinstance(value, DynamicCache)]


def _select(state: Mapping[str, Any], rows: Tensor) -> dict[str, Any]:
    """`state` of `rows` alone, in that order; the cache is changed in place."""
    for cache in _caches(state):
        cache.batch_select_indices(rows)
    return {name: value[rows] if isinstance(value, Tensor) else value for name, value in state.items()}


def _distinct(prompts: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
    """Places of the distinct prompts, the longest first, and for every prompt, which of them it is."""
    places: dict[tuple[int, ...], int] = {}
    for place, prompt in enumerate(prompts):
        places.setdefault(tuple(prompt), place)
    ordered = sorted(places, key=len, reverse=True)
    rank = {prompt: number for number, prompt in enumerate(ordered)}
    return [places[prompt] for prompt in ordered], [rank[tuple(prompt)] for prompt in prompts]


def _up_to_end(reply: list[int], stops: Sequence[int]) -> list[int]:
    return reply[: next((place + 1 for place, token in enumerate(reply) if token in stops), None)]
