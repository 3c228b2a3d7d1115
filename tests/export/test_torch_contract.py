"""The torch model keeps to braindecode's conventions, and refuses what it cannot take."""

import json

import numpy as np
import pytest
import torch

from dreamjax.export.import_checkpoint import import_checkpoint
from dreamjax.systems.pytorch import masked_autoencoder


def test_braindecodes_conventions_hold(exported, model_class, tmp_path):
    folder = exported[0]
    model = model_class.from_pretrained(folder)
    assert (model.n_chans, model.n_times, model.sfreq, model.n_outputs) == (19, 64, 256.0, None)
    assert model.input_window_seconds == 0.25
    assert model.ch_names[:3] == ["Fp1", "Fp2", "F7"]
    assert len(model.chs_info[0]["loc"]) == 12
    x = torch.randn(3, 19, 64)
    with torch.no_grad():
        assert model(x).shape == (3, 16)
        features = model(x, return_features=True)
    assert features["features"].shape == (3, 16, 16)
    assert torch.equal(features["pooled"], features["features"].mean(1))

    classifier = model_class.from_pretrained(folder, n_outputs=5)
    assert isinstance(classifier.final_layer, torch.nn.Linear)
    assert classifier(x).shape == (3, 5)
    classifier.reset_head(2)
    assert classifier(x).shape == (3, 2)
    assert classifier.get_config()["n_outputs"] == 2
    same = model_class.from_config(json.loads(json.dumps(classifier.get_config())))
    assert same.get_config() == classifier.get_config()
    assert {n: p.shape for n, p in same.named_parameters()} == {n: p.shape for n, p in classifier.named_parameters()}

    classifier.save_pretrained(tmp_path / "tuned")
    again = model_class.from_pretrained(tmp_path / "tuned")
    assert torch.equal(again(x), classifier.eval()(x))
    assert again.provenance == model.provenance
    import_checkpoint(tmp_path / "tuned", tmp_path / "run")  # without its head


def test_all_but_the_positions_can_be_trained(model_class, exported):
    model = model_class.from_pretrained(exported[0], n_outputs=3)
    model(torch.randn(2, 19, 64)).sum().backward()
    without = {
        name for name, p in model.named_parameters() if p.grad is None and not name.startswith(("decoder", "mask"))
    }
    assert without == {"pos_embed"}


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m: m(torch.zeros(1, 20, 64)), r"takes \(batch, 19 channels, 64 samples\), not \(1, 20, 64\)"),
        (lambda m: m(torch.zeros(1, 19, 65)), "64 samples"),
        (lambda m: m(torch.zeros(19, 64)), "64 samples"),
        (lambda m: m(torch.zeros(1, 19, 64), sfreq=250), "takes 256 Hz, not 250 Hz"),
        (lambda m: m.reconstruct(torch.zeros(1, 19, 64), torch.zeros(1, 9, dtype=bool)), "16 tokens"),
    ],
)
def test_torch_model_rejects_wrong_input(model_class, exported, call, says):
    with pytest.raises(ValueError, match=says) as caught:
        call(model_class.from_pretrained(exported[0]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("expected", "says"),
    [
        ({"n_chans": 20}, "n_chans = 19, not 20"),
        ({"n_times": 512}, "n_times = 64, not 512"),
        ({"sfreq": 200}, "sfreq = 256.0, not 200"),
        ({"chs_info": [{"ch_name": "Cz"}]}, "Fp1, Fp2, F7"),
        ({"colour": 3}, "no argument colour"),
    ],
)
def test_other_expectations_than_the_weights_were_trained_on_are_refused(model_class, exported, expected, says):
    with pytest.raises(ValueError, match=says):
        model_class.from_pretrained(exported[0], **expected)
    agreeing = {"n_chans": 19, "n_times": 64, "sfreq": 256, "input_window_seconds": 0.25}
    model_class.from_pretrained(exported[0], **agreeing)


def test_the_robust_scale_is_the_one_of_the_records():
    signal = np.random.default_rng(0).standard_normal((6, 101)).astype(np.float32)
    expected = np.median(1.4826 * np.median(np.abs(signal - np.median(signal, 1)[:, None]), 1))
    assert float(masked_autoencoder.robust_scale(torch.from_numpy(signal))) == pytest.approx(float(expected), rel=1e-6)
