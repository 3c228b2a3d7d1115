"""`dreamjax plan`: what is counted without a compiler, what is compiled with it, and that they agree."""

import json

import numpy as np
import pytest

from dreamjax.cli.main import main
from dreamjax.pods import ahead, collectives, gpus, plan_report, topologies
from dreamjax.systems.dreamdiffusion import DreamDiffusion

STAGE_A = ["plan", "--config", "configs/pretrain/dreamdiffusion.py", "--json"]
needs_compiler = pytest.mark.skipif(
    not ahead.available(), reason="TPU's compiler is not installed (pip install libtpu; `make test-long` does)"
)
PARAMETERS = 93_012_480  # trained; 93.08 M with the fixed positions


@pytest.fixture
def no_gpu_compiler(monkeypatch):
    monkeypatch.setattr(gpus, "available", lambda: False)


def planned(capsys, *words):
    assert main([*STAGE_A, *words]) == 0
    return json.loads(capsys.readouterr().out)


def moved(result, kind, axes):
    return sum(one["payload"] for one in result["collectives"] if (one["kind"], one["axes"]) == (kind, axes))


def test_without_their_compiler_gpus_are_counted(capsys, no_gpu_compiler):
    """Two nodes of 8: kernels are gathered twice in bfloat16, gradients summed in float32; an eighth crosses nodes."""
    found = planned(capsys, "--topology", "h100-16", "--config.train.mesh.fsdp=8")
    assert (found["how"], found["pod"]["chips"], found["mesh"]) == ("counted", 16, {"data": 2, "fsdp": 8, "tensor": 1})
    assert moved(found, "all-gather", ["fsdp"]) == pytest.approx(4 * PARAMETERS, rel=1e-3)
    assert moved(found, "reduce-scatter", ["fsdp"]) == pytest.approx(4 * PARAMETERS, rel=1e-3)
    assert moved(found, "all-reduce", ["slices"]) == pytest.approx(4 * PARAMETERS / 8, rel=1e-3)
    flop = 6.0832e9 * 256 / 16
    assert found["seconds"]["matrix"] == pytest.approx(flop / 989.4e12, rel=1e-3)
    assert found["seconds"]["low"] <= found["seconds"]["high"]
    assert found["memory"]["peak"] < found["usable"]


def test_without_the_compiler_a_pod_is_counted_too(capsys, monkeypatch):
    monkeypatch.setattr(ahead, "available", lambda pod: False)
    found = planned(capsys, "--topology", "v5e-16", "--config.train.mesh.fsdp=16")
    assert found["how"] == "counted"
    assert main([*STAGE_A[:-1], "--topology", "v5e-16", "--config.train.mesh.fsdp=16"]) == 0
    assert "counted" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--topology", "v5e-17"], "no slice of 17 chips"),
        (["--topology", "v5e-16", "--config.train.mesh.fsdp=5"], "takes a multiple of 5 devices"),
        (["--topology", "h100-16", "--config.train.mesh.fsdp=16", "--config.train.batch_size=100"], "batch"),
        (["--topology", "v5e-16", "--effort", "2"], "lies from -1 to 1"),
        (["--topology", "v5e-16", "--slices", "0"], "slices"),
        (["--topology", "h300-8"], "write one as"),
    ],
)
def test_reports_what_cannot_be_planned(words, says, capsys):
    assert main([*STAGE_A, *words]) == 2
    told = capsys.readouterr().err
    assert says in told
    assert "Traceback" not in told


@needs_compiler
@pytest.mark.long
def test_what_is_compiled_is_what_the_layout_says(capsys):
    """Stage A on 2 × 8 chips: every kernel gathered twice, every gradient summed once, to 1 %; loops of both depths."""
    found = planned(capsys, "--topology", "v5e-16", "--effort", "-1", "--config.train.mesh.fsdp=8")
    assert (found["how"], found["unrecognised"]) == ("compiled", {})
    assert moved(found, "all-gather", ["fsdp"]) == pytest.approx(4 * PARAMETERS, rel=0.01)
    assert moved(found, "reduce-scatter", ["fsdp"]) == pytest.approx(4 * PARAMETERS, rel=0.01)
    assert moved(found, "all-reduce", ["data"]) == pytest.approx(4 * PARAMETERS / 8, rel=0.01)
    assert sorted(found["loops"]) == [4, 4, 12, 12]  # layers of the decoder and of the encoder, forward and backward
    assert found["memory"]["params"] <= found["memory"]["arguments"] <= found["memory"]["peak"] < found["usable"]
    seconds = found["seconds"]
    assert seconds["matrix"] == pytest.approx(6.0832e9 * 256 / 16 / 197e12, rel=1e-3)
    assert seconds["low"] <= seconds["high"]


