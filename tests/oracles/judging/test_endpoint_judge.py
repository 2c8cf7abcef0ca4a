"""A judge behind an endpoint: its answers, and errors if it is slow, broken or unreachable."""

import json

import pytest
import torch

from oracles import check_oracle, make
from oracles.judging.endpoint_config import EndpointConfig
from oracles.judging.endpoint_judge import EndpointJudge
from oracles.judging.verdicts import likelier, reading
from preference_duel.types import Unanswered
from runners.duel import main
from runners.run.checkpoint import steps
from runners.run.record import read_lines
from tests.conftest import with_a_fast_few

QUICK = {"backoff": 0.01, "retries": 3, "timeout": 60.0}
IMPATIENT = {"timeout": 0.5, "retries": 30}
"""For a server that is slow: on a busy machine its other answers may be late as well."""
PAIRS = [f"x{i}" for i in range(40)], [f"a{i}" for i in range(40)], [f"b{i}" for i in range(40)]


def judge(served, **fields):
    return EndpointJudge(served.address, EndpointConfig(**(QUICK | fields)))


def test_it_keeps_the_contract_of_an_oracle(served):
    check_oracle(judge(served), ["x", "y"], [["a", "b", "c"], ["d", "e", "f"]])


def test_both_orders_take_out_a_liking_for_the_first_seat(served):
    plain = judge(served).prob(*PAIRS)
    served.bias = 0.7
    oracle = judge(served)
    biased = oracle.prob(*PAIRS)
    assert (biased - plain).abs().max() < 0.02
    assert oracle.unread.count == 0
    content, _ = served.questions[0]
    assert (content["model"], content["temperature"], content["max_tokens"]) == ("referee", 0, 1)
    assert content["top_logprobs"] == 20


def test_what_is_asked_ahead_is_not_asked_again(served):
    pairs = ["x", "x", "x", "y", "x"], ["a", "b", "a", "a", "a"], ["b", "a", "b", "c", "a"]  # repeated, turned, alike
    twice = {"votes": 2, "temperature": 1, "logprobs": False}
    expected, plain = judge(served, **twice).prob(*pairs), list(served.questions)
    served.questions.clear()
    oracle = judge(served, **twice)
    for chosen in ([4, 3], [0, 1], [2]):
        oracle.ask_ahead(*([side[i] for i in chosen] for side in pairs))
    assert torch.equal(oracle.prob(*pairs), expected)

    def contents(questions):
        return sorted(json.dumps(content) for content, _ in questions)

    assert contents(served.questions) == contents(plain)
    assert (oracle.unread.asked, sum(oracle.verdicts.values())) == (3, 12)
    assert torch.equal(oracle.prob(*pairs), expected)  # of a later batch
    assert len(served.questions) == 24


def test_questions_that_are_dropped_are_not_asked(served):
    served.misdeeds = {"always": "slow"}
    oracle = judge(served, concurrency=2)
    oracle.ask_ahead(*PAIRS)
    oracle.forget()
    assert served.asked <= 2
    served.misdeeds = {}
    assert oracle.prob(["x"], ["a"], ["b"]).isfinite().all()
    assert served.asked <= 4


def test_a_failure_of_what_was_asked_ahead_is_told_by_the_verdict(served):
    oracle = judge(served, budget=3)
    oracle.ask_ahead(["x", "y"], ["a", "a"], ["b", "b"])
    with pytest.raises(Unanswered, match="the budget of 3 questions"):
        oracle.prob(["x", "y"], ["a", "a"], ["b", "b"])


@pytest.mark.parametrize(
    "misdeed",
    with_a_fast_few(["slow", "garbage", "binary", "half", "list", "empty", 500, 502, 408, 429], 3),
)
def test_what_fails_now_and_then_is_asked_again(served, misdeed):
    expected = judge(served).prob(*PAIRS)
    served.misdeeds = {served.asked + i: misdeed for i in (1, 7, 20, 33)}
    assert torch.equal(judge(served, **(IMPATIENT if misdeed == "slow" else {})).prob(*PAIRS), expected)


