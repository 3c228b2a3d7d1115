"""Two systems that only this file knows, driven through the real verbs: adding a system is adding one file.

`ToyRetrieval` is trained by gradients and retrieves which of many vectors was seen; `ToyRidge` is a closed form from
vectors to vectors. Both read arrays without a time axis, from three people.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dreamjax
from dreamjax.cli.main import main
from dreamjax.objectives.contrastive import contrastive
from dreamjax.signals.datasets.arrays import open_arrays
from dreamjax.systems import registry
from dreamjax.systems.base import Bank, ClosedFormSystem, GradientSystem, Loss, Predicts, Retrieves, Run
from dreamjax.systems.exchange import Checkpoint, Component, Exported, Exports, Format, Imported, ImportOptions, Imports
from dreamjax.training.optimiser import OptimConfig
from dreamjax.training.task import Batch, BatchSpec, PyTree, State
from dreamjax.training.train_config import TrainConfig

X, Y, PEOPLE, NOISE = 12, 6, 3, 0.3
ROWS = {"train": 90, "val": 30, "test": 45}
MODULE = """
import json, torch
from pathlib import Path
from safetensors.torch import load_file

def from_pretrained(folder):
    config = json.loads((Path(folder) / "config.json").read_text())
    model = torch.nn.Linear(config["inputs"], config["outputs"], bias=False)
    model.load_state_dict(load_file(Path(folder) / "model.safetensors"))
    return model
"""
CHECK = """
import linear
differences = {"y": difference(linear.from_pretrained(".")(p["x"]), "y")}
"""


# ------------------------------------------------------------------------------------------------------ the two systems
class LinearInTorch:
    """Export and import of both: their parameters are one kernel."""

    formats: ClassVar[tuple[Format, ...]] = ("torch",)

    def export(self, run: Run, format: Format) -> Exported:
        (kernel,) = map(np.asarray, jax.tree.leaves(run.params))
        x = np.random.default_rng(0).normal(size=(3, X)).astype(np.float32)
        config = {"inputs": X, "outputs": Y}
        component = Component(config, {"weight": np.ascontiguousarray(kernel.T)}, {"linear.py": MODULE})
        return Exported({"": component}, {"x": x, "y": x @ kernel}, CHECK)

    @classmethod
    def imported(cls, checkpoint: Checkpoint, options: ImportOptions) -> Imported | None:
        if checkpoint.settings.get("inputs") != X:
            return None
        kernel = np.asarray(checkpoint.tensors["weight"]).T
        params = {"map": {"kernel": kernel}} if cls is ToyRetrieval else {"kernel": kernel}
        return Imported(cls.name, cls.Config(), params, kernel.size, {"map": f"{X} x {Y}"})


@dataclass(frozen=True)
class ArraysConfig:
    path: str = ""

    def open(self, split: str, seed: int, endless: bool, target: str = "target") -> Any:
        arrays = {name: f"{self.path}/{split}_{name}.npy" for name in ("x", "vector", "subject")}
        arrays["target"] = f"{self.path}/{split}_{target}.npy"
        return open_arrays(arrays, seed=seed, endless=endless)


@dataclass(frozen=True)
class ToyModelConfig:
    scale: float = 4.0  # of the logits


@dataclass(frozen=True)
class ToyRetrievalConfig:
    system: Literal["toy_retrieval"] = "toy_retrieval"
    seed: int = 0
    data: ArraysConfig = field(default_factory=ArraysConfig)
    model: ToyModelConfig = field(default_factory=ToyModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


@dataclass(frozen=True)
class ToyRetrieval(LinearInTorch, GradientSystem):
    """A linear map whose output is compared with the vector that was seen (InfoNCE)."""

    config: ToyRetrievalConfig
    name: ClassVar[str] = "toy_retrieval"
    Config: ClassVar[type] = ToyRetrievalConfig
    capabilities: ClassVar[tuple[type, ...]] = (Retrieves, Exports, Imports)

    def init(self, rng: jax.Array) -> State:
        return self.fresh({"map": {"kernel": 0.1 * jax.random.normal(rng, (X, Y))}})

    def data(self, split: str) -> BatchSpec:
        return self.spec(self.config.data.open(split, self.config.seed, endless=split == "train"))

    def loss(self, params: PyTree, frozen: PyTree, batch: Batch, seed: Any, training: bool) -> Loss:
        scale = jnp.log(self.config.model.scale)
        return contrastive(self.query(params, batch), batch["vector"], scale, batch["target"], batch["weight"])

    def flops(self) -> float:
        return 3 * 2.0 * X * Y

    def query(self, params: PyTree, batch: Batch) -> jax.Array:
        return batch["x"] @ params["map"]["kernel"]

    def bank(self, params: PyTree, split: str) -> Bank:
        vectors = np.load(f"{self.config.data.path}/bank.npy")
        return Bank(vectors, [f"item {i}" for i in range(len(vectors))])


@dataclass(frozen=True)
class ToyRidgeModelConfig:
    penalty: float = 1.0


@dataclass(frozen=True)
class ToyRidgeConfig:
    system: Literal["toy_ridge"] = "toy_ridge"
    seed: int = 0
    data: ArraysConfig = field(default_factory=ArraysConfig)
    model: ToyRidgeModelConfig = field(default_factory=ToyRidgeModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


@dataclass(frozen=True)
class ToyRidge(LinearInTorch, ClosedFormSystem):
    """Ridge regression from x to the vector that was seen: (X'X + penalty) W = X'Y over one pass."""

    config: ToyRidgeConfig
    name: ClassVar[str] = "toy_ridge"
    Config: ClassVar[type] = ToyRidgeConfig
    capabilities: ClassVar[tuple[type, ...]] = (Predicts, Exports, Imports)

    def data(self, split: str) -> BatchSpec:
        stream = self.config.data.open(split, self.config.seed, endless=False, target="vector")
        return BatchSpec(stream, self.config.train.batch_size, passes=1)

    def example(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Without this, an imported run would look at the data, which it does not have."""
        shapes = {"x": (X,), "target": (Y,), "weight": ()}
        return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}

    def statistics(self, batch: Batch) -> PyTree:
        x = batch["x"] * batch["weight"][:, None]
        return {"gram": batch["x"].T @ x, "cross": x.T @ batch["target"]}

    def solve(self, statistics: Mapping[str, jax.Array]) -> PyTree:
        gram = statistics["gram"] + self.config.model.penalty * jnp.eye(X)
        return {"kernel": jnp.linalg.solve(gram, statistics["cross"])}

    def flops(self) -> float:
        return 2.0 * X * (X + Y)

    def predict(self, params: PyTree, batch: Batch) -> jax.Array:
        return batch["x"] @ params["kernel"]


