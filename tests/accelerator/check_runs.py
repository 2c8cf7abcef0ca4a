"""The whole loop on the pretend accelerator, against the same loop on the CPU; `test_accelerator.py` starts this file.

By hand: python -m pytest -n 0 -p tests.accelerator.device tests/accelerator/check_runs.py -m "slow or not slow" -k lora
"""

import importlib
import json
import math

import pytest
import torch
from torch.utils._pytree import keystr, tree_flatten_with_path

import tests.accelerator.device as accelerator
from agents.policies.lm import hf_policy
from agents.policies.token_policy import TokenPolicy
from agents.preference_models.network import NetworkModel
from agents.registry import AGENTS
from preference_duel.keyed_random import Key
from preference_duel.types import Duel
from runners.run import checkpoint
from runners.run.build import build_experiment
from runners.run.checkpoint import Checkpoint
from runners.run.cli import parse
from runners.run.loop import one_step
from tests.tiny_models import PROMPTS, policy_of, text_task, write_model

FREE = "--policy MODELS/llama --task MODELS/prompts.jsonl --task.max_new_tokens 3 --oracle bt "
FINITE = "--task symbols --task.alphabet 2 --task.length 2 --task.prompts 2 --oracle cyclic "
SMALL = "--run.batch_size 2 --run.eval_prompts 2 --run.eval_pairs 2 --run.eval_pool 2"
OWN_POLICY = dict.fromkeys(("dcppo", "pelhf"), FINITE + "--policy tabular ")
"""Agents that do not train a language model, beside those that bring their network along."""
OWN_FEEDBACK = {"plackett_luce": " --run.feedback probability"}
"""Agents whose loss of probabilities has all terms of that of outcomes, and more."""
VARIANTS = {
    "sppo of the best and worst": FREE + "--agent sppo --agent.pairs best_worst --agent.normaliser log_z",
    "sppo judged by pairrm": FREE + "--agent sppo --oracle pairrm --oracle.checkpoint embedded",
    "ipo with a mixture": FREE + "--agent ipo --agent.mixture 0.125",
    "ipo in small passes": FREE + "--agent ipo --policy.micro_tokens 16",
    "ipo with checkpointing": FREE + "--agent ipo --policy.checkpointing True",
    "ipo with adapters": FREE + "--agent ipo --policy.lora.rank 2",
    "ipo beside a bfloat16 base": FREE + "--agent ipo --policy.lora.rank 2 --policy.dtype bfloat16",
    "rlhf beside a bfloat16 base": FREE + "--agent rlhf --policy.lora.rank 2 --policy.dtype bfloat16",
    "ipo in bfloat16": FREE + "--agent ipo --policy.compute bfloat16",
    "ipo truncated": FREE + "--agent ipo --policy.top_p 0.9 --policy.top_k 5",
    "ipo of a model with windows and caps": FREE + "--agent ipo --policy MODELS/gemma2",
    "ipo of a model with learned positions": FREE + "--agent ipo --policy MODELS/gpt2",
    "ipo of an untied model": FREE + "--agent ipo --policy MODELS/untied",
    "dpo of a file": FREE + "--agent dpo --run.data MODELS/preferences.jsonl",
    "kto of thumbs": FREE + "--agent kto --run.feedback thumb",
    "nash_md as mirror descent": FREE + "--agent nash_md --agent.form mirror",
    "spo by ppo with a value": FREE
    + "--agent spo --agent.gradient.form ppo --agent.gradient.baseline value --agent.gradient.epochs 2",
    "spo by rebel": FREE + "--agent spo --agent.gradient.form rebel",
    "spo against a model": FREE + "--agent spo --run.opponent MODELS/untied",
    "oelhf with optimism": FREE + "--agent oelhf --agent.enhancer optimistic",
    "sppo on listed responses": FINITE + "--agent sppo --policy tiny",
    "sppo exact": FINITE + "--agent sppo --policy tiny --policy.exact",
    "sppo on a table": FINITE + "--agent sppo --policy tabular",
    "a2c near its start": FINITE + "--agent a2c --agent.tau 0.1",
    "psro that measures": FREE + "--agent psro --agent.response_updates 1 --agent.payoff_updates 2",
    "psro on a table": FINITE + "--agent psro --policy tabular --policy.exact",
}
BFLOAT16 = {"ipo in bfloat16", "ipo beside a bfloat16 base", "rlhf beside a bfloat16 base"}
"""Variants whose attention rounds otherwise on the CPU, so that scalars are only near."""
ON_THE_HOST = {"shares", "payoff", "met", "wins", "memory", "counts", "doubt", "margin", "shift"}
"""Parts of an agent's state that are not on the device: a population's mixture and results, replayed steps, tables of
counts, the matrix of an optimistic bonus, the mean and spread of margins, the mean of rewards."""


