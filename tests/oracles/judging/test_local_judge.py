"""A local model that writes its verdicts, on small random models whose words are verdicts."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from oracles import check_oracle, make
from oracles.judging.endpoint_config import EndpointConfig
from oracles.judging.formats import read_answer
from oracles.judging.local_judge import LocalConfig, LocalJudge
from preference_duel.types import Conversation, Unanswered
from runners.duel import main

MARKS = "<s>", "<end>", "<h>", "</h>"
WORDS = {
    "letters": ("A", "B", " A", "so"),
    "brackets": ("[[A]]", "[[B]]", "[[C]]", "[[D]]", "so"),
    "arena": ("[[A>>B]]", "[[A>B]]", "[[A=B]]", "[[B>A]]", "so"),
    "scores": ("8 7", "7 8", "9 9", "so"),
    "genrm": ('{"ranking": 2}', '{"score_1": 2, "score_2": 4, "ranking": 5}', "so"),
}
"""Answers of a model by format: verdicts, and at the end a word that is none."""
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<h>{{ message['role'] }}</h>{{ message['content'] | trim }}<end>"
    "{% endfor %}{% if add_generation_prompt %}<h>assistant</h>{% endif %}"
)
PROMPTS, RESPONSES = ["hello", "why?"], [["a b", "Ac", "<end>"], ["1 2", "! at length", "A"]]
TRIPLES = [(x, a, b) for x, row in zip(PROMPTS, RESPONSES, strict=True) for a in row for b in row if a != b]
COLUMNS = tuple(map(list, zip(*TRIPLES, strict=True)))
SHORT = {"max_tokens": 5}


def write(folder, name="brackets", seed=0, template=TEMPLATE, words=None, letters=True):
    """Writes a model that says the words of a format, each one token, and ends after a verdict."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    alphabet = [one for one in bytes_to_unicode().values() if letters or one not in "AB"]
    vocabulary = {one: i for i, one in enumerate([*MARKS, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(MARKS))
    tokenizer.add_tokens([word for word in words or WORDS[name] if word not in vocabulary])
    words = [tokenizer.token_to_id(word) for word in words or WORDS[name]]
    verdicts, end = words[:-1], tokenizer.token_to_id("<end>")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="<end>", chat_template=template
    ).save_pretrained(folder)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=tokenizer.get_vocab_size(), hidden_size=16, intermediate_size=16, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=2000, tie_word_embeddings=False,
        )
    )  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.6)
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = layer.mlp.down_proj.weight[0] = 0.0
        read, head = model.model.embed_tokens.weight, model.lm_head.weight
        read[:, 0] = 0.0  # the first place of a state says that a verdict was written, which the end follows
        read[verdicts, 0] = 8.0
        others = [i for i in range(len(head)) if i not in words]
        head[others] = head[:, 0] = 0.0
        head[words[-1]] *= 0.3
        head[end, 0] = 30.0
    model.generation_config = GenerationConfig(do_sample=True, temperature=9.0, repetition_penalty=5.0)  # not ours
    model.save_pretrained(folder)
    return str(folder)


def by_hand(folder, name, question, most=5):
    """The answer of transformers' own greedy decoding, one question at a time, read by the format's reader."""
    tokenizer, model = PreTrainedTokenizerFast.from_pretrained(folder), LlamaForCausalLM.from_pretrained(folder).eval()
    turns = LocalConfig(format=name).messages(question)
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=0)
    tokens = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=most, do_sample=False)[
        0, ids.shape[1] :
    ].tolist()
    whole = tokens[-1] == tokenizer.eos_token_id
    return read_answer(name, tokenizer.decode(tokens, skip_special_tokens=True), cut=not whole)


def judge(folder, name="brackets", unread="drop", **fields):
    return LocalJudge(folder, LocalConfig(format=name, **{"logprobs": False, **SHORT, **fields}), unread)


@pytest.mark.parametrize(("name", "seed"), [("brackets", 8), ("arena", 6), ("scores", 1), ("genrm", 4)])
def test_it_writes_what_greedy_decoding_writes_and_reads_it_as_an_endpoint_is_read(tmp_path, name, seed):
    plain = [(x, a, b) for x, a, b in TRIPLES if "<end>" not in a + b]
    folder = write(tmp_path, name, seed)
    expected = [by_hand(folder, name, question) for question in plain]
    assert len({*expected}) > 2, "the answers of this model tell nothing apart"
    chance = {"first": 1.0, "second": 0.0, "tie": 0.5, "both_bad": 0.5, "unread": -1.0}
    oracle = judge(folder, name, token_budget=3 * 900)
    straight, _ = oracle.both_orders(*zip(*plain, strict=True))
    assert straight.nan_to_num(-1).tolist() == [chance[verdict] for verdict in expected]
    assert oracle.verdicts.total() == 2 * len(plain)


def letter_logits(folder, question):
    """Returns the model's own logits of A, A after a space, and B at the first token of an answer."""
    tokenizer, model = PreTrainedTokenizerFast.from_pretrained(folder), LlamaForCausalLM.from_pretrained(folder).eval()
    turns = LocalConfig().messages(question)
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return model(ids).logits[0, -1, tokenizer.convert_tokens_to_ids(["A", " A", "B"])].double()


def test_letters_are_weighed_as_the_model_weighs_them(tmp_path):
    folder, one = write(tmp_path, "letters"), (["hello"], ["a b"], ["Ac"])
    oracle = judge(folder, "letters", logprobs=True, least_mass=0.0)
    expected = letter_logits(folder, ("hello", "a b", "Ac")).softmax(0)[:2].sum().item()
    assert oracle.both_orders(*one)[0].item() == pytest.approx(expected, abs=1e-5)
    check_oracle(oracle, PROMPTS, RESPONSES)
    assert judge(folder, "letters", logprobs=True, least_mass=1.0).prob(*one).isnan().all()
    with pytest.raises(ValueError, match=r"the letters .* must be one token each"):
        judge(write(tmp_path / "no letters", words=["so"], letters=False), "letters", logprobs=True)


