"""Rest points of GRPO on three responses: `python -m benchmarks.group_rest_points [--tau 0.1] [--size 4]`.

The expected update of a table is summed over all 3^K groups of K samples (with `--feedback outcome` over all outcomes
of their pairs too) for each schedule and aggregate, with and without division by the standard deviation. Where it
vanishes, with KL coefficient tau in the return, the policy rests. Printed: the rest point; its exploitability, max P pi
- 1/2; its total variation from the regularised Nash policy at tau; the tau whose regularised Nash policy is nearest,
and how near; whether the rest point attracts the policy's expected gradient steps.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.optimize import minimize_scalar, root
from torch import Tensor

from agents import losses
from benchmarks.timing import machine
from envs.games import exploitability, regularised_nash
from envs.tasks.task import make_task
from oracles.cyclic import cyclic_logits
from preference_duel import groups
from preference_duel.groups import Aggregate, FixedSchedule
from preference_duel.types import Feedback

GAMES = "comal3", "cyclic 0", "cyclic 0.5", "cyclic 1"
START = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
SCHEDULES: tuple[FixedSchedule, ...] = ("all_pairs", "circular", "anchor")


def game(name: str) -> Tensor:
    """Returns the payoff [3, 3] of one of GAMES."""
    if name == "comal3":
        payoff = make_task("comal3").prob
        assert payoff is not None
        return payoff.double()
    return torch.sigmoid(cyclic_logits("disc", float(name.split()[1]), 2.0, 3, 17))


@dataclass(frozen=True)
class Groups:
    """All groups of K samples, and their advantages.

    Attributes:
        members: [G, K] the responses.
        advantage: [G, K], the mean over outcomes.
    """

    members: Tensor
    advantage: Tensor

    def expected_advantage(self, policy: Tensor) -> Tensor:
        """Returns [N] the mean advantage of a sample y, the rest of its group drawn from the policy [N]."""
        count = self.members.shape[1]
        others = policy[self.members].prod(1)[:, None] / policy[self.members]  # [G, K] of the samples beside one
        mean = torch.zeros_like(policy)
        return mean.index_add(0, self.members.flatten(), (others * self.advantage / count).flatten())


def all_groups(
    payoff: Tensor,
    size: int,
    schedule: FixedSchedule = "all_pairs",
    aggregate: Aggregate = "win_rate",
    *,
    leave_one_out: bool = False,
    scale: bool = True,
    feedback: Feedback = "probability",
) -> Groups:
    """Returns every group of `size` samples of a game's responses, with the advantages that GRPO gives them."""
    members = torch.tensor(list(itertools.product(range(len(payoff)), repeat=size)))
    texts = [[str(response) for response in row] for row in members.tolist()]
    scheduled, _ = groups.meetings(schedule, texts)
    advantage = torch.zeros(members.shape, dtype=torch.float64)
    for prob, chance in _revealed(payoff[members[:, :, None], members[:, None, :]], scheduled[0], feedback):
        reward = groups.aggregate(prob, scheduled, aggregate)
        weight = torch.full_like(reward, 1 / size)
        gained = losses.group_advantage(reward, weight, leave_one_out=leave_one_out, scale=scale)
        advantage += chance[:, None] * gained
    return Groups(members, advantage)


