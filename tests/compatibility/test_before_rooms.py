"""What an older version left on disk still opens, and says what it said then (before_rooms/README.md).

Every verb that opens something is driven on a copy; expected.json holds what commit 64f0d21 answered. Rewritten by
`python test_before_rooms.py OUT.json`, which belongs to that commit alone.
"""

import contextlib
import hashlib
import importlib.util
import io
import json
import os
import shutil
import sys
import tarfile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from PIL import Image

import dreamjax
from dreamjax.cli.main import main

HERE = Path(__file__).resolve().parent
KEPT, EXPECTED = HERE / "before_rooms", HERE / "expected.json"
MADE_IN = "/data/before_rooms"  # what two runs' configs say where their networks and pictures lay
WHEN = 1_700_000_000  # time of every picture: banks are named by it, and git does not keep it
LONGER = {"masked_pretraining": 202, "dreamdiffusion": 6}  # steps
PICTURES = ("imagenet", "pictures")
DIFFUSERS = ("autoencoder", "classifier", "clip", "dreamdiffusion", "text_to_image")
SAMPLING = ("--steps", "3", "--sampler", "ddim", "--guidance", "2", "--seed", "0")
CONFIGS = Path(dreamjax.__file__).resolve().parents[1] / "configs"


def _keys(**values: Any) -> list[str]:
    return [f"--config.{key.replace('__', '.')}={value}" for key, value in values.items()]


ALL = _keys(
    train__steps=4,
    train__batch_size=8,
    train__eval_every=4,
    train__checkpoint__every=4,
    train__log_every=2,
    train__tensorboard="false",
    optim__warmup_steps=1,
)
SIGNALS = _keys(
    model__dim=8,
    model__depth=1,
    model__heads=2,
    model__decoder_dim=8,
    model__decoder_depth=1,
    model__decoder_heads=2,
    model__mlp_ratio=2,
    data__sfreq=64,
)
IMAGES = _keys(data__folder="pictures", data__resolution=16, data__val_share=0.4)
# run → the config and the keys that it was trained with
TRAINED = {
    "masked_pretraining": (
        "pretrain/tiny.py",
        *ALL,
        *SIGNALS,
        *_keys(data__path="shards", data__samples=128, optim__ema_decay=0.9, optim__learning_rate=0.01),
        *_keys(train__steps=200, train__checkpoint__every=200, train__eval_every=200, train__log_every=100),
    ),
    "encoder": (
        "pretrain/dreamdiffusion.py",
        *ALL,
        *SIGNALS,
        *_keys(data__path="trials", data__samples=32, model__channels=8, model__dtype="float32"),
        *_keys(optim__ema_decay="none"),
    ),
    "clip": ("image/clip_shapes.py", *ALL, *IMAGES, *_keys(model__architecture="tiny")),
    "autoencoder": (
        "image/autoencoder_shapes.py",
        *ALL,
        *IMAGES,
        *_keys(model__architecture="tiny", optim__ema_decay="none"),
    ),
    "classifier": (
        "image/classifier_shapes.py",
        *ALL,
        *IMAGES,
        *_keys(model__dim=8, model__depth=1, model__heads=2, model__patch=8),
    ),
    "text_to_image": (
        "image/text_to_image_shapes.py",
        *ALL,
        *IMAGES,
        *_keys(data__bank="banks", data__encode_batch=8, model__architecture="", model__path="pipeline"),
        *_keys(model__start="weights", optim__ema_decay="none"),
    ),
    "dreamdiffusion": (
        "image/dreamdiffusion_shapes.py",
        *ALL,
        *_keys(data__path="trials", target__folder="imagenet", target__resolution=16, target__splits="prepared"),
        *_keys(target__bank="banks", target__encode_batch=8, target__embedding__path="image_encoder"),
        *_keys(encoder__path="encoder", model__path="pipeline", model__hidden=4, model__time_condition="true"),
        *_keys(optim__ema_decay=0.9),
    ),
}


