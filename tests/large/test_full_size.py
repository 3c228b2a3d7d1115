"""The published networks at their full size, in float32, beside diffusers and transformers: `make test-large`.

The weights are random and written by those libraries themselves; the way from their folder to our devices is the one
that every run takes. PyTorch's network is gone before ours is read, so that one of them is in memory at a time.
"""

import gc
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from etils import epath
from flax import nnx

from dreamjax.parallel import mesh as meshes
from dreamjax.parallel.mesh import MeshConfig
from dreamjax.runs import shapes
from dreamjax.runs.components import Components
from dreamjax.weights import loaded
from tests import parity

pytestmark = pytest.mark.large
torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

CONTEXT = 77  # tokens of a text
MEMORY = 16 << 30  # bytes that a test may take, of the 24 GiB of the smallest machine this is meant for


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def nchw(x: np.ndarray) -> Any:
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def nhwc(x: Any) -> np.ndarray:
    return x.numpy().transpose(0, 2, 3, 1)


def of_torch(make: Callable[[], Any], folder: Path, run: Callable[[Any], dict[str, Any]]) -> tuple[int, dict[str, Any]]:
    """(parameters, outputs) of a network of which nothing remains but its folder."""
    network = parity.randomise(make())
    count = sum(p.numel() for p in network.parameters())
    with torch.no_grad():
        outputs = {name: np.array(value) for name, value in run(network).items()}
    network.save_pretrained(folder)
    del network
    gc.collect()
    return count, outputs


def of_ours(name: str, folder: Path, run: Callable[..., dict[str, Any]], *inputs: Any) -> tuple[int, dict[str, Any]]:
    """(parameters, outputs) of what is read from that folder; `run(network, *inputs)` is one program."""
    one = meshes.make(MeshConfig(), jax.devices()[:1])
    part = loaded.load_network(Components(parts={name: epath.Path(folder)}), name, one)
    outputs = jax.jit(lambda params, *inputs: run(part.bound(params), *inputs))(part.params, *inputs)
    return sum(leaf.size for leaf in jax.tree.leaves(part.params)), jax.tree.map(np.asarray, outputs)