@pytest.mark.parametrize(
    ("misdeed", "message"),
    [
        ("slow", r"failed 2 times, the last time with \w+Timeout"),
        ("garbage", "no answer in the expected form"),
        ("empty", "no answer in the expected form"),
        ("half", "RemoteProtocolError"),
        (503, "503: .*not now"),
    ],
)
def test_what_always_fails_is_told_and_never_scored(served, misdeed, message):
    oracle = judge(served, model="referee", retries=1, timeout=0.1 if misdeed == "slow" else 60)
    served.misdeeds["always"] = misdeed
    with pytest.raises(Unanswered, match=message):
        oracle.prob(["x"], ["a"], ["b"])


@pytest.mark.parametrize("status", [401, 402, 403])
def test_a_refused_key_is_no_wrong_setting(served, status):
    oracle = judge(served)
    served.misdeeds["always"] = status
    with pytest.raises(Unanswered, match=f"refuses the account or its key with {status}"):
        oracle.prob(["x"], ["a"], ["b"])
    assert served.asked <= 2


def test_a_refused_question_is_not_asked_again(served):
    oracle = judge(served)
    served.misdeeds["always"] = 404
    with pytest.raises(ValueError, match="refuses the question with 404"):
        oracle.prob(["x"], ["a"], ["b"])
    assert served.asked <= 2


def test_no_letter_is_unread_counted_and_never_scored(served):
    oracle = judge(served)
    served.letters = ("Well", "Hm")
    assert oracle.prob(["x"], ["a"], ["b"]).isnan().all()
    assert (oracle.unread.count, oracle.unread.asked) == (1, 1)
    with pytest.raises(ValueError, match=r"referee left 41 of 41 pairs unread: is it a chat model"):
        oracle.prob(*PAIRS)
    stops = EndpointJudge(served.address, EndpointConfig(**QUICK), unread="stop")
    with pytest.raises(Unanswered, match="referee left 1 of 1 pairs unread, and unread='stop'"):
        stops.prob(["x"], ["a"], ["b"])


def test_an_answer_without_log_probabilities_of_tokens_is_unread_and_not_asked_again(served):
    oracle, served.mass = judge(served, backoff=60), 0.0
    assert oracle.prob(["x"], ["a"], ["b"]).isnan().all()
    assert (oracle.unread.count, served.asked) == (1, 2)


def test_letters_with_little_of_the_probability_are_unread(served):
    served.mass = 0.4
    assert judge(served).prob(["x"], ["a"], ["b"]).isnan().all()
    prob = judge(served, least_mass=0.3).prob(*PAIRS)
    served.mass = 1.0
    assert torch.allclose(judge(served).prob(*PAIRS), prob)
    served.letters = " A", " B"
    assert torch.equal(judge(served).prob(*PAIRS), judge(served).prob(*PAIRS))
    served.letters = "Apple", "Bee"
    assert judge(served).prob(["x"], ["a"], ["b"]).isnan().all()


REFUSED = {
    "max_tokens": "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'.",
    "temperature": {"message": "Only the default (1) value is supported.", "param": "temperature"},
    "top_logprobs>5": "Invalid value for 'top_logprobs': must be less than or equal to 5.",
}


def test_parameters_that_are_refused_by_name_are_replaced_once_and_logged(served, caplog):
    expected = judge(served, concurrency=1).prob(*PAIRS)
    before, served.refusals = served.asked, REFUSED
    oracle = judge(served, concurrency=1)
    assert torch.equal(oracle.prob(*PAIRS), expected)
    assert served.asked == 2 * before + len(REFUSED)
    content, _ = served.questions[-1]
    assert (content["max_completion_tokens"], content["top_logprobs"]) == (1, 5)
    assert not {"max_tokens", "temperature"} & set(content)
    assert [record.args[1] for record in caplog.records] == ["max_tokens", "temperature", "top_logprobs"]
    assert torch.equal(judge(served).prob(*PAIRS), expected)


