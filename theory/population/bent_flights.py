r"""Sandwiches with VN and one map, x + b VN(W phi(VN(x))): see ``raised_flights``.

phi(z) = alpha z + beta |z| sees z = VN(x) = rho 1 + sqrt(D) u, rho = A sqrt(D)/|d|: products of two samples
of phi and phi' are those of a line and sums of exp(-rho^2/(2 tau)) = exp(-A^2/(2 Theta)), Theta = tau
|d|^2/D (``crossings``).  The law of |d|^2 is on a logarithmic grid (``scale_mixtures``), that of A in its
characteristic function psi, a product over blocks: with u = Theta t^2,

    E[exp(-A^2/(2 Theta))] = int (u/(2 pi))^(1/2) exp(-u/2) psi(t) d log t^2,

and 1 - u beside it for A^2/Theta in front.  One block's s, of which T = hbar/s in A knows, replaces its
factor chi(t) = E[exp(-z/W)], z = t^2 b^2 E[hbar^2] D/(2 v), W = s^2 D/v chi-square, by E[W^-1 exp(-z/W)]
and the like: what later blocks return is one function of t, whatever the block that asks.  Steps are
exchangeable given d_m, so that the cosine of any earlier step with d_m is that of the last.  Derived here.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from theory.population.crossings import crossings
from theory.population.exchanged import StreamLaw, exchanged, mean_of, raw_refusal
from theory.population.masks import slope_parts
from theory.population.scale_mixtures import SPACING, Weights, spread
from theory.population.spheres import initial
from theory.routes.cylinder_nodes import cylinder_nodes
from theory.routes.fourth_flight import FourthPowers, fourth_powers
from theory.routes.random_flight import RandomFlight, flight_fits, random_flight
from theory.specs.inputs import ExchangeableInputs
from theory.specs.networks import Network
from theory.specs.residual import Residual
from theory.states.exchangeable import Exchangeable

__all__ = ["bent_flight_law", "bent_flight_refusal"]

FloatArray = NDArray[np.float64]

# Interpolation, quadrature and the flight's integrals, of one block; ends of the grid.
_SMOOTH, _LEAST = 1e-9, 1e-13
# Cosines of a step; the least chi that its block's average is divided by.
_COSINES, _GONE = 64, 1e-13
# u where the transform's integral starts, in closed form before, and ends.
_NEAR, _FAR = 1e-7, 80.0


class _Block(NamedTuple):
    """What enters a branch: E[A^2], psi, law of |d|^2 (probability, and with the cosine's square).

    Then E[hbar^2] and v of the branch, and the relative error of the stream and of the kink's part.
    """

    height: float
    psi: FloatArray
    length: Weights
    level: float
    contrast: float
    error: float


def bent_flight_refusal(network: Network, inputs: ExchangeableInputs) -> str | None:
    """None if ``network`` is a raised flight whose norm phi bends at 0, else why not."""
    if not isinstance(network, Residual) or network.order != "sandwich":
        return "only sandwiches add steps of one length"
    if network.maps != 1:
        return "second moments suffice"
    if network.factors[0] != 1.0 or not network.factors[1] or network.scales:
        return "skips that forget, or branches that are scaled or 0"
    activation, norm = network.layer.activation, network.layer.norm
    if activation.ray_slopes is None or activation.shift != 0.0 or network.weights.centered:
        return "maps that see more than signs and sizes"
    refusal = raw_refusal(norm, batch=inputs.batch)
    if refusal is not None or norm is None:
        return refusal
    start = initial(network, inputs).unscaled()
    length = abs(network.factors[1]) * math.sqrt(norm.divisor(batch=inputs.batch, positions=1))
    if start.mean or not flight_fits(start=start.second_moment * start.gap, length=length):
        return "a start with a mean, or narrow against a step"
    return None


class _Flight:
    """Constants of all blocks: sizes, phi and its kink, the grid of log t^2 and transforms on it."""

    def __init__(self, network: Residual, inputs: ExchangeableInputs) -> None:
        norm = network.layer.norm
        assert norm is not None
        self.size = int(inputs.batch)
        self.n = self.size - 1
        self.radius2 = norm.divisor(batch=self.size, positions=1)
        self.branch2, self.variance = network.factors[1] ** 2, network.weights.weight_variance
        straight, bent = slope_parts(network.layer.activation)
        self.passed, self.bent = straight * straight + bent * bent, bent * bent
        self.crossings = crossings(self.n, self.radius2)
        start = initial(network, inputs).unscaled()
        self.height = mean_of(start) / self.size
        self.narrow = start.second_moment * start.gap
        self.step2 = self.branch2 * self.radius2
        steps, length = network.depth - 1, math.sqrt(self.step2)
        self.flight: RandomFlight = random_flight(
            steps, dimensions=self.n, start=self.narrow, length=length
        )
        self.fourth: FourthPowers = fourth_powers(
            steps, dimensions=self.n, start=self.narrow, length=length
        )
        self.cosines = special.roots_gegenbauer(_COSINES, 0.5 * (self.n - 2.0))
        nodes = cylinder_nodes(dimensions=self.n, radius2=1.0, skip=0.0, noise=1.0)
        self.chi, self.chance = nodes.square, nodes.weight
        self.place = self._places(network.depth)
        self.t2 = np.exp(SPACING * self.place)
        self.weight = np.full(len(self.t2), 2.0 * SPACING)
        # Before the first place psi is 1 and the integrand as t.
        self.weight[0] *= 1.0 + 1.0 / math.expm1(SPACING)

    def _places(self, depth: int) -> FloatArray:
        """Every other index of the grid, from where u is small to where it is large for all Theta."""
        kink = self.bent * float(self.crossings.product.sum())
        height = self.height
        for inverse in self.flight.inverse.tolist():
            # As if all of the kink were there: the fastest that A can grow.
            level = self.passed * self.radius2 * height * inverse + self.n / self.size * kink
            least = self.passed * self.radius2 / self.n - kink
            height += self.step2 * level / (least * (self.n - 2.0))
        tau = self.crossings.tau
        longest = math.sqrt(self.narrow) * (math.sqrt(self.n) + 8.0) + depth * math.sqrt(self.step2)
        shortest = self.chi[np.searchsorted(np.cumsum(self.chance), 1e-10)]
        large = max(tau[-1] * longest * longest / self.radius2, height)
        small = tau[0] * min(self.narrow, self.step2) * float(shortest) / self.radius2
        low = math.floor(math.log(_NEAR / large) / SPACING)
        high = math.ceil(math.log(_FAR / small) / SPACING)
        return np.arange(float(low), float(high), 2.0)

    def transforms(self, length: Weights) -> tuple[FloatArray, FloatArray]:
        """(u/2 pi)^(1/2) exp(-u/2) at t and Theta, and 1 - u times it."""
        count = length.rows.shape[1] + len(self.crossings.sign) - 1
        first = length.first + self.crossings.first
        theta = np.exp(SPACING * (first + np.arange(float(count)))) / self.radius2
        u = self.t2[:, None] * theta
        plain = np.sqrt(u / (2.0 * math.pi)) * np.exp(-0.5 * u)
        return plain, (1.0 - u) * plain

    def damping(self, level: float, contrast: float) -> tuple[FloatArray, FloatArray]:
        """z/W and exp(-z/W) at t and W."""
        z = self.t2 * (0.5 * self.step2 * level / contrast)
        ratio = z[:, None] / self.chi
        return ratio, np.exp(-ratio)

    def stepped(self, length: Weights) -> Weights:
        """The law of |d|^2 after one more step."""
        cosine, chance = self.cosines
        before = np.sqrt(length.variances)[:, None]
        step = math.sqrt(self.step2)
        along = before * cosine + step
        after = along * along + before * before * (1.0 - cosine * cosine)
        weight = length.rows[0][:, None] * (chance / chance.sum())
        rows = np.stack((weight, weight * along * along / after)).reshape(2, -1)
        return self.trimmed(spread(after.ravel(), rows))

    @staticmethod
    def trimmed(length: Weights) -> Weights:
        """Without ends that do not matter to inverse squares either."""
        probability = np.abs(length.rows[0])
        mean = float(length.rows[0] @ length.variances)
        return length.trimmed(probability * (1.0 + mean / length.variances), least=_LEAST)


def bent_flight_law(network: Residual, inputs: ExchangeableInputs, *, backward: bool) -> StreamLaw:
    """Moments of ``network``, which ``bent_flight_refusal`` lets pass; no gradients, no ``backward``."""
    flight = _Flight(network, inputs)
    blocks, streams, maps = _forward(flight, network.depth)
    zeros = np.zeros(network.depth)
    if not backward:
        return StreamLaw(streams, maps, zeros, zeros, zeros)
    return StreamLaw(streams, maps, *_backward(flight, blocks))


def _forward(
    flight: _Flight, depth: int
) -> tuple[list[_Block], list[Exchangeable], list[Exchangeable]]:
    size, n, radius2, found = flight.size, flight.n, flight.radius2, flight.crossings
    height, psi = flight.height, np.exp(-0.5 * flight.t2 * flight.height)
    start = np.stack((flight.chance, np.zeros_like(flight.chance)))
    length = flight.trimmed(spread(flight.narrow * flight.chi, start))
    blocks, streams, maps = list[_Block](), list[Exchangeable](), list[Exchangeable]()
    error = _SMOOTH
    for k in range(depth):
        plain, _ = flight.transforms(length)
        pairs = float((flight.weight * psi) @ (plain @ np.convolve(length.rows[0], found.product)))
        raised = radius2 * height * float(flight.flight.inverse[k])
        contrast = flight.variance * (flight.passed * radius2 / n - flight.bent * pairs)
        level = flight.variance * (flight.passed * raised + n / size * flight.bent * pairs)
        # What is known of |d| says what the grid has lost.
        off = found.error(height * radius2 / length.variances, np.abs(length.rows[0])) + _SMOOTH
        off += abs(
            float(length.rows[0] @ (1.0 / length.variances)) / flight.flight.inverse[k] - 1.0
        )
        blocks.append(_Block(height, psi, length, level, contrast, error + off))
        maps.append(exchanged(size, size * level, contrast, error=error + off))
        error += off * flight.variance * flight.bent * pairs / contrast + _SMOOTH
        height += flight.step2 * level / (contrast * (n - 2.0))
        spread_out = flight.narrow + (k + 1) * flight.step2 / n
        streams.append(exchanged(size, size * height, spread_out, error=error))
        _, damped = flight.damping(level, contrast)
        psi = psi * (damped @ flight.chance)
        length = flight.stepped(length)
    return blocks, streams, maps


def _backward(flight: _Flight, blocks: list[_Block]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(log E[g^2] at the stream, at h, relative error)."""
    size, n, radius2 = flight.size, flight.n, flight.radius2
    exact, fourth = flight.flight, flight.fourth
    gradient, branch, errors = np.empty((3, len(blocks)))
    # As in ``raised_flights``, of lines; of kinks functions of t, but for what they add to the whole.
    mean, whole, across, raised = 1.0, float(n), n - 1.0, 0.0
    on_mean, on_rest = np.zeros((2, len(flight.t2)))
    log_unit, error = 0.0, max(block.error for block in blocks)
    for k in reversed(range(len(blocks))):
        height, psi, length, level, contrast, off = blocks[k]
        gradient[k] = math.log((mean + whole) / size) + log_unit
        scale = radius2 / contrast
        inverse = scale / (n - 2.0)
        leant = level * scale * inverse / (n - 4.0)
        lift = level * inverse
        # E[W^-1 exp(-z/W)] and E[hbar^2 W^-2 cos(t T)] beside chi.
        ratio, damped = flight.damping(level, contrast)
        chi = damped @ flight.chance
        kept = chi > _GONE
        once, twice = (
            np.divide(part, chi, out=np.zeros_like(chi), where=kept) * flight.weight
            for part in (
                damped @ (flight.chance / flight.chi),
                (damped * (1.0 - 2.0 * ratio)) @ (flight.chance / flight.chi**2),
            )
        )
        reached = mean * inverse + scale * float(once @ on_mean)
        passed = across * inverse + raised * flight.branch2 * (leant - lift * inverse)
        passed += leant * mean * size / radius2
        passed += scale * float(once @ on_rest)
        passed += level * scale * scale * size / radius2 * float(twice @ on_mean)
        branch[k] = math.log(flight.branch2 * (reached + passed) / size) + log_unit
        outer = flight.variance * flight.branch2 * reached
        inner = flight.variance * flight.branch2 * passed / n
        # What lines return to x_k, and what the kink does.
        before = mean + whole
        flat, bent = radius2 * flight.passed * inner, size * radius2 * flight.passed * outer
        mean += radius2 * flight.passed * outer * exact.inverse[k]
        whole += flat * (n - 1.0) * exact.inverse[k] + bent * height * fourth.inverse[k]
        turned = bent * (fourth.inverse[k] - fourth.along[k])
        across += flat * ((n - 2.0) * exact.inverse[k] + exact.along[k]) + turned * height
        raised += turned
        kink = flight.bent * n * (inner - outer)
        parts = kink * _kinked(flight, length) * psi
        on_mean += parts[0]
        on_rest += parts[1]
        whole += float(flight.weight @ (parts[0] + parts[2]))
        unit = mean + whole
        # What the branch has of the mean's kinks and of the whole has its errors.
        share = abs(float(flight.weight @ parts[0])) / mean + 1.0 - before / unit
        error += off * min(share, 1.0) + _SMOOTH
        errors[k] = error
        mean, whole, across, raised = (value / unit for value in (mean, whole, across, raised))
        on_mean, on_rest = on_mean / unit, on_rest / unit
        log_unit += math.log(unit)
    return gradient, branch, errors


def _kinked(flight: _Flight, length: Weights) -> FloatArray:
    """What a unit kink returns at t: on the mean, of |P g|^2 - (v.g)^2, of |P g|^2."""
    n, size, found = flight.n, flight.size, flight.crossings
    plain, curved = flight.transforms(length)
    inverse = length.rows / length.variances
    all_, along = inverse
    on_mean = np.convolve(all_, found.sign) * (flight.radius2 / size)
    lifted = found.tau * found.sign
    raised = np.convolve(all_, lifted)
    raised_across = np.convolve(all_ - along, lifted)
    tangent = -flight.radius2 * np.convolve(all_, found.along)
    tangent_across = -flight.radius2 * np.convolve(
        all_ * (n - 2.0) / (n - 1.0) + along / (n - 1.0), found.along
    )
    return np.stack(
        (
            plain @ on_mean,
            curved @ raised_across + plain @ tangent_across,
            curved @ raised + plain @ tangent,
        )
    )
