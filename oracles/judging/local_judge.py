"""A language model in a transformers folder as a judge that writes its answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from oracles.judging import letters
from oracles.judging.question import Question, Vote, WritingJudge
from oracles.judging.question_config import QuestionConfig
from oracles.judging.unread import Unread, UnreadPairs
from oracles.judging.verdicts import Reading
from oracles.readers.batching import Budget, Memory
from oracles.readers.loading import NetworkConfig, load_network, require_readable
from preference_duel.chat import PlainText, closing_token, filled_template, with_contents
from preference_duel.checks import at_least, require
from preference_duel.keyed_random import Key, hash_seed

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import LogitsProcessor

_WHAT, _SOURCE = "judge", "pass a directory or a hub id as --oracle.of"
_ADVICE = (
    "is it a chat model, and does it answer in --oracle.local.format? Change the question (--oracle.local.template), "
    "the tokens of an answer (max_tokens, reasoning), least_mass or the model"
)


@dataclass(frozen=True, kw_only=True)
class LocalConfig(QuestionConfig, NetworkConfig):
    """Question, answer, precision and batches of a model that judges in this process."""

    PART: ClassVar[str] = "local."
    temperature: float = 0.0
    """Of the answer, >= 0; 0 takes the likeliest token, else tokens are drawn from the whole distribution."""

    def __post_init__(self) -> None:
        """Raises where a value is out of range, or would be ignored."""
        super().__post_init__()
        require(self, self.PART, temperature=at_least(0), token_budget=at_least(1), square_budget=at_least(1))


class LocalJudge(WritingJudge):
    """Writes an answer to each question in both orders, so many votes in each; P is the mean of their chances.

    Answers are read as those of an endpoint (`EndpointJudge`), and unread for the same reasons. A drawn answer is a
    function of the question and the vote's seed, up to the rounding of batches.

    Attributes:
        unread: the pairs that were unread.
        verdicts: how many answers said what, the first response being the one shown first.

    Args:
        model: directory or hub id.
        config: question, format and budgets.
        unread: what an unread pair leads to.
        device: where it runs.

    Raises:
        OSError: if the model cannot be found or fetched.
        ValueError: if it is no causal language model, has no chat template, no end of an answer, or no letters.
    """

    def __init__(self, model: str, config: LocalConfig, unread: Unread = "drop", device: str = "cpu") -> None:
        network, self.tokenizer = load_network("AutoModelForCausalLM", _WHAT, model, config, device, _SOURCE)
        self.network, self.model, self.config = network.eval().requires_grad_(False), model, config
        if self.tokenizer.chat_template is None:
            raise ValueError(f"the tokenizer of '{model}' has no chat template, in which it would be asked")
        self.leaves_unread = unread == "drop"
        super().__init__(config.seeds, UnreadPairs(f"'{model}'", unread, _ADVICE))
        self._texts = PlainText(self.tokenizer)
        self._ends = _ends(network, self.tokenizer)
        self._letters = _letters(model, self.tokenizer) if config.reads_logprobs else {}
        self._budget = Budget(config.token_budget, config.square_budget)
        self._memory: Memory[Vote, Reading] = Memory(config.cache_size)
        self._limit = getattr(network.config.get_text_config(), "max_position_embeddings", None)

    @property
    def description(self) -> str:
        """The judge's model, for the first line of a run."""
        return f"judge {self.model}"

    def require_readable(self, prompts: Sequence[str]) -> None:
        """Raises if the model's chat template refuses a question about one of the prompts.

        Raises:
            UnreadablePromptError: with the first such prompt and the template's own message.
        """
        require_readable(_WHAT, lambda prompt: self.encode((prompt, "a", "b")), prompts)

    def forget(self) -> None:
        """Drops the remembered answers; a runner does so at every step, so that a resumed run reads equal batches."""
        self._memory.forget()

    def encode(self, question: Question) -> list[int]:
        """Returns the ids of a question, the answer opened; typed special tokens are mere text.

        Raises:
            ValueError: if the chat template refuses the question.
        """
        turns = self.config.messages(question)

        def fill(texts: Sequence[str]) -> str:
            return filled_template(self.tokenizer, with_contents(turns, texts), add_generation_prompt=True)

        return self._texts.encode_filled(fill, [turn["content"] for turn in turns])

    def _answers(self, votes: Sequence[Vote]) -> list[Reading]:
        return list(self._memory.answers(votes, self._ask))

    def _ask(self, votes: Sequence[Vote]) -> list[Reading]:
        rows, most = [self.encode(question) for question, _ in votes], self.config.most_tokens
        longest = max(map(len, rows))
        if self._limit is not None and longest + most > self._limit:
            raise ValueError(
                f"'{self.model}' reads {self._limit} ids, and a question of {longest} with an answer of {most} are "
                f"more; lower --oracle.local.max_tokens, or the task's max_prompt_tokens or max_new_tokens"
            )
        found: dict[int, Reading] = {}
        for part in self._budget.batches([len(row) + most for row in rows]):
            batch = [rows[i] for i in part]
            readings = (
                self._weigh(batch) if self.config.reads_logprobs else self._write(batch, [votes[i] for i in part])
            )
            found.update(zip(part, readings, strict=True))
        return [found[i] for i in range(len(rows))]

    def _weigh(self, rows: Sequence[list[int]]) -> list[Reading]:
        """Returns the chance of the letters at the first token of each answer."""
        (logits,) = self._generate(rows, 1, output_logits=True, return_dict_in_generate=True).logits
        logprobs = logits.double().log_softmax(-1)[:, list(self._letters)].tolist()  # [R, ids that write a letter]
        steps = [
            [{"token": letter, "logprob": nats} for letter, nats in zip(self._letters.values(), row, strict=True)]
            for row in logprobs
        ]
        return [letters.read_logprobs([{"top_logprobs": one}], self.config.least_mass) for one in steps]

    def _write(self, rows: Sequence[list[int]], votes: Sequence[Vote]) -> list[Reading]:
        """Returns what the answers that are written say."""
        most, drawn = self.config.most_tokens, {}
        if self.config.temperature:
            keys = [Key(hash_seed(seed or 0, *question)) for question, seed in votes]
            uniforms = torch.from_numpy(np.stack([key.uniform(k=np.arange(most)) for key in keys]))
            drawn = {"logits_processor": [_drawing(self.config.temperature, uniforms, max(map(len, rows)))]}
        written = self._generate(rows, most, **drawn)[:, max(map(len, rows)) :].tolist()
        readings = []
        for tokens in written:
            end = next((t for t, token in enumerate(tokens) if token in self._ends), None)
            text = self.tokenizer.decode(tokens[:end], skip_special_tokens=True)
            readings.append(self.config.read(text, cut=end is None))
        return readings

    def _generate(self, rows: Sequence[list[int]], most: int, **options: Any) -> Any:
        """Returns what `generate` returns: the rows, padded on the left, and at most so many tokens after them."""
        from transformers import GenerationConfig

        width, device = max(map(len, rows)), self.network.device
        ids = torch.tensor([[self._ends[0]] * (width - len(row)) + row for row in rows], device=device)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        mask = (torch.arange(width, device=device) >= width - lengths[:, None]).long()
        # The model's own defaults, which may sample, cut and punish tokens, would fill what is left out here.
        self.network.generation_config = GenerationConfig(eos_token_id=self._ends, pad_token_id=self._ends[0])
        with torch.inference_mode():
            return self.network.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=most, do_sample=False, **options
            )


