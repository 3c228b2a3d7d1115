"""Accuracy over time of trained systems: a window among others is the window alone, and the image is known after it."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dreamjax
from dreamjax.comparison import fitting, jobs, protocols, window_models
from dreamjax.comparison.jobs import Job, Request
from dreamjax.errors import UserError
from dreamjax.systems import registry
from dreamjax.targets.responses import ResponseConfig
from dreamjax.training import devices, in_memory
from tests import trial_shards
from tests.trial_shards import TrialShards

SETTINGS = (
    ("data.scaling", "none"),  # else a window is scaled as the whole response
    ("brain_module.model.outputs", "16"),
    ("brain_module.model.dim", "16"),
    ("brain_module.model.depth", "1"),
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> TrialShards:
    folder = tmp_path_factory.mktemp("trials") / "data"
    return trial_shards.write(folder, people=2, concepts=24, strength=3.0, samples=40, tmin=-0.2)


def job_of(
    shards: TrialShards, system: str, epochs: int, protocol: str = "honest", kind: str = "sliding", **optim: str
) -> Job:
    chosen, data = protocols.find(protocol), ResponseConfig(path=(shards.path,))
    settings = tuple(one for one in SETTINGS if one[0].split(".")[0] in ("data", system))
    settings += tuple((f"{system}.optim.{name}", value) for name, value in optim.items())
    bank = trial_shards.bank_config(shards)
    request = Request((system,), data, bank, chosen, "joint", seeds=2, epochs=epochs, settings=settings)
    (job,) = window_models.jobs_of(system, kind, jobs.jobs(request))
    return job


@pytest.mark.parametrize("system", ["brain_module", "shallow"])
def test_a_window_among_others_equals_the_window_alone(shards: TrialShards, system: str) -> None:
    # a large ε: without a gradient Adam would amplify rounding errors
    job = job_of(shards, system, epochs=3, learning_rate="1e-2", epsilon="0.1", schedule="constant")
    (config,) = job.configs
    whole = registry.build(config)
    length, spans = window_models.windows_of("sliding", 40, 100.0)
    assert spans[8].tolist() == [20, 30]
    among = window_models.train(job, window_models.task_of(whole, length), spans[[0, 8, 12]])
    data = dataclasses.replace(config.data, tmin=0.0, tmax=0.1)
    alone = fitting.trained(job, [registry.build(dataclasses.replace(config, data=data))])
    np.testing.assert_allclose(among.losses[:, 1], alone.losses[:, 0], rtol=1e-5)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-5),
        among.params(1, None),
        alone.params(0, None),
    )
    moved = among.params(2, None)["encoder"], among.params(1, None)["encoder"]
    assert max(jax.tree.leaves(jax.tree.map(lambda x, y: np.abs(x - y).max(), *moved))) > 1e-3


def test_growing_windows_are_zero_after_their_end() -> None:
    rows = {"signal": jnp.ones((3, 2, 8)), "image": jnp.arange(3), "begin": jnp.int32(0), "end": jnp.int32(5)}
    cut = window_models.cut_out(rows, 8)
    assert set(cut) == {"signal", "image"}
    np.testing.assert_array_equal(cut["signal"][1, 1], [1, 1, 1, 1, 1, 0, 0, 0])


def test_windows_begin_and_end_at_samples() -> None:
    length, sliding = window_models.windows_of("sliding", 250, 250.0)
    assert length == 25
    assert len(sliding) == 37
    assert sliding[:3].tolist() == [[0, 25], [6, 31], [13, 38]]  # of every 6.25 samples
    assert sliding[-1].tolist() == [225, 250]
    assert window_models.windows_of("growing", 250, 250.0)[1][1].tolist() == [0, 31]


@pytest.mark.parametrize(("system", "kind"), [("brain_module", "sliding"), ("shallow", "growing")])
def test_images_are_told_apart_in_windows_after_the_onset_only(tmp_path: Path, system: str, kind: str) -> None:
    folder = tmp_path / "data"
    shards = trial_shards.write(folder, people=1, concepts=24, repeats=4, strength=4.0, samples=28, tmin=-0.14)
    fitted = window_models.fit(job_of(shards, system, epochs=12, kind=kind, learning_rate="3e-3"))
    top = np.array([one.top(1).mean() for one in fitted.ranks[kind]])
    begin, end = fitted.curves[kind].T
    assert top[end < 0.001].mean() < 0.3  # of 8 images
    assert top[(begin > -0.016) | (end > 0.124)].mean() > 0.55


def test_models_in_blocks_that_fit_in_memory_are_those_of_one_program(
    shards: TrialShards, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(shards, "shallow", epochs=2)
    length, spans = window_models.windows_of("sliding", 40, 100.0)
    task = window_models.task_of(registry.build(job.configs[0]), length)
    together = window_models.ranks_of(job, task, spans[:5])
    monkeypatch.setattr(devices, "memory_bytes", lambda: int(2.5 * window_models.bytes_of(task) / window_models.SHARE))
    assert window_models.block(task) == 2
    for one, other in zip(together, window_models.ranks_of(job, task, spans[:5]), strict=True):
        np.testing.assert_array_equal(one.above, other.above)
    monkeypatch.setattr(devices, "memory_bytes", lambda: 0)
    assert window_models.block(task) == 1


@pytest.mark.parametrize(("protocol", "judges"), [("honest", {"held_out"}), ("paper", set())])
def test_a_window_is_never_chosen_on_the_test_set(
    shards: TrialShards, monkeypatch: pytest.MonkeyPatch, protocol: str, judges: set[str]
) -> None:
    job = job_of(shards, "samga", epochs=1, protocol=protocol)
    if protocol == "paper":
        assert "test" in job.checkpoints
    given: dict[str, set[str]] = {}

    def stop(*args: object, judges: dict, **options: object) -> None:
        given["judges"] = set(judges)
        raise InterruptedError

    monkeypatch.setattr(in_memory, "train", stop)
    length, spans = window_models.windows_of("sliding", 40, 100.0)
    with pytest.raises(InterruptedError):
        window_models.train(job, window_models.task_of(registry.build(job.configs[0]), length), spans)
    assert given["judges"] == judges


@pytest.mark.parametrize(
    ("system", "error"),
    [
        ("nice", "cannot read windows of 0.1 s, as the convolution in time needs at least 75 samples a trial, but"),
        ("atm", "atm is not a system of this comparison that has windows; choose from ridge, nice, shallow$"),
    ],
)
def test_refuses_a_system_without_windows(shards: TrialShards, tmp_path: Path, system: str, error: str) -> None:
    with pytest.raises(UserError, match=error):
        dreamjax.compare(["nice", "shallow"], shards.path, shards.bank, tmp_path / "work", over_time=[system])
    assert not (tmp_path / "work").exists()


def test_a_network_that_needs_more_samples_has_growing_windows(shards: TrialShards) -> None:
    assert job_of(shards, "eegnet", epochs=1, kind="growing").name == "over-time-eegnet-growing-all"
    with pytest.raises(UserError, match="choose --windows growing"):
        job_of(shards, "eegnet", epochs=1)


def test_refuses_windows_of_nothing(shards: TrialShards, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="windows is 'wide', but it must be both, sliding or growing"):
        dreamjax.compare(["ridge"], shards.path, shards.bank, tmp_path / "work", over_time=["ridge"], windows="wide")
    with pytest.raises(UserError, match="--windows sliding has no effect without --over-time"):
        dreamjax.compare(["ridge"], shards.path, shards.bank, tmp_path / "work", windows="sliding")
