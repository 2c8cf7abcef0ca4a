"""Preferences from files: what a line may be, epochs, known optima of offline IPO and DPO, and runs of the command."""

import json

import pytest
import torch

from agents.ipo import IPOConfig
from agents.optim.optimiser import OptimiserConfig
from agents.pairs.dpo import DPOConfig
from agents.policies.tabular import TabularPolicy
from envs import make_task
from envs.offline import FileArena, Preference, read_preferences
from envs.tasks.finite import finite_task
from runners.duel import main

RESPONSES = ["a", "b", "c"]
SOLVED = OptimiserConfig("lbfgs")
RANKED = [("a", "b"), ("b", "c"), ("a", "c")]


def task():
    return finite_task("game", ("x",), RESPONSES, RESPONSES)


def arena_of(pairs, batch_size=None, seed=0):
    return FileArena(task(), [Preference("x", first, second, 1.0) for first, second in pairs], batch_size, seed)


def write(path, *records):
    path.write_text("\n".join(json.dumps(record) for record in records), encoding="utf-8")
    return str(path)


def learned(config, pairs, steps=2):
    agent, arena = config.build(policy=TabularPolicy(task())), arena_of(pairs)
    for _ in range(steps):
        arena.reset()
        agent.update(arena.play())
    with torch.no_grad():
        return agent.policy.log_probs(["x"])[0].exp().tolist()


@pytest.mark.parametrize(
    ("tau", "expected"),
    [
        (0.1, (0.964370, 0.034403, 0.001227)),
        (0.5, (0.562742, 0.288921, 0.148337)),
        (1.0, (0.448441, 0.321322, 0.230237)),
    ],
)
def test_offline_ipo_has_the_known_optimum_on_a_ranking(tau, expected):
    config = IPOConfig(tau=tau, average=False, optimiser=SOLVED)
    assert learned(config, RANKED) == pytest.approx(expected, abs=5e-7)


def test_offline_ipo_stays_on_a_cycle_and_spreads_along_a_chain():
    config = IPOConfig(tau=0.5, average=False, optimiser=SOLVED)
    assert learned(config, [("a", "b"), ("b", "c"), ("c", "a")]) == pytest.approx([1 / 3] * 3, abs=1e-8)
    chain = torch.softmax(torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64), 0)
    assert learned(config, RANKED[:2]) == pytest.approx(chain.tolist(), abs=1e-7)


def test_offline_dpo_gives_everything_to_what_never_lost():
    config = DPOConfig(tau=1.0, average=False, optimiser=OptimiserConfig("sgd", learning_rate=3.0, max_grad_norm=None))
    assert learned(config, RANKED, steps=400)[0] > 0.99


def test_every_comparison_is_played_once_in_each_epoch_in_another_order():
    pairs = [(first, second) for first in RESPONSES for second in RESPONSES if first != second]
    arena = arena_of(pairs, batch_size=4)
    seen = []
    for _ in range(6):
        prompts = arena.reset()
        duel = arena.play()
        assert prompts == duel.prompts
        seen += [(left[0].text, right[0].text) for left, right in zip(duel.left, duel.right, strict=True)]
    epochs = [seen[i : i + 6] for i in range(0, 24, 6)]
    assert all(sorted(epoch) == sorted(pairs) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert arena.queries == 24
    again = arena_of(pairs, batch_size=4)
    again.load_state_dict({"plays": 5})  # as older checkpoints have it
    assert again.queries == 20
    assert [left[0].text for left in again.play().left] == [first for first, _ in seen[20:24]]


def test_lines_and_data_sets_say_the_same(tmp_path):
    from datasets import Dataset

    records = [{"prompt": "p", "chosen": "good", "rejected": "bad"}, {"prompt": "q", "chosen": "x", "rejected": "y"}]
    expected = [Preference("p", "good", "bad", 1.0), Preference("q", "x", "y", 1.0)]
    assert read_preferences(write(tmp_path / "lines.jsonl", *records)) == expected
    Dataset.from_list(records).save_to_disk(str(tmp_path / "set"))
    assert read_preferences(str(tmp_path / "set")) == read_preferences(f"hf:{tmp_path / 'set'}") == expected
    chat = [{"role": "user", "content": "p"}]
    answer = [*chat, {"role": "assistant", "content": "good"}]
    rows = read_preferences(write(tmp_path / "chat.jsonl", {"prompt": chat, "chosen": answer, "rejected": "bad"}))
    assert rows[0].first == "good"
    assert rows[0].prompt.messages[0]["content"] == "p"
    seats = {"prompt": "p", "first": "a", "second": "b", "outcome": 0.25}
    assert read_preferences(write(tmp_path / "seats.jsonl", seats)) == [Preference("p", "a", "b", 0.25)]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "p", "chosen": "a", "outcome": 1}, r"FILE:1: has chosen and outcome; say who won in one way"),
        ({"prompt": "p", "chosen": "a"}, r"FILE:1: has no field 'rejected'"),
        ({"prompt": "p", "first": "a", "second": "b", "outcom": 1}, r"no field 'outcome'; did you mean 'outcom'"),
        ({"prompt": "p", "chosen": "a", "rejected": "a"}, "both responses are the same"),
        ({"prompt": "p", "first": "a", "second": "b", "outcome": 2}, "outcome must be 1"),
        ({"prompt": "p", "first": "a", "second": "b", "outcome": 0.5}, "every outcome is 1/2"),
        ({"prompt": "p", "chosen": 3, "rejected": "a"}, "chosen must be text"),
        (["p"], "must be an object"),
    ],
)
def test_lines_that_say_nothing_are_refused(record, message, tmp_path):
    path = tmp_path / "FILE"
    path.write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_preferences(str(path))


