"""Text snapshots of every shipped config; `python -m tests.golden` (make golden) rewrites them."""

import dataclasses
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dreamjax import config
from dreamjax.systems import registry

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).parent
EXAMPLES = REPOSITORY / "launch"
# file → words of `dreamjax launch`
LAUNCHED = {
    "slurm.sh": "slurm --topology h100-64 --time 24:00:00 --partition long --setup 'source venv/bin/activate'",
    "tpu.sh": "tpu --topology v5e-64 --project PROJECT --zone us-west4-a --terms spot --setup "
    "'gsutil -m cp -r gs://BUCKET/code . && cd code'",
    "gke.yaml": "gke --topology v5e-256 --slices 2 --image IMAGE --queue QUEUE",
}
RUN = "train --config configs/pretrain/base.py --workdir gs://BUCKET/base --config.data.path=gs://BUCKET/eeg"


def rendered(name: str) -> str:
    """The script of an example."""
    from dreamjax.cli import launch_verb
    from dreamjax.cli import main as cli

    args = cli.parsed(["launch", *shlex.split(LAUNCHED[name]), "--dry-run", "--", *RUN.split()])
    return launch_verb.run(args)["script"]


def shipped() -> list[Path]:
    """Every config file, relative to the repository."""
    return sorted(path.relative_to(REPOSITORY) for path in (REPOSITORY / "configs").rglob("*.py"))


def dump(instance: Any) -> str:
    """A dataclass config as sorted `key = value` lines."""

    def lines(part: Any, prefix: str) -> Iterator[str]:
        for field in dataclasses.fields(part):
            value = getattr(part, field.name)
            if dataclasses.is_dataclass(value):
                yield from lines(value, f"{prefix}{field.name}.")
            else:
                yield f"{prefix}{field.name} = {value!r}\n"

    return "".join(sorted(lines(instance, ""), key=lambda line: line.partition(" = ")[0]))


def snapshot_path(path: Path) -> Path:
    return FOLDER / ("-".join(path.with_suffix("").parts[1:]) + ".txt")


def render(path: Path) -> str:
    """What a config file means with its default arguments; of a sweep its settings, its base and its runs."""
    spec = str(REPOSITORY / path)
    if path.parts[1] != "sweep":
        return dump(config.load(spec, [], registry.schema_of))
    from dreamjax.sweeps import runs, sweep_config

    sweep = sweep_config.load(spec, [])
    base = dump(config.to_dataclass(sweep.schema, sweep.base))
    lines = []
    for run in runs.expand(sweep):
        values = ", ".join(f"{axis}={label}" for axis, label in run.values.items())
        lines.append(f"{values} seed {run.seed}: {run.legs}\n")
    return dump(sweep.settings) + "\nbase\n" + base + "\nruns\n" + "".join(lines)


def write() -> list[Path]:
    """Rewrite all snapshots; those of configs that are gone are removed."""
    wanted = {snapshot_path(path): render(path) for path in shipped()}
    for old in FOLDER.glob("*.txt"):
        if old not in wanted:
            old.unlink()
    for target, text in wanted.items():
        target.write_text(text, encoding="utf-8")
    for name in LAUNCHED:
        wanted[EXAMPLES / name] = rendered(name)
        (EXAMPLES / name).write_text(wanted[EXAMPLES / name], encoding="utf-8")
    return list(wanted)
