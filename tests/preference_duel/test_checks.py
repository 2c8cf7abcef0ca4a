"""A setting out of its range is refused, with its name, its range and its value."""

import math
import re
from dataclasses import dataclass
from typing import Literal

import pytest

from preference_duel.checks import at_least, one_of, positive, positive_finite, require, share, within


@dataclass
class Value:
    x: object


@pytest.mark.parametrize(
    ("allowed", "inside", "outside"),
    [
        (positive, (1e-9, math.inf), (0, -1, math.nan)),
        (positive_finite, (1e-9, 3), (0.0, math.inf, math.nan)),
        (positive.or_none(), (None, 1), (0,)),
        (share, (0, 0.5, 1), (-0.1, 1.1, math.nan)),
        (at_least(2), (2, math.inf), (1, math.nan)),
        (within("[0, 1)"), (0, 0.9), (1, -0.1, math.nan)),
        (within("(0, 1]"), (1, 0.1), (0, 1.1)),
        (within("[0, inf)"), (0, 9), (math.inf,)),
        (one_of(Literal["a", "b"]), ("a", "b"), ("c", None)),
    ],
)
def test_a_range_holds_what_its_notation_says(allowed, inside, outside):
    for value in inside:
        require(Value(value), x=allowed)
    for value in outside:
        with pytest.raises(ValueError, match="x must"):
            require(Value(value), x=allowed)


@pytest.mark.parametrize(
    ("allowed", "value", "message"),
    [
        (positive, -1.0, "run.x must be positive, got -1.0"),
        (positive.or_none(), 0, "run.x must be positive, or None, got 0"),
        (at_least(2, "one cannot play"), 1, "run.x must be at least 2, got 1: one cannot play"),
        (within("[0, 1)"), 1, "run.x must lie in [0, 1), got 1"),
        (one_of(Literal["a", "b"]), "c", "run.x must be one of ('a', 'b'), got 'c'"),
    ],
)
def test_the_message_names_the_field_its_range_and_the_value(allowed, value, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        require(Value(value), "run.", x=allowed)