def test_what_is_no_file_of_lines_is_refused(tmp_path):
    for content, message in ((b"{", "FILE:1: broken JSON"), (b"\xff", "not UTF-8"), (b"\n\n", "has no preferences")):
        (tmp_path / "FILE").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_preferences(str(tmp_path / "FILE"))


def test_responses_that_the_task_does_not_list_are_refused():
    with pytest.raises(ValueError, match="has the response 'd', which the task does not list"):
        arena_of([("a", "d")])
    with pytest.raises(ValueError, match=r"batch_size must lie in 1..1"):
        arena_of([("a", "b")], batch_size=2)


def test_a_run_learns_from_a_file_and_goes_on_after_a_stop(tmp_path):
    texts = make_task("symbols", length=1, prompts=2).response_texts
    records = [{"prompt": f"#{i}", "chosen": texts[0], "rejected": text} for i in (0, 1) for text in texts[1:]]
    data = write(tmp_path / "pairs.jsonl", *records)
    game = ["--task", "symbols", "--task.length", "1", "--task.prompts", "2", "--agent", "dpo", "--run.data", data]
    short = ["--run.steps", "6", "--run.eval_every", "3", "--run.save_every", "3", "--run.batch_size", "4"]
    assert main([*game, *short, "--run.dir", str(tmp_path / "whole")]) == 0
    assert main([*game, *short, "--run.steps", "3", "--run.dir", str(tmp_path / "parts")]) == 0
    assert main(["--resume", str(tmp_path / "parts"), "--run.steps", "6"]) == 0
    whole, parts = (
        [
            {tag: value for tag, value in json.loads(line).items() if not tag.startswith(("time/", "wall_time"))}
            for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        ]
        for name in ("whole", "parts")
    )
    kept = [line for line in parts if "eval/win_rate_vs_ref" not in line]
    assert kept == [line for line in whole if "eval/win_rate_vs_ref" not in line]
    assert whole[-2]["duel/queries"] == 24
    tags = {tag for line in whole for tag in line}
    assert not {tag for tag in tags if tag.startswith("policy/")} | {"duel/prob_std", "duel/advantage"} & tags
    assert {"data/prob_std", "data/advantage", "data/length", "eval/win_rate_vs_ref", "loss/policy"} <= tags


def test_an_agent_that_needs_its_own_draws_says_so(tmp_path, capsys):
    data = write(tmp_path / "pairs.jsonl", {"prompt": "#0", "chosen": "a", "rejected": "b"})
    arguments = ["--task", "symbols", "--task.length", "1", "--run.data", data, "--run.dir", str(tmp_path / "run")]
    assert main(arguments) == 1
    assert (
        "agent 'sppo' learns from its own samples; with --run.data take one that learns from files, such as dpo"
        in capsys.readouterr().err
    )


def test_a_run_tells_what_it_read_and_goes_on_with_it(tmp_path, capsys):
    texts = make_task("symbols", length=1, prompts=2).response_texts
    records = [{"ask": f"#{i % 2}", "best": texts[0], "worst": text} for i, text in enumerate(texts[1:] * 4)]
    data = write(tmp_path / "pairs.jsonl", *records, {"ask": "#0", "best": texts[0], "worst": ""})
    game = ["--task", "symbols", "--task.length", "1", "--task.prompts", "2", "--agent", "dpo"]
    short = ["--run.eval_every", "0", "--run.batch_size", "4", "--run.steps", "1", "--run.dir", str(tmp_path / "run")]
    mapping = ["--run.data.fields", "prompt=ask,chosen=best,rejected=worst"]
    assert main([*game, *short, "--run.data", data, *mapping]) == 0
    printed = capsys.readouterr().out
    assert f"data:  {data}: {len(records) + 1} rows (fields), {len(records)} preferences" in printed
    assert f"  skipped 1: worst is empty ({data}:{len(records) + 1})" in printed
    assert main(["--resume", str(tmp_path / "run"), "--run.steps", "2"]) == 0
    assert "rows (fields)" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*game, *short, *mapping])
    assert "say how" in capsys.readouterr().err
