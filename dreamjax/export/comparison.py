"""What was exported, run by its own library where JAX cannot be imported, beside what dreamjax computed."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from etils import epath

from dreamjax.console import log
from dreamjax.errors import UserError

Compare = Callable[[epath.PathLike], dict[str, float] | None]
WITHOUT_JAX = """
import sys; sys.modules["jax"] = sys.modules["dreamjax"] = None
import json, os, torch
from safetensors.torch import load_file
{imports}
os.chdir(json.loads(sys.stdin.readline()))
sys.path.insert(0, ".")
p = load_file("parity.safetensors")
def difference(found, name):
    return float((found - p[name]).abs().max() / p[name].abs().max())
torch.set_grad_enabled(False)
{script}
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Library:
    """What opens an export. `imports`: its lines that need no folder yet, the slow ones.

    `script` runs in the folder, has parity.safetensors as `p` and sets `found`, a dict of `difference(output, name)`.
    """

    package: str
    imports: str
    script: str

    @contextmanager
    def started(self, tolerance: float) -> Iterator[Compare]:
        """`compare(folder)` → output → its largest difference, relative to its largest magnitude.

        The library is imported by a process of its own while the caller still computes. None where a package is not
        installed. Raises UserError for a folder that does not open, and for a difference above `tolerance`.
        """
        needed = ("torch", "safetensors", self.package)
        missing = [name for name in needed if importlib.util.find_spec(name) is None]
        if missing:
            log.warning("%s is not installed, so the export is not compared with it", missing[0])
            yield lambda folder: None
            return
        script = WITHOUT_JAX.format(imports=self.imports, script=self.script)
        # -P: nothing in the folder that the caller happens to be in is imported in place of a package
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield lambda folder: self._differences(process, folder, tolerance)
        finally:
            process.kill()
            process.communicate()

    def _differences(self, process: subprocess.Popen, folder: epath.PathLike, tolerance: float) -> dict[str, float]:
        out, errors = process.communicate(json.dumps(str(folder)) + "\n")
        if process.returncode:
            reason = errors.strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
            raise UserError(f"what was exported does not run in {self.package}: {reason[0]}")
        found: dict[str, float] = json.loads(out.splitlines()[-1])
        worst = max(found, key=lambda name: found[name])
        if not found[worst] <= tolerance:
            raise UserError(
                f"the exported {worst} differs by {found[worst]:.1e} from that of {self.package}, more than "
                f"{tolerance:g}; nothing was exported"
            )
        return found