def arguments_of(agent):
    module, _, attribute = AGENTS[agent].partition(":")
    brings_its_own = hasattr(getattr(importlib.import_module(module), attribute), "own_policy")
    start = OWN_POLICY.get(agent, FINITE if brings_its_own else FREE)
    return f"{start}--agent {agent}{OWN_FEEDBACK.get(agent, '')}"


CASES = {name: arguments_of(name) for name in AGENTS} | VARIANTS
FAST = {"sppo"}
"""Cases of the tests that everybody runs."""


MODELS = {
    "llama": {},
    "gemma2": {"kind": "gemma2"},
    "gpt2": {"kind": "gpt2"},
    "untied": {"tie_word_embeddings": False, "seed": 1},
}
"""Small random models, of one layer, by the folders that cases name."""


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    prompts = [{"prompt": prompt} for prompt in PROMPTS]
    preferences = [{"prompt": prompt, "chosen": "ab", "rejected": "0"} for prompt in PROMPTS]
    for name, rows in (("prompts", prompts), ("preferences", preferences)):
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return folder


@pytest.fixture(scope="session", autouse=True)
def one_self_check():
    """A model is tried out when it is loaded first on a device, and not again in every case."""

    def once(function, model_of):
        results = {}

        def remembered(*arguments):
            model = model_of(arguments[0])
            key = model.name_or_path, model.device.type, model.dtype, len(list(model.parameters()))
            if key not in results:
                results[key] = function(*arguments)
            return results[key]

        return remembered

    with pytest.MonkeyPatch.context() as patch:
        for name, model_of in {"require_agreement": lambda root: root.model, "forward_arguments": lambda x: x}.items():
            patch.setattr(hf_policy, name, once(getattr(hf_policy, name), model_of))
        patch.setattr(hf_policy.scoring, "is_plain", once(hf_policy.scoring.is_plain, lambda model: model))
        yield


@pytest.fixture(scope="session", autouse=True)
def promised_hosts():
    """What contracts promise on the CPU is there: duels, an agent's own too, and what is drawn, listed or predicted."""

    def host(function, result_of):
        def checked(*arguments, **fields):
            result = function(*arguments, **fields)
            require_host(*result_of(result, arguments[0]))
            return result

        return checked

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Duel, "__init__", host(Duel.__init__, lambda _, duel: vars(duel).values()))
        patch.setattr(TokenPolicy, "draw", host(TokenPolicy.draw, lambda drawn, _: drawn))
        for owner, name in ((TokenPolicy, "distribution"), (NetworkModel, "prob"), (NetworkModel, "reward")):
            patch.setattr(owner, name, host(getattr(owner, name), lambda found, _: [found]))
        yield


def settings_of(case, folder):
    for name, fields in MODELS.items():
        if f"MODELS/{name}" in CASES[case] and not (folder / name).exists():
            write_model(folder / name, num_hidden_layers=1, **fields)
    return parse(f"{CASES[case]} {SMALL}".replace("MODELS", str(folder)).split()).settings


def scalars_of(found):
    return {tag: value for tag, value in found.items() if not tag.startswith("time/")}


def on_the_cpu(settings):
    """The scalars of two steps, an evaluation and a third step."""
    experiment = build_experiment(settings, "cpu")
    steps = [one_step(experiment, seed)[0] for seed in (1, 2)]
    measured = experiment.evaluation.scalars(experiment.agent.policy, experiment.agent.average)
    return experiment, [*map(scalars_of, (*steps, measured, one_step(experiment, 3)[0]))]


