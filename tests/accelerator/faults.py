"""Counts the faults that the checks on the pretend accelerator find: `python -m tests.accelerator.faults [--planted]`.

A fault is one call of the project without its `.to(device)`, its `.cpu()` or its `device=`. All such calls are listed
by file and line, and of the list every STEPth is tried, alone, in a process that reads the changed source in place of
the file; nothing is written. With `--planted` those of other kinds are tried that are written down here.
Without a fault the checks must pass, which is tried first.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.machinery import SourceFileLoader
from pathlib import Path

from tests.paths import ROOT

PACKAGES = "agents", "envs", "oracles", "preference_duel", "runners"
NOT_RUN = {
    "agents/policies/vllm_sampler": "needs vLLM",
    "agents/policies/sharding.py": "needs several processes",
    "preference_duel/distributed.py": "needs several processes",
    "agents/check.py": "is a test itself",
    "oracles/check.py": "is a test itself",
}
"""Files whose faults are not tried, and why."""
RUNS_TOO = {
    "self_play.py: torch.eye(left, dtype=prob.dtype, device=prob.device)": "a duel's verdicts are on the CPU",
    "enumeration.py: torch.arange(len(here.rows), device=device)": "an index may be on the host",
    "pair_lm.py: torch.arange(len(rows), device=device)": "an index may be on the host",
    "beam.py: after.cpu()": "states may be on either, and are moved where they are read",
    "beam.py: tokens.cpu()": "they may be on either: the host indexes them, and they are moved where they are read",
    "implicit.py: torch.zeros(len(rows), dtype=torch.float64, device=device).index_add_(0, row, logprobs).cpu()": (
        "a list is made of it"
    ),
    "implicit.py: torch.tensor([len(start) - 1 + t for start, rest in rows for t in range(len(rest))], "
    "device=device)": "an index may be on the host",
    "oracle.py: torch.cat([self._read([pairs[i] for i in rows]) for rows in batches]).cpu()": "a list is made of it",
    "network.py: loss.detach().cpu()": "the number is not used",
    "local_judge.py: torch.tensor([[self._ends[0]] * (width - len(row)) + row for row in rows], device=device)": (
        "transformers' generate moves its input"
    ),
    "learner.py: total.cpu()": "a number is made of it",
    "policy_gradient.py: loss.detach().cpu()": "a number is made of it",
    "rollout.py: one.logprob(duel.prompts, duel.left).cpu()": "the scalars move it",
    "lower_bounds.py: torch.arange(len(wins), device=wins.device)": "an index may be on the host",
    "duels_torch.py: torch.arange(size, device=self.device)": "an index may be on the host",
    "attention.py: torch.arange(length, device=index.device)": "an index may be on the host",
    "network.py: torch.arange(len(ids), device=ids.device)": "an index may be on the host",
    "published_gpm.py: torch.tensor([end for _, end in inputs], device=device)": "an index may be on the host",
    "published_gpm.py: torch.arange(len(inputs), device=device)": "an index may be on the host",
    "implicit.py: torch.tensor([*start, *rest[:-1]], device=device)": "it is copied into rows on the device",
    "token_credit.py: ratio[:, 0].double().cpu()": "a list is made of it",
    "checkpoint.py: tensor.detach().cpu()": "safetensors moves it",
    "checkpoint.py: value.detach().cpu()": "safetensors moves it",
    "rankings.py: require_distribution('policies', policies, payoff).to(payoff.device)": "it is there already",
    "regularised_nash.py: require_distribution('ref', ref, matrix, positive=True).log().to(matrix.device)": (
        "it is there already"
    ),
    "arena.py: weight.detach().cpu()": "it is moved to the verdicts",
    "intransitivity.py: require_distribution('weights', weights, payoff).to(payoff.device)": "it is there already",
    "table.py: prob.detach().double().cpu()": "a table is on the CPU",
    "table.py: table.build(prompts=prompts, responses=responses, device=device)": "a table is on the CPU",
}
"""Calls, by file and text, without which CUDA gives the same results, and why: no faults."""
RELATED = {
    "agents/losses/lists.py": ("check_runs.py", "plackett"),
    "agents/policies/beam.py": ("check_parts.py", "beam"),
    "agents/policies/lm/decoder.py": ("check_parts.py", "replayed or mixture"),
    "agents/policies/mixtures.py": ("check_parts.py", "mixture"),
    "agents/policies/selected.py": ("check_parts.py", "selection"),
    "agents/registry.py": ("check_parts.py", "mixture"),
    "agents/sppo_release.py": ("check_runs.py", "best"),
    "agents/sb3": ("check_runs.py", "maskable or dqn or a2c"),
    "agents/preference_models": ("check_runs.py", "oelhf or rlhf"),
    "agents/learning": ("check_runs.py", "sppo or oelhf or value or simpo"),
    "agents": ("check_runs.py", "nash_md or adapters or file or truncated or listed or exact or windows"),
    "runners/run": ("check_runs.py", "nash_md or against or table or pairrm"),
    "runners/fitting": ("check_parts.py", "fit"),
    "runners": ("check_parts.py", "command or fit"),
    "envs/token_duel/sb3_opponent.py": ("check_runs.py", "maskable or dqn"),
    "envs": ("check_parts.py", "measure or duels"),
    "oracles/pairrm/attention.py": ("check_costs.py", "batch"),
    "oracles/judging": ("check_parts.py", "that_writes"),
    "oracles": ("check_parts.py", "oracle"),
    "preference_duel/protocols.py": ("check_runs.py", "a2c"),
    "preference_duel": ("check_parts.py", "duels"),
}
"""The checks that a fault is tried on, by the beginning of its file; the first that fits. A file from which an agent is
registered is tried on the agent's runs."""


