import importlib
import json
import subprocess
import sys

import pytest

from preference_duel.deferred import deferred

PROGRAM = """
import json, sys
from preference_duel.deferred import deferred

with deferred("torch"):
    {statement}
    early = "torch.nn" in sys.modules
before = "torch" in sys.modules
value = {use}
import torch as now
print(json.dumps([early, before, value, now is sys.modules["torch"]]))
"""


@pytest.mark.parametrize(
    ("statement", "use", "early"),
    [
        ("import torch", "torch.tensor([1.0, 2.0]).sum().item()", False),
        ("import torch", "isinstance(torch.zeros(1), torch.Tensor) and torch.zeros(1).numel()", False),
        ("from torch import nn", "nn.Linear(3, 1).in_features", True),
        ("from torch.nn.functional import relu", "relu.__name__ == 'relu' and 3", True),
    ],
)
def test_a_deferred_library_is_imported_when_it_is_used(statement, use, early):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(statement=statement, use=use)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    was_early, before, value, same = json.loads(done.stdout)
    assert (was_early, before, same) == (early, early, True)
    assert value in (1, 3)


def test_an_imported_library_stays_as_it_is():
    with deferred("json"):
        assert sys.modules["json"] is json
    assert sys.modules["json"] is json


def test_a_missing_library_is_reported_when_it_is_used():
    with deferred("no_such_library"):
        no_such_library = importlib.import_module("no_such_library")
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        _ = no_such_library.anything
