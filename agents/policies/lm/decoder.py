"""Decoding with a cache of keys and values: prompts are read once, then each token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from agents.policies.lm.scoring import Root
from preference_duel.transfer import all_to_device

_CACHES = "cache", "past_key_values"
"""Names of the cache's argument: transformers renamed it, code that a checkpoint brings along may not have."""


class Decoder(Protocol):
    """A batch of unfinished responses."""

    def logits(self, states: Tensor) -> Tensor:
        """Returns [R, V] float32: processed logits of the next token, -inf if it is illegal."""
        ...

    def append(self, tokens: Tensor) -> None:
        """Appends one token [R] to every response."""
        ...

    def select(self, rows: Tensor) -> None:
        """Goes on with these responses only; a row that is named twice is doubled."""
        ...


@dataclass(frozen=True)
class ForwardArguments:
    """Arguments of a model's forward pass beside tokens and a mask.

    Attributes:
        cache: name of the cache of keys and values.
        positions: whether it takes `position_ids`.
        last_only: whether it takes `logits_to_keep`.
        wide_mask: whether it takes a mask [R, 1, 1, T] of one token's queries. transformers makes it of a mask [R, T]
            otherwise, and waits for the device at every token to see if anything is padding.
        cache_size: numbers that the cache holds of a token.
    """

    cache: str
    positions: bool
    last_only: bool
    wide_mask: bool = False
    cache_size: int = 0


@torch.no_grad()
def forward_arguments(model: Any) -> ForwardArguments:
    """Returns the arguments that a model's forward pass takes.

    They are tried: its signature may be a wrapper's, and need not name them.

    Raises:
        ValueError: if it fills no cache of keys and values.
    """
    from agents.policies.lm.kv_cache import roomy_cache

    ids = torch.zeros(1, 2, dtype=torch.long, device=model.device)
    positions = {"position_ids": torch.arange(2, device=model.device)[None]}
    last = {"logits_to_keep": 1}
    size = 0

    def fills(name: str, options: dict[str, Any]) -> bool:
        nonlocal size
        with refusing_errors(model):
            cache = roomy_cache(model, 2)
            try:
                model(input_ids=ids, use_cache=True, **{name: cache}, **options)
            except TypeError:  # unknown to it, or to what it is handed on to
                return False
            held = [getattr(layer, name, None) for layer in cache.layers for name in ("keys", "values")]
            size = sum(x[:, :, :1].numel() for x in held if x is not None)
            return size > 0 and cache.get_seq_length() == 2

    for name in _CACHES:
        if fills(name, positions | last):
            wide_mask = model.device.type != "cpu" and takes_wide_mask(model, name)  # on the CPU it saves nothing
            return ForwardArguments(name, True, True, wide_mask, size)
        if fills(name, {}):
            return ForwardArguments(name, fills(name, positions), fills(name, last), cache_size=size)
    raise ValueError(
        f"'{model.name_or_path}': {type(model).__name__} fills no cache of keys and values, by which responses are "
        f"written token by token; take a transformer"
    )


@torch.no_grad()
def takes_wide_mask(model: Any, cache_name: str) -> bool:
    """Returns whether a mask of one token's queries gives the logits of the usual mask."""
    from agents.policies.lm.kv_cache import RoomyLayer, roomy_cache

    ids = torch.arange(4, device=model.device).view(2, 2)
    mask = (ids > 0).long()  # the first row begins with padding
    logits = []
    for wide in (False, True):
        cache = roomy_cache(model, 3)
        if any(type(layer) is not RoomyLayer for layer in cache.layers):
            return False  # a window, in which a token does not see all before it
        model(input_ids=ids, attention_mask=mask, use_cache=True, position_ids=mask, **{cache_name: cache})
        seen = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        seen = (seen > 0)[:, None, None] if wide else seen
        last = {"input_ids": ids[:, :1], "attention_mask": seen, "position_ids": mask[:, -1:] + 1, cache_name: cache}
        try:
            logits.append(model(use_cache=True, **last).logits.float())
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
            return False
    gap = (logits[0] - logits[1]).abs().max()
    return bool(gap <= 2 * torch.finfo(model.dtype).eps * logits[0].abs().max())


@contextmanager
def refusing_errors(model: Any) -> Iterator[None]:
    """Turns whatever a model's own code raises, unless memory runs out, into a ValueError that names the model."""
    try:
        yield
    except Exception as error:  # any architecture, and code that a checkpoint brings along, may raise anything
        if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
            raise
        raise ValueError(
            f"'{model.name_or_path}': {type(model).__name__} can't write a response token by token and read it again "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}); take another "
            f"architecture"
        ) from error


