"""Every real recording: opens with its known facts, or is listed with a reason."""

import numpy as np
import pytest
from edf_files import write_edf

from dreamjax.errors import UserError
from dreamjax.signals.recordings.opening import find_sources, open_recording, recording_from_raw, survey

pytest.importorskip("mne")

# path: (format, sfreq in Hz, samples, EEG channels, EEG channels with a position), from the corpora's own descriptions
FACTS = {
    "eegmat/Subject00_1.edf": ("edf", 500, 91000, 19, 19),
    "eegmat/Subject00_2.edf": ("edf", 500, 31000, 19, 19),
    "muse/N170/subject1/session1/data_2017-09-13-15.30.01.csv": ("muse", 256, 30732, 4, 4),
    "muse/SSVEP/subject1/session1/data_2017-09-14-21.25.17.csv": ("muse", 256, 30720, 4, 4),
    "uci-visual/co2a0000364/co2a0000364.rd.000.gz": ("uci", 256, 30 * 256, 61, 61),
    "eeglab/eeglab_data.set": ("eeglab", 128, 30504, 30, 30),
    "eeglab/test_data/test.bdf": ("bdf", 256, 15360, 16, 16),
    "eeglab/test_data/test.edf": ("edf", 256, 15360, 16, 16),
    "eeglab/test_data/test.cnt": ("cnt", 200, 25605, 0, 0),
    "eeglab/test_data/test.xdf": ("xdf", 1000, 9520, 8, 0),
    "muse/N170-other-people/subject2/data_2018-04-15-21.18.48.csv.gz": ("muse", 256, 30732, 4, 4),
    "eeglab/test_data/testbva.vhdr": ("brainvision", 200, 2112, 29, 29),
    "ssvep-exo/record-[2012.07.06-19.02.16].gdf": ("gdf", 256, 57024, 8, 8),
    "ssvep-exo/record-[2012.07.06-19.02.16]_raw.fif": ("fif", 256, 57024, 8, 8),
    "formats/mne-testing-data/EGI/test_egi_multiepoch_eprime.mff": ("egi", 250, 4006, 257, 257),
    "formats/mne-testing-data/EGI/test_egi_pns.mff": ("egi", 250, 3488, 257, 257),
    "formats/mne-testing-data/CNT/scan41_short.cnt": ("cnt", 400, 3070, 125, 0),
    "formats/mne-testing-data/CNT/test_CNT_events_mne_JWoess_clipped.cnt": ("cnt", 1000, 90000, 2, 2),
    "formats/mne-testing-data/NihonKohden/MB0400FU.EEG": ("nihon", 200, 5800, 19, 19),
    "formats/mne-testing-data/NihonKohden/MB0400FU.EDF": ("edf", 200, 5800, 19, 19),
    "formats/mne-testing-data/antio/CA_208/test_CA_208.cnt": ("ant", 1000, 4025, 61, 61),
    "formats/mne-testing-data/antio/CA_208/test_CA_208.vhdr": ("brainvision", 1000, 4025, 61, 61),
    "formats/mne-testing-data/eximia/test_eximia.nxe": ("eximia", 1450, 15678, 60, 60),
    "formats/mne-testing-data/Brainvision/test_NO.vhdr": ("brainvision", 5000, 2238, 63, 0),
    "formats/mne-testing-data/BDF/multiple_annotation_chans.bdf": ("bdf", 125, 30875, 10, 10),
    "formats/mne-testing-data/EDF/test_edf_overlapping_annotations.edf": ("edf", 128, 15872, 64, 64),
    "formats/mne-python/mne/io/edf/tests/data/test.bdf": ("bdf", 2048, 2048, 64, 64),
    "formats/mne-python/mne/io/brainvision/tests/data/test.vhdr": ("brainvision", 1000, 7900, 26, 26),
    "formats/openbci/OpenBCI_GUI/data/EEG_Sample_Data/OpenBCI_GUI-v6-blinks-jawClench-alpha.txt": (
        "openbci", 250, 22490, 8, 0,
    ),
    "formats/emotiv-eye-state/EEG Eye State.arff": ("arff", 128, 14980, 14, 14),
    "formats/emotiv-insight/Datasets/1.Baseline.zip": ("emotiv", 128, 5091, 5, 5),
}  # fmt: skip


