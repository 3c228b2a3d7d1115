"""Controls of a comparison: what time alone tells, what the samples before the image tell, what is not possible."""

from pathlib import Path

import numpy as np
import pytest

import dreamjax
from dreamjax.comparison import controls, jobs, protocols, result
from dreamjax.comparison.fitting import Fitted
from dreamjax.comparison.jobs import Job, Request
from dreamjax.evaluation.controls import BEFORE, BLOCKS, TIME
from dreamjax.signals.datasets import records
from dreamjax.targets.catalogue import catalogue
from dreamjax.targets.responses import ResponseConfig
from tests import trial_shards
from tests.trial_shards import TrialShards


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> TrialShards:
    return trial_shards.write(tmp_path_factory.mktemp("trials") / "data", people=1, strength=2.0, tested=12)


def jobs_of(shards: TrialShards, name: str = result.CONTROLS, protocol: str = "honest") -> list[Job]:
    chosen = protocols.find(protocol)
    data = ResponseConfig(path=(shards.path,))
    return jobs.of_ridge(name, Request(("nice",), data, trial_shards.bank_config(shards), chosen, chosen.people))


def fit(shards: TrialShards, protocol: str = "honest") -> Fitted:
    (job,) = jobs_of(shards, protocol=protocol)
    return controls.fit(job)


def test_responses_are_not_in_the_controls(shards: TrialShards) -> None:
    fitted = fit(shards)
    assert {name: len(ranks[0].above) for name, ranks in fitted.ranks.items()} == {TIME: 12, BEFORE: 12}
    for ranks in fitted.ranks.values():
        assert ranks[0].top(1).mean() < 0.4
    assert "continuous signal" in fitted.notes[BLOCKS]


@pytest.mark.parametrize("protocol", ["honest", "single_trial"])
def test_the_time_index_knows_images_whose_vectors_follow_time(tmp_path: Path, protocol: str) -> None:
    shards = trial_shards.write(tmp_path / "data", people=1, strength=0.0, sessions=1, repeats=1, test_repeats=1)
    known = catalogue((shards.path,))
    waves = controls.time_features(known)[:, 1:5]
    vectors = np.stack([waves[known.image == i].mean(0) for i in range(len(known.images))]).astype(np.float32)
    np.savez(shards.bank, vectors=vectors, names=list(known.images))
    assert fit(shards, protocol).ranks[TIME][0].top(1).mean() > 0.6


def test_what_is_there_before_the_image_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish = records.finish

    def earlier(folder: Path, name: str, of: dict, extra: dict) -> None:
        finish(folder, name, of, extra | {"settings": {"tmin": -0.4, "sfreq": 100.0, "causal": False}})

    monkeypatch.setattr(records, "finish", earlier)
    shards = trial_shards.write(tmp_path / "data", people=1, strength=2.0, tmin=0.0)
    fitted = fit(shards)
    assert fitted.ranks[BEFORE][0].top(1).mean() > 0.7
    assert "--causal" in fitted.notes[BEFORE]


def test_a_control_that_is_not_possible_has_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "impossible", lambda path: {"time": "the order of trials was not published"})
    shards = trial_shards.write(tmp_path / "data", people=1, tmin=0.0)
    table = dreamjax.compare(["ridge"], shards.path, shards.bank, tmp_path / "work")
    assert table.controls[TIME] == {"values": None, "note": "the order of trials was not published"}
    assert table.controls[BEFORE]["values"] is None
    assert "before the image: not possible, as the trials have no samples before the image" in table.text()
