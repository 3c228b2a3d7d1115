"""Operations of compiled programs, against those that are counted by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamjax.pods import hlo, roofline


def program(shape, operands, attributes, opcode="convolution"):
    def array(dims):
        return f"f32[{','.join(map(str, dims))}]{{0}}"

    (left, dims), (right, other) = operands
    lines = [f"  %{left} = {array(dims)} parameter(0)", f"  %{right} = {array(other)} parameter(1)"]
    lines.append(f"  ROOT %c = {array(shape)} {opcode}(%{left}, %{right}), {attributes}")
    return hlo.read("\n".join(["ENTRY %main (a: f32[1]) -> f32[1] {", *lines, "}"]))


@pytest.mark.parametrize(
    ("shape", "left", "right", "attributes", "expected"),
    [
        ((8, 5), (8, 3), (3, 5), "dim_labels=bf_io->bf", 2 * 8 * 3 * 5),
        # a batch of 4 products of 6 x 3 with 3 x 5, as TPU's compiler writes it
        (
            (4, 6, 5),
            (4, 6, 3),
            (4, 3, 5),
            "window={size=4 stride=3 lhs_dilate=4}, dim_labels=0bf_0io->0bf",
            4 * 2 * 6 * 3 * 5,
        ),
        # 3 x 3 with padding over 4 x 4 pixels: 10 of 12 places along each side are inside
        (
            (2, 4, 4, 7),
            (2, 4, 4, 3),
            (3, 3, 3, 7),
            "window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f",
            2 * 2 * 7 * 3 * 10 * 10,
        ),
        # every second pixel, none of them padding
        ((1, 3, 7), (1, 7, 3), (3, 3, 7), "window={size=3 stride=2}, dim_labels=b0f_0io->b0f", 2 * 7 * 3 * 9),
        # two groups: an output sees 2 of 4 input features
        ((1, 8), (1, 4), (2, 8), "dim_labels=bf_io->bf, feature_group_count=2", 2 * 8 * 2),
    ],
)
def test_convolutions_are_counted_by_hand(shape, left, right, attributes, expected):
    assert roofline.flops(program(shape, [("a", left), ("b", right)], attributes)) == expected


def test_products_of_a_loop_count_as_often_as_it_runs():
    """A dot of 16 x 8 with 8 x 8, five times; and a batched one of three, of real programs of this machine."""

    def repeated(x, w):
        return jax.lax.scan(lambda c, _: (jnp.tanh(c @ w), None), x, None, length=5)[0]

    text = jax.jit(repeated).lower(jnp.ones((16, 8)), jnp.ones((8, 8))).compile().as_text()
    assert roofline.flops(hlo.read(text)) == 5 * 2 * 16 * 8 * 8
    batched = jax.jit(lambda a, b: jnp.einsum("bij,bjk->bik", a, b))
    text = batched.lower(jnp.ones((3, 4, 5)), jnp.ones((3, 5, 6))).compile().as_text()
    assert roofline.flops(hlo.read(text)) == 3 * 2 * 4 * 5 * 6


def test_a_convolution_of_this_machine_is_counted_as_its_definition_says():
    """Stride 2, dilation 2, padding: places outside the image do no work."""
    x, w = jnp.ones((2, 9, 9, 3)), jnp.ones((3, 3, 3, 4))

    def convolve(x, w):
        return jax.lax.conv_general_dilated(
            x, w, (2, 2), ((2, 1), (2, 1)), rhs_dilation=(2, 2), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    text = jax.jit(convolve).lower(x, w).compile().as_text()
    out = np.asarray(convolve(x, w))  # of ones: how many products each output is the sum of
    if " convolution(" not in text:
        pytest.skip("this compiler calls a library in place of a convolution")
    assert roofline.flops(hlo.read(text)) == pytest.approx(2 * out.sum())
