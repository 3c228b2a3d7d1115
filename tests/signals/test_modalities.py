"""Recordings of fMRI, fNIRS and intracranial EEG are named and not read."""

import numpy as np
import pytest
from edf_files import write_edf
from recorded import noise

from dreamjax.errors import UserError
from dreamjax.signals.preparation.recording_plan import make_plan
from dreamjax.signals.preparation.window_settings import WindowSettings
from dreamjax.signals.recordings.opening import find_sources, open_recording, survey

FILES = {
    "a.kdf": "an MEG recording (KIT) in a format that MNE does not read",
    "sub-01_bold.nii.gz": "an fMRI or MRI volume (NIfTI)", "b.nii": "an fMRI or MRI volume (NIfTI)",
    "i.dcm": "an MRI image (DICOM)", "n.snirf": "an fNIRS recording (SNIRF)",
    "p.nwb": "an intracranial or other recording (NWB)", "x.ns5": "an intracranial recording (Blackrock)",
}  # fmt: skip


def test_files_of_other_modalities_are_named(tmp_path):
    for name in FILES:
        (tmp_path / name).write_bytes(b"0")
    (tmp_path / "s.mefd").mkdir()
    (tmp_path / "s.mefd" / "s.tdat").write_bytes(b"0")
    sources, ignored = survey([tmp_path])
    assert not sources
    reasons = {item.path.rsplit("/", 1)[1]: item.reason for item in ignored if not item.companion}
    wanted = FILES | {"s.mefd": "an intracranial recording (MEF3)"}
    assert reasons == {name: f"{what}; this version reads EEG and MEG only" for name, what in wanted.items()}


def test_a_single_file_of_another_modality_is_the_error(tmp_path):
    (tmp_path / "s.mefd").mkdir()
    with pytest.raises(
        UserError, match=r"no recording found in .*s\.mefd \(an intracranial recording \(MEF3\); this version reads"
    ):
        find_sources([tmp_path / "s.mefd"])


def test_many_files_left_out_for_one_reason_are_one_line(tmp_path, caplog):
    for i in range(20):
        (tmp_path / f"run{i:02d}.nii.gz").write_bytes(b"0")
    write_edf(tmp_path / "a.edf", np.rint(noise(4, 8) / 0.1))
    caplog.set_level("INFO", "dreamjax")
    assert len(find_sources([tmp_path])) == 1
    lines = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert len(lines) == 1
    assert lines[0].endswith("run00.nii.gz: left out, an fMRI or MRI volume (NIfTI); this version reads EEG and "
                             "MEG only; so are 19 others")  # fmt: skip


def test_intracranial_channels_of_bids_are_not_scalp_eeg(tmp_path):
    """Without channels.tsv by the name of the file; with it by its types."""
    folder = tmp_path / "sub-01" / "ieeg"
    folder.mkdir(parents=True)
    (tmp_path / "dataset_description.json").write_text('{"Name": "x"}')
    path = write_edf(folder / "sub-01_task-rest_ieeg.edf", np.rint(noise(4, 8) / 0.1))
    recording = open_recording(path)
    assert recording.sensor_kind == ("seeg",) * 4
    with pytest.raises(
        UserError,
        match="no EEG channel, only other sensors, 4 of intracranial EEG: this version reads EEG and MEG only",
    ):
        make_plan(recording, WindowSettings())
    names = recording.ch_names
    table = ["name\ttype\tunits", f"EEG {names[0]}\tEEG\tuV", f"EEG {names[1]}\tECOG\tuV"]
    (folder / "sub-01_task-rest_channels.tsv").write_text("\n".join(table))
    recording = open_recording(path)
    assert recording.sensor_kind == ("eeg", "ecog", "seeg", "seeg")
    assert "its sensors of other modalities are not used: 3 of intracranial EEG" in recording.notes
