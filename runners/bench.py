"""`python -m runners.bench --suite quick`: every agent against every oracle, with honest statistics."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preference_duel.names import UnknownNameError, nearest
from runners.benchmark.suites import BUILT_IN, TRIALS, VARIANTS, Cell, Suite, find_suite, require_suite
from runners.run.cli import exit_code
from runners.run.config import require_name

if TYPE_CHECKING:
    from runners.benchmark.executors import Engine


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line; returns the exit code, see `exit_code`; 1 also if a cell failed."""
    options = _parser().parse_args(arguments)

    def command() -> int:
        require_suite(options.suite)
        for agent in options.agent or ():
            if agent not in VARIANTS:
                require_name("agent", agent)
        with _engine(options) as engine:
            return _tune(options, engine) if options.tune else _bench(options, engine)

    return exit_code(command, "interrupted: finished cells are kept, call again to go on")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m runners.bench", description=(__doc__ or "").split(": ", 1)[1])
    parser.add_argument("--suite", default="quick", help=f"{', '.join(BUILT_IN)}, or a FILE.py (default: quick)")
    parser.add_argument("--agent", nargs="+", help="agents that play a built-in suite, beside its published results")
    parser.add_argument("--dir", type=Path, help="folder of the results, continued if it exists (default: bench/SUITE)")
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help="local processes, or a Ray cluster")
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, help="size of the pool of --engine local (default: cores)"
    )
    parser.add_argument("--ray.address", dest="address", help="address of a Ray cluster, or auto (default: a new one)")
    parser.add_argument("--cells", nargs="+", metavar="NAME", help="plays only these cells")
    parser.add_argument("--tune", action="store_true", help="tunes the agents' settings on held-out games of the suite")
    parser.add_argument("--trials", type=int, default=TRIALS, help=f"settings tried for each agent (default: {TRIALS})")
    settings = parser.add_mutually_exclusive_group()
    settings.add_argument("--tuned", type=Path, help="file written by --tune (default: the suite's published one)")
    settings.add_argument("--defaults", action="store_true", help="plays with the agents' default settings")
    return parser


def _engine(options: argparse.Namespace) -> Any:
    from runners.benchmark.executors import local, ray  # imports torch, which takes more than a second

    return ray(options.address) if options.engine == "ray" else local(options.processes)


def _tune(options: argparse.Namespace, engine: Engine) -> int:
    from runners.benchmark.tuning import by_default, tune

    suite = find_suite(options.suite, by_default)
    folder = options.dir or Path("bench") / f"{suite.name}-tuned"
    print(tune(suite, options.agent, folder, engine, options.trials))
    return 0


def _bench(options: argparse.Namespace, engine: Engine) -> int:
    from rich.console import Console

    from runners.benchmark.report.page import write
    from runners.benchmark.results import beside, gather, shipped, write_results
    from runners.benchmark.schedule import play
    from runners.benchmark.scores import show
    from runners.benchmark.tuning import by_default, settings_of, tuned_for

    if options.tuned is not None and not options.tuned.is_file():
        raise FileNotFoundError(f"the file of settings {options.tuned} does not exist")
    tuned = partial(settings_of, path=options.tuned or tuned_for(options.suite))
    suite = find_suite(options.suite, by_default if options.defaults else tuned, options.agent)
    others = None if options.agent is None else shipped(suite)
    folder = options.dir or Path("bench") / suite.name
    failed = play(suite.cells if options.cells is None else _named(suite, options.cells), folder, engine, suite.name)
    results = beside(gather(suite, folder), others)
    write_results(folder / "results.json", results)
    show(results, Console(width=None if sys.stdout.isatty() else 160))
    print(f"Results: {folder / 'results.json'}")
    for name in failed:
        print(f"failed:  {name}, see {folder / 'cells' / name / 'log.txt'}", file=sys.stderr)
    if results["cells"]:
        print(f"Report:  {write(results, folder / 'report')}")
    return 1 if failed else 0


def _named(suite: Suite, names: Sequence[str]) -> list[Cell]:
    known = {cell.name: cell for cell in suite.cells}
    for name in names:
        if name not in known:
            raise UnknownNameError(f"unknown cell '{name}'{nearest(name, known) or ''} of suite '{suite.name}'")
    return [known[name] for name in names]


if __name__ == "__main__":
    sys.exit(main())
