"""Files of prompts hold what their lines say, odd texts survive, and what is wrong is named with its line."""

import copy
import json
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs import make_task
from envs.tasks.prompts import cut
from envs.tasks.tokenizers import ListTokenizer
from preference_duel.types import Conversation
from tests.envs.tasks.letters import ODD, Letters


def prompt_lines(*prompts):
    return [{"prompt": prompt} for prompt in prompts]


def test_odd_text_survives(write):
    path = write(prompt_lines(*ODD, "w" * 200))
    task = make_task(path, tokenizer=Letters(), held_out_share=0.0, max_prompt_tokens=200)
    assert task.prompts == task.held_out == (*ODD, "w" * 200)


@settings(max_examples=40, deadline=None)
@given(prompts=st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=8), ascii_only=st.booleans())
def test_any_text_survives(tmp_path_factory, prompts, ascii_only):
    path = tmp_path_factory.mktemp("prompts") / "any.jsonl"
    lines = [json.dumps({"prompt": prompt}, ensure_ascii=ascii_only) for prompt in prompts]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\r\n")
    task = make_task(str(path), tokenizer=Letters(), held_out_share=0.0, max_prompt_tokens=10_000)
    assert task.prompts == tuple(prompts)


def test_other_fields_blank_lines_and_a_byte_order_mark_are_passed_over(write):
    path = write(b'\xef\xbb\xbf{"prompt": "one", "id": 7}\r\n\r\n  \n{"id": 8, "prompt": "two"}\n')
    assert make_task(path, held_out_share=0.0).prompts == ("one", "two")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"prompt": "a"}\n{"prompt": "b"', r"prompts\.jsonl:2: broken JSON: .*\(column 15\)"),
        (b'{"prompt": "a"}\n\n{"promt": "b"}', r"prompts\.jsonl:3: has no field 'prompt'; did you mean 'promt'\?"),
        (b'{"prompt": "a"}\n"b"', r"""prompts\.jsonl:2: must be \{"prompt": "\.\.\."\}, got 'b'"""),
        (b"", r"prompts\.jsonl: has no prompts"),
        (b"\n \n", r"prompts\.jsonl: has no prompts"),
        (b'{"prompt": ""}', r"prompts\.jsonl:1: prompt is empty"),
        (b'{"prompt": "a"}\n{"prompt": " \\n "}', r"prompts\.jsonl:2: prompt is empty"),
        (b'{"prompt": 3}', r"prompts\.jsonl:1: prompt must be text or a list of messages, got 3"),
        (b'{"prompt": []}', r"prompts\.jsonl:1: prompt must be text or a list of messages, got \[\]"),
        (b'{"prompt": "a"}\n{"prompt": "\xe9"}', r"prompts\.jsonl:2: not UTF-8 \(byte 12\); save the file as UTF-8"),
        (b'{"prompt": "\\ud83d"}', r"prompts\.jsonl:1: prompt has half a surrogate pair"),
        (b'{"prompt": "a", "split": "test"}', r"prompts\.jsonl:1: split must be 'train' or 'held_out', got 'test'"),
        (b'{"prompt": "a", "split": "train"}\n{"prompt": "b"}', r":2: 'split' must be on every line or on none"),
        (b'{"prompt": "a", "split": "train"}', r"prompts\.jsonl:1\.\.\.: no line is marked 'held_out'"),
    ],
)
def test_a_broken_file_names_the_line(write, content, message):
    with pytest.raises(ValueError, match=message):
        make_task(write(content))


def test_a_prompt_outside_the_vocabulary_names_the_line(write):
    path = write(prompt_lines("ab", "xy"))
    with pytest.raises(ValueError, match=r"prompts\.jsonl:2: no token for 'xy'"):
        make_task(path, tokenizer=ListTokenizer(["a", "b"]))

    class Mute(Letters):
        def encode(self, text):
            return []

    with pytest.raises(ValueError, match=r"prompts\.jsonl:1: no token of this vocabulary stands for the prompt 'ab'"):
        make_task(path, tokenizer=Mute(), held_out_share=0.0)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_the_held_out_share_depends_on_the_texts_alone(tmp_path_factory, data):
    texts = data.draw(st.lists(st.sampled_from([f"p{i}" for i in range(40)]), min_size=2, max_size=40, unique=True))
    shuffled = data.draw(st.permutations(texts))
    share = data.draw(st.sampled_from([0.1, 0.3, 0.5, 0.9]))
    tasks = []
    for name, prompts in (("a", texts), ("b", shuffled)):
        path = tmp_path_factory.mktemp("split") / f"{name}.jsonl"
        path.write_text("\n".join(json.dumps({"prompt": prompt}) for prompt in prompts))
        tasks.append(make_task(str(path), held_out_share=share, tokenizer=Letters()))
    assert set(tasks[0].held_out) == set(tasks[1].held_out)
    assert sorted(tasks[0].prompts + tasks[0].held_out) == sorted(texts)
    assert len(tasks[0].held_out) == min(max(round(share * len(texts)), 1), len(texts) - 1)