LM, TEXT = "agents/policies/lm", "check_runs.py"
COSTS = "check_costs.py"
PLANTED = (
    ("preference_duel/transfer.py", "tensor.to(device, non_blocking=True)", "tensor.to(device)", COSTS, ""),
    ("preference_duel/keyed_random_torch.py", "torch.zeros_like(total)", "torch.zeros(total.shape)", TEXT, "xpo"),
    (f"{LM}/generation.py", ".get(uniforms.device.type, 8)", ".get(uniforms.device.type, 1)", COSTS, "token"),
    (f"{LM}/generation.py", "torch.full_like(rows, constraints.first)", "torch.full((len(rows),), 0)", TEXT, "xpo"),
    (f"{LM}/constraints.py", "if device not in self._masks:", "if True:", COSTS, "token"),
    (f"{LM}/constraints.py", "([legal, ends], device)", "([legal, ends], ends.device)", TEXT, "xpo"),
    (f"{LM}/decoder.py", "(self._mask > 0)[:, None, None]", "self._mask[:, None, None]", TEXT, "xpo"),
    (f"{LM}/decoder.py", "True, True, wide_mask, size)", "True, True, False, size)", COSTS, "padded"),
    (f"{LM}/decoder.py", "rows], model.device)", "rows], rows.device)", TEXT, "xpo"),
    (f"{LM}/kv_cache.py", "0, beam_idx, out=", "0, beam_idx.cpu(), out=", TEXT, "xpo"),
    (f"{LM}/scoring.py", "states], device)", "states], ids.device)", TEXT, "xpo"),
    (f"{LM}/scoring.py", "rows[written], states], device)", "rows[written].to(device), states], device)", TEXT, "xpo"),
    (f"{LM}/scoring.py", "with torch.autocast(texts.ids.device.type,", 'with torch.autocast("cpu",', TEXT, "bfloat16"),
    (f"{LM}/fused_logprob.py", "device = hidden.device.type", 'device = "cpu"', "check_parts.py", "bfloat16"),
    (f"{LM}/copies.py", "parameter.detach().to(dtype).to(device)", "parameter.detach().to(dtype)", TEXT, "xpo"),
    (
        f"{LM}/copies.py",
        "    finally:\n        for parameter, guest in",
        "    finally:\n        for parameter, guest in () and",
        TEXT,
        "xpo",
    ),
    (f"{LM}/copies.py", "parameter.detach().to(dtype, copy=True)", "parameter.detach().to(dtype).cpu()", TEXT, "xpo"),
    (f"{LM}/hf_policy.py", "twin._home = self.device", "pass", TEXT, "xpo"),
    (f"{LM}/hf_policy.py", "self._home = self.device if self._is_large else None", "pass", TEXT, "inpo"),
    (f"{LM}/hf_policy.py", "copies.separate(self.model, rests=self._home is not None)", "pass", TEXT, "rests"),
    (f"{LM}/hidden_states.py", "model.base_model).float()", "model.base_model)", TEXT, "rlhf and base"),
    (f"{LM}/hidden_states.py", "index], layers.device)", "index], ids.device)", TEXT, "rlhf"),
    (f"{LM}/response_trie.py", "if device not in self._tables:", "if False:", TEXT, "listed"),
    (f"{LM}/lora.py", "parameter.data = parameter.data.float()", "pass", TEXT, "base"),
    (
        "agents/learning/learner.py",
        "total = total + mean.detach()",
        "total = total + mean.detach().cpu()",
        COSTS,
        "pass",
    ),
    (
        "agents/learning/batch.py",
        "rows = to_device(torch.tensor(part), device)",
        "rows = torch.tensor(part)",
        COSTS,
        "pass",
    ),
    (
        "agents/learning/batch.py",
        "to_device(value.to(other.dtype), other.device)",
        "value.to(other.dtype)",
        TEXT,
        "xpo",
    ),
    ("agents/learning/critic.py", "self.to(policy.device)", "pass", TEXT, "value"),
    ("agents/preference_models/network.py", "self.to(policy.device)", "pass", TEXT, "rlhf"),
    (
        "oracles/pairrm/attention.py",
        "encoder.max_relative_positions, ids.device)",
        'encoder.max_relative_positions, torch.device("cpu"))',
        COSTS,
        "batch",
    ),
    (
        "oracles/pairrm/oracle.py",
        "self.network.device)).float()",
        "self.network.device)).float().cpu()",
        COSTS,
        "batch",
    ),
)
"""Faults of other kinds in what loops over tokens, passes and batches: wrong places and dtypes, needless waits and
copies. Each is a file, a text that is there once, what it becomes, and the file and names of its checks."""