def test_other_parameters_that_are_refused_end_the_run_with_their_settings(served):
    served.refusals = {"logprobs": "logprobs is not supported with this model"}
    with pytest.raises(ValueError, match=r"400: .*set by --oracle.endpoint.max_tokens, .*logprobs and extra"):
        judge(served).prob(["x"], ["a"], ["b"])
    assert served.asked <= 2


def test_parameters_and_further_fields_are_the_users(served):
    extra = {"max_tokens": None, "max_completion_tokens": 300, "temperature": None, "provider": {"order": ["x"]}}
    judge(served, extra=json.dumps(extra), top_logprobs=7).prob(["x"], ["a"], ["b"])
    content, _ = served.questions[-1]
    assert (content["max_completion_tokens"], content["top_logprobs"]) == (300, 7)
    assert content["provider"] == {"order": ["x"]}
    assert not {"max_tokens", "temperature"} & set(content)
    judge(served, temperature=0.5, max_tokens=8, logprobs=False).prob(["x"], ["a"], ["b"])
    content, _ = served.questions[-1]
    assert (content["temperature"], content["max_tokens"]) == (0.5, 8)
    assert not {"logprobs", "top_logprobs"} & set(content)


def test_braces_of_a_question_and_of_the_texts_are_text(served):
    template = 'As {"winner": "A"} {} {{1}}. {prompt}|[Answer A]\n{first}\n\n[Answer B]\n{second}'
    judge(served, template=template, concurrency=1).prob(["x {second}"], ["{first}"], ["b"])
    text = served.questions[0][0]["messages"][0]["content"]
    assert text == 'As {"winner": "A"} {} {{1}}. x {second}|[Answer A]\n{first}\n\n[Answer B]\nb'


def test_one_order_alone_is_no_answer(served):
    oracle = judge(served, concurrency=1)
    oracle._answer = lambda question, seed: reading("unread") if question[1] == "b" else likelier(0.8)
    assert oracle.prob(["x", "x"], ["a", "c"], ["b", "d"]).nan_to_num(-1).tolist() == [-1, 0.5]
    straight, turned = oracle.both_orders(["x"], ["a"], ["b"])
    assert (straight.item(), turned.isnan().item()) == (0.8, True)
    assert (oracle.unread.count, oracle.unread.asked) == (2, 3)


def test_letters_count_where_there_are_no_log_probabilities(served):
    served.logprobs = False
    with pytest.raises(ValueError, match=r"gives no log-probabilities; with --oracle.endpoint.no-logprobs"):
        judge(served).prob(["x"], ["a"], ["b"])
    prob = judge(served, logprobs=False).prob(*PAIRS)
    assert set(prob.tolist()) == {0.0, 1.0}


@pytest.mark.slow
def test_no_more_questions_are_under_way_than_allowed(served):
    served.misdeeds["always"] = "slow"
    judge(served, concurrency=3).prob(*(column[:6] for column in PAIRS))
    assert served.most <= 3


def test_answers_are_kept_in_a_file(served, tmp_path):
    path = str(tmp_path / "kept/answers.sqlite")
    first = judge(served, cache=path).prob(*PAIRS)
    count = served.asked
    assert torch.equal(judge(served, cache=path).prob(*PAIRS), first)
    assert served.asked == count
    judge(served, cache=path, template="{prompt} [Answer A]\n{first}\n\n[ [Answer B]\n{second}").prob(*PAIRS)
    assert served.asked > count


