"""An exported folder computes in torch what dreamjax computes, refuses what it cannot take, and says its origin."""

import json
import subprocess
import sys
from dataclasses import replace

import jax
import numpy as np
import pytest
import torch

from dreamjax import config as configs
from dreamjax.cli.main import main
from dreamjax.errors import UserError
from dreamjax.export import import_checkpoint as importer
from dreamjax.export import licences, torch_export
from dreamjax.objectives.reconstruction import ReconstructionConfig
from dreamjax.storage import manifest
from dreamjax.systems import masked_pretraining, runs
from dreamjax.training import checkpoints
from tests.support import make_shards

from .support import (
    load_model_file,
    make_run,
    random_params,
    reference_reconstruction,
    reference_tokens,
    tiny_config,
    with_path,
)

FACTS = {
    "channels": None,
    "licence": None,
    "corpora": None,
    "preprocessing": [],
    "reference": "average",
    "origin": None,
}
FACTS |= {"version": "0", "step": 1, "averaged": False, "config_sha256": "0", "parameters": 1, "data": {}}


def write(folder, config, params):
    folder.mkdir()
    torch_export.write(folder, config, params, dict(FACTS))
    return load_model_file(folder)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A run exported by the function that the command calls, its checks in a process without JAX included."""
    folder = tmp_path_factory.mktemp("exported")
    params = make_run(folder / "run", tiny_config())
    result = torch_export.export(folder / "run", folder / "out")
    return folder / "out", params, result


def test_the_difference_in_a_process_without_jax_is_at_most_1e_5(exported):
    folder, _, result = exported
    assert set(result["differences"]) == {"tokens", "pooled", "reconstruction"}
    assert max(result["differences"].values()) <= 1e-5
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "modeling_dreamjax.py",
        "parity.safetensors",
    ]


def test_the_model_file_imports_torch_and_safetensors_alone(exported):
    """Run as a script where importing jax or dreamjax raises; it checks itself and exits 0."""
    script = (
        "import sys, runpy\n"
        "for name in ('jax', 'jaxlib', 'flax', 'dreamjax', 'ml_dtypes'): sys.modules[name] = None\n"
        f"runpy.run_path({str(exported[0] / 'modeling_dreamjax.py')!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert max(json.loads(done.stdout)["differences"].values()) <= 1e-5


def test_an_export_to_an_object_store_is_the_one_to_a_disk(exported, object_store):
    folder, _, _ = exported
    result = torch_export.export(folder.parent / "run", object_store / "exported" / "tiny")
    assert result["out"] == "s3://bucket/exported/tiny"
    assert max(result["differences"].values()) <= 1e-5
    there = sorted((object_store / "exported" / "tiny").iterdir(), key=str)
    assert {path.name: path.read_bytes() for path in there} == {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(UserError, match="exists already"):
        torch_export.export(folder.parent / "run", object_store / "exported" / "tiny")


def test_a_changed_weight_is_noticed(exported, tmp_path):
    """The parity check can fail: one weight in a thousand changed by a hundredth."""
    import shutil

    from safetensors.numpy import load_file, save_file

    shutil.copytree(exported[0], tmp_path / "out")
    weights = load_file(tmp_path / "out" / "model.safetensors")
    weights["blocks.0.attn.qkv.weight"] = weights["blocks.0.attn.qkv.weight"].copy()
    weights["blocks.0.attn.qkv.weight"][0, 0] += 0.01
    save_file(weights, tmp_path / "out" / "model.safetensors")
    with pytest.raises(UserError, match="differ by"):
        torch_export.check(tmp_path / "out")


@pytest.mark.parametrize(
    ("data", "model"),
    [
        ({"scaling": "zscore", "clip": 0.0}, {"interpolation": "gaussian", "spectrum_points": 9}),
        ({"scaling": "robust", "clip": 1.5}, {"positions": "learned", "mlp_ratio": 1.3}),
        (
            {"scaling": "divide", "divide": 7.0, "clip": 2.0},
            {"decoder_depth": 0, "cls_token": False, "positions": "learned", "patch": 8},
        ),
    ],
)
def test_every_kind_of_model_and_scaling_agrees(tmp_path, data, model):
    config = tiny_config(data=data, **model)
    module = write(tmp_path / "out", config, random_params(config))
    differences = module.check_parity(tmp_path / "out")
    assert ("reconstruction" in differences) == (config.model.decoder_depth > 0)
    assert max(differences.values()) <= 1e-5


def test_padding_is_left_out_as_dreamjax_leaves_it_out(tmp_path):
    config = tiny_config(data={"scaling": "zscore"})
    params = random_params(config)
    model = write(tmp_path / "out", config, params).MaskedAutoencoder.from_pretrained(tmp_path / "out")
    x = 20 * np.random.default_rng(0).standard_normal((2, 19, 64)).astype(np.float32)
    valid = np.ones((2, 64), np.float32)
    valid[1, 40:] = 0
    x[1, :, 40:] = 0
    signal, _, _ = torch_export.in_units(config.data, x, np.ones(2, np.float32), valid > 0)
    tokens = jax.jit(lambda p, s, v: masked_pretraining.features(config, p, s, v))(params, signal, valid)
    ok = valid.reshape(2, -1, 4).min(2) > 0
    pooled = np.asarray(masked_pretraining.pooled(tokens, ok))
    with torch.no_grad():
        found = model(torch.from_numpy(x), valid=torch.from_numpy(valid), return_features=True)
    np.testing.assert_allclose(found["pooled"].numpy(), pooled, atol=1e-5 * np.abs(pooled).max())
    np.testing.assert_allclose(found["features"].numpy()[ok], np.asarray(tokens)[ok], atol=1e-4)


def test_the_torch_model_is_torchs_own_transformer(exported):
    """The encoder and the masked autoencoder of the exported file against nn.TransformerEncoderLayer."""
    model = load_model_file(exported[0]).MaskedAutoencoder.from_pretrained(exported[0])
    state = model.state_dict()
    x = 20 * torch.randn(2, 19, 64, generator=torch.Generator().manual_seed(0))
    scaled, gain, _ = model.scaled(x, scale=15.0)
    keep = [1, 2, 7, 12]
    masked = torch.ones(2, 16, dtype=torch.bool)
    masked[:, keep] = False
    with torch.no_grad():
        tokens = model(x, scale=15.0, return_features=True)
        filled = model.reconstruct(x, masked, scale=15.0)
    expected = reference_tokens(state, scaled, heads=2)
    torch.testing.assert_close(
        torch.cat([tokens["cls_token"][:, None], tokens["features"]], 1), expected, rtol=0, atol=2e-5
    )
    expected = reference_reconstruction(state, scaled, keep, heads=2, decoder_heads=2) * gain[:, :, None]
    torch.testing.assert_close(filled, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


# ------------------------------------------------------------------------------------------------------- the contract
@pytest.fixture(scope="module")
def model_class(exported):
    return load_model_file(exported[0]).MaskedAutoencoder


def test_braindecodes_conventions_hold(exported, model_class, tmp_path):
    folder = exported[0]
    model = model_class.from_pretrained(folder)
    assert (model.n_chans, model.n_times, model.sfreq, model.n_outputs) == (19, 64, 256.0, None)
    assert model.input_window_seconds == 0.25
    assert model.ch_names[:3] == ["Fp1", "Fp2", "F7"]
    assert len(model.chs_info[0]["loc"]) == 12
    x = torch.randn(3, 19, 64)
    with torch.no_grad():
        assert model(x).shape == (3, 16)
        features = model(x, return_features=True)
    assert features["features"].shape == (3, 16, 16)
    assert torch.equal(features["pooled"], features["features"].mean(1))

    classifier = model_class.from_pretrained(folder, n_outputs=5)
    assert isinstance(classifier.final_layer, torch.nn.Linear)
    assert classifier(x).shape == (3, 5)
    classifier.reset_head(2)
    assert classifier(x).shape == (3, 2)
    assert classifier.get_config()["n_outputs"] == 2
    same = model_class.from_config(json.loads(json.dumps(classifier.get_config())))
    assert same.get_config() == classifier.get_config()
    assert {n: p.shape for n, p in same.named_parameters()} == {n: p.shape for n, p in classifier.named_parameters()}

    classifier.save_pretrained(tmp_path / "tuned")
    again = model_class.from_pretrained(tmp_path / "tuned")
    assert torch.equal(again(x), classifier.eval()(x))
    assert again.provenance == model.provenance
    importer.import_checkpoint(tmp_path / "tuned", tmp_path / "run")  # without its head


def test_all_but_the_positions_can_be_trained(model_class, exported):
    model = model_class.from_pretrained(exported[0], n_outputs=3)
    model(torch.randn(2, 19, 64)).sum().backward()
    without = {
        name for name, p in model.named_parameters() if p.grad is None and not name.startswith(("decoder", "mask"))
    }
    assert without == {"pos_embed"}


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m: m(torch.zeros(1, 20, 64)), r"takes \(batch, 19 channels, 64 samples\), not \(1, 20, 64\)"),
        (lambda m: m(torch.zeros(1, 19, 65)), "64 samples"),
        (lambda m: m(torch.zeros(19, 64)), "64 samples"),
        (lambda m: m(torch.zeros(1, 19, 64), sfreq=250), "takes 256 Hz, not 250 Hz"),
        (lambda m: m.reconstruct(torch.zeros(1, 19, 64), torch.zeros(1, 9, dtype=bool)), "16 tokens"),
    ],
)
def test_wrong_input_is_refused_in_one_sentence(model_class, exported, call, says):
    with pytest.raises(ValueError, match=says) as caught:
        call(model_class.from_pretrained(exported[0]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("expected", "says"),
    [
        ({"n_chans": 20}, "n_chans = 19, not 20"),
        ({"n_times": 512}, "n_times = 64, not 512"),
        ({"sfreq": 200}, "sfreq = 256.0, not 200"),
        ({"chs_info": [{"ch_name": "Cz"}]}, "Fp1, Fp2, F7"),
        ({"colour": 3}, "no argument colour"),
    ],
)
def test_other_expectations_than_the_weights_were_trained_on_are_refused(model_class, exported, expected, says):
    with pytest.raises(ValueError, match=says):
        model_class.from_pretrained(exported[0], **expected)
    agreeing = {"n_chans": 19, "n_times": 64, "sfreq": 256, "input_window_seconds": 0.25}
    model_class.from_pretrained(exported[0], **agreeing)


def test_the_robust_scale_is_the_one_of_the_records():
    module = load_module()
    signal = np.random.default_rng(0).standard_normal((6, 101)).astype(np.float32)
    expected = np.median(1.4826 * np.median(np.abs(signal - np.median(signal, 1)[:, None]), 1))
    assert float(module.robust_scale(torch.from_numpy(signal))) == pytest.approx(float(expected), rel=1e-6)


def load_module():
    from dreamjax.export import torch_model

    return torch_model


# ------------------------------------------------------------------------------------------------------- round trips
def test_dreamjax_to_torch_to_dreamjax_is_bit_exact_and_exports_the_same_bytes(exported, unchecked, tmp_path):
    folder, params, _ = exported
    importer.import_checkpoint(folder, tmp_path / "run")
    run = runs.open_run(tmp_path / "run")
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(np.asarray(a).view(np.uint32), b.view(np.uint32)), run.params, params
    )
    before, after = runs.config_of(folder.parent / "run"), run.config
    assert (after.model, after.mask, after.loss) == (replace(before.model, mlp_ratio=4.0), before.mask, before.loss)
    assert replace(after.data, tile_channels=before.data.tile_channels) == before.data
    (tmp_path / "out").mkdir()
    torch_export.write(tmp_path / "out", run.config, run.params, dict(FACTS))
    for name in ("model.safetensors", "modeling_dreamjax.py"):
        assert manifest.file_hash(tmp_path / "out" / name) == manifest.file_hash(folder / name), name


def test_a_pth_of_the_exported_model_imports_too(exported, model_class, tmp_path):
    """torch.save(model.state_dict()): a PyTorch user's own way back."""
    torch.save(model_class.from_pretrained(exported[0]).state_dict(), tmp_path / "tuned.pth")
    importer.import_checkpoint(tmp_path / "tuned.pth", tmp_path / "run", heads=2)
    params = runs.open_run(tmp_path / "run").params
    jax.tree.map(np.testing.assert_array_equal, params, exported[1])


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("config.json", b"{", "no JSON"),
        ("config.json", b"[]", "no configuration"),
        ("config.json", b"{}", "no entry dreamjax"),
        ("model.safetensors", b"\xff" * 100, "damaged"),
    ],
)
def test_a_damaged_folder_gets_one_sentence(exported, tmp_path, name, content, says):
    import shutil

    shutil.copytree(exported[0], tmp_path / "out")
    (tmp_path / "out" / name).write_bytes(content)
    with pytest.raises(UserError, match=says):
        importer.import_checkpoint(tmp_path / "out", tmp_path / "run")


