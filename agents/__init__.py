"""Agents and policies: `make` builds an agent, `make_policy` a policy, `check_agent` tests one."""

from agents.base import Agent, Policy, make, make_policy
from agents.tabular import TabularPolicy

__all__ = ["Agent", "Policy", "TabularPolicy", "make", "make_policy"]
