"""Names in figures: any text that can be drawn, refused when it is given, not when the figure is saved."""

from __future__ import annotations

from theory.errors import out_of_domain
from theory.specs._check import instance, text

__all__ = ["drawable"]


def drawable(label: object) -> str:
    """Return ``label``, which Matplotlib can draw, formulas between dollar signs included.

    Raises
    ------
    SpecificationError
        No text, half of a surrogate pair, or a formula with a mistake.
    """
    instance("label", label, str, "a name", 'use "BN" or "GN(8)", say')
    assert isinstance(label, str)
    if label:
        text("label", label)
    from matplotlib.cbook import is_math_text
    from matplotlib.mathtext import MathTextParser

    if is_math_text(label):
        try:
            MathTextParser("path").parse(label)
        except ValueError as error:
            remedy = r"mend the formula, or write \$ for a dollar sign"
            domain = "text with correct formulas between dollar signs"
            raise out_of_domain("label", label, domain, remedy) from error
    return label
