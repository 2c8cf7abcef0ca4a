"""Completions that come one by one are rewarded as whole groups, and never otherwise."""

import asyncio
from dataclasses import replace

import pytest

from oracles.serving.cohorts import Cohorts, ConflictError, DisconnectedError, MissingSiblingsError, Sample

SCORED = []


async def score(prompt, completions):
    SCORED.append((prompt, completions))
    await asyncio.sleep(0)
    if "bad" in completions:
        raise OSError("the judge is gone")
    return [float(len(text)) for text in completions]


@pytest.fixture(autouse=True)
def scored():
    SCORED.clear()
    return SCORED


def sample(completion, name=None, group="x", size=3):
    return Sample(group, f"prompt {group}", size, completion, name)


class Caller:
    """A request that runs until it is answered, or broken off."""

    def __init__(self, cohorts, *samples):
        self.gone = asyncio.get_running_loop().create_future()
        self.task = asyncio.create_task(cohorts.rewards(samples, self.gone))

    async def hang_up(self):
        self.gone.set_result(None)
        with pytest.raises(DisconnectedError):
            await self.task

    async def answer(self):
        return await asyncio.wait_for(self.task, 10)


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


def run(scenario, *, wait=30.0, retry=30.0):
    async def play():
        cohorts = Cohorts(score, wait=wait, retry=retry)
        await scenario(cohorts)
        return cohorts

    return asyncio.run(play())


def test_a_group_is_scored_once_when_it_is_whole(scored):
    async def scenario(cohorts):
        first, second = Caller(cohorts, sample("a")), Caller(cohorts, sample("bb"))
        other = Caller(cohorts, sample("cccc", group="y"), sample("d", group="y"))
        await settle()
        assert not scored
        assert cohorts.kept == 4
        last = Caller(cohorts, sample("ccc"))
        assert [await one.answer() for one in (first, second, last)] == [[1.0], [2.0], [3.0]]
        assert not other.task.done()
        assert cohorts.kept == 2

    run(scenario)
    ((prompt, completions),) = scored
    assert prompt == "prompt x"
    assert sorted(completions) == ["a", "bb", "ccc"]


def test_equal_ids_of_other_prompts_or_sizes_are_other_groups():
    async def scenario(cohorts):
        callers = [Caller(cohorts, replace(sample("a"), prompt=prompt)) for prompt in "pqr"]
        callers += [Caller(cohorts, sample("a", size=size)) for size in (4, 5)]
        await settle()
        assert cohorts.kept == 5
        assert not any(caller.task.done() for caller in callers)

    run(scenario)


@pytest.mark.parametrize("names", [("0", "1", "2"), (None, None, None)])
def test_the_order_of_a_group_is_not_that_of_arrival(names, scored):
    async def scenario(cohorts):
        for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):
            callers = [Caller(cohorts, sample("abc"[i], names[i], group=f"{order}")) for i in order]
            for caller in callers:
                await caller.answer()

    run(scenario)
    orders = {tuple(completions) for _, completions in scored}
    assert len(orders) == 1
    assert names[0] is None or orders == {("a", "b", "c")}


def test_duplicates_and_retries_of_a_named_completion_are_one(scored):
    async def scenario(cohorts):
        first, twin = Caller(cohorts, sample("a", "0")), Caller(cohorts, sample("a", "0"))
        second = Caller(cohorts, sample("bb", "1"))
        await settle()
        await second.hang_up()
        again = Caller(cohorts, sample("bb", "1"))
        await settle()
        assert not scored
        last = Caller(cohorts, sample("ccc", "2"))
        answers = [await one.answer() for one in (first, twin, again, last)]
        assert answers == [[1.0], [1.0], [2.0], [3.0]]
        late = Caller(cohorts, sample("bb", "1"))
        assert await late.answer() == [2.0]  # whose first answer was lost on the way

    cohorts = run(scenario)
    assert len(scored) == 1
    assert cohorts.counts == {"whole": 1, "failed": 0, "shared": 3, "incomplete": 0, "dropped": 1}


def test_without_names_open_requests_are_completions_and_broken_ones_come_again(scored):
    async def scenario(cohorts):
        first, second = Caller(cohorts, sample("a")), Caller(cohorts, sample("a"))
        await settle()
        await second.hang_up()
        again = Caller(cohorts, sample("a"))
        await settle()
        assert not scored
        last = Caller(cohorts, sample("bb"))
        assert [await one.answer() for one in (first, again, last)] == [[1.0], [1.0], [2.0]]
        fresh = Caller(cohorts, sample("a"))
        await settle()
        assert not fresh.task.done()  # the same text, drawn in another step: another group
        assert cohorts.kept == 1

    run(scenario)
    assert [sorted(completions) for _, completions in scored] == [["a", "a", "bb"]]


