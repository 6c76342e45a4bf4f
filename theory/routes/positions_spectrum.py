r"""Two samples over exchangeable positions, as eigenvalues that keep relative precision.

One channel over S positions of two samples has the covariances q (same sample and position), w (same
sample, other position), b (other sample, same position) and x (both other), with the eigenvalues

    lambda_p = q - w,   lambda_m = q + (S-1) w       same sample: position contrasts, position mean,
    mu_p = b - x,       mu_m = b + (S-1) x           across samples.

The primaries are lambda_k and the distances D_k = lambda_k - mu_k, the eigenvalues of E[(h-h')(h-h')']/2.
Gaps and whatever else is needed are sums of their positive multiples, so near-equal samples, near-equal
positions, or both, keep full relative precision; q - w - b + x would not.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from theory.errors import out_of_domain

__all__ = ["PositionSpectrum"]


class PositionSpectrum(NamedTuple):
    """Second moments of one channel over S exchangeable positions of two exchangeable samples.

    ``contrast`` q - w and ``mean`` q + (S-1) w are the same-sample eigenvalues, ``contrast_distance``
    q - w - b + x and ``mean_distance`` q - b + (S-1)(w - x) how much the cross-sample ones fall short
    of them; all in units of h^2.  With S = 1 the contrasts do not count.  Sums of independent fields and
    weights centered over channels act on each number linearly.
    """

    positions: int
    contrast: float
    mean: float
    contrast_distance: float
    mean_distance: float

    @classmethod
    def from_gaps(
        cls, q: float, gap_w: float, gap_b: float, gap_x: float, *, positions: int
    ) -> PositionSpectrum:
        """From q = E[h^2] and the gaps 1 - w/q, 1 - b/q, 1 - x/q.

        q - w - b + x = q (gap_w + gap_b - gap_x) is as exact as these numbers: build nearly equal
        samples from eigenvalues instead.

        Raises
        ------
        SpecificationError
            The four numbers are no covariance: an eigenvalue is negative beyond rounding.
        """
        s = positions
        if s == 1:
            gap_w = gap_x = 0.0
        contrast, mean = q * gap_w, q * (s - (s - 1) * gap_w)
        far = q * (gap_w + gap_b - gap_x) if s > 1 else 0.0
        mean_far = q * (gap_b + (s - 1) * (gap_x - gap_w))
        slack = 8.0 * float(np.finfo(np.float64).eps) * q * s
        cut = []
        for name, distance, size in (("b - x", far, contrast), ("b + (S-1) x", mean_far, mean)):
            if not (size >= -slack and -slack <= distance <= 2.0 * max(size, 0.0) + slack):
                raise out_of_domain(
                    "gaps",
                    (gap_w, gap_b, gap_x),
                    f"those of a covariance: |{name}| at most the same-sample eigenvalue",
                    "measure all of them from the same data",
                )
            cut.append(min(max(distance, 0.0), 2.0 * max(size, 0.0)))
        return cls(s, max(contrast, 0.0), max(mean, 0.0), *cut)

    @property
    def second_moment(self) -> float:
        """q = [(S-1) lambda_p + lambda_m]/S."""
        return ((self.positions - 1) * self.contrast + self.mean) / self.positions

    def gaps(self) -> tuple[float, float, float]:
        """(1 - w/q, 1 - b/q, 1 - x/q); S = 1: gap_w = 0 and gap_x = gap_b."""
        s, contrast, _, far, mean_far = self
        q = self.second_moment
        gap_b = ((s - 1) * far + mean_far) / (s * q)
        if s == 1:
            return 0.0, gap_b, gap_b
        # far <= 2 contrast and S >= 2: the difference loses nothing unless mu_p = -lambda_p.
        return contrast / q, gap_b, ((contrast - far / s) + mean_far / s) / q

    def over(self, positions: int) -> PositionSpectrum:
        """The same q, w, b and x over another number of positions."""
        s, contrast, mean, far, mean_far = self
        own, other = positions / s, (s - positions) / s
        level, level_far = own * mean + other * contrast, own * mean_far + other * far
        return PositionSpectrum(positions, contrast, level, far, level_far).tidied()

    def scaled(self, factor: float) -> PositionSpectrum:
        """The same for sqrt(factor) h."""
        return PositionSpectrum(self.positions, *(factor * value for value in self[1:]))

    def tidied(self) -> PositionSpectrum:
        """Without contrasts of a single position, and without rounding errors beyond |mu_k| <= lambda_k."""
        s, contrast, mean, far, mean_far = self
        contrast, mean = max(contrast, 0.0) if s > 1 else 0.0, max(mean, 0.0)
        far, mean_far = (
            min(max(distance, 0.0), 2.0 * size)
            for size, distance in ((contrast, far), (mean, mean_far))
        )
        return PositionSpectrum(s, contrast, mean, far, mean_far)
