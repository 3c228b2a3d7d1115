"""Judges from files and folders: what each makes of images, what is refused, what the tables say."""

import functools
import json

import jax
import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch.nn import functional as F

from dreamjax.errors import UserError
from dreamjax.evaluation import image_scores, judges
from dreamjax.evaluation.image_scores import ScoredTrials
from dreamjax.parallel import mesh as meshes
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.reports import image_report
from tests import parity
from tests import torchvision_models as tv

IMAGENET = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
ABSENT = "no FID, KID and Inception Score: it takes pt_inception-2015-12-05-6726825d.pth as a judge"


@pytest.fixture(scope="module")
def networks():
    """Tiny ones, by kind."""
    return {
        "alexnet": tv.randomise(tv.alexnet(unit=1, classes=3)),
        "inception": tv.randomise(tv.Inception(unit=1, aux=True)),
        "fid": tv.randomise(tv.Inception(unit=1, classes=1008, fid=True)),
        "swav": tv.randomise(tv.ResNet50(unit=1, swav=True)),
        "efficientnet": tv.randomise(tv.EfficientNetB1(unit=1)),
    }


@pytest.fixture(scope="module")
def saved(networks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("judges")
    for name, module in networks.items():
        torch.save(module.state_dict(), folder / f"{name}.pth")
    torch.save(tv.lpips_layers(unit=1), folder / "alex.pth")
    return folder


@pytest.fixture(scope="module")
def shown():
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (5, 8, 8, 3), np.uint8)
    return np.stack([np.asarray(Image.fromarray(x).resize((48, 48), Image.Resampling.BICUBIC)) for x in coarse])


@pytest.fixture(scope="module")
def mesh():
    return meshes.make(MeshConfig(), devices=jax.devices()[:2])


def resized(shown, mean, std):
    """As torchvision resizes Pillow's images."""
    found = [np.asarray(Image.fromarray(x).resize((224, 224), Image.Resampling.BILINEAR)) for x in shown]
    return torch.from_numpy(((np.stack(found) / np.float32(255) - mean) / std).transpose(0, 3, 1, 2)).float()


@pytest.fixture(scope="module")
def opened(saved, mesh):
    """The judge of a file, compiled once for all tests."""
    return functools.cache(lambda name: judges.open_judges([str(saved / name)], mesh)[0][0])


# ------------------------------------------------------------------------------------------------- what they see
def test_features_are_torchs_of_equally_prepared_images(networks, opened, shown):
    pixels = resized(shown, *IMAGENET)
    alexnet, ours = networks["alexnet"], opened("alexnet.pth").views(shown)
    with torch.no_grad():
        theirs = {"AlexNet(2)": alexnet.features[:5](pixels), "AlexNet(5)": alexnet.features[:12](pixels)}
        parity.report(ours, {name: value.permute(0, 2, 3, 1).flatten(1) for name, value in theirs.items()})
        # torchvision's Inception turns ImageNet's normalisation into (x - 0.5) / 0.5
        turned = pixels * (torch.tensor(IMAGENET[1]) / 0.5)[:, None, None]
        turned = turned + ((torch.tensor(IMAGENET[0]) - 0.5) / 0.5)[:, None, None]
        ours = opened("inception.pth").views(shown)
        parity.report(ours, {"Inception": networks["inception"](turned)["2048"]})
        judge = opened("swav.pth")
        parity.report(judge.views(shown), {"SwAV": networks["swav"](pixels)})
    other = opened("efficientnet.pth")  # shown alike
    assert (judge.compares, other.compares, other.name) == (("distance",), ("distance",), "EfficientNet-B1")


def test_fids_features_are_torchs(networks, opened, shown):
    """Resized without antialiasing, to [-1, 1]; Inception Score's logits have no bias."""
    x = torch.from_numpy(shown.transpose(0, 3, 1, 2) / np.float32(255))
    with torch.no_grad():
        x = 2 * F.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False) - 1
        theirs = networks["fid"](x)
        probabilities = torch.softmax(theirs["2048"] @ networks["fid"].fc.weight.T, 1)
    features = opened("fid.pth").sets(shown)
    parity.report(
        {name: features[name] for name in ("2048", "64", "probabilities")},
        {"2048": theirs["2048"], "64": theirs["64"], "probabilities": probabilities},
    )


