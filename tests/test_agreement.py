"""The sequential test of theory against simulation: its level, its power, and what a failure says."""

from __future__ import annotations

import dataclasses
import math
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy import stats

import theory as th
from montecarlo import agreement
from montecarlo.agreement import LARGEST_SUITE, STAGES, Stage, check_agreement, stage_p_value
from montecarlo.ensemble import simulate
from montecarlo.results import Simulation
from montecarlo.statistics import p_value
from theory.testing import Profile, run
from theory.testing.runner import Law

NETWORKS = {
    "plain": th.FeedForward(th.Layer(), depth=2),
    "BN": th.FeedForward(th.Layer(norm=th.batch_norm()), depth=2),
    "LN, tanh": th.FeedForward(th.Layer(norm=th.layer_norm(), activation=th.tanh), depth=3),
    "GN(8)": th.FeedForward(th.Layer(norm=th.group_norm(8)), depth=2),
    "GN(4), eps": th.FeedForward(th.Layer(norm=th.group_norm(4, eps=0.1)), depth=2),
    "SWS": th.FeedForward(th.zoo["SWS"], depth=2),
    "residual": th.Residual(th.Layer(norm=th.rms_norm()), depth=2),
    "EvoNorm-S0": th.FeedForward(th.zoo["EvoNorm-S0"], depth=2),
}
INPUTS = th.exchangeable(batch=6, correlation=0.3)


def test_the_suite_raises_no_false_alarm() -> None:
    """Independent stages: the product of their levels per network, 1e-3 for 1,000 of them."""
    product = math.prod(stage.level for stage in STAGES)
    assert product * LARGEST_SUITE <= 1e-3 * (1.0 + 1e-12)
    seeds = [{(seed + 1000 * k) for k in range(len(STAGES))} for seed in range(100)]
    assert len(set().union(*seeds)) == 300


def p_values(repeats: int, stage: Stage = STAGES[0]) -> Any:
    """Of correct predictions."""
    predictions = [th.predict(network, INPUTS) for network in NETWORKS.values()]
    return np.array(
        [
            stage_p_value(prediction, stage, seed=5000 + seed)
            for seed in range(repeats)
            for prediction in predictions
        ]
    )


def test_a_stage_keeps_its_level() -> None:
    """Of 64 at most 25 at 20 % and 4 at 1 %: more have a probability below 1e-3 (binomial)."""
    p = p_values(8)
    for level, most in ((0.2, 25), (0.01, 4)):
        assert stats.binom.sf(most, 64, level) < 1e-3
        assert np.sum(p <= level) <= most


BANK = 1024
RESAMPLED = 20_000
# Matrices of Weight Standardization are drawn whole: its last stage would take an hour.
SMALL_ONLY = {"SWS"}


@pytest.fixture(scope="module")
def banks() -> Any:
    """1,024 networks of each width: what all stages draw from."""

    @cache
    def of(name: str, width: int) -> Simulation:
        network: Any = NETWORKS[name]
        return simulate(network, INPUTS, width=width, replicates=BANK, seed=width, workers=1)

    return of