def test_a_retry_does_not_overtake_the_end_of_its_first_request(scored):
    async def scenario(cohorts):
        first, second = Caller(cohorts, sample("a")), Caller(cohorts, sample("bb"))
        await settle()
        first.gone.set_result(None)
        again = Caller(cohorts, sample("a"))  # as if both lay in the sockets of a server that was busy
        for _ in range(30):
            await asyncio.sleep(0)
        assert cohorts.kept == 2
        last = Caller(cohorts, sample("ccc"))
        assert [await one.answer() for one in (again, second, last)] == [[1.0], [2.0], [3.0]]
        with pytest.raises(DisconnectedError):
            await first.task

    run(scenario)
    assert [sorted(completions) for _, completions in scored] == [["a", "bb", "ccc"]]


def test_the_reward_of_a_caller_that_hung_up_waits_for_its_retry(scored):
    async def scenario(cohorts):
        first, second = Caller(cohorts, sample("a")), Caller(cohorts, sample("bb"))
        await settle()
        await first.hang_up()
        last = Caller(cohorts, sample("ccc"))
        assert [await second.answer(), await last.answer()] == [[2.0], [3.0]]  # nothing of the group is missing
        assert await Caller(cohorts, sample("a")).answer() == [1.0]
        assert cohorts.kept == 0

    run(scenario)
    assert len(scored) == 1


def test_a_group_that_is_not_whole_names_what_is_missing_and_yields_no_number(scored):
    async def scenario(cohorts):
        callers = [Caller(cohorts, sample(text, name)) for text, name in (("a", "0"), ("ccc", "2"))]
        for caller in callers:
            with pytest.raises(MissingSiblingsError, match=r"prompt 'x': 2 of 3 .* \(0, 2\); missing: 1$"):
                await caller.answer()
        with pytest.raises(MissingSiblingsError, match=r"prompt 'y': 1 of 4 .*\('b'\); missing: 3 more$"):
            await Caller(cohorts, sample("b", group="y", size=4)).answer()

    cohorts = run(scenario, wait=0.01)
    assert not scored
    assert cohorts.counts["incomplete"] == 3


def test_completions_without_a_caller_are_forgotten(scored):
    async def scenario(cohorts):
        for text in ("a", "bb"):
            await asyncio.sleep(0)
            caller = Caller(cohorts, sample(text))
            await settle()
            await caller.hang_up()
        assert cohorts.kept == 2
        await asyncio.sleep(0.05)
        assert cohorts.kept == 0
        last = Caller(cohorts, sample("ccc"))  # of a trainer that was started again
        await settle()
        assert not last.task.done()
        assert not scored

    run(scenario, retry=0.01)


def test_one_name_is_one_completion_of_a_group():
    async def scenario(cohorts):
        first = Caller(cohorts, sample("a", "0"))
        await settle()
        with pytest.raises(ConflictError, match="completion '0' of prompt 'x' waits with the text 'a'"):
            await Caller(cohorts, sample("b", "0")).answer()
        await first.hang_up()
        new = [Caller(cohorts, sample(text, name)) for text, name in (("b", "0"), ("cc", "1"), ("ddd", "2"))]
        assert [await caller.answer() for caller in new] == [[1.0], [2.0], [3.0]]
        later = [Caller(cohorts, sample(text, name)) for text, name in (("eeee", "0"), ("f", "1"), ("gg", "2"))]
        assert [await caller.answer() for caller in later] == [[4.0], [1.0], [2.0]]

    run(scenario)


def test_a_failure_reaches_every_caller_and_is_not_kept(scored):
    async def scenario(cohorts):
        callers = [Caller(cohorts, sample(text)) for text in ("a", "bb", "bad")]
        for caller in callers:
            with pytest.raises(OSError, match="the judge is gone"):
                await caller.answer()
        assert cohorts.kept == 0
        callers = [Caller(cohorts, sample(text)) for text in ("a", "bb", "ccc")]
        assert [await caller.answer() for caller in callers] == [[1.0], [2.0], [3.0]]

    cohorts = run(scenario)
    assert cohorts.counts["failed"] == 1


def test_a_group_needs_two():
    with pytest.raises(ValueError, match="at least 2"):
        sample("a", size=1)
