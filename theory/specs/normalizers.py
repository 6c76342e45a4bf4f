"""Normalizers as values: what is pooled, numerator, denominator, epsilon, degrees of freedom.

N(h) = d / R,  d = A h,  R^2 = h' M h / (N_pool - ddof) + eps  (theory notes, section 2): A is the
identity or the centering projection P of the pool, M is P (std), the identity (rms) or absent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from theory.errors import out_of_domain
from theory.specs._check import LARGEST, flag, integer, member, real, text

__all__ = [
    "Normalizer",
    "Pool",
    "batch_norm",
    "evonorm_b0",
    "evonorm_s0",
    "filter_response_norm",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "mean_centering",
    "rms_norm",
    "variance_norm",
]

Denominator = Literal["std", "rms", "none", "evonorm_b0"]


@dataclass(frozen=True, kw_only=True)
class Pool:
    """What shares one mean and one denominator.

    Parameters
    ----------
    samples, positions
        Whether the pool runs over all samples of the batch, over all positions.
    channels
        Channels per pool: an integer >= 1, or ``math.inf`` for all channels of the layer.
    """

    samples: bool
    positions: bool
    channels: float

    def __post_init__(self) -> None:
        flag("samples", self.samples)
        flag("positions", self.positions)
        if not (isinstance(self.channels, float) and self.channels == math.inf):
            channels = integer(
                "channels",
                self.channels,
                low=1,
                high=LARGEST,
                remedy="use math.inf for all channels",
            )
            object.__setattr__(self, "channels", channels)

    def size(self, *, batch: float, positions: float) -> float:
        """Number of activations in one pool (``math.inf`` when it spans the layer)."""
        batch, positions = _number_of("batch", batch), _number_of("positions", positions)
        over_samples = batch if self.samples else 1
        over_positions = positions if self.positions else 1
        return self.channels * over_samples * over_positions


def _number_of(argument: str, value: float) -> float:
    if isinstance(value, float) and value == math.inf:
        return value
    return real(argument, value, low=1.0, remedy="count them, or use math.inf")


@dataclass(frozen=True, kw_only=True)
class Normalizer:
    """N(h) = d / R over a pool; one description covers the zoo.

    Parameters
    ----------
    name
        For labels; does not enter the mathematics.
    pool
        What is pooled.
    centered
        Whether the pool mean is subtracted in the numerator (d = P h instead of d = h).
    denominator
        ``"std"``: R^2 = h'P h/(N - ddof) + eps; ``"rms"``: R^2 = h'h/N + eps; ``"none"``: R = 1;
        ``"evonorm_b0"``: R = max(batch std, v h + instance std), each std with eps under the root.
    gate
        v of the numerator h * sigmoid(v h) (EvoNorm-S0) or of the denominator (EvoNorm-B0); else None.
    eps
        Added to the variance; >= 0.
    ddof
        0 or 1, subtracted from the pool size in the variance; ``"std"`` only.

    Raises
    ------
    SpecificationError
        A parameter outside its domain, or a combination that has no meaning.
    """

    name: str
    pool: Pool
    centered: bool
    denominator: Denominator
    gate: float | None = None
    eps: float = 0.0
    ddof: int = 0

    def __post_init__(self) -> None:
        text("name", self.name)
        if not isinstance(self.pool, Pool):
            raise out_of_domain("pool", self.pool, "a Pool", "build it with Pool(...)")
        flag("centered", self.centered)
        kinds = ("std", "rms", "none", "evonorm_b0")
        member("denominator", self.denominator, kinds)
        eps = real("eps", self.eps, low=0.0, remedy="PyTorch's default is 1e-5")
        object.__setattr__(self, "eps", eps)
        object.__setattr__(
            self, "ddof", integer("ddof", self.ddof, low=0, high=1, remedy="use 0 or 1")
        )
        if self.gate is not None:
            gate = real("gate", self.gate, remedy="EvoNorm starts at v = 1")
            object.__setattr__(self, "gate", gate)
            if self.centered:
                raise out_of_domain("centered", True, "False with a gate", "EvoNorm keeps the mean")
            if self.denominator not in ("std", "evonorm_b0"):
                raise out_of_domain(
                    "denominator",
                    self.denominator,
                    "std or evonorm_b0 with a gate",
                    "drop the gate",
                )
        if self.denominator == "evonorm_b0" and (self.gate is None or not self.pool.samples):
            raise out_of_domain(
                "gate", self.gate, "a number, over a pool of samples", "use evonorm_b0()"
            )
        if self.denominator == "none" and (self.eps != 0.0 or self.ddof != 0):
            raise out_of_domain(
                "eps, ddof", (self.eps, self.ddof), "0 without a denominator", "drop them"
            )
        if self.denominator == "rms" and self.ddof != 0:
            raise out_of_domain("ddof", self.ddof, "0 with rms", "an rms has no mean to subtract")
        if self.denominator == "evonorm_b0" and (
            self.pool.channels != 1 or not self.pool.positions
        ):
            raise out_of_domain(
                "pool", self.pool, "one channel of all samples and positions", "use evonorm_b0()"
            )

    @property
    def couples_samples(self) -> bool:
        """Whether samples of a batch share statistics (BN, VN, MC, EvoNorm-B0)."""
        return self.pool.samples

    def divisor(self, *, batch: float, positions: float) -> float:
        """N_pool - ddof: what the sum of squares is divided by."""
        return self.pool.size(batch=batch, positions=positions) - self.ddof

    def rank(self, *, batch: float, positions: float) -> float:
        """Rank of the pooled quadratic form: N - 1 about the mean, N otherwise (full-rank covariance).

        It decides the tails: E[1/R^2] is finite iff rank > 2, its variance iff rank > 4.
        """
        size = self.pool.size(batch=batch, positions=positions)
        if self.denominator == "none":
            return math.inf
        return size if self.denominator == "rms" else size - 1


def batch_norm(*, eps: float = 0.0, ddof: int = 0) -> Normalizer:
    """(h - mean) / std over samples and positions, per channel (Ioffe & Szegedy 2015)."""
    pool = Pool(samples=True, positions=True, channels=1)
    return Normalizer(name="BN", pool=pool, centered=True, denominator="std", eps=eps, ddof=ddof)


def variance_norm(*, eps: float = 0.0, ddof: int = 0) -> Normalizer:
    """h / std over samples and positions: BatchNorm without the centering (Daneshmand et al. 2020)."""
    pool = Pool(samples=True, positions=True, channels=1)
    return Normalizer(name="VN", pool=pool, centered=False, denominator="std", eps=eps, ddof=ddof)


def mean_centering() -> Normalizer:
    """h - mean over samples and positions: BatchNorm without the division."""
    pool = Pool(samples=True, positions=True, channels=1)
    return Normalizer(name="MC", pool=pool, centered=True, denominator="none")


def layer_norm(*, eps: float = 0.0, ddof: int = 0) -> Normalizer:
    """(h - mean) / std over positions and all channels of one sample (Ba et al. 2016)."""
    pool = Pool(samples=False, positions=True, channels=math.inf)
    return Normalizer(name="LN", pool=pool, centered=True, denominator="std", eps=eps, ddof=ddof)


def rms_norm(*, positions: bool = True, eps: float = 0.0) -> Normalizer:
    """h / rms over all channels of one sample, and over positions unless ``positions=False``."""
    pool = Pool(samples=False, positions=positions, channels=math.inf)
    return Normalizer(name="RMSNorm", pool=pool, centered=False, denominator="rms", eps=eps)


def group_norm(
    group_size: int | None = None,
    *,
    eps: float = 0.0,
    ddof: int = 0,
    num_groups: int | None = None,
) -> Normalizer:
    """(h - mean) / std over positions and a group of ``group_size`` channels (Wu & He 2018).

    ``num_groups`` is not accepted: the infinite-width theory keeps the group *size* fixed, so
    convert with group_size = channels / num_groups.
    """
    if num_groups is not None:
        raise out_of_domain(
            "num_groups",
            num_groups,
            "left out: infinite-width theory fixes the group size, not the number of groups",
            "pass group_size = channels / num_groups (PyTorch's GroupNorm(32, 256) is group_size=8)",
        )
    size = integer("group_size", group_size, low=1, remedy="pass channels per group, 8 say")
    pool = Pool(samples=False, positions=True, channels=size)
    return Normalizer(
        name=f"GN({size})", pool=pool, centered=True, denominator="std", eps=eps, ddof=ddof
    )


def instance_norm(*, eps: float = 0.0, ddof: int = 0) -> Normalizer:
    """(h - mean) / std over the positions of one sample and channel; needs two positions."""
    pool = Pool(samples=False, positions=True, channels=1)
    return Normalizer(name="IN", pool=pool, centered=True, denominator="std", eps=eps, ddof=ddof)


def filter_response_norm(*, eps: float = 0.0) -> Normalizer:
    """h / rms over the positions of one sample and channel (Singh & Krishnan 2019); needs two positions.

    Its threshold activation max(y, tau) is relu at the start, where tau = 0.
    """
    pool = Pool(samples=False, positions=True, channels=1)
    return Normalizer(name="FRN", pool=pool, centered=False, denominator="rms", eps=eps)


def evonorm_s0(
    group_size: int | None = None, *, gate: float = 1.0, eps: float = 0.0, ddof: int = 0
) -> Normalizer:
    """h sigmoid(v h) / std over positions and a group of channels (Liu et al. 2020).

    ``group_size=None`` pools all channels.  Use it with ``activation=identity``: the layer brings
    its own nonlinearity.
    """
    size: float = math.inf
    if group_size is not None:
        size = integer("group_size", group_size, low=1, remedy="None pools all channels")
    pool = Pool(samples=False, positions=True, channels=size)
    name = "EvoNorm-S0" if size == math.inf else f"EvoNorm-S0({size})"
    return Normalizer(
        name=name, pool=pool, centered=False, denominator="std", gate=gate, eps=eps, ddof=ddof
    )


def evonorm_b0(*, gate: float = 1.0, eps: float = 0.0, ddof: int = 0) -> Normalizer:
    """h / max(batch std, v h + instance std) (Liu et al. 2020); use with ``activation=identity``."""
    pool = Pool(samples=True, positions=True, channels=1)
    return Normalizer(
        name="EvoNorm-B0",
        pool=pool,
        centered=False,
        denominator="evonorm_b0",
        gate=gate,
        eps=eps,
        ddof=ddof,
    )
