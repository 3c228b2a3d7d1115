"""Checkpoints from elsewhere become runs; checked against torch's own transformer layers."""

import collections
import json
import os

import jax
import numpy as np
import pytest
import torch

from dreamjax.errors import UserError
from dreamjax.export.import_checkpoint import import_checkpoint
from dreamjax.metrics import leakage
from dreamjax.runs import provenance
from dreamjax.systems import masked_pretraining, opening
from dreamjax.weights.table import WeightMismatch

from .support import Config, foreign_state, reference_reconstruction, reference_tokens

SETTINGS = {"num_heads": 4, "decoder_num_heads": 2, "mask_ratio": 0.1, "patch_size": 4, "focus_range": None}


def features(run, signal):
    return jax.jit(lambda p, x: masked_pretraining.features(run.config, p, x))(run.params, signal)


def reconstruct(run, signal, masked):
    return jax.jit(run.task.reconstruct)(run.params, signal, masked)


def stage_a(path, state, **settings):
    torch.save({"model": state, "optimizer": {}, "epoch": 499, "scaler": {}, "config": Config(**settings)}, path)
    return path


def stage_b(path, state, **settings):
    """The generative checkpoint: the encoder among everything else of the latent diffusion model."""
    whole = collections.OrderedDict({"model.diffusion_model.out.weight": torch.zeros(4, 4), "betas": torch.zeros(1000)})
    whole.update({f"cond_stage_model.mae.{name}": tensor for name, tensor in state.items()})
    whole["cond_stage_model.channel_mapper.0.weight"] = torch.zeros(2, 2, 1)
    torch.save({"model_state_dict": whole, "config": Config(**settings), "state": torch.get_rng_state()}, path)
    return path


@pytest.mark.parametrize(
    "sizes",
    [
        {"channels": 3, "patch": 8, "samples": 64, "dim": 24, "depth": 3, "ratio": 4.0, "decoder_depth": 2},
        {"ratio": 1.7, "decoder_dim": 20},
    ],
)
def test_a_masked_autoencoder_of_any_size_computes_what_torch_computes(tmp_path, sizes):
    state = foreign_state(**sizes)
    stage_a(tmp_path / "checkpoint.pth", state, **SETTINGS)
    result = import_checkpoint(tmp_path / "checkpoint.pth", tmp_path / "run")
    assert result.parameters == sum(t.numel() for name, t in state.items() if "pos_embed" not in name)
    run = opening.open_run(tmp_path / "run")
    assert (run.config.model.heads, run.config.model.decoder_heads, run.config.mask.ratio) == (4, 2, 0.1)
    assert (run.config.data.mapping, run.config.data.scaling, run.config.data.divide) == ("tile", "divide", 10.0)

    rng = np.random.default_rng(0)
    signal = rng.standard_normal((2, run.config.model.channels, run.config.data.samples)).astype(np.float32)
    theirs = reference_tokens(state, torch.from_numpy(signal), heads=4)[:, 1:].numpy()
    ours = np.asarray(features(run, signal))
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())

    keep = [0, 3, 5]
    masked = np.ones((2, run.config.patches), bool)
    masked[:, keep] = False
    theirs = reference_reconstruction(state, torch.from_numpy(signal), keep, heads=4, decoder_heads=2).numpy()
    ours = np.asarray(reconstruct(run, signal, masked))
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())


