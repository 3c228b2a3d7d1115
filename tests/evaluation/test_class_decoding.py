"""`dreamjax decode`: real houses and faces, simulated nothing, and what cannot be decoded."""

import json

import pytest

from dreamjax.cli import main as cli
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
    assert "in 4 recordings, each decoded by classifiers of the others" in capsys.readouterr().out
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
    scores = json.loads(capsys.readouterr().out)["scores"]
    assert scores["shrinkage LDA"]["AUROC"]["p"] > 0.05
    for words, said in (
        (["--labels", "circle", "horse"], "no trial is labelled horse; there are bar, circle"),
        (["--labels", "circle"], "trials of at least two classes are required, there is 1"),
        (["--labels", "circle", "bar", "circle"], "circle is named twice"),
        (["--encoder", str(tmp_path)], "holds no run"),
        (["--permutations", "3"], "not a whole number from 20"),
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
