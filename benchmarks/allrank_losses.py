"""allRank's losses of the lists of tests/golden/list_losses.json: `python -m benchmarks.allrank_losses`.

allRank is no dependency: `pip install --no-deps allrank==1.4.3` in an environment of its own, with torch.
`listMLE` is Plackett-Luce's log-likelihood. `lambdaLoss` with `lambdaRank_scheme` is LiPO-lambda's but for the list's
largest discounted gain, by which it divides; the file has the product. The file is written anew, with its lists.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import torch

GOLDEN = Path(__file__).parents[1] / "tests/golden/list_losses.json"

STAND_INS = {
    "allrank.data.dataset_loading": {"PADDED_Y_VALUE": -1},
    "allrank.models.model_utils": {"get_torch_device": lambda: torch.device("cpu")},
}
"""Names that the losses import, by module; the modules themselves import clouds, pictures and setuptools."""


def main() -> None:
    """Writes the file."""
    for name, values in STAND_INS.items():
        module = sys.modules[name] = ModuleType(name)
        vars(module).update(values)
    losses = importlib.import_module("allrank.models.losses")
    lists = json.loads(GOLDEN.read_text(encoding="utf-8"))["lists"]
    for one in lists:
        score, label = (torch.tensor([one[name]], dtype=torch.float64) for name in ("score", "label"))
        discount = torch.log2(torch.arange(2, score.shape[1] + 2, dtype=torch.float64))
        largest = ((torch.exp2(label.sort(descending=True).values) - 1) / discount).sum()
        lambda_rank = losses.lambdaLoss(score, label, eps=1e-12, weighing_scheme="lambdaRank_scheme")
        one["loss"] = {
            "lipo_lambda": (lambda_rank * largest).item(),
            "plackett_luce": losses.listMLE(score, label, eps=0.0).item(),
        }
    made_by = "allrank 1.4.3, one list at a time: python -m benchmarks.allrank_losses"
    GOLDEN.write_text(json.dumps({"made_by": made_by, "lists": lists}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
