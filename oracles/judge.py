"""Pairwise judges, as TRL had them until 2026: any oracle as a judge, any judge or function as an oracle."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from oracles.judging.endpoint_config import EndpointConfig
from oracles.judging.endpoint_judge import EndpointJudge
from oracles.judging.local_judge import LocalConfig, LocalJudge
from oracles.judging.panel import Panel
from oracles.judging.unread import Unread, UnreadPairs
from oracles.judging.verdicts import CHANCE
from preference_duel.checks import one_of, require
from preference_duel.keyed_random import Key, Stream
from preference_duel.names import find

if TYPE_CHECKING:
    from torch import Tensor

    from preference_duel.protocols import Oracle

Orders = Literal["both", "one"]
_ADVICE = "see why it can't tell"
_HUB_ID = r"[\w-][\w.-]*/[\w.-]+"


class Judge:
    """Answers as a pairwise judge of TRL did, for code that wants one.

    Args:
        oracle: answers the queries.
        seed: random seed of the orders in which pairs are shown.
    """

    def __init__(self, oracle: Oracle, seed: int = 0) -> None:
        self.oracle = oracle
        self._key = Key(seed, stream=Stream.SIDE)
        self._calls = 0

    def judge(
        self,
        prompts: Sequence[str],
        completions: Sequence[Sequence[str]],
        shuffle_order: bool = True,
        return_scores: bool = False,
    ) -> list[int] | list[float]:
        """Returns for each prompt which completion is better.

        Args:
            prompts: N prompts.
            completions: [N][2] completions.
            shuffle_order: whether each pair is shown in an order drawn for it, so that position bias
                cancels on average.
            return_scores: whether P(the first is better) comes back instead.

        Returns:
            N indices, 0 if the first is at least as good, else 1, and -1 for a pair left unread, as TRL's judges had;
            or N probabilities in [0, 1], NaN for such a pair.

        Raises:
            ValueError: if a prompt has not exactly two completions.
        """
        wrong = next((row for row in completions if len(row) != 2), None)
        if wrong is not None or len(completions) != len(prompts):
            shape = f"{len(completions)} rows for {len(prompts)} prompts" if wrong is None else f"a row of {len(wrong)}"
            raise ValueError(f"completions must be one pair for each prompt, got {shape}")
        turned = np.zeros(len(prompts), dtype=bool)
        if shuffle_order:
            turned = self._key.at(self._calls).uniform(k=np.arange(len(prompts))) < 0.5
        self._calls += 1
        first, second = (
            [row[side ^ int(turn)] for row, turn in zip(completions, turned, strict=True)] for side in (0, 1)
        )
        prob = self.oracle.prob(prompts, first, second).double()
        prob = torch.where(torch.from_numpy(turned), 1 - prob, prob)
        return prob.tolist() if return_scores else [-1 if math.isnan(p) else int(p < 0.5) for p in prob.tolist()]


@dataclass(frozen=True)
class JudgeConfig:
    """A function or a pairwise judge of your own, or a language model, behind an endpoint or in this process."""

    of: str
    """"module:name": a function of (prompt, first, second) that returns P(first is better), True or False, a verdict
    ("first", "second", "tie", "both_bad", "unread"), or None if it can't tell; or an object or class with TRL's
    `judge(prompts, completions, shuffle_order)`, whose scores are used if it has them, and whose -1 says that it can't
    tell. Or the address of an OpenAI-compatible endpoint, such as a vLLM server's http://localhost:8000/v1, with
    #MODEL after it if it is not the first that is served; several addresses with spaces between them are a panel. Or a
    transformers directory, or hub id OWNER/NAME, of a chat model that writes its answers here. In Python also the
    function or judge itself."""
    orders: Orders = "both"
    """"both" asks for either order of a pair and averages; "one" saves half, for judges without a favourite seat. A
    language model is always asked for both."""
    unread: Unread = "drop"
    """A pair whose answer can't be read: "drop" counts it as not asked, "stop" stops the run."""
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    """Requests to an endpoint."""
    local: LocalConfig = field(default_factory=LocalConfig)
    """Answers of a model in this process."""

    def build(
        self, *, prompts: Sequence[str] | None = None, responses: Sequence[str] | None = None, device: str = "cpu"
    ) -> JudgeOracle | EndpointJudge | LocalJudge | Panel:
        """Returns the oracle.

        Raises:
            UnknownNameError: if there is no such function or judge.
            ValueError: if it is neither, or a field is set that nothing reads.
            OSError: if no endpoint answers, or a model can't be found or fetched.
        """
        del responses
        require(self, unread=one_of(Unread))
        if not isinstance(self.of, str):
            return JudgeOracle(self.of, self.orders, self.unread)
        addresses = self.of.split()
        if addresses and all(one.startswith(("http://", "https://")) for one in addresses):
            self._require_unset("local", "an address")
            return self._endpoint(addresses)
        self._require_unset("endpoint", "no address")
        if Path(self.of).expanduser().is_dir() or re.fullmatch(_HUB_ID, self.of):
            self._require_both_orders()
            judge = LocalJudge(self.of, self.local, self.unread, device)
            judge.require_readable(prompts or ("a",))
            return judge
        self._require_unset("local", "no model")
        judge = find("judge", self.of, {})
        return JudgeOracle(judge() if isinstance(judge, type) else judge, self.orders, self.unread)

    def _endpoint(self, addresses: Sequence[str]) -> EndpointJudge | Panel:
        self._require_both_orders()
        if len(addresses) == 1:
            return EndpointJudge(self.of, self.endpoint, self.unread)
        if len(set(addresses)) < len(addresses):
            raise ValueError(f"--oracle.of names a judge of the panel twice: {self.of}")
        return Panel([EndpointJudge(one, self.endpoint) for one in addresses], self.unread)

    def _require_both_orders(self) -> None:
        if self.orders != "both":
            raise ValueError("a language model is asked for both orders; leave --oracle.orders out")

    def _require_unset(self, part: Literal["endpoint", "local"], kind: str) -> None:
        """Raises if settings were given that nothing reads."""
        config = getattr(self, part)
        if config != type(config)():
            raise ValueError(f"--oracle.of {self.of} is {kind}, and nothing reads --oracle.{part}")


