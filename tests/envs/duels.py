"""Tokens and moves of the task `words`, and comparisons of results, for the tests of the duel and its views."""

import copy
import itertools
import pickle

import numpy as np

PAD, EOS, A, B, C, P, Q = range(7)
PLAYERS = ["player_0", "player_1"]
SYMBOLS = {"task": "symbols", "oracle": "cyclic"}
COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda env: pickle.loads(pickle.dumps(env)),
    "clone": lambda env: env.clone(),
}


def both(first, second):
    return {"player_0": first, "player_1": second}


def finish(env, moves):
    """Plays these moves, then token A for both, to the verdict; returns the last step and all observations."""
    steps = []
    for move in itertools.chain(moves, itertools.repeat((A, A))):
        if not env.agents:
            return steps[-1], [step[0] for step in steps]
        steps.append(env.step(both(*move)))
    raise AssertionError


def require_equal(mine, theirs, where):
    """Asserts the same types, shapes and values, all the way down."""
    assert isinstance(theirs, type(mine)) or isinstance(mine, np.generic), where
    if isinstance(theirs, dict):
        assert mine.keys() == theirs.keys(), where
        for key in theirs:
            require_equal(mine[key], theirs[key], f"{where}.{key}")
    elif isinstance(theirs, list | tuple):
        for i, (one, other) in enumerate(zip(mine, theirs, strict=True)):
            require_equal(one, other, f"{where}[{i}]")
    elif isinstance(theirs, np.ndarray):
        assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape), where
        assert mine.tolist() == theirs.tolist(), where
    else:
        assert mine == theirs, where


def arrays_in(part):
    """Returns every array of a result."""
    if isinstance(part, dict):
        part = list(part.values())
    if isinstance(part, list | tuple):
        return [array for value in part for array in arrays_in(value)]
    return [part] if isinstance(part, np.ndarray) else []


def require_apart(result):
    """Asserts that no two arrays of a result share memory."""
    for one, other in itertools.combinations(arrays_in(result), 2):
        assert not np.shares_memory(one, other)