def test_the_key_goes_to_the_endpoint_and_nowhere_else(served, monkeypatch):
    monkeypatch.setenv("REFEREE_KEY", "secret")
    oracle = judge(served, key_variable="REFEREE_KEY")
    oracle.prob(["x"], ["a"], ["b"])
    assert served.questions[0][1]["authorization"] == "Bearer secret"
    assert "secret" not in oracle.description + repr(oracle.config)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"retries": -1}, "endpoint.retries must be at least 0, got -1"),
        ({"concurrency": 0}, "endpoint.concurrency must be at least 1, got 0"),
        ({"template": "{prompt} {first}"}, r"endpoint.template lacks \{second\}"),
        (
            {"template": "{prompt} {first} {second} {reference}"},
            r"has \{reference\}; only \{prompt\}, .* are filled in",
        ),
        ({"format": "words"}, r"endpoint.format must be one of .*'genrm'"),
        ({"votes": 0}, "endpoint.votes must be at least 1"),
        ({"votes": 3, "logprobs": False}, "endpoint.votes at temperature 0 are one vote"),
        ({"votes": 3, "temperature": 1.0}, "log-probabilities are the mean of all votes already"),
        ({"budget": 0}, "endpoint.budget must be at least 1, or None, got 0"),
        ({"format": "genrm", "template": "x"}, "format 'genrm' asks in roles of its own"),
        ({"format": "genrm", "extra": "1"}, "endpoint.extra must be a JSON object"),
        ({"extra": "seed=1"}, "endpoint.extra must be JSON, got 'seed=1'"),
        ({"extra": "[1]"}, "endpoint.extra must be a JSON object"),
        ({"max_tokens": 0}, "endpoint.max_tokens must be at least 1, or None, got 0"),
        ({"top_logprobs": 0}, "endpoint.top_logprobs must be at least 1, got 0"),
        ({"temperature": -1.0}, "endpoint.temperature must be at least 0, or None, got -1.0"),
        ({"least_mass": 1.5}, r"endpoint.least_mass must lie in \[0, 1\], got 1.5"),
    ],
)
def test_wrong_settings_are_told(fields, message):
    with pytest.raises(ValueError, match=message):
        EndpointConfig(**fields)


def test_fields_that_nothing_reads_are_told():
    with pytest.raises(ValueError, match=r"is no address, and nothing reads --oracle.endpoint"):
        make("judge", of="my_lab:shorter", endpoint=EndpointConfig(retries=2))
    with pytest.raises(ValueError, match="a language model is asked for both orders"):
        make("judge", of="http://localhost:1", orders="one")


@pytest.mark.slow
def test_a_run_whose_judge_dies_stops_after_a_whole_step_and_goes_on(served, tmp_path, capsys):
    line = f"--agent ipo --oracle judge --oracle.of {served.address} --oracle.endpoint.backoff 0.01 --run.threads 1"
    line += " --oracle.endpoint.retries 1 --run.batch_size 4 --run.steps 4 --run.eval_every 0 --run.save_every 100"
    assert main([*line.split(), "--run.dir", str(tmp_path / "whole")]) == 0
    asked = served.asked
    served.asked, served.misdeeds = 0, {i: 500 for i in range(asked // 2 + 30, 10 * asked)}
    assert main([*line.split(), "--run.dir", str(tmp_path / "cut")]) == 1
    said = capsys.readouterr().err
    assert "failed 2 times, the last time with 500" in said
    (last,) = steps(tmp_path / "cut")
    assert 1 <= last < 4
    assert f"the run goes on after step {last} with" in said
    assert [line["step"] for line in read_lines(tmp_path / "cut/metrics.jsonl")] == list(range(1, last + 1))
    served.misdeeds = {}
    assert main(["--resume", str(tmp_path / "cut")]) == 0
    whole, cut = (read_lines(tmp_path / name / "metrics.jsonl") for name in ("whole", "cut"))
    for one, other in zip(whole, cut, strict=True):
        for tag in one.keys() - {"wall_time"}:
            assert tag.startswith("time/") or one[tag] == other[tag], tag
