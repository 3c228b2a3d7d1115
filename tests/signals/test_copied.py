"""What datasets hold twice: the recordings that no fold uses, and the subjects who count as one."""

from dreamjax.signals.datasets import records
from dreamjax.signals.datasets.copied import Copied
from dreamjax.storage import manifest


def dataset(folder, inputs, copies=()):
    """A folder that only has its dataset.json; inputs are (recording, subject, SHA-256)."""
    folder.mkdir()
    content = {"name": folder.name, "format": records.FORMAT, "splits": {}, "shards": {}}
    entries = [{"recording": r, "subject": s, "sha256": content} for r, s, content in inputs]
    manifest.write_json(folder / "dataset.json", content | {"inputs": entries, "copies": list(copies)})
    return str(folder)


def test_subjects_who_share_recordings_count_as_one(tmp_path):
    """Also one whose copy was left out by prepare, and through a third one."""
    inputs = [("r1", "anna", "1"), ("r2", "ben", "2"), ("r3", "carl", "3"), ("r4", "dora", "4")]
    copies = [
        {"recording": "r2", "subject": "ben", "of": "r1", "how": "the same signal, kept in the same split"},
        {"recording": "r9", "subject": "carl", "of": "r2", "how": "the same content, left out"},
    ]
    again = Copied.of([dataset(tmp_path / "d", inputs, copies)])
    assert again.recordings == {"r2"}
    assert {again.unit(s, r) for r, s, _ in inputs} == {"anna", "dora"}
    assert again.sharing()["carl"] == {"anna", "ben", "carl"}


def test_copies_listed_by_an_older_version_are_recognised(tmp_path):
    copies = [{"recording": "r2", "of": "r1", "how": "the same signal, kept in the same split"}]
    again = Copied.of([dataset(tmp_path / "d", [("r1", "anna", "1"), ("r2", "ben", "2")], copies)])
    assert (again.recordings, again.unit("ben", "r2")) == ({"r2"}, "anna")


def test_a_file_in_two_dataset_folders_is_one_recording(tmp_path):
    """Whatever its pseudonym; but files of published trials hold many people."""
    one = dataset(tmp_path / "one", [("r1", "anna", "1"), ("r2", "unknown", "2"), ("r3", "x", "3"), ("r4", "y", "3")])
    other = dataset(tmp_path / "other", [("q1", "a", "1"), ("q2", "unknown", "2"), ("q3", "z", "3")])
    again = Copied.of([one, other])
    assert again.recordings == {"q1", "q2"}
    assert again.unit("anna", "r1") == again.unit("a", "q1")
    assert again.unit("unknown", "r2") == again.unit("unknown", "q2")
    assert again.unit("z", "q3") == "z"


def test_a_dataset_without_copies_changes_nothing(tmp_path):
    again = Copied.of([dataset(tmp_path / "d", [("r1", "anna", "1")])])
    assert (again.recordings, again.sharing(), again.unit("anna", "r1")) == (frozenset(), {}, "anna")


def test_a_copy_that_one_folder_left_out_and_another_holds_is_not_used(tmp_path):
    copies = [{"recording": "r9", "subject": "ben", "of": "r2", "how": "the same content, left out"}]
    one = dataset(tmp_path / "one", [("r2", "anna", "1")], copies)
    other = dataset(tmp_path / "other", [("r9", "ben", "1"), ("r5", "carl", "5")])
    assert Copied.of([one]).recordings == set()
    assert Copied.of([one, other]).recordings == {"r9"}
