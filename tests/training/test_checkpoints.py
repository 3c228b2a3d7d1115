"""What is saved is what is restored, or it is said why not."""

import json
import logging
import os
import random
import shutil
import subprocess
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamjax.errors import UserError
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.storage import manifest
from dreamjax.storage.presence import CannotRead
from dreamjax.training import checkpoints
from dreamjax.training.checkpoints import CheckpointConfig, SaveFailed
from dreamjax.training.loop import train
from dreamjax.training.task import State
from dreamjax.training.train_config import TrainConfig
from dreamjax.training.workdir import claim
from tests.support import unreadable
from tests.training import children
from tests.training.test_loop import records, run, saved_arrays
from tests.training.tiny_tasks import FormulaStream, Regression


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    """A run directory with intact steps 4 and 8."""
    folder = tmp_path_factory.mktemp("run")
    run(Regression(), folder, steps=8, checkpoint=CheckpointConfig(every=4))
    assert checkpoints.committed_steps(folder / "checkpoints") == [4, 8]
    return folder


def every_file(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("tries", [25, pytest.param(400, marks=pytest.mark.long)])
def test_any_flipped_bit_and_any_truncation_is_found(two_steps, tmp_path, tries, caplog):
    """One random bit or one random cut anywhere in the newest step, its manifest included: the step before is used."""
    rng = random.Random(time_seed := int.from_bytes(os.urandom(4)))
    newest = two_steps / "checkpoints" / "00000008"
    files = [path for path in every_file(newest) if path.stat().st_size]
    for attempt in range(tries):
        path = rng.choice(files)
        good = path.read_bytes()
        if attempt % 3:
            at = rng.randrange(len(good))
            path.write_bytes(good[:at] + bytes([good[at] ^ (1 << rng.randrange(8))]) + good[at + 1 :])
        else:
            path.write_bytes(good[: rng.randrange(len(good))])
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="dreamjax"):
            assert checkpoints.newest_intact(two_steps / "checkpoints") == 4, (time_seed, attempt, path)
        assert len(caplog.records) == 1
        assert "step 8" in caplog.text
        path.write_bytes(good)
    assert checkpoints.newest_intact(two_steps / "checkpoints") == 8


def test_a_damaged_newest_step_is_trained_again(two_steps, tmp_path):
    """The run continues from step 4, and its step 8 has the bits of the first one."""
    folder = tmp_path / "run"
    shutil.copytree(two_steps, folder)
    before = saved_arrays(two_steps, Regression(), 8)
    victim = max(every_file(folder / "checkpoints" / "00000008"), key=lambda p: p.stat().st_size)
    victim.write_bytes(victim.read_bytes()[:-1] + b"\x00\x01")
    result = run(Regression(), folder, steps=8, checkpoint=CheckpointConfig(every=4))
    assert result["resumed_from"] == 4
    after = saved_arrays(folder, Regression(), 8)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert records(folder) == records(two_steps)


def test_a_step_without_its_manifest_does_not_count(two_steps, tmp_path, caplog):
    folder = tmp_path / "run"
    shutil.copytree(two_steps, folder)
    (folder / "checkpoints" / "00000008" / manifest.NAME).unlink()
    with caplog.at_level(logging.INFO, logger="dreamjax"):
        assert checkpoints.newest_intact(folder / "checkpoints") == 4
    assert "did not finish" in caplog.text


@pytest.mark.parametrize("what", ["00000008", "00000008/manifest.json", "00000008/run.json", "0", ""])
def test_stops_where_a_saved_step_cannot_be_read(two_steps, tmp_path, what):
    """A missing and an unreadable step are different: training again from step 0 would mix two runs."""
    folder = tmp_path / "run"
    shutil.copytree(two_steps, folder)
    before = {path: path.read_bytes() for path in every_file(folder)}
    with unreadable(folder / "checkpoints" / what), pytest.raises(CannotRead, match="Permission denied"):
        run(Regression(), folder, steps=16)
    assert {path: path.read_bytes() for path in every_file(folder)} == before


