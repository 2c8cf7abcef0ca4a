"""The implicit reward of a policy against plain transformers, and against the margin that DPO trains."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from agents.optim.optimiser import OptimiserConfig
from agents.pairs.dpo import DPOConfig
from agents.policies.lm.constraints import TextConstraints
from agents.policies.lm_config import TINY
from envs import DuelArena
from oracles import check_oracle, make
from preference_duel.types import Completion
from runners.duel import main
from runners.evaluation.judges import judge_config
from runners.run.record import read_lines
from tests.tiny_models import PROMPTS, policy_of, text_task, write_model, write_tokenizer

RESPONSES = ["a", "bb#", "0123", ""]


@pytest.fixture
def models(tmp_path):
    return str(write_model(tmp_path / "policy", seed=1)), str(write_model(tmp_path / "reference", seed=2))


def by_hand(folder, prompt, response):
    """log P of one response and its end, and its number of tokens, over the whole logits of one text."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
    )
    start, rest = (tokenizer(one, add_special_tokens=False).input_ids for one in (text, f"{response}<eos>"))
    with torch.no_grad():
        table = model(torch.tensor([[*start, *rest]])).logits[0].double().log_softmax(-1)
    return sum(float(table[len(start) - 1 + t, token]) for t, token in enumerate(rest)), len(rest)


@pytest.mark.parametrize("fields", [{}, {"normalised": True}, {"token_budget": 12}], ids=str)
def test_the_probability_is_that_of_plain_transformers(fields, models):
    policy, reference = models
    oracle = make("implicit", policy=policy, reference=reference, beta=0.3, **fields)
    asked = [(x, a, b) for x in PROMPTS[:2] for a in RESPONSES for b in RESPONSES if a != b]
    prob = oracle.prob(*map(list, zip(*asked, strict=True)))

    def reward(prompt, response):
        (ours, count), (theirs, _) = (by_hand(folder, prompt, response) for folder in models)
        return 0.3 * (ours - theirs) / (count if "normalised" in fields else 1)

    rewards = {(x, y): reward(x, y) for x in PROMPTS[:2] for y in RESPONSES}
    expected = torch.tensor([rewards[x, a] - rewards[x, b] for x, a, b in asked], dtype=torch.float64).sigmoid()
    torch.testing.assert_close(prob, expected, atol=1e-5, rtol=0)
    assert prob.std() > 0.01


def test_it_judges_by_the_margin_that_dpo_trains(tmp_path):
    """Where no token is masked; a run's policies give no probability to tokens that their task does not allow."""
    folder = write_model(tmp_path / "start", seed=3, width=12)
    task = text_task(folder, limit=8)
    policy = policy_of(folder, task)
    assert isinstance(policy.constraints, TextConstraints)
    policy.constraints = replace(policy.constraints, words=torch.ones(12, dtype=torch.bool))
    agent = DPOConfig(tau=0.2, average=False, optimiser=OptimiserConfig("sgd", learning_rate=0.5)).build(policy=policy)
    arena = DuelArena(task, make("length_bias"), 4, seed=0)
    agent.update(arena.play(agent.propose(arena.reset())))
    agent.policy.save(tmp_path / "trained")
    prompts, first, second = list(PROMPTS), ["a", "bb", "0", "#a", "b"], ["bb", "a", "1", "0", "abc"]
    with torch.no_grad():
        listed = [[Completion(a), Completion(b)] for a, b in zip(first, second, strict=True)]
        ratio = agent.policy.logprob(prompts, listed) - agent.reference.logprob(prompts, listed)
    margin = ratio[:, 0] - ratio[:, 1]
    assert margin.abs().min() > 1e-3
    oracle = make("implicit", policy=str(tmp_path / "trained"), reference=str(folder), beta=0.2)
    expected = torch.sigmoid(0.2 * margin.double())
    torch.testing.assert_close(oracle.prob(prompts, first, second), expected, atol=1e-5, rtol=0)


def test_it_keeps_the_contract_of_an_oracle(models):
    check_oracle(make("implicit", policy=models[0], reference=models[1]), list(PROMPTS[:2]), [RESPONSES] * 2)


def test_a_policy_is_indifferent_to_its_own_ratio_to_itself(models):
    oracle = make("implicit", policy=models[0], reference=models[0])
    assert oracle.prob(["a"], ["a"], ["bb#"]).tolist() == [0.5]


def test_commands_that_name_oracles_with_fields_take_one_that_requires_some():
    name, config = judge_config("implicit,policy=a,reference=b,beta=0.2")
    assert (name, config.policy, config.reference, config.beta) == ("implicit", "a", "b", 0.2)


def test_unsuitable_models_are_refused(models, tmp_path):
    policy, reference = models
    with pytest.raises(ValueError, match="beta must be positive"):
        make("implicit", policy=policy, reference=reference, beta=0.0)
    with pytest.raises(OSError, match=r"no directory './nowhere'.*--oracle.reference"):
        make("implicit", policy=policy, reference="./nowhere")
    with pytest.raises(ValueError, match=r"read 40 tokens and a text has \d+"):
        make("implicit", policy=policy, reference=reference).prob(["a" * 50], ["a"], ["b"])
    write_tokenizer(tmp_path / "reference", letters="abc#0124")
    with pytest.raises(ValueError, match="have different vocabularies"):
        make("implicit", policy=policy, reference=reference)


@pytest.mark.slow
def test_a_run_can_be_judged_by_the_policy_that_it_starts_from(tmp_path):
    """Self-rewarding: with its own implicit reward a policy learns from its best and worst samples."""
    few = ["--run.steps", "1", "--run.batch_size", "4", "--run.eval_every", "0", "--agent", "dpo"]
    assert main([*few, "--oracle", "bt", "--run.dir", str(tmp_path / "first")]) == 0
    own = str(tmp_path / "first/step-1/policy")
    recipe = f"--policy {own} --oracle implicit --oracle.policy {own} --oracle.reference {TINY}"
    more = ["--agent.pairs", "best_worst", "--run.feedback", "probability", "--run.duel_every", "1"]
    assert main([*few, *recipe.split(), *more, "--run.dir", str(tmp_path / "second")]) == 0
    (line, _) = read_lines(tmp_path / "second/duels.jsonl")[:2]
    judge = make("implicit", policy=own, reference=str(TINY))
    won = judge.prob([line["prompt"]], [line["left"]], [line["right"]])
    assert won.item() == pytest.approx(line["prob"], abs=1e-3)