class JudgeOracle:
    """Asks a judge, which must be deterministic.

    Args:
        judge: a function of (prompt, first, second), or an object with TRL's `judge`.
        orders: "both" or "one".
        unread: what a pair leads to about which the judge can't tell.

    Raises:
        ValueError: if it is neither.
    """

    antisymmetric = True

    def __init__(self, judge: Any, orders: str = "both", unread: Unread = "drop") -> None:
        self.orders, self.leaves_unread = orders, unread == "drop"
        require(self, orders=one_of(Orders))
        self.unread = UnreadPairs(f"judge {getattr(judge, '__name__', type(judge).__name__)}", unread, _ADVICE)
        ask = getattr(judge, "judge", None)
        if ask is None and not callable(judge):
            raise ValueError(f"a judge is a function of three texts or has a method judge, got {type(judge).__name__}")
        self._ask = _one_by_one(judge) if ask is None else _as_trl(ask)

    def prob(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> Tensor:
        """Returns P(first beats second | prompt), [N] float64; equal texts are 1/2 without a question.

        NaN stands for a pair about which the judge could not tell in either order.

        Raises:
            ValueError: if the judge answers anything but a chance, or an index, for each pair.
            Unanswered: if it can't tell, and that stops the run.
        """
        if self.orders == "one":
            prob = self._answers(prompts, first, second)
        else:
            straight, turned = self._both_orders(prompts, first, second)
            prob = (straight + 1 - turned) / 2
        self.unread.add(len(prob), int(prob.isnan().sum()))
        return prob

    def both_orders(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Returns P(first wins) if the first is shown first, and P(second wins) if the second is, each [N] float64.

        Raises:
            ValueError: as `prob`.
            Unanswered: as `prob`.
        """
        straight, turned = self._both_orders(prompts, first, second)
        self.unread.add(len(straight), int((straight + turned).isnan().sum()))
        return straight, turned

    def _both_orders(
        self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        return self._answers(prompts, first, second), self._answers(prompts, second, first)

    def _answers(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> Tensor:
        triples = list(zip(prompts, first, second, strict=True))
        different = [i for i, (_, a, b) in enumerate(triples) if a != b]
        prob = torch.full((len(triples),), 0.5, dtype=torch.float64)
        prob[different] = torch.tensor(self._ask([triples[i] for i in different]), dtype=torch.float64)
        return prob


Triple = tuple[str, str, str]
Ask = Callable[[Sequence[Triple]], list[float]]


def _one_by_one(function: Callable[..., Any]) -> Ask:
    def ask(triples: Sequence[Triple]) -> list[float]:
        return [_chance(function(*triple), triple) for triple in triples]

    return ask


def _as_trl(judge: Callable[..., Sequence[float]]) -> Ask:
    takes = inspect.signature(judge).parameters
    scores = "return_scores" in takes or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in takes.values())
    options = {"shuffle_order": False, **({"return_scores": True} if scores else {})}

    def ask(triples: Sequence[Triple]) -> list[float]:
        if not triples:
            return []
        answers = judge([x for x, _, _ in triples], [[a, b] for _, a, b in triples], **options)
        if len(answers) != len(triples):
            raise ValueError(f"the judge must answer each of {len(triples)} pairs, got {len(answers)} answers")
        if scores:
            return [_chance(answer, triple) for answer, triple in zip(answers, triples, strict=True)]
        for answer, triple in zip(answers, triples, strict=True):
            if answer not in (0, 1, -1):
                raise ValueError(
                    f"the judge must name the better one of two by 0 or 1, or say by -1 that it can't tell, got "
                    f"{answer!r} for {triple}"
                )
        return [math.nan if answer == -1 else float(answer == 0) for answer in answers]

    return ask


def _chance(answer: Any, triple: Triple) -> float:
    if answer is None:
        return math.nan
    if isinstance(answer, str) and answer in CHANCE:
        return CHANCE[answer]
    if not isinstance(answer, (bool, int, float, np.number)) or not 0 <= answer <= 1:
        raise ValueError(
            f"a judge must return the chance, in [0, 1], that the first is better, one of {', '.join(CHANCE)}, or "
            f"None if it can't tell, got {answer!r} for {triple}"
        )
    return float(answer)
