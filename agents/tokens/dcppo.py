"""Planning on the rewards that explain demonstrations token by token, with pessimism about what was seldom shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from agents.learning.scalars import policy_scalars
from agents.learning.scores import responses_of
from agents.policies.tensors import restore, tensors
from agents.singles.single_agent import likes
from preference_duel.checks import at_least, positive, require
from preference_duel.keyed_random import Key
from preference_duel.types import Duel, Proposal

if TYPE_CHECKING:
    from preference_duel.protocols import Policy


@dataclass(frozen=True)
class DCPPOConfig:
    """Dynamic-choice pessimistic policy optimisation (Li, Yang & Wang 2023, arXiv:2305.18438), on a table's tokens."""

    tau: float = 0.1
    """KL coefficient of the plan around the start, > 0; the paper plans without, which is tau -> 0."""
    width: float = 1.0
    """beta >= 0 of a token's penalty beta / sqrt(1 + times that it was shown after its beginning); 0: no pessimism."""
    responses: int = 4
    """Draws of the start per prompt, K >= 2, whose winners are imitated; a file has its own."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range."""
        require(self, tau=positive, width=at_least(0), responses=at_least(2, "one sample has no other to beat"))

    def build(self, *, policy: Policy, seed: int = 0) -> DCPPO:
        """Builds the agent around the policy that it trains."""
        return DCPPO(self, policy, seed)


class DCPPO:
    """Counts demonstrations, or winners, and plans for the rewards under which they are soft-optimal choices."""

    learns_from_files = learns_from_thumbs = learns_from_lists = learns_from_likes = one_pass = True
    average: Policy | None = None

    def __init__(self, config: DCPPOConfig, policy: Policy, seed: int) -> None:
        from agents.policies.tabular import TabularPolicy

        if not isinstance(policy, TabularPolicy) or policy.exact:
            raise ValueError("dcppo counts single responses: its policy is a table (--policy tabular), without exact")
        self.config, self.policy, self.seed, self._updates = config, policy, seed, 0
        self.reference, self.counts = policy.frozen(), torch.zeros_like(policy.logits, requires_grad=False)

    def propose(self, prompts: Sequence[str]) -> Proposal:
        """Returns K draws of the start for both seats."""
        return Proposal(self.reference.draw(prompts, self.config.responses, Key(self.seed, self._updates))[0])

    @torch.no_grad()
    def update(self, duel: Duel) -> dict[str, float]:
        """Adds what was liked, one for each row, and plans for the duel's prompts."""
        liked, rows = likes(duel), self.policy.cells.rows_of(duel.prompts)  # [B, K]
        columns = torch.tensor([[self.policy.cells.column(y.text) for y in row] for row in responses_of(duel)])
        self.counts.index_put_((torch.tensor(rows)[:, None], columns), liked.to(self.counts), accumulate=True)
        log_ref, log_policy = self.reference.log_probs(duel.prompts), self.policy.log_probs(duel.prompts)
        plan = (log_ref + self.values(duel.prompts) / self.config.tau).log_softmax(-1).clamp_min(-700)
        self.policy.logits[rows] = torch.where(self.counts[rows].any(1, keepdim=True), plan, log_policy)
        self._updates += 1
        loss = -(liked * log_policy.gather(1, columns)).sum(1).mean()
        return {"loss/policy": loss.item(), **policy_scalars(log_policy.exp(), log_policy, log_ref)}

    def values(self, prompts: Sequence[str]) -> torch.Tensor:
        """Returns [B, N] nats: what each response's tokens earn, up to a constant, less their penalties."""
        counts, trie = self.counts[self.policy.cells.rows_of(prompts)], self.policy.cells.trie
        shown = trie.logsumexp(counts.log().clamp_min(-700)).exp()[:, 1:]  # [B, M - 1], of each edge
        return (counts / counts.sum(1, keepdim=True)).log() - self.config.width * trie.along((1 + shown).rsqrt())

    def state_dict(self) -> dict[str, Any]:
        """Returns policy, start, counts and the number of updates."""
        policies = {"policy": tensors(self.policy), "reference": tensors(self.reference)}
        return {**policies, "counts": self.counts.clone(), "updates": self._updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from `state_dict()`."""
        restore(self.policy, state["policy"])
        restore(self.reference, state["reference"])
        self.counts.copy_(state["counts"])
        self._updates = int(state["updates"])
