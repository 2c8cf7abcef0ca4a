import copy
import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy import stats
from transformers import LlamaForCausalLM

import oracles
from agents import HFPolicy, make_policy
from agents.ipo import IPOConfig
from agents.learning.critic import TokenCritic
from agents.optim.optimiser import OptimiserConfig
from agents.policies.lm.constraints import TextConstraints
from agents.policies.lm.decoder import ForwardArguments
from agents.policies.lm.generation import SamplingParams
from agents.policies.lm.loading import load_model, load_tokenizer
from agents.policies.lm_config import HFConfig, LoRAConfig, TinyConfig
from envs import make_task
from envs.tasks.finite import finite_task as finite
from preference_duel.keyed_random import Key
from preference_duel.keyed_random_torch import choose
from preference_duel.types import Completion, Conversation
from tests.tiny_models import (
    LETTERS,
    PROMPTS,
    SPECIAL,
    TEMPLATE,
    every_response,
    policy_of,
    require_samples_follow,
    text_task,
    tiny_model,
    write_model,
    write_tokenizer,
)


def naive_logprob(policy, prompt, tokens, temperature=1.0, least=0, limit=4):
    """One forward pass without a cache for each token."""
    ids, total = list(policy.tokenizer.prompt(prompt)), 0.0
    for t, token in enumerate(tokens):
        logits = policy.model(input_ids=torch.tensor([ids])).logits[0, -1].float() / temperature
        legal = torch.ones(len(logits), dtype=torch.bool)
        legal[[0, 2, 3, *range(policy.tokenizer.vocab_size, len(legal))]] = False
        legal[1] = t >= least
        total = total + logits.masked_fill(~legal, -math.inf).log_softmax(-1)[token]
        ids.append(token)
    return total


@pytest.mark.parametrize(
    "fields",
    [{}, {"temperature": 0.6}, {"top_k": 3}, {"top_p": 0.7, "temperature": 1.5}, {"max_new_tokens": 2}],
    ids=str,
)
@pytest.mark.parametrize("least", [0, 2])
def test_the_probabilities_of_all_responses_sum_to_one(folder, fields, least):
    policy = policy_of(folder, text_task(folder, limit=3, least=least), **fields)
    with torch.no_grad():
        probs = policy.logprob(PROMPTS[:2], [every_response(policy)] * 2).double().exp()
    assert (probs.sum(1) - 1).abs().max() < 1e-6


@pytest.mark.parametrize("fields", [{}, {"top_p": 0.8, "top_k": 6, "temperature": 1.3}], ids=str)
def test_draws_follow_their_probabilities(folder, fields):
    policy = policy_of(folder, text_task(folder, limit=2), micro_tokens=5000, **fields)
    require_samples_follow(policy, PROMPTS[0], every_response(policy), 20_000, Key(7))


def test_the_internal_batch_changes_no_draw(folder):
    task = text_task(folder, limit=8)
    draws = [policy_of(folder, task, micro_tokens=size).draw(PROMPTS, 6, Key(3, 5))[0] for size in (1, 3, 7, 1000)]
    assert all(drawn == draws[0] for drawn in draws[1:])
    assert len({len(response.tokens) for row in draws[0] for response in row}) > 3


def test_how_often_ended_responses_are_looked_for_changes_no_draw(folder, monkeypatch):
    policy = policy_of(folder, text_task(folder, limit=12, least=1))
    at_each_token, _ = policy.draw(PROMPTS, 6, Key(3, 5))
    assert min(len(response.tokens) for row in at_each_token for response in row) < 5
    for every in (3, 8, 12):
        monkeypatch.setattr("agents.policies.lm.generation._LOOK", {"cpu": every})
        assert policy.draw(PROMPTS, 6, Key(3, 5))[0] == at_each_token


