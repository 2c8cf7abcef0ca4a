"""Optima of the losses of pairs, single responses and lists: `python -m benchmarks.optima [--agents dpo kto ...]`.

Each agent of agents/pairs, agents/tokens, agents/singles and agents/lists is solved exactly (L-BFGS on a whole
distribution, no sampling) on three games of three responses with 1, 2 and 3 tokens, from the start (.5, .3, .2). Pairs
are drawn by the start; the label of a single response is its win rate against the start. "reward": Bradley-Terry
preferences of rewards 0, 1 and 1/2; "comal3"; "half cyclic", logits of curl ratio 1/2. mnpo and nash_ema play their own
duels instead. Printed: the distribution it ends at, and its exploitability, max P pi - 1/2. Last come the policies that
theory compares them with.
"""

from __future__ import annotations

import argparse
import dataclasses

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from agents.lists.dno import DNOConfig
from agents.lists.lipo import LiPOConfig
from agents.lists.list_agent import ListConfig
from agents.lists.plackett_luce import PlackettLuceConfig
from agents.lists.pro import PROConfig
from agents.lists.rrhf import RRHFConfig
from agents.nash.gpm_po import GPMPOConfig
from agents.nash.mnpo import MNPOConfig
from agents.nash.nash_ema import NashEMAConfig
from agents.optim.optimiser import OptimiserConfig
from agents.pairs.apo import APOConfig
from agents.pairs.bco import BCOConfig
from agents.pairs.beta_dpo import BetaDPOConfig
from agents.pairs.cpo import CPOConfig
from agents.pairs.discopop import DiscoPOPConfig
from agents.pairs.dpo import DPOConfig
from agents.pairs.dpop import DPOPConfig
from agents.pairs.f_dpo import FDPOConfig
from agents.pairs.gpo import GPOConfig
from agents.pairs.nca import NCAConfig
from agents.pairs.orpo import ORPOConfig
from agents.pairs.pair_agent import PairConfig
from agents.pairs.rdpo import RDPOConfig
from agents.pairs.simpo import SimPOConfig
from agents.pairs.slic import SLiCConfig
from agents.policies.tabular import TabularPolicy
from agents.singles.bco_unpaired import BCOUnpairedConfig
from agents.singles.d2o import D2OConfig
from agents.singles.dro import DROConfig
from agents.singles.kimi import KimiConfig
from agents.singles.kto import KTOConfig
from agents.singles.npo import NPOConfig
from agents.singles.single_agent import SingleConfig
from agents.singles.spin import SPINConfig
from agents.tokens.cringe import CRINGEConfig
from agents.tokens.pairwise_cringe import PairwiseCRINGEConfig
from agents.tokens.tdpo import TDPOConfig
from benchmarks.timing import machine
from envs import DuelArena, Task
from envs.games import exploitability, regularised_nash, von_neumann_winner
from envs.tasks.finite import finite_task
from envs.tasks.task import make_task
from oracles.cyclic import cyclic_logits
from oracles.table import TableOracle
from preference_duel.types import Completion

RESPONSES = ["a", "b", "c"]
LENGTHS = 1, 2, 3
START = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
REWARD = torch.tensor([0.0, 1.0, 0.5], dtype=torch.float64)
BETA = 0.5

Config = (
    PairConfig
    | SingleConfig
    | CRINGEConfig
    | SPINConfig
    | ListConfig
    | DNOConfig
    | GPMPOConfig
    | NashEMAConfig
    | MNPOConfig
)

ENTRIES: tuple[tuple[str, str, Config], ...] = (
    ("dpo", "", DPOConfig(tau=BETA)),
    ("dpo", "length_normalised", DPOConfig(tau=BETA, length_normalised=True)),
    ("rdpo", "alpha .1", RDPOConfig(beta=BETA, alpha=0.1)),
    ("beta_dpo", "alpha .6, rho 0", BetaDPOConfig(beta=BETA, rho=0.0)),
    ("beta_dpo", "alpha .6, rho .2", BetaDPOConfig(beta=BETA)),
    ("dpop", "lam 1", DPOPConfig(beta=BETA, lam=1.0)),
    ("dpop", "lam 50", DPOPConfig(beta=BETA)),
    ("f_dpo", "forward_kl", FDPOConfig(beta=BETA, divergence="forward_kl")),
    ("f_dpo", "js", FDPOConfig(beta=BETA, divergence="js")),
    ("f_dpo", "alpha .5", FDPOConfig(beta=BETA, divergence="alpha")),
    ("gpo", "exponential", GPOConfig(beta=BETA, function="exponential")),
    ("gpo", "squared (IPO)", GPOConfig(beta=BETA, function="squared")),
    ("gpo", "hinge", GPOConfig(beta=BETA, function="hinge")),
    ("gpo", "savage", GPOConfig(beta=BETA, function="savage")),
    ("discopop", "tau .05", DiscoPOPConfig(beta=BETA)),
    ("nca", "", NCAConfig(beta=BETA)),
    ("bco", "", BCOConfig(beta=BETA)),
    ("apo", "zero", APOConfig(beta=BETA)),
    ("apo", "down", APOConfig(beta=BETA, form="down")),
    ("slic", "delta 1, lam .1", SLiCConfig()),
    ("cpo", "alpha 0", CPOConfig(beta=BETA, alpha=0.0)),
    ("cpo", "alpha 1", CPOConfig(beta=BETA)),
    ("simpo", "beta 2, gamma 0", SimPOConfig(beta=2.0, gamma=0.0)),
    ("simpo", "beta 2, gamma 1", SimPOConfig(beta=2.0, gamma=1.0)),
    ("orpo", "lam .1", ORPOConfig()),
    ("tdpo", "TDPO1", TDPOConfig(beta=BETA, alpha=1.0, stop_winner=False)),
    ("tdpo", "TDPO2", TDPOConfig(beta=BETA)),
    ("cringe", "", CRINGEConfig()),
    ("pairwise_cringe", "", PairwiseCRINGEConfig()),
    ("kto", "beta .1", KTOConfig()),
    ("kto", "", KTOConfig(beta=BETA)),
    ("dro", "", DROConfig(tau=BETA, value=OptimiserConfig("lbfgs"))),
    ("kimi", "one step", KimiConfig(tau=BETA)),
    ("npo", "retain 1", NPOConfig(beta=BETA)),
    ("npo", "retain 0", NPOConfig(beta=BETA, retain=0.0)),
    ("d2o", "alpha .5", D2OConfig(beta=BETA, alpha=BETA)),
    ("bco_unpaired", "", BCOUnpairedConfig(beta=BETA)),
    ("spin", "one step", SPINConfig(lam=BETA)),
    ("plackett_luce", "", PlackettLuceConfig(beta=BETA)),
    ("lipo", "", LiPOConfig(beta=BETA)),
    ("pro", "", PROConfig()),
    ("rrhf", "", RRHFConfig()),
    ("dno", "one step", DNOConfig(beta=BETA)),
    ("gpm_po", "one step", GPMPOConfig(beta=BETA)),
    ("mnpo", "2 opponents", MNPOConfig(tau=BETA, eta=0.4)),
    ("nash_ema", "decay .99", NashEMAConfig(tau=BETA, decay=0.99)),
)
"""Agent, settings beside beta = 1/2, and the two as a configuration."""

