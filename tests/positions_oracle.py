"""Pools over exchangeable positions in mpmath: nested quadrature of the naive Laplace integrals.

a = 2s/N = v^2, b = 2t/N = z^2 turn (ab)^{-1/2} da db into 4 dv dz, and v = scale sinh(tau) makes the
plain trapezoidal rule exponentially convergent (strip pi/2); one-sample integrals take u = scale e^tau.
Inverses, determinants and differences are taken as they stand, at 50 digits; derivatives are central
differences at that precision.  Shares neither formulas that avoid cancellation nor nodes with the code
under test.

    python tests/positions_oracle.py        writes positions_truth.json anew (some minutes)
"""

from __future__ import annotations

import json
from pathlib import Path

import mpmath as mp

TRUTH = Path(__file__).with_name("positions_truth.json")
DIGITS = 50
STEP = mp.mpf(1) / 8
RELU, LEAKY, IDENTITY, ABS = (1.0, 0.0), (1.0, -0.2), (1.0, -1.0), (1.0, 1.0)
FIELDS = (
    "positions", "group_size", "centered", "rms", "ddof", "eps", "slopes",
    "contrast", "mean", "contrast_distance", "mean_distance",
)  # fmt: skip


def cases():
    """(positions, group_size, centered, rms, ddof, eps, slopes, lambda_p, lambda_m, D_p, D_m)."""
    found = []

    def add(s, g, spectrum, *, centered=True, rms=False, ddof=0, eps=0.0, slopes=RELU):
        found.append((s, g, centered, rms, ddof, eps, slopes, *map(float, spectrum)))

    def spread(s, gap_w, far, mean_far):
        """q = 1 and distances relative to the eigenvalues."""
        contrast, mean = gap_w, s - (s - 1) * gap_w
        return contrast, mean, far * contrast, mean_far * mean

    # N from 2 to 10^6, ordinary and nearly equal samples.
    sizes = [
        (1, 2), (1, 3), (1, 4), (1, 8), (2, 1), (3, 1), (4, 1), (16, 1), (2, 2), (4, 2), (16, 2), (16, 8),
        (64, 4), (256, 16), (1000, 1000), (10**6, 1),
    ]  # fmt: skip
    for s, g in sizes:
        add(s, g, spread(s, 0.5, 0.7, 0.3))
        if s * g > 2:
            add(s, g, spread(s, 0.3, 1e-10, 2e-10))
    # Nearly equal positions, nearly equal samples, both, opposite and independent samples.
    for s, g in ((4, 2), (16, 1), (16, 4), (1000, 1000)):
        add(s, g, spread(s, 1e-10, 0.9, 1e-10), slopes=LEAKY)
        add(s, g, spread(s, 1e-8, 1e-8, 1e-8))
        add(s, g, spread(s, 1e-6, 1.3, 0.9))
        add(s, g, spread(s, 0.8, 1.9, 1.7), slopes=LEAKY)
    add(16, 8, spread(16, 1e-14, 0.8, 1e-15))
    add(16, 8, spread(16, 0.3, 1.0, 0.2))
    # Uncentered pools, raw numerators, centered numerators over an rms.
    for s, g in ((1, 1), (2, 1), (4, 1), (16, 1), (16, 4), (10**6, 1)):
        add(s, g, spread(s, 0.6, 0.5, 0.2), centered=False, rms=True)
        if s * g > 2:
            add(s, g, spread(s, 0.2, 1e-10, 1e-9), centered=False, rms=True, slopes=LEAKY)
    for s, g in ((6, 1), (8, 2), (64, 4)):
        add(s, g, spread(s, 0.6, 0.5, 0.2), centered=False)
        add(s, g, spread(s, 0.6, 1e-10, 1e-9), centered=False, slopes=LEAKY)
        add(s, g, spread(s, 0.6, 0.5, 0.2), rms=True)
    # eps and ddof, other slopes.
    for eps in (1e-5, 0.1, 3.0):
        add(2, 1, spread(2, 0.5, 0.5, 0.7), eps=eps, ddof=1)
        add(16, 4, spread(16, 0.3, 1e-10, 1e-10), eps=eps, ddof=1)
        add(8, 1, spread(8, 0.3, 0.4, 0.1), centered=False, rms=True, eps=eps, slopes=LEAKY)
        add(3, 1, spread(3, 0.3, 0.4, 0.1), centered=False, eps=eps)
    for slopes in (IDENTITY, ABS):
        add(16, 2, spread(16, 0.3, 0.8, 0.1), slopes=slopes)
        add(5, 1, spread(5, 0.3, 0.2, 0.1), slopes=slopes)
    return found


