"""PPO, MaskablePPO, TRPO and A2C of Stable-Baselines3 in self-play: their updates, on the verdicts of whole duels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.buffers import MaskableRolloutBuffer
from stable_baselines3.common.buffers import RolloutBuffer
from torch import Tensor

from agents.sb3.policy import SB3Policy
from agents.sb3.rollout import Rollout, drawn_scalars, gains, logged
from agents.sb3.sb3_agent import SelfPlay
from agents.sb3.sb3_config import A2CConfig, PPOConfig, TRPOConfig
from preference_duel.protocols import Policy
from preference_duel.types import Duel, Proposal


class OnPolicy:
    """Plays one response for each prompt against an older self, and learns from its tokens and the verdict.

    A verdict is the reward of a response's last token, as on the Gymnasium view of the duel.

    Attributes:
        policy: what is trained.
        average: the mean of the pool.
    """

    def __init__(
        self, config: PPOConfig | TRPOConfig | A2CConfig, policy: SB3Policy, seed: int, settings: Mapping[str, Any]
    ) -> None:
        self.config, self.policy = config, policy
        self._play = SelfPlay(policy, config.pool, seed)
        self._model = policy.trainer(
            learning_rate=config.learning_rate,
            gamma=config.gamma,
            gae_lambda=config.gae_lambda,
            **settings,
        )

    @property
    def average(self) -> Policy:
        """The mean of the pool: a sample of all snapshots so far."""
        return self._play.pool.average

    def propose(self, prompts: Sequence[str]) -> Proposal:
        """Returns one draw of the policy and one of its opponent for each prompt."""
        return self._play.propose(prompts)

    def update(self, duel: Duel) -> dict[str, float]:
        """Trains on the duel of the last proposal.

        Raises:
            RuntimeError: if there was no proposal since the last update.
        """
        play, rollout = self._play, self._play.transitions(duel.rows)
        scalars = drawn_scalars(self.policy, play.start, duel)
        self._model.rollout_buffer = self._filled(rollout, gains(duel))
        play.train(self._model)
        play.pool.renew(self.policy, play.updates)
        return {**scalars, **logged(self._model, self.config.algorithm)}

    def state_dict(self) -> dict[str, Any]:
        """Returns the policy and its older selves, the optimiser and the number of updates."""
        return self._play.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from `state_dict()`."""
        self._play.load_state_dict(state)

    def _filled(self, rollout: Rollout, gain: NDArray[np.float64]) -> RolloutBuffer:
        """Returns a buffer of one environment, in which one response follows the other."""
        values, log_policy = self._read(self.policy, rollout)
        reward = np.where(rollout.ends, gain[rollout.rows], 0.0)
        if self.config.tau:
            log_start = self._read(self._play.start, rollout)[1]
            reward = reward - self.config.tau * (log_policy - log_start).double().cpu().numpy()
        maskable = isinstance(self._model, MaskablePPO)
        buffer = (MaskableRolloutBuffer if maskable else RolloutBuffer)(
            len(rollout.rows),
            self._model.observation_space,
            self._model.action_space,
            device=self._model.device,
            gamma=self.config.gamma,
            gae_lambda=self.config.gae_lambda,
        )
        buffer.observations[:, 0], buffer.actions[:, 0, 0] = rollout.boards, rollout.actions
        buffer.rewards[:, 0], buffer.episode_starts[:, 0] = reward, rollout.starts
        buffer.values[:, 0], buffer.log_probs[:, 0] = values.cpu().numpy(), log_policy.cpu().numpy()
        if isinstance(buffer, MaskableRolloutBuffer):
            buffer.action_masks[:, 0] = rollout.masks
        buffer.pos, buffer.full = buffer.buffer_size, True
        buffer.compute_returns_and_advantage(torch.zeros(1), np.ones(1))
        return buffer

    @torch.no_grad()
    def _read(self, policy: SB3Policy, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """Returns [M] values and log-probabilities of the tokens as drawn."""
        net: Any = policy.net
        masks = {"action_masks": rollout.masks} if isinstance(self._model, MaskablePPO) else {}
        actions = torch.from_numpy(rollout.actions).to(policy.device)
        values, log_prob, _ = net.evaluate_actions(net.obs_to_tensor(rollout.boards)[0], actions, **masks)
        return values[:, 0], log_prob
