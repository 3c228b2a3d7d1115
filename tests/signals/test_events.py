"""Events: golden alignment, users' tables, what `--list-events` says, and that free text stays out."""

import json

import numpy as np
import pytest
from edf_files import tal, write_edf
from recorded import noise

from dreamjax.cli import main as cli
from dreamjax.errors import UserError
from dreamjax.signals.recordings.events import (
    StimulusChannel,
    code_of,
    in_order,
    keep_codes,
    list_events,
    sample_of,
    with_event_table,
)
from dreamjax.signals.recordings.opening import open_recording

RATES = (256, 500, 512, 1024)


@pytest.fixture
def recording(tmp_path):
    tals = [tal(r) + (tal(r + 0.5, "T1", 0.25) if r in (2, 4, 8) else b"") for r in range(10)]
    return open_recording(write_edf(tmp_path / "a.edf", np.zeros((2, 2560), int), plus="C", tals=tals))


@pytest.mark.parametrize("sfreq", RATES)
def test_a_shift_of_one_sample_shifts_every_event_by_one_sample(tmp_path, sfreq):
    """Onsets written with 6 decimals, as BIDS tools do, at every sample of two seconds."""
    path = write_edf(tmp_path / "a.edf", np.zeros((1, sfreq * 4), int), sfreq=sfreq)
    recording = open_recording(path)
    samples = np.arange(2 * sfreq)
    tables = []
    for shift in (0, 1):
        onsets = "".join(f"{(s + shift) / sfreq:.6f},0,face\n" for s in samples)
        (tmp_path / "events.csv").write_text("onset,duration,trial_type\n" + onsets)
        tables.append(np.array([e.sample for e in with_event_table(recording, tmp_path / "events.csv").events]))
    np.testing.assert_array_equal(tables[0], samples)
    np.testing.assert_array_equal(tables[1], samples + 1)


@pytest.mark.parametrize("sfreq", RATES)
def test_annotations_of_a_file_keep_their_sample(tmp_path, sfreq):
    """TALs with microseconds at odd samples, and one sample later."""
    found = []
    for shift in (0, 1):
        tals = [tal(r) + f"+{(r * sfreq + 17 + shift) / sfreq:.6f}\x14T1\x14\x00".encode() for r in range(4)]
        path = write_edf(tmp_path / f"{shift}.edf", np.zeros((1, sfreq * 4), int), sfreq=sfreq, plus="C", tals=tals)
        found.append([e.sample for e in open_recording(path).events])
    assert found[0] == [r * sfreq + 17 for r in range(4)]
    assert found[1] == [r * sfreq + 18 for r in range(4)]


def test_markers_of_brainvision_shift_with_their_position(tmp_path):
    """Mk position 101 (counted from 1) is sample 100; 102 is sample 101."""
    pytest.importorskip("mne")
    from test_fuzz_headers import VHDR, VMRK

    (tmp_path / "case.vhdr").write_bytes(VHDR)
    (tmp_path / "case.eeg").write_bytes(np.zeros((1024, 4), "<i2").tobytes())
    for position in (101, 102):
        (tmp_path / "case.vmrk").write_bytes(VMRK.replace(b",100,1,0", b",%d,1,0" % position))
        events = open_recording(tmp_path / "case.vhdr").events
        assert [e.sample for e in events] == [position - 1, 599]
        assert events[0].code == "Stimulus/S1"


def test_rounding_is_to_the_nearest_sample_and_halves_go_up():
    assert [sample_of(x / 256, 256) for x in (0.49, 0.5, 1.0, 1.5, 2.49)] == [0, 1, 1, 2, 2]


def test_a_table_without_durations_gives_points(tmp_path, recording):
    (tmp_path / "e.csv").write_text("onset,duration,trial_type\n1.0,0.5,face\n2.0,n/a,house\n")
    events = with_event_table(recording, tmp_path / "e.csv").events
    assert [(e.sample, e.code, e.duration) for e in events] == [(256, "face", 0.5), (512, "house", 0.0)]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("start,trial_type\n1,face\n", "no column onset"),
        ("onset,trial_type\n1,face\nsoon,face\n", "row 3 has the onset 'soon'"),
        ("onset,duration\n1,long\n", "row 2 has the duration 'long'"),
        (
            "onset,trial_type\n1,face\n2,face\n11.5,face\n",
            "row 4 has an onset of 11.5 s, outside the recording of 10 s",
        ),
        ("onset,trial_type\n-1,face\n", "row 2 has an onset of -1 s"),
        ("onset,trial_type\n1,face,extra\n", "row 2 has more cells"),
        ("onset,trial_type\n", "without events"),
        ("onset\nnan\n", "not times"),
    ],
)
def test_reports_the_row_of_a_bad_table(tmp_path, recording, text, sentence):
    (tmp_path / "e.csv").write_text(text)
    with pytest.raises(UserError, match=sentence) as caught:
        with_event_table(recording, tmp_path / "e.csv")
    assert "\n" not in str(caught.value)


def test_missing_images_are_named(tmp_path, recording):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/cat.png").write_bytes(b"")
    rows = "1,cat,cat.png\n2,dog,dog.png\n3,cat,cat.png\n4,elk,elk.png\n"
    (tmp_path / "e.csv").write_text("onset,trial_type,stim_file\n" + rows)
    with pytest.raises(UserError, match=r"2 of its images are not in .*: dog.png, elk.png"):
        with_event_table(recording, tmp_path / "e.csv", stimuli=tmp_path / "images")


