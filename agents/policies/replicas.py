"""Tables of several independent replicas of one task, which learn in one batch as if each were alone."""

from __future__ import annotations

from torch import Tensor, nn

from agents.policies.tabular import TabularPolicy
from envs.tasks.task import Task


class NotBatchableError(ValueError):
    """Several seeds can't learn in one batch with these settings; one at a time they can."""


class ReplicaTable(TabularPolicy):
    """A table whose rows are those of R replicas, one after the other.

    An agent moves the rows of a prompt by its own duels alone, but for three things that are done for each replica
    here: the mean of the loss over prompts, the norm of the gradient, and what an agent itself averages over a batch.

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
        return clip_each(self.logits, self.replicas, limit)

    def batch_means(self, values: Tensor) -> Tensor:
        """Returns [R] the mean over each replica's prompts."""
        return values.view(self.replicas, -1).mean(1)


def clip_each(parameter: nn.Parameter, replicas: int, limit: float) -> Tensor:
    """Makes the gradient of replicas' rows that of each replica's own mean loss, scaled down to a norm of `limit`.

    Returns:
        The largest norm of a replica's gradient before.
    """
    assert parameter.grad is not None
    grad = parameter.grad.mul_(replicas).view(replicas, -1)  # the mean was over R times the prompts
    norms = grad.norm(dim=1)
    grad.mul_((limit / (norms + 1e-6)).clamp_max(1)[:, None])  # 1e-6 as torch's own clipping
    return norms.amax()
