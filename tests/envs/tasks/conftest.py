"""Files of tasks in a working directory of their own."""

import json
from pathlib import Path

import pytest


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes FILE into the working directory; lists become lines of JSON."""
    monkeypatch.chdir(tmp_path)

    def file(content, name="prompts.jsonl"):
        if isinstance(content, list):
            content = "\n".join(json.dumps(line, ensure_ascii=False) for line in content)
        Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return name

    return file
