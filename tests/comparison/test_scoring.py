"""The rows of a comparison's table: what counts as a result, further galleries, transductive scores, speed."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dreamjax
from dreamjax.comparison import fitting, jobs, protocols, result, scoring
from dreamjax.comparison.jobs import Request, Scoring
from dreamjax.comparison.result import Answers
from dreamjax.errors import UserError
from dreamjax.metrics import retrieval
from dreamjax.storage import image_files
from dreamjax.systems import registry
from dreamjax.targets.banks import BankConfig
from dreamjax.targets.responses import ResponseConfig
from tests import trial_shards
from tests.trial_shards import TrialShards

SMALL = [("shallow.model.width", "8"), ("train.batch_size", "16")]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> TrialShards:
    return trial_shards.write(tmp_path_factory.mktemp("trials") / "data", people=1, strength=2.0)


@pytest.fixture(scope="module")
def published(shards: TrialShards, tmp_path_factory: pytest.TempPathFactory) -> result.Comparison:
    return dreamjax.compare(
        ["shallow", "ridge"], shards.path, shards.bank, tmp_path_factory.mktemp("compare") / "work", seeds=1, epochs=2,
        settings=SMALL, protocol="paper", distractors="train", transductive=True,
    )  # fmt: skip


def tops(values: Mapping[str, Mapping[str, float]]) -> float:
    return values["top1"]["estimate"]


def test_a_checkpoint_chosen_on_the_test_set_is_not_ranked(published: result.Comparison) -> None:
    shallow = published.systems["shallow"]
    assert list(shallow["checkpoints"])[:2] == ["test", "last"]
    assert shallow["counted"] == "last"
    people = shallow["by_person"].values()
    assert np.mean(list(people)) == pytest.approx(tops(shallow["checkpoints"]["last"]))
    (difference,) = published.differences.values()
    both = [tops(one["checkpoints"]["last"]) for one in published.systems.values()]
    assert difference["estimate"] == pytest.approx(both[0] - both[1])
    (table, *_) = (section.table for section in published.sections() if section.table is not None)
    p_values = {row[1]: row[table.header.index("p")] for row in table.rows if row[0] == "shallow" or not row[0]}
    assert p_values["selected on test: not a result"] == ""
    assert p_values["last epoch"] != ""
    assert protocols.counted(("test",)) == ""


def test_shuffled_images_are_never_those_that_were_seen(published: result.Comparison) -> None:
    ridge = published.systems["ridge"]["checkpoints"]
    assert tops(ridge["last"]) > 0.8
    assert tops(ridge["shuffled"]) <= 1 - tops(ridge["last"])


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_an_epoch_whose_vectors_are_all_equal_is_not_chosen(shards: TrialShards, value: float) -> None:
    protocol = protocols.find("honest")
    target = trial_shards.bank_config(shards)
    (job,) = jobs.jobs(Request(("shallow",), ResponseConfig(path=(shards.path,)), target, protocol, "joint", seeds=1))
    task: Any = registry.build(job.configs[0])
    val = task.examples("val")
    seen = np.searchsorted(val.trials.gallery, val.trials.image)
    held_out = {**val.rows, **val.vectors, "target": seen, "gallery": val.trials.gallery}
    params = jax.jit(lambda key: task.init(key).params)(jax.random.key(0))
    equal = jax.tree.map(lambda x: np.full_like(x, value), params)
    score = fitting.mean_reciprocal_rank(task, equal, {name: jnp.asarray(x) for name, x in held_out.items()})
    assert score == pytest.approx(1 / len(val.trials.gallery))


def test_distractors_make_the_task_harder_and_are_counted(published: result.Comparison) -> None:
    for one in published.systems.values():
        assert one["galleries"]["distractors"] == 8 + 36
        assert tops(one["checkpoints"]["distractors"]) <= tops(one["checkpoints"]["last"])
    assert "44 images" in published.text()


def test_transductive_scores_are_rows_of_their_kind(published: result.Comparison) -> None:
    text = published.text()
    assert text.count("transductive: CSLS") == text.count("transductive: whitened") == 2
    ridge = published.systems["ridge"]["checkpoints"]
    assert tops(ridge["csls"]) > 0.5


def test_without_being_asked_no_row_is_transductive(shards: TrialShards, tmp_path: Path) -> None:
    table = dreamjax.compare(["ridge"], shards.path, shards.bank, tmp_path / "work")
    assert set(table.systems["ridge"]["checkpoints"]) == {"last", "shuffled"}
    with pytest.raises(UserError, match="a comparison with other scoring"):
        dreamjax.compare(["ridge"], shards.path, shards.bank, tmp_path / "work", transductive=True)


def test_distractors_come_from_a_folder_without_the_tested_images(shards: TrialShards, tmp_path: Path) -> None:
    folder = tmp_path / "more"
    names = sorted(shards.vectors)
    for name in (names[0], names[1], names[-1]):  # two of training, one that is tested
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    table = dreamjax.compare(["ridge"], shards.path, shards.bank, tmp_path / "work", distractors=str(folder))
    assert table.systems["ridge"]["galleries"] == {"distractors": 8 + 2}


def test_systems_that_train_on_views_have_a_gallery_of_them_apart(shards: TrialShards, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in shards.vectors:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(image_files.png_bytes(rng.integers(256, size=(24, 24, 3)).astype(np.uint8)))
    target = BankConfig(path="colour_histogram", images=str(tmp_path), bank=str(tmp_path / "banks"))
    protocol = protocols.find("honest")
    request = Request(("neurobridge",), ResponseConfig(path=(shards.path,)), target, protocol, "joint", seeds=1)
    (job,) = jobs.jobs(request)
    task: Any = registry.build(job.configs[0])
    assert set(task.examples("test").vectors) == {"vector", "views"}
    params = jax.jit(lambda key: task.init(key).params)(jax.random.key(0))
    scored = scoring.score(task, {"last": [params]}, {}, Scoring())
    (clean,), (augmented,) = scored.ranks["last"], scored.ranks["augmented"]
    assert len(clean.above) == len(augmented.above) == 8
    assert set(result.ROWS) >= set(scored.ranks) - {"last"}
    same = scoring.score(task, {"test": [params], "last": [params]}, {}, Scoring())
    assert len(same.ranks["augmented"]) == 1  # of the checkpoint that counts


def test_reports_distractors_that_are_not_there(shards: TrialShards, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no image that is not tested"):
        dreamjax.compare(["ridge"], shards.path, shards.bank, tmp_path / "work", distractors="test")


def test_ranks_of_all_columns_are_those_of_each_column() -> None:
    rng = np.random.default_rng(0)
    similarity = rng.integers(0, 4, (5, 9)).astype(float)  # with many equal ones
    every = retrieval.ranks_of_all(similarity)
    for column in range(9):
        one = retrieval.ranks_in(similarity, np.full(5, column))
        np.testing.assert_array_equal(every.above[:, column], one.above)
        np.testing.assert_array_equal(every.equal[:, column], one.equal)


def test_folds_of_other_images_have_no_common_p_value() -> None:
    sums, images = [np.eye(8)] * 2, np.arange(8)
    assert result.p_value(sums, [images, images]) == pytest.approx(1e-4, rel=0.01)
    assert result.p_value(sums, [images, images + 8]) is None


@pytest.mark.long
def test_ten_people_and_three_seeds_are_scored_in_two_seconds() -> None:
    rng = np.random.default_rng(0)
    gallery, right = rng.normal(size=(200, 512)).astype(np.float32), np.arange(200)
    queries = gallery + 6 * rng.normal(size=(10, 3, *gallery.shape)).astype(np.float32)
    began = time.monotonic()
    parts, sums = [], []
    for person, each in enumerate(queries):
        similarity = [retrieval.similarities(one, gallery, centred=False) for one in each]
        ranks = [retrieval.ranks_in(one, right) for one in similarity]
        sums.append(sum(retrieval.ranks_of_all(one).reciprocal() for one in similarity))
        parts.append((ranks, np.full(200, person), right, 200))
    result.values_of(Answers.joined(parts))
    result.p_value(sums, [right] * len(sums))  # type: ignore[arg-type]
    assert time.monotonic() - began < 2
