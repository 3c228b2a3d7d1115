"""The generative checkpoint as a whole: what it holds computes what diffusers and torch compute; what is refused."""

import json
import os

import diffusers
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dreamjax.cli.main import main
from dreamjax.errors import UserError
from dreamjax.export.import_checkpoint import import_checkpoint
from dreamjax.generation import batches
from dreamjax.generation.from_trials import TrialGenerator
from dreamjax.signals.datasets import records
from dreamjax.systems import opening
from dreamjax.weights.table import WeightMismatch
from tests import parity, pipelines
from tests.support import make_windows

from . import generative
from .support import reference_tokens

HOW = {"guidance": 1, "height": 16, "width": 16}


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generative")
    unet, vae, state = generative.small(folder / "checkpoint.pth")
    told = import_checkpoint(folder / "checkpoint.pth", folder / "run")
    return folder / "run", unet, vae, state, told


def signal(windows=2):
    return np.random.default_rng(3).standard_normal((windows, 6, 32)).astype(np.float32)


def test_diffusers_opens_the_parts_with_the_bits_of_the_checkpoint(imported):
    workdir, unet, vae, _, told = imported
    parts = workdir / "stable-diffusion"
    for kind, name, wanted in (
        (diffusers.UNet2DConditionModel, "unet", unet),
        (diffusers.AutoencoderKL, "vae", vae),
    ):
        opened = kind.from_pretrained(parts / name)
        assert all(torch.equal(t, wanted.state_dict()[n]) for n, t in opened.state_dict().items())
        assert len(opened.state_dict()) == len(wanted.state_dict())
    assert diffusers.PNDMScheduler.from_pretrained(parts / "scheduler").config.num_train_timesteps == 1000
    both = sum(t.numel() for m in (unet, vae) for t in m.state_dict().values())
    assert told.parameters > both
    assert any("layer_norm2" in note for note in told.notes)


