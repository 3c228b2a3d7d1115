"""THINGS-MEG: its BIDS folder and its epochs become records with the published splits; what is missing is named."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from dreamjax.cli.main import main
from dreamjax.errors import UserError
from dreamjax.signals.datasets.records import load_dataset, read_windows
from dreamjax.signals.preparation import things_meg_inputs
from dreamjax.signals.preparation.inputs import PrepareOptions
from dreamjax.signals.preparation.prepare import prepare
from dreamjax.signals.preparation.window_settings import EventWindows, WindowSettings
from dreamjax.signals.recordings.corpora import things_meg
from dreamjax.signals.recordings.corpora.things_meg import Shown, paired
from dreamjax.signals.recordings.identity import SplitRequest
from dreamjax.signals.simulation import things_meg_files

mne = pytest.importorskip("mne")

LAYOUT = things_meg_files.Layout(subjects=2, sessions=1, runs=2, classes=4, images_per_class=3, test_images=2,
                                 channels=6, sfreq=240.0, strength=3.0)  # fmt: skip
HERE = PrepareOptions(workers=0)
TABLE, PREPROCESSED = "sourcedata/sample_attributes_P1.csv", "derivatives/preprocessed"
RUN = "sub-BIGMEG1/ses-01/meg/sub-BIGMEG1_ses-01_task-main_run-01_meg.fif"


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("things") / "meg"
    things_meg_files.write(root, LAYOUT)
    return root


@pytest.fixture(scope="module")
def prepared(tree) -> Path:
    prepare([tree], tree.parent / "prepared", None, HERE)
    return tree.parent / "prepared"


@pytest.fixture
def one_person(tree, tmp_path) -> Path:
    """A copy of the first person's part."""
    root = tmp_path / "one"
    for name in ("sub-BIGMEG1", "sourcedata", PREPROCESSED):
        shutil.copytree(tree / name, root / name)
    (root / "sourcedata/sample_attributes_P2.csv").unlink()
    return root


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def rewrite(path: Path, change) -> None:
    things_meg.write_table(path, change(rows_of(path)))


def windows_of(folder: Path) -> dict[str, list]:
    return {split: list(read_windows(folder, split)) for split in load_dataset(folder)["splits"]}


# ------------------------------------------------------------------------------------------------------ the BIDS folder
def test_every_trial_is_in_the_split_of_its_image(tree, prepared):
    """Test images in test; other images of their concepts in removed; the rest, of no test concept, in train."""
    windows, dataset = windows_of(prepared), load_dataset(prepared)
    truth = json.loads((tree / "truth.json").read_text())["images"]
    tested = {name.split("/")[0] for name, image in truth.items() if image["test"]}
    for split, members in windows.items():
        for window in members:
            of_test = truth[window.stimulus]["test"]
            assert split == ("test" if of_test else "removed" if window.label in tested else "train")
            assert window.stimulus.startswith(f"{window.label}/")
    assert {split: len(members) for split, members in windows.items()} == {"train": 12, "test": 48, "removed": 8}
    assert dataset["splits"] == {"train": 12, "test": 48, "removed": 8}
    assert dataset["subjects"] == {"train": 2, "test": 2, "removed": 2}
    splitting = dataset["splitting"]
    assert splitting["training_sets"] == {"adapted": ["train"], "published": ["train", "removed"]}
    assert splitting["test_sets"] == {"small": ["test"], "large": ["removed"]}
    assert [splitting[f"{name}_images"] for name in ("train", "test", "removed")] == [6, 2, 4]
    assert splitting["test_image_showings"] == {"12": 4}
    assert (tree / "images" / windows["test"][0].stimulus).is_file()