@contextmanager
def told(name: str, capsys: Any) -> Iterator[dict[str, float]]:
    """Prints what was measured, also where the test passes; fails above `MEMORY`."""
    found: dict[str, float] = {}
    own, begin = Path("/proc/self"), time.perf_counter()
    if (own / "clear_refs").exists():
        (own / "clear_refs").write_text("5")  # the peak is counted anew
    yield found
    seconds = time.perf_counter() - begin
    peak = 0
    if (own / "status").exists():
        peak = int(re.search(r"VmHWM:\s+(\d+) kB", (own / "status").read_text()).group(1)) << 10
    differences = ", ".join(f"{key} {value:.1e}" for key, value in found.items())
    with capsys.disabled():
        print(f"\n{name}: largest difference {differences}; {seconds:.0f} s, peak memory {peak / 2**30:.1f} GiB")
    assert peak < MEMORY


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder of gigabytes, removed at once."""
    yield tmp_path
    for path in tmp_path.rglob("*.safetensors"):
        path.unlink()


@pytest.mark.parametrize(("architecture", "parameters"), [("sd15", 859_520_964), ("sd21", 865_910_724)])
def test_unet(architecture, parameters, folder, capsys):
    """64 x 64 latents (images of 512 x 512), one example, any time step."""
    config = shapes.get(architecture)["unet"]
    x, t = normal(1, 64, 64, 4), np.array([421])
    context = normal(1, CONTEXT, config["cross_attention_dim"], seed=1)

    def torchs(unet: Any) -> dict[str, Any]:
        return {"output": nhwc(unet(nchw(x), torch.tensor(t), torch.tensor(context)).sample)}

    with told(f"U-Net of {architecture}", capsys) as found:
        make = lambda: diffusers.UNet2DConditionModel.from_config(config)  # noqa: E731
        count, theirs = of_torch(make, folder, torchs)
        ours_count, ours = of_ours("unet", folder, lambda unet, *x: {"output": unet(*x)}, x, t, context)
        assert count == ours_count == parameters
        found["output"] = parity.report(ours, theirs)


def test_autoencoder(folder, capsys):
    """Both ways, at images of 128 x 128."""
    config = shapes.get("sd15")["vae"]
    images, latents = normal(1, 128, 128, 3), normal(1, 16, 16, 4, seed=1)

    def torchs(vae: Any) -> dict[str, Any]:
        posterior = vae.encode(nchw(images)).latent_dist
        decoded = vae.decode(nchw(latents)).sample
        return {"mean": nhwc(posterior.mean), "log_variance": nhwc(posterior.logvar), "decoded": nhwc(decoded)}

    def ours(vae: Any, images: Any, latents: Any) -> dict[str, Any]:
        mean, log_variance = vae.moments(images)
        return {"mean": mean, "log_variance": log_variance, "decoded": vae.decode(latents)}

    with told("autoencoder of sd15", capsys) as found:
        count, theirs = of_torch(lambda: diffusers.AutoencoderKL.from_config(config), folder, torchs)
        ours_count, outputs = of_ours("vae", folder, ours, images, latents)
        assert count == ours_count == 83_653_863
        for name in theirs:
            found[name] = parity.report({name: outputs[name]}, {name: theirs[name]})


TEXT, VISION = "text_encoder", "image_encoder"


@pytest.mark.parametrize(("part", "parameters"), [(TEXT, 123_060_480), (VISION, 303_966_208)])
def test_clip(part, parameters, folder, capsys):
    """The halves of ViT-L/14: every hidden state, and what comes of them. Texts have 77 tokens, images 224 x 224."""
    config = shapes.get("sd15")[part]
    rng = np.random.default_rng(0)
    if part == TEXT:
        inputs = rng.integers(0, 49406, (2, CONTEXT))
        inputs[:, 0], inputs[0, 20:], inputs[1, -1] = 49406, 49407, 49407
        make = lambda: transformers.CLIPTextModel(transformers.CLIPTextConfig(**config))  # noqa: E731
        given = torch.tensor(inputs)
    else:
        inputs = normal(1, 224, 224, 3)
        make = lambda: transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**config))  # noqa: E731
        given = nchw(inputs)
    last = "pooled" if part == TEXT else "projected"

    def torchs(encoder: Any) -> dict[str, Any]:
        out = encoder(given, output_hidden_states=True)
        found = {f"hidden state {i:2}": state for i, state in enumerate(out.hidden_states)}
        found["last hidden state"] = out.last_hidden_state
        return found | {last: out.pooler_output if part == TEXT else out.image_embeds}

    def ours(encoder: Any, inputs: Any) -> dict[str, Any]:
        graph, params = nnx.split(encoder.blocks)
        states = [encoder.embed(inputs)]
        for i in range(
            encoder.depth
        ):  # block by block: `hidden_state` of every layer at once copies the stack for each
            block = nnx.merge(graph, jax.tree.map(lambda leaf: leaf[i : i + 1], params))  # noqa: B023
            states.append(encoder.run(block, states[-1], None))
        states[-2] = encoder.hidden_state(inputs, -2)
        found = {f"hidden state {i:2}": state for i, state in enumerate(states)}
        out = encoder(inputs)
        return found | {"last hidden state": out.last_hidden_state, last: getattr(out, last)}

    with told(f"CLIP ViT-L/14, {part}", capsys) as found:
        count, theirs = of_torch(make, folder, torchs)
        ours_count, outputs = of_ours(part, folder, ours, inputs)
        assert count == ours_count == parameters
        outputs = {name: outputs[name] for name in theirs if name in outputs}  # jit sorts by name
        found["hidden states and output"] = parity.report(outputs, theirs)