def test_among_nodes_each_gpu_sends_its_share_alone():
    """Of 16 GPUs in 2 nodes: a sum of 800 bytes within each node, of 100 among the two lanes, and back."""
    pod = topologies.pod("h100-16")
    everyone, pairs = np.arange(16), np.array([0, 8])
    found = collectives.among(everyone, pod, "all-reduce", "data", 800.0)
    assert [(one.kind, one.axes, one.group, one.payload) for one in found] == [
        ("all-reduce", ("slices",), 2, 100.0),
        ("reduce-scatter", ("data",), 8, 800.0),
        ("all-gather", ("data",), 8, 800.0),
    ]
    assert sum(one.received for one in found) == pytest.approx(2 * 0.5 * 100 + 2 * 7 / 8 * 800)
    assert [one.kind for one in collectives.among(everyone, pod, "all-gather", "fsdp", 800.0)] == ["all-gather"] * 2
    assert [one.kind for one in collectives.among(everyone, pod, "reduce-scatter", "fsdp", 800.0)] == [
        "reduce-scatter"
    ] * 2
    [alone] = collectives.among(pairs, pod, "all-reduce", "data", 800.0)  # one of each node
    assert (alone.axes, alone.group, alone.payload) == (("slices",), 2, 800.0)
    [within] = collectives.among(np.arange(8), pod, "all-reduce", "data", 800.0)
    assert within.axes == ("data",)


def test_images_and_scaling_of_a_plan(tmp_path, capsys, no_gpu_compiler):
    """From one node to four; a mesh that cannot grow is one sentence."""
    words = ["--topology", "h100-32", "--batch-per-chip", "8", "--scaling", "--out", str(tmp_path / "plan")]
    found = planned(capsys, *words)
    assert [(row["name"], row["chips"], row["batch"]) for row in found["scaling"]] == [
        ("h100-8", 8, 64),
        ("h100-16", 16, 128),
        ("h100-32", 32, 256),
    ]
    ends = [row["efficiency"]["high"] for row in found["scaling"]]
    assert ends == sorted(ends, reverse=True)
    assert ends[0] == 1
    written = sorted(path.name for path in (tmp_path / "plan").iterdir())
    assert written == ["memory.png", "plan.html", "plan.json", "roofline.png", "scaling.png"]
    assert json.loads((tmp_path / "plan" / "plan.json").read_text())["scaling"] == found["scaling"]
    parts = plan_report.parts(found["memory"])
    assert sum(size for _, size in parts) == pytest.approx(found["memory"]["peak"])
    assert main([*STAGE_A[:-1], *words[:4], "--scaling"]) == 0
    assert "Weak scaling, 8 examples a chip" in capsys.readouterr().out
    assert main([*STAGE_A, "--topology", "h100-8", "--scaling", "--config.train.mesh.data=8"]) == 2
    assert "leave one axis open" in capsys.readouterr().err
    assert main([*STAGE_A, "--topology", "h100-8", "--batch-per-chip", "auto"]) == 2
    assert (
        "--batch-per-chip auto requires the compiler for h100-8: pip install jax-cuda12-plugin"
        in capsys.readouterr().err
    )


@needs_compiler
@pytest.mark.long
def test_the_largest_batch_is_compiled(capsys):
    """It fills a chip, without the compiler computing anything twice; its loops are the model's."""
    words = ["--topology", "v5e-4", "--effort", "-1", "--config.train.mesh.fsdp=4"]
    found = planned(capsys, *words, "--batch-per-chip", "auto")
    assert found["batch"]["device"] > 256
    assert (found["computed_twice"], found["strange_loops"]) == (0, [])
    assert 0.9 * found["usable"] < found["memory"]["peak"] <= found["usable"]


SD15 = ["plan", "--config", "configs/image/text_to_image_sd15_pod.py", "--topology", "h100-8"]
SD15 += ["--config.train.mesh.data=-1", "--json"]


