"""Completions that come one by one, rewarded when all of their prompt are there."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from preference_duel.json_text import short

Score = Callable[[str, list[str]], Awaitable[list[float]]]
"""Returns a reward for each completion of a prompt."""
ROUNDS = 16
"""Rounds of the event loop in which an end of a connection that lies in the socket already reaches its request."""


@dataclass(frozen=True)
class Sample:
    """One completion of a group.

    Attributes:
        group: id of the prompt: completions of the same id, prompt and size belong together.
        prompt: as the oracle reads it.
        size: completions of the group.
        completion: the text.
        name: tells this completion from the others of its group: a request that names it again is the same completion,
            whose order in the group is that of names that are numbers. None: see `Cohorts`.
    """

    group: str
    prompt: str
    size: int
    completion: str
    name: str | None = None

    def __post_init__(self) -> None:
        if self.size < 2:
            raise ValueError(f"a group needs at least 2 completions to compare, got a size of {self.size}")


class MissingSiblingsError(Exception):
    """A group was not whole within the time; the text says what came and what is missing."""


class ConflictError(Exception):
    """Two different completions came under one name."""


class DisconnectedError(Exception):
    """The caller is gone."""


@dataclass(eq=False)
class _Place:
    """A completion in its cohort.

    Attributes:
        sample: the completion.
        cohort: where it belongs.
        reward: to come.
        callers: open requests that wait for it.
        expiry: when it is forgotten; None while requests wait.
    """

    sample: Sample
    cohort: _Cohort
    reward: asyncio.Future[float]
    callers: int = 0
    expiry: asyncio.TimerHandle | None = None


@dataclass(eq=False)
class _Cohort:
    places: list[_Place] = field(default_factory=list)
    whole: bool = False
    """All completions have come; rewards are there or on their way."""


class Cohorts:
    """Buffers the completions of each group until it is whole, and rewards them together.

    A request of a named completion shares its place, while it waits and for `retry` seconds after. Without a name, a
    request takes the place of an equal completion whose request is gone (broken off, or answered that the group is not
    whole) up to `retry` seconds ago, otherwise a place of its own: two open requests are two completions. A completion
    whose caller does not come back within `retry` seconds is forgotten, and counts as missing.

    The order in a group, on which most schedules depend, is that of the names if they are numbers, else of a hash of
    the texts: the rewards of a group do not depend on the order of arrival.

    Args:
        score: rewards a whole group.
        wait: seconds that a request waits for its group to be whole.
        retry: seconds for which a completion without an open request is kept.

    Attributes:
        counts: groups that were `whole` or `failed`; requests that were `shared`, `incomplete`, or `dropped` by
            the caller.
    """

    def __init__(self, score: Score, *, wait: float, retry: float) -> None:
        self.counts: Counter[str] = Counter(dict.fromkeys(("whole", "failed", "shared", "incomplete", "dropped"), 0))
        self._score, self._wait, self._retry = score, wait, retry
        self._cohorts: dict[tuple[str, str, int], list[_Cohort]] = {}
        self._scoring: set[asyncio.Task[None]] = set()

    @property
    def kept(self) -> int:
        """Completions that are held: of groups that are not whole, or for requests that may come again."""
        return sum(len(cohort.places) for cohorts in self._cohorts.values() for cohort in cohorts)

    async def rewards(self, samples: Sequence[Sample], gone: asyncio.Future[Any]) -> list[float]:
        """Returns the rewards of completions, once the groups of all are whole.

        Args:
            samples: the completions of one request.
            gone: is done as soon as the caller is gone.

        Raises:
            MissingSiblingsError: if a group is not whole in time.
            ConflictError: if an open request has another completion of the same name.
            DisconnectedError: if the caller is gone.
            Exception: that which `score` raises.
        """
        places: list[_Place] = []
        answered = False
        try:
            if any(sample.name is None and self._equal_waits(sample) for sample in samples):
                for _ in range(ROUNDS):  # a retry must not overtake the news that its first request has ended
                    await asyncio.sleep(0)
            for sample in samples:
                places.append(self._enter(sample))
            every = asyncio.gather(*(asyncio.shield(place.reward) for place in places), return_exceptions=True)
            await asyncio.wait((every, gone), timeout=self._wait, return_when=asyncio.FIRST_COMPLETED)
            if not (every.done() or gone.done()):
                self._require_whole(places)
                await asyncio.wait((every, gone), return_when=asyncio.FIRST_COMPLETED)  # the oracle takes its time
            if gone.done():
                self.counts["dropped"] += 1
                raise DisconnectedError
            rewards = [place.reward.result() for place in places]
            answered = True
            return rewards
        finally:
            for place in places:
                self._leave(place, answered)

    def _enter(self, sample: Sample) -> _Place:
        """Returns the place of a completion, an old or a new one, with a caller more."""
        key = sample.group, sample.prompt, sample.size
        place = self._known(sample, self._cohorts.get(key, []))
        if place is None:
            cohorts = self._cohorts.setdefault(key, [])
            cohort = next((one for one in cohorts if not one.whole), None)
            if cohort is None:
                cohort = _Cohort()
                cohorts.append(cohort)
            place = _Place(sample, cohort, asyncio.get_running_loop().create_future())
            cohort.places.append(place)
            if len(cohort.places) == sample.size:
                cohort.whole = True
                task = asyncio.create_task(self._reward(list(cohort.places)))
                self._scoring.add(task)
                task.add_done_callback(self._scoring.discard)
        else:
            self.counts["shared"] += 1
        place.callers += 1
        if place.expiry is not None:
            place.expiry.cancel()
            place.expiry = None
        return place

    def _equal_waits(self, sample: Sample) -> bool:
        cohorts = self._cohorts.get((sample.group, sample.prompt, sample.size), ())
        return any(place.sample == sample and place.callers for cohort in cohorts for place in cohort.places)

    def _known(self, sample: Sample, cohorts: Sequence[_Cohort]) -> _Place | None:
        """Returns the place that a request means, if there is one.

        Raises:
            ConflictError: as `rewards`.
        """
        free = sample.name is None
        same = (place for cohort in cohorts for place in cohort.places if place.sample == sample)
        place = next((place for place in same if not (free and place.callers)), None)
        if place is not None or free:
            return place
        waiting = [place for cohort in cohorts if not cohort.whole for place in cohort.places]
        other = next((place for place in waiting if place.sample.name == sample.name), None)
        if other is not None and other.callers:
            raise ConflictError(
                f"completion {sample.name!r} of prompt {short(sample.group)} waits with the text "
                f"{short(other.sample.completion)}, and came again with {short(sample.completion)}: name each "
                f"completion of a group differently"
            )
        if other is not None:  # of a caller that did not come back, such as a trainer that was started again
            self._forget(other)
        return None

    def _leave(self, place: _Place, answered: bool) -> None:
        """Takes a caller away; what nobody waits for is kept for a while if the request may come again."""
        place.callers -= 1
        if place.callers:
            return
        failed = place.reward.done() and place.reward.exception() is not None
        if failed or (answered and place.sample.name is None):
            self._forget(place)
        else:
            place.expiry = asyncio.get_running_loop().call_later(self._retry, self._forget, place)

    def _forget(self, place: _Place) -> None:
        if place.expiry is not None:
            place.expiry.cancel()
        if place not in place.cohort.places:
            return
        place.cohort.places.remove(place)
        key = place.sample.group, place.sample.prompt, place.sample.size
        if not place.cohort.places:
            self._cohorts[key].remove(place.cohort)
        if not self._cohorts[key]:
            del self._cohorts[key]

    async def _reward(self, places: list[_Place]) -> None:
        """Asks for the rewards of a whole group."""
        places.sort(key=_order)
        completions = [place.sample.completion for place in places]
        try:
            rewards = await self._score(places[0].sample.prompt, completions)
        except Exception as error:
            self.counts["failed"] += 1
            for place in places:
                if place.callers:
                    place.reward.set_exception(error)
                else:
                    self._forget(place)
            return
        self.counts["whole"] += 1
        for place, reward in zip(places, rewards, strict=True):
            place.reward.set_result(reward)

    def _require_whole(self, places: Sequence[_Place]) -> None:
        cohorts = {id(place.cohort): place.cohort for place in places if not place.cohort.whole}
        if cohorts:
            self.counts["incomplete"] += 1
            raise MissingSiblingsError("; ".join(self._missing(cohort.places) for cohort in cohorts.values()))

    def _missing(self, places: Sequence[_Place]) -> str:
        sample = places[0].sample
        came = sorted(places, key=_order)
        named = [place.sample.name or short(place.sample.completion) for place in came]
        numbers = {str(i) for i in range(sample.size)}
        missing = f"{sample.size - len(places)} more"
        if numbers.issuperset(named):
            missing = ", ".join(sorted(numbers.difference(named), key=int))
        return (
            f"prompt {short(sample.group)}: {len(places)} of {sample.size} completions came within {self._wait:g} s "
            f"({', '.join(named)}); missing: {missing}"
        )


def _order(place: _Place) -> tuple[int, int, str, str]:
    """Returns by what completions are sorted: numbers as names, else a hash, which puts no like texts together."""
    name, text = place.sample.name, place.sample.completion
    if name is not None and name.isdecimal():
        return 0, int(name), "", text
    return 1, 0, hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(), text