def test_windows_are_those_of_the_paper_around_the_trigger(tree, prepared):
    windows, dataset = windows_of(prepared), load_dataset(prepared)
    members = [window for split in windows.values() for window in split]
    assert {window.signal.shape for window in members} == {(6, 181)}
    assert {(w.modality, w.unit, w.sfreq, *set(w.sensor_kind)) for w in members} == {("meg", "fT", 120.0, "grad_axial")}
    assert all(abs(w.signal[:, :60].mean(axis=1)).max() < 0.1 for w in members)
    tables = [rows_of(tree / f"sourcedata/sample_attributes_P{person}.csv") for person in (1, 2)]
    onsets = sorted(float(r["image_on"]) for table in tables for r in table if r["trial_type"] != "catch")
    np.testing.assert_allclose(sorted(w.start + 0.5 for w in members), onsets, atol=1e-3)
    assert (dataset["settings"]["onset"], dataset["settings"]["tmin"]) == ("trigger", -0.5)
    assert len({w.recording for w in members}) == 4
    assert dataset["mismatched_trials"] == {"total": 0, "most_in_a_run": 0, "allowed_in_a_run": 20}


def test_onsets_from_events_files_are_their_own_and_stated(one_person, tmp_path):
    """Those of the simulated files are 150 ms late, as readers of the published ones report."""
    starts = {}
    for onset in ("trigger", "events"):
        prepare([one_person], tmp_path / onset, things_meg_inputs.settings(onset), HERE)
        assert load_dataset(tmp_path / onset)["settings"]["onset"] == onset
        starts[onset] = [w.start for w in read_windows(tmp_path / onset, "test")]
    np.testing.assert_allclose(np.subtract(starts["events"], starts["trigger"]), 0.15, atol=1 / 240)
    with pytest.raises(UserError, match=r"prepared with other settings: --onset events \(now trigger\)"):
        prepare([one_person], tmp_path / "events", things_meg_inputs.settings("trigger"), HERE)


def test_people_can_be_chosen_and_other_windows(tree, tmp_path):
    settings = things_meg_inputs.settings(sfreq=60.0, tmin=-0.2, tmax=0.8)
    prepare([tree], tmp_path / "out", settings, PrepareOptions(workers=0, splits=SplitRequest(subjects=(2,))))
    window = read_windows(tmp_path / "out", "train")[0]
    assert window.signal.shape == (6, 61)
    assert load_dataset(tmp_path / "out")["totals"]["subjects"] == 1
    with pytest.raises(UserError, match=r"the folder sub-BIGMEG3 is missing; it has people 1, 2"):
        prepare([tree], tmp_path / "no", settings, PrepareOptions(splits=SplitRequest(subjects=(3,))))


def test_a_few_trials_without_a_partner_are_left_out_and_counted(one_person, tmp_path):
    rewrite(one_person / TABLE, lambda rows: [row for i, row in enumerate(rows) if i not in (3, 4, 7)])
    result = prepare([one_person], tmp_path / "out", None, HERE)
    assert load_dataset(tmp_path / "out")["mismatched_trials"]["total"] == 3
    assert result.mismatched_trials["total"] == 3
    kept = {(w.start, w.stimulus) for split in windows_of(tmp_path / "out").values() for w in split}
    wanted = {(float(r["image_on"]) - 0.5, r["image_path"].rsplit("/", 1)[1]) for r in rows_of(one_person / TABLE)
              if r["trial_type"] != "catch"}  # fmt: skip
    assert sorted((round(start, 2), name.rsplit("/", 1)[1]) for start, name in kept) == sorted(
        (round(start, 2), name) for start, name in wanted
    )


TIMES = np.cumsum(np.random.default_rng(1).uniform(1.3, 1.7, 60))
IMAGES = [Shown("a", f"a/{i}.jpg", "train", float(time)) for i, time in enumerate(TIMES)]


def test_triggers_and_rows_are_paired_by_time():
    lost_first = paired(TIMES[1:] + 7.0, IMAGES, "run")
    assert lost_first == ([(i, i + 1) for i in range(59)], 1)
    extra = paired(np.sort([*TIMES, 10.4]) + 3.0, IMAGES, "run")
    assert [row for _, row in extra[0]] == list(range(60))
    assert extra[1] == 1
    other_clock = [Shown("a", "a/b.jpg", "train", float(i)) for i in np.random.default_rng(0).uniform(0, 9e3, 60)]
    assert paired(TIMES, other_clock, "run") == ([(i, i) for i in range(60)], 0)


