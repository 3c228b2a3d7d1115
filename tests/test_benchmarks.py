"""Every benchmark beside PyTorch runs, at its smallest size, and prints what it promises."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dreamjax.pods import gpus

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


RETRIEVAL = ("nice", "atm", "brain_module")


def test_retrieval():
    result = run("retrieval.py", "--smallest", "--without-compile", "--rounds", "1", "--runs", "2")["systems"]
    assert tuple(result) == RETRIEVAL
    for one in result.values():
        check(one["contestants"])
        assert one["contestants"]["torch eager"]["time / dreamjax, 2 seeds as one"][0] > 0
        assert max(one["differences"].values()) < 1e-5


STEPS = ("step-batch", "step-depth", "step-channels", "step-length")


@pytest.mark.parametrize("axis", [*STEPS, "prepare", "sampling", "evaluation", "resume", "sweep"])
def test_growth(axis):
    results = run("growth.py", "--axes", axis, "--smallest", "--rounds", "1")["axes"]
    assert results
    for name, result in results.items():
        assert name.startswith(axis)
        laws = {key: value for key, value in result.items() if isinstance(value, dict) and "seconds" in value}
        assert len(laws) == 1 + (name in (*STEPS, "sampling-batch", "prepare-length", "prepare-count"))
        assert all(seconds > 0 for law in laws.values() for seconds in law["seconds"].values())


def test_back_test():
    if not gpus.available():
        pytest.skip(f"the compiler for GPUs is not installed ({gpus.remedy()}; `make test-pods` does)")
    result = run("back_test.py", "--small", "--cases", "gpt2")["cases"]["gpt2"]
    low, high = result["predicted"]
    assert 0 < low < high
    assert result["measured"] == [576.0, 576.0]  # 4 days for 600,000 steps


# ---------------------------------------------------------------------------------------------------- benchmarks/gpu.sh
ABSENT = """
import os, sys
from importlib.machinery import PathFinder

