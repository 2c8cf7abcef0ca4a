"""An audit in words and in a table of at most 25 lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from envs.votes.statistics.audit import Audit
from envs.votes.statistics.labels import Label

LEVEL = 0.05
MOST = 8
"""Lines of items, and of labels with their heading, at most."""
_LABELS = 4
_NAME = 24


def sentences(audit: Audit) -> list[str]:
    """Returns what the audit says, the answer first."""
    return [
        _answer(audit),
        *_gaps(audit),
        _cycles(audit),
        *_leaders(audit),
        *_seats(audit),
        *_people(audit),
        *_next(audit),
    ]


def table(audit: Audit, rows: int = MOST) -> list[str]:
    """Returns the lines of the rankings side by side, the best items by Bradley-Terry score first."""
    width = min(_NAME, max(map(len, audit.table.items)))
    lines = [f"{'':{width}s}   Bradley-Terry (nats)   Copeland   lottery (in support)    Elo"]
    for i in by_score(audit)[:rows]:
        bt, elo = audit.bradley_terry, audit.elo
        interval = f"{bt.value[i]:+.2f} [{bt.low[i]:+.2f}, {bt.high[i]:+.2f}]"
        held = "*" if audit.scores.held[i] else " "
        lottery = f"{audit.lottery.value[i]:.3f} ({audit.support[i]:4.0%})"
        points = f"{elo.value[i]:.0f} [{elo.low[i]:.0f}, {elo.high[i]:.0f}]"
        name = audit.table.items[i][:width]
        lines.append(
            f"{name:{width}s}{held}  {interval:21s}  {audit.copeland.value[i]:7.1f}    {lottery:20s}  {points}"
        )
    if (left := len(audit.table.items) - rows) > 0:
        lines.append(f"{left} more items: see --html or --json")
    return lines


def label_lines(labels: Sequence[Label]) -> list[str]:
    """Returns a heading and a line for each of the first labels; [] if there are none."""
    if not labels:
        return []
    width = min(_NAME, max(len(label.name) for label in labels))
    lines = [f"{'':{width}s}  verdicts   intransitive       one score: p   highest score"]
    for label in labels[:_LABELS]:
        share, fit = label.share, label.fit
        part = f"{share.value:.0%} [{share.low:.0%}, {share.high:.0%}]" if np.isfinite(share.value) else "not known"
        p = f"{fit.p_value:.3g}" if fit.freedom else "no cycle"
        lines.append(
            f"{label.name[:width]:{width}s}  {label.verdicts:8,}   {part:17s} {p:>13s}   {label.leader[:_NAME]}"
        )
    if (left := len(labels) - _LABELS) > 0:
        lines.append(f"{left} more labels: see --html or --json")
    return lines


def by_score(audit: Audit) -> list[int]:
    """Returns the items' indices, the highest Bradley-Terry score first; components one after the other."""
    return np.lexsort((-audit.scores.score, audit.scores.component)).tolist()


def _answer(audit: Audit) -> str:
    fit, within, share = audit.fit, audit.within, audit.share
    if fit.freedom == 0:
        return "These comparisons form no cycle, so that nothing can contradict one score per item."
    p = f"p = {fit.p_value:.3g}, exact test on {int(audit.wins.sum()):,} decided verdicts"
    if fit.p_value > LEVEL:
        return f"One score per item explains these votes: {p}."
    part = f"{share.value:.0%} [{share.low:.0%}, {share.high:.0%}] of the preferences' variance is intransitive"
    if within is not None and within.freedom and within.p_value > LEVEL:
        return (
            f"One score per item does not explain these votes ({p}), but one score per item and prompt does "
            f"(p = {within.p_value:.3g}): the items' strengths differ from prompt to prompt; no cycle is shown."
        )
    return f"One score per item does not explain these votes: {p}; {part}."


