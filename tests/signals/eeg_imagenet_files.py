"""Small files in EEG-ImageNet's layout, and what became of them."""

import torch

from dreamjax.signals.datasets import records
from dreamjax.signals.preparation.prepare import PrepareOptions, prepare
from dreamjax.signals.simulation import eeg_imagenet_files as generator

CHANNELS, CLASSES, IMAGES, PEOPLE = 6, 3, 10, 4
STD, RAW = "eeg_5_95_std.pth", "eeg_signals_raw_with_mean_std.pth"


def write(folder):
    """The generator's files: four people, three classes of ten images."""
    layout = generator.Layout(
        subjects=PEOPLE, classes=CLASSES, images_per_class=IMAGES, channels=CHANNELS, seed=3, corrupt=True
    )
    generator.write(folder, layout)
    return folder


def splits_of(folder):
    """Split → the indices of its trials in the published list."""
    return {
        split: [int(flag[6:]) for w in records.read_windows(folder, split) for flag in w.flags if flag[:6] == "trial:"]
        for split in ("train", "val", "test")
    }


def made(published, tmp_path, file=STD, settings=None, **options):
    out = tmp_path / "shards"
    result = prepare([published / file], out, settings, PrepareOptions(workers=0, **options))
    return out, result


def small_file(path, eeg, subject=None, **more):
    """A file of the given signals, all of one class."""
    dataset = [
        {"eeg": torch.as_tensor(x), "image": i, "label": 0, "subject": subject[i] if subject else 1}
        for i, x in enumerate(eeg)
    ]
    images = [f"n01_{i}" for i in range(len(eeg))]
    torch.save({"dataset": dataset, "labels": ["n01"], "images": images, **more}, path)
    return path
