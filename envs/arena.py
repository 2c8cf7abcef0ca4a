"""The duel with whole responses committed at once: what agents and runners use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from envs.tasks.task import Task
from envs.token_duel.chance import prompt_index
from oracles import Key, Oracle, Stream, payoff
from oracles.base import draw
from oracles.check import require_prob
from preference_duel.keyed_random import ReplicaSeeds, Rows
from preference_duel.protocols import DistantOracle, Policy, leaves_unread
from preference_duel.types import Arriving, Completion, Duel, DuelFeedback, Proposal


class DuelArena:
    """Draws prompts, asks the oracle about proposals and counts its queries.

    The same game as `envs.preference_duel_v0` stepped token by token: the same seed and tokens give the same
    prompts and verdicts. Row b of the n-th reset is episode n*B + b, so the batch size changes no verdict.

    Args:
        task: prompts and limits.
        oracle: judge of the responses.
        batch_size: prompts per reset, drawn with replacement; None: every training prompt once, in order.
        feedback: "outcome" reveals Bernoulli outcomes, "probability" P itself. "thumb" reveals verdicts on single
            responses: each left one meets a draw of `hidden` that is not shown, and its label is the outcome; of a
            whole distribution it is P(the response beats a draw of `hidden`).
        votes: outcomes per asked pair (outcome feedback only).
        seed: random seed of prompts and verdicts. `ReplicaSeeds` seed several independent games of `batch_size` rows
            each, whose prompts follow one another in the task.
        hidden: the policy that thumbs are given against, such as the start; None: feedback is of another kind.
    """

    offline = False
    opens_stage = False

    def __init__(
        self,
        task: Task,
        oracle: Oracle,
        batch_size: int | None,
        feedback: DuelFeedback = "outcome",
        votes: int = 1,
        seed: int | ReplicaSeeds = 0,
        hidden: Policy | None = None,
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1 or None (every prompt once), got {batch_size}")
        if feedback not in get_args(DuelFeedback):
            raise ValueError(f"feedback must be one of {get_args(DuelFeedback)}, got {feedback!r}")
        if votes < 1 or (votes > 1 and feedback != "outcome"):
            raise ValueError(f"votes must be at least 1, and 1 for feedback={feedback!r}, got {votes}")
        if callable(oracle) and not hasattr(oracle, "prob"):
            raise ValueError(
                f"an oracle has a method prob(prompts, first, second), and {type(oracle).__name__} has none; "
                "oracles.make('judge', of=FUNCTION) makes one of a function of a prompt and two responses"
            )
        if (feedback == "thumb") != (hidden is not None):
            raise ValueError(f"hidden plays the other seat of feedback='thumb' and of no other, got {feedback!r}")
        self.task, self.oracle, self.hidden = task, oracle, hidden
        self.batch_size, self.votes, self.seed = batch_size, votes, seed
        self.feedback: DuelFeedback = feedback
        replicas = len(seed.seeds) if isinstance(seed, ReplicaSeeds) else 1
        self._choices = len(task.prompts) // replicas
        self._size = self._choices if batch_size is None else batch_size
        self._rows = replicas * self._size
        self._episode = 0
        self._queries = self._unread = 0
        self._exact = False
        self._prompts: list[str] | None = None
        self._plays = 0

    @property
    def queries(self) -> int | None:
        """Asked pairs x votes so far, unread ones too; None once an exact policy was played, with all its pairs."""
        return None if self._exact else self._queries

    @property
    def unread_share(self) -> float | None:
        """Share of the pairs so far whose answers could not be read; None of an oracle that always answers."""
        return self._unread * self.votes / max(1, self._queries) if leaves_unread(self.oracle) else None

    def reset(self) -> list[str]:
        """Returns the next B prompts."""
        replica, row = np.divmod(np.arange(self._rows), self._size)
        episodes = self._episode + row
        if self.batch_size is None:
            index = np.arange(self._rows)
        else:
            key = Key(self._seeds(slice(None)), episodes, Stream.PROMPT)
            index = replica * self._choices + prompt_index(key.uniform(), self._choices)
        self._prompts = [self.task.prompts[i] for i in index]
        self._episodes = episodes
        self._episode += self._size
        return list(self._prompts)

    def play(self, proposal: Proposal | None) -> Duel:
        """Asks the oracle once about every pair that the proposal asks for.

        Pairs that the oracle leaves unread are taken out, see `Duel.without`; nothing may be left.

        Raises:
            ValueError: if there is no proposal or it does not fit the prompts or the feedback, or the oracle breaks its
                contract.
            Unanswered: if the oracle can't be asked, or leaves a pair of a whole distribution unread.
            RuntimeError: if there was no reset since the last play.
        """
        if self._prompts is None:
            raise RuntimeError("play() needs the prompts of a reset(); call reset() before every play()")
        if proposal is None:
            raise ValueError("play() needs a proposal, got None; only an arena that is `offline` plays without one")
        if isinstance(proposal.left, Arriving):
            if self.hidden is None and proposal.right is None and isinstance(self.oracle, DistantOracle):
                _ask_ahead(self.oracle, self._prompts, proposal.left, proposal.ask)
            proposal = replace(proposal, left=list(proposal.left))
        if self.hidden is None:
            return self._played(self._prompts, proposal)
        return _without_right(self._played(self._prompts, self._against_hidden(self.hidden, proposal)))

    def _against_hidden(self, hidden: Policy, proposal: Proposal) -> Proposal:
        """Returns a proposal in which each left response meets a draw of its own, or the whole distribution."""
        assert self._prompts is not None
        if proposal.right is not None or proposal.ask is not None:
            raise ValueError("feedback='thumb' judges single responses: propose left ones alone, and ask about all")
        if hidden.exact != (proposal.left_weight is not None):
            raise ValueError("feedback='thumb' takes two whole distributions or two samplers: build both alike")
        seeds = np.broadcast_to(self._seeds(slice(None)), self._rows)
        key = Rows(seeds=seeds, episode=self._episodes, stream=Stream.OPPONENT)
        count = _width("left", proposal.left, self._prompts)
        with torch.no_grad():
            right, weight = hidden.draw(self._prompts, count, key)
        if hidden.exact:
            return replace(proposal, right=right, right_weight=weight)
        return replace(proposal, right=right, ask=torch.eye(count).bool().expand(len(self._prompts), -1, -1))

    def _played(self, prompts: Sequence[str], proposal: Proposal) -> Duel:
        self_play = proposal.right is None
        right = proposal.left if proposal.right is None else proposal.right
        shape = (len(prompts), _width("left", proposal.left, prompts), _width("right", right, prompts))
        left_weight = _weight("left_weight", proposal.left_weight, shape[:2])
        right_weight = (
            left_weight if self_play else _weight("right_weight", proposal.right_weight, (shape[0], shape[2]))
        )
        asked = _asked(proposal.ask, shape, self_play)
        left_texts = [[completion.text for completion in row] for row in proposal.left]
        right_texts = None if self_play else [[completion.text for completion in row] for row in right]
        exact = proposal.left_weight is not None
        if self_play and not exact and shape[1] == 1:
            raise ValueError("a single response a prompt has no other to meet: propose 2 or more, or a right seat")
        prob = payoff(self.oracle, prompts, left_texts, right_texts, asked, partial=not exact)
        unread = prob.isnan()
        prob = prob.masked_fill(unread, 0.5)
        require_prob(prob, shape, type(self.oracle).__name__)
        self._spot_check(prompts, left_texts, left_texts if right_texts is None else right_texts, asked & ~unread)
        if self.feedback == "outcome" or (self.feedback == "thumb" and not exact):
            prob = self._vote(prob, asked & ~unread, self_play)
        self._exact |= exact
        self._queries += self.votes * int((asked.triu(1) if self_play else asked).sum())
        self._prompts = None
        duel = Duel(
            list(prompts), proposal.left, right, prob, left_weight.to(prob), right_weight.to(prob), asked,
            self.feedback, self.votes, exact,
        ).without(unread)  # fmt: skip
        self._unread += duel.unread
        return duel

    def _seeds(self, rows: NDArray | slice) -> int | NDArray:
        """Returns the seed of each of some rows, or the one of all."""
        return self.seed.each()[rows] if isinstance(self.seed, ReplicaSeeds) else self.seed

    def _vote(self, prob: Tensor, asked: Tensor, self_play: bool) -> Tensor:
        """Replaces P by the mean of `votes` outcomes, keyed by (episode, k, l, vote)."""
        rows, ks, ls = (asked.triu(1) if self_play else asked).nonzero(as_tuple=True)
        places = rows.numpy()[:, None]
        key = Key(self._seeds(places), self._episodes[places], Stream.VERDICT)
        chance = prob[rows, ks, ls][:, None].expand(-1, self.votes)
        won = draw(chance, key, ks.numpy()[:, None], ls.numpy()[:, None], np.arange(self.votes))
        mean = won.to(prob.dtype).mean(dim=1)
        revealed = torch.full_like(prob, 0.5)
        revealed[rows, ks, ls] = mean
        if self_play:
            revealed[rows, ls, ks] = 1 - mean
        return revealed

    def _spot_check(
        self,
        prompts: Sequence[str],
        left: Sequence[Sequence[str]],
        right: Sequence[Sequence[str]],
        asked: Tensor,
    ) -> None:
        """Asks about one pair in both orders, at plays 1, 2, 4, 8, ...; `queries` does not count these."""
        self._plays += 1
        if not self.oracle.antisymmetric or self._plays & (self._plays - 1):
            return
        b, k, l = 0, 0, asked.shape[2] - 1
        if asked.any() and not asked[b, k, l]:  # no further pair for people or for an expensive judge
            b, k, l = asked.nonzero()[0].tolist()
        pair = [prompts[b]], [right[b][l]], [left[b][k]]
        forward = float(self.oracle.prob(pair[0], pair[2], pair[1])[0])
        swapped = float(self.oracle.prob(*pair)[0])
        if abs(forward + swapped - 1) > 1e-3:
            raise ValueError(
                f"{type(self.oracle).__name__} says it is antisymmetric, but prob(a, b) = {forward:.4g} and "
                f"prob(b, a) = {swapped:.4g} do not sum to 1 for a={left[b][k]!r}, b={right[b][l]!r}; run "
                f"oracles.check_oracle on it, or set antisymmetric = False so that both orders are asked"
            )

    def state_dict(self) -> dict[str, int | bool]:
        """Returns the counters; the seed and they are the whole random state."""
        counters = {"queries": self._queries, "unread": self._unread, "plays": self._plays}
        return {"episode": self._episode, "exact": self._exact, **counters}

    def load_state_dict(self, state: dict[str, int | bool]) -> None:
        """Continues from `state_dict()`; prompts of an unplayed reset are dropped."""
        self._episode, self._queries = int(state["episode"]), int(state["queries"])
        self._exact, self._plays = bool(state["exact"]), int(state["plays"])
        self._unread = int(state.get("unread", 0))  # checkpoints of older versions have none
        self._prompts = None


def _without_right(duel: Duel) -> Duel:
    """Returns a duel whose right responses are not shown: of each left one, the mean verdict over its opponents."""
    met = duel.asked * duel.right_weight[:, None, :]
    label = (met * duel.prob).sum(2) / met.sum(2).clamp(min=torch.finfo(met.dtype).tiny)
    asked = duel.asked.any(2, keepdim=True)
    return replace(
        duel,
        right=[[Completion("")]] * len(duel.prompts),
        prob=torch.where(asked, label[:, :, None], 0.5),
        right_weight=duel.right_weight.new_ones(len(duel.prompts), 1),
        asked=asked,
    )


def _width(seat: str, responses: Sequence[Sequence[Completion]], prompts: Sequence[str]) -> int:
    widths = {len(row) for row in responses}
    if len(responses) != len(prompts) or len(widths) != 1 or 0 in widths:
        raise ValueError(
            f"{seat} must hold the same number of responses, at least one, for each of the {len(prompts)} prompts; "
            f"got {len(responses)} rows of {sorted(widths)} responses"
        )
    return widths.pop()


def _weight(name: str, weight: Tensor | None, shape: tuple[int, int]) -> Tensor:
    if weight is None:
        return torch.full(shape, 1 / shape[1], dtype=torch.float64)
    if tuple(weight.shape) != shape or (weight < 0).any() or (weight.double().sum(1) - 1).abs().max() > 1e-4:
        raise ValueError(f"{name} must be {shape}, non-negative, with rows that sum to 1; got {tuple(weight.shape)}")
    return weight.detach().cpu()


def questions(proposal: Proposal) -> int:
    """Returns the number of pairs that a proposal asks the oracle about, each unordered pair of self-play once."""
    right, self_play = proposal.right or proposal.left, proposal.right is None
    asked = _asked(proposal.ask, (len(proposal.left), len(proposal.left[0]), len(right[0])), self_play)
    return int((asked.triu(1) if self_play else asked).sum())


def _ask_ahead(oracle: DistantOracle, prompts: Sequence[str], arriving: Arriving, ask: Tensor | None) -> None:
    """Asks about the pairs of each prompt, of self-play, when its responses arrive, until all are there."""
    count, width = arriving.shape
    asked = _asked(ask, (count, width, width), self_play=True).triu(1)
    try:
        for b, row in arriving.arrivals():
            first, second = ([row[i].text for i in side.tolist()] for side in asked[b].nonzero(as_tuple=True))
            oracle.ask_ahead([prompts[b]] * len(first), first, second)
    except BaseException:
        oracle.forget()
        raise


def _asked(ask: Tensor | None, shape: tuple[int, int, int], self_play: bool) -> Tensor:
    if ask is not None and tuple(ask.shape) != shape:
        raise ValueError(f"ask must be {shape}, got {tuple(ask.shape)}")
    asked = torch.ones(shape, dtype=torch.bool) if ask is None else ask.bool().cpu()
    if self_play:
        asked = (asked | asked.mT) & ~torch.eye(shape[1], dtype=torch.bool)
    return asked
