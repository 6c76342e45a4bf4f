"""Property-based testing of specifications: strategies that draw them, laws that all of them obey.

``strategies`` is a vocabulary for Hypothesis, ``laws`` what theory promises of every network, and
``check_normalizer`` runs the laws on one normalizer; the command is ``pytest --normcompass my_module:norm``.
Hypothesis is imported here and nowhere else: ``pip install 'normcompass[test]'``.
"""

from __future__ import annotations

try:
    import hypothesis as _hypothesis  # noqa: F401
except ImportError as _missing:
    raise ImportError(
        "theory.testing needs Hypothesis, which normcompass installs only on request: "
        "pip install 'normcompass[test]' (or pip install hypothesis)"
    ) from _missing

from theory.testing.cases import Case, cases, inputs_for, predictable_layers
from theory.testing.laws import LAWS
from theory.testing.runner import (
    FAST,
    THOROUGH,
    Law,
    NotApplicable,
    Profile,
    Tally,
    check_normalizer,
    run,
    run_on,
)
from theory.testing.strategies import (
    activations,
    batches,
    covariances,
    extreme_inputs,
    extreme_networks,
    layers,
    nearly_equal,
    networks,
    normalizers,
    over_positions,
    ratios,
    residual_networks,
    seeds,
    weights,
    widths,
)

__all__ = [
    "FAST",
    "LAWS",
    "THOROUGH",
    "Case",
    "Law",
    "NotApplicable",
    "Profile",
    "Tally",
    "activations",
    "batches",
    "cases",
    "check_normalizer",
    "covariances",
    "extreme_inputs",
    "extreme_networks",
    "inputs_for",
    "layers",
    "nearly_equal",
    "networks",
    "normalizers",
    "over_positions",
    "predictable_layers",
    "ratios",
    "residual_networks",
    "run",
    "run_on",
    "seeds",
    "weights",
    "widths",
]
