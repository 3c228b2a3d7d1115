"""What was exported, run by its own library where JAX cannot be imported, beside what dreamjax computed."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence

from etils import epath

from dreamjax.console import log
from dreamjax.errors import UserError

WITHOUT_JAX = """
import sys; sys.modules["jax"] = sys.modules["dreamjax"] = None
import json, torch
from safetensors.torch import load_file
p = load_file("parity.safetensors")
def difference(found, name):
    return float((found - p[name]).abs().max() / p[name].abs().max())
torch.set_grad_enabled(False)
"""


def differences(
    folder: epath.PathLike, script: str, *, tolerance: float, packages: Sequence[str]
) -> dict[str, float] | None:
    """Output → its largest difference, relative to its largest magnitude; None where a package is not installed.

    `script` runs in `folder`, has parity.safetensors as `p` and sets `found`, a dict of `difference(output, name)`.
    Raises UserError for a folder that does not open, and for a difference above `tolerance`.
    """
    missing = [name for name in ("torch", "safetensors", *packages) if importlib.util.find_spec(name) is None]
    if missing:
        log.warning("%s is not installed, so the export was not compared with it", missing[0])
        return None
    command = [sys.executable, "-c", f"{WITHOUT_JAX}{script}\nprint(json.dumps(found))"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"what was exported does not run in {packages[0]}: {done.stderr.strip().splitlines()[-1]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    worst = max(found, key=lambda name: found[name])
    if not found[worst] <= tolerance:
        raise UserError(
            f"the exported {worst} differs by {found[worst]:.1e} from that of {packages[0]}, more than {tolerance:g}; "
            "nothing was exported"
        )
    return found
