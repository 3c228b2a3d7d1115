"""`dreamjax export --to diffusers`: a run → a folder that diffusers and transformers open, by a writer a system."""

import importlib
from typing import Any, Literal

from etils import epath

from dreamjax.errors import UserError
from dreamjax.storage import atomic, paths
from dreamjax.systems import opening

TOLERANCE = 1e-4  # of the largest magnitude; float32
# system → (module of dreamjax.export, the file of its folder that is written last). A module has a `comparison.Library`
# as LIBRARY and write(folder, run, compare) -> {"parameters": int, "differences": {output: difference} or None}
WRITERS = {
    "autoencoder": ("autoencoder_export", "config.json"),
    "classifier": ("classifier_export", "README.md"),
    "clip": ("clip_export", "README.md"),
    "dreamdiffusion": ("dreamdiffusion_export", "model_index.json"),
    "text_to_image": ("pipeline_export", "model_index.json"),
}


def export(
    workdir: epath.PathLike,
    out: epath.PathLike,
    *,
    step: int | None = None,
    best: bool = False,
    weights: Literal["ema", "params"] = "ema",
) -> dict[str, Any]:
    """Write the folder `out` from the newest (or `step`, or the `best`) step of a run; returns what the command says.

    `weights`: the averaged ones where the run kept an average, or the parameters themselves. The folder gets its name
    when the libraries, where they are installed, have computed the same from it.

    Raises UserError for a run that is missing or of a system that they have no model for, and a folder that exists.
    """
    out = paths.reachable(out)
    if out.exists():
        raise UserError(f"{out} exists already; choose another --out or delete it")
    config = opening.config_of(workdir)
    if config.system not in WRITERS:
        raise UserError(f"{workdir} is a run of {config.system}, which diffusers has no model for; try --to torch")
    module, last = WRITERS[config.system]
    writer = importlib.import_module(f"dreamjax.export.{module}")
    with writer.LIBRARY.started(TOLERANCE) as compare:
        run = opening.open_run(workdir, step=step, best=best, averaged=weights == "ema")
        with atomic.new_folder(out, last=last) as folder:
            told = writer.write(folder, run, compare)
    return {
        "out": str(out),
        "step": run.step,
        "weights": "ema" if run.averaged else "params",
        "licence": None,
        "tolerance": TOLERANCE,
        **told,
    }
