"""Images to pixel values against the PIL backend of transformers: bit by bit."""

import json

import numpy as np
import pytest
from PIL import Image
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from dreamjax.errors import UserError
from dreamjax.targets import preprocessing

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def image(height, width, seed=0):
    """Waves and noise: something that a filter changes."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = np.sin(np.stack([x / 3, y / 5, (x + y) / 7], axis=2)) * 90 + 128
    return (waves + rng.normal(scale=20, size=waves.shape)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("shape", [(37, 53), (91, 40), (24, 24), (9, 200), (300, 311)])
@pytest.mark.parametrize(
    "processor",
    [
        CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}),
        CLIPImageProcessorPil(size={"shortest_edge": 31}, crop_size={"height": 20, "width": 27}, resample=1),
        CLIPImageProcessorPil(size={"shortest_edge": 15}, crop_size={"height": 24, "width": 23}),
        CLIPImageProcessorPil(do_resize=False, crop_size=26, do_normalize=False),
        BitImageProcessorPil(size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224}, **IMAGENET),
        ViTImageProcessorPil(),
        ViTImageProcessorPil(size={"height": 20, "width": 33}, do_rescale=False),
    ],
)
def test_equals_transformers(processor, shape, tmp_path):
    processor.save_pretrained(tmp_path)
    (file,) = tmp_path.glob("*.json")
    ours = preprocessing.from_json(json.loads(file.read_text()), file.name)([image(*shape)])
    expected = processor(image(*shape), return_tensors="np", input_data_format="channels_last")["pixel_values"]
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours, expected.transpose(0, 2, 3, 1))


def test_pillows_images_lose_their_transparency_on_white():
    rng = np.random.default_rng(0)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 12}, crop_size={"height": 12, "width": 12})
    ours = preprocessing.Preprocessing(edge=12, crop=(12, 12))
    for mode, channels in (("RGBA", 4), ("LA", 2), ("L", 1), ("RGB", 3)):
        array = rng.integers(0, 256, (20, 30, channels), np.uint8)
        given = Image.fromarray(array.squeeze(), mode)
        expected = processor(given, return_tensors="np")["pixel_values"].transpose(0, 2, 3, 1)
        np.testing.assert_array_equal(ours([given]), expected)


def test_an_old_file_with_numbers_instead_of_sizes():
    """As openai/clip-vit-large-patch14 and google/vit-base-patch16-224 have them."""
    old = {
        "crop_size": 224,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "resample": 3,
        "size": 224,
    }
    old |= {"feature_extractor_type": "CLIPFeatureExtractor", "image_mean": list(preprocessing.CLIP_MEAN)}
    assert preprocessing.from_json(old, "p.json") == preprocessing.Preprocessing()
    vit = preprocessing.from_json({"feature_extractor_type": "ViTFeatureExtractor", "size": 384}, "p.json")
    assert (vit.size, vit.edge, vit.crop, vit.resample) == ((384, 384), None, None, 2)


def test_rejects_wrong_preprocessing_settings():
    with pytest.raises(UserError, match=r"p.json describes a SamImageProcessor; dreamjax has those of CLIP, Bit, ViT"):
        preprocessing.from_json({"image_processor_type": "SamImageProcessor"}, "p.json")
    with pytest.raises(UserError, match=r"p.json: resample is 9, but Pillow.s filters are 0 to 5"):
        preprocessing.from_json({"resample": 9}, "p.json")
    with pytest.raises(UserError, match=r"p.json: size has a longest_edge, which is not supported"):
        preprocessing.from_json({"size": {"shortest_edge": 10, "longest_edge": 20}}, "p.json")
    with pytest.raises(UserError, match=r"p.json: image_std is 0, but it must be a number for each of three colours"):
        preprocessing.from_json({"image_std": 0}, "p.json")
    with pytest.raises(UserError, match=r"uint8 array of height x width x 3, not a float32 one of shape \(8, 8, 3\)"):
        preprocessing.Preprocessing()([np.zeros((8, 8, 3), np.float32)])
    with pytest.raises(UserError, match="images of 8 x 8 and of 8 x 16 pixels do not fit one batch"):
        preprocessing.Preprocessing(edge=8, crop=None)([image(8, 8), image(20, 40)])
