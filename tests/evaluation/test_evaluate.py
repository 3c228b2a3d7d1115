"""`dreamjax evaluate` from end to end: a small run on synthetic shards, its report, and the mistakes it refuses."""

import dataclasses
import errno
import json
import os
import shutil
import tempfile

import numpy as np
import pytest

from dreamjax import config as configs
from dreamjax.cli import main as cli
from dreamjax.evaluation import cross_fitting, held_out, probing, reconstruction
from dreamjax.evaluation import window_set as windows
from dreamjax.metrics import probe
from dreamjax.runs import provenance
from dreamjax.signals.datasets import pipeline, records
from dreamjax.storage import manifest
from dreamjax.systems import masked_presets, masked_pretraining, opening, registry
from dreamjax.training import checkpoints
from tests.support import held_elsewhere, make_shards, make_windows

LABELS, PARAMS = ("rest", "arithmetic"), {}  # PARAMS: settings of a network → its fresh parameters
SECOND = {"samples": 128, "sfreq": 128.0}  # of every window: a fitted Gaussian costs the cube of its samples


def tiny(path: str, **train):
    config = masked_presets.preset("tiny")
    with config.unlocked():
        config.data.path = (path,)
        config.data.update(SECOND)
        config.model.update({"dim": 32, "depth": 1, "heads": 2, "decoder_dim": 16, "decoder_heads": 2})
        config.model.update({"decoder_depth": 1, "patch": 8, "interpolation": "none", "scan_layers": False})
        config.train.update({"steps": 2, "batch_size": 16, "eval_every": 0, "tensorboard": False, **train})
        config.optim.update({"learning_rate": 1e-3, "warmup_steps": 1})
    return configs.to_dataclass(masked_pretraining.MaskedPretrainingConfig, config)


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> str:
    return make_shards(tmp_path_factory.mktemp("shards"), subjects=9, windows=8, labels=LABELS, **SECOND)


def save_run(config, workdir: str, step: int = 3, score: float | None = None) -> str:
    """A run with fresh parameters that says it took `step` steps: what evaluation reads of a trained one."""
    params = PARAMS.get(config.model) or PARAMS.setdefault(config.model, held_out.untrained(registry.build(config), 1))
    folder = checkpoints.save_params_as_run(workdir, configs.to_json(config), params, step)
    if score is not None:
        record = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps(record | {"score": score}))
        manifest.write(folder)
    return workdir


def trained(config, workdir: str, step: int) -> dict:
    save_run(config, workdir, step)
    return {"preempted": False}


@pytest.fixture(scope="module")
def run(shards, tmp_path_factory) -> str:
    return save_run(tiny(shards), str(tmp_path_factory.mktemp("run")))


@pytest.fixture
def instant_training(monkeypatch):
    """Pretraining that takes no time: its Task, loop and checkpoints have their own tests."""
    monkeypatch.setattr(opening, "train", lambda config, workdir: trained(config, workdir, config.train.steps))


