"""Shared folder of a tiny language model."""

import pytest

from tests.tiny_models import write_model


@pytest.fixture(scope="package")
def folder(tmp_path_factory):
    """A tiny Llama with its tokenizer; no test changes it."""
    return write_model(tmp_path_factory.mktemp("model"))
