"""A rendered script: printed, written, or handed to what runs it."""

import shutil
import subprocess
from typing import Any

from etils import epath

from dreamjax.errors import UserError
from dreamjax.storage import atomic

COMMANDS = {"slurm": ("sbatch",), "tpu": ("bash", "-s"), "gke": ("kubectl", "apply", "-f", "-")}
NEEDS = {"slurm": "sbatch", "tpu": "gcloud", "gke": "kubectl"}  # the program that must be here


def handle(where: str, script: str, *, out: epath.PathLike | None = None, dry_run: bool = False) -> dict[str, Any]:
    """Submit unless `dry_run` or `out`. Raises UserError where the program for it is not here, or refuses."""
    if out is not None:
        atomic.write_text(out, script)
        return {"said": f"{out}: submit it with {' '.join(COMMANDS[where])}", "out": str(out)}
    if dry_run:
        return {}
    if shutil.which(NEEDS[where]) is None:
        raise UserError(f"{NEEDS[where]} is not installed here; add --dry-run or --out FILE to get the script alone")
    done = subprocess.run(COMMANDS[where], input=script, text=True, capture_output=True)
    if done.returncode:
        said = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "it said nothing")
        raise UserError(f"{NEEDS[where]} refused with exit code {done.returncode}: {said.strip()}")
    return {"said": done.stdout.strip()}
