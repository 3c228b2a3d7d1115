"""Export retrieval systems to PyTorch, and import what was exported: the same for every system of the family.

A folder has config.json (the class of the encoder and its arguments, the signal that it reads, the run's config),
model.safetensors (the encoder's tensors in the names of the released code where there is one, and those of the image's
side), one Python file that needs no dreamjax, and parity.safetensors.
"""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from dreamjax import config as configs
from dreamjax.errors import UserError
from dreamjax.models.brain_module import unit_positions
from dreamjax.systems.base import Run
from dreamjax.systems.exchange import Checkpoint, Component, Exported, Format, Imported, ImportOptions
from dreamjax.systems.opening import parameter_count
from dreamjax.training.task import PyTree
from dreamjax.typing import JsonDict

if TYPE_CHECKING:
    from dreamjax.systems.retrieval_base import RetrievalSystem

PYTORCH = Path(__file__).parent / "pytorch"
MODULE = "modeling_dreamjax"
CHECK = f"""
import {MODULE}
model = {MODULE}.from_pretrained(".")
differences = {{
    "brain": difference(model(p["signal"], p["subject"]), "brain"),
    "image": difference(model.images(p["vectors"]), "image"),
}}
"""
USAGE = f"""import {MODULE}                                 # in this folder

model = {MODULE}.from_pretrained("FOLDER")
scores = model.similarity(x, vectors)           # x: (trials, channels, time); vectors: (images, features)"""
TRIALS = 3  # of the parity arrays
LOCAL = re.compile(r"^from dreamjax\.systems\.pytorch\.(\w+) import .*\n", re.MULTILINE)
HEADER = re.compile(r'\A""".*?"""\n', re.DOTALL)


def export(task: "RetrievalSystem", run: Run, format: Format) -> Exported:
    """Return the folder that a PyTorch user loads in one line."""
    sizes, (module, name) = task.sizes, task.torch_twin
    trained = replace(task.config, sizes=sizes, data=replace(task.config.data, path=()))
    encoder = task.network.table.to_torch(run.params["encoder"])
    tensors = encoder | {n: np.asarray(x, np.float32) for n, x in task.image_tensors(run.params).items()}
    if task.needs_positions:
        xyz = np.asarray(run.params["positions"], np.float32)
        tensors |= {"xyz": xyz, "positions": np.asarray(unit_positions(jnp.asarray(xyz), task._arguments["dims"]))}
    arrays = parity(task, run.params)
    config = {
        "class": name,
        "arguments": task._arguments,
        "takes": "positions" if task.needs_positions else _takes(module, name),
        "channels": sizes.channels,
        "features": sizes.features,
        "width": int(arrays["brain"].shape[1]),
        "people": list(task.config.data.people),
        "signal": signal_in_words(task),
        **task.image_config(),
        "run": json.loads(configs.to_json(trained)),
    }
    return Exported(
        {"": Component(config, tensors, {f"{MODULE}.py": source(module)})},
        arrays,
        CHECK,
        title=f"{task.name}: a retrieval system trained with dreamjax",
        usage=USAGE,
        rows={"image vectors": task.config.target.words, "signal": config["signal"]},
        tolerance=task.parity_tolerance,
        compared="`signal`, `subject` and `vectors`, and dreamjax's `brain` and `image` for them",
    )


def source(module: str) -> str:
    """Return one file of the encoder's module, what it imports from its neighbours, and the model around it."""
    parts = [(PYTORCH / f"{name}.py").read_text(encoding="utf-8") for name in (module, "retrieval")]
    needed = LOCAL.findall(parts[0])
    texts = [(PYTORCH / f"{name}.py").read_text(encoding="utf-8") for name in needed] + [LOCAL.sub("", parts[0])]
    head = HEADER.match(parts[1])
    assert head is not None
    return head[0] + "\n" + "\n\n".join(HEADER.sub("", text).strip() for text in (*texts, parts[1])) + "\n"


def _takes(module: str, name: str) -> str:
    """Return whether the twin's forward pass reads the number of the person."""
    text = (PYTORCH / f"{module}.py").read_text(encoding="utf-8")
    body = text[text.index(f"class {name}(") :]
    return "subject" if "subject_ids" in body[body.index("def forward") :].partition("\n")[0] else "signal"


def signal_in_words(task: "RetrievalSystem") -> str:
    """Return a clause on what the encoder reads."""
    data, sizes = task.config.data, task.sizes
    scaling = {
        "none": "as recorded",
        "zscore": "z-scored by channel over the person's training trials",
        "robust": "by channel: less the median, over the interquartile range / 1.349 of the person's training trials",
    }[data.scaling]
    clip = f", clipped at ± {data.clip:g}" if data.clip else ""
    return f"{sizes.channels} channels x {sizes.samples} samples, {scaling}{clip}"


def parity(task: "RetrievalSystem", params: PyTree) -> dict[str, np.ndarray]:
    """Return noise in place of trials and vectors, and dreamjax's output for both in float32."""
    rng, sizes = np.random.default_rng(0), task.sizes
    signal = rng.standard_normal((TRIALS, sizes.channels, sizes.samples)).astype(np.float32)
    subject = np.arange(TRIALS) % (sizes.people + 1) - 1
    layers = task.image_config().get("layers", 0)
    shape = (TRIALS, layers, sizes.features) if layers > 1 else (TRIALS, sizes.features)
    vectors = rng.standard_normal(shape).astype(np.float32)
    batch = {"signal": signal, "subject": subject.astype(np.int32)}
    with jax.default_matmul_precision("highest"):
        brain = jax.jit(task.query)(params, batch)
        image = jax.jit(task.image_side)(params, jnp.asarray(vectors))
    given: dict[str, np.ndarray] = {"signal": signal, "subject": subject.astype(np.int64), "vectors": vectors}
    return given | {"brain": np.asarray(brain), "image": np.asarray(image)}


def imported(system: type["RetrievalSystem"], checkpoint: Checkpoint, options: ImportOptions) -> Imported | None:
    """Return the run of an exported folder; None for one of another system.

    Raise UserError naming every tensor that misfits.
    """
    settings = checkpoint.settings.get("run")
    if not isinstance(settings, dict) or settings.get("system") != system.name:
        return None
    config: Any = configs.from_json(system.Config, json.dumps(settings), f"{checkpoint.source}/config.json")
    if not config.sizes.known:
        raise UserError(f"{checkpoint.source}: its config does not state the sizes of the network; export it again")
    task = system(config)
    shapes: Any = jax.eval_shape(task.init_params, jax.random.key(0))
    like = task.image_tensors(jax.tree.map(lambda x: np.zeros(x.shape), shapes))
    like |= {"xyz": shapes["positions"]} if task.needs_positions else {}
    names = {*like, "positions", "xyz"}
    tensors = {name: x for name, x in checkpoint.tensors.items() if name not in names}
    given = {name: np.asarray(x) for name, x in checkpoint.tensors.items() if name in names}
    if wrong := [name for name, x in like.items() if name not in given or given[name].shape != np.shape(x)]:
        raise UserError(f"{checkpoint.source}: {', '.join(wrong)} missing or of another shape; export it again")
    params: JsonDict = {
        "encoder": task.network.table.to_dreamjax(tensors, shapes["encoder"], checkpoint.source),
        "logit_scale": np.float32(config.loss.initial),
        **task.image_params(given),
    }
    if task.needs_positions:
        params["positions"] = given["xyz"]
    return Imported(system.name, config, params, parameter_count(params), {"system": system.name})
