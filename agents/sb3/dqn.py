"""DQN of Stable-Baselines3 in self-play: its update, on the verdicts of whole duels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.buffers import ReplayBuffer

from agents.sb3.policy import SB3Policy
from agents.sb3.rollout import drawn_scalars, gains, logged
from agents.sb3.sb3_agent import SelfPlay
from agents.sb3.sb3_config import DQNConfig
from preference_duel.protocols import Policy
from preference_duel.types import Duel, Proposal

_KEPT = "observations", "next_observations", "actions", "rewards", "dones"


class DuelDQN:
    """Plays one response for each prompt against an older self, and learns from all tokens that it remembers.

    Attributes:
        policy: what is trained: greedy, but for the share of random tokens.
        average: the mean of the pool.
    """

    def __init__(self, config: DQNConfig, policy: SB3Policy, seed: int) -> None:
        self.config, self.policy = config, policy
        self._play = SelfPlay(policy, config.pool, seed)
        self._model = policy.trainer(
            learning_rate=config.learning_rate, gamma=config.gamma, buffer_size=config.buffer_size
        )

    @property
    def average(self) -> Policy:
        """The mean of the pool: a sample of all snapshots so far."""
        return self._play.pool.average

    def propose(self, prompts: Sequence[str]) -> Proposal:
        """Returns one draw of the policy and one of its opponent for each prompt."""
        return self._play.propose(prompts)

    def update(self, duel: Duel) -> dict[str, float]:
        """Remembers the tokens of the last proposal and trains on what is remembered.

        Raises:
            RuntimeError: if there was no proposal since the last update.
        """
        config, play, memory = self.config, self._play, self._model.replay_buffer
        rollout = play.transitions(duel.rows)
        scalars = drawn_scalars(self.policy, play.start, duel)
        reward = np.where(rollout.ends, gains(duel)[rollout.rows], 0.0)
        steps = zip(rollout.boards, rollout.after, rollout.actions, reward, rollout.ends, strict=True)
        for board, after, action, gain, end in steps:
            memory.add(board[None], after[None], np.array([[action]]), np.array([gain]), np.array([end]), [{}])
        play.train(self._model, config.gradient_steps, config.batch_size)
        if play.updates % config.target_every == 0:
            self._model.q_net_target.load_state_dict(self._model.q_net.state_dict())
        done = min(1.0, play.updates / config.exploration_updates)
        self.policy.exploration.fill_(1 + (config.exploration - 1) * done)
        play.pool.renew(self.policy, play.updates)
        return {
            **scalars,
            **logged(self._model, config.algorithm),
            "policy/exploration": float(self.policy.exploration),
        }

    def state_dict(self) -> dict[str, Any]:
        """Returns the policy and its older selves, what it remembers, the optimiser and the number of updates."""
        memory: ReplayBuffer = self._model.replay_buffer
        filled = memory.size()
        kept = {name: torch.from_numpy(getattr(memory, name)[:filled].copy()) for name in _KEPT}
        return {**self._play.state_dict(), "memory": {**kept, "next": memory.pos}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from `state_dict()`."""
        self._play.load_state_dict(state)
        memory: ReplayBuffer = self._model.replay_buffer
        filled = len(state["memory"]["rewards"])
        for name in _KEPT:
            getattr(memory, name)[:filled] = state["memory"][name].numpy()
        memory.pos, memory.full = int(state["memory"]["next"]), filled == memory.buffer_size