def _revealed(prob: Tensor, scheduled: Tensor, feedback: Feedback) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields [G, K, K] what a group may be shown, and the chance [G] of that; equal responses tie."""
    if feedback == "probability":
        yield prob, torch.ones(len(prob), dtype=torch.float64)
        return
    pairs = scheduled.triu(1).nonzero().tolist()
    for outcomes in itertools.product((0.0, 1.0), repeat=len(pairs)):
        shown, chance = prob.clone(), torch.ones(len(prob), dtype=torch.float64)
        for (i, j), won in zip(pairs, outcomes, strict=True):
            tie = prob[:, i, j] == 0.5
            shown[:, i, j] = torch.where(tie, 0.5, torch.tensor(won, dtype=torch.float64))
            shown[:, j, i] = 1 - shown[:, i, j]
            chance = chance * torch.where(tie, 0.5, prob[:, i, j] if won else prob[:, j, i])
        yield shown, chance


@dataclass(frozen=True)
class Rest:
    """A rest point: the policy [N], and whether small deviations die out under the expected gradient."""

    policy: Tensor
    attracts: bool


def rest_point(found: Groups, start: Tensor, tau: float) -> Rest:
    """Returns where the expected update with the KL term in the return vanishes.

    It is followed by Newton's method from large KL coefficients, whose rest points are near the start, down to tau.

    Raises:
        ArithmeticError: if the update is not below 1e-10 there.
    """

    def drive(logits: NDArray, tau: float) -> NDArray:
        log_policy = torch.log_softmax(torch.from_numpy(logits), 0)
        pull = found.expected_advantage(log_policy.exp()) - tau * (log_policy - start.log())
        return (pull - pull.mean()).numpy() + logits.mean()

    logits = (start.log() - start.log().mean()).numpy()
    for coefficient in np.geomspace(max(tau, 10 * float(found.advantage.abs().max())), tau, 20):
        logits = root(drive, logits, args=(coefficient,), tol=1e-13).x
    if not np.abs(drive(logits, tau)).max() < 1e-10:
        raise ArithmeticError(f"no rest point: an update of {np.abs(drive(logits, tau)).max():.1e} is left")

    def gradient(x: Tensor) -> Tensor:
        policy = torch.softmax(x, 0)
        pull = found.expected_advantage(policy) - tau * (policy.log() - start.log())
        return policy * (pull - (policy * pull).sum())

    final = torch.from_numpy(logits)
    slopes = torch.linalg.eigvals(torch.func.jacfwd(gradient)(final)).real
    tangent = slopes[slopes.abs().argsort(descending=True)][:-1]  # without the direction that moves no probability
    return Rest(torch.softmax(final, 0), bool((tangent < 1e-12).all()))


def nearest_tau(payoff: Tensor, start: Tensor, policy: Tensor) -> tuple[float, float]:
    """Returns the tau whose regularised Nash policy is nearest in total variation, and that distance."""

    def distance(log_tau: float) -> float:
        return total_variation(regularised_nash(payoff, start, float(np.exp(log_tau))).policy, policy)

    grid = np.log(np.geomspace(1e-3, 2, 40))
    best = grid[int(np.argmin([distance(point) for point in grid]))]
    fine = minimize_scalar(distance, bounds=(best - 0.3, best + 0.3), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(fine.x)), float(fine.fun)


def total_variation(one: Tensor, other: Tensor) -> float:
    """Returns half the sum of absolute differences."""
    return float((one - other).abs().sum() / 2)


def main() -> None:
    """Prints a table for each game."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", nargs="+", default=list(GAMES), choices=GAMES)
    parser.add_argument("--tau", type=float, default=0.1, help="KL coefficient (default: 0.1)")
    parser.add_argument("--size", type=int, default=4, help="K, samples of a group (default: 4)")
    parser.add_argument("--baseline", default="mean", choices=("mean", "others"), help="others: RLOO's (default: mean)")
    parser.add_argument("--feedback", default="probability", choices=get_args(Feedback))
    options = parser.parse_args()
    for name in options.games:
        payoff = game(name)
        nash = regularised_nash(payoff, START, options.tau).policy
        title = f"{name}: regularised Nash policy {_shown(nash)}, exploitability {exploitability(payoff, nash):.4f}"
        columns = "schedule", "aggregate", "std", "rests at", "exploitability", "from Nash", "nearest", "attracts"
        table = Table(*columns, title=title)
        for schedule, aggregate, scale in itertools.product(SCHEDULES, get_args(Aggregate), (False, True)):
            found = all_groups(
                payoff, options.size, schedule, aggregate, leave_one_out=options.baseline == "others", scale=scale,
                feedback=options.feedback,
            )  # fmt: skip
            rest = rest_point(found, START, options.tau)
            tau, distance = nearest_tau(payoff, START, rest.policy)
            away = total_variation(nash, rest.policy)
            table.add_row(
                schedule, aggregate, "yes" if scale else "no", _shown(rest.policy),
                f"{exploitability(payoff, rest.policy):.4f}", f"{away:.4f}", f"{distance:.4f} at {tau:.4f}",
                "yes" if rest.attracts else "no",
            )  # fmt: skip
        Console(width=140).print(table)
    print(machine())


def _shown(policy: Tensor) -> str:
    return " ".join(f"{p:.4f}" for p in policy.tolist())


if __name__ == "__main__":
    main()
