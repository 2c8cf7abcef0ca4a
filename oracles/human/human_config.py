"""Settings of people as an oracle, which import neither torch nor the server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

from preference_duel.checks import at_least, positive, require, within

if TYPE_CHECKING:
    from oracles.human.human_oracle import HumanOracle


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
        from preference_duel import distributed

        del prompts, responses, device
        require(self, people=at_least(1), port=within("[0, 65535]"), grace=at_least(0), patience=positive)
        if missing := [name for name in ("starlette", "uvicorn") if find_spec(name) is None]:
            raise ValueError(f"oracle 'human' needs {' and '.join(missing)}: pip install 'preference-duel[human]'")
        if distributed.count() > 1:
            raise ValueError("oracle 'human' serves one page, and there are several processes; start the run as one")
        from oracles.human.human_oracle import HumanOracle

        return HumanOracle(self)
