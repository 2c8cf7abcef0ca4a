"""TRL's GRPOTrainer learns from duels (needs trl)."""

import re

import pytest

from benchmarks import trl_grpo

pytestmark = [pytest.mark.trainers, pytest.mark.timeout(1800)]


def test_grpo_wins_more_against_its_start_on_held_out_prompts(capsys):
    assert trl_grpo.main([]) == 0
    rates = re.findall(r"win rate (\S+) \[(\S+), (\S+)\]", capsys.readouterr().out)
    before, after = ([float(number) for number in rate] for rate in rates)
    assert before[1] < 0.5 < before[2]
    assert after[1] > before[2]
