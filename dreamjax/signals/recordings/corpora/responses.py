"""Responses without a time axis: a number per unit and image, as an array with the images that were shown.

    responses_210225.npy           (units, images): averaged over repeats
    responses_raw_210325.npy       (units, images, repeats): one record a repeat; NaN where an image had fewer
    images_210225/ or …225.zip     as many images; in the order of their names they are the columns
    responses_210225.json          optional, such as {"modality": "fmri", "unit": "SD", "subject": "sub-01"}

Spike counts of macaque V4 (Cowley et al. 2023) are published so. `images/` and `images.zip` serve every file next to
them. An archive is only listed, never unpacked.
"""

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from etils import epath
from jaxtyping import Float32, Int, Num

from dreamjax.errors import UserError
from dreamjax.signals.recordings.corpora.recording_corpora import Corpus
from dreamjax.signals.recordings.corpora.trial_set import TrialSet
from dreamjax.storage import sniffing
from dreamjax.storage.checkpoint_files import torch_files
from dreamjax.typing import JsonDict

NAMED = re.compile(r"responses(?:_raw)?(?:_([^/]+))?\.npy")  # group 1: the session
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
KEYS = ("modality", "unit", "subject", "session", "ch_names")  # of the JSON file
SHARES = {"train": 0.8, "val": 0.0, "test": 0.2}
NO_TIME = {
    "time": "one number per unit and image has no time axis",
    "pre_stimulus": "one number per unit and image has no time axis",
}
RESPONSES = Corpus(
    name="responses", path=r"$^", licence="unknown", source="the files given", reference="none", impossible=NO_TIME
)
MACAQUE_V4 = Corpus(
    name="macaque-v4",
    path=r"macaque_v4[^/]*/responses(_raw)?_\d{6}\.npy$",
    licence="GPL-3.0-only",  # of the folder with the data; the rights of single photographs are not stated
    source="https://github.com/cowleygroup/V4_compact_models (Cowley et al. 2023)",
    reference="none",
    design={"bins": "spike counts in 100 ms", "images": "112 x 112 pixels; image0001.jpg is the first column"},
    impossible=NO_TIME,
)


@dataclass(frozen=True, kw_only=True)
class ImageResponses(TrialSet):
    """An open file of responses: a trial is an image, or a repeat of one."""

    array: Num[np.ndarray, "units images repeats"]
    repeat: Int[np.ndarray, "trials"]
    names: tuple[str, str]  # subject and session

    def signal(self, trial: int) -> Float32[np.ndarray, "units 1"]:
        return self.array[:, self.image[trial], self.repeat[trial], None].astype(np.float32)

    def subject_name(self, subject: int) -> str:
        return self.names[0]

    def session_name(self, trial: int) -> str:
        return self.names[1]

    @property
    def values(self) -> str:
        return "as in the file, averaged over repeats" if self.array.shape[2] == 1 else "as in the file, by repeat"


def is_responses(path: str) -> bool:
    """Return whether a path is a file of responses, or a folder with some."""
    place = Path(path)
    if NAMED.fullmatch(place.name):
        return "sfreq" not in _facts(place)  # with a rate it is a recording
    return "://" not in path and place.is_dir() and any(map(is_responses, map(str, place.glob("responses*.npy"))))


