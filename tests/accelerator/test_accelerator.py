"""The project on a pretend accelerator, in a process of its own: the device can't be taken back."""

import os
import subprocess
import sys

import pytest

from tests.accelerator.faults import PLANTED, planted_faults
from tests.paths import ROOT

PLUGIN = "tests.accelerator.device"  # imported before the project, whose decorators it changes


def require_passing(marks, *checks):
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", PLUGIN, "-m", marks, "--timeout", "1500"]
    command += [f"tests/accelerator/{check}" for check in checks]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:]
    assert " passed" in done.stdout


def test_every_planted_fault_is_in_the_code_as_it_is_now():
    assert len(planted_faults()) == len(PLANTED)  # raises if a text is not in its file once


@pytest.mark.slow
def test_a_run_on_the_device_is_that_of_the_cpu():
    require_passing("not slow", "check_runs.py")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_agent_and_oracle_on_the_device_is_that_of_the_cpu():
    require_passing("slow", "check_runs.py", "check_parts.py", "check_costs.py")
