"""A pairwise language model in RLHFlow's format, on a small random checkpoint of that format."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from oracles import check_oracle, make
from oracles.base import ask_pairs
from preference_duel.types import Conversation, Unanswered

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<h>{{ message['role'] }}</h>\n{{ message['content'] | trim }}<end>"
    "{% endfor %}{% if add_generation_prompt %}<h>assistant</h>\n{% endif %}"
)
PROMPTS, RESPONSES = ["hello", "why?"], [["a b", "B", "Ac"], ["1 2", "!", "A"]]
TRIPLES = [(x, a, b) for x, row in zip(PROMPTS, RESPONSES, strict=True) for a in row for b in row if a != b]
COLUMNS = tuple(map(list, zip(*TRIPLES, strict=True)))


def write(folder, template=TEMPLATE, labels=True, context=400):
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = [c for c in bytes_to_unicode().values() if labels or c not in "AB"]
    marks = ["<s>", "<end>", "<h>", "</h>"]
    tokenizer = Tokenizer(models.BPE(vocab={one: i for i, one in enumerate([*marks, *letters])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(marks)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="<end>", chat_template=template
    ).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=300, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=context, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    model.save_pretrained(folder)
    return str(folder)


def by_hand(folder, prompt, first, second, generation=False):
    """The released code, one question at a time, whole logits."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model = LlamaForCausalLM.from_pretrained(folder).eval()
    context = f"\n\n<turn> user\n {prompt}\n"  # transformers' templates drop the line end after a block
    chances = []
    for a, b in ((first, second), (second, first)):
        question = f"[CONTEXT] {context} [RESPONSE A] {a} [RESPONSE B] {b} \n"
        turns = [{"role": "user", "content": question}]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=generation).replace("<s>", "")
        ids = tokenizer.encode(text, return_tensors="pt", add_special_tokens=False)
        with torch.no_grad():
            logits = model(ids).logits[0, -1]
        labels = [tokenizer.encode(label, add_special_tokens=False)[0] for label in "AB"]
        chances.append(logits[labels].softmax(0)[0].item())
    return (chances[0] + 1 - chances[1]) / 2


@pytest.mark.parametrize("fields", [{}, {"add_generation_prompt": True}, {"token_budget": 100}], ids=str)
def test_it_answers_as_the_released_code_does(tmp_path, fields):
    oracle = make("pair_lm", model=write(tmp_path), least_mass=0.0, **fields)
    prob = oracle.prob(*COLUMNS)
    expected = [by_hand(tmp_path, *one, fields.get("add_generation_prompt", False)) for one in TRIPLES]
    assert torch.allclose(prob, torch.tensor(expected), atol=1e-5)
    assert prob.std() > 0.005


def test_it_keeps_the_contract_of_an_oracle(tmp_path):
    check_oracle(make("pair_lm", model=write(tmp_path), least_mass=0.0), PROMPTS, RESPONSES)


def test_pairs_whose_letters_hold_little_of_the_probability_are_unread(tmp_path, caplog):
    columns = [column[:9] for column in COLUMNS]
    oracle = make("pair_lm", model=write(tmp_path))
    assert oracle.leaves_unread
    prob = oracle.prob(*columns)
    different = torch.tensor([a != b for a, b in zip(*columns[1:], strict=True)])
    assert torch.equal(prob.isnan(), different), "equal texts tie without a question"
    assert (oracle.unread.count, oracle.unread.asked) == (int(different.sum()),) * 2
    assert ["left a pair unread" in record.message for record in caplog.records] == [True]
    with pytest.raises(Unanswered, match=r"left \d of 9 pairs unread, and each is needed here"):
        ask_pairs(oracle, *columns)
    with pytest.raises(Unanswered, match="unread='stop': was it trained in this form"):
        make("pair_lm", model=str(tmp_path), unread="stop").prob(*columns)
    many = [f"{x}{i}" for i in range(3) for x in columns[0]]
    with pytest.raises(ValueError, match=r"left \d+ of \d+ pairs unread: was it trained in this form"):
        oracle.prob(many, *(column * 3 for column in columns[1:]))


def test_a_conversation_is_shown_turn_by_turn(tmp_path):
    oracle = make("pair_lm", model=write(tmp_path))
    turns = [{"role": role, "content": text} for role, text in (("user", "hi"), ("assistant", "yo"), ("user", "so?"))]
    text = oracle.tokenizer.decode(oracle.encode(Conversation(turns), "a", "b"))
    assert "<turn> user\n hi\n<turn> assistant\n yo\n<turn> user\n so?" in text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"template": None}, "has no chat template"),
        ({"labels": False}, "must be one token each"),
    ],
)
def test_an_unsuitable_tokenizer_is_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        make("pair_lm", model=write(tmp_path, **settings))


def test_long_questions_missing_models_and_wrong_temperatures_are_refused(tmp_path):
    oracle = make("pair_lm", model=write(tmp_path, context=60))
    with pytest.raises(ValueError, match=r"reads 60 ids and a question has \d+; lower the task's"):
        oracle.prob(["x" * 50], ["a"], ["b"])
    with pytest.raises(OSError, match=r"no directory './nowhere', and it is no hub id"):
        make("pair_lm", model="./nowhere")
    with pytest.raises(ValueError, match="temperature must be positive"):
        make("pair_lm", model=str(tmp_path), temperature=0.0)
    with pytest.raises(ValueError, match=r"unread must be one of \('drop', 'stop'\), got 'draw'"):
        make("pair_lm", model=str(tmp_path), unread="draw")