def test_saves_the_state_of_its_step_while_training_continues(tmp_path):
    """Asynchronous: the arrays are donated to the next step at once, and the save must not see that."""
    saver = checkpoints.Saver(tmp_path, CheckpointConfig(keep_last=9), "{}")
    step = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    state = State(step=jnp.int32(0), params={"w": jnp.zeros((512, 512))})
    for k in range(4):
        saver.save(k, state, {"score": None})
        for _ in range(20):
            state = step(state)
    saver.wait()
    saver.close()
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = {"params": {"w": jax.ShapeDtypeStruct((512, 512), jnp.float32, sharding=place)}}
    for k in range(4):
        w = checkpoints.restore(tmp_path, k, shapes, groups=("params",))["params"]["w"]
        assert (np.asarray(w) == 20 * k).all()


def test_last_every_n_and_best_are_kept(tmp_path):
    saver = checkpoints.Saver(tmp_path, CheckpointConfig(keep_last=2, keep_every=4), "{}")
    for k, score in enumerate([0.9, 0.2, 0.5, 0.4, 0.6, 0.7, 0.8, 0.9]):
        saver.save(k, State(step=jnp.int32(k), params={"w": jnp.ones(3)}), {"score": score})
    saver.wait()
    saver.close()
    assert checkpoints.committed_steps(tmp_path) == [0, 1, 4, 6, 7]
    assert checkpoints.best_step(tmp_path, "min") == 1
    assert checkpoints.best_step(tmp_path, "max") == 7


@pytest.mark.parametrize("text", ["", '{"step": 0, "scor', "7", None])
def test_a_damaged_older_step_does_not_delete_the_new_one(tmp_path, text):
    """Its run.json is asked for the best score at every later save."""
    saver = checkpoints.Saver(tmp_path, CheckpointConfig(keep_last=2), "{}")
    state = State(step=jnp.int32(0), params={"w": jnp.ones(3)})
    for k, score in enumerate([0.5, 0.4, 0.9]):
        saver.save(k, state, {"score": score})
        saver.wait()
        if k == 0:
            path = tmp_path / "00000000" / "run.json"
            path.unlink() if text is None else path.write_text(text)
    saver.close()
    assert checkpoints.committed_steps(tmp_path) == [1, 2]
    assert checkpoints.best_step(tmp_path, "min") == 1


def test_a_damaged_step_does_not_count_towards_what_is_kept(tmp_path):
    """Steps 1 and 2 are damaged after they were saved: the last two intact ones are 0 and 3, then 3 and 4."""
    saver = checkpoints.Saver(tmp_path, CheckpointConfig(keep_last=2), "{}")
    state = State(step=jnp.int32(0), params={"w": jnp.ones(300)})
    kept = []
    for k, score in enumerate([0.3, 0.1, 0.2, 0.9, 0.9]):
        saver.save(k, state, {"score": score})
        saver.wait()
        kept.append(checkpoints.committed_steps(tmp_path))
        if k in (1, 2):
            victim = max(every_file(tmp_path / f"{k:08d}" / "state"), key=lambda path: path.stat().st_size)
            victim.write_bytes(victim.read_bytes()[:-1])
    saver.close()
    assert kept == [[0], [0, 1], [0, 2], [0, 3], [0, 3, 4]]  # 0 stays as the best of those that are intact
    assert checkpoints.newest_intact(tmp_path) == 4


@pytest.mark.parametrize("broken", ["write_text", "remove"])
def test_a_failing_store_is_a_failed_save(tmp_path, monkeypatch, broken):
    """Whatever a store raises, in either place, is told once; the next save goes well."""

    def refuse(*_, **__):
        raise RuntimeError("503 try again later")

    saver = checkpoints.Saver(tmp_path, CheckpointConfig(), "{}")

    def save(step):
        saver.save(step, State(step=jnp.int32(0), params={"w": jnp.ones(3)}), {"score": None})
        saver.wait()

    with monkeypatch.context() as patch:
        patch.setattr(
            *((checkpoints.atomic, broken) if broken == "write_text" else (checkpoints.manifest, "write")), refuse
        )
        patch.setattr(checkpoints, "remove", refuse)
        with pytest.raises(SaveFailed, match=r"could not be saved \(503 try again later\); no step was saved before"):
            save(1)
    save(2)
    saver.close()
    assert checkpoints.committed_steps(tmp_path) == [2]


