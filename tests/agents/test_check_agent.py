import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from agents.check import check_agent
from agents.optim.optimiser import OptimiserConfig
from agents.policies.tabular import TabularPolicy
from agents.sppo import SPPO, SPPOConfig
from envs.arena import DuelArena
from envs.tasks.finite import finite_task
from oracles.table import TableOracle
from preference_duel.types import Duel, Proposal

COMAL = torch.tensor([[0.5, 0.1, 0.8], [0.9, 0.5, 0.1], [0.2, 0.9, 0.5]], dtype=torch.float64)
TEXTS = ["a", "b", "c"]
TASK = finite_task("game", ["x", "y"], TEXTS, TEXTS)


def arena(votes: int = 1) -> DuelArena:
    return DuelArena(TASK, TableOracle(COMAL, TASK.prompts, TEXTS), 4, votes=votes)


def check(kind: Callable[..., SPPO], votes: int = 1, **fields) -> None:
    check_agent(
        kind(SPPOConfig(optimiser=OptimiserConfig("adamw", momentum=0.9), **fields), TabularPolicy(TASK), 0),
        arena(votes),
    )


class MutatesDuel(SPPO):
    def update(self, duel: Duel) -> dict[str, float]:
        scalars = super().update(duel)
        duel.prob.zero_()
        return scalars


class LearnsFromTheUnread(SPPO):
    def update(self, duel: Duel) -> dict[str, float]:
        return super().update(replace(duel, asked=torch.ones_like(duel.asked)))


class ReturnsNan(SPPO):
    def update(self, duel: Duel) -> dict[str, float]:
        return super().update(duel) | {"loss/policy": float("nan")}


class ReturnsTensor(SPPO):
    def update(self, duel: Duel) -> dict[str, float]:
        return super().update(duel) | {"loss/policy": torch.tensor(1.0)}


class UnknownTag(SPPO):
    def update(self, duel: Duel) -> dict[str, float]:
        return super().update(duel) | {"reward": 1.0}


class GivesWeights(SPPO):
    def propose(self, prompts) -> Proposal:
        responses, weight = self.opponent.draw(prompts, 3, self._key())
        return Proposal(responses, left_weight=weight)

    def _key(self):
        from preference_duel.keyed_random import Key

        return Key(0, self.learner.updates)


class ForgetsOptimiser(SPPO):
    def load_state_dict(self, state) -> None:
        super().load_state_dict({**state, "optimiser": {"steps": 0}})


class ForgetsUpdates(SPPO):
    def load_state_dict(self, state) -> None:
        updates = self.learner.updates
        super().load_state_dict(state)
        self.learner.updates = updates


class HasHiddenCounter(SPPO):
    calls = 0

    def update(self, duel: Duel) -> dict[str, float]:
        self.calls += 1
        return super().update(duel) | {"loss/calls": float(self.calls)}


class DrawsGlobally(SPPO):
    def update(self, duel: Duel) -> dict[str, float]:
        return super().update(duel) | {"loss/noise": torch.rand(()).item()}


class DrawsFromNumpy(SPPO):
    def update(self, duel: Duel) -> dict[str, float]:
        return super().update(duel) | {"loss/noise": float(np.random.rand())}  # noqa: NPY002 - what is found out


class StateWithObject(SPPO):
    def state_dict(self):
        return super().state_dict() | {"generator": random.Random(0)}


class StateWithNumberedKey(SPPO):
    def state_dict(self):
        return super().state_dict() | {"optimiser": {0: 1.0}}


class TrainsOpponent(SPPO):
    def update(self, duel: Duel) -> dict[str, float]:
        self.opponent.requires_grad_(True)
        self.opponent.logprob(duel.prompts, duel.left).sum().backward()
        return super().update(duel)


class SharesFrozen(TabularPolicy):
    def frozen(self):
        return self


@pytest.mark.parametrize("votes", [1, 3])
def test_a_sound_agent_passes_and_comes_back_as_it_was(votes):
    field = arena(votes)
    agent = SPPOConfig().build(policy=TabularPolicy(TASK), seed=0)
    agent.update(field.play(agent.propose(field.reset())))
    policy, torch_state, episode = agent.policy.logits.detach().clone(), torch.get_rng_state(), field.state_dict()
    check_agent(agent, field)
    assert torch.equal(agent.policy.logits, policy)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert field.state_dict() == episode


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (MutatesDuel, "changed duel.prob"),
        (LearnsFromTheUnread, r"learned from a pair that was not asked: weigh pairs by `duel.asked`"),
        (ReturnsNan, "finite floats, got loss/policy = nan"),
        (ReturnsTensor, "finite floats, got loss/policy = tensor"),
        (UnknownTag, "the tag 'reward' must be GROUP/NAME"),
        (GivesWeights, "left_weight is given"),
        (ForgetsOptimiser, "other scalars in step .*middle"),
        (ForgetsUpdates, "other responses in step 0 when the duels after its first"),
        (HasHiddenCounter, "other scalars in step 0"),
        (DrawsGlobally, "every draw must come from a Key"),
        (DrawsFromNumpy, "every draw must come from a Key"),
        (StateWithObject, r"state_dict\(\)\['generator'\] is Random"),
        (StateWithNumberedKey, "has the key 0; keys must be strings"),
        (TrainsOpponent, r"opponent \(logits\) got a gradient"),
    ],
)
def test_every_broken_promise_is_named(kind, message):
    with pytest.raises(ValueError, match=message):
        check(kind)


def test_a_policy_whose_frozen_copy_learns_is_found_out():
    policy = SharesFrozen(TASK)
    agent = SPPOConfig(average=False, log_kl=False).build(policy=policy)
    with pytest.raises(ValueError, match="changed a frozen copy of its policy"):
        check_agent(agent, arena())


def test_an_agent_that_holds_the_oracle_is_found_out():
    field = arena()
    agent = SPPOConfig().build(policy=TabularPolicy(TASK))
    vars(agent)["judge"] = field.oracle
    with pytest.raises(ValueError, match=r"SPPO\.judge is the TableOracle: agents learn from duels alone"):
        check_agent(agent, field)


def test_an_arena_that_leaks_probabilities_is_found_out():
    class Leaky(DuelArena):
        def play(self, proposal: Proposal) -> Duel:
            duel = super().play(proposal)
            duel.prob.mul_(0.9)
            return duel

    leaky = Leaky(TASK, TableOracle(COMAL, TASK.prompts, TEXTS), 4)
    with pytest.raises(ValueError, match="reveals more than outcomes"):
        check_agent(SPPOConfig().build(policy=TabularPolicy(TASK)), leaky)


def test_what_is_no_agent_is_refused():
    with pytest.raises(ValueError, match="object must have policy"):
        check_agent(object(), arena())  # pyright: ignore[reportArgumentType] - the mistake under test
