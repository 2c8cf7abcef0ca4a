"""Models of the preferences that agents learn from their duels: counts for a table, a network for a language model."""

from __future__ import annotations

from agents.policies.lm.hf_policy import HFPolicy
from agents.policies.tabular import TabularPolicy
from agents.preference_models.counts import DuelCounts
from agents.preference_models.network import ModelConfig, NetworkModel
from preference_duel.protocols import Policy
from preference_duel.types import Duel


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
    if isinstance(policy, TabularPolicy):
        return DuelCounts(policy.cells, prior=0.0 if policy.exact else 0.5)
    if isinstance(policy, HFPolicy):
        return NetworkModel(policy, config, seed)
    raise ValueError(f"preferences are learned for tables and language models, not for a {type(policy).__name__}")


def predict_and_score(model: DuelCounts | NetworkModel, duel: Duel) -> tuple[float, dict[str, float]]:
    """Returns a model's mean log loss on a duel, in nats, and its other prediction metrics by tag."""
    metrics = model.foresight(duel)
    return metrics.pop("log_loss"), {f"model/{name}": value for name, value in metrics.items()}
