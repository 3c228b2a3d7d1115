"""Images that a run of DreamDiffusion makes of trials and recordings, and their table."""

import dataclasses
import json
import re
import shutil

import mne
import numpy as np
import pytest
from PIL import Image

from dreamjax.errors import UserError
from dreamjax.evaluation import image_sources
from dreamjax.generation import folder, recording_windows
from dreamjax.generation.from_trials import TrialGenerator, TrialRequest
from dreamjax.systems import opening
from dreamjax.systems.dreamdiffusion import DreamDiffusion
from dreamjax.targets import trials as target_trials
from tests import parity


def test_a_run_makes_images_of_trials_that_it_never_saw(trained, config, tmp_path):
    out = tmp_path / "out"
    request = TrialRequest(steps=2, sampler="ddim", trials=3, samples=2, guidance=2.0)
    summary = folder.generate(trained[1], request, out)
    assert (summary["images"], summary["trials"], summary["size"]) == (6, 3, [16, 16])
    rows = [json.loads(line) for line in (out / "trials.jsonl").read_text().splitlines()]
    task = DreamDiffusion(config)
    held_out = target_trials.trials(task.encoder.data, config.target, "test", seed=0, training=False)
    names = {held_out.images[i].name for i in held_out.image}
    assert {row["image"] for row in rows} <= names
    for row in rows:
        assert np.asarray(Image.open(out / row["seen"])).shape == (16, 16, 3)
        assert all((out / file).exists() for file in row["made"])
    assert (out / "grid.png").exists()
    page = (out / "gallery.html").read_text()
    assert "was not evaluated, so the accuracy of these images is unknown" in page
    assert "not for clinical, forensic or covert use" in page
    assert page.count("<figure") == 9


def test_interrupted_folder_continues_to_the_same_images(trained, tmp_path, capsys):
    """The images that are missing are made, each as before; another command is refused, a whole folder is left."""
    request = TrialRequest(steps=2, sampler="ddim", trials=4, samples=2, guidance=2.0, batch=2)
    folder.generate(trained[1], request, tmp_path / "whole")
    broken = shutil.copytree(tmp_path / "whole", tmp_path / "out", copy_function=shutil.copy2)
    kept = sorted(broken.glob("*-*.png"))
    (broken / "trials.jsonl").unlink()
    (broken / "gallery.html").unlink()
    for file in kept[2:5]:
        file.unlink()
    kept[5].write_bytes(kept[5].read_bytes()[:60])  # a damaged one is made anew
    before = kept[0].stat().st_mtime_ns
    summary = folder.generate(trained[1], request, broken)
    assert summary["images"] == 8
    assert kept[0].stat().st_mtime_ns == before  # not made again
    for file in (tmp_path / "whole").rglob("*.png"):
        again = np.asarray(Image.open(broken / file.relative_to(tmp_path / "whole")))
        assert np.abs(again.astype(int) - np.asarray(Image.open(file))).max() <= 1  # levels of 255
    assert folder.generate(trained[1], request, broken) == summary
    with pytest.raises(UserError, match=r"holds images of another command \(guidance, steps differ\)"):
        folder.generate(trained[1], dataclasses.replace(request, steps=3, guidance=1.0), broken)
    with pytest.raises(UserError, match=r"\(guidance differs\)"):
        folder.generate(trained[1], dataclasses.replace(request, guidance=1.0), broken)
    (broken / "request.json").write_text("{")
    with pytest.raises(UserError, match=r"request\.json: .*; choose another --out or delete the folder"):
        folder.generate(trained[1], request, broken)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="theirs exists already"):
        folder.generate(trained[1], request, tmp_path / "theirs")


