"""Agents and policies: `make` builds an agent, `make_policy` a policy, `check_agent` tests one."""

from typing import TYPE_CHECKING

from agents.registry import make, make_policy
from preference_duel.lazy import lazy

if TYPE_CHECKING:
    from agents.check import check_agent
    from agents.optim.optimiser import OptimiserConfig
    from agents.policies.beam import BeamSearch
    from agents.policies.geometric import geometric
    from agents.policies.lm.hf_policy import HFPolicy
    from agents.policies.mixtures import Frozen, Mixture
    from agents.policies.selected import Accepted, BestOf
    from agents.policies.tabular import TabularPolicy
    from preference_duel.protocols import Agent, Policy

__all__ = [
    "Accepted",
    "Agent",
    "BeamSearch",
    "BestOf",
    "Frozen",
    "HFPolicy",
    "Mixture",
    "OptimiserConfig",
    "Policy",
    "TabularPolicy",
    "check_agent",
    "geometric",
    "make",
    "make_policy",
]

__getattr__ = lazy(
    __name__,
    {
        "Accepted": "agents.policies.selected",
        "Agent": "preference_duel.protocols",
        "BeamSearch": "agents.policies.beam",
        "BestOf": "agents.policies.selected",
        "Frozen": "agents.policies.mixtures",
        "HFPolicy": "agents.policies.lm.hf_policy",
        "Mixture": "agents.policies.mixtures",
        "OptimiserConfig": "agents.optim.optimiser",
        "Policy": "preference_duel.protocols",
        "TabularPolicy": "agents.policies.tabular",
        "check_agent": "agents.check",
        "geometric": "agents.policies.geometric",
    },
)
