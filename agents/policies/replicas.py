"""Tables of several independent replicas of one task, which learn in one batch as if each were alone."""

from __future__ import annotations

from torch import Tensor

from agents.policies.tabular import TabularPolicy
from envs.tasks.task import Task


class NotBatchableError(ValueError):
    """Several seeds can't learn in one batch with these settings; one at a time they can."""


class ReplicaTable(TabularPolicy):
    """A table whose rows are those of R replicas, one after the other.

    An agent that never mixes prompts moves the rows of a prompt by its own duels alone, but for two things that are
    undone here: the mean of the loss over the prompts of all replicas, and the norm of the whole gradient.

    Args:
        task: a finite task, whose prompts are those of R replicas.
        replicas: R.
        exact: whether `draw` lists all responses.
    """

    def __init__(self, task: Task, replicas: int, exact: bool = False) -> None:
        super().__init__(task, exact=exact)
        self.replicas = replicas

    def clip_gradient(self, limit: float) -> Tensor:
        """Makes the gradient that of each replica's own mean loss, scaled down to a norm of `limit`.

        Returns:
            The largest norm of a replica's gradient before.
        """
        assert self.logits.grad is not None
        grad = self.logits.grad.mul_(self.replicas).view(self.replicas, -1)  # the mean was over R times the prompts
        norms = grad.norm(dim=1)
        grad.mul_((limit / (norms + 1e-6)).clamp_max(1)[:, None])  # 1e-6 as torch's own clipping
        return norms.amax()
