"""A language model that names the better one of two responses by a letter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from oracles.judging.unread import Unread, UnreadPairs
from oracles.readers.batching import Budget, Memory
from oracles.readers.loading import NetworkConfig, load_network, require_readable
from preference_duel.chat import PlainText, filled_template, with_contents
from preference_duel.checks import one_of, positive, require, within
from preference_duel.types import messages_of

if TYPE_CHECKING:
    from torch import Tensor

CONTEXT = (
    "\n{% for message in messages %}{% if loop.index0 % 2 == 0 %}\n\n<turn> user\n {{ message['content'] }}"
    "{% else %}\n\n<turn> assistant\n {{ message['content'] }}{% endif %}{% endfor %}\n\n\n"
)
"""The conversation format of RLHFlow's models, as a chat template."""
QUESTION = "[CONTEXT] {context} [RESPONSE A] {first} [RESPONSE B] {second} \n"
LABELS = "A", "B"
_ADVICE = "was it trained in this form? Take another model, or lower --oracle.least_mass"
Question = tuple[str, str, str]


@dataclass(frozen=True)
class PairLMConfig(NetworkConfig):
    """A pairwise language model in the format of RLHFlow (Dong et al. 2024, arXiv:2405.07863)."""

    model: str
    """Directory or hub id of a causal language model, such as RLHFlow/pair-preference-model-LLaMA3-8B."""
    least_mass: float = 0.5
    """Share of the probability that the letters must hold together, in [0, 1]; with less an answer is unread. The
    released code takes whatever they hold, 0."""
    unread: Unread = "drop"
    """A pair whose answer is unread in either order: "drop" counts it as not asked, "stop" stops the run."""
    temperature: float = 1.0
    """Divides the labels' logits, > 0; the released code takes 1."""
    add_generation_prompt: bool = False
    """Whether the chat template is asked to open the answer; the released code leaves it to the template."""

    def __post_init__(self) -> None:
        """Raises where a value is out of range."""
        require(self, temperature=positive, least_mass=within("[0, 1]"), unread=one_of(Unread))

    def build(
        self, *, prompts: Sequence[str] | None = None, responses: Sequence[str] | None = None, device: str = "cpu"
    ) -> PairLM:
        """Returns the oracle; a finite task's `responses` are not needed.

        Raises:
            OSError: if the model cannot be found or fetched.
            ValueError: if it is no causal language model, has no chat template or labels, or cannot read a prompt.
        """
        del responses
        advice = "pass a directory or a hub id as --oracle.model"
        network, tokenizer = load_network("AutoModelForCausalLM", "pairwise model", self.model, self, device, advice)
        oracle = PairLM(network, tokenizer, self)
        require_readable("pairwise model", lambda prompt: oracle.encode(prompt, "a", "b"), prompts or ("a",))
        return oracle


