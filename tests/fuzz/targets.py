"""What is called: every public function, class and method, each with arguments that are valid.

``enumerate_targets`` finds the names by introspection; one without valid arguments here is an error
that names it, so that nothing new goes untried.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import montecarlo as mc
import theory as th
import theory.symbolic as symbolic
import theory.testing as testing
from montecarlo.experiment import Experiment

__all__ = ["EXEMPT", "Target", "enumerate_targets"]

Arguments = Callable[[Path], Mapping[str, Any]]


@dataclass(frozen=True)
class Target:
    """A public name, how to call it with keywords, and valid arguments (in a folder of files)."""

    name: str
    call: Callable[..., Any]
    arguments: Arguments
    weight: float = 1.0
    seconds: int = 20
    """Processor time in which a call has to be done."""


NET = th.FeedForward(th.Layer(norm=th.group_norm(4)), depth=2)
BATCH = th.exchangeable(batch=3, correlation=0.3)
RESIDUAL = th.Residual(th.Layer(norm=th.layer_norm()), depth=3)
ROW = np.array([[1.0, 2.0, 3.0], [2.0, -1.0, 0.5]])
IMAGES = np.arange(24.0).reshape(2, 1, 3, 4)
POOL = th.Pool(samples=True, positions=False, channels=2)
QUICK = testing.Profile("fuzz", examples=1, per_name=1, seconds=0.05)
EXPERIMENT = Experiment(
    network=NET, inputs=BATCH, width=8, seed=1, dtype="float64", method="direct"
)
LIMITS = {"memory_limit": 2**30, "workers": 1}

PREDICTION = cache(lambda: th.predict(NET, BATCH))
SIMULATION = cache(lambda: mc.simulate(NET, BATCH, width=8, replicates=3, **LIMITS))
GRID = cache(
    lambda: mc.simulate_many({"GN": NET}, BATCH, widths=[8, 16, 32], replicates=3, **LIMITS)
)
PORTRAIT = cache(lambda: th.phase_portrait(NET, [0.5, 2.0], [0.0, 0.5]))
MAP = cache(lambda: th.correlation_map(NET, [0.0, 0.5]))
FRONTIER = cache(lambda: th.frontier(group_sizes=(4, 5)))
FORMULA = cache(lambda: symbolic.similarity_map(th.Layer()))
CLOSED = cache(lambda: symbolic.closed_forms()[0])
LEMMA = cache(lambda: symbolic.Lemma(name="a", statement="1 = 1", source="", sides=lambda: (1, 1)))
LAW = testing.LAWS["specs_survive_json"]


@cache
def fitted() -> Any:
    return mc.extrapolate(list(GRID().values()), observable="similarity", layer=1)


def with_store(name: str) -> Callable[..., Any]:
    """A method of a store, which is opened and closed around the call."""

    def call(store: Any, **arguments: Any) -> Any:
        with mc.Store(store) as opened:
            for role in ("experiment", "run"):
                if role in arguments and arguments[role] is None:
                    # A new store has no run: then one that it does not hold.
                    arguments[role] = (opened.runs() or [EXPERIMENT])[0]
            return getattr(opened, name)(**arguments)

    return call


def _estimate(samples: Any) -> Any:
    """Of samples with NaN the estimate is NaN, by its documentation: nothing to judge."""
    found = mc.Estimate.of(samples)
    return None if np.isnan(samples).any() else found


def _opened_and_closed(path: Any) -> None:
    store = mc.Store(path)
    store.close()
    store.close()


def method(owner: Callable[[], Any], name: str) -> Callable[..., Any]:
    """A method of an object that is made once."""
    return lambda **arguments: getattr(owner(), name)(**arguments)


def plain(**arguments: Any) -> Arguments:
    """Arguments without files."""
    return lambda _: arguments


def _simulated(**more: Any) -> Arguments:
    base = {
        "network": NET,
        "inputs": BATCH,
        "width": 8,
        "replicates": 2,
        "seed": 0,
        "dtype": "float64",
    }
    base |= {"method": "auto", "backward": True, "progress": False, **LIMITS}
    return lambda folder: base | {k: v(folder) if callable(v) else v for k, v in more.items()}


VALID: dict[str, Arguments] = {
    "theory.Activation": plain(name="relu", negative_slope=None, scale=1.0, shift=0.0, threshold=0.0),
    "theory.AveragePool": plain(size=2),
    "theory.CovarianceInputs": plain(covariance=np.eye(2), feature_mean=0.0, shape=(1,)),
    "theory.DataInputs": plain(features=ROW),
    "theory.ExchangeableInputs": plain(batch=3, gap=0.5, second_moment=1.0, feature_mean=0.0),
    "theory.SpatialInputs": plain(
        batch=2, gap=0.5, shape=(2, 3), position_gap=0.5, cross_gap=0.75, second_moment=1.0, feature_mean=0.0
    ),
    "theory.FeedForward": plain(layer=NET.layer, depth=3),
    "theory.Flatten": plain(),
    "theory.GlobalAveragePool": plain(),
    "theory.ImageInputs": plain(features=IMAGES),
    "theory.Layer": plain(
        weights=th.gaussian(), norm=th.batch_norm(), activation=th.relu, kernel=3, padding="zero", stride=1,
        channels=1.0,
    ),
    "theory.Normalizer": plain(
        name="mine", pool=POOL, centered=True, denominator="std", gate=None, eps=0.0, ddof=0
    ),
    "theory.Pool": plain(samples=True, positions=False, channels=2),
    "theory.PredictionSet": lambda _: {"predictions": {"GN": PREDICTION()}},
    "theory.Residual": plain(
        layer=th.Layer(), depth=3, order="pre_activation", skip=1.0, branch=1.0, maps=1, stem=th.gaussian(), scales=()
    ),
    "theory.Sequential": plain(parts=(th.Layer(), th.Flatten(), th.Layer())),
    "theory.Weights": plain(name="mine", weight_variance=2.0, centered=False, normalized=False),
    "theory.batch_norm": plain(eps=0.0, ddof=0),
    "theory.centered_weights": plain(weight_variance=2.0),
    "theory.correlation_map": plain(network=NET, correlations=[0.0, 0.5], batch=None),
    "theory.cross_batch_similarity": plain(layer=th.Layer(norm=th.batch_norm()), inputs=BATCH, first=None),
    "theory.deep_norm_constants": plain(blocks=4),
    "theory.evonorm_b0": plain(gate=1.0, eps=0.0, ddof=0),
    "theory.evonorm_s0": plain(group_size=4, gate=1.0, eps=0.0, ddof=0),
    "theory.exchangeable": plain(
        batch=3, correlation=0.5, gap=None, second_moment=1.0, feature_mean=0.0, positions=(2, 3),
        position_correlation=0.5, position_gap=None, cross_correlation=0.25, cross_gap=None,
    ),
    "theory.exchangeable_from_data": plain(features=IMAGES),
    "theory.filter_response_norm": plain(eps=0.0),
    "theory.fixed_point": plain(network=NET, inputs=None, batch=None, positions=1),
    "theory.fixed_points": plain(network=NET, inputs=None, batch=None, positions=1),
    "theory.fixup": plain(layer=th.Layer(), depth=3, maps=2),
    "theory.from_covariance": plain(covariance=np.eye(6), feature_mean=0.0, positions=(1, 3)),
    "theory.from_data": plain(features=ROW),
    "theory.from_json": plain(text=th.to_json(NET)),
    "theory.frontier": plain(layer=th.Layer(), group_sizes=(4, 5), positions=1),
    "theory.gaussian": plain(weight_variance=2.0),
    "theory.group_norm": plain(group_size=4, eps=0.0, ddof=0, num_groups=None),
    "theory.images": plain(features=IMAGES),
    "theory.instance_norm": plain(eps=0.0, ddof=0),
    "theory.key": plain(spec=NET),
    "theory.layer_norm": plain(eps=0.0, ddof=0),
    "theory.leaky_relu": plain(negative_slope=0.1),
    "theory.mean_centering": plain(),
    "theory.nf_scaled": plain(network=th.Residual(th.Layer(), depth=3), inputs=BATCH),
    "theory.phase_portrait": plain(network=NET, second_moments=[1.0], correlations=[0.0, 0.5], batch=None),
    "theory.predict": plain(network=NET, inputs=BATCH, backward=True, refine=1),
    "theory.predict_many": plain(networks={"GN": NET}, inputs=BATCH, backward=True),
    "theory.regime": plain(network=NET, inputs=BATCH),
    "theory.rms_norm": plain(positions=True, eps=0.0),
    "theory.scaled_weight_standardization": plain(gain=1.0),
    "theory.stationary": plain(covariance=np.array([[[1.0, 0.5, 0.2, 0.5]]]), feature_mean=0.0),
    "theory.stationary_from_data": plain(features=IMAGES),
    "theory.tlu": plain(threshold=0.5),
    "theory.to_json": plain(spec=NET, indent=None),
    "theory.torch_defaults": plain(network=NET),
    "theory.variance_norm": plain(eps=0.0, ddof=0),
    "theory.weight_norm": plain(),
    "theory.branch_end_second_moment": plain(depth=5, second_moment=1.0, branch=1.0, added=1.0),
    "theory.growth_law": plain(network=RESIDUAL, batch=None),
    "theory.Activation.affine": plain(scale=2.0, shift=0.5),
    "theory.CorrelationMap.trajectory": plain(correlation=0.5, steps=2),
    "theory.CorrelationMap.plot": plain(ax=None, start=0.5, steps=2, label="a"),
    "theory.Frontier.to_frame": plain(),
    "theory.Frontier.plot": plain(ax=None, label="a"),
    "theory.Normalizer.divisor": plain(batch=3, positions=2),
    "theory.Normalizer.rank": plain(batch=3, positions=2),
    "theory.PhasePortrait.trajectory": plain(second_moment=1.0, correlation=0.5, steps=2),
    "theory.PhasePortrait.plot": plain(ax=None, steps=3),
    "theory.Pool.size": plain(batch=3, positions=2),
    "theory.Prediction.to_frame": plain(),
    "theory.Prediction.to_latex": plain(),
    "theory.Prediction.plot": plain(ax=None, observable="similarity"),
    "theory.Prediction.plot_spectrum": plain(ax=None, layers=[1]),
    "theory.Prediction.save": lambda folder: {"path": folder / "new.json"},
    "theory.Prediction.load": lambda folder: {"path": folder / "prediction.json"},
    "theory.PredictionSet.to_frame": plain(),
    "theory.PredictionSet.plot": plain(simulations=None, observables=["similarity"]),
    "montecarlo.Estimate.of": plain(samples=np.ones((3, 2))),
    "montecarlo.Store": lambda folder: {"path": folder / "new.db"},
    "montecarlo.compare": lambda _: {"prediction": PREDICTION(), "simulation": SIMULATION()},
    "montecarlo.extrapolate": lambda _: {
        "simulations": list(GRID().values()), "observable": "similarity", "layer": 1, "rank": math.inf, "curved": False
    },
    "montecarlo.load": lambda folder: {"path": folder / "simulation.json"},
    "montecarlo.simulate": _simulated(
        store=lambda folder: folder / "runs.db", client=None, target_sem=None, max_replicates=None
    ),
    "montecarlo.simulate_many": lambda folder: {
        **{k: v for k, v in _simulated(store=None, client=None)(folder).items() if k not in ("network", "width")},
        "networks": {"GN": NET}, "widths": [8],
    },
    "montecarlo.Comparison.rejected": plain(level=0.05),
    "montecarlo.Comparison.to_frame": plain(),
    "montecarlo.Comparison.plot": plain(),
    "montecarlo.Extrapolation.at": plain(width=100.0),
    "montecarlo.Extrapolation.width_for": plain(tolerance=0.01),
    "montecarlo.Extrapolation.plot": plain(ax=None, theory=0.5, label="a"),
    "montecarlo.Grid.to_frame": plain(),
    "montecarlo.Simulation.estimates": plain(),
    "montecarlo.Simulation.to_frame": plain(),
    "montecarlo.Simulation.plot": plain(ax=None, observable="similarity", label="a"),
    "montecarlo.Simulation.save": lambda folder: {"path": folder / "new.json"},
    "montecarlo.Store.close": lambda folder: {"path": folder / "runs.db"},
    "montecarlo.Store.indices": lambda folder: {"store": folder / "runs.db", "experiment": None},
    "montecarlo.Store.read": lambda folder: {"store": folder / "runs.db", "experiment": None, "indices": [0, 1]},
    "montecarlo.Store.samples": lambda folder: {"store": folder / "runs.db", "run": None},
    "montecarlo.Store.runs": lambda folder: {"store": folder / "runs.db"},
    "montecarlo.Store.find": lambda folder: {"store": folder / "runs.db", "prefix": ""},
    "theory.symbolic.closed_forms": plain(),
    "theory.symbolic.derivation": plain(name="plain: correlation map"),
    "theory.symbolic.ClosedForm.discrepancy": plain(),
    "theory.symbolic.ClosedForm.numerical": plain(),
    "theory.symbolic.ClosedForm.symbolic": plain(),
    "theory.symbolic.Expression.latex": plain(),
    "theory.symbolic.Expression.derivation": plain(),
    "theory.symbolic.Expression.at": plain(c=0.5),
    "theory.symbolic.Expression.value": plain(digits=15, c=0.5),
    "theory.symbolic.Expression.lambdify": plain(name="c"),
    "theory.symbolic.Lemma.discrepancy": plain(digits=15),
    "theory.symbolic.Lemma.holds": plain(digits=15),
    "theory.testing.Profile": plain(name="a", examples=1, per_name=0, seconds=1.0, seed=0),
    "theory.testing.activations": plain(names=("relu",), affine=True),
    "theory.testing.batches": plain(smallest=2, largest=4, smallest_gap=0.0),
    "theory.testing.cases": plain(of=None, largest_depth=2, positions=True, exchangeable_only=False, smallest_gap=0.0),
    "theory.testing.check_normalizer": plain(norm=th.layer_norm(), profile=QUICK, laws=[LAW]),
    "theory.testing.covariances": plain(smallest=2, largest=3, full_rank=False),
    "theory.testing.extreme_inputs": plain(),
    "theory.testing.extreme_networks": plain(),
    "theory.testing.inputs_for": plain(layer=th.Layer(), positions=True),
    "theory.testing.layers": plain(norms=None, phis=None, rows=None),
    "theory.testing.nearly_equal": plain(smallest=2, largest=3),
    "theory.testing.networks": plain(of=None, largest_depth=2),
    "theory.testing.normalizers": plain(samples=None, positions=None, channels=(1, 2), gates=True, eps=None),
    "theory.testing.over_positions": plain(smallest=2, largest=3, positions=(2,), smallest_gap=0.0),
    "theory.testing.predictable_layers": plain(coupled=None, divides=False, arrays=False),
    "theory.testing.ratios": plain(samples=True, channels=(1, 2), equal=False),
    "theory.testing.residual_networks": plain(of=None, largest_depth=2),
    "theory.testing.run": plain(law=LAW, profile=QUICK, layers=None, named=[th.Layer()]),
    "theory.testing.run_on": plain(law=LAW, spec=th.Layer(), profile=QUICK),
    "theory.testing.seeds": plain(),
    "theory.testing.weights": plain(),
    "theory.testing.widths": plain(smallest=8, largest=16, multiple=8),
    **{
        f"theory.symbolic.{name}": plain(layer=th.Layer())
        for name in (
            "correlation_map", "fixed_point", "gradient_growth", "near_one", "residual_gradient", "residual_variance",
            "similarity_map", "slope", "variance_recursion",
        )
    },
}  # fmt: skip

CALLS: dict[str, Callable[..., Any]] = {
    "theory.Activation.affine": method(lambda: th.tanh, "affine"),
    "theory.Normalizer.divisor": method(th.batch_norm, "divisor"),
    "theory.Normalizer.rank": method(th.batch_norm, "rank"),
    "theory.Pool.size": POOL.size,
    "theory.PredictionSet.to_frame": lambda: th.PredictionSet({"GN": PREDICTION()}).to_frame(),
    "theory.PredictionSet.plot": lambda **a: th.PredictionSet({"GN": PREDICTION()}).plot(**a),
    "montecarlo.Estimate.of": _estimate,
    "montecarlo.Store": lambda path: mc.Store(path).close(),
    "montecarlo.Store.close": _opened_and_closed,
    "theory.symbolic.Expression.lambdify": lambda name: FORMULA().lambdify(name)(0.5),
    **{
        f"montecarlo.Store.{name}": with_store(name)
        for name in ("indices", "read", "samples", "runs", "find")
    },
}
OWNERS: dict[str, Callable[[], Any]] = {
    "theory.CorrelationMap": MAP, "theory.Frontier": FRONTIER, "theory.PhasePortrait": PORTRAIT,
    "theory.Prediction": PREDICTION, "montecarlo.Simulation": SIMULATION, "montecarlo.Grid": GRID,
    "montecarlo.Comparison": cache(lambda: mc.compare(PREDICTION(), SIMULATION())),
    "montecarlo.Extrapolation": fitted, "theory.symbolic.ClosedForm": CLOSED, "theory.symbolic.Lemma": LEMMA,
    "theory.symbolic.Expression": FORMULA,
}  # fmt: skip

_RESULT = "made by the package, with no checks of its own"
_RECORD = "a record that the package fills in"
EXEMPT: dict[str, str] = {
    **{
        f"theory.{name}": _RESULT
        for name in (
            "CorrelationMap", "CrossBatchSimilarity", "FixedPoint", "Frontier", "PhasePortrait", "Prediction", "Regime",
            "GrowthLaw", "ResidualGrowth",
        )
    },
    **{f"montecarlo.{name}": _RESULT for name in ("Comparison", "Estimate", "Extrapolation", "Grid", "Simulation")},
    **{f"theory.symbolic.{name}": _RECORD for name in ("ClosedForm", "Expression", "Lemma", "Step")},
    **{f"theory.testing.{name}": _RECORD for name in ("Case", "Law", "Tally")},
    "montecarlo.Store.add": "takes what simulate computed; its checks are in test_store.py",
}  # fmt: skip

HEAVY = {"theory.predict": 8.0, "montecarlo.simulate": 6.0, "theory.exchangeable": 4.0, "theory.from_json": 4.0,
         "theory.fixed_point": 3.0, "theory.from_covariance": 4.0, "theory.cross_batch_similarity": 2.0,
         "theory.images": 2.0, "theory.Layer": 2.0, "theory.Residual": 2.0, "montecarlo.load": 2.0,
         "theory.Prediction.load": 2.0, "theory.regime": 2.0, "theory.phase_portrait": 2.0,
         "theory.correlation_map": 1.0, "theory.nf_scaled": 2.0, "theory.growth_law": 2.0,
         "theory.testing.run": 0.1, "theory.testing.run_on": 0.1, "theory.testing.check_normalizer": 0.1,
         "theory.symbolic.closed_forms": 0.1}  # fmt: skip


# Maps of gated groups are sampled at every point (quasi-Monte Carlo): slow by their documentation.
SAMPLED = ("correlation_map", "phase_portrait", "fixed_point", "fixed_points", "growth_law")


def public_names() -> dict[str, Any]:
    """Every public callable by its full name: functions, classes, and methods of classes."""
    found: dict[str, Any] = {}
    for module in (th, mc, symbolic, testing):
        for name in module.__all__:
            thing = getattr(module, name)
            full = f"{module.__name__}.{name}"
            if inspect.ismodule(thing) or not callable(thing):
                continue
            if isinstance(thing, type) and issubclass(thing, BaseException):
                continue
            if not isinstance(thing, th.Activation):
                found[full] = thing
            if isinstance(thing, type):
                for part, value in vars(thing).items():
                    made = isinstance(value, classmethod | staticmethod) or inspect.isfunction(
                        value
                    )
                    if made and not part.startswith("_"):
                        found[f"{full}.{part}"] = getattr(thing, part)
    return found


def enumerate_targets() -> list[Target]:
    """A target for each public name; LookupError for those that nobody registered here."""
    names = public_names()
    unknown = sorted(set(names) - set(VALID) - set(EXEMPT))
    gone = sorted((set(VALID) | set(EXEMPT)) - set(names))
    if unknown or gone:
        raise LookupError(
            f"public names without valid arguments in tests/fuzz/targets.py: {unknown}; no longer public: {gone}"
        )
    targets = []
    for name, arguments in VALID.items():
        owner, _, last = name.rpartition(".")
        call = CALLS.get(name) or (method(OWNERS[owner], last) if owner in OWNERS else names[name])
        seconds = 150 if name in {f"theory.{sampled}" for sampled in SAMPLED} else 20
        targets.append(Target(name, call, arguments, HEAVY.get(name, 1.0), seconds))
    return targets
