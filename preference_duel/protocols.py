"""Contracts of oracles, policies and agents."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from preference_duel.keyed_random import Key
from preference_duel.types import Completion, Duel, Proposal

TokenTerm = Callable[["Tensor", "Tensor | None", "Tensor"], "Tensor"]
"""Returns [M] what each of M tokens adds to a term: of the logits [M, V] of a policy and of a reference before it, and
of the tokens [M]."""

OwnPolicy = tuple[str, Mapping[str, Any]]
"""The policy that an agent requires, and fields of it: `own_policy` of its configuration is the default."""


class Policy(nn.Module, ABC):
    """A distribution over responses for each prompt.

    `exact` is True where `draw` returns every response of a finite task with its probability as weight; the
    update that an agent makes of it is the population's, free of sampling noise.
    """

    exact: bool = False

    learning_rate: float = 2e-4
    """Where an agent's settings name none: for rmsprop and adamw, on small networks; large ones want less."""

    @abstractmethod
    def draw(self, prompts: Sequence[str], n: int, key: Key) -> tuple[list[list[Completion]], Tensor]:
        """Draws n responses for each prompt, or lists all of them where exact.

        Args:
            prompts: B prompts.
            n: draws per prompt; ignored where exact.
            key: names every random number: row b, draw k and token t use `key.uniform(k=k, l=b, vote=t)`, so the
                internal batch size changes nothing.

        Returns:
            Responses `[B][n]`, and their weights [B, n] on the CPU: 1/n for samples, probabilities where exact.
        """

    def start_draw(self, prompts: Sequence[str], n: int, key: Key) -> tuple[Sequence[Sequence[Completion]], Tensor]:
        """Returns the responses and weights of `draw`; a sampler that can returns while they are sampled (`Arriving`).

        They are those of the policy as it is now, whatever it learns or samples until they are read.
        """
        return self.draw(prompts, n, key)

    @abstractmethod
    def logprob(self, prompts: Sequence[str], responses: Sequence[Sequence[Completion]]) -> Tensor:
        """Returns the log of the distribution that `draw` uses (masks, limits, EOS, temperature included).

        Returns:
            [B, K] nats, summed over tokens, differentiable, on the policy's device.
        """

    def token_terms(
        self,
        prompts: Sequence[str],
        responses: Sequence[Sequence[Completion]],
        term: TokenTerm,
        reference: Policy | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Returns log-probabilities, and another term of each token, both summed over the tokens of a response.

        Args:
            prompts: B prompts.
            responses: [B][K].
            term: of the logits before each token, and the token.
            reference: a policy of the same kind, whose logits `term` gets too, without a graph.

        Returns:
            [B, K] nats and [B, K], differentiable, on the policy's device.

        Raises:
            TypeError: if the policy, or the reference, tells no logits of tokens.
        """
        del prompts, responses, term, reference
        raise TypeError(f"{type(self).__name__} tells no logits of tokens; take a table or a language model")

    @torch.no_grad()
    def distribution(self, prompts: Sequence[str], responses: Sequence[Completion]) -> Tensor:
        """Returns the probabilities of all responses of a finite task.

        Args:
            prompts: B prompts.
            responses: the N responses, the same for every prompt.

        Returns:
            [B, N] float64 on the CPU.
        """
        return self.logprob(prompts, [list(responses)] * len(prompts)).double().exp().cpu()

    def parts(self, prompts: Sequence[str], responses: Sequence[Sequence[Completion]]) -> list[list[int]]:
        """Returns the prompts [B] in groups that learn in one backward pass each, for the sake of memory."""
        del responses
        return [list(range(len(prompts)))]

    def require_prompt(self, prompt: str) -> None:
        """Checks that the policy can read a prompt.

        Raises:
            ValueError: if it can't, saying why.
        """
        del prompt

    def require_response(self, response: Completion) -> None:
        """Checks that the policy could have drawn a response.

        Raises:
            ValueError: if it couldn't, saying why.
        """
        del response

    def shortened(self, text: str) -> str:
        """Returns the beginning of a text that the policy can write at most."""
        return text

    def length(self, response: Completion) -> int:
        """Returns the number of tokens in which this policy writes a response.

        Raises:
            ValueError: if it is not known.
        """
        return len(response.ids)

    @abstractmethod
    def blend(self, other: Self, weight: float) -> None:
        """Moves this policy a `weight` of the way to another of its kind, in place.

        The mean is the one natural to the kind: of probabilities for tabular policies, of parameters for networks.
        """

    @abstractmethod
    def save(self, directory: Path) -> None:
        """Writes the policy in a format that other tools can load."""

    def clip_gradient(self, limit: float) -> Tensor | None:
        """Scales the gradient down to a norm of `limit` if the policy has a way of its own to do so.

        Returns:
            The gradient's norm before; None: nothing is done, and the optimiser clips the norm over all parameters.
        """
        del limit

    def batch_means(self, values: Tensor) -> Tensor:
        """Returns [R] the means of values [B] of a batch's prompts, one of each group that learns by itself.

        R is 1, but of the seeds of a benchmark that learn in one batch, whose prompts follow one another.
        """
        return values.mean(0, keepdim=True)

    def frozen(self) -> Self:
        """Returns a copy that does not learn."""
        twin = copy.deepcopy(self)
        twin.requires_grad_(False)
        return twin.eval()

    def snapshot(self) -> Self:
        """Returns a frozen copy that is only read, or replaced as a whole by `load_state_dict`.

        It may share memory with other snapshots, and hold weights in the precision in which passes read them.
        """
        return self.frozen()

    def running_mean(self) -> Self:
        """Returns a frozen copy for policies to be blended into, or to be kept in; it may rest where no passes run."""
        return self.frozen()

    @property
    def autocast(self) -> bool:
        """True if forward passes run in bfloat16, whose rounding no line search sees through."""
        return False

    @property
    def sharded(self) -> bool:
        """True if parameters are spread over processes, which then must learn in equally many passes."""
        return False

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device


@runtime_checkable
class Agent(Protocol):
    """Proposes responses for both seats and learns from the duels that come back.

    Agents never see an oracle: all they learn is in `Duel`. Class attributes of the names of `Traits` declare their
    further capabilities.
    """

    policy: Policy
    average: Policy | None
    """The mean of pi_1..pi_T, start included: the iterate of no-regret theory. None if not kept."""

    def propose(self, prompts: Sequence[str]) -> Proposal:
        """Returns the responses that this agent wants to see judged."""
        ...

    def update(self, duel: Duel) -> dict[str, float]:
        """Learns from one played proposal; returns scalars for the log, by tag."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Returns everything that a resumed run needs: tensors, numbers and strings in nested dicts."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from `state_dict()`."""
        ...


@runtime_checkable
class StagedAgent(Agent, Protocol):
    """An agent that can learn from several data sets in turn."""

    def begin_stage(self) -> None:
        """Prepares for another data set: the reference, if there is one, becomes the policy as it is."""
        ...


@dataclass(frozen=True)
class Traits:
    """Capabilities of an agent, as class attributes of these names; an agent without one has the default."""

    learns_from_files: bool = False
    """Learns from duels of others (--run.data)."""
    learns_from_lists: bool = False
    """Takes the responses of a row of such a file all at once, in both seats; without, pair by pair."""
    learns_from_thumbs: bool = False
    """Learns from verdicts on single responses (--run.feedback thumb, --run.data of thumbs)."""
    learns_from_dislikes: bool = False
    """Learns from disliked responses alone: a file of thumbs need hold no others."""
    learns_from_likes: bool = False
    """Learns from liked responses alone, likewise, and from demonstrations, which have no verdict."""
    one_pass: bool = False
    """Counts each comparison of a file once."""
    own_draws: bool = True
    """What it proposes for the left seat are draws of `policy`, or of a copy of it: their length is logged as the
    policy's."""
    plays_opponents: bool = False
    """Learns a best response to the policy in its attribute `fixed_opponent` (--run.opponent), if there is one."""
    batchable: bool = False
    """Mixes prompts by `Policy.batch_means` alone, so that the seeds of a benchmark can learn in one batch."""


def traits(agent: Agent) -> Traits:
    """Returns an agent's capabilities."""
    return Traits(**{field.name: bool(getattr(agent, field.name, field.default)) for field in fields(Traits)})


class Arena(Protocol):
    """Turns proposals into duels: by an oracle, or by looking them up in a file of comparisons."""

    offline: bool
    """True if the duels were made beforehand: agents propose nothing, and `play` is given None."""

    @property
    def opens_stage(self) -> bool:
        """Whether the next duel is the first of another data set; the agent then begins a stage (`StagedAgent`)."""
        ...

    @property
    def queries(self) -> int | None:
        """Comparisons so far; None once a whole distribution was played, which no oracle could be asked."""
        ...

    @property
    def unread_share(self) -> float | None:
        """Share of the comparisons so far that could not be read; None if all can."""
        ...

    def reset(self) -> list[str]:
        """Returns the prompts of the next duel."""
        ...

    def play(self, proposal: Proposal | None) -> Duel:
        """Returns the duel of a proposal for the prompts of the last `reset`."""
        ...

    def state_dict(self) -> dict[str, int | bool]:
        """Returns everything that a resumed run needs."""
        ...

    def load_state_dict(self, state: dict[str, int | bool]) -> None:
        """Continues from `state_dict()`."""
        ...


@runtime_checkable
class Oracle(Protocol):
    """The probability that one response is preferred to another.

    An oracle may have more: `payoff` if it reads each response alone (`PayoffOracle`), `token_rewards` if it pays for
    tokens (`TokenOracle`), `forget` if it remembers answers (`RememberingOracle`), a `description` for the first line
    of a run (`DescribedOracle`), the answers for both orders of a pair (`BothOrdersOracle`), `ask_ahead` if it is
    waited for (`DistantOracle`), and answers that can't be read (`leaves_unread`).
    """

    antisymmetric: bool
    """True if prob(a, b) + prob(b, a) = 1: everywhere but under position bias."""

    def prob(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> Tensor:
        """Returns P(first beats second | prompt); deterministic, it never draws.

        Args:
            prompts: N prompts.
            first: N responses.
            second: N responses.

        Returns:
            [N] on the CPU in [0, 1]; float64 for finite families, float32 for networks. prob(a, a) = 1/2. Oracles that
            `leaves_unread` names, and no others, have NaN for a pair that could not be read.
        """
        ...


@runtime_checkable
class PayoffOracle(Oracle, Protocol):
    """An oracle that reads each response alone: K readings instead of K*K."""

    def payoff(self, prompts: Sequence[str], left: Sequence[Sequence[str]], right: Sequence[Sequence[str]]) -> Tensor:
        """Returns [B, K, L], equal to `prob` on every pair."""
        ...


@runtime_checkable
class TokenOracle(Oracle, Protocol):
    """An oracle that also pays for each token as it is played, in the token-level duel."""

    def token_rewards(self, prompts: Sequence[str], beginnings: Sequence[Sequence[int]]) -> Tensor:
        """Returns [N] what the last token of each beginning of a response pays the player who played it.

        Args:
            prompts: N prompts.
            beginnings: N beginnings in token ids, at least one each; a whole response ends with EOS or at the limit.
        """
        ...


@runtime_checkable
class RememberingOracle(Protocol):
    """An oracle that remembers answers."""

    def forget(self) -> None:
        """Drops them."""
        ...


@runtime_checkable
class BothOrdersOracle(Oracle, Protocol):
    """An oracle whose P is the mean of its answers for both orders of a pair, which it also gives apart."""

    def both_orders(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Returns [N] P(first wins) with the first shown first, and [N] P(second wins) with the second shown first."""
        ...


@runtime_checkable
class DistantOracle(RememberingOracle, Oracle, Protocol):
    """An oracle elsewhere, which can be asked about pairs while other responses are sampled."""

    def ask_ahead(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> None:
        """Asks about pairs, and waits for no answer; the next `prob` must be of all pairs that were asked ahead.

        It returns or raises what it would have without, and asks no more; `forget` drops what is under way.
        """
        ...


def leaves_unread(oracle: object) -> bool:
    """Returns whether an oracle may leave a pair unread, for which its P is NaN; its attribute `leaves_unread`."""
    return bool(getattr(oracle, "leaves_unread", False))


@runtime_checkable
class DescribedOracle(Protocol):
    """An oracle that describes itself."""

    @property
    def description(self) -> str:
        """One line: which model, with which settings."""
        ...


@runtime_checkable
class AttendedOracle(Protocol):
    """An oracle that people answer: it keeps their verdicts, and is attended while the run lasts."""

    def keep_in(self, directory: Path, owner: str) -> None:
        """Names the run's directory for the verdicts, and the run to which they belong."""
        ...

    def start(self, stopped: Callable[[], bool], planned: int | None) -> None:
        """Lets people in; `stopped` says while they are waited for whether the run ends, `planned` counts the pairs."""
        ...

    def close(self) -> None:
        """Closes what `start` opened."""
        ...


def attended(oracle: Any) -> AttendedOracle | None:
    """Returns the oracle, or the one that it wraps, if people answer it."""
    while not isinstance(oracle, AttendedOracle) and hasattr(oracle, "inner"):
        oracle = oracle.inner
    return oracle if isinstance(oracle, AttendedOracle) else None


def forget(oracle: Any) -> None:
    """Drops the answers that an oracle remembers, if it does; a runner calls this at every step and evaluation.

    What is remembered is left out of a batch, and a network's answers depend on their batch in the last bits: the
    memory may not reach back further than a resumed run could know.
    """
    if isinstance(oracle, RememberingOracle):
        oracle.forget()
