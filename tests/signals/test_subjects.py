"""Whose recording it is: never one person under two ids, and unknown where nothing says so."""

import logging

import numpy as np
import pytest
from edf_files import write_edf
from recorded import noise

from dreamjax.console import log
from dreamjax.errors import UserError
from dreamjax.signals.recordings.corpora.recording_corpora import corpus_of
from dreamjax.signals.recordings.identity import UNKNOWN
from dreamjax.signals.recordings.opening import find_sources


def subjects(tmp_path, *names, given=None, **options):
    """{file below tmp_path: subject}; the files are empty, which their formats do not need to be recognised."""
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    paths = [tmp_path / g for g in given] if given else [tmp_path]
    return {s.path.removeprefix(f"{tmp_path}/"): s.subject for s in find_sources(paths, **options)}


def test_equal_file_names_in_folders_of_persons_are_different_persons(tmp_path):
    found = subjects(tmp_path, "anna/rest.edf", "anna/task.edf", "ben/rest.edf", "ben/task.edf")
    assert found == {"anna/rest.edf": "anna", "anna/task.edf": "anna", "ben/rest.edf": "ben", "ben/task.edf": "ben"}


def test_the_files_of_a_persons_folder_are_one_person(tmp_path):
    """Numbered runs, below the folder and in folders of sessions, stay together: a person in two splits is a leak."""
    names = ("raw/anna/rest1.edf", "raw/anna/rest2.edf", "raw/anna/day2/rest3.edf", "raw/ben/x.bdf", "raw/ben/y.bdf")
    found = subjects(tmp_path, *names)
    assert [found[name] for name in names] == ["anna", "anna", "anna", "ben", "ben"]


@pytest.mark.parametrize("folders", [("rest", "task"), ("day1", "day 2"), ("groupA", "groupB"), ("edf", "ses-02")])
def test_folders_of_conditions_sessions_and_groups_are_not_subjects(tmp_path, folders):
    names = [f"{folder}/{person}.edf" for folder in folders for person in ("anna", "ben")]
    assert list(subjects(tmp_path, *names).values()) == ["anna", "ben"] * 2


def test_below_folders_of_conditions_persons_are_found(tmp_path):
    names = [f"{condition}/{person}/1.edf" for condition in ("rest", "task") for person in ("anna", "ben")]
    assert list(subjects(tmp_path, *names).values()) == ["anna", "ben"] * 2


def test_a_file_name_alone_does_not_make_a_person(tmp_path):
    """Six runs of one person are not six people; a code such as VP07 and a name that recurs by condition are ids."""
    assert set(subjects(tmp_path, "a/run1.edf", "a/run2.edf", "a/anna.edf").values()) == {UNKNOWN}
    assert list(subjects(tmp_path, "grp/VP07_rest.edf", "grp/VP08_rest.edf", given=["grp"]).values()) == ["07", "08"]
    assert set(subjects(tmp_path, "anna.edf", "more/anna.edf", given=["anna.edf", "more"]).values()) == {"anna"}


@pytest.mark.parametrize("given", [["anna", "ben"], ["anna/rest.edf", "ben/rest.edf"]])
def test_folders_and_files_given_one_by_one(tmp_path, given):
    assert list(subjects(tmp_path, "anna/rest.edf", "ben/rest.edf", given=given).values()) == ["anna", "ben"]


def test_two_studies_given_one_by_one_are_not_two_persons(tmp_path):
    names = ["faces/VP1.edf", "faces/VP2.edf", "words/VP3.edf"]
    assert list(subjects(tmp_path, *names, given=["faces", "words"]).values()) == ["1", "2", "3"]


def test_a_word_or_a_pattern_goes_before_the_folder(tmp_path):
    names = ("anna/sub-01.edf", "anna/sub-02.edf", "ben/x.edf")
    assert list(subjects(tmp_path, *names).values()) == ["01", "02", UNKNOWN]
    assert list(subjects(tmp_path, *names, subject_pattern="(a|b)[a-z]*/[^/]*$").values()) == ["a", "a", "b"]


