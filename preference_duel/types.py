"""Data exchanged by the environment and the agents: prompts, completions, proposals and duels."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

Feedback = Literal["outcome", "probability"]
DuelFeedback = Literal["outcome", "probability", "thumb"]


class Unanswered(OSError):
    """An oracle could not be asked; nothing was made up in place of its answer."""


class Conversation(str):
    """A prompt of several turns: a string that also keeps its messages for a policy's chat template.

    Attributes:
        messages: dicts with "role" and "content"; the last one is the user's.
    """

    messages: tuple[dict[str, str], ...]

    def __new__(cls, messages: Sequence[dict[str, str]]) -> Conversation:
        """Writes one `ROLE: content` line for each message."""
        text = super().__new__(cls, "\n".join(f"{turn['role'].upper()}: {turn['content']}" for turn in messages))
        text.messages = tuple(messages)
        return text

    def __getnewargs__(self) -> tuple[tuple[dict[str, str], ...]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Returns what `copy` and `pickle` rebuild it from."""
        return (self.messages,)


def messages_of(prompt: str) -> list[dict[str, str]]:
    """Returns the messages that a prompt keeps, as a `Conversation` does, or its text as the user's only one."""
    return list(getattr(prompt, "messages", None) or ({"role": "user", "content": str(prompt)},))


@dataclass(frozen=True, slots=True)
class Completion:
    """One response.

    `tokens` are the ids that were sampled, with the EOS that ended them (none if the limit did); `text` is
    derived from them. `tokens` is None if the text came from a file. `token_logprob` are the nats of the tokens by what
    sampled them, in its own arithmetic, if it said so; responses that differ in them alone are equal.
    """

    text: str
    tokens: tuple[int, ...] | None = None
    token_logprob: tuple[float, ...] | None = field(default=None, compare=False, repr=False)

    @property
    def ids(self) -> tuple[int, ...]:
        """The tokens, where they must be known.

        Raises:
            ValueError: if they are not, as those of a text from a file.
        """
        if self.tokens is None:
            raise ValueError(f"the tokens of the response {self.text!r} are not known; only its policy can tell them")
        return self.tokens


class Arriving(Sequence[Sequence[Completion]]):
    """Responses `[B][K]` of which some are still being sampled; whatever reads one of them waits for all.

    Attributes:
        seconds: spent in sampling since this was made.

    Args:
        rows: yields the index of each of the B prompts with its responses, in any order, once they are sampled.
        shape: B and K.
    """

    def __init__(self, rows: Iterator[tuple[int, Sequence[Completion]]], shape: tuple[int, int]) -> None:
        self.shape, self.seconds = shape, 0.0
        self._rows, self._found = rows, dict[int, Sequence[Completion]]()

    def arrivals(self) -> Iterator[tuple[int, Sequence[Completion]]]:
        """Yields the index of each prompt and its responses, as they arrive; those that are there come first."""
        yield from list(self._found.items())
        while (row := self._next()) is not None:
            yield row

    def finish(self) -> None:
        """Waits for all."""
        while self._next() is not None:
            pass

    def __len__(self) -> int:
        """Returns B."""
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        """Returns the responses to a prompt, or to each of a slice."""
        self.finish()
        where = range(len(self))[index]
        return self._found[where] if isinstance(where, int) else [self._found[b] for b in where]

    def _next(self) -> tuple[int, Sequence[Completion]] | None:
        start = time.perf_counter()
        row = next(self._rows, None)
        self.seconds += time.perf_counter() - start
        if row is not None:
            self._found[row[0]] = row[1]
        return row


@dataclass(frozen=True)
class Proposal:
    """The responses of an agent for both seats, for each prompt.

    Attributes:
        left: `[B][K]` responses of the left seat, some of which may still be sampled (`Arriving`).
        right: `[B][L]` responses of the right seat; None is self-play: the left ones sit on both sides, and each
            unordered pair is asked once.
        left_weight: [B, K] the probabilities of `left` if it lists a policy's whole distribution, rows sum to 1.
            None: `left` are samples, each counting 1/K.
        right_weight: [B, L] likewise.
        ask: [B, K, L] bool, the pairs that are to be asked; None: all.
    """

    left: Sequence[Sequence[Completion]]
    right: Sequence[Sequence[Completion]] | None = None
    left_weight: Tensor | None = None
    right_weight: Tensor | None = None
    ask: Tensor | None = None


