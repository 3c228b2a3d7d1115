"""An export is run by its own library where JAX cannot be imported, and compared with what dreamjax computed."""

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from subprocess import PIPE, Popen

from etils import epath

from dreamjax.console import log
from dreamjax.errors import UserError

Compare = Callable[[epath.PathLike, str], dict[str, float] | None]
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


@contextmanager
def started(packages: Sequence[str], imports: str, tolerance: float) -> Iterator[Compare]:
    """Yield `compare(folder, check)` → output → its largest difference, relative to its largest magnitude.

    `imports`: the slow ones, which a process of its own begins with while the caller still computes. `compare` returns
    None where one of `packages` is not installed. It raises UserError for a folder that does not open, and for a
    difference above `tolerance`. `check`: see `systems.base.Exported`.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        log.warning("%s is not installed, so the export is not compared with it", missing[0])
        yield lambda folder, check: None
        return
    # -P: nothing in the caller's folder is imported in place of a package
    command = [sys.executable, "-P", "-c", WITHOUT_JAX.format(imports=imports)]
    process = Popen(command, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True)

    def compare(folder: epath.PathLike, check: str) -> dict[str, float]:
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
