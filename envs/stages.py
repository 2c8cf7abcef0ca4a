"""Several files of comparisons, played in turn as the stages of one run."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence

from envs.offline import FileArena
from preference_duel.types import Duel, Proposal


class StagedArena:
    """Plays one file's comparisons after another's; which one is next follows from the number of plays alone.

    sDPO learns so, its reference renewed as each file begins (Kim et al. 2024, arXiv:2403.19270).

    Args:
        arenas: of the files, in their order.
        plays: of each file before the next one begins; the last one is played as long as is asked.

    Raises:
        ValueError: if there is not one positive number for each but the last.
    """

    offline = True

    def __init__(self, arenas: Sequence[FileArena], plays: Sequence[int]) -> None:
        if len(plays) != len(arenas) - 1 or min(plays, default=1) < 1:
            raise ValueError(f"{len(arenas)} files need {len(arenas) - 1} positive numbers of plays, got {list(plays)}")
        self.arenas = list(arenas)
        self.starts = [0, *itertools.accumulate(plays)]
        self._plays = self._queries = 0

    def _current(self) -> FileArena:
        """Returns the file of the next play, moved to the place where it stands."""
        stage = bisect.bisect(self.starts, self._plays) - 1
        arena = self.arenas[stage]
        arena.load_state_dict({"plays": self._plays - self.starts[stage], "queries": self._queries})
        return arena

    @property
    def opens_stage(self) -> bool:
        """Whether the next play is the first of a file that is not the first."""
        return self._plays in self.starts[1:]

    @property
    def queries(self) -> int:
        """Comparisons that were played so far, of all files."""
        return self._queries

    @property
    def unread_share(self) -> None:
        """None: a file's verdicts are all there."""

    def reset(self) -> list[str]:
        """Returns the prompts of the next comparisons."""
        return self._current().reset()

    def play(self, proposal: Proposal | None = None) -> Duel:
        """Returns the next comparisons, one for each prompt; a proposal is ignored."""
        arena = self._current()
        duel = arena.play(proposal)
        self._plays, self._queries = self._plays + 1, arena.queries
        return duel

    def state_dict(self) -> dict[str, int | bool]:
        """Returns how much was played, in all."""
        return {"plays": self._plays, "queries": self._queries}

    def load_state_dict(self, state: dict[str, int | bool]) -> None:
        """Continues from `state_dict()`."""
        self._plays, self._queries = int(state["plays"]), int(state["queries"])