def test_a_draw_depends_on_its_place_and_step_alone(folder):
    policy = policy_of(folder, text_task(folder, limit=8))
    few, many = policy.draw(PROMPTS[:2], 2, Key(3, 5))[0], policy.draw(PROMPTS, 4, Key(3, 5))[0]
    assert few == [row[:2] for row in many[:2]]
    assert policy.draw(PROMPTS, 4, Key(3, 6))[0] != many
    assert policy.draw(PROMPTS, 4, Key(4, 5))[0] != many


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bloom", "gemma2"])
def test_drawing_and_logprob_use_one_distribution_for_every_kind_of_model(tmp_path, kind):
    write_model(tmp_path, kind, width=16)
    policy = policy_of(tmp_path, text_task(tmp_path, limit=6))
    rows, drawn = [0, 0, 1, 2, 3, 3, 4], []
    decoder = policy.decoder(PROMPTS, rows)
    states, scores = torch.zeros(len(rows), dtype=torch.long), []
    for t in range(6):
        scores.append(decoder.logits(states).log_softmax(-1))
        drawn.append(4 + (torch.arange(len(rows)) + t) % 7)
        states = policy.constraints.follow(states, drawn[-1])
        if t == 3:
            decoder.select(torch.arange(len(rows)))
        decoder.append(drawn[-1])
    tokens = torch.stack(drawn, 1)
    stepwise = torch.stack(scores, 1).gather(2, tokens[..., None]).squeeze(2)
    responses = [[Completion("", tuple(row))] for row in tokens.tolist()]
    whole, mask = policy.token_logprob([PROMPTS[i] for i in rows], responses)
    assert mask.all()
    assert (whole[:, 0] - stepwise).abs().max() < 1e-5


@pytest.mark.parametrize("least", [0, 2])
def test_logprob_and_its_gradient_are_those_of_the_plain_model(folder, least):
    policy = policy_of(folder, text_task(folder, least=least), temperature=0.7, micro_tokens=3)
    drawn, _ = policy.draw(PROMPTS[:3], 3, Key(1))
    weights = torch.linspace(-1, 1, 9).reshape(3, 3)

    def gradient(values):
        policy.zero_grad()
        (values * weights).sum().backward()
        return torch.cat([parameter.grad.reshape(-1) for parameter in policy.parameters()])

    values = policy.logprob(PROMPTS[:3], drawn)
    plain = torch.stack(
        [
            torch.stack([naive_logprob(policy, prompt, y.tokens, 0.7, least) for y in row])
            for prompt, row in zip(PROMPTS[:3], drawn, strict=True)
        ]
    )
    assert (values - plain).abs().max() < 1e-5
    assert (gradient(values) - gradient(plain)).abs().max() < 1e-4


def test_bfloat16_passes_move_log_probabilities_and_gradients_a_little(folder):
    exact, rounded = (policy_of(folder, compute=compute) for compute in ("auto", "bfloat16"))
    assert (exact.autocast, rounded.autocast) == (False, True)
    drawn, _ = rounded.draw(PROMPTS, 4, Key(1))
    values = [policy.logprob(PROMPTS, drawn) for policy in (exact, rounded)]
    difference = (values[0] - values[1]).detach().abs()
    assert 0 < difference.max() < 0.1
    for value in values:
        value.sum().backward()
    one, other = (torch.cat([p.grad.flatten() for p in policy.parameters()]) for policy in (exact, rounded))
    assert torch.cosine_similarity(one, other, dim=0) > 0.999


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2", "bloom"])
def test_masks_of_padding_and_illegal_tokens_overflow_in_no_precision(kind, tmp_path):
    write_model(tmp_path, kind)
    exact, half = policy_of(tmp_path), policy_of(tmp_path)
    half.model.half()
    drawn, _ = half.draw(PROMPTS, 4, Key(1))  # prompts of unlike lengths are padded on the left, responses on the right
    values = half.logprob(PROMPTS, drawn)
    with torch.no_grad():
        assert (values - exact.logprob(PROMPTS, drawn)).abs().max() < 0.1  # no NaN is less
    values.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in half.parameters())


def test_what_needs_whole_precision_refuses_bfloat16_passes(folder):
    with pytest.raises(ValueError, match="compute='bfloat16' rounds the probabilities of all responses"):
        policy_of(folder, finite_task(["a", "ab"]), exact=True, compute="bfloat16")
    config = IPOConfig(optimiser=OptimiserConfig("lbfgs"))
    with pytest.raises(ValueError, match=r"can't converge in bfloat16; take another, or --policy.compute float32"):
        config.build(policy=policy_of(folder, compute="bfloat16"))


