"""Error classes of both packages: every message names the argument, its value, the domain and a remedy."""

from __future__ import annotations

__all__ = [
    "HypothesisError",
    "NormcompassError",
    "NumericalError",
    "RegimeWarning",
    "SpecificationError",
    "StoreError",
    "brief",
]


class NormcompassError(Exception):
    """Base class of every error that this toolkit raises on purpose."""


class SpecificationError(NormcompassError, ValueError):
    """A specification makes no sense: wrong value, wrong shape, or parts that do not fit together."""


class HypothesisError(NormcompassError):
    """A formula's hypothesis is violated (zero pool variance at eps = 0, say) and no other route applies."""


class NumericalError(NormcompassError, ArithmeticError):
    """A computation could not reach an answer: overflow, no convergence."""


class StoreError(NormcompassError):
    """A file cannot be read as what it should be: damaged, foreign, or from another schema version."""


class RegimeWarning(UserWarning):
    """The answer is right but its regime deserves a thought: heavy tails, depth comparable to width."""


def brief(error: BaseException) -> str:
    """What ``error`` says, on one line of at most 200 characters: libraries quote whole damaged files."""
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else text[:197] + "..."


def out_of_domain(argument: str, value: object, domain: str, remedy: str) -> SpecificationError:
    """Build the SpecificationError sentence that every constructor uses.

    Parameters
    ----------
    argument, domain, remedy
        Name of the argument, the values it may take, and what the user can do.
    value
        What was given; shortened in the message when its ``repr`` is long.
    """
    try:
        shown = " ".join(repr(value).split())
    except ValueError:  # an integer of more digits than Python prints
        shown = f"<{type(value).__name__}>"
    if len(shown) > 80:
        shown = shown[:77] + "..."
    return SpecificationError(f"{argument} = {shown} is not valid: it must be {domain}; {remedy}.")
