"""What is launched, wherever that is: the one description from which every script is rendered."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

from dreamjax.errors import UserError
from dreamjax.planning import pods
from dreamjax.planning.chips import Chip
from dreamjax.planning.pods import Pod

NAME = r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?"  # what Kubernetes, SLURM and Cloud TPU all take
VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"
CPU = Chip(name="cpu", flops=0, usable=0, bandwidth=0, link=0, axes=1, network=0, node=1)
VERBS = ("train", "generate")  # which run as several processes


def place(name: str, slices: int = 1) -> Pod:
    """A pod as `planning.pods` has it, or `cpu-4`: so many hosts without accelerators. Raises UserError."""
    if found := re.fullmatch(r"cpu-([1-9]\d*)", name.strip().lower()):
        return Pod(CPU, (1,), int(found[1]) * slices)
    return pods.pod(name, slices)


@dataclass(frozen=True, kw_only=True)
class Launch:
    """`arguments` are those of `dreamjax`; `setup` is a line of shell that each host runs before (a venv, a module).

    `restarts`: how often a run that ended with exit code 75 (a SIGTERM, a lost process) is started again. `grace_s`:
    seconds between a SIGTERM and the end, in which the run saves.
    """

    name: str
    arguments: tuple[str, ...]
    pod: Pod
    setup: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    restarts: int = 100
    grace_s: int = 120

    def __post_init__(self) -> None:
        if not re.fullmatch(NAME, self.name):
            raise UserError(f"--name is {self.name!r}, but it has 1 to 40 lower-case letters, digits and hyphens")
        if not self.arguments:
            raise UserError("nothing to launch: give the command after --, as in -- train --config … --workdir …")
        if self.arguments[0] not in VERBS:
            raise UserError(f"after -- stands {self.arguments[0]!r}, but it is one of {' and '.join(VERBS)}")
        if bad := [name for name in self.environment if not re.fullmatch(VARIABLE, name)]:
            raise UserError(f"--env {bad[0]}=… names no variable of the environment; write NAME=VALUE")

    @property
    def command(self) -> str:
        """What every host runs, quoted for a shell."""
        return shlex.join(["dreamjax", "launch", "host", "--", *self.arguments])

    @property
    def exports(self) -> list[str]:
        return [f"export {name}={shlex.quote(value)}" for name, value in sorted(self.environment.items())]

    def check_workdir_is_everywhere(self) -> None:
        """Raises UserError for a work directory that each host would have for itself."""
        for place, word in enumerate(self.arguments):
            option, equals, value = word.partition("=")
            if option in ("--workdir", "--out"):
                value = value if equals else next(iter(self.arguments[place + 1 :]), "")
                if "://" not in value:
                    raise UserError(
                        f"{option} {value} would lie on every host's own disk, as these share none; give an object "
                        "store's path (gs://BUCKET/…)"
                    )