def open_trials(path: str, images: str = "") -> ImageResponses:
    """Open a file of responses, or the only one of a folder; `images`: a folder or .zip archive of what was shown.

    Raise UserError for a file of another kind, and for images that are not there or are not as many as the columns.
    """
    file = _only_file(Path(path))
    source, facts = str(file), _facts(file)
    array = torch_files.read(file)
    if (
        not isinstance(array, np.ndarray)
        or array.dtype.kind not in "fiu"
        or array.ndim not in (2, 3)
        or 0 in array.shape
    ):
        shape = f"has shape {array.shape} and type {array.dtype}" if isinstance(array, np.ndarray) else "holds objects"
        raise UserError(f"{source}: it {shape}; responses are numbers as (units, images) or (units, images, repeats)")
    array = array.reshape(*array.shape[:2], -1)
    folder = images or _images_of(file)
    shown = image_names(folder)
    if len(shown) != array.shape[1]:
        raise UserError(
            f"{source}: {array.shape[1]} images by its shape {array.shape[:2]} (units, images), but {folder} has "
            f"{len(shown)}; give those that were shown with --stimuli, or save the array the other way round"
        )
    image, repeat = np.nonzero(~np.isnan(array).all(axis=0) if array.shape[2] > 1 else np.ones(array.shape[1:], bool))
    classes = [str(PurePosixPath(name).parent) for name in shown]
    labels = sorted(set(classes))
    session = str((NAMED.fullmatch(file.name) or [""] * 2)[1] or "")
    units = [str(name) for name in facts.get("ch_names", [])] or [f"unit{i + 1:03d}" for i in range(len(array))]
    if len(set(units)) != len(array):
        raise UserError(f"{source}: {len(array)} units, but its .json has {len(set(units))} different ch_names")
    return ImageResponses(
        facts=MACAQUE_V4 if re.search(MACAQUE_V4.path, file.absolute().as_posix()) else RESPONSES,
        source=source,
        files=(source,),
        format="responses",
        length=np.ones(len(image), np.int64),
        image=image,
        label=np.array([labels.index(name) for name in classes])[image],
        subject=np.ones(len(image), np.int64),
        labels=tuple(labels) if len(labels) > 1 else ("",),
        images=tuple(shown),
        ch_names=tuple(units),
        sfreq=1.0,  # one sample
        seconds=1.0,
        unit=str(facts.get("unit", "spikes")),
        record_unit=str(facts.get("unit", "spikes")),
        modality=str(facts.get("modality", "spikes")),
        sensor_kind="misc",
        shares=SHARES,
        needed=("train", "test"),
        image_folder=folder,
        array=array,
        repeat=repeat,
        names=(str(facts.get("subject", session or "1")), str(facts.get("session", session))),
    )


def image_names(folder: str) -> list[str]:
    """Return the images of a folder or a .zip archive, by name: image2 before image10. An archive is not unpacked."""
    if zipfile.is_zipfile(folder):
        try:
            with zipfile.ZipFile(folder) as archive:
                names = archive.namelist()
        except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as problem:
            raise UserError(f"{folder}: not readable as an archive ({problem}); fetch it again") from problem
    elif Path(folder).is_dir():
        names = [path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()]
    else:
        raise UserError(f"{folder}: neither a folder nor a .zip archive; name the one with the images")
    names = [n for n in names if n.lower().endswith(SUFFIXES) and not n.startswith("__MACOSX/")]
    for name in names:  # they become paths
        if name.startswith("/") or "\\" in name or ":" in name or ".." in PurePosixPath(name).parts:
            raise UserError(f"{folder}: it holds {name[:60]!r}, which would lie outside of its folder; fetch it again")
    return sorted(names, key=lambda name: [t.zfill(18) for t in re.split(r"([0-9]{1,18})", name)])


def _facts(file: Path) -> JsonDict:
    """Return the JSON next to a file of responses; {} without one."""
    sidecar = epath.Path(file.with_suffix(".json"))
    if not sidecar.exists():
        return {}
    facts = sniffing.read_json(sidecar, 'write {"modality": "fmri", "unit": "SD", "subject": "sub-01"}')
    unknown = [key for key in facts if key not in KEYS]
    if unknown and "sfreq" not in facts:
        raise UserError(f"{sidecar}: has the unknown key {unknown[0]!r}; it can have {', '.join(KEYS)}")
    return facts


def _only_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    files = sorted(file for file in path.glob("responses*.npy") if is_responses(str(file)))
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise UserError(
            f"{path}: it has {len(files)} files of responses ({names}), whose units differ; give one of them"
        )
    return files[0]


def _images_of(file: Path) -> str:
    """Return where the images of a file of responses lie: the folder or the archive of the same session."""
    session = (NAMED.fullmatch(file.name) or [""] * 2)[1]
    stems = [f"images_{session}", "images"] if session else ["images"]
    for stem in stems:
        for place in (file.with_name(stem), file.with_name(f"{stem}.zip")):
            if place.exists():
                return str(place)
    raise UserError(
        f"{file}: its images are missing; put them next to it, as the folder {stems[0]} or the archive {stems[0]}.zip, "
        "or name either with --stimuli"
    )