def test_layers_copied_of_a_bfloat16_model_learn_in_float32(folder):
    policy = policy_of(folder, dtype="bfloat16", lora=LoRAConfig(4))
    critic = TokenCritic(policy)
    torch.nn.init.ones_(critic.head.weight)
    drawn, _ = policy.draw(PROMPTS, 2, Key(1))
    before = torch.nn.utils.parameters_to_vector(critic.layers.parameters()).detach().clone()
    critic(PROMPTS, drawn).square().sum().backward()
    torch.optim.AdamW(critic.parameters(), 1e-5, weight_decay=0.0).step()
    after = torch.nn.utils.parameters_to_vector(critic.layers.parameters())
    assert before.dtype == torch.float32
    assert (before != after).double().mean() > 0.5


def test_equal_policies_have_ratio_exactly_zero_though_the_model_has_dropout(folder):
    policy = policy_of(folder).train()
    frozen = policy.frozen()
    drawn, _ = policy.draw(PROMPTS, 4, Key(1))
    assert torch.equal(policy.logprob(PROMPTS, drawn), frozen.logprob(PROMPTS, drawn))
    assert policy.logprob(PROMPTS, drawn).requires_grad
    assert not frozen.logprob(PROMPTS, drawn).requires_grad


def test_what_was_sampled_is_kept_and_text_is_derived_from_it(folder):
    policy = policy_of(folder, text_task(folder, limit=5))
    responses = [y for row in policy.draw(PROMPTS, 100, Key(1))[0] for y in row]
    for y in responses:
        assert y.text == "".join(([*SPECIAL, *LETTERS])[token] for token in y.tokens if token > 1)
        assert (y.tokens[-1] == 1) == (len(y.tokens) < 5 or 1 in y.tokens)
        assert set(y.tokens[:-1]) <= set(range(4, 12))
    assert {len(y.tokens) for y in responses} == {1, 2, 3, 4, 5}


def test_no_response_ends_before_min_new_tokens(folder):
    policy = policy_of(folder, text_task(folder, limit=4, least=3))
    lengths = {len(y.text) for row in policy.draw(PROMPTS, 50, Key(1))[0] for y in row}
    assert lengths == {3, 4}
    assert policy.logprob(PROMPTS[:1], [[Completion("ab")]]).item() == -math.inf


def test_a_text_from_a_file_ends_with_eos_unless_the_limit_ends_it(folder):
    policy = policy_of(folder)
    given = [Completion("ab"), Completion("abca"), Completion("")]
    sampled = [Completion("", (4, 5, 1)), Completion("", (4, 5, 6, 4)), Completion("", (1,))]
    assert torch.equal(policy.logprob(["c"], [given]), policy.logprob(["c"], [sampled]))
    values, mask = policy.token_logprob(["c"], [given])
    assert mask.sum(-1).tolist() == [[3, 4, 1]]
    assert (values[~mask] == 0).all()
    with pytest.raises(ValueError, match="6 tokens, more than the limit of 4"):
        policy.logprob(["c"], [[Completion("abcab")]])


def test_prompts_go_through_the_chat_template(folder, tmp_path):
    tokenizer = load_tokenizer(str(folder))
    assert tokenizer.prompt("ab") == (2, 4, 5, 3)
    talk = Conversation(
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": " c "}]
    )
    assert tokenizer.prompt(talk) == (2, 4, 3, 5, 1, 2, 6, 3)
    write_tokenizer(tmp_path, template=None)
    assert load_tokenizer(str(tmp_path)).prompt("ab") == (4, 5)


def test_marks_typed_into_a_prompt_or_a_response_are_mere_text(folder):
    tokenizer = load_tokenizer(str(folder))
    assert tokenizer.encode("a<eos>b") == [4, 5]
    assert tokenizer.prompt("a<eos>b<bot>") == (2, 4, 5, 5, 3)


def finite_task(responses):
    return finite("game", ("#0", "#1"), responses, responses)


