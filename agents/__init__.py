"""Agents and policies: `make` builds an agent, `make_policy` a policy, `check_agent` tests one."""

from agents.check import check_agent
from agents.optim.optimiser import OptimiserConfig
from agents.policies.lm.hf_policy import HFPolicy
from agents.policies.mixtures import Frozen, Geometric, Mixture
from agents.policies.tabular import TabularPolicy
from agents.registry import make, make_policy
from preference_duel.protocols import Agent, Policy

__all__ = [
    "Agent",
    "Frozen",
    "Geometric",
    "HFPolicy",
    "Mixture",
    "OptimiserConfig",
    "Policy",
    "TabularPolicy",
    "check_agent",
    "make",
    "make_policy",
]
