"""What we are measured against, and how two sides are timed."""

from __future__ import annotations

import math
import time

import pytest


class Torchs:
    """The same network in PyTorch: gradients with respect to the activations only."""

    def __init__(self, norm, *, width, batch, depth, redraw):
        self.width, self.depth = width, depth
        self.torch = pytest.importorskip("torch")
        self.torch.set_num_threads(1)
        self.functional = self.torch.nn.functional
        self.kind = None if norm is None else norm.name
        self.inputs = self.torch.randn(batch, width)
        self.cotangent = self.torch.randn(batch, width)
        self.weights = None if redraw else self.draw()

    def draw(self):
        scale = math.sqrt(2 / self.width)
        return [self.torch.randn(self.width, self.width).mul_(scale) for _ in range(self.depth)]

    def normalize(self, h):
        match self.kind:
            case "BN":
                return self.functional.batch_norm(h, None, None, training=True)
            case "LN":
                return self.functional.layer_norm(h, (self.width,))
            case "GN(8)":
                return self.functional.group_norm(h, self.width // 8)
        return h

    def __call__(self):
        hidden, x = [], self.inputs
        for weight in self.weights or self.draw():
            h = self.functional.linear(x, weight)
            if not hidden:
                h.requires_grad_()
            h.retain_grad()
            hidden.append(h)
            x = self.torch.relu(self.normalize(h))
        x.backward(self.cotangent)
        return [float(h.grad.square().sum()) for h in hidden]


def alternate(*functions, rounds):
    """Best time of each, measured in turns so that a busy machine slows all alike."""
    best = [math.inf] * len(functions)
    for _ in range(rounds):
        for index, function in enumerate(functions):
            start = time.perf_counter()
            function()
            best[index] = min(best[index], time.perf_counter() - start)
    return best
