"""Mutants have names of their own, and reasons for survivors name mutants that exist."""

from __future__ import annotations

import json
from collections import Counter

from tests.mutation.__main__ import HERE, every_mutant
from tests.mutation.formulas import FORMULAS
from tests.mutation.operators import mutants

PRODUCT = "def f(b):\n    return b * b + b\n"


def test_mutants_that_read_the_same_are_numbered() -> None:
    found = [m for m in mutants("m.py", PRODUCT) if (m.before, m.after) == ("b", "b - 1")]
    assert [m.occurrence for m in found] == [1, 2, 3]
    assert len({m.source for m in found}) == len({m.key for m in found}) == 3


def test_every_reason_is_about_one_mutant() -> None:
    keys = Counter(mutant.key for mutant in every_mutant(list(FORMULAS)))
    assert max(keys.values()) == 1
    reasons = json.loads((HERE / "survivors.json").read_text(encoding="utf-8"))
    assert not reasons.keys() - keys.keys()
    assert all(
        r["verdict"] in ("equivalent", "error bound") and r["reason"] for r in reasons.values()
    )