# ---------------------------------------------------------------------------------------------------- where it is from
@pytest.fixture
def unchecked(monkeypatch):
    """Exports whose numbers are not the matter: neither computed nor compared."""
    monkeypatch.setattr(torch_export, "parity", lambda config, params: {"input": np.zeros(1, np.float32)})
    monkeypatch.setattr(torch_export, "check", lambda folder: None)


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    """A run over two corpora, one of them restricted, exported from the records' own licences."""
    folder = tmp_path_factory.mktemp("described")
    make_shards(folder / "open", subjects=3, windows=2, samples=64, name="openset")
    make_shards(folder / "closed", subjects=3, windows=2, samples=64, name="closedset")
    dataset = json.loads((folder / "closed" / "dataset.json").read_text())
    dataset["corpora"] = {"closedset": {"licences": ["CC-BY-NC-4.0"], "recordings": 3, "hours": 0.5, "subjects": 3}}
    dataset["settings"] = {"low": 0.5, "high": 75.0, "notch": "auto", "sfreq": 256.0, "reference": "auto"}
    dataset["inputs"] = [{"plan": {"band": [0.5, 75.0], "line": 50.0, "reference": "average"}}] * 3
    (folder / "closed" / "dataset.json").write_text(json.dumps(dataset))
    make_run(folder / "both", with_path(tiny_config(), folder / "open", folder / "closed"))
    make_run(folder / "one", with_path(tiny_config(), folder / "open"))
    return folder