@pytest.mark.parametrize("name", FACTS)
def test_a_real_recording_opens_with_its_known_facts(real_eeg, name):
    recording = open_recording(real_eeg / name)
    eeg = [i for i, kind in enumerate(recording.sensor_kind) if kind == "eeg"]
    placed = int(np.isfinite(recording.xyz[eeg]).all(axis=1).sum())
    facts = (recording.format, recording.sfreq, recording.n_samples, len(eeg), placed)
    assert facts == FACTS[name]
    assert len(set(recording.ch_names)) == len(recording.ch_names)
    piece = recording.read(recording.n_samples // 2, recording.n_samples // 2 + 50, eeg)
    assert piece.shape == (len(eeg), 50)
    assert piece.dtype == np.float64
    starts = [a for a, b in recording.segments if not 0 <= a < b <= recording.n_samples]
    assert not starts


def test_every_file_opens_or_is_listed_with_its_reason(real_eeg):
    """Of 89 recordings two do not open; every other file is a companion of one."""
    sources, ignored = survey([real_eeg])
    refused = {}
    for source in sources:
        try:
            open_recording(source)
        except UserError as e:
            refused[source.path.rsplit("/", 1)[1]] = str(e)
    assert sorted(refused) == ["testmff.mff", "testmusemonitor.csv"]
    assert all("\n" not in sentence for sentence in refused.values())
    assert [item.path for item in ignored if not item.companion] == []
    assert len(sources) == 24 + 10 + 10 + 8 + 3 + 10 + 1 + 1 + 8 + 14  # by folder: eegmat, muse, uci, eeglab, …
    listed = {s.path for s in sources} | {item.path for item in ignored}
    missing = [
        p for p in real_eeg.rglob("*")
        if p.is_file() and str(p) not in listed and ".mff" not in str(p) and "uci-visual" not in str(p)
    ]  # fmt: skip
    assert not missing


def test_subjects_sessions_licences_and_conditions_of_known_corpora(real_eeg):
    by_name = {s.name.removeprefix(str(real_eeg)): s for s in find_sources([real_eeg])}
    arithmetic = by_name["/eegmat/Subject07_2.edf"]
    assert (arithmetic.dataset, arithmetic.subject, arithmetic.session) == ("eegmat", "Subject07", "2")
    assert arithmetic.licence == "ODC-By-1.0"
    recording = open_recording(arithmetic)
    assert recording.segment_labels == ("arithmetic",)
    assert dict(zip(recording.ch_names, recording.sensor_kind, strict=True)) | {"A2-A1": "ref", "ECG": "ecg"} == dict(
        zip(recording.ch_names, recording.sensor_kind, strict=True)
    )
    muse = by_name["/muse/N170/subject1/session1/data_2017-09-13-15.30.01.csv"]
    assert (muse.dataset, muse.subject, muse.session) == ("muse-n170", "1", "1")
    trials = [s for s in by_name.values() if s.dataset == "uci-visual"]
    assert len({s.subject for s in trials}) == len(trials) == 10


def test_trials_of_the_uci_database_are_segments_with_labels(real_eeg):
    recording = open_recording(real_eeg / "uci-visual/co2c0000337/co2c0000337.rd.073.gz")
    assert recording.precut
    assert len(recording.segments) == len(recording.segment_labels) == 30
    assert sorted(set(recording.segment_labels)) == ["S1_obj", "S2_match", "S2_nomatch"]
    types = dict(zip(recording.ch_names, recording.sensor_kind, strict=True))
    assert (types["X"], types["Y"], types["nd"]) == ("eog", "eog", "misc")
    names = sorted(p.name for p in (real_eeg / "uci-visual/co2c0000337").iterdir())
    trial = names.index("co2c0000337.rd.073.gz")
    first = recording.read(*recording.segments[trial])[recording.ch_names.index("Fp1"), :4]
    np.testing.assert_allclose(first, [-6.755, -9.196, -7.731, -2.360], atol=1e-3)  # lines 6 to 9 of the file


def test_a_corpus_with_wrong_units_agrees_between_its_two_formats(real_eeg):
    """GDF and FIF hold the same session with headers a factor of 10⁶ apart; after the override they agree."""
    gdf = open_recording(real_eeg / "ssvep-exo/record-[2012.07.06-19.02.16].gdf")
    fif = open_recording(real_eeg / "ssvep-exo/record-[2012.07.06-19.02.16]_raw.fif")
    a, b = gdf.read(5000, 9000), fif.read(5000, 9000)
    np.testing.assert_allclose(a, b, atol=1e-3)
    assert 1 < np.median(a.std(axis=1)) < 100  # µV
    assert any("unit override" in note for note in gdf.notes)


def test_no_other_file_is_ever_rescaled(real_eeg):
    """EGI and eximia amplitudes are implausible, and stay so: quality control is to say it."""
    eximia = open_recording(real_eeg / "formats/mne-testing-data/eximia/test_eximia.nxe")
    assert not any("override" in note for note in eximia.notes)
    assert np.median(eximia.read(0, 4000).std(axis=1)) > 1e6
    override = open_recording(real_eeg / "formats/mne-testing-data/eximia/test_eximia.nxe", unit_scale=1e-6)
    np.testing.assert_allclose(override.read(0, 10), eximia.read(0, 10) * 1e-6)


def test_skipped_acquisition_belongs_to_no_segment(real_eeg):
    """MNE annotates the EGI file's pause as BAD_ACQ_SKIP from 1.344 to 1.804 s."""
    recording = open_recording(real_eeg / "formats/mne-testing-data/EGI/test_egi_multiepoch_eprime.mff")
    assert recording.segments == ((0, 336), (451, 4006))


def test_the_two_exports_of_one_ant_recording_are_equal(real_eeg):
    folder = real_eeg / "formats/mne-testing-data/antio/CA_208"
    ant, vision = open_recording(folder / "test_CA_208.cnt"), open_recording(folder / "test_CA_208.vhdr")
    assert ant.ch_names[:60] == vision.ch_names[:60]
    np.testing.assert_allclose(ant.read(0, 4000, range(60)), vision.read(0, 4000, range(60)), rtol=1e-4, atol=0.1)


def test_a_neuroscan_file_never_reaches_the_ant_reader(tmp_path):
    """ANT's reader crashes the process on one; a .cnt of neither kind is named as such."""
    (tmp_path / "a.cnt").write_bytes(b"Version 3.0" + bytes(2000))
    (tmp_path / "b.cnt").write_bytes(b"something else" + bytes(2000))
    sources, ignored = survey([tmp_path])
    assert [s.reader for s in sources] == ["cnt"]
    assert "neither a Neuroscan nor an ANT" in ignored[0].reason
    with pytest.raises(UserError, match="its header gives"):
        open_recording(sources[0])


def test_companions_are_not_errors(tmp_path):
    for name in ("LICENSE", "README.md", "a.vmrk", "a.eeg", "b.fdt", "x-eve.fif", "notes.pdf", "sub-1_channels.tsv"):
        (tmp_path / name).write_bytes(b"text")
    (tmp_path / "odd.foo").write_bytes(b"?")
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    sources, ignored = survey([tmp_path])
    assert sources == []
    assert [i.path.rsplit("/", 1)[1] for i in ignored if not i.companion] == ["odd.foo", "table.csv"]
    with pytest.raises(UserError, match="no recording found"):
        find_sources([tmp_path])


def test_subject_patterns(tmp_path):
    (tmp_path / "grp").mkdir()
    digital = np.zeros((2, 256), int)
    for name in ("grp/VP07_rest.edf", "grp/VP08_rest.edf"):
        write_edf(tmp_path / name, digital)
    assert [s.subject for s in find_sources([tmp_path])] == ["07", "08"]
    found = find_sources([tmp_path], subject_pattern=r"VP(\d+)", dataset="lab", licence="CC-BY-4.0")
    assert [(s.subject, s.dataset, s.licence) for s in found] == [
        ("07", "lab", "CC-BY-4.0"),
        ("08", "lab", "CC-BY-4.0"),
    ]
    with pytest.raises(UserError, match="finds no group"):
        find_sources([tmp_path], subject_pattern=r"S(\d+)")


def test_folder_called_subjects_is_not_a_subject(tmp_path):
    names = ("subjects/anna_rest.edf", "subjects/sub-02_rest.edf", "subjects/subject3/a.edf", "Patients/ben.edf")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_edf(tmp_path / name, np.zeros((2, 256), int))
    found = {s.path.removeprefix(f"{tmp_path}/"): s.subject for s in find_sources([tmp_path])}
    assert [found[name] for name in names] == ["unknown", "02", "3", "unknown"]


def test_any_raw_of_mne_becomes_a_recording():
    """In volts inside MNE, µV here; a BAD span and an EDGE cut the segments; the ECG keeps its type."""
    import mne

    info = mne.create_info(["Fp1", "T3", "heart", "STI"], 100.0, ["eeg", "eeg", "ecg", "stim"])
    data = np.random.default_rng(0).normal(size=(4, 1000)) * 1e-5
    data[3] = 0
    data[3, 250:260] = 7
    raw = mne.io.RawArray(data, info, verbose="ERROR")
    raw.set_annotations(mne.Annotations([1.0, 5.0], [2.0, 0.0], ["BAD_blink", "EDGE boundary"]))
    recording = recording_from_raw(raw, subject="s", dataset="mine", licence="MIT")
    assert recording.ch_names == ("Fp1", "T7", "heart")
    assert recording.sensor_kind == ("eeg", "eeg", "ecg")
    assert recording.segments == ((0, 100), (300, 500), (500, 1000))
    np.testing.assert_allclose(recording.read(10, 60), data[:3, 10:60] * 1e6)
    assert [(e.sample, e.code) for e in recording.events] == [(250, "7")]


def test_a_path_that_does_not_exist():
    with pytest.raises(UserError, match="no such file"):
        open_recording("/nowhere/x.edf")
    with pytest.raises(UserError, match="no such file"):
        find_sources(["/nowhere"])
