"""The paper's ablation as a sweep: what each row trains, and all of it on a small data set in EEG-ImageNet's layout."""

import json
import signal
from pathlib import Path

import pytest
import transformers
from etils import epath

from dreamjax import config as configs
from dreamjax.cli.main import main
from dreamjax.errors import TryAgain
from dreamjax.storage import locks
from dreamjax.sweeps import partition, runs, summary, sweep_config
from dreamjax.sweeps.partition import Part
from dreamjax.systems import opening, registry
from tests import parity, pipelines
from tests.support import held_elsewhere
from tests.sweeps.conftest import refused, swept

CONFIG = str(Path(__file__).resolve().parents[2] / "configs/sweep/dreamdiffusion_ablation.py")


def rows(spec, **changes):
    sweep = sweep_config.load(spec, list(changes.items()))
    return {run.values["row"]: run for run in runs.expand(sweep)}


def test_each_row_is_what_the_paper_says():
    """15 rows, of which 11 need an encoder, 8 different ones; sizes are the published ones to 5 %."""
    found = rows(CONFIG, seeds="0")
    assert len(found) == 15
    pretrained = {name: point for name, point in found.items() if point.encoder is not None}
    assert sorted(found.keys() - pretrained.keys()) == ["1", "2", "3", "4"]
    assert len({runs.encoder_folder("w", point.encoder).name for point in pretrained.values()}) == 8
    assert all(found[name].config.loss.alignment == "none" for name in ("1", "2", "13", "14"))
    assert all(found[name].config.encoder.path == "" for name in found)
    assert {pretrained[name].encoder.mask.ratio for name in ("5", "6", "7")} == {0.25, 0.5, 0.85}
    assert found["14"].config.encoder.trainable is False
    assert found["12"].config.model.trainable == "none"
    published = {"full": 297e6, "8": 458e6, "9": 162e6, "10": 74e6, "11": 18.3e6}
    for name, parameters in published.items():
        m = found[name].encoder.model
        of_blocks = m.depth * (4 + 2 * m.mlp_ratio) * m.dim**2  # qkv and proj, fc1 and fc2
        assert of_blocks + m.channels * m.patch * m.dim == pytest.approx(parameters, rel=0.05), name


def test_rows_are_compared_at_equal_flop():
    """A larger encoder takes fewer steps, one that trains no encoder takes most."""
    sizes = {"base.model.architecture": "sd15", "base.train.steps": "1000"}
    found = rows(CONFIG, seeds="0", compare="examples,flops", **sizes)
    steps = {name: run.legs["flops"] for name, run in found.items()}
    assert steps["8"] < steps["full"] < steps["9"] < steps["10"] < steps["11"] < steps["14"] == 1000
    for run in found.values():
        assert run.legs["examples"] == 1000
        assert run.step_flop * run.legs["flops"] == pytest.approx(run.budget, rel=1e-3)


def test_rows_of_one_encoder_are_one_part():
    found = list(rows(CONFIG, seeds="0").values())
    dealt = [partition.runs_of(found, 1, Part(i, 4)) for i in range(4)]
    assert sorted(p.name for part in dealt for p in part) == sorted(p.name for p in found)
    where = [{runs.encoder_folder("w", p.encoder).name for p in part if p.encoder} for part in dealt]
    assert sum(map(len, where)) == len(set.union(*where)) == 8


def test_wait_for_an_encoder_ends_with_its_signal(tmp_path, monkeypatch):
    encoder = epath.Path(tmp_path) / "encoders" / "one"
    (tmp_path / "locks").mkdir()
    with held_elsewhere(tmp_path / "locks" / "one") as other:
        monkeypatch.setattr(locks.time, "sleep", lambda seconds: signal.raise_signal(signal.SIGTERM))
        with (
            pytest.raises(TryAgain, match="stopped while waiting for the encoder one"),
            runs.encoder_held(encoder),
        ):
            pass
        monkeypatch.setattr(locks.time, "sleep", lambda seconds: (other.kill(), other.wait()))
        with runs.encoder_held(encoder):
            assert other.returncode


