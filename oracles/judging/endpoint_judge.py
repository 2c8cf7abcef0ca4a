"""A language model behind an OpenAI-compatible endpoint as a judge."""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from oracles.judging import letters
from oracles.judging.answer_store import AnswerStore, question_name
from oracles.judging.chat_client import ChatClient
from oracles.judging.endpoint_config import EndpointConfig
from oracles.judging.question import Question, Vote, WritingJudge, votes_on
from oracles.judging.unread import Unread, UnreadPairs
from oracles.judging.verdicts import Reading

_ADVICE = (
    "is it a chat model, and does it answer in --oracle.endpoint.format? Change the question "
    "(--oracle.endpoint.template), the tokens of an answer (max_tokens, reasoning), least_mass or the model"
)


class _Ahead:
    """Questions under way: the pairs that were asked ahead, and the answers to come by vote."""

    def __init__(self, concurrency: int) -> None:
        self.pool = ThreadPoolExecutor(concurrency)
        self.pairs: set[Question] = set()
        self.answers: defaultdict[Vote, deque[Future[Reading]]] = defaultdict(deque)


class EndpointJudge(WritingJudge):
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

    def __init__(self, address: str, config: EndpointConfig, unread: Unread = "drop") -> None:
        place, _, model = address.partition("#")
        self.address, self.config = place.rstrip("/"), config
        self.leaves_unread = unread == "drop"
        self._client = ChatClient(self.address, config)
        self.model = model or config.model or self._client.first_model()
        self._store = None if config.cache is None else AnswerStore(Path(config.cache))
        self._ahead = _Ahead(config.concurrency)
        super().__init__(config.seeds, UnreadPairs(self.model, unread, _ADVICE))

    @property
    def description(self) -> str:
        """The judge's model and address, for the first line of a run."""
        return f"judge {self.model} at {self.address}"

    def ask_ahead(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> None:
        """Asks about pairs, and waits for no answer; the next `prob` must be of all pairs that were asked ahead."""
        pairs = dict.fromkeys(zip(prompts, first, second, strict=True))
        new = [pair for pair in pairs if pair not in self._ahead.pairs and pair[1] != pair[2]]
        self._ahead.pairs.update(new)
        for vote in votes_on(new, self._seeds):
            self._ahead.answers[vote].append(self._ahead.pool.submit(self._answer, *vote))

    def forget(self) -> None:
        """Drops the questions that were asked ahead."""
        self._ahead.pool.shutdown(cancel_futures=True)
        self._ahead = _Ahead(self.config.concurrency)

    def _answers(self, votes: Sequence[Vote]) -> list[Reading]:
        ahead = self._ahead
        try:
            asked = [
                ahead.answers[vote].popleft() if ahead.answers[vote] else ahead.pool.submit(self._answer, *vote)
                for vote in votes
            ]
            return [answer.result() for answer in asked]
        finally:
            self.forget()

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
        content = {"model": self.model, "messages": self.config.messages(question)}
        return self._client.ask(content if seed is None else {**content, "seed": seed}, self._read)

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
        return config.read(text, choice.get("finish_reason") == "length")
