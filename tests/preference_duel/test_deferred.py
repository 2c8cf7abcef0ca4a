import importlib
import json
import subprocess
import sys

import pytest

from preference_duel.deferred import deferred

PROGRAM = """
import json, sys
from preference_duel.deferred import deferred

library, part = {names}
with deferred(library):
    {statement}
    early = part in sys.modules
before = library in sys.modules
value = {use}
now = __import__(library)
print(json.dumps([early, before, value, now is sys.modules[library]]))
"""


@pytest.mark.parametrize(
    ("names", "statement", "use", "early"),
    [
        pytest.param(
            ("torch", "torch.nn"),
            "import torch",
            "isinstance(torch.ones(1), torch.Tensor) and torch.ones(1).item()",
            False,
            marks=pytest.mark.slow,
        ),
        (("xml", "xml.dom"), "import xml", "len(xml.__name__)", False),
        (("xml", "xml.dom"), "from xml import dom", "dom.Node.ATTRIBUTE_NODE - 1", True),
        (("xml", "xml.dom"), "from xml.dom import Node", "Node.TEXT_NODE", True),
    ],
)
def test_a_deferred_library_is_imported_when_it_is_used(names, statement, use, early):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(names=names, statement=statement, use=use)],
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