@pytest.mark.parametrize("fields", [{}, {"temperature": 0.5}], ids=str)
def test_a_finite_task_constrains_the_model_to_its_responses(folder, fields):
    words = ["a", "ab", "abc", "b", "ca", "cb", "cab0"]
    task = finite_task(words)
    policy = policy_of(folder, task, exact=True, **fields)
    responses, probs = policy.draw(task.prompts, 1, Key(0))
    assert [[y.text for y in row] for row in responses] == [words, words]
    assert probs.dtype == torch.float64
    assert (probs.sum(1) - 1).abs().max() < 1e-6
    assert torch.allclose(probs, policy.logprob(task.prompts, [list(task.responses)] * 2).double().exp(), atol=1e-7)
    assert policy.constraints.tokens_of("a") == (4, 1)
    assert policy.constraints.tokens_of("abc") == (4, 5, 6)
    sampler = policy_of(folder, task, micro_tokens=10_000, **fields)
    drawn, _ = sampler.draw(task.prompts[:1], 10_000, Key(2))
    counts = [sum(y.text == word for y in drawn[0]) for word in words]
    assert stats.chisquare(counts, (probs[0] / probs[0].sum()).numpy() * 10_000).pvalue > 1e-3
    assert set(drawn[0]) <= set(responses[0])


def test_a_constrained_step_is_the_model_over_the_legal_tokens(folder):
    policy = policy_of(folder, finite_task(["a", "ab", "b"]))
    logits = policy.model(input_ids=torch.tensor([policy.tokenizer.prompt("#0")])).logits[0, -1]
    after = policy.model(input_ids=torch.tensor([[*policy.tokenizer.prompt("#0"), 4]])).logits[0, -1]
    first, second = logits[[4, 5]].log_softmax(0), after[[1, 5]].log_softmax(0)
    values = policy.logprob(["#0"], [[Completion("a"), Completion("ab"), Completion("b")]])[0]
    assert torch.allclose(values, torch.stack([first[0] + second[0], first[0] + second[1], first[1]]), atol=1e-5)


def test_symbols_are_written_letter_by_letter_though_the_vocabulary_merges_them(tmp_path):
    write_tokenizer(tmp_path, merges=[("a", "b")])
    tiny_model().save_pretrained(tmp_path)
    task = make_task("symbols", alphabet=3, length=3, prompts=2)
    policy = policy_of(tmp_path, task, exact=True)
    assert policy.tokenizer.encode("ab") == [12]
    assert policy.constraints.tokens_of("abc") == (4, 5, 6)
    assert policy.constraints.limit == 3
    responses, probs = policy.draw(task.prompts, 1, Key(0))
    assert len(responses[0]) == 27
    assert (probs.sum(1) - 1).abs().max() < 1e-6


def test_words_of_a_game_are_encoded_whole(tmp_path):
    write_tokenizer(tmp_path, merges=[("a", "b")])
    tiny_model().save_pretrained(tmp_path)
    policy = policy_of(tmp_path, finite_task(["abc", "cab"]))
    assert policy.constraints.tokens_of("abc") == (12, 6)
    with pytest.raises(ValueError, match="no response 'b'"):
        policy.logprob(["#0"], [[Completion("b")]])


def test_blend_averages_parameters(folder):
    first, second = policy_of(folder), policy_of(folder)
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.add_(1.0)
    before = [parameter.detach().clone() for parameter in first.parameters()]
    first.blend(second, 0.25)
    assert all(torch.allclose(a, b + 0.25, atol=1e-6) for a, b in zip(first.parameters(), before, strict=True))
    with pytest.raises(TypeError, match="got Linear"):
        first.blend(torch.nn.Linear(1, 1), 0.5)


def test_a_saved_policy_is_a_transformers_folder_with_the_same_distribution(folder, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    policy = policy_of(folder)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.1)
    policy.save(tmp_path)
    again = make_policy(str(tmp_path), task=text_task(tmp_path))
    drawn, _ = policy.draw(PROMPTS, 3, Key(0))
    assert torch.equal(policy.logprob(PROMPTS, drawn), again.logprob(PROMPTS, drawn))
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == TEMPLATE
    assert AutoModelForCausalLM.from_pretrained(tmp_path).dtype == torch.float32


