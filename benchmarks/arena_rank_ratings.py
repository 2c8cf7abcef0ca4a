"""arena-rank's ratings of the example's votes: `python -m benchmarks.arena_rank_ratings`.

arena-rank pins numpy and jax and is no dependency: `pip install arena-rank==0.1.1` in an environment of its own. It
stops where the loss changes by less than 1e-9, so that its ratings are exact to about a hundredth of a point.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests/golden/arena_rank.json"


def main() -> None:
    """Writes the file."""
    pandas = importlib.import_module("pandas")
    pairs = importlib.import_module("arena_rank.utils.data_utils").PairDataset
    model = importlib.import_module("arena_rank.models.bradley_terry").BradleyTerry
    votes = pandas.read_csv(ROOT / "runners/auditing/example.csv")
    dataset = pairs.from_pandas(votes)
    found = model(dataset.n_competitors).compute_ratings_and_cis(dataset)
    ratings = dict(zip(found["competitors"], map(float, found["ratings"]), strict=True))
    made_by = "arena-rank 0.1.1: python -m benchmarks.arena_rank_ratings"
    GOLDEN.write_text(json.dumps({"made_by": made_by, "ratings": ratings}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
