"""Claims as data: every finding of the paper split into what can be checked, and ours beside it.

A claim names the cases of ``verify`` that bear on it and the quantities that decide it; prediction, margin
and width law are those of the cases (``cases``, ``margins``, ``verdicts``).  ``number`` is a
value of what theory says exactly, evaluated when asked.  Where theory departs from the paper, ``deviation``
says how, where a run measures the effect, and which intervention shows the cause.

The paper: Lubana, Tanaka & Dick 2021, arXiv 2106.05956.
"""

from __future__ import annotations

from montecarlo import claims_gradients, claims_ours, claims_similarity, claims_variance
from montecarlo.claim import Claim

__all__ = ["CLAIMS"]

CLAIMS: tuple[Claim, ...] = (
    *claims_variance.CLAIMS,
    *claims_similarity.CLAIMS,
    *claims_gradients.CLAIMS,
    *claims_ours.CLAIMS,
)
