"""Fitting an oracle: what each kind can learn of a cycle, the measures by hand, the checkpoint, and what is refused."""

import json
import math

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from envs.offline import Preference, read_preferences
from envs.votes.preferences import load_preferences
from oracles.check import check_oracle
from oracles.registry import make
from oracles.table import TableOracle
from preference_duel.keyed_random import Key
from runners.duel import main as duel
from runners.fit_oracle import main
from runners.fitting.fit import list_loss, measure, split
from runners.fitting.fit_settings import FitConfig
from runners.fitting.trainable import ReadsAlone, trainable_oracle

ANSWERS = [
    "What a lovely question! Rinse the rice. You can do this!",
    "Rinse the rice.",
    "Rinse the rice 3 times, then simmer the rice for 12 minutes.",
]
PROMPT = "How do I cook rice?"
CYCLE = [(1, 0), (2, 1), (0, 2)]
"""Against the majority that the shipped PairRM has learned."""
WAYS = [
    "How do I cook {}?",
    "I want to cook {}. Any ideas?",
    "What is the best way to cook {}?",
    "Any tips to cook {}?",
]
PROMPTS = [way.format(food) for food in ("rice", "pasta", "eggs") for way in WAYS]


def compared(count):
    return [
        {"prompt": prompt, "first": ANSWERS[a], "second": ANSWERS[b], "outcome": 1}
        if i % 2
        else {"prompt": prompt, "first": ANSWERS[b], "second": ANSWERS[a], "outcome": 0}
        for i in range(count)
        for prompt in [PROMPTS[i // 3 % len(PROMPTS)]]
        for a, b in [CYCLE[i % 3]]
    ]


def write(path, records):
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return str(path)


def fitted(tmp_path, capsys, kind, *more, count=180):
    data = write(tmp_path / "compared.jsonl", compared(count))
    out = tmp_path / kind
    assert main(["--kind", kind, "--data", data, "--out", str(out), *more]) == 0
    return out, json.loads((out / "fit.json").read_text()), capsys.readouterr().out


def prob(oracle):
    return oracle.prob([PROMPT] * 3, [ANSWERS[a] for a, _ in CYCLE], [ANSWERS[b] for _, b in CYCLE])


@pytest.mark.slow
def test_an_embedding_learns_a_cycle_and_its_checkpoint_judges(tmp_path, capsys):
    out, found, printed = fitted(tmp_path, capsys, "gpm", "--epochs", "12")
    assert found["eval/accuracy"] == 1
    assert found["eval/log_loss"] < 0.2
    oracle = make("gpm", model=str(out))
    assert (prob(oracle) > 0.8).all()
    check_oracle(oracle, [PROMPT], [ANSWERS])
    assert f"--oracle gpm --oracle.model {out}" in printed
    assert printed.count("epoch ") == 12
    curves = EventAccumulator(str(out))
    curves.Reload()
    assert {"loss/gpm", "eval/accuracy", "eval/log_loss", "eval/calibration_error"} <= set(curves.Tags()["scalars"])
    run = ["--oracle", "gpm", "--oracle.model", str(out), "--run.steps", "1", "--run.eval_every", "0"]
    assert duel([*run, "--run.dir", str(tmp_path / "run")]) == 0
    assert f"judge: gpm lam=0.5 model={out}" in capsys.readouterr().out


@pytest.mark.slow
def test_a_reward_knows_no_cycle(tmp_path, capsys):
    out, found, _ = fitted(tmp_path, capsys, "bt", "--epochs", "4")
    assert found["eval/log_loss"] > 0.6
    oracle = make("bt", model=str(out))
    check_oracle(oracle, [PROMPT], [ANSWERS])
    logits = torch.logit(prob(oracle).double())
    assert logits.sum().item() == pytest.approx(0, abs=1e-4)


def test_a_pairrm_learns_and_its_checkpoint_judges(tmp_path, capsys):
    out, found, printed = fitted(tmp_path, capsys, "pairrm", "--epochs", "4")
    assert found["eval/accuracy"] == 1
    oracle = make("pairrm", checkpoint=str(out))
    assert (prob(oracle) > 0.8).all()
    assert f"--oracle pairrm --oracle.checkpoint {out}" in printed


def test_the_same_seed_gives_the_same_checkpoint(tmp_path, capsys):
    figures = []
    for name in "ab":
        (tmp_path / name).mkdir()
        figures.append(fitted(tmp_path / name, capsys, "gpm", "--epochs", "1", count=40)[1])
    assert figures[0] == figures[1]


def test_the_measures_are_those_by_hand():
    payoff = torch.tensor([[0.5, 0.9], [0.1, 0.5]], dtype=torch.float64)
    oracle = TableOracle(payoff, ["x", "y"], ["a", "b"])
    asked = [Preference("x", "a", "b", 1.0), Preference("x", "a", "b", 0.0), Preference("y", "b", "a", 0.0)]
    found = measure(oracle, asked)
    assert found.scalars["eval/accuracy"] == pytest.approx((0.5 + 1) / 2)
    assert found.scalars["eval/log_loss"] == pytest.approx(-(2 * math.log(0.9) + math.log(0.1)) / 3)
    assert found.scalars["eval/brier"] == pytest.approx((0.01 + 0.81 + 0.01) / 3)
    assert found.scalars["eval/calibration_error"] == pytest.approx(0.9 - 2 / 3)
    assert found.bins[-1] == pytest.approx((3, 0.9, 2 / 3))
    assert "0.9 - 1.0              3   0.900   0.667" in found.table()


def test_whole_prompts_are_held_out_where_there_are_enough():
    many = [Preference(f"x{i % 20}", "a", "b", 1.0) for i in range(100)]
    learned, held = split(many, 0.1, seed=0)
    assert len(held) == 10
    assert not {one.prompt for one in learned} & {one.prompt for one in held}
    one_prompt = [Preference("x", f"a{i}", "b", 1.0) for i in range(30)]
    assert [len(part) for part in split(one_prompt, 0.1, seed=0)] == [27, 3]
    with pytest.raises(ValueError, match="1 comparisons, 1 of them different, are too few"):
        split(one_prompt[:1], 0.1, seed=0)


def test_what_was_asked_twice_is_on_one_side():
    def varied(i, prompt, first, second):
        space, case = (" ", "  \n")[i % 2], (str.lower, str.upper)[i // 2 % 2]
        pair = (first, second) if i % 3 else (second, first)
        return Preference(*(case(text).replace(" ", space) for text in (prompt, *pair)), 1.0)

    few = [varied(i, "x y", f"a a{i % 7}", f"b b{i % 7}") for i in range(70)]
    many = [varied(i, f"x y{i % 20}", "a a", "b b") for i in range(100)]
    for found, keys in ((few, lambda one: one.first[-1]), (many, lambda one: one.prompt.split()[1].lower())):
        for seed in range(5):
            learned, held = split(found, 0.2, seed)
            assert not {keys(one) for one in learned} & {keys(one) for one in held}
            assert len(learned) + len(held) == len(found)
    with pytest.raises(ValueError, match="70 comparisons, 1 of them different, are too few to hold out"):
        split([varied(i, "x y", "a", "b") for i in range(70)], 0.1, seed=0)


def test_duels_of_a_run_are_comparisons(tmp_path):
    lines = [
        {"step": 1, "prompt": "x", "left": "a", "right": "b", "prob": 1.0},
        {"step": 2, "prompt": "x", "left": "a", "right": "a", "prob": 0.0},
        {"step": 3, "prompt": "x", "left": "c", "right": "b", "prob": 0.0},
    ]
    found = read_preferences(write(tmp_path / "duels.jsonl", lines))
    assert found == [Preference("x", "a", "b", 1.0), Preference("x", "c", "b", 0.0)]


def test_what_cannot_be_fitted_is_told(tmp_path, capsys):
    good = write(tmp_path / "good.jsonl", compared(20))
    one_class = write(tmp_path / "one.jsonl", [record for record in compared(20) if record["outcome"]])
    wrong = [
        (["--data", one_class], "all 10 outcomes are 1"),
        (["--data", str(tmp_path / "none.jsonl")], "none.jsonl"),
        (["--data", good, "--base", str(tmp_path / "nobody")], "nobody"),
        (["--data", good, "--out", str(tmp_path)], "never overwritten"),
    ]
    for arguments, message in wrong:
        out = [] if "--out" in arguments else ["--out", str(tmp_path / "out")]
        assert main(["--kind", "bt", *arguments, *out]) == 1
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_a_public_layout_is_fitted_and_its_rows_counted(tmp_path, capsys):
    rows = [
        {"history": prompt, "human_ref_A": ANSWERS[1], "human_ref_B": ANSWERS[i % 2 * 2], "labels": i % 2}
        for i, prompt in enumerate(PROMPTS)
    ]
    empty = {**rows[0], "human_ref_B": ""}
    data, out = write(tmp_path / "shp.jsonl", [*rows, rows[0], empty]), tmp_path / "out"
    short = ["--kind", "bt", "--epochs", "1", "--data", data, "--out"]
    assert main([*short, str(out)]) == 0
    printed = capsys.readouterr().out
    assert f"{data}: 14 rows (shp), 13 preferences, 1 of them of a pair that came before" in printed
    assert f"  skipped 1: human_ref_B is empty ({data}:14)" in printed
    assert main([*short, f"{out}-strict", "--data.strict"]) == 1
    assert f"{data}:14: human_ref_B is empty" in capsys.readouterr().err
    fields = "prompt=history,first=human_ref_A,second=human_ref_B,winner=labels,first_wins=1,second_wins=0"
    assert (
        main(["--kind", "bt", "--epochs", "1", "--out", f"{out}-mapped", "--data", data, "--data.fields", fields]) == 0
    )
    assert (tmp_path / "out-mapped/fit.json").read_text() == (out / "fit.json").read_text()


RANKED = [Preference(PROMPT, ANSWERS[a], ANSWERS[b], 1.0) for a, b in ((0, 1), (0, 2), (1, 2))]


@pytest.mark.parametrize("kind", ["bt", "gpm"])
def test_a_list_is_read_once_and_is_the_mean_of_its_comparisons(kind, monkeypatch):
    """Three comparisons of three responses: three readings, not six."""
    model = trainable_oracle(kind, None, 2, "cpu", seed=3)
    assert isinstance(model, ReadsAlone)
    read = []
    whole = model.model.logits
    monkeypatch.setattr(model.model, "logits", lambda inputs: read.append(len(inputs)) or whole(inputs))
    together = list_loss(model, [RANKED], Key(0, 0))
    assert read == [3]
    alone = torch.stack([list_loss(model, [[one]], Key(0, 0)) for one in RANKED]).mean()
    assert together.item() == pytest.approx(alone.item(), rel=1e-6)
    parameter = next(model.network.parameters())
    gradients = [torch.autograd.grad(loss, parameter)[0] for loss in (together, alone)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)


def test_a_list_counts_as_much_as_a_comparison():
    model = trainable_oracle("bt", None, 2, "cpu", seed=3)
    pair = [Preference(PROMPTS[1], ANSWERS[0], ANSWERS[1], 0.25)]
    alone = [list_loss(model, [one], Key(0, 0)).item() for one in (RANKED, pair)]
    assert list_loss(model, [RANKED, pair], Key(0, 0)).item() == pytest.approx(sum(alone) / 2, rel=1e-5)


def test_lists_of_two_are_comparisons(tmp_path, capsys):
    rows = [
        {"prompt": prompt, "responses": [ANSWERS[a], ANSWERS[b]], "ranking": [1, 2]}
        for prompt in PROMPTS
        for a, b in CYCLE
    ]
    figures = []
    for batches in ("comparisons", "lists"):
        data, out = write(tmp_path / "rows.jsonl", rows), tmp_path / batches
        words = ["--kind", "bt", "--data", data, "--out", str(out), "--epochs", "1", "--batches", batches]
        assert main(words) == 0
        figures.append(json.loads((out / "fit.json").read_text(encoding="utf-8")))
    assert figures[0] == figures[1]
    assert "30 comparisons in 30 lists to learn from" in capsys.readouterr().out
    with pytest.raises(ValueError, match="pairrm reads them in pairs; take bt or gpm"):
        FitConfig("pairrm", str(tmp_path / "rows.jsonl"), batches="lists")


def test_margin_and_centring_are_of_each_comparison_by_hand(tmp_path):
    model = trainable_oracle("bt", None, 2, "cpu", seed=3)
    assert isinstance(model, ReadsAlone)
    with torch.no_grad():
        model.network.score.weight *= 100  # rewards far from 0
        first, second = (float(reward) for reward in model.model([PROMPT] * 2, ANSWERS[:2]))
        (margin, outcome) = (2 / 3, 0.0)
        asked = [Preference(PROMPT, ANSWERS[0], ANSWERS[1], outcome, margin=margin)]
        found = list_loss(model, [asked], Key(0, 0), margin=3.0, centring=0.5).item()
    wanted = math.log1p(math.exp(first - second + 3 * margin)) + 0.5 * (first + second) ** 2
    assert abs(first + second) > 0.1
    assert found == pytest.approx(wanted, rel=1e-5)


def test_margins_are_read_from_the_fields_that_have_them(tmp_path, capsys):
    def read(path):
        return load_preferences(path, margins=True)[0]

    answers = {"response_1": ANSWERS[0], "response_2": ANSWERS[1]}
    strengths = [
        {"prompt": x, **answers, "preference_strength": s} for x, s in zip(PROMPTS, (-3, 2, -1, 0), strict=False)
    ]
    found = read(write(tmp_path / "strengths.jsonl", strengths))
    assert [one.margin for one in found] == pytest.approx([1, 2 / 3, 1 / 3, 0])
    scores = [{"prompt": PROMPT, "responses": ANSWERS, "scores": [4, 1.5, 3]}]
    found = read(write(tmp_path / "scores.jsonl", scores))
    assert [one.margin for one in found] == pytest.approx([2.5, 1, 1.5])
    chosen = [{"prompt": PROMPT, "chosen": ANSWERS[0], "rejected": ANSWERS[1], "margin": 0.4}]
    bare = [{key: value for key, value in chosen[0].items() if key != "margin"}]
    (one,) = read(write(tmp_path / "chosen.jsonl", chosen))
    assert one.margin == 0.4
    (tmp_path / "chosen.csv").write_text("prompt,chosen,rejected,margin\nx,a,b,1.5\n", encoding="utf-8")
    assert [one.margin for one in read(str(tmp_path / "chosen.csv"))] == [1.5]
    for wrong in (-1, True, "much"):
        with pytest.raises(ValueError, match="margin must be a number at least 0, got"):
            read(write(tmp_path / "wrong.jsonl", [chosen[0] | {"margin": wrong}]))
        assert len(read_preferences(str(tmp_path / "wrong.jsonl"))) == 1, "it matters to those alone who multiply it"
    data = write(tmp_path / "bare.jsonl", chosen + bare)
    assert main(["--kind", "bt", "--margin", "1", "--data", data, "--out", str(tmp_path / "out")]) == 1
    assert "bare.jsonl:2: has no margin for margin=1 to multiply" in capsys.readouterr().err
    for wrong in ({"kind": "gpm", "margin": 1.0}, {"kind": "pairrm", "centring": 0.01}):
        with pytest.raises(ValueError, match="is of one reward for each response, kind 'bt'"):
            FitConfig(data=data, **wrong)


def test_centring_holds_the_mean_reward_at_zero(tmp_path, capsys):
    means = []
    for name, more in (("plain", []), ("centred", ["--centring", "0.5"])):
        (tmp_path / name).mkdir()
        out, _, _ = fitted(tmp_path / name, capsys, "bt", "--epochs", "1", "--batch_size", "8", *more, count=32)
        means.append(abs(make("bt", model=str(out)).rewards([PROMPT] * 3, ANSWERS).mean().item()))
    assert means[1] < means[0]
