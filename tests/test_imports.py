"""No circle of imports, and folders that can be taken in at a glance."""

from collections import Counter

import grimp
import pytest

from tests.paths import ROOT

PACKAGES = "runners", "agents", "envs", "oracles", "preference_duel"


def test_no_module_imports_itself_in_a_circle():
    """Peels off modules that import nothing of what is left; a circle can't be peeled."""
    graph = grimp.build_graph(*PACKAGES)
    left = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    while done := [name for name, imported in left.items() if not imported & left.keys()]:
        for name in done:
            del left[name]
    assert sorted(left) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_folders_are_small_and_file_names_unique(package):
    modules = [path for path in (ROOT / package).rglob("*.py") if path.name != "__init__.py"]
    assert max(Counter(path.parent for path in modules).values()) <= 16
    assert [name for name, count in Counter(path.name for path in modules).items() if count > 1] == []
