"""Rows that a policy can't read or write, found before the first step."""

import json

import pytest

from runners.duel import main
from runners.evaluate import main as evaluate
from runners.fit_oracle import main as fit_oracle
from tests.oracles.readers.test_typed_marks import REFUSING, reward_model
from tests.oracles.test_pair_lm import TEMPLATE as CHAT
from tests.tiny_models import tiny_model

GOOD = [{"prompt": f"How do I fold shirt {i}?", "chosen": "Lay it flat.", "rejected": "Shirts."} for i in range(11)]
LONG = {"prompt": "How do I fold a coat?", "chosen": "Fold it. " * 40, "rejected": "Coats."}
SHORT = ["--run.steps", "2", "--run.eval_every", "0", "--run.batch_size", "4", "--agent", "dpo", "--agent.no-average"]


TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    " <start> {{ m['role'] }} {{ m['content'] }} <end>{% endfor %}{% if add_generation_prompt %} <start> bot{% endif %}"
)


@pytest.fixture(scope="module")
def worded(tmp_path_factory):
    """A model over whole words whose chat template refuses system messages."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("worded")
    words = ["<pad>", "<end>", "<start>", "<unk>", "user", "bot", "how", "are", "you", "yes", "no", "fine"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "eos_token": "<end>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(
        tokenizer_object=backend, additional_special_tokens=["<start>"], chat_template=TEMPLATE, **special
    ).save_pretrained(folder)
    tiny_model("llama", len(words), 64).save_pretrained(folder)
    return str(folder)


def write(path, *records):
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return str(path)


def run(tmp_path, *words):
    return main([*words, *SHORT, "--run.dir", str(tmp_path / "run")])


def test_a_response_that_is_too_long_stops_before_the_first_step(tmp_path, capsys):
    data = write(tmp_path / "pairs.jsonl", *GOOD, LONG)
    assert run(tmp_path, "--run.data", data) == 1
    said = capsys.readouterr().err
    assert f"{data}:12: the response" in said
    assert "tokens, more than the limit of" in said
    assert "1 of 12 preferences can't be learned" in said
    assert "--run.unwritable cut" in said
    assert "--resume" not in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("way", "count", "line"),
    [
        ("skip", 11, "  skipped 1: longer than the policy's limit (FILE:12)"),
        ("cut", 12, "  cut 1: longer than the policy's limit (FILE:12)"),
    ],
)
def test_it_is_left_out_or_cut_on_request(way, count, line, tmp_path, capsys):
    data = write(tmp_path / "pairs.jsonl", *GOOD, LONG)
    assert run(tmp_path, "--run.data", data, "--run.unwritable", way, "--run.batch_size", "None") == 0
    said = capsys.readouterr().out
    assert f"{data}: 12 rows (chosen_rejected), {count} preferences" in said
    assert line.replace("FILE", data) in said


def test_a_response_that_is_too_short_is_named(tmp_path, capsys):
    data = write(tmp_path / "pairs.jsonl", *GOOD)
    assert run(tmp_path, "--run.data", data, "--task", "chat", "--task.min_new_tokens", "8") == 1
    said = capsys.readouterr().err
    assert f"{data}:1: the response" in said
    assert "fewer than min_new_tokens=8" in said


def test_half_a_surrogate_pair_in_a_response_is_named(tmp_path, capsys):
    broken = {"prompt": "How do I sharpen a knife?", "chosen": "Draw it. \ud83d", "rejected": "Knives."}
    data = write(tmp_path / "pairs.jsonl", GOOD[0], broken)
    assert run(tmp_path, "--run.data", data) == 1
    assert f"{data}:2: chosen has half a surrogate pair" in capsys.readouterr().err
    for kind in ("bt", "pairrm"):
        assert fit_oracle(["--data", data, "--kind", kind, "--out", str(tmp_path / kind)]) == 1
        assert f"{data}:2: chosen has half a surrogate pair" in capsys.readouterr().err


def test_a_word_outside_of_the_vocabulary_is_named(worded, tmp_path, capsys):
    data = write(tmp_path / "pairs.jsonl", {"prompt": "how are you", "chosen": "yes maybe", "rejected": "no"})
    prompts = write(tmp_path / "prompts.jsonl", {"prompt": "how are you"})
    words = ["--task", prompts, "--policy", worded, "--oracle", "length_bias"]
    assert run(tmp_path, "--run.data", data, *words) == 1
    said = capsys.readouterr().err
    assert f"{data}:1: the response 'yes maybe'" in said
    assert "'<unk>', which the policy never writes" in said


def test_a_role_that_the_template_refuses_is_named(worded, tmp_path, capsys):
    system = [{"role": "system", "content": "you are fine"}, {"role": "user", "content": "how are you"}]
    prompts = write(tmp_path / "prompts.jsonl", {"prompt": "how are you"}, {"prompt": system})
    words = ["--task", prompts, "--task.held_out_share", "0", "--policy", worded, "--oracle", "length_bias"]
    assert main([*words, "--run.steps", "3", "--run.dir", str(tmp_path / "run")]) == 1
    said = capsys.readouterr().err
    assert f"{prompts}:2: the model's chat template refuses messages of the roles system, user" in said
    assert "System role not supported" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["duel", "fit_oracle", pytest.param("evaluate", marks=pytest.mark.slow)])
def test_a_role_that_a_judges_template_refuses_is_named(command, tmp_path, capsys):
    model = reward_model(tmp_path / "judge", REFUSING + CHAT)
    system = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "how are you"}]
    rows = [{"prompt": "how are you"}, {"prompt": system}]
    rows = [row | {"chosen": "fine", "rejected": "no"} for row in rows]
    data, task = write(tmp_path / "rows.jsonl", *rows), ["--task.held_out_share", "0"]
    if command == "fit_oracle":
        assert fit_oracle(["--data", data, "--kind", "bt", "--base", model, "--out", str(tmp_path / "bt")]) == 1
    elif command == "duel":
        assert run(tmp_path, "--task", data, *task, "--oracle", "bt", "--oracle.model", model) == 1
    else:
        assert run(tmp_path, "--task", data, *task, "--oracle", "length_bias", "--agent.no-average") == 0
        assert evaluate([str(tmp_path / "run"), "--oracle", f"bt,model={model}"]) == 1
    written = capsys.readouterr().err
    assert f"{data}:2: the reward model cannot read the prompt 'SYSTEM: be kind" in written
    assert "System role not supported" in written