def test_a_step_that_was_saved_stays_when_older_ones_cannot_be_deleted(tmp_path, monkeypatch, caplog):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    saver = checkpoints.Saver(tmp_path, CheckpointConfig(keep_last=1), "{}")
    saver.save(0, State(step=jnp.int32(0), params={"w": jnp.ones(3)}), {"score": None})
    saver.wait()
    monkeypatch.setattr(checkpoints, "retain", refuse)
    with caplog.at_level(logging.WARNING, logger="dreamjax"):
        saver.save(1, State(step=jnp.int32(1), params={"w": jnp.ones(3)}), {"score": None})
        saver.wait()
    saver.close()
    assert checkpoints.newest_intact(tmp_path) == 1
    assert "could not be deleted" in caplog.text


def test_every_missing_extra_and_misshapen_array_is_named(two_steps):
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = {
        "params": {
            "fc1": {"kernel": jax.ShapeDtypeStruct((16, 33), jnp.float32, sharding=place)},
            "fc3": {"kernel": jax.ShapeDtypeStruct((2, 2), jnp.float32, sharding=place)},
        }
    }
    with pytest.raises(UserError) as caught:
        checkpoints.restore(two_steps / "checkpoints", 8, shapes, groups=("params",))
    text = str(caught.value)
    for part in ("missing: params/fc3/kernel", "params/fc1/bias", "params/fc2/kernel", "params/fc2/bias"):
        assert part in text
    assert "misshapen: params/fc1/kernel [[16, 32], 'float32'] instead of [[16, 33], 'float32']" in text


def test_parameters_alone_make_a_run(tmp_path):
    params = {"a": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}}
    path = checkpoints.save_params_as_run(tmp_path, '{"system": "x"}', params)
    assert not manifest.problems(path)
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = {"params": {"a": {"kernel": jax.ShapeDtypeStruct((2, 3), jnp.float32, sharding=place)}}}
    back = checkpoints.restore(tmp_path / "checkpoints", 0, shapes, groups=("params",))
    np.testing.assert_array_equal(back["params"]["a"]["kernel"], params["a"]["kernel"])


# ---------------------------------------------------------------------------------------------------------- bad luck
def test_a_metric_that_is_not_finite_stops_the_run_and_leaves_the_last_good_step(tmp_path):
    """Example 100 is NaN: it is in step 7's batch of 16. Step 4 stays, step 8 is never saved."""
    task = Regression(stream=FormulaStream(poison=100))
    with pytest.raises(UserError, match=r"step 7: .*grad_norm.*not finite"):
        run(task, tmp_path, steps=20, checkpoint=CheckpointConfig(every=4), log_every=1)
    assert checkpoints.newest_intact(tmp_path / "checkpoints") == 4
    assert [r["step"] for r in records(tmp_path)] == list(range(1, 7))
    arrays = saved_arrays(tmp_path, task)
    assert all(np.isfinite(value).all() for value in arrays.values() if value.dtype == np.float32 and value.ndim)


def test_a_step_that_is_not_finite_does_not_change_the_state():
    task = Regression(stream=FormulaStream(poison=3))
    state = task.init(jax.random.key(0))
    batch = next(task.stream.batches(start=0, batch_size=16))
    after, metrics = jax.jit(task.update)(state, batch)
    assert float(metrics["finite"][0]) == 0
    jax.tree.map(np.testing.assert_array_equal, after, state)


def test_rejects_a_work_directory_of_another_config(tmp_path):
    before = json.dumps({"model": {"dim": 64}, "train": {"steps": 10, "mesh": {"data": -1}}})
    claim(tmp_path, before)
    assert claim(tmp_path, before.replace("10", "20").replace("-1", "4")) == {"train.steps", "train.mesh.data"}
    with pytest.raises(UserError, match=r"another config \(model.dim was 64 and is now 65\): choose another --workdir"):
        claim(tmp_path, before.replace("64", "65"))
    assert json.loads((tmp_path / "config.json").read_text())["model"]["dim"] == 64


