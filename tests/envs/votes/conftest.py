"""A file of records in an empty working directory."""

import json

import pytest


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(*records, name="FILE"):
        (tmp_path / name).write_text("\n".join(json.dumps(record) for record in records), encoding="utf-8")
        return name

    return write
