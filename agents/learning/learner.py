"""The learner of the gradient agents: a policy, its optimiser, frozen copies, steps and state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from agents import losses
from agents.learning.batch import Batch
from agents.learning.scalars import policy_scalars
from agents.learning.scores import pair_weight, require_finite, responses_of, seats
from agents.optim.optimiser import Optimiser
from agents.policies.tensors import restore, tensors
from preference_duel import distributed

if TYPE_CHECKING:
    from torch import Tensor

    from agents.learning.batch import Task
    from agents.learning.scores import PairLoss, Scale, ScoreLoss
    from agents.optim.optimiser import OptimiserConfig
    from preference_duel.protocols import Policy
    from preference_duel.types import Duel


class ScoredStep(NamedTuple):
    """One optimiser step on a loss of scores.

    Attributes:
        scalars: loss and gradient norm before the step, and the learning rate, by tag.
        log_policy: [B, K] (self-play) or [B, K + L] nats, before the step.
        log_reference: of the same shape, nats; None: there is no reference.
    """

    scalars: dict[str, float]
    log_policy: Tensor
    log_reference: Tensor | None

    def of_sampler(self, sampler: Policy, duel: Duel) -> ScoredStep:
        """Returns the step with the log-probabilities of the policy that sampled the left seat, if not what learned."""
        with torch.no_grad():
            return self._replace(log_policy=sampler.logprob(duel.prompts, duel.left))  # [B, K]

    def policy_scalars(self, duel: Duel) -> dict[str, float]:
        """Returns entropy and KL from the reference of the policy before the step, if it sampled the left seat."""
        count = len(duel.left[0])
        log_reference = None if self.log_reference is None else self.log_reference[:, :count]
        return policy_scalars(duel.left_weight, self.log_policy[:, :count], log_reference, duel.left)


class Learner:
    """A policy, its optimiser, and the frozen copies of it that an agent needs.

    Attributes:
        policy: what is trained.
        copies: frozen policies by name: the opponent, the start, the average.
        updates: duels learned from so far.
        batchable: whether a step moves a table's rows by the duels of their own prompts, or of their replica, alone.

    Args:
        policy: what is trained.
        config: how.
        **copies: frozen policies by name; those that are None are not kept.

    Raises:
        ValueError: if the method does not go with a policy whose parameters are spread over processes, or whose
            passes run in bfloat16.
    """

    def __init__(self, policy: Policy, config: OptimiserConfig, **copies: Policy | None) -> None:
        if config.method == "lbfgs" and policy.sharded:
            raise ValueError("method='lbfgs' needs whole parameters; take another method, or --run.parallel ddp")
        if config.method == "lbfgs" and policy.autocast:
            raise ValueError("method='lbfgs' can't converge in bfloat16; take another, or --policy.compute float32")
        self.policy = policy
        self.copies = {name: copy for name, copy in copies.items() if copy is not None}
        self.updates = 0
        self.batchable = config.method != "lbfgs"  # its line search is one for all prompts
        self._optimiser = Optimiser(policy.parameters(), config, policy.learning_rate, policy.clip_gradient)

    def fit(
        self,
        batch: Batch,
        loss: Callable[[Batch], Tensor],
        terms: Callable[[Batch], Tensor] | None = None,
        beside: Task | None = None,
    ) -> tuple[float, float]:
        """Takes one optimiser step on the mean loss over prompts.

        Args:
            batch: what to learn from.
            loss: returns [b] the loss of each prompt of a part of the batch, differentiable.
            terms: of a loss that is a sum of squares, [b, ...] what is squared, constants left out; method "lbfgs"
                learns the curvature from it.
            beside: another batch with its loss, whose mean is added.

        Returns:
            The loss before the step, and its gradient's norm (see `Optimiser.step`).
        """
        alike = self._optimiser.config.method == "lbfgs"
        size = len(batch.prompts)

        def parts_of(batch: Batch) -> list[tuple[Batch, int]]:
            count = len(batch.prompts)
            return self._parts(batch, range(count) if alike else distributed.share(count))

        parts = parts_of(batch)
        tasks = [(loss, size, parts)]
        if beside is not None:
            tasks.append((beside[1], len(beside[0].prompts), parts_of(beside[0])))

        def accumulate() -> Tensor:
            total = torch.zeros(())
            with distributed.alone():
                for function, count, own in tasks:
                    for part, counts in own:
                        mean = counts * function(part).sum() / count
                        mean.backward()
                        total = total + mean.detach()
            total = total.cpu()
            return total if alike else self._summed(total)

        def squared() -> Iterator[Tensor]:
            assert terms is not None
            for part, _ in parts:
                yield terms(part) / size**0.5

        return self._optimiser.step(accumulate, None if terms is None else squared)

    def step(
        self,
        batch: Batch,
        loss: Callable[[Batch], Tensor],
        terms: Callable[[Batch], Tensor] | None = None,
        epochs: int = 1,
    ) -> dict[str, float]:
        """Takes `epochs` optimiser steps on a duel, and counts it; see `fit`.

        Returns:
            The loss before the first step, its gradient's norm, and the learning rate of the last.
        """
        steps = [self.fit(batch, loss, terms) for _ in range(epochs)]
        self.updates += 1
        return {"loss/learning_rate": self.learning_rate, "loss/policy": steps[0][0], "loss/grad_norm": steps[0][1]}

    def step_on_pairs(
        self,
        duel: Duel,
        scale: Scale,
        loss: PairLoss,
        *,
        weight: Tensor | None = None,
        squares: bool = False,
        extra: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> ScoredStep:
        """Takes one optimiser step on the mean loss over a duel's pairs, and counts it.

        Args:
            duel: of any two seats.
            scale: of `responses_of(duel)`.
            loss: of scores and probabilities.
            weight: [B, K, L] of the pairs; None: those of `losses.pair_weight`.
            squares: whether the loss is a sum of squares of the margins' distances, which lbfgs can make use of;
                self-play alone.
            extra: returns [b] what is added to each prompt's loss, of scores [b, K (+ L)] and weights [b, K, L].

        Raises:
            ValueError: if the duel has no asked pair, or the policy could not have drawn a response.
        """

        def mean_loss(scores: Tensor, part: Batch) -> Tensor:
            mean = (part["weight"] * loss(*seats(duel, scores), part["prob"])).sum((1, 2))
            return mean if extra is None else mean + extra(scores, part["weight"])

        def terms(scores: Tensor, part: Batch) -> Tensor:
            return losses.squared_terms(scores, part["weight"])

        values = {"prob": duel.prob, "weight": pair_weight(duel) if weight is None else weight}
        squared = terms if squares and duel.self_play else None
        return self.step_on_scores(duel, scale, mean_loss, values, terms=squared)

    def step_on_scores(
        self,
        duel: Duel,
        scale: Scale,
        loss: ScoreLoss,
        values: Mapping[str, Tensor],
        *,
        terms: ScoreLoss | None = None,
    ) -> ScoredStep:
        """Takes one optimiser step on the mean over prompts of a loss of a duel's scored responses, and counts it.

        Args:
            duel: of any two seats.
            scale: of `responses_of(duel)`. A part has its lengths as "length".
            loss: of scores.
            values: name -> [B, ...] what else the loss reads of a part.
            terms: what is squared of a loss that is a sum of squares, as for `fit`.

        Raises:
            ValueError: if the policy could not have drawn a response.
        """
        values = {"anchor": scale.anchor, **values}
        if scale.lengths is not None:
            values["length"] = scale.lengths
        first_log_policy = torch.full_like(scale.anchor, torch.nan)

        def score(part: Batch) -> Tensor:
            if scale.read is None:
                log_policy, second = self.policy.logprob(part.prompts, part.responses), None  # [b, K (+ L)]
            else:
                log_policy, second = scale.read(part.prompts, part.responses)
            assert part.rows is not None
            before = first_log_policy[part.rows]
            first_log_policy[part.rows] = torch.where(before.isnan(), log_policy.detach(), before)
            length = 1 if scale.lengths is None else part["length"]
            first = require_finite(log_policy - part["anchor"]) / length
            return first if second is None else torch.stack([first, require_finite(second) / length], -1)

        batch = Batch(duel.prompts, responses_of(duel), values).to(scale.anchor)
        squared = None if terms is None else lambda part: terms(score(part), part)
        scalars = self.step(batch, lambda part: loss(score(part), part), squared)
        return ScoredStep(scalars, distributed.largest(first_log_policy.nan_to_num(nan=-torch.inf)), None)

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
            distributed.add_each([parameter.grad for parameter in learning if parameter.grad is not None])
        return distributed.add(total)

    @property
    def learning_rate(self) -> float:
        """The optimiser's step size."""
        return self._optimiser.learning_rate

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
