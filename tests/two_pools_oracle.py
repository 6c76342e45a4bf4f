"""Two pools of three numbers about their means, in 30 digits: only two angles matter.

The deviations of a batch of three lie in a plane, h - mean = U u, and N_a = sqrt(3) U_a.(cos t, sin t):
the length of u cancels.  Two batches have the joint density of the angles of a Gaussian in four dimensions,

    p(t, t') = sqrt(det L)/(2 pi)^2 I,   I = int int r r' exp(-(a r^2 + 2 b r r' + c r'^2)/2) dr dr'
             = (1 - (b/sqrt(D)) arccos(b/sqrt(a c)))/D,   D = a c - b^2,

with a, b, c the quadratic forms of L, the inverse covariance, in the two directions.
"""

from itertools import pairwise

import mpmath as mp
import numpy as np
import pool_oracles as oracle

BASIS = [(mp.mpf(1), mp.mpf(1)), (mp.mpf(-1), mp.mpf(1)), (mp.mpf(0), mp.mpf(-2))]


def plane():
    """U: orthonormal contrasts of three samples, shape (3, 2)."""
    return [(x / mp.sqrt(2), y / mp.sqrt(6)) for x, y in BASIS]


def angles(rows, order):
    """Nodes and weights of Gauss and Legendre between the angles at which some U_a.e changes sign."""
    kinks = [mp.atan2(-x, y) for x, y in rows]
    kinks = sorted({t + k * mp.pi for t in kinks for k in (-1, 0, 1, 2)})
    kinks = [t for t in kinks if -mp.pi <= t <= mp.pi]
    edges = [*kinks, kinks[0] + 2 * mp.pi]
    points, weights = oracle._legendre(order)
    for low, high in pairwise(edges):
        for point, weight in zip(points, weights, strict=True):
            yield (low + high) / 2 + (high - low) / 2 * point, (high - low) / 2 * weight


def similarity(z, slopes, order):
    """Cosines of phi(N(h)) across the pools, h = Z g with Z of shape (6, k); mp.workdps is the caller's."""
    rows = plane()
    alpha, beta = (mp.mpf(x) for x in slopes)
    z = mp.matrix(z.tolist())
    blocks = mp.zeros(6, 4)
    for a, (x, y) in enumerate(rows):
        blocks[a, 0], blocks[a, 1], blocks[a + 3, 2], blocks[a + 3, 3] = x, y, x, y
    covariance = blocks.T * (z * z.T) * blocks
    inverse = covariance**-1
    joint = mp.sqrt(mp.det(inverse)) / (2 * mp.pi) ** 2
    nodes = []
    for angle, weight in angles(rows, order):
        e = (mp.cos(angle), mp.sin(angle))
        dots = [mp.sqrt(3) * (x * e[0] + y * e[1]) for x, y in rows]
        nodes.append((e, weight, [alpha * d if d > 0 else -beta * d for d in dots]))

    def form(first, second, e, f):
        return mp.fsum(inverse[first + i, second + j] * e[i] * f[j] for i in (0, 1) for j in (0, 1))

    total = mp.zeros(3, 3)
    ends = [[form(2 * k, 2 * k, e, e) for e, _, _ in nodes] for k in (0, 1)]
    for (e, weight, x), a in zip(nodes, ends[0], strict=True):
        row = [mp.mpf(0)] * 3
        half = [mp.fsum(inverse[i, 2 + j] * e[i] for i in (0, 1)) for j in (0, 1)]
        for (f, other, y), c in zip(nodes, ends[1], strict=True):
            b = half[0] * f[0] + half[1] * f[1]
            d = a * c - b * b
            density = other * (1 - b / mp.sqrt(d) * mp.acos(b / mp.sqrt(a * c))) / d
            row = [r + density * v for r, v in zip(row, y, strict=True)]
        for i in range(3):
            for j in range(3):
                total[i, j] += joint * weight * x[i] * row[j]
    squares = []
    for k in (0, 1):
        own = covariance[2 * k : 2 * k + 2, 2 * k : 2 * k + 2] ** -1
        scale = mp.sqrt(mp.det(own)) / (2 * mp.pi)
        moments = [mp.mpf(0)] * 3
        for e, weight, x in nodes:
            quadratic = own[0, 0] * e[0] ** 2 + 2 * own[0, 1] * e[0] * e[1] + own[1, 1] * e[1] ** 2
            moments = [
                m + scale * weight * v * v / quadratic for m, v in zip(moments, x, strict=True)
            ]
        squares.append(moments)
    return [
        [total[i, j] / mp.sqrt(squares[0][i] * squares[1][j]) for j in range(3)] for i in range(3)
    ]


def floats(rows):
    return np.array([[float(v) for v in row] for row in rows])
