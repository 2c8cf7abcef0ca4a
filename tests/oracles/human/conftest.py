import pytest

from oracles.human import verdict_store


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    """Leaves out the waiting for the disk, which other processes may keep busy."""
    monkeypatch.setattr(verdict_store, "SYNCHRONOUS", "off")
