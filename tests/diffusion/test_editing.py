"""Images from images, as diffusers' pipelines make them: their start, their calls, their blending."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamjax.diffusion import guidance, sampling
from dreamjax.diffusion.schedule import NoiseSchedule

pytest.importorskip("diffusers")
import torch

from tests.diffusion.oracle import (
    INDEX,
    SEED,
    SHAPE,
    STABLE,
    difference,
    double_precision,
    run,
    sampled,
    scheduler,
    toy,
)

pytestmark = pytest.mark.usefixtures("quick_compiles")
SAMPLERS = list(sampling.SAMPLERS)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(3).normal(size=(2, *SHAPE)).astype(np.float32)


@pytest.fixture(scope="module")
def drawn():
    return sampling.draw_noise(SEED, INDEX, "start", SHAPE)


def torched(x):
    return torch.tensor(np.asarray(x), dtype=torch.float32)


@pytest.mark.parametrize("strength", [0.2, 0.75, 1.0])
@pytest.mark.parametrize("name", SAMPLERS)
def test_img2img_is_that_of_diffusers(name, strength, images, drawn, monkeypatch):
    """10 steps, of which the pipeline's own get_timesteps leaves 2, 7 and 10."""
    from diffusers import StableDiffusionImg2ImgPipeline

    with double_precision():
        theirs = scheduler(name, STABLE)
        theirs.set_timesteps(10)
        pipeline = types.SimpleNamespace(scheduler=theirs)
        calls, count = StableDiffusionImg2ImgPipeline.get_timesteps(pipeline, 10, strength, None)
        x = theirs.add_noise(torched(images), torched(drawn), calls[:1].repeat(2))
        expected = run(theirs, x, 10, monkeypatch, first=10 - count, started=True)

    plan = sampling.plan(name, NoiseSchedule(**STABLE), 10, strength=strength)
    np.testing.assert_allclose(plan.timesteps, calls, rtol=1e-6)
    start = sampling.starts_from(plan, images, drawn)
    assert difference(start, x.numpy()) < 1e-6
    assert difference(sampled(start, plan), expected) < 1e-5


def blended(mask, images, drawn):
    """The last lines of StableDiffusionInpaintPipeline's loop for a network of 4 channels."""

    def after(theirs, x, following):
        proper = torched(images)
        if following is not None:
            proper = theirs.add_noise(proper, torched(drawn), torch.tensor([following]))
        return (1 - torched(mask)) * proper + torched(mask) * x

    return after


@pytest.mark.parametrize("strength", [0.6, 1.0])
@pytest.mark.parametrize("name", SAMPLERS)
def test_inpainting_by_blending_is_that_of_diffusers(name, strength, images, drawn, monkeypatch):
    mask = np.zeros((2, *SHAPE[:2], 1), np.float32)
    mask[:, :2, 1:] = 1
    plan = sampling.plan(name, NoiseSchedule(**STABLE), 10, strength=strength)
    with double_precision():
        theirs = scheduler(name, STABLE)
        theirs.set_timesteps(10)
        first = 10 - int(10 * strength)
        if hasattr(theirs, "set_begin_index"):
            theirs.set_begin_index(first)
        x = torched(drawn)
        if strength < 1:
            x = theirs.add_noise(torched(images), x, theirs.timesteps[first : first + 1].repeat(2))
        after = blended(mask, images, drawn)
        expected = run(theirs, x, 10, monkeypatch, first=first, started=strength < 1, after=after)

    def inpaint(x):
        project = sampling.keeps(mask, images, drawn)
        return sampling.sample(toy, x, plan, seed=SEED, index=INDEX, project=project)

    found = jax.jit(inpaint)(sampling.starts_around(plan, images, drawn))
    assert difference(found, expected) < 1e-5
    kept = np.broadcast_to(mask == 0, found.shape)
    np.testing.assert_array_equal(np.asarray(found)[kept], images[kept])


def test_an_inpainting_network_sees_mask_and_masked_image_in_both_halves(images):
    """9 channels of 4 + 1 + 4, as (x, mask, masked image), whatever the guidance."""
    mask = np.ones((2, 4, 5, 1), np.float32) * np.array([0, 1]).reshape(2, 1, 1, 1)
    x = np.concatenate([images, images[..., :1]], axis=-1)
    seen = []

    def network(x9, t, text):
        seen.append((x9, text))
        return x9[..., :4] * text[:, None, None, None]

    predict = sampling.nine_channels(network)
    text, empty = np.array([2.0, 3.0]), np.array([1.0])
    found = guidance.guided(predict, (text, mask, 2 * x), (empty, mask, 2 * x), 3.0)(x, jnp.float32(1))
    x9, words = seen[0]
    np.testing.assert_array_equal(words, [1, 2, 1, 3])
    np.testing.assert_array_equal(x9[..., :4], np.repeat(x, 2, axis=0))
    np.testing.assert_array_equal(x9[..., 4:5], np.repeat(mask, 2, axis=0))
    np.testing.assert_array_equal(x9[..., 5:], np.repeat(2 * x, 2, axis=0))
    np.testing.assert_allclose(found, x * np.array([1 + 3 * 1, 1 + 3 * 2]).reshape(2, 1, 1, 1), rtol=1e-6)


def test_a_mask_over_latents_is_the_pipelines_nearest_neighbour():
    mask = (np.random.default_rng(0).random((2, 64, 48)) > 0.5).astype(np.float32)
    theirs = torch.nn.functional.interpolate(torch.tensor(mask)[:, None], size=(8, 6))
    np.testing.assert_array_equal(sampling.mask_of_latents(mask)[..., 0], theirs[:, 0])
