"""A flipped bit in a file that dreamjax wrote and later trusts is reported, or has no effect."""

import json
import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamjax import config as configs
from dreamjax.errors import UserError
from dreamjax.export import import_checkpoint
from dreamjax.parallel import mesh as meshes
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.runs import location, provenance
from dreamjax.signals.datasets import records
from dreamjax.signals.preparation import incremental
from dreamjax.storage import manifest
from dreamjax.sweeps import run_folder
from dreamjax.systems import opening
from dreamjax.targets import features

VALUES = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def trusted(made, tmp_path_factory):
    """A copy of `made`, with a bank and a score of a sweep."""
    root = shutil.copytree(made, tmp_path_factory.mktemp("trusted") / "made")
    bank(root / "bank")
    run_folder.write_json(root / "score.json", {"legs": {"1": {"loss": 0.5}}, "cost": {"seconds": 1.5}})
    return root


def bank(root):
    """The rows of a bank: those on the disk, or computed where none are intact."""

    def load():
        return lambda params, rows: rows["x"] * params, jnp.float32(2), lambda index: {"x": VALUES[index]}

    mesh = meshes.make(MeshConfig(), jax.devices()[:1])
    return np.array(features.open_array(root, "test", {"a": 1}, len(VALUES), load, 16, mesh))


def imported(folder, out):
    shutil.rmtree(out, ignore_errors=True)
    import_checkpoint.import_checkpoint(folder, out)
    return opened(out)


def opened(folder):
    run = opening.open_run(folder)
    return configs.to_json(run.config), run.step, jax.tree.map(np.asarray, run.params)


def restored(root):
    """The parts that are restored from a dataset; None where everything would be converted again."""
    folder = root / "parts"
    shutil.rmtree(folder, ignore_errors=True)
    if not incremental.restore(root / "shards", folder):
        raise UserError("converted again")
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


KINDS = {  # what: (its files, what reading it gives)
    "dataset.json": ("shards/dataset.json", lambda root: records.load_dataset(root / "shards")),
    "shards": (
        "shards/*.array_record-*",
        lambda root: [w.signal for w in records.read_windows(root / "shards", records.ALL)],
    ),
    "parts.jsonl": ("shards/parts.jsonl", restored),
    "a run's config.json": ("run/config.json", lambda root: configs.to_json(opening.config_of(root / "run"))),
    "a run's data.json": ("run/data.json", lambda root: provenance.read(root / "run")),
    "a run's location.json": (
        "run/location.json",
        lambda root: location.present(json.loads((root / "run/config.json").read_text()), root / "run"),
    ),
    "a saved step": ("run/checkpoints/*/**/*", lambda root: opened(root / "run")),
    "an export to torch": ("export/[cm]*", lambda root: imported(root / "export", root / "imported")),
    "a bank": ("bank/*/*", lambda root: bank(root / "bank")),
    "a score of a sweep": ("score.json", lambda root: run_folder.read_json(root / "score.json")),
}


def same(result, expected) -> bool:
    """Whether all that was there is unchanged; a flip in the name of the hash itself may leave one entry more."""
    if isinstance(expected, dict):
        return all(key in result and same(result[key], expected[key]) for key in expected)
    if isinstance(expected, list | tuple):
        return len(result) == len(expected) and all(map(same, result, expected))
    return bool(np.array_equal(result, expected, equal_nan=isinstance(expected, np.ndarray)))


@pytest.mark.parametrize("flips", [3, pytest.param(200, marks=pytest.mark.hostile)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_reported_or_has_no_effect(trusted, kind, flips, tally):
    files, read = KINDS[kind]
    paths = sorted(path for path in trusted.glob(files) if path.is_file())
    rng, expected, failed = random.Random(f"{kind} {flips}"), read(trusted), []
    for _ in range(flips):
        path = rng.choice(paths)
        intact = path.read_bytes()
        at, bit = rng.randrange(len(intact)), rng.randrange(8)
        path.write_bytes(intact[:at] + bytes([intact[at] ^ 1 << bit]) + intact[at + 1 :])
        try:
            result = "unchanged" if same(read(trusted), expected) else "failed"
        except UserError as problem:
            result = "refused" if "\n" not in str(problem) else "failed"
        tally(f"flipped bit of {kind}", result)
        if result == "failed":
            failed.append((path.name, at, bit))
        path.parent.mkdir(parents=True, exist_ok=True)  # a damaged bank is replaced
        path.write_bytes(intact)
    assert not failed


def test_reports_an_edited_file_and_how_to_keep_the_edit(tmp_path):
    path = tmp_path / "dataset.json"
    manifest.write_json(path, {"name": "a", "format": 1})
    path.write_text(path.read_text().replace('"a"', '"b"'))
    with pytest.raises(UserError, match=r"dataset\.json has changed since it was written; .* delete its entry sealed"):
        manifest.unsealed(json.loads(path.read_text()), path)
    edited = json.loads(path.read_text())
    del edited["sealed"]
    assert manifest.unsealed(edited, path) == {"name": "b", "format": 1}


def test_a_manifest_of_another_program_is_not_checked(tmp_path):
    (tmp_path / "manifest.json").write_text('{"name": "web app"}')
    manifest.check_export(tmp_path)
