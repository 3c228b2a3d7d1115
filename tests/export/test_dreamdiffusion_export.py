"""`export --to diffusers` of a dreamdiffusion run: what diffusers opens in one line makes the images of dreamjax."""

import json

import diffusers
import jax
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dreamjax import config as configs
from dreamjax.cli.main import main
from dreamjax.errors import UserError
from dreamjax.export import driver
from dreamjax.generation import batches
from dreamjax.generation.from_trials import TrialGenerator
from dreamjax.signals.datasets import augment
from dreamjax.signals.datasets.data_config import DataConfig
from dreamjax.systems import dreamdiffusion_export, opening, registry
from dreamjax.systems.dreamdiffusion import (
    AlignedLossConfig,
    ConditionedModelConfig,
    DreamDiffusionConfig,
    EncoderConfig,
)
from dreamjax.targets.trials import TargetConfig
from dreamjax.training import checkpoints
from tests import pipelines

from . import generative, support

SCORES = {
    "step": 1,
    "split": "test",
    "trials": 7,
    "notes": ["no N-way accuracy"],
    "sources": ["model", "another trial's"],
    "made": {"sampler": "ddim", "steps": 5, "guidance": 2.0},
    "scores": [
        {
            "metric": "SSIM",
            "chance": None,
            "scores": {
                "model": {"estimate": 0.25, "low": 0.125, "high": 0.5},
                "another trial's": {"estimate": 0.2, "low": 0.125, "high": 0.25},
            },
            "model_minus": {"another trial's": {"estimate": 0.05, "low": -0.1, "high": 0.2, "says": "not resolved"}},
        },
    ],
    "warnings": ["a label leaks"],
    "of_sources": {},
    "not_possible": {},
}


@pytest.fixture(scope="module")
def sd(tmp_path_factory):
    return pipelines.write(tmp_path_factory.mktemp("pipeline"), widths=(32,))


def make(folder, sd, *, time, data):
    """A run with random parameters, of an encoder that was pretrained in a run of its own."""
    encoder = support.tiny_config(data=data, patch=8)
    support.make_run(folder / "encoder", encoder)
    config = DreamDiffusionConfig(
        data=DataConfig(),
        target=TargetConfig(folder=str(folder / "seen"), bank=str(folder / "bank")),
        encoder=EncoderConfig(str(folder / "encoder")),
        model=ConditionedModelConfig(path=str(sd), hidden=8, time_condition=time, embedding_dim=12),
        loss=AlignedLossConfig(drop_condition=0.1),
    )
    shapes = jax.eval_shape(registry.build(config).init, jax.random.key(0)).params
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda s: (rng.normal(size=s.shape) * 0.2 + (s.ndim == 1)).astype(np.float32), shapes)
    checkpoints.save_params_as_run(folder / "run", configs.to_json(config), params, step=1)
    return folder / "run"


@pytest.fixture(scope="module")
def timed(sd, tmp_path_factory):
    """Scaled by the recording's robust scale and clipped; exported by the command, which compares with PyTorch."""
    folder = tmp_path_factory.mktemp("timed")
    workdir = make(folder, sd, time=True, data={"scaling": "robust", "clip": 4.0})
    (workdir / "evaluation").mkdir()
    (workdir / "evaluation" / "images-test.json").write_text(json.dumps(SCORES))
    told = driver.export(workdir, folder / "out", to="diffusers")
    return workdir, folder / "out", told


def opened(folder):
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def microvolts(windows=3):
    return (15 * np.random.default_rng(7).standard_normal((windows, 19, 64))).astype(np.float32)


def ours(dreamer, eeg, scale, valid, start, **how):
    """Images by dreamjax, of windows scaled as its pipeline scales them."""
    data = dreamer.task.signal
    signal, _, _ = augment.in_units(eeg, scale, valid > 0, data.scaling, data.divide, data.clip)
    given = {"signal": (signal * valid[:, None]).astype(np.float32), "valid": valid.astype(np.float32)}
    made = dreamer.images_of(given, batches.Sampling(steps=4, **how), start.transpose(0, 2, 3, 1))
    return np.stack(list(made))


