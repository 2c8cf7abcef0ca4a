"""Preferences given as a table: a finite game's file, and any family that can list its matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch

from oracles.registry import GAMES
from preference_duel.json_text import parse_json, short
from preference_duel.names import nearest

if TYPE_CHECKING:
    from torch import Tensor

SMALL = 2**20
"""Tables of so few entries are kept as one, which answers questions about many prompts at once."""
TOLERANCE = 1e-6
"""Tolerance of P + P' = 1 in a file: the rounding of float32, which is then removed."""


@dataclass(frozen=True)
class Game:
    """A finite game as its file gives it.

    Attributes:
        prompts: X prompts.
        responses: N responses, the same for every prompt.
        prob: [N, N] or [X, N, N] float64, P(response i beats response j | prompt x); None if the file has none.
    """

    prompts: tuple[str, ...]
    responses: tuple[str, ...]
    prob: Tensor | None


@dataclass(frozen=True)
class TableConfig:
    """The `prob` of a finite game's file."""

    path: str | None = None
    """FILE.json with "prompts" [X], "responses" [N] and "prob" [N][N], or one matrix per prompt [X][N][N]."""

    def build(
        self, *, prompts: Sequence[str] | None = None, responses: Sequence[str] | None = None, device: str = "cpu"
    ) -> TableOracle:
        """Reads the file, and checks that it knows the task's prompts and responses.

        Raises:
            ValueError: if there is no path, the file is no game, it has no `prob`, or it lacks one of the task's texts.
        """
        del device  # a table stays on the CPU
        if self.path is None:
            raise ValueError(
                "oracle 'table' reads P from a finite game's file: pass --oracle.path FILE.json, usually --task's"
            )
        game = read_game(self.path)
        if game.prob is None:
            raise ValueError(f"{self.path}: has no 'prob' [N][N] or [X][N][N]; add it, or choose another oracle")
        oracle = TableOracle(game.prob, game.prompts, game.responses)
        oracle.rows(prompts or ())
        oracle.columns(responses or ())
        return oracle


@dataclass(frozen=True)
class NamedGameConfig:
    """A small game that papers speak of, by its name."""

    game: str
    """rps (each beats one with .9), comal3 (its winner is (4, 3, 4)/11), cycle5, or clone_rps (scissors twice)."""

    def build(
        self, *, prompts: Sequence[str] | None = None, responses: Sequence[str] | None = None, device: str = "cpu"
    ) -> TableOracle:
        """Looks the game up.

        Raises:
            ValueError: if there is no such game, or the task is another one.
        """
        if self.game not in GAMES:
            raise ValueError(f"no game is called '{self.game}'{nearest(self.game, GAMES)} Known: {', '.join(GAMES)}.")
        table = TableConfig(str(game_file(self.game)))
        try:
            return table.build(prompts=prompts, responses=responses, device=device)
        except ValueError as error:
            raise ValueError(f"oracle '{self.game}' judges --task {self.game} alone: {error}") from error


