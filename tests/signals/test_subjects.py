"""Who a recording is of, where no word in its path says so: never one person under two ids."""

import logging

import pytest

from dreamjax.console import log
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


def test_subjects_of_one_folder_differ_by_file_name(tmp_path):
    assert list(subjects(tmp_path, "grp/VP07_rest.edf", "grp/VP08_rest.edf").values()) == ["VP07_rest", "VP08_rest"]
    assert set(subjects(tmp_path, "anna.edf", "more/anna.edf", given=["anna.edf", "more"]).values()) == {"anna"}


@pytest.mark.parametrize("given", [["anna", "ben"], ["anna/rest.edf", "ben/rest.edf"]])
def test_folders_and_files_given_one_by_one(tmp_path, given):
    assert list(subjects(tmp_path, "anna/rest.edf", "ben/rest.edf", given=given).values()) == ["anna", "ben"]


def test_two_studies_given_one_by_one_are_not_two_persons(tmp_path):
    names = ["faces/VP1.edf", "faces/VP2.edf", "words/VP3.edf"]
    assert list(subjects(tmp_path, *names, given=["faces", "words"]).values()) == ["VP1", "VP2", "VP3"]


def test_a_word_or_a_pattern_goes_before_the_folder(tmp_path):
    names = ("anna/sub-01.edf", "anna/sub-02.edf", "ben/x.edf")
    assert list(subjects(tmp_path, *names).values()) == ["01", "02", "x"]
    assert list(subjects(tmp_path, *names, subject_pattern="^(.)").values()) == ["a", "a", "b"]


def test_reports_once_how_subjects_were_read_and_how_to_change_it(tmp_path, caplog):
    with caplog.at_level(logging.INFO, log.name):
        subjects(tmp_path, "anna/a.edf", "anna/b.edf", "ben/a.edf", "stray.edf", "stray2.edf")
    said = [r.getMessage() for r in caplog.records if "subject" in r.getMessage()]
    assert len(said) == 2
    assert f"3 recordings below {tmp_path} name no subject" in said[0]
    assert "its folder is taken as the subject (2 subjects); --subject-pattern" in said[0]
    assert "2 recordings" in said[1]
    assert "own name is taken as the subject (2 subjects)" in said[1]


def test_the_number_of_people_in_the_real_recordings(real_eeg):
    """12 of eegmat, 10 of UCI, 3 of Muse, and one each of the small corpora and of the files of MNE."""
    found = find_sources([real_eeg])
    people = {(s.dataset, s.subject) for s in found}
    assert (len(found), len(people)) == (89, 54)  # 8 recordings, 6 of them of nobody else, cannot be converted
    assert sum(corpus == "eegmat" for corpus, _ in people) == 12
    assert sum(corpus == "uci-visual" for corpus, _ in people) == 10
    assert len({s.subject for s in found if s.dataset == "emotiv-insight"}) == 1
