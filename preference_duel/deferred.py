"""A library that is imported when it is first used."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any


class _Deferred(ModuleType):
    """Stands for a library; the first attribute that is read imports it."""

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        value = getattr(import_module(self.__name__), name)
        setattr(self, name, value)  # the next time it is found without this method
        return value


@contextmanager
def deferred(library: str) -> Iterator[None]:
    """Inside the block, `import library` takes no time: modules get a stand-in that imports it when they use it.

    A command line imports configurations to describe their fields, and their modules import torch, which takes a
    second that help and errors need not wait for. `from library import name` imports it at once.

    Args:
        library: a top-level package, such as "torch"; without effect if it is imported already.
    """
    if library in sys.modules:
        yield
        return
    stand_in = sys.modules[library] = _Deferred(library)
    try:
        yield
    finally:
        if sys.modules.get(library) is stand_in:
            del sys.modules[library]
