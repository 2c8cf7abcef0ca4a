"""Names find what they stand for, and say what they might have meant."""

import sys
import textwrap

import pytest

from preference_duel.names import UnknownNameError, configure, find, nearest

TABLE = {"cyclic": "oracles.cyclic:CyclicConfig", "table": "oracles.table:TableConfig"}


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes modules into the working directory, and forgets them afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)

    def module(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))

    yield module
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_built_in_name_finds_its_class():
    assert find("oracle", "cyclic", TABLE).__name__ == "CyclicConfig"


@pytest.mark.parametrize(
    ("typed", "meant"), [("cylic", "cyclic"), ("tabel", "table"), ("CYCLIC", "cyclic"), ("cyclic_", "cyclic")]
)
def test_a_mistyped_name_suggests_the_nearest(typed, meant):
    with pytest.raises(UnknownNameError, match=f"unknown oracle '{typed}'; did you mean '{meant}'\\? Known: cyclic, t"):
        find("oracle", typed, TABLE)


def test_a_name_like_no_other_lists_what_there_is():
    assert nearest("qqqqqq", TABLE) == ""
    with pytest.raises(UnknownNameError, match=r"'qqqqqq'\. Known: cyclic, table, or your own as 'module:Config'\."):
        find("oracle", "qqqqqq", TABLE)


@pytest.mark.parametrize("name", ["", ":", ":Config", "module:", ".relative:Config"])
def test_half_a_path_is_an_unknown_name(name):
    with pytest.raises(UnknownNameError, match="unknown oracle"):
        find("oracle", name, TABLE)


def test_a_module_beside_the_working_directory_is_found(write):
    write("lab_one/__init__.py", "")
    write("lab_one/judges.py", "class Config: pass")
    assert find("oracle", "lab_one.judges:Config", TABLE).__module__ == "lab_one.judges"


def test_a_module_written_a_moment_ago_is_found(write):
    with pytest.raises(UnknownNameError, match="no module 'lab_late' in the working directory or among the installed"):
        find("oracle", "lab_late:Config", TABLE)
    write("lab_late.py", "class Config: pass")
    assert find("oracle", "lab_late:Config", TABLE).__module__ == "lab_late"


def test_a_missing_module_is_named(write):
    write("lab_two/__init__.py", "")
    with pytest.raises(UnknownNameError, match=r"no module 'lab_two\.judge' in the working directory"):
        find("oracle", "lab_two.judge:Config", TABLE)


def test_a_missing_import_inside_the_users_module_is_their_own_error(write):
    write("lab_three.py", "import a_library_that_is_missing")
    with pytest.raises(ModuleNotFoundError, match="a_library_that_is_missing"):
        find("oracle", "lab_three:Config", TABLE)


def test_a_users_module_that_raises_keeps_its_traceback(write):
    write("lab_four.py", "raise ZeroDivisionError('mine')")
    with pytest.raises(ZeroDivisionError, match="mine"):
        find("oracle", "lab_four:Config", TABLE)


def test_a_missing_attribute_suggests_the_nearest(write):
    write("lab_five.py", "class JudgeConfig: pass")
    with pytest.raises(UnknownNameError, match="has no 'JudgeConfg'; did you mean 'JudgeConfig'"):
        find("oracle", "lab_five:JudgeConfg", TABLE)


def test_an_installed_module_is_not_shadowed_by_the_working_directory(write, monkeypatch):
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    write("colorsys.py", "raise AssertionError('shadowed')")
    assert find("oracle", "colorsys:rgb_to_hsv", TABLE)(1.0, 1.0, 1.0) == (0.0, 0.0, 1.0)


def test_fields_fill_the_configuration_and_a_wrong_one_suggests_the_nearest():
    assert configure("oracle", "cyclic", TABLE, {"lam": 0.25}).lam == 0.25
    with pytest.raises(
        UnknownNameError, match="'cyclic' has no field 'scala'; did you mean 'scale'\\? Fields: lam, sc"
    ):
        configure("oracle", "cyclic", TABLE, {"scala": 1.0})


def test_what_is_no_configuration_is_refused(write):
    write("lab_six.py", "class Config: pass\ninstance = 3")
    for attribute in ("Config", "instance"):
        with pytest.raises(TypeError, match=r"must be a dataclass with a build\(\) method"):
            configure("oracle", f"lab_six:{attribute}", TABLE, {})
