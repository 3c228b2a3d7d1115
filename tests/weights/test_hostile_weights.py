"""Published weights that would hang, fill the memory, or end in a traceback: one sentence each."""

import json
import os
import time

import numpy as np
import pytest
from etils import epath

from dreamjax.diffusion.schedule import NoiseSchedule
from dreamjax.errors import UserError
from dreamjax.export.import_checkpoint import import_checkpoint
from dreamjax.storage import image_files, sniffing
from dreamjax.storage.checkpoint_files import safetensors_files, torch_files
from dreamjax.targets import preprocessing
from dreamjax.targets.tokens import Tokenizer
from dreamjax.weights import config_json, networks, weight_files


def nested_lists(levels: int = 7, width: int = 300) -> bytes:
    """A pickle of {"model": {}, "config": {"a": …}}: lists of 300 references to the one below, 300 ** 7 values."""
    body = (
        b"\x80\x02}(X\x05\x00\x00\x00model}X\x06\x00\x00\x00config}X\x01\x00\x00\x00a](" + b"K\x01" * width + b"eq\x01"
    )
    for level in range(1, levels):
        body += b"0](" + (b"h" + bytes([level])) * width + b"eq" + bytes([level + 1])
    return body + b"su."


def test_refuses_a_configuration_of_nested_lists_at_once(tmp_path):
    (tmp_path / "a.pth").write_bytes(nested_lists())
    started = time.monotonic()
    with pytest.raises(UserError, match="more than 100,000 values"):
        import_checkpoint(tmp_path / "a.pth", tmp_path / "out")
    assert time.monotonic() - started < 5
    assert not (tmp_path / "out").exists()


def test_refuses_an_index_that_names_itself(tmp_path):
    name = "model.safetensors.index.json"
    (tmp_path / name).write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(UserError, match="is not a file of weights"):
        weight_files.open_weights(tmp_path)


@pytest.mark.parametrize(
    ("vocabulary", "merges", "sentence"),
    [
        ({"a": 0}, [1, 2], "a merge joins two tokens, but one is 1"),
        ({"a": 0}, [["a", 1]], "a merge joins two tokens"),
        ({"a": 0}, 5, "its merges are not a list"),
        (["a"], [], "does not give a number for each token"),
        ({"a": "b"}, [], "does not give a number for each token"),
    ],
)
def test_reports_a_malformed_tokenizer(tmp_path, vocabulary, merges, sentence):
    pytest.importorskip("tokenizers")
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary, "merges": merges}}))
    with pytest.raises(UserError) as caught:
        Tokenizer.open(epath.Path(tmp_path))
    assert sentence in str(caught.value)


@pytest.mark.parametrize("steps", [10**10, 0])
def test_refuses_a_schedule_of_impossible_length(steps):
    with pytest.raises(ValueError, match="it must be from 1 to 100,000"):
        NoiseSchedule(num_train_timesteps=steps)


def test_refuses_arrays_of_empty_strings(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((1, 4, 8, 8), "S1").astype("S0"))
    content = (tmp_path / "a.npy").read_bytes().replace(b"|S1", b"|S0")
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(UserError, match="not numbers"):
        torch_files.read(tmp_path / "a.npy")
    header = json.dumps({"a": {"dtype": "F32", "shape": [1 << 62, 0], "data_offsets": [0, 0]}}).encode()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(UserError, match="impossible shape"):
        safetensors_files.read(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "config",
    [
        {"architectures": ["CLIPTextModel"], "num_hidden_layers": 10**7},
        {"_class_name": "UNet2DConditionModel", "layers_per_block": 10**7},
        {"_class_name": "UNet2DConditionModel", "transformer_layers_per_block": [1, 1, 1, 10**7]},
        {"_class_name": "AutoencoderKL", "layers_per_block": 10**7},
    ],
)
def test_refuses_more_layers_than_any_model_has(config):
    with pytest.raises(UserError, match="1000"):
        networks.of(config, "config.json").arguments(config, "config.json")


def test_refuses_more_layers_than_the_weights_have_tensors():
    shapes = [(8, 8)] * 100
    config_json.check_counts({"depth": 12, "layers": (2, 2), "dim": 8, "causal": True, "name": "x"}, shapes, "w")
    with pytest.raises(UserError, match="depth is 200, but the weights are only 100 tensors"):
        config_json.check_counts({"depth": 200}, shapes, "w")
    with pytest.raises(UserError, match="dim is 1000000000000, but the weights are only 6400 numbers"):
        config_json.check_counts({"dim": 10**12}, shapes, "w")


def test_refuses_a_pipe_wherever_a_file_is_opened(tmp_path):
    os.mkfifo(pipe := tmp_path / "config.json")
    for read in (sniffing.read_json, safetensors_files.read, torch_files.read, image_files.open_image):
        with pytest.raises(UserError, match="not a regular file"):
            read(epath.Path(pipe))


def test_an_image_is_what_its_bytes_say(tmp_path, monkeypatch):
    """EPS under the name .png: Pillow would start Ghostscript."""
    PIL = pytest.importorskip("PIL.EpsImagePlugin")
    monkeypatch.setattr(PIL, "Ghostscript", lambda *args, **kwargs: pytest.fail("Ghostscript was started"))
    (tmp_path / "a.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(UserError, match="not an image, or a damaged one"):
        image_files.open_image(tmp_path / "a.png")
    assert not image_files.is_whole(tmp_path / "a.png")


@pytest.mark.parametrize("fields", [{"size": 10**9}, {"crop_size": 10**9}, {"image_processor_type": 5}])
def test_refuses_preprocessing_with_impossible_sizes(fields):
    with pytest.raises(UserError, match=r"16384 at most|describes a 5"):
        preprocessing.from_json(fields, "preprocessor_config.json")