def on_the_device(settings, folder):
    """The same, but the third step is made by a new agent that goes on from a checkpoint."""
    experiment = build_experiment(settings, accelerator.NAME)
    require_players(experiment, settings)
    steps = [one_step(experiment, seed) for seed in (1, 2)]
    measured = experiment.evaluation.scalars(experiment.agent.policy, experiment.agent.average)
    require_copies(experiment.agent)
    if listed := experiment.task.responses:
        require_host(experiment.agent.policy.distribution(experiment.task.prompts, listed))
    state = Checkpoint(2, experiment.agent.state_dict(), experiment.arena.state_dict())
    checkpoint.save(folder, state, experiment.agent.policy, 1)
    resumed, saved = build_experiment(settings, accelerator.NAME), checkpoint.load(folder)
    resumed.agent.load_state_dict(saved.agent)
    resumed.arena.load_state_dict(saved.arena)
    third, _ = one_step(resumed, 3)
    return resumed, [*map(scalars_of, (steps[0][0], steps[1][0], measured, third))]


def require_host(*values):
    assert {x.device.type for x in values if isinstance(x, torch.Tensor)} <= {"cpu"}


def require_players(experiment, settings):
    """The network of the judge, and a given opponent, are on the device."""
    networks = [experiment.oracle.network] if settings.names["oracle"] == "pairrm" else []
    networks += [] if settings.run.opponent is None else [experiment.agent.fixed_opponent]
    assert {p.device.type for network in networks for p in network.parameters()} <= {accelerator.NAME}


def require_copies(agent):
    """Of a large language model's copies one memory is on the device, the rest on the host, the running mean there too.

    With adapters all are on the device and share what the adapters stand beside.
    """
    policy, average = agent.policy, agent.average
    if not isinstance(policy, hf_policy.HFPolicy):
        return
    weights = {name: x for name, x in tensors_of(agent).items() if is_weight(name) and "['policy']" not in name}
    if isinstance(average, hf_policy.HFPolicy):
        assert {p.device.type for p in average.parameters()} == {accelerator.NAME if policy.adapted else "cpu"}
        assert average.device == policy.device
    if policy.adapted:
        assert {x.device.type for x in weights.values()} <= {accelerator.NAME}
    elif not hasattr(agent, "members"):  # a population's are policies to go on from, in full
        copies = {}
        for name, x in weights.items():
            if x.device.type == accelerator.NAME:
                copies.setdefault(name[name.index("'model.") :], set()).add(x.data_ptr())
        assert {name: len(held) for name, held in copies.items() if len(held) > 1} == {}


def is_weight(name):
    """Whether a tensor of an agent's state is a weight of its policy, or of a copy of it."""
    return "'model." in name


def tensors_of(agent):
    """The tensors of an agent's state by their place in it; an optimiser's count of steps is always on the host."""
    found, _ = tree_flatten_with_path(agent.state_dict())
    return {keystr(path): x for path, x in found if isinstance(x, torch.Tensor) and "'step'" not in keystr(path)}


def require_placed(device_agent, host_agent, tables):
    """What learns is on the device, but for tables, in the dtypes of the CPU; trained weights are never rounded."""
    mine, theirs = tensors_of(device_agent), tensors_of(host_agent)
    assert {name: x.dtype for name, x in mine.items()} == {name: x.dtype for name, x in theirs.items()}
    networks = {x.dtype for name, x in mine.items() if "'network'" in name and x.is_floating_point()}
    assert networks <= {torch.float32}
    parameters = list(device_agent.policy.parameters())
    assert {p.dtype for p in parameters if p.requires_grad} <= {torch.float32, torch.float64}
    if tables:
        return
    assert {p.device.type for p in parameters} == {accelerator.NAME}
    host = {name for name, x in mine.items() if x.device.type == "cpu" and not is_weight(name)}
    assert sorted(name for name in host if not any(f"'{part}'" in name for part in ON_THE_HOST)) == []
    require_copies(device_agent)
    for fact in ("_plain", "truncates", "autocast"):  # what is found out when a model is loaded
        assert getattr(device_agent.policy, fact, None) == getattr(host_agent.policy, fact, None)


