"""Wrappers of any oracle: noise, position bias, and a cyclic share for each prompt.

A wrapper is added to an oracle's name with "+": `--oracle cyclic+noise --oracle.lam 0.5 --oracle.noise.eps 0.1`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Protocol

import torch

from preference_duel.checks import require, share
from preference_duel.keyed_random import Key, Stream, hash_seed
from preference_duel.protocols import Oracle, PayoffOracle, forget, leaves_unread

if TYPE_CHECKING:
    from torch import Tensor


class Build(Protocol):
    """Builds an oracle for some prompts, with some fields of its configuration changed."""

    def __call__(self, prompts: Sequence[str] | None, **changes: Any) -> Oracle:
        """Returns the oracle."""
        ...


@dataclass(frozen=True)
class Noise:
    """A share of the outcomes are fair coin flips: P' = (1 - eps) P + eps / 2.

    The regularised equilibrium at tau becomes that of the true game at tau / (1 - eps).
    """

    eps: float = 0.1
    """Share of random outcomes, in [0, 1]."""

    def wrap(self, build: Build, prompts: Sequence[str] | None, **changes: Any) -> Oracle:
        """Returns the noisy oracle."""
        require(self, eps=share)
        inner = build(prompts, **changes)
        return altered(inner, lambda prob: (1 - self.eps) * prob + self.eps / 2, inner.antisymmetric)


@dataclass(frozen=True)
class PositionBias:
    """The first response is favoured: logit P' = logit P + b.

    Not antisymmetric: `oracles.payoff` asks both orders and averages, so that self-play sees no seat.
    """

    b: float = 0.5
    """Nats that the first response is given; negative: the second one."""

    def wrap(self, build: Build, prompts: Sequence[str] | None, **changes: Any) -> Oracle:
        """Returns the biased oracle."""
        return altered(build(prompts, **changes), lambda prob: torch.sigmoid(torch.logit(prob) + self.b), self.b == 0)


@dataclass(frozen=True)
class PerPrompt:
    """Every prompt has a `lam` of its own, uniform between two ends."""

    low: float = 0.0
    """The least, in [0, 1]."""
    high: float = 1.0
    """The largest, in [0, 1]."""
    seed: int = 0
    """Random seed of the prompts' values."""

    def wrap(self, build: Build, prompts: Sequence[str] | None, **changes: Any) -> Oracle:
        """Returns an oracle of many, each made at its prompt's first query.

        Raises:
            ValueError: if an end is out of range, or the oracle has no field `lam`.
        """
        require(self, low=share, high=share)
        if self.low > self.high:
            raise ValueError(f"low must not be above high, got {self.low:g} and {self.high:g}")
        build(prompts, **changes, lam=self.low)  # raises early if a field is wrong
        return PerPromptOracle(lambda prompt: build([prompt], **changes, lam=self.lam(prompt)))

    def lam(self, prompt: str) -> float:
        """Returns the lam of a prompt."""
        uniform = float(Key(hash_seed("per_prompt", self.seed, prompt), 0, Stream.INIT).uniform())
        return self.low + (self.high - self.low) * uniform