@pytest.mark.long
def test_generates_from_times_of_a_recording(config, trained, tmp_path, capsys):
    """Of a file that only the readers can open; what was seen is not known then."""
    from dreamjax.cli import main as cli
    from dreamjax.signals.simulation import simulate

    told = simulate.simulate(tmp_path / "study", simulate.SimulationSettings(subjects=1, minutes=0.5, channels=19))
    file = str(tmp_path / "study" / told["files"][0])
    words = ["generate", "--checkpoint", str(trained[1]), "--steps", "2", "--sampler", "ddim", "--guidance", "1"]
    out = tmp_path / "out"
    assert cli.main([*words, "--input", file, "--at", "10", "20.5", "--samples", "2", "--out", str(out)]) == 0
    assert "4 images of 16 x 16 from 2 of 2 trials, ddim" in capsys.readouterr().out
    rows = [json.loads(line) for line in (out / "trials.jsonl").read_text().splitlines()]
    assert [row["start"] for row in rows] == pytest.approx([10, 20.5], abs=1 / 128)
    assert [row["seen"] for row in rows] == ["", ""]
    assert not (out / "truth").exists()
    nameless = tmp_path / "nameless_raw.fif"
    info = mne.create_info(["Q1", "Q2", "Q3"], 128.0, "eeg")
    noise = np.random.default_rng(0).normal(0, 1e-5, (3, 128 * 30))
    mne.io.RawArray(noise, info, verbose="error").save(nameless, verbose="error")
    assert cli.main([*words, "--input", str(nameless), "--at", "10", "--out", str(tmp_path / "other")]) == 2
    assert f"{nameless}: no window has a usable electrode of montage 1020-19" in capsys.readouterr().err
    with recording_windows.prepared(
        [file], DreamDiffusion(config).encoder.data, recording_windows.EventTimes(at=(10.0,))
    ) as windows:
        elsewhere = TrialRequest(input=(windows,), steps=2, sampler="ddim", guidance=1.0)  # trials at images of others
        assert folder.generate(trained[1], elsewhere, tmp_path / "elsewhere")["split"] is None
    first, second = (np.asarray(Image.open(out / row["made"][0])) for row in rows)
    assert (first != second).any()
    for more, said in (
        ([], "a recording takes the times that images are generated from: --at SECONDS or --events"),
        (["--at", "10", "--events", "file"], "--at and --events both give the times: leave one out"),
        (["--at", "99"], "_eeg.edf: --at 99 is outside the recording of 30 s"),
        (["--at", "10", "--split", "val"], "--split would have no effect with --at"),
        (["--event-codes", "1"], "--event-codes would do nothing without --events"),
    ):
        assert cli.main([*words, "--input", file, *more, "--out", str(tmp_path / "other")]) == 2
        assert said in capsys.readouterr().err
        assert not (tmp_path / "other").exists()
    assert cli.main([*words, "--input", "nowhere.edf", "--at", "1", "--out", str(tmp_path / "other")]) == 2
    assert "nowhere.edf: no such recording or dataset folder" in capsys.readouterr().err
    assert cli.main([*words, "--at", "1", "--out", str(tmp_path / "other")]) == 2
    assert "--at and --events take a recording" in capsys.readouterr().err


def test_table_has_model_controls_and_reasons_for_missing_ones(trained, tmp_path, capsys):
    from dreamjax.cli import main as cli

    words = ["evaluate", str(trained[1]), "--trials", "6", "--samples", "2", "--steps", "2", "--sampler", "ddim"]
    assert cli.main([*words, "--guidance", "2", "--out", str(tmp_path / "scores")]) == 0
    said = capsys.readouterr().out
    assert "no N-way accuracy: it takes a trained classifier" in said
    assert "it is not independent" in said
    assert "pretrained on the signals of" in said
    result = json.loads((tmp_path / "scores" / "images-test.json").read_text())
    controls = ["class prior", "labels permuted", "time index"]
    nothing = ["model", "another trial's", "empty caption", "random training image"]
    ceilings = ["ceiling: seen image, autoencoded", "ceiling: true class + prompt"]
    assert result["sources"] == [*nothing, *controls, "classifier + prompt", "nearest training image", *ceilings]
    assert set(result["not_possible"]) == {"before the image", "pseudo-blocks"}
    assert "no windows before the images were given (--before FOLDER)" in said
    assert result["trials"] == 6
    by_name = {entry["metric"]: entry for entry in result["scores"]}
    assert by_name["two-way, pixels"]["chance"] == 0.5
    named = by_name.pop("class, as answered")
    assert set(named["scores"]) == {*controls, "classifier + prompt", "nearest training image"}
    assert named["chance"] == 0.5
    assert all(set(entry["scores"]) == set(result["sources"]) for entry in by_name.values())
    pixels = by_name["PSNR, dB"]["scores"]
    assert pixels[ceilings[0]]["estimate"] > max(pixels[name]["estimate"] for name in nothing)
    assert "- every score is the mean over the 2 images of a trial; none of them was chosen" in said
    assert re.search(r"- 6 of \d+ trials, drawn at random with seed 0", said)
    page = (tmp_path / "scores" / "images-test.html").read_text()
    assert "Model minus each, paired" in page
    assert page.count('class="seen"') == 6
    assert "test split is scored for the first time" in said
    assert "two-way within class, pixels: model 0." in said
    assert set(result["of_sources"]) == set(result["sources"]) - {"model"}
    assert cli.main([*words[:2], "--classifier", ""]) == 2
    assert cli.main([*words[:2], "--probe"]) == 2
    assert cli.main([*words[:2], "--windows", "3"]) == 2
    assert cli.main([*words[:2], "--prompt", "a dog"]) == 2
    assert "does not name the class; put {label} where it belongs" in capsys.readouterr().err
    assert cli.main([*words[:2], "--prompt", "a {dog}"]) == 2