def test_reports_once_how_subjects_were_read_and_how_to_change_it(tmp_path, caplog):
    with caplog.at_level(logging.INFO, log.name):
        subjects(tmp_path, "anna/a.edf", "anna/b.edf", "ben/a.edf", "stray.edf", "stray2.edf")
    said = [r.getMessage() for r in caplog.records if "subject" in r.getMessage()]
    assert len(said) == 2
    assert f"3 recordings below {tmp_path} have no subject in their path" in said[0]
    assert "the name of its folder is taken as the subject (2 subjects); --subject-pattern" in said[0]
    assert "2 recordings" in said[1]
    assert "are unknown: they are split by recording, so that one person may be in two splits" in said[1]


@pytest.mark.parametrize(
    ("given", "name", "subject"),
    [
        ("P300/subject1", "P300/subject1/run1.edf", "1"),  # the argument names the person
        ("P300/subject1/run1.edf", "P300/subject1/run1.edf", "1"),
        ("sub-03/ses-1/eeg", "sub-03/ses-1/eeg/a.edf", "03"),
        ("Subject_12", "Subject_12/day1/a.edf", "12"),
        ("x", "x/sub01ses02.edf", "01"),  # not another person in every session
        ("x", "x/sub-anna_rest.edf", "anna"),
        ("x", "x/sub-NDARAA117NEJ_task.edf", "NDARAA117NEJ"),
        ("x", "x/2019_subject3_rest.edf", "3"),
        ("01_subject_in_root", "01_subject_in_root/a.edf", UNKNOWN),
        ("subjects2", "subjects2/a.edf", UNKNOWN),
        ("patient_data", "patient_data/a.edf", UNKNOWN),
        ("subject-level", "subject-level/a.edf", UNKNOWN),
    ],
)
def test_a_word_in_the_path_as_given_names_the_subject(tmp_path, given, name, subject):
    assert list(subjects(tmp_path, name, given=[given]).values()) == [subject]


def test_the_folder_that_prepare_was_started_in_does_not_matter(tmp_path, monkeypatch):
    (tmp_path / "subject1").mkdir()
    (tmp_path / "subject1" / "run1.edf").touch()
    for folder, path in ((".", "subject1"), ("subject1", "."), ("subject1", "run1.edf"), ("/", tmp_path / "subject1")):
        monkeypatch.chdir(tmp_path / folder)
        assert [s.subject for s in find_sources([path])] == ["1"]


def test_the_pattern_sees_the_path_as_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study" / "P7").mkdir(parents=True)
    (tmp_path / "study" / "P7" / "run1.edf").touch()
    given = {"study/P7/run1.edf": r"^study/P(\d)", "study": r"P(\d)/", "study/P7": r"P(\d)/"}
    assert {find_sources([path], subject_pattern=pattern)[0].subject for path, pattern in given.items()} == {"7"}
    with pytest.raises(UserError, match=r"finds no group in 'study/P7/run1\.edf'"):
        find_sources(["study"], subject_pattern="S([0-9])")


@pytest.mark.parametrize("tasks", [("N170", "SSVEP"), ("oddball", "resting_state"), ("motor imagery", "P300_2")])
def test_folders_of_tasks_are_not_persons(tmp_path, tasks):
    runs = [f"{task}/run{i}.edf" for task in tasks for i in (1, 2)]
    assert set(subjects(tmp_path, *runs).values()) == {UNKNOWN}
    people = [f"study/{task}/{person}/a.edf" for task in tasks for person in ("anna", "ben")]
    assert list(subjects(tmp_path, *people, given=["study"]).values()) == ["anna", "ben"] * 2


def test_where_two_levels_may_be_of_persons_the_subjects_are_unknown(tmp_path):
    names = [f"{task}/{person}.edf" for task in ("juggling", "knitting") for person in ("anna", "ben")]
    assert set(subjects(tmp_path, *names).values()) == {UNKNOWN}


def test_reads_participants_tsv(tmp_path):
    (tmp_path / "participants.tsv").write_text("participant_id\tage\nsub-A7\t30\nK12\t31\n")
    names = ("A7/run1.edf", "A7/run2.edf", "B12.edf", "K12_rest.edf")
    assert list(subjects(tmp_path, *names).values()) == ["A7", "A7", UNKNOWN, "K12"]


