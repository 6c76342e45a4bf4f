r"""Signs of two coordinates of a random flight that all coordinates share steps of: VN's.

x_k = x_0 + sum_j (rho v_j + rho r_j t_j 1), v_j uniform on the unit sphere of the n = N - 1 dimensions
orthogonal to 1 in N, t_j = z/sqrt(chi^2_n) independent of it (a Student variable over sqrt(n)), x_0 Gaussian
and exchangeable with covariance q, p.  With s = t_1 + t_2, nu = n/2 and G_nu(y) = y^nu K_nu(y),

    phi_k(t) = exp(-(q |t|^2 + 2 p t_1 t_2)/2) Lambda(rho |P t|)^k prod_j psi(rho r_j s),
    psi(y) = G_nu(y)/(2^(nu - 1) Gamma(nu)) = E e^{i y t_j},      E[t_j^2m e^{i y t_j}] = (-1)^m psi^(2m)(y),

and from here as in ``flight_signs``, which has the steps v_j alone.  In G' = -y G_{nu-1} and G_{nu+1} = 2 nu
G_nu + y^2 G_{nu-1} nothing cancels; with G1, G2 = G_{nu-1}, G_{nu-2} over G_nu and X = G1 - (n - 4) G2

    psi'/psi = -y G1,    -psi''/psi = (n - 1) G1 - 1,    psi''''/psi = (3 + y^2) G2 - n X.

Derived here.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.polynomial import Polynomial
from numpy.typing import NDArray
from scipy import special

from theory.errors import out_of_domain
from theory.routes.random_flight import flight_fits, radial_nodes, sphere_series

__all__ = ["LARGEST_POOL", "SharedFlight", "Student", "student"]

FloatArray = NDArray[np.float64]

LARGEST_POOL = 1024
"""N: beyond, psi's derivatives, differences that nearly cancel, have less than seven digits."""

_ANGLES = 16
# Degrees of freedom from which psi is expanded.
_MANY = 100
# Of a characteristic function; moments take it times (q t^2), at most 1e9 or so.
_NEGLIGIBLE = 1e-24


class Student(NamedTuple):
    """log psi, -psi'/psi, -psi''/psi and psi''''/psi."""

    log: FloatArray
    slope: FloatArray
    second: FloatArray
    fourth: FloatArray


def student(y: FloatArray, degrees: int) -> Student:
    """Characteristic function of t = z/sqrt(chi^2_n) at y > 0 and what its derivatives make of it.

    Parameters
    ----------
    y
        Positive.
    degrees
        n >= 3 (the fourth for n >= 5).
    """
    n = degrees
    log, first, second = _recurred(y, n) if n < _MANY else _expanded(y, n)
    cross = first - (n - 4.0) * second
    return Student(log, y * first, (n - 1.0) * first - 1.0, (3.0 + y * y) * second - n * cross)