def test_a_frozen_copy_stays_as_it_is_and_shares_what_never_changes(folder):
    policy = policy_of(folder, finite_task(["a", "b"]))
    frozen = policy.frozen()
    assert frozen.tokenizer is policy.tokenizer
    assert frozen.constraints is policy.constraints
    before = frozen.logprob(["#0"], [[Completion("a")]])
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.5)
    assert torch.equal(frozen.logprob(["#0"], [[Completion("a")]]), before)


def test_eos_is_drawn_where_it_is_the_padding_token_too(tmp_path):
    write_tokenizer(tmp_path, pad="<eos>")
    tiny_model().save_pretrained(tmp_path)
    policy = policy_of(tmp_path)
    assert policy.tokenizer.pad_id is None
    drawn, _ = policy.draw(PROMPTS, 50, Key(0))
    assert {len(y.tokens) for row in drawn for y in row} == {1, 2, 3, 4}


def test_half_precision_checkpoints_are_trained_in_float32(folder, tmp_path):
    write_tokenizer(tmp_path)
    tiny_model().half().save_pretrained(tmp_path)
    assert {parameter.dtype for parameter in policy_of(tmp_path).parameters()} == {torch.float32}


def test_temperature_top_k_and_top_p_by_hand():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    legal = torch.ones(1, 4, dtype=torch.bool)

    def probs(**fields):
        return SamplingParams(**fields).processed(logits, legal).softmax(-1)[0].tolist()

    assert probs() == pytest.approx([0.5, 0.3, 0.15, 0.05])
    assert probs(temperature=0.5) == pytest.approx([x / 0.365 for x in (0.25, 0.09, 0.0225, 0.0025)])
    assert probs(top_k=2) == pytest.approx([0.625, 0.375, 0, 0])
    assert probs(top_p=0.5) == pytest.approx([1, 0, 0, 0])
    assert probs(top_p=0.51) == pytest.approx([0.625, 0.375, 0, 0])
    assert probs(top_k=3, top_p=0.8) == pytest.approx([0.625, 0.375, 0, 0])
    assert probs(top_k=9) == pytest.approx([0.5, 0.3, 0.15, 0.05])
    illegal = (
        SamplingParams(top_k=2).processed(logits, torch.tensor([[False, True, True, True]])).softmax(-1)[0].tolist()
    )
    assert illegal == pytest.approx([0, 2 / 3, 1 / 3, 0])


@pytest.mark.parametrize("states", [[0, 1], [2, 4], [1, 2], [-1, 3], []], ids=str)
def test_an_end_is_legal_from_the_least_length_on(states):
    constraints = TextConstraints(torch.tensor([False, False, True, True]), 1, 2, 5, frozenset([3]))
    expected = torch.tensor([[False, state >= 2, True, state >= 2] for state in states]).view(-1, 4)
    assert constraints.legal(torch.tensor(states, dtype=torch.long)).expand(len(states), 4).equal(expected)


@pytest.mark.parametrize("in_place", [False, True])
def test_one_mask_for_all_rows_is_that_mask_for_each(in_place):
    logits, legal = torch.arange(8.0).view(2, 4).requires_grad_(not in_place), torch.tensor([[True, False, True, True]])
    each = SamplingParams().processed(logits.detach(), legal.expand(2, 4))
    one = SamplingParams().processed(logits, legal, in_place=in_place)
    assert torch.equal(one, each)
    assert (one.data_ptr() == logits.data_ptr()) is in_place
    if not in_place:
        (gradient,) = torch.autograd.grad(one.exp().sum(), logits)
        assert torch.equal(gradient, each.exp())


def test_responses_of_many_lengths_stay_in_place(folder):
    policy = policy_of(folder, text_task(folder, limit=12))
    drawn, _ = policy.draw(PROMPTS, 8, Key(9))
    one_by_one = [
        [policy.logprob([prompt], [[y]]).item() for y in row] for prompt, row in zip(PROMPTS, drawn, strict=True)
    ]
    assert torch.allclose(policy.logprob(PROMPTS, drawn), torch.tensor(one_by_one), atol=1e-5)


