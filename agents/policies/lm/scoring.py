"""Log-probabilities of given responses, in one forward pass over prompts and responses (teacher forcing)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from agents.policies import sharding
from agents.policies.lm.batching import padded
from agents.policies.lm.constraints import Constraints, walk
from agents.policies.lm.fused_logprob import Process, fused_logprob
from preference_duel.transfer import all_to_device


class Root(nn.Module):
    """Runs functions of a transformers model inside a forward pass.

    Models are called through it, since FSDP gathers parameters before the `forward` of its root only: a function that
    calls the layers without the output layer would otherwise find the rest of the parameters spread.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[..., Tensor], *arguments: Any) -> Tensor:
        """Returns `function(model, *arguments)`.

        Autocast keeps each rounded weight until a pass ends: of a sharded model the whole would lie on every device.
        """
        if not sharding.is_sharded(self):
            return function(self.model, *arguments)
        with torch.autocast(self.model.device.type, enabled=False, cache_enabled=False):
            return function(self.model, *arguments)


@dataclass(frozen=True)
class Texts:
    """R prompts with their responses, M response tokens in all.

    Attributes:
        ids: [R, L] without each response's last token, after which nothing is predicted.
        index: [M] the place before each response token among the R L places.
        tokens: [M] the response tokens.
        states: [M] the state of the constraints before each of them; of none, if there are no constraints.
        first: the lowest column of those places.
    """

    ids: Tensor
    index: Tensor
    tokens: Tensor
    states: Tensor
    first: int

    @classmethod
    def of(
        cls,
        prompts: Sequence[Sequence[int]],
        responses: Sequence[Sequence[int]],
        device: torch.device,
        constraints: Constraints | None = None,
    ) -> Texts:
        """Pads prompts and responses given in tokens; all of them reach the device in one copy."""
        ids = padded([[*x, *y[:-1]] for x, y in zip(prompts, responses, strict=True)])
        starts = [r * ids.shape[1] + len(prompt) - 1 for r, prompt in enumerate(prompts)]
        index = [start + t for start, response in zip(starts, responses, strict=True) for t in range(len(response))]
        rows = padded(responses)
        written = torch.arange(rows.shape[1]) < torch.tensor([len(response) for response in responses])[:, None]
        states = rows.new_empty(0) if constraints is None else walk(constraints, rows)[written]
        ids, places, tokens, states = all_to_device([ids, torch.tensor(index), rows[written], states], device)
        return cls(ids, places, tokens, states, min(map(len, prompts)) - 1)


def fused_logprob_at(model: Any, texts: Texts, process: Process, temperature: float, autocast: bool) -> Tensor:
    """Returns [M] nats float32 of the M response tokens, by a model that `is_plain`; see `fused_logprob`."""
    with torch.autocast(texts.ids.device.type, torch.bfloat16, enabled=autocast):
        hidden = model.base_model(input_ids=texts.ids, use_cache=False).last_hidden_state
        hidden = hidden.flatten(0, 1).index_select(0, texts.index)  # [M, d]
        return fused_logprob(hidden, model.get_output_embeddings().weight, texts.tokens, process, temperature)


def logits_at(model: Any, texts: Texts, plain: bool, last_only: bool, autocast: bool) -> Tensor:
    """Returns [M, V] the model's logits before each of the M response tokens, differentiable.

    Args:
        model: a causal language model.
        texts: prompts and responses.
        plain: whether it `is_plain`; then only these places pass through the output layer.
        last_only: whether the model takes `logits_to_keep`, so that others compute no logits of the shortest prompt.
        autocast: whether the pass runs under bfloat16 autocast.
    """
    ids, index = texts.ids, texts.index
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=autocast):
        if plain:
            hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
            return model.get_output_embeddings()(hidden.flatten(0, 1).index_select(0, index))
        if not last_only:
            return model(input_ids=ids, use_cache=False).logits.flatten(0, 1).index_select(0, index)
        width = ids.shape[1]
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=width - texts.first).logits
        kept = index - texts.first * (index // width + 1)  # the same places when each row lacks its first ones
        return logits.flatten(0, 1).index_select(0, kept)


@torch.no_grad()
def is_plain(model: Any) -> bool:
    """Returns whether a model's logits are its last hidden states times one matrix, and nothing is done to them after.

    Some are capped or scaled (Gemma 2, Cohere, Granite), and an output layer may have a bias or an adapter. The test
    replaces the matrix in two passes: by 0, which shows what is added, and by a large one, which shows caps and scales.
    """
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear or head.bias is not None:
        return False
    name = next(name for name, part in model.named_modules() if part is head)
    inputs = {"input_ids": torch.arange(2, device=model.device)[None], "use_cache": False}
    try:
        hidden = model.base_model(**inputs).last_hidden_state
        lengths = hidden[0].float().square().sum(1)
        direction = hidden[0, lengths.argmax()] / lengths.max().to(hidden)  # the other may be 0, of a padding token
        for size in (0.0, 1e4):
            matrix = torch.linspace(-size, size, 8).to(direction)[:, None] * direction  # [8, d]
            replaced = {f"{name}.weight": matrix.to(head.weight.dtype)}
            logits = torch.func.functional_call(model, replaced, (), inputs, tie_weights=False).logits
            gap = (logits.float() - linear(hidden, matrix).float()).abs().max()
            if not gap <= 2 * torch.finfo(matrix.dtype).eps * size:
                return False
    except (AttributeError, IndexError, RuntimeError, TypeError):
        return False  # code that a checkpoint brings along need not have a base model, nor take another matrix
    return True


def chosen(logits: Tensor, tokens: Tensor) -> Tensor:
    """Returns [M] nats: the log-probability of each of the tokens [M] under the logits [M, V] before it."""
    return logits.gather(1, tokens[:, None]).squeeze(1) - logits.logsumexp(-1)