@dataclass(frozen=True)
class Fault:
    """One change of one file."""

    path: Path
    line: int
    was: str
    becomes: str
    source: bytes
    checks: tuple[str, str] | None = None
    """File of the checks and which of them may find it; None: those related to the file."""

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}  {self.was}  ->  {self.becomes}"


def faults_of(path: Path) -> Iterator[Fault]:
    """Yields the faults of a file, in the order of lines."""
    source = path.read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    for call in sorted(calls, key=lambda node: (node.lineno, node.col_offset)):
        changed = without_placement(call)
        if changed is not None:
            assert call.end_lineno is not None
            assert call.end_col_offset is not None
            start = starts[call.lineno - 1] + call.col_offset
            end = starts[call.end_lineno - 1] + call.end_col_offset
            becomes = ast.unparse(changed)
            planted = source[:start] + f"({becomes})".encode() + source[end:]
            yield Fault(path, call.lineno, ast.unparse(call), becomes, planted)


def without_placement(call: ast.Call) -> ast.expr | None:
    """Returns a call without what places its result; None if nothing does."""
    method = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    if isinstance(call.func, ast.Attribute) and not call.keywords:
        moves = method == "to" and len(call.args) == 1 and "device" in ast.unparse(call.args[0])
        if moves or (method == "cpu" and not call.args):
            return call.func.value
    if any(word.arg == "device" for word in call.keywords):
        changed = copy.deepcopy(call)
        changed.keywords = [word for word in changed.keywords if word.arg != "device"]
        return changed
    return None


def all_faults() -> list[Fault]:
    """Returns the faults of all files that the checks can run."""
    paths = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    tried = [path for path in paths if not str(path.relative_to(ROOT)).startswith(tuple(NOT_RUN))]
    return [fault for path in tried for fault in faults_of(path)]


