"""Attention by hand is the library's, forward and backward: masked, causal, to another sequence, in pieces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh
from scipy.stats import norm

from dreamjax.errors import UserError
from dreamjax.models import attention
from dreamjax.models.attention import attend
from dreamjax.models.layers import gelu
from dreamjax.parallel import environment


def check(queries, keys, *, masked=False, causal=False):
    names = iter(jax.random.split(jax.random.key(0), 5))
    q = jax.random.normal(next(names), (3, queries, 4, 8))
    k, v = (jax.random.normal(next(names), (3, keys, 4, 8)) for _ in range(2))
    ok = jax.random.bernoulli(next(names), 0.6, (3, keys)).at[:, 0].set(True) if masked else None
    weight = jax.random.normal(next(names), (3, queries, 4, 8))

    def scalar(implementation):
        def loss(q, k, v):
            return (attend(q, k, v, ok, causal=causal, implementation=implementation) * weight).sum()

        return jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(q, k, v)

    (ours, gradients), (theirs, expected) = scalar("saved"), scalar("xla")
    np.testing.assert_allclose(ours, theirs, rtol=2e-5)
    for gradient, wanted in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(gradient, wanted, atol=5e-6)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_saved_attention_is_the_library_s_forward_and_backward(masked, causal):
    check(17, 17, masked=masked, causal=causal)


def test_saved_attention_to_another_sequence():
    check(17, 5, masked=True)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("queries", [64, 17])  # in four pieces a head, and as a whole
def test_pieces_of_heads_change_nothing(queries, masked, causal, monkeypatch):
    monkeypatch.setattr(attention, "KEPT_BYTES", 0)
    monkeypatch.setattr(attention, "PIECE_BYTES", 4 * 3 * 64 * 16)
    check(queries, queries, masked=masked, causal=causal)


def test_pieces_are_cut_from_a_long_sequence():
    q = jax.ShapeDtypeStruct((1, 4096, 8, 40), jnp.float32)
    text = jax.jit(lambda q: attend(q, q, q, implementation="saved")).lower(q).compile().as_text()
    assert "f32[1,256,4096]" in text
    assert "4096,4096]" not in text


def test_pallas_is_the_same_attention_where_its_kernel_cannot_run():
    q = jax.random.normal(jax.random.key(0), (1, 128, 2, 8))
    np.testing.assert_array_equal(attend(q, q, q, implementation="pallas"), attend(q, q, q, implementation="xla"))


def test_gelu_s_gradient_is_that_of_x_times_the_normal_distribution():
    x, h = np.linspace(-6, 6, 241), 1e-4
    slope = ((x + h) * norm.cdf(x + h) - (x - h) * norm.cdf(x - h)) / (2 * h)
    np.testing.assert_allclose(jax.vmap(jax.grad(gelu))(jnp.asarray(x, jnp.float32)), slope, atol=1e-6)


def chosen(kind, capability, *, dtype=jnp.bfloat16, width=64, asked="auto"):
    """The implementation that is taken for devices of a kind, which need not be attached."""
    mesh = AbstractMesh((8,), ("data",), abstract_device=AbstractDevice("a device", None, kind))
    token = environment.CAPABILITY.set(capability)
    try:
        with jax.sharding.use_abstract_mesh(mesh):
            one = jax.ShapeDtypeStruct((2, 33, 4, width), dtype)
            return attention._implementation_for(asked, one, one, None)
    finally:
        environment.CAPABILITY.reset(token)


@pytest.mark.parametrize(
    ("kind", "capability", "given", "expected"),
    [
        ("gpu", (9, 0), {}, "cudnn"),
        ("gpu", (8, 0), {}, "cudnn"),
        ("gpu", (9, 0), {"width": 160}, "cudnn"),  # Stable Diffusion 1.5's widest heads
        ("gpu", (8, 0), {"width": 160}, "xla"),
        ("gpu", (9, 0), {"width": 36}, "xla"),
        ("gpu", (9, 0), {"dtype": jnp.float32}, "xla"),
        ("gpu", (7, 5), {}, "xla"),
        ("gpu", None, {}, "xla"),
        ("tpu", None, {}, "xla"),
        ("cpu", None, {}, "saved"),
    ],
)
def test_auto_picks_the_implementation_for_the_devices_of_the_mesh(kind, capability, given, expected):
    assert chosen(kind, capability, **given) == expected


def test_refuses_the_fused_kernel_for_heads_that_it_does_not_have():
    assert chosen("gpu", (8, 0), asked="cudnn") == "cudnn"
    with pytest.raises(UserError, match="bfloat16 heads of width 160 on this GPU: use attention=auto"):
        chosen("gpu", (8, 0), width=160, asked="cudnn")


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("queries", "keys"), [(33, 33), (64, 77), (7, 8)])
def test_padding_to_even_lengths_changes_nothing(queries, keys, masked, causal):
    if causal and queries != keys:
        keys = queries
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=(2, n, 3, 8)), jnp.float32) for n in (queries, keys, keys))
    ok = jnp.asarray(np.arange(keys) < [[keys], [5]]) if masked else None
    dy = jnp.asarray(rng.normal(size=q.shape), jnp.float32)

    def both(function):
        def forward_and_back(*qkv):
            y, pull = jax.vjp(function, *qkv)
            return y, *pull(dy)

        return jax.jit(forward_and_back)(q, k, v)

    mask = None if ok is None else ok[:, None, None]
    padded = both(lambda q, k, v: attention.of_even_length(q, k, v, ok, causal=causal, kind="xla"))
    plain = both(lambda q, k, v: jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=causal))
    for one, other in zip(padded, plain, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