# ------------------------------------------------------------------------------------------------- a copy, as a user's
def copied(to: Path) -> Path:
    """The folder (or the archive beside it) copied to another place, as somebody moves runs to another machine."""
    folder = to / "before_rooms"
    if KEPT.is_dir():
        shutil.copytree(KEPT, folder)
    else:
        with tarfile.open(f"{KEPT}.tar.xz") as archive:
            archive.extractall(to, filter="data")
    for name in PICTURES:
        for path in (folder / name).rglob("*"):
            os.utime(path, (WHEN, WHEN))
    for run in ("dreamdiffusion", "text_to_image"):  # they tell folders from the root
        config = folder / run / "config.json"
        config.write_text(config.read_text().replace(MADE_IN, str(folder)))
    return folder


def told(*words: str) -> dict[str, Any]:
    """`dreamjax WORDS --json`."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main([*words, "--json"]) == 0
    return json.loads(out.getvalue())


@contextlib.contextmanager
def without_torch():
    """Exports are written, and not compared with PyTorch, which takes long: the hashes of their files are compared."""
    find = importlib.util.find_spec
    with mock.patch.object(
        importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else find(name, *rest)
    ):
        yield


# ----------------------------------------------------------------------------------------------------- what is compared
def with_config(run: str) -> tuple[str, ...]:
    """What the run's command said, in a checkout of today."""
    config, *keys = TRAINED[run]
    return "--config", str(CONFIGS / config), *keys


def inspected(run: str) -> dict[str, int]:
    """Parameters by part."""
    return told("inspect", *with_config(run))["parameters"]["parts"]


def reconstructed() -> dict[str, dict[str, float]]:
    """Mask → who predicts → share of variance explained on split test."""
    result = told("evaluate", "masked_pretraining", "--split", "test", "--out", "made/evaluation")
    return {
        entry["mask"]: {name: score["estimate"] for name, score in entry["r2"].items()}
        for entry in result["reconstruction"]
    }


def identified() -> dict[str, dict[str, float]]:
    """Metric → source of images → score, on trials of split test."""
    words = ("--trials", "4", "--steps", "2", "--sampler", "ddim", "--guidance", "2")
    result = told("evaluate", "dreamdiffusion", *words, "--out", "made/scores")
    return {
        column["metric"]: {name: score["estimate"] for name, score in column["scores"].items()}
        for column in result["scores"]
    }


