"""Run or submit a launch: as watched processes of this machine, or by a cluster's own program."""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence

from etils import epath

from dreamjax.console import log
from dreamjax.errors import UserError
from dreamjax.parallel import watcher
from dreamjax.pods.launch_config import IN_PARTS, check_command
from dreamjax.storage import atomic, presence
from dreamjax.typing import JsonDict

# where → (the program that must be here, how it reads a script, how a user submits the file)
PROGRAMS = {
    "slurm": ("sbatch", ("sbatch",), "sbatch"),
    "tpu": ("gcloud", ("bash", "-s"), "bash"),
    "gke": ("kubectl", ("kubectl", "apply", "-f", "-"), "kubectl apply -f"),
}


def here(
    arguments: Sequence[str],
    processes: int,
    devices: int | None = None,
    grace_s: float = watcher.GRACE_S,
    restarts: int = 0,
) -> int:
    """Run `dreamjax ARGUMENTS` as several processes of one run; return their exit code (`parallel.watcher`).

    They are started again up to `restarts` times when one of them is lost, but not when this process is stopped.
    """
    check_command(arguments)
    for left in range(restarts, -1, -1):
        ended = watcher.run_local(_command(arguments), processes, devices, grace_s)
        if ended.code != watcher.TEMPORARY_FAILURE or ended.signalled or not left:
            break
        log.info("started again (%d of %d)", restarts - left + 1, restarts)
    return ended.code


def host(arguments: Sequence[str], grace_s: float = watcher.GRACE_S) -> int:
    """Run `dreamjax ARGUMENTS` as this host's process of the run in its environment, or as a job by itself."""
    check_command(arguments, in_parts=True)
    return watcher.run_one(_command(arguments), grace_s, joins=arguments[0] not in IN_PARTS).code


def _command(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "dreamjax", *arguments]


def submit(where: str, script: str, *, out: epath.PathLike | None = None, dry_run: bool = False) -> JsonDict:
    """Submit unless `dry_run` or `out`. Raise UserError where the submitting program is missing, or refuses."""
    program, command, by_hand = PROGRAMS[where]
    if out is not None:
        if presence.is_folder(out):
            raise UserError(f"--out {out} is a folder; give the name of a file")
        atomic.write_text(out, script)
        return {"said": f"{out}: submit it with {by_hand} {shlex.quote(str(out))}", "out": str(out)}
    if dry_run:
        return {}
    if shutil.which(program) is None:
        raise UserError(f"{program} is not installed here; add --dry-run or --out FILE to get the script alone")
    done = subprocess.run(command, input=script, text=True, capture_output=True)
    if done.returncode:
        output = " ".join(line.strip() for line in done.stderr.splitlines() if line.strip()) or "no output"
        raise UserError(f"{program} refused with exit code {done.returncode}: {output[:500]}")
    return {"said": done.stdout.strip()}
