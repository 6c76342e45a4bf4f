r"""Post-norm streams with VN and one map, VN(a x + b W phi(x)): see ``cylinders``.

phi(x) = alpha x + beta |x| sees rho.  It is Gaussian given s_1, s_2, ..., of variance V' = (a^2 V + b^2
E[hbar^2])/s^2, whose law is carried on a logarithmic grid (``scale_mixtures``); products of two samples of
phi and phi' are those of a line and sums of exp(-rho^2/(2 tau)) (``crossings``).

Backwards M(rho) and T(rho) have such sums beside what ``cylinders`` says of them.  With y = s rho_l, theta =
tau s^2, f = theta/(theta + b^2 E[hbar^2]) and tau' = (theta + b^2 E[hbar^2])/a^2, over hbar

    E[exp(-y^2/(2 theta)) | rho] = f^(1/2) exp(-rho^2/(2 tau')),
    E[y^2/theta exp(-y^2/(2 theta)) | rho] = f^(1/2) (1 - f + f rho^2/tau') exp(-rho^2/(2 tau')),

so that weights m of M, p + r rho^2/tau of T move along the grid as the variances do.  Laws of rho are
symmetric, which leaves the even parts of what phi' does: E[m_i^2] = alpha^2 + beta^2.  Derived here.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from theory.errors import NumericalError
from theory.operators import pushed_through
from theory.population.crossings import Crossings, crossings
from theory.population.exchanged import StreamLaw, exchanged, mean_of, raw_refusal
from theory.population.masks import slope_parts
from theory.population.scale_mixtures import Weights, spread
from theory.population.spheres import initial
from theory.program import branch_operations
from theory.routes.cylinder_nodes import CylinderNodes, cylinder_nodes
from theory.routes.cylinder_step import CylinderStep, cylinder_step
from theory.specs.inputs import ExchangeableInputs
from theory.specs.networks import Network
from theory.specs.residual import Residual
from theory.states.exchangeable import Exchangeable

__all__ = ["bent_cylinder_law", "bent_cylinder_refusal"]

FloatArray = NDArray[np.float64]

# Interpolation and quadrature, of one block; ends of the grid.
_SMOOTH, _LEAST = 1e-9, 1e-13
# rho^2 over its mean, in tails that are kept.
_TAILS = 1e3


class _Block(NamedTuple):
    """The step behind a branch: its nodes and moments; b^2 E[hbar^2], E[ybar^2]; law of V' times s^-2.

    ``error`` is relative, of the stream and of what the kink makes of pairs behind it; ``share`` what
    1/s^2 has of an error in the branch.
    """

    nodes: CylinderNodes
    step: CylinderStep
    added: float
    level: float
    divided: Weights
    error: float
    share: float


def bent_cylinder_refusal(network: Network, inputs: ExchangeableInputs) -> str | None:
    """None if the samples of one channel walk on a cylinder that phi bends at 0, else why not."""
    if not isinstance(network, Residual) or network.order not in ("post_norm", "deep_norm"):
        return "only post-norm streams end on a cylinder"
    if network.maps != 1:
        return "second moments suffice"
    if network.scales or network.factors[1] == 0.0:
        return "branches that are scaled or 0"
    activation = network.layer.activation
    if activation.ray_slopes is None or activation.shift != 0.0 or network.weights.centered:
        return "maps that see more than signs and sizes"
    if initial(network, inputs).mean:
        return "a start with a mean"
    return raw_refusal(network.layer.norm, batch=inputs.batch)


class _Cylinder:
    """Constants of all blocks: sizes, factors, phi, and what its kink makes of pairs."""

    def __init__(self, network: Residual, size: int) -> None:
        norm = network.layer.norm
        assert norm is not None
        self.size, self.n = size, size - 1
        self.radius2 = norm.divisor(batch=size, positions=1)
        self.skip, factor = network.factors
        self.variance = factor * factor * network.weights.weight_variance
        straight, bent = slope_parts(network.layer.activation)
        self.passed, self.bent = straight * straight + bent * bent, bent * bent
        self.crossings: Crossings = crossings(self.n, self.radius2)
        self.tau = self.crossings.tau

    def nodes(self, *, skip: float, noise: float) -> tuple[CylinderNodes, CylinderStep]:
        """s behind a branch whose contrasts have this variance."""
        return (
            cylinder_nodes(dimensions=self.n, radius2=self.radius2, skip=skip, noise=noise),
            cylinder_step(dimensions=self.n, radius2=self.radius2, skip=skip, noise=noise),
        )


def bent_cylinder_law(
    network: Residual, inputs: ExchangeableInputs, *, backward: bool
) -> StreamLaw:
    """Moments of ``network``, which ``bent_cylinder_refusal`` lets pass; no gradients, no ``backward``.

    Raises
    ------
    NumericalError
        The mean over samples outgrew their contrasts beyond the range of floating-point numbers.
    """
    cylinder = _Cylinder(network, int(inputs.batch))
    blocks, streams, maps = _forward(network, inputs, cylinder)
    zeros = np.zeros(network.depth)
    if not backward:
        return StreamLaw(streams, maps, zeros, zeros, zeros)
    return StreamLaw(streams, maps, *_backward(network, blocks, cylinder))


def _forward(
    network: Residual, inputs: ExchangeableInputs, cylinder: _Cylinder
) -> tuple[list[_Block], list[Exchangeable], list[Exchangeable]]:
    size, n, radius2, a = cylinder.size, cylinder.n, cylinder.radius2, cylinder.skip
    start = initial(network, inputs).unscaled()
    # The first block normalizes a Gaussian, of one variance, and what it skips is part of the noise.
    own, skip = a * a * start.second_moment * start.gap, 0.0
    *_, first = pushed_through(branch_operations(network), start)
    first, b2 = first.unscaled(), network.factors[1] ** 2
    noise, added = b2 * first.second_moment * first.gap, b2 * mean_of(first) / size
    law = Weights(0, np.ones((1, 1)))
    raised, variances = mean_of(start) / size, np.array([mean_of(start) / size])
    blocks, streams, maps = list[_Block](), list[Exchangeable](), [first]
    scale, error, lost_by_grid = 1.0 / b2, _SMOOTH, 0.0
    for _ in range(network.depth):
        nodes, step = cylinder.nodes(skip=skip, noise=own + noise)
        level = a * a * raised + added
        moved = (a * a * variances[:, None] + added) / nodes.square
        weight = law.rows[0][:, None] * nodes.weight
        found = spread(moved.ravel(), np.stack((weight, weight / nodes.square)).reshape(2, -1))
        raised = level * step.inverse
        root = np.sqrt(found.variances / raised)
        kept = found.trimmed(np.abs(found.rows[0]) * (root * root + 1.0 + 1.0 / root), least=_LEAST)
        law, variances = Weights(kept.first, kept.rows[:1]), kept.variances
        pairs = cylinder.crossings.product @ _means(cylinder.tau, variances) * law.rows[0]
        off = cylinder.crossings.error(variances, np.abs(pairs)) + _SMOOTH
        # The mean is known: how far the grid's is says what the grid has lost.
        lost_by_grid = max(lost_by_grid, abs(float(law.rows[0] @ variances) / raised - 1.0))
        stated = error + lost_by_grid
        share = n * noise / (n * (noise + own) + skip * skip * radius2)
        divided = Weights(kept.first, kept.rows[1:])
        blocks.append(_Block(nodes, step, added, level, divided, stated + off, share))
        if not raised * size < 1e300:
            raise NumericalError(
                "the mean over samples ran away from their contrasts, beyond the range of "
                "floating-point numbers; use fewer blocks, or deep_norm"
            )
        streams.append(exchanged(size, size * raised, radius2 / n, error=stated))
        lost = cylinder.bent * float(pairs.sum())
        noise = cylinder.variance * (cylinder.passed * radius2 / n - lost)
        added = cylinder.variance * (cylinder.passed * raised + n / size * lost)
        maps.append(exchanged(size, scale * size * added, scale * noise, error=stated + off))
        own, skip = 0.0, a
        # An error in E[rho^2] goes on by what the next E[ybar^2] has of it; the kink's acts on that
        # and on the next s.
        ahead = a * a * raised + added
        error *= (a * a + cylinder.variance * cylinder.passed) * raised / ahead
        felt = n / (a * a * radius2 + n * noise) + n / size / ahead
        error += off * cylinder.variance * lost * felt + _SMOOTH
    return blocks, streams, maps[:-1]


def _backward(
    network: Residual, blocks: list[_Block], cylinder: _Cylinder
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(log E[g^2] at the stream, at h, relative error)."""
    size, n, radius2, a2 = cylinder.size, cylinder.n, cylinder.radius2, cylinder.skip**2
    gradient, branch, errors = np.empty((3, len(blocks)))
    # M, T = flat + bent rho^2, and weights (m, p, r) of Gaussians.
    mean, flat, bent, total = 1.0, n - 1.0, 0.0, float(size)
    tau, rows = cylinder.tau, np.zeros((3, len(cylinder.tau)))
    log_unit, error = 0.0, max(block.error for block in blocks)
    for k in reversed(range(len(blocks))):
        nodes, step, added, level, divided, off, share = blocks[k]
        gradient[k] = math.log(total / size) + log_unit
        over = _means(tau, divided.variances)
        hit, turned = over @ divided.rows[0], (over * (1.0 - over * over)) @ divided.rows[0]
        lift = size / radius2
        passed = mean * step.inverse + float(rows[0] @ hit)
        contrast = flat * step.inverse + (lift * mean + bent) * level * step.inverse2
        contrast += float((lift * tau * rows[0] + rows[2]) @ turned + rows[1] @ hit)
        outer, inner = cylinder.variance * passed, cylinder.variance * contrast / n
        branch[k] = math.log(network.factors[1] ** 2 * (passed + contrast) / size) + log_unit
        total = a2 * (passed + contrast) + cylinder.passed * (outer + n * inner)
        # From x_k to what skips block k, and what its branch returns.
        found = _moved(tau, rows, nodes, added=added, lift=lift, n=n, skip2=a2)
        bent = bent * (step.inverse2 - step.turned2) + lift * mean * (n - 1.0) * step.turned2
        flat = a2 * (flat * (step.inverse - step.turned) + bent * added)
        flat += cylinder.passed * (n - 1.0) * inner
        bent *= a2 * a2
        mean = a2 * mean * step.inverse + cylinder.passed * outer
        kink = cylinder.bent * n * (inner - outer)
        source = np.zeros((3, len(cylinder.tau)))
        source[0] = kink / size * cylinder.crossings.sign
        source[1] = -kink * cylinder.crossings.along
        # What the branch has of M and of the whole has its errors.
        share += abs(kink) / size * float(cylinder.crossings.sign.sum()) / mean
        share += cylinder.passed * (outer + n * inner) / total
        error += off * min(share, 1.0) + _SMOOTH
        errors[k] = error
        # Weights of M that are nothing beside the mean, and r rho^2/tau far beyond rho^2, are left.
        m, p, r = np.abs(found.rows)
        reached = _TAILS * (level - added) / a2
        size_of = m / mean + (p + r * np.minimum(1.0, reached / found.variances)) / total
        kept, unit = size_of > _LEAST, max(mean, total)
        tau = np.append(found.variances[kept], cylinder.tau)
        rows = np.append(found.rows[:, kept], source, axis=1) / unit
        mean, flat, bent, total = (value / unit for value in (mean, flat, bent, total))
        log_unit += math.log(unit)
    return gradient, branch, errors


def _means(tau: FloatArray, variances: FloatArray) -> FloatArray:
    """E exp(-rho^2/(2 tau)) over rho of these variances."""
    return np.asarray(np.sqrt(tau[:, None] / (tau[:, None] + variances)))


def _moved(
    tau: FloatArray,
    rows: FloatArray,
    nodes: CylinderNodes,
    *,
    added: float,
    lift: float,
    n: int,
    skip2: float,
) -> Weights:
    """(m, p, r) before a block."""
    theta = tau[:, None] * nodes.square
    share = theta / (theta + added)
    weight = skip2 * nodes.weight / nodes.square * np.sqrt(share)
    straight = 1.0 - nodes.turned / (n - 1.0)
    m, p, r = rows[:, :, None]
    raised = lift * m * tau[:, None] * nodes.turned + r * straight
    parts = np.stack(
        (m * weight, weight * (p * straight + raised * (1.0 - share)), weight * share * raised)
    )
    return spread(((theta + added) / skip2).ravel(), parts.reshape(3, -1))
