"""Files from others are data; the packages run nothing that they read, and reach no network."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import montecarlo
import theory as th
from montecarlo.pieces import escape, table

ROOTS = [Path(str(package.__file__)).parent for package in (th, montecarlo)]
FILES = [path for root in ROOTS for path in sorted(root.rglob("*.py"))]
# What runs what it reads, starts programs, or opens connections.
MODULES = {
    "pickle", "dill", "cloudpickle", "marshal", "shelve", "yaml", "xmlrpc", "socket", "ssl", "http",
    "urllib", "ftplib", "smtplib", "requests", "ctypes", "subprocess", "code", "runpy",
}  # fmt: skip
CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "sympify",
    "parse_expr",
    "system",
    "popen",
    "read_pickle",
}

HARMLESS = {("re", "compile"), ("platform", "system")}


def dangerous(source: str) -> set[str]:
    """Imports and calls that a file of these packages must not have."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] in MODULES}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            found.add(str(node.module))
        elif isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            owner = getattr(getattr(node.func, "value", None), "id", "")
            if name in CALLS and (owner, name) not in HARMLESS:
                found.add(name)
            for word in node.keywords:
                if word.arg == "allow_pickle" and getattr(word.value, "value", True) is not False:
                    found.add("allow_pickle")
            if name == "load" and getattr(getattr(node.func, "value", None), "id", "") == "np":
                words = {word.arg for word in node.keywords}
                found |= set() if "allow_pickle" in words else {"np.load without allow_pickle"}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: "/".join(path.parts[-3:]))
def test_nothing_that_is_read_is_run(path: Path) -> None:
    assert dangerous(path.read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from urllib.request import urlopen", "eval('1')", "np.load(f)",
        "np.load(f, allow_pickle=True)", "sp.sympify(text)", "os.system('a')", "import yaml",
    ],
)  # fmt: skip
def test_the_search_finds(source: str) -> None:
    assert dangerous(source)


def test_specifications_are_only_data() -> None:
    """Names in a file choose among registered classes; no attribute or module is looked up."""
    for kind in (
        "builtins.eval",
        "os.system",
        "__import__",
        "Layer",
        "object",
        "theory.specs.networks.Layer",
    ):
        with pytest.raises(th.StoreError, match="kind = "):
            th.from_json(f'{{"schema": 1, "kind": "{kind}", "args": ["true"]}}')


def test_text_of_others_is_escaped() -> None:
    evil = "<script>alert('x')</script>&\"<img src=x onerror=alert(1)>"
    page = escape(evil) + table((evil,), [(evil,)], text=(0,))
    assert "<script" not in page
    assert "<img" not in page


def test_no_network_is_needed() -> None:
    """Predict, simulate with workers and a store, plot: connections out of this machine fail."""
    code = """
import socket, sys, tempfile, pathlib
real = socket.socket.connect
def connect(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6):
        raise SystemExit(f"connects to {address}")
    return real(self, address)
def resolve(*arguments, **more):
    raise SystemExit(f"resolves {arguments}")
socket.socket.connect = connect
socket.getaddrinfo = socket.gethostbyname = resolve
import matplotlib
matplotlib.use("Agg")
import theory as th, montecarlo as mc
from montecarlo.digits import digits
net = th.FeedForward(th.Layer(norm=th.batch_norm()), depth=2)
inputs = th.from_data(digits(batch=4))
folder = pathlib.Path(tempfile.mkdtemp())
pred = th.predict(net, inputs)
sim = mc.simulate(net, inputs, width=16, replicates=4, workers=2, store=folder / "runs.db")
mc.compare(pred, sim).plot().savefig(folder / "a.png")
pred.save(folder / "a.json"); th.Prediction.load(folder / "a.json")
sim.save(folder / "b.json"); mc.load(folder / "b.json")
th.symbolic.similarity_map(th.Layer()).value(c=0.5)
import montecarlo.verify, montecarlo.report
print("no connection")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "no connection", done.stderr
