"""The task of the embedded text."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from envs.tasks.grammar import STYLES, pure_answers, style_of
from envs.tasks.prompts import TextLimits, by_mark, read_lines, text_task
from envs.tasks.task import Styles, Task
from envs.tasks.tokenizers import FileTokenizer, Tokenizer

CHAT = Path(__file__).parents[1] / "data" / "chat"


@dataclass(frozen=True, kw_only=True)
class ChatConfig(TextLimits):
    """The embedded text: short questions written by the project's own grammar."""

    max_prompt_tokens: int = 24
    """The longest prompt, in tokens; the longest of the embedded ones has 11."""
    max_new_tokens: int = 28
    """The response's limit, in tokens, its EOS included; the corpus's longest answer has 24."""

    def build(self, *, tokenizer: Tokenizer | None = None) -> Task:
        """Reads the embedded prompts."""
        lines = read_lines(CHAT / "prompts.jsonl")
        train, held_out = by_mark(lines)
        task = text_task("chat", train, held_out, tokenizer or chat_tokenizer(), self)
        return replace(task, styles=Styles(STYLES, style_of, pure_answers))


def chat_tokenizer() -> FileTokenizer:
    """Returns the vocabulary of the embedded text."""
    return FileTokenizer(CHAT / "tokenizer.json", eos="<eos>", pad="<pad>")
