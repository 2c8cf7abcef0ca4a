"""Maximum-likelihood Bradley-Terry and Davidson models of tables of votes, many tables at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.special import expit, log_expit

from envs.votes.statistics.pairs import Pairs
from envs.votes.table import Matrix

_STEPS = 100
_SMALLEST = 2.0**-40
_LAST = 1e-6  # nats: Newton's method squares the error, so that nothing is left after a step as short as this
_ACCURATE = 1e-15  # Davidson's Newton decrement in nats per verdict


@dataclass(frozen=True)
class Scores:
    """Bradley-Terry scores of one table or of many.

    Attributes:
        score: [..., n] nats, mean 0 in every component of the graph of comparisons; never compared across components.
        component: [..., n] label of each item's component.
        held: [..., n] whether a prior holds the item's score: its component splits into a group that lost (or won)
            everything against the rest, whose maximum-likelihood score is infinite.
    """

    score: Matrix
    component: NDArray[np.int64]
    held: NDArray[np.bool_]

    def chance(self) -> Matrix:
        """Returns [..., n, n] sigma(r_i - r_j), 1/2 between components."""
        gap = self.score[..., :, None] - self.score[..., None, :]
        return np.where(self.component[..., :, None] == self.component[..., None, :], expit(gap), 0.5)


def fit_bradley_terry(wins: Matrix, start: Matrix | None = None) -> Scores:
    """Fits P(i beats j) = sigma(r_i - r_j) by Newton's method.

    Where the likelihood has no maximum (Ford 1957: some group of a component never lost to the rest) every item of
    that component gets half a win and half a loss against an imagined item of score 0; all other components are
    fitted without a prior.

    Args:
        wins: [..., n, n] verdicts that the row won against the column; a tie is half a win on each side.
        start: [n] scores from which all fits start, such as those of the table that others were drawn from; None: 0.

    Returns:
        The scores, each table fitted as if it were alone.
    """
    shape, count = wins.shape[:-1], wins.shape[-1]
    tables = np.ascontiguousarray(wins.reshape(-1, count, count))
    component, held = _components(tables)
    pairs = Pairs.of(tables)
    cells = tables.reshape(len(tables), -1)
    won, lost = cells[:, pairs.forward], cells[:, pairs.backward]
    # A component's common shift leaves the likelihood as it is: the score of its first item is left alone.
    fixed = ~held & np.diff(np.maximum.accumulate(component, axis=1), axis=1, prepend=-1).astype(bool)
    score = np.zeros(tables.shape[:2]) + (0.0 if start is None else start)
    log_chance = log_expit(pairs.gap(score))
    value = _log_likelihood(pairs, won, lost, score, held, log_chance)
    rows = np.arange(len(tables))
    for _ in range(_STEPS):
        gradient, curvature = _derivatives(pairs, won[rows], lost[rows], score[rows], held[rows], log_chance)
        diagonal = np.einsum("bii->bi", curvature)
        scale = diagonal.mean(1, keepdims=True)
        diagonal += (fixed[rows] + 1e-14) * np.where(scale > 0, scale, 1.0)
        move = np.linalg.solve(curvature, gradient[..., None])[..., 0]
        decrement = (gradient * move).sum(1)
        size = np.ones(len(rows))
        while True:
            there = score[rows] + size[:, None] * move
            log_chance = log_expit(pairs.gap(there))
            reached = _log_likelihood(pairs, won[rows], lost[rows], there, held[rows], log_chance)
            short = reached < value[rows] + 1e-4 * size * decrement - 1e-12 * np.abs(value[rows])
            if not short.any() or size.min() < _SMALLEST:
                break
            size = np.where(short, size / 2, size)
        score[rows], value[rows] = there, reached
        far = size * np.abs(move).max(1) > _LAST
        if not far.any():
            break
        rows, log_chance = rows[far], log_chance[far]
    return Scores(_centred(score, component).reshape(shape), component.reshape(shape), held.reshape(shape))


def leverage(pairs: Pairs, verdicts: Matrix, chance: Matrix) -> Matrix:
    """Returns [B, E] the share of each pair's noise that the fit follows; sums to n - components over the pairs.

    Args:
        pairs: those with verdicts.
        verdicts: [B, E] how many.
        chance: [B, E] the fit.
    """
    weight = verdicts * chance * (1 - chance)
    system = torch.from_numpy(pairs.laplacian(weight))
    own = system.diagonal(dim1=-2, dim2=-1)
    most = own.amax(-1, keepdim=True)
    # One constant is added to the whole matrix: it fills the kernel, and differences of the inverse do not see it.
    system += own.mean(-1)[:, None, None] / pairs.count
    own += 1e-9 * most  # further components
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(system)).numpy()
    own = np.einsum("bii->bi", inverse)
    beside = inverse.reshape(len(inverse), -1)[:, pairs.forward]
    return (weight * (own[:, pairs.low] + own[:, pairs.high] - 2 * beside)).clip(0, 1)


def deviance(wins: Matrix, chance: Matrix) -> NDArray[np.float64]:
    """Returns [...] G2 = 2 sum W_ij log(W_ij / (N_ij p_ij)), the misfit of a table in units of chi-square."""
    verdicts = wins + wins.swapaxes(-1, -2)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = wins * np.log(wins / (verdicts * chance))
    return 2 * np.where(wins > 0, terms, 0.0).sum((-1, -2))


def fit_davidson(wins: Matrix, ties: Matrix) -> tuple[Matrix, float]:
    """Fits P(win) : P(tie) : P(loss) = e^(d/2) : nu : e^(-d/2), d = r_i - r_j (Davidson 1970), by Newton's method.

    Args:
        wins: [n, n] decided verdicts that the row won.
        ties: [n, n] ties, symmetric.

    Returns:
        [n] scores, held by the prior of `fit_bradley_terry` where they would be infinite, and nu, at least 0.

    Raises:
        ValueError: if every verdict is a tie, so that nu is infinite.
    """
    if not ties.any():
        return fit_bradley_terry(wins).score, 0.0
    if not wins.any():
        raise ValueError("every verdict is a tie: Davidson's nu is infinite")
    count = len(wins)
    component, held = _components((wins + ties / 2)[None])
    same = ((component[0][:, None] == component[0]) & ~held[0][:, None]).astype(np.float64)
    x = np.append(np.zeros(count), np.log(2 * ties.sum() / 2 / wins.sum()))
    value, gradient, curvature = _davidson(x, wins, ties, held[0])
    for _ in range(_STEPS):
        system = curvature.copy()
        system[:count, :count] += same * np.trace(curvature) / count
        move = np.linalg.solve(system, gradient)
        if gradient @ move <= _ACCURATE * wins.sum():
            break
        size, there = 1.0, _davidson(x + move, wins, ties, held[0])
        while there[0] < value + 1e-4 * size * (gradient @ move) - 1e-12 * abs(value) and size > _SMALLEST:
            size /= 2
            there = _davidson(x + size * move, wins, ties, held[0])
        x, (value, gradient, curvature) = x + size * move, there
    return _centred(x[None, :count], component)[0], float(np.exp(x[count]))


def _components(tables: Matrix) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Returns [B, n] labels of the components, and [B, n] whether the component is not strongly connected."""
    component = np.zeros(tables.shape[:2], dtype=np.int64)
    held = np.zeros(tables.shape[:2], dtype=bool)
    beats = tables > 0
    for b in np.flatnonzero(~(_reaches_all(beats) & _reaches_all(beats.swapaxes(1, 2)))):
        graph = csr_array(beats[b])
        _, component[b] = connected_components(graph, connection="weak")
        groups, strong = connected_components(graph, connection="strong")
        if groups > component[b].max() + 1:
            split = np.zeros(component[b].max() + 1, dtype=np.int64)
            for part in np.unique(np.stack([component[b], strong]), axis=1).T:
                split[part[0]] += 1
            held[b] = split[component[b]] > 1
    return component, held


