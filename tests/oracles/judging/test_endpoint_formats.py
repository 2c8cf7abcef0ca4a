"""Judges behind an endpoint in every format: what they are asked, and that nothing unread is ever scored."""

import dataclasses
import json

import pytest
import torch

from oracles import check_oracle, make
from oracles.judging.endpoint_config import EndpointConfig
from oracles.judging.endpoint_judge import EndpointJudge
from oracles.judging.formats import FORMATS
from oracles.judging.panel import Panel
from preference_duel.types import Conversation, Unanswered
from runners.duel import main
from runners.run.record import read_lines
from tests.oracles.judging.test_formats import NOTHING, READ

QUICK = {"backoff": 0.01, "retries": 1, "timeout": 60.0}
SAYS = {
    "letters": ("A", "B"),
    "brackets": ("It is [[A]]", "It is [[B]]"),
    "arena": ("It is [[A>>B]]", "It is [[B>A]]"),
    "scores": ("8 7", "7 8"),
    "genrm": ('{"score_1": 4, "score_2": 2, "ranking": 2}', '{"score_1": 2, "score_2": 4, "ranking": 5}'),
}
PAIR = ["x"], ["a"], ["b"]
TEXTS = ["x", "y"], [["a", "b", "c"], ["d", "e", "f"]]


def judge(served, name, unread="drop", **fields):
    settings = {"logprobs": False, "format": name, **QUICK, **fields}
    return EndpointJudge(served.address, EndpointConfig(**settings), unread)


def shown(request):
    """Returns the two responses of a question, the first one first."""
    messages = request["messages"]
    if len(messages) > 1:
        return messages[-2]["content"], messages[-1]["content"]
    text = messages[0]["content"]
    return tuple(text.split(f"[Answer {label}]\n")[1].split("\n\n[")[0] for label in "AB")


def by_alphabet(name):
    """Returns what says in a format that the response that comes first in the alphabet is better."""

    def say(request):
        first, second = shown(request)
        return SAYS[name][first > second]

    return say


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_keeps_the_contract_of_an_oracle(served, name):
    served.say = by_alphabet(name)
    oracle = judge(served, name)
    check_oracle(oracle, *TEXTS)
    assert oracle.prob(["x", "x"], ["a", "b"], ["b", "a"]).tolist() == [1, 0]
    assert oracle.verdicts["first"] == oracle.verdicts["second"] == oracle.verdicts.total() / 2
    assert oracle.unread.count == 0


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("text", [*NOTHING, None], ids=repr)
def test_no_answer_is_never_scored(served, name, text):
    served.say = lambda _: text
    oracle = judge(served, name)
    assert oracle.prob(*PAIR).isnan().all()
    assert (oracle.unread.count, dict(oracle.verdicts)) == (1, {"unread": 2})
    assert served.asked == 2, "it was an answer, which another question would not change"
    with pytest.raises(Unanswered, match="left 1 of 1 pairs unread, and unread='stop'"):
        judge(served, name, unread="stop").prob(*PAIR)


@pytest.mark.parametrize("name", FORMATS)
def test_an_answer_in_one_order_alone_is_not_scored(served, name):
    served.say = lambda request: SAYS[name][0] if shown(request) == ("a", "b") else "I can't help with that."
    straight, turned = judge(served, name).both_orders(*PAIR)
    assert (straight.item(), turned.isnan().item()) == (1, True)
    assert judge(served, name).prob(*PAIR).isnan().all()


@pytest.mark.parametrize(
    ("name", "text"), [(n, text) for n in READ for text, verdict in READ[n] if verdict == "unread"]
)
def test_what_a_format_cannot_read_is_not_scored(served, name, text):
    served.say = lambda _: text
    assert judge(served, name).prob(*PAIR).isnan().all()


@pytest.mark.parametrize("name", sorted(set(FORMATS) - {"letters"}))
def test_an_answer_that_was_cut_off_is_not_scored(served, name):
    served.say, served.finish = by_alphabet(name), "length"
    assert judge(served, name).prob(*PAIR).isnan().all()
    assert judge(served, "letters", reasoning=True).prob(*PAIR).isnan().all()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("misdeed", "message"),
    [
        ("garbage", "no answer in the expected form"),
        ("binary", "no answer in the expected form"),
        ("empty", "no answer in the expected form"),
        ("list", "no answer in the expected form"),
        ("half", "RemoteProtocolError"),
        (429, "429: .*not now"),
        (500, "500: .*not now"),
    ],
)
def test_what_always_fails_stops_and_is_never_scored(served, name, misdeed, message):
    oracle = judge(served, name)
    served.say, served.misdeeds["always"] = by_alphabet(name), misdeed
    with pytest.raises(Unanswered, match=f"failed 2 times, the last time with .*{message}"):
        oracle.prob(*PAIR)
    assert not oracle.verdicts