def test_a_draw_at_the_edge_of_a_truncation_is_never_called_impossible():
    logits, legal = torch.tensor([[2.0, 1.0 + 1e-6, 1.0, 0.0]]), torch.ones(1, 4, dtype=torch.bool)
    edge = SamplingParams(top_k=2).processed(logits, legal, torch.tensor([2]))
    assert edge.isfinite().tolist() == [[True, True, True, False]]
    outside = SamplingParams(top_k=2).processed(logits, legal, torch.tensor([3]))
    assert outside.isfinite().tolist() == [[True, True, False, False]]


def test_inversion_never_takes_what_has_no_probability():
    logits = torch.tensor([[0.0, 0.25, 0.75, 0.0]]).log().expand(2, 4)
    ends = torch.tensor([[0.0, 0.2499], [0.2501, 1 - 2.0**-53]], dtype=torch.float64)
    assert choose(logits.softmax(-1), ends).tolist() == [[1, 1], [2, 2]]
    assert choose((logits + 3.7).softmax(-1), ends).tolist() == [[1, 1], [2, 2]]


def test_settings_out_of_range_are_refused(folder):
    for fields, message in [
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"top_p": 0.0}, r"top_p must lie in \(0, 1\]"),
        ({"top_k": -1}, "top_k must be at least 0"),
        ({"micro_tokens": 0}, "micro_tokens must be at least 1"),
        ({"sampler": "best"}, "sampler must be one of"),
        ({"max_new_tokens": 5}, "between the task's min_new_tokens=0 and its max_new_tokens=4, got 5"),
        ({"exact": True}, "exact needs a finite task"),
    ]:
        with pytest.raises(ValueError, match=message):
            policy_of(folder, **fields)
    with pytest.raises(ValueError, match="longest response of task 'game' has 2 tokens"):
        policy_of(folder, finite_task(["a", "ab"]), max_new_tokens=1)


def test_a_task_of_another_vocabulary_is_refused(folder):
    with pytest.raises(ValueError, match=r"vocabulary of 1431 tokens.*has 12.*load_tokenizer"):
        policy_of(folder, make_task("chat"))


def test_too_short_a_context_is_refused(tmp_path):
    write_model(tmp_path, context=8)
    policy = policy_of(tmp_path)
    policy.draw(["ab"], 1, Key(0))
    for use in (lambda: policy.draw(["abc"], 1, Key(0)), lambda: policy.logprob(["abc"], [[Completion("a")]])):
        with pytest.raises(ValueError, match="reads 8 tokens, and a prompt of 5 with a response of 4"):
            use()


def test_a_path_that_does_not_exist_names_the_embedded_choice(folder, tmp_path):
    for path in ("/no/such/folder", "./nowhere/at/all", str(folder / "config.json")):
        with pytest.raises(FileNotFoundError, match=r"--policy tiny"):
            HFConfig(path).build(task=text_task(folder))
    with pytest.raises((OSError, ValueError), match=str(tmp_path)):
        HFConfig(str(tmp_path)).load_tokenizer()


def test_a_hub_id_without_network_names_the_embedded_choice(folder, monkeypatch):
    import huggingface_hub

    def unreachable(*_, **__):
        raise RuntimeError("Name or service not known")

    task = text_task(folder)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    with pytest.raises(OSError, match=r"no directory 'org/model'.*Name or service.*directory.*--policy tiny"):
        make_policy("org/model", task=task)


def test_code_that_a_checkpoint_brings_along_is_not_run(folder, tmp_path):
    policy_of(folder).save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "mine.py").write_text("raise SystemExit('the code was run')")
    with pytest.raises(ValueError, match=r"code of its own.*--policy.trust_remote_code"):
        policy_of(tmp_path, text_task(folder))