def maps_by_torch(state, x):
    """(context, time offset, embedding) as sections 3.1 and 3.2 describe them, by torch's own convolutions."""
    encoder = {n.removeprefix("cond_stage_model.mae."): t for n, t in state.items() if ".mae." in n}
    tokens = reference_tokens(encoder, torch.from_numpy(x), heads=4, cls=False)

    def conv(x, name):
        return F.conv1d(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def linear(x, name):
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    maps = "cond_stage_model."
    mixed = conv(conv(tokens, f"{maps}channel_mapper.0"), f"{maps}channel_mapper.1")
    context = linear(mixed, f"{maps}dim_mapper")
    time = "model.diffusion_model.time_embed_condtion."
    offset = linear(conv(conv(context, f"{time}0"), f"{time}1")[:, 0], f"{time}2")
    return context, offset, linear(conv(tokens, f"{maps}mapping.maxpool")[:, 0], f"{maps}mapping.fc")


def test_images_are_those_of_torch_from_the_same_noise(imported):
    """The encoder and the maps by torch's own layers, the rest by diffusers with its own sampler: PLMS."""
    workdir, unet, vae, state, _ = imported
    x, start = signal(), pipelines.start(2)
    dreamer = TrialGenerator.open(opening.open_run(workdir))
    given = {"signal": x, "valid": np.ones((2, 32), np.float32)}
    with torch.no_grad():
        context, offset, embedding = maps_by_torch(state, x)
        read = dreamer.conditions(given)
        assert parity.difference(read["context"], context) < 1e-5
        assert parity.difference(read["time_offset"], offset) < 1e-5
        assert parity.difference(read["embedding"], embedding) < 1e-5
        scheduler = diffusers.PNDMScheduler.from_pretrained(workdir / "stable-diffusion" / "scheduler")
        scheduler.set_timesteps(6)
        latents = torch.from_numpy(start)
        embed = unet.time_embedding.forward
        unet.time_embedding.forward = lambda sample, condition=None: embed(sample, condition) + offset
        for t in scheduler.timesteps:
            latents = scheduler.step(unet(latents, t, context).sample, t, latents).prev_sample
        unet.time_embedding.forward = embed
        theirs = (vae.decode(latents / 0.18215).sample / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    how = batches.Sampling(steps=6, sampler="plms", **HOW)
    ours = np.stack(list(dreamer.images_of(given, how, start.transpose(0, 2, 3, 1))))
    assert theirs.std() > 0.1
    assert pipelines.psnr(ours / 255, np.round(theirs * 255) / 255) > 60


def test_a_run_that_was_moved_finds_its_parts_and_refuses_guidance(imported, tmp_path):
    moved = tmp_path / "moved"
    os.symlink(imported[0], moved)
    config = opening.config_of(moved)
    assert config.model.path == str(moved / "stable-diffusion")
    assert (config.data.mapping, config.data.tile_channels, config.data.divide) == ("tile", 6, 1.0)
    assert (config.encoder.model.positions, config.encoder.cls_token) == ("learned", False)
    dreamer = TrialGenerator.open(opening.open_run(moved))
    given = {"signal": signal(), "valid": np.ones((2, 32), np.float32)}
    with pytest.raises(UserError, match="without an unconditional branch: add --guidance 1"):
        list(dreamer.images_of(given, batches.Sampling(guidance=2.0)))


def test_generates_images_of_windows_without_stimulus(imported, tmp_path, capsys):
    windows = list(make_windows(0, windows=3, samples=64))
    records.finish(tmp_path / "shards", "w", {"test": records.write_split(tmp_path / "shards", "w", "test", windows)})
    words = ["generate", "--checkpoint", str(imported[0]), "--input", str(tmp_path / "shards"), "--steps", "2"]
    words += ["--height", "16", "--width", "16"]
    assert main([*words, "--guidance", "1", "--trials", "2", "--out", str(tmp_path / "out")]) == 0
    assert "2 images of 16 x 16 from 2 of 3 trials, plms, 2 steps, guidance 1" in capsys.readouterr().out
    assert len(list((tmp_path / "out").glob("0*.png"))) == 2
    for refused, told in (
        (words, "without an unconditional branch: add --guidance 1"),
        ([*words[:3], "--guidance", "1"], "the run came without data: name dataset folders"),
    ):
        assert main([*refused, "--out", str(tmp_path / "other")]) == 2
        assert told in capsys.readouterr().err
        assert not (tmp_path / "other").exists()


def test_without_maps_of_time_and_with_accidents_it_opens_too(tmp_path):
    """No time maps, no schedule, averaged weights and a classifier besides, names of DataParallel twice over."""
    _, _, state = generative.small(
        tmp_path / "a.pth",
        time=False,
        **dict.fromkeys(generative.BUFFERS),
        **{
            "model_ema.decay": torch.tensor(0.9),
            "logvar": torch.zeros(1000),
            "cond_stage_model.cls_net.fc.weight": torch.zeros(40, 16),
            "first_stage_model.loss.logvar": torch.zeros(()),
            "something.else": torch.zeros(3),
        },
    )
    twice = {"module.cond_stage_model.dim_mapper.bias": torch.full((16,), 7.0)}
    generative.save(tmp_path / "a.pth", state | twice, num_heads=4)
    told = import_checkpoint(tmp_path / "a.pth", tmp_path / "run", heads=2, divide=3.0, sfreq=1000)
    run = opening.open_run(tmp_path / "run")
    assert not run.config.model.time_condition
    assert (run.config.encoder.model.heads, run.config.data.divide, run.config.data.sfreq) == (2, 3.0, 1000.0)
    np.testing.assert_array_equal(run.params["conditioner"]["dim_map"]["bias"], np.full(16, 7.0))
    assert "something.else" in " ".join(told.notes)
    assert json.loads((tmp_path / "run" / "provenance.json").read_text())["origin"]["sha256"] == told.sha256


def test_another_schedule_is_kept_as_it_is(tmp_path):
    betas = torch.linspace(0.001, 0.02, 50)
    generative.small(tmp_path / "a.pth", betas=betas)
    import_checkpoint(tmp_path / "a.pth", tmp_path / "run")
    found = opening.config_of(tmp_path / "run")
    task = opening.registry.build(found)
    np.testing.assert_allclose(task.schedule.alphas_cumprod, np.cumprod(1 - betas.double().numpy()), rtol=1e-12)


def test_the_encoder_alone_is_taken_where_it_is_asked_for(imported, tmp_path, capsys):
    file = imported[0].parent / "checkpoint.pth"
    assert main(["import", str(file), "--out", str(tmp_path / "run"), "--part", "encoder"]) == 0
    assert opening.config_of(tmp_path / "run").system == "masked_pretraining"
    assert main(["import", str(file), "--out", str(tmp_path / "run")]) == 2
    assert "exists already" in capsys.readouterr().err


def test_every_missing_extra_and_misshapen_tensor_of_every_part_is_named_at_once(tmp_path):
    wrong = {
        "model.diffusion_model.input_blocks.3.0.in_layers.2.weight": None,
        "model.diffusion_model.label_emb.0.weight": torch.zeros(2),
        "model.diffusion_model.output_blocks.2.1.norm.weight": torch.zeros(5),
        "model.diffusion_model.time_embed_condtion.1.bias": None,
        "first_stage_model.decoder.up.1.upsample.conv.bias": None,
        "first_stage_model.encoder.mid.attn_1.q.weight": torch.zeros(64, 63, 1, 1),
        "cond_stage_model.mae.blocks.1.norm1.bias": None,
        "cond_stage_model.mae.blocks.0.mlp.fc2.bias": torch.zeros(3),
        "cond_stage_model.dim_mapper.weight": torch.zeros(16, 15),
        "cond_stage_model.later.weight": torch.zeros(1),
    }
    generative.small(tmp_path / "a.pth", **wrong)
    with pytest.raises(WeightMismatch) as caught:
        import_checkpoint(tmp_path / "a.pth", tmp_path / "run")
    assert set(caught.value.missing) == {name for name, value in wrong.items() if value is None}
    assert set(caught.value.extra) == {
        "model.diffusion_model.label_emb.0.weight",
        "cond_stage_model.later.weight",
    }
    assert {told.split(" is ")[0] for told in caught.value.misshapen} == {
        "model.diffusion_model.output_blocks.2.1.norm.weight",
        "first_stage_model.encoder.mid.attn_1.q.weight",
        "cond_stage_model.mae.blocks.0.mlp.fc2.bias",
        "cond_stage_model.dim_mapper.weight",
    }
    assert [p.name for p in tmp_path.iterdir()] == ["a.pth"]


@pytest.mark.parametrize(
    ("prefix", "says"),
    [
        ("model.diffusion_model.", r"there is no model\.diffusion_model\.\* in it; .*--part encoder"),
        ("first_stage_model.", r"there is no first_stage_model\.\* in it"),
        ("cond_stage_model.channel_mapper.0.", r"there is no cond_stage_model\.channel_mapper\.0\.weight"),
        ("cond_stage_model.mae.patch_embed.", r"no patch_embed\.proj\.weight among"),
        (
            "cond_stage_model.mae.",
            "none of masked_pretraining, dreamdiffusion.* has a model",
        ),
    ],
)
def test_reports_missing_component(imported, tmp_path, prefix, says):
    state = {n: t for n, t in imported[3].items() if not n.startswith(prefix) or "condtion" in n}
    generative.save(tmp_path / "a.pth", state)
    with pytest.raises(UserError, match=says):
        import_checkpoint(tmp_path / "a.pth", tmp_path / "run")
    assert [p.name for p in tmp_path.iterdir()] == ["a.pth"]


def test_a_file_that_is_cut_short_or_full_of_code_leaves_nothing(imported, tmp_path):
    class Attack:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    whole = (imported[0].parent / "checkpoint.pth").read_bytes()
    (tmp_path / "short.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="damaged or cut short"):
        import_checkpoint(tmp_path / "short.pth", tmp_path / "run")
    generative.save(tmp_path / "b.pth", imported[3] | {"model.diffusion_model.out.2.bias": Attack()})
    with pytest.raises(UserError, match=r"model\.diffusion_model\.out\.2\.bias is made by posix\.system"):
        import_checkpoint(tmp_path / "b.pth", tmp_path / "run")
    torch.save({"model_state_dict": imported[3], "config": Attack(), "state": Attack()}, tmp_path / "c.pth")
    assert import_checkpoint(tmp_path / "c.pth", tmp_path / "run", heads=4).description["diffusion"]
    assert not (tmp_path / "ran").exists()


def test_a_part_is_refused_of_a_file_that_has_none(tmp_path):
    from .support import foreign_state

    torch.save({"model": foreign_state()}, tmp_path / "mae.pth")
    with pytest.raises(UserError, match="not a generative checkpoint, of which a part is taken; leave out --part"):
        import_checkpoint(tmp_path / "mae.pth", tmp_path / "run", part="encoder")
    import_checkpoint(tmp_path / "mae.pth", tmp_path / "run", heads=4)
    assert opening.config_of(tmp_path / "run").system == "masked_pretraining"