def truth(case):
    """Strings of (K_q - K_w, K_q + (S-1) K_w, D_p', D_m', E[x]) and of T acting on (pi_b, pi_x)."""
    with mp.workdps(DIGITS):
        one = _Integrals(case)
        forward = one.forward()
        rows = one.derivatives() if one.rank > 1 or one.eps else None
        text = [mp.nstr(x, 20) for x in forward]
        return text, rows and [[mp.nstr(x, 20) for x in row] for row in rows]


class _Integrals:
    def __init__(self, case):
        s, g, centered, rms, ddof, eps, slopes, *spectrum = case
        self.s, self.g, self.n = s, g, mp.mpf(s * g - ddof)
        self.eps = mp.mpf(eps)
        self.a, self.b = map(mp.mpf, slopes)
        self.lp, self.lm, self.dp, self.dm = map(mp.mpf, spectrum)
        self.counts = (g * (s - 1), g if rms else g - 1)
        self.rank = sum(self.counts)
        tilted = mp.mpf(1) if rms and not centered else 1 - mp.mpf(1) / g
        untilted = mp.mpf(1) / g if not (rms or centered) else mp.mpf(0)
        # Weights of (contrasts, tilted mean, untilted mean), same position and other position.
        self.same = (1 - mp.mpf(1) / s, tilted / s, untilted / s)
        self.other = (-mp.mpf(1) / s, tilted / s, untilted / s)
        total = self.counts[0] * self.lp + self.counts[1] * self.lm + self.n * self.eps
        self.scale = mp.sqrt(2 / total)

    def dual(self, first, second, cross):
        """V_phi of [[first, cross], [cross, second]]."""
        root = mp.sqrt(first * second)
        c = max(min(cross / root, 1), -1)
        t = mp.acos(c)
        kappa = (mp.sin(t) + (mp.pi - t) * c) / mp.pi
        return root * ((self.a + self.b) ** 2 * kappa - 2 * self.a * self.b * c) / 2

    def one(self, u):
        """(weight, K_q and K_w integrands, variance) at tilt u."""
        weight = mp.exp(-self.n * self.eps * u / 2)
        sizes = []
        for size, count in zip((self.lp, self.lm), self.counts, strict=True):
            weight *= (1 + size * u) ** (-mp.mpf(count) / 2)
            sizes.append(size / (1 + size * u))
        sizes.append(self.lm)
        variance = mp.fdot(self.same, sizes)
        cross = mp.fdot(self.other, sizes)
        q = weight * self.dual(variance, variance, variance)
        w = weight * self.dual(variance, variance, cross) if self.s > 1 else q
        return weight, q, w, variance

    def two(self, a, b, mu):
        """K_b and K_x integrands."""
        weight = mp.exp(-self.n * self.eps * (a + b) / 2)
        table = []
        for size, cross, count in zip((self.lp, self.lm), mu, self.counts, strict=True):
            det = (1 + size * a) * (1 + size * b) - cross**2 * a * b
            weight *= det ** (-mp.mpf(count) / 2)
            bare = size**2 - cross**2
            table.append(((size + b * bare) / det, (size + a * bare) / det, cross / det))
        table.append((self.lm, self.lm, mu[1]))
        first, second, same = (mp.fdot(self.same, column) for column in zip(*table, strict=True))
        other = mp.fdot(self.other, [row[2] for row in table])
        k_b = weight * self.dual(first, second, same)
        return k_b, (weight * self.dual(first, second, other) if self.s > 1 else k_b)

    def forward(self):
        def at(tau):
            u = self.scale**2 * mp.exp(tau)
            weight, q, w, variance = self.one(u)
            root = weight * mp.sqrt(variance) * (self.a + self.b) / (mp.pi * mp.sqrt(2))
            return u * (q - w), u * (q + (self.s - 1) * w), mp.sqrt(u) * root

        contrast, mean, first = _line(at)
        half = self.n / 2
        mu = (self.lp - self.dp, self.lm - self.dm)

        def pair(tau, other):
            a, b, jacobian = self._point(tau, other)
            _, q, w, _ = self.one(a + b)
            k_b, k_x = self.two(a, b, mu)
            low, high = q - k_b, w - k_x
            return jacobian * (low - high), jacobian * (low + (self.s - 1) * high)

        far, mean_far = _plane(pair)
        return [half * contrast, half * mean, half * far, half * mean_far, mp.sqrt(half) * first]

    def derivatives(self):
        """T_bb, T_bx; T_xb, T_xx = dK_b/db, (S-1) dK_x/db; dK_b/dx/(S-1), dK_x/dx."""
        mu = (self.lp - self.dp, self.lm - self.dm)
        steps = [
            mp.mpf(10) ** -12 * min(d, 2 * x - d) if d else mp.mpf(0)
            for x, d in zip((self.lp, self.lm), (self.dp, self.dm), strict=True)
        ]

        def at(tau, other):
            a, b, jacobian = self._point(tau, other)
            found = []
            for k, h in enumerate(steps):
                if not h:
                    found += [mp.mpf(0), mp.mpf(0)]
                    continue
                up, down = ([m + sign * h * (i == k) for i, m in enumerate(mu)] for sign in (1, -1))
                high, low = self.two(a, b, up), self.two(a, b, down)
                found += [jacobian * (x - y) / (2 * h) for x, y in zip(high, low, strict=True)]
            return found

        half, s = self.n / 2, self.s
        b_p, x_p, b_m, x_m = (half * value for value in _plane(at))
        if s == 1:
            return [[b_m, mp.mpf(0)], [mp.mpf(0), mp.mpf(0)]]
        # mu_p = b - x, mu_m = b + (S-1) x
        return [
            [b_p + b_m, (s - 1) * (x_p + x_m)],
            [(-b_p + (s - 1) * b_m) / (s - 1), -x_p + (s - 1) * x_m],
        ]

    def _point(self, tau, other):
        v, z = self.scale * mp.sinh(tau), self.scale * mp.sinh(other)
        jacobian = 4 / mp.pi * self.scale**2 * mp.cosh(tau) * mp.cosh(other)
        return v * v, z * z, jacobian


