"""No circle of imports, and folders that can be taken in at a glance."""

from collections import Counter

import grimp
import pytest

from tests.paths import ROOT

PACKAGES = "runners", "agents", "envs", "oracles", "preference_duel"


def imported_on_load(graph, name):
    """The modules that a module imports when it is loaded.

    Neither imports inside functions, which run when both modules are there, nor those for annotations alone.
    """
    path = ROOT / name.replace(".", "/")
    lines = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8").split("\n")
    found = graph.find_modules_directly_imported_by(name)
    places = {other: graph.get_import_details(importer=name, imported=other) for other in found}
    return {other for other in found if any(not lines[one["line_number"] - 1].startswith(" ") for one in places[other])}


def test_no_module_imports_itself_in_a_circle():
    """Peels off modules that import nothing of what is left; a circle can't be peeled.

    The build() of settings imports what it builds, and that module the settings: no circle, as build() runs later.
    """
    graph = grimp.build_graph(*PACKAGES)
    left = {name: imported_on_load(graph, name) for name in graph.modules}
    assert sum(map(len, left.values())) > 500
    while done := [name for name, imported in left.items() if not imported & left.keys()]:
        for name in done:
            del left[name]
    assert sorted(left) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_folders_are_small_and_file_names_unique(package):
    modules = [path for path in (ROOT / package).rglob("*.py") if path.name != "__init__.py"]
    assert max(Counter(path.parent for path in modules).values()) <= 16
    assert [name for name, count in Counter(path.name for path in modules).items() if count > 1] == []