def test_the_encoder_of_the_generative_checkpoint_has_trained_positions_and_no_decoder(tmp_path):
    state = foreign_state(decoder_depth=0)
    state["pos_embed"] = state["pos_embed"] + 0.05 * torch.randn(1, 9, 16, generator=torch.Generator().manual_seed(1))
    stage_b(tmp_path / "checkpoint.pth", state, num_heads=4)
    result = import_checkpoint(tmp_path / "checkpoint.pth", tmp_path / "run", part="encoder")
    assert result.description["decoder"] is None
    assert result.description["positions"] == "learned"
    assert any("cls_token was left out" in note for note in result.notes)
    run = opening.open_run(tmp_path / "run")
    assert run.config.data.divide == 1.0
    signal = np.random.default_rng(0).standard_normal((2, 6, 32)).astype(np.float32)
    theirs = reference_tokens(state, torch.from_numpy(signal), heads=4, cls=False).numpy()
    ours = np.asarray(features(run, signal))
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())
    with pytest.raises(UserError, match="encoder alone"):
        run.task.reconstruct(run.params, signal, np.zeros((2, 8), bool))


def test_fixed_positions_stay_fixed_also_in_half_precision(tmp_path):
    state = foreign_state()
    stage_a(tmp_path / "a.pth", {name: tensor.half() for name, tensor in state.items()}, **SETTINGS)
    assert import_checkpoint(tmp_path / "a.pth", tmp_path / "run").description["positions"] == "sincos"
    params = opening.open_run(tmp_path / "run").params
    np.testing.assert_array_equal(params["norm"]["scale"], state["norm.weight"].half().float().numpy())


def test_every_missing_extra_and_misshapen_tensor_is_named_at_once(tmp_path):
    state = foreign_state()
    del state["norm.bias"], state["decoder_blocks.0.attn.proj.weight"]
    state["nature_img_decoder.weight"] = torch.zeros(2)
    state["blocks.1.mlp.fc2.bias"] = torch.zeros(5)
    state["blocks.0.norm1.weight"] = torch.zeros(16, 1)
    with pytest.raises(WeightMismatch) as caught:
        import_checkpoint(stage_a(tmp_path / "a.pth", state, **SETTINGS), tmp_path / "run")
    assert set(caught.value.missing) == {"norm.bias", "decoder_blocks.0.attn.proj.weight"}
    assert caught.value.extra == ["nature_img_decoder.weight"]
    assert len(caught.value.misshapen) == 2
    assert "blocks.1.mlp.fc2.bias is (5,) instead of (16,)" in str(caught.value)
    assert not (tmp_path / "run").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["a.pth"]


def test_missing_positions_are_named_with_the_rest(tmp_path):
    state = foreign_state()
    del state["pos_embed"], state["norm.weight"]
    with pytest.raises(WeightMismatch) as caught:
        import_checkpoint(stage_a(tmp_path / "a.pth", state, **SETTINGS), tmp_path / "run")
    assert set(caught.value.missing) == {"pos_embed", "norm.weight"}


def test_code_in_a_checkpoint_never_runs_and_the_weights_are_imported(tmp_path):
    class Attack:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    torch.save({"model": foreign_state(), "config": Attack(), "epoch": Attack()}, tmp_path / "a.pth")
    result = import_checkpoint(tmp_path / "a.pth", tmp_path / "run", heads=4)
    assert not (tmp_path / "ran").exists()
    assert result.description["encoder"] == "2 x 16, 4 heads"


def test_a_tensor_made_by_code_is_refused(tmp_path):
    class Attack:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    torch.save({"model": {**foreign_state(), "norm.bias": Attack()}}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"norm.bias is made by posix.system, which is not executed"):
        import_checkpoint(tmp_path / "a.pth", tmp_path / "run")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "run").exists()


def test_warns_when_the_number_of_heads_is_assumed(tmp_path, caplog):
    torch.save(foreign_state(dim=128, decoder_dim=64), tmp_path / "state.pth")  # a bare state dict
    result = import_checkpoint(tmp_path / "state.pth", tmp_path / "run")
    assert result.description["encoder"] == "2 x 128, 2 heads"
    assert any("2 of 64 assumed" in note for note in result.notes)
    assert "2 of 64 assumed" in caplog.text