def test_reads_the_code_in_a_header_but_no_placeholder(tmp_path):
    codes = {"a": "MCH-0234567 F 02-MAY-1951 X", "b": "MCH-0234567 X X X", "c": "X X X X", "d": "X F X Female_33yr"}
    for name, code in codes.items():
        path = write_edf(tmp_path / f"{name}.edf", np.rint(noise(2, 2) / 0.1))
        content = bytearray(path.read_bytes())
        content[8:88] = code.ljust(80).encode()
        path.write_bytes(bytes(content))
    assert [s.subject for s in find_sources([tmp_path])] == ["MCH-0234567", "MCH-0234567", UNKNOWN, UNKNOWN]


def test_reads_the_code_of_a_fif_file(tmp_path):
    mne = pytest.importorskip("mne")
    info = mne.create_info(["Cz", "Pz"], 128.0, "eeg")
    for name, code in (("one", "K7"), ("two", "0")):
        raw = mne.io.RawArray(np.zeros((2, 256)), info, verbose="error")
        raw.info["subject_info"] = {"his_id": code}
        raw.save(tmp_path / f"{name}_raw.fif", verbose="error")
    assert [(s.subject, s.subject_from) for s in find_sources([tmp_path])] == [("K7", "header"), (UNKNOWN, "")]


def test_a_patient_of_tuh_is_one_person_in_all_sessions():
    path = "/tuh_eeg/v2.0.1/edf/000/aaaaaaac/s00{0}_2002/02_tcp_le/aaaaaaac_s00{0}_t000.edf"
    corpora = [(corpus_of(path.format(i)), path.format(i)) for i in (1, 2)]
    assert {corpus.name for corpus, _ in corpora} == {"tuh-eeg"}


def test_recordings_of_one_name_differ_by_their_folders(tmp_path):
    subjects(tmp_path, "day1/rest.edf", "day2/rest.edf", "other.edf")
    assert sorted(s.place for s in find_sources([tmp_path])) == ["", "day1", "day2"]


def test_the_number_of_people_in_the_real_recordings(real_eeg):
    """12 of eegmat, 10 of UCI, 3 of muse-lsl, one each of Emotiv's; elsewhere what a header states, else unknown."""
    found = find_sources([real_eeg])
    people = {s.person for s in found if s.subject != UNKNOWN}
    assert sum(corpus == "eegmat" for corpus, _ in people) == 12
    assert sum(corpus == "uci-visual" for corpus, _ in people) == 10
    assert sum(corpus == "muse-lsl" for corpus, _ in people) == 3
    for corpus in ("emotiv-insight", "emotiv-eye-state"):
        assert sum(name == corpus for name, _ in people) == 1
    assert all(s.subject == UNKNOWN for s in found if s.dataset in ("mne-python", "openbci-sample"))


@pytest.mark.parametrize(
    "name", ["subject_run1.edf", "participant_session2.edf", "patient-day1.edf", "sub_baseline1.edf"]
)
def test_numbered_runs_and_sessions_are_not_subjects(tmp_path, name):
    assert subjects(tmp_path, name) == {name: UNKNOWN}


def test_folders_of_unknown_tasks_with_equal_ids_in_them_are_not_persons(tmp_path):
    names = [f"{task}/S{i:02d}.edf" for task in ("juggling", "knitting", "painting") for i in (1, 2, 3)]
    assert not {"juggling", "knitting", "painting"} & set(subjects(tmp_path, *names).values())


def test_the_outermost_folder_named_in_participants_tsv_is_the_subject(tmp_path):
    (tmp_path / "participants.tsv").write_text("participant_id\n1\n2\n3\nAB\n")
    names = [f"{person}/{session}/data.edf" for person in (1, 2, 3) for session in (3, 2, 1)]
    assert list(subjects(tmp_path, *names, "ab/1/data.edf").values()) == [n[0] for n in sorted(names)] + ["AB"]