def _gaps(audit: Audit) -> Iterator[str]:
    components = int(audit.scores.component.max()) + 1
    if components > 1:
        yield f"The items fall into {components} groups that were never compared with each other: each is ranked alone."
    if audit.scores.held.any():
        names = _list([audit.table.items[i] for i in np.flatnonzero(audit.scores.held).tolist()])
        yield (
            f"Some items won or lost everything against the rest, so that no finite score fits; half a win and half a "
            f"loss against an average item hold the scores of {names} (marked *)."
        )


def _cycles(audit: Audit) -> str:
    triads = audit.triads
    text = f"Cyclic triads by majority: {triads.seen:,}, {triads.expected:,.3g} expected by chance"
    text += f" (p = {triads.p_value:.3g})" if audit.fit.freedom else ""
    if triads.sure and audit.fit.p_value <= LEVEL:
        a, b, c, probable = triads.sure[0]
        text += f"; surest: {a} beats {b} beats {c} beats {a} ({probable:.0%})"
    return text + "."


def _leaders(audit: Audit) -> Iterator[str]:
    items, leader = audit.table.items, by_score(audit)[0]
    members = [items[i] for i in np.flatnonzero(audit.top).tolist()]
    if len(members) == 1:
        sure = float(audit.top_frequency[audit.top].mean())
        yield f"{members[0]} beats every other item by majority ({sure:.0%} of resampled tables agree)."
    elif len(members) < len(items):
        yield f"No item beats all others: the top cycle is {_list(members)}."
    else:
        yield "No item beats all others, and no group of items beats the rest: the top cycle is everything."
    lost = np.flatnonzero(audit.wins[:, leader] > audit.wins[leader])
    if audit.lottery.value[leader] < 1e-6:
        yield f"The leader by score, {items[leader]}, has no part in the maximal lottery."
    if len(lost):
        rival = max(lost.tolist(), key=lambda i: audit.wins[i, leader] - audit.wins[leader, i])
        yield (
            f"The leader by score, {items[leader]}, loses to {items[rival]}, {audit.wins[leader, rival]:.0f} to "
            f"{audit.wins[rival, leader]:.0f}{'' if len(lost) == 1 else f', and to {len(lost) - 1} more'}."
        )


def _seats(audit: Audit) -> Iterator[str]:
    order = audit.order
    ties = f"{audit.tie_share:.1%} are ties (Davidson's nu {audit.nu:.2f})" if audit.tie_share else "no ties"
    if not np.isfinite(order.first_wins):
        yield f"The file doesn't say which item was shown first; {ties}."
        return
    effect = "no order effect is shown" if order.low <= 0.5 <= order.high else "an order effect"
    if order.depends:
        effect += f" (the seat matters for {_list([name for name, *_ in order.depends])})"
    share = f"{order.first_wins:.1%} [{order.low:.1%}, {order.high:.1%}]"
    yield f"The item shown first wins {share} of the decided verdicts: {effect}; {ties}."


def _people(audit: Audit) -> Iterator[str]:
    agreement = audit.agreement
    if agreement is None:
        return
    text = f"{agreement.count} annotators"
    if np.isfinite(agreement.alpha):
        text += f", Krippendorff's alpha {agreement.alpha:.2f}"
    if agreement.triads:
        text += (
            f"; of {agreement.triads:,} triads that one of them judged whole "
            f"{agreement.cyclic / agreement.triads:.0%} are cyclic"
        )
        text += " (a coin: 25%)"
    yield text + "."


def _next(audit: Audit) -> Iterator[str]:
    if audit.ask:
        yield "Ask next: " + "; ".join(f"{a} against {b}" for a, b in audit.ask[:3]) + "."
    if audit.times is None:
        yield "More than 64 times these verdicts would be needed to know the intransitive share within 5 points."
    elif audit.times > 1:
        more = (audit.times - 1) * len(audit.table)
        yield f"About {more:,} more verdicts would tell the intransitive share within 5 points."


def _list(names: Sequence[str], most: int = 4) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
