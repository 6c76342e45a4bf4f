"""Covariances over samples x positions: the full matrix, and Laplace integrals in mpmath."""

from __future__ import annotations

from itertools import pairwise

import mpmath as mp
import numpy as np
import pool_oracles


def gaps_of(modes, batch, positions):
    """(gap_w, gap_b, gap_x) of eigenvalues mean, position, sample, both."""
    mean, p, s, both = modes
    rest = (batch - 1) * s + (batch - 1) * (positions - 1) * both
    q = (mean + (positions - 1) * p + rest) / (batch * positions)
    w = p / batch + (1 - 1 / batch) * both
    b = s / positions + (1 - 1 / positions) * both
    x = p / batch + s / positions + (1 - 1 / batch - 1 / positions) * both
    return w / q, b / q, x / q


def full(entries, batch, positions):
    """The (B S) x (B S) matrix."""
    q, w, b, x = entries
    same, other = np.eye(batch), 1.0 - np.eye(batch)
    here, there = np.eye(positions), 1.0 - np.eye(positions)
    return (
        q * np.kron(same, here)
        + w * np.kron(same, there)
        + b * np.kron(other, here)
        + x * np.kron(other, there)
    )


def kinds(batch, positions):
    """Where entries q, w, b, x stand in row 0 of the full matrix, and which exist."""
    exists = (True, positions > 1, batch > 1, batch > 1 and positions > 1)
    columns = np.array([0, 1, positions, positions + 1])
    return np.where(exists, columns, 0), np.array(exists)


def _eigenvalues(entries, batch, positions):
    q, w, b, x = entries
    n, m = batch - 1, positions - 1
    return [q + m * w + n * b + n * m * x, q - w + n * (b - x), q - b + m * (w - x), q - w - b + x]


def _from_eigenvalues(values, batch, positions):
    mean, p, s, both = values
    n, m = batch - 1, positions - 1
    return [
        z / (batch * positions)
        for z in (
            mean + m * p + n * s + n * m * both,
            mean - p + n * (s - both),
            mean - s + m * (p - both),
            mean - p - s + both,
        )
    ]


def mp_oracle(q, gaps, gradient, *, batch, positions, norm, slopes):
    """(E[x^2], gaps, mean, T) by panels of Gauss-Legendre in log s."""
    with mp.workdps(60):
        b, p, q, eps = (mp.mpf(z) for z in (batch, positions, q, norm.eps))
        divisor = b * p - norm.ddof
        alpha, beta = (mp.mpf(z) for z in slopes)
        straight, kink = (alpha**2 + beta**2) / 2, (alpha + beta) ** 2 / (2 * mp.pi)
        # Outside of the cone of covariances by rounding: the nearest gap_x.
        w, o, x = (mp.mpf(g) for g in gaps)
        x = min(max(x, o - w / (b - 1), w - o / (p - 1)), w + o)
        lam = _eigenvalues([q, q * (1 - w), q * (1 - o), q * (1 - x)], b, p)
        lam = [max(z, mp.mpf(0)) for z in lam]
        count = [mp.mpf(1), p - 1, b - 1, (b - 1) * (p - 1)]
        seen = [norm.denominator == "rms", 1, 1, 1]
        kept = [not norm.centered, 1, 1, 1]
        rate = [2 * z * m / divisor for z, m in zip(lam, seen, strict=True)]
        scales = [mp.log(z) for z in [*rate, eps] if z > 0]
        scales.append(mp.log(sum(m * z for m, z in zip(count, rate, strict=True)) + eps))
        low, high = -max(scales), -min(scales)
        inner = int(mp.ceil((high - low + 8) / 2))
        edges = [low - 300, low - 120, low - 50, low - 20, low - 8, low - 4]
        edges += [low - 2 + 2 * k for k in range(inner)]
        edges += [edges[-1] + z for z in (2, 6, 14, 34, 74, 154, 394)]
        points, weights = pool_oracles._legendre(32)

        def at(s):
            tilted = [z / (1 + s * r) for z, r in zip(lam, rate, strict=True)]
            cov = _from_eigenvalues([a * z for a, z in zip(kept, tilted, strict=True)], b, p)
            cosine = [max(min(z / cov[0], mp.mpf(1)), mp.mpf(-1)) for z in cov]
            theta = [mp.acos(z) for z in cosine]
            moment = [
                cov[0] * (straight * c + kink * (mp.sin(t) - t * c))
                for c, t in zip(cosine, theta, strict=True)
            ]
            mean = (alpha + beta) / mp.sqrt(2) / mp.pi * mp.sqrt(cov[0] / s)
            slope = [g * (straight - kink * t) for g, t in zip(gradient, theta, strict=True)]
            first = _eigenvalues(slope, b, p)
            row = kink * sum(
                n * g * mp.sin(t) for n, g, t in zip(count, gradient, theta, strict=True)
            )
            total = b * p * sum(n * g * k for n, g, k in zip(count, gradient, moment, strict=True))
            pulled = []
            for a, m, z, f in zip(kept, seen, tilted, first, strict=True):
                y = a * m * z
                third = m * z * total + 2 * y**2 * (row + f)
                pulled.append(
                    a * f - 2 * s / divisor * y * (row + f) + (s / divisor) ** 2 / 2 * third
                )
            return [*moment, mean, *pulled]

        result = [mp.mpf(0)] * 9
        for left, right in pairwise(edges):
            for point, weight in zip(points, weights, strict=True):
                s = mp.exp((left + right) / 2 + (right - left) / 2 * point)
                log = -s * eps - sum(
                    n * mp.log1p(s * r) for n, r in zip(count, rate, strict=True)
                ) / 2  # fmt: skip
                if log > -300:
                    size = (right - left) / 2 * weight * s * mp.exp(log)
                    result = [z + size * v for z, v in zip(result, at(s), strict=True)]
        square, *others = result[:4]
        gaps = [1 - z / square for z in others]
        values = [square, *gaps, result[4], *_from_eigenvalues(result[5:], b, p)]
        return [float(z) for z in values]
