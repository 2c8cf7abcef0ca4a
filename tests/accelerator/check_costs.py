"""Bounds of what inner loops cost on the pretend accelerator; `test_accelerator.py` starts this file."""

import pytest

from tests.accelerator.costs import LOOPS, cost

pytestmark = pytest.mark.slow
MOST = {"token": (1 / 8, 0), "padded": (1 / 8, 0), "pass": (2.25, 3.25), "step": (7, 7), "batch": (0, 1)}
"""Waits and copies up of one repetition. Of the waits of a pass, 1.25 are in transformers, which looks for packed
texts, and one finds a log-ratio that is not finite before weights move; the quarters are the passes of the start, which
are of four times as many tokens."""


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_waits_and_copies_no_more_than_it_must(name, tmp_path):
    found = cost(LOOPS[name], tmp_path)
    waits, copies = MOST[name]
    assert sum(found.waits.values()) <= waits, found.waits
    assert sum(found.copies.values()) <= copies, found.copies
    assert sum(found.launches.values()) > 50
