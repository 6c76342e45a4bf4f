"""What a run of ``verify`` may spend: depths, layers, widths and numbers of networks.

The cost of a collapsed layer grows as n and the variance of a network falls as 1/n, so that a given
time buys the same precision at every width.  Widths in the ratio 1 : 4 : 16 therefore lose almost
nothing to the extrapolation (6 % of the standard error at the widest), and the narrowest keeps
depth/width below 0.05, where b/n describes the corrections.  Explicit weights cost n^2: 1 : 2 : 4.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = ["BUDGETS", "DEFAULT", "LONG", "QUICK", "Budget", "Grid", "ResidualGrids"]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Networks of one depth at several widths, and the layers at which they are compared.

    Attributes
    ----------
    depth
        Layers.
    forward, backward
        Layers at which signals and gradients are compared, counted from 1.
    widths
        Channels.
    pilot, largest
        Networks at every width: first, and at most.
    """

    depth: int
    forward: tuple[int, ...]
    backward: tuple[int, ...]
    widths: tuple[int, ...]
    pilot: int
    largest: int

    @property
    def curved(self) -> bool:
        """Whether b/n is not enough: depth/width above 0.05."""
        return self.depth > 0.05 * min(self.widths)

    def shallower(self, depth: int | None) -> Grid:
        """At most ``depth`` layers."""
        if depth is None or depth >= self.depth:
            return self
        return replace(
            self,
            depth=depth,
            forward=tuple(layer for layer in self.forward if layer <= depth),
            backward=tuple(layer for layer in self.backward if layer < depth),
        )


