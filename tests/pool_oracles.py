"""Pools of rank two, exactly: one angle instead of a Laplace integral.

h = Z g with g a standard Gaussian of the plane, g = r (cos, sin).  Directions and length are
independent, so E[phi(d_a) phi(d_b)/R^2] is an integral over the angle of piecewise smooth functions
times closed radial moments.  Shares neither formulas nor code with the routes it checks.
"""

from __future__ import annotations

import math
from itertools import pairwise

import mpmath as mp
import numpy as np


def inputs(z):
    """(second moments, gaps) of h = Z g, the gaps without cancellation."""
    z = np.asarray(z, dtype=float)
    norm = np.linalg.norm(z, axis=1)
    unit = z / norm[:, None]
    gap = 0.5 * ((unit[:, None, :] - unit[None, :, :]) ** 2).sum(axis=2)
    return norm**2, gap


def _angles(numerator):
    """Breakpoints in [0, pi]: where a d_a changes sign."""
    kinks = np.mod(np.arctan2(-numerator[:, 0], numerator[:, 1]), np.pi)
    return np.unique(np.concatenate([[0.0, np.pi], kinks]))


def _ray(x, slopes):
    return slopes[0] * np.maximum(x, 0.0) + slopes[1] * np.maximum(-x, 0.0)


def _ray_slope(x, slopes):
    return np.where(x > 0.0, slopes[0], -slopes[1])


def _grid(edges, panels=6, order=24):
    points, weights = np.polynomial.legendre.leggauss(order)
    cuts = np.concatenate([np.linspace(a, b, panels + 1)[:-1] for a, b in pairwise(edges)])
    cuts = np.append(cuts, edges[-1])
    half = 0.5 * np.diff(cuts)
    middle = 0.5 * (cuts[1:] + cuts[:-1])
    return (middle[:, None] + half[:, None] * points).ravel(), (half[:, None] * weights).ravel()


def _both_ways(z):
    """Angles over the half circle, each with its opposite direction: u and -u."""
    angle, weight = _grid(_angles(z))
    u = np.stack([np.cos(angle), np.sin(angle)])
    return np.concatenate([u, -u], axis=1), np.concatenate([weight, weight]) / (2.0 * np.pi)


def forward(z, *, centered, pooled_mean, divisor, eps, slopes):
    """K = E[phi(d)phi(d)'/R^2], rank-two pool, in float64; d = P h or h, M = P or I."""
    project = np.eye(len(z)) - 1.0 / len(z)
    d = (project @ z) if centered else z
    y = z if pooled_mean else project @ z
    u, weight = _both_ways(d)
    value = _ray(d @ u, slopes)
    m = ((y @ u) ** 2).sum(axis=0)
    radial = divisor / m
    if eps:
        c = divisor * eps / (2.0 * m)
        x, weights = _exponential()
        radial = radial * (weights * x / (x + c)).sum(axis=0)
    return np.einsum("aq,bq,q->ab", value, value, weight * radial)


def _exponential():
    """Nodes (as a column) and weights of E f(X), X = r^2/2 exponential: trapezoidal rule in log X."""
    x = np.exp(np.arange(-60.0, 5.0, 0.05))[:, None]
    return x, 0.05 * x * np.exp(-x)


def _radial(c):
    """E[X^k/(X + c)^(k+1)], X exponential, k = 0, 1, 2."""
    x, weight = _exponential()
    return [(weight * x**k / (x + c) ** (k + 1)).sum(axis=0) for k in range(3)]


def backward(z, cotangent, *, centered, pooled_mean, divisor, eps, slopes):
    """T = E[J' Pi J] for eps > 0, rank-two pool, in float64."""
    batch = len(z)
    project = np.eye(batch) - 1.0 / batch
    a = project if centered else np.eye(batch)
    d = a @ z
    y = z if pooled_mean else project @ z
    u, weight = _both_ways(d)
    f, fp, y = _ray(d @ u, slopes), _ray_slope(d @ u, slopes), y @ u
    m = (y**2).sum(axis=0)
    c = divisor * eps / (2.0 * m)
    e0, e1, e2 = _radial(c)
    scale = weight * divisor / (2.0 * m)
    one = np.einsum("kq,lq,q->kl", fp, fp, scale * e0)
    two = np.einsum("kq,lq,jq,kl,q->kj", fp, f, y, cotangent, scale * e1 / m, optimize=True)
    three = np.einsum("q,iq,jq->ij", scale * e2 / m**2 * np.einsum(
        "kq,kl,lq->q", f, cotangent, f, optimize=True), y, y)  # fmt: skip
    mixed = a @ two
    return a @ (cotangent * one) @ a - mixed - mixed.T + three


