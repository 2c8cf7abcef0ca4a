"""A learned preference model for text: a language model's layers with a head that can express cycles."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from agents.optim.optimiser import Optimiser
from agents.policies.lm.hf_policy import HFPolicy
from agents.policies.lm.hidden_states import copied_layers, hidden_at
from agents.policies.tensors import restore, tensors
from agents.preference_models.metrics import foresight, most_likely_scale
from preference_duel.keyed_random import Key, Stream, hash_seed
from preference_duel.planes import quarter_turn
from preference_duel.types import Completion, Duel

if TYPE_CHECKING:
    from agents.preference_models.factory import ModelConfig

_LEAST = 1e-12
Ids = tuple[int, ...]
Pair = tuple[Ids, Ids, Ids, float]
"""Prompt, first and second response in tokens, and the share of verdicts for the first."""


class PreferenceNetwork(nn.Module):
    """Reads prompt and response together; logit P(a beats b) = r_a - r_b + <R u_a, u_b> / k.

    Args:
        policy: whose layers are copied, and whose tokens are read.
        planes: k.
    """

    def __init__(self, policy: HFPolicy, planes: int) -> None:
        super().__init__()
        self.layers = copied_layers(policy)
        self.head = nn.Linear(self.layers.config.get_text_config().hidden_size, 1 + 2 * planes)
        nn.init.zeros_(self.head.bias)
        generator = torch.Generator().manual_seed(0)
        width = self.head.weight.shape[1]
        with torch.no_grad():
            drawn = torch.randn(self.head.weight.shape, generator=generator) / math.sqrt(width)
            drawn[0] = 0  # before any duel no response is preferred
            self.head.weight.copy_(drawn * 0.1)
        self.planes, self.micro_tokens = planes, policy.micro_tokens
        self.to(policy.device)

    def features(self, prompts: Sequence[Ids], responses: Sequence[Ids]) -> Tensor:
        """Returns [M, 1 + 2k] the reward and the embedding of M responses."""
        rows = [[*prompt, *response] for prompt, response in zip(prompts, responses, strict=True)]
        return self.head(hidden_at(self.layers, rows, [[len(row) - 1] for row in rows], self.micro_tokens))

    def logits(self, first: Tensor, second: Tensor) -> Tensor:
        """Returns [..., K, L] logit P of features [..., K, F] and [..., L, F]."""
        gap = first[..., :, None, 0] - second[..., None, :, 0]
        if self.planes == 0:
            return gap
        return gap + quarter_turn(first[..., 1:]) @ second[..., 1:].mT / self.planes


class NetworkModel:
    """Learns from all duels so far by maximum likelihood.

    Args:
        policy: whose layers the network starts from.
        config: how it is trained.
        seed: names the batches.
    """

    def __init__(self, policy: HFPolicy, config: ModelConfig, seed: int) -> None:
        self.policy, self.config, self.seed = policy, config, seed
        self.network = PreferenceNetwork(policy, config.planes)
        self._optimiser = Optimiser(self.network.parameters(), config.optimiser, policy.learning_rate)
        self._pairs: list[Pair] = []
        self._predicted: list[tuple[float, float]] = []  # of the newest verdicts: unscaled log-odds, and the verdict
        self._scale = 1.0
        self._steps = 0

    def add(self, duel: Duel) -> None:
        """Remembers every asked pair, and takes some gradient steps on all that is remembered, if it is anything."""
        fresh = self._asked(duel)
        if fresh and self.config.calibration:
            self._calibrate(fresh)
        self._pairs += fresh
        if not self._pairs:
            return
        for _ in range(self.config.steps):
            key = Key(hash_seed(self.seed, "model", self._steps), 0, Stream.PROMPT)
            uniforms = key.uniform(k=np.arange(self.config.batch_size))
            batch = [self._pairs[i] for i in (uniforms * len(self._pairs)).astype(int).tolist()]
            self._optimiser.step(partial(self._accumulate, batch))
            self._steps += 1

    @torch.no_grad()
    def foresight(self, duel: Duel) -> dict[str, float]:
        """Returns how well the verdicts of a duel were foretold, before it is added; see `metrics`."""
        logits, seen = self._logits(self._asked(duel))
        return foresight((self._scale * logits).sigmoid().double().clamp(_LEAST, 1 - _LEAST), seen.double())

    @torch.no_grad()
    def prob(
        self, prompts: Sequence[str], left: Sequence[Sequence[Completion]], right: Sequence[Sequence[Completion]]
    ) -> Tensor:
        """Returns [B, K, L] float64 the model's P(left beats right) on the CPU."""
        ours = self._read(prompts, left)
        logits = self.network.logits(ours, ours if right is left else self._read(prompts, right))
        return (self._scale * logits).sigmoid().double().cpu()

    @torch.no_grad()
    def reward(self, prompts: Sequence[str], responses: Sequence[Sequence[Completion]]) -> Tensor:
        """Returns [B, K] float64 nats: the reward part of the model on the CPU, all of it where there are no planes."""
        return self._scale * self._read(prompts, responses)[..., 0].double().cpu()

    def _read(self, prompts: Sequence[str], responses: Sequence[Sequence[Completion]]) -> Tensor:
        flat = [self.policy.tokens_of(y) for row in responses for y in row]
        asked = [tuple(self.policy.tokenizer.prompt(x)) for x, row in zip(prompts, responses, strict=True) for _ in row]
        return self.network.features(asked, flat).unflatten(0, (len(prompts), -1))

    def _asked(self, duel: Duel) -> list[Pair]:
        """Returns every asked pair, in self-play each once."""
        prompts = [tuple(self.policy.tokenizer.prompt(prompt)) for prompt in duel.prompts]
        return [
            (
                prompts[b],
                self.policy.tokens_of(duel.left[b][k]),
                self.policy.tokens_of(duel.right[b][l]),
                duel.prob[b, k, l].item(),
            )
            for b, k, l in duel.comparisons.nonzero().tolist()
        ]

    @torch.no_grad()
    def _calibrate(self, fresh: Sequence[Pair]) -> None:
        """Fits the scale to the newest verdicts, each with the log-odds from before it was learned."""
        logits, seen = self._logits(fresh)
        self._predicted += zip(logits.tolist(), seen.tolist(), strict=True)
        self._predicted = self._predicted[-self.config.calibration :]
        self._scale = most_likely_scale(*torch.tensor(self._predicted, dtype=torch.float64).T)

    def _accumulate(self, pairs: Sequence[Pair]) -> Tensor:
        loss = nn.functional.binary_cross_entropy_with_logits(*self._logits(pairs))
        loss.backward()
        return loss.detach().cpu()

    def _logits(self, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
        """Returns [M] logits that the first responses win, and [M] the shares of verdicts for them."""
        prompts = [pair[0] for pair in pairs]
        both = self.network.features([*prompts, *prompts], [pair[1] for pair in pairs] + [pair[2] for pair in pairs])
        logits = self.network.logits(both[: len(pairs), None], both[len(pairs) :, None]).flatten()
        return logits, torch.tensor([pair[3] for pair in pairs], dtype=logits.dtype, device=logits.device)

    def state_dict(self) -> dict[str, Any]:
        """Returns the network, its optimiser, all comparisons, the newest predictions and the number of steps."""
        return {
            "network": tensors(self.network),
            "optimiser": self._optimiser.state_dict(),
            "pairs": json.dumps(self._pairs),
            "predicted": json.dumps(self._predicted),
            "steps": self._steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from `state_dict()`."""
        restore(self.network, state["network"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._pairs = [(tuple(x), tuple(a), tuple(b), p) for x, a, b, p in json.loads(state["pairs"])]
        predicted = json.loads(state.get("predicted", "[]"))  # older checkpoints have none
        self._predicted = [(logit, seen) for logit, seen in predicted]
        self._scale = most_likely_scale(*torch.tensor(self._predicted, dtype=torch.float64).reshape(-1, 2).T)
        self._steps = int(state["steps"])