def test_the_card_says_what_a_user_must_know(described, unchecked):
    out = described / "card"
    torch_export.export(described / "both", out, licence="cc-by-nc-4.0")
    text, config = (out / "README.md").read_text(), json.loads((out / "config.json").read_text())
    front = text.split("---")[1]
    for line in ("license: cc-by-nc-4.0", "pipeline_tag: feature-extraction", "- eeg", "- pytorch"):
        assert line in front
    for said in (
        "| openset | CC0-1.0 |",
        "| closedset | CC-BY-NC-4.0 | 3 | 3 | 0.5 |",
        "µV",
        "256 Hz",
        "average (3 recordings)",
        "random, share 0.75 of the patches",
        "[0.5, 75.0] × 3",
        manifest.file_hash(out / "model.safetensors"),
        "| 1 | Fp1 | -0.0309 |",
    ):
        assert said in text, said
    assert str(described) not in text + json.dumps(config)  # no path of the machine it was trained on
    assert config["dreamjax"]["corpora"]["closedset"]["licences"] == ["CC-BY-NC-4.0"]
    assert config["dreamjax"]["sha256"] == manifest.file_hash(out / "model.safetensors")


def test_a_permissive_licence_over_a_restricted_or_unknown_corpus_is_refused(described, exported, unchecked):
    out = described / "refused"
    with pytest.raises(UserError, match=r"closedset \(CC-BY-NC-4.0\)"):
        torch_export.export(described / "both", out, licence="apache-2.0")
    with pytest.raises(UserError, match="unknown"):
        torch_export.export(exported[0].parent / "run", out, licence="MIT")
    assert not out.exists()
    torch_export.export(described / "one", described / "allowed", licence="apache-2.0")
    importer.import_checkpoint(described / "allowed", described / "again")  # an import keeps what the folder said
    torch_export.export(described / "again", described / "allowed_again", licence="apache-2.0")