def test_reports_what_a_stage_b_sweep_lacks(capsys, tmp_path):
    words = ["--config", f"{CONFIG}:sizes=small", "--workdir", str(tmp_path / "out")]
    assert "has no data: give --config.base.data.path=SHARDS" in refused(capsys, *words)
    trials = tmp_path / "trials"
    words += [f"--config.base.data.path={trials}", f"--config.pretrain.data.path={trials}"]
    assert "trials: no such dataset folder; say where it is with --config.base.data.path=" in refused(capsys, *words)
    trials.mkdir()
    assert "scored by a trained classifier: give --config.score.classifier=FOLDER" in refused(capsys, *words)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    (tmp_path / "empty").mkdir()
    assert "config.json" in refused(capsys, *words, f"--config.score.classifier={tmp_path / 'empty'}")
    vit = transformers.ViTConfig(**sizes, image_size=16, patch_size=8, num_labels=3)
    transformers.ViTForImageClassification(vit).save_pretrained(tmp_path / "vit")
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "vit")
    words += [f"--config.score.classifier={tmp_path / 'vit'}"]
    assert "5-way top-1 needs 1 ≤ K < N ≤ classes, and the classifier has 3" in refused(
        capsys, *words, "--config.score.ways=5"
    )
    assert "score.ways is 1, but it must be at least 2" in refused(capsys, *words, "--config.score.ways=1")
    assert "set --config.score.guidance=1" in refused(
        capsys, *words, "--config.base.model.context_tokens=4", "--config.score.guidance=2"
    )
    assert "scaling fits errors of reconstruction" in refused(capsys, *words, "--config.scaling=row")
    assert "runs of dreamdiffusion cannot be trained as one program; set together=1" in refused(
        capsys, *words, "--config.together=3"
    )
    assert "set compare=examples" in refused(capsys, *words, "--config.compare=flops")
    assert "(pretrain) has no key mask.ration; did you mean" in refused(
        capsys, *words, "--config.pretrain.mask.ration=1"
    )


@pytest.fixture
def material(tmp_path):
    """Simulated people in EEG-ImageNet's layout; a small Stable Diffusion, CLIP and classifier of random numbers."""
    corpus, trials = tmp_path / "corpus", tmp_path / "trials"
    words = ["--classes", "3", "--images-per-class", "8", "--subjects", "6", "--channels", "128"]
    assert main(["simulate", "--layout", "eeg-imagenet", "--out", str(corpus), *words]) == 0
    words = ["--stimuli", str(corpus / "imagenet"), "--split-by", "image"]
    assert main(["prepare", str(corpus / "eeg_5_95_std.pth"), "--out", str(trials), *words]) == 0
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    size = {"image_size": 16, "patch_size": 8}
    clip = transformers.CLIPVisionConfig(**sizes, **size, projection_dim=12)
    parity.randomise(transformers.CLIPVisionModelWithProjection(clip)).save_pretrained(tmp_path / "clip")
    transformers.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=16).save_pretrained(tmp_path / "clip")
    vit = transformers.ViTConfig(**sizes, **size, num_labels=3)
    parity.randomise(transformers.ViTForImageClassification(vit)).save_pretrained(tmp_path / "vit")
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "vit")
    return {
        "pretrain.data.path": trials,
        "base.data.path": trials,
        "base.target.folder": corpus / "imagenet",
        "base.target.splits": "prepared",
        "base.target.resolution": 16,
        "base.target.bank": tmp_path / "bank",
        "base.model.path": pipelines.write(tmp_path / "sd", widths=(32,)),
        "base.target.embedding.path": tmp_path / "clip",
        "score.classifier": tmp_path / "vit",
    }


@pytest.mark.long
def test_all_rows_run_on_the_small_layout(material, capsys, tmp_path):
    """Pretrained, fine-tuned, judged and reported; an encoder is trained once for all rows that want it."""
    steps = {"pretrain.train.steps": 2, "base.train.steps": 2, "base.train.batch_size": 8, "score.sampler_steps": 2}
    steps |= {"pretrain.train.batch_size": 8, "score.windows": 12, "seeds": 0}
    words = [f"--config.{key}={value}" for key, value in (material | steps).items()]
    capsys.readouterr()
    out = tmp_path / "out"
    found = swept(capsys, "--config", f"{CONFIG}:sizes=small", "--workdir", str(out), *words)
    assert (found["done"], found["failed"]) == (15, 0), found["failures"]
    assert len(list((out / "shared" / "encoders").iterdir())) == 8
    about = [json.loads(path.read_text()) for path in out.glob("points/*/point.json")]
    starts = {one["values"]["row"]: bool(one["config"]["encoder"]["path"]) for one in about}
    assert {name for name, pretrained in starts.items() if not pretrained} == {"1", "2", "3", "4"}
    leg = summary.summarise(str(out)).as_json()["legs"]["examples"]
    assert leg["unit"] == "person"
    assert leg["metric"].startswith("3-way top-1, vit")
    assert leg["metric"].endswith("minus that of other trials' images")
    assert len(leg["ranking"]) + len(leg["untrained"]) == 15
    again = swept(capsys, "--config", f"{CONFIG}:sizes=small", "--workdir", str(out), *words)
    assert again["done_before"] == 15
    [fixed] = (out / "points").glob("row=12-*/run-*")  # whose U-Net is nobody's training
    assert main(["export", str(fixed), "--to", "diffusers", "--out", str(tmp_path / "exported")]) == 0
    alone = configs.load(str(next((out / "points").glob("row=5*/config.py"))), [], registry.schema_of)
    assert alone.encoder.path == str(runs.encoder_folder(str(out), opening.config_of(alone.encoder.path)))