def apart(host, device, tolerance):
    assert host.keys() == device.keys()
    near = {tag: math.isclose(host[tag], device[tag], rel_tol=tolerance, abs_tol=tolerance) for tag in host}
    return {tag: (host[tag], device[tag]) for tag in host if not near[tag]}


@pytest.mark.slow
@pytest.mark.parametrize("case", ["grpo", "ipo truncated"])
def test_a_run_that_is_to_repeat_itself_has_the_scalars_of_the_cpu(case, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("agents.policies.lm.copies.LARGE", 0)
    settings = settings_of(case, folder)
    _, host = on_the_cpu(settings)
    with accelerator.attached():
        torch.use_deterministic_algorithms(True)
        try:
            _, device = on_the_device(settings, tmp_path)
        finally:
            torch.use_deterministic_algorithms(False)
    assert [apart(*both, 1e-4) for both in zip(host, device, strict=True)] == [{}] * 4


@pytest.mark.slow
@pytest.mark.parametrize(("compute", "size"), [("float32", 4), ("bfloat16", 2)])
def test_so_many_responses_are_sampled_at_once_as_fit_into_memory(compute, size, tmp_path, monkeypatch):
    keys_and_values, longest = 2 * 2 * 2 * 8, 4 + 3  # of a token: two layers, two heads of width 8; <user>, ab, <bot>
    row = longest * keys_and_values * size + 14 * 32
    monkeypatch.setattr(type(torch.get_device_module(accelerator.NAME)), "total_memory", 7 * row)
    task = text_task(write_model(tmp_path), 3, 3, ("ab", "c", "b"))
    policy_of(tmp_path, task)  # loaded first on the device, rotary tables stay unset, those of later models too
    with accelerator.attached():
        policy = policy_of(tmp_path, task, device=accelerator.NAME, compute=compute, cache=0.5)
        started, start = [], policy.decoder
        monkeypatch.setattr(policy, "decoder", lambda prompts, rows: started.append(rows) or start(prompts, rows))
        policy.draw(task.prompts, 2, Key(0))
        assert started == [[1, 1, 2], [2, 0, 0]]  # three and a half fit; the longest prompt comes last


@pytest.mark.slow
def test_a_copy_that_rests_gives_the_bits_of_one_that_stays(tmp_path, monkeypatch):
    monkeypatch.setattr("agents.policies.lm.copies.LARGE", 0)
    task = text_task(write_model(tmp_path, tie_word_embeddings=False), 4, 4, PROMPTS)
    policy_of(tmp_path, task)  # loaded first on the device, rotary tables stay unset
    with accelerator.attached(), torch.no_grad():
        policy = policy_of(tmp_path, task, device=accelerator.NAME, compute="bfloat16")
        start, resting = policy.snapshot(), policy.snapshot()
        for parameter in policy.parameters():
            parameter.mul_(1.5)
        staying, version = policy.snapshot(), resting.weights_version()
        resting.load_state_dict(policy.state_dict())
        assert resting.weights_version() != version
        drawn, _ = staying.draw(PROMPTS, 3, Key(0))
        assert resting.draw(PROMPTS, 3, Key(0))[0] == drawn != start.draw(PROMPTS, 3, Key(0))[0]
        nats = [x.logprob(PROMPTS, drawn) for x in (staying, resting)]
        assert torch.equal(*nats)
        assert resting.device == nats[1].device == policy.device
        sampler = [dict(x.weights()) for x in (staying, resting)]
        assert {x.device.type for x in sampler[1].values()} == {"cpu"}
        assert all(torch.equal(x.cpu(), sampler[1][name]) for name, x in sampler[0].items())


@pytest.mark.parametrize("case", [pytest.param(c, marks=() if c in FAST else pytest.mark.slow) for c in CASES])
def test_a_run_has_the_scalars_of_the_cpu(case, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("agents.policies.lm.copies.LARGE", 0)
    settings = settings_of(case, folder)
    host_run, host = on_the_cpu(settings)
    with accelerator.attached():
        device_run, device = on_the_device(settings, tmp_path)
        require_placed(device_run.agent, host_run.agent, tables=settings.names["policy"] == "tabular")
    tolerance = 0.1 if case in BFLOAT16 else 1e-4
    assert [apart(*both, tolerance) for both in zip(host, device, strict=True)] == [{}] * 4
