"""Stable-Baselines3 models as players of the duel: next-token probabilities and sampling of responses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Dict
from numpy.typing import NDArray
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.dqn.policies import DQNPolicy
from torch import Tensor
from torch.nn.functional import one_hot

from envs.tasks.task import Task
from envs.token_duel.boards import prompt_tokens
from envs.token_duel.rules import ENDED, Rules
from envs.token_duel.spaces import board_space
from preference_duel.keyed_random import Rows, choose


class ModelOpponent:
    """Plays the responses of a Stable-Baselines3 model of the same duel, sampled by keyed uniforms.

    Illegal tokens of a model without masks count as in the duel: as EOS, or as the smallest legal token.

    Args:
        model: PPO, A2C, MaskablePPO (sampled) or DQN (greedy).
        task: of the duel.
        rules: its token rules.

    Raises:
        ValueError: if the model's spaces are not the task's, because of another vocabulary for instance.
    """

    def __init__(self, model: BaseAlgorithm, task: Task, rules: Rules) -> None:
        self.model, self.task, self.rules = model, task, rules
        places = task.max_prompt_tokens + task.max_new_tokens
        board: Any = board_space(model.observation_space)
        size = getattr(model.action_space, "n", None)
        if size != rules.vocab_size or board.shape != (places,):
            raise ValueError(
                f"the opponent's model plays {size} tokens on boards {board.shape}, task '{task.name}' has "
                f"{rules.vocab_size} on ({places},); train it on this task"
            )

    def respond(self, prompts: Sequence[str], key: Rows) -> NDArray[np.int64]:
        """Returns one response to each prompt."""
        rows, steps = np.arange(len(prompts))[:, None], np.arange(self.task.max_new_tokens)
        uniforms = key.uniform(l=rows, vote=steps)
        start = prompt_boards(prompts, self.task, self.rules)
        boards, _ = generate(lambda *inputs: next_token_probs(self.model.policy, *inputs), start, self.rules, uniforms)
        responses = boards[:, self.task.max_prompt_tokens :]
        return np.where(responses == self.rules.fill, self.rules.eos, responses)


def generate(
    probs: Callable[[NDArray[np.int64], NDArray[np.int8]], Tensor],
    start: NDArray[np.int64],
    rules: Rules,
    uniforms: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draws one response on each board, token by token.

    Args:
        probs: from boards [M, P + T] and masks [M, V] to the probability of each next token [M, V].
        start: [B, P + T] the boards before the first token, see `prompt_boards`.
        rules: the token rules.
        uniforms: [B, T] in [0, 1), one for each token.

    Returns:
        The boards at the end [B, P + T], with illegal tokens replaced, and the tokens as they were drawn [B, T].
    """
    boards, drawn = start.copy(), np.full(uniforms.shape, rules.eos)
    width = boards.shape[1] - uniforms.shape[1]
    phase, live = np.full(len(boards), rules.by_step.item(0)), np.arange(len(boards))
    for step in range(uniforms.shape[1]):
        with torch.no_grad():
            weights = probs(boards[live], rules.masks[phase[live]]).double().cpu().numpy()
        drawn[live, step] = token = choose(weights, uniforms[live, step])
        boards[live, width + step] = rules.written[phase[live], token]
        phase[live] = np.maximum(rules.after[phase[live], token], rules.by_step[step + 1])
        live = np.flatnonzero(phase < ENDED)
        if not live.size:
            break
    return boards, drawn


def prompt_boards(prompts: Sequence[str], task: Task, rules: Rules) -> NDArray[np.int64]:
    """Returns [B, P + T] the boards before the first token.

    Raises:
        ValueError: if a prompt has no token, or more than P.
    """
    boards = np.full((len(prompts), task.max_prompt_tokens + task.max_new_tokens), rules.fill)
    boards[:, : task.max_prompt_tokens] = [prompt_tokens(prompt, task, rules) for prompt in prompts]
    return boards


def next_token_probs(policy: BasePolicy, boards: NDArray[np.int64], masks: NDArray[np.int8]) -> Tensor:
    """Returns [M, V] the probability of each next token; differentiable except for DQN, which is greedy.

    Args:
        policy: of PPO, A2C, MaskablePPO or DQN.
        boards: [M, P + T] the player's observations.
        masks: [M, V] 1 if a token is legal.

    Raises:
        TypeError: if the policy is of another kind.
    """
    inputs: Any = boards
    if isinstance(policy.observation_space, Dict):
        inputs = {"observation": boards, "action_mask": masks}
        inputs = {name: inputs[name] for name in policy.observation_space.spaces}
    observations = policy.obs_to_tensor(inputs)[0]
    if isinstance(policy, DQNPolicy):
        return one_hot(policy.q_net(observations).argmax(dim=1), masks.shape[1]).float()
    if not isinstance(policy, ActorCriticPolicy | MaskableActorCriticPolicy):
        raise TypeError(f"only PPO, A2C, MaskablePPO and DQN play duels, got a {type(policy).__name__}")
    arguments: Any = (observations, masks) if isinstance(policy, MaskableActorCriticPolicy) else (observations,)
    distribution: Any = policy.get_distribution(*arguments)
    return distribution.distribution.probs
