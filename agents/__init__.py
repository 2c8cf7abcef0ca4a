"""Agents and policies: `make` builds an agent, `make_policy` a policy, `check_agent` tests one."""

from agents.base import Agent, Policy, make, make_policy
from agents.check import check_agent
from agents.combine import Frozen, Geometric, Mixture
from agents.hf import HFPolicy
from agents.tabular import TabularPolicy

__all__ = [
    "Agent",
    "Frozen",
    "Geometric",
    "HFPolicy",
    "Mixture",
    "Policy",
    "TabularPolicy",
    "check_agent",
    "make",
    "make_policy",
]