DESCENDING = NashEMAConfig, LiPOConfig, BCOUnpairedConfig, TDPOConfig, CRINGEConfig, PairwiseCRINGEConfig
"""Those that no line search solves."""


def games() -> dict[str, Tensor]:
    """Returns the payoffs [3, 3]."""
    comal = make_task("comal3").prob
    assert comal is not None
    cyclic = torch.sigmoid(cyclic_logits("disc", 0.5, 2.0, 3, 11))
    return {"reward": torch.sigmoid(REWARD[:, None] - REWARD), "comal3": comal.double(), "half cyclic": cyclic}


def task_of_lengths() -> Task:
    """Returns a task of three responses with 1, 2 and 3 tokens."""
    task = finite_task("lengths", ("x",), RESPONSES, RESPONSES)
    responses = tuple(Completion(text, (0,) * length) for text, length in zip(RESPONSES, LENGTHS, strict=True))
    return dataclasses.replace(task, responses=responses)


def optimum(config: Config, payoff: Tensor, start: Tensor = START) -> Tensor:
    """Returns [3] the distribution at which an agent ends that solves the duels of its start, again and again.

    mnpo and nash_ema play their own duels. nash_ema takes steps down the gradient, and so do lipo, whose loss jumps
    with the ranks, bco_unpaired, whose shift follows the policy, and those of agents/tokens, whose gradient is no
    loss's.
    """
    task = task_of_lengths()
    policy = TabularPolicy(task, start, exact=True)
    if isinstance(config, DESCENDING):
        rounds, optimiser = 3000, OptimiserConfig("sgd", learning_rate=5.0, warmup=0, max_grad_norm=None)
    else:
        rounds, optimiser = 100, OptimiserConfig("lbfgs")
    solved = dataclasses.replace(config, average=False, optimiser=optimiser)
    if not isinstance(solved, NashEMAConfig | MNPOConfig):
        solved = dataclasses.replace(solved, refresh_every=rounds + 1)
    agent = solved.build(policy=policy)
    arena = DuelArena(task, TableOracle(payoff, ("x",), RESPONSES), None, "probability")
    law = start
    for _ in range(rounds):
        agent.update(arena.play(agent.propose(arena.reset())))
        before, law = law, policy.distribution(["x"], list(task.responses or ()))[0]
        if (law - before).abs().max() < 1e-8:
            break
    return law


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = list(dict.fromkeys(name for name, _, _ in ENTRIES))
    parser.add_argument("--agents", nargs="+", default=names, choices=names)
    found = parser.parse_args()
    payoffs = games()
    table = Table("agent", "settings", *(f"{name}: distribution, exploitability" for name in payoffs))
    for name, settings, config in ENTRIES:
        if name in found.agents:
            table.add_row(name, settings, *(_shown(payoff, optimum(config, payoff)) for payoff in payoffs.values()))
    table.add_section()
    table.add_row("start", "", *(_shown(payoff, START) for payoff in payoffs.values()))
    nash = (regularised_nash(payoff, START, BETA).policy for payoff in payoffs.values())
    table.add_row("regularised Nash", "tau .5", *map(_shown, payoffs.values(), nash))
    winners = (von_neumann_winner(payoff).policy for payoff in payoffs.values())
    table.add_row("Nash", "", *map(_shown, payoffs.values(), winners))
    Console(width=140).print(table)
    print(machine())


def _shown(payoff: Tensor, law: Tensor) -> str:
    return f"{' '.join(f'{p:.4f}' for p in law.tolist())}  {exploitability(payoff, law).item():.4f}"


if __name__ == "__main__":
    main()
