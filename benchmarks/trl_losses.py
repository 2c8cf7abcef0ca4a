"""TRL's losses of the data of tests/golden/trl_losses.json: `python -m benchmarks.trl_losses`, with TRL installed.

TRL is no dependency: `pip install torch==2.13.0 trl==1.16.0` in an environment of its own. Each loss is what TRL's own
code gives for one pair at a time, float32: `DPOTrainer._compute_loss`, `CPOTrainer.cpo_loss`,
`ORPOTrainer.odds_ratio_loss`; or for a batch of single responses: `KTOTrainer._compute_loss`; or for a group of
responses, token by token, k3 included: `GRPOTrainer._compute_loss`; or for the rewards of pairs, with margins and
centring, and the gradient by the rewards: `RewardTrainer.compute_loss`. The file is written anew, with the pairs, the
batches, the groups and the rewards that it holds.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import trl  # pyright: ignore[reportMissingImports] - not of this environment
from trl.experimental.cpo import CPOTrainer  # pyright: ignore[reportMissingImports]
from trl.experimental.orpo import ORPOTrainer  # pyright: ignore[reportMissingImports]
from trl.trainer.kto_trainer import KTOTrainer  # pyright: ignore[reportMissingImports]

GOLDEN = Path(__file__).parents[1] / "tests/golden/trl_losses.json"
DPO: dict[str, dict[str, Any]] = {
    "sigmoid": {},
    "ipo": {},
    "hinge": {"beta": 0.5},
    "robust": {"label_smoothing": 0.1},
    "exo_pair": {"label_smoothing": 0.05},
    "nca_pair": {},
    "sppo_hard": {},
    "bco_pair": {},
    "apo_zero": {},
    "apo_down": {},
    "discopop": {},
    "sigmoid_norm": {},
    "forward_kl": {"loss_types": ["sigmoid"], "f_divergence_type": "forward_kl"},
    "js_divergence": {"loss_types": ["sigmoid"], "f_divergence_type": "js_divergence"},
    "alpha_divergence": {"loss_types": ["sigmoid"], "f_divergence_type": "alpha_divergence"},
}
"""Losses of DPOTrainer and what differs from the settings of `dpo`."""
CPO: dict[str, dict[str, Any]] = {"cpo": {"loss_type": "sigmoid"}, "simpo": {"loss_type": "simpo", "beta": 2.5}}
"""Losses of CPOTrainer and what differs from the settings of `cpo`."""

KTO: dict[str, dict[str, Any]] = {
    "kto": {},
    "kto weighted": {"desirable_weight": 1.25, "undesirable_weight": 0.75},
    "apo_zero_unpaired": {"loss_type": "apo_zero_unpaired", "calculate_KL": False},
}
"""Losses of KTOTrainer and what differs from the settings of `kto`."""
GRPO: dict[str, dict[str, Any]] = {
    "grpo": {},
    "bnpo": {},
    "dr_grpo": {},
    "dapo": {"beta": 0.0, "epsilon_high": 0.28},
}
"""Losses of GRPOTrainer and what differs from the settings of `grpo`; DAPO's paper has no KL term and clips higher."""


