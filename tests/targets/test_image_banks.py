"""Vectors of images: from files with names, from every layer of a MobileNet, and of changed views."""

from pathlib import Path

import numpy as np
import pytest

from dreamjax.errors import UserError
from dreamjax.models.mobilenet import LAYERS, STRIDES, WIDTHS
from dreamjax.parallel import mesh as meshes
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.storage import image_files
from dreamjax.targets import features, image_folder, views
from dreamjax.targets.banks import BankConfig, open_bank

NAMES = ("a/one.png", "a/two.png", "b/three.png")
VECTORS = np.arange(6, dtype=np.float32).reshape(3, 2)


def opened(path: Path, names: tuple[str, ...] = NAMES, **options: object) -> np.ndarray:
    return open_bank(BankConfig(path=str(path), **options), names, meshes.make(MeshConfig())).vectors  # type: ignore[arg-type]


def test_rows_of_a_file_are_found_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "bank.npz", vectors=VECTORS[::-1], names=NAMES[::-1])
    np.testing.assert_array_equal(opened(tmp_path / "bank.npz"), VECTORS)
    np.testing.assert_array_equal(opened(tmp_path / "bank.npz", NAMES[1:]), VECTORS[1:])


def test_names_may_stand_in_a_file_and_lack_folders(tmp_path: Path) -> None:
    np.save(tmp_path / "bank.npy", VECTORS)
    (tmp_path / "bank.names.txt").write_text("one.png\ntwo.png\nthree.png\n")
    np.testing.assert_array_equal(opened(tmp_path / "bank.npy", NAMES[::-1]), VECTORS[::-1])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"vectors": VECTORS}, "does not say which image"),
        ({"vectors": VECTORS, "names": NAMES[:2]}, "3 vectors, but 2 names"),
        ({"vectors": VECTORS, "names": ("a/one.png",) * 3}, "named more than once"),
        ({"vectors": VECTORS, "names": ("a/one.png", "a/two.png", "x.png")}, "no vector of 1 of the 3 images"),
        ({"vectors": VECTORS * np.nan, "names": NAMES}, "not finite"),
        ({"vectors": VECTORS, "others": VECTORS, "names": NAMES}, "2 arrays of vectors"),
        ({"vectors": VECTORS[:, :0], "names": NAMES}, "each image needs a vector of numbers"),
        ({"vectors": VECTORS, "names": [b"\xff", b"b", b"c"]}, "not UTF-8"),
    ],
)
def test_refuses_files_that_could_be_misread(tmp_path: Path, arrays: dict, message: str) -> None:
    np.savez(tmp_path / "bank.npz", **arrays)
    with pytest.raises(UserError, match=message):
        opened(tmp_path / "bank.npz")


def test_never_unpickles_a_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "bank.npz", vectors=np.array([{"a": 1}], dtype=object), names=np.array(["x"]))
    with pytest.raises(UserError, match="not readable as"):
        opened(tmp_path / "bank.npz")


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """Write a folder of three images."""
    for number, name in enumerate(NAMES):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        image_files.write_png(tmp_path / "images" / name, np.full((8, 8, 3), number, np.uint8))
    return tmp_path / "images"


def test_rows_without_names_follow_the_sorted_images_on_request(tmp_path: Path, listed: Path) -> None:
    np.save(tmp_path / "bank.npy", VECTORS)
    options = {"images": str(listed), "order": "listing"}
    np.testing.assert_array_equal(opened(tmp_path / "bank.npy", NAMES[::-1], **options), VECTORS[::-1])
    with pytest.raises(UserError, match="does not say which image"):
        opened(tmp_path / "bank.npy", images=str(listed))
    with pytest.raises(UserError, match=r"needs the image folder; set target\.images"):
        opened(tmp_path / "bank.npy", order="listing")
    np.save(tmp_path / "bank.npy", VECTORS[:2])
    with pytest.raises(UserError, match="2 vectors, but the folder has 3 images"):
        opened(tmp_path / "bank.npy", **options)


