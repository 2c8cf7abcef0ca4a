"""Range checks of configurations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, get_args


@dataclass(frozen=True)
class Range:
    """The values that a field may take; `positive`, `share`, `at_least`, `within` and `one_of` make one."""

    text: str
    """completes "must ...": "be positive", "lie in [0, 1]" """

    holds: Callable[[Any], bool]
    """whether a value is allowed; false for NaN"""

    reason: str = ""
    """why, or what to do; ends the message"""

    def or_none(self) -> Range:
        """Returns this range, with None allowed too."""
        return replace(self, text=f"{self.text}, or None", holds=lambda value: value is None or self.holds(value))


def require(config: object, prefix: str = "", /, **ranges: Range) -> None:
    """Raises ValueError for the first field that is out of its range.

    Meant for a configuration's `__post_init__`, or for the method that uses the values:

        require(self, eta=positive, responses=at_least(2, "one response beats nothing"), mixture=within("(0, 1]"))
        require(self, "lora.", rank=at_least(0), loss=one_of(Loss), tau=positive.or_none())

    Args:
        config: The object whose attributes are checked.
        prefix: What stands before the field's name on the command line: "run.", "endpoint.", "--".
        ranges: The range of each checked field, by its name.

    Raises:
        ValueError: "eta must be positive, got -1.0", with the range's reason behind a colon if it has one.
    """
    for name, allowed in ranges.items():
        value = getattr(config, name)
        if not allowed.holds(value):
            reason = f": {allowed.reason}" if allowed.reason else ""
            raise ValueError(f"{prefix}{name} must {allowed.text}, got {value!r}{reason}")


def at_least(least: float, reason: str = "") -> Range:
    """Returns the range [least, inf]."""
    return Range(f"be at least {least}", lambda value: value >= least, reason)


def within(interval: str, reason: str = "") -> Range:
    """Returns the range of an interval in its usual notation: "[0, 1)" holds 0 and not 1; "(0, inf)" is finite."""
    low, high = (float(end) for end in interval[1:-1].split(","))
    closed_low, closed_high = interval[0] == "[", interval[-1] == "]"

    def holds(value: float) -> bool:
        return low < value < high or (closed_low and value == low) or (closed_high and value == high)

    return Range(f"lie in {interval}", holds, reason)


def one_of(choices: Any, reason: str = "") -> Range:
    """Returns the range of a `Literal` type."""
    values = get_args(choices)
    return Range(f"be one of {values}", lambda value: value in values, reason)


positive = Range("be positive", lambda value: value > 0)
positive_finite = Range("be positive and finite", lambda value: 0 < value < float("inf"))
share = within("[0, 1]")
