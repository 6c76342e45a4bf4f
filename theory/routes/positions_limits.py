r"""LayerNorm and RMSNorm over exchangeable positions: G -> inf, R^2 = q + eps, arc-cosine maps pair by pair.

Over infinitely many channels the mean is 0 and R a number, so (theory notes, sections 3 and 4)

    K(1 - gap) = V(1) q (1 - gap + kappa lens(gap))/(q + eps)         for each of q, w, b, x,
    pi_b <- pi_b v'(c_b)/(q + eps),     pi_x <- pi_x v'(c_x)/(q + eps),

the limit of positions_pairs and positions_pull, in the same terms and without cancellation.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from theory.errors import HypothesisError, NumericalError
from theory.routes import arccosine
from theory.routes.base import ROUNDING
from theory.routes.positions_lens import AngleStep, half_angle, lens
from theory.routes.positions_pairs import PushedSpectrum
from theory.routes.positions_spectrum import PositionSpectrum
from theory.specs.normalizers import Normalizer

__all__ = ["position_limit_pull", "position_limit_pull_same", "position_limit_push"]

FloatArray = NDArray[np.float64]
Slopes = tuple[float, float]

_EPSILON = float(np.finfo(np.float64).eps)


class _Gaps(NamedTuple):
    """gap_b, gap_w, gap_x as arrays of one number, so that they keep relative precision."""

    same: FloatArray
    beside: FloatArray
    across: FloatArray

    @classmethod
    def of(cls, spectrum: PositionSpectrum) -> _Gaps:
        beside, same, across = (np.clip(np.array([gap]), 0.0, 2.0) for gap in spectrum.gaps())
        return cls(same, beside, across)


def position_limit_push(
    spectrum: PositionSpectrum, *, norm: Normalizer, slopes: Slopes
) -> PushedSpectrum:
    """Spectrum of phi(h/sqrt(q + eps)) and its mean; see the module docstring.

    Parameters
    ----------
    spectrum
        Of the pre-activations.
    norm
        ``"std"`` or ``"rms"`` over all channels of a sample, over positions or not.
    slopes
        (a, b) of phi(x) = a relu(x) + b relu(-x).

    Raises
    ------
    HypothesisError
        ``norm`` is of another kind.
    NumericalError
        The second moment is zero or not finite.
    """
    s, q = spectrum.positions, spectrum.second_moment
    inverse = _inverse_square(spectrum, norm)
    gaps, (a, b) = _Gaps.of(spectrum), slopes
    same, beside, across = (half_angle(gap) for gap in gaps)
    lens_b, lens_w = lens(gaps.same, same), lens(gaps.beside, beside)
    step = np.array([(spectrum.mean_distance - spectrum.contrast_distance) / (s * q)])
    side = np.array([(spectrum.contrast - spectrum.contrast_distance) / q])
    from_beside = AngleStep.between(beside, across, step).lens()
    # lens(g_b) - lens(g_x) + lens(g_w): from whichever two are close.
    taken = lens_w - AngleStep.between(same, across, side).lens()
    if gaps.same[0] < gaps.beside[0]:
        taken = lens_b - from_beside
    # Kappa V(1) and V(1): phi's parts that see the kink and that do not.
    bend, straight = 0.5 * (a + b) ** 2 * q, 0.5 * (a * a + b * b)
    parts = (
        (spectrum.contrast, -lens_w),
        (spectrum.mean, (s - 1) * lens_w),
        (spectrum.contrast_distance, -taken),
        (spectrum.mean_distance, -(lens_b + (s - 1) * from_beside)),
    )
    values, errors = [], []
    for number, (plain, curved) in enumerate(parts):
        first, second = straight * plain, bend * float(curved[0])
        if s == 1 and number in (0, 2):
            first = second = 0.0
        value = first + second
        values.append(inverse * value)
        # Rounding of what was added up.
        loss = (abs(first) + abs(second)) / abs(value) if value else 0.0
        errors.append(4.0 * _EPSILON * loss)
    mean = (a + b) * math.sqrt(q * inverse / (2.0 * math.pi))
    contrast_error, mean_error, far_error, mean_far_error = errors
    return PushedSpectrum(
        PositionSpectrum(s, *values),
        mean,
        (contrast_error, mean_error, far_error, mean_far_error, ROUNDING),
    )


def position_limit_pull(
    spectrum: PositionSpectrum, *, norm: Normalizer, slopes: Slopes
) -> tuple[FloatArray, float]:
    """T = diag(v'(c_b), v'(c_x))/(q + eps), the step (pi_b, pi_x) <- T (pi_b, pi_x), and its error.

    Source: theory notes, section 4, "Adjoint rule".  Parameters and errors as ``position_limit_push``;
    S = 1: T[1, 1] = 0.
    """
    gaps = _Gaps.of(spectrum)
    return _diagonal(spectrum, gaps.same, gaps.across, norm=norm, slopes=slopes)


def position_limit_pull_same(
    spectrum: PositionSpectrum, *, norm: Normalizer, slopes: Slopes
) -> tuple[FloatArray, float]:
    """T = diag(v'(1), v'(c_w))/(q + eps), the step (pi_q, pi_w) <- T (pi_q, pi_w), and its error."""
    gaps = _Gaps.of(spectrum)
    return _diagonal(spectrum, np.zeros(1), gaps.beside, norm=norm, slopes=slopes)


def _diagonal(
    spectrum: PositionSpectrum,
    same: FloatArray,
    other: FloatArray,
    *,
    norm: Normalizer,
    slopes: Slopes,
) -> tuple[FloatArray, float]:
    inverse = _inverse_square(spectrum, norm)
    own, beside = (float(arccosine.ray_slope(gap, slopes=slopes)[0]) for gap in (same, other))
    return inverse * np.diag([own, beside if spectrum.positions > 1 else 0.0]), 4.0 * ROUNDING


def _inverse_square(spectrum: PositionSpectrum, norm: Normalizer) -> float:
    """1/R^2 = 1/(q + eps)."""
    if (
        norm.couples_samples
        or norm.denominator not in ("std", "rms")
        or norm.gate is not None
        or norm.pool.channels != math.inf
    ):
        raise HypothesisError(
            f"{norm.name} does not divide each sample by a deviation over all channels; "
            "use another route"
        )
    q = spectrum.second_moment
    if not 0.0 < q < math.inf:
        raise NumericalError(f"second_moment = {q}; rescale the inputs")
    return 1.0 / (q + norm.eps)
