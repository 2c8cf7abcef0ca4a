"""`python -m runners.serve --oracle NAME`: answers other trainers over HTTP with verdicts and group rewards."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from oracles.registry import require_oracle
from runners.run.cli import exit_code

if TYPE_CHECKING:
    from oracles import Oracle

NEEDS = "starlette", "uvicorn", "msgpack"
ONEDNN_SHAPES = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
"""Environment variable of the number of shapes whose kernels oneDNN, torch's library on the CPU, keeps (1,024)."""
TOKEN = "DUEL_TOKEN"
"""Environment variable of the secret that requests must bring."""
SCHEDULES = "all_pairs", "circular", "chunks", "anchor", "swiss"
AGGREGATES = "win_rate", "scores", "bt"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line; returns 130 after Ctrl-C, 1 after an error and 2 after an unknown name, in one line."""
    options = _parser().parse_args(arguments)
    return exit_code(lambda: _serve(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m runners.serve",
        description="Answers other trainers over HTTP with verdicts and group rewards of any oracle (docs/serve.md): "
        "POST /prob, /get_reward (OpenRLHF), /compare and /verify (NeMo-Gym), /get_feedback (oat); GET /metrics.",
    )
    add = parser.add_argument
    add("--oracle", required=True, metavar="NAME[,FIELD=VALUE...]", help="such as pairrm or bt,seed=1")
    add("--task", help="task whose prompts and responses a finite oracle such as cyclic needs")
    add("--group_size", type=int, metavar="K", help="completions of a prompt that make a group")
    add("--schedule", choices=SCHEDULES, default="all_pairs", help="which of a group meet (default: all_pairs)")
    add("--aggregate", choices=AGGREGATES, default="win_rate", help="what a comparison is worth (default: win_rate)")
    add("--wait", type=float, default=120.0, help="seconds until a group that is not whole is answered 503 (120)")
    add("--retry", type=float, default=10.0, help="seconds for which a completion is kept for a retry (10)")
    add("--batch_size", type=int, default=256, help="completions that are asked about together at most (256)")
    add("--end", nargs="*", default=(), metavar="TEXT", help="where OpenRLHF's responses end, such as '<|im_end|>'")
    add("--host", default="127.0.0.1", help=f"interface; 0.0.0.0: all, with a token, from {TOKEN} or drawn")
    add("--port", type=int, default=5000, help="port; 0: any that is free (default: 5000)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where networks run")
    return parser


def keep_no_shapes() -> None:
    """Lets oneDNN keep no kernels, unless the user says how many; works until its first use.

    Hardly two batches of a server have one shape, so that kept kernels are of no use, and they lie between the large
    buffers that torch returns to the heap: the heap could not return these to the system, and grew.
    """
    os.environ.setdefault(ONEDNN_SHAPES, "0")


def _serve(options: argparse.Namespace) -> int:
    """Serves until Ctrl-C."""
    keep_no_shapes()
    require_oracle(options.oracle.partition(",")[0])
    if missing := [name for name in NEEDS if find_spec(name) is None]:
        raise ValueError(f"runners.serve needs {' and '.join(missing)}: pip install 'preference-duel[serve]'")
    from oracles.human.listener import LOOPBACK
    from oracles.serving.batches import Reduction  # torch takes more than a second
    from oracles.serving.reward_server import RewardServer, ServerSettings
    from preference_duel.protocols import DescribedOracle

    settings = ServerSettings(
        group_size=options.group_size,
        reduction=Reduction(options.schedule, options.aggregate),
        wait=options.wait,
        retry=options.retry,
        batch_size=options.batch_size,
        ends=tuple(options.end),
    )
    oracle = _oracle(options.oracle, options.task, options.device)
    token = os.environ.get(TOKEN, "")
    if not token and options.host not in LOOPBACK:
        token = secrets.token_urlsafe(16)
    print(f"judge:   {oracle.description if isinstance(oracle, DescribedOracle) else options.oracle}")
    server = RewardServer(oracle, settings, token)
    server.run(options.host, options.port, lambda address: print(f"address: {address}", flush=True))
    return 0


def _oracle(text: str, task: str | None, device: str) -> Oracle:
    from runners.evaluation.judges import judge_config, read_judge
    from runners.run.build import choose_device
    from runners.run.config import config_class

    if text.partition(",")[0].partition("+")[0] == "human":
        raise ValueError("people answer on their page, for --oracle human of a run and python -m runners.collect")
    if task is None:
        return judge_config(text)[1].build(prompts=None, responses=None, device=choose_device(device))
    kind, fields = config_class("task", task)
    return read_judge(text, kind(**fields).build(tokenizer=None), choose_device(device)).oracle


if __name__ == "__main__":
    sys.exit(main())
