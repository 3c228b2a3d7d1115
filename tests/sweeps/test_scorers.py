"""Sweeps of systems that dreamjax does not know, and ranks that a system cannot have."""

import json
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamjax.cli.main import main
from dreamjax.errors import UserError
from dreamjax.sweeps import scorers
from dreamjax.sweeps.sweep_config import ScoreConfig
from dreamjax.systems import registry
from dreamjax.systems.base import ClosedFormSystem
from dreamjax.training.task import BatchSpec
from dreamjax.training.train_config import TrainConfig
from tests.sweeps.conftest import refused, scores, swept

ROWS, WIDTH, NOISE = 32, 20, 3.0
CONFIG = """
from dreamjax.config import to_config_dict
from dreamjax.sweeps import axes, sweep_config
from tests.sweeps.test_scorers import RidgeConfig


def get_config():
    penalties = [axes.values("penalty", 1e-6, 10.0, 1e6)]
    score = {"rank": "held_out"}
    base = to_config_dict(RidgeConfig())
    return sweep_config.config("ridge", base, penalties, compare=("examples",), seeds=(0, 1), score=score)
"""


@dataclass(frozen=True)
class RidgeConfig:
    system: Literal["toy_ridge"] = "toy_ridge"
    seed: int = 0  # of the rows
    penalty: float = 1.0
    train: TrainConfig = field(default_factory=lambda: TrainConfig(batch_size=8, eval_every=1, tensorboard=False))


@dataclass(frozen=True)
class Rows:
    """x and y = x·w + noise, with w the same for every seed."""

    seed: int

    def __len__(self):
        return ROWS

    def element(self):
        return {
            "x": jax.ShapeDtypeStruct((WIDTH,), jnp.float32),
            "y": jax.ShapeDtypeStruct((), jnp.float32),
            "weight": jax.ShapeDtypeStruct((), jnp.float32),
            "index": jax.ShapeDtypeStruct((2,), jnp.uint32),
        }

    def batches(self, *, start, batch_size, process=0, processes=1, workers=0):
        rng = np.random.default_rng(self.seed)
        x, w = rng.normal(size=(ROWS, WIDTH)), np.random.default_rng(99).normal(size=WIDTH)
        y = x @ w + NOISE * rng.normal(size=ROWS)
        for i in range(start, ROWS, batch_size):
            rows = np.arange(i, i + batch_size)
            index = np.stack([np.zeros_like(rows), rows], 1).astype(np.uint32)
            arrays = {"x": x[rows], "y": y[rows], "weight": np.ones(batch_size)}
            yield {name: value.astype(np.float32) for name, value in arrays.items()} | {"index": index}


@registry.register
@dataclass(frozen=True)
class Ridge(ClosedFormSystem):
    config: RidgeConfig
    name: ClassVar[str] = "toy_ridge"
    Config: ClassVar[type] = RidgeConfig

    def data(self, split):
        return BatchSpec(Rows(self.config.seed + 1000 * (split == "val")), self.config.train.batch_size, passes=1)

    def statistics(self, batch):
        return {"xx": batch["x"].T @ batch["x"], "xy": batch["x"].T @ batch["y"]}

    def solve(self, statistics):
        return {"w": jnp.linalg.solve(statistics["xx"] + self.config.penalty * jnp.eye(WIDTH), statistics["xy"])}

    def evaluate(self, state, source):
        total = np.zeros(2)
        for batch in source.batches(start=0, batch_size=8):
            total += [((batch["x"] @ np.asarray(state.params["w"]) - batch["y"]) ** 2).sum(), len(batch["y"])]
        return {"loss": tuple(total)}


def test_unknown_system_is_swept_by_its_held_out_metric(tmp_path, capsys):
    """A closed-form system reads its rows once, whatever train.steps is; the best penalty is neither end."""
    path, out = tmp_path / "sweep.py", tmp_path / "out"
    path.write_text(CONFIG)
    result = swept(capsys, "--config", str(path), "--workdir", str(out))
    assert (result["done"], result["failed"]) == (6, 0), result["failures"]
    by_penalty = {}
    for name, score in scores(out).items():
        leg = score["legs"]["examples"]
        assert leg["step"] == ROWS // 8
        by_penalty.setdefault(name.partition("-seed")[0], []).append(leg["held_out"]["scores"]["all"])
        assert leg["held_out"]["scores"]["all"] == -leg["own"]["loss"]
    means = {name: np.mean(values) for name, values in by_penalty.items()}
    assert max(means, key=means.get) == "penalty=10"


def test_rejects_rank_that_the_system_cannot_have(tmp_path, capsys):
    path, words = tmp_path / "sweep.py", ["--workdir", str(tmp_path / "out")]
    path.write_text(CONFIG)
    says = refused(capsys, "--config", str(path), *words, "--config.score.rank=reconstruction")
    assert "a run of toy_ridge cannot reconstruct a signal; choose from held_out" in says
    says = refused(capsys, "--config", str(path), *words, "--config.base.train.eval_every=0")
    assert "set --config.base.train.eval_every" in says
    says = refused(capsys, "--config", str(path), *words, "--config.together=2")
    assert "runs of toy_ridge cannot be trained as one program; set together=1" in says
    assert "the FLOP of a step of toy_ridge are not known" in refused(
        capsys, "--config", str(path), *words, "--config.compare=flops"
    )


@pytest.mark.parametrize("rank", scorers.RANKS)
def test_every_rank_of_the_config_has_a_scorer(rank):
    labels = ("a", "b") if rank == "probe" else ()
    assert ScoreConfig(rank=rank, labels=labels).rank == rank
    assert {"check", "measure", "seen_alike"} <= set(dir(scorers.RANKS[rank].scorer))


def test_held_out_metric_that_is_not_reported(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 4, "split": "val", "loss": 2.0}) + "\n")
    (tmp_path / "config.json").write_text(json.dumps({"train": {"batch_size": 8}}))
    measured = scorers.measure(str(tmp_path), ScoreConfig(rank="held_out", better="higher"), tmp_path)
    assert (measured.examples, measured.details["held_out"]["scores"]) == (32, {"all": 2.0})
    with pytest.raises(UserError, match=r"score.metric is accuracy, but .* reports loss"):
        scorers.measure(str(tmp_path), ScoreConfig(rank="held_out", metric="accuracy"), tmp_path)


def test_report_names_the_held_out_metric(tmp_path, capsys):
    path, out = tmp_path / "sweep.py", tmp_path / "out"
    path.write_text(CONFIG.replace("1e-6, 10.0, 1e6", "10.0, 1e6"))
    swept(capsys, "--config", str(path), "--workdir", str(out))
    assert main(["report", str(out), "--json"]) == 0
    leg = json.loads(capsys.readouterr().out)["legs"]["examples"]
    assert [row["values"] for row in leg["ranking"]] == [{"penalty": "10"}, {"penalty": "1000000"}]
    assert (leg["unit"], leg["metric"]) == ("run", "minus loss, as the run reports it of split val")
    assert leg["ranking"][0]["score"]["estimate"] < 0
