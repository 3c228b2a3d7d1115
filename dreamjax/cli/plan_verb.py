"""`dreamjax plan`: predict the memory and the step time of a run on a pod, without the pod."""

import argparse
import os
from typing import TYPE_CHECKING, Any

from dreamjax import console
from dreamjax.cli import options

if TYPE_CHECKING:
    from dreamjax.pods.plan import PodPlan

HELP = "compile the step of a config for a pod without having one: memory, communication, predicted step time"
EXAMPLE = (
    "dreamjax plan --config configs/pretrain/dreamdiffusion_paper.py --topology v5e-256 --config.train.mesh.fsdp=16"
)


def configure(parser: argparse.ArgumentParser) -> None:
    whole = options.whole_number(1)
    options.add_config(parser)
    add = parser.add_argument
    add("--topology", required=True, metavar="POD", help="v5e-256, v5p-512, v5e:4x4, h200-8, a100-64 and so on")
    add("--slices", type=whole, default=1, help="number of slices, joined by the network")
    add("--batch-per-chip", type=_rows, metavar="N|auto", help="auto: the most that fit (default: the config's)")
    scaling = "also plan every smaller slice, from 8 chips, with as much on each"
    add("--scaling", action="store_true", help=scaling)
    add("--out", metavar="FOLDER", help="where plan.json and images go (default: nowhere)")
    effort = "of the compiler, -1 to 1: at -1 a large step takes minutes in place of an hour, but is made to look slow"
    add("--effort", type=float, metavar="E", help=effort)

    add = parser.add_argument_group("making images, in place of a step of training").add_argument
    add("--images", type=whole, metavar="STEPS", help="number of steps of the sampler")
    add("--sampler", metavar="NAME", help="see dreamjax generate (default: the model's)")
    add("--guidance", type=options.number(0), default=7.5, metavar="W", help="1: none")


def _rows(text: str) -> int | str:
    return text if text == "auto" else options.whole_number(1)(text)


def run(args: argparse.Namespace) -> "PodPlan":
    # no device is used: JAX is not to look for any, and the compilers' own messages are about devices
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with console.no_native_messages():  # of the compiler for GPUs, which finds no driver
        import jax  # noqa: F401
    from dreamjax.errors import UserError
    from dreamjax.generation import batches
    from dreamjax.pods import plan, plan_report, topologies
    from dreamjax.storage import paths

    if args.effort is not None and not -1 <= args.effort <= 1:
        raise UserError(f"--effort is {args.effort:g}, but it lies from -1 to 1")
    if args.out:
        paths.refuse_unwritable_folder(args.out)
    pod = topologies.pod(args.topology, args.slices)
    job = _job(options.load_config(args), args)
    batch = args.batch_per_chip if not args.images else args.batch_per_chip or batches.AT_ONCE
    result = plan.plan(job, pod, per_chip=batch, effort=args.effort, scaling=args.scaling)
    return plan_report.write(result, args.out) if args.out else result


def _job(config: Any, args: argparse.Namespace) -> Any:
    from dreamjax.generation import batches
    from dreamjax.pods import jobs

    if not args.images:
        options.refuse_without("--images", args, "--guidance", "--sampler")
        step = jobs.TrainingStep(config)
        step.check_data()
        return step
    how = batches.Sampling(steps=args.images, sampler=args.sampler, guidance=args.guidance)
    return jobs.Images(config, how)


def render(result: "PodPlan") -> str:
    from dreamjax.pods import plan_report

    return plan_report.text(result)