def _recurred(y: FloatArray, n: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """log psi, G_{nu-1}/G_nu and G_{nu-2}/G_nu from Bessel functions of order 0 and 1, or -1/2 and 1/2."""
    if n % 2:
        mu = 0.5
        now = np.full_like(y, math.sqrt(0.5 * math.pi))
        before = now / y
    else:
        mu = 1.0
        now, before = y * special.k1e(y), special.k0e(y)
    # e^y G_mu in units of 2^(mu - 1) Gamma(mu).
    unit = 2.0 ** (mu - 1.0) * math.gamma(mu)
    now, before = now / unit, before / unit
    square, earlier = y * y, before
    while mu < 0.5 * n - 0.25:
        step = 1.0 / (2.0 * mu)
        now, before, earlier = now + step * square * before, step * now, step * before
        mu += 1.0
    return np.log(now) - y, before / now, earlier / now


def _expanded(y: FloatArray, n: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The same by Debye's expansion of K_mu(mu z), uniform in z: eight terms leave 1e-15 at mu = 48."""
    nu = 0.5 * n
    logs = []
    for mu in (nu, nu - 1.0, nu - 2.0):
        root = np.sqrt(1.0 + (y / mu) ** 2)
        series = np.polynomial.polynomial.polyval(1.0 / root, _debye(mu))
        constant = 0.5 * math.log(0.5 * math.pi / mu) + mu * math.log(mu)
        constant -= (mu - 1.0) * math.log(2.0) + math.lgamma(mu)
        logs.append(constant + mu * (np.log1p(root) - root) - 0.5 * np.log(root) + np.log(series))
    first = np.exp(logs[1] - logs[0]) / (n - 2.0)
    return logs[0], first, np.exp(logs[2] - logs[0]) / ((n - 2.0) * (n - 4.0))


@lru_cache(maxsize=64)
def _debye(mu: float) -> FloatArray:
    """Coefficients of sum (-1)^k u_k(t)/mu^k (DLMF 10.41.9 and 10.41.10)."""
    term = Polynomial([1.0])
    total = term
    for k in range(1, 9):
        term = (
            Polynomial([0.0, 0.0, 0.5, 0.0, -0.5]) * term.deriv()
            + (Polynomial([0.125, 0.0, -0.625]) * term).integ()
        )
        total = total + (-1.0 / mu) ** k * term
    return np.asarray(total.coef)


class SharedFlight:
    """The flight's characteristic function on a grid of t = r (cos u, +-sin u), step by step.

    Parameters
    ----------
    size
        N >= 4.
    second_moment, product
        q > |p| of x_0.
    length
        rho > 0.
    steps
        How many will be taken.
    gap
        About the smallest 1 - E[x_1 x_2]/E[x_1^2] along the flight: angles resolve its root.

    Raises
    ------
    SpecificationError
        A start without width, or too narrow against a step for the integrals; a pool that is too large.
    """

    def __init__(
        self,
        *,
        size: int,
        second_moment: float,
        product: float,
        length: float,
        steps: int,
        gap: float,
    ) -> None:
        self.size, self.dimensions, self.length = size, size - 1, length
        q, p = second_moment, product
        if not flight_fits(start=q - abs(p), length=length):
            raise out_of_domain("product", p, "well below second_moment", "use a population")
        if not 4 <= size <= LARGEST_POOL:
            raise out_of_domain("size", size, f"in [4, {LARGEST_POOL}]", "use a population")
        r, weight = radial_nodes(q - abs(p), length, steps)
        u, part = _angles(gap, smooth=size % 2 == 0)
        # Axes: radius, sign of t_2, angle; the weight takes E_- - E_+.
        r, weight, u, part = (
            r[:, None, None],
            weight[:, None, None],
            u[None, None],
            part[None, None],
        )
        side = np.array([-1.0, 1.0])[None, :, None]
        sine = side * np.sin(2.0 * u)
        first, second = r * np.cos(u), side * r * np.sin(u)
        # cos u - sin u = sqrt(2) sin(pi/4 - u) keeps its digits.
        self.sum = (
            math.sqrt(2.0)
            * r
            * np.where(side < 0.0, np.sin(0.25 * math.pi - u), np.cos(0.25 * math.pi - u))
        )
        n = self.dimensions
        one, two = first - self.sum / size, second - self.sum / size
        z2 = length * length * np.maximum(r * r - self.sum**2 / size, 0.0)
        self.factor, once, twice = (sphere_series(0.5 * n + j, 0.25 * z2) for j in range(3))
        self.curved = once / (n * size) + length**2 * one * two * twice / (n * (n + 2.0))
        self.down_one, self.down_two = (-(length**2) / n * once * t for t in (one, two))
        self.slope_one, self.slope_two = -(q * first + p * second), -(q * second + p * first)
        self.bend = np.full_like(self.factor, -p)
        self.log = -0.5 * r * r * (q + p * sine)
        self.measure = -(8.0 / math.pi**2) / sine * part * (weight / r)
        self.steps, self.kept = 0, [len(r)]
        self.pending = np.zeros_like(self.factor)
        self.power = (np.ones_like(self.factor),) * 3

    def products(self) -> float:
        """E|x_1 x_2|."""
        k, m = self.steps, self.kept[-1]
        at = slice(m)
        bent = self.slope_one[at] * self.slope_two[at] + self.bend[at]
        now, before, earlier = self.power
        mixed = self.slope_one[at] * self.down_two[at] + self.slope_two[at] * self.down_one[at]
        mixed += self.length**2 * self.curved[at]
        total = now * bent
        if k:
            total += k * before * mixed
        if k > 1:
            total += k * (k - 1.0) * earlier * self.down_one[at] * self.down_two[at]
        return -float(np.vdot(self.measure[at] * np.exp(self.log[at]), total))

    def step(self, scale: float) -> None:
        """Add rho (v + r t 1), r = ``scale``."""
        reach = self.length * scale
        at = slice(self.kept[-1])
        st = student(reach * self.sum[at], self.dimensions)
        self.log[at] += st.log
        self.slope_one[at] -= reach * st.slope
        self.slope_two[at] -= reach * st.slope
        self.bend[at] -= reach * reach * (st.second + st.slope**2)
        self.steps += 1
        now, before, _ = self.power
        power = (now * self.factor[at], now, before)
        size = np.abs(power[min(self.steps, 2)]) * np.exp(self.log[at])
        alive = np.flatnonzero(size.max(axis=(1, 2)) > _NEGLIGIBLE)
        m = int(alive[-1]) + 1
        self.power = (power[0][:m], power[1][:m], power[2][:m])
        self.kept.append(m)

    def back(self, scale: float) -> tuple[float, float, float]:
        """Undo the last step, ``scale`` its r; what the weights that were added say of it.

        Returns
        -------
        tuple
            E[(1 + t^2) S], E[(t^2 + t^4) S] and E[(1 + t^2) v_1 v_2 S] with v and t of this step and S the
            sum of w_m sgn x_1 sgn x_2 at all m behind it (``weigh``).
        """
        self.kept.pop()
        self.steps -= 1
        at = slice(self.kept[-1])
        st = student(self.length * scale * self.sum[at], self.dimensions)
        weights = self.measure[at] * self.pending[at]
        once = weights * (1.0 + st.second)
        found = (
            float(np.vdot(once, self.factor[at])),
            float(np.vdot(weights * (st.second + st.fourth), self.factor[at])),
            -float(np.vdot(once, self.curved[at])),
        )
        self.log[at] -= st.log
        return found

    def weigh(self, weight: float) -> None:
        """Add w_m sgn x_1 sgn x_2 at the present m; of m = 0 nothing is asked."""
        at = slice(self.kept[-1])
        if not self.steps:
            return
        self.pending[at] += weight * self.factor[at] ** (self.steps - 1) * np.exp(self.log[at])


def _angles(gap: float, *, smooth: bool) -> tuple[FloatArray, FloatArray]:
    """Gauss-Legendre in u, finer towards pi/4, where s = t_1 + t_2 vanishes beside t_1 - t_2.

    Where n is even psi has a term s^n log s (``smooth`` False).
    """
    panels = max(1, math.ceil(-0.5 * math.log2(gap))) + (0 if smooth else 3)
    edges = 0.25 * math.pi * (1.0 - np.append(2.0 ** -np.arange(panels), 0.0))
    x, w = np.polynomial.legendre.leggauss(_ANGLES)
    half, middle = 0.5 * np.diff(edges)[:, None], 0.5 * (edges[1:] + edges[:-1])[:, None]
    return (middle + half * x).ravel(), (half * w).ravel()