def test_arguments_win_over_the_file(tmp_path):
    stage_a(tmp_path / "a.pth", foreign_state(), **SETTINGS)
    options = {"heads": 8, "decoder_heads": 4, "divide": 2.5, "sfreq": 1000}
    import_checkpoint(tmp_path / "a.pth", tmp_path / "run", **options)
    config = opening.config_of(tmp_path / "run")
    assert (config.model.heads, config.model.decoder_heads) == (8, 4)
    assert (config.data.divide, config.data.sfreq) == (2.5, 1000.0)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"model": {"linear.weight": torch.zeros(2, 2)}}, "not a checkpoint that can be imported"),
        ({"model": 3}, "state dict"),
        ([1, 2], "state dict"),
        ({"model": {**foreign_state(), "blocks.99999.norm1.weight": torch.zeros(16)}}, "no consecutive numbers"),
        ({"model": {**foreign_state(), "patch_embed.proj.weight": torch.zeros(16)}}, "has shape"),
        ({"model": {**foreign_state(), "pos_embed": torch.zeros(16)}}, "pos_embed has shape"),
        ({"model": {**foreign_state(), "decoder_pos_embed": torch.ones(1, 9, 8)}}, "decoder_pos_embed was trained"),
    ],
)
def test_rejects_checkpoint_without_encoder(tmp_path, content, says):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(UserError, match=says) as caught:
        import_checkpoint(tmp_path / "a.pth", tmp_path / "run", heads=4)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_rejects_impossible_number_of_heads(tmp_path):
    stage_a(tmp_path / "a.pth", foreign_state(), **SETTINGS)
    with pytest.raises(UserError, match=r"divide by model\.heads = 5"):
        import_checkpoint(tmp_path / "a.pth", tmp_path / "run", heads=5)


def test_heads_of_a_decoder_that_is_not_there_are_refused(tmp_path):
    stage_b(tmp_path / "a.pth", foreign_state(decoder_depth=0), num_heads=4)
    with pytest.raises(UserError, match="no decoder in it; leave out --decoder-heads"):
        import_checkpoint(tmp_path / "a.pth", tmp_path / "run", decoder_heads=4)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("pipeline/model_index.json", "dreamjax generate --model opens it as it is"),
        ("run/checkpoints/00000001/manifest.json", "a run of dreamjax already"),
        ("model.safetensors", "give the folder that dreamjax export --to torch wrote"),
        ("notes/notes.txt", "neither an export to torch .* nor the weights of NICE"),
    ],
)
def test_what_other_verbs_open_is_named(tmp_path, name, says):
    file = tmp_path / "there" / name
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    given = tmp_path / "there" / name.split("/")[0]
    with pytest.raises(UserError, match=says):
        import_checkpoint(given, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_existing_run_is_not_overwritten(tmp_path):
    stage_a(tmp_path / "a.pth", foreign_state(), **SETTINGS)
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match="exists already"):
        import_checkpoint(tmp_path / "a.pth", tmp_path / "run")


def test_the_origin_is_kept(tmp_path):
    stage_a(tmp_path / "a.pth", foreign_state(), **SETTINGS)
    import_checkpoint(tmp_path / "a.pth", tmp_path / "run")
    said = provenance.imported(tmp_path / "run")
    assert "DreamDiffusion" in said["origin"]["format"]
    assert len(said["origin"]["sha256"]) == 64
    assert json.loads((tmp_path / "run" / "config.json").read_text())["system"] == "masked_pretraining"


def test_an_imported_run_counts_as_trained_on_unknown_data(tmp_path):
    """Step 0 means untrained, and no path means that nobody can tell who was trained on."""
    stage_a(tmp_path / "a.pth", foreign_state(), **SETTINGS)
    import_checkpoint(tmp_path / "a.pth", tmp_path / "run")
    run = opening.open_run(tmp_path / "run")
    assert run.step == 1
    training = provenance.trained_on(run.config.data.path)
    assert "not verified" in leakage.refuse_overlap(training, [], "test", "run")
