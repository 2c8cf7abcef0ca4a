"""The learner of the gradient agents (policy, optimiser, frozen copies, steps, state) and their base class."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from agents import losses
from agents.optim.optimiser import Optimiser
from agents.policies.tensors import restore, tensors
from preference_duel import distributed
from preference_duel.keyed_random import Key, Stream
from preference_duel.transfer import to_device
from preference_duel.types import Proposal

if TYPE_CHECKING:
    from torch import Tensor

    from agents.optim.optimiser import OptimiserConfig
    from preference_duel.protocols import Policy, TokenTerm
    from preference_duel.types import Completion, Duel

PairLoss = Callable[["Tensor", "Tensor", "Tensor"], "Tensor"]
"""Returns a loss [b, K, L] of the scores [b, K, 1] of the first responses and [b, 1, L] of the second ones, and of the
probabilities [b, K, L] that the first wins; a loss of margins takes the difference of the two. Scores that have a term
beside them are [b, K, 1, 2] and [b, 1, L, 2]."""

ScoreLoss = Callable[["Tensor", "Batch"], "Tensor"]
"""Returns a loss [b] of the scores [b, K], of two seats [b, K + L], of a part of the batch."""


Task = tuple["Batch", Callable[["Batch"], "Tensor"]]
"""A batch and its loss [b]."""


@dataclass(frozen=True)
class Score:
    """How a response is scored for a loss: by log pi - log reference, unless a field says otherwise.

    Attributes:
        to_reference: whether log reference is subtracted; if not, an agent keeps no reference.
        per_token: whether that is divided by the response's tokens, as the policy writes them.
        charge: nats by which each token of a response lowers log reference.
        term: what is scored beside it, summed over tokens; then a response has two scores, in a last dimension.
    """

    to_reference: bool = True
    per_token: bool = False
    charge: float = 0.0
    term: TokenTerm | None = None


@dataclass(frozen=True)
class Scale:
    """What the scores of a duel's responses are measured by, all [B, K] (self-play) or [B, K + L].

    Attributes:
        anchor: nats that are subtracted from log pi.
        lengths: what the differences are divided by; None: they are the scores.
        read: returns log pi [b, K] and a second score [b, K] of prompts and responses; None: there is but one.
    """

    anchor: Tensor
    lengths: Tensor | None = None
    read: Callable[[Sequence[str], Sequence[Sequence[Completion]]], tuple[Tensor, Tensor]] | None = None


@dataclass(frozen=True)
class Batch:
    """Values of a duel that a loss needs, as rows of prompts.

    Attributes:
        prompts: B prompts.
        responses: [B][K] responses.
        values: name -> [B, ...] what does not depend on the policy's parameters.
        rows: [b] of a part, where its prompts stand in the batch that was split, on the device of the values.
    """

    prompts: Sequence[str]
    responses: Sequence[Sequence[Completion]]
    values: Mapping[str, Tensor]
    rows: Tensor | None = None

    def __getitem__(self, name: str) -> Tensor:
        return self.values[name]

    def to(self, other: Tensor) -> Batch:
        """Returns the batch with its values on the device and of the dtype of a tensor."""
        values = {name: to_device(value.to(other.dtype), other.device) for name, value in self.values.items()}
        return Batch(self.prompts, self.responses, values, self.rows)

    def split(self, parts: Sequence[Sequence[int]]) -> Iterator[Batch]:
        """Yields a batch of each of some groups of prompts."""
        device = next((value.device for value in self.values.values()), torch.device("cpu"))
        for part in parts:
            rows = to_device(torch.tensor(part), device)
            values = {name: value[rows] for name, value in self.values.items()}
            yield Batch([self.prompts[b] for b in part], [self.responses[b] for b in part], values, rows)


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
        batchable: whether a step moves a table's rows by the duels of their own prompts alone.

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
            grads = [parameter.grad for parameter in learning if parameter.grad is not None]
            flat = distributed.add(torch.cat([grad.flatten() for grad in grads]))
            for grad, part in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
                grad.copy_(part.view_as(grad))
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


class LearningAgent:
    """Base class of the gradient agents; nothing of it is overridden but, where there is more state, `state_dict`.

    `propose` and `update` are the paper's.

    Attributes:
        policy: what is trained.
        average: the mean of pi_1..pi_T, start included, if kept.
        learner: steps and state.
        fixed_opponent: policy of the right seat, of agents that learn a best response; None: self-play.

    Args:
        policy: what is trained.
        optimiser: how.
        seed: random seed of the responses.
        average: whether the average is kept.
        **copies: frozen policies by name, saved with the agent.
    """

    fixed_opponent: Policy | None = None

    def __init__(
        self, policy: Policy, optimiser: OptimiserConfig, seed: int, *, average: bool, **copies: Policy | None
    ) -> None:
        self.policy, self.seed = policy, seed
        self.average = policy.running_mean() if average else None
        self.learner = Learner(policy, optimiser, average=self.average, **copies)

    @property
    def batchable(self) -> bool:
        """Whether prompts are never mixed, see `Traits`."""
        return self.learner.batchable

    def key(self, stream: Stream = Stream.TOKEN) -> Key:
        """Returns the key of this update's random numbers."""
        return Key(self.seed, self.learner.updates, stream)

    def self_play(self, player: Policy, prompts: Sequence[str], count: int) -> Proposal:
        """Returns `count` responses of a player for both seats, or its whole distribution if it is exact.

        With a `fixed_opponent` the right seat is the opponent's.
        """
        with torch.no_grad():
            responses, weight = player.draw(prompts, count, self.key())
            proposal = Proposal(responses, left_weight=weight if player.exact else None)
            if self.fixed_opponent is None:
                return proposal
            right, weight = self.fixed_opponent.draw(prompts, count, self.key().at(1))
        return dataclasses.replace(proposal, right=right, right_weight=weight if self.fixed_opponent.exact else None)

    def mixed(self, start: Policy, share: float) -> Policy:
        """Returns the geometric mixture policy^(1 - share) start^share; if share is 0, the policy itself."""
        from agents.policies.geometric import geometric

        return self.policy if share == 0 else geometric(self.policy, start, share)

    def step_on_pairs(
        self,
        duel: Duel,
        reference: Policy | None,
        loss: PairLoss,
        *,
        score: Score = Score(),
        weight: Tensor | None = None,
        squares: bool = False,
        extra: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> ScoredStep:
        """Takes one optimiser step on a duel's pairs; see `Learner.step_on_pairs`.

        Args:
            duel: of any two seats.
            reference: what log-ratios are taken to; None: scores are of log pi alone.
            loss: of scores and probabilities.
            score: how a response is scored.
            weight: [B, K, L] of the pairs; None: all count alike.
            squares: whether the loss is a sum of squares of the margins' distances.
            extra: what is added to each prompt's loss.

        Raises:
            ValueError: if the duel has no asked pair, the policy could not have drawn a response, or scores are per
                token and a response has none, or the policy does not know them.
        """
        scale, log_reference = self._scale(duel, reference, score)
        step = self.learner.step_on_pairs(duel, scale, loss, weight=weight, squares=squares, extra=extra)
        return step._replace(log_reference=log_reference)

    def step_on_scores(
        self,
        duel: Duel,
        reference: Policy | None,
        loss: ScoreLoss,
        values: Mapping[str, Tensor],
        *,
        score: Score = Score(),
    ) -> ScoredStep:
        """Takes one optimiser step on a duel's scored responses; see `Learner.step_on_scores`.

        Args:
            duel: of any two seats.
            reference: what log-ratios are taken to; None: scores are of log pi alone.
            loss: of scores.
            values: name -> [B, ...] what else the loss reads of a part.
            score: how a response is scored.

        Raises:
            ValueError: if the policy could not have drawn a response, or scores are per token and a response has none,
                or the policy does not know them.
        """
        scale, log_reference = self._scale(duel, reference, score)
        step = self.learner.step_on_scores(duel, scale, loss, values)
        return step._replace(log_reference=log_reference)

    def _scale(self, duel: Duel, reference: Policy | None, score: Score) -> tuple[Scale, Tensor | None]:
        """Returns what scores are measured by, and log reference."""
        responses, log_reference = responses_of(duel), None
        if reference is not None:
            with torch.no_grad():
                log_reference = reference.logprob(duel.prompts, responses)  # [B, K], of two seats [B, K + L]
        anchor = _zeros(self.policy, responses) if log_reference is None else log_reference
        if score.charge:
            anchor = anchor - score.charge * token_counts(self.policy, responses).to(anchor)
        lengths = token_counts(self.policy, responses) if score.per_token else None
        if lengths is not None and not lengths.all():
            raise ValueError("a response has no tokens, so that it has no mean log-probability; leave it out")
        term = score.term
        if term is None:
            return Scale(anchor, lengths), log_reference

        def read(prompts: Sequence[str], responses: Sequence[Sequence[Completion]]) -> tuple[Tensor, Tensor]:
            return self.policy.token_terms(prompts, responses, term, reference)

        return Scale(anchor, lengths, read), log_reference

    def include_in_average(self, policy: Policy, every: int = 1) -> None:
        """Adds a policy to the average, if kept, in the first of each `every` updates."""
        rounds, rest = divmod(self.learner.updates, every)
        if self.average is not None and rest == 0:
            self.average.blend(policy, 1 / (rounds + 1))

    def renew(self, copy: Policy, every: int = 1) -> None:
        """Makes a frozen copy the current policy after each `every` updates."""
        if self.learner.updates % every == 0:
            copy.load_state_dict(self.policy.state_dict())

    def begin_stage(self) -> None:
        """Renews the reference, if one is kept, before another data set (sDPO, Kim et al. 2024, arXiv:2403.19270)."""
        reference = getattr(self, "reference", None)
        if reference is not None:
            self.renew(reference)

    def state_dict(self) -> dict[str, Any]:
        """Returns the policy and its frozen copies, the optimiser and the number of updates."""
        return self.learner.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from `state_dict()`."""
        self.learner.load_state_dict(state)


def responses_of(duel: Duel) -> list[list[Completion]]:
    """Returns what both seats hold, [B][K] in self-play or of thumbs, else [B][K + L] the left ones first."""
    if duel.self_play or duel.feedback == "thumb":
        return [list(row) for row in duel.left]
    return [[*left, *right] for left, right in zip(duel.left, duel.right, strict=True)]


def pair_weight(duel: Duel) -> Tensor:
    """Returns [B, K, L] how much each pair of a duel counts, see `losses.pair_weight`."""
    return losses.pair_weight(duel.left_weight, duel.right_weight, duel.asked, duel.exact)


def seats(duel: Duel, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the scores [B, K, 1] of the first responses and [B, 1, L] of the second ones of `responses_of(duel)`.

    Raises:
        ValueError: if the second ones are not shown.
    """
    if duel.feedback == "thumb":
        raise ValueError("a loss of pairs needs both responses, and a thumb shows one; take an agent such as kto")
    count = len(duel.left[0])
    first, second = (scores, scores) if duel.self_play else (scores[:, :count], scores[:, count:])
    return first[:, :, None], second[:, None, :]


def token_counts(policy: Policy, responses: Sequence[Sequence[Completion]]) -> Tensor:
    """Returns [B, K] the tokens in which a policy writes responses, the one that ends them included.

    Raises:
        ValueError: if the policy does not know them.
    """
    return torch.tensor([[policy.length(y) for y in row] for row in responses])


def _zeros(policy: Policy, responses: Sequence[Sequence[Completion]]) -> Tensor:
    """Returns zeros [B, K] of the kind of the policy's log-probabilities: float32 where its weights are shorter."""
    dtype = torch.promote_types(next(policy.parameters()).dtype, torch.float32)
    return torch.zeros(len(responses), len(responses[0]), dtype=dtype, device=policy.device)


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


def sampled_logprob(responses: Sequence[Sequence[Completion]], like: Tensor) -> Tensor:
    """Returns the nats of each token by what sampled it: [B, K, T], of the kind of a tensor, 0 after a response's end.

    Raises:
        ValueError: if the sampler did not say.
    """
    result = torch.zeros(like.shape)
    for b, row in enumerate(responses):
        for k, response in enumerate(row):
            if response.token_logprob is None:
                raise ValueError(
                    "sampler_cap needs the log-probabilities of what samples; language models and vLLM in this process "
                    "give them, exact policies, tables and a server of vLLM do not: leave sampler_cap out"
                )
            result[b, k, : len(response.token_logprob)] = torch.tensor(response.token_logprob)
    return to_device(result.to(like.dtype), like.device)


def policy_scalars(
    weight: Tensor,
    log_policy: Tensor,
    log_start: Tensor | None,
    responses: Sequence[Sequence[Completion]] = (),
) -> dict[str, float]:
    """Returns the entropy of the sampling policy and its KL from the start, by tag: exact if weights are probabilities.

    Beside them, if samples have log-probabilities of their own, how far those of the policy that learns are from them.

    Args:
        weight: [B, K] of the responses, rows sum to 1.
        log_policy: [B, K] nats.
        log_start: [B, K] nats; None: no KL.
        responses: [B][K] samples of this policy.
    """
    log_policy = log_policy.to(weight)
    scalars = {"policy/entropy": -(weight * log_policy).sum(1).mean().item()}
    if log_start is not None:
        scalars["policy/kl"] = (weight * (log_policy - log_start.to(weight))).sum(1).mean().item()
    sampled = [[y.token_logprob for y in row] for row in responses]
    if sampled and all(nats is not None for row in sampled for nats in row):
        gap = (log_policy - torch.tensor([[sum(nats or ()) for nats in row] for row in sampled]).to(weight)).abs()
        scalars |= {"policy/sampler_gap": gap.mean().item(), "policy/sampler_gap_max": gap.max().item()}
    return scalars
