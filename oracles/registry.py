"""Names of oracles: built-in families, named games, wrappers, and classes of your own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from preference_duel.names import fill, find, require_known

if TYPE_CHECKING:
    from preference_duel.protocols import Oracle

BUILT_IN = {
    "bt": "oracles.bradley_terry:BradleyTerryConfig",
    "pairrm": "oracles.pairrm.config:PairRMConfig",
    "cyclic": "oracles.cyclic:CyclicConfig",
    "gpm": "oracles.gpm:GPMConfig",
    "annotators": "oracles.annotators:AnnotatorsConfig",
    "length_bias": "oracles.length_bias:LengthBiasConfig",
    "borda_trap": "oracles.borda_trap:BordaTrapConfig",
    "table": "oracles.table:TableConfig",
    "votes": "envs.votes.vote_oracle:VotesConfig",  # by name only: envs, which reads files of votes, imports oracles
    "judge": "oracles.judge:JudgeConfig",
    "pair_lm": "oracles.pair_lm:PairLMConfig",
    "implicit": "oracles.implicit:ImplicitConfig",
    "human": "oracles.human.human_config:HumanConfig",
}
GAMES = "rps", "comal3", "cycle5", "clone_rps"
"""Small games by name, as tasks and as their oracles."""
WRAPPERS = {
    "noise": "oracles.wrappers:Noise",
    "position_bias": "oracles.wrappers:PositionBias",
    "per_prompt": "oracles.wrappers:PerPrompt",
    "ood": "oracles.readers.out_of_distribution:OutOfDistribution",
}
_NAMES = BUILT_IN | dict.fromkeys(GAMES, "oracles.table:NamedGameConfig")


def require_oracle(name: str) -> None:
    """Raises if a name can't be an oracle's, without importing one.

    Raises:
        UnknownNameError: if a part of the name is unknown; the nearest one is suggested.
    """
    base, *wrappers = name.split("+")
    require_known("oracle", base, _NAMES)
    for wrapper in wrappers:
        require_known("wrapper", wrapper, WRAPPERS, own=False)


def oracle_config(name: str) -> tuple[Any, dict[str, Any]]:
    """Returns the configuration class that a name stands for, and the fields that the name itself sets.

    Args:
        name: a built-in, a named game ("rps"), or "module:Config"; "+WRAPPER" may follow any of them.

    Raises:
        UnknownNameError: if a part of the name is unknown; the nearest one is suggested.
        ValueError: if a wrapper is named twice or does not go with the oracle.
    """
    require_oracle(name)
    base, *wrappers = name.split("+")
    kind = find("oracle", base, _NAMES)
    if wrappers:
        from oracles.wrappers import wrapped

        kind = wrapped(kind, tuple((name, find("wrapper", name, WRAPPERS)) for name in wrappers))
    return kind, {"game": base} if base in GAMES else {}


def make(
    name: str,
    *,
    prompts: Sequence[str] | None = None,
    responses: Sequence[str] | None = None,
    device: str = "cpu",
    **fields: Any,
) -> Oracle:
    """Builds an oracle from its name and the fields of its configuration.

    Args:
        name: a built-in ("bt", "pairrm", "cyclic", ...), a named game ("rps"), or "module:Config" of your own;
            "cyclic+noise" wraps it, `noise=Noise(eps=0.1)` then is a field too.
        prompts: the finite task's prompts, for the families that need them.
        responses: the finite task's responses (texts), the same for every prompt.
        device: where a network runs.
        **fields: fields of the configuration.

    Raises:
        UnknownNameError: if the name or a field is unknown.
    """
    kind, preset = oracle_config(name)
    return fill("oracle", name, kind, preset | fields).build(prompts=prompts, responses=responses, device=device)
