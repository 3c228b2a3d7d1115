"""The description of a launch, from which the scripts for all clusters are rendered."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dreamjax.errors import UserError
from dreamjax.parallel import environment
from dreamjax.pods import topologies
from dreamjax.pods.topologies import Chip, Pod

NAME = r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?"  # allowed by Kubernetes, SLURM and Cloud TPU
VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"
CPU = Chip("cpu", node=1)
OWN = {environment.COORDINATOR, environment.COUNT, environment.INDEX, environment.LOCAL_DEVICES}
PLACES = (
    *("--workdir", "--out", "--config.data.path", "--config.data.folder", "--config.train.compile_cache"),
    *("--config.base.data.path", "--config.base.train.compile_cache", "--config.pretrain.data.path"),
    *("--config.base.target.folder", "--config.score.classifier", "--data", "--path", "--images", "--stimuli"),
)
VERBS = ("train", "generate")  # which run as several processes
IN_PARTS = ("sweep", "compare")  # which run as several independent jobs
NUMBERED = "sweep"  # whose jobs are given their part's number; those of a comparison take what no other has taken


def place(name: str, slices: int = 1) -> Pod:
    """Return a pod of `pods.topologies`, or `cpu-4`: that many hosts without accelerators. Raise UserError."""
    if odd := re.fullmatch(r"cpu-([1-9]\d*)", name.strip().lower()):
        return Pod(CPU, (1,), int(odd[1]) * slices)
    return topologies.pod(name, slices)


@dataclass(frozen=True, kw_only=True)
class Launch:
    """A launch. `arguments`: of `dreamjax`; `setup`: a shell line that each host runs first (a venv, a module).

    `restarts`: how often a run that ended with exit code 75 (a SIGTERM, a lost process) is started again. `grace_s`:
    seconds between a SIGTERM and the end, in which the run saves. `parts`: of a sweep or a
    comparison, each a job on a separate pod.
    """

    name: str
    arguments: tuple[str, ...]
    pod: Pod
    setup: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    restarts: int = 100
    grace_s: int = 120
    parts: int | None = None
    part: int | None = None  # this one of them, where that is known

    def __post_init__(self) -> None:
        if not re.fullmatch(NAME, self.name):
            raise UserError(
                f"--name is {self.name!r}, but it has at most 40 lower-case letters, digits and hyphens, begins with a "
                "letter and does not end with a hyphen"
            )
        check_command(self.arguments, in_parts=True)
        self._check_parts()
        if bad := [name for name in self.environment if not re.fullmatch(VARIABLE, name)]:
            raise UserError(f"--env {bad[0]}=… is not a valid variable name; write NAME=VALUE")
        if reserved := sorted(OWN & set(self.environment)):
            raise UserError(f"--env {reserved[0]}=… is set by the launcher; leave it out")
        check_shell(self.setup)
        refuse_lines(**{"--setup": self.setup, "the command": "".join(self.arguments)} | dict(self.environment))

    def _check_parts(self) -> None:
        if (self.arguments[0] in IN_PARTS) != (self.parts is not None):
            raise UserError(
                "a sweep or a comparison is launched in parts, and nothing else is: give --parts with -- sweep or "
                "-- compare alone"
            )
        if self.parts is None:
            return
        if (hosts := self.pod.hosts * self.pod.slices) > 1:
            raise UserError(
                f"--topology {self.pod.name} has {hosts} hosts, but a part is one process: name a "
                "pod of one host, such as v5e-8, h100-8 or cpu-1"
            )
        if idle := sorted({"--part", "--processes", "--dry-run"} & set(self.options())):
            raise UserError(f"{idle[0]} after -- sweep is for one machine; leave it out, --parts N makes the jobs")

    @property
    def command(self) -> str:
        """Return the command that every host runs, quoted for a shell."""
        part = [] if self.part is None or self.arguments[0] != NUMBERED else [f"--part={self.part}/{self.parts}"]
        return shlex.join(["dreamjax", "launch", "host", f"--grace={self.grace_s}", "--", *self.arguments, *part])

    @property
    def exports(self) -> list[str]:
        return [f"export {name}={shlex.quote(value)}" for name, value in sorted(self.environment.items())]

    def options(self) -> dict[str, str]:
        """Return the command's long options → their values, as they are written there."""
        options = {}
        for place, word in enumerate(self.arguments):
            option, equals, value = word.partition("=")
            if option.startswith("--"):
                options[option] = value if equals else next(iter(self.arguments[place + 1 :]), "")
        return options

    def check_paths_are_everywhere(self) -> None:
        """Raise UserError for paths that would be read from, or written to, each host's own disk."""
        for option, value in self.options().items():
            local = "://" not in value or value.startswith("file:")
            if option in PLACES and local and not (option.endswith("compile_cache") and value in ("", "auto")):
                raise UserError(
                    f"{option} {value} would be on every host's own disk, as hosts share none; give an object "
                    "store's path (gs://BUCKET/…)"
                )

    def check_config_is_brought(self) -> None:
        """Raise UserError for a config file on this machine that nothing copies to the hosts."""
        config = self.options().get("--config", "")
        if config and not self.setup:
            raise UserError(
                f"--config {config} is a file that the hosts do not have yet; let --setup bring it, as in --setup "
                "'gsutil -m cp -r gs://BUCKET/code . && cd code'"
            )


def check_command(arguments: Sequence[str], in_parts: bool = False) -> None:
    """Raise UserError for an unknown command, or one that cannot run as several processes (`in_parts`: or jobs)."""
    if not arguments:
        raise UserError("nothing to launch: give the command after --, as in -- train --config … --workdir …")
    known = (*VERBS, *IN_PARTS) if in_parts else VERBS
    if arguments[0] not in known:
        raise UserError(f"after -- stands {arguments[0]!r}, but it is one of {', '.join(known[:-1])} and {known[-1]}")


def check_shell(setup: str) -> None:
    """Raise UserError for an incomplete shell line: a quote, brace or comment in it that swallows what follows it."""
    if not setup or not shutil.which("bash"):
        return
    for script in (setup, f"{{ {setup}; }} || exit 1"):
        if subprocess.run(["bash", "-n", "-c", script], capture_output=True, check=False).returncode:
            raise UserError(
                f"--setup is {setup!r}, which is not a complete shell command; bash -n says where it breaks"
            )


def refuse_lines(**values: str) -> None:
    """Raise UserError for a value of more than one line, which would break the script."""
    for name, value in values.items():
        if "\n" in value or "\r" in value:
            raise UserError(f"{name} has more than one line; give it one")
