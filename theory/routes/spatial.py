"""Routes over exchangeable positions: each class joins one family of integrals to one protocol.

``push`` maps the spectrum of h to that of base(N(h)); ``pull`` maps Pi = (pi_q, pi_w, pi_b, pi_x), the
gradient's covariance at the same or another sample and position, backwards through J = d base(N(h))/dh.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from theory.errors import HypothesisError
from theory.program import NormAct
from theory.routes import positions_batch, positions_batch_backward
from theory.routes.base import ROUNDING, SamplewiseRoute, Want, label
from theory.routes.dispatch import kink
from theory.routes.limit import ClosedLimit, QuadratureLimit
from theory.routes.pools import GroupLaplace, GroupPearson
from theory.routes.positions_limits import (
    position_limit_pull,
    position_limit_pull_same,
    position_limit_push,
)
from theory.routes.positions_pairs import position_push
from theory.routes.positions_pull import position_pull, position_pull_same
from theory.routes.positions_spectrum import PositionSpectrum
from theory.routes.spatial_sampled import SpatialSobol
from theory.specs.activations import Activation
from theory.specs.normalizers import Normalizer, rms_norm
from theory.states.base import Block

__all__ = ["Entries", "Pushed", "SpatialRoute", "from_gaps", "select_spatial", "spatial_routes"]

Entries = tuple[float, float, float, float]

# K_w - K_x is an integral of the slope, by Gauss and Legendre, where (w - x)/(q - w) is this small:
# elsewhere the difference loses two digits at most.
_CLOSE = 0.1
_NODES, _SHARES = np.polynomial.legendre.leggauss(6)
_PLACES, _WEIGHTS = 0.5 + 0.5 * _NODES, 0.5 * _SHARES


class Pushed(NamedTuple):
    """Spectrum and mean of base(N(h)); relative errors of q and of the gaps."""

    spectrum: PositionSpectrum
    mean: float
    second_moment_error: float
    gap_error: float


class SpatialRoute(Protocol):
    """One way to take the expectations of a layer over samples and positions."""

    name: str

    def refusal(self, op: NormAct, block: Block, want: Want) -> str | None:
        """None if this route applies, else the reason why not, as a sentence without a full stop."""
        ...

    def push(self, op: NormAct, spectrum: PositionSpectrum, batch: float) -> Pushed:
        """Moments of the *base* activation after the normalizer."""
        ...

    def pull(
        self, op: NormAct, spectrum: PositionSpectrum, batch: float, value: Entries
    ) -> tuple[Entries, float]:
        """E[J' Pi J], and its error relative to the largest entry."""
        ...


class _Samplewise:
    """Pools within a sample: Pi changes block by block, (pi_q, pi_w) and (pi_b, pi_x)."""

    def pull(
        self, op: NormAct, spectrum: PositionSpectrum, batch: float, value: Entries
    ) -> tuple[Entries, float]:
        own, error = self._same(op, spectrum)
        q, w, b, x = value
        across = (0.0, 0.0)
        if b or x:
            matrix, more = self._cross(op, spectrum)
            error = max(error, more)
            across = _times(matrix, b, x)
        return (*_times(own, q, w), *across), error

    def _same(self, op: NormAct, spectrum: PositionSpectrum) -> tuple[_Matrix, float]:
        raise NotImplementedError

    def _cross(self, op: NormAct, spectrum: PositionSpectrum) -> tuple[_Matrix, float]:
        raise NotImplementedError


_Matrix = tuple[tuple[float, float], tuple[float, float]]


class SpatialClosed(_Samplewise):
    """No pool, or one over all channels: R is a number, arc-cosine maps for every pair."""

    name = "closed form"

    def refusal(self, op: NormAct, block: Block, want: Want) -> str | None:
        norm = op.norm
        if op.activation.ray_slopes is None:
            return f"{op.activation.name} is not positively homogeneous"
        if norm is not None and (norm.couples_samples or norm.gate is not None):
            return f"{norm.name} pools samples or has a gate"
        if norm is not None and (norm.denominator == "none" or norm.pool.channels != math.inf):
            return f"{norm.name} does not divide by a deviation over all channels"
        return None

    def push(self, op: NormAct, spectrum: PositionSpectrum, batch: float) -> Pushed:
        norm, scale = _divided(op, spectrum)
        pushed = position_limit_push(spectrum, norm=norm, slopes=_slopes(op.activation))
        q_error, *gap_errors = pushed.gap_errors()
        return Pushed(
            pushed.spectrum.scaled(scale),
            math.sqrt(scale) * pushed.activation_mean,
            q_error,
            max(gap_errors),
        )

    def _same(self, op: NormAct, spectrum: PositionSpectrum) -> tuple[_Matrix, float]:
        norm, scale = _divided(op, spectrum)
        matrix, error = position_limit_pull_same(spectrum, norm=norm, slopes=_slopes(op.activation))
        return _scaled(matrix, scale), error

    def _cross(self, op: NormAct, spectrum: PositionSpectrum) -> tuple[_Matrix, float]:
        norm, scale = _divided(op, spectrum)
        matrix, error = position_limit_pull(spectrum, norm=norm, slopes=_slopes(op.activation))
        return _scaled(matrix, scale), error


class SpatialPairwise(_Samplewise):
    """Pools without positions, or over all channels: a map of each pair's gap, whatever the pair."""

    def __init__(self, pairs: SamplewiseRoute) -> None:
        self.pairs = pairs
        self.name = pairs.name

    def refusal(self, op: NormAct, block: Block, want: Want) -> str | None:
        norm = op.norm
        finite = norm is not None and norm.denominator != "none" and norm.pool.channels != math.inf
        if norm is not None and norm.pool.positions and (finite or norm.denominator == "none"):
            return f"{norm.name} pools positions"
        return self.pairs.refusal(op, block._replace(spectrum=None), want)

    def push(self, op: NormAct, spectrum: PositionSpectrum, batch: float) -> Pushed:
        q, (gap_w, gap_b, gap_x) = spectrum.second_moment, spectrum.gaps()
        second_moment, mean, q_error = self.pairs.single(op, q)
        found = [self.pairs.pair_gap(op, q, q, gap) for gap in (gap_w, gap_b, gap_x)]
        (beside, _), (same, _), (cross, _) = found
        gap_error = max(error for _, error in found)
        entries = (float(second_moment), float(beside), float(same), float(cross))
        apart = float(cross - beside)
        drop = (spectrum.mean_distance - spectrum.contrast_distance) / spectrum.positions
        close = abs(drop) < _CLOSE * q * gap_w
        if close:
            # Nearly equal samples: w and x differ by little, and K_w - K_x by the slope between.
            places = gap_w + (drop / q) * _PLACES
            values, errors = zip(*(self.pairs.slope(op, q, q, gap) for gap in places), strict=True)
            apart = drop * float(_WEIGHTS @ np.array(values)) / entries[0]
            gap_error = max(gap_error, *errors)
        return from_gaps(
            entries, float(mean), spectrum.positions, q_error, gap_error, apart, exact=close
        )

    def _same(self, op: NormAct, spectrum: PositionSpectrum) -> tuple[_Matrix, float]:
        return self._diagonal(op, spectrum.second_moment, 0.0, spectrum.gaps()[0])

    def _cross(self, op: NormAct, spectrum: PositionSpectrum) -> tuple[_Matrix, float]:
        _, gap_b, gap_x = spectrum.gaps()
        return self._diagonal(op, spectrum.second_moment, gap_b, gap_x)

    def _diagonal(
        self, op: NormAct, q: float, first: float, second: float
    ) -> tuple[_Matrix, float]:
        (a, error), (b, more) = (self.pairs.slope(op, q, q, gap) for gap in (first, second))
        return ((float(a), 0.0), (0.0, float(b))), max(error, more)


class SpatialGroups(_Samplewise):
    """Pools over the positions of G channels of one sample: GN, IN, FRN."""

    name = "quadrature"

    def refusal(self, op: NormAct, block: Block, want: Want) -> str | None:
        norm = op.norm
        if op.activation.ray_slopes is None:
            return f"{op.activation.name} is not positively homogeneous"
        if norm is None or norm.couples_samples or not norm.pool.positions:
            return "it does not pool the positions of one sample"
        if norm.gate is not None or norm.denominator == "none" or norm.pool.channels == math.inf:
            return f"{norm.name} has a gate, no denominator or infinitely many channels"
        return None

    def push(self, op: NormAct, spectrum: PositionSpectrum, batch: float) -> Pushed:
        pushed = position_push(spectrum, norm=_norm(op), slopes=_slopes(op.activation))
        q_error, *gap_errors = pushed.gap_errors()
        return Pushed(pushed.spectrum, pushed.activation_mean, q_error, max(gap_errors))

    def _same(self, op: NormAct, spectrum: PositionSpectrum) -> tuple[_Matrix, float]:
        matrix, error = position_pull_same(spectrum, norm=_norm(op), slopes=_slopes(op.activation))
        return _scaled(matrix, 1.0), error

    def _cross(self, op: NormAct, spectrum: PositionSpectrum) -> tuple[_Matrix, float]:
        matrix, error = position_pull(spectrum, norm=_norm(op), slopes=_slopes(op.activation))
        return _scaled(matrix, 1.0), error


class SpatialBatch:
    """Pools over samples and positions of one channel: BN, VN, uncentered rms, mean centering."""

    name = "quadrature"

    def refusal(self, op: NormAct, block: Block, want: Want) -> str | None:
        norm = op.norm
        if op.activation.ray_slopes is None:
            return f"{op.activation.name} is not positively homogeneous"
        if norm is None or not norm.couples_samples or norm.pool.channels != 1:
            return "it does not pool the samples of one channel"
        if not norm.pool.positions:
            return f"{norm.name} treats positions apart"
        if norm.gate is not None:
            return f"{norm.name} has a gate"
        return None

    def push(self, op: NormAct, spectrum: PositionSpectrum, batch: float) -> Pushed:
        q, gaps = spectrum.second_moment, spectrum.gaps()
        second_moment, gap_w, gap_b, gap_x, mean, error = positions_batch.forward(
            q,
            *gaps,
            batch=batch,
            positions=spectrum.positions,
            norm=_norm(op),
            slopes=_slopes(op.activation),
        )
        entries = (second_moment, gap_w, gap_b, gap_x)
        return from_gaps(entries, mean, spectrum.positions, error, error, gap_x - gap_w)

    def pull(
        self, op: NormAct, spectrum: PositionSpectrum, batch: float, value: Entries
    ) -> tuple[Entries, float]:
        found, error = positions_batch_backward.pullback(
            spectrum.second_moment,
            *spectrum.gaps(),
            value,
            batch=batch,
            positions=spectrum.positions,
            norm=_norm(op),
            slopes=_slopes(op.activation),
        )
        return found, error


@cache
def spatial_routes() -> tuple[SpatialRoute, ...]:
    """All routes over positions, cheapest and most accurate first."""
    return (
        SpatialClosed(),
        SpatialPairwise(ClosedLimit()),
        SpatialPairwise(QuadratureLimit()),
        SpatialPairwise(GroupPearson()),
        SpatialPairwise(GroupLaplace()),
        SpatialGroups(),
        SpatialBatch(),
        SpatialSobol(),
    )


def select_spatial(op: NormAct, block: Block, want: Want) -> SpatialRoute:
    """The first route that applies.

    Raises
    ------
    HypothesisError
        No route applies; the message lists every refusal.
    """
    refusals: dict[str, None] = {}
    for route in spatial_routes():
        reason = kink(op, route) or route.refusal(op, block, want)
        if reason is None:
            return route
        refusals[reason] = None
    raise HypothesisError(
        f"no route over positions takes the {want} expectation of {label(op)} followed by "
        f"{op.activation.name}: {'; '.join(refusals)}; change the normalizer, the activation or the "
        "inputs"
    )


def _divided(op: NormAct, spectrum: PositionSpectrum) -> tuple[Normalizer, float]:
    """A normalizer that divides by sqrt(q + eps), and q to undo it where nothing divides."""
    if op.norm is not None:
        return op.norm, 1.0
    return rms_norm(), spectrum.second_moment


def from_gaps(
    entries: Entries,
    mean: float,
    positions: int,
    q_error: float,
    gap_error: float,
    apart: float,
    *,
    exact: bool = False,
) -> Pushed:
    """Eigenvalues from q, gaps and ``apart`` = gap_x - gap_w.

    Unless ``apart`` is known better than the gaps (``exact``), the distances lose what the gaps cannot
    resolve, as stated.
    """
    q, gap_w, gap_b, gap_x = entries
    s = positions
    far, mean_far = q * (gap_b - apart), q * (gap_b + (s - 1) * apart)
    spectrum = PositionSpectrum(s, q * gap_w, q * (s - (s - 1) * gap_w), far, mean_far).tidied()
    if not exact and gap_b > 0.0:
        smallest = min(gap for gap in (gap_w, gap_b, gap_x) if gap > 0.0)
        gap_error += ROUNDING * (gap_w + gap_b + gap_x) / smallest
    return Pushed(spectrum, mean, q_error, gap_error)


def _times(matrix: _Matrix, first: float, second: float) -> tuple[float, float]:
    (a, b), (c, d) = matrix
    # 0 * inf is 0 here: a gradient that is not there has no infinite moment.
    return (
        (a * first if first else 0.0) + (b * second if second else 0.0),
        (c * first if first else 0.0) + (d * second if second else 0.0),
    )


def _scaled(matrix: NDArray[np.float64], factor: float) -> _Matrix:
    (a, b), (c, d) = (factor * matrix).tolist()
    return (a, b), (c, d)


def _slopes(activation: Activation) -> tuple[float, float]:
    slopes = activation.ray_slopes
    assert slopes is not None
    return slopes


def _norm(op: NormAct) -> Normalizer:
    assert op.norm is not None
    return op.norm