def hashes(folder: str) -> dict[str, str]:
    """Of the files of weights."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(folder).rglob("*.safetensors"))
        if path.name != "parity.safetensors"  # computed, not kept
    }


def exported(run: str, to: str, name: str = "") -> dict[str, str]:
    with without_torch():
        told("export", run, "--to", to, "--out", f"made/{name or Path(run).name}-{to}")
    return hashes(f"made/{name or Path(run).name}-{to}")


def imported(export: str) -> dict[str, str]:
    """An export of before → a run → the same export."""
    told("import", f"exports/{export}", "--out", f"made/{export}")
    return exported(f"made/{export}", "torch")


def generated(name: str, *words: str) -> list[dict[str, Any]]:
    """Of each image the first values, and a hash of all."""
    told("generate", *words, *SAMPLING, "--out", f"made/{name}-generated")
    found = []
    for path in sorted(Path(f"made/{name}-generated").glob("0*.png")):
        pixels = np.asarray(Image.open(path))
        found.append({"first": pixels.ravel()[:24].tolist(), "sha256": hashlib.sha256(pixels.tobytes()).hexdigest()})
    return found


def dreamt() -> list[dict[str, Any]]:
    return generated("dreamdiffusion", "--checkpoint", "dreamdiffusion", "--split", "test", "--trials", "2")


def painted() -> list[dict[str, Any]]:
    return generated("text_to_image", "--model", "text_to_image", "--prompt", "a red circle", "a small blue bar")


def continued(run: str, steps: int) -> dict[str, float]:
    """Held-out scores after a few more steps: shards, banks, optimiser and data position are those of before."""
    words = (f"--config.train.steps={steps}", "--config.train.eval_every=1000")
    result = told("train", *with_config(run), *words, "--workdir", run)
    assert result["resumed_from"] == steps - 2
    return {name: float(value) for name, value in result["val"].items()}


def reported() -> dict[str, float]:
    """Point of the sweep → its score."""
    leg = told("report", "sweep", "--out", "made/report")["legs"]["examples"]
    return leg["untrained_scores"]


def banks() -> list[str]:
    return sorted(path.name for path in Path("banks").iterdir())


def everything() -> dict[str, Any]:
    """What expected.json holds; what changes a run comes last."""
    return {
        "inspect": {run: inspected(run) for run in TRAINED},
        "evaluate": {"masked_pretraining": reconstructed(), "dreamdiffusion": identified()},
        "export": {"masked_pretraining": exported("masked_pretraining", "torch")}
        | {run: exported(run, "diffusers") for run in DIFFUSERS},
        "import": {"masked_torch": imported("masked_torch")},
        "generate": {"dreamdiffusion": dreamt(), "text_to_image": painted()},
        "report": reported(),
        "train": {run: continued(run, steps) for run, steps in LONGER.items()},
        "banks": banks(),
    }


# ---------------------------------------------------------------------------------------------------------------- tests
@pytest.fixture(scope="module")
def expected():
    return json.loads(EXPECTED.read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return copied(tmp_path_factory.mktemp("moved"))


@pytest.fixture(autouse=True)
def there(folder, monkeypatch):
    monkeypatch.chdir(folder)


def same(found: Any, wanted: Any) -> None:
    """Numbers to 1e-5, all else exactly."""
    if isinstance(wanted, dict):
        assert list(found) == list(wanted)
        for name in wanted:
            same(found[name], wanted[name])
    elif isinstance(wanted, list):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            same(one, other)
    else:
        assert found == pytest.approx(wanted, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("run", TRAINED)
def test_inspect(run, expected):
    assert inspected(run) == expected["inspect"][run]


def test_evaluate_reconstruction(expected):
    same(reconstructed(), expected["evaluate"]["masked_pretraining"])


@pytest.mark.long
def test_evaluate_images(expected):
    """By place: what a metric or a source is called is for people."""
    found, wanted = (
        [[*one.values()] for one in t.values()] for t in (identified(), expected["evaluate"]["dreamdiffusion"])
    )
    same(found, wanted)


@pytest.mark.parametrize(
    "run", ["masked_pretraining", *(pytest.param(run, marks=pytest.mark.long) for run in DIFFUSERS)]
)
def test_export(run, expected):
    assert exported(run, "torch" if run == "masked_pretraining" else "diffusers") == expected["export"][run]


def test_the_kept_exports_are_of_these_weights(expected):
    assert hashes("exports/masked_torch") == expected["export"]["masked_pretraining"]
    assert hashes("exports/dream_diffusers") == expected["export"]["dreamdiffusion"]


def test_import_of_a_kept_export(expected):
    assert imported("masked_torch") == expected["import"]["masked_torch"] == expected["export"]["masked_pretraining"]


@pytest.mark.parametrize(("run", "images"), [("dreamdiffusion", dreamt), ("text_to_image", painted)])
def test_generate(run, images, expected):
    """Bit for bit on the machine that wrote expected.json; another processor may round a value the other way."""
    found, wanted = images(), expected["generate"][run]
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert one["sha256"] == other["sha256"] or np.abs(np.subtract(one["first"], other["first"])).max() <= 1


def test_report(expected):
    same(reported(), expected["report"])


def test_the_config_file_of_a_point(expected):
    """A sweep writes each point's config as a file."""
    config = next(Path("sweep/points").glob("*0.75*/config.py"))
    found = told("inspect", "--config", str(config))["parameters"]["parts"]
    assert found == expected["inspect"]["masked_pretraining"]


@pytest.mark.parametrize(
    ("run", "steps"),
    [
        ("masked_pretraining", LONGER["masked_pretraining"]),
        pytest.param("dreamdiffusion", LONGER["dreamdiffusion"], marks=pytest.mark.long),
    ],
)
def test_train_goes_on(run, steps, expected):
    """The last tests: they add a step to the copied run."""
    same(continued(run, steps), expected["train"][run])
    assert banks() == expected["banks"]  # those of before were found, none was made anew


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        os.chdir(copied(Path(place)))
        text = json.dumps({"commit": "64f0d21", **everything()}, indent=1)
    Path(sys.argv[1]).write_text(text + "\n")
