"""Floating-point operations of a compiled program: its matrix products and convolutions, every trip of every loop.

TPU's compiler writes every matrix product as a convolution; the dimensions of a batch of products become spatial ones
which a dilated window passes one at a time. So of a window only those places count that meet an element: not padding,
not the gaps of a dilation.
"""

import math
import re

import numpy as np

from dreamjax.pods.hlo import Computation, HloProgram, Instruction

LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")
WINDOW = re.compile(r"window=\{([^}]*)\}")


def flops(program: HloProgram) -> float:
    """Of a step on one device; a multiply-add counts 2."""
    counts = {"convolution": convolution, "dot": dot}
    return sum(
        times * counts[one.opcode](computation, one)
        for computation, one, times in program.executed()
        if one.opcode in counts
    )


def dot(computation: Computation, one: Instruction) -> float:
    """2 · outputs · contracted."""
    match = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.rest)
    left = computation.operands(one)[0].results[0].dims
    contracted = [int(n) for n in match[1].split(",") if n] if match else []
    return 2.0 * math.prod(one.results[0].dims) * math.prod(left[n] for n in contracted)


def convolution(computation: Computation, one: Instruction) -> float:
    """2 · batch · output features · input features of a group · pairs of (output place, window place) that meet one."""
    labels = LABELS.search(one.rest)
    assert labels is not None, one.name
    left, right = (operand.results[0].dims for operand in computation.operands(one))
    sizes = dict(zip(labels[3], one.results[0].dims, strict=True))
    kernel, given = dict(zip(labels[2], right, strict=True)), dict(zip(labels[1], left, strict=True))
    match = WINDOW.search(one.rest)
    window = dict(re.findall(r"(\w+)=(\S+)", match[1])) if match else {}
    spatial = sorted(label for label in labels[3] if label.isdigit())
    pairs = 1
    for place, label in enumerate(spatial):
        pairs *= _pairs(given[label], kernel[label], sizes[label], *_of_window(window, place))
    return 2.0 * sizes["b"] * sizes["f"] * kernel["i"] * pairs


def _of_window(window: dict[str, str], place: int) -> tuple[int, int, int, int]:
    """(stride, padding below, dilation of what is given, dilation of the window) along a spatial dimension."""

    def entry(name: str, default: str) -> str:
        return window[name].split("x")[place] if name in window else default

    low = int(entry("pad", "0_0").split("_")[0])
    return int(entry("stride", "1")), low, int(entry("lhs_dilate", "1")), int(entry("rhs_dilate", "1"))


def _pairs(given: int, kernel: int, outputs: int, stride: int, low: int, spread: int, apart: int) -> int:
    """How often an output's window has a place that is an element of what is given."""
    at = np.arange(outputs)[:, None] * stride + np.arange(kernel)[None] * apart - low
    return int(((at >= 0) & (at <= (given - 1) * spread) & (at % spread == 0)).sum())
