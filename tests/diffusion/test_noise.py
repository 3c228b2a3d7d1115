"""Noise depends on the seed, the image, the purpose and the step, and on nothing else."""

import functools

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dreamjax.diffusion import sampling

SHAPE = (8, 8, 4)
INDEX = np.array([7, 0, 123456, 2, 3, 5, 2**31, 11], np.uint32)


@pytest.fixture(scope="module")
def together():
    return np.asarray(sampling.draw_noise(0, INDEX, "start", SHAPE))


@pytest.mark.parametrize(("batch", "compiled"), [(1, True), (3, True), (8, True), (3, False)])
def test_an_image_has_the_same_noise_in_any_batch(batch, compiled, together):
    draw = functools.partial(sampling.draw_noise, purpose="start", shape=SHAPE)
    draw = jax.jit(draw) if compiled else draw
    order = np.random.default_rng(0).permutation(8)
    for rows in order[: 8 - 8 % batch].reshape(-1, batch):
        np.testing.assert_array_equal(draw(0, INDEX[rows]), together[rows])


def test_an_image_has_the_same_noise_on_any_device(together):
    mesh = Mesh(np.array(jax.devices()).reshape(8), ("data",))
    split = NamedSharding(mesh, PartitionSpec("data"))
    draw = jax.jit(functools.partial(sampling.draw_noise, purpose="start", shape=SHAPE), out_shardings=split)
    drawn = draw(0, jax.device_put(INDEX, split))
    assert drawn.sharding == split
    np.testing.assert_array_equal(drawn, together)


def test_noise_differs_between_seeds_images_purposes_and_steps(together):
    """256 independent normal numbers correlate by 1 / 16 at one σ: 0.4 is out of the question."""
    others = [
        sampling.draw_noise(1, INDEX, "start", SHAPE)[0],
        sampling.draw_noise(0, INDEX, "step", SHAPE)[0],
        sampling.draw_noise(0, INDEX, "start", SHAPE, step=1)[0],
        *together[1:],
    ]
    for other in others:
        assert abs(np.corrcoef(together[0].ravel(), np.ravel(other))[0, 1]) < 0.4


def test_it_is_standard_normal():
    """Of 2^17 numbers of 8 images: mean 0 ± 5 / √n, mean square 1 ± 5 √(2 / n), share beyond 1.96 σ 5 %."""
    x = np.asarray(sampling.draw_noise(3, INDEX, "start", (256, 64))).ravel()
    n = len(x)
    assert abs(x.mean()) < 5 / n**0.5
    assert abs((x**2).mean() - 1) < 5 * (2 / n) ** 0.5
    assert abs((np.abs(x) > 1.959964).mean() - 0.05) < 5 * (0.05 * 0.95 / n) ** 0.5


def test_the_environments_choice_of_generator_does_not_matter(together):
    with jax.default_prng_impl("rbg"):
        np.testing.assert_array_equal(sampling.draw_noise(0, INDEX[:3], "start", SHAPE), together[:3])