def decibel(ours, theirs):
    return pipelines.psnr(ours / 255, np.round(255 * theirs) / 255)


@pytest.fixture(scope="module")
def dreamer(timed):
    return TrialGenerator.open(opening.open_run(timed[0]))


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_the_pipeline_makes_the_same_images_from_the_same_noise(timed, dreamer, guidance):
    """Two of each window, with the time condition, by the model's own sampler; the last window is half padding."""
    _, out, _ = timed
    eeg, start = microvolts(), pipelines.start(6)
    scale, valid = np.array([5.0, 15.0, 40.0], np.float32), np.ones((3, 64), np.float32)
    eeg[2, :, 32:], valid[2, 32:] = 0, 0
    made = opened(out)(
        eeg,
        sfreq=256,
        scale=torch.from_numpy(scale),
        valid=valid,
        num_inference_steps=4,
        guidance_scale=guidance,
        num_images_per_prompt=2,
        latents=torch.from_numpy(start),
        output_type="np",
    ).images
    twice = (np.repeat(x, 2, axis=0) for x in (eeg, scale, valid))
    assert made.std() > 0.1
    assert np.abs(made[0] - made[2]).mean() > 0.01
    assert decibel(ours(dreamer, *twice, start, guidance=guidance), made) > 65


def test_without_the_time_condition_too_and_weights_are_the_same_bits(sd, tmp_path, monkeypatch, uncompared):
    monkeypatch.setattr(dreamdiffusion_export, "parity", lambda *_: {"eeg": np.zeros(1, np.float32)})
    workdir = make(tmp_path, sd, time=False, data={"scaling": "zscore"})
    assert main(["export", str(workdir), "--to", "diffusers", "--out", str(tmp_path / "out")]) == 0
    pipe, source = opened(tmp_path / "out"), pipelines.theirs(sd)
    eeg, start, valid = microvolts(2), pipelines.start(2), np.ones((2, 64), np.float32)
    made = pipe(eeg, num_inference_steps=4, latents=torch.from_numpy(start), output_type="np").images
    dreamer = TrialGenerator.open(opening.open_run(workdir))
    assert decibel(ours(dreamer, eeg, np.ones(2, np.float32), valid, start, guidance=7.5), made) > 65

    for name, tensor in pipe.unet.state_dict().items():  # the cross-attention is the run's, all else the source's
        assert torch.equal(tensor, source.unet.state_dict()[name]) != (".attn2." in name), name
    for folder in ("vae", "scheduler"):
        for file in (sd / folder).iterdir():
            assert (tmp_path / "out" / folder / file.name).read_bytes() == file.read_bytes()
    assert (tmp_path / "out" / "unet" / "config.json").read_bytes() == (sd / "unet" / "config.json").read_bytes()
    trained = opening.open_run(workdir).params
    state = pipe.eeg_encoder.state_dict()
    kernel = np.asarray(trained["conditioner"]["token_in"]["kernel"])
    np.testing.assert_array_equal(state["channel_mapper.0.weight"].numpy(), kernel.T)
    np.testing.assert_array_equal(
        state["mae.blocks.1.attn.qkv.weight"].numpy(),
        np.asarray(trained["encoder"]["blocks"]["attn"]["qkv"]["kernel"])[1].T,
    )
    ids = source.tokenizer([""], padding="max_length", max_length=16, return_tensors="pt").input_ids
    with torch.no_grad():
        torch.testing.assert_close(state["nothing"], source.text_encoder(ids)[0][0], rtol=1e-4, atol=1e-5)


