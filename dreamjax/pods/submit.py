"""A rendered script: printed, written, or handed to what runs it."""

import shlex
import shutil
import subprocess

from etils import epath

from dreamjax.errors import UserError
from dreamjax.storage import atomic
from dreamjax.typing import JsonDict

BY_HAND = {"slurm": "sbatch", "tpu": "bash", "gke": "kubectl apply -f"}
COMMANDS = {"slurm": ("sbatch",), "tpu": ("bash", "-s"), "gke": ("kubectl", "apply", "-f", "-")}
NEEDS = {"slurm": "sbatch", "tpu": "gcloud", "gke": "kubectl"}  # the program that must be here


def handle(where: str, script: str, *, out: epath.PathLike | None = None, dry_run: bool = False) -> JsonDict:
    """Submit unless `dry_run` or `out`. Raises UserError where the program for it is not here, or refuses."""
    if out is not None:
        if epath.Path(out).is_dir():
            raise UserError(f"--out {out} is a folder; give the name of a file")
        atomic.write_text(out, script)
        return {"said": f"{out}: submit it with {BY_HAND[where]} {shlex.quote(str(out))}", "out": str(out)}
    if dry_run:
        return {}
    if shutil.which(NEEDS[where]) is None:
        raise UserError(f"{NEEDS[where]} is not installed here; add --dry-run or --out FILE to get the script alone")
    done = subprocess.run(COMMANDS[where], input=script, text=True, capture_output=True)
    if done.returncode:
        output = " ".join(line.strip() for line in done.stderr.splitlines() if line.strip()) or "it said nothing"
        raise UserError(f"{NEEDS[where]} refused with exit code {done.returncode}: {output[:500]}")
    return {"said": done.stdout.strip()}
