"""The export as a command: where it goes, which weights it takes, what comes back, what it refuses."""

import json
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest
import torch

from dreamjax import config as configs
from dreamjax.cli.main import main
from dreamjax.errors import UserError
from dreamjax.export import driver
from dreamjax.export.import_checkpoint import import_checkpoint
from dreamjax.storage import manifest
from dreamjax.systems import masked_torch, opening
from dreamjax.training import checkpoints

from .support import load_model_file, random_params, tiny_config, write


def test_an_export_to_an_object_store_is_the_one_to_a_disk(exported, object_store):
    folder, _, _ = exported
    result = driver.export(folder.parent / "run", object_store / "exported" / "tiny")
    assert result.out == "s3://bucket/exported/tiny"
    assert max(result.differences.values()) <= 1e-5
    there = sorted((object_store / "exported" / "tiny").iterdir(), key=str)
    assert {path.name: path.read_bytes() for path in there} == {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(UserError, match="exists already"):
        driver.export(folder.parent / "run", object_store / "exported" / "tiny")


def test_dreamjax_to_torch_to_dreamjax_is_bit_exact_and_exports_the_same_bytes(exported, unchecked, tmp_path):
    folder, params, _ = exported
    import_checkpoint(folder, tmp_path / "run")
    run = opening.open_run(tmp_path / "run")
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(np.asarray(a).view(np.uint32), b.view(np.uint32)), run.params, params
    )
    before, after = opening.config_of(folder.parent / "run"), run.config
    assert (after.model, after.mask, after.loss) == (replace(before.model, mlp_ratio=4.0), before.mask, before.loss)
    assert replace(after.data, tile_channels=before.data.tile_channels) == before.data
    write(tmp_path / "out", run.config, run.params)
    for name in ("model.safetensors", "modeling_dreamjax.py"):
        assert manifest.file_hash(tmp_path / "out" / name) == manifest.file_hash(folder / name), name


def test_a_pth_of_the_exported_model_imports_too(exported, model_class, tmp_path):
    """torch.save(model.state_dict()): a PyTorch user's own way back."""
    torch.save(model_class.from_pretrained(exported[0]).state_dict(), tmp_path / "tuned.pth")
    import_checkpoint(tmp_path / "tuned.pth", tmp_path / "run", heads=2)
    params = opening.open_run(tmp_path / "run").params
    jax.tree.map(np.testing.assert_array_equal, params, exported[1])


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("config.json", b"{", "not JSON"),
        ("config.json", b"[]", "not an object with fields"),
        ("config.json", b"{}", "no entry dreamjax"),
        ("model.safetensors", b"\xff" * 100, "damaged"),
    ],
)
def test_reports_damaged_folder(exported, tmp_path, name, content, says):
    shutil.copytree(exported[0], tmp_path / "out")
    (tmp_path / "out" / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} has {len(content)} bytes instead of"):
        import_checkpoint(tmp_path / "out", tmp_path / "run")
    (tmp_path / "out" / "manifest.json").unlink()
    with pytest.raises(UserError, match=says):
        import_checkpoint(tmp_path / "out", tmp_path / "run")


def test_an_existing_folder_and_a_missing_run_are_refused(exported, tmp_path):
    with pytest.raises(UserError, match="exists already"):
        driver.export(exported[0].parent / "run", exported[0])
    with pytest.raises(UserError, match="holds no run"):
        driver.export(tmp_path / "absent", tmp_path / "out")


def test_a_failure_leaves_nothing_behind(exported, tmp_path, unchecked, monkeypatch):
    def fail(*_):
        raise UserError("no")

    monkeypatch.setattr(masked_torch, "parity", fail)
    with pytest.raises(UserError, match="no"):
        driver.export(exported[0].parent / "run", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


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
        assert driver.export(tmp_path / "run", out, weights=weights).step == 7
        found = load_model_file(out).MaskedAutoencoder.from_pretrained(out).norm.weight
        np.testing.assert_array_equal(found.detach().numpy(), expected["norm"]["scale"])


def test_the_verbs_print_one_json_object(exported, tmp_path, capsys):
    assert main(["import", str(exported[0]), "--out", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["encoder"] == "2 x 16, 2 heads"
    assert main(["export", str(tmp_path / "run"), "--out", str(exported[0])]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["import", str(tmp_path / "absent.pth"), "--out", str(tmp_path / "b")]) == 2
    assert "no such file" in capsys.readouterr().err
