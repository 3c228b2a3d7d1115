"""Samplers by closed form, the loop as one program, and mistakes in one sentence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamjax.diffusion import sampling
from dreamjax.diffusion.prediction import image_coefficients, noise_coefficients
from dreamjax.diffusion.schedule import STABLE_DIFFUSION, NoiseSchedule
from dreamjax.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_compiles")
SAMPLERS = list(sampling.SAMPLERS)
SHAPE = (4, 4, 2)
MEAN = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)


def gaussian(deviation, kind="epsilon", schedule=STABLE_DIFFUSION):
    """The best answer where images are MEAN + deviation · N(0, 1), for x = √ᾱ x_0 + √(1 - ᾱ) ε.

    E[ε | x] = s (x - a MEAN) / (a² deviation² + s²), E[x_0 | x] = (x - s E[ε | x]) / a.
    """
    levels = jnp.asarray(np.log(schedule.sigmas), jnp.float32)

    def predict(x, t):
        sigma = jnp.exp(jnp.interp(t, jnp.arange(len(levels)), levels))
        a = 1 / jnp.sqrt(sigma**2 + 1)
        s = sigma * a
        epsilon = s * (x - a * MEAN) / (a**2 * deviation**2 + s**2)
        image = MEAN + a * deviation**2 * (x - a * MEAN) / (a**2 * deviation**2 + s**2)
        return {"epsilon": epsilon, "sample": image, "v_prediction": a * epsilon - s * image}[kind]

    return predict


def sampled(predict, plan, count, seed=0):
    index = np.arange(count)
    x = sampling.starts(plan, sampling.draw_noise(seed, index, "start", SHAPE))
    return np.asarray(jax.jit(lambda x, plan: sampling.sample(predict, x, plan, seed=seed, index=index))(x, plan)), x


@pytest.mark.parametrize("steps", [1, 4, 20])
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_finds_the_only_image(name, steps):
    """deviation 0: x_0 = MEAN in any number of steps. ᾱ after the last step is taken as 1 by PLMS too."""
    schedule = NoiseSchedule(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", set_alpha_to_one=True, steps_offset=1
    )
    plan = sampling.plan(name, schedule, steps)
    found, _ = sampled(gaussian(0.0), plan, 2)
    np.testing.assert_allclose(found, np.broadcast_to(MEAN, found.shape), atol=2e-5)


@pytest.mark.parametrize(
    ("name", "karras", "bound"),
    [("ddim", False, 0.03), ("euler", True, 0.03), ("plms", False, 0.004), ("dpmpp_2m", True, 0.004)],
)
def test_deterministic_samplers_follow_the_probability_flow(name, karras, bound):
    """x keeps its quantile: x_0 = MEAN + deviation (x - a MEAN) / √(a² deviation² + s²), in 100 and 200 steps.

    What the last step, of first order, leaves is (sigma / deviation)² / 2 = 0.002 of the deviation at the first
    timestep's sigma = 0.029; PLMS ends at that sigma.
    """
    deviation = 0.5
    errors = []
    for steps in (100, 200):
        schedule = NoiseSchedule(**vars_of(STABLE_DIFFUSION), timestep_spacing="leading")
        plan = sampling.plan(name, schedule, steps, karras=karras)
        found, x = sampled(gaussian(deviation), plan, 4)
        a, s = plan.signal[0], plan.sigma[0]
        expected = MEAN + deviation * (np.asarray(x) - a * MEAN) / np.sqrt(a**2 * deviation**2 + s**2)
        errors.append(np.abs(found - expected).max())
    assert errors[1] < bound, errors
    assert errors[1] < 0.7 * errors[0] or name in ("plms", "dpmpp_2m"), errors


@pytest.mark.parametrize(("name", "eta"), [("ddpm", 0.0), ("euler_ancestral", 0.0), ("ddim", 1.0)])
def test_stochastic_samplers_sample_the_distribution(name, eta):
    """1,000 images of 32 numbers: mean and deviation of the data; 500 steps are 2 % too narrow (200 are 4 %)."""
    plan = sampling.plan(name, STABLE_DIFFUSION, 500, eta=eta)
    found, _ = sampled(gaussian(0.5), plan, 1000)
    z = (found - MEAN) / 0.5
    assert abs(z.mean()) < 0.03
    assert abs(z.std() - 1) < 0.03


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "plms"])
def test_what_is_predicted_does_not_change_the_images(name):
    """ε, v and x_0 say the same; not to PLMS, whose mean over several calls is another thing for ε and v."""
    found = [
        sampled(
            gaussian(0.5, kind),
            sampling.plan(name, NoiseSchedule(**vars_of(STABLE_DIFFUSION, prediction_type=kind)), 10),
            2,
        )[0]
        for kind in ("epsilon", "v_prediction", "sample")
    ]
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], atol=2e-4)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_network_is_traced_as_often_for_50_steps_as_for_2(name):
    traces = []

    def predict(x, t):
        traces.append(x.shape)
        return jnp.tanh(x) + t / 1000

    run = jax.jit(lambda x, plan: sampling.sample(predict, x, plan, seed=0, index=np.arange(2)))
    counts = []
    for steps in (2, 50):
        traces.clear()
        plan = sampling.plan(name, STABLE_DIFFUSION, steps)
        run(jnp.ones((2, *SHAPE)), plan).block_until_ready()
        counts.append(len(traces))
    assert counts[0] == counts[1] <= 2

    traces.clear()  # other values of as many steps compile nothing
    other = NoiseSchedule(
        **vars_of(STABLE_DIFFUSION, beta_end=0.02, timestep_spacing="trailing", prediction_type="v_prediction")
    )
    run(jnp.ones((2, *SHAPE)), sampling.plan(name, other, 50))
    assert not traces
    text = run.lower(jnp.ones((2, *SHAPE)), plan).as_text()
    assert text.count("stablehlo.while") >= 1
    assert text.count("stablehlo.tanh") == 1


@pytest.mark.parametrize("name", ["ddpm", "plms"])
def test_an_image_is_the_same_alone_and_in_a_batch_on_8_devices(name):
    """Noise bit-equal; the arithmetic to rounding."""
    plan = sampling.plan(name, STABLE_DIFFUSION, 10)
    predict = gaussian(0.5)

    def run(x, index):
        return sampling.sample(predict, x, plan, seed=0, index=index)

    index = np.arange(40, 48)
    x = sampling.starts(plan, sampling.draw_noise(0, index, "start", SHAPE))
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    together = jax.jit(run)(jax.device_put(x, split), jax.device_put(index, split))
    np.testing.assert_allclose(jax.jit(run)(x[5:6], index[5:6]), together[5:6], atol=1e-5)


def test_bfloat16_outputs_are_followed_in_float32():
    plan = sampling.plan("ddim", STABLE_DIFFUSION, 5)
    found, _ = sampled(lambda x, t: gaussian(0.5)(x, t).astype(jnp.bfloat16), plan, 2)
    assert found.dtype == np.float32


def test_coefficients_are_inverse_to_what_they_describe():
    """x = a x_0 + s ε and the output that belongs to it."""
    a, s, x0, epsilon = np.sqrt(0.3), np.sqrt(0.7), 1.7, -0.4
    for kind, output in (("epsilon", epsilon), ("sample", x0), ("v_prediction", a * epsilon - s * x0)):
        x = a * x0 + s * epsilon
        p, q = image_coefficients(kind, a, s)
        assert p * x + q * output == pytest.approx(x0)
        p, q = noise_coefficients(kind, a, s)
        assert p * x + q * output == pytest.approx(epsilon)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"name": "dimm"}, "unknown sampler dimm; did you mean ddim?"),
        ({"name": "dpm_2m"}, "did you mean dpmpp_2m?"),
        ({"name": "xyz"}, "choose from ddim, ddpm, plms"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": -3}, "steps is -3"),
        ({"steps": 1001}, "1000 timesteps"),
        ({"strength": 0.0}, "strength is 0"),
        ({"strength": 1.2}, "strength is 1.2"),
        ({"strength": float("nan")}, "strength is nan"),
        ({"strength": 0.01}, "leaves no step; use at least 100 steps"),
        ({"eta": -0.1}, "eta is -0.1"),
        ({"eta": 1.5}, "eta is 1.5"),
        ({"name": "euler", "eta": 0.5}, "euler has no option eta; ddim has it"),
        ({"karras": True}, "ddim has no option karras; dpmpp_2m and euler have it"),
        ({"steps": 1000}, "reach timestep 1000"),
        ({"name": "dpmpp_2m", "steps": 1000}, "twice"),
    ],
)
def test_reports_invalid_settings(arguments, said):
    with pytest.raises(UserError) as caught:
        sampling.plan(**({"name": "ddim", "schedule": STABLE_DIFFUSION, "steps": 10} | arguments))
    assert said in str(caught.value)


def test_rejects_timesteps_of_pure_noise():
    nothing_left = vars_of(STABLE_DIFFUSION, rescale_betas_zero_snr=True, timestep_spacing="trailing")
    for name in ("ddim", "ddpm", "plms"):
        with pytest.raises(UserError, match="pure noise"):
            sampling.plan(name, NoiseSchedule(**nothing_left), 10)
    with pytest.raises(UserError, match="pure noise"):
        sampling.plan("plms", NoiseSchedule(**(nothing_left | {"prediction_type": "v_prediction"})), 10)
    with pytest.raises(UserError, match="plms supports prediction_type epsilon and v_prediction"):
        sampling.plan("plms", NoiseSchedule(prediction_type="sample"), 10)


def test_a_stochastic_plan_requires_seed_and_index():
    with pytest.raises(ValueError, match="seed and the index"):
        sampling.sample(lambda x, t: x, jnp.ones((1, 2)), sampling.plan("ddpm", STABLE_DIFFUSION, 2))


def vars_of(schedule, **change):
    fields = ("beta_start", "beta_end", "beta_schedule", "steps_offset")
    return {field: getattr(schedule, field) for field in fields} | change
