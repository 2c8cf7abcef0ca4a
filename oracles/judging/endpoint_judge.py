"""A language model behind an OpenAI-compatible endpoint as a judge."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from oracles.judging import genrm, letters
from oracles.judging.answer_store import AnswerStore, question_name
from oracles.judging.chat_client import ChatClient
from oracles.judging.endpoint_config import FILLED, PLACE, EndpointConfig
from oracles.judging.formats import read_answer
from oracles.judging.unread import Unread, UnreadPairs
from oracles.judging.verdicts import Reading, reading

if TYPE_CHECKING:
    from torch import Tensor

_ADVICE = (
    "is it a chat model, and does it answer in --oracle.endpoint.format? Change the question "
    "(--oracle.endpoint.template), the tokens of an answer (max_tokens, reasoning), least_mass or the model"
)
Question = tuple[str, str, str]


class EndpointJudge:
    """Asks in both orders, so many votes in each; P is the mean of their chances.

    An answer is unread if it does not hold one verdict in the format, or is cut off (`read_answer`); of
    log-probabilities if A and B hold less than `least_mass`. An order is unread if all its votes are, a pair if either
    order is; nothing is put in its place. An endpoint that fails for good raises.

    Attributes:
        unread: the pairs that were unread.
        verdicts: how many answers said what, the first response being the one shown first.

    Args:
        address: of the endpoint, such as http://localhost:8000/v1; a name after # is its model.
        config: question, requests and cache.
        unread: what an unread pair leads to.

    Raises:
        Unanswered: if it lists no models, where none is named.
    """

    antisymmetric = True

    def __init__(self, address: str, config: EndpointConfig, unread: Unread = "drop") -> None:
        place, _, model = address.partition("#")
        self.address, self.config = place.rstrip("/"), config
        self.leaves_unread = unread == "drop"
        self.verdicts: Counter[str] = Counter()
        self._client = ChatClient(self.address, config)
        self.model = model or config.model or self._client.first_model()
        self._store = None if config.cache is None else AnswerStore(Path(config.cache))
        self.unread = UnreadPairs(self.model, unread, _ADVICE)

    @property
    def description(self) -> str:
        """The judge's model and address, for the first line of a run."""
        return f"judge {self.model} at {self.address}"

    def prob(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> Tensor:
        """Returns P(first beats second | prompt), [N] float64, NaN if unread; equal texts are 1/2 without a question.

        Raises:
            Unanswered: if a question found no answer after all repetitions, the budget is spent, or a pair is unread
                and stops the run.
            ValueError: if the endpoint refuses the question, or leaves most pairs unread.
        """
        straight, turned = self.both_orders(prompts, first, second)
        return (straight + (1 - turned)) / 2

    def both_orders(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Returns P(first wins) if the first is shown first, and P(second wins) if the second is, each [N] float64.

        NaN stands for an unread order.

        Raises:
            Unanswered: as `prob`.
            ValueError: as `prob`.
        """
        pairs = list(zip(prompts, first, second, strict=True))
        different = list(dict.fromkeys(one for one in pairs if one[1] != one[2]))
        orders = [question for x, a, b in different for question in ((x, a, b), (x, b, a))]
        questions = [(question, seed) for question in orders for seed in self.config.seeds]
        with ThreadPoolExecutor(self.config.concurrency) as pool:
            answers = list(pool.map(lambda one: self._answer(*one), questions))
        self.verdicts.update(answer.verdict for answer in answers)
        votes = torch.tensor([answer.chance for answer in answers], dtype=torch.float64)
        chances = votes.reshape(-1, 2, self.config.votes).nanmean(2)  # [different, order]
        self.unread.add(len(different), int(chances.isnan().any(1).sum()))
        prob = dict(zip(different, chances.tolist(), strict=True))
        both = torch.tensor([prob.get(one, (0.5, 0.5)) for one in pairs], dtype=torch.float64).reshape(-1, 2)
        return both[:, 0], both[:, 1]

    def _answer(self, question: Question, seed: int | None) -> Reading:
        """Returns what is kept of the answer to a question, or asks."""
        if self._store is None:
            return self._ask(question, seed)
        config = self.config
        asked = [self.address, self.model, config.format, config.question or "", json.dumps(config.parameters)]
        read = json.dumps([config.reads_logprobs, config.least_mass, config.reasoning])
        name = question_name(*asked, read, *question, str(seed))
        found = self._store.get(name)
        if found is None:
            found = self._ask(question, seed)
            self._store.put(name, found)
        return found

    def _ask(self, question: Question, seed: int | None) -> Reading:
        content = {"model": self.model, "messages": self._messages(question)}
        return self._client.ask(content if seed is None else {**content, "seed": seed}, self._read)

    def _messages(self, question: Question) -> list[dict[str, str]]:
        template = self.config.question
        if template is None:
            return genrm.messages(*question)
        values: dict[str, str] = dict(zip(FILLED, question, strict=True))
        return [{"role": "user", "content": PLACE.sub(lambda place: values[place[1]], template)}]

    def _read(self, answer: Any) -> Reading:
        """Returns what an answer says.

        Raises:
            KeyError, TypeError, IndexError, AttributeError: if it is none.
            ValueError: if there are no log-probabilities, which were asked for.
        """
        choice, config = answer["choices"][0], self.config
        if config.reads_logprobs:
            steps = (choice.get("logprobs") or {}).get("content")
            if steps is None:
                raise ValueError(
                    f"{self.address} gives no log-probabilities; with --oracle.endpoint.no-logprobs the letter itself "
                    f"counts, as 0 or 1"
                )
            return letters.read_logprobs(steps, config.least_mass)
        text = choice["message"].get("content")
        if not isinstance(text, str | None):
            raise TypeError(f"content is {type(text).__name__}")
        whole = config.format == "letters" and not config.reasoning  # one token is cut off by design
        return reading(read_answer(config.format, text, not whole and choice.get("finish_reason") == "length"))
