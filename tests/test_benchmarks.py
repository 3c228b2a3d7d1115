"""Every benchmark beside PyTorch runs, at its smallest size, and prints what it promises."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long  # a dozen processes that each import JAX, PyTorch and diffusers

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
TINY = ("--model", "tiny", "--size", "8", "--batch", "1", "--rounds", "1", "--without-compile")


def run(script, *options):
    pytest.importorskip("torch")
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *options], capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def check(contestants):
    assert set(contestants) >= {"dreamjax", "torch eager"}
    for found in contestants.values():
        assert found["ms_per_step"] > 0
    assert contestants["torch eager"]["time / dreamjax"][0] > 0


def test_generate():
    pytest.importorskip("diffusers")
    found = run("generate.py", *TINY, "--steps", "2", "--forwards", "1")
    for part in ("forward", "sampling"):
        check(found[part]["contestants"])
        assert all(child["peak_mib"] > 50 for child in found[part]["contestants"].values())


def test_finetune():
    pytest.importorskip("diffusers")
    found = run("finetune.py", *TINY, "--steps", "1", "--apart")
    check(found["contestants"])
    assert found["gflop_per_step"] > 0


def test_pretrain():
    check(
        run("pretrain.py", "--preset", "tiny", "--batch", "4", "--rounds", "1", "--steps", "1", "--without-compile")[
            "contestants"
        ]
    )


def test_stage_b():
    pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    found = run("stage_b.py", "--model", "tiny", "--batch", "1", "--rounds", "1")
    assert set(found["contestants"]) == {"dreamjax", "torch, as published", "torch, competent"}
    for name, one in found["contestants"].items():
        assert one["ms_per_step"] > 0
        assert one["peak_mib"] >= 0
        assert name == "dreamjax" or one["time / dreamjax"][0] > 0


def test_stage_b_counts_what_the_published_step_wastes(monkeypatch):
    """The parameters that both sides train are as many; the published one keeps gradients of the U-Net and CLIP too."""
    pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import jax
    import stage_b_sizes
    import stage_b_twin

    sizes = stage_b_sizes.sizes_of("tiny", None, 2, "full")
    task = stage_b_sizes.task_of(sizes)
    ours = jax.eval_shape(task.init, jax.random.key(0))
    batch = {name: (x.shape[1:], x.dtype) for name, x in stage_b_sizes.our_batch(sizes).items()}
    assert batch == {name: (x.shape, x.dtype) for name, x in task.example().items()}
    careful = stage_b_twin.made(sizes, published=False, remat=True)
    published = stage_b_twin.made(sizes, published=True, remat=True)

    def count(tensors):
        return sum(x.numel() for x in {id(x): x for x in tensors}.values())

    trained = sum(x.size for x in jax.tree.leaves(ours.params))
    frozen = sum(x.size for x in jax.tree.leaves(ours.frozen["unet"]))
    assert count(careful.listed) == trained
    assert count(careful.networks.unet.parameters()) + count(careful.networks.encoder.parameters()) + count(
        careful.networks.maps.parameters()
    ) == trained + frozen + count([careful.networks.encoder.positions])
    for step in (careful, published):
        step.step()
    held = {
        name: count(p for p in step.networks.parameters() if p.grad is not None)
        for name, step in {"careful": careful, "published": published}.items()
    }
    assert held["careful"] == 0  # they are gone after the step
    clip = count(p for p in published.networks.clip.parameters() if p.grad is not None)
    assert held["published"] == trained + frozen + clip + count([published.networks.encoder.positions])
    counted = {name: stage_b_twin.counted(sizes, published=name == "published", remat=True) for name in held}
    assert counted["published"]["gradients"] == 4 * held["published"]
    assert counted["careful"]["gradients"] == 4 * trained


def test_evaluation():
    found = run("evaluation.py", "--trials", "8", "16")
    assert set(found["cpu_s"]["16"]) == {"columns", "intervals", "sets", "confusions"}
    assert found["cpu_s"]["16"]["intervals"] > 0
    assert found["peak_mib"] > 50


def test_linear():
    found = run("linear.py", "--rounds", "2", "--batches", "2", "4", "--depths", "1", "2")
    for what, sizes in (("batch", {"2", "4"}), ("depth", {"1", "2"})):
        assert set(found[what]["ms"]) == set(found[what]["compiling_s"]) == sizes
        assert all(value > 0 for value in found[what]["ms"].values())