def staged(stages: Sequence[Stage]) -> list[Any]:
    return [
        pytest.param(name, stage, id=f"{name}-{stage.width}")
        for stage in stages
        for name in NETWORKS
        if not (name in SMALL_ONLY and stage is STAGES[-1])
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "stage"), staged(STAGES))
def test_every_stage_keeps_its_level(banks: Any, name: str, stage: Stage) -> None:
    """Three parts of "a correct theory is rejected with at most the stage's level".

    1. What extrapolation leaves is inside the margin: four standard errors of 1,024 networks.
    2. Means of so few networks are near enough to normal: 20,000 resamples (as large as the stage's, with
       replacement) about the bank's own mean, without any margin, are rejected as often as the level
       says, or less: false alarm 1e-4 (binomial).
    3. So is the test itself, on the bank cut into disjoint pieces of that size.
    """
    prediction = th.predict(NETWORKS[name], INPUTS)
    narrow, wide = (banks(name, width) for width in (stage.width, 2 * stage.width))
    truncation = agreement.truncation_of(prediction, stage)
    compared = agreement.quantities(prediction)
    size, pieces = stage.replicates, BANK // stage.replicates
    rng = np.random.default_rng([stage.width, len(name)])
    picks = rng.integers(0, BANK, (2, RESAMPLED, size))
    resampled, cut = np.ones(RESAMPLED), np.ones(pieces)
    for quantity in compared:
        few, many = quantity.of(narrow), quantity.of(wide)
        mean, sem, _ = agreement.extrapolated(few, many)
        margin = quantity.margin(truncation)
        assert abs(mean - quantity.theory) <= margin + 4.0 * sem, quantity.name
        value, error, dof = agreement.extrapolated(few[picks[0]], many[picks[1]])
        resampled = np.minimum(resampled, p_value(value - mean, sem=error, dof=dof))
        value, error, dof = agreement.extrapolated(
            *(x[: pieces * size].reshape(pieces, size) for x in (few, many))
        )
        p = p_value(value - quantity.theory, sem=error, dof=dof, bound=margin)
        cut = np.minimum(cut, p)
    rejected = int(np.sum(resampled * len(compared) <= stage.level))
    alarms = int(np.sum(cut * len(compared) <= stage.level))
    print(
        f"{name}, n = {stage.width}, level {stage.level}: {rejected / RESAMPLED:.2g} of resampled "
        f"tests without margin, {alarms} of {pieces} real ones rejected"
    )
    assert rejected <= stats.binom.isf(1e-4, RESAMPLED, stage.level)
    assert alarms <= stats.binom.isf(1e-4, pieces, stage.level)


WRONG = {
    "N for N - 1": ("GN(4), eps", {"norm": th.group_norm(4, eps=0.1, ddof=1)}),
    "uncentered": ("BN", {"norm": th.mean_centering()}),
    "another activation": ("LN, tanh", {"activation": th.erf}),
    "a quarter more variance": ("plain", {"weights": th.gaussian(weight_variance=2.5)}),
    "weights keep their mean": ("SWS", {"weights": th.gaussian(weight_variance=2.93)}),
}


# Matrices that are drawn whole take half a minute at the widths of the last stage.
DRAWN = "weights keep their mean"


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n == DRAWN else []) for n in WRONG]
)
def test_wrong_theories_are_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    key, changes = WRONG[name]
    network: Any = NETWORKS[key]
    layer = dataclasses.replace(network.layer, **changes)
    wrong = th.predict(dataclasses.replace(network, layer=layer), INPUTS)
    monkeypatch.setattr(agreement, "predict", lambda *_: wrong)
    with pytest.raises(agreement.Disagreement, match="extrapolated") as caught:
        check_agreement(network, INPUTS, seed=3)
    # The command runs, and without the mistake it finds agreement.
    command = re.search(r"Reproduce with\n  (.*)", str(caught.value))
    assert command is not None
    if name == "uncentered":
        interpreter, *arguments = shlex.split(command[1])
        assert interpreter == "python"
        subprocess.run([sys.executable, *arguments], check=True, timeout=120)


@pytest.mark.slow
def test_an_alarm_shrinks_to_a_minimal_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A theory that forgets that centered rows take the mean away."""
    from montecarlo.testing import LAWS

    right = agreement.predict

    def wrong(network: Any, inputs: Any) -> Any:
        weights = dataclasses.replace(network.layer.weights, centered=False)
        layer = dataclasses.replace(network.layer, weights=weights)
        return right(dataclasses.replace(network, layer=layer), inputs)

    monkeypatch.setattr(agreement, "predict", wrong)
    law: Law = LAWS["simulation_agrees"]
    profile = Profile("test", examples=100, per_name=1, seconds=60.0)
    with pytest.raises(agreement.Disagreement) as caught:
        run(law, profile=profile, named=())
    notes = "\n".join(caught.value.__notes__)
    # The first matrix of a feed-forward network sees no mean yet; a residual one has a stem before.
    assert "depth=2" in notes or ("depth=1" in notes and "Residual" in notes)
    assert "centered_weights(" in notes
    assert "build('relu', 0.0, 1.0, 0.0)" in notes
    # What it prints finds the same again, as long as the mistake is there.
    command = re.search(r"Reproduce with\n  (.*)", str(caught.value))
    assert command is not None
    with pytest.raises(agreement.Disagreement):
        exec(shlex.split(command[1])[2], {})
