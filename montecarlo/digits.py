"""A real batch: scikit-learn's handwritten digits, scaled to a mean second moment of 1."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from theory.errors import SpecificationError, out_of_domain
from theory.specs._check import integer

__all__ = ["digits"]


def digits(*, batch: int = 16) -> NDArray[np.float64]:
    """X / sqrt(mean X^2): the first ``batch`` images, shape (batch, 64), as scikit-learn orders them.

    One common factor leaves every angle as it is.  No two of the images are equal, and up to 63 of
    them are linearly independent, so that BatchNorm's pool has full rank.

    Raises
    ------
    SpecificationError
        scikit-learn is not installed, or ``batch`` is not within its 1797 images.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise SpecificationError(
            "inputs = 'digits' needs scikit-learn, which is not installed: it must be importable; "
            "run `pip install normcompass[data]`, or use --inputs synthetic."
        ) from None
    images = np.asarray(load_digits().data, dtype=np.float64)
    batch = integer("batch", batch, low=1, remedy="count the images, 16 say")
    if batch > len(images):
        raise out_of_domain("batch", batch, f"at most {len(images)}", "take fewer images")
    chosen = images[:batch]
    return chosen / np.sqrt(np.mean(chosen**2))
