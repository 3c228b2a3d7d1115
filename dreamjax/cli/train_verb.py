"""`dreamjax train`: train the system of a config in a work directory, continuing an interrupted run."""

import argparse

from dreamjax.cli import options
from dreamjax.console import counted
from dreamjax.typing import JsonDict

HELP = "train the system that a config describes, from where its work directory stands"
EXAMPLE = "dreamjax train --config configs/pretrain/tiny.py --workdir runs/tiny --config.data.path=runs/shards"


def configure(parser: argparse.ArgumentParser) -> None:
    options.add_config(parser)
    where = "folder of the run: logs and checkpoints; continued if it exists"
    parser.add_argument("--workdir", required=True, help=where)


def run(args: argparse.Namespace) -> JsonDict:
    from dreamjax import api

    return api.train(options.load_config(args), args.workdir)


def render(result: JsonDict) -> str:
    from dreamjax.training import goodput

    began = "" if result["resumed_from"] is None else f", continued from step {result['resumed_from']}"
    lines = [
        f"{result['workdir']}: step {result['step']} ({result['examples']:,} examples) in {result['seconds']:g} s on "
        f"{counted(result['devices'], 'device')}{began}",
        f"{result['parameters']:,} parameters",
    ]
    for split in ("train", "val"):
        if split in result:
            lines.append(f"{split}: " + ", ".join(f"{name} {value:.5g}" for name, value in result[split].items()))
    lines.append(f"time: {goodput.one_line(result['time'])}")
    counts = {"steps left out": result["guard"]["skipped"], "rollbacks": result["guard"]["rollbacks"]}
    counts["saves that failed"] = result["failed_saves"]
    if problems := ", ".join(f"{count} {name}" for name, count in counts.items() if count):
        lines.append(f"! {problems}; see the log")
    if result["preempted"]:
        where = f"and saved at step {result['step']}" if result["step"] else "before the first step"
        lines.append(f"stopped {where}; the same command continues")
    return "\n".join(lines)
