"""The contract of an agent, as a check that anyone can run on their own."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from envs.arena import DuelArena
from preference_duel.keyed_random import Key, Stream
from preference_duel.protocols import Agent, Policy
from preference_duel.types import Duel, Proposal

TAGS = ("loss", "model", "policy", "duel", "eval", "game", "time")
"""Groups of scalars: the part of a tag before the slash."""

_STEPS = 4
_TAKEN = 0.2
"""Share of the pairs that are taken out of a duel."""


def check_agent(agent: Agent, arena: DuelArena) -> None:
    """Plays some duels and checks what the runner and the readers of its curves rely on.

    * Proposals fit the prompts, and are weighted exactly if the policy lists its whole distribution.
    * Under outcome feedback the duels hold nothing but outcomes, and the agent holds neither arena nor oracle.
    * `update` leaves the duel as it is and returns finite floats with known tags.
    * Nothing is learned from a pair that was not asked, or whose answer could not be read: its `prob` plays no part.
    * Only the agent's policy learns: frozen copies stay as they are and other policies get no gradient.
    * `state_dict` is plain and complete: duels played again from it, at the start or in the middle, give the same
      responses, scalars and state, whatever the global random generators hold.

    Args:
        agent: the agent to check; brought back to the state in which it came.
        arena: where it plays; likewise.

    Raises:
        ValueError: naming the broken promise.
    """
    name = type(agent).__name__
    if not isinstance(agent, Agent):
        raise ValueError(f"{name} must have policy, average, propose, update, state_dict and load_state_dict")
    for attribute, value in vars(agent).items():
        if value is arena or value is arena.oracle:
            raise ValueError(f"{name}.{attribute} is the {type(value).__name__}: agents learn from duels alone")
    start = _copied(agent.state_dict()), arena.state_dict()
    _require_plain(name, start[0])
    frozen = agent.policy.frozen()
    untouched = _copied(frozen.state_dict())
    numpy_state = np.random.get_state()  # noqa: NPY002 - the global generator is what is checked
    try:
        with torch.random.fork_rng(devices=[]):
            whole = _play(agent, arena, start, _STEPS, seed=1)
            again = _play(agent, arena, start, _STEPS, seed=2)
            middle = _STEPS // 2
            rest = _play(agent, arena, whole[middle - 1].state, _STEPS - middle, seed=3)
            first, second = (_learned_without(agent, arena, start, verdict) for verdict in (0.0, 1.0))
        kept = _same(untouched, frozen.state_dict(), exact=True)
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002 - put back as it was
        _load(agent, arena, start)
    exact = agent.policy.device.type == "cpu"
    _require_equal(name, whole, again, "its first state_dict() were played again from it", exact)
    _require_equal(name, whole[middle:], rest, "a state_dict() in the middle were played again from it", exact)
    if not all(_same(vars(first)[part], vars(second)[part], exact) for part in vars(first)):
        raise ValueError(
            f"{name}: update() learned from a pair that was not asked: weigh pairs by `duel.asked` and responses by "
            f"`duel.left_weight`; losses.win_rate takes known=duel.known"
        )
    if not kept:
        raise ValueError(f"{name}: update() changed a frozen copy of its policy; frozen() must not share tensors")


@dataclass(frozen=True)
class _Step:
    """One pass through the loop, and the state after it."""

    responses: Any
    scalars: dict[str, float]
    state: tuple[dict[str, Any], dict[str, Any]]


def _play(agent: Agent, arena: DuelArena, start: tuple[Any, Any], steps: int, seed: int) -> list[_Step]:
    _load(agent, arena, start)
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - an agent that draws from it is found out
    name, done = type(agent).__name__, []
    for _ in range(steps):
        proposal = agent.propose(arena.reset())
        _require_weights(name, agent, proposal)
        duel = arena.play(proposal)
        _require_outcomes(duel)
        held = duel.prob.clone()
        scalars = agent.update(duel)
        if not torch.equal(held, duel.prob):
            raise ValueError(f"{name}: update() changed duel.prob; a duel is shared and must stay as it is")
        _require_scalars(name, scalars)
        _require_own_gradient(name, agent)
        timeless = {tag: value for tag, value in scalars.items() if not tag.startswith("time/")}
        seats = proposal.left, proposal.right
        done.append(_Step(seats, timeless, (_copied(agent.state_dict()), arena.state_dict())))
    return done


def _learned_without(agent: Agent, arena: DuelArena, start: tuple[Any, Any], verdict: float) -> _Step:
    """Returns what comes of a duel some of whose pairs are taken out and have a verdict that is not to be read."""
    _load(agent, arena, start)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 - as in `_play`
    duel = arena.play(agent.propose(arena.reset()))
    if duel.exact or int(duel.comparisons.sum()) < 2:
        return _Step((), {}, ({}, {}))
    drawn = Key(0, 0, Stream.SIDE).uniform(k=np.arange(duel.prob.numel())) < _TAKEN
    taken = torch.from_numpy(drawn).view_as(duel.prob)
    taken[-1, 0] = True  # a response of the last prompt that has no other pair
    taken = duel.comparisons & (taken | taken.mT if duel.self_play else taken)
    taken[(taken == duel.comparisons).all(2).all(1)] = False  # something of each prompt is left,
    taken[: len(duel.prompts) > 1] = duel.comparisons[: len(duel.prompts) > 1]  # but nothing of the first of several
    rest = duel.without(taken | taken.mT if duel.self_play else taken)
    taken = taken if rest.rows is None else taken[list(rest.rows)]
    prob = torch.where(taken, verdict, rest.prob)
    prob = torch.where(taken.mT, 1 - verdict, prob) if duel.self_play else prob
    scalars = agent.update(replace(rest, prob=prob))
    return _Step((), scalars, (_copied(agent.state_dict()), arena.state_dict()))


def _load(agent: Agent, arena: DuelArena, state: tuple[Any, Any]) -> None:
    agent.load_state_dict(_copied(state[0]))
    arena.load_state_dict(dict(state[1]))


def _require_weights(name: str, agent: Agent, proposal: Proposal) -> None:
    if (proposal.left_weight is not None) != agent.policy.exact:
        raise ValueError(
            f"{name}: the policy is {'exact' if agent.policy.exact else 'sampled'} and left_weight is "
            f"{'missing' if proposal.left_weight is None else 'given'}; give weights exactly where the policy is exact"
        )


def _require_outcomes(duel: Duel) -> None:
    if duel.feedback == "outcome" or (duel.feedback == "thumb" and not duel.exact):
        counts = duel.prob[duel.asked].double() * duel.votes
        if (counts - counts.round()).abs().max() > 1e-4:
            raise ValueError("the arena reveals more than outcomes: prob is no multiple of 1/votes where it was asked")


def _require_scalars(name: str, scalars: Mapping[str, float]) -> None:
    for tag, value in scalars.items():
        if type(value) is not float or not math.isfinite(value):
            raise ValueError(f"{name}: update() must return finite floats, got {tag} = {value!r}")
        if tag.partition("/")[0] not in TAGS or not tag.partition("/")[2]:
            raise ValueError(f"{name}: the tag {tag!r} must be GROUP/NAME with GROUP one of {', '.join(TAGS)}")


def _require_own_gradient(name: str, agent: Agent) -> None:
    own = {id(parameter) for parameter in agent.policy.parameters()}
    for attribute, value in vars(agent).items():
        if isinstance(value, Policy):
            for parameter_name, parameter in value.named_parameters():
                if id(parameter) not in own and parameter.grad is not None:
                    raise ValueError(f"{name}.{attribute} ({parameter_name}) got a gradient; only `policy` may learn")


def _require_plain(name: str, state: Any, path: str = "state_dict()") -> None:
    if isinstance(state, dict):
        for key, value in state.items():
            if not isinstance(key, str):
                raise ValueError(f"{name}: {path} has the key {key!r}; keys must be strings, so that it can be written")
            _require_plain(name, value, f"{path}[{key!r}]")
    elif not isinstance(state, Tensor | int | float | str):
        raise ValueError(f"{name}: {path} is {type(state).__name__}; it must hold tensors, numbers and strings only")


def _require_equal(name: str, before: Sequence[_Step], after: Sequence[_Step], when: str, exact: bool) -> None:
    for step, (old, new) in enumerate(zip(before, after, strict=True)):
        for what in ("responses", "scalars", "state"):
            if not _same(getattr(old, what), getattr(new, what), exact):
                raise ValueError(
                    f"{name}: other {what} in step {step} when the duels after {when}; state_dict() must hold all that "
                    f"update() changes, and every draw must come from a Key"
                )


def _same(first: Any, second: Any, exact: bool) -> bool:
    """Compares nested dicts and sequences of tensors and values; to 1e-3 where the device is not repeatable."""
    if isinstance(first, Mapping):
        return first.keys() == second.keys() and all(_same(first[key], second[key], exact) for key in first)
    if isinstance(first, Tensor):
        return torch.equal(first, second) if exact else torch.allclose(first, second, rtol=1e-3, atol=1e-3)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(_same(a, b, exact) for a, b in zip(first, second, strict=True))
    if isinstance(first, float) and not exact:
        return math.isclose(first, second, rel_tol=1e-3, abs_tol=1e-3)
    return bool(first == second)


def _copied(state: Mapping[str, Any]) -> dict[str, Any]:
    return copy.deepcopy(dict(state))
