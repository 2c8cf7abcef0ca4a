"""Data exchanged by the environment and the agents: prompts, completions, proposals and duels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Feedback = Literal["outcome", "probability"]


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
    derived from them. `tokens` is None if the text came from a file.
    """

    text: str
    tokens: tuple[int, ...] | None = None

    @property
    def ids(self) -> tuple[int, ...]:
        """The tokens, where they must be known.

        Raises:
            ValueError: if they are not, as those of a text from a file.
        """
        if self.tokens is None:
            raise ValueError(f"the tokens of the response {self.text!r} are not known; only its policy can tell them")
        return self.tokens


@dataclass(frozen=True)
class Proposal:
    """The responses of an agent for both seats, for each prompt.

    Attributes:
        left: `[B][K]` responses of the left seat.
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
        feedback: "outcome" or "probability".
        votes: Bernoulli outcomes per asked pair.
        exact: True if the responses are a policy's whole distribution with its probabilities as weights, not samples.
    """

    prompts: Sequence[str]
    left: Sequence[Sequence[Completion]]
    right: Sequence[Sequence[Completion]]
    prob: Tensor
    left_weight: Tensor
    right_weight: Tensor
    asked: Tensor
    feedback: Feedback
    votes: int
    exact: bool = False

    @property
    def self_play(self) -> bool:
        """True if both seats hold the same draws."""
        return self.right is self.left

    @property
    def comparisons(self) -> Tensor:
        """[B, K, L] bool, the asked pairs, in self-play one half of them: each question once."""
        return self.asked.triu(1) if self.self_play else self.asked