@pytest.mark.gpu
def test_the_gpu_draws_from_the_same_distribution():
    task = make_task("chat")
    cpu, gpu = (make_policy("tiny", task=task, device=device, micro_tokens=64) for device in ("cpu", "cuda"))
    assert gpu.device.type == "cuda"
    drawn, weights = gpu.draw(task.prompts[:32], 4, Key(0))
    assert weights.device.type == "cpu"
    assert gpu.draw(task.prompts[:32], 4, Key(0))[0] == drawn
    there = gpu.logprob(task.prompts[:32], drawn)
    there.mean().backward()
    assert {parameter.dtype for parameter in gpu.parameters()} == {torch.float32}
    here = cpu.logprob(task.prompts[:32], drawn)
    assert (there.cpu() - here).abs().mean() < 0.1
    assert torch.equal(there, gpu.frozen().logprob(task.prompts[:32], drawn))
    symbols = make_task("symbols")
    exact = make_policy("tiny", task=symbols, device="cuda", exact=True)
    assert (exact.draw(symbols.prompts, 1, Key(0))[1].sum(1) - 1).abs().max() < 1e-5
    assert make_policy("tiny", task=symbols, device="cuda").draw(symbols.prompts, 8, Key(0))[1].shape == (4, 8)


def test_a_checkpoint_that_is_not_whole_is_refused_by_name(folder, tmp_path):
    policy_of(folder).save(tmp_path)
    file, name = tmp_path / "model.safetensors", "model.layers.1.mlp.up_proj.weight"
    tensors = load_file(file)
    lacking = {key: value for key, value in tensors.items() if key != name}
    for changed, message in [
        (lacking, f"lacks 1 tensor: {name}"),
        (tensors | {"model.extra.weight": torch.ones(2)}, "has unknown 1 tensor: model.extra.weight"),
        (tensors | {name: torch.ones(3, 2)}, rf"other sizes 1 tensor: {name} \(\[3, 2\] for \[64, 32\]\)"),
    ]:
        save_file(changed, file, metadata={"format": "pt"})
        with pytest.raises(ValueError, match=message):
            policy_of(tmp_path)
    file.unlink()
    with pytest.raises(OSError, match=r"model\.safetensors"):
        policy_of(tmp_path)


@pytest.mark.parametrize("change", [{"architectures": ["LlamaForSequenceClassification"]}, {"model_type": "t5"}])
def test_another_kind_of_model_is_refused(folder, tmp_path, change):
    policy_of(folder).save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    if "model_type" in change:
        config["architectures"] = ["T5ForConditionalGeneration"]
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match="must be a causal language model"):
        policy_of(tmp_path)


def test_a_model_without_a_cache_of_keys_and_values_is_refused(tmp_path):
    from transformers import MambaConfig, MambaForCausalLM

    write_tokenizer(tmp_path)
    MambaForCausalLM(MambaConfig(vocab_size=14, hidden_size=16, num_hidden_layers=1)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="MambaForCausalLM fills no cache of keys and values"):
        policy_of(tmp_path)


@pytest.mark.parametrize("fields", [{"temperature": 0.6, "top_p": 0.8}, {"compute": "bfloat16"}], ids=str)
def test_samples_bring_the_log_probabilities_of_what_sampled_them(folder, fields):
    rounding = 0.05 if "compute" in fields else 1e-5  # with a cache and without, which some kernels round alike
    policy = policy_of(folder, text_task(folder, limit=8), **fields)
    drawn, _ = policy.draw(PROMPTS, 3, Key(3, 5))
    sampled = torch.tensor([nats for row in drawn for y in row for nats in y.token_logprob])
    for reader in (policy, policy_of(folder, text_task(folder, limit=8))):
        with torch.no_grad():
            read, mask = reader.token_logprob(PROMPTS, drawn)
        gap = (sampled - read[mask]).abs().max()
        assert gap < rounding if reader is policy else gap > 1e-4
    assert [[Completion(y.text, y.tokens) for y in row] for row in drawn] == drawn


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_log_probabilities_and_weights_are_float32_if_passes_are_bfloat16(tmp_path, kind):
    policy = policy_of(write_model(tmp_path, kind), compute="bfloat16")
    drawn, _ = policy.draw(PROMPTS, 2, Key(0))
    logprob = policy.logprob(PROMPTS, drawn)
    logprob.sum().backward()
    assert logprob.dtype == torch.float32
    assert {(p.dtype, p.grad.dtype) for p in policy.parameters()} == {(torch.float32, torch.float32)}