def hard_forward(second_moment, gap, *, divisor, eps, slopes, digits=30):
    """K_aa, gaps and E[phi(d)/R] of three samples under BatchNorm in mpmath.

    The pool of any three samples has rank two: exact for the float64 inputs as they stand.
    """
    with mp.workdps(digits):
        batch = 3
        root = [mp.sqrt(mp.mpf(float(x))) for x in second_moment]
        square = [
            [(root[i] - root[j]) ** 2 + 2 * root[i] * root[j] * mp.mpf(float(gap[i][j])) * (i != j)
             for j in range(3)]
            for i in range(3)
        ]  # fmt: skip
        # h_2 - h_1 and h_3 - h_1 in the plane, then about the mean.
        side, other = mp.sqrt(square[0][1]), square[0][2]
        along = (square[0][1] + other - square[1][2]) / (2 * side)
        corners = [(mp.mpf(0), mp.mpf(0)), (side, mp.mpf(0)), (along, mp.sqrt(other - along**2))]
        mean = [mp.fsum(corner[k] for corner in corners) / 3 for k in range(2)]
        d = [[corner[k] - mean[k] for k in range(2)] for corner in corners]
        gram = [[mp.fsum(row[i] * row[j] for row in d) for j in range(2)] for i in range(2)]
        kinks = [mp.mpf(0), mp.pi]
        for row in d:
            angle = mp.atan2(-row[0], row[1])
            kinks.append(angle if angle >= 0 else angle + mp.pi)
        # Where the pool is small the integrand peaks, with a width of the ratio of the axes.
        tilt = mp.atan2(2 * gram[0][1], gram[0][0] - gram[1][1]) / 2 + mp.pi / 2
        trace, det = gram[0][0] + gram[1][1], gram[0][0] * gram[1][1] - gram[0][1] ** 2
        width = mp.sqrt(det) / trace
        for k in range(-10, 11):
            reach = width * mp.mpf(8) ** (abs(k) - 1)
            if reach > mp.pi / 2:
                continue
            step = tilt + (mp.sign(k) * reach if k else 0)
            kinks.append(step - mp.pi * mp.floor(step / mp.pi))
        edges = sorted(set(kinks))
        a, b = (mp.mpf(x) for x in slopes)

        def ray(x):
            return a * x if x > 0 else -b * x

        def at(angle):
            u = (mp.cos(angle), mp.sin(angle))
            m = gram[0][0] * u[0] ** 2 + 2 * gram[0][1] * u[0] * u[1] + gram[1][1] * u[1] ** 2
            dots = [row[0] * u[0] + row[1] * u[1] for row in d]
            square, root = divisor / m, mp.sqrt(divisor / m)
            if eps:
                c = divisor * mp.mpf(eps) / (2 * m)
                square *= 1 - c * mp.exp(c) * mp.e1(c)
                root *= mp.gamma(mp.mpf(3) / 2) * c * mp.hyperu(mp.mpf(3) / 2, 2, c)
            return dots, square, root

        points, weights = _legendre(24)
        size = range(batch)
        k_sum = [[mp.mpf(0)] * batch for _ in size]
        # E[(phi_a/|a| - phi_b/|b|)^2] needs the K first: keep the values.
        values, means = [], [mp.mpf(0)] * batch
        for low, high in pairwise(edges):
            for point, weight in zip(points, weights, strict=True):
                angle = (low + high) / 2 + (high - low) / 2 * point
                dots, square, root = at(angle)
                w = weight * (high - low) / (4 * mp.pi)
                for sign in (1, -1):
                    phi = [ray(sign * x) for x in dots]
                    values.append((w * square, phi))
                    for i in size:
                        means[i] += w * root * phi[i]
                        for j in range(i, batch):
                            k_sum[i][j] += w * square * phi[i] * phi[j]
        gaps = [[0.0] * batch for _ in size]
        for i in size:
            for j in range(i + 1, batch):
                s, t = mp.sqrt(k_sum[i][i]), mp.sqrt(k_sum[j][j])
                gap = mp.fsum(w * (phi[i] / s - phi[j] / t) ** 2 for w, phi in values) / 2
                gaps[i][j] = gaps[j][i] = float(gap)
        return (
            np.array([float(k_sum[i][i]) for i in size]),
            np.array(gaps),
            np.array([float(x) for x in means]),
        )


def _legendre(order):
    """Gauss-Legendre nodes and weights to the working precision, by Newton from float64."""
    points, weights = [], []
    for start in np.polynomial.legendre.leggauss(order)[0]:
        x = mp.mpf(float(start))
        for _ in range(3):
            p, slope = mp.legendre(order, x), _legendre_slope(order, x)
            x -= p / slope
        points.append(x)
        weights.append(2 / ((1 - x * x) * _legendre_slope(order, x) ** 2))
    return points, weights


def _legendre_slope(order, x):
    return order * (x * mp.legendre(order, x) - mp.legendre(order - 1, x)) / (x * x - 1)


def gap_of(covariance):
    """1 - cosine matrix of a covariance."""
    root = np.sqrt(np.diag(covariance))
    gap = 1.0 - covariance / np.outer(root, root)
    np.fill_diagonal(gap, 0.0)
    return gap


def sample(covariance, count, *, seed):
    """``count`` draws of N(0, covariance)."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, len(covariance))) @ np.linalg.cholesky(covariance).T


def pullback_samples(h, cotangent, *, centered, pooled_mean, divisor, eps, slopes):
    """Mean and standard error of J' Pi J over the rows of h."""
    count, batch = h.shape
    project = np.eye(batch) - 1.0 / batch
    a = project if centered else np.eye(batch)
    y = h if pooled_mean else h @ project
    d = h @ a
    r = np.sqrt((h * y).sum(axis=1) / divisor + eps)
    f, fp = _ray(d, slopes), _ray_slope(d, slopes)
    jacobian = fp[:, :, None] * a / r[:, None, None]
    jacobian -= f[:, :, None] * y[:, None, :] / (divisor * r**3)[:, None, None]
    draws = jacobian.transpose(0, 2, 1) @ (cotangent @ jacobian)
    return draws.mean(axis=0), draws.std(axis=0) / math.sqrt(count)