def planted_faults() -> list[Fault]:
    """Returns the faults that are written down.

    Raises:
        ValueError: if a text is not in its file exactly once.
    """
    faults = []
    for name, was, becomes, file, words in PLANTED:
        source = (ROOT / name).read_text(encoding="utf-8")
        if source.count(was) != 1:
            raise ValueError(f"{was!r} is {source.count(was)} times in {name}, expected once; bring PLANTED up to date")
        line = source[: source.index(was)].count("\n") + 1
        planted = source.replace(was, becomes).encode()
        faults.append(
            Fault(ROOT / name, line, " ".join(was.split()), " ".join(becomes.split()), planted, (file, words))
        )
    return faults


def related(name: str) -> tuple[str, str]:
    """Returns the file of the checks that a fault of a file is tried on, and their names for pytest's -k."""
    agent, module = Path(name).stem, name.removesuffix(".py").replace("/", ".")
    registry = (ROOT / "agents/registry.py").read_text(encoding="utf-8")  # imported, it could not have a fault any more
    if f'"{agent}": "{module}:' in registry:
        return "check_runs.py", f"[{agent}"
    return next(checks for start, checks in RELATED.items() if name.startswith(start))


def is_found(fault: Fault) -> bool:
    """Returns whether one of the checks related to a fault fails with it; without it all must pass.

    Raises:
        RuntimeError: if they could not be run, or one fails without a fault.
    """
    checks = fault.checks or related(str(fault.path.relative_to(ROOT)))
    _require_passing(*checks)
    return _fails(*checks, fault)


@cache
def _require_passing(file: str, words: str) -> None:
    if _fails(file, words, None):
        raise RuntimeError(f"{file} -k '{words}' fails without a fault, and so would find any; mend the check first")


def _fails(file: str, words: str, fault: Fault | None) -> bool:
    """Runs checks in a process that has the fault."""
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        os._exit(_checked(fault, [*(["-k", words] if words else []), f"tests/accelerator/{file}"]))
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code not in (0, 1):
        raise RuntimeError(f"{file} -k '{words}' ended with {code} at {fault}; expected 0 (passed) or 1 (failed)")
    return code == 1


def _checked(fault: Fault | None, arguments: list[str]) -> int:
    import pytest

    compiled = SourceFileLoader.get_code

    def get_code(self: SourceFileLoader, fullname: str):
        if fault is not None and self.path == str(fault.path):
            return compile(fault.source, self.path, "exec", dont_inherit=True)
        return compiled(self, fullname)

    SourceFileLoader.get_code = get_code  # pyright: ignore[reportAttributeAccessIssue]
    return pytest.main(["-x", "-n", "0", "-p", "no:cacheprovider", "-m", "slow or not slow", *arguments])


def main() -> int:
    """Tries the faults and prints the count."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--step", type=int, default=10, help="try every so many-th fault, >= 1; 1: all")
    parser.add_argument("--offset", type=int, default=0, help="begin with this one, from 0: other faults for each")
    parser.add_argument("--planted", action="store_true", help="try those that are written down, all of them")
    parser.add_argument("--list", action="store_true", help="only list them")
    options = parser.parse_args()
    everything = planted_faults() if options.planted else all_faults()
    chosen = everything[options.offset :: 1 if options.planted else options.step]
    print(f"{len(everything)} faults, of which {len(chosen)} are tried", flush=True)
    if options.list:
        print(*chosen, sep="\n")
        return 0
    import torch  # noqa: F401 - once, for all processes
    import transformers.models.llama.modeling_llama  # noqa: F401

    import tests.accelerator.device  # noqa: F401 - before the project is imported

    results: Counter[str] = Counter()
    for fault in chosen:
        reason = RUNS_TOO.get(f"{fault.path.name}: {fault.was}")
        result = "harmless" if reason else "found" if is_found(fault) else "MISSED"
        results[result] += 1
        print(f"{result:8} {fault}{f'  ({reason})' if reason else ''}", flush=True)
    found, missed, harmless = (results[name] for name in ("found", "MISSED", "harmless"))
    print(f"found {found} of {found + missed}; {harmless} more run on CUDA too")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
