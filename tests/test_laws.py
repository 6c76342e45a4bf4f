"""The laws of theory and simulation, over all named specifications and over random ones.

Fast profile: ``pytest tests/test_laws.py``.  Thorough profile (30 minutes at most):
``pytest -m slow -s tests/test_laws.py``.  Both print effective examples and filter rates with -s.
Examples are random with a fixed seed.  Errors that are standard errors (RQMC) are taken eightfold:
Student's t with 15 degrees of freedom is beyond 8 once in a million.  Simulations are compared
sequentially: the false-alarm probability of a suite of 1,000 networks is 1e-3 (``test_agreement.py``).
"""

from __future__ import annotations

import pytest

import montecarlo.testing
from theory.testing import FAST, LAWS, THOROUGH, Law, Profile, run
from theory.testing.runner import LARGEST_FILTER_RATE

EVERY = {**LAWS, **montecarlo.testing.LAWS}


@pytest.mark.parametrize(
    "profile",
    [
        pytest.param(FAST, id="fast"),
        pytest.param(THOROUGH, id="thorough", marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
    ],
)
@pytest.mark.parametrize("law", EVERY.values(), ids=EVERY)
def test_law(law: Law, profile: Profile) -> None:
    tally = run(law, profile=profile)
    print(tally)
    assert tally.named > 0
    assert tally.effective >= (0.9 if profile is THOROUGH else 0.5) * profile.examples
    if profile is THOROUGH:
        assert tally.effective >= 200
        assert tally.filter_rate < LARGEST_FILTER_RATE
