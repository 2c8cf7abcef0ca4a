"""The report says what was measured, and is one page that stands alone."""

import csv
import html.parser
import io
import json
import re

import pytest
import torch
from rich.console import Console

from envs.games import exploitability
from runners.bench import main as bench
from runners.benchmark.report import findings
from runners.benchmark.report.findings import EXPLOITABILITY, WIN_RATE, final, sentences
from runners.benchmark.report.page import numbers
from runners.benchmark.report.pictures import exploitation, profile, styles
from runners.benchmark.report.standings import Field, clones, dialled, measures, standing
from runners.benchmark.report.tables import Table, bounds
from runners.benchmark.results import read_results
from runners.benchmark.scores import show
from runners.benchmark.statistics import Interval
from runners.benchmark.suites import BUILT_IN, DRAWN, Game
from runners.report import main
from tests.bench_engine import in_process

FILE = """
from runners.benchmark.suites import Entrant, Game, Suite, tabular
GAMES = tuple(Game("cyclic", lam) for lam in (0.0, 1.0))
SUITE = Suite("small", "a test", tuple(Entrant(one, one) for one in ("dpo", "ipo")), GAMES, 3, tabular(120, 1, 2))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("bench")
    (where / "small.py").write_text(FILE)
    with pytest.MonkeyPatch.context() as patch, in_process(patch):
        assert bench(["--suite", str(where / "small.py"), "--dir", str(where / "out"), "--processes", "1"]) == 0
    return where / "out"


class Page(html.parser.HTMLParser):
    """Collects tags, and sees that all are closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.images, self.cells = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.links += [found["href"]] if "href" in found else []
        self.images += [(found["src"], found["alt"])] if tag == "img" else []
        self.open += [] if tag in ("meta", "img", "br") else [tag]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.cells.append(data)


def test_the_page_stands_alone_and_its_data_lie_beside_it(folder):
    report = folder / "report"
    page = Page((report / "index.html").read_text(encoding="utf-8"))
    assert all(source.startswith("data:image/png;base64,") and about for source, about in page.images)
    assert len(page.images) == len(list(report.glob("*.png"))) == 6
    assert all((report / link).exists() for link in page.links)
    assert {link.removesuffix(".csv") for link in page.links} >= {path.stem for path in report.glob("*.png")}
    assert {"dpo", "ipo", "start", "defaults"} <= set(page.cells)
    assert "http" not in "".join(page.links)


def test_the_data_are_what_was_measured(folder):
    results = read_results(folder / "results.json")
    rows = list(csv.DictReader((folder / "report/gap_against_lam.csv").open()))
    assert len(rows) == 2 * 2 * 2
    row = next(row for row in rows if (row["lam"], row["measure"], row["entrant"]) == ("1", "exploitability", "ipo"))
    cells = [cell for cell in results["cells"] if (cell["entrant"], cell["game"]) == ("ipo", "cyclic lam=1")]
    ends = sorted(cell["curve"][EXPLOITABILITY][-1] for cell in cells)
    middle = (0.25 / 3 * 0 + (1 / 3 - 0.25) * ends[0] + ends[1] / 3 + (0.75 - 2 / 3) * ends[2]) / 0.5
    assert float(row["value"]) == pytest.approx(middle, rel=1e-4)
    assert float(row["low"]) <= float(row["value"]) <= float(row["high"])


def test_pictures_show_the_entrants_that_are_chosen(folder, tmp_path, capsys):
    results = read_results(folder / "results.json")
    assert {row[0] for row in profile(results, styles(results, ["ipo"])).rows} == {"ipo"}
    assert main([str(folder), "--out", str(tmp_path), "--entrants", "ipi"]) == 2
    assert "no entrant is called 'ipi'; did you mean 'ipo'?" in capsys.readouterr().err