def test_samples_of_a_finite_task_bring_log_probabilities_too():
    policy = TinyConfig().build(task=make_task("symbols", alphabet=2, length=2, prompts=1))
    drawn, _ = policy.draw(["x"], 4, Key(0))
    with torch.no_grad():
        read = policy.logprob(["x"], drawn)
    assert torch.allclose(torch.tensor([[sum(y.token_logprob) for y in drawn[0]]]), read, atol=1e-5)


def test_prompts_of_similar_length_are_sampled_together(folder, monkeypatch):
    policy = policy_of(folder, text_task(folder, limit=8), micro_tokens=8)
    started, start = [], policy.decoder
    monkeypatch.setattr(policy, "decoder", lambda prompts, rows: started.append(rows) or start(prompts, rows))
    drawn = policy.draw(PROMPTS, 2, Key(3, 5))[0]
    lengths = [policy.prompt_length(PROMPTS[i]) for rows in started for i in rows]
    assert len(started) > 2
    assert lengths == sorted(lengths)
    assert drawn == policy_of(folder, text_task(folder, limit=8)).draw(PROMPTS, 2, Key(3, 5))[0]


def test_arguments_of_a_forward_pass_are_tried(folder, monkeypatch):
    usual = policy_of(folder)
    prompts, forward = list(PROMPTS), usual.model.forward

    def hidden(*arguments, **named):
        return forward(*arguments, **named)

    def older(input_ids, attention_mask=None, past_key_values=None, use_cache=None):
        cache = {usual._arguments.cache: past_key_values}
        positions = None if attention_mask is None else (attention_mask.cumsum(1) - 1).clamp(min=0)
        positions = positions if positions is None else positions[:, -input_ids.shape[1] :]
        return forward(input_ids, attention_mask=attention_mask, position_ids=positions, use_cache=use_cache, **cache)

    drawn = usual.draw(prompts, 2, Key(0))[0]
    for wrapper, takes in [
        (hidden, usual._arguments),
        (older, ForwardArguments("past_key_values", False, False, cache_size=64)),
    ]:
        monkeypatch.setattr(
            LlamaForCausalLM, "forward", lambda _, *arguments, f=wrapper, **named: f(*arguments, **named)
        )
        policy = policy_of(folder)
        assert policy._arguments == takes
        assert policy.draw(prompts, 2, Key(0))[0] == drawn


def test_a_tokenizer_without_eos_is_refused(folder, tmp_path):
    task = text_task(folder)
    policy_of(folder).save(tmp_path)
    write_tokenizer(tmp_path, eos=None)
    with pytest.raises(ValueError, match="has no EOS token"):
        HFPolicy(tmp_path, task)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path):
    write_model(tmp_path, width=11)
    with pytest.raises(ValueError, match="tokenizer has 12 tokens, the model 11"):
        policy_of(tmp_path)


def test_the_embedded_policy_answers_embedded_prompts():
    tokenizer = TinyConfig().load_tokenizer()
    task = make_task("chat", tokenizer=tokenizer)
    assert np.array_equal(task.response_tokens, make_task("chat").response_tokens)
    policy = make_policy("tiny", task=task)
    drawn, _ = policy.draw(task.held_out[:8], 4, Key(0))
    assert all(y.text.endswith((".", "!", "?")) for row in drawn for y in row)
    with torch.no_grad():
        values = policy.logprob(task.held_out[:8], drawn)
    assert ((values > -40) & (values < 0)).all()


def test_copies_of_a_policy_draw_the_same(folder):
    policy = policy_of(folder)
    assert copy.deepcopy(policy).draw(PROMPTS, 2, Key(0))[0] == policy.draw(PROMPTS, 2, Key(0))[0]


def test_a_folder_of_adapters_alone_is_called_that_by_policies_and_judges(tmp_path):
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "maker/base"}
    write_tokenizer(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter))
    message = r"holds adapters alone .*, maker/base; merge them once and pass the new folder: peft"
    for load in (load_tokenizer, load_model, lambda path: oracles.make("bt", model=path)):
        with pytest.raises(ValueError, match=message):
            load(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(ValueError, match="which they do not name; merge them"):
        load_tokenizer(str(tmp_path))
