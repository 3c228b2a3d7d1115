"""Responses without a time axis: a record per image or repeat, with the image that was shown."""

import json
import zipfile

import numpy as np
import pytest

from dreamjax.cli import main
from dreamjax.errors import UserError
from dreamjax.signals.datasets import pipeline, records
from dreamjax.signals.datasets.data_config import DataConfig
from dreamjax.signals.preparation.prepare import PrepareOptions, prepare
from dreamjax.signals.recordings.corpora import responses
from dreamjax.signals.recordings.identity import SplitRequest

UNITS, IMAGES = 3, 10
VALUES = np.random.default_rng(0).gamma(2, size=(UNITS, IMAGES))


def write(folder, values=VALUES, name="responses_7.npy", names=None):
    """A file of responses with an archive of images; of this the names are enough."""
    folder.mkdir(exist_ok=True)
    np.save(folder / name, values)
    with zipfile.ZipFile(folder / "images_7.zip", "w") as archive:
        for image in names or [f"image{i + 1}.jpg" for i in range(IMAGES)][::-1]:
            archive.writestr(image, b"")
    return folder / name


def made(path, out, **options):
    return prepare([path], out, None, PrepareOptions(workers=0, **options))


def windows(out, *splits):
    return [window for split in splits for window in records.read_windows(out, split)]


def test_every_image_becomes_one_exact_sample(tmp_path):
    result = made(write(tmp_path / "in"), tmp_path / "out")
    assert result.splits == {"train": 8, "test": 2}
    every = windows(tmp_path / "out", "train", "test")
    assert sorted(w.stimulus for w in every) == sorted(f"image{i + 1}.jpg" for i in range(IMAGES))
    for window in every:
        column = int(window.stimulus[5:].removesuffix(".jpg")) - 1
        np.testing.assert_array_equal(window.signal, VALUES[:, [column]].astype(np.float32))
        assert (window.modality, window.unit, window.label) == ("spikes", "spikes", "")
    assert records.load_dataset(tmp_path / "out")["settings"]["tmin"] == 0


def test_a_folder_with_one_file_is_that_file(tmp_path):
    made(write(tmp_path / "in").parent, tmp_path / "out")
    assert len(windows(tmp_path / "out", "train")) == 8


@pytest.mark.parametrize("shares", [(0.5, 0.0, 0.5), (0.6, 0.2, 0.2)])
def test_shares_count_images(tmp_path, shares):
    splits = SplitRequest(fractions=dict(zip(("train", "val", "test"), shares, strict=True)))
    result = made(write(tmp_path / "in"), tmp_path / "out", splits=splits)
    assert result.splits == {
        name: round(share * IMAGES) for name, share in zip(("train", "val", "test"), shares, strict=True) if share
    }


def test_repeats_are_single_records_and_absent_ones_none(tmp_path):
    raw = np.random.default_rng(1).poisson(3, (UNITS, IMAGES, 4)).astype(float)
    raw[:, 2, 1:] = np.nan
    raw[0, 5, 3] = np.nan  # of one unit alone: cannot be stored
    result = made(write(tmp_path / "in", raw, "responses_raw_7.npy"), tmp_path / "out")
    assert result.trials == IMAGES * 4 - 3 - 1
    assert result.rejected == {"samples are not finite": 1}
    train, test = ({w.stimulus for w in windows(tmp_path / "out", split)} for split in ("train", "test"))
    assert not train & test
    assert [w.signal[0, 0] for w in windows(tmp_path / "out", "train", "test") if w.stimulus == "image3.jpg"] == [
        raw[0, 2, 0]
    ]


def test_the_sidecar_names_modality_unit_and_subject(tmp_path):
    path = write(tmp_path / "in")
    facts = {"modality": "fmri", "unit": "SD", "subject": "one", "ch_names": ["a", "b", "c"]}
    path.with_suffix(".json").write_text(json.dumps(facts))
    made(path, tmp_path / "out")
    window = windows(tmp_path / "out", "test")[0]
    assert (window.modality, window.unit, window.ch_names) == ("fmri", "SD", ("a", "b", "c"))
    path.with_suffix(".json").write_text('{"modalty": "fmri"}')
    with pytest.raises(UserError, match="unknown key 'modalty'"):
        made(path, tmp_path / "other")


def test_folders_of_images_are_their_classes(tmp_path):
    path = write(tmp_path / "in")
    (path.parent / "images_7.zip").unlink()
    for i in range(IMAGES):
        image = path.parent / "images" / f"class{i % 2}" / f"{i}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(b"")
    opened = responses.open_trials(str(path))
    assert opened.images[:2] == ("class0/0.png", "class0/2.png")
    assert [opened.labels[i] for i in opened.label] == ["class0"] * 5 + ["class1"] * 5
    with pytest.raises(UserError, match="no trial is in split train; 10 were left out"):
        made(path, tmp_path / "out")


def test_models_read_windows_of_one_sample(tmp_path):
    made(write(tmp_path / "in"), tmp_path / "out")
    config = DataConfig(path=(str(tmp_path / "out"),), montage="own", samples=1, sfreq=1.0, scaling="robust", clip=0.0)
    rows = pipeline.WindowExamples(config, "test", seed=0, training=False).rows(np.arange(2, dtype=np.uint64))
    first = windows(tmp_path / "out", "test")[0]
    np.testing.assert_allclose(rows["signal"][0], first.signal / first.scale, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": VALUES.T}, "3 images by its shape"),
        ({"values": VALUES[0]}, r"has shape \(10,\)"),
        ({"values": np.array([[print] * IMAGES], object)}, "and type object"),
        ({"names": ["../x.jpg"]}, "would lie outside of its folder"),
        ({"names": ["a/../../x.jpg"]}, "would lie outside of its folder"),
    ],
)
def test_refuses_what_is_no_file_of_responses(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        made(write(tmp_path / "in", **change), tmp_path / "out")


def test_reports_missing_images(tmp_path):
    path = write(tmp_path / "in")
    (path.parent / "images_7.zip").rename(tmp_path / "elsewhere.zip")
    with pytest.raises(UserError, match=r"put them next to it, as the folder images_7 or the archive images_7\.zip"):
        made(path, tmp_path / "out")
    assert made(path, tmp_path / "out", stimuli=str(tmp_path / "elsewhere.zip")).trials == IMAGES


def test_refuses_options_without_effect(tmp_path, capsys):
    path = write(tmp_path / "in")
    assert main.main(["prepare", str(path), "--out", str(tmp_path / "out"), "--sfreq", "100"]) == 2
    assert "--sfreq would have no effect with the trials of" in capsys.readouterr().err
    with pytest.raises(UserError, match="split by image, not by class"):
        made(path, tmp_path / "out", splits=SplitRequest(by="class"))


def test_reads_macaque_v4(real_data, tmp_path):
    folder = real_data / "responses" / "macaque_v4"
    result = made(folder / "responses_210225.npy", tmp_path / "out")
    assert result.splits == {"train": 960, "test": 240}
    stored = np.load(folder / "responses_210225.npy")
    for window in windows(tmp_path / "out", "test"):
        np.testing.assert_array_equal(window.signal[:, 0], stored[:, int(window.stimulus[5:9]) - 1].astype(np.float32))
    with pytest.raises(UserError, match=r"3 files of responses .* give one of them"):
        made(folder, tmp_path / "other")