def test_equal_prompts_stay_on_one_side(write):
    path = write(prompt_lines(*(f"p{i % 10}" for i in range(40))))
    task = make_task(path, held_out_share=0.5)
    assert (len(task.prompts), len(task.held_out)) == (20, 20)
    assert not set(task.prompts) & set(task.held_out)
    assert make_task(path, held_out_share=0.5, split_seed=1).held_out != task.held_out


def test_one_prompt_is_trained_and_evaluated_on(write):
    task = make_task(write(prompt_lines("hi")))
    assert task.prompts == task.held_out == ("hi",)


def test_held_out_prompts_come_from_marks_or_a_file_of_their_own(write):
    marked = write([{"prompt": "a", "split": "held_out"}, {"prompt": "b", "split": "train"}], "marked.jsonl")
    plain = write(prompt_lines("c", "d"), "plain.jsonl")
    task = make_task(marked)
    assert (task.prompts, task.held_out) == (("b",), ("a",))
    task = make_task(plain, held_out=write(prompt_lines("e"), "own.jsonl"))
    assert (task.prompts, task.held_out) == (("c", "d"), ("e",))
    with pytest.raises(ValueError, match=r"marked\.jsonl marks its held-out prompts itself"):
        make_task(marked, held_out=plain)
    with pytest.raises(ValueError, match=r"held_out_share must lie in \[0, 1\), got 1"):
        make_task(plain, held_out_share=1.0)


def test_long_prompts_are_counted_and_the_longest_is_named(write):
    path = write(prompt_lines("short", "x" * 30, "y" * 40, "y" * 40))
    with pytest.raises(
        ValueError, match=r"2 of 3 prompts .* max_prompt_tokens=20; the longest has 40 \(prompts\.jsonl:3\)"
    ):
        make_task(path, tokenizer=Letters(), max_prompt_tokens=20)


def test_long_prompts_are_cut_only_when_asked_and_counted(write):
    path = write(prompt_lines("short", "x" * 30 + "end"))
    task = make_task(path, tokenizer=Letters(), max_prompt_tokens=20, cut_long=True, held_out_share=0.0)
    assert task.prompts == task.held_out == ("short", "x" * 17 + "end")
    assert task.cut == 1
    assert make_task(path, tokenizer=Letters(), max_prompt_tokens=33, cut_long=True).cut == 0


@given(st.text(min_size=1).filter(str.strip), st.integers(1, 60))
def test_a_cut_is_the_longest_end_that_fits(text, limit):
    if text[-limit:].strip():
        assert cut(text, Letters(), limit) == text[-limit:]
    else:
        with pytest.raises(ValueError, match="leaves nothing of the prompt"):
            cut(text, Letters(), limit)


def turns(*pairs):
    return Conversation([{"role": role, "content": content} for role, content in pairs])


def test_a_conversation_loses_its_oldest_turns_first():
    long = turns(("system", "be"), ("user", "a" * 9), ("assistant", "b" * 9), ("user", "c" * 9))
    assert cut(long, Letters(), len(long) - 1) == turns(("system", "be"), ("user", "c" * 9))
    assert cut(long, Letters(), 22) == turns(("system", "be"), ("user", "c" * 5))
    kept = cut(long, Letters(), 22)
    assert isinstance(kept, Conversation)
    assert kept.messages[-1] == {"role": "user", "content": "ccccc"}
    with pytest.raises(ValueError, match="max_prompt_tokens=10 leaves nothing"):
        cut(long, Letters(), 10)


def test_messages_become_a_conversation_that_survives_copies(write):
    messages = [
        {"role": "system", "content": ""},
        {"role": "user", "content": "مرحبا 🦊"},
        {"role": "assistant", "content": "hi"},
        {"role": "user", "content": "two\nlines"},
    ]
    task = make_task(write(prompt_lines(messages)))
    for prompt in (task.prompts[0], copy.deepcopy(task.prompts[0]), pickle.loads(pickle.dumps(task.prompts[0]))):
        assert isinstance(prompt, Conversation)
        assert prompt == "SYSTEM: \nUSER: مرحبا 🦊\nASSISTANT: hi\nUSER: two\nlines"
        assert prompt.messages == tuple(messages)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([{"role": "assistant", "content": "b"}], "the last message must be the user's, got role 'assistant'"),
        ([{"role": "user", "content": " "}], "the last message is empty"),
        ([{"role": "user"}], r"message 0 must be \{'role': text, 'content': text\}, got \{'role': 'user'\}"),
        (["hi"], r"message 0 must be .* got 'hi'"),
        ([{"role": "user", "content": ["x"]}], "message 0 must be"),
        ([{"role": "", "content": "x"}], "message 0 must be"),
    ],
)  # fmt: skip
def test_messages_that_are_no_conversation_are_refused(write, messages, message):
    with pytest.raises(ValueError, match=rf"prompts\.jsonl:2: .*{message}"):
        make_task(write(prompt_lines("fine", messages)))
