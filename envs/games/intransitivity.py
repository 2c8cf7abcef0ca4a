"""Intransitivity of preferences: four measures that complement each other."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from envs.games.regularised_nash import NotConvergedError
from envs.games.validation import require_distribution, require_game

_TIE = 1e-12
_APART = (
    "some responses were never compared, not even through others: their Bradley-Terry rewards have no common zero, and "
    "each such group has mean 0"
)
_SURE = (
    "some responses always lose to others (P is 0 or 1): no finite Bradley-Terry rewards fit, and the distance between "
    "these rewards, as of Elo ratings, is where the fit stopped, not data"
)


@dataclass(frozen=True)
class Intransitivity:
    """The measures of a game, each [...] float64, one number for each prompt.

    Attributes:
        curl_ratio: share of the logits' energy that no reward explains, in [0, 1]; if preferences are 0 or 1 its limit
            as these approach 0 and 1 alike.
        cyclic_triads: share of the triples in which each beats one and loses to one, in [0, 1].
        bt_excess: nats per comparison that the best Bradley-Terry model misses, at least 0.
        pure: the least exploitability of a single response, in [0, 1/2]; 0 iff some response is beaten by none.
    """

    curl_ratio: Tensor
    cyclic_triads: Tensor
    bt_excess: Tensor
    pure: Tensor


def intransitivity(payoff: Tensor, weights: Tensor | None = None) -> Intransitivity:
    """Measures a game, or each of a batch.

    The curl ratio is sum (L_ij - r_i + r_j)^2 / sum L_ij^2 with L = logit P and r the row means of L, the
    least-squares reward (Jiang et al. 2011, "Statistical ranking and combinatorial Hodge theory"). All measures of a
    game of one response are 0. `bradley_terry_caveats` says what has no finite value.

    Args:
        payoff: [..., N, N] chances that the row beats the column.
        weights: [N] distribution over the responses: the curl ratio and the Bradley-Terry excess then count a pair
            w_i w_j times. None: uniform. Triads and `pure` are unweighted.

    Returns:
        The four measures.

    Raises:
        ValueError: if `payoff` is no preference game or `weights` is no distribution over its responses.
        NotConvergedError: if the Bradley-Terry fit stopped short.
    """
    payoff, games, weights = _checked(payoff, weights)
    rows = [(_curl_ratio(game, weights), _triads(game), _bt_excess(game, weights), _pure(game)) for game in games]
    values = torch.tensor(rows, dtype=torch.float64).reshape(*payoff.shape[:-2], 4)
    return Intransitivity(*values.unbind(-1))


def bradley_terry_fit(
    payoff: Tensor, weights: Tensor | None = None, *, pairs: Tensor | None = None, tol: float = 1e-12
) -> Tensor:
    """Returns the rewards r of the Bradley-Terry model sigmoid(r_i - r_j) nearest to the preferences.

    Newton's method on the convex min_r sum w_ij KL(P_ij || sigmoid(r_i - r_j)), to `tol` nats per comparison. If
    one group always beats the other, no finite minimum exists, and the rewards are those at which the divergence
    stopped falling by more than `tol` (about 27 nats apart); groups that never met have a mean of 0 each. Both are
    warned of, in the words of `bradley_terry_caveats`. A single response has the reward 0.

    Args:
        payoff: [..., N, N] chances that the row beats the column.
        weights: [N] distribution over the responses, w_ij = w_i w_j; None: uniform.
        pairs: [..., N, N] w_ij themselves, symmetric, at least 0, such as the number of comparisons; instead of
            `weights`.
        tol: accuracy of the divergence, nats per comparison.

    Returns:
        [..., N] float64 nats, their weighted mean 0.

    Raises:
        ValueError: if `payoff` is no preference game, or `pairs` no symmetric table of weights.
        NotConvergedError: after 200 steps without reaching `tol`, or if no pair of a game was compared.
    """
    payoff, games, weights = _checked(payoff, weights)
    shares = _shares(payoff, games, weights, pairs)
    for caveat in _caveats(games, shares):
        warnings.warn(caveat, stacklevel=2)
    return _centred(_fit(games, weights, shares, tol), weights, shares).view(payoff.shape[:-1])


def bradley_terry_caveats(
    payoff: Tensor, weights: Tensor | None = None, *, pairs: Tensor | None = None
) -> tuple[str, ...]:
    """Returns in words what keeps Bradley-Terry rewards, Elo or logits of a game from being finite; empty if nothing.

    A finite fit exists and is unique iff from each response every other one is reached by "was compared and won
    sometimes" (Ford 1957, "Solution of a ranking problem from binary comparisons").

    Args:
        payoff: [..., N, N] chances that the row beats the column.
        weights: as in `bradley_terry_fit`.
        pairs: as in `bradley_terry_fit`.

    Raises:
        ValueError: as `bradley_terry_fit`.
    """
    payoff, games, weights = _checked(payoff, weights)
    return _caveats(games, _shares(payoff, games, weights, pairs))


def _caveats(games: Tensor, shares: Tensor) -> tuple[str, ...]:
    """Returns the caveats of games [B, N, N] with weights of pairs [B, N, N], each once."""
    met, apart = _met(shares)
    sure = (met & (games == 0)).any((1, 2))
    reasons: dict[str, None] = {}
    for game, pairs in zip(games[apart | sure], met[apart | sure], strict=True):
        groups = 1 + _groups(pairs, "weak").max()
        if groups > 1:
            reasons[_APART] = None
        if 1 + _groups(pairs & (game > 0), "strong").max() > groups:
            reasons[_SURE] = None
    return tuple(reasons)


def _met(shares: Tensor) -> tuple[Tensor, Tensor]:
    """Returns which pairs were compared, [B, N, N] bool, and for which games [B] some were not."""
    others = ~torch.eye(shares.shape[-1], dtype=torch.bool, device=shares.device)
    met = (shares > 0) & others
    return met, (met != others).any((1, 2))


def _groups(edges: Tensor, connection: str) -> Tensor:
    """Returns [N] on the CPU the connected component of each node of a directed graph [N, N], numbered from 0."""
    from scipy.sparse.csgraph import connected_components  # scipy takes a quarter of a second

    _, labels = connected_components(edges.cpu().numpy(), directed=True, connection=connection)
    return torch.from_numpy(labels).long()


def _centred(reward: Tensor, weights: Tensor, shares: Tensor) -> Tensor:
    """Returns rewards [B, N] with mean 0 over each group of responses that were compared, in place of any offset."""
    met, apart = _met(shares)
    for row in apart.nonzero().flatten().tolist():
        member = torch.nn.functional.one_hot(_groups(met[row], "weak")).to(reward)  # [N, groups]
        mass = weights @ member
        member_weights = torch.where(mass > 0, weights[:, None] * member / mass, member / member.sum(0))
        reward[row] -= member @ (reward[row] @ member_weights)
    return reward


def _shares(payoff: Tensor, games: Tensor, weights: Tensor, pairs: Tensor | None) -> Tensor:
    """Returns [B, N, N] weights of the pairs of each game, half their sum 1, or 0 without any.

    Raises:
        ValueError: if `pairs` is no symmetric table of weights.
        NotConvergedError: if it compares no pair of two responses or more.
    """
    if pairs is None:
        return _pairs(weights).expand_as(games)
    if pairs.shape != payoff.shape or not (pairs >= 0).all() or not torch.equal(pairs, pairs.mT):
        raise ValueError(f"pairs must be {tuple(payoff.shape)}, symmetric and at least 0, got {tuple(pairs.shape)}")
    pairs = pairs.double().reshape(games.shape).clone()
    pairs.diagonal(dim1=1, dim2=2).zero_()
    total = pairs.sum((1, 2), keepdim=True)
    if games.shape[-1] > 1 and not total.all():
        raise NotConvergedError("no pair of responses was compared (all of `pairs` is 0), so no rewards can be fitted")
    return pairs * (2 / total.where(total > 0, 1))


def _checked(payoff: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the payoff, its games [B, N, N], and the weights [N], uniform if there are none."""
    payoff = require_game(payoff)
    count = payoff.shape[-1]
    weights = torch.full((count,), 1 / count, dtype=torch.float64) if weights is None else weights
    weights = require_distribution("weights", weights, payoff).to(payoff.device)
    return payoff, payoff.reshape(-1, count, count), weights


