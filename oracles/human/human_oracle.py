"""People as an oracle: they judge on a page in the browser, and their verdicts are kept in a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

import torch

from oracles.human.verdict_store import VerdictStore
from preference_duel import distributed
from preference_duel.checks import at_least, positive, require, within

if TYPE_CHECKING:
    from torch import Tensor

    from oracles.human.verdict_server import PageServer

FILE = "verdicts.sqlite"
"""Name of the file in a run directory."""
_QUIET = 10.0
"""Seconds between lines about the verdicts that are missing."""


@dataclass(frozen=True)
class HumanConfig:
    """People who judge on a page in the browser; their verdicts are kept in an SQLite file."""

    file: str | None = None
    """File of the verdicts; None: verdicts.sqlite in the run directory."""
    people: int = 1
    """Persons that judge each pair, >= 1; P is the share of their verdicts, a tie counting half."""
    host: str = "127.0.0.1"
    """Interface that the page is served on; 0.0.0.0: all, for which a token is drawn and printed with the address."""
    port: int = 8765
    """Port of the page, in [0, 65535]; 0: any that is free."""
    grace: float = 3.0
    """Seconds, >= 0, that a run waits after the last verdict of a step, in which it may still be undone."""
    patience: float = 30.0
    """Seconds without a sign of a person's page, > 0, after which its question is free for others."""

    run_defaults: ClassVar[Mapping[str, int]] = MappingProxyType({"eval_every": 0})
    """Settings of a run with this oracle that are not set: evaluations ask people only on request."""
    may_change: ClassVar[tuple[str, ...]] = ("host", "port", "grace", "patience")
    """Fields that may change on --resume."""

    def build(
        self, *, prompts: Sequence[str] | None = None, responses: Sequence[str] | None = None, device: str = "cpu"
    ) -> HumanOracle:
        """Returns the oracle; the page is served as soon as a question is open.

        Raises:
            ValueError: if a field is out of range, a library is missing, or the run has several processes.
        """
        del prompts, responses, device
        require(self, people=at_least(1), port=within("[0, 65535]"), grace=at_least(0), patience=positive)
        if missing := [name for name in ("starlette", "uvicorn") if find_spec(name) is None]:
            raise ValueError(f"oracle 'human' needs {' and '.join(missing)}: pip install 'preference-duel[human]'")
        if distributed.count() > 1:
            raise ValueError("oracle 'human' serves one page, and there are several processes; start the run as one")
        return HumanOracle(self)


class HumanOracle:
    """Asks people about pairs that they have not judged yet, and waits for their verdicts.

    P is the share of the verdicts, a tie counting half; with one person it is 1, 0 or 1/2. Equal texts are 1/2 without
    a question, the same pair of the same prompt is one question in either order.

    Args:
        config: file, page and number of people.
    """

    antisymmetric = True

    def __init__(self, config: HumanConfig) -> None:
        self.config = config
        self._path = None if config.file is None else Path(config.file).expanduser().absolute()
        self._owner: str | None = None
        self._store: VerdictStore | None = None
        self._server: PageServer | None = None
        self._stopped: Callable[[], bool] = lambda: False
        self._printed: tuple[int, float] = (0, 0.0)

    @property
    def description(self) -> str:
        """Who judges, for the first line of a run."""
        people = "one person" if self.config.people == 1 else f"{self.config.people} persons"
        return f"{people} for each pair, verdicts in {self._path or FILE}"

    @property
    def store(self) -> VerdictStore:
        """The questions and verdicts.

        Raises:
            ValueError: if no file is named, or it holds something else.
            OSError: if it can't be opened or another process holds it.
        """
        if self._store is None:
            if self._path is None:
                raise ValueError("oracle 'human' keeps verdicts in a file: pass --oracle.file FILE")
            store = VerdictStore(self._path, self.config.people, self.config.patience)
            if self._owner is not None:
                try:
                    store.claim(self._owner)
                except ValueError:
                    store.close()
                    raise
            self._store = store
        return self._store

    def keep_in(self, directory: Path, owner: str) -> None:
        """Names the directory of the file, unless one was named, and what asks the questions."""
        self._path = self._path or directory / FILE
        self._owner = owner

    def start(self, stopped: Callable[[], bool] = lambda: False, planned: int | None = None) -> None:
        """Serves the page and prints its address.

        Args:
            stopped: asked often, while people judge, whether to wait no longer.
            planned: pairs that will be asked at most; None: not known.

        Raises:
            OSError: if the port can't be had.
        """
        from oracles.human.verdict_server import PageServer

        self._stopped = stopped
        verdicts = None if planned is None else planned * self.config.people
        self._server = PageServer(self.store, self.config.host, self.config.port, verdicts)
        print(f"page:  {self._server.address}", flush=True)

    def close(self) -> None:
        """Ends the page and closes the file; the next question opens them again."""
        if self._server is not None:
            self._server.close()
        if self._store is not None:
            self._store.close()
        self._server = self._store = None

    def prob(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> Tensor:
        """Returns P(first beats second | prompt), [N] float64, as soon as people have judged all pairs.

        Raises:
            Unanswered: if the run was stopped before.
            ValueError, OSError: if the file or the page can't be had.
        """
        pairs = list(zip(prompts, first, second, strict=True))
        different = [i for i, (_, a, b) in enumerate(pairs) if a != b]
        prob = torch.full((len(pairs),), 0.5, dtype=torch.float64)
        if not different:
            return prob
        questions = self.store.ask([pairs[i] for i in different])
        if self.store.missing() and self._server is None:
            self.start(self._stopped)
        self._printed = 0, monotonic()
        self.store.wait(self.config.grace, self._stopped, self._report)
        for i, question in zip(different, questions, strict=True):
            prob[i] = self.store.share(question, first[i])
        return prob

    def _report(self, missing: int) -> None:
        """Prints how many verdicts are missing, if that has changed for a while."""
        before, when = self._printed
        if missing > before or (0 < missing < before and monotonic() - when > _QUIET):
            print(f"people: {missing} {'verdict' if missing == 1 else 'verdicts'} left", flush=True)
            self._printed = missing, monotonic()
