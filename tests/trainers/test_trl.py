"""TRL: its GRPOTrainer learns from duels, its trainers are measured beside ours (needs trl)."""

import json
import re

import pytest

from benchmarks import step, trl_grpo

pytestmark = [pytest.mark.trainers, pytest.mark.timeout(1800)]


def test_grpo_wins_more_against_its_start_on_held_out_prompts(capsys):
    assert trl_grpo.main([]) == 0
    rates = re.findall(r"win rate (\S+) \[(\S+), (\S+)\]", capsys.readouterr().out)
    before, after = ([float(number) for number in rate] for rate in rates)
    assert before[1] < 0.5 < before[2]
    assert after[1] > before[2]


@pytest.mark.parametrize("peer", ["online_dpo", "grpo"])
def test_a_step_is_measured_beside_trls(monkeypatch, capsys, tmp_path, peer):
    small = "--prompts 3 --prompt-tokens 4 --new-tokens 5 --steps 2 --threads 1 --processor-time --json"
    monkeypatch.setattr("sys.argv", ["step", "--peer", peer, *small.split(), str(tmp_path / "out.json")])
    step.main()
    assert "ours / TRL: " in capsys.readouterr().out
    found = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["steps"]
    assert all(len(found[who]) == 2 + step.WARM for who in ("ours", "TRL"))
    assert all(one[phase] > 0 for steps in found.values() for one in steps for phase in ("sample", "learn"))
