"""Networks and inputs from the words of a command line."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

from montecarlo.digits import digits
from montecarlo.options import NetworkOptions, shape_of
from theory.errors import out_of_domain
from theory.nf_scaling import nf_scaled
from theory.specs import activations, normalizers
from theory.specs import weights as weight_specs
from theory.specs._check import integer, member, nearest
from theory.specs.activations import ACTIVATION_NAMES, Activation
from theory.specs.images import images
from theory.specs.inputs import Inputs, exchangeable, from_data
from theory.specs.networks import FeedForward, Layer, Network, Sequential
from theory.specs.normalizers import Normalizer
from theory.specs.residual import KNOWN_AS, ORDERS, Residual
from theory.specs.stationary import stationary_from_data
from theory.specs.weights import Weights
from theory.zoo import zoo

__all__ = ["build", "build_inputs", "build_network"]

_CONSTRUCTORS: Mapping[str, Callable[..., Normalizer]] = {
    name: getattr(normalizers, name)
    for name in (
        "batch_norm",
        "layer_norm",
        "rms_norm",
        "group_norm",
        "instance_norm",
        "filter_response_norm",
        "variance_norm",
        "mean_centering",
        "evonorm_s0",
        "evonorm_b0",
    )
}
_SIZED = {
    "GN": "group_norm",
    "group_norm": "group_norm",
    "EvoNorm-S0": "evonorm_s0",
    "evonorm_s0": "evonorm_s0",
}
_WEIGHTS: Mapping[str, Callable[..., Weights]] = {
    "gaussian": weight_specs.gaussian,
    "WN": weight_specs.weight_norm,
    "weight_norm": weight_specs.weight_norm,
    "SWS": weight_specs.scaled_weight_standardization,
    "scaled_weight_standardization": weight_specs.scaled_weight_standardization,
    "WC": weight_specs.centered_weights,
    "centered_weights": weight_specs.centered_weights,
}
_WITH_VARIANCE = ("gaussian", "WC", "centered_weights")
_CORRELATION = _POSITION_CORRELATION = 0.5


def build(options: NetworkOptions) -> tuple[Network, Inputs]:
    """The network and the inputs that the options name."""
    network, inputs = build_network(options), build_inputs(options)
    if options.nf_scaling:
        assert isinstance(network, Residual)
        network = nf_scaled(network, inputs)
    return network, inputs


def build_network(options: NetworkOptions) -> Network:
    """A layer of the zoo, or of a normalizer's constructor, with what the options replace.

    Parameters
    ----------
    options
        ``norm``: a name of ``theory.zoo``, a constructor's name, or either with a size: ``GN(8)``;
        ``group_size``: for group_norm and evonorm_s0, instead of the size in parentheses;
        ``eps``: added to the pool's variance, only for a normalizer that divides;
        ``activation``, ``weights``, ``weight_variance``: instead of the layer's own, None keeps
        them; ``kernel``: taps in every direction; ``padding``: ``"circular"`` or ``"zero"``;
        ``stride``: of the first layer; ``depth``: number of layers; ``residual``: order
        of a residual network, with ``skip``, ``branch``, ``maps``, ``stem`` (Gaussian, weight variance
        1).  NF scaling needs the inputs too: ``build``.

    Raises
    ------
    SpecificationError
        A name that does not exist, or parts that do not fit together.
    """
    layer = _layer(options.norm, options.group_size)
    if options.eps != 0.0:
        if layer.norm is None:
            raise out_of_domain(
                "eps", options.eps, "0 without a normalizer", "drop it or give --norm"
            )
        layer = dataclasses.replace(layer, norm=dataclasses.replace(layer.norm, eps=options.eps))
    if options.activation is not None:
        layer = dataclasses.replace(layer, activation=_activation(options.activation))
    if options.weights is not None or options.weight_variance is not None:
        weights = _weights(options.weights, options.weight_variance, layer.weights)
        layer = dataclasses.replace(layer, weights=weights)
    padding: Any = options.padding
    layer = dataclasses.replace(layer, kernel=options.kernel, padding=padding)
    if options.residual is not None:
        if options.stride != 1:
            raise out_of_domain(
                "stride",
                options.stride,
                "1 with --residual",
                "a skip keeps every position: drop it",
            )
        return _residual(layer, options)
    for name in ("skip", "branch", "maps", "stem", "nf_scaling"):
        value = getattr(options, name)
        if value not in (None, False):
            raise out_of_domain(
                name, value, "left out without --residual", "add --residual pre-activation, say"
            )
    if options.stride == 1:
        return FeedForward(layer, depth=options.depth)
    first = dataclasses.replace(layer, stride=options.stride)
    depth = integer("depth", options.depth, low=1, remedy="count the layers")
    return Sequential((first, *[layer] * (depth - 1)))


def _residual(layer: Layer, options: NetworkOptions) -> Residual:
    # Words of a command line have dashes.
    orders: dict[str, Any] = {name.replace("_", "-"): name for name in ORDERS}
    word = (options.residual or "").replace("_", "-")
    known_as = {name: order.replace("_", "-") for name, order in KNOWN_AS.items()}
    member("residual", word, orders, known_as=known_as)
    return Residual(
        layer,
        depth=options.depth,
        order=orders[word],
        skip=1.0 if options.skip is None else options.skip,
        branch=_branch(options.branch),
        maps=options.maps,
        stem=weight_specs.gaussian(weight_variance=1.0) if options.stem else None,
    )


def _branch(text: str | None) -> float | str:
    if text is None:
        return 1.0
    text = text.replace(" ", "")
    if text == "1/sqrt(L)":
        return text
    try:
        return float(text)
    except ValueError:
        raise out_of_domain(
            "branch", text, 'a number or "1/sqrt(L)"', "write --branch 0.1, say"
        ) from None


def build_inputs(options: NetworkOptions) -> Inputs:
    """``synthetic``: an exchangeable batch; ``digits``: as many handwritten digits.

    ``digits-images`` have their 8 x 8 positions, ``digits-shifted`` the average over all shifts of these.

    Raises
    ------
    SpecificationError
        Another kind, values outside their domain, or correlations and positions for images, which
        have their own and are taken as vectors.
    """
    if options.inputs == "synthetic":
        return _synthetic(options)
    if options.inputs in ("digits", "digits-images", "digits-shifted"):
        for name in ("correlation", "positions", "position_correlation", "cross_correlation"):
            value = getattr(options, name)
            if value is not None:
                raise out_of_domain(
                    name,
                    value,
                    f"left out with --inputs {options.inputs}",
                    "the images have their own; drop it or use --inputs synthetic",
                )
        data = digits(batch=options.batch)
        if options.inputs == "digits":
            return from_data(data)
        pixels = data.reshape(-1, 1, 8, 8)
        return images(pixels) if options.inputs == "digits-images" else stationary_from_data(pixels)
    raise out_of_domain(
        "inputs",
        options.inputs,
        "synthetic, digits, digits-images or digits-shifted",
        "check the spelling",
    )


def _synthetic(options: NetworkOptions) -> Inputs:
    correlation = _CORRELATION if options.correlation is None else options.correlation
    shape = (1,) if options.positions is None else shape_of(options.positions)
    beside = options.position_correlation
    if beside is None and shape != (1,):
        beside = _POSITION_CORRELATION
    return exchangeable(
        batch=options.batch,
        correlation=correlation,
        positions=shape,
        position_correlation=beside,
        cross_correlation=options.cross_correlation,
    )


def _layer(norm: str | None, group_size: int | None) -> Layer:
    if norm is None:
        if group_size is not None:
            raise out_of_domain(
                "group_size", group_size, "left out without --norm", "add --norm GN"
            )
        return zoo["plain"]
    match = re.fullmatch(r"([\w-]+?)(?:\((\d+)\))?", norm.strip())
    stem = match[1] if match else ""
    size = int(match[2]) if match and match[2] else None
    if size is not None and group_size is not None and size != group_size:
        raise out_of_domain("group_size", group_size, f"{size}, as in {norm}", "give it once")
    size = group_size if size is None else size
    if stem in _SIZED:
        return _sized(_SIZED[stem], size)
    if size is not None:
        raise out_of_domain("norm", norm, "without a size", f"sizes are for {', '.join(_SIZED)}")
    if stem in zoo:
        return zoo[stem]
    if stem in _CONSTRUCTORS:
        layer = Layer(norm=_CONSTRUCTORS[stem]())
        return _own_nonlinearity(layer)
    names = [*zoo, *_CONSTRUCTORS]
    remedy = f"{nearest(norm, dict(zip(names, names, strict=True)))}; GN(4) is a size too"
    raise out_of_domain("norm", norm, f"one of {', '.join(names)}", remedy)


def _sized(constructor: str, size: int | None) -> Layer:
    if constructor == "evonorm_s0":
        return _own_nonlinearity(Layer(norm=normalizers.evonorm_s0(size)))
    if size is None:
        raise out_of_domain("group_size", size, "an integer >= 1", 'write --norm "GN(8)", say')
    return Layer(norm=normalizers.group_norm(size))


def _own_nonlinearity(layer: Layer) -> Layer:
    """EvoNorm brings its own: its activation is the identity unless another is asked for."""
    assert layer.norm is not None
    if layer.norm.gate is None:
        return layer
    return dataclasses.replace(layer, activation=activations.identity)


def _activation(text: str) -> Activation:
    match = re.fullmatch(r"leaky_relu\(([^()]*)\)", text.strip())
    if match:
        try:
            slope: Any = float(match[1])
        except ValueError:
            slope = match[1]
        return activations.leaky_relu(slope)
    if text == "scaled_relu":
        return activations.scaled_relu
    if text == "leaky_relu" or text not in ACTIVATION_NAMES:
        names = [n for n in ACTIVATION_NAMES if n != "leaky_relu"]
        member("activation", text, [*names, "leaky_relu(slope)", "scaled_relu"])
    return Activation(name=text)


def _weights(name: str | None, variance: float | None, present: Weights) -> Weights:
    if name is None:
        if variance is None:
            return present
        if present.normalized:
            raise out_of_domain(
                "weight_variance",
                variance,
                f"left out for {present.name}",
                "its rows have a fixed norm",
            )
        return dataclasses.replace(present, weight_variance=variance)
    if name not in _WEIGHTS:
        remedy = nearest(name, {word: word for word in _WEIGHTS})
        raise out_of_domain("weights", name, "gaussian, WN, SWS or WC", remedy)
    if variance is None:
        return _WEIGHTS[name]()
    if name not in _WITH_VARIANCE:
        raise out_of_domain(
            "weight_variance", variance, f"left out for {name}", "its rows have a fixed norm"
        )
    return _WEIGHTS[name](weight_variance=variance)