def test_a_run_of_an_older_version_is_continued_where_the_new_key_has_its_default(tmp_path):
    """`depth` came with a later version, `gate` went; what an old run did is what the default does."""
    before = json.dumps({"model": {"dim": 64, "gate": True}, "train": {"steps": 10}})
    defaults = json.dumps({"model": {"dim": 32, "depth": 2}, "train": {"steps": 5}})
    now = {"model": {"dim": 64, "depth": 2}, "train": {"steps": 10}}
    claim(tmp_path, before)
    assert claim(tmp_path, json.dumps(now), defaults) == set()
    with pytest.raises(UserError, match=r"another config \(model.depth was 2 and is now 3\)"):
        claim(tmp_path, json.dumps(now | {"model": {"dim": 64, "depth": 3}}), defaults)
    with pytest.raises(UserError, match=r"another config \(model.dim was 64 and is now 32\)"):
        claim(tmp_path, json.dumps(now | {"model": {"dim": 32, "depth": 2}}), defaults)
    with pytest.raises(UserError, match=r"model.depth was None .* model.gate was True"):
        claim(tmp_path, json.dumps(now))


def test_a_longer_run_follows_the_new_schedule(tmp_path):
    """train.steps may grow: the cosine then ends at the new horizon."""
    for steps in (4, 8):
        text = json.dumps({"train": {"steps": steps}})
        settings = TrainConfig(steps=steps, batch_size=16, log_every=1, tensorboard=False)
        result = train(Regression(steps=steps), settings, tmp_path, config_json=text, devices=jax.devices()[:1])
    assert (result["resumed_from"], result["step"]) == (4, 8)
    assert checkpoints.newest_intact(tmp_path / "checkpoints") == 8
    assert checkpoints.read_json(tmp_path / "checkpoints", 8, "run")["finished"]
    peak, warmup = 1e-2, 3
    expected = [peak * 0.5 * (1 + np.cos(np.pi * (s - warmup) / (8 - warmup))) for s in (4, 5, 6, 7)]
    np.testing.assert_allclose([r["learning_rate"] for r in records(tmp_path)[4:]], expected, rtol=1e-5)


def assert_nothing_half_written(folder):
    """Every file is whole: JSON parses, each step directory is committed and intact, no temporary name is left."""
    assert not list(folder.rglob("*.part"))
    for step in (folder / "checkpoints").iterdir():
        assert not manifest.problems(step), step


def test_reports_a_save_that_does_not_fit(tmp_path):
    """Files may not grow beyond 8 KiB, the state is larger: the same error path as a full disk, on any machine."""
    child = children.start(tmp_path, Regression(width=512), file_limit=8 << 10, checkpoint=CheckpointConfig(every=5))
    child.join()
    assert child.exitcode == 2
    text = (tmp_path / "error.txt").read_text()
    assert "could not be saved (File too large); no step was saved before" in text
    assert records(tmp_path)[-1]["step"] == 40  # training went on until the step that had to be saved
    assert_nothing_half_written(tmp_path)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 600 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root; test_reports_a_save_that_does_not_fit stands in")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_reports_a_full_disk(tmp_path, small_disk):
    """It takes the first saves and not the later ones, which are kept without end; nor the last, which has to be."""
    settings = {"steps": 200, "checkpoint": CheckpointConfig(every=5, keep_last=100)}
    child = children.start(small_disk / "run", Regression(width=128), note=tmp_path, **settings)
    child.join()
    assert child.exitcode == 2
    text = (tmp_path / "error.txt").read_text()
    assert "could not be saved (No space left on device); step" in text
    assert_nothing_half_written(small_disk / "run")
    assert checkpoints.newest_intact(small_disk / "run" / "checkpoints") in range(5, 200, 5)


