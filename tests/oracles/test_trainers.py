"""The recipes of docs/trainers.md run, and the adapters keep the protocols of the trainers."""

import pytest

from tests.documents import blocks
from tests.paths import DOCS

RECIPES = blocks((DOCS / "trainers.md").read_text(encoding="utf-8"), "python")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", range(len(RECIPES)))
def test_every_recipe_runs(recipe, capsys):
    exec(compile(RECIPES[recipe], f"recipe {recipe} of docs/trainers.md", "exec"), {})
    assert capsys.readouterr().out