class AlteredOracle:
    """An oracle with a transformation of each probability.

    Args:
        inner: the wrapped oracle.
        change: maps its probabilities to the new ones, elementwise.
        antisymmetric: whether P(a, b) + P(b, a) is still 1.
    """

    def __init__(self, inner: Oracle, change: Callable[[Tensor], Tensor], antisymmetric: bool) -> None:
        self.inner, self.change, self.antisymmetric = inner, change, antisymmetric
        self.leaves_unread = leaves_unread(inner)

    def prob(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> Tensor:
        """Returns [N] P(first beats second | prompt)."""
        return self.change(self.inner.prob(prompts, first, second))

    def forget(self) -> None:
        """Drops what the inner oracle remembers."""
        forget(self.inner)


class AlteredPayoffOracle(AlteredOracle):
    """An altered oracle whose inner oracle reads each response alone."""

    def payoff(self, prompts: Sequence[str], left: Sequence[Sequence[str]], right: Sequence[Sequence[str]]) -> Tensor:
        """Returns [B, K, L]."""
        assert isinstance(self.inner, PayoffOracle)
        return self.change(self.inner.payoff(prompts, left, right))


def altered(inner: Oracle, change: Callable[[Tensor], Tensor], antisymmetric: bool) -> Oracle:
    """Returns an oracle with transformed probabilities, and with `payoff` if the inner one has it."""
    kind = AlteredPayoffOracle if isinstance(inner, PayoffOracle) else AlteredOracle
    return kind(inner, change, antisymmetric)


class PerPromptOracle:
    """Asks another oracle for each prompt.

    Args:
        build: makes the oracle of a prompt.
    """

    antisymmetric = True

    def __init__(self, build: Callable[[str], Oracle]) -> None:
        self.build = build
        self._oracles: dict[str, Oracle] = {}

    def prob(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> Tensor:
        """Returns [N] P(first beats second | prompt)."""
        answers = torch.empty(len(prompts), dtype=torch.float64)
        for prompt in dict.fromkeys(prompts):
            here = [i for i, other in enumerate(prompts) if other == prompt]
            pairs = [first[i] for i in here], [second[i] for i in here]
            answers[here] = self._of(prompt).prob([prompt] * len(here), *pairs).double()
        return answers

    def payoff(self, prompts: Sequence[str], left: Sequence[Sequence[str]], right: Sequence[Sequence[str]]) -> Tensor:
        """Returns [B, K, L]."""
        rows = zip(prompts, left, right, strict=True)
        return torch.cat([self._of(prompt).payoff([prompt], [ours], [theirs]) for prompt, ours, theirs in rows])

    def _of(self, prompt: str) -> PayoffOracle:
        if prompt not in self._oracles:
            self._oracles[prompt] = self.build(prompt)
        oracle = self._oracles[prompt]
        assert isinstance(oracle, PayoffOracle)
        return oracle


@cache
def wrapped(kind: type, wrappers: tuple[tuple[str, type], ...]) -> type:
    """Returns a configuration with the fields of an oracle's and one field for each wrapper, innermost first.

    Args:
        kind: the oracle's configuration, a dataclass with `build`.
        wrappers: the name and the class of each.

    Raises:
        ValueError: if one is named twice, or does not go with the oracle.
    """
    known = {field.name for field in dataclasses.fields(kind)}
    names = [name for name, _ in wrappers]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise ValueError(f"wrapper '{name}' is named twice")
        if name == "per_prompt" and (i > 0 or "lam" not in known):
            why = "stands first after an oracle" if "lam" in known else "needs an oracle"
            raise ValueError(f"wrapper 'per_prompt' {why} with a field 'lam'")
    fields = [(name, wrapper, dataclasses.field(default=wrapper())) for name, wrapper in wrappers]
    parameters: Any = getattr(kind, "__dataclass_params__")  # noqa: B009 - pyright knows no such attribute

    def build(
        self: Any, *, prompts: Sequence[str] | None = None, responses: Sequence[str] | None = None, device: str = "cpu"
    ) -> Oracle:
        inner = kind(**{field.name: getattr(self, field.name) for field in dataclasses.fields(kind) if field.init})

        def base(prompts: Sequence[str] | None, device: str = "cpu", **changes: Any) -> Oracle:
            config = dataclasses.replace(inner, **changes)
            return config.build(prompts=prompts, responses=responses, device=device)

        made: Build = base
        for name in names:
            made = partial(getattr(self, name).wrap, made)
        return made(prompts, device=device)

    namespace = {"build": build, "__doc__": kind.__doc__}
    title = kind.__name__ + "".join(wrapper.__name__ for _, wrapper in wrappers)
    return dataclasses.make_dataclass(title, fields, bases=(kind,), namespace=namespace, frozen=parameters.frozen)
