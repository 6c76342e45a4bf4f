"""Closed forms as SymPy expressions, derived from Gaussian integrals when they are asked for.

``similarity_map(batch_norm())`` returns an ``Expression``: it shows itself as LaTeX in a notebook,
``.steps`` and ``.derivation()`` say how SymPy got there, ``.lambdify()`` makes it a NumPy function,
``.value(B=16)`` a number.  No result is written down anywhere in this package: remove any line and a
derivation stops working, not a table.

A layer is a ``Layer``, a ``FeedForward``, or a ``Normalizer`` (then with relu and Gaussian weights);
activations are positively homogeneous (relu, leaky_relu, abs, identity) and eps = 0.  Symbols:
``theory.symbolic.symbols.MEANINGS``.
"""

from theory.symbolic import (
    batches,
    duals,
    expansions,
    groups,
    kernels,
    maps,
    residual,
    variance,
    walks,
)
from theory.symbolic.choose import (
    correlation_map,
    fixed_point,
    gradient_growth,
    near_one,
    residual_gradient,
    residual_variance,
    similarity_map,
    slope,
    variance_recursion,
)
from theory.symbolic.expression import Expression, Lemma, Step
from theory.symbolic.row import ClosedForm
from theory.symbolic.symbols import MEANINGS
from theory.symbolic.table import closed_forms, derivation

__all__ = [
    "MEANINGS",
    "ClosedForm",
    "Expression",
    "Lemma",
    "Step",
    "batches",
    "closed_forms",
    "correlation_map",
    "derivation",
    "duals",
    "expansions",
    "fixed_point",
    "gradient_growth",
    "groups",
    "kernels",
    "maps",
    "near_one",
    "residual",
    "residual_gradient",
    "residual_variance",
    "similarity_map",
    "slope",
    "variance",
    "variance_recursion",
    "walks",
]