def _fit(payoff: Tensor, weights: Tensor, pairs: Tensor, tol: float = 1e-12) -> Tensor:
    """Returns [B, N] the fits of games [B, N, N]; each moves as if it were alone."""
    reward = torch.zeros(payoff.shape[:2], dtype=torch.float64, device=payoff.device)
    value = _cross_entropy(payoff, reward, pairs)
    rows = pairs.sum((1, 2)).nonzero().squeeze(1)  # without pairs all rewards are 0
    decrement = torch.zeros(len(rows))
    for _ in range(200):
        chance = torch.sigmoid(reward[rows, :, None] - reward[rows, None, :])
        gradient = (pairs[rows] * (chance - payoff[rows])).sum(-1)
        move = -_laplacian_solve(pairs[rows] * chance * (1 - chance), gradient)
        decrement = -(gradient * move).sum(-1) / 2
        far = ~(decrement <= tol)  # NaN has not converged
        rows, move, decrement = rows[far], move[far], decrement[far]
        if len(rows) == 0:
            return reward - reward @ weights[:, None]
        size = torch.ones_like(decrement)
        while True:  # backtracking line search (Armijo), for each game
            tried = _cross_entropy(payoff[rows], reward[rows] + size[:, None] * move, pairs[rows])
            short = tried > value[rows] - 0.2 * size * decrement
            if not short.any():
                break
            size = torch.where(short, size / 2, size)
            if (size < 2.0**-30).any():
                raise NotConvergedError(f"the Bradley-Terry fit stalled {decrement.max():.1e} nats above its minimum")
        reward[rows] += size[:, None] * move
        value[rows] = tried
    raise NotConvergedError(
        f"the Bradley-Terry fit is still {decrement.max():.1e} nats above its minimum after 200 steps"
    )