@pytest.mark.long
def test_reports_how_often_the_test_split_was_scored(trained, tmp_path, capsys):
    """Never before, once before; and images that training showed are no test."""
    from dreamjax.cli import main as cli

    run = shutil.copytree(trained[1], tmp_path / "run")
    (run / "test_reads.jsonl").unlink(missing_ok=True)
    words = ["evaluate", str(run), "--steps", "2", "--sampler", "ddim", "--guidance", "1", "--samples", "1"]
    for name, told in (("first", "scored for the first time"), ("again", "was scored once before")):
        assert cli.main([*words, "--trials", "2", "--out", str(tmp_path / name)]) == 0
        assert told in capsys.readouterr().out
    assert cli.main([*words, "--trials", "1", "--split", "train", "--out", str(tmp_path / "one")]) == 0
    assert "1 image that it was trained on" in capsys.readouterr().out


def test_the_generate_command_takes_a_run(trained, tmp_path, capsys):
    from dreamjax.cli import main as cli

    words = ["generate", "--checkpoint", str(trained[1]), "--trials", "2", "--steps", "2", "--sampler", "ddim"]
    assert cli.main([*words, "--out", str(tmp_path / "out")]) == 0
    assert "2 images of 16 x 16 from 2 of" in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "out" / "trials.jsonl").read_text().splitlines()]
    assert not any(row["trained_on"] for row in rows)
    page = (tmp_path / "out" / "gallery.html").read_text()
    assert "2 of " in page
    assert "drawn at random" in page
    assert cli.main([*words, "--split", "train", "--out", str(tmp_path / "trained")]) == 0
    assert "2 of these trials are of images that training showed" in capsys.readouterr().err
    assert ", trained on" in (tmp_path / "trained" / "gallery.html").read_text()
    for more, told in (
        (["--prompt", "a"], "--prompt would have no effect with --checkpoint"),
        (["--split", "tset"], "invalid choice"),
        (["--height", "8", "--width", "16"], "are not square"),
    ):
        assert cli.main([*words, *more, "--out", str(tmp_path / "other")]) == 2
        assert told in capsys.readouterr().err
    assert cli.main(["generate", "--trials", "2", "--out", str(tmp_path / "other")]) == 2
    assert "--trials would do nothing without --checkpoint" in capsys.readouterr().err


def test_another_trial_is_one_of_another_image():
    rng = np.random.default_rng(0)
    seen = np.repeat(np.arange(10), 4)
    order = image_sources.elsewhere(seen, rng)
    assert sorted(order) == list(range(40))
    assert (seen[order] != seen).all()


def test_an_image_depends_on_its_trial_and_not_on_the_others(trained):
    generator = TrialGenerator.open(opening.open_run(trained[1]))
    trials = generator.trials("test")
    index = np.arange(4, dtype=np.uint64)
    rows = trials.windows.read(trials.record[:4], index)
    together = generator.conditions(rows)
    assert set(together) == {"context", "time_offset", "embedding"}
    alone = generator.conditions({name: array[2:3] for name, array in rows.items()})
    assert parity.difference(alone["context"][0], together["context"][2]) < 1e-5
    assert parity.difference(together["context"][1], together["context"][2]) > 1e-3


@pytest.mark.long
def test_table_of_one_trial_reports_missing_metrics(trained, tmp_path, capsys):
    from dreamjax.cli import main as cli

    words = ["evaluate", str(trained[1]), "--steps", "1", "--sampler", "ddim", "--guidance", "1", "--trials", "1"]
    assert cli.main([*words, "--out", str(tmp_path / "one")]) == 0
    said = capsys.readouterr()
    assert "Warning" not in said.err
    assert "too few images were seen in these trials for two-way, pixels" in said.out
    assert "in all of these trials the same image was seen" in said.out
    assert "in which 1 person saw 1 image that training never showed" in said.out


def test_scores_are_not_lost_to_those_of_fewer_trials(trained, tmp_path, capsys):
    """Which is said before anything is made, as is a place that cannot be written."""
    from dreamjax.cli import main as cli

    run = shutil.copytree(trained[1], tmp_path / "run")
    kept = run / "evaluation" / "images-test.json"
    kept.parent.mkdir(exist_ok=True)
    kept.write_text(json.dumps({"step": opening.open_run(run).step, "trials": 2, "warnings": []}))
    before = kept.read_text()
    (tmp_path / "a_file").write_text("")
    words = ["evaluate", str(run), "--steps", "1", "--sampler", "ddim", "--guidance", "1", "--trials", "1"]
    for more, told in (
        ([], "holds the scores of 2 trials of split test, and these would be of 1: name another folder with --out"),
        (["--out", str(tmp_path / "a_file" / "x")], "a_file is not a folder; choose another path"),
    ):
        assert cli.main([*words, *more]) == 2
        assert told in capsys.readouterr().err
    assert kept.read_text() == before
