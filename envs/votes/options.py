"""Settings for reading a file of preferences."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ReadOptions:
    """Fields of a file, and the treatment of rows that can't be used."""

    format: str | None = None
    """The file's format, such as arena, helpsteer3, pku_safer (docs/data.md lists them); None: told by its fields."""
    fields: str | None = None
    """What a file of another layout calls things: "prompt=history,chosen=best,rejected=worst", or
    "prompt=history,first=ref_A,second=ref_B,winner=label,first_wins=1,second_wins=0,tie=2"."""
    split: str | None = None
    """The split of a dataset's directory; None: its only one, or "train"."""
    strict: bool = False
    """Stop at a row that can't be used; otherwise it is skipped, counted and named, up to a tenth of the file."""
    soft: bool = False
    """Take the strength of a preference (HelpSteer: -3 to 3) as a share of votes instead of who won."""

    def __post_init__(self) -> None:
        """Checks that one of the two ways is chosen.

        Raises:
            ValueError: if both are.
        """
        if self.format is not None and self.fields is not None:
            raise ValueError("give data.format (a known layout) or data.fields (one of your own), not both")
