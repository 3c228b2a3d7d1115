"""Export a run as a folder that PyTorch, or diffusers and transformers, open without JAX.

    summary = export("runs/tiny", "exported/tiny", to="torch")

The system decides what the folder holds (`systems.exchange.Exports`), the writer of the format its layout. The rest is
the same for all: the model's facts, its card, parity.safetensors, and the comparison in a process without JAX.
"""

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from subprocess import PIPE, Popen
from typing import Literal

from etils import epath

from dreamjax.console import log
from dreamjax.errors import UserError
from dreamjax.export import folders
from dreamjax.export.facts import hub_id, model_facts
from dreamjax.reports import image_report, pages
from dreamjax.storage import atomic, locks, manifest, paths
from dreamjax.storage.checkpoint_files import safetensors_files
from dreamjax.systems import opening, registry
from dreamjax.systems.base import Run, capability
from dreamjax.systems.exchange import Exported, Exports, Format
from dreamjax.typing import JsonDict
from dreamjax.weights.pipeline_folder import INDEX

CARD = "README.md"  # which people may edit
Compare = Callable[[epath.PathLike, str, float], dict[str, float] | None]
WITHOUT_JAX = """
import sys; sys.modules["jax"] = sys.modules["dreamjax"] = None
import json, os, torch
from safetensors.torch import load_file
{imports}
folder, check = json.loads(sys.stdin.readline())
os.chdir(folder)
sys.path.insert(0, ".")
p = load_file("parity.safetensors")
def difference(tensor, name):
    return float((tensor - p[name]).abs().max() / p[name].abs().max())
torch.set_grad_enabled(False)
scope = {{"torch": torch, "p": p, "difference": difference}}
exec(check, scope)
print(json.dumps(scope["differences"]))
"""


@dataclass(frozen=True)
class ExportSummary:
    """The summary of an export. `differences`: from dreamjax's outputs; None where PyTorch is not installed."""

    out: str
    step: int
    weights: Literal["ema", "params"]
    parameters: int
    licence: str | None
    tolerance: float
    differences: Mapping[str, float] | None
    measured: Mapping[str, float]  # further numbers of the system

    def as_json(self) -> dict[str, object]:
        fields = vars(self).copy()
        return fields | fields.pop("measured")


def export(
    workdir: epath.PathLike,
    out: epath.PathLike,
    *,
    to: Format = "torch",
    step: int | None = None,
    best: bool = False,
    weights: Literal["ema", "params"] = "ema",
    licence: str | None = None,
) -> ExportSummary:
    """Write the folder `out` from the newest (or `step`, or the `best`) step of a run.

    `weights`: the averaged ones if the run kept an average, or the parameters themselves. `licence`: of the weights.
    Where PyTorch is installed, the folder gets its name only after PyTorch has computed the same outputs from it.

    Raise UserError for a run that is missing or of a system without this format, a folder that exists, and a
    permissive `licence` over restricted or unknown corpora.
    """
    out = paths.refuse_existing(out)
    config = opening.config_of(workdir)
    system = capability(registry.build(config), Exports, "be exported")
    if to not in system.formats:
        raise UserError(
            f"{config.system} cannot be exported to {to}; it can be exported to: {', '.join(system.formats)}"
        )
    layout = folders.LAYOUTS[to]
    with locks.new_output(out), comparison(layout) as compare:
        run = opening.open_run(workdir, step=step, best=best, averaged=weights == "ema")
        facts = model_facts(run, licence)
        exported = system.export(run, to)
        tolerance = folders.tolerance(exported, to)
        if exported.parameters is not None:
            facts["parameters"] = exported.parameters
        # the file that libraries look for first is written last, where folders are not renamed atomically
        last = INDEX if INDEX in exported.files else "config.json" if "" in exported.components else CARD
        with atomic.new_folder(out, last=last) as folder:
            write(folder, run, exported, facts, to)
            manifest.write(folder, leave_out=[CARD])
            differences = compare(folder, exported.check, tolerance)
    return ExportSummary(
        str(out),
        run.step,
        "ema" if run.averaged else "params",
        facts["parameters"],
        licence,
        tolerance,
        differences,
        exported.measured,
    )


def write(folder: epath.Path, run: Run, exported: Exported, facts: JsonDict, to: Format) -> None:
    """Write every file of an export into an existing folder."""
    hashes = folders.write(folder, exported, facts, to)
    safetensors_files.write(folder / "parity.safetensors", exported.parity)
    scores = facts["evaluation"]
    values = {
        **facts,
        **{name: getattr(exported, name) for name in ("title", "usage", "rows")},
        "parity": exported.compared,
        "weights": "averaged" if run.averaged else "last",
        "hub_licence": hub_id(facts["licence"]),
        "counted": _counted,
        "tables": image_report.tables(scores) if scores else [],
        "tolerance": folders.tolerance(exported, to),
        "hashes": hashes,
    }
    (folder / CARD).write_text(pages.render(exported.template, **values, **exported.values))


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{json.loads(name)} × {count}" for name, count in counts.items()) or "unknown"


@contextmanager
def comparison(layout: folders.Layout) -> Iterator[Compare]:
    """Yield `compare(folder, check, tolerance)` → output → its largest difference, relative to its largest magnitude.

    A process without JAX begins with its slow imports while the caller still computes. `compare` returns None where a
    package is not installed. It raises UserError for a folder that does not open, and for a difference above the
    tolerance. `check`: see `systems.exchange.Exported`.
    """
    missing = [name for name in layout.packages if importlib.util.find_spec(name) is None]
    if missing:
        log.warning("%s is not installed, so the export is not compared with it", missing[0])
        yield lambda folder, check, tolerance: None
        return
    # -P: nothing in the caller's folder is imported in place of a package
    command = [sys.executable, "-P", "-c", WITHOUT_JAX.format(imports=layout.imports)]
    process = Popen(command, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True)

    def compare(folder: epath.PathLike, check: str, tolerance: float) -> dict[str, float]:
        out, errors = process.communicate(json.dumps([str(folder), check]) + "\n")
        if process.returncode:
            reason = errors.strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
            raise UserError(f"the exported folder does not run in PyTorch: {reason[0]}; nothing was exported")
        differences: dict[str, float] = json.loads(out.splitlines()[-1])
        worst = max(differences, key=lambda name: differences[name])
        if not differences[worst] <= tolerance:
            raise UserError(
                f"the exported {worst} differs by {differences[worst]:.1e} from that of PyTorch, more than "
                f"{tolerance:g}; nothing was exported"
            )
        return differences

    try:
        yield compare
    finally:
        process.kill()
        process.communicate()
