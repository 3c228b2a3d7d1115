"""One loop drives every Task; what it logs, counts and promises."""

import json

import jax
import numpy as np
import pytest

from dreamjax.errors import UserError
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.parallel.tree_paths import named_leaves
from dreamjax.storage import locks
from dreamjax.training import checkpoints, logging
from dreamjax.training.loop import train
from dreamjax.training.train_config import TrainConfig
from tests.support import abstract_of, held_elsewhere
from tests.training import children
from tests.training.tiny_tasks import FEATURES, FormulaStream, Regression, StreamingRidge, ToyGAN


def quick(**changes):
    defaults = {"steps": 12, "batch_size": 16, "log_every": 3, "tensorboard": False}
    return TrainConfig(**(defaults | changes))


def run(task, workdir, devices=1, **changes):
    return train(task, quick(**changes), workdir, devices=jax.devices()[:devices])


def records(workdir, name="metrics.jsonl"):
    return [json.loads(line) for line in (workdir / name).read_text().splitlines()]


def saved_arrays(workdir, task, step=None):
    """Name → array of a saved step, by default the newest."""
    folder = workdir / "checkpoints"
    step = checkpoints.newest_intact(folder) if step is None else step
    shapes = checkpoints.to_dict(jax.eval_shape(task.init, jax.random.key(0)))
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = abstract_of(shapes, jax.tree.map(lambda _: place, shapes))
    return {name: np.asarray(x) for name, x in named_leaves(checkpoints.restore(folder, step, abstract)).items()}


def test_streaming_ridge_equals_the_closed_form(tmp_path):
    """40 examples in batches of 16 (the last one padded): the same as numpy.linalg.solve on all rows at once."""
    task = StreamingRidge()
    result = run(task, tmp_path, steps=100, log_every=1)
    assert result["step"] == 3
    rows = [task.stream.example(i) for i in range(40)]
    x, y = np.stack([r["x"] for r in rows]), np.stack([r["y"] for r in rows])
    w = np.array([r["weight"] for r in rows])[:, None]
    expected = np.linalg.solve(x.T @ (x * w) + task.penalty * np.eye(FEATURES), x.T @ (y * w))
    np.testing.assert_allclose(saved_arrays(tmp_path, task)["params"], expected, rtol=2e-4, atol=2e-5)
    assert [r["rows"] for r in records(tmp_path)] == [16, 16, 8]


def test_a_gan_with_two_optimisers_finds_the_mean(tmp_path):
    """The generator's only parameter is its mean; the data's is 2."""
    task = ToyGAN()
    run(task, tmp_path, steps=600, log_every=100)
    assert float(saved_arrays(tmp_path, task)["params/generator/mean"]) == pytest.approx(2.0, abs=0.35)


def test_a_nan_held_out_loss_is_reported_and_never_the_best(tmp_path, caplog):
    """Training goes on: its own loss is finite. The step with a number is the best, though it came later."""

    class Blind(Regression):
        def evaluate(self, state, source):
            total, weight = super().evaluate(state, source)["loss"]
            return {"loss": (jax.numpy.where(state.step < 8, jax.numpy.nan, total), weight)}

    with caplog.at_level("WARNING", logger="dreamjax"):
        run(Blind(steps=12), tmp_path, eval_every=4)
    assert "step 4: the held-out loss is nan" in caplog.text
    assert "step 12" not in caplog.text
    assert checkpoints.best_step(tmp_path / "checkpoints", "min") in (8, 12)


def test_logs_a_preview_image_at_each_evaluation_by_default_and_says_how_to_see_it(tmp_path, caplog, monkeypatch):
    """In a folder whose name the shell would split. With image_every=0, and without matplotlib, there is none."""
    from dreamjax.reports import figures
    from dreamjax.training import held_out

    class Drawn(Regression):
        def preview(self, state, batch):
            return figures.single(1, 1)[0]

    monkeypatch.setattr(logging.log, "propagate", True)
    with caplog.at_level("INFO", logger="dreamjax"):
        run(Drawn(steps=4), tmp_path / "a run", steps=4, eval_every=2, tensorboard=True)
    assert sorted(path.name for path in (tmp_path / "a run" / "images").iterdir()) == ["00000002.png", "00000004.png"]
    assert f"tensorboard --logdir '{tmp_path}/a run/tensorboard' (pip install tensorboard)" in caplog.text
    assert held_out.image_every(quick(eval_every=2, image_every=0)) == 0
    monkeypatch.setattr(held_out.importlib.util, "find_spec", lambda name: None)
    assert held_out.image_every(quick(eval_every=2)) == 0


def test_a_network_learns_and_everything_is_logged(tmp_path):
    task = Regression(steps=200)
    result = run(task, tmp_path, steps=200, log_every=20, eval_every=50, tensorboard=True)
    train_lines = [r for r in records(tmp_path) if r["split"] == "train"]
    held_out = [r for r in records(tmp_path) if r["split"] == "val"]
    assert [r["step"] for r in held_out] == [50, 100, 150, 200]
    variance = float(np.mean(FormulaStream().truth() ** 2) * FEATURES)  # of y: what predicting zero would cost
    assert result["val"]["loss"] < 0.1 * variance
    assert train_lines[-1]["loss"] < 0.1 * train_lines[0]["loss"]
    assert {"loss", "grad_norm", "learning_rate", "mae"} <= set(train_lines[0])
    timing = records(tmp_path, "timing.jsonl")
    assert {"examples_per_second", "input_wait_share", "seconds_per_step"} <= set(timing[0])
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert events.name.endswith(".dreamjax")  # not the host's name
    for note in tmp_path.rglob("commit_success.txt"):
        assert str(tmp_path) not in note.read_text()


def test_a_work_directory_has_one_run_at_a_time(tmp_path):
    with (
        held_elsewhere(tmp_path / ".lock"),
        pytest.raises(locks.Busy, match=r"is in use by another process; wait for it") as refused,
    ):
        run(Regression(), tmp_path)
    assert refused.value.exit_code == 75
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]  # the other process's


def test_a_run_that_is_refused_leaves_nothing(tmp_path):
    with pytest.raises(UserError, match="mesh"):
        run(Regression(), tmp_path / "a" / "run", mesh=MeshConfig(data=3))
    assert list(tmp_path.iterdir()) == []


def test_the_next_run_reads_the_compile_cache(tmp_path):
    """The cache's folder may lie where all hosts see it; the summary counts what came from there."""
    found = []
    for name in ("first", "second"):
        children.start(tmp_path / name, steps=4, compile_cache=str(tmp_path / "compiled")).join()
        found.append(json.loads((tmp_path / name / "result_0.json").read_text())["compiled"])
    assert found[0]["from_cache"] == 0
    assert found[1]["from_cache"] == found[1]["programs"] == found[0]["programs"] > 0