class TableOracle:
    """Looks every answer up.

    Args:
        prob: [N, N] for every prompt, [X, N, N] one matrix for each, or a function from the prompt's index to its
            [N, N] (called once for each prompt queried, then kept); P(i beats j), P + P' = 1.
        prompts: X prompts, distinct.
        responses: N responses, distinct, the same for every prompt.

    Raises:
        ValueError: if `prob` does not fit the prompts and responses, or is no antisymmetric table of probabilities.
    """

    antisymmetric = True

    def __init__(
        self, prob: Tensor | Callable[[int], Tensor], prompts: Sequence[str], responses: Sequence[str]
    ) -> None:
        self.prompts, self.responses = list(prompts), list(responses)
        self._row = _index("prompts", self.prompts)
        self._column = _index("responses", self.responses)
        self._all = torch.arange(len(self.responses))
        self._matrices: dict[int, Tensor] = {}
        self._source = prob if callable(prob) else exact_table("prob", prob, len(self.prompts), len(self.responses))

    def matrix(self, prompt: str) -> Tensor:
        """Returns [N, N] float64, P(response i beats response j | prompt); not to be written to."""
        return self._matrix(self.rows([prompt])[0])

    def prob(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> Tensor:
        """Returns [N] float64, P(first beats second | prompt).

        Raises:
            ValueError: for a prompt or a response that the table lacks.
        """
        asked = self.rows(prompts)
        i, j = self.columns(first), self.columns(second)
        if len(set(asked)) == 1:
            return self._matrix(asked[0])[i, j]
        rows = torch.tensor(asked, dtype=torch.long)
        if len(self._matrices) == len(self.prompts) and len(self.prompts) * len(self.responses) ** 2 <= SMALL:
            self._source = torch.stack([self._matrix(row) for row in range(len(self.prompts))])
            self._matrices = {}
        if isinstance(self._source, torch.Tensor):
            return self._source[i, j] if self._source.ndim == 2 else self._source[rows, i, j]
        answers = torch.empty(len(rows), dtype=torch.float64)
        for row in rows.unique().tolist():
            here = rows == row
            answers[here] = self._matrix(row)[i[here], j[here]]
        return answers

    def payoff(self, prompts: Sequence[str], left: Sequence[Sequence[str]], right: Sequence[Sequence[str]]) -> Tensor:
        """Returns [B, K, L] float64, equal to `prob` on every pair; lists of all N responses cost next to nothing."""
        if isinstance(self._source, torch.Tensor) and self._source.ndim == 3 and len(left[0]) < len(self.responses):
            rows = torch.tensor(self.rows(prompts))[:, None, None]
            i = self._columns_of(left)  # [B, K]
            j = i if right is left else self._columns_of(right)
            return self._source[rows, i[:, :, None], j[:, None, :]]
        return torch.stack(
            [
                self._gather(self._matrix(row), self.columns(ours), self.columns(theirs))
                for row, ours, theirs in zip(self.rows(prompts), left, right, strict=True)
            ]
        )

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        """Returns itself: what it answers never changes, so copies of an environment share it."""
        return self

    def rows(self, prompts: Sequence[str]) -> list[int]:
        """Returns the indices of the prompts."""
        return _look_up("prompt", self._row, prompts)

    def columns(self, responses: Sequence[str]) -> Tensor:
        """Returns the indices of the responses; the same tensor each time for the whole list."""
        if len(responses) == len(self.responses) and list(responses) == self.responses:
            return self._all
        return torch.tensor(_look_up("response", self._column, responses), dtype=torch.long)

    def _columns_of(self, responses: Sequence[Sequence[str]]) -> Tensor:
        return torch.tensor([_look_up("response", self._column, row) for row in responses], dtype=torch.long)

    def _gather(self, matrix: Tensor, i: Tensor, j: Tensor) -> Tensor:
        ours = matrix if i is self._all else matrix[i]
        return ours if j is self._all else ours[:, j]

    def _matrix(self, row: int) -> Tensor:
        if isinstance(self._source, torch.Tensor):
            return self._source if self._source.ndim == 2 else self._source[row]
        if row not in self._matrices:
            count = len(self.responses)
            self._matrices[row] = exact_table(f"prob of prompt {row}", self._source(row), None, count)
        return self._matrices[row]


def exact_table(name: str, prob: Tensor, prompts: int | None, responses: int) -> Tensor:
    """Returns a float64 table with P + P' = 1 and 1/2 on the diagonal, to the last bit.

    Entries may be off by `TOLERANCE`; those below the diagonal become 1 - the ones above.

    Args:
        name: what the messages call it.
        prob: [N, N], or [X, N, N] where `prompts` is X.
        prompts: X; None: only [N, N] will do.
        responses: N.

    Raises:
        ValueError: naming the first entry that breaks the shape, the range or the antisymmetry, and by how much.
    """
    prob = prob.detach().double().cpu()
    shapes = [(responses, responses)] + ([] if prompts is None else [(prompts, responses, responses)])
    if tuple(prob.shape) not in shapes:
        wanted = " or ".join(str(list(shape)) for shape in shapes)
        raise ValueError(f"{name} must be {wanted} for the prompts and responses, got {list(prob.shape)}")
    _require((prob >= 0) & (prob <= 1), name, prob, "lie in [0, 1]; is it logits?")
    opposite = 1 - prob.mT
    if (error := (prob - opposite).abs_()).max() > TOLERANCE:
        promise = "have P[i][j] + P[j][i] = 1 and 1/2 on the diagonal"
        _require(error <= TOLERANCE, name, prob, f"{promise}; it is off by up to {error.max().item():.3g}")
    exact = prob.triu(1).add_(opposite.tril_(-1))
    exact.diagonal(dim1=-2, dim2=-1).fill_(0.5)
    return exact


def _require(holds: Tensor, name: str, prob: Tensor, promise: str) -> None:
    if not holds.all():
        where = (~holds).nonzero()[0].tolist()
        entry = "".join(f"[{i}]" for i in where)
        raise ValueError(f"{name}{entry} = {prob[tuple(where)].item():g}, but prob must {promise}")


def game_file(name: str) -> Path:
    """Returns the file of one of `GAMES`."""
    return Path(__file__).parent / "games" / f"{name}.json"


def read_game(path: str | Path) -> Game:
    """Reads a finite game's FILE.json: {"prompts": [...], "responses": [...], "prob": [[...]]}.

    Raises:
        ValueError: with the file, and the line or the entry that is wrong.
        OSError: if the file cannot be read.
    """
    game = parse_json(Path(path).read_bytes(), path)
    known = ("prompts", "responses", "prob")
    if not isinstance(game, dict):
        advice = "; name a file of prompts or preferences FILE.jsonl" if isinstance(game, list) else ""
        raise ValueError(
            f'{path}: a finite game is {{"prompts": [...], "responses": [...]}}, got {short(game)}{advice}'
        )
    for field in game:
        if field not in known:
            raise ValueError(
                f"{path}: unknown field '{field}'{nearest(field, known) or '.'} Fields: {', '.join(known)}."
            )
    prompts, responses = (_texts(path, field, game.get(field)) for field in ("prompts", "responses"))
    prob = None if game.get("prob") is None else _table(path, game["prob"], len(prompts), len(responses))
    return Game(prompts, responses, prob)


def _texts(path: str | Path, field: str, texts: object) -> tuple[str, ...]:
    if not isinstance(texts, list) or not texts:
        raise ValueError(f"{path}: '{field}' must be a list of at least one string, got {short(texts)}")
    for i, text in enumerate(texts):
        if not isinstance(text, str) or not text:
            raise ValueError(f"{path}: {field}[{i}] must be a non-empty string, got {short(text)}")
        if not text.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in text):
            raise ValueError(f"{path}: {field}[{i}] has half a surrogate pair, which is no text: {short(text)}")
    try:
        _index(field, texts)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return tuple(texts)


def _table(path: str | Path, prob: object, prompts: int, responses: int) -> Tensor:
    try:
        table = torch.tensor(prob, dtype=torch.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: 'prob' must be numbers [{responses}][{responses}] or "
            f"[{prompts}][{responses}][{responses}] with rows of one length: {error}"
        ) from error
    return exact_table(f"{path}: prob", table, prompts, responses)


def _index(field: str, texts: Sequence[str]) -> dict[str, int]:
    index = {text: i for i, text in enumerate(texts)}
    if len(index) != len(texts):
        i = next(i for i, text in enumerate(texts) if index[text] != i)
        raise ValueError(f"{field} must be distinct, but {short(texts[i])} is {field}[{i}] and [{index[texts[i]]}]")
    return index


def _look_up(kind: str, index: dict[str, int], texts: Sequence[str]) -> list[int]:
    try:
        return [index[text] for text in texts]
    except KeyError:
        lost = next(text for text in texts if text not in index)
        hint = nearest(lost, islice(index, 10_000)) or "."
        raise ValueError(f"the table has no {kind} {short(lost)}{hint} It lists {len(index)}.") from None