@pytest.mark.pods
@pytest.mark.skipif(not gpus.available(), reason=f"the compiler for GPUs is not installed ({gpus.remedy()})")
def test_for_gpus_the_largest_batch_and_its_scaling_are_compiled(capsys):
    tiny = ("--config", "configs/pretrain/tiny.py", "--config.train.mesh.data=-1")
    one = planned(capsys, *tiny, "--topology", "l40s-1", "--batch-per-chip", "auto")
    assert one["how"] == "compiled"
    assert 0.8 * one["usable"] < one["memory"]["peak"] <= one["usable"]
    several = planned(capsys, *tiny, "--topology", "l40s-16", "--batch-per-chip", "256", "--scaling")
    assert [(row["name"], row["how"], row["batch"]) for row in several["scaling"]] == [
        ("l40s-8", "compiled", 8 * 256),
        ("l40s-16", "compiled", 16 * 256),
    ]
    assert several["scaling"][1]["efficiency"]["low"] <= 1.0


def test_making_images_is_planned_too(capsys, no_gpu_compiler):
    """Thirty steps with and without the empty caption: 60 passes of the U-Net of 859.5 M parameters, in bfloat16."""
    assert (
        main([*SD15, "--images", "30", "--sampler", "ddim", "--batch-per-chip", "4", "--config.train.mesh.fsdp=1"]) == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert (found["what"], found["batch"], found["steps"]) == ("a batch of images", {"step": 32, "device": 4}, 0)
    assert found["flop_per_example"] == pytest.approx(60 * 0.8033e12, rel=1e-3)  # 0.80 TFLOP a pass
    assert found["memory"]["params"] == pytest.approx(2 * (859.5e6 + 83.7e6), rel=1e-2)
    assert (found["collectives"], found["unsharded"]) == ([], 0)
    assert main([*SD15, "--images", "30", "--sampler", "ddim", "--guidance", "1", "--config.train.mesh.fsdp=8"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert whole["flop_per_example"] == pytest.approx(found["flop_per_example"] / 2)
    assert whole["memory"]["params"] == pytest.approx(found["memory"]["params"] / 8, rel=0.02)
    assert moved(whole, "all-gather", ["fsdp"]) == pytest.approx(30 * 2 * 859.5e6, rel=1e-3)
    assert main([*SD15[:-1], "--images", "30", "--config.train.mesh.fsdp=8"]) == 0
    said = capsys.readouterr().out
    assert "text_to_image, a batch of images, on h100-8" in said
    assert "chip-hours" not in said
    for words, told in (
        ([*SD15, "--guidance", "2"], "--guidance would do nothing without --images"),
        ([*STAGE_A, "--topology", "h100-8", "--images", "30"], "masked_pretraining does not generate images"),
        ([*SD15, "--images", "30", "--sampler", "dimm"], "dimm"),
    ):
        assert main(words) == 2
        assert told in capsys.readouterr().err


@needs_compiler
@pytest.mark.long
def test_images_are_compiled(capsys):
    """The demo's latent diffusion on four chips: 20 steps are a loop, and its operations those of the U-Net, about."""
    words = ["--config", "configs/image/text_to_image_shapes.py", "--topology", "v5e-4", "--effort", "-1"]
    assert main(["plan", *words, "--json", "--images", "20", "--sampler", "ddim", "--batch-per-chip", "8"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["how"], found["unrecognised"], found["strange_loops"]) == ("compiled", {}, [])
    assert 20 in found["loops"]
    # the autoencoder comes on top; of 3 x 3 places at the rim of 8 x 8, those outside the image are left out
    assert 0.8 < found["flop_compiled"] / found["flop_per_example"] < 1.2


def test_plan_without_known_operations_predicts_no_time(tmp_path, capsys, monkeypatch, no_gpu_compiler):
    """A system that does not count its operations gets no time and no figure of it without the compiler."""
    monkeypatch.setattr(DreamDiffusion, "flops", lambda self: None)
    words = ["plan", "--config", "configs/image/dreamdiffusion_code.py:pod=v5e:4x4", "--topology", "h100-8"]
    words += ["--config.train.mesh.data=-1", "--config.train.mesh.fsdp=1"]
    assert main([*words, "--out", str(tmp_path / "plan")]) == 0
    said = capsys.readouterr().out
    assert "the duration of a step is unknown" in said
    assert "matrix units" not in said
    assert "examples a second" not in said
    assert sorted(path.name for path in (tmp_path / "plan").iterdir()) == ["memory.png", "plan.html", "plan.json"]
    assert main([*words, "--scaling"]) == 2
    assert "unknown without the compiler, and so is how it scales" in capsys.readouterr().err
