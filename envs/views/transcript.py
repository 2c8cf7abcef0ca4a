"""A duel in words."""

from __future__ import annotations

from envs.token_duel.duels import PLAYERS, TokenDuels
from envs.token_duel.rules import ENDED


def transcript(duels: TokenDuels, row: int = 0) -> str:
    """Writes one duel for people: prompt, responses, verdict; P is in it only where the feedback is P."""
    if duels.episodes[row] < 0:
        return "no duel yet: call reset()"
    lines = [f"prompt    {duels.task.prompts[duels.prompts[row]]}"]
    for seat, player in enumerate(PLAYERS):
        lines.append(f"{player}  {duels.completion(row, seat).text}{_ending(duels, row, seat)}")
    if duels.outcome[row] < 0:
        return "\n".join([*lines, "verdict   not yet: the duel goes on"])
    verdict = duels.verdict(row)
    winner = PLAYERS[1 - verdict["outcome"]]
    chance = f", P(player_0 beats player_1) = {verdict['preference']:.3f}" if "preference" in verdict else ""
    return "\n".join([*lines, f"verdict   {winner} is preferred{chance}"])


def _ending(duels: TokenDuels, row: int, seat: int) -> str:
    """Returns "…" while a response goes on, "" after EOS, " (limit)" at the limit."""
    if duels.phase[row, seat] != ENDED:
        return "…"
    tokens = duels.completion(row, seat).tokens
    return "" if tokens and duels.rules.is_end[tokens[-1]] else " (limit)"