@pytest.mark.parametrize(
    "licence", ["apache-2.0", "MIT", "CC-BY-4.0", "cc0", "Apache 2.0", "bsd-3-clause", "BSD 3-Clause"]
)
def test_permissive_licences_are_recognised_as_people_write_them(licence):
    with pytest.raises(UserError, match="cannot be licensed"):
        licences.check(licence, {"c": {"licences": ["CC-BY-NC-4.0"]}})
    with pytest.raises(UserError, match="unknown"):
        licences.check(licence, None)


@pytest.mark.parametrize("licence", ["CC0-1.0", "CC-BY-4.0", "ODC-By-1.0", "MIT", "BSD-3-Clause", "PDDL-1.0"])
def test_open_corpora_allow_permissive_weights(licence):
    licences.check("apache-2.0", {"c": {"licences": [licence]}})


@pytest.mark.parametrize("licence", ["CC-BY-NC-4.0", "CC-BY-SA-4.0", "CC-BY-ND-4.0", "ODbL-1.0", "unknown", "", "TUH"])
def test_other_corpora_do_not(licence):
    with pytest.raises(UserError, match="cannot be licensed"):
        licences.check("apache-2.0", {"c": {"licences": [licence]}})
    licences.check("CC-BY-NC-ND-4.0", {"c": {"licences": [licence]}})
    licences.check(None, {"c": {"licences": [licence]}})