def test_names_in_a_file_count_more_than_a_listing(tmp_path: Path, listed: Path) -> None:
    np.savez(tmp_path / "bank.npz", vectors=VECTORS[::-1], ids=NAMES[::-1])
    np.testing.assert_array_equal(opened(tmp_path / "bank.npz", images=str(listed), order="listing"), VECTORS)


def test_an_image_of_another_folder_is_another_image(tmp_path: Path) -> None:
    """Sessions of a monkey have images of equal names."""
    np.savez(tmp_path / "bank.npz", vectors=VECTORS, names=NAMES)
    with pytest.raises(UserError, match=r"no vector of 1 of the 1 images that were seen, such as c/one\.png"):
        opened(tmp_path / "bank.npz", ("c/one.png",))
    np.testing.assert_array_equal(opened(tmp_path / "bank.npz", ("set/a/one.png",)), VECTORS[:1])
    np.savez(tmp_path / "twice.npz", vectors=VECTORS[:2], names=("a/one.png", "b/one.png"))
    with pytest.raises(UserError, match="no vector of 1 of the 1"):
        opened(tmp_path / "twice.npz", ("one.png",))


@pytest.mark.parametrize("type_", ["float32", "float16"])
def test_reads_safetensors_with_names_next_to_it(tmp_path: Path, type_: str) -> None:
    from safetensors.numpy import save_file

    save_file({"vectors": VECTORS.astype(type_)}, tmp_path / "bank.safetensors")
    (tmp_path / "bank.names.txt").write_text("\n".join(NAMES))
    vectors = opened(tmp_path / "bank.safetensors", NAMES[::-1])
    np.testing.assert_array_equal(vectors, VECTORS[::-1])
    assert vectors.dtype == np.float32


def test_vectors_of_a_file_have_no_views_or_layers(tmp_path: Path, listed: Path) -> None:
    """Also where the image folder is named, as `compare --images` does."""
    np.savez(tmp_path / "bank.npz", vectors=VECTORS, names=NAMES)
    config = BankConfig(path=str(tmp_path / "bank.npz"), images=str(listed))
    assert not config.sees_images
    assert BankConfig(path="hog").sees_images
    assert not BankConfig(path="hog").has_layers
    for options in ({"view": "blur"}, {"layer": 3}, {"pooling": "cls"}):
        with pytest.raises(UserError, match="computed already"):
            opened(tmp_path / "bank.npz", images=str(listed), **options)


