"""Every retrieval system trains, and compares brain and image in one space, and goes to PyTorch and back."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import load_file, save_file

import dreamjax
from dreamjax import config as configs
from dreamjax.cli.main import main
from dreamjax.comparison import fitting, jobs, protocols, run_folder
from dreamjax.comparison.jobs import Request
from dreamjax.errors import UserError
from dreamjax.export import driver
from dreamjax.parallel import mesh as meshes
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.parallel.tree_paths import nested
from dreamjax.systems import opening, registry
from dreamjax.systems.base import Retrieves, Vectorises, capabilities
from dreamjax.systems.retrieval_data import SizesConfig
from dreamjax.targets.banks import BankConfig
from dreamjax.targets.responses import ResponseConfig
from dreamjax.training import checkpoints, program
from dreamjax.weights.networks import Network
from tests import trial_shards
from tests.trial_shards import TrialShards

RETRIEVING = [name for name in registry.names() if Retrieves in capabilities(registry.find(name))]
TRAINED = [name for name in RETRIEVING if Vectorises in capabilities(registry.find(name))]
# in the default suite: each kind of image side, of what follows the encoder, and of inputs
EXPORTED = ("nice", "samga", "brain_module", "neurobridge")
SAMPLED = ["ridge"] + [name if name in EXPORTED else pytest.param(name, marks=pytest.mark.long) for name in TRAINED]
SMALL = {
    "deep4": [("deep4.model.taps", "4")],
    "shallow": [("shallow.model.width", "8")],
    "neurobridge": [("neurobridge.model.width", "6"), ("neurobridge.model.variant", "as_released")],
    "samga": [("samga.model.width", "8"), ("samga.model.hidden", "8")],
    "brain_module": [("brain_module.model.dim", "8"), ("brain_module.model.outputs", "6")],
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> TrialShards:
    folder = tmp_path_factory.mktemp("trials") / "data"
    return trial_shards.write(folder, people=2, samples=100, tmin=0.0, strength=2.0)


def task_of(name: str, shards: TrialShards) -> Any:
    protocol = protocols.find("honest")
    data = ResponseConfig(path=(shards.path,))
    settings = (("train.batch_size", "16"), *SMALL.get(name, ()))
    request = Request((name,), data, trial_shards.bank_config(shards), protocol, "joint", 1, 2, settings)
    return registry.build(jobs.jobs(request)[0].configs[0])


def batch_of(task: Any, rows: int = 16) -> dict[str, jax.Array]:
    examples = task.examples("train")
    batch = {name: jnp.asarray(x[:rows]) for name, x in examples.rows.items()}
    batch |= {name: jnp.asarray(x[examples.rows["image"][:rows]]) for name, x in examples.vectors.items()}
    index = np.stack([np.zeros(rows), np.arange(rows)], axis=1).astype(np.uint32)
    return batch | {"weight": jnp.ones(rows), "index": jnp.asarray(index)}


@pytest.mark.parametrize("name", TRAINED)
def test_states_the_shapes_of_an_example_as_the_data_have_them(name: str, shards: TrialShards) -> None:
    task = task_of(name, shards)
    assert task.example() == task.data("train").stream.element()


def test_counts_the_operations_of_a_step_from_the_sizes_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """Of the signal 15,750 × 1024 and the images 768 × 1024 no gradient is needed; 1024² residual; 1024 others."""
    path, sizes = "configs/retrieval/shallow_things_eeg2.py", {"channels": 63, "samples": 250, "people": 10}
    given = [f"--config.sizes.{name}={size}" for name, size in (sizes | {"features": 768}).items()]
    assert main(["inspect", "--config", path, *given, "--json"]) == 0
    by_hand = 2 * (2 * 15_750 * 1024 + 2 * 768 * 1024 + 3 * 1024**2 + 3 * 1024 * 1024)
    assert json.loads(capsys.readouterr().out)["run"]["gflop_per_example"] == pytest.approx(by_hand / 1e9, rel=1e-3)
    assert main(["inspect", "--config", path]) == 2
    assert "sizes.channels" in capsys.readouterr().err


def test_steps_of_epochs_are_those_of_the_data(shards: TrialShards, capsys: pytest.CaptureFixture[str]) -> None:
    path, sizes = "configs/retrieval/nice_things_eeg2.py", {"channels": 6, "samples": 100, "people": 1, "features": 8}
    given = [f"--config.sizes.{name}={size}" for name, size in sizes.items()]
    assert main(["inspect", "--config", path, *given]) == 0
    assert "their steps depend on the data" in capsys.readouterr().out
    data = [f"--config.data.path={shards.path}", f"--config.target.path={shards.bank}", "--config.train.batch_size=8"]
    assert main(["inspect", "--config", path, *data, "--json"]) == 0
    run = json.loads(capsys.readouterr().out)["run"]
    assert run["steps"] == 200 * 9  # 66 averaged trials: 33 images of two people, as one of 12 concepts is held out


def test_a_second_head_without_data_needs_its_width(shards: TrialShards) -> None:
    config = task_of("brain_module", shards).config
    sizes = SizesConfig(channels=6, samples=100, people=2, features=8)
    away = replace(config, data=replace(config.data, path=()), sizes=sizes, share=0.5, latent=config.target)
    with pytest.raises(UserError, match=r"set sizes\.latent"):
        registry.build(away).sizes  # noqa: B018 - computed when read


def test_layers_that_a_model_does_not_have_are_named(shards: TrialShards, monkeypatch: pytest.MonkeyPatch) -> None:
    config = task_of("samga", shards).config
    network = replace(config, target=BankConfig(path="facebook/dinov2-base", images="images"))

    def small(configs: tuple[BankConfig, ...], images: tuple[str, ...]) -> np.ndarray:
        raise UserError(f"hidden state {configs[0].layer} does not exist; this model has 0 to 12")

    monkeypatch.setattr("dreamjax.systems.retrieval_data.vectors_of", small)
    with pytest.raises(UserError, match=r"has 0 to 12; model\.layers is 20, 24, 28, 32, 36: choose layers"):
        registry.build(network).vectors  # noqa: B018 - computed when read


@pytest.mark.parametrize("name", TRAINED)
def test_training_lowers_the_loss_and_both_sides_have_one_width(name: str, shards: TrialShards) -> None:
    task = registry.build(replace(task_of(name, shards).config, epochs=0))  # in the first stage of all steps
    state, batch = task.init(program.run_key(0, b"init")), batch_of(task)
    update, losses = jax.jit(task.update), []
    for _ in range(12):
        state, metrics = update(state, batch)
        losses.append(float(metrics["loss"][0]) / 16)
    assert np.isfinite(losses).all()
    assert min(losses[-3:]) < losses[0]
    query = jax.jit(task.query)(state.params, batch)
    bank = task.bank(state.params, "test")
    assert query.shape == (16, bank.vectors.shape[1])
    assert len(bank.names) == 8


@pytest.mark.parametrize("name", ["nice", "ubp", pytest.param("brain_module", marks=pytest.mark.long)])
def test_rows_of_weight_zero_do_not_change_a_step(name: str, shards: TrialShards) -> None:
    task = without_dropout(task_of(name, shards))
    state, batch = task.init(program.run_key(0, b"init")), batch_of(task)
    padded = {key: jnp.concatenate([x, x[:4]]) for key, x in batch.items()}
    padded["weight"] = padded["weight"].at[16:].set(0)
    padded["signal"] = padded["signal"].at[16:].set(7.0)
    one, other = (jax.jit(task.update)(state, each)[0].params["encoder"] for each in (batch, padded))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def without_dropout(task: Any) -> Any:
    model = {name: 0.0 for name in ("dropout", "conv_dropout", "radius") if hasattr(task.config.model, name)}
    config = replace(task.config, optim=replace(task.config.optim, epsilon=0.1))
    return registry.build(replace(config, model=replace(config.model, **model)))


def one_of(first: str) -> list[Any]:
    """One system in the default suite, the others in the long one."""
    return [pytest.param(name, marks=() if name == first else pytest.mark.long) for name in TRAINED]


@pytest.mark.parametrize("name", one_of("nice"))
def test_a_batch_over_four_devices_gives_the_step_of_one(name: str, shards: TrialShards) -> None:
    task, steps = without_dropout(task_of(name, shards)), []
    batch = batch_of(task)
    for devices in (1, 4):
        mesh = meshes.make(MeshConfig(data=devices), jax.devices()[:devices])
        rows, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
        with jax.set_mesh(mesh):
            state = jax.device_put(task.init(program.run_key(0, b"init")), whole)
            new, metrics = jax.jit(task.update, in_shardings=(whole, rows))(state, jax.device_put(batch, rows))
        steps.append((new.params, metrics["loss"]))
    for one, other in zip(*map(jax.tree.leaves, steps), strict=True):
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", one_of("neurobridge"))
def test_the_loop_trains_a_run_that_resumes_evaluates_and_exports(
    name: str, shards: TrialShards, tmp_path: Path
) -> None:
    config = task_of(name, shards).config
    train = replace(config.train, steps=2, tensorboard=False)
    run, one = tmp_path / "run", jax.devices()[:1]
    for steps in (2, 4):
        result = opening.train(replace(config, epochs=0, train=replace(train, steps=steps)), run, devices=one)
        assert result["step"] == steps
    assert opening.open_run(run).step == 4
    table = dreamjax.evaluate(str(run), out=str(tmp_path / "scores"))
    assert "top-1" in str(table)
    driver.export(run, tmp_path / "torch")


def test_schedules_are_measured_by_the_steps_of_all_epochs(shards: TrialShards) -> None:
    task = task_of("samga", shards)
    examples = len(task.examples("train").trials)
    assert task.steps == 2 * -(-examples // 16) != task.config.train.steps
    assert float(task.hyper()["decay_steps"]) == task.steps
    assert registry.build(replace(task.config, epochs=0)).steps == task.config.train.steps


def test_false_negatives_are_masked_on_request(shards: TrialShards) -> None:
    task = task_of("shallow", shards)
    state, batch = task.init(program.run_key(0, b"init")), batch_of(task)
    twice = {key: jnp.concatenate([x[:8], x[:8]]) for key, x in batch.items()}  # the same images, as of other people
    totals = {}
    for equal in ("positive", "masked", "negative"):
        config = replace(task.config, loss=replace(task.config.loss, equal=equal))
        other = registry.build(replace(config, model=replace(config.model, dropout=0.0)))
        totals[equal] = float(other.loss(state.params, {}, twice, 0, False)[0])
    assert totals["masked"] < totals["positive"]
    assert totals["negative"] == pytest.approx(totals["positive"], rel=1e-3)  # log 2 more for each in both


def test_spatial_attention_without_positions_is_refused(tmp_path: Path) -> None:
    shards = trial_shards.write(tmp_path / "data", people=1, samples=40, placed=False)
    with pytest.raises(UserError, match="positions of the sensors"):
        task_of("brain_module", shards).init(program.run_key(0, b"init"))


@pytest.mark.parametrize("name", SAMPLED)
def test_pytorch_gives_the_same_vectors_and_the_folder_comes_back(
    name: str, shards: TrialShards, tmp_path: Path
) -> None:
    task = task_of(name, shards)
    solved = name == "ridge"  # before the solution everything is 0
    state = task.solve(task.statistics(batch_of(task))) if solved else task.init(program.run_key(0, b"init")).params
    params = jax.tree.map(np.asarray, state)
    config = replace(task.config, sizes=task.sizes)
    checkpoints.save_params_as_run(tmp_path / "run", configs.to_json(config), params, step=1)
    result = driver.export(tmp_path / "run", tmp_path / "torch")
    assert result.differences is not None
    assert max(result.differences.values()) < 1e-5
    dreamjax.import_checkpoint(tmp_path / "torch", tmp_path / "back")
    back = opening.open_run(tmp_path / "back").params
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if "logit_scale" not in jax.tree_util.keystr(path):
            np.testing.assert_array_equal(_at(back, path), leaf)


@pytest.mark.parametrize(("name", "gone"), [("neurobridge", "image.weight"), ("brain_module", "xyz")])
def test_an_export_that_lacks_a_tensor_is_refused(name: str, gone: str, shards: TrialShards, tmp_path: Path) -> None:
    task = task_of(name, shards)
    params = jax.tree.map(np.asarray, task.init(program.run_key(0, b"init")).params)
    config = configs.to_json(replace(task.config, sizes=task.sizes))
    checkpoints.save_params_as_run(tmp_path / "run", config, params, step=1)
    driver.export(tmp_path / "run", tmp_path / "torch")
    weights = tmp_path / "torch" / "model.safetensors"
    save_file({n: x for n, x in load_file(weights).items() if n != gone}, weights)
    (tmp_path / "torch" / "manifest.json").unlink()
    with pytest.raises(UserError, match=f"{gone} missing or of another shape"):
        dreamjax.import_checkpoint(tmp_path / "torch", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def _at(tree: Any, path: Any) -> np.ndarray:
    for key in path:
        tree = tree[key.key]
    return np.asarray(tree)


RELEASED: dict[str, tuple[dict[str, int], str]] = {  # sizes that fit the shapes; a name in front of each tensor
    "nice": ({"channels": 6, "samples": 80, "features": 7}, ""),
    "atm": ({"channels": 6, "samples": 84, "features": 7, "people": 3}, ""),
    "enigma": ({"channels": 6, "samples": 40, "features": 7, "people": 3}, ""),
    "ubp": ({"channels": 6, "samples": 40, "features": 7}, "brain."),
    "neurobridge": ({"channels": 6, "samples": 40, "features": 7}, ""),
}


@pytest.mark.parametrize("name", RELEASED)
def test_imports_weights_of_the_released_code(name: str, tmp_path: Path) -> None:
    sizes, prefix = RELEASED[name]
    arguments = sizes | ({"people": sizes.get("people", 0)} if name in ("atm", "enigma") else {})
    network: Network = registry.find(name).network  # type: ignore[attr-defined]
    params = network.init(arguments, jax.random.key(1))
    state = {prefix + n: torch.tensor(np.array(x)) for n, x in network.table.to_torch(params).items()}
    checkpoint: dict[str, Any] = state | ({f"{prefix}logit_scale": torch.tensor(2.0)} if name != "nice" else {})
    source = tmp_path / "checkpoint.pth"
    if name == "nice":
        source = tmp_path / "model"
        source.mkdir()
        for part in ("Enc_eeg", "Proj_eeg", "Proj_img"):
            within = {n.removeprefix(f"{part}."): x for n, x in state.items() if n.startswith(f"{part}.")}
            torch.save(within, source / f"test0{part}_cls.pth")
    elif name == "neurobridge":
        maps = {part: {"linear.weight": torch.ones(4, 7), "linear.bias": torch.ones(4)} for part in ("eeg", "img")}
        torch.save({"model_state_dict": state} | {f"{p}_projector_state_dict": x for p, x in maps.items()}, source)
    else:
        torch.save({"state_dict": checkpoint} if name == "ubp" else checkpoint, source)
    flat = {"channels": 6} if name in ("ubp", "neurobridge") else {}
    summary = dreamjax.import_checkpoint(source, tmp_path / "run", **flat)
    assert summary.format == f"{name}, released weights"
    run = opening.open_run(tmp_path / "run")
    assert vars(run.config.sizes) == {"people": 1, "latent": 0} | sizes
    assert getattr(run.config.model, "variant", "as_released") == "as_released"
    jax.tree.map(np.testing.assert_array_equal, nested(run.params)["encoder"], params)
    expected = np.log(1 / 0.07) if name in ("nice", "neurobridge") else 2.0
    assert float(run.params["logit_scale"]) == pytest.approx(expected)
    if name == "neurobridge":
        driver.export(tmp_path / "run", tmp_path / "torch")  # and on, with parity


@pytest.mark.parametrize(("channels", "words"), [(None, "does not say how many channels"), (7, "7 channels do not")])
def test_refuses_a_flat_encoder_of_unknown_channels(channels: int | None, words: str, tmp_path: Path) -> None:
    params = registry.find("ubp").network.init({"channels": 6, "samples": 40, "features": 7}, jax.random.key(1))  # type: ignore[attr-defined]
    tensors = registry.find("ubp").network.table.to_torch(params)  # type: ignore[attr-defined]
    torch.save({n: torch.tensor(np.array(x)) for n, x in tensors.items()}, tmp_path / "brain.pth")
    with pytest.raises(UserError, match=f"--channels: the encoder reads 240 numbers a trial, which {words}"):
        dreamjax.import_checkpoint(tmp_path / "brain.pth", tmp_path / "run", channels=channels)


@pytest.mark.parametrize("name", one_of("ubp"))
def test_a_run_of_a_comparison_exports_without_its_data(name: str, tmp_path: Path) -> None:
    shards = trial_shards.write(tmp_path / "data", people=1, samples=100, tmin=0.0)
    data, settings = ResponseConfig(path=(shards.path,)), (("train.batch_size", "32"), *SMALL.get(name, ()))
    bank = trial_shards.bank_config(shards)
    (job,) = jobs.jobs(Request((name,), data, bank, protocols.find("honest"), "in_subject", 1, 1, settings))
    run_folder.write(tmp_path / "compare", job, fitting.fit(job))
    shutil.rmtree(shards.path)
    result = driver.export(run_folder.folder_of(tmp_path / "compare", job) / "seed-0", tmp_path / "torch")
    assert result.differences is not None
    assert max(result.differences.values()) < result.tolerance == (1e-4 if name == "brain_module" else 1e-5)