def dpo(pair: dict[str, Any], name: str, **settings: Any) -> float:
    """Returns a loss of DPOTrainer: the whole log-probability of a response stands at its first token."""
    width = max(pair["lengths"]) + 1

    def outputs(**_: Any) -> SimpleNamespace:
        log_probs = torch.zeros(2, width - 1)
        log_probs[:, 0] = torch.tensor([pair["chosen"], pair["rejected"]])
        return SimpleNamespace(
            log_probs=log_probs,
            entropy=torch.zeros(2, width - 1),
            mean_logits=torch.zeros(2, width - 1),
            is_top1=torch.zeros(2, width - 1, dtype=torch.bool),
        )

    mask = torch.tensor([[0] + [1] * length + [0] * (width - 1 - length) for length in pair["lengths"]])
    inputs = {
        "input_ids": torch.zeros(2, width, dtype=torch.long),
        "attention_mask": torch.ones(2, width, dtype=torch.long),
        "completion_mask": mask,
        "ref_chosen_logps": torch.tensor([pair["ref_chosen"]]),
        "ref_rejected_logps": torch.tensor([pair["ref_rejected"]]),
    }
    defaults = {"beta": 0.1, "label_smoothing": 0.0, "loss_types": [name], "f_divergence_type": "reverse_kl"}
    trainer = SimpleNamespace(
        **(defaults | settings),
        model=SimpleNamespace(training=False),
        accelerator=SimpleNamespace(
            device=torch.device("cpu"), gather=lambda value: value, gather_for_metrics=lambda value: value
        ),
        args=SimpleNamespace(discopop_tau=0.05),
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_alpha_divergence_coef=0.5,
        loss_weights=[1.0],
        use_weighting=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
    )
    return trl.DPOTrainer._compute_loss(trainer, outputs, inputs, return_outputs=False).item()


def cpo(pair: dict[str, Any], loss_type: str, beta: float = 0.1) -> float:
    """Returns a loss of CPOTrainer, without its log-likelihood; simpo takes means over tokens."""
    divisors = pair["lengths"] if loss_type == "simpo" else (1, 1)
    trainer = SimpleNamespace(
        alpha=0.0,
        beta=beta,
        simpo_gamma=0.5,
        label_smoothing=0.0,
        loss_type=loss_type,
        accelerator=SimpleNamespace(device=torch.device("cpu")),
    )
    log_probs = (torch.tensor([pair[name]]) / length for name, length in zip(SEATS, divisors, strict=True))
    return CPOTrainer.cpo_loss(trainer, *log_probs)[0].item()


def orpo(pair: dict[str, Any]) -> float:
    """Returns ORPOTrainer's odds ratio loss and the winner's mean negative log-likelihood, as the paper adds them."""
    chosen, rejected = (torch.tensor([pair[name]]) / n for name, n in zip(SEATS, pair["lengths"], strict=True))
    trainer = SimpleNamespace(beta=0.1, accelerator=SimpleNamespace(device=torch.device("cpu")))
    return (-chosen - ORPOTrainer.odds_ratio_loss(trainer, chosen, rejected)[0]).item()


def kto(batch: dict[str, Any], **settings: Any) -> float:
    """Returns a loss of KTOTrainer: the whole log-probability of a response stands at its first token."""
    count = len(batch["label"])

    class Model:
        training = False

        def __call__(self, **_: Any) -> SimpleNamespace:
            return SimpleNamespace(
                log_probs=torch.tensor(batch["log_policy"])[:, None],
                entropy=torch.zeros(count, 1),
                mean_logits=torch.zeros(count, 1),
            )

    defaults = {
        "beta": 0.1,
        "loss_type": "kto",
        "calculate_KL": True,
        "desirable_weight": 1.0,
        "undesirable_weight": 1.0,
    }
    trainer = SimpleNamespace(
        **(defaults | settings),
        model=Model(),
        accelerator=SimpleNamespace(device=torch.device("cpu"), gather_for_metrics=lambda value: value),
        aux_loss_enabled=False,
        precompute_ref_logps=True,
        _compute_kl_logps=lambda *_: torch.tensor(batch["mismatched_policy"]),
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
    )
    inputs = {
        "label": torch.tensor(batch["label"]),
        "input_ids": torch.zeros(count, 2, dtype=torch.long),
        "attention_mask": torch.ones(count, 2, dtype=torch.long),
        "completion_mask": torch.tensor([[0, 1]] * count),
        "ref_logps": torch.tensor(batch["log_reference"]),
        "ref_KL_logps": torch.tensor(batch["mismatched_reference"]),
    }
    return KTOTrainer._compute_loss(trainer, trainer.model, inputs, return_outputs=False).item()