def test_reports_absent_codes_and_those_present(tmp_path, capsys):
    tals = [tal(r) + tal(r + 0.5, "T1" if r % 2 else "T2", 0.25) for r in range(10)]
    path = write_edf(tmp_path / "Anna.edf", np.rint(noise(2, 10) / 0.1), plus="C", tals=tals)
    words = ["prepare", str(path), "--out", str(tmp_path / "out"), "--workers", "0", "--events"]
    assert cli.main([*words, "file", "--event-codes", "house", "--tmax", "0.4"]) == 2
    assert "no event of the codes 'house': it has 'T2' (5), 'T1' (5)" in capsys.readouterr().err
    assert cli.main([*words, "nowhere.csv"]) == 2
    assert "its table of events 'nowhere.csv' does not exist; check --events" in capsys.readouterr().err
    assert cli.main([*words, "file", "--tmin", "1", "--tmax", "0.5"]) == 2
    assert "tmax is 0.5 s, but it must be later than tmin, 1 s" in capsys.readouterr().err


def test_list_events(recording):
    found = list_events(recording)
    assert found["n_events"] == 3
    (code,) = found["codes"]
    assert (code["code"], code["count"], code["first"], code["duration"]) == ("T1", 3, 2.5, 0.25)
    assert code["interval"] == {"min": 2.0, "median": 3.0, "max": 4.0}
    json.dumps(found)


def test_list_events_of_real_files(real_eeg):
    """Counts from the corpora's own descriptions: 80 squares, 19 + 10 + 9 T0/T1/T2, 8 stimulations a frequency."""
    pytest.importorskip("mne")
    expected = {
        "eeglab/eeglab_data.set": {"square": 80, "rt": 74},
        "formats/mne-testing-data/EDF/test_edf_overlapping_annotations.edf": {"T0": 19, "T1": 10, "T2": 9},
        "ssvep-exo/record-[2012.07.06-19.02.16].gdf": {"rest": 8, "13Hz": 8, "21Hz": 8, "17Hz": 8},
    }
    for name, counts in expected.items():
        found = {c["code"]: c["count"] for c in list_events(open_recording(real_eeg / name))["codes"]}
        assert {code: found[code] for code in counts} == counts


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Stimulus/S  4", "Stimulus/S4"),
        ("33024", "33024"),
        ("T0", "T0"),
        ("Keyboard Response 2", "Keyboard/2"),
        *((text, None) for text in ("square", "eyes closed", "1951-05-02", "19510502", "Comment/Mr Smith", "smith")),
    ],
)
def test_what_becomes_a_code(text, code):
    assert code_of(text) == code


def test_texts_with_dates_and_names_are_not_even_offered_as_labels():
    texts = ["square", "eyes closed", "1951-05-02", "at 19510502", "Comment/Mr Smith", "smith", "x" * 65, "a\nb", "S 1"]
    notes, free_text = [], []
    events = keep_codes([(float(i), 0.0, text) for i, text in enumerate(texts)], 10.0, {"smith"}, notes, free_text)
    assert [(e.sample, e.code) for e in events] == [(80, "S1")]
    assert [(e.sample, e.code) for e in free_text] == [(0, "square"), (10, "eyes closed")]
    assert notes == ["6 annotations with names, dates or long texts dropped"]


@pytest.mark.parametrize("piece", [1, 7, 1000])
@pytest.mark.parametrize(("idle", "noted"), [(0, False), (255, True), (65280, True)])
def test_the_idle_level_of_a_stimulus_channel_is_not_an_event(piece, idle, noted):
    levels = np.array([idle, 5, idle, 7, 12, idle, 5, 0, idle, 3])
    values = np.repeat(levels, [20, 2, 30, 3, 1, 40, 2, 1, 9, 4])
    channel, notes = StimulusChannel(), []
    for start in range(0, len(values), piece):
        channel.add(values[start : start + piece])
    assert channel.changes(notes) == [(20, 5), (52, 7), (55, 12), (96, 5), (108, 3)]
    assert bool(notes) == noted


def test_codes_that_are_held_are_events_and_none_of_them_is_idle():
    channel = StimulusChannel()
    channel.add(np.repeat([1, 2, 1, 3], 25))
    assert channel.changes([]) == [(0, 1), (25, 2), (50, 1), (75, 3)]


def test_codes_are_listed_in_the_order_of_their_numbers():
    codes = ["12", "255", "5", "-1", "-10", "S10", "S9", "Stimulus/S2", "square", "a"]
    assert sorted(codes, key=in_order) == ["-10", "-1", "5", "12", "255", "S9", "S10", "Stimulus/S2", "a", "square"]


def test_a_table_may_have_decimal_commas(tmp_path, recording):
    (tmp_path / "events.csv").write_text("onset;duration;trial_type\n0,5;0,1;face\n-0,0;0;house\n")
    events = with_event_table(recording, tmp_path / "events.csv").events
    assert [(e.sample, e.duration, e.code) for e in events] == [(0, 0.0, "house"), (128, 0.1, "face")]