def test_more_entrants_than_a_picture_holds_leave_the_usual_ones_and_ones_own():
    names = [*BUILT_IN["standard"][1], "tests.my_agent:Config"]
    results = {
        "entrants": {name: {"agent": name} for name in names},
        "cells": [{"entrant": name} for name in names],
    }
    assert set(styles(results)) == {*DRAWN, "tests.my_agent:Config"}
    assert len({(look["color"], look["marker"]) for look in styles(results).values()}) == len(DRAWN) + 1
    few = {**results, "cells": results["cells"][:12]}
    assert list(styles(few)) == names[:12]


def test_the_field_meets_exactly_under_the_judge_of_each_game(folder):
    results = read_results(folder / "results.json")
    field = Field(results)
    assert field.names == ["dpo", "ipo", "start"]
    assert field.games() == ["cyclic lam=0", "cyclic lam=1"]
    met = field.meetings(field.games())
    assert met.shape == (3, 2, 3, 3)
    torch.testing.assert_close(met + met.mT, torch.ones_like(met))
    cell = results["cells"][0]
    against_start = met[0, 0, 0, 2].item()
    assert against_start == pytest.approx(cell["curve"][WIN_RATE][-1], abs=1e-5)
    own = field.transfer("cyclic lam=0", "cyclic lam=0", "dpo")
    assert own[0] == pytest.approx(cell["curve"][EXPLOITABILITY][-1] / cell["curve"][EXPLOITABILITY][0], abs=1e-4)
    payoff, start = field._boards["cyclic lam=1", 0]
    law = torch.tensor(cell["law"], dtype=torch.float64)
    there = exploitability(payoff, law / law.sum(-1, keepdim=True)) / exploitability(payoff, start)
    assert field.transfer("cyclic lam=0", "cyclic lam=1", "dpo")[0] == pytest.approx(there.item())


def test_copies_move_elo_and_not_nash_mass():
    cycle = torch.tensor([[0.5, 0.9, 0.2], [0.1, 0.5, 0.8], [0.8, 0.2, 0.5]], dtype=torch.float64)
    found = clones(["a", "b", "c"], cycle)
    torch.testing.assert_close(found.after["Nash average"], found.before["Nash average"], rtol=0, atol=1e-6)
    assert (found.after["Elo"] - found.before["Elo"]).abs().max() > 50
    stood = standing(["a", "b", "c"], cycle.expand(4, 2, 3, 3))
    for name, values in measures(cycle).items():
        assert [one.value for one in stood.ranks[name]] == pytest.approx(values.tolist())
        assert all(one.low == pytest.approx(one.high) for one in stood.ranks[name])


def results_of(ends):
    """Returns results in which every agent ends where it is told: (agent, lam) -> exploitability and win rate."""
    games = [{"label": Game("cyclic", lam).label, "oracle": "cyclic", "lam": lam} for lam in (0.0, 0.5, 1.0)]
    games = [{**game, "noise": 0.0, "feedback": "outcome", "gap": EXPLOITABILITY} for game in games]
    cells = [
        {
            "entrant": agent,
            "game": Game("cyclic", lam).label,
            "seed": seed,
            "curve": {
                "queries": [0, 6],
                EXPLOITABILITY: [0.4, end[0] + 0.001 * seed],
                WIN_RATE: [0.5, end[1] + 0.001 * seed],
            },
        }
        for (agent, lam), end in ends.items()
        for seed in range(5)
    ]
    entrants = {agent: {"agent": agent, "options": [], "made": []} for agent, _ in ends}
    return {"suite": "x", "about": "", "entrants": entrants, "conditions": {"games": games}, "cells": cells}


