"""What every agent that trains a policy keeps and does: frozen copies, the optimiser, its state, one fit to a duel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from agents.optim.optimiser import Optimiser, OptimiserConfig
from agents.policies.tensors import restore, tensors
from preference_duel import distributed
from preference_duel.protocols import Policy
from preference_duel.types import Completion


@dataclass(frozen=True)
class Batch:
    """What a loss needs of a duel, as rows of prompts.

    Attributes:
        prompts: B prompts.
        responses: [B][K] responses.
        values: name -> [B, ...] what does not depend on the policy's parameters.
        rows: of a part, where its prompts stand in the batch that was split.
    """

    prompts: Sequence[str]
    responses: Sequence[Sequence[Completion]]
    values: Mapping[str, Tensor]
    rows: Sequence[int] = ()

    def __getitem__(self, name: str) -> Tensor:
        return self.values[name]

    def split(self, parts: Sequence[Sequence[int]]) -> Iterator[Batch]:
        """Yields a batch of each of some groups of prompts."""
        for part in parts:
            values = {name: value[list(part)] for name, value in self.values.items()}
            yield Batch([self.prompts[b] for b in part], [self.responses[b] for b in part], values, part)


class Training:
    """A policy, its optimiser, and the frozen copies of it that an agent needs.

    Attributes:
        policy: what is trained.
        copies: frozen policies by name: the opponent, the start, the average.
        updates: duels learned from so far.

    Args:
        policy: what is trained.
        config: how.
        **copies: frozen policies by name; those that are None are not kept.

    Raises:
        ValueError: if the method does not go with a policy whose parameters are spread over processes.
    """

    def __init__(self, policy: Policy, config: OptimiserConfig, **copies: Policy | None) -> None:
        if config.method == "lbfgs" and policy.sharded:
            raise ValueError("method='lbfgs' needs whole parameters; take another method, or --run.parallel ddp")
        self.policy = policy
        self.copies = {name: copy for name, copy in copies.items() if copy is not None}
        self.updates = 0
        self._optimiser = Optimiser(policy.parameters(), config, policy.learning_rate, policy.worlds)

    def fit(
        self, batch: Batch, loss: Callable[[Batch], Tensor], terms: Callable[[Batch], Tensor] | None = None
    ) -> tuple[float, float]:
        """Takes one optimiser step on the mean loss over prompts (of each world, where there are several).

        Args:
            batch: what to learn from.
            loss: returns [b] the loss of each prompt of a part of the batch, differentiable.
            terms: of a loss that is a sum of squares, [b, ...] what is squared, constants left out; method "lbfgs"
                learns the curvature from it.

        Returns:
            The loss before the step, and its gradient's norm (see `Optimiser.step`).
        """
        alike = self._optimiser.config.method == "lbfgs"
        size = len(batch.prompts) / self.policy.worlds
        parts = self._parts(batch, range(len(batch.prompts)) if alike else distributed.share(len(batch.prompts)))

        def accumulate() -> Tensor:
            total = torch.zeros(())
            with distributed.alone():
                for part, counts in parts:
                    mean = counts * loss(part).sum() / size
                    mean.backward()
                    total = total + mean.detach().cpu()
            return total if alike else self._summed(total)

        def squared() -> Iterator[Tensor]:
            assert terms is not None
            for part, _ in parts:
                yield terms(part) / size**0.5

        return self._optimiser.step(accumulate, None if terms is None else squared)

    def _parts(self, batch: Batch, own: Sequence[int]) -> list[tuple[Batch, int]]:
        """Returns what this process learns from, and 1 for each.

        Sharded parameters are gathered as often in every process: one that has fewer parts reads a prompt for nothing,
        which counts 0.
        """
        mine = self.policy.parts([batch.prompts[b] for b in own], [batch.responses[b] for b in own]) if own else []
        rows = [[own[b] for b in part] for part in mine]
        parts = [(part, 1) for part in batch.split(rows)]
        if self.policy.sharded:
            most = int(distributed.largest(torch.tensor(len(parts))))
            parts += [(next(batch.split([[0]])), 0)] * (most - len(parts))
        return parts

    def _summed(self, total: Tensor) -> Tensor:
        """Returns the sum of a loss over processes, and sums the gradients, where that is not done already."""
        if distributed.count() > 1 and not self.policy.sharded:
            learning = [parameter for parameter in self.policy.parameters() if parameter.requires_grad]
            for parameter in learning:
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            grads = [parameter.grad for parameter in learning if parameter.grad is not None]
            flat = distributed.add(torch.cat([grad.flatten() for grad in grads]))
            for grad, part in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
                grad.copy_(part.view_as(grad))
        return distributed.add(total)

    @property
    def learning_rate(self) -> float:
        """The optimiser's step size."""
        return self._optimiser.learning_rate

    def include_in_average(self, policy: Policy, count: int) -> None:
        """Makes the copy `average`, where kept, the mean of `count` policies, of which this is the last."""
        if "average" in self.copies:
            self.copies["average"].blend(policy, 1 / count)

    def state_dict(self) -> dict[str, Any]:
        """Returns the policy and its frozen copies, the optimiser and the number of updates."""
        state = {name: tensors(policy) for name, policy in self._policies().items()}
        return {**state, "optimiser": self._optimiser.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from `state_dict()`.

        Raises:
            ValueError: if the state is of another policy or was kept under other settings.
        """
        policies = self._policies()
        if state.keys() != policies.keys() | {"optimiser", "updates"}:
            raise ValueError(
                f"the saved state holds {sorted(state)}, this agent keeps {sorted(policies)}; build it with the "
                f"settings of the run that saved it (average, log_kl)"
            )
        for name, policy in policies.items():
            restore(policy, state[name])
        self._optimiser.load_state_dict(state["optimiser"])
        self.updates = int(state["updates"])

    def _policies(self) -> dict[str, Policy]:
        return {"policy": self.policy, **self.copies}


def require_finite(ratio: Tensor) -> Tensor:
    """Returns log-ratios [B, K] unchanged.

    Raises:
        ValueError: if one is not finite.
    """
    if not ratio.isfinite().all():
        raise ValueError(
            "a log-ratio is not finite: the policy gives probability 0 to a response that is learned from, or its "
            "weights are not finite; train with top_p=1 and top_k=0, or lower the learning rate"
        )
    return ratio


def token_logprob(
    policy: Policy, prompts: Sequence[str], responses: Sequence[Sequence[Completion]]
) -> tuple[Tensor, Tensor]:
    """Returns the log-probability of each token; a policy without tokens has one, the whole response.

    Returns:
        [B, K, T] nats, differentiable, and the mask [B, K, T]: True where a token counts.
    """
    tokenwise = getattr(policy, "token_logprob", None)
    if tokenwise is not None:
        return tokenwise(prompts, responses)
    whole = policy.logprob(prompts, responses)[..., None]
    return whole, torch.ones_like(whole, dtype=torch.bool)


def policy_scalars(weight: Tensor, log_policy: Tensor, log_start: Tensor | None) -> dict[str, float]:
    """Returns the entropy of the policy that drew, and its KL from the start, by tag: exact where weights are a law.

    Args:
        weight: [B, K] of the responses, rows sum to 1.
        log_policy: [B, K] nats.
        log_start: [B, K] nats; None: no KL.
    """
    log_policy = log_policy.to(weight)
    scalars = {"policy/entropy": -(weight * log_policy).sum(1).mean().item()}
    if log_start is not None:
        scalars["policy/kl"] = (weight * (log_policy - log_start.to(weight))).sum(1).mean().item()
    return scalars
