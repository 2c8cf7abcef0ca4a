"""Maximum-likelihood Bradley-Terry and Davidson models of tables of votes, many tables at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.special import expit

from envs.votes.table import Matrix

_STEPS = 100
_SMALLEST = 2.0**-40
_ACCURATE = 1e-15  # Newton decrement in nats per verdict; the scores are then exact to 1e-7 and better


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


def fit_bradley_terry(wins: Matrix) -> Scores:
    """Fits P(i beats j) = sigma(r_i - r_j) by Newton's method.

    Where the likelihood has no maximum (Ford 1957: some group of a component never lost to the rest) every item of
    that component gets half a win and half a loss against an imagined item of score 0; all other components are
    fitted without a prior.

    Args:
        wins: [..., n, n] verdicts that the row won against the column; a tie is half a win on each side.

    Returns:
        The scores, each table fitted as if it were alone.
    """
    shape, count = wins.shape[:-1], wins.shape[-1]
    tables = np.ascontiguousarray(wins.reshape(-1, count, count))
    component, held = _components(tables)
    same = (component[:, :, None] == component[:, None, :]) & ~held[:, :, None]
    score = np.zeros(tables.shape[:2])
    verdicts = tables + tables.swapaxes(1, 2)
    value = _log_likelihood(tables, score, held)
    rows = np.arange(len(tables))
    for _ in range(_STEPS):
        gradient, curvature = _derivatives(tables[rows], verdicts[rows], score[rows], held[rows])
        scale = np.trace(curvature, axis1=1, axis2=2)[:, None, None] / count
        curvature += same[rows] * scale + (scale == 0)  # a component's constant shift leaves the likelihood as it is
        curvature += 1e-14 * (scale + (scale == 0)) * np.eye(count)
        move = np.linalg.solve(curvature, gradient[..., None])[..., 0]
        decrement = (gradient * move).sum(1)
        far = decrement > _ACCURATE * np.maximum(verdicts[rows].sum((1, 2)), 1)
        rows, move, decrement = rows[far], move[far], decrement[far]
        if len(rows) == 0:
            break
        size = np.ones(len(rows))
        there = _log_likelihood(tables[rows], score[rows] + move, held[rows])
        while True:
            short = there < value[rows] + 1e-4 * size * decrement - 1e-12 * np.abs(value[rows])
            if not short.any() or size.min() < _SMALLEST:
                break
            size = np.where(short, size / 2, size)
            there = _log_likelihood(tables[rows], score[rows] + size[:, None] * move, held[rows])
        score[rows] += size[:, None] * move
        value[rows] = there
    return Scores(_centred(score, component).reshape(shape), component.reshape(shape), held.reshape(shape))


def leverage(verdicts: Matrix, chance: Matrix) -> Matrix:
    """Returns [..., n, n] the share of each pair's noise that the fit follows; sums to n - components over pairs."""
    weight = verdicts * chance * (1 - chance)
    laplacian = weight.sum(-1)[..., None] * np.eye(weight.shape[-1]) - weight
    own = np.diagonal(laplacian, axis1=-2, axis2=-1)
    # One constant is added to the whole matrix: it fills the kernel, and differences of the inverse do not see it.
    system = laplacian + own.mean(-1)[..., None, None] / weight.shape[-1]
    system += 1e-9 * own.max(-1)[..., None, None] * np.eye(weight.shape[-1])  # further components
    inverse = np.linalg.inv(system)
    own = np.diagonal(inverse, axis1=-2, axis2=-1)
    return (weight * (own[..., :, None] + own[..., None, :] - 2 * inverse)).clip(0, 1)


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
    size = tables.shape[-1]
    for b, table in enumerate(tables):
        beats = table > 0
        if int(beats.sum()) == size * (size - 1):
            continue
        graph = csr_array(beats)
        _, component[b] = connected_components(graph, connection="weak")
        groups, strong = connected_components(graph, connection="strong")
        if groups > component[b].max() + 1:
            split = np.zeros(component[b].max() + 1, dtype=np.int64)
            for part in np.unique(np.stack([component[b], strong]), axis=1).T:
                split[part[0]] += 1
            held[b] = split[component[b]] > 1
    return component, held


def _log_likelihood(tables: Matrix, score: Matrix, held: NDArray[np.bool_]) -> NDArray[np.float64]:
    gap = score[:, :, None] - score[:, None, :]
    prior = (held * (np.logaddexp(0, -score) + np.logaddexp(0, score))).sum(1) / 2
    return -(tables * np.logaddexp(0, -gap)).sum((1, 2)) - prior


def _derivatives(
    tables: Matrix, verdicts: Matrix, score: Matrix, held: NDArray[np.bool_]
) -> tuple[Matrix, NDArray[np.float64]]:
    """Returns the gradient [B, n] and the negative second derivative [B, n, n]."""
    chance = expit(score[:, :, None] - score[:, None, :])
    alone = expit(score)
    gradient = (tables - verdicts * chance).sum(2) + held * (0.5 - alone)
    weight = verdicts * chance * (1 - chance)
    diagonal = weight.sum(2) + held * alone * (1 - alone)
    return gradient, diagonal[:, :, None] * np.eye(score.shape[1]) - weight


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
    same = component[:, :, None] == component[:, None, :]
    return score - (same * score[:, None, :]).sum(2) / same.sum(2)
