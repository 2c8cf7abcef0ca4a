"""The reward that a trained language model implies: beta times its log-ratio to the model that it was trained from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from oracles.bradley_terry import RewardOracle
from oracles.readers.batching import Budget, Memory
from oracles.readers.loading import NetworkConfig, load_network, require_readable
from preference_duel.chat import PlainText, closing_token, filled_template, with_contents
from preference_duel.checks import positive_finite, require
from preference_duel.types import messages_of

Question = tuple[str, str]


@dataclass(frozen=True)
class ImplicitConfig(NetworkConfig):
    """P(a beats b) = sigmoid(r(a) - r(b)), r(y) = beta log(pi(y | x) / ref(y | x)) (Rafailov et al. 2023)."""

    policy: str
    """Directory or hub id of a causal language model, such as a run's step-100/policy."""
    reference: str
    """Directory or hub id of the model that it was trained from, with the same vocabulary."""
    beta: float = 0.1
    """KL coefficient that it was trained under, > 0; 0.1 is the default of agent `dpo`."""
    normalised: bool = False
    """Divide each response's reward by its number of tokens, its end included."""
    reference_revision: str | None = None
    """Branch, tag or commit of the reference's hub id; `revision` is the policy's."""

    def __post_init__(self) -> None:
        """Raises where a value is out of range."""
        require(self, beta=positive_finite)

    def build(
        self, *, prompts: Sequence[str] | None = None, responses: Sequence[str] | None = None, device: str = "cpu"
    ) -> RewardOracle:
        """Returns the oracle; a finite task's `responses` are not needed.

        Raises:
            OSError: if a model cannot be found or fetched.
            ValueError: if one is no causal language model or cannot read a prompt, or their vocabularies differ.
        """
        del responses
        load = partial(load_network, "AutoModelForCausalLM", device=device)
        advice = "pass directories or hub ids as --oracle.policy and --oracle.reference"
        policy, tokenizer = load("policy", self.policy, self, advice=advice)
        base = replace(self, revision=self.reference_revision)
        reference, other = load("reference", self.reference, base, advice=advice)
        if tokenizer.get_vocab() != other.get_vocab() or _end(tokenizer, self.policy) != _end(other, self.reference):
            raise ValueError(
                f"'{self.policy}' and '{self.reference}' have different vocabularies or ends of a response, so that "
                f"their log-probabilities can't be compared; the reference is the model that the policy started from"
            )
        reward = ImplicitReward(policy, reference, tokenizer, self)
        require_readable("policy", lambda prompt: reward.encode(prompt, "a"), prompts or ("a",))
        return RewardOracle(reward)


class ImplicitReward:
    """Reads each response by both models, after the chat template's beginning of an answer and up to its end.

    All tokens count, the end of the response included; no token is masked, and none is left out at a task's limit.

    Args:
        policy: a causal language model.
        reference: another one, with the same vocabulary.
        tokenizer: their transformers tokenizer.
        config: beta, normalisation and budgets.

    Raises:
        ValueError: if the tokenizer has no token that ends a response.
    """

    def __init__(self, policy: Any, reference: Any, tokenizer: Any, config: ImplicitConfig) -> None:
        self.models = [model.eval().requires_grad_(False) for model in (policy, reference)]
        self.tokenizer, self.config = tokenizer, config
        self._end = _end(tokenizer, config.policy)
        self._texts = PlainText(tokenizer)
        self._budget = Budget(config.token_budget, config.square_budget)
        self._memory: Memory[Question, float] = Memory(config.cache_size)
        limits = [getattr(model.config.get_text_config(), "max_position_embeddings", None) for model in self.models]
        self._limit = min((limit for limit in limits if limit is not None), default=None)

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> Tensor:
        """Returns the rewards, [N] float64 on the CPU, in nats times beta.

        Raises:
            ValueError: if a text is longer than a model reads.
        """
        answers = self._memory.answers(list(zip(prompts, responses, strict=True)), self._ask)
        return torch.tensor(answers, dtype=torch.float64)

    def forget(self) -> None:
        """Drops the remembered answers; a runner does so at every step, so that a resumed run reads equal batches."""
        self._memory.forget()

    def encode(self, prompt: str, response: str) -> tuple[list[int], list[int]]:
        """Returns the ids of a prompt and of a response with its end; typed special tokens are mere text.

        Raises:
            ValueError: if the chat template refuses the prompt.
        """
        turns = messages_of(prompt)

        def fill(contents: Sequence[str]) -> str:
            return filled_template(self.tokenizer, with_contents(turns, contents), add_generation_prompt=True)

        if self.tokenizer.chat_template:
            start = self._texts.encode_filled(fill, [turn["content"] for turn in turns])
        else:
            start = self._texts.encode(str(prompt), add_special_tokens=True)
        if not start:
            raise ValueError(f"the prompt {str(prompt)!r} has no tokens in this vocabulary")
        return start, [*self._texts.encode(response), self._end]

    def _ask(self, questions: Sequence[Question]) -> list[float]:
        rows = [self.encode(*question) for question in questions]
        lengths = [len(start) + len(rest) for start, rest in rows]
        if self._limit is not None and max(lengths) > self._limit:
            raise ValueError(
                f"'{self.config.policy}' and its reference read {self._limit} tokens and a text has {max(lengths)}; "
                f"lower the task's max_prompt_tokens or max_new_tokens"
            )
        answers = [0.0] * len(rows)
        for part in self._budget.batches(lengths):
            batch = [rows[i] for i in part]
            ours, theirs = (_logprob(model, batch) for model in self.models)
            for i, ratio in zip(part, (ours - theirs).tolist(), strict=True):
                answers[i] = self.config.beta * ratio / (len(rows[i][1]) if self.config.normalised else 1)
        return answers


@torch.inference_mode()
def _logprob(model: Any, rows: Sequence[tuple[list[int], list[int]]]) -> Tensor:
    """Returns [R] float64 nats of the responses; only states before their tokens pass the output layer."""
    device = model.device
    width = max(len(start) + len(rest) for start, rest in rows) - 1  # after the last token nothing is predicted
    ids = torch.zeros((len(rows), width), dtype=torch.long, device=device)
    mask = torch.zeros_like(ids)
    for r, (start, rest) in enumerate(rows):
        texts = torch.tensor([*start, *rest[:-1]], device=device)
        ids[r, : len(texts)], mask[r, : len(texts)] = texts, 1
    row = torch.tensor([r for r, (_, rest) in enumerate(rows) for _ in rest], device=device)  # [M]
    column = torch.tensor([len(start) - 1 + t for start, rest in rows for t in range(len(rest))], device=device)
    tokens = torch.tensor([token for _, rest in rows for token in rest], device=device)

    def chosen(_: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0][row, column][None], *inputs[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(chosen)
    try:
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[0].float()  # [M, V]
    finally:
        handle.remove()
    logprobs = (logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(-1)).double()
    return torch.zeros(len(rows), dtype=torch.float64, device=device).index_add_(0, row, logprobs).cpu()


def _end(tokenizer: Any, model: str) -> int:
    """Returns the token that ends a response: the chat template's, else EOS.

    Raises:
        ValueError: if there is none.
    """
    closing = closing_token(tokenizer)
    closing = tokenizer.eos_token_id if closing is None else closing
    if closing is None:
        raise ValueError(f"the tokenizer of '{model}' has no EOS token, with which a response would end")
    return closing
