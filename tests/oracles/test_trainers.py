"""The recipes of docs/trainers.md run, and the adapters keep the protocols of the trainers."""

import asyncio
import inspect
from types import SimpleNamespace

import pytest
import torch

from benchmarks import serving
from oracles.adapters.messages import completion_text, prompt_text
from oracles.adapters.oat import DuelOracle
from oracles.adapters.tinker import DuelPreferenceModel
from oracles.adapters.trl import duel_reward
from oracles.adapters.verl import duel_score
from oracles.group_rewards import group_rewards
from oracles.serving.reward_server import RewardServer, ServerSettings
from oracles.table import TableOracle
from preference_duel.types import Conversation
from tests.documents import blocks
from tests.paths import DOCS

RECIPES = blocks((DOCS / "trainers.md").read_text(encoding="utf-8"), "python")
TEXTS = ["a", "b", "c"]
PAYOFF = torch.tensor([[0.5, 0.9, 0.2], [0.1, 0.5, 0.7], [0.8, 0.3, 0.5]], dtype=torch.float64)
ORACLE = TableOracle(PAYOFF, ["x", "y"], TEXTS)


def messages(role, text):
    return [{"role": role, "content": text}]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", range(len(RECIPES)))
def test_every_recipe_runs(recipe, capsys):
    exec(compile(RECIPES[recipe], f"recipe {recipe} of docs/trainers.md", "exec"), {})
    assert capsys.readouterr().out


@pytest.mark.parametrize("chat", [False, True])
def test_a_trl_reward_is_that_of_its_groups(chat):
    prompts, completions = ["x"] * 3 + ["y"] * 3, [*TEXTS, *reversed(TEXTS)]
    expected = group_rewards(ORACLE, ["x", "y"], [TEXTS, TEXTS[::-1]]).rewards.flatten().tolist()
    if chat:
        prompts = [messages("user", text) for text in prompts]
        completions = [messages("assistant", text) for text in completions]
    logged = {}
    rewards = duel_reward(ORACLE, num_generations=3)(
        prompts=prompts,
        completions=completions,
        completion_ids=[[0]] * 6,
        trainer_state=None,
        log_extra=None,
        log_metric=logged.__setitem__,
        environments=None,
        answer=["unread column"] * 6,
    )
    assert rewards == pytest.approx(expected)
    assert rewards[:3] == pytest.approx([0.55, 0.4, 0.55])
    assert logged == {"duel/queries": 6.0, "duel/unanswered": 0.0}


@pytest.mark.parametrize(
    ("prompts", "size"),
    [
        ("xxy", 2),  # two generations, three completions a process: a group lies in two of them
        ("yxx", 2),
        ("xx", 4),  # half of a group, which nothing but the size shows
        ("xyxy", 2),
        ("xxyyxxyy", 4),
    ],
)
def test_a_trl_group_that_is_not_whole_is_refused(prompts, size):
    reward = duel_reward(ORACLE, num_generations=size)
    with pytest.raises(ValueError, match=f"not one whole group of num_generations={size}"):
        reward(prompts=list(prompts), completions=[TEXTS[i % 3] for i in range(len(prompts))])


def test_equal_prompts_of_neighbouring_groups_stay_apart():
    reward = duel_reward(ORACLE, num_generations=2, schedule="circular")
    assert reward(prompts=["x"] * 4, completions=["a", "b", "b", "c"]) == pytest.approx([0.9, 0.1, 0.7, 0.3])
    assert reward.__name__ == "duel"
    with pytest.raises(ValueError, match="at least 2"):
        duel_reward(ORACLE, num_generations=1)


class Counting:
    antisymmetric = True

    def __init__(self):
        self.batches = []

    def prob(self, prompts, first, second):
        self.batches.append(len(prompts))
        if "fail" in first:
            raise OSError("the judge is gone")
        return ORACLE.prob(prompts, first, second)


def comparison(first, second):
    return SimpleNamespace(
        prompt_conversation=messages("user", "x"),
        completion_A=messages("assistant", first),
        completion_B=messages("assistant", second),
    )


