"""A network of Stable-Baselines3 that writes responses token by token, as a policy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Discrete
from numpy.typing import NDArray
from sb3_contrib import TRPO, MaskablePPO
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor

from agents.sb3.sb3_config import SB3PolicyConfig
from envs.tasks.task import Task
from envs.token_duel.boards import phases, response_board, tokens_of
from envs.token_duel.rules import ENDED, Rules
from envs.token_duel.sb3_opponent import generate, next_token_probs, prompt_boards
from envs.token_duel.spaces import player_space
from envs.views.sb3_vec_env import TokenExtractor
from preference_duel.keyed_random import Key
from preference_duel.protocols import Policy
from preference_duel.types import Completion

ALGORITHMS: dict[str, type[BaseAlgorithm]] = {
    "ppo": PPO,
    "maskable_ppo": MaskablePPO,
    "trpo": TRPO,
    "a2c": A2C,
    "dqn": DQN,
}


class SB3Policy(Policy):
    """Plays the token-level duel's observations, as a model trained on `gymnasium.make(..., obs="flat")` does.

    Where the algorithm knows no masks, what it plays against the rules counts as in the duel: as EOS where that is
    legal, else as the smallest legal token; the distribution is that of the resulting responses. DQN's is greedy
    but for a share of random tokens.

    Args:
        config: the network.
        task: what is played; its vocabulary and limits make the spaces.
        device: where the network runs.
        seed: of the weights at the start.

    Attributes:
        net: Stable-Baselines3's policy, its optimiser included.
        exploration: the share of DQN's tokens that are drawn from all alike.

    Raises:
        ValueError: if a field is out of range.
    """

    exploration: Tensor

    def __init__(self, config: SB3PolicyConfig, task: Task, device: str = "cpu", seed: int = 0) -> None:
        super().__init__()
        if config.algorithm not in ALGORITHMS:
            raise ValueError(f"algorithm must be one of {', '.join(ALGORITHMS)}, got {config.algorithm!r}")
        if config.width < 1 or min(config.hidden, default=1) < 1:
            raise ValueError(f"width and hidden must be at least 1, got {config.width} and {config.hidden}")
        self.config, self.game = config, _Game(task)
        self.register_buffer("exploration", torch.tensor(1.0 if config.algorithm == "dqn" else 0.0))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model: Any = self._model(device)
        self.net: BasePolicy = model.policy
        self.to(device)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Returns a copy of the weights: Stable-Baselines3's policies keep their last distribution with its graph."""
        twin = type(self)(self.config, self.game.task, str(self.device))
        twin.load_state_dict(self.state_dict())
        return twin

    def roll(self, prompts: Sequence[str], n: int, key: Key) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Returns the boards of n draws for each prompt [B * n, P + T], and their tokens as drawn [B * n, T]."""
        game = self.game
        rows, draws, steps = np.arange(len(prompts)), np.arange(n), np.arange(game.limit)
        uniforms = key.uniform(k=draws[:, None], l=rows[:, None, None], vote=steps).reshape(-1, game.limit)
        start = prompt_boards(prompts, game.task, game.rules).repeat(n, axis=0)
        return generate(self._drawn_probs, start, game.rules, uniforms)

    def draw(self, prompts: Sequence[str], n: int, key: Key) -> tuple[list[list[Completion]], Tensor]:
        """Draws token by token, by inversion of the cumulative distribution."""
        responses = self.game.completions(self.roll(prompts, n, key)[0])
        return [responses[b * n : (b + 1) * n] for b in range(len(prompts))], torch.full((len(prompts), n), 1 / n)

    def logprob(self, prompts: Sequence[str], responses: Sequence[Sequence[Completion]]) -> Tensor:
        """Returns [B, K] nats, differentiable but for DQN.

        Raises:
            ValueError: if the rules of the task do not allow a response.
        """
        game, count = self.game, len(responses[0])
        tokens = game.tokens([response for row in responses for response in row])
        spoken = phases(tokens, game.rules)
        start = prompt_boards(prompts, game.task, game.rules).repeat(count, axis=0)
        boards = game.prefixes(start, tokens)
        live = spoken < ENDED
        seen, place = np.unique(boards[live], axis=0, return_inverse=True)
        phase = np.empty(len(seen), np.int64)
        phase[place] = spoken[live]
        log_probs = self._written_probs(seen, phase).log()
        chosen = log_probs[torch.from_numpy(place), torch.from_numpy(tokens[live])]
        total = torch.zeros(tokens.shape, dtype=log_probs.dtype, device=log_probs.device)
        total = total.masked_scatter(torch.from_numpy(live).to(log_probs.device), chosen)
        return total.sum(dim=1).reshape(len(prompts), count)

    def blend(self, other: Policy, weight: float) -> None:
        """Averages parameters."""
        if not isinstance(other, SB3Policy) or other.config != self.config:
            raise TypeError(f"a network can be averaged with one of the same shape, got {type(other).__name__}")
        with torch.no_grad():
            for mine, theirs in zip(self.parameters(), other.parameters(), strict=True):
                mine.lerp_(theirs, weight)

    def save(self, directory: Path) -> None:
        """Writes model.zip for `PPO.load` and its like; it plays environments of the task with obs="flat"."""
        self.trainer().save(directory / "model.zip")

    def trainer(self, **settings: Any) -> Any:
        """Returns the algorithm around this network.

        Args:
            **settings: arguments of its constructor.
        """
        model: Any = self._model(str(self.device), **settings)
        model.policy = self.net
        if isinstance(model, DQN):
            model._create_aliases()
        model.set_logger(Logger(folder=None, output_formats=[]))
        return model

    def _model(self, device: str, **settings: Any) -> BaseAlgorithm:
        config = self.config
        small = {"n_steps": 2} if config.algorithm != "dqn" else {"buffer_size": 1}
        small |= {"batch_size": 2} if config.algorithm in ("ppo", "maskable_ppo", "trpo") else {}
        extractor = {"features_extractor_class": TokenExtractor, "features_extractor_kwargs": {"width": config.width}}
        network = {"net_arch": list(config.hidden), **extractor}
        kind: Any = ALGORITHMS[config.algorithm]
        return kind("MlpPolicy", _Spaces(self.game), policy_kwargs=network, device=device, **{**small, **settings})

    def _drawn_probs(self, boards: NDArray[np.int64], masks: NDArray[np.int8]) -> Tensor:
        """Returns [M, V] the chance of each token to be drawn, before the rules replace illegal ones."""
        probs = next_token_probs(self.net, boards, masks)
        if self.config.algorithm != "dqn":
            return probs
        return torch.lerp(probs, torch.full_like(probs, 1 / probs.shape[1]), self.exploration)

    def _written_probs(self, boards: NDArray[np.int64], phase: NDArray[np.int64]) -> Tensor:
        """Returns [M, V] the chance of each token to stand on the board."""
        rules = self.game.rules
        drawn = self._drawn_probs(boards, rules.masks[phase])
        stands = torch.from_numpy(rules.written[phase]).to(drawn.device)
        return torch.zeros_like(drawn).scatter_add(1, stands, drawn)


class _Game:
    """Constants of a policy's task; it never changes, and copies of a policy share it."""

    def __init__(self, task: Task) -> None:
        self.task, self.rules = task, Rules.of(task)
        self.width, self.limit = task.max_prompt_tokens, task.max_new_tokens

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def completions(self, boards: NDArray[np.int64]) -> list[Completion]:
        """Returns the responses on boards."""
        rows = [[t for t in row if t != self.rules.fill] for row in boards[:, self.width :].tolist()]
        return [Completion(self.task.tokenizer.decode(tokens), tuple(tokens)) for tokens in rows]

    def tokens(self, responses: Sequence[Completion]) -> NDArray[np.int64]:
        """Returns [M, T] the tokens of responses, EOS from their end on."""
        listed = [tokens_of(r.text, self.task, self.rules) if r.tokens is None else r.tokens for r in responses]
        return response_board(listed, self.task, self.rules, "a response")

    def prefixes(self, start: NDArray[np.int64], tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns [M, T, P + T] what was on the board before each token."""
        boards = np.repeat(start[:, None], self.limit, axis=1)
        for step in range(1, self.limit):
            boards[:, step:, self.width + step - 1] = tokens[:, step - 1, None]
        return boards


class _Spaces(gymnasium.Env[Any, Any]):
    """The spaces of the duel, which is all that a constructor asks of its environment."""

    def __init__(self, game: _Game) -> None:
        self.observation_space = player_space(game.rules, game.width + game.limit, "flat", "none")
        self.action_space = Discrete(game.rules.vocab_size)