def grpo(group: dict[str, Any], loss_type: str, **settings: float) -> float:
    """Returns a loss of GRPOTrainer; at a longest completion of 1, dr_grpo sums over a response's tokens."""
    log_policy = torch.tensor(group["log_policy"])
    mask = torch.tensor(group["mask"]).int()
    defaults = {"beta": group["beta"], "epsilon_low": group["clip"], "epsilon_high": group["clip"]}
    trainer = SimpleNamespace(
        **(defaults | settings),
        _get_per_token_logps_and_entropies=lambda *_, **__: (log_policy, torch.zeros_like(log_policy), None),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        args=SimpleNamespace(use_bias_correction_kl=False, delta=None),
        loss_type=loss_type,
        use_vllm=False,
        _entropy_bonus_enabled=False,
        model=SimpleNamespace(training=False),
        max_completion_length=1,
        accelerator=SimpleNamespace(
            gather=lambda value: value,
            gather_for_metrics=lambda value: value,
            reduce=lambda value, reduction: value,
            num_processes=1,
        ),
        _metrics=defaultdict(lambda: defaultdict(list)),
    )
    inputs = {
        "prompt_ids": torch.zeros(len(mask), 1, dtype=torch.long),
        "prompt_mask": torch.ones(len(mask), 1, dtype=torch.long),
        "completion_ids": torch.zeros_like(mask).long(),
        "completion_mask": mask,
        "num_items_in_batch": mask.sum(),
        "advantages": torch.tensor(group["advantage"]),
        "old_per_token_logps": torch.tensor(group["log_sampler"]),
        "ref_per_token_logps": torch.tensor(group["log_reference"]),
    }
    return trl.GRPOTrainer._compute_loss(trainer, trainer.model, inputs).item()


def reward(pairs: dict[str, Any], margin: bool, centring: float | None) -> dict[str, Any]:
    """Returns a loss of RewardTrainer and its gradient by the rewards, the winners' first."""
    rewards = torch.tensor(pairs["chosen"] + pairs["rejected"], requires_grad=True)

    class Model:
        training = False

        def __call__(self, **_: Any) -> SimpleNamespace:
            return SimpleNamespace(logits=rewards[:, None])

    trainer = SimpleNamespace(
        model=Model(),
        args=SimpleNamespace(center_rewards_coefficient=centring),
        accelerator=SimpleNamespace(gather=lambda value: value, gather_for_metrics=lambda value: value),
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
    )
    inputs: dict[str, Any] = {"margin": torch.tensor(pairs["margin"])} if margin else {}
    loss = trl.RewardTrainer.compute_loss(trainer, trainer.model, inputs)
    (gradient,) = torch.autograd.grad(loss, rewards)
    return {"loss": loss.item(), "gradient": gradient.tolist()}


SEATS = "chosen", "rejected"
REWARDS = {"plain": (False, None), "margin": (True, None), "centring": (False, 0.01), "both": (True, 0.01)}
"""Losses of RewardTrainer: whether rows have margins, and the coefficient of centring."""


def main() -> None:
    """Writes the file."""
    data = json.loads(GOLDEN.read_text(encoding="utf-8"))
    for pair in data["pairs"]:
        pair["loss"] = {name: dpo(pair, name, **settings) for name, settings in DPO.items()}
        pair["loss"] |= {name: cpo(pair, **settings) for name, settings in CPO.items()} | {"orpo": orpo(pair)}
    for batch in data["batches"]:
        batch["loss"] = {name: kto(batch, **settings) for name, settings in KTO.items()}
    for group in data["groups"]:
        group["loss"] = {name: grpo(group, name, **settings) for name, settings in GRPO.items()}
    for pairs in data["rewards"]:
        pairs["loss"] = {name: reward(pairs, *settings) for name, settings in REWARDS.items()}
    made_by = f"trl {trl.__version__}, one pair or one batch at a time, float32: python -m benchmarks.trl_losses"
    GOLDEN.write_text(json.dumps({**data, "made_by": made_by}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