def test_a_tinker_model_is_1_if_b_is_preferred_and_asks_a_group_in_one_batch():
    oracle = Counting()
    model = DuelPreferenceModel(oracle)

    async def group():
        return await asyncio.gather(*(model(comparison(a, b)) for a in TEXTS for b in TEXTS if a != b))

    expected = [1 - 2 * float(PAYOFF[i, j]) for i in range(3) for j in range(3) if i != j]
    assert asyncio.run(group()) == pytest.approx(expected)
    assert expected[0] == pytest.approx(-0.8)
    assert oracle.batches == [6]


def test_a_failure_of_the_judge_reaches_every_tinker_caller():
    model = DuelPreferenceModel(Counting())

    async def group():
        calls = (model(comparison(a, "a")) for a in ("fail", "b"))
        return await asyncio.gather(*calls, return_exceptions=True)

    assert [type(result) for result in asyncio.run(group())] == [OSError, OSError]


def test_a_cancelled_tinker_caller_leaves_the_others_their_answers():
    model = DuelPreferenceModel(Counting())

    async def group():
        first, second = (asyncio.create_task(model(comparison(a, "c"))) for a in "ab")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        first.cancel()
        return await asyncio.wait_for(second, 20)

    assert asyncio.run(group()) == pytest.approx(1 - 2 * 0.7)


def test_an_oat_oracle_compares():
    oracle = DuelOracle(ORACLE)
    assert oracle.compare(["x", "y"], ["a", "b"], ["b", "a"], return_probs=True) == ([0.9, pytest.approx(0.1)], {})
    assert oracle.compare(["x", "y"], ["a", "b"], ["b", "a"], batch_size=1, disable_tqdm=True) == ([True, False], {})


@pytest.fixture
def address():
    """A server that knows no size of groups, so that the adapter must say it."""
    with serving.in_thread(RewardServer(ORACLE, ServerSettings(wait=0.3))) as port:
        yield f"http://127.0.0.1:{port}"


def verl(score, text, prompt="x", **more):
    """Calls a reward function as verl's NaiveRewardManager does."""
    about = {"question": prompt, "index": 3, "split": "train", "num_turns": None, "rollout_reward_scores": {}}
    return score(data_source="duel", solution_str=text, ground_truth="", extra_info={**about, **more})


def test_verl_gets_the_reward_of_each_completion_in_its_group(address):
    score = duel_score(address, group_size=3)
    assert inspect.iscoroutinefunction(score)

    async def step():
        calls = [verl(score, text) for text in ["c", "a", "b"]]
        calls += [verl(score, text, messages("user", "y"), index=4) for text in ["a", "a", "b"]]
        return await asyncio.gather(*calls)

    for _ in range(2):  # of two epochs, each with a loop of its own
        rewards = [answer["score"] for answer in asyncio.run(step())]
        assert rewards == pytest.approx([0.55, 0.55, 0.4, 0.7, 0.7, 0.1])


def test_a_missing_completion_is_an_error_in_verl_and_no_reward(address, monkeypatch):
    monkeypatch.setattr("oracles.adapters.verl.PAUSE", 0.01)
    score = duel_score(address, group_size=3, tries=2)

    async def step():
        return await asyncio.gather(verl(score, "a"), verl(score, "b"), return_exceptions=True)

    for failure in asyncio.run(step()):
        assert isinstance(failure, RuntimeError)
        assert "2 of 3 completions came" in str(failure)
        assert "missing: 1 more" in str(failure)
    with pytest.raises(ValueError, match=r"extra_info must have 'question' and 'index', got \['split'\]"):
        asyncio.run(score("duel", "a", "", {"split": "train"}))
    with pytest.raises(RuntimeError, match=r"no reward of http://127\.0\.0\.1:9"):
        asyncio.run(verl(duel_score("http://127.0.0.1:9", group_size=3, tries=2), "a"))


def test_messages_become_texts():
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    prompt = prompt_text(turns)
    assert isinstance(prompt, Conversation)
    assert prompt == "SYSTEM: Be brief.\nUSER: Hi"
    assert prompt_text(messages("user", "Hi")) == "Hi"
    assert completion_text([*messages("assistant", "one"), *messages("assistant", "two")]) == "one\ntwo"
    for broken in ([], [{"role": "assistant"}], [{"role": "assistant", "content": [{"type": "image"}]}], 3):
        with pytest.raises(ValueError, match=r"must be text|must have text"):
            completion_text(broken)