def test_rows_without_times_are_paired_in_order_and_catch_trials_may_lack_a_trigger():
    untimed = [Shown("a", f"a/{i}.jpg", "" if i % 2 else "train") for i in range(60)]
    assert paired(TIMES, untimed, "run") == ([(i, i) for i in range(60)], 0)
    assert paired(TIMES[::2], untimed, "run") == ([(i, 2 * i) for i in range(30)], 0)
    timed = [Shown("a", f"a/{i}.jpg", "" if i % 2 else "train", float(TIMES[i])) for i in range(60)]
    assert paired(TIMES[::2], timed, "run") == ([(i, 2 * i) for i in range(30)], 0)


@pytest.mark.parametrize("times", [TIMES[21:], TIMES[:0]])
def test_refuses_a_run_with_more_mismatches_than_are_allowed(times):
    with pytest.raises(UserError, match=rf"run: {len(times)} triggers and 60 rows of the table have .* at most 20 may"):
        paired(times, IMAGES, "run")
    assert paired(TIMES[20:], IMAGES, "run")[1] == 20


def without(name):
    return lambda root: shutil.rmtree(root / name) if (root / name).is_dir() else (root / name).unlink()


def other_type(rows):
    return [rows[0] | {"trial_type": "main"}, *rows[1:]]


def other_number(rows):
    last = max(i for i, row in enumerate(rows) if row["category_nr"])
    return [*rows[:last], rows[last] | {"category_nr": "77"}, *rows[last + 1 :]]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without(TABLE), r"sourcedata/sample_attributes_P1\.csv is missing, the table with a row for each image that"),
        (without(RUN), r"1 of 2 runs of person 1 are missing, such as .*run-01_meg\.ds, a CTF folder at 1200 Hz"),
        (lambda r: rewrite(r / TABLE, lambda rows: [{k: v for k, v in row.items() if k != "run_nr"} for row in rows]),
         r"the columns run_nr are missing"),
        (lambda r: rewrite(r / TABLE, other_type), r"row 2 has trial_type 'main', not exp, test, catch"),
        (lambda r: rewrite(r / TABLE, other_number), r"has the category_nr 77 and \d"),
        (lambda r: rewrite(r / TABLE, lambda rows: [x for x in rows if x["trial_type"] != "test"]), r"trial_type test"),
        (lambda r: (r / RUN).write_bytes(b"\0" * 100), r"1 of 2 runs cannot be read: .*MNE cannot read it as fif"),
        (lambda r: rewrite(r / TABLE, lambda rows: [*rows, *rows[-1:] * 25]), r"have \d+ trials in common"),
        (without(RUN.replace("_meg.fif", "_events.tsv")), r"_events\.tsv: the table of events of the run is missing"),
    ],
)  # fmt: skip
def test_reports_what_is_missing_or_wrong(one_person, tmp_path, damage, message):
    damage(one_person)
    with pytest.raises(UserError, match=message):
        prepare([one_person], tmp_path / "out", things_meg_inputs.settings("events"), HERE)
    assert not (tmp_path / "out").exists()


