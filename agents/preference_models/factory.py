"""Models of the preferences that agents learn from their duels: counts for a table, a network for a language model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from agents.optim.optimiser import OptimiserConfig
from preference_duel.types import Duel

if TYPE_CHECKING:
    from agents.preference_models.counts import DuelCounts
    from agents.preference_models.network import NetworkModel
    from preference_duel.protocols import Policy

Planner = Literal["exact", "ipo"]


@dataclass(frozen=True)
class ModelConfig:
    """Settings of a preference model for text."""

    planes: int = 3
    """Pairs of numbers of the skew-symmetric part (general preference model, arXiv:2410.02197), >= 0; 0 is
    Bradley-Terry, which knows no cycles."""
    steps: int = 3
    """Gradient steps after each duel, >= 1."""
    batch_size: int = 32
    """Comparisons in each of them, drawn from all duels so far, >= 1."""
    optimiser: OptimiserConfig = field(default_factory=lambda: OptimiserConfig("adamw", 1e-3, 0.9, weight_decay=0.01))
    """Optimiser of the network."""
    calibration: int = 0
    """Newest verdicts, >= 0, under which the log-odds are scaled down to be most likely (temperature scaling), each
    predicted before it was learned; 0: they stay as they are."""

    def __post_init__(self) -> None:
        """Raises where a value is out of range."""
        for name, least in {"planes": 0, "steps": 1, "batch_size": 1, "calibration": 0}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


def model_of(policy: Policy, config: ModelConfig, seed: int) -> DuelCounts | NetworkModel:
    """Returns a model for the responses of a policy.

    Both have `add(duel)`, `foresight(duel)`, `prob(prompts, left, right)`, `reward(prompts, responses)` and state.

    Args:
        policy: whose responses are compared.
        config: of a network.
        seed: names a network's batches.

    Raises:
        ValueError: if the policy is neither a table nor a language model.
    """
    from agents.policies.lm.hf_policy import HFPolicy
    from agents.policies.tabular import TabularPolicy
    from agents.preference_models.counts import DuelCounts
    from agents.preference_models.network import NetworkModel

    if isinstance(policy, TabularPolicy):
        return DuelCounts(policy.cells, prior=0.0 if policy.exact else 0.5)
    if isinstance(policy, HFPolicy):
        return NetworkModel(policy, config, seed)
    raise ValueError(f"preferences are learned for tables and language models, not for a {type(policy).__name__}")


def predict_and_score(model: DuelCounts | NetworkModel, duel: Duel, tag: str) -> dict[str, float]:
    """Returns a model's prediction metrics on a duel by tag, its mean log loss in nats under `tag`.

    There are none if nothing was asked: a game of one response has no pairs.
    """
    if not duel.comparisons.any():
        return {}
    metrics = model.foresight(duel)
    log_loss = metrics.pop("log_loss")
    return {**{f"model/{name}": value for name, value in metrics.items()}, tag: log_loss}


def choose_parts(policy: Policy, planner: str | None, enhancer: str | None) -> tuple[str, str]:
    """Returns the names of planner and enhancer, those that are None by the kind of policy.

    Raises:
        ValueError: if they need a table of all responses, and the policy is none.
    """
    from agents.policies.tabular import TabularPolicy

    table = isinstance(policy, TabularPolicy)
    planner = planner or ("exact" if table else "ipo")
    enhancer = enhancer or ("optimistic" if table else "tournament")
    if not table and (planner == "exact" or enhancer == "uniform"):
        raise ValueError(
            f"planner '{planner}' with enhancer '{enhancer}' needs a table of all responses, and the "
            f"policy is a {type(policy).__name__}; take planner 'ipo', and not enhancer 'uniform'"
        )
    return planner, enhancer
