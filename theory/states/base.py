"""The state protocol, and what passes between states and routes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from theory.routes.positions_spectrum import PositionSpectrum

FloatArray = NDArray[np.float64]


# ``make(Gradient, entries)``: a NamedTuple's own constructor takes twice the time, and deep networks
# spend theirs there.
make = tuple.__new__


class Block(NamedTuple):
    """Joint covariance of the pre-activations of one channel, as a route sees it.

    second_moment
        q: a float when samples are exchangeable, else shape (B,).
    gap
        1 - correlation: a float when samples are exchangeable, else shape (B, B).
    batch
        B, possibly ``math.inf`` when exchangeable.
    exchangeable
        Whether the two above are scalars.
    spectrum
        With positions that are alike, everything about them; ``gap`` is then that of two samples at
        one position.
    positions
        How many rows of the arrays are positions of one sample (``batch`` counts rows).
    torus
        Sides of the ring or torus whose shifts leave the arrays alone; None where they do not.
    """

    second_moment: Any
    gap: Any
    batch: float
    exchangeable: bool
    spectrum: PositionSpectrum | None = None
    positions: int = 1
    torus: tuple[int, ...] | None = None

    def pairs(self) -> tuple[Any, Any, Any]:
        """(q_a, q_b, gap_ab), broadcastable over all pairs."""
        q = self.second_moment
        if self.exchangeable:
            return q, q, self.gap
        return q[:, None], q[None, :], self.gap


class Moments(NamedTuple):
    """What a route returns: moments of the base post-activation, shaped as the block, and an error.

    ``error`` is relative: of the second moment and of the gap, as (float, float).
    """

    second_moment: Any
    gap: Any
    mean: Any
    error: tuple[float, float]


class Gradient(NamedTuple):
    """Covariance of the gradient over samples, per channel: Pi = value * 4**exponent.

    ``value`` is (same, pair) when samples are exchangeable, (same, other position, other sample, both
    other) with positions, else shape (B, B).  ``error`` is the accumulated relative error.
    ``absent``: the share of the trace that readings leave out, of rows that are there in some networks
    and not in others (see ``Grid.chance``).
    """

    value: Any
    exponent: int
    error: float
    absent: float = 0.0


class Observables(NamedTuple):
    """Numbers read off a sequence of states; logarithms because 2**depth must not overflow.

    ``similarity`` is the mean cosine over pairs and ``gap`` one minus it; the two errors are
    relative, of the second moment and of the gap.
    """

    log_second_moment: FloatArray
    log_variance: FloatArray
    similarity: FloatArray
    gap: FloatArray
    second_moment_error: FloatArray
    gap_error: FloatArray


class State(Protocol):
    """Covariance q * 4**exponent * (1 - gap) and mean m * 2**exponent of one channel over samples.

    ``second_moment_error`` and ``gap_error`` are accumulated relative errors.  Adding the relative
    error of each map is safe because correlation maps are convex with c = 1 fixed, so that
    d log gap' / d log gap <= 1.
    """

    @property
    def exponent(self) -> int: ...

    def block(self) -> Block:
        """The covariance as routes see it, in scaled units."""
        ...

    def linear(self, weight_variance: float, *, centered: bool) -> Self:
        """Pre-activations of a linear map: sigma_w^2 K, or sigma_w^2 (K - m m') with centered rows."""
        ...

    def rebuilt(self, moments: Moments, *, exponent: int, local_error: float) -> Self:
        """The state after a route's moments, in units of 4**exponent.

        ``local_error`` is what the route itself added; centering inflates it, but not the rest.
        """
        ...

    def unscaled(self) -> Self:
        """The same state with exponent 0; NumericalError if that overflows."""
        ...

    @staticmethod
    def observe(states: Sequence[Any]) -> Observables:
        """Read the observables of a sequence of such states."""
        ...

    @staticmethod
    def stable_rank(states: Sequence[Any]) -> FloatArray:
        """tr M / ||M||_2 of the cosine matrices M; apart, because a spectrum costs more than the rest."""
        ...

    @staticmethod
    def log_squared_norm(gradients: Sequence[Gradient]) -> FloatArray:
        """log of the gradient's mean square per sample and channel, tr Pi / B, for each gradient."""
        ...

    def cotangent(self) -> Gradient:
        """Independent standard Gaussian cotangents: Pi = I."""
        ...