def test_a_run_may_be_a_ctf_folder(real_data, tmp_path):
    """The real recording of two trials of a second, under a run's name, with triggers written into its UPPT001."""
    source = real_data / "meg" / "CTF" / "testdata_ctf_short_discontinuous.ds"
    if not source.is_dir():
        pytest.skip(f"real MEG recordings not found at {source}")
    stem = "sub-BIGMEG1_ses-01_task-main_run-01_meg"
    folder = tmp_path / "tree" / "sub-BIGMEG1" / "ses-01" / "meg" / f"{stem}.ds"
    folder.mkdir(parents=True)
    for file in source.iterdir():
        shutil.copyfile(file, folder / file.name.replace(source.stem, stem))
    raw = mne.io.read_raw_ctf(folder, verbose="ERROR")
    channel, channels, samples = raw.ch_names.index("UPPT001"), len(raw.ch_names), 1201
    with open(folder / f"{stem}.meg4", "r+b") as file:
        for trial in range(2):
            values = np.zeros(samples, ">i4")
            values[400:410] = 64
            file.seek(8 + 4 * ((trial * channels + channel) * samples))
            file.write(values.tobytes())
    (tmp_path / "tree" / "sourcedata").mkdir()
    rows = [{"trial_type": kind, "session_nr": 1, "run_nr": 1, "category_nr": 1, "image_path": f"i/dog/dog_0{i}b.jpg"}
            for i, kind in enumerate(("exp", "test"))]  # fmt: skip
    things_meg.write_table(tmp_path / "tree" / TABLE, rows)
    prepare([tmp_path / "tree"], tmp_path / "out", things_meg_inputs.settings(tmin=-0.2, tmax=0.5), HERE)
    windows = windows_of(tmp_path / "out")
    assert {split: [(w.stimulus, w.signal.shape) for w in members] for split, members in windows.items()} == {
        "removed": [("00001_dog/dog_00b.jpg", (273, 85))],
        "test": [("00001_dog/dog_01b.jpg", (273, 85))],
    }
    assert [round((w.start + 0.2) * 1200) for name in ("removed", "test") for w in windows[name]] == [400, 1601]


# ----------------------------------------------------------------------------------------------------------- the epochs
def test_epochs_become_records_with_the_same_splits(tree, prepared, tmp_path):
    prepare([tree / PREPROCESSED], tmp_path / "out", None, HERE)
    windows, dataset = windows_of(tmp_path / "out"), load_dataset(tmp_path / "out")
    of_runs = windows_of(prepared)
    for split, members in windows.items():
        assert sorted((w.subject, w.stimulus) for w in members) == sorted(
            (w.subject, w.stimulus) for w in of_runs[split]
        )
    first = windows["test"][0]
    assert (first.signal.shape, first.sfreq, first.unit, first.modality) == ((6, 281), 200.0, "SD", "meg")
    np.testing.assert_allclose(first.xyz, of_runs["test"][0].xyz, atol=1e-6)
    assert first.ch_names == of_runs["test"][0].ch_names
    assert dataset["settings"]["tmin"] == pytest.approx(-0.1)
    assert dataset["splitting"]["dropped"] == {"a catch trial": 2}
    epochs = mne.read_epochs(tree / PREPROCESSED / "preprocessed_P1-epo.fif", verbose="ERROR")
    kept = np.flatnonzero(epochs.events[:, 2] != 999999)
    trials = sorted(
        (int(f.removeprefix("trial:")), w) for m in windows.values() for w in m for f in w.flags if ":" in f
    )
    x = epochs.get_data()[kept[0]]
    np.testing.assert_allclose(trials[0][1].signal, x, atol=np.ptp(x) / 60000)


def test_metadata_of_epochs_are_used_where_they_are_there(one_person, tmp_path):
    pandas = pytest.importorskip("pandas")
    path = one_person / PREPROCESSED / "preprocessed_P1-epo.fif"
    with mne.utils.use_log_level("ERROR"):
        epochs = mne.read_epochs(path)
        epochs.metadata = pandas.DataFrame(rows_of(one_person / TABLE))
        epochs.save(path, overwrite=True)
    for name in ("image_paths.csv", "image_concept_index.csv"):
        (one_person / PREPROCESSED / name).unlink()
    prepare([path], tmp_path / "out", None, HERE)
    assert load_dataset(tmp_path / "out")["splits"] == {"train": 6, "test": 24, "removed": 4}
    assert read_windows(tmp_path / "out", "test")[0].stimulus.startswith("0000")


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        (("image_paths.csv",), r"image_concept_index\.csv is there without image_paths\.csv"),
        (
            ("image_paths.csv", "image_concept_index.csv"),
            r"no metadata with trial_type and image_path, and image_paths",
        ),
    ],
)
def test_reports_missing_lists_of_images(one_person, tmp_path, lost, message):
    for name in lost:
        (one_person / PREPROCESSED / name).unlink()
    with pytest.raises(UserError, match=message):
        prepare([one_person / PREPROCESSED / "preprocessed_P1-epo.fif"], tmp_path / "out", None, HERE)