# ----------------------------------------------------------------------------------------------------------- their data
@pytest.fixture(scope="module", autouse=True)
def registered():
    for system in (ToyRetrieval, ToyRidge):
        registry.register(system)
    yield
    for system in (ToyRetrieval, ToyRidge):
        registry.unregister(system.name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """x = vector A + noise, for vectors of a bank of 20 items; every split has all three people."""
    path, rng = tmp_path_factory.mktemp("arrays"), np.random.default_rng(0)
    bank, mixing = rng.normal(size=(20, Y)).astype(np.float32), rng.normal(size=(Y, X))
    np.save(path / "bank.npy", bank)
    for split, count in ROWS.items():
        target = rng.integers(len(bank), size=count).astype(np.int32)
        x = bank[target] @ mixing + NOISE * rng.normal(size=(count, X))
        arrays = {"x": x.astype(np.float32), "target": target, "vector": bank[target]}
        arrays["subject"] = (np.arange(count) % PEOPLE).astype(np.int32)
        for name, array in arrays.items():
            np.save(path / f"{split}_{name}.npy", array)
    return path


@pytest.fixture(scope="module")
def configs(folder, tmp_path_factory):
    """System → a config file as a user writes it."""
    body = """
from ml_collections import ConfigDict

def get_config():
    train = {{"steps": 40, "batch_size": 16, "log_every": 10, "eval_every": {evaluate}, "tensorboard": False}}
    return ConfigDict({{"system": "{system}", "data": {{"path": "{folder}"}}, "train": train{more}}})
"""
    path, files = tmp_path_factory.mktemp("configs"), {}
    optim = ', "optim": {"learning_rate": 0.05, "warmup_steps": 2, "weight_decay": 0.0}'
    for system, evaluate, more in (("toy_retrieval", 20, optim), ("toy_ridge", 0, "")):
        files[system] = path / f"{system}.py"
        files[system].write_text(body.format(system=system, folder=folder, evaluate=evaluate, more=more))
    return files


def run_verb(capsys, *words: object) -> dict[str, Any]:
    """`dreamjax WORDS --json`."""
    assert main([*map(str, words), "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def verb(capsys):
    return lambda *words: run_verb(capsys, *words)


@pytest.fixture(scope="module")
def runs(configs, tmp_path_factory):
    """System → its trained run."""
    path = tmp_path_factory.mktemp("runs")
    for system, config in configs.items():
        assert main(["train", "--config", str(config), "--workdir", str(path / system)]) == 0
    return {system: path / system for system in configs}


def ridge(folder, penalty: float) -> np.ndarray:
    """The closed form in NumPy, from the arrays on disk."""
    x, y = (np.load(folder / f"train_{name}.npy").astype(np.float64) for name in ("x", "vector"))
    return np.linalg.solve(x.T @ x + penalty * np.eye(X), x.T @ y)


# ---------------------------------------------------------------------------------------------------------------- verbs
def test_training_by_gradient_learns_and_resumes_to_the_same_parameters(configs, verb, tmp_path):
    whole = verb("train", "--config", configs["toy_retrieval"], "--workdir", tmp_path / "whole")
    assert whole["step"] == 40
    assert whole["val"]["loss"] < 1.0
    first = ["train", "--config", configs["toy_retrieval"], "--workdir", tmp_path / "parts"]
    assert verb(*first, "--config.train.steps=20")["step"] == 20
    rest = verb(*first)
    assert (rest["resumed_from"], rest["step"]) == (20, 40)


def test_closed_form_reads_its_data_exactly_once_and_equals_numpy(folder, runs, verb, configs):
    from dreamjax.systems import opening

    run = opening.open_run(str(runs["toy_ridge"]))
    assert run.step == -(-ROWS["train"] // 16)  # one pass in batches of 16, whatever train.steps says
    np.testing.assert_allclose(run.params["kernel"], ridge(folder, 1.0), rtol=1e-4, atol=1e-5)
    again = verb("train", "--config", configs["toy_ridge"], "--workdir", runs["toy_ridge"])
    assert again["step"] == run.step  # there is nothing left to read


@pytest.mark.parametrize("system", ["toy_retrieval", "toy_ridge"])
def test_inspect_and_plan_need_nothing_from_the_package(configs, verb, system):
    counted = verb("inspect", "--config", configs[system])
    assert counted["parameters"]["trained"] == X * Y
    planned = verb("plan", "--config", configs[system], "--topology", "h100-8", "--batch-per-chip", "4")
    assert planned["system"] == system
    assert planned["flop_per_example"] == (6.0 * X * Y if system == "toy_retrieval" else 2.0 * X * (X + Y))
    assert planned["batch"] == {"step": 32, "device": 4}


@pytest.mark.parametrize("system", ["toy_retrieval", "toy_ridge"])
def test_export_runs_in_torch_and_imports_to_the_same_parameters(runs, verb, tmp_path, system):
    from dreamjax.systems import opening

    exported = verb("export", runs[system], "--to", "torch", "--out", tmp_path / "out")
    assert exported["differences"]["y"] <= 1e-5
    assert f"dreamjax {dreamjax.__version__}, step {exported['step']}" in (tmp_path / "out" / "README.md").read_text()
    imported = verb("import", tmp_path / "out", "--out", tmp_path / "run")
    assert (imported["format"], imported["parameters"]) == (system, X * Y)
    run, again = (opening.open_run(str(path)) for path in (runs[system], tmp_path / "run"))
    assert type(again.config) is type(run.config)
    jax.tree.map(np.testing.assert_array_equal, again.params, run.params)


def test_export_to_a_format_that_the_system_lacks_is_refused(runs, tmp_path, capsys):
    words = ["export", str(runs["toy_ridge"]), "--to", "diffusers", "--out", str(tmp_path / "out")]
    assert main(words) == 2
    assert "toy_ridge cannot be exported to diffusers; it can be exported to: torch" in capsys.readouterr().err


def test_unknown_system_is_reported_with_the_nearest_name(configs, tmp_path, capsys):
    text = configs["toy_ridge"].read_text().replace("toy_ridge", "toy_rigde")
    (tmp_path / "typo.py").write_text(text)
    assert main(["train", "--config", str(tmp_path / "typo.py"), "--workdir", str(tmp_path / "run")]) == 2
    assert "unknown system 'toy_rigde'; did you mean toy_ridge?" in capsys.readouterr().err


def test_sweep_ranks_runs_by_their_held_out_loss(configs, verb, tmp_path):
    (tmp_path / "sweep.py").write_text(f"""
import runpy
from dreamjax.sweeps import axes, sweep_config

def get_config():
    base = runpy.run_path({str(configs["toy_retrieval"])!r})["get_config"]()
    score = {{"rank": "held_out", "metric": "loss"}}
    return sweep_config.config("toy", base, [axes.values("optim.learning_rate", 0.0001, 0.05)], seeds=(0,), score=score)
""")
    result = verb("sweep", "--config", tmp_path / "sweep.py", "--workdir", tmp_path / "sweep")
    assert (result["points"], result["done"]) == (2, 2)
    report = verb("report", tmp_path / "sweep")
    ranking = report["legs"]["examples"]["ranking"]
    assert [entry["values"]["optim.learning_rate"] for entry in ranking] == ["0.05", "0.0001"]
    assert report["legs"]["flops"]["ranking"][0]["flop"] == 40 * 16 * 6.0 * X * Y  # every system counts its operations


@pytest.mark.parametrize(
    ("system", "rank", "axis", "best", "metric"),
    [
        (
            "toy_retrieval",
            "retrieval",
            ("optim.learning_rate", 0.0001, 0.05),
            "0.05",
            "top-1 of 20 targets, minus chance",
        ),
        ("toy_ridge", "prediction", ("model.penalty", 1e9, 1.0), "1", "correlation with the target"),
    ],
)
def test_sweep_ranks_runs_by_what_the_system_can_do(configs, verb, tmp_path, system, rank, axis, best, metric):
    (tmp_path / "sweep.py").write_text(f"""
import runpy
from dreamjax.sweeps import axes, sweep_config

def get_config():
    base = runpy.run_path({str(configs[system])!r})["get_config"]()
    return sweep_config.config("toy", base, [axes.values(*{axis!r})], compare=("examples",), score={{"rank": {rank!r}}})
""")
    result = verb("sweep", "--config", tmp_path / "sweep.py", "--workdir", tmp_path / "sweep")
    assert (result["points"], result["done"]) == (2, 2), result["failures"]
    leg = verb("report", tmp_path / "sweep")["legs"]["examples"]
    assert leg["ranking"][0]["values"] == {axis[0]: best}
    assert (leg["metric"], leg["unit"], leg["subjects"]) == (metric, "subject", PEOPLE)
    assert leg["ranking"][0]["score"]["estimate"] > 0.5


def test_retrieval_is_evaluated_with_controls(runs, verb, tmp_path):
    result = verb("evaluate", runs["toy_retrieval"], "--out", tmp_path)
    assert (result["system"], result["count"], result["targets"], result["clusters"]) == (
        *("toy_retrieval", ROWS["test"], 20),
        "subjects",
    )
    top1, top5, rank = result["scores"]
    assert [entry["chance"] for entry in result["scores"]] == [1 / 20, 5 / 20, 21 / 2]
    assert top1["scores"]["model"]["estimate"] > 0.9
    assert top1["scores"]["model"]["subjects"] == PEOPLE
    assert top5["scores"]["shuffled targets"]["estimate"] < 0.6
    assert rank["model_minus"]["untrained network"]["estimate"] < -3
    assert "model is better than shuffled targets" in rank["model_minus"]["shuffled targets"]["says"]
    assert json.loads((tmp_path / "retrieval-test.json").read_text())["scores"] == result["scores"]
    assert "top-5" in (tmp_path / "retrieval-test.html").read_text()


def test_prediction_is_evaluated_with_controls(folder, runs, verb, tmp_path):
    result = verb("evaluate", runs["toy_ridge"], "--split", "val", "--out", tmp_path)
    correlation, r2 = result["scores"]
    x, y = (np.load(folder / f"val_{name}.npy").astype(np.float64) for name in ("x", "vector"))
    predicted = x @ ridge(folder, 1.0)
    expected = [np.corrcoef(predicted[:, d], y[:, d])[0, 1] for d in range(Y)]
    np.testing.assert_allclose(result["by_dimension"]["correlation"], expected, atol=1e-5)
    assert correlation["scores"]["model"]["estimate"] == pytest.approx(np.mean(expected), abs=1e-5)
    assert r2["scores"]["mean of the targets"]["estimate"] == pytest.approx(0, abs=1e-9)
    assert r2["scores"]["untrained network"]["estimate"] < 0.1 < r2["scores"]["model"]["estimate"]
    assert abs(correlation["scores"]["shuffled targets"]["estimate"]) < 0.4
    assert (tmp_path / "prediction-val.html").exists()


def test_evaluation_without_the_capability_names_what_is_possible(runs, capsys):
    for more, message in (
        (["--measure", "prediction"], "cannot be scored by prediction; it can be scored by retrieval"),
        (["--windows", "3"], "--windows would do nothing: "),
        (["--split", "train"], "split train is what the run learned from"),
    ):
        assert main(["evaluate", str(runs["toy_retrieval"]), *more]) == 2
        assert message in capsys.readouterr().err
