"""`dreamjax decode`: real houses and faces, simulated nothing, and what cannot be decoded."""

import json
import warnings

import numpy as np
import pytest

from dreamjax.cli import main as cli
from dreamjax.signals.datasets import pipeline
from dreamjax.signals.preparation import prepare, window_settings
from dreamjax.signals.simulation import simulate
from dreamjax.storage import manifest

QUIET = prepare.PrepareOptions(workers=0, salt="test")


def shards(root, source, **events):
    settings = window_settings.WindowSettings(
        low=1.0,
        high=30.0,
        samples=154,
        events=window_settings.EventWindows(source="file", tmin=0.0, tmax=0.6, **events),
    )
    prepare.prepare([source], root / "shards", settings, QUIET)
    return str(root / "shards")


def test_houses_and_faces_are_classified_in_left_out_recordings(tmp_path, capsys, real_data):
    """One person, four runs of two minutes, a headset of four electrodes (muse-lsl): above chance, and no more."""
    found = shards(tmp_path, real_data / "eeg" / "muse" / "N170")
    words = ["decode", found, "--labels", "house", "face", "--permutations", "20", "--out", str(tmp_path / "out")]
    assert cli.main(words) == 0
    shown = capsys.readouterr().out
    assert "in 4 recordings of 1 subject, each decoded by classifiers trained on the others" in shown
    assert "other recordings of the same person are trained on" in shown
    scores = json.loads((tmp_path / "out" / "classes.json").read_text())["scores"]
    assert 0.55 < scores["shrinkage LDA"]["balanced accuracy"]["estimate"] < 0.7
    assert scores["shrinkage LDA"]["AUROC"]["low"] > 0.5
    assert scores["shrinkage LDA"]["AUROC"]["p"] == pytest.approx(1 / 21)
    assert scores["time index"]["AUROC"]["low"] < 0.5 < scores["time index"]["AUROC"]["high"]


def test_decodes_nothing_without_evoked_responses(tmp_path, capsys):
    settings = simulate.SimulationSettings(subjects=3, minutes=1, channels=8, classes=2, strength=0.0)
    simulate.simulate(tmp_path / "study", settings)
    found = shards(tmp_path, tmp_path / "study")
    assert cli.main(["decode", found, "--permutations", "20", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    scores = result["scores"]
    assert (result["leave_out"], result["permuted"]) == ("subject", "trials within recordings")  # three are known
    assert scores["shrinkage LDA"]["AUROC"]["subjects"] == 3
    assert scores["shrinkage LDA"]["AUROC"]["p"] > 0.05
    for words, said in (
        (["--labels", "circle", "horse"], "no trial is labelled horse; there are bar, circle"),
        (["--labels", "circle"], "trials of at least two classes are required, there is 1"),
        (["--labels", "circle", "bar", "circle"], "circle is named twice"),
        (["--encoder", str(tmp_path)], "holds no run"),
        (["--permutations", "3"], "not a whole number from 20"),
        (["--leave-out", "session"], "the records hold one session of each subject"),
    ):
        assert cli.main(["decode", found, *words]) == 2
        assert said in capsys.readouterr().err
    described = json.loads((tmp_path / "shards" / "dataset.json").read_text())
    described["design"] = {"impossible": {"time": "nobody wrote down when", "block": "a block is a class"}}
    manifest.write_json(tmp_path / "shards" / "dataset.json", described)
    assert cli.main(["decode", found, "--permutations", "20"]) == 0
    told = capsys.readouterr().out
    assert "time index: not possible, as nobody wrote down when" in told
    assert "blocks: not possible, as a block is a class" in told
    assert not [line for line in told.splitlines() if line.startswith("time index")]
    assert cli.main(["decode", str(tmp_path / "nowhere")]) == 2
    assert "no such dataset folder" in capsys.readouterr().err


def recordings_of_one_class(folder, kinds=("rest", "task"), people=3, trials=6):
    """Noise of `people`, prepared as shards: a recording holds trials of one of `kinds` alone."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for stem in (f"sub-{person + 1:02d}_{kind}" for person in range(people) for kind in kinds):
        np.save(folder / f"{stem}.npy", (10 * rng.normal(size=(trials, 4, 128))).astype(np.float32))
        facts = {"sfreq": 128, "ch_names": ["Fz", "Cz", "Pz", "Oz"], "unit": "uV", "axes": "trials channels time"}
        (folder / f"{stem}.json").write_text(json.dumps(facts | {"labels": [stem.partition("_")[2]] * trials}))
    prepare.prepare([folder], folder.parent / "shards", window_settings.WindowSettings(samples=256), QUIET)
    return str(folder.parent / "shards")


def test_recordings_of_one_class_are_left_out_by_subject_without_a_warning(tmp_path, capsys):
    """A classifier trained on the same person's other recording would recognise the person; NaN has no p."""
    found = recordings_of_one_class(tmp_path / "study")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        assert cli.main(["decode", found, "--permutations", "20", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["leave_out"], result["permuted"]) == ("subject", "recordings within subjects")
    assert "the labels can be arranged in only 8 ways, so p cannot be below 0.125" in result["notes"]
    for score in (metric for one in result["scores"].values() for metric in one.values()):
        assert score["estimate"] is not None
        assert score["p"] >= 0.125
    assert cli.main(["decode", found, "--permutations", "20", "--leave-out", "recording"]) == 2
    assert "use --leave-out subject" in capsys.readouterr().err


def test_unknown_subjects_are_left_out_by_recording_and_reported(tmp_path, capsys, monkeypatch):
    settings = simulate.SimulationSettings(subjects=3, minutes=1, channels=4, classes=2)
    simulate.simulate(tmp_path / "study", settings)
    found = shards(tmp_path, tmp_path / "study")
    known = pipeline.WindowExamples.metadata
    monkeypatch.setattr(
        pipeline.WindowExamples, "metadata", lambda self: [one | {"subject": "unknown"} for one in known(self)]
    )
    assert cli.main(["decode", found, "--permutations", "20"]) == 0
    shown = capsys.readouterr().out
    assert "in 3 recordings of unknown subjects, each decoded by classifiers trained on the others" in shown
    assert "subjects unknown: recordings may share people" in shown
    assert cli.main(["decode", found, "--permutations", "20", "--leave-out", "subject"]) == 2
    assert "subjects are unknown, so none can be left out" in capsys.readouterr().err
