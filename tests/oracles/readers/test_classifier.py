import json
import logging
import shutil

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from oracles.base import payoff
from oracles.check import check_oracle
from oracles.readers.classifier import ReaderConfig, RewardModel
from oracles.registry import make
from tests.paths import GOLDEN

WORDS = ["<pad>", "<s>", "</s>", "[CLS]", "[SEP]", "user", "assistant", *"abcdefghijklm"]
SMALL = {"vocab_size": len(WORDS), "num_labels": 1, "max_position_embeddings": 64}
TEMPLATE = "{% for m in messages %}<s> {{ m['role'] }} {{ m['content'] }} </s> {% endfor %}"
PROMPTS = ["a b", "c"]
RESPONSES = [["d e f", "g", "h i j k l m", "d e f"], ["a", "b b", "", "c d e"]]


def backend(pair: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if pair:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 3), ("[SEP]", 4)]
        )
    return tokenizer


def written(folder, network, pair=False, **tokens):
    """Writes a reward model of random weights large enough that rewards differ by about one."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.25)
    network.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=backend(pair), **tokens).save_pretrained(folder)
    return str(folder)


def llama(folder, pad=0, template=TEMPLATE, **tokens):
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    network = LlamaForSequenceClassification(LlamaConfig(**SMALL, **sizes, pad_token_id=pad))
    tokens = {"eos_token": "</s>", "bos_token": "<s>", "chat_template": template} | tokens
    return written(folder, network, **tokens)


def bert(folder, labels=1):
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    network = BertForSequenceClassification(BertConfig(**SMALL | {"num_labels": labels}, **sizes))
    return written(folder, network, pair=True, pad_token="<pad>", sep_token="[SEP]", cls_token="[CLS]")


def gpt2(folder):
    network = GPT2ForSequenceClassification(
        GPT2Config(
            **{k: v for k, v in SMALL.items() if k != "max_position_embeddings"},
            n_positions=64,
            n_embd=32,
            n_layer=2,
            n_head=4,
            bos_token_id=1,
            eos_token_id=2,
        )
    )
    return written(folder, network, eos_token="</s>", pad_token="</s>", padding_side="left")


def ids(text: str) -> list[int]:
    return [WORDS.index(word) for word in text.split()]


def library_reward(oracle, *rows: list[int], **inputs) -> list[float]:
    """Returns what the library gives for one unpadded input at a time."""
    with torch.no_grad():
        return [oracle.rewards.network(torch.tensor([row]), **inputs).logits.item() for row in rows]


@pytest.mark.parametrize("make_model", [llama, bert, gpt2], ids=lambda f: f.__name__)
def test_reward_models_keep_the_promises_of_an_oracle(tmp_path, make_model):
    oracle = make("bt", model=make_model(tmp_path))
    check_oracle(oracle, PROMPTS, RESPONSES)
    prob = payoff(oracle, PROMPTS, RESPONSES)
    assert prob.dtype == torch.float32
    assert prob.std() > 0.05


def test_a_chat_template_is_filled(tmp_path):
    oracle = make("bt", model=llama(tmp_path))
    assert oracle.rewards.form == "chat"
    assert oracle.rewards.encode("a b", "d e")[0] == ids("<s> user a b </s> <s> assistant d e </s>")
    rewards = oracle.rewards(["a b", "c"], ["d e", "f"])
    rows = ids("<s> user a b </s> <s> assistant d e </s>"), ids("<s> user c </s> <s> assistant f </s>")
    assert rewards.tolist() == pytest.approx(library_reward(oracle, *rows), abs=1e-5)


def test_a_conversation_keeps_its_turns(tmp_path):
    class Talk(str):
        messages = (
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c"},
        )

    oracle = make("bt", model=llama(tmp_path))
    turns = "<s> user a </s> <s> assistant b </s> <s> user c </s> <s> assistant d </s>"
    assert oracle.rewards.encode(Talk("a b c"), "d")[0] == ids(turns)


def test_without_a_template_a_separator_makes_a_pair(tmp_path):
    oracle = make("bt", model=bert(tmp_path))
    assert oracle.rewards.form == "pair"
    row, segments = oracle.rewards.encode("a b", "d")
    assert (row, segments) == (ids("[CLS] a b [SEP] d [SEP]"), [0, 0, 0, 0, 1, 1])
    alone = library_reward(oracle, row, token_type_ids=torch.tensor([segments]))
    assert oracle.rewards(["a b", "c"], ["d", "a b c d e f"])[:1].tolist() == pytest.approx(alone, abs=1e-5)


def test_without_either_the_texts_are_joined(tmp_path):
    oracle = make("bt", model=llama(tmp_path, template=None))
    assert oracle.rewards.form == "join"
    assert oracle.rewards.encode("a b ", "d")[0] == ids("a b d")


@pytest.mark.parametrize("pad", [0, 2, None])
def test_the_last_token_of_each_text_is_pooled(tmp_path, pad):
    oracle = make("bt", model=llama(tmp_path, pad=pad), reader=ReaderConfig(cache_size=0))
    texts = ["d", "e f g h", "i j k l m a b c", "d e", "</s> </s>", "a <pad>"]
    together = oracle.rewards(["a"] * len(texts), texts)
    oracle.rewards.network.config.pad_token_id = pad
    rows = [oracle.rewards.encode("a", text)[0] for text in texts]
    assert together.tolist() == pytest.approx(library_reward(oracle, *rows), abs=1e-5)
    assert together.unique().numel() > 3


def test_the_reward_of_a_bfloat16_model_is_not_rounded_to_bfloat16(tmp_path):
    model = llama(tmp_path)
    reader = RewardModel.load(model, ReaderConfig(dtype="bfloat16"), "cpu")
    rewards = reader(PROMPTS, ["d e f", "g h"])
    plain = LlamaForSequenceClassification.from_pretrained(model, dtype=torch.bfloat16)
    for prompt, response, reward in zip(PROMPTS, ["d e f", "g h"], rewards, strict=True):
        ids = torch.tensor([reader.encode(prompt, response)[0]])
        with torch.no_grad():
            state = plain.model(input_ids=ids).last_hidden_state[0, -1].float()
        assert reward.item() == pytest.approx((plain.score.weight.float() @ state).item(), abs=1e-5)
    assert not torch.equal(rewards, rewards.bfloat16().float())


def test_left_padding_of_the_tokenizer_does_not_matter(tmp_path):
    oracle = make("bt", model=gpt2(tmp_path))
    rows = ids("a b d e f"), ids("a b g")
    found = oracle.rewards(["a b "] * 2, ["d e f", "g"])
    assert found.tolist() == pytest.approx(library_reward(oracle, *rows), abs=1e-5)


def test_each_response_is_read_once(tmp_path, monkeypatch):
    oracle = make("bt", model=llama(tmp_path), reader=ReaderConfig(token_budget=30))
    read, forward = [], oracle.rewards._read
    monkeypatch.setattr(oracle.rewards, "_read", lambda inputs: read.append(inputs) or forward(inputs))
    payoff(oracle, PROMPTS, RESPONSES)
    assert sum(map(len, read)) == 7
    assert all(len(inputs) * max(len(row) for row, _ in inputs) <= 30 for inputs in read)
    oracle.prob(["c"], ["a"], ["b b"])
    assert sum(map(len, read)) == 7


def test_long_texts_are_cut_counted_and_reported_once(tmp_path, caplog):
    oracle = make("bt", model=llama(tmp_path), reader=ReaderConfig(max_length=8))
    with caplog.at_level(logging.WARNING):
        assert oracle.rewards.encode("a b c d e f", "g h")[0] == ids("e f </s> <s> assistant g h </s>")
        oracle.rewards(["a"] * 2, ["b", "c " * 100])
    assert oracle.rewards.cut == 2
    assert len(caplog.records) == 1
    assert make("bt", model=llama(tmp_path)).rewards.limit == 64


def test_a_long_pair_keeps_both_beginnings(tmp_path):
    oracle = make("bt", model=bert(tmp_path), reader=ReaderConfig(max_length=9))
    assert oracle.rewards.encode("a b c d e f", "g h")[0] == ids("[CLS] a b c d [SEP] g h [SEP]")
    assert oracle.rewards.encode("a b", "d e f g h i j k")[0] == ids("[CLS] a b [SEP] d e f g [SEP]")
    assert oracle.rewards.cut == 2


def test_a_tokenizer_file_is_read_as_it_stands(tmp_path):
    path = bert(tmp_path)
    golden = GOLDEN / "pairrm" / "PairRM" / "tokenizer.json"
    shutil.copy(golden, path)
    marks = {"unk_token": "[UNK]", "sep_token": "[SEP]", "cls_token": "[CLS]", "pad_token": "[PAD]"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "DebertaV2Tokenizer", **marks}))
    oracle = make("bt", model=path)
    text = "Great 🎉🎉 — thank you…"
    wanted = Tokenizer.from_file(str(golden)).encode(text, "b").ids
    assert oracle.rewards.encode(text, "b")[0] == wanted
    assert AutoTokenizer.from_pretrained(path)(text, "b").input_ids != wanted, "the library can be used again"


def test_classifiers_with_more_labels_are_refused(tmp_path):
    with pytest.raises(ValueError, match="a reward model has one label, this one has 3"):
        make("bt", model=bert(tmp_path, labels=3))


def test_a_model_without_its_head_is_refused(tmp_path):
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    path = written(tmp_path, LlamaForCausalLM(LlamaConfig(**SMALL, **sizes)), eos_token="</s>")
    with pytest.raises(ValueError, match=r"no whole reward model, it lacks the tensors \['score.weight'\]"):
        make("bt", model=path)


def test_a_form_that_the_tokenizer_cannot_make_is_refused(tmp_path):
    path = bert(tmp_path)
    with pytest.raises(ValueError, match="form 'chat' needs a tokenizer with a chat template"):
        make("bt", model=path, reader=ReaderConfig(form="chat"))
    with pytest.raises(ValueError, match="form must be auto, chat, pair, join, got 'both'"):
        make("bt", model=path, reader=ReaderConfig(form="both"))


def test_texts_without_ids_are_refused(tmp_path):
    with pytest.raises(ValueError, match="makes no ids"):
        make("bt", model=llama(tmp_path, template=None)).prob([""], ["a"], [""])


def test_weights_that_overflow_are_reported(tmp_path):
    oracle = make("bt", model=llama(tmp_path))
    torch.nn.init.constant_(oracle.rewards.network.score.weight, float("inf"))
    with pytest.raises(ValueError, match="try dtype='float32'"):
        oracle.prob(["a"], ["b"], ["c"])


def test_a_model_out_of_reach_is_an_error_that_says_what_to_pass(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"no directory './nowhere'.*no model for a reward drawn at random"):
        make("bt", model="./nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"cannot load the reward model(.|\n)*pass a directory"):
        make("bt", model=str(tmp_path / "empty"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match=r"cannot load the reward model 'no-one/none'(.|\n)*pass a directory"):
        make("bt", model="no-one/none")