def test_lpips_takes_the_network_from_another_file(networks, saved, shown, mesh):
    paths = [str(saved / "alex.pth"), str(saved / "alexnet.pth")]
    found, notes = judges.open_judges(paths, mesh)
    a, b = shown[:4], shown[1:]
    x, y = (torch.from_numpy(p.transpose(0, 3, 1, 2) / np.float32(127.5) - 1).float() for p in (a, b))
    with torch.no_grad():
        theirs = tv.lpips(networks["alexnet"], tv.lpips_layers(unit=1), x, y)
    parity.report({"LPIPS": found[0].pair(a, b)}, {"LPIPS": theirs})
    assert found[0].pair(a, a).tolist() == [0] * 4
    assert [judge.name for judge in found] == ["LPIPS", "AlexNet"]
    assert not any("no LPIPS" in note or "by AlexNet" in note for note in notes)
    with pytest.raises(UserError, match=r"name alexnet-owt-7be5be79\.pth as a judge too"):
        judges.open_judges(paths[:1], mesh)


def test_a_row_does_not_depend_on_how_many_are_judged(opened, shown):
    """More than a batch, of which the last one is filled up, against one by one."""
    judge = opened("swav.pth")
    many = np.concatenate([shown] * 14)[: judges.BATCH + 3]
    together = judge.views(many)["SwAV"]
    alone = np.concatenate([judge.views(x[None])["SwAV"] for x in shown])
    assert len(together) == len(many)
    np.testing.assert_allclose(together, np.concatenate([alone] * 14)[: len(many)], rtol=1e-4, atol=1e-5)


# --------------------------------------------------------------------------------------------------------- folders
def folder_of(model, path, size):
    model.save_pretrained(path)
    kind = "ViTImageProcessor" if "ViT" in type(model).__name__ else "CLIPImageProcessor"
    sides = {"height": size, "width": size}
    config = {"image_processor_type": kind, "size": sides if kind[0] == "V" else {"shortest_edge": size}}
    (path / "preprocessor_config.json").write_text(
        json.dumps(config | ({} if kind[0] == "V" else {"crop_size": sides}))
    )
    return str(path)


def test_folders_of_transformers(shown, mesh, tmp_path):
    sizes = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    clip = transformers.CLIPVisionModelWithProjection(
        transformers.CLIPVisionConfig(**sizes, intermediate_size=24, projection_dim=6)
    )
    dino = transformers.Dinov2Model(transformers.Dinov2Config(**sizes))
    vit = transformers.ViTForImageClassification(transformers.ViTConfig(**sizes, intermediate_size=24, num_labels=3))
    paths = [
        folder_of(parity.randomise(m), tmp_path / n, 32) for n, m in (("clip", clip), ("dino", dino), ("vit", vit))
    ]
    found, _ = judges.open_judges(paths, mesh)
    assert [(judge.name, judge.compares) for judge in found] == [
        ("clip", ("two-way", "cosine")),
        ("dino", ("two-way", "cosine")),
        ("vit", ("two-way",)),
    ]
    assert [judge.views(shown)[judge.name].shape for judge in found] == [(5, 6), (5, 12), (5, 12)]
    classifier = judges.open_classifier(paths[2], mesh)
    np.testing.assert_allclose(classifier.probabilities(shown).sum(1), 1, rtol=1e-5)
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match=r"is a run; export it first: dreamjax export .* --to diffusers"):
        judges.open_classifier(str(tmp_path / "run"), mesh)
    with pytest.raises(UserError, match="is not a classifier"):
        judges.open_classifier(paths[0], mesh)


