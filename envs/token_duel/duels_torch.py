"""The token-level duel on tensors, for a GPU: the same outcomes as `duels`, bit by bit."""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from envs.tasks.task import Task
from envs.token_duel.duels import STATE, Illegal, TokenDuels, require_state
from envs.token_duel.rules import ENDED
from oracles import Oracle, payoff
from oracles.base import ask_pairs
from preference_duel.keyed_random import Stream, verdict
from preference_duel.keyed_random_torch import as_seeds, uniform
from preference_duel.protocols import TokenOracle
from preference_duel.types import Feedback

_LARGEST_TABLE = 2**26


class TorchDuels:
    """`TokenDuels` on a device, with the same meaning of every argument, attribute and method.

    The payoff of a finite task with at most 2**26 entries is a table on the device: then only the count of the duels
    that ended leaves the device. Otherwise their tokens are decoded on the CPU and judged as text.

    Args:
        task: prompts, vocabulary and limits.
        oracle: judge of the responses.
        size: N.
        feedback: "outcome" or "probability".
        illegal: "replace" or "raise".
        device: of the tensors.

    Raises:
        ValueError: if an argument is out of its range, the oracle pays for tokens, or a prompt has no token or too
            many.
    """

    def __init__(
        self,
        task: Task,
        oracle: Oracle,
        size: int = 1,
        feedback: Feedback = "outcome",
        illegal: Illegal = "replace",
        device: str | torch.device = "cpu",
    ) -> None:
        if isinstance(oracle, TokenOracle):
            raise ValueError(f"TorchDuels pays verdicts alone, and {type(oracle).__name__} tokens too; take TokenDuels")
        twin = TokenDuels(task, oracle, size, feedback, illegal)
        self.task, self.oracle, self.size, self.feedback, self.illegal = task, oracle, size, feedback, illegal
        self.width, self.limit, self.device, rules = twin.width, twin.limit, torch.device(device), twin.rules
        self.vocab_size, self.eos, self.fill = rules.vocab_size, rules.eos, rules.fill

        def on_device(values: np.ndarray) -> Tensor:
            return torch.from_numpy(values.copy()).to(self.device)

        tables = rules.masks, rules.written, rules.after, rules.by_step, rules.legal, rules.legal_count
        self._masks, self._written, self._after, self._by_step, self._legal, self._legal_count = map(on_device, tables)
        self._base = rules.largest_token + 1
        self._prompts = on_device(np.stack([twin.prompt_tokens(i) for i in range(len(task.prompts))]))
        self._table = self._payoff_table()
        for name, values in twin.get_state().items():
            setattr(self, name, on_device(values.view(np.int64) if name == "seeds" else values))
        self.seeds: Tensor
        self.episodes: Tensor
        self.prompts: Tensor
        self.chance: Tensor
        self.board: Tensor
        self.steps: Tensor
        self.phase: Tensor
        self.outcome: Tensor
        self.revealed: Tensor
        self._rows = torch.arange(size, device=self.device)

    def seed(self, seeds: ArrayLike, rows: Tensor | None = None) -> None:
        """Reseeds these duels (None: all); their next reset is episode 0."""
        chosen = self._rows if rows is None else rows
        self.seeds[chosen] = as_seeds(seeds).to(self.device).expand(len(chosen))
        self.episodes[chosen] = -1

    def reset(self, rows: Tensor | None = None) -> None:
        """Starts the next episode of these duels (None: all)."""
        chosen = self._rows if rows is None else rows
        self.episodes[chosen] += 1
        seeds, episodes = self.seeds[chosen], self.episodes[chosen]
        self.chance[chosen] = uniform(seeds, Stream.VERDICT, episodes)
        index = (uniform(seeds, Stream.PROMPT, episodes) * len(self._prompts)).floor().long()
        self.prompts[chosen] = index
        self.board[chosen] = self.fill
        self.board[chosen, :, : self.width] = self._prompts[index][:, None]
        self.steps[chosen] = 0
        self.phase[chosen] = self._by_step[0]
        self.outcome[chosen] = -1
        self.revealed[chosen] = torch.nan

    def step(self, tokens: Tensor) -> Tensor:
        """Plays one token of each player in every duel and returns the rows that this ended and judged.

        Arguments and errors: `TokenDuels.step`, but ids outside the vocabulary raise the device's index error.
        """
        if tokens.shape != self.phase.shape:
            raise ValueError(f"tokens must be [{self.size}, 2] ids in [0, {self.vocab_size}), got {list(tokens.shape)}")
        if self.illegal == "raise":
            self._require_legal(tokens)
        place = (self.width + self.steps)[:, None, None].expand(-1, 2, 1)
        self.board.scatter_(2, place, self._written[self.phase, tokens][..., None])
        self.steps = (self.steps + 1).clamp(max=self.limit)
        self.phase = torch.maximum(self._after[self.phase, tokens], self._by_step[self.steps][:, None])
        over = (self.phase == ENDED).all(dim=1) & (self.outcome < 0)
        rows = over.nonzero()[:, 0]
        if len(rows):
            self._judge(rows)
        return rows

    def masks(self) -> Tensor:
        """Returns [N, 2, V] int8, 1 if a token is legal; the row of an ended response is one-hot at EOS."""
        return self._masks[self.phase]

    def random_tokens(self, uniforms: Tensor) -> Tensor:
        """Returns a uniformly drawn legal token for each player, from [N, 2] uniforms in [0, 1)."""
        return self._legal[self.phase, (uniforms * self._legal_count[self.phase]).long()]

    def rewards(self, rows: Tensor) -> Tensor:
        """Returns [M, 2] of judged duels: 2y - 1 or 2P - 1 for player_0, and its negative."""
        gain = 2 * self.revealed[rows] - 1
        return torch.stack([gain, -gain], dim=1)

    def get_state(self) -> dict[str, Tensor]:
        """Returns copies of everything that changes; task, oracle and settings are not part of it."""
        return {name: getattr(self, name).clone() for name in STATE}

    def set_state(self, state: dict[str, Tensor]) -> None:
        """Continues from `get_state()` of duels of the same task and size."""
        require_state(self, state, STATE)
        for name in STATE:
            setattr(self, name, state[name].to(self.device, copy=True))

    def clone(self) -> TorchDuels:
        """Returns an independent copy that shares the task and the oracle, which never change."""
        twin = copy.copy(self)
        twin.set_state(self.get_state())
        return twin

    def _judge(self, rows: Tensor) -> None:
        if (self.episodes[rows] < 0).any():
            raise RuntimeError("step() needs a running duel; call reset() on every row first")
        prob = self._look_up(rows) if self._table is not None else self._ask(rows)
        won = verdict(prob, self.chance[rows])
        self.outcome[rows] = won.to(self.outcome.dtype)
        self.revealed[rows] = won.double() if self.feedback == "outcome" else prob

    def _ask(self, rows: Tensor) -> Tensor:
        """Returns [M] P by the responses' texts."""
        prompts = [self.task.prompts[i] for i in self.prompts[rows].tolist()]
        responses = self.board[rows, :, self.width : -1].tolist()
        decode = self.task.tokenizer.decode
        first, second = ([decode([t for t in pair[seat] if t != self.fill]) for pair in responses] for seat in (0, 1))
        return ask_pairs(self.oracle, prompts, first, second).double().to(self.device)

    def _look_up(self, rows: Tensor) -> Tensor:
        """Returns [M] P from the table."""
        assert self._table is not None
        prob, codes, order = self._table
        place = order[torch.searchsorted(codes, self._codes(self.board[rows, :, self.width : -1]))]
        return prob[self.prompts[rows], place[:, 0], place[:, 1]]

    def _codes(self, tokens: Tensor) -> Tensor:
        """Returns each response's tokens as one number."""
        powers = self._base ** torch.arange(self.limit, device=tokens.device)
        return (tokens * powers).sum(dim=-1)

    def _payoff_table(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """Returns P [X, N, N], the sorted codes of the N responses and their indices; None if it is too large."""
        responses = self.task.responses
        if responses is None or len(self.task.prompts) * len(responses) ** 2 > _LARGEST_TABLE:
            return None
        if self._base**self.limit >= 2**63 or any(response.tokens is None for response in responses):
            return None
        texts = [list(self.task.response_texts)] * len(self.task.prompts)
        prob = payoff(self.oracle, list(self.task.prompts), texts).double()
        tokens = torch.full((len(responses), self.limit), self.fill)
        for row, response in enumerate(responses):
            tokens[row, : len(response.ids)] = torch.tensor(response.ids)
        codes, order = self._codes(tokens).sort()
        return prob.to(self.device), codes.to(self.device), order.to(self.device)

    def _require_legal(self, tokens: Tensor) -> None:
        wrong = (self.masks().gather(2, tokens[..., None])[..., 0] == 0) & (self.outcome < 0)[:, None]
        if wrong.any():
            row, seat = wrong.nonzero()[0].tolist()
            raise ValueError(
                f"player_{seat} played the illegal token {int(tokens[row, seat])} at step {int(self.steps[row])}; play "
                f"one that the action mask allows, or pass illegal='replace'"
            )
