"""Images with captions: layouts, splits, decoding, the stream's order, and a sentence for everything amiss."""

import json

import numpy as np
import pytest
from PIL import Image

from dreamjax.errors import UserError
from dreamjax.targets import image_folder, images
from dreamjax.targets.images import ImageConfig

COUNT = 12


def write(folder, count=COUNT, captions=None):
    """`count` images of 10 x 14 pixels, all of one grey, with captions in metadata.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for i in range(count):
        Image.fromarray(np.full((10, 14, 3), 7 * i, np.uint8)).save(folder / f"{i:02d}.png")
        lines.append(
            json.dumps({"file_name": f"{i:02d}.png", "text": f"grey {i % 5}" if captions is None else captions})
        )
    (folder / "metadata.jsonl").write_text("\n".join(reversed(lines)) + "\n")
    return folder


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "images")


def encode(texts):
    return np.array([[int(text.split()[1]), 7] for text in texts], np.int32)


def stream(folder, split="train", training=True, seed=3, encode=None, **config):
    config = ImageConfig(**{"folder": str(folder), "resolution": 8, "val_share": 0.4} | config)
    return images.open_stream(config, split, seed=seed, training=training, encode=encode)


def take(found, batches, **where):
    rows = iter(found.batches(**{"start": 0, "batch_size": 4} | where))
    return [next(rows) for _ in range(batches)]


# ------------------------------------------------------------------------------------------------------------- layouts
def test_every_layout_lists_the_same_images_by_name(folder):
    first = image_folder.listing(folder)
    assert [entry.name for entry in first] == [f"{i:02d}.png" for i in range(COUNT)]
    assert first[7].caption == "grey 2"
    lines = (folder / "metadata.jsonl").read_text().splitlines()
    (folder / "metadata.jsonl").unlink()
    rows = [json.loads(line) for line in lines]
    (folder / "metadata.csv").write_text(
        "file_name,caption\n" + "".join(f'{row["file_name"]},"{row["text"]}"\n' for row in rows)
    )
    assert image_folder.listing(folder) == first
    (folder / "metadata.csv").unlink()
    for row in rows:
        (folder / row["file_name"]).with_suffix(".txt").write_text(row["text"] + "\n")
    assert image_folder.listing(folder) == first


def test_images_may_lie_in_folders_and_need_no_captions_where_none_are_used(folder):
    (folder / "more").mkdir()
    (folder / "00.png").rename(folder / "more" / "00.png")
    text = (folder / "metadata.jsonl").read_text()
    (folder / "metadata.jsonl").write_text(text.replace("00.png", "more/00.png"))
    assert image_folder.listing(folder)[-1].name == "more/00.png"
    (folder / "metadata.jsonl").unlink()
    assert [entry.caption for entry in image_folder.listing(folder, captions=False)] == [""] * (COUNT - 1)


def test_splits_are_disjoint_whole_and_stay_when_images_are_added(folder):
    parts = {name: {e.name for e in stream(folder, name).entries} for name in ("train", "val")}
    assert not parts["train"] & parts["val"]
    assert len(parts["train"] | parts["val"]) == COUNT
    write(folder, COUNT + 20)
    assert parts["val"] <= {entry.name for entry in stream(folder, "val").entries}
    of_captions = {name: {e.caption for e in stream(folder, name, split_by="caption").entries} for name in parts}
    assert not of_captions["train"] & of_captions["val"]


# ------------------------------------------------------------------------------------------------------------ decoding
def test_the_middle_is_cut_out_upright_in_rgb_and_without_exif(tmp_path):
    """14 x 10 with red on the left, stored turned by 90° as orientation 6 says; the shorter edge becomes 5."""
    upright = np.zeros((10, 14, 3), np.uint8)
    upright[:, :7, 0] = 255
    upright[:, 7:, 2] = 255
    turned = Image.fromarray(upright).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "a.png", exif=exif)
    found = images.load(tmp_path / "a.png", 5)
    assert found.shape == (5, 5, 3)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found[:, 0], [[255, 0, 0]] * 5)
    np.testing.assert_array_equal(found[:, -1], [[0, 0, 255]] * 5)
    reference = Image.fromarray(upright).resize((7, 5), Image.Resampling.LANCZOS).crop((1, 0, 6, 5))
    np.testing.assert_array_equal(images.load(tmp_path / "a.png", 5, "lanczos"), np.asarray(reference))


@pytest.mark.parametrize(
    ("mode", "value"), [("L", 64), ("P", 64), ("RGBA", (64, 64, 64, 255)), ("1", 1), ("LA", (9, 0))]
)
def test_any_mode_becomes_rgb_on_white(tmp_path, mode, value):
    Image.new("L" if mode == "P" else mode, (9, 9), value).convert(mode).save(tmp_path / "a.png")
    assert (
        images.load(tmp_path / "a.png", 4).reshape(-1, 3).tolist()
        == [[64 if mode in ("L", "P", "RGBA") else 255] * 3] * 16
    )


def test_scaled_and_back():
    values = np.arange(256, dtype=np.uint8)
    assert (images.scaled(values)[0], images.scaled(values)[-1]) == (-1, 1)
    np.testing.assert_array_equal(images.unscaled(images.scaled(values)), values)


# ---------------------------------------------------------------------------------------------------------- the stream
def test_any_number_of_processes_and_any_start_give_the_same_stream(folder):
    whole = take(stream(folder, encode=encode), 6)
    for p in (0, 1):
        for a, b in zip(whole, take(stream(folder, encode=encode), 6, process=p, processes=2), strict=True):
            for name in a:
                np.testing.assert_array_equal(a[name][2 * p : 2 * p + 2], b[name])
    later = take(stream(folder, encode=encode), 3, start=12)
    for a, b in zip(whole[3:], later, strict=True):
        assert all(np.array_equal(a[name], b[name]) for name in a)


def test_a_training_epoch_has_every_image_once_in_a_new_order(folder):
    found = stream(folder)
    n = len(found)
    shades = np.concatenate([b["image"][:, 0, 0, 0] for b in take(found, 2, batch_size=n)])
    assert sorted(shades[:n]) == sorted(shades[n:]) == [7 * int(e.name[:2]) for e in found.entries]
    assert shades[:n].tolist() != shades[n:].tolist()
    assert (
        shades.tolist()
        != np.concatenate([b["image"][:, 0, 0, 0] for b in take(stream(folder, seed=4), 2, batch_size=n)]).tolist()
    )


def test_evaluation_has_each_image_once_in_order_and_pads_with_weight_0(folder):
    found = stream(folder, "val", training=False)
    rows = list(found.batches(start=0, batch_size=4))
    assert sum(b["weight"].sum() for b in rows) == len(found)
    assert all(len(b["weight"]) == 4 for b in rows)
    shades = np.concatenate([b["image"][:, 0, 0, 0][b["weight"] > 0] for b in rows])
    assert shades.tolist() == [7 * int(e.name[:2]) for e in found.entries]


def test_captions_and_tokens_go_with_their_image(folder):
    batch = take(stream(folder, encode=encode), 1)[0]
    number = batch["image"][:, 0, 0, 0] // 7
    assert batch["tokens"].tolist() == [[n % 5, 7] for n in number.tolist()]
    same = batch["caption"][:, None] == batch["caption"][None]
    np.testing.assert_array_equal(same, (number[:, None] % 5) == (number[None] % 5))
    assert {n: (s.shape, s.dtype) for n, s in stream(folder, encode=encode).element().items()} == {
        n: (x.shape[1:], x.dtype) for n, x in batch.items()
    }


def test_images_that_do_not_fit_in_memory_are_read_when_they_are_due(folder):
    kept, read = take(stream(folder), 3), take(stream(folder, memory_mib=0), 3)
    assert all(np.array_equal(a[name], b[name]) for a, b in zip(kept, read, strict=True) for name in a)


def test_flips_belong_to_the_example_and_not_to_training_only_once(folder):
    for i in range(COUNT):
        image = np.zeros((8, 8, 3), np.uint8)
        image[:, 0] = 255
        Image.fromarray(image).save(folder / f"{i:02d}.png")
    flipped = np.concatenate([b["image"][:, 0, 0, 0] == 0 for b in take(stream(folder, flip=0.5), 20)])
    assert 20 < flipped.sum() < 60
    again = np.concatenate([b["image"][:, 0, 0, 0] == 0 for b in take(stream(folder, flip=0.5), 20, batch_size=2)])
    np.testing.assert_array_equal(again, flipped[:40])
    assert all(
        (b["image"][:, 0, 0, 0] == 255).all()
        for b in stream(folder, "val", training=False, flip=1.0).batches(batch_size=4)
    )


# -------------------------------------------------------------------------------------------------------------- faults
@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{not json", "metadata.jsonl, line 2: not JSON"),
        ("[1]", "line 2: a JSON list"),
        ('{"text": "a"}', "line 2 has no file_name"),
        ('{"file_name": "00.png"}', "line 2 has no caption"),
        ('{"file_name": "00.png", "text": 3}', "line 2 has no caption"),
        ('{"file_name": "../00.png", "text": "a"}', "must stay within the folder"),
        ('{"file_name": "/etc/a.png", "text": "a"}', "must stay within the folder"),
        ('{"file_name": "gone.png", "text": "a"}', "names images that do not exist: gone.png"),
    ],
)
def test_a_line_that_is_wrong_is_named(folder, line, says):
    path = folder / "metadata.jsonl"
    path.write_text(path.read_text().splitlines()[0] + "\n" + line + "\n")
    with pytest.raises(UserError, match=says):
        image_folder.listing(folder)


def test_rejects_folder_without_images_or_captions(tmp_path, folder):
    with pytest.raises(UserError, match="no such folder"):
        image_folder.listing(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no image"):
        image_folder.listing(tmp_path / "empty")
    (folder / "metadata.jsonl").unlink()
    with pytest.raises(UserError, match=r"its images have no caption; give metadata.jsonl"):
        image_folder.listing(folder)
    (folder / "00.txt").write_text("grey")
    with pytest.raises(UserError, match=r"01.png has no caption"):
        image_folder.listing(folder)
    (folder / "metadata.jsonl").write_text("\n")
    with pytest.raises(UserError, match="names no image"):
        image_folder.listing(folder)
    with pytest.raises(UserError, match=r"data\.folder is empty"):
        images.split(ImageConfig(), "train")
    with pytest.raises(UserError, match=r"falls into split val; change data\.val_share"):
        stream(write(tmp_path / "few", 2), "val", val_share=0.001)


@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
def test_a_damaged_image_is_named_at_once_or_when_it_is_read(folder, damage):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)).save(folder / "00.png")
    whole = (folder / "00.png").read_bytes()
    for i in range(COUNT):
        (folder / f"{i:02d}.png").write_bytes(
            {"cut": whole[: len(whole) // 2], "text": b"<html>", "empty": b""}[damage]
        )
    with pytest.raises(UserError, match=r"\d\d.png: not an image, or a damaged one"):
        stream(folder)
    with pytest.raises(UserError, match=r"\d\d.png: not an image, or a damaged one"):
        take(stream(folder, memory_mib=0), 1)