def test_the_command_compared_it_in_a_process_without_jax(timed):
    _, out, told = timed
    assert set(told.differences) == {"context", "time_offset", "embedding", "noise", "image"}
    assert max(told.differences.values()) < 1e-4
    assert told.parameters == sum(
        tensor.numel()
        for part in ("unet", "vae", "eeg_encoder")
        for name, tensor in load_file(out / part / "diffusion_pytorch_model.safetensors").items()
        if name not in ("nothing", "mae.pos_embed")
    )
    names = {path.name for path in out.iterdir()}
    parts = {"model_index.json", "pipeline.py", "eeg_encoder", "unet", "vae", "scheduler"}
    assert names == parts | {"manifest.json", "parity.safetensors", "provenance.json", "README.md"}


def test_the_component_needs_nothing_of_dreamjax(timed):
    text = (timed[1] / "eeg_encoder" / "eeg_encoder.py").read_text()
    assert "import dreamjax" not in text
    assert "from dreamjax" not in text
    assert "dreamjax" not in "".join(line for line in text.splitlines() if "import" in line)
    compile(text, "eeg_encoder.py", "exec")


def test_torch_pipeline_rejects_wrong_input(timed):
    pipe = opened(timed[1])
    with pytest.raises(ValueError, match=r"19 channels, 64 samples"):
        pipe(np.zeros((1, 18, 64)))
    with pytest.raises(ValueError, match="takes 256 Hz, not 200 Hz"):
        pipe(microvolts(1), sfreq=200)
    with pytest.raises(ValueError, match="multiples of 2, not 15"):
        pipe(microvolts(1), height=15)
    with pytest.raises(ValueError, match="do not fit"):
        pipe(microvolts(1), latents=torch.zeros(1, 4, 3, 3))


def test_the_card_says_what_it_was_fitted_to_what_it_is_not_for_and_what_was_measured(timed):
    card = (timed[1] / "README.md").read_text()
    for said in (
        "images that people were looking at",
        "Details come from the generator's prior",
        "Not for clinical, forensic or covert use",
        "Consent is required",
        "7 trials of split test; ddim, 5 steps, guidance 2.",
        "**a label leaks**",
        "| images of | SSIM |\n|---|---|\n",
        "| model | 0.250 [0.125, 0.500] |",
        "| another trial's | 0.200 [0.125, 0.250] |",
        "Images: seen; held out by image",
    ):
        assert said in card
    assert str(timed[0]) not in card
    facts = json.loads((timed[1] / "provenance.json").read_text())
    assert str(timed[0]) not in json.dumps(facts)


@pytest.mark.long
def test_an_imported_checkpoint_goes_out_again_without_guidance(tmp_path, monkeypatch, uncompared):
    monkeypatch.setattr(dreamdiffusion_export, "parity", lambda *_: {"eeg": np.zeros(1, np.float32)})
    _, _, state = generative.small(tmp_path / "checkpoint.pth")
    assert main(["import", str(tmp_path / "checkpoint.pth"), "--out", str(tmp_path / "run")]) == 0
    driver.export(tmp_path / "run", tmp_path / "out", to="diffusers")
    pipe = opened(tmp_path / "out")
    found = pipe.eeg_encoder.state_dict()
    for name in ("mae.blocks.0.attn.qkv.weight", "mae.pos_embed", "channel_mapper.1.weight", "mapping.maxpool.bias"):
        wanted = state[f"cond_stage_model.{name}"]
        assert torch.equal(found[name], wanted[..., 0] if name.startswith("channel") else wanted)
    assert "no unconditional branch was trained" in (tmp_path / "out" / "README.md").read_text()
    eeg = np.zeros((1, 6, 32), np.float32)
    assert pipe(eeg, num_inference_steps=1, height=16, width=16).images[0].size == (16, 16)
    with pytest.raises(ValueError, match="guidance_scale=1 is none"):
        pipe(eeg, guidance_scale=3)


def test_torch_is_refused_with_the_way_that_there_is(timed, tmp_path):
    with pytest.raises(UserError, match="dreamdiffusion cannot be exported to torch; it can be exported to: diffusers"):
        driver.export(timed[0], tmp_path / "out")