@pytest.mark.long
def test_training_continues_while_the_disk_is_full(tmp_path, small_disk):
    """No save and no line of a log goes through until there is room again; then both do, and no line is missing."""
    filler = small_disk / "filler"
    filler.write_bytes(bytes(540 << 10))
    task = Regression(width=128, stream=FormulaStream(delay=0.01))
    settings = {"steps": 300, "tensorboard": True, "checkpoint": CheckpointConfig(every=5, keep_last=1)}
    child = children.start(small_disk / "run", task, note=tmp_path, **settings)
    while child.is_alive() and len(list((small_disk / "run").glob("checkpoints/*"))) == 0:
        time.sleep(0.01)
    time.sleep(1)  # some dozen steps, and saves that fail
    filler.unlink()
    child.join()
    assert child.exitcode == 0
    result = json.loads((tmp_path / "result_0.json").read_text())
    assert result["step"] == 300
    assert result["failed_saves"] > 0
    assert checkpoints.newest_intact(small_disk / "run" / "checkpoints") == 300
    assert [r["step"] for r in records(small_disk / "run")] == list(range(1, 301))
    assert_nothing_half_written(small_disk / "run")


# ------------------------------------------------------------------------------------------------------ object stores
def test_commit_and_verification_in_an_object_store(object_store):
    """The manifest decides what counts where nothing can be renamed; logs are written whole; configs are claimed."""
    from dreamjax.training.logging import JsonLines

    run_folder = object_store / "run"
    claim(run_folder, '{"a": 1}')
    with pytest.raises(UserError, match="another config"):
        claim(run_folder, '{"a": 2}')
    for step in (1, 2):
        path = checkpoints.step_folder(run_folder / "checkpoints", step)
        (path / "state" / "d").mkdir(parents=True, exist_ok=True)
        (path / "state" / "d" / "array").write_bytes(bytes(range(step, step + 100)))
        manifest.write(path)
    assert checkpoints.newest_intact(run_folder / "checkpoints") == 2
    (run_folder / "checkpoints" / "00000002" / "state" / "d" / "array").write_bytes(bytes(100))
    assert checkpoints.newest_intact(run_folder / "checkpoints") == 1
    checkpoints.remove(run_folder / "checkpoints" / "00000002")
    assert checkpoints.committed_steps(run_folder / "checkpoints") == [1]
    lines = JsonLines(run_folder / "metrics.jsonl", 0)
    for step in (1, 2, 3):
        lines.write({"step": step})
    lines.close()
    again = JsonLines(run_folder / "metrics.jsonl", 2)
    again.write({"step": 3, "again": True})
    again.close()
    assert (run_folder / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3, "again": true}\n'


def test_a_run_in_an_object_store_saves_its_arrays_and_resumes(google_store, tmp_path):
    """TensorStore writes the arrays over HTTP, the rest goes through epath: both are one bucket. As on a disk."""
    bucket, served = google_store
    for folder in (bucket / "run", tmp_path):
        run(Regression(), folder, steps=4, checkpoint=CheckpointConfig(every=4))
    assert any(request.startswith("POST run/checkpoints/00000004/state") for request in served)
    assert checkpoints.newest_intact(bucket / "run" / "checkpoints") == 4
    there, here = (saved_arrays(folder, Regression(), 4) for folder in (bucket / "run", tmp_path))
    assert there.keys() == here.keys()
    assert all(np.array_equal(there[name], here[name]) for name in here)
    for folder in (bucket / "run", tmp_path):
        result = run(Regression(), folder, steps=8, checkpoint=CheckpointConfig(every=4, keep_last=1))
        assert result["resumed_from"] == 4
    assert checkpoints.committed_steps(bucket / "run" / "checkpoints") == [8]
    assert records(bucket / "run") == records(tmp_path)
    victim = next(path for path in (bucket / "run/checkpoints/00000008/state").iterdir() if not path.is_dir())
    victim.write_bytes(b"torn")
    assert checkpoints.newest_intact(bucket / "run" / "checkpoints") is None


def test_meshes_may_change_between_runs(tmp_path):
    """train.mesh is free to change, and the restored state has the new places."""
    run(Regression(), tmp_path, steps=4, devices=4)
    result = run(Regression(), tmp_path, steps=8, devices=2, mesh=MeshConfig(data=1, fsdp=2))
    assert result["resumed_from"] == 4
