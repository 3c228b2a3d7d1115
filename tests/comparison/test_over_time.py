"""Accuracy over time: windows before the image know nothing, and each window is a ridge regression of its samples."""

import dataclasses

import numpy as np
import pytest

from dreamjax.comparison import fitting, over_time, result
from dreamjax.comparison.jobs import Job
from dreamjax.errors import UserError
from tests import trial_shards
from tests.comparison.test_controls import jobs_of


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> trial_shards.TrialShards:
    folder = tmp_path_factory.mktemp("trials") / "data"
    return trial_shards.write(folder, people=1, strength=2.0, samples=40, tmin=-0.2)


def job_of(shards: trial_shards.TrialShards, kind: str) -> Job:
    (job,) = jobs_of(shards, result.timed_name("ridge", kind))
    return job


def test_responses_are_told_apart_after_the_onset_only(shards: trial_shards.TrialShards) -> None:
    fitted = over_time.fit(job_of(shards, "sliding"))
    begin, end = fitted.curves["sliding"].T
    np.testing.assert_allclose(end - begin, 0.1)
    np.testing.assert_allclose(np.diff(begin), 0.025)
    top = np.array([one.top(1).mean() for one in fitted.ranks["sliding"]])
    assert top[end < 0.001].mean() < 0.4
    assert top[begin > -0.001].mean() > 0.8
    assert over_time.fit(job_of(shards, "growing")).ranks["growing"][-1].top(1).mean() > 0.8


def test_a_window_of_the_whole_response_is_the_ridge_regression(shards: trial_shards.TrialShards) -> None:
    job = job_of(shards, "growing")
    whole = over_time.fit(job).ranks["growing"][-1]
    (config,) = job.configs
    binned = dataclasses.replace(config, model=dataclasses.replace(config.model, bins=over_time.SPANS["growing"]))
    alone = fitting.fit(dataclasses.replace(job, system="ridge", configs=(binned,))).ranks["last"][0]
    np.testing.assert_array_equal(whole.above, alone.above)


def test_spans_may_end_within_a_sample() -> None:
    np.testing.assert_allclose(over_time.means(0, 3, 2, 4), [[2 / 3, 1 / 3, 0, 0], [0, 1 / 3, 2 / 3, 0]])


def test_refuses_responses_shorter_than_a_window() -> None:
    with pytest.raises(UserError, match=r"a response has 0.05 s, and a window 0.1 s"):
        over_time.window_ends(0.05)