# ----------------------------------------------------------------------------------------------------------- bad luck
def test_an_existing_folder_and_a_missing_run_are_refused(exported, tmp_path):
    with pytest.raises(UserError, match="exists already"):
        torch_export.export(exported[0].parent / "run", exported[0])
    with pytest.raises(UserError, match="holds no run"):
        torch_export.export(tmp_path / "absent", tmp_path / "out")


def test_a_failure_leaves_nothing_behind(exported, tmp_path, unchecked, monkeypatch):
    def fail(folder):
        raise UserError("no")

    monkeypatch.setattr(torch_export, "check", fail)
    with pytest.raises(UserError, match="no"):
        torch_export.export(exported[0].parent / "run", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_normalised_targets_exports_its_encoder_and_refuses_to_reconstruct(tmp_path):
    config = replace(tiny_config(), loss=ReconstructionConfig(target="patch_normalised"))
    module = write(tmp_path / "out", config, random_params(config))
    assert set(module.check_parity(tmp_path / "out")) == {"tokens", "pooled"}
    model = module.MaskedAutoencoder.from_pretrained(tmp_path / "out")
    with pytest.raises(ValueError, match="normalised targets"):
        model.reconstruct(torch.zeros(1, 19, 64), torch.zeros(1, 16, dtype=bool))


def test_averaged_weights_are_exported_unless_others_are_asked_for(tmp_path, unchecked):
    from dreamjax.training.task import State

    config = tiny_config()
    params, averaged = random_params(config, 0), random_params(config, 1)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(configs.to_json(config))
    saver = checkpoints.Saver(tmp_path / "run" / "checkpoints", checkpoints.CheckpointConfig(), configs.to_json(config))
    state = State(step=np.int32(7), params=params, ema=averaged)
    saver.save(7, jax.tree.map(jax.numpy.asarray, state), {"examples": 70, "score": None})
    saver.wait()
    saver.close()
    for weights, expected in (("ema", averaged), ("params", params)):
        out = tmp_path / weights
        assert torch_export.export(tmp_path / "run", out, weights=weights)["step"] == 7
        found = load_model_file(out).MaskedAutoencoder.from_pretrained(out).norm.weight
        np.testing.assert_array_equal(found.detach().numpy(), expected["norm"]["scale"])


def test_the_verbs_print_one_json_object(exported, tmp_path, capsys):
    assert main(["import", str(exported[0]), "--out", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["encoder"] == "2 x 16, 2 heads"
    assert main(["export", str(tmp_path / "run"), "--out", str(exported[0])]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["import", str(tmp_path / "absent.pth"), "--out", str(tmp_path / "b")]) == 2
    assert "no such file" in capsys.readouterr().err