def evaluated(capsys, *words: str) -> dict:
    assert cli.main(["evaluate", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, *words: str) -> str:
    assert cli.main(["evaluate", *words]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dreamjax: ")]
    assert len(error) == 1
    return error[0]


def test_reconstruction_is_scored_with_baselines(run, capsys, tmp_path):
    result = evaluated(capsys, run, "--split", "val", "--out", str(tmp_path))
    masks = [e["mask"] for e in result["reconstruction"]]
    assert masks == ["random 0.1", "random 0.5", "random 0.75", "gap 250 ms"]  # a window of 1 s has no gap of 1 s
    assert result["subjects"] == 2
    for entry in result["reconstruction"]:
        assert set(entry["r2"]) >= {"zero", "channel mean", "linear interpolation", "conditional mean"}
        assert ("model" in entry["r2"]) == result["scored"]
    assert json.loads((tmp_path / "reconstruction-val.json").read_text())["split"] == "val"
    page = (tmp_path / "reconstruction-val.html").read_text()
    assert "data:image/png;base64," in page
    assert "http" not in page
    assert (tmp_path / "reconstruction_scores.png").read_bytes().startswith(b"\x89PNG")


def test_marks_split_that_chose_the_step_as_optimistic(shards, capsys, tmp_path):
    run = save_run(tiny(shards), str(tmp_path / "run"), score=0.5)
    marked = "split val, on which the step was chosen (optimistic)"
    words = ("--best", "--split", "val", "--windows", "4", "--out", str(tmp_path / "out"))
    assert cli.main(["evaluate", run, *words]) == 0
    shown = capsys.readouterr().out
    assert marked in shown.splitlines()[0]
    assert "by its loss on split val, so its scores there are optimistic" in shown
    for request, optimistic in (
        (reconstruction.ReconstructionSettings(split="val"), False),
        (reconstruction.ReconstructionSettings(best=True), False),
        (reconstruction.ReconstructionSettings("val", best=True, data=("elsewhere",)), False),
        (reconstruction.ReconstructionSettings("val", best=True, data=(shards, "elsewhere")), True),
    ):
        assert bool(reconstruction.chosen_on(request, opening.open_run(run))) == optimistic


def test_prints_split_interval_and_leakage_notes(run, capsys, tmp_path):
    assert cli.main(["evaluate", run, "--windows", "4", "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "split test" in shown
    assert "one subject is held out: there is no interval" in shown
    assert "training saw none of these subjects" in shown


def test_says_that_recordings_of_unknown_subjects_may_share_people(tmp_path, capsys):
    """Each recording is a unit of its own, and no sentence claims that people were held out."""
    folder, splits = tmp_path / "shards", {"train": (0, 1, 2), "val": (3,), "test": (4, 5)}
    written = {}
    for split, recordings in splits.items():
        known = [w for r in recordings for w in make_windows(r, windows=4, labels=LABELS, **SECOND)]
        unknown = [dataclasses.replace(window, subject="unknown") for window in known]
        written[split] = records.write_split(folder, "unnamed", split, unknown)
    records.finish(folder, "unnamed", written)
    assert provenance.training_of([str(folder)], tmp_path)[0] == {
        "synthetic": {"licences": ["CC0-1.0"], "subjects": 0, "recordings_of_unknown_subjects": 6}
    }
    workdir = save_run(tiny(str(folder)), str(tmp_path / "run"))
    result = evaluated(capsys, workdir, "--windows", "4", "--out", str(tmp_path / "out"))
    assert (result["subjects"], result["recordings_of_unknown_subjects"]) == (0, 2)
    notes = " ".join([*result["notes"], *result["statements"]])
    assert "2 recordings of unknown subjects" in notes
    assert "intervals over recordings" in notes
    assert (
        "training saw none of these recordings (pseudonyms compared); subjects unknown: recordings may share" in notes
    )
    assert "none of these subjects" not in notes
    [batch] = pipeline.open_stream(tiny(str(folder)).data, "test", seed=0, training=False, also=("subject",)).batches(
        start=0, batch_size=8
    )
    assert len(np.unique(batch["subject"])) == 2
    error = refused(capsys, workdir, "--data", str(folder), "--split", "train")
    assert "what the run learned from" in error


def test_windows_keep_recorded_and_clipped_signal(shards, run, capsys, tmp_path):
    """With a clip at 1 recording's scale: the truth is the record's own µV, and the model's input is the stream's."""
    data = dataclasses.replace(tiny(shards).data, clip=1.0)
    loaded = windows.load(data, "test")
    recorded = np.stack([w.signal for w in records.read_windows(shards, "test")])
    np.testing.assert_allclose(loaded.microvolts(), recorded, rtol=1e-5, atol=1e-3)
    [batch] = pipeline.open_stream(data, "test", seed=0, training=False).batches(start=0, batch_size=len(loaded))
    np.testing.assert_array_equal(loaded.seen(), batch["signal"])
    beyond = (np.abs(recorded) > loaded.gain[:, :, None]).mean()
    assert loaded.clipped_share == pytest.approx(beyond, abs=1e-3)
    clipped = save_run(dataclasses.replace(tiny(shards), data=data), str(tmp_path / "run"))
    result = evaluated(capsys, clipped, "--windows", "4", "--out", str(tmp_path / "out"))
    assert any("lie beyond data.clip = 1" in note for note in result["notes"])


def test_a_subject_of_training_is_refused(run, shards, capsys, tmp_path):
    """The test split of a second dataset holds a person whom the run was trained on."""
    there = [*make_windows(0, windows=4, **SECOND), *make_windows(77, windows=4, **SECOND)]
    found = records.write_split(tmp_path, "second", "test", there)
    records.finish(tmp_path, "second", {"test": found})
    error = refused(capsys, run, "--data", str(tmp_path))
    assert "was trained on subject subject00" in error


def test_the_training_split_is_refused(run, capsys):
    assert "what the run learned from" in refused(capsys, run, "--split", "train")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--split", "tset"), "did you mean test?"),
        (("--data", "nowhere"), "nowhere: no such dataset folder"),
        (("--step", "7"), "step 7 is not there"),
        (("--probe", "--probe-labels", "left", "right"), "no windows labelled left and right"),
        (("--fold-runs", "nowhere", "elsewhere"), "nowhere holds no run"),
        (("--seed", "-1"), "argument --seed: -1 is not a whole number from 0"),
        (("--seed", "some"), "argument --seed: 'some' is not a whole number"),
        (("--windows", "-3"), "argument --windows: -3 is not a whole number from 1"),
        (("--probe", "--folds", "1"), "argument --folds: 1 is not a whole number from 2"),
        (("--probe", "--probe-steps", "0"), "argument --probe-steps: 0 is not a whole number from 1"),
    ],
)
def test_reports_wrong_arguments(run, capsys, words, told):
    assert told in refused(capsys, run, *words)


def test_untrained_run_gets_no_score(shards, capsys, tmp_path):
    result = evaluated(capsys, save_run(tiny(shards), str(tmp_path), step=0), "--windows", "4")
    assert "untrained (step 0): no score is shown for it" in result["statements"]
    assert not result["scored"]
    assert not any("model" in e["r2"] or "model_minus" in e for e in result["reconstruction"])


def test_a_fold_run_that_is_untrained_is_refused(run, shards, capsys, tmp_path, instant_training, monkeypatch):
    monkeypatch.setattr(opening, "train", lambda config, workdir: trained(config, workdir, 0))
    assert "is untrained (step 0)" in refused(capsys, run, "--probe", "--out", str(tmp_path))


def test_reports_missing_run(capsys, tmp_path):
    assert "holds no run" in refused(capsys, str(tmp_path))


def test_missing_training_shards_are_reported_as_unverified(run, shards, capsys, tmp_path):
    copy, moved = str(tmp_path / "run"), str(tmp_path / "shards")
    shutil.copytree(run, copy)
    shutil.copytree(shards, moved)
    config = json.loads((tmp_path / "run" / "config.json").read_text().replace(shards, "/gone"))
    manifest.write_json(tmp_path / "run" / "config.json", config)
    result = evaluated(capsys, copy, "--data", moved, "--windows", "4")
    assert any("not verified" in note for note in result["notes"])


@pytest.mark.long
def test_the_probe_pretrains_for_real_and_continues(run, capsys, tmp_path):
    """Three pretrainings of a step each, then a second call that finds them done."""
    words = (run, "--probe", "--probe-steps", "1", "--out", str(tmp_path))
    first, second = evaluated(capsys, *words), evaluated(capsys, *words)
    assert first["fold_steps"] == [1]
    assert first["probe"]["scores"] == second["probe"]["scores"]


@pytest.fixture
def one_penalty(monkeypatch):
    """A probe of which nothing is chosen: the choice has its own tests."""
    monkeypatch.setattr(probe, "PENALTIES", (1.0,))


def test_the_probe_pretrains_without_its_subjects(run, capsys, tmp_path, instant_training, one_penalty):
    result = evaluated(capsys, run, "--probe", "--probe-steps", "1", "--out", str(tmp_path))
    probed = [set(group) for group in result["fold_runs"].values()]
    assert sorted(len(group) for group in probed) == [3, 3, 3]
    for workdir, group in zip(result["fold_runs"], probed, strict=True):
        [path] = opening.config_of(workdir).data.path
        trained = {w.subject for w in records.read_windows(path, "train")}
        assert not trained & group
        assert len(trained) == 6
    assert set(result["probe"]["scores"]) == {
        f"{question}{kind}"
        for question in ("", "drift: ")
        for kind in ("pretrained encoder", "untrained encoder", "band power")
    }
    assert result["probe"]["scores"]["untrained encoder"]["control"]
    words = ("--fold-runs", *result["fold_runs"], "--with-reconstruction", "--out", str(tmp_path / "again"))
    again = evaluated(capsys, run, *words)
    assert again["probe"]["scores"] == result["probe"]["scores"]
    for entry in again["reconstruction"]:
        assert len(entry["r2_by_subject"]["conditional mean"]) == 9


def test_a_subject_without_both_minutes_is_named_and_the_others_are_scored(
    capsys, tmp_path, instant_training, one_penalty
):
    """One of ten has a single window of rest, which is no first and last minute."""
    made = [make_windows(s, windows=2 if s == 3 else 8, labels=LABELS, **SECOND) for s in range(10)]
    folder = tmp_path / "shards"
    split = records.write_split(folder, "some", "train", [window for windows in made for window in windows])
    records.finish(folder, "some", {"train": split})
    run = save_run(tiny(str(folder)), str(tmp_path / "run"))
    result = evaluated(capsys, run, "--probe", "--probe-steps", "1", "--out", str(tmp_path / "out"))
    assert (
        "left out of first against last minute of rest, without windows of both: subject subject03" in result["notes"]
    )
    scores = result["probe"]["scores"]
    assert len(scores["band power"]["by_subject"]) == 10
    assert len(scores["drift: band power"]["by_subject"]) == 9
    assert scores["drift: band power"]["balanced_accuracy"]["estimate"] is not None


def test_refuses_fold_runs_that_saw_all_subjects(run, capsys, tmp_path):
    other = shutil.copytree(run, str(tmp_path / "other"))
    assert "were trained on subject subject00" in refused(capsys, run, "--fold-runs", run, other)


@pytest.fixture(scope="module")
def with_copy(tmp_path_factory) -> str:
    """Ten subjects, the last of whom has a recording of her own, and a copy of that of the first."""
    folder = tmp_path_factory.mktemp("copied")
    made = [window for s in range(10) for window in make_windows(s, windows=8, labels=LABELS, **SECOND)]
    again = [dataclasses.replace(w, subject="subject09", recording="again") for w in made if w.subject == "subject00"]
    split = records.write_split(folder, "some", "train", made + again)
    held = dict.fromkeys((w.recording, w.subject) for w in made + again)
    inputs = [{"recording": r, "subject": s, "split": "train", "sha256": f"file of {r}"} for r, s in held]
    copies = [{"recording": "again", "of": "synthetic-00", "how": "the same signal, kept in the same split"}]
    records.finish(folder, "some", {"train": split}, {"inputs": inputs, "copies": copies})
    return str(folder)


def test_copies_of_a_recording_are_on_one_side_of_every_fold(
    with_copy, capsys, tmp_path, instant_training, one_penalty, monkeypatch
):
    kinds = ("pretrained encoder", "untrained encoder", "band power")
    monkeypatch.setattr(
        probing, "features_of", lambda fold, data, place: dict.fromkeys(kinds, data.signal.std(axis=2)[:, :2])
    )
    run = save_run(tiny(with_copy), str(tmp_path / "run"))
    words = ("--probe", "--folds", "2", "--probe-steps", "1", "--out", str(tmp_path / "out"))
    result = evaluated(capsys, run, *words)
    assert "1 recording left out: copies of others (`copies` in dataset.json)" in result["notes"]
    assert result["copies"] == 1
    assert len(result["probe"]["scores"]["band power"]["by_subject"]) == 9  # two of ten share a recording
    for workdir, group in result["fold_runs"].items():
        [path] = opening.config_of(workdir).data.path
        windows = [window for split in ("train", "test") for window in records.read_windows(path, split)]
        assert not [window for window in windows if window.recording == "again"]
        if "subject00" in group:
            assert not {"subject00", "subject09"} & {w.subject for w in records.read_windows(path, "train")}


def test_refuses_fold_runs_that_saw_a_copy_of_what_they_are_probed_on(with_copy, capsys, tmp_path):
    """They left out the first subject, but were trained on the copy of that recording, under another name."""
    folds = []
    for name, left_out in (("a", ("00", "01", "02")), ("b", ("00", "03", "04"))):
        windows = list(records.read_windows(with_copy, "train"))
        some = [window for window in windows if window.subject not in {f"subject{s}" for s in left_out}]
        split = records.write_split(tmp_path / name, "some", "train", some)
        records.finish(tmp_path / name, "some", {"train": split})
        folds.append(save_run(tiny(str(tmp_path / name)), str(tmp_path / f"run-{name}")))
    probed = save_run(tiny(with_copy), str(tmp_path / "probed"))
    assert "were trained on subject subject00" in refused(capsys, probed, "--fold-runs", *folds)


def test_a_copy_is_not_scored_twice(with_copy, tmp_path):
    loaded = windows.load(tiny(with_copy).data, "train")
    assert (len(loaded), loaded.available, loaded.copies) == (80, 80, ("again",))
    assert len(set(loaded.subjects)) == 9


def salted(source: str, folder, salt: str, hashed: bool = True) -> str:
    """A dataset with other pseudonyms, and in dataset.json the hashes of its recordings, as prepare keeps them."""
    splits, inputs = {}, []
    for split in records.load_dataset(source)["splits"]:
        found = [
            dataclasses.replace(w, subject=salt + w.subject, recording=salt + w.recording)
            for w in records.read_windows(source, split)
        ]
        splits[split] = records.write_split(folder, "salted", split, found)
        files = {w.subject: f"file of {w.subject.removeprefix(salt)}" for w in found}
        inputs += [{"subject": s, "split": split, "sha256": sha} for s, sha in files.items()]
    records.finish(folder, "salted", splits, {"inputs": inputs} if hashed else {})
    return str(folder)


def test_refuses_fold_runs_that_saw_all_subjects_under_another_salt(shards, capsys, tmp_path):
    """Two runs trained on the folds of `one`, and the same recordings probed under other pseudonyms."""
    one, other = salted(shards, tmp_path / "one", "x"), salted(shards, tmp_path / "other", "y")
    people = sorted(provenance.dataset(one).subjects)
    folds = []
    for name, left_out in (("a", people[:3]), ("b", people[6:])):
        cross_fitting.write_fold(one, str(tmp_path / name), left_out)
        folds.append(save_run(tiny(str(tmp_path / name)), str(tmp_path / f"run-{name}")))
    probed = save_run(tiny(other), str(tmp_path / "probed"))
    assert "were trained on subject ysubject03" in refused(capsys, probed, "--fold-runs", *folds)
    bare = save_run(tiny(salted(shards, tmp_path / "bare", "z", hashed=False)), str(tmp_path / "unknown"))
    assert "file hashes are not known" in refused(capsys, bare, "--fold-runs", *folds)


def test_incomparable_subjects_are_reported_as_unverified(run, shards, capsys, tmp_path):
    words = ("--windows", "4", "--out", str(tmp_path / "out"))
    result = evaluated(capsys, run, "--data", salted(shards, tmp_path / "other", "x"), *words)
    assert any("not verified" in note and "another salt" in note for note in result["notes"])


def test_features_of_an_untrained_encoder_differ_from_the_runs(run, shards):
    opened = opening.open_run(run)
    data = probing.load(opened.task.signal, shards)
    features = probing.features_of(probing.Fold(opened, ()), data, 0)
    assert features["pretrained encoder"].shape == features["untrained encoder"].shape == (len(data), 32)
    assert np.abs(features["pretrained encoder"] - features["untrained encoder"]).max() > 1e-3


def test_a_second_evaluation_into_a_folder_ends_with_75(run, capsys, tmp_path):
    with held_elsewhere(tmp_path / ".out.lock"):
        assert cli.main(["evaluate", run, "--split", "val", "--out", str(tmp_path / "out")]) == 75
    assert "out is in use by another process" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_reports_an_output_that_cannot_be_written_before_the_work(run, capsys, tmp_path, monkeypatch):
    def fails(**_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    (tmp_path / "file").touch()
    assert "file is a file, and a folder is written" in refused(capsys, run, "--out", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "mkdtemp", fails)
    assert "evaluation cannot be written: no folder can be made in" in refused(capsys, run)


def test_a_fold_whose_training_is_stopped_ends_the_evaluation(run, capsys, tmp_path, monkeypatch):
    """With 75, as training does: the score of half-trained folds would be wrong."""
    monkeypatch.setattr(opening, "train", lambda config, workdir: {"preempted": True})
    assert cli.main(["evaluate", run, "--probe", "--out", str(tmp_path)]) == 75
    assert "stopped while fold 1 of" in capsys.readouterr().err