# ---------------------------------------------------------------------------------------------------------- tables
def test_everything_in_one_table(saved, shown, mesh):
    """Right images are at the best value of every metric, and beat those dealt out wrongly."""
    names = ("alexnet.pth", "swav.pth", "alex.pth")
    found, notes = judges.open_judges([str(saved / name) for name in names], mesh)
    assert all("which is not a published file: its training is unknown" in note for note in notes[:3])
    assert [note.partition(":")[0] for note in notes[3:]] == [
        "no two-way identification by Inception",
        "no FID, KID and Inception Score",
        "no EfficientNet distance",
    ]
    trials = ScoredTrials(shown, np.zeros(5, int), np.tile(np.arange(5), 2), np.repeat(np.arange(2), 5))
    right = shown[trials.image][:, None]
    sources = {"model": right, "other": np.roll(right, 1, axis=0)}
    columns = {c.name: c for c in image_scores.columns(trials, sources, found)}
    assert set(columns) == {
        *("pixel correlation", "PSNR, dB", "SSIM", "LPIPS", "two-way, pixels"),
        *("two-way, AlexNet(2)", "two-way, AlexNet(5)", "distance, SwAV"),
    }
    for name, column in columns.items():
        lower = name == "LPIPS" or name.startswith("distance")
        assert column.better == ("lower" if lower else "higher")
        if name != "PSNR, dB":
            np.testing.assert_allclose(column.values["model"], 0 if lower else 1, atol=1e-6)
            entry = column.as_json(trials.clusters, "model")
            assert entry["model_minus"]["other"]["says"] == "model is better than other", name
            assert (entry["model_minus"]["other"]["estimate"] < 0) == lower


def test_set_metrics_of_all_sources(saved, opened, shown, mesh):
    judge, notes = opened("fid.pth"), judges.open_judges([str(saved / "fid.pth")], mesh)[1]
    trials = ScoredTrials(shown, np.zeros(5, int), np.arange(5), np.arange(5))
    right = shown[:, None]
    dark = (right // 4).repeat(2, axis=1)
    sources = {"model": right, "shuffled": right[::-1], "dark": dark}
    entries = [metric.as_json() for metric in image_scores.set_metrics(trials, sources, [judge])]
    found = {entry["metric"]: entry for entry in entries}
    assert list(found) == ["FID, 2048 features", "FID, 64 features", "KID", "Inception Score"]
    for metric in ("FID, 2048 features", "FID, 64 features"):
        scores = found[metric]["scores"]
        assert scores["model"]["estimate"] == pytest.approx(0, abs=1e-6 * scores["dark"]["estimate"])
        assert scores["shuffled"]["estimate"] == pytest.approx(0, abs=1e-6 * scores["dark"]["estimate"])
        assert (scores["dark"]["n"], scores["dark"]["m"]) == (10, 5)
    assert found["Inception Score"]["seen"] == pytest.approx(found["Inception Score"]["scores"]["model"]["estimate"])
    kid = found["KID"]["scores"]
    assert kid["dark"]["estimate"] > kid["model"]["estimate"]
    assert kid["dark"]["low"] <= kid["dark"]["estimate"] <= kid["dark"]["high"]
    table = image_report.set_table(entries, ["model", "dark"])
    row = dict(zip(table.header, table.rows[1], strict=True))
    assert "(n 10 to 5; too few: below 2,048)" in row["FID, 64 features"]
    assert "(n 10 to 5; too few: below 2,048)" in row["KID"]
    assert "too few" not in row["Inception Score"]
    assert ABSENT not in notes
    assert ABSENT in judges.open_judges([], mesh)[1]
    assert image_scores.set_metrics(trials, {"model": right}, []) == []


def test_published_file_is_recognised_by_its_hash(saved, monkeypatch):
    path = str(saved / "alexnet.pth")
    monkeypatch.setattr(judges.manifest, "file_hash", lambda path: "7be5be79" + 56 * "0")
    assert judges.open_judges([path])[1][0] == "alexnet.pth is the published alexnet-owt-7be5be79.pth (AlexNet)"
