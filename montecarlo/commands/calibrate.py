"""``normcompass calibrate``: the error rates of ``verify``, measured."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from montecarlo.commands.output import screen
from montecarlo.options import QUIET, SEED, WORKERS
from theory.errors import StoreError
from theory.specs._check import integer

if TYPE_CHECKING:
    from rich.console import Console

    from montecarlo.calibration import Power, Rate, Synthetic
    from montecarlo.calibration_networks import RealRuns

__all__ = ["calibrate"]


def calibrate(
    runs: Annotated[
        int, typer.Option("--runs", metavar="N", help="Synthetic runs of each kind.")
    ] = 20_000,
    real: Annotated[
        int, typer.Option("--real", metavar="N", help="Real runs on small networks; 0 for none.")
    ] = 200,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder of the figures.")
    ] = Path("normcompass-calibration"),
    seed: SEED = 0,
    workers: WORKERS = None,
    quiet: QUIET = False,
) -> None:
    """Measure how often verify errs: false alarms, and what it detects.

    Synthetic networks with the spread and skewness of real ones, whose limit is known, and real networks
    at the layer that samples the limit exactly. Figures p_values.png and power.png, and
    calibration.json, go to the folder.

    Exit status: 0 all rates are consistent with nominal; 1 one is not; 2 bad usage.
    """
    from montecarlo import calibration_figures as figures
    from montecarlo import verify
    from montecarlo.budgets import BUDGETS, DEFAULT
    from montecarlo.calibration import power_curve, synthetic_runs
    from montecarlo.calibration_networks import real_runs, scenario_of
    from montecarlo.cases import cases
    from montecarlo.execution import worker_count
    from montecarlo.margins import ALPHA
    from montecarlo.report import require_folder
    from montecarlo.report_files import finite

    runs = integer("runs", runs, low=100, remedy="take 20000")
    real = integer("real", real, low=0, remedy="take 200")
    seed = integer("seed", seed, low=0, remedy="pass an integer")
    require_folder(out)
    cores = worker_count(workers)
    tables, notes = screen(), screen_of_notes(quiet)
    levels = {
        name: ALPHA / sum(len(p.tests) for case in cases("all") for p in case.parts(budget))
        for name, budget in BUDGETS.items()
    }
    started = time.perf_counter()
    notes.print("Simulating real networks for spread and skewness ...")
    (regular,) = verify.select("synthetic", only=["BN"])
    (heavy,) = verify.select("synthetic", only=["GN(4)"])
    ordinary = {
        name: scenario_of(regular, budget, seed=seed, workers=cores)
        for name, budget in BUDGETS.items()
    }
    tailed = scenario_of(heavy, DEFAULT, seed=seed, workers=cores)
    notes.print("Drawing synthetic runs ...")
    scenarios = (
        (ordinary["default"]._replace(name="24 networks", networks=24, margin=None), 6),
        # Where the pilot does not suffice, so that there is a second stage.
        (ordinary["quick"]._replace(name="two stages"), 6),
        (tailed._replace(name="heavy tail, GN(4)"), 1),
    )
    drawing = time.perf_counter()
    synthetic = [
        synthetic_runs(scenario, runs=runs, tests=tests, level=levels["quick"], seed=seed)
        for scenario, tests in scenarios
    ]
    drawn = time.perf_counter() - drawing
    power = {
        name: power_curve(scenario, level=levels[name], seed=seed)
        for name, scenario in ordinary.items()
    }
    found: RealRuns | None = None
    if real:
        notes.print(f"Running verify {real} times on small networks ...")
        found = real_runs(runs=real, seed=seed, workers=cores)
    _print_synthetic(tables, synthetic, seconds=drawn)
    if found is not None:
        _print_real(tables, found)
    layers = {name: BUDGETS[name].wide.depth - 1 for name in power}
    _print_power(tables, power, layers, levels)
    per_layer = {name: 1.0 / count for name, count in layers.items()}
    document = _document(synthetic, found, power, layers, runs=runs, seed=seed)
    try:
        out.mkdir(parents=True, exist_ok=True)
        exact = None if found is None else found.p_exact
        (out / "p_values.png").write_bytes(figures.p_value_figure(synthetic, exact))
        (out / "power.png").write_bytes(figures.power_figure(power, per_layer))
        text = json.dumps(finite(document), indent=1, allow_nan=False) + "\n"
        (out / "calibration.json").write_text(text, encoding="utf-8")
    except OSError as error:
        raise StoreError(
            f"out = {str(out)!r} cannot be written ({error.strerror}); choose another folder with "
            "--out."
        ) from error
    consistent = all(result.consistent for result in synthetic)
    consistent = consistent and (found is None or found.consistent)
    judged = "consistent with nominal" if consistent else "NOT consistent with nominal"
    tables.print(
        f"All rates are {judged}  ({time.perf_counter() - started:.0f} s)", highlight=False
    )
    tables.print(f"Figures: {out / 'p_values.png'}, {out / 'power.png'}", highlight=False)
    raise typer.Exit(0 if consistent else 1)


def screen_of_notes(quiet: bool) -> Console:
    """Standard error, or nothing."""
    from rich.console import Console

    return Console(stderr=True, quiet=quiet, highlight=False)


def _print_synthetic(tables: Console, results: list[Synthetic], *, seconds: float) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    runs = len(results[0].p)
    table = Table(
        title=f"{runs} synthetic runs of each kind, all predictions exact ({seconds:.0f} s); "
        "false alarms with 95 % binomial intervals",
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    names = ("networks of each width", "of", "alpha", "expected", "found", "measured", "interval")
    for name in names:
        table.add_column(name, justify="left" if name in names[:2] else "right", no_wrap=True)
    for result in results:
        low, high = result.networks.min(), result.networks.max()
        used = f"{low:.0f}" if low == high else f"{low:.0f} to {high:.0f}"
        count = result.p.shape[1]
        table.add_section()
        table.add_row(f"{result.scenario.name}: {used}", f"uniform? KS p = {result.uniformity:.2g}")
        for what, rates in (
            ("single tests", result.per_test),
            (f"runs of {count} (Holm)", result.per_run),
        ):
            for rate in rates:
                table.add_row("", what, *_cells(rate))
    tables.print(table)


def _cells(rate: Rate) -> tuple[str, ...]:
    low, high = rate.interval
    return (
        f"{rate.nominal:g}",
        f"{rate.expected * rate.trials:.1f}",
        str(rate.count),
        f"{rate.count / rate.trials:.5f}",
        f"{low:.5f} to {high:.5f}",
    )


def _print_real(tables: Console, found: RealRuns) -> None:
    from montecarlo.calibration import rate_of

    tables.print(
        f"Real runs at alpha = {found.alarms.nominal:g}: runs with a false alarm after Holm, over "
        f"{found.p.shape[1]} tests that depend on each other, so at most {found.alarms.nominal:g}",
        highlight=False,
    )
    for name, alarms in (("with bounds, as verify", found.alarms), ("without", found.alarms_exact)):
        low, high = alarms.interval
        tables.print(
            f"  {name}: {alarms.count} of {alarms.trials}, rate {alarms.count / alarms.trials:.3f}, "
            f"95 % interval {low:.3f} to {high:.3f}",
            highlight=False,
        )
    for name, p in (("with bounds, as verify", found.p), ("without bounds", found.p_exact)):
        rate = rate_of(p.ravel(), 0.05)
        tables.print(
            f"  single tests {name}: {rate.count} of {rate.trials} at 0.05, rate "
            f"{rate.count / rate.trials:.4f}",
            highlight=False,
        )


def _print_power(
    tables: Console, found: dict[str, Power], layers: dict[str, int], levels: dict[str, float]
) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from montecarlo.calibration import binomial_interval

    table = Table(
        title="Error of the gradient's factor per layer (BN) found with 95 % power",
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    for name in ("budget", "level", "networks", "formula", "simulated", "power at the formula's"):
        table.add_column(name, justify="left" if name == "budget" else "right", no_wrap=True)
    for name, power in found.items():
        low, high = binomial_interval(power.at_formula, power.runs)
        table.add_row(
            name,
            f"{levels[name]:.2g}",
            f"{power.networks:.0f}",
            f"{100 * power.formula / layers[name]:.3f} %",
            f"{100 * power.simulated / layers[name]:.3f} %",
            f"{100 * power.at_formula / power.runs:.1f} % ({100 * low:.1f} to {100 * high:.1f})",
        )
    tables.print(table)


def _document(
    synthetic: list[Synthetic],
    found: RealRuns | None,
    power: dict[str, Power],
    layers: dict[str, int],
    *,
    runs: int,
    seed: int,
) -> dict[str, Any]:
    """Everything printed, as JSON values."""
    return {
        "schema": 1,
        "kind": "calibration",
        "runs": runs,
        "seed": seed,
        "synthetic": [
            {
                "scenario": result.scenario._asdict(),
                "uniformity": result.uniformity,
                "single_tests": [_rate(rate) for rate in result.per_test],
                "runs": [_rate(rate) for rate in result.per_run],
                "consistent": result.consistent,
            }
            for result in synthetic
        ],
        "real": None
        if found is None
        else {"with_bounds": _rate(found.alarms), "without": _rate(found.alarms_exact)},
        "power": [
            {
                "budget": name,
                "level": result.level,
                "layers": layers[name],
                "formula": result.formula,
                "simulated": result.simulated,
                "runs": result.runs,
                "detected_at_formula": result.at_formula,
                "errors": result.errors.tolist(),
                "detected": result.found.tolist(),
            }
            for name, result in power.items()
        ],
    }


def _rate(rate: Rate) -> dict[str, Any]:
    return {
        "nominal": rate.nominal,
        "expected": rate.expected,
        "count": rate.count,
        "trials": rate.trials,
        "interval": list(rate.interval),
    }