class PairLM:
    """Asks for the better response in both orders: P is the mean of the letters' softmax.

    Args:
        network: a causal language model.
        tokenizer: its transformers tokenizer, with a chat template.
        config: temperature and budgets.

    Raises:
        ValueError: if there is no chat template, or a label is not one token.
    """

    antisymmetric = True

    def __init__(self, network: Any, tokenizer: Any, config: PairLMConfig) -> None:
        self.network, self.tokenizer, self.config = network.eval().requires_grad_(False), tokenizer, config
        if tokenizer.chat_template is None:
            raise ValueError(f"the tokenizer of '{config.model}' has no chat template, in which it would be asked")
        ids = [tokenizer.encode(label, add_special_tokens=False) for label in LABELS]
        if any(len(one) != 1 for one in ids):
            raise ValueError(f"the labels {LABELS} must be one token each, '{config.model}' writes them as {ids}")
        self._labels = [one[0] for one in ids]
        self._texts = PlainText(tokenizer)
        self._budget = Budget(config.token_budget, config.square_budget)
        self._memory: Memory[Question, float] = Memory(config.cache_size)
        self.leaves_unread = config.unread == "drop"
        self.unread = UnreadPairs(f"'{config.model}'", config.unread, _ADVICE)
        self._limit = getattr(network.config.get_text_config(), "max_position_embeddings", None)

    def prob(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> Tensor:
        """Returns P(first beats second | prompt), [N] float32 on the CPU; equal texts are 1/2 without a pass.

        NaN stands for a pair whose letters hold less than `least_mass` in either order.

        Raises:
            ValueError: if a question is longer than the model reads, or most pairs are unread.
            Unanswered: if one is, and that stops the run.
        """
        straight, turned = self.both_orders(prompts, first, second)
        return ((straight + 1 - turned) / 2).float()

    def both_orders(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Returns P(first wins) if the first is shown first, and P(second wins) if the second is, each [N] float64.

        Raises:
            ValueError: if a question is longer than the model reads.
        """
        pairs = list(zip(prompts, first, second, strict=True))
        different = [i for i, (_, a, b) in enumerate(pairs) if a != b]
        straight = [pairs[i] for i in different]
        answers = self._memory.answers([*straight, *((x, b, a) for x, a, b in straight)], self._ask)
        prob = torch.full((2, len(pairs)), 0.5, dtype=torch.float64)
        prob[:, different] = torch.tensor(answers, dtype=torch.float64).reshape(2, -1)
        self.unread.add(len(different), int(prob.isnan().any(0).sum()))
        return prob[0], prob[1]

    def forget(self) -> None:
        """Drops the remembered answers; a runner does so at every step, so that a resumed run reads equal batches."""
        self._memory.forget()

    def encode(self, prompt: str, first: str, second: str) -> list[int]:
        """Returns the ids of a question, by the released code's recipe; typed special tokens are mere text.

        Raises:
            ValueError: if the chat template refuses the question.
        """
        turns = messages_of(prompt)

        def fill(texts: Sequence[str]) -> str:
            *contents, one, other = texts
            context = filled_template(self.tokenizer, with_contents(turns, contents), chat_template=CONTEXT)
            question = QUESTION.format(context=context, first=one, second=other)
            return filled_template(
                self.tokenizer,
                [{"role": "user", "content": question}],
                add_generation_prompt=self.config.add_generation_prompt,
            ).replace(self.tokenizer.bos_token or "\0", "")

        return self._texts.encode_filled(fill, [*(turn["content"] for turn in turns), first, second])

    def _ask(self, questions: Sequence[Question]) -> list[float]:
        rows = [self.encode(*question) for question in questions]
        longest = max(map(len, rows))
        if self._limit is not None and longest > self._limit:
            raise ValueError(
                f"'{self.config.model}' reads {self._limit} ids and a question has {longest}; lower the task's "
                f"max_prompt_tokens or max_new_tokens"
            )
        answers = [0.0] * len(rows)
        for part in self._budget.batches([len(row) for row in rows]):
            for i, chance in zip(part, self._read([rows[i] for i in part]), strict=True):
                answers[i] = chance
        return answers

    def _read(self, rows: Sequence[Sequence[int]]) -> list[float]:
        """Returns the chance of the first label after each row, NaN if it is unread.

        Only the last states pass the output layer.
        """
        width, device = max(map(len, rows)), self.network.device
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        mask = torch.arange(width, device=device) < lengths[:, None]

        def last(_: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (inputs[0][torch.arange(len(rows), device=device), lengths - 1], *inputs[1:])

        handle = self.network.get_output_embeddings().register_forward_pre_hook(last)
        try:
            with torch.inference_mode():
                logits = self.network(input_ids=ids, attention_mask=mask.long(), use_cache=False).logits
        finally:
            handle.remove()
        labels = logits[:, self._labels].float()
        if not labels.isfinite().all():
            raise ValueError(f"'{self.config.model}' gives {labels.tolist()} in {self.network.dtype}; try float32")
        mass = (labels.logsumexp(-1) - logits.float().logsumexp(-1)).exp()
        chance = (labels / self.config.temperature).softmax(-1)[:, 0]
        return chance.masked_fill(mass < self.config.least_mass, math.nan).tolist()
