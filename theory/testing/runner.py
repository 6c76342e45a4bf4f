"""Run a law over named specifications, pinned corners and random ones, and count what was effective."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import SearchStrategy

from theory.errors import HypothesisError, SpecificationError, out_of_domain
from theory.specs._check import instance, integer, real
from theory.specs.activations import identity, relu, tanh
from theory.specs.networks import Layer, Network
from theory.specs.normalizers import Normalizer, group_norm
from theory.zoo import zoo

__all__ = [
    "FAST",
    "NAMED",
    "THOROUGH",
    "Law",
    "NotApplicable",
    "Profile",
    "Tally",
    "check_normalizer",
    "run",
    "run_on",
]

NAMED: dict[str, Layer] = {
    **zoo,
    **{f"GN({size})": Layer(norm=group_norm(size)) for size in (2, 3, 4, 5)},
    "GN(4), tanh": Layer(norm=group_norm(4), activation=tanh),
}
"""The specifications that have a name: each law is tried on each of them."""

LARGEST_FILTER_RATE = 0.1


class NotApplicable(Exception):
    """The law says nothing about this subject."""


@dataclass(frozen=True)
class Profile:
    """How hard to look: random examples per law and per named specification, and processor seconds.

    Where every prediction is sampled (RQMC), an example takes seconds: after ``seconds`` a law tries no
    more, and the tally says how many it tried.
    """

    name: str
    examples: int
    per_name: int
    seconds: float
    seed: int = 0

    def __post_init__(self) -> None:
        instance("name", self.name, str, "the name of a profile", 'pass "fast", say')
        for count in ("examples", "per_name", "seed"):
            number = integer(count, getattr(self, count), low=0, remedy="pass an integer")
            object.__setattr__(self, count, number)
        real("seconds", self.seconds, low=0.0, remedy="processor seconds, 10 say")


FAST = Profile("fast", examples=8, per_name=1, seconds=10.0)
THOROUGH = Profile("thorough", examples=300, per_name=8, seconds=180.0)


@dataclass(frozen=True)
class Law:
    """Something that holds for every specification.

    Attributes
    ----------
    name, statement
        Identifier, and the law as a sentence or formula.
    layers
        Random layers about which the law speaks.
    subjects
        Turns a strategy of layers into one of what ``check`` takes: a ``Case``, say.
    check
        Raises AssertionError where the law is violated, ``NotApplicable`` where it is silent.
    pinned
        Corners that are always tried.
    """

    name: str
    statement: str
    layers: Callable[[], SearchStrategy[Layer]]
    subjects: Callable[[SearchStrategy[Layer]], SearchStrategy[Any]]
    check: Callable[[Any], None]
    pinned: Callable[[], Iterable[Any]] = tuple


@dataclass
class Tally:
    """Examples tried and rejected (``NotApplicable``, or refused by the theory)."""

    law: str
    tried: int = 0
    rejected: int = 0
    named: int = 0

    @property
    def effective(self) -> int:
        """Random and pinned examples on which the law was decided."""
        return self.tried - self.rejected

    @property
    def filter_rate(self) -> float:
        """Share of random examples that were rejected."""
        return self.rejected / self.tried if self.tried else 0.0

    def __str__(self) -> str:
        return (
            f"{self.law}: {self.effective} effective random examples, {100 * self.filter_rate:.1f} % "
            f"filtered; {self.named} named and pinned ones"
        )


def run(
    law: Law,
    *,
    profile: Profile = FAST,
    layers: SearchStrategy[Layer] | None = None,
    named: Sequence[Layer] | None = None,
) -> Tally:
    """Check ``law`` on ``named`` layers, on its pinned corners and on random layers.

    Parameters
    ----------
    law
        What to check.
    profile
        Number of examples, and the seed.
    layers
        Random layers; by default those about which the law speaks.  No corners are tried then.
    named
        By default ``NAMED``.

    Returns
    -------
    Tally
        Effective examples and filter rate.

    Raises
    ------
    AssertionError
        The law is violated; Hypothesis notes the smallest subject that it found.
    """
    _require(law, profile)
    if layers is not None:
        instance("layers", layers, SearchStrategy, "a strategy of layers", "use layers(), say")
    if named is not None:
        instance("named", named, Sequence, "a list of layers", "pass [Layer(...)]")
        for layer in named:
            instance("named", layer, Layer, "a list of layers", "pass [Layer(...)]")
    tally = Tally(law.name)
    chosen = (NAMED.values() if layers is None else ()) if named is None else named
    count = Tally(law.name)
    for corner in law.pinned() if layers is None else ():
        # Every corner, not a random choice of them: nothing to search, nothing to shrink.
        with _naming(law, f"Pinned example: {corner!r}"):
            _decide(law, corner, count)
    for layer in chosen:
        _search(law, law.subjects(st.just(layer)), profile.per_name, profile, count)
    tally.named = count.effective
    random = law.layers() if layers is None else layers
    _search(law, law.subjects(random), profile.examples, profile, tally)
    return tally


def _require(law: Law, profile: Profile) -> None:
    instance("law", law, Law, "a Law", "take one of LAWS.values()")
    instance("profile", profile, Profile, "a Profile", "use FAST or THOROUGH")


def _laws(laws: Iterable[Law]) -> list[Law]:
    found = list(laws)
    for law in found:
        instance("laws", law, Law, "laws", "use LAWS.values()")
    return found


def _decide(law: Law, subject: Any, tally: Tally) -> None:
    """One example; those about which the law is silent are counted, not replaced by others."""
    tally.tried += 1
    try:
        law.check(subject)
    except (NotApplicable, HypothesisError, SpecificationError):
        tally.rejected += 1


@contextlib.contextmanager
def _naming(law: Law, *notes: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        for note in (f"Law {law.name!r}: {law.statement}", *notes):
            error.add_note(note)
        raise


def _search(
    law: Law, subjects: SearchStrategy[Any], examples: int, profile: Profile, tally: Tally
) -> None:
    start, failed = time.process_time(), False

    def check(subject: Any) -> None:
        nonlocal failed
        # Once something failed there is shrinking to do.
        if tally.tried and not failed and time.process_time() - start > profile.seconds:
            return
        try:
            with _naming(law):
                _decide(law, subject, tally)
        except Exception:
            failed = True
            raise

    settings = hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        print_blob=False,
        # Shrinking, but no second search for what matters in the example.
        phases=(Phase.explicit, Phase.generate, Phase.target, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    # Unsatisfiable: no input fits a named layer (IN at one position), so the law is silent about it.
    with contextlib.suppress(Unsatisfiable):
        hypothesis.seed(profile.seed)(settings(hypothesis.given(subject=subjects)(check)))()


def check_normalizer(
    norm: Normalizer, *, profile: Profile = FAST, laws: Iterable[Law] | None = None
) -> dict[str, Tally]:
    """Run the laws on ``norm``, with several activations, weights and batches.

    Parameters
    ----------
    norm
        Your normalizer.
    profile
        ``FAST`` or ``THOROUGH``, or a ``Profile`` of your own.
    laws
        By default ``theory.testing.LAWS``; ``montecarlo.testing.LAWS`` are those of the simulation.

    Returns
    -------
    dict
        Law's name -> how many examples decided it; 0 where the law is silent about ``norm``, or where no
        route of the theory takes it.

    Raises
    ------
    AssertionError
        A law is violated; the message holds the smallest example found.
    SpecificationError
        ``norm`` is no normalizer.
    """
    if not isinstance(norm, Normalizer):
        raise out_of_domain("norm", norm, "a Normalizer", "call its constructor: batch_norm(), say")
    instance("profile", profile, Profile, "a Profile", "use FAST or THOROUGH")
    if laws is None:
        from theory.testing.laws import LAWS

        laws = LAWS.values()
    instance("laws", laws, Iterable, "laws", "use LAWS.values()")
    return {law.name: run_on(law, norm, profile=profile) for law in _laws(laws)}


def run_on(law: Law, spec: Normalizer | Layer | Network, *, profile: Profile = FAST) -> Tally:
    """``run`` on a normalizer with several activations and weights, or on one layer (of a network)."""
    from theory.testing.strategies import activations, layers

    _require(law, profile)
    instance(
        "spec", spec, Normalizer | Layer | Network, "a normalizer or layer", "batch_norm(), say"
    )
    if isinstance(spec, Network):
        spec = spec.layer
    if isinstance(spec, Layer):
        return run(law, profile=profile, layers=st.just(spec), named=())
    # Most routes take the homogeneous activations only.
    phis = st.sampled_from([relu, identity]) | activations()
    if spec.gate is not None:
        phis = st.just(identity)
    return run(law, profile=profile, layers=layers(norms=st.just(spec), phis=phis), named=())
