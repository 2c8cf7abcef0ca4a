"""Tasks hold what their source says, odd texts survive, and bad input is named with its file and line."""

import dataclasses
import inspect
import json
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from envs import make_task
from envs.tasks.task import FILES, HUB, TASKS, task_config
from preference_duel.names import UnknownNameError, find
from tests.envs.tasks.letters import ODD, Letters
from tests.paths import GOLDEN

GAMES = GOLDEN / "games"


@pytest.mark.parametrize(
    ("name", "config", "preset"),
    [
        ("chat", "ChatConfig", {}),
        ("symbols", "SymbolsConfig", {}),
        ("dir/my.prompts.jsonl", "PromptFileConfig", {"path": "dir/my.prompts.jsonl"}),
        ("C:\\games\\rps.json", "GameFileConfig", {"path": "C:\\games\\rps.json"}),
        ("hf:org/data", "HubConfig", {"path": "org/data"}),
        ("hf:local.json", "HubConfig", {"path": "local.json"}),
    ],
)
def test_a_name_says_which_configuration_and_what_it_sets(name, config, preset):
    config_class, fields = task_config(name)
    assert (config_class.__name__, fields) == (config, preset)


def test_an_outside_task_is_found_beside_the_working_directory(write, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    write(
        "from dataclasses import dataclass\nfrom envs import make_task\n\n@dataclass(frozen=True)\nclass Config:\n"
        "    count: int = 2\n\n    def build(self, *, tokenizer=None):\n"
        "        return make_task('symbols', prompts=self.count)\n",
        "outside_task_module.py",
    )
    config, preset = task_config("outside_task_module:Config")
    assert (config.__name__, preset) == ("Config", {})
    assert make_task("outside_task_module:Config", count=3).prompts == ("#0", "#1", "#2")


def test_unknown_names_and_fields_suggest_the_nearest():
    with pytest.raises(
        UnknownNameError, match=r"unknown task 'symbol'; did you mean 'symbols'\? Known: chat, symbols, rps, "
    ):
        make_task("symbol")
    with pytest.raises(UnknownNameError, match=r"unknown task 'prompts\.txt'\. Known: .*FILE\.jsonl"):
        make_task("prompts.txt")
    with pytest.raises(UnknownNameError, match="'symbols' has no field 'lenght'; did you mean 'length'"):
        make_task("symbols", lenght=2)
    with pytest.raises(UnknownNameError, match=r"'x\.jsonl' has no field 'cut'; did you mean 'cut_long'"):
        make_task("x.jsonl", cut=True)


def test_every_field_has_a_help_line():
    for path in [*TASKS.values(), *FILES.values(), HUB]:
        config = find("task", path, {})
        source = "".join(map(inspect.getsource, config.__mro__[:-1]))
        for field in dataclasses.fields(config):
            line = source.split(f"\n    {field.name}:")[1].split("\n")[1]
            assert line.strip().startswith('"""'), f"{config.__name__}.{field.name}"


def test_symbols_list_every_string_of_the_length():
    task = make_task("symbols", alphabet=3, length=2, prompts=2)
    assert task.response_texts == ("aa", "ab", "ac", "ba", "bb", "bc", "ca", "cb", "cc")
    assert task.prompts == task.held_out == task.all_prompts == ("#0", "#1")
    assert task.min_new_tokens == task.max_new_tokens == 2
    legal = [task.tokenizer.decode([i]) for i in task.response_tokens.nonzero()[0]]
    assert legal == ["a", "b", "c"]
    assert [len(task.tokenizer.encode(prompt)) for prompt in task.prompts] == [task.max_prompt_tokens] * 2


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 6), st.integers(1, 4), st.integers(1, 5))
def test_finite_responses_are_their_tokens(alphabet, length, prompts):
    task = make_task("symbols", alphabet=alphabet, length=length, prompts=prompts)
    assert task.responses is not None
    assert len({response.text for response in task.responses}) == alphabet**length
    for response in task.responses:
        assert response.tokens is not None
        assert task.tokenizer.decode(response.tokens) == response.text
        assert task.response_tokens[list(response.tokens)].all()
        assert len(response.tokens) == task.max_new_tokens


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"alphabet": 1}, "alphabet must be 2 to 52 letters, got 1"),
        ({"alphabet": 53}, "alphabet must be 2 to 52 letters, got 53"),
        ({"length": 0}, "length and prompts must be at least 1, got 0 and 4"),
        ({"prompts": 0}, "length and prompts must be at least 1, got 3 and 0"),
        ({"alphabet": 2, "length": 21}, r"2 \*\* 21 responses are more than 1048576"),
        ({"alphabet": 52, "length": 10**9}, "responses are more than 1048576"),
    ],
)
def test_symbols_out_of_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        make_task("symbols", **fields)