def _drawing(temperature: float, uniforms: Tensor, width: int) -> LogitsProcessor:
    """Returns what leaves `generate` one token of each row, drawn at a temperature.

    Args:
        temperature: > 0.
        uniforms: [R, T] float64; token t of row r takes uniforms[r, t].
        width: ids ahead of the first token.
    """
    from transformers import LogitsProcessor

    from preference_duel.keyed_random_torch import choose

    class Drawing(LogitsProcessor):
        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride] - typed by legacy aliases
            now = uniforms[:, input_ids.shape[1] - width, None].to(scores.device)
            chosen = choose((scores.float() / temperature).softmax(-1), now)  # [R, 1]
            return torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)

    return Drawing()


def _ends(network: Any, tokenizer: Any) -> list[int]:
    """Returns the tokens that end an answer.

    Raises:
        ValueError: if neither the model, nor its tokenizer, nor its chat template names one.
    """
    own = network.generation_config.eos_token_id
    named = [*(own if isinstance(own, list) else [own]), tokenizer.eos_token_id, closing_token(tokenizer)]
    ends = list(dict.fromkeys(end for end in named if end is not None))
    if not ends:
        raise ValueError(f"'{network.name_or_path}' names no token that ends an answer (eos_token)")
    return ends


def _letters(model: str, tokenizer: Any) -> dict[int, str]:
    """Returns the ids that write a letter, with it or without a space.

    Raises:
        ValueError: if a letter is no token.
    """
    written = {i: tokenizer.decode([i]).strip() for i in range(len(tokenizer))}
    found = {i: text for i, text in written.items() if text in letters.LABELS}
    if {*found.values()} != {*letters.LABELS}:
        raise ValueError(f"the letters {letters.LABELS} must be one token each in '{model}'; take another format")
    return found
