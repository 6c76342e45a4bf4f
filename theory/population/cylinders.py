r"""Post-norm streams with VN: a walk on a cylinder, forwards and backwards, exact with two maps.

x_l = rho_l 1 + sqrt(D) u_l and rho_{l+1} = (a rho_l + b hbar)/s, hbar the mean over samples of F(x_l), with
s independent of rho_l and of hbar (``routes.cylinder_step``): second moments are a recursion, and so are
those of gradients.  Given the path, delta_l has moments M = E[(1.delta)^2]/B on the mean, A along u_l, T
on the n - 1 dimensions across, alike by rotations.  J'delta = (delta - u (u.delta) - u rho (1.delta)
/sqrt(D))/s leaves (M, rho^2 M B/D, T)/s^2, of which the axis u_{l-1} sees across itself

    T' = A sin^2 theta + T (1 - sin^2 theta/(n - 1)).

Hence M does not depend on rho and T is t0 + t2 rho^2, with E[rho_l^2/s^2 | rho_{l-1}] = (a^2 rho_{l-1}^2 +
b^2 E[hbar^2]) E[s^-4].  The branch adds a Gaussian that is independent of the path.  Derived here.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from theory.errors import NumericalError
from theory.operators import pushed_through
from theory.population.exchanged import (
    StreamLaw,
    exchanged,
    mean_of,
    pulled,
    raw_refusal,
)
from theory.population.spheres import initial
from theory.program import branch_operations, first_map
from theory.routes.cylinder_step import CylinderStep, cylinder_step
from theory.specs.inputs import ExchangeableInputs
from theory.specs.networks import Network
from theory.specs.residual import Residual
from theory.states.exchangeable import Exchangeable

__all__ = ["CYLINDER_WALK", "cylinder_law", "cylinder_refusal"]

CYLINDER_WALK = "cylinder walk"

FloatArray = NDArray[np.float64]

# Sums over Poisson weights, of one block.
_ROUNDING = 1e-13


class _Block(NamedTuple):
    """What enters a branch and what its operations make of it, the step, and E[ybar^2], y = a x + b F."""

    states: list[Exchangeable]
    step: CylinderStep
    level: float
    added: float


def cylinder_refusal(network: Network, inputs: ExchangeableInputs) -> str | None:
    """None if the samples of one channel walk on a cylinder that second moments describe, else why not."""
    if not isinstance(network, Residual) or network.order not in ("post_norm", "deep_norm"):
        return "only post-norm streams end on a cylinder"
    if network.maps != 2:
        return "an activation sees more of the stream than second moments"
    if network.scales or network.factors[1] == 0.0:
        return "branches that are scaled or 0"
    if network.weights.centered and initial(network, inputs).mean:
        return "the mean over channels, which centered rows see, is not followed"
    return raw_refusal(network.layer.norm, batch=inputs.batch)


def cylinder_law(network: Residual, inputs: ExchangeableInputs, *, backward: bool) -> StreamLaw:
    """Moments of ``network``, which ``cylinder_refusal`` lets pass; gradients are 0 unless ``backward``.

    Raises
    ------
    NumericalError
        The mean over samples outgrew their contrasts beyond the range of floating-point numbers.
    """
    blocks, streams = _forward(network, inputs)
    at = first_map(branch_operations(network))
    maps = [block.states[at] for block in blocks]
    depth = network.depth
    zeros = np.zeros(depth)
    if not backward:
        return StreamLaw(streams, maps, zeros, zeros, zeros)
    return StreamLaw(streams, maps, *_backward(network, blocks))


def _forward(
    network: Residual, inputs: ExchangeableInputs
) -> tuple[list[_Block], list[Exchangeable]]:
    norm, ops, size = network.layer.norm, branch_operations(network), int(inputs.batch)
    assert norm is not None
    n, radius2 = size - 1, norm.divisor(batch=size, positions=1)
    a, b = network.factors
    state = initial(network, inputs).unscaled()
    # The first block normalizes a Gaussian: what it skips is part of the noise.
    own, skip = a * a * state.second_moment * state.gap, 0.0
    blocks, streams = list[_Block](), list[Exchangeable]()
    for _ in range(network.depth):
        states = pushed_through(ops, state)
        end = states[-1].unscaled()
        step = cylinder_step(
            dimensions=n,
            radius2=radius2,
            skip=skip,
            noise=own + b * b * end.second_moment * end.gap,
        )
        added = b * b * mean_of(end) / size
        level = a * a * mean_of(state) / size + added
        raised = level * step.inverse
        error = max(states[-1].second_moment_error, states[-1].gap_error) + _ROUNDING
        if not raised * size < 1e300:
            raise NumericalError(
                "the mean over samples ran away from their contrasts, beyond the range of "
                "floating-point numbers; use fewer blocks, or deep_norm"
            )
        blocks.append(_Block(states, step, level, added))
        state = exchanged(size, size * raised, radius2 / n, error=error)
        streams.append(state)
        own, skip = 0.0, a
    return blocks, streams


def _backward(network: Residual, blocks: list[_Block]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(log E[g^2] at the stream, at h, relative error)."""
    norm, ops, size = network.layer.norm, branch_operations(network), blocks[0].states[0].batch
    assert norm is not None
    n, radius2 = size - 1, norm.divisor(batch=size, positions=1)
    a2, b2 = (factor * factor for factor in network.factors)
    gradient, branch, errors = np.empty((3, len(blocks)))
    # Units of exp(log_unit); the total of what is at the stream.
    mean, flat, bent, total = 1.0, n - 1.0, 0.0, float(size)
    log_unit = error = 0.0
    for k in reversed(range(len(blocks))):
        states, step, level, added = blocks[k]
        gradient[k] = math.log(total / size) + log_unit
        # J'delta: on the mean, along u and across.
        lift = mean * size / radius2
        passed = mean * step.inverse
        contrast = flat * step.inverse + (lift + bent) * level * step.inverse2
        found = pulled(ops, states, mean=b2 * passed, contrast=b2 * contrast / n)
        branch[k] = math.log(found.at_map) + log_unit
        error += found.error + _ROUNDING
        errors[k] = error
        # T + A sin^2 - T sin^2/(n - 1), of which bent parts meet rho^2 s^-2 = ybar^2 s^-4.
        bent = bent * (step.inverse2 - step.turned2) + lift * (n - 1.0) * step.turned2
        flat = (
            a2 * (flat * (step.inverse - step.turned) + bent * added) + (n - 1.0) * found.contrast
        )
        bent *= a2 * a2
        mean = a2 * passed + found.mean
        total = a2 * (passed + contrast) + found.mean + n * found.contrast
        unit = max(mean, total)
        mean, flat, bent, total = (value / unit for value in (mean, flat, bent, total))
        log_unit += math.log(unit)
    return gradient, branch, errors