def test_the_sentences_follow_the_measurement():
    expected = {
        ("dpo", 0.0): (0.01, 0.8),
        ("dpo", 1.0): (0.3, 0.6),
        ("ipo", 0.0): (0.01, 0.8),
        ("ipo", 1.0): (0.01, 0.6),
    }
    said = sentences(results_of(expected))
    assert "the intervals overlap, the former are as good within them" in said[0]
    assert "Bradley-Terry agents rises" in said[1]
    assert "regularised Nash agents stays within intervals" in said[2]
    assert "by win rate the Nash agents are as good within them" in said[3]
    opposite = {("dpo", 0.0): (0.2, 0.8), ("dpo", 1.0): (0.1, 0.9), ("ipo", 0.0): (0.01, 0.8), ("ipo", 1.0): (0.2, 0.6)}
    said = sentences(results_of(opposite))
    assert "the former are worse" in said[0]
    assert "Bradley-Terry agents falls" in said[1]
    assert "regularised Nash agents rises" in said[2]
    assert "by win rate the Nash agents are worse" in said[3]
    assert "No comparison of families" in sentences(results_of({("dpo", 0.0): (0.1, 0.5), ("dpo", 1.0): (0.1, 0.5)}))[0]


def test_the_headline_says_where_grpo_ends_beside_others():
    shares = {"grpo": 0.4, "spo": 0.5, "inpo": 1.0, "oelhf": 0.1}
    results = results_of({(who, lam): (0.4 * share, 0.5) for who, share in shares.items() for lam in (0.0, 0.5, 1.0)})
    (first, _) = sentences(results)
    assert first.startswith("cyclic, lam = 0, 0.5 and 1: pairwise GRPO leaves 0.405 [")
    assert re.findall(r"(\w+) (\d\.\d+) \[", first) == [
        ("leaves", "0.405"), ("spo", "0.505"), ("inpo", "1.005"), ("oelhf", "0.105")
    ]  # fmt: skip
    results["cells"] = [cell for cell in results["cells"] if cell["game"] != "cyclic lam=0.5"]
    assert len(sentences(results)) == 1


def on_text(ends):
    """Returns results on free text in which KL rises evenly to an end: agent -> last KL, last bounds by two seeds."""
    results = results_of({})
    results["conditions"]["games"] = [{**results["conditions"]["games"][0], "label": "judge", "gap": WIN_RATE}]
    results["entrants"] = {agent: {"agent": agent, "options": [], "made": []} for agent in ends}
    for agent, (kl, *lost) in ends.items():
        for seed, bound in enumerate(lost):
            curve = {"queries": [0, 1, 2], WIN_RATE: [0.5, 0.5, 0.7 + 0.1 * seed], "eval/kl": [0, kl / 2, kl]}
            curve["eval/exploitability_lower"] = [0.3, (0.3 + bound) / 2, bound]
            exploited = {name: {"value": bound - less} for name, less in (("best of 64", 0.02), ("trained", 0.0))}
            row = {"entrant": agent, "game": "judge", "seed": seed, "curve": curve, "seconds": 1, "law": None}
            results["cells"].append({**row, "exploited": exploited})
    return results


def test_exploitability_on_text_is_compared_at_equal_kl():
    results = on_text({"dpo": (4.0, 0.1, 0.14), "ipo": (2.0, 0.1, 0.12)})
    (said,) = findings.on_text(results)
    assert (
        "judge: 2.00 nats from the start, Bradley-Terry agents are exploitable by at least 0.210 [0.200, 0.220]" in said
    )
    assert "regularised-Nash agents by 0.110 [0.100, 0.120]: the former are worse" in said
    assert "at the end by 0.120 [0.100, 0.140] and 0.110 [0.100, 0.120]" in said
    table = bounds(results)
    assert table.rows[0][:3] == ["judge", "dpo", "2"]
    assert [round(one.value, 3) for one in table.rows[0][3:7]] == [0.75, 0.12, 0.1, 0.12]
    assert table.rows[0][7] == 4.0
    picture = exploitation(results, styles(results))
    assert picture.rows[0] == ["judge", "dpo", "win rate", *table.rows[0][3], *table.rows[0][4]]
    assert [row[1:4] for row in picture.rows[-9:-7]] == [["ipo", "KL", 0.0], ["ipo", "KL", 0.25]]
    assert picture.rows[-1][6] == pytest.approx(0.11)
    with_one = on_text({"dpo": (4.0, 0.1), "ipo": (2.0, 0.1)})
    assert findings.on_text(with_one) == []