@pytest.mark.parametrize("name", FORMATS)
def test_an_answer_that_never_comes_stops(served, name):
    oracle = judge(served, name, model="referee", timeout=0.1, retries=0)
    served.misdeeds["always"] = "slow"
    with pytest.raises(Unanswered, match=r"failed 1 times, the last time with \w+Timeout"):
        oracle.prob(*PAIR)


def test_requests_of_the_formats(served):
    talk = Conversation(
        [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}, {"role": "user", "content": "x"}]
    )
    for name in FORMATS:
        served.say = by_alphabet(name)
        judge(served, name, concurrency=1).prob([talk], ["a"], ["b"])
        content, _ = served.questions[-2]
        assert content["max_tokens"] == FORMATS[name].max_tokens
        assert not {"seed", "logprobs", "top_logprobs"} & set(content)
        judge(served, name, reasoning=True, seed=3).prob([talk], ["a"], ["b"])
        content, _ = served.questions[-1]
        assert (content["max_tokens"], content["seed"]) == (16_384, 3)
    judge(served, "genrm", concurrency=1).prob([talk], ["a"], ["b"])
    content, _ = served.questions[-2]
    roles = [(turn["role"], turn["content"]) for turn in content["messages"]]
    assert roles == [("user", "hi"), ("assistant", "yo"), ("user", "x"), ("response_1", "a"), ("response_2", "b")]


def test_votes_have_seeds_of_their_own_and_unread_ones_are_left_out(served):
    says = ["[[A]]", "no", "[[C]]", "[[B]]"]
    served.say = lambda request: says[request["seed"] - 7]
    oracle = judge(served, "brackets", votes=4, seed=7, temperature=1.0)
    straight, turned = oracle.both_orders(*PAIR)
    assert straight.item() == turned.item() == pytest.approx((1 + 0.5 + 0) / 3)
    assert sorted(content["seed"] for content, _ in served.questions) == sorted([7, 8, 9, 10] * 2)
    assert dict(oracle.verdicts) == {"first": 2, "unread": 2, "tie": 2, "second": 2}
    assert oracle.unread.count == 0
    served.say = lambda request: "no"
    assert judge(served, "brackets", votes=2, temperature=1.0).prob(*PAIR).isnan().all()
    assert {content["seed"] for content, _ in served.questions[-4:]} == {0, 1}


def test_a_budget_stops_with_what_was_answered_kept(served, tmp_path):
    served.say = by_alphabet("arena")
    pairs = ["x"] * 5, list("abcde"), list("bcdef")
    fields = {"budget": 4, "cache": str(tmp_path / "answers"), "concurrency": 1}
    for asked in (4, 8):
        with pytest.raises(Unanswered, match=r"the budget of 4 questions to .* is spent .*; a resumed run has as many"):
            judge(served, "arena", **fields).prob(*pairs)
        assert served.asked == asked
    assert judge(served, "arena", **fields).prob(*pairs).tolist() == [1] * 5
    assert served.asked == 10


CHANGES = [
    {"model": "other"},
    {"format": "brackets"},
    {"template": "Again: {prompt} [Answer A]\n{first}\n\n[ [Answer B]\n{second}"},
    {"seed": 1},
    {"temperature": 0.5},
    {"reasoning": True},
    {"max_tokens": 7},
]


@pytest.mark.parametrize("change", [*CHANGES, {}, {"concurrency": 3}, {"retries": 9}, {"budget": 50}], ids=str)
def test_an_answer_is_kept_for_all_that_it_depends_on(served, tmp_path, change):
    served.say = by_alphabet("arena")
    fields = {"name": "arena", "cache": str(tmp_path / "answers")}
    judge(served, **fields).prob(*PAIR)
    assert served.asked == 2
    changed = {**fields, **change}
    changed["name"] = changed.pop("format", "arena")
    served.say = by_alphabet(changed["name"])
    assert judge(served, **changed).prob(*PAIR).item() == 1
    assert served.asked == (4 if change in CHANGES else 2)
    judge(served, **fields).prob(["x"], ["b"], ["a"])
    assert served.asked == (4 if change in CHANGES else 2), "the other order of a pair was asked with it"


