"""Evidence on simulated trials: what is there is found, what is not is not, and choosing on the test set inflates."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import dreamjax
from dreamjax.metrics import retrieval
from tests import trial_shards

SETTINGS = [("train.batch_size", "64"), ("shallow.model.width", "16"), ("shallow.optim.learning_rate", "3e-3")]


def compare(folder: Path, strength: float, seed: int, systems: list[str], **options: object):  # type: ignore[no-untyped-def]
    shards = trial_shards.write(
        folder / "data", people=1, concepts=40, tested=20, strength=strength, samples=24, tmin=0.0, seed=seed
    )
    settings = [one for one in SETTINGS if one[0].split(".")[0] in ("train", *systems)]
    given = {"seeds": 1, "epochs": 8, "settings": settings} | options
    return dreamjax.compare(systems, shards.path, shards.bank, folder / "work", **given)  # type: ignore[arg-type]


def test_strong_responses_are_significant_and_ordered_by_strength(tmp_path: Path) -> None:
    tops = []
    for strength in (0.3, 1.0):
        table = compare(tmp_path / str(strength), strength, 0, ["ridge", "shallow"])
        tops.append([one["checkpoints"][next(iter(one["checkpoints"]))]["top1"]["estimate"]
                     for one in table.systems.values()])  # fmt: skip
    assert all(one["p"] < 0.001 for one in table.systems.values())
    assert min(tops[1]) >= 5 * retrieval.chance(1, 20)
    assert all(weak <= strong for weak, strong in zip(*tops, strict=True))


@pytest.mark.long
def test_without_signal_p_values_are_uniform(tmp_path: Path) -> None:
    ps = [compare(tmp_path / str(seed), 0.0, seed, ["ridge"]).systems["ridge"]["p"] for seed in range(20)]
    assert stats.kstest(ps, "uniform").pvalue > 0.01


@pytest.mark.long
def test_choosing_on_the_test_set_inflates_what_is_not_there(tmp_path: Path) -> None:
    honest, selected, last = [], [], []
    for seed in range(12):
        for protocol in ("honest", "paper"):
            folder = tmp_path / f"{protocol}{seed}"
            table = compare(folder, 0.0, seed, ["shallow"], protocol=protocol, epochs=40, seeds=2)
            checkpoints = table.systems["shallow"]["checkpoints"]
            scores = {name: one["mean_reciprocal_rank"]["estimate"] for name, one in checkpoints.items()}
            if protocol == "honest":
                honest.append(scores["held_out"])
            else:
                selected.append(scores["test"])
                last.append(scores["last"])
    chance = (1 / np.arange(1, 21)).mean()  # of 1 / rank over 20 images
    means = [f"{np.mean(one):.3f} ± {stats.sem(one):.3f}" for one in (honest, selected, last)]
    print("mean 1 / rank: {} honest, {} chosen on the test set, {} last epoch".format(*means), f"chance {chance:.3f}")
    assert abs(np.mean(honest) - chance) < 3 * stats.sem(honest)
    assert np.mean(selected) > chance + 3 * stats.sem(selected)
    assert (np.subtract(selected, last) >= 0).all()
