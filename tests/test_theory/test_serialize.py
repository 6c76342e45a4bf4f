"""JSON of specifications: exact, strict, the same everywhere, refused with a reason if damaged."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given

import theory as th
from theory.errors import SpecificationError, StoreError
from theory.specs import normalizers, weights
from theory.specs.activations import Activation
from theory.specs.inputs import exchangeable, from_data
from theory.specs.networks import FeedForward, Layer
from theory.specs.normalizers import Pool
from theory.specs.serialize import SCHEMA, from_dict, from_json, key, to_dict, to_json
from theory.testing import extreme_inputs, extreme_networks, residual_networks
from theory.zoo import zoo

NETWORK = FeedForward(zoo["GN(8)"], depth=50)
SAMPLES = np.random.default_rng(0).standard_normal((4, 9))


@given(extreme_networks() | residual_networks() | extreme_inputs())
def test_round_trip_is_exact(spec):
    text = to_json(spec)
    again = from_json(text)
    assert again == spec
    assert type(again) is type(spec)
    assert to_json(again) == text
    assert key(again) == key(spec)


@pytest.mark.parametrize("name", zoo)
def test_every_part_of_the_zoo_serializes_on_its_own(name):
    layer = zoo[name]
    for part in (
        layer,
        layer.weights,
        layer.activation,
        layer.norm,
        layer.norm and layer.norm.pool,
    ):
        if part is not None:
            assert from_json(to_json(part, indent=2)) == part
            assert from_dict(to_dict(part)) == part


def test_data_inputs_keep_every_bit():
    data = from_data(SAMPLES)
    again = from_json(to_json(data))
    assert again.features.tobytes() == data.features.tobytes()
    assert not again.features.flags.writeable


def test_text_is_strict_json_with_infinity_as_a_string():
    text = to_json(Layer(norm=normalizers.layer_norm()))

    def refuse(constant):
        pytest.fail(f"{constant} is not JSON")

    document = json.loads(text, parse_constant=refuse)
    assert document["schema"] == SCHEMA
    assert document["kind"] == "layer"
    assert document["norm"]["pool"]["channels"] == "inf"
    assert " " not in text
    assert from_json(text).norm.pool.channels == math.inf


def test_a_label_called_inf_stays_a_label():
    norm = normalizers.Normalizer(
        name="inf",
        pool=Pool(samples=False, positions=True, channels=2),
        centered=True,
        denominator="std",
    )
    assert from_json(to_json(norm)) == norm


def test_equal_specifications_have_one_key():
    assert key(Activation(name="relu", shift=-0.0)) == key(Activation(name="relu"))
    assert key(weights.gaussian(weight_variance=2)) == key(weights.gaussian(weight_variance=2.0))
    assert key(weights.gaussian(weight_variance=np.float64(2))) == key(weights.gaussian())
    assert key(normalizers.group_norm(np.int64(8))) == key(normalizers.group_norm(8))


def test_different_specifications_have_different_keys():
    specs = [*zoo.values(), *(layer.norm for layer in zoo.values() if layer.norm), NETWORK]
    specs += [exchangeable(batch=4, gap=gap) for gap in (0.0, 1e-300, 0.5, np.nextafter(0.5, 1))]
    assert len({key(spec) for spec in specs}) == len(set(specs)) == len(specs)


def test_key_is_pinned():
    # Stored results are found by their key: a change of these digits orphans every one of them.
    assert key(NETWORK) == "60fb1e4aeb6c0ccacf9becaa7f8d9ee2c7dc295341f47ae7cc6d30b3c86edb58"


def test_key_does_not_depend_on_the_process():
    root = Path(__file__).parents[2]
    code = (
        "from theory.zoo import zoo; from theory.specs.networks import FeedForward;"
        "from theory.specs.serialize import key; print(key(FeedForward(zoo['GN(8)'], depth=50)))"
    )
    for seed in ("0", "1"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(root)}
        output = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert output.stdout.strip() == key(NETWORK)


def test_field_order_and_white_space_do_not_matter():
    document = to_dict(NETWORK)
    shuffled = dict(reversed(document.items()))
    assert from_json(json.dumps(shuffled, indent=4)) == NETWORK


def damaged(**changes):
    return json.dumps({**to_dict(Pool(samples=True, positions=True, channels=1)), **changes})


def without(field):
    document = to_dict(Pool(samples=True, positions=True, channels=1))
    del document[field]
    return json.dumps(document)


@pytest.mark.parametrize(
    ("text", "argument", "remedy"),
    [
        (damaged(schema=SCHEMA + 1), "schema = 2", "upgrade"),
        (damaged(schema=0), "schema = 0", "to_json"),
        (damaged(schema=True), "schema = True", "to_json"),
        (damaged(schema="1"), "schema = '1'", "to_json"),
        (without("schema"), "schema = None", "to_json"),
        (damaged(kind="pond"), "kind = 'pond'", "upgrade"),
        (damaged(kind=["pool"]), "kind = ['pool']", "spelling"),
        (without("kind"), "kind = None", "spelling"),
        (without("channels"), "missing ['channels']", "complete"),
        (damaged(color="red"), "extra ['color']", "complete"),
        ("", "text = ''", "restore"),
        (to_json(NETWORK)[:-7], "text = ", "restore"),
        (b"\xff\xfe{", "text = ", "restore"),
        ("[1]", "document = 'list'", "to_json"),
        ("null", "document = 'NoneType'", "to_json"),
        (damaged(channels=math.nan), "number = 'NaN'", '"inf"'),
        (damaged(channels=math.inf), "number = 'Infinity'", '"inf"'),
        (damaged().replace("1,", "1e999,", 1), "number = '1e999'", '"inf"'),
        ('{"schema": 1, "schema": 1, "kind": "pool"}', "fields = ['schema']", "repetition"),
        ("[" * 100_000, "text = ", "restore"),
        ('{"schema": 1' + "1" * 5000 + "}", "text = ", "restore"),
    ],
)
def test_damaged_documents_are_refused_with_a_reason(text, argument, remedy):
    with pytest.raises(StoreError) as caught:
        from_json(text)
    message = str(caught.value)
    assert argument in message
    assert " is not valid: it must be " in message
    assert remedy in message.rsplit(";", 1)[1]


@pytest.mark.parametrize(
    ("text", "argument"),
    [
        (damaged(channels=-1), "channels = -1"),
        (damaged(channels="-inf"), "channels = '-inf'"),
        (damaged(samples="yes"), "samples = 'yes'"),
        (damaged(samples="inf"), "samples = 'inf'"),
        (damaged(samples={**to_dict(NETWORK)["layer"]["activation"]}), "samples = Activation"),
        (to_json(from_data(SAMPLES)).replace("[[", "[[[],"), "features = "),
        (to_json(exchangeable(batch=4, gap=0.5)).replace("4", "0"), "batch = 0"),
    ],
)
def test_values_are_checked_as_in_code(text, argument):
    with pytest.raises(SpecificationError) as caught:
        from_json(text)
    assert str(caught.value).startswith(argument)


@pytest.mark.parametrize("value", [None, 3, {}, "relu", normalizers.batch_norm, object()])
def test_only_specifications_are_written(value):
    for write in (to_dict, to_json, key):
        with pytest.raises(SpecificationError, match=r"^spec = "):
            write(value)


def test_only_text_is_read():
    with pytest.raises(SpecificationError, match=r"^text = 'dict'"):
        from_json(to_dict(NETWORK))


N, X = np.int64, np.float64
NUMPY = {
    "layer": (
        th.Layer(norm=th.group_norm(N(4)), kernel=N(3), stride=N(2), channels=X(2.0)),
        th.Layer(norm=th.group_norm(4), kernel=3, stride=2, channels=2.0),
    ),
    "feed-forward": (th.FeedForward(th.Layer(), depth=N(3)), th.FeedForward(th.Layer(), depth=3)),
    "residual": (
        th.Residual(th.Layer(), depth=N(2), maps=N(2), skip=X(1), scales=(X(1), X(2))),
        th.Residual(th.Layer(), depth=2, maps=2, skip=1.0, scales=(1.0, 2.0)),
    ),
    "pool": (
        th.Pool(samples=True, positions=False, channels=N(2)),
        th.Pool(samples=True, positions=False, channels=2),
    ),
    "average": (th.AveragePool(N(2)), th.AveragePool(2)),
    "batch": (th.exchangeable(batch=N(3), gap=X(0.5)), th.exchangeable(batch=3, gap=0.5)),
    "sides": (
        th.exchangeable(batch=N(3), gap=0.5, positions=(N(4), N(2)), position_gap=X(0.5)),
        th.exchangeable(batch=3, gap=0.5, positions=(4, 2), position_gap=0.5),
    ),
    "shape": (
        th.from_covariance(np.eye(6), positions=(N(1), N(3))),
        th.from_covariance(np.eye(6), positions=(1, 3)),
    ),
    "slope": (th.leaky_relu(X(0.5)).affine(scale=N(2)), th.leaky_relu(0.5).affine(scale=2.0)),
}


@pytest.mark.parametrize("name", NUMPY)
def test_numbers_of_numpy_are_taken_for_what_they_are(name):
    """One value, hash, key, JSON and repr."""
    given, plain = NUMPY[name]
    assert given == plain
    assert hash(given) == hash(plain)
    assert th.key(given) == th.key(plain)
    assert th.to_json(given) == th.to_json(plain)
    assert th.from_json(th.to_json(given)) == plain
    assert repr(given) == repr(plain)