class CachedDecoder:
    """Unfinished responses of one model, a `Decoder`.

    Args:
        root: of a causal language model.
        takes: arguments of its forward pass.
        prompts: prompts in tokens; equal ones are read once.
        process: turns the model's logits [R, V] and the states [R] into those that are sampled from.
        room: tokens of a response that the cache has memory for.
        autocast: whether forward passes run under bfloat16 autocast.
    """

    def __init__(
        self,
        root: Root,
        takes: ForwardArguments,
        prompts: Sequence[tuple[int, ...]],
        process: Callable[[Tensor, Tensor], Tensor],
        room: int,
        autocast: bool = False,
    ) -> None:
        from agents.policies.lm.kv_cache import roomy_cache

        model = root.model
        self._root, self._arguments, self._process, self._autocast = root, takes, process, autocast
        place = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
        width = max(map(len, place))
        self._cache = roomy_cache(model, width + room)
        texts = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in place])
        lengths = torch.tensor([len(prompt) for prompt in place])
        rows = torch.tensor([place[prompt] for prompt in prompts])
        self._padded = bool((lengths < width).any())
        ids, lengths, rows = all_to_device([texts, lengths, rows], model.device)
        self._mask = (torch.arange(width, device=model.device) >= width - lengths[:, None]).long()
        self._positions = (self._mask.cumsum(1) - 1).clamp(min=0)
        self._forward(ids, **({"logits_to_keep": 1} if takes.last_only else {}))
        if len(place) < len(prompts):
            self.select(rows)

    def logits(self, states: Tensor) -> Tensor:
        """Returns [R, V] float32."""
        return self._process(self._logits, states)

    def append(self, tokens: Tensor) -> None:
        """Appends one token [R] to every response."""
        self._mask = torch.cat([self._mask, torch.ones_like(self._mask[:, :1])], dim=1)
        self._positions = self._positions[:, -1:] + 1
        self._forward(tokens[:, None])

    def select(self, rows: Tensor) -> None:
        """Goes on with these responses only; a row that is named twice is doubled."""
        self._cache.reorder_cache(rows)  # pyright: ignore[reportArgumentType] - it asks for a LongTensor
        self._logits, self._mask, self._positions = self._logits[rows], self._mask[rows], self._positions[rows]

    def _forward(self, ids: Tensor, **options: Any) -> None:
        if self._padded:
            wide = self._arguments.wide_mask and ids.shape[1] == 1
            options["attention_mask"] = (self._mask > 0)[:, None, None] if wide else self._mask
        if self._arguments.positions:
            options["position_ids"] = self._positions
        options[self._arguments.cache] = self._cache
        with torch.no_grad(), torch.autocast(ids.device.type, torch.bfloat16, enabled=self._autocast):
            self._logits = self._root(_last_logits, {"input_ids": ids, **options})


class GraphedDecoder(CachedDecoder):
    """A `CachedDecoder` that records a token's step as a CUDA graph: the host launches it whole, not op by op.

    All that a step reads and writes stays where it is, and it reads all of the cache's memory, masked where nothing is
    written yet. After the rows have changed the first step is made as always, the second recorded, and then replayed.

    Args:
        takes: arguments of its forward pass, a wide mask among them.
    """

    _ids: Tensor | None = None
    _place: Tensor | None = None
    _replay: Callable[[], None] | None = None

    def append(self, tokens: Tensor) -> None:
        """Appends one token [R] to every response."""
        if self._place is None:
            self._place = self._fixed()
        if self._ids is None:
            self._ids = tokens[:, None].clone()
            self._step(self._ids, self._place)
            return
        self._ids.copy_(tokens[:, None])
        if self._replay is None:
            self._replay = recorded(partial(self._step, self._ids, self._place))
        self._replay()

    def select(self, rows: Tensor) -> None:
        """Goes on with these responses only; a row that is named twice is doubled."""
        super().select(rows)
        self._ids = self._replay = None

    def _fixed(self) -> Tensor:
        """Gives cache, mask and positions the shapes that they keep; returns [1] the place of the next token."""
        width = self._mask.shape[1]
        place = torch.full((1,), width, device=self._mask.device)
        layers: list[Any] = self._cache.layers  # with others than ours a model takes no wide mask
        for layer in layers:
            layer.fix(place)
        room = layers[0].keys.shape[2]
        self._mask = torch.nn.functional.pad(self._mask, (0, room - width))
        self._positions = self._positions[:, -1:].clone()
        self._padded = True
        return place

    def _step(self, ids: Tensor, place: Tensor) -> None:
        self._mask.index_fill_(1, place, 1)
        self._positions += 1
        self._forward(ids)
        place += 1


def recorded(run: Callable[[], None]) -> Callable[[], None]:
    """Records what a function launches on a GPU, without running it; returns what launches that again."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def _last_logits(model: Any, options: dict[str, Any]) -> Tensor:
    return model(use_cache=True, **options).logits[:, -1]
