"""Noise schedules by closed form, and as the scheduler_config.json of published pipelines."""

import math

import numpy as np
import pytest

from dreamjax.diffusion import pipeline_config, sampling
from dreamjax.diffusion.schedule import STABLE_DIFFUSION, NoiseSchedule
from dreamjax.errors import UserError

STABLE_DIFFUSION_1 = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}
STABLE_DIFFUSION_2 = STABLE_DIFFUSION_1 | {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"}
STABLE_DIFFUSION_XL = STABLE_DIFFUSION_1 | {
    "_class_name": "EulerDiscreteScheduler",
    "interpolation_type": "linear",
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "timestep_spacing": "leading",
    "use_karras_sigmas": False,
}


def log_product(betas):
    return math.fsum(math.log1p(-beta) for beta in betas)


def test_scaled_linear_is_stable_diffusions():
    """ᾱ_t = Π (1 - β), √β from √0.00085 to √0.012: ᾱ_0 = 0.99915, √ᾱ_999 = 0.0683 (Lin et al., section 3.1)."""
    roots = [math.sqrt(0.00085) + i / 999 * (math.sqrt(0.012) - math.sqrt(0.00085)) for i in range(1000)]
    alphas = STABLE_DIFFUSION.alphas_cumprod
    assert alphas[0] == pytest.approx(0.99915, rel=1e-12)
    assert math.log(alphas[499]) == pytest.approx(log_product(r * r for r in roots[:500]), rel=1e-12)
    assert math.log(alphas[999]) == pytest.approx(log_product(r * r for r in roots), rel=1e-12)
    assert math.sqrt(alphas[999]) == pytest.approx(0.068265, abs=1e-6)
    assert STABLE_DIFFUSION.sigmas[[0, -1]] == pytest.approx([0.0292, 14.6146], abs=1e-4)  # as k-diffusion prints them


def test_linear_is_ddpms():
    """β from 1e-4 to 0.02: ᾱ_T = 4.0358e-5 (Ho et al. give the KL of x_T from the prior as about 1e-5 bits)."""
    betas = [1e-4 + i / 999 * (0.02 - 1e-4) for i in range(1000)]
    alphas = NoiseSchedule().alphas_cumprod
    assert math.log(alphas[-1]) == pytest.approx(log_product(betas), rel=1e-12)
    assert alphas[-1] == pytest.approx(4.0358e-5, rel=1e-4)


def test_cosine_is_the_squared_cosine():
    """ᾱ_t = f(t + 1) / f(0), f(u) = cos²(π/2 (u / T + 0.008) / 1.008), until β is capped at 0.999."""
    f = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    alphas = NoiseSchedule(beta_schedule="squaredcos_cap_v2").alphas_cumprod
    np.testing.assert_allclose(alphas[:999], f[1:1000] / f[0], rtol=1e-9)
    assert alphas[999] == pytest.approx(alphas[998] * 0.001, rel=1e-9)


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_zero_terminal_snr_ends_at_exactly_0_and_begins_where_it_began(schedule):
    """√ᾱ stays an affine function of what it was (Lin et al., algorithm 1)."""
    before = NoiseSchedule(beta_schedule=schedule)
    after = NoiseSchedule(beta_schedule=schedule, rescale_betas_zero_snr=True)
    assert after.alphas_cumprod[-1] == 0.0
    assert after.snr[-1] == 0.0
    assert after.alphas_cumprod[0] == pytest.approx(before.alphas_cumprod[0], rel=1e-12)
    old, new = np.sqrt(before.alphas_cumprod), np.sqrt(after.alphas_cumprod)
    np.testing.assert_allclose(new, (old - old[-1]) * old[0] / (old[0] - old[-1]), rtol=1e-12)
    assert after.sigmas[-1] == pytest.approx(4096, rel=1e-6)


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_diffusers_has_the_same_float32_values(schedule, zero_snr):
    """To its own rounding: a product of 1000 float32 factors, each off by up to 3e-8."""
    diffusers = pytest.importorskip("diffusers")
    config = {"beta_schedule": schedule, "rescale_betas_zero_snr": zero_snr}
    theirs = diffusers.DDIMScheduler(**config).alphas_cumprod.numpy()
    ours = NoiseSchedule(**config).alphas_cumprod.astype(np.float32)
    np.testing.assert_allclose(ours[:-1], theirs[:-1], rtol=5e-4, atol=1e-8)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("published", [STABLE_DIFFUSION_1, STABLE_DIFFUSION_2, STABLE_DIFFUSION_XL])
def test_a_published_pipeline_is_sampled_as_diffusers_samples_it(published):
    diffusers = pytest.importorskip("diffusers")
    theirs = getattr(diffusers, published["_class_name"]).from_config(published)
    theirs.set_timesteps(30)
    schedule = pipeline_config.from_json(published)
    plan = sampling.plan(None, schedule, 30)
    np.testing.assert_array_equal(plan.timesteps, theirs.timesteps.numpy())
    assert plan.start_sigma == pytest.approx(float(theirs.init_noise_sigma), rel=3e-5)
    assert schedule.prediction_type == theirs.config.prediction_type
    assert not schedule.clip_sample


def test_stable_diffusion_is_what_its_file_says():
    read = pipeline_config.from_json(STABLE_DIFFUSION_1)
    assert read.sampler == "plms"
    assert read.alphas_cumprod == pytest.approx(STABLE_DIFFUSION.alphas_cumprod)
    for name in sampling.SAMPLERS:
        ours, theirs = sampling.plan(name, STABLE_DIFFUSION, 7), sampling.plan(name, read, 7)
        np.testing.assert_array_equal(ours.timesteps, theirs.timesteps)


def test_a_file_that_leaves_clipping_out_clips_as_its_class_does():
    """diffusers' DDIM and DDPM clip by default; files of other classes say nothing about it."""
    assert pipeline_config.from_json({"_class_name": "DDIMScheduler"}).clip_sample
    assert not pipeline_config.from_json({"_class_name": "EulerDiscreteScheduler"}).clip_sample


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "_class_name"),
        ({"_class_name": None}, "_class_name"),
        ({"_class_name": ["DDIMScheduler"]}, "_class_name"),
        ({"skip_prk_steps": False}, "skip_prk_steps"),
        ({"skip_prk_steps": None}, "skip_prk_steps"),
        ({"beta_schedule": "sigmoid"}, "beta_schedule"),
        ({"prediction_type": "flow"}, "prediction_type"),
        ({"thresholding": True}, "thresholding"),
        ({"timestep_spacing": "logarithmic"}, "timestep_spacing"),
        ({"algorithm_type": "sde-dpmsolver++"}, "algorithm_type"),
        ({"final_sigmas_type": "sigma_min"}, "final_sigmas_type"),
        ({"sigma_max": 80.0}, "sigma_max"),
        ({"num_train_timesteps": "1000"}, "num_train_timesteps"),
        ({"num_train_timesteps": True}, "num_train_timesteps"),
        ({"num_train_timesteps": 0}, "num_train_timesteps"),
        ({"beta_start": 2.0}, "beta_start"),
        ({"beta_end": float("nan")}, "beta_end"),
        ({"clip_sample": "no"}, "clip_sample"),
        ({"trained_betas": [0.1, 0.2]}, "trained_betas"),
        ({"trained_betas": ["a"]}, "trained_betas"),
        ({"trained_betas": 3}, "trained_betas"),
    ],
)
def test_reports_unsupported_scheduler_fields(change, field):
    with pytest.raises(UserError, match=f"^scheduler_config.json: .*{field}") as caught:
        pipeline_config.from_json(STABLE_DIFFUSION_1 | change)
    assert "\n" not in str(caught.value)


def test_rejects_invalid_schedules():
    for wrong in ({"beta_schedule": "sigmoid"}, {"num_train_timesteps": 0}, {"beta_end": 1e-5}, {"steps_offset": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            NoiseSchedule(**wrong)
