"""Every system on simulated THINGS-EEG2 and THINGS-MEG, from the published layouts, through `compare`."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

import dreamjax
from dreamjax.comparison import protocols
from dreamjax.metrics import retrieval
from dreamjax.signals.preparation.convert_trials import TrialSettings
from dreamjax.signals.preparation.inputs import PrepareOptions
from dreamjax.signals.simulation import things_meg_files
from dreamjax.signals.simulation.things_eeg2_files import write_things_eeg2
from dreamjax.systems import registry
from dreamjax.systems.base import Retrieves, Vectorises, capabilities

pytestmark = pytest.mark.long
RETRIEVING = [name for name in registry.names() if Retrieves in capabilities(registry.find(name))]
SYSTEMS = ("ridge", *(name for name in RETRIEVING if Vectorises in capabilities(registry.find(name))))
SETTINGS = {  # small networks, and rates at which a few hundred steps are enough
    "train.batch_size": "64",
    "shallow.model.width": "256",
    "samga.model.width": "64",
    "neurobridge.model.width": "64",
    "neurobridge.model.variant": "as_released",
    "brain_module.model.outputs": "32",
    "brain_module.model.dim": "32",
    "brain_module.optim.learning_rate": "3e-3",
    "shallow_fbcsp.optim.learning_rate": "1e-2",
    "eegnet.optim.learning_rate": "1e-2",
    "deep4.optim.learning_rate": "3e-3",
    "nice.optim.learning_rate": "1e-3",
    "enigma.optim.learning_rate": "1e-3",
}
EPOCHS = {"eegnet": 12, "shallow_fbcsp": 40, "deep4": 12, "enigma": 24}
TESTED = 20  # images


class Corpus(NamedTuple):
    trials: str
    vectors: str
    begins: str  # s after the onset


def blurred(folder: Path) -> dict[str, np.ndarray]:
    """Return the images of a folder in 4 × 4 pixels, by name."""
    files = sorted(folder.rglob("*.jpg"))
    pixels = np.array([np.asarray(Image.open(file).resize((4, 4), Image.Resampling.BOX), float) for file in files])
    vectors = pixels.reshape(len(files), -1)
    vectors = (vectors - vectors.mean(0)) / vectors.std(0)
    return {str(file.relative_to(folder)): row for file, row in zip(files, vectors, strict=True)}


@pytest.fixture(scope="module", params=["eeg", "meg"])
def corpus(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp(request.param)
    root, trials, bank = folder / "corpus", folder / "trials", folder / "vectors.npz"
    if request.param == "eeg":
        size = {"concepts": 40, "images_per_concept": 6, "test_concepts": TESTED, "strength": 6.0}
        write_things_eeg2(root, "nice", subjects=2, **size)
        dreamjax.prepare(
            root / "eeg", trials, TrialSettings(channel_set="17"), PrepareOptions(stimuli=str(root / "image_set"))
        )
    else:
        size = {"classes": 60, "images_per_class": 4, "test_images": TESTED, "strength": 6.0}
        things_meg_files.write(root, things_meg_files.Layout(subjects=2, channels=32, sfreq=240, **size))
        dreamjax.prepare(root, trials)
    vectors = blurred(root / "images")
    np.savez(bank, names=np.array(list(vectors)), vectors=np.array(list(vectors.values()), np.float32))
    return Corpus(str(trials), str(bank), "0" if request.param == "eeg" else "-0.3")


def compare(corpus: Corpus, folder: Path, systems: tuple[str, ...], **options: object):  # type: ignore[no-untyped-def]
    settings = [(key, value) for key, value in SETTINGS.items() if key.split(".")[0] in ("train", *systems)]
    given = {"people": "joint", "seeds": 1, "settings": [("data.tmin", corpus.begins), *settings]} | options
    return dreamjax.compare(systems, corpus.trials, corpus.vectors, folder, **given)  # type: ignore[arg-type]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", SYSTEMS)
def test_strong_responses_tell_which_image_was_seen(name: str, corpus: Corpus, tmp_path: Path) -> None:
    result = compare(corpus, tmp_path, (name,), epochs=EPOCHS.get(name, 6))
    one = result.systems[name]
    top = one["checkpoints"][one["counted"]]["top1"]["estimate"]
    print(f"{name}: top-1 {top:.1%} of {TESTED} images (chance {retrieval.chance(1, TESTED):.0%}), p {one['p']:.2g}")
    assert one["p"] < 0.001
    assert top >= 5 * retrieval.chance(1, TESTED)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("protocol", protocols.PROTOCOLS)
def test_every_protocol_has_every_system(protocol: str, corpus: Corpus, tmp_path: Path) -> None:
    result = compare(corpus, tmp_path, SYSTEMS, epochs=1, protocol=protocol)
    assert (set(result.systems), dict(result.missing)) == (set(SYSTEMS), {})
    text = result.text()
    assert all(name in text for name in SYSTEMS)
    assert ("selected on test: not a result" in text) == (protocol == "paper")