def test_votes_are_drawn_from_the_model_and_are_functions_of_their_seed(tmp_path):
    folder, one = write(tmp_path, "letters", seed=3), (["hello"], ["a b"], ["Ac"])
    votes = {"votes": 120, "temperature": 0.3, "seed": 3}
    drawn = judge(folder, "letters", max_tokens=1, **votes)
    share, _ = drawn.both_orders(*one)
    p = (letter_logits(folder, ("hello", "a b", "Ac")) / 0.3).softmax(0)[:2].sum().item()
    assert 0.1 < p < 0.9
    assert drawn.verdicts["unread"] < 60
    assert share.item() == pytest.approx(p, abs=4 * (p * (1 - p) / 90) ** 0.5)
    folder = write(tmp_path, "brackets")
    few = {**votes, "votes": 3}
    some = [column[:4] for column in COLUMNS]
    whole = judge(folder, **few).prob(*some)
    alone = [judge(folder, **few).prob([x], [a], [b]).item() for x, a, b in TRIPLES[:2]]
    assert whole[:2].tolist() == alone
    assert judge(folder, **{**few, "seed": 4}).prob(*some).tolist() != whole.tolist()


def test_each_question_is_answered_once_until_answers_are_forgotten(tmp_path, monkeypatch):
    oracle, written = judge(write(tmp_path)), []
    ask = oracle._ask
    monkeypatch.setattr(oracle, "_ask", lambda votes: written.extend(votes) or ask(votes))
    first = oracle.both_orders(*COLUMNS)
    assert len(written) == len({*written}) == len(TRIPLES)
    assert torch.equal(torch.stack(first).nan_to_num(-1), torch.stack(oracle.both_orders(*COLUMNS)).nan_to_num(-1))
    assert len(written) == len(TRIPLES)
    oracle.forget()
    oracle.both_orders(*COLUMNS)
    assert len(written) == 2 * len(TRIPLES)


def test_special_tokens_that_are_typed_stay_text(tmp_path):
    oracle = judge(write(tmp_path))
    end = oracle.tokenizer.eos_token_id
    for question in (("x", "a", "b"), ("x<end>", "<end>", "<h>user</h> <end>")):
        assert oracle.encode(question).count(end) == 1


def test_an_answer_without_an_end_is_not_scored(tmp_path):
    oracle = judge(write(tmp_path), max_tokens=1)
    assert oracle.prob(["x"], ["a"], ["b"]).isnan().all()
    with pytest.raises(Unanswered, match="left 1 of 1 pairs unread"):
        judge(str(tmp_path), unread="stop", max_tokens=1).prob(["x"], ["a"], ["b"])


def test_conversations_are_asked_in_the_roles_of_genrm_or_refused(tmp_path):
    talk = Conversation([{"role": "system", "content": "be brief"}, {"role": "user", "content": "x"}])
    oracle = judge(write(tmp_path, "genrm"), "genrm")
    text = oracle.tokenizer.decode(oracle.encode((talk, "a", "b")))
    assert text.endswith(
        "<h>system</h>be brief<end><h>user</h>x<end><h>response_1</h>a<end><h>response_2</h>b<end><h>assistant</h>"
    )
    strict = TEMPLATE.replace(
        "{{ bos_token }}", "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    )
    folder = write(tmp_path / "strict", "genrm", template=strict)
    with pytest.raises(ValueError, match=r"the judge cannot read the prompt .* refuses messages of the roles system"):
        make("judge", of=folder, local=LocalConfig(format="genrm"), prompts=["x", talk])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"endpoint": EndpointConfig(votes=2, temperature=1.0, logprobs=False)},
            "no address, and nothing reads --oracle.endpoint",
        ),
        ({"orders": "one"}, "a language model is asked for both orders"),
    ],
)
def test_settings_that_nothing_reads_are_refused(tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        make("judge", of=write(tmp_path), **fields)


def test_wrong_settings_are_told(tmp_path):
    local = LocalConfig(format="brackets")
    for of, kind in (("tests.oracles.test_judge:shorter", "no model"), ("http://localhost:1", "an address")):
        with pytest.raises(ValueError, match=f"is {kind}, and nothing reads --oracle.local"):
            make("judge", of=of, local=local)
    with pytest.raises(ValueError, match=r"local\.votes at temperature 0 are one vote: set local\.temperature"):
        LocalConfig(format="brackets", votes=2)
    with pytest.raises(ValueError, match="no chat template"):
        judge(write(tmp_path, template=None))
    with pytest.raises(
        ValueError, match=r"question of .* with an answer of 16384 are more; lower --oracle.local.max_t"
    ):
        judge(write(tmp_path), reasoning=True, max_tokens=None).prob(["x"], ["a"], ["b"])
    with pytest.raises(OSError, match="cannot load the judge 'no/folder'"):
        make("judge", of="no/folder")


def test_a_run_is_judged_by_it(tmp_path):
    folder = write(tmp_path / "judge", "letters")
    line = f"--task symbols --task.length 1 --policy tabular --agent ipo --oracle judge --oracle.of {folder}"
    line += " --oracle.local.least_mass 0 --run.steps 1 --run.batch_size 2 --run.eval_every 0 --run.threads 1"
    assert main([*line.split(), "--run.dir", str(tmp_path / "run")]) == 0
