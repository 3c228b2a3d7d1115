"""The Python API: what `import dreamjax` gives, on a run of real verbs over simulated recordings."""

import dataclasses
import subprocess
import sys
import time

import numpy as np
import pytest

import dreamjax
from dreamjax.errors import UserError
from dreamjax.signals.preparation.inputs import PrepareOptions
from dreamjax.signals.preparation.window_settings import WindowSettings
from dreamjax.signals.recordings import opening as recordings
from dreamjax.systems import masked_presets

SETTINGS = WindowSettings(sfreq=64.0, samples=128)
WINDOWS = np.ones((2, 19, 128), np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Simulated recordings and their shards."""
    from dreamjax.signals.simulation.simulate import simulate
    from dreamjax.signals.simulation.subject import SimulationSettings

    root = tmp_path_factory.mktemp("api")
    simulate(root / "recordings", SimulationSettings(subjects=3, minutes=1.0, channels=8, seed=3))
    dreamjax.prepare(root / "recordings", root / "shards", SETTINGS, PrepareOptions(workers=1, salt="a"))
    return root


@pytest.fixture(scope="module")
def run(folder):
    """A run of two steps."""
    config = masked_presets.preset("tiny")
    with config.unlocked():
        config.data.path = (str(folder / "shards"),)
        config.data.update({"sfreq": 64.0, "samples": 128})
        config.train.update({"steps": 2, "batch_size": 8, "eval_every": 0, "tensorboard": False})
        config.train.checkpoint.every = 1
    result = dreamjax.train(config, folder / "run")
    assert result["step"] == 2
    return folder / "run"


@pytest.fixture(scope="module")
def model(run):
    return dreamjax.load(run)


@pytest.fixture(scope="module")
def recording(folder):
    """The first recording: its samples in µV, rate and channel names."""
    source = next(iter(sorted(recordings.find_sources([str(folder / "recordings")]), key=lambda s: s.path)))
    opened = recordings.open_recording(source)
    eeg = [i for i, kind in enumerate(opened.sensor_kind) if kind == "eeg"]
    return source.path, opened.read(0, opened.n_samples, eeg), opened.sfreq, [opened.ch_names[i] for i in eeg]


def test_import_is_quick_and_imports_no_jax():
    program = "import sys, dreamjax; print(any(m.split('.')[0] in ('jax', 'numpy') for m in sys.modules))"
    started = time.monotonic()
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "False"
    assert time.monotonic() - started < 5  # the measured figure is in docs/benchmarks.md; this only catches a hang
    assert "load" in dir(dreamjax)
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        _ = dreamjax.lode


def test_array_raw_and_prepared_shards_give_the_same_features(model, recording, folder, tmp_path):
    """An array of one recording is filtered, cut and scaled exactly as `prepare` does it."""
    mne = pytest.importorskip("mne")
    path, x, sfreq, names = recording
    array = model.encode(x, sfreq=sfreq, ch_names=names)
    dim, tokens = model.config.model.dim, model.config.patches
    assert array.tokens.shape == (len(array.pooled), tokens, dim)
    assert len(array.pooled) > 10
    dreamjax.prepare(path, tmp_path / "one", SETTINGS, PrepareOptions(workers=1))
    shards = model.encode(tmp_path / "one", split="train")
    order = np.argsort(shards.pooled[:, 0]), np.argsort(array.pooled[:, 0])  # shards are shuffled by their split
    np.testing.assert_allclose(array.pooled[order[1]], shards.pooled[order[0]], rtol=1e-4, atol=1e-5)
    raw = mne.io.RawArray(x * 1e-6, mne.create_info(names, sfreq, "eeg"), verbose="error")
    np.testing.assert_allclose(model.encode(raw).pooled, array.pooled, rtol=1e-4, atol=1e-4)


def test_trials_and_epochs_give_one_window_each(model, recording):
    mne = pytest.importorskip("mne")
    _, x, sfreq, names = recording
    length = int(2 * sfreq)
    trials = np.stack([x[:, i * length : (i + 1) * length] for i in range(5)])
    features = model.encode(trials, sfreq=sfreq, ch_names=names)
    assert features.pooled.shape == (5, model.config.model.dim)
    events = np.stack([np.arange(5) * length, np.zeros(5, int), np.ones(5, int)], axis=1)
    epochs = mne.EpochsArray(
        trials * 1e-6, mne.create_info(names, sfreq, "eeg"), events, event_id={"face": 1}, verbose="error"
    )
    np.testing.assert_allclose(model.encode(epochs).pooled, features.pooled, rtol=1e-3, atol=1e-3)


def test_reconstruction_is_in_the_unit_of_the_signal(model, recording):
    _, x, sfreq, names = recording
    hidden = np.zeros(model.config.patches, bool)
    hidden[10:20] = True
    guess = model.reconstruct(x, hidden, sfreq=sfreq, ch_names=names)
    windows = len(model.encode(x, sfreq=sfreq, ch_names=names).pooled)
    assert guess.shape == (windows, model.config.model.channels, model.config.data.samples)
    assert np.isfinite(guess).all()


def test_encoder_is_a_step_of_a_scikit_learn_pipeline(run, model, recording):
    pytest.importorskip("sklearn")
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    from dreamjax.sklearn import EncoderFeatures

    _, x, sfreq, names = recording
    length = int(2 * sfreq)
    trials = np.stack([x[:, i * length : (i + 1) * length] for i in range(8)])
    labels = np.arange(8) % 2
    decoder = make_pipeline(EncoderFeatures(str(run), sfreq, names), LogisticRegression())
    assert decoder.fit(trials, labels).predict(trials).shape == (8,)
    features = decoder[0].transform(trials)
    np.testing.assert_array_equal(features, model.encode(trials, sfreq=sfreq, ch_names=names).pooled)


@pytest.fixture(scope="module")
def module(model, tmp_path_factory):
    """The exported run, opened in PyTorch."""
    pytest.importorskip("torch")
    from tests.export.support import load_model_file

    folder = tmp_path_factory.mktemp("torch") / "exported"
    assert max(model.export(folder).differences.values()) <= 1e-5
    return load_model_file(folder).MaskedAutoencoder.from_pretrained(folder).eval()


def assert_equal_to_torch(features, module, x, **more):
    """The tokens and pooled features of the exported module for the same µV, to 1e-5."""
    import torch

    tensors = {name: torch.from_numpy(np.array(value, np.float32)) for name, value in more.items()}
    with torch.no_grad():
        out = module(torch.from_numpy(np.array(x, np.float32)), return_features=True, **tensors)
    np.testing.assert_allclose(features.tokens, out["features"].numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(features.pooled, out["pooled"].numpy(), rtol=1e-5, atol=1e-5)


def test_features_are_those_of_the_exported_torch_model(model, module, folder):
    """To 1e-5: `encode` in JAX of prepared shards, and the exported module in PyTorch on the same windows in µV."""
    from dreamjax.signals.datasets import pipeline

    data = dataclasses.replace(model.config.data, path=(str(folder / "shards"),))
    features = model.encode(folder / "shards")
    stream = pipeline.open_stream(data, "test", seed=model.config.seed, training=False)
    [batch] = stream.batches(batch_size=len(features.pooled))
    microvolts = batch["signal"] * batch["gain"][:, :, None] + batch["offset"][:, :, None]
    assert_equal_to_torch(features, module, microvolts, scale=batch["gain"][:, 0], valid=batch["valid"])


RECORDINGS = ("Subject00_2", "Subject01_2", "Subject02_2", "Subject03_2", "Subject05_2")


@pytest.mark.parametrize("name", RECORDINGS)
def test_windows_in_microvolts_have_the_features_of_the_exported_torch_model(model, module, real_eeg, name):
    """Five people's recordings, 20 s each: the windows as torch takes them, scaled by both sides alone."""
    opened = recordings.open_recording(real_eeg / "eegmat" / f"{name}.edf")
    picks = [i for i, kind in enumerate(opened.sensor_kind) if kind == "eeg"][:19]
    x = opened.read(0, 160 * 128, picks)[:, ::8]  # 62.5 Hz, close to the model's 64; aliased, which does not matter
    windows = x.reshape(19, -1, 128).swapaxes(0, 1)
    assert 1 < windows.std() < 1000  # µV, not what the network reads
    assert_equal_to_torch(model.encode(windows, prepared=True), module, windows)
    scale = np.linspace(5, 20, len(windows))
    assert_equal_to_torch(model.encode(windows, prepared=True, scale=scale), module, windows, scale=scale)
    valid = np.ones((len(windows), 128))
    valid[::2, 100:] = 0
    padded = windows * valid[:, None]
    features = model.encode(padded, prepared=True, scale=scale, valid=valid)
    assert_equal_to_torch(features, module, padded, scale=scale, valid=valid)
    hidden = np.arange(model.config.patches) % 3 == 0
    guess = model.reconstruct(windows, hidden, prepared=True)
    import torch

    masked = torch.from_numpy(np.broadcast_to(hidden, (len(windows), len(hidden))).copy())
    with torch.no_grad():
        expected = module.reconstruct(torch.from_numpy(windows.astype(np.float32)), masked).numpy()
    np.testing.assert_allclose(guess, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_the_loaded_step_is_exported_and_an_export_can_be_exported_again(run, tmp_path, uncompared):
    assert dreamjax.load(run, step=1).export(tmp_path / "first").step == 1
    dreamjax.load(tmp_path / "first").export(tmp_path / "again")
    first, again = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "again"))
    assert first == again


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda m, x: m.encode(x), "an array needs sfreq"),
        (lambda m, x: m.encode(x, sfreq=64, ch_names=["Fz"]), "ch_names has 1 names"),
        (lambda m, x: m.encode(x[0], sfreq=64, ch_names=["Fz"]), "give real numbers as"),
        (
            lambda m, x: m.encode(20 * x[:, :8], sfreq=64, ch_names=["Fp1", "Fp2"]),
            "no window of the signal can be used",
        ),
        (lambda m, x: m.encode(x, prepared=True), r"\(windows, 19 channels, 128 samples\), not float32 of \(2, 640\)"),
        (lambda m, x: m.encode(x, prepared=True, sfreq=64), "prepared windows are numbers"),
        (lambda m, x: m.encode(x, sfreq=64, ch_names=["Fz", "Cz"], scale=2.0), "set prepared=True, or leave them out"),
        (lambda m, x: m.encode(WINDOWS, prepared=True, sfreq=256), "sfreq is 256, but prepared windows are at 64 Hz"),
        (lambda m, x: m.encode(WINDOWS, prepared=True, ch_names=["Cz"] * 19), "in this order; ch_names differs"),
        (lambda m, x: m.encode(WINDOWS * np.nan, prepared=True), "not finite"),
        (lambda m, x: m.generate(prompt="a dog"), "cannot generate images from text; its capabilities: Reconstructs"),
        (lambda m, x: dreamjax.load("nowhere"), "nowhere"),
    ],
)
def test_wrong_input_is_a_sentence(model, call, sentence):
    x = np.random.default_rng(0).normal(size=(2, 640)).astype(np.float32)
    with pytest.raises(UserError, match=sentence):
        call(model, x)


def test_a_config_may_be_a_file_a_configdict_or_a_dataclass(run):
    from dreamjax import api

    by_file = api.read_config("configs/pretrain/tiny.py")
    assert by_file == api.read_config(masked_presets.preset("tiny"))
    assert api.read_config(by_file) is by_file
    with pytest.raises(UserError, match="the config is a dict; give a config file's path, a ConfigDict or"):
        dreamjax.train({"system": "masked_pretraining"}, run)
    assert dataclasses.is_dataclass(dreamjax.load(run).config)