def test_a_game_file_is_one_token_per_response():
    task = make_task(str(GAMES / "rps.json"))
    assert task.response_texts == ("rock", "paper", "scissors")
    assert task.prompts == task.held_out == ("rock-paper-scissors",)
    assert [response.tokens for response in task.responses or ()] == [(2,), (3,), (4,)]
    assert task.min_new_tokens == task.max_new_tokens == task.max_prompt_tokens == 1
    assert not task.response_tokens[task.tokenizer.encode("rock-paper-scissors")].any()
    assert task.prob is not None
    assert torch.allclose(task.prob[0], torch.tensor([0.5, 0.1, 0.9]).double(), atol=1e-7)


def test_game_texts_may_contain_each_other_and_be_odd(write):
    responses = ["a", "ab", "abc", "b", *ODD]
    task = make_task(write(json.dumps({"prompts": ["abcd", "a"], "responses": responses}), "g.json"))
    assert task.response_texts == tuple(responses)
    assert all(len(response.tokens or ()) == 1 for response in task.responses or ())
    assert all(len(task.tokenizer.encode(prompt)) == 1 for prompt in task.prompts)
    assert task.prob is None


def test_a_game_file_that_is_none_names_the_place(write):
    with pytest.raises(ValueError, match=r"g\.json:1: broken JSON"):
        make_task(write("{", "g.json"))
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        make_task("none.json")


def test_finite_tasks_have_a_vocabulary_of_their_own():
    for name in ("symbols", str(GAMES / "rps.json")):
        assert task_config(name)[0].finite
        with pytest.raises(ValueError, match="vocabulary of its own; leave tokenizer out"):
            make_task(name, tokenizer=Letters())


def test_a_task_of_text_lists_no_responses(write):
    task = make_task(write('{"prompt": "hi"}', "prompts.jsonl"))
    with pytest.raises(ValueError, match=r"'prompts\.jsonl' lists no responses; use 'symbols'"):
        _ = task.response_texts


def test_chat_has_prompts_of_its_own_for_evaluation():
    task = make_task("chat")
    assert len(task.prompts) >= 200
    assert len(task.held_out) >= 128
    assert not set(task.prompts) & set(task.held_out)
    assert task.cut == 0
    assert max(len(task.tokenizer.encode(prompt)) for prompt in task.all_prompts) <= task.max_prompt_tokens
    assert not task.response_tokens[[task.tokenizer.eos_id, task.tokenizer.pad_id]].any()


def test_chat_speaks_the_vocabulary_of_another_policy():
    with pytest.raises(ValueError, match="480 of 480 prompts are longer than max_prompt_tokens=10; the longest has"):
        make_task("chat", tokenizer=Letters(), max_prompt_tokens=10)
    task = make_task("chat", tokenizer=Letters(), max_prompt_tokens=80)
    assert (task.tokenizer.vocab_size, len(task.response_tokens)) == (1000, 1000)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_new_tokens": 0}, "must be at least 1, got 24 and 0"),
        ({"max_prompt_tokens": 0}, "must be at least 1, got 0 and 28"),
        ({"min_new_tokens": 29}, r"min_new_tokens must lie in \[0, 28\], got 29"),
        ({"min_new_tokens": -1}, r"min_new_tokens must lie in \[0, 28\], got -1"),
    ],
)
def test_limits_that_no_response_meets_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        make_task("chat", **fields)