def _line(function):
    """Trapezoidal sum over the line, both ways until terms no longer matter."""
    total = [STEP * x for x in function(mp.mpf(0))]
    for sign in (1, -1):
        k, quiet = 1, 0
        while quiet < 6:
            terms = [STEP * x for x in function(sign * k * STEP)]
            total = [x + y for x, y in zip(total, terms, strict=True)]
            quiet = quiet + 1 if _negligible(terms, total) and k > 8 else 0
            k += 1
    return total


def _plane(function):
    """The same over the quadrant; the integrand is symmetric."""

    def column(k):
        total, j, quiet = None, k, 0
        while quiet < 6:
            factor = STEP**2 * (1 if j == k else 2) / ((1 if k else 2) * (1 if j else 2))
            terms = [factor * x for x in function(k * STEP, j * STEP)]
            total = terms if total is None else [x + y for x, y in zip(total, terms, strict=True)]
            quiet = quiet + 1 if _negligible(terms, total) and j > 8 else 0
            j += 1
        return total

    total, k, quiet = column(0), 1, 0
    while quiet < 6:
        terms = column(k)
        total = [x + y for x, y in zip(total, terms, strict=True)]
        quiet = quiet + 1 if _negligible(terms, total) and k > 8 else 0
        k += 1
    return total


def _negligible(terms, total):
    return all(abs(x) <= abs(y) * mp.mpf(10) ** -20 for x, y in zip(terms, total, strict=True))


def main():
    """Compute every case and write the file."""
    table = []
    for number, case in enumerate(cases()):
        values, pull = truth(case)
        table.append({**dict(zip(FIELDS, case, strict=True)), "values": values, "pull": pull})
        print(number, case, values, flush=True)
    TRUTH.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
