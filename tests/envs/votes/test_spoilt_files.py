"""Files with anything in place of anything: they are read, or refused in one line that begins with the file."""

import json
import random

import pytest

from envs.votes.options import ReadOptions
from envs.votes.preferences import load_preferences, load_prompts
from envs.votes.vote_files import load_votes
from tests.envs.votes.layouts import LAYOUTS, NAMES

ROWS = {**LAYOUTS, **NAMES}
JUNK = [
    *(None, 7, -1.5, True, "", [], {}, "x", [1], [[]], [None], float("nan"), 1e300, "\ud800", "{}", '[{"role": 1}]'),
    {"role": "user"},
    [{"role": "assistant", "content": None}],
    [{"from": "gpt", "value": "x"}],
    {"answer": 1},
    {"a": {}},
    "\n\nHuman: a\n\nAssistant: b",
]


def spoilt(value, draw):
    if draw.random() < 0.15:
        return draw.choice(JUNK)
    if isinstance(value, dict):
        return {name: spoilt(inner, draw) for name, inner in value.items() if draw.random() < 0.97}
    return [spoilt(inner, draw) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize("read", [load_preferences, load_votes, load_prompts])
@pytest.mark.parametrize("layout", ROWS)
def test_a_spoilt_file_is_read_or_refused_in_one_line(layout, read, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw = random.Random(layout)
    for i in range(20):
        rows = [*ROWS[layout] * (i % 3 * 5), *(spoilt(row, draw) for row in ROWS[layout])]
        (tmp_path / "FILE").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        options = ReadOptions(format=layout.split()[0] if i % 2 else None, soft=i % 5 == 0, strict=i % 7 == 0)
        try:
            message = f"FILE {read('FILE', options)[1].used}"
        except ValueError as error:
            message = str(error)
        assert message.startswith("FILE")
        assert "\n" not in message
