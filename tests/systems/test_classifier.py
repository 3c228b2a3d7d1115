"""Training a classifier: it learns what labels say, is exported with what it is worth, and says what does not fit."""

import json

import jax
import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from dreamjax.errors import UserError
from dreamjax.export import driver
from dreamjax.parallel import mesh as meshes
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.systems.classifier import Classifier, ClassifierConfig
from dreamjax.targets.features import VisionModel
from tests import parity
from tests.systems import small_images
from tests.systems.small_images import quick_compiles  # noqa: F401 - a fixture of every test here


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_images.folder(tmp_path_factory.mktemp("data") / "images")


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    config = small_images.load(ClassifierConfig, data__folder=folder, data__val_share=0.25)
    return small_images.train(config, tmp_path_factory.mktemp("runs") / "classifier")


def test_a_run_learns_what_the_labels_say(trained):
    """Three colours; held-out images."""
    assert trained[0]["val"]["accuracy"] > 0.9


def test_the_export_is_transformers_and_tells_its_accuracy(trained, folder, tmp_path):
    told = driver.export(trained[1], tmp_path / "exported", to="diffusers")
    assert told.differences["logits"] <= 1e-4
    model = VisionModel.open(tmp_path / "exported", meshes.make(MeshConfig()))
    assert model.accuracy == pytest.approx(trained[0]["val"]["accuracy"], abs=1e-3)
    config = json.loads((tmp_path / "exported" / "config.json").read_text())
    (tmp_path / "exported" / "config.json").write_text(json.dumps(config | {"_held_out_accuracy": "all of it"}))
    (tmp_path / "exported" / "manifest.json").unlink()
    assert VisionModel.open(tmp_path / "exported").accuracy is None
    shown = [np.asarray(Image.open(f"{folder}/{i:03d}.png")) for i in range(6)]
    logits = jax.jit(lambda p, x: model.part.bound(p).logits(x))(model.part.params, model.prepare(shown))
    theirs = transformers.ViTForImageClassification.from_pretrained(tmp_path / "exported")
    pixels = transformers.ViTImageProcessor.from_pretrained(tmp_path / "exported")(shown, return_tensors="pt")
    with torch.no_grad():
        assert parity.difference(logits, theirs(**pixels).logits) < 1e-4
    names = [theirs.config.id2label[int(i)] for i in np.asarray(logits).argmax(1)]
    assert np.mean([name == list(small_images.COLOURS)[i % 3] for i, name in enumerate(names)]) > 0.8


def test_images_without_labels_are_refused(tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    lines = [{"file_name": "a.png", "text": "an image"}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    task = Classifier(small_images.load(ClassifierConfig, data__folder=str(tmp_path)))
    with pytest.raises(UserError, match=r"falls into split|at least two classes"):
        _ = task.classes
