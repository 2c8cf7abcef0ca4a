"""The base class of the gradient agents."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from agents.learning.learner import Learner
from agents.learning.scores import LOG_RATIO, Scale, Score, responses_of, token_counts
from preference_duel.keyed_random import Key, Stream
from preference_duel.types import Proposal

if TYPE_CHECKING:
    from torch import Tensor

    from agents.learning.learner import ScoredStep
    from agents.learning.scores import PairLoss, ScoreLoss
    from agents.optim.optimiser import OptimiserConfig
    from preference_duel.protocols import Policy
    from preference_duel.types import Completion, Duel


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
        """Whether the seeds of a benchmark can learn in one batch, see `Traits`."""
        return self.learner.batchable

    def key(self, stream: Stream = Stream.TOKEN) -> Key:
        """Returns the key of this update's random numbers."""
        return Key(self.seed, self.learner.updates, stream)

    def self_play(self, player: Policy, prompts: Sequence[str], count: int, stream: Stream = Stream.TOKEN) -> Proposal:
        """Returns `count` responses of a player for both seats, or its whole distribution if it is exact.

        With a `fixed_opponent` the right seat is the opponent's.
        """
        with torch.no_grad():
            responses, weight = player.start_draw(prompts, count, self.key(stream))
            proposal = Proposal(responses, left_weight=weight if player.exact else None)
            if self.fixed_opponent is None:
                return proposal
            right, weight = self.fixed_opponent.draw(prompts, count, self.key().at(1))
        return dataclasses.replace(proposal, right=right, right_weight=weight if self.fixed_opponent.exact else None)

    def against(self, opponent: Policy, prompts: Sequence[str], count: int) -> Proposal:
        """Returns `count` samples of the policy, each to meet one of an opponent, or both distributions if exact."""
        with torch.no_grad():
            left, left_weight = self.policy.draw(prompts, count, self.key())
            right, right_weight = opponent.draw(prompts, count, self.key(Stream.OPPONENT))
        if self.policy.exact:
            return Proposal(left, right, left_weight, right_weight)
        return Proposal(left, right, ask=torch.eye(count, dtype=torch.bool).expand(len(prompts), count, count))

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
        score: Score = LOG_RATIO,
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
        score: Score = LOG_RATIO,
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


def _zeros(policy: Policy, responses: Sequence[Sequence[Completion]]) -> Tensor:
    """Returns zeros [B, K] of the kind of the policy's log-probabilities: float32 where its weights are shorter."""
    dtype = torch.promote_types(next(policy.parameters()).dtype, torch.float32)
    return torch.zeros(len(responses), len(responses[0]), dtype=dtype, device=policy.device)