def test_reports_a_missing_part_of_the_epochs(one_person, tmp_path):
    path = one_person / PREPROCESSED / "preprocessed_P1-epo.fif"
    with mne.utils.use_log_level("ERROR"):
        few = mne.read_epochs(path)
        events = np.tile(few.events, (14, 1))
        events[:, 0] = np.arange(len(events))
        events[len(few) :, 2] = 999999  # catch trials
        many = mne.EpochsArray(np.tile(few.get_data(), (14, 1, 1)), few.info, events, tmin=-0.1)
        many.save(path, overwrite=True, split_size="2MB")
    prepare([path], tmp_path / "whole", None, HERE)
    sorted(path.parent.glob("*-epo-*.fif"))[0].unlink()
    with pytest.raises(UserError, match=r"P1-epo\.fif: its part preprocessed_P1-epo-\d\.fif is missing"):
        prepare([path], tmp_path / "out", None, HERE)


# -------------------------------------------------------------------------------------------------- command, simulation
def test_the_command_prints_the_onset_and_refuses_options_without_effect(tree, tmp_path, capsys):
    assert main(["prepare", str(tree), "--out", str(tmp_path / "out"), "--workers", "0", "--subject", "1"]) == 0
    assert "onsets of images: trigger (--onset); 0 trials of triggers or table" in capsys.readouterr().out
    for more, message in (
        (("--event-codes", "64"), "--event-codes"),
        (("--events", "file", "--onset", "events"), "--onset"),
    ):
        assert main(["prepare", str(tree), "--out", str(tmp_path / "no"), *more]) == 2
        assert message in capsys.readouterr().err


def test_a_tree_with_chosen_events_is_prepared_like_other_recordings(one_person, tmp_path):
    settings = WindowSettings(events=EventWindows("file", tmax=0.5))
    result = prepare([one_person / RUN], tmp_path / "out", settings, HERE)
    assert result.onset is None
    with pytest.raises(UserError, match="not the folder of THINGS-MEG"):
        prepare([one_person / RUN], tmp_path / "no", things_meg_inputs.settings(), HERE)


@pytest.mark.parametrize(("strength", "carries"), [(3.0, True), (0.0, False)])
def test_simulated_responses_carry_the_image_at_a_strength_alone(tmp_path, strength, carries):
    """The averages of one half of a test image's showings resemble those of the other half."""
    layout = things_meg_files.Layout(subjects=1, sessions=1, runs=1, classes=8, images_per_class=2, test_images=7,
                                     channels=12, sfreq=100.0, strength=strength)  # fmt: skip
    things_meg_files.write(tmp_path / "meg", layout)
    epochs = mne.read_epochs(tmp_path / "meg" / PREPROCESSED / "preprocessed_P1-epo.fif", verbose="ERROR")
    numbers, x = epochs.events[:, 2], epochs.get_data()
    tested = [number for number in np.unique(numbers) if (numbers == number).sum() == 12]
    halves = [np.stack([x[numbers == n][k::2].mean(axis=0).ravel() for n in tested]) for k in (0, 1)]
    halves = [half - half.mean(axis=0) for half in halves]
    best = (np.corrcoef(*halves)[:7, 7:].argmax(axis=1) == np.arange(7)).mean()
    assert (best > 0.8) if carries else (best < 0.6)