def _reaches_all(beats: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Returns [B] whether a path leads from the first item of [B, n, n] graphs to all others."""
    reached = np.zeros(beats.shape[:2], dtype=bool)
    reached[:, 0] = True
    edge = reached
    while edge.any():
        edge = (beats & edge[:, :, None]).any(1) & ~reached
        reached |= edge
    return (~reached).sum(1) == 0


def _log_likelihood(
    pairs: Pairs, won: Matrix, lost: Matrix, score: Matrix, held: NDArray[np.bool_], log_chance: Matrix
) -> NDArray[np.float64]:
    prior = (held * (np.logaddexp(0, -score) + np.logaddexp(0, score))).sum(1) / 2
    return ((won + lost) * log_chance - lost * pairs.gap(score)).sum(1) - prior


def _derivatives(
    pairs: Pairs, won: Matrix, lost: Matrix, score: Matrix, held: NDArray[np.bool_], log_chance: Matrix
) -> tuple[Matrix, NDArray[np.float64]]:
    """Returns the gradient [B, n] and the negative second derivative [B, n, n]."""
    chance = np.exp(log_chance)
    alone = expit(score)
    verdicts = won + lost
    gradient = pairs.net(won - verdicts * chance) + held * (0.5 - alone)
    curvature = pairs.laplacian(verdicts * chance * (1 - chance))
    np.einsum("bii->bi", curvature)[...] += held * alone * (1 - alone)
    return gradient, curvature


def _davidson(
    x: Matrix, wins: Matrix, ties: Matrix, held: NDArray[np.bool_]
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Returns the log-likelihood of scores and log nu, its gradient and its negative second derivative."""
    score, log_nu = x[:-1], x[-1]
    half = (score[:, None] - score[None, :]) / 2
    log_all = np.logaddexp(np.logaddexp(half, -half), log_nu)
    win, tie = np.exp(half - log_all), np.exp(log_nu - log_all)  # [n, n] of the row against the column
    verdicts = wins + wins.T + ties
    mean = (win - win.T) / 2
    alone = expit(score)
    value = float((wins * (half - log_all)).sum() + (ties * (log_nu - log_all)).sum() / 2)
    value -= float((held * (np.logaddexp(0, -score) + np.logaddexp(0, score))).sum() / 2)
    by_score = ((wins - wins.T) / 2 - verdicts * mean).sum(1) + held * (0.5 - alone)
    by_nu = float((ties - verdicts * tie).sum() / 2)
    weight = verdicts * ((win + win.T) / 4 - mean**2)
    np.fill_diagonal(weight, 0)
    curvature = np.zeros((len(x), len(x)))
    curvature[:-1, :-1] = np.diag(weight.sum(1) + held * alone * (1 - alone)) - weight
    curvature[:-1, -1] = curvature[-1, :-1] = -(verdicts * mean * tie).sum(1)
    curvature[-1, -1] = (verdicts * tie * (1 - tie)).sum() / 2
    return value, np.append(by_score, by_nu), curvature


def _centred(score: Matrix, component: NDArray[np.int64]) -> Matrix:
    """Returns [B, n] scores of mean 0 in each component."""
    if not component.any():
        return score - score.mean(1, keepdims=True)
    same = component[:, :, None] == component[:, None, :]
    return score - (same * score[:, None, :]).sum(2) / same.sum(2)
