"""Pick the first route that does not refuse, and keep the refusals for the user."""

from __future__ import annotations

from functools import cache
from typing import Any

from theory.errors import HypothesisError
from theory.program import NormAct
from theory.routes.base import Route, Want, label
from theory.states.base import Block

__all__ = ["kink", "routes", "select"]


@cache
def routes() -> tuple[Route, ...]:
    """All routes, cheapest and most accurate first."""
    from theory.routes.centering import BatchLimit, CenteringQuadrature, CenteringRoute
    from theory.routes.gates import EvoNormB0Limit, EvoNormS0Limit
    from theory.routes.limit import ClosedLimit, QuadratureLimit
    from theory.routes.pools import (
        BatchClosed,
        BatchSpherical,
        GroupLaplace,
        GroupPearson,
        Laplace,
    )
    from theory.routes.sampled import SobolBatch, SobolGroup, SobolLayer

    return (
        ClosedLimit(),
        QuadratureLimit(),
        CenteringRoute(),
        CenteringQuadrature(),
        BatchLimit(),
        BatchClosed(),
        BatchSpherical(),
        GroupPearson(),
        GroupLaplace(),
        Laplace(),
        EvoNormS0Limit(),
        EvoNormB0Limit(),
        SobolBatch(),
        SobolGroup(),
        SobolLayer(),
    )


def kink(op: NormAct, route: Any) -> str | None:
    """Why this route does not take a kink away from 0, or None: rules are graded towards 0."""
    if op.activation.threshold == 0.0 or route.name == "RQMC":
        return None
    return f"{op.activation.name} starts at {op.activation.threshold:g}, not at 0"


def select(op: NormAct, block: Block, want: Want) -> Route:
    """The first route that applies.

    Raises
    ------
    HypothesisError
        No route applies; the message lists every refusal.
    """
    refusals = []
    for route in routes():
        reason = kink(op, route) or route.refusal(op, block, want)
        if reason is None:
            return route
        refusals.append(f"{type(route).__name__}: {reason}")
    raise HypothesisError(
        f"no route takes the {want} expectation of {label(op)} followed by {op.activation.name}: "
        + "; ".join(refusals)
        + "; change the normalizer, the activation or the inputs"
    )