def test_unread_answers_are_kept_too(served, tmp_path):
    served.say = lambda _: "no"
    for _ in range(2):
        oracle = judge(served, "scores", cache=str(tmp_path / "answers"))
        assert oracle.prob(*PAIR).isnan().all()
        assert dict(oracle.verdicts) == {"unread": 2}
    assert served.asked == 2


def test_a_panel_is_the_mean_of_its_judges_and_reads_what_all_of_them_read(served):
    def say(request):
        if request["model"] == "shy" and shown(request)[0] == "c":
            return "I can't tell."
        return SAYS["brackets"][(shown(request)[0] > shown(request)[1]) ^ (request["model"] == "contrary")]

    served.say = say
    names = "plain", "shy", "contrary"
    of = " ".join(f"{served.address}#{name}" for name in names)
    oracle = make("judge", of=of, endpoint=EndpointConfig(format="brackets", **QUICK))
    assert isinstance(oracle, Panel)
    assert oracle.description.startswith("panel of 3: judge plain at http://127.0.0.1:")
    assert oracle.prob(["x"] * 3, ["a", "a", "e"], ["b", "c", "e"]).nan_to_num(-1).tolist() == pytest.approx(
        [2 / 3, -1, 0.5]
    )
    assert (oracle.unread.count, oracle.unread.asked) == (1, 2)
    assert oracle.verdicts["unread"] == 1
    with pytest.raises(Unanswered, match="a panel of 3 left 1 of 1 pairs unread"):
        make("judge", of=of, unread="stop", endpoint=oracle.judges[0].config).prob(["x"], ["a"], ["c"])
    with pytest.raises(ValueError, match="names a judge of the panel twice"):
        make("judge", of=f"{served.address} {served.address}")
    check_oracle(oracle, ["x", "y"], [["a", "b"], ["d", "e"]])


def test_a_panel_of_judges_who_each_rank_can_be_cyclic(served):
    orders = {"one": "abc", "two": "bca", "three": "cab"}

    def say(request):
        first, second = map(orders[request["model"]].index, shown(request))
        return SAYS["letters"][first > second]

    served.say = say
    endpoint = EndpointConfig(logprobs=False, **QUICK)
    oracle = make("judge", of=" ".join(f"{served.address}#{name}" for name in orders), endpoint=endpoint)
    assert torch.allclose(oracle.prob(["x"] * 3, list("abc"), list("bca")), torch.tensor(2 / 3, dtype=torch.float64))


def test_a_run_that_spent_its_budget_goes_on(served, tmp_path, capsys):
    served.say = by_alphabet("brackets")
    endpoint = ["--oracle.endpoint.format", "brackets", "--oracle.endpoint.cache", str(tmp_path / "answers")]
    line = f"--task symbols --policy tabular --agent ipo --oracle judge --oracle.of {served.address} --run.threads 1"
    line += " --run.batch_size 2 --run.steps 2 --run.eval_every 0"
    assert main([*line.split(), *endpoint, "--run.dir", str(tmp_path / "whole")]) == 0
    (tmp_path / "answers").unlink()
    arguments = [*line.split(), *endpoint, "--oracle.endpoint.budget", "20", "--run.dir", str(tmp_path / "cut")]
    ended = [main(arguments)]
    while ended[-1] and len(ended) < 9:
        assert "the budget of 20 questions" in capsys.readouterr().err
        ended.append(main(["--resume", str(tmp_path / "cut")]))
    assert ended[-1] == 0
    assert 1 < len(ended) < 9
    whole, cut = (read_lines(tmp_path / name / "metrics.jsonl") for name in ("whole", "cut"))
    for one, other in zip(whole, cut, strict=True):
        for tag in one.keys() - {"wall_time"}:
            assert tag.startswith("time/") or one[tag] == other[tag], tag


def test_settings_are_the_commands(served, tmp_path):
    config = EndpointConfig(format="genrm", reasoning=True, votes=2, seed=5, budget=9, temperature=0.6)
    assert json.loads(json.dumps(dataclasses.asdict(config)))["format"] == "genrm"
    assert config.seeds == [5, 6]