@dataclass(frozen=True, kw_only=True)
class ResidualGrids:
    """Residual networks, depth counting blocks.

    Attributes
    ----------
    blocks
        Whatever collapses.
    rows
        Gradients through normalized rows, which need explicit weights; None leaves them out.
    positions
        Convolutions on a ring of 16 positions; None leaves them out.
    deep
        In place of ``blocks`` for the orders that are meant for great depth.
    effort
        Cases of at most this effort, 0, 1 or 2, are simulated.
    """

    blocks: Grid
    rows: Grid | None = None
    positions: Grid | None = None
    deep: Grid | None = None
    effort: int


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Fixed numbers, so a run is reproducible.

    ``wide`` serves whatever collapses.  Second moments that accumulate are compared themselves only in
    the first layers, by many shallow networks (``first``), and as a growth per layer beyond.  Gradients
    through normalized rows need explicit weights (``direct``), and those of heavy-tailed pools very wide
    networks (``heavy``; None leaves them out), whose number is fixed beforehand: values this skewed
    make a pilot's variance depend on its mean.
    Images with zero padding take explicit weights too (``padding``).
    Convolutions on a ``ring`` of 16 and on a ``torus`` of 64 positions cost many times more, with
    explicit weights (``ring_rows``, ``torus_rows``) above all; None leaves them out, as it does
    ``images``, whose weights are explicit too, and ``residual`` networks.  ``tightening`` multiplies
    every margin.
    """

    name: str
    first: Grid
    wide: Grid
    direct: Grid
    heavy: Grid | None
    ring: Grid | None = None
    ring_rows: Grid | None = None
    torus: Grid | None = None
    torus_rows: Grid | None = None
    images: Grid | None = None
    padding: Grid | None = None
    residual: ResidualGrids | None = None
    tightening: float = 1.0


QUICK = Budget(
    name="quick",
    first=Grid(depth=2, forward=(2,), backward=(), widths=(132, 528, 2112), pilot=64, largest=8000),
    wide=Grid(
        depth=4,
        forward=(2, 4),
        backward=(1,),
        widths=(132, 528, 2112),
        pilot=64,
        largest=6000,
    ),
    direct=Grid(
        depth=4,
        forward=(),
        backward=(1,),
        widths=(84, 168, 336),
        pilot=64,
        largest=12_000,
    ),
    heavy=None,
    residual=ResidualGrids(
        blocks=Grid(
            depth=6,
            forward=(2, 6),
            backward=(1,),
            widths=(144, 576, 2304),
            pilot=64,
            largest=2000,
        ),
        effort=0,
    ),
)
DEFAULT = Budget(
    name="default",
    first=Grid(
        depth=5, forward=(2, 5), backward=(), widths=(408, 1632, 6528), pilot=96, largest=8000
    ),
    wide=Grid(
        depth=20,
        forward=(2, 5, 10, 20),
        backward=(1, 8, 14),
        widths=(408, 1632, 6528),
        pilot=96,
        largest=6000,
    ),
    direct=Grid(
        depth=10,
        forward=(),
        backward=(1, 4),
        widths=(204, 408, 816),
        pilot=96,
        largest=6000,
    ),
    heavy=Grid(
        depth=10,
        forward=(),
        backward=(1,),
        widths=(256, 1024, 8192, 32_768),
        pilot=1600,
        largest=1600,
    ),
    ring=Grid(
        depth=24,
        forward=(2, 6, 12, 24),
        backward=(1, 8, 16),
        widths=(480, 1920, 7680),
        pilot=24,
        largest=96,
    ),
    ring_rows=Grid(
        depth=24, forward=(), backward=(1, 8, 16), widths=(480, 960, 1920), pilot=24, largest=96
    ),
    torus=Grid(
        depth=24,
        forward=(2, 6, 12, 24),
        backward=(1, 8, 16),
        widths=(480, 960, 1920),
        pilot=16,
        largest=32,
    ),
    torus_rows=Grid(
        depth=24, forward=(), backward=(1, 8, 16), widths=(480, 720, 960), pilot=16, largest=48
    ),
    images=Grid(
        depth=4, forward=(2, 4), backward=(1,), widths=(80, 160, 320), pilot=64, largest=1500
    ),
    padding=Grid(
        depth=4, forward=(2, 4), backward=(1,), widths=(96, 192, 384), pilot=24, largest=1200
    ),
    residual=ResidualGrids(
        blocks=Grid(
            depth=12,
            forward=(1, 4, 12),
            backward=(1, 4),
            widths=(408, 1632, 6528),
            pilot=64,
            largest=1000,
        ),
        rows=Grid(
            depth=6,
            forward=(),
            backward=(1,),
            widths=(132, 264, 528),
            pilot=64,
            largest=1000,
        ),
        positions=Grid(
            depth=6,
            forward=(2, 6),
            backward=(1,),
            widths=(288, 1152, 4608),
            pilot=32,
            largest=400,
        ),
        effort=1,
    ),
)
LONG = replace(
    DEFAULT,
    name="long",
    first=replace(DEFAULT.first, pilot=192, largest=32_000),
    wide=replace(DEFAULT.wide, pilot=192, largest=24_000),
    direct=replace(DEFAULT.direct, pilot=192, largest=24_000),
    heavy=replace(DEFAULT.heavy, pilot=6400, largest=6400) if DEFAULT.heavy else None,
    ring=replace(DEFAULT.ring, largest=1200) if DEFAULT.ring else None,
    torus=replace(DEFAULT.torus, largest=600) if DEFAULT.torus else None,
    images=replace(DEFAULT.images, largest=6000) if DEFAULT.images else None,
    padding=replace(DEFAULT.padding, largest=6000) if DEFAULT.padding else None,
    residual=ResidualGrids(
        blocks=Grid(
            depth=32,
            forward=(1, 2, 4, 8, 16, 32),
            backward=(1, 2, 4, 8, 16),
            widths=(648, 2592, 10_368),
            pilot=96,
            largest=6000,
        ),
        rows=Grid(
            depth=16,
            forward=(),
            backward=(1, 2, 4, 8),
            widths=(320, 640, 1280),
            pilot=96,
            largest=3000,
        ),
        positions=Grid(
            depth=16,
            forward=(2, 8, 16),
            backward=(1, 4, 8),
            widths=(320, 640, 1280),
            pilot=64,
            largest=3000,
        ),
        deep=Grid(
            depth=100,
            forward=(1, 10, 30, 100),
            backward=(1, 10, 30),
            widths=(2016, 4032, 8064),
            pilot=48,
            largest=2000,
        ),
        effort=2,
    ),
    tightening=0.5,
)

BUDGETS = {budget.name: budget for budget in (QUICK, DEFAULT, LONG)}