@dataclass(frozen=True)
class Duel:
    """The payoff matrix of the game restricted to the drawn responses; all tensors are on the CPU.

    Attributes:
        prompts: B prompts.
        left: `[B][K]` responses.
        right: `[B][L]` responses; the same object as `left` in self-play.
        prob: [B, K, L] what the environment reveals of P(left k beats right l | prompt): the mean of `votes`
            Bernoulli outcomes, or P itself; 1/2 where nothing was asked.
        left_weight: [B, K], rows sum to 1.
        right_weight: [B, L], rows sum to 1.
        asked: [B, K, L] bool, True where `prob` rests on an answer of the oracle (in self-play both halves, not
            the diagonal).
        feedback: "outcome", "probability", or "thumb": verdicts on single responses, whose opponents are not shown.
            Then L is 1, each right response is empty, and `prob` is the left one's label.
        votes: Bernoulli outcomes per asked pair.
        exact: True if the responses are a policy's whole distribution with its probabilities as weights, not samples.
        unread: pairs that `without` took out.
        rows: where the prompts stand among those of the proposal; None: they are all there, in their order.
        given: True if the responses were given, as those of a file, and no policy of the agent's proposed them.
    """

    prompts: Sequence[str]
    left: Sequence[Sequence[Completion]]
    right: Sequence[Sequence[Completion]]
    prob: Tensor
    left_weight: Tensor
    right_weight: Tensor
    asked: Tensor
    feedback: DuelFeedback
    votes: int
    exact: bool = False
    unread: int = 0
    rows: Sequence[int] | None = None
    given: bool = False

    @property
    def self_play(self) -> bool:
        """True if both seats hold the same draws."""
        return self.right is self.left

    @property
    def comparisons(self) -> Tensor:
        """[B, K, L] bool, the asked pairs, in self-play one half of them: each question once."""
        return self.asked.triu(1) if self.self_play else self.asked

    @property
    def known(self) -> Tensor:
        """[B, K, L] bool, the pairs that were asked, and in self-play each response with itself, which ties."""
        return self.asked | self.asked.new_ones(self.asked.shape[1]).diag() if self.self_play else self.asked

    def without(self, unread: Tensor) -> Duel:
        """Returns the duel without pairs whose answers can't be read, as if they had not been asked.

        A response that has no other pair has weight 0, the others of its prompt share its weight; a prompt that has no
        other pair is left out.

        Args:
            unread: [B, K, L] bool, in self-play both halves.
        """
        if not unread.any():
            return self
        asked = self.asked & ~unread
        kept = (asked.any(2).any(1) | ~self.asked.any(2).any(1)).nonzero()[:, 0]
        rows = kept.tolist()
        left_weight, right_weight = (
            _reweighted(weight[kept], (self.asked.any(seat) & ~asked.any(seat))[kept])
            for weight, seat in ((self.left_weight, 2), (self.right_weight, 1))
        )
        left = [self.left[b] for b in rows]
        return replace(
            self,
            prompts=[self.prompts[b] for b in rows],
            left=left,
            right=left if self.self_play else [self.right[b] for b in rows],
            prob=self.prob.masked_fill(unread, 0.5)[kept],
            left_weight=left_weight,
            right_weight=right_weight,
            asked=asked[kept],
            unread=self.unread + int((unread.triu(1) if self.self_play else unread).sum()),
            rows=rows if self.rows is None else [self.rows[b] for b in rows],
        )


def _reweighted(weight: Tensor, lost: Tensor) -> Tensor:
    """Returns weights [B, K] without those of lost responses, of which no row holds nothing else."""
    if not lost.any():
        return weight
    rest = weight.masked_fill(lost, 0.0)
    return rest / rest.sum(1, keepdim=True)
