"""People as an oracle: they judge on a page in the browser, and their verdicts are kept in a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import torch

from oracles.human.verdict_store import VerdictStore

if TYPE_CHECKING:
    from torch import Tensor

    from oracles.human.human_config import HumanConfig
    from oracles.human.verdict_server import PageServer

FILE = "verdicts.sqlite"
"""Name of the file in a run directory."""
_QUIET = 10.0
"""Seconds between lines about the verdicts that are missing."""


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
        """The people who judge, for the first line of a run."""
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
