"""A general preference model in its published format, on a small random checkpoint."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, PreTrainedTokenizerFast

from oracles import check_oracle, make
from tests.oracles.test_pair_lm import COLUMNS, PROMPTS, RESPONSES, TRIPLES, write

PLANES = 3


def published(folder, prompt_head=True, rows=2 * PLANES):
    write(folder)
    tensors = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(1)
    tensors["value_head.weight"] = torch.randn(rows, 32, generator=generator)
    if prompt_head:
        tensors["prompt_head.weight"] = torch.randn(PLANES, 32, generator=generator)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


def by_hand(folder, prompt, first, second, tau=0.1):
    """The released recipe, one response at a time, with its matrices written out."""
    tensors = load_file(f"{folder}/model.safetensors")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    vectors = []
    for response in (first, second):
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        ids = tokenizer(tokenizer.apply_chat_template(turns, tokenize=False), return_tensors="pt").input_ids
        before = len(tokenizer(tokenizer.apply_chat_template(turns[:1], tokenize=False)).input_ids)
        ids[0, -1] = tokenizer.eos_token_id
        with torch.no_grad():
            states = model(ids).last_hidden_state[0]
        value = tensors["value_head.weight"] @ states[-1]
        vectors.append(value / value.norm())
    weight = torch.ones(PLANES)
    if "prompt_head.weight" in tensors:
        weight = (tensors["prompt_head.weight"] @ states[before - 1]).softmax(0)
    turn = torch.zeros(2 * PLANES, 2 * PLANES)
    for i in range(PLANES):
        turn[2 * i, 2 * i + 1], turn[2 * i + 1, 2 * i] = -weight[i], weight[i]
    return torch.sigmoid((turn @ vectors[0]) @ vectors[1] / tau).item()


@pytest.mark.parametrize("prompt_head", [True, False])
def test_it_answers_as_the_released_code_does(tmp_path, prompt_head):
    folder = published(tmp_path, prompt_head)
    oracle = make("gpm", model=folder)
    prob = oracle.prob(*COLUMNS)
    assert torch.allclose(prob, torch.tensor([by_hand(folder, *one) for one in TRIPLES]), atol=1e-4)
    assert prob.std() > 0.05
    softer = make("gpm", model=folder, tau=1.0).prob(*COLUMNS)
    assert torch.allclose(softer.logit() * 10, prob.logit(), atol=1e-3)


def test_it_keeps_the_contract_of_an_oracle(tmp_path):
    check_oracle(make("gpm", model=published(tmp_path)), PROMPTS, RESPONSES)


def test_heads_of_wrong_shape_are_refused(tmp_path):
    with pytest.raises(ValueError, match="the value head must have 2k rows and the prompt head k"):
        make("gpm", model=published(tmp_path, rows=2 * PLANES + 2))
    with pytest.raises(ValueError, match="tau must be positive"):
        make("gpm", model=str(tmp_path), tau=0.0)


def test_an_unused_temperature_is_refused():
    with pytest.raises(ValueError, match="reads no tau"):
        make("gpm", tau=0.5)
