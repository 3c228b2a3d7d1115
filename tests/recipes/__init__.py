"""The recipes for pods, each compiled for its own: golden summaries, which `python -m tests.recipes` rewrites.

A summary holds what must not change by accident: memory, every collective, loops, and the range of a step's time.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamjax import config
from dreamjax.pods import jobs, plan, topologies
from dreamjax.pods.topologies import Pod
from dreamjax.systems import registry

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Recipe:
    """A config and the pod that it is for. `effort`: of the compiler; in full, Stable Diffusion takes it an hour."""

    config: str
    topology: str
    slices: int = 1
    effort: float | None = None
    gradients: str = "f32"  # the type in which they are summed over chips

    @property
    def pod(self) -> Pod:
        return topologies.pod(self.topology, self.slices)

    @property
    def command(self) -> str:
        more = f" --slices {self.slices}" if self.slices > 1 else ""
        more += f" --effort {self.effort:g}" if self.effort is not None else ""
        return f"dreamjax plan --config {self.config} --topology {self.topology}{more}"


RECIPES = {
    "trials_12k": Recipe("configs/pretrain/pod_trials_12k.py", "v5e-8"),
    "windows_120k": Recipe("configs/pretrain/pod_windows_120k.py", "v5e-64"),
    "corpus_60000h": Recipe("configs/pretrain/pod_corpus_60000h.py", "v5e-256", slices=2),
    "dreamdiffusion": Recipe("configs/image/dreamdiffusion.py:pod=v5e:4x4", "v5e-16", effort=-1),
    "text_to_image_sd15": Recipe("configs/image/text_to_image_sd15_pod.py", "v5e-16", effort=-1),
    "trials_12k_h200_1": Recipe("configs/pretrain/pod_trials_12k.py:pod=h200-1", "h200-1"),
    "trials_12k_h200_8": Recipe("configs/pretrain/pod_trials_12k.py:pod=h200-8", "h200-8"),
    "trials_12k_h200_64": Recipe("configs/pretrain/pod_trials_12k.py:pod=h200-64", "h200-64"),
    "corpus_60000h_h200_8": Recipe("configs/pretrain/pod_corpus_60000h.py:pod=h200-8", "h200-8"),
    "corpus_60000h_h200_64": Recipe("configs/pretrain/pod_corpus_60000h.py:pod=h200-64", "h200-64"),
    "dreamdiffusion_h200_1": Recipe("configs/image/dreamdiffusion.py:pod=h200-1,per_chip=64", "h200-1"),
    "dreamdiffusion_h200_8": Recipe("configs/image/dreamdiffusion.py:pod=h200-8,per_chip=64", "h200-8"),
    "dreamdiffusion_h200_64": Recipe("configs/image/dreamdiffusion.py:pod=h200-64,per_chip=64", "h200-64"),
    "text_to_image_sd15_h200_1": Recipe("configs/image/text_to_image_sd15_pod.py:pod=h200-1", "h200-1"),
    "text_to_image_sd15_h200_8": Recipe("configs/image/text_to_image_sd15_pod.py:pod=h200-8", "h200-8"),
    "text_to_image_sd15_h200_64": Recipe("configs/image/text_to_image_sd15_pod.py:pod=h200-64", "h200-64"),
}


def path_of(name: str) -> Path:
    return FOLDER / f"{name}.json"


def summary(recipe: Recipe) -> dict[str, Any]:
    """Return what the recipe compiles to; this takes minutes."""
    loaded = config.load(str(REPOSITORY / recipe.config), [], registry.schema_of)
    result = plan.plan(jobs.TrainingStep(loaded), recipe.pod, effort=recipe.effort)
    found = result.as_json()
    mib, ms = 2**20, 1e-3
    kernels = {
        f"{one['kind']} of {one['types']}": [
            round(one["times"]),
            round(one["flop"] / 1e12, 2),
            round(one["moved"] / mib),
        ]
        for one in found["kernels"]
    }
    unfused = {source: round(moved / mib, 1) for source, moved in found["unfused"].items() if moved >= mib}
    exposed = _merged([one for one in found["collectives"] if not one["beside"]])
    return {
        "command": recipe.command,
        "batch": found["batch"],
        "mesh": found["mesh"],
        "memory_mib": {name: round(size / mib, 1) for name, size in found["memory"].items() if size is not None},
        "usable_mib": round(found["usable"] / mib, 1),
        "computed_twice": found["computed_twice"],
        "unsharded": round(found["unsharded"], 4),
        "loops": sorted(found["loops"]),
        "strange_loops": found["strange_loops"],
        "unrecognised": found["unrecognised"],
        "collectives": _merged(found["collectives"]),
        **(
            {"exposed": exposed, "kernels": kernels, "unfused": unfused} if kernels else {}
        ),  # of GPUs: how often, TFLOP, MiB moved
        "step_ms": [round(found["seconds"][end] / ms, 1) for end in ("low", "high")],
        "mfu": [round(share, 4) for share in reversed(found["mfu"])],
        "hours": [round(hours, 3) for hours in reversed(found["hours"])],
        "chip_hours": [round(hours, 2) for hours in reversed(found["chip_hours"])],
    }


def _merged(collectives: list[dict[str, Any]]) -> dict[str, float]:
    """`all-gather of bf16 over fsdp (16)` → MiB a step, however many and whether beside other work."""
    found: dict[str, float] = {}
    for one in collectives:
        key = f"{one['kind']} of {', '.join(one['types'])} over {' x '.join(one['axes'])} ({one['group']})"
        found[key] = found.get(key, 0.0) + one["payload"] / 2**20
    return {key: round(size, 3) for key, size in sorted(found.items(), key=lambda item: -item[1])}


def row(name: str) -> str:
    """Of docs/scaling.md's table."""
    recipe, found = RECIPES[name], json.loads(path_of(name).read_text(encoding="utf-8"))
    pod = f"{recipe.slices} × `{recipe.topology}`" if recipe.slices > 1 else f"`{recipe.topology}`"
    mesh = ", ".join(f"{axis} {size}" for axis, size in found["mesh"].items() if size > 1) or "one device"
    peak = f"{found['memory_mib']['peak'] / 1024:.2f} of {found['usable_mib'] / 1024:.2f}"
    cells = [f"`{recipe.config.removeprefix('configs/')}`", pod, mesh, f"{found['batch']['device']}", peak]
    cells += [_range(found["step_ms"], "{:,.0f}"), _range([100 * share for share in found["mfu"]], "{:.0f}") + " %"]
    cells += [_range(found["hours"], "{:.3g}"), _range(found["chip_hours"], "{:,.3g}")]
    return f"| {' | '.join(cells)} |"


def _range(ends: list[float], form: str) -> str:
    low, high = (form.format(end) for end in sorted(ends))
    return f"{low} to {high}"


def write(names: list[str]) -> None:
    for name in names or list(RECIPES):
        path_of(name).write_text(json.dumps(summary(RECIPES[name]), indent=1) + "\n", encoding="utf-8")
        print(path_of(name).relative_to(REPOSITORY), flush=True)
