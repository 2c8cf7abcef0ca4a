"""A duel in words: prompt, responses, verdict."""

from __future__ import annotations

from collections.abc import Sequence

import gymnasium

from envs.token_duel.duels import PLAYERS, TokenDuels
from envs.token_duel.rules import ENDED


def transcript(duels: TokenDuels, row: int = 0) -> str:
    """Writes one duel as lines of text; P is among them only if the feedback is P."""
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


def show(duels: TokenDuels, render_mode: str | None) -> str | None:
    """Prints the first duel in mode "human", returns it in "ansi", and warns without a mode."""
    if render_mode is None:
        gymnasium.logger.warn("render() shows nothing without a render_mode")
    elif render_mode == "human":
        print(transcript(duels), flush=True)
    return transcript(duels) if render_mode == "ansi" else None


def require_render_mode(render_mode: str | None, known: Sequence[str]) -> str | None:
    """Returns a render mode unchanged.

    Raises:
        ValueError: if the environment has no such mode.
    """
    if render_mode not in (None, *known):
        raise ValueError(f"render_mode must be None or one of {list(known)}, got {render_mode!r}")
    return render_mode


def _ending(duels: TokenDuels, row: int, seat: int) -> str:
    """Returns "…" while a response goes on, "" after EOS, " (limit)" at the limit."""
    if duels.phase[row, seat] != ENDED:
        return "…"
    tokens = duels.completion(row, seat).tokens
    return "" if tokens and duels.rules.is_end[tokens[-1]] else " (limit)"
