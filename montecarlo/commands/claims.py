"""``normcompass claims``: what ``verify`` checks of the paper, and of ours."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from montecarlo.commands.output import screen, write_json
from montecarlo.options import JSON

__all__ = ["claims"]


def claims(
    only: Annotated[
        str | None, typer.Option("--only", metavar="ID", help="Everything about one claim.")
    ] = None,
    as_json: JSON = False,
) -> None:
    """List every claim that verify checks: the paper's findings (i, ii, iii), and ours."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from montecarlo.cases import wrong_theories
    from montecarlo.claims import CLAIMS
    from montecarlo.margins import QUANTITIES
    from montecarlo.report_claims import value_text
    from theory.errors import out_of_domain

    chosen = [claim for claim in CLAIMS if only in (None, claim.id)]
    if not chosen:
        raise out_of_domain("only", only, "the id of a claim", "see `normcompass claims`")
    if as_json:
        documents = []
        for claim in chosen:
            number = None if claim.number is None else claim.number()
            deviation = claim.deviation and {
                name: getattr(claim.deviation, name) for name in ("paper", "why", "change")
            }
            fields = dataclasses.asdict(dataclasses.replace(claim, number=None, deviation=None))
            known = {
                "finding": claim.finding,
                "number": number,
                "deviation": deviation,
                "margins": {name: QUANTITIES[name].margin for name in claim.quantities},
                "controls": [
                    {"case": case, "control": control.name, "statement": control.statement}
                    for case, control in wrong_theories(claim)
                ],
            }
            documents.append({**fields, **known})
        write_json({"schema": 2, "kind": "claims", "claims": documents})
        return
    out = screen()
    if only is not None:
        (claim,) = chosen
        decisive = [QUANTITIES[name] for name in claim.quantities]
        # The same mistake in several cases is said once.
        wrong = dict.fromkeys(f"{c.name} ({c.statement})" for _, c in wrong_theories(claim))
        for label, text in (
            (claim.id, claim.statement),
            ("theory", value_text(claim)),
            ("source", claim.source),
            ("cases", "; ".join(claim.cases)),
            ("decided by", ", ".join(f"{q.label} to {q.show(q.margin)}" for q in decisive)),
            ("wrong theories", "; ".join(wrong)),
            ("again", f"normcompass verify --only {claim.id}"),
        ):
            out.print(Text(f"{label}: {text}"))
        if claim.deviation is not None:
            out.print(Text(f"the paper: {claim.deviation.paper}"))
            out.print(Text(f"departs from it: {claim.deviation.why}"))
            out.print(Text(f"intervention: {claim.deviation.change}"))
        return
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("claim", no_wrap=True)
    for name in ("statement", "theory says"):
        table.add_column(name)
    for claim in chosen:
        table.add_row(claim.id, Text(claim.statement), Text(value_text(claim)))
    out.print(table)
