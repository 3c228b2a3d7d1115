"""`dreamjax plan`: what a run would need and how long it would take on a pod that is not here."""

import argparse
from typing import Any

from dreamjax.cli import config_arguments, options

HELP = "compile the step of a config for a pod that is not here: memory, what crosses chips, how long it would take"
EXAMPLE = (
    "dreamjax plan --config configs/pretrain/dreamdiffusion_paper.py --topology v5e-256 --config.train.mesh.fsdp=16"
)


def configure(parser: argparse.ArgumentParser) -> None:
    config_arguments.add(parser)
    parser.add_argument("--topology", required=True, metavar="POD", help="v5e-256, v5p-512, v5e:4x4, h100-8 and so on")
    parser.add_argument("--slices", type=options.whole_number(1), default=1, help="so many of them, over the network")
    parser.add_argument(
        "--batch-per-chip", type=_rows, metavar="N|auto", help="auto: the most that fit (default: the config's)"
    )
    parser.add_argument(
        "--scaling", action="store_true", help="also plan every smaller slice, from 8 chips, with as much on each"
    )
    parser.add_argument("--out", metavar="FOLDER", help="where plan.json and pictures go (default: nowhere)")
    parser.add_argument(
        "--effort",
        type=float,
        metavar="E",
        help="of the compiler, -1 to 1: at -1 a large step takes minutes in place of an hour, but is made to look slow",
    )


def _rows(text: str) -> int | str:
    return text if text == "auto" else options.whole_number(1)(text)


def run(args: argparse.Namespace) -> dict[str, Any]:
    from dreamjax.errors import UserError
    from dreamjax.planning import plan, plan_pictures, pods, scaling

    if args.effort is not None and not -1 <= args.effort <= 1:
        raise UserError(f"--effort is {args.effort:g}, but it lies from -1 to 1")
    pod = pods.pod(args.topology, args.slices)
    config = config_arguments.load(args)
    smaller = scaling.sizes(pod, scaling.least_devices(config))[:-1] if args.scaling else []
    found = plan.plan(config, pod, per_chip=args.batch_per_chip, effort=args.effort)
    if args.scaling:
        found["scaling"] = scaling.weak(config, smaller, found, args.effort)
    return found | ({"files": plan_pictures.write(found, args.out)} if args.out else {})


def render(result: dict[str, Any]) -> str:
    from dreamjax.planning import plan_text

    return plan_text.text(result)