def _pairs(weights: Tensor) -> Tensor:
    """Returns [N, N] weights of the pairs, 0 on the diagonal, each unordered pair twice, half their sum 1."""
    pairs = weights[:, None] * weights[None, :]
    pairs.fill_diagonal_(0)
    total = float(pairs.sum())
    return pairs * (2 / total) if total > 0 else pairs


def _laplacian_solve(curvature: Tensor, right: Tensor) -> Tensor:
    """Solves (diag(curvature 1) - curvature) d = right; the ridge fixes groups that were never compared."""
    system = torch.diag_embed(curvature.sum(-1)) - curvature
    scale = system.diagonal(dim1=1, dim2=2).amax(1)[:, None]
    system += scale[:, None] / system.shape[-1]  # the constants, in the kernel
    system.diagonal(dim1=1, dim2=2).add_(1e-14 * scale)
    return torch.linalg.solve(system, right)


def _cross_entropy(payoff: Tensor, reward: Tensor, pairs: Tensor) -> Tensor:
    gap = reward[:, :, None] - reward[:, None, :]
    return (pairs * (softplus(gap) - payoff * gap)).sum((1, 2)) / 2


def _bt_excess(payoff: Tensor, weights: Tensor) -> float:
    pairs = _pairs(weights)
    entropy = -(pairs * torch.xlogy(payoff, payoff)).sum()  # each unordered pair once: P and 1 - P both occur
    fit = _fit(payoff[None], weights, pairs[None])
    return max(0.0, float(_cross_entropy(payoff[None], fit, pairs[None])) - float(entropy))


def _curl_ratio(payoff: Tensor, weights: Tensor) -> float:
    sure = (payoff == 0) | (payoff == 1)
    if sure.any():  # their logits outgrow all others, alike
        logits = torch.where(sure | sure.mT, (payoff - 0.5).sign(), 0.0)
    else:
        logits = torch.logit(payoff)
        logits = (logits - logits.mT) / 2
    mean = logits @ weights
    pairs = _pairs(weights)
    energy = float((pairs * logits.square()).sum())
    logits -= mean[:, None] - mean[None, :]
    return float((pairs * logits.square()).sum()) / energy if energy > 0 else 0.0


def _triads(payoff: Tensor) -> float:
    """Counts triples in a cycle; without ties by Kendall and Babington Smith (1940), with ties one by one."""
    count = len(payoff)
    if count < 3:
        return 0.0
    beats = payoff - 0.5 > _TIE
    if int(beats.sum()) == count * (count - 1) // 2:
        wins = beats.sum(-1).double()
        cycles = count * (count - 1) * (2 * count - 1) / 12 - float(wins.square().sum()) / 2
    else:
        adjacent = beats.float()  # exact: counts stay below 2^24
        cycles = float(((adjacent @ adjacent) * adjacent.mT).sum(dtype=torch.float64)) / 3
    return round(cycles) / math.comb(count, 3)


def _pure(payoff: Tensor) -> float:
    return float(payoff.amax(-2).amin() - 0.5)