# ------------------------------------------------------------------------------------------------------------ MobileNet
@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a MobileNet of an eighth of the widths, and three images."""
    folder, rng = tmp_path_factory.mktemp("mobilenet"), np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    dim, unit = 3, 4
    widths = [unit, *(w for wide in WIDTHS for w in (None, wide * unit // 32))]
    for i, wide in enumerate(widths):
        if i % 2:
            arrays[f"{i:02d}_dw_w"] = rng.normal(0, 0.5, (1, 3, 3, dim))
        else:
            size = 3 if i == 0 else 1
            arrays[f"{i:02d}_pw_w"] = rng.normal(0, 1.5 / np.sqrt(dim * size**2), (wide, size, size, dim))
            dim = wide
        arrays[f"{i:02d}_b"] = rng.normal(0, 0.1, dim)
    np.savez(folder / "net.npz", **{name: x.astype(np.float32) for name, x in arrays.items()})
    for number, name in enumerate(NAMES):
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        image = np.random.default_rng(number).integers(0, 256, (40, 56, 3), np.uint8)
        image_files.write_png(folder / "images" / name, image)
    return folder


def twin(arrays: dict[str, np.ndarray], pixels: np.ndarray) -> list[np.ndarray]:
    """Return the mean of every layer by PyTorch, padded as TensorFlow does."""
    import torch
    from torch.nn import functional

    x, means = torch.from_numpy(pixels).permute(0, 3, 1, 2), []
    for i in range(LAYERS):
        depthwise = i % 2 == 1
        stride = 2 if i == 0 else STRIDES[i // 2] if depthwise else 1
        kernel = arrays[f"{i:02d}_{'dw' if depthwise else 'pw'}_w"].transpose(
            (3, 0, 1, 2) if depthwise else (0, 3, 1, 2)
        )
        size, side = kernel.shape[-1], x.shape[-1]
        padding = max((-(-side // stride) - 1) * stride + size - side, 0)
        x = functional.pad(x, [padding // 2, padding - padding // 2] * 2)
        groups = x.shape[1] if depthwise else 1
        x = functional.conv2d(x, torch.from_numpy(kernel.copy()), torch.from_numpy(arrays[f"{i:02d}_b"]), stride,
                              groups=groups).clamp(0, 6)  # fmt: skip
        means.append(x.mean((2, 3)).numpy())
    return means


def test_every_kind_of_layer_equals_pytorch(network: Path, tmp_path: Path) -> None:
    arrays = dict(np.load(network / "net.npz"))
    from PIL import Image

    images = [Image.open(network / "images" / name).resize((224, 224), Image.Resampling.BILINEAR) for name in NAMES]
    means = twin(arrays, np.stack([np.asarray(image, np.float32) for image in images]) / 127.5 - 1)
    for layer in (0, 1, 14, -1):
        options = {"layer": layer, "images": str(network / "images"), "bank": str(tmp_path)}
        np.testing.assert_allclose(opened(network / "net.npz", **options), means[layer], atol=2e-4)


def test_layers_of_the_published_weights_equal_pytorch(real_data: Path, tmp_path: Path) -> None:
    from PIL import Image

    (file,) = sorted((real_data / "models" / "mobilenet_v1").glob("*.npz")) or [None]
    if file is None:
        pytest.skip("the weights of MobileNet v1 are not there")
    paths = sorted(p for p in (real_data / "images").rglob("*") if p.suffix in (".png", ".jpg"))[:2]
    (tmp_path / "images").mkdir()
    for path in paths:
        (tmp_path / "images" / path.name).symlink_to(path)
    images = [Image.open(path).convert("RGB").resize((224, 224), Image.Resampling.BILINEAR) for path in paths]
    arrays = {name: array.astype(np.float32) for name, array in np.load(file).items()}
    means = twin(arrays, np.stack([np.asarray(image, np.float32) for image in images]) / 127.5 - 1)
    names = tuple(path.name for path in paths)
    for layer in (14, -1):
        ours = opened(file, names, layer=layer, images=str(tmp_path / "images"), bank=str(tmp_path / "bank"))
        norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(means[layer], axis=1)
        np.testing.assert_allclose((ours * means[layer]).sum(1) / norms, 1, atol=1e-5)


def test_a_bank_is_computed_once(network: Path, tmp_path: Path) -> None:
    options = {"layer": 2, "images": str(network / "images"), "bank": str(tmp_path)}
    first = opened(network / "net.npz", **options)
    (folder,) = tmp_path.glob("layers-*")
    before = (folder / "values.npy").stat().st_mtime_ns
    np.testing.assert_array_equal(opened(network / "net.npz", **options), first)
    assert (folder / "values.npy").stat().st_mtime_ns == before
    opened(network / "net.npz", view="mosaic", **options)
    assert len(list(tmp_path.glob("layers-*"))) == 2


def test_a_file_with_arrays_of_a_network_sees_images(network: Path) -> None:
    assert BankConfig(path=str(network / "net.npz")).has_layers


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 27}, "MobileNet has 0 to 26"),
        ({"pooling": "cls"}, "choose patches or tokens"),
        ({"images": ""}, "target.images is empty"),
        ({"images": "a"}, "lacks 1 of the 3 images"),
    ],
)
def test_reports_what_a_network_or_folder_lacks(network: Path, tmp_path: Path, options: dict, message: str) -> None:
    where = options.pop("images", ".")
    given = {"images": str(network / "images" / where) if where else "", "bank": str(tmp_path)} | options
    with pytest.raises(UserError, match=message):
        opened(network / "net.npz", **given)


def test_arrays_of_another_network_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "net.npz", **{"00_pw_w": np.zeros((4, 3, 3, 3), np.float32)})
    (tmp_path / "images").mkdir()
    image_files.write_png(tmp_path / "images" / "one.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(UserError, match=r"do not fit this model: 53 missing \(01_dw_w"):
        opened(tmp_path / "net.npz", ("one.png",), images=str(tmp_path / "images"))


# ---------------------------------------------------------------------------------------------------------------- views
@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (224, 224, 3), np.uint8)


def spread(x: np.ndarray) -> float:
    return float(x.astype(float).std())


def test_views_keep_the_mean_and_lose_detail(image: np.ndarray) -> None:
    for view in ("blur", "low_resolution", "mosaic", "fovea"):
        changed = views.changed(image, view, 51, "x")  # type: ignore[arg-type]
        assert changed.shape == image.shape
        assert abs(changed.mean() - image.mean()) < 1
        assert spread(changed) < 0.7 * spread(image)


def test_the_fovea_is_sharper_in_the_middle(image: np.ndarray) -> None:
    changed = views.changed(image, "fovea", 51, "x")
    assert spread(changed[102:122, 102:122]) > 3 * spread(changed[:20, :20])


def test_a_larger_kernel_blurs_more(image: np.ndarray) -> None:
    assert spread(views.changed(image, "blur", 57, "x")) < spread(views.changed(image, "blur", 45, "x"))


def test_noise_is_the_same_for_an_image_and_differs_between_images(image: np.ndarray) -> None:
    grey = np.full_like(image, 128)
    one, again, other = (views.changed(grey, "noise", 51, name) for name in ("x", "x", "y"))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
    assert spread(one) == pytest.approx(10, rel=0.02)


def test_a_mosaic_has_constant_blocks(image: np.ndarray) -> None:
    blocks = views.changed(image, "mosaic", 51, "x").reshape(14, 16, 14, 16, 3)
    assert (blocks == blocks[:, :1, :, :1]).all()


def test_views_show_transparent_images_on_white_as_networks_see_them(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGBA", (32, 32), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    (entry,) = image_folder.listing(tmp_path, captions=False)
    (view,) = features.opened([entry], features.ViewOf("blur", 51))
    assert (view == 255).all()


# --------------------------------------------------------------------------------------------------------- autoencoders
def test_latents_of_an_autoencoder_are_a_target(listed: Path, tmp_path: Path) -> None:
    import diffusers
    import torch

    torch.manual_seed(0)
    module = diffusers.AutoencoderKL(
        block_out_channels=(4, 4), norm_num_groups=2, layers_per_block=1, sample_size=16,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    module.save_pretrained(tmp_path / "vae")
    options = {"images": str(listed), "bank": str(tmp_path / "bank"), "resolution": 16}
    vectors = opened(tmp_path / "vae", **options)
    grey = torch.arange(3).reshape(3, 1, 1, 1).expand(3, 3, 16, 16) / 127.5 - 1
    with torch.no_grad():
        mean = module.encode(grey).latent_dist.mean.permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(vectors, mean.reshape(3, -1), atol=1e-4)
    np.testing.assert_allclose(opened(tmp_path / "vae", pooling="patches", **options), mean.mean((1, 2)), atol=1e-4)
    for option in ({"view": "blur"}, {"layer": 1}, {"pooling": "cls"}):
        with pytest.raises(UserError, match="holds an autoencoder, which has no views and layers"):
            opened(tmp_path / "vae", **options, **option)
