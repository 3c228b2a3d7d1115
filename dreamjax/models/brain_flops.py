"""Floating-point operations of the brain encoders for one trial, forward, counted as `flops` counts: products only.

`arguments`: those of the network's class. A training step takes three times as many, less the gradient of the signal.
"""

from collections.abc import Mapping
from typing import Any

from dreamjax.models.brain_layers import windows_of, winograd_products
from dreamjax.models.brain_module import FREQUENCIES, PERIOD

Arguments = Mapping[str, Any]


def _filled(arguments: Arguments, **defaults: Any) -> dict[str, Any]:
    return {**defaults, **arguments}


def projector(dim_in: int, features: int) -> float:
    """Return the operations of `ResidualProjector`: two linear layers."""
    return 2.0 * (dim_in + features) * features


def temporal_spatial(
    channels: int, samples: int, dim: int = 40, dim_out: int = 40, kernel: int = 25, pool: int = 51
) -> tuple[float, int]:
    """Return (the operations of `TemporalSpatial`, the numbers that it puts out)."""
    positions = windows_of(samples - kernel + 1, pool, 5)
    per_position = channels * kernel * dim + channels * dim**2 + dim * dim_out
    return 2.0 * positions * per_position, positions * dim_out


def nice(arguments: Arguments) -> float:
    """Return the operations of `TSConv`, with or without attention over sensors."""
    a = _filled(arguments, dim=40, embedding=40, attention="none", released=False)
    C, T = a["channels"], a["samples"]
    block, flat = temporal_spatial(C, T, a["dim"], a["embedding"])
    mixing = 0.0 if a["released"] else 4.0 * C**2 * T
    attention = {
        "none": 0.0,
        "self": 2.0 * T * C**2 * (1 if a["released"] else 3) + mixing,
        "graph": 2.0 * C * T**2 + mixing / 2 + (0.0 if a["released"] else 4.0 * C * T),
    }
    return attention[a["attention"]] + block + projector(flat, a["features"])


def atm(arguments: Arguments) -> float:
    """Return the operations of `ATM`."""
    a = _filled(arguments, people=10, heads=4, hidden=256, depth=1, dim=40, embedding=40)
    C, T = a["channels"], a["samples"]
    tokens, inner = C + (a["people"] > 0), T // a["heads"] * a["heads"]
    layer = 8.0 * tokens * T * inner + 4.0 * tokens**2 * inner + 4.0 * tokens * T * a["hidden"]
    block, flat = temporal_spatial(C, T, a["dim"], a["embedding"])
    identity = 2.0 * (a["people"] + 1) * T if a["people"] else 0.0
    return 2.0 * C * T**2 + identity + a["depth"] * layer + block + projector(flat, a["features"])


def eeg_project(arguments: Arguments) -> float:
    """Return the operations of `EEGProject`."""
    return projector(arguments["channels"] * arguments["samples"], arguments["features"])


def enigma(arguments: Arguments) -> float:
    """Return the operations of `ENIGMA`, the choice of a person's map among all of them included."""
    a = _filled(arguments, dim=40, embedding=4)
    block, flat = temporal_spatial(a["channels"], a["samples"], a["dim"], a["embedding"], 5, 17)
    maps = 2.0 * (a["people"] * (a["samples"] + 1) + a["channels"] * a["samples"]) * a["samples"]
    return maps + block + projector(flat, a["features"])


def brain_module(arguments: Arguments, channels: int) -> float:
    """Return the operations of `BrainModule` for so many sensors; weights over sensors are the whole batch's."""
    a = _filled(arguments, dims=2, outputs=270, dim=320, depth=2, projected=2048, mse_features=0)
    T, O, D, P = a["samples"], a["outputs"], a["dim"], a["projected"]  # noqa: E741
    linear = T * O * channels + T * O**2 + (a["people"] * O**2 + T * O**2 if a["people"] else 0)
    blocks = 0
    for i in range(a["depth"]):
        first, second = (2 ** (k % PERIOD) for k in (2 * i, 2 * i + 1))
        kernels = ((first, O if i == 0 else D, D), (second, D, D), (1, D, 2 * D))
        blocks += sum(winograd_products(T, dilation) * inputs * outputs for dilation, inputs, outputs in kernels)
    projection = T * D * 2 * D + 2 * D * P
    if a.get("aggregation", "affine") == "attention":
        projection += 2 * D * P * 256 + P * 256 + T * (2 * D + 1) * 256
    elif a.get("aggregation", "affine") == "affine":
        projection += T * 2 * D
    return 2.0 * (linear + blocks + projection + P * a["features"])


def attention_over_sensors(arguments: Arguments, channels: int) -> float:
    """Return the operations of the brain module's weights over sensors, once for a batch with one layout."""
    dims = arguments.get("dims", 2)
    return 2.0 * arguments.get("outputs", 270) * 2 * FREQUENCIES[dims] ** dims * channels


def shallow(arguments: Arguments) -> float:
    """Return the operations of `ShallowFBCSPNet`; its two kernels are multiplied once for a batch."""
    a = _filled(arguments, dim=40, taps=25, pool=75, stride=15)
    positions = windows_of(a["samples"] - a["taps"] + 1, a["pool"], a["stride"])
    return 2.0 * a["dim"] * (a["samples"] * a["channels"] * a["taps"] + positions * a["features"])


def deep4(arguments: Arguments) -> float:
    """Return the operations of `Deep4Net`; its first two kernels are multiplied once for a batch."""
    a = _filled(arguments, dim=25, taps=10, pool=3)
    products = a["samples"] * a["channels"] * a["taps"] * a["dim"]
    positions = (a["samples"] - a["taps"] + 1) // a["pool"]
    for i in range(1, 4):
        convolved = positions - a["taps"] + 1
        products += convolved * a["taps"] * 2 * (a["dim"] << (i - 1)) ** 2
        positions = convolved // a["pool"]
    return 2.0 * (products + positions * 8 * a["dim"] * a["features"])


def eegnet(arguments: Arguments) -> float:
    """Return the operations of `EEGNet`, its first convolution as a product with a banded matrix."""
    a = _filled(arguments, filters=8, mixtures=2, taps=64)
    length, dim = a["samples"] + 1 - a["taps"] % 2, a["filters"] * a["mixtures"]
    products = a["channels"] * length * (a["samples"] * a["filters"] + dim)
    second = length // 4 + 1
    return 2.0 * (products + second * dim**2 + second // 8 * dim * a["features"])
