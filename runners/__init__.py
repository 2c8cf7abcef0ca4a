"""Commands: `python -m runners.duel`, `evaluate`, `collect`, `label`, `bench`, `report`, `plot`, `push` and others."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path


def shadow(root: Path = Path(__file__).parents[1]) -> str | None:
    """Returns a message that names what hides one of our packages; None if nothing does.

    Args:
        root: the folder that holds our packages.
    """
    for name in ("agents", "envs", "oracles", "preference_duel"):
        spec = find_spec(name)
        origin = None if spec is None or spec.origin is None else Path(spec.origin).resolve()
        if origin != (root / name / "__init__.py").resolve():
            places = [] if spec is None else [str(origin)] if origin else list(spec.submodule_search_locations or ())
            return (
                f"'{name}' of preference-duel ({root / name}) is hidden by {', '.join(places) or 'nothing'}; "
                f"run from another folder, rename that package, or install preference-duel in its own environment"
            )
    return None


if _message := shadow():
    if sys.argv[:1] == ["-m"]:  # a command is being started: its user wants the sentence, not a traceback
        raise SystemExit(f"error: {_message}")
    raise ImportError(_message)