class Present(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        absent = name.split(".")[0] in os.environ["ABSENT"].split()
        return None if absent else super().find_spec(name, path, target)

sys.meta_path = [Present if finder is PathFinder else finder for finder in sys.meta_path]
"""


def beyond(*names):
    """Return the importable packages of this environment that these distributions do not bring."""
    waiting, brought = list(names), set()
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        if name not in brought:
            waiting += [re.match(r"[\w.-]+", need)[0] for need in needs if "extra ==" not in need]
        brought.add(name)
    owners = importlib.metadata.packages_distributions()
    return {
        package
        for package, distributions in owners.items()
        if not brought & {re.sub(r"[-_.]+", "-", name).lower() for name in distributions}
    }


def test_gpu_runs_with_jax_flax_optax_numpy_and_torch_alone(tmp_path):
    pytest.importorskip("torch")
    absent = beyond("jax", "flax", "optax", "numpy", "torch") - {"dreamjax"}
    assert {"jaxtyping", "ml_collections", "grain", "mne", "diffusers", "transformers", "sklearn"} <= absent
    (tmp_path / "sitecustomize.py").write_text(ABSENT)
    environment = {"PYTHON": sys.executable, "PYTHONPATH": str(tmp_path), "ABSENT": " ".join(absent)}
    command = ["bash", str(BENCHMARKS / "gpu.sh"), "--smoke", "--out", str(tmp_path / "out")]
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    jobs = results["jobs"]
    assert list(jobs) == ["ceiling", "pretraining", "unet_training", "sampling", "small", *RETRIEVAL, "stage_b"]
    assert jobs.pop("ceiling")["tflop_per_s"].keys() == {"dreamjax", "torch"}
    for job in jobs.values():
        assert job["status"] == "done"
        ours, theirs = (job["contestants"][side] for side in ("dreamjax", "torch eager"))
        assert ours["parameters"] == theirs["parameters"] > 0
        assert ours["tflop_per_s"] > 0
        assert ours["predicted_mib"] >= 0 < ours["peak_mib"]
        assert theirs["time / dreamjax"][0] > 0
        assert f"| {job['title']}, batch {job['batch']} |" in done.stdout
        assert all(value <= job["check"]["most"][name] for name, value in job["check"]["differences"].items())
    assert jobs["nice"]["contestants"]["torch eager"]["time / dreamjax, 4 seeds as one"][0] > 0
    assert jobs["pretraining"]["profile"][0]["ms"] > 0
    assert (tmp_path / "out" / "pretraining.trace.json.gz").exists()


def test_the_unet_twin_computes_what_diffusers_computes(monkeypatch):
    """The same tensors by name, and from them the same output, also with a class embedding and when rematerialised."""
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import diffusion_models
    import unet_twin

    fields = diffusion_models.unet_fields(diffusion_models.parts_of("sd15"))
    with torch.device("meta"):
        assert sum(p.numel() for p in unet_twin.UNet(fields).parameters()) == 859_520_964
    fields = diffusion_models.unet_fields(diffusion_models.parts_of("tiny"))
    torch.manual_seed(0)
    theirs = diffusers.UNet2DConditionModel.from_config(fields | {"class_embed_type": "identity"})
    twin = unet_twin.UNet(fields)
    twin.load_state_dict(theirs.state_dict())
    x, t, context, added = torch.randn(2, 4, 8, 8), torch.tensor([3, 700]), torch.randn(2, 12, 16), torch.randn(2, 32)
    expected = theirs(x, t, context, class_labels=added, return_dict=False)[0]
    torch.testing.assert_close(twin(x, t, context, class_labels=added)[0], expected)
    twin.enable_gradient_checkpointing()
    torch.testing.assert_close(twin(x, t, context, class_labels=added)[0], expected)


@pytest.mark.parametrize("remat", [False, True])
def test_the_twins_are_one_graph_for_the_compiler(monkeypatch, remat):
    """`torch.compile` would otherwise compile pieces, and what is compared with would not be what it can do."""
    torch = pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import diffusion_models
    import pretrain
    import stage_b_sizes
    import stage_b_twin
    import unet_twin

    def step(module, *inputs):
        output = torch.compile(module, backend="aot_eager", fullgraph=True)(*inputs)
        (output[0] if isinstance(output, tuple) else output).sum().backward()
        assert all(p.grad is not None for p in module.parameters())

    unet = unet_twin.UNet(diffusion_models.unet_fields(diffusion_models.parts_of("tiny")))
    if remat:
        unet.enable_gradient_checkpointing()
    step(unet, torch.randn(2, 4, 8, 8), torch.tensor([3, 700]), torch.randn(2, 12, 16))
    sizes = stage_b_sizes.sizes_of("tiny", None, 1, "none")
    model = sizes.config.encoder.model
    encoder = stage_b_twin.Encoder(model, sizes.config.data.samples // model.patch, remat=remat)
    step(encoder, torch.from_numpy(sizes.signal()))
    if not remat:
        config = pretrain.comparable("tiny", 2, "float32", unroll=False)
        trainer = pretrain.twin_of(config, "cpu", compiled=False)
        step(
            trainer.model, torch.from_numpy(pretrain.batch_of(config.model.channels, config.data.samples, 2)["signal"])
        )


def test_gpu_samples_the_same_latents_on_both_sides(monkeypatch):
    """From the same weights and the same noise; so the twin has the same network and the same sampler."""
    torch = pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import diffusion_models
    import generate
    import numpy as np
    from gpu import unet_sampling

    work = unet_sampling.Work(smoke=True, batch=2)
    params = generate.our_params(work.sizes)
    sampler = generate.our_sampler(work.sizes, 4, params)
    ours = np.asarray(sampler.compiled(*sampler.args))
    model, device = diffusion_models.theirs(work.sizes, compiled=False, twin=True)
    tensors = diffusion_models.ours(work.sizes)[0].table.to_torch(params)
    model.load_state_dict({name: torch.from_numpy(np.array(x)) for name, x in dict(tensors).items()})
    step = unet_sampling.torch_sampler(model.eval(), device, work.sizes, 4)
    step(1)
    np.testing.assert_allclose(step.latents.permute(0, 2, 3, 1), ours, atol=2e-4 * np.abs(ours).max())