@pytest.mark.slow
def test_one_cell_that_failed_leaves_a_report(folder, tmp_path):
    results = json.loads((folder / "results.json").read_text())
    lost = ("ipo", "cyclic lam=1", 2)
    results["cells"] = [cell for cell in results["cells"] if (cell["entrant"], cell["game"], cell["seed"]) != lost]
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert main([str(tmp_path)]) == 0
    assert Field(results).meetings(["cyclic lam=0", "cyclic lam=1"]).shape == (2, 2, 3, 3)
    both = final(results, "cyclic lam=1", ["dpo", "ipo"], EXPLOITABILITY)
    assert both.shape == (2, 2)


@pytest.mark.slow
def test_a_single_cell_is_reported_too(folder, tmp_path):
    results = json.loads((folder / "results.json").read_text())
    for kept in (results["cells"][:1], [results["cells"][0], results["cells"][-1]]):
        (tmp_path / "results.json").write_text(json.dumps({**results, "cells": kept}))
        assert main([str(tmp_path)]) == 0
        show({**results, "cells": kept}, Console())


def test_more_entrants_than_a_line_holds_are_printed_in_blocks():
    labels, names = [f"agent{i}" for i in range(16)], [f"game{j}" for j in range(7)]
    curve = {"queries": [0, 6], EXPLOITABILITY: [0.4, 0.123]}
    cells = [{"entrant": label, "game": name, "seed": 0, "curve": curve} for label in labels for name in names] + [
        {"entrant": "agent0", "game": "game7", "seed": 0, "curve": curve}
    ]
    games = [{"label": f"game{j}", "gap": EXPLOITABILITY} for j in range(8)]
    entrants = {label: {"agent": "dpo"} for label in labels}
    results = {"suite": "x", "about": "", "entrants": entrants, "conditions": {"games": games}, "cells": cells}
    console = Console(width=150, record=True, file=io.StringIO())
    show(results, console)
    text = console.export_text()
    assert all(label in text for label in labels)
    assert text.count("0.307") == 16 * 7 + 2  # the last game and all games of agent0


def test_an_interval_is_three_columns():
    table = Table("x", "", "", ("who", "share"), [["a", Interval(0.5, 0.25, 1.0)], ["b", None]])
    assert numbers(table) == "who,share,share low,share high\na,0.5,0.25,1\nb,,,\n"


@pytest.mark.slow
def test_unfinished_and_odd_names_are_reported_too(folder, tmp_path, capsys):
    results = json.loads((folder / "results.json").read_text())
    odd = '<b>&"mine'
    results["cells"] = [cell for cell in results["cells"] if (cell["entrant"], cell["seed"]) != ("ipo", 2)]
    for cell in results["cells"]:
        cell["entrant"] = odd if cell["entrant"] == "ipo" else cell["entrant"]
    results["entrants"][odd] = results["entrants"].pop("ipo")
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert main([str(tmp_path)]) == 0
    page = Page((tmp_path / "report/index.html").read_text())
    assert odd in page.cells
    show(results, Console())
    assert dialled(results)["cyclic"] == {0.0: "cyclic lam=0", 1.0: "cyclic lam=1"}
    assert Field(results).meetings(["cyclic lam=1"]).isfinite().all()


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (None, "results.json does not exist; python -m runners.bench --dir"),
        ("{", "is no results.json"),
        ('{"format": 0}', "was written in format 0, this is 1"),
        ('{"format": 1, "cells": []}', "no cell is finished"),
    ],
)
def test_what_can_not_be_reported_is_told(made, message, tmp_path, capsys):
    if made is not None:
        (tmp_path / "results.json").write_text(made)
    assert main([str(tmp_path)]) == 1
    assert message in capsys.readouterr().err
