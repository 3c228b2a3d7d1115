"""`dreamjax evaluate`: a run → scores on what its training never saw, with baselines and intervals."""

import argparse
from typing import Any

from dreamjax.cli.options import number, refuse_beside, refuse_without, whole_number
from dreamjax.errors import UserError

HELP = "score a run on people or images that its training never saw, beside controls, with intervals"
EXAMPLE = "dreamjax evaluate runs/tiny --split test --out runs/tiny/evaluation"
NEEDS = ("matplotlib",)
OF_RECONSTRUCTION = ("--data", "--split", "--step", "--best", "--windows")
OF_IMAGES = (
    *("--trials", "--samples", "--steps", "--sampler", "--guidance", "--judge", "--classifier", "--ways"),
    *("--before", "--free", "--prompt"),
)
OF_PROBE = ("--folds", "--probe-steps", "--probe-data", "--probe-labels", "--with-reconstruction")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="work directory of dreamjax train")
    parser.add_argument("--data", nargs="+", default=[], metavar="SHARDS", help="dataset folders (default: the run's)")
    parser.add_argument("--split", default="test", help="which split to score (default: test)")
    parser.add_argument("--out", metavar="FOLDER", help="where tables and images go (default: RUN/evaluation)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--step", type=whole_number(0), metavar="N", help="a saved step (default: the newest intact one)"
    )
    which.add_argument("--best", action="store_true", help="the saved step with the best held-out score")
    parser.add_argument("--windows", type=whole_number(1), metavar="N", help="score an even choice of N windows")
    parser.add_argument(
        "--seed", type=whole_number(0), default=0, help="of masks, intervals, the shown window (default: 0)"
    )
    probe = parser.add_argument_group("the frozen linear probe, in place of reconstruction")
    probe.add_argument("--probe", action="store_true", help="pretrain anew without each fold's subjects, and probe")
    probe.add_argument("--fold-runs", nargs="+", default=[], metavar="RUN", help="encoders that left out subjects")
    probe.add_argument(
        "--probe-steps", type=whole_number(1), metavar="N", help="of each pretraining (default: the run's)"
    )
    probe.add_argument("--probe-data", metavar="SHARDS", help="the labelled dataset (default: the run's that is)")
    probe.add_argument("--probe-labels", nargs=2, default=["rest", "arithmetic"], metavar="LABEL", help="what to tell")
    probe.add_argument(
        "--with-reconstruction", action="store_true", help="also score every subject by its fold's model"
    )
    probe.add_argument(
        "--folds", type=whole_number(2), default=3, metavar="N", help="how many pretrainings (default: 3)"
    )
    made = parser.add_argument_group("images made from trials, of a dreamdiffusion run")
    made.add_argument("--trials", type=whole_number(1), metavar="N", help="so many, drawn at random (default: all)")
    made.add_argument("--samples", type=whole_number(1), default=1, metavar="N", help="images of each trial")
    made.add_argument("--steps", type=whole_number(1), default=30, metavar="N", help="of the sampler")
    made.add_argument("--sampler", metavar="NAME", help="see dreamjax generate (default: the model's)")
    made.add_argument("--guidance", type=number(0), default=7.5, metavar="W", help="1: none")
    made.add_argument("--judge", nargs="+", default=[], metavar="FOLDER", help="vision models that compare images")
    made.add_argument("--classifier", metavar="FOLDER", help="a ViT that names them: N-way accuracy")
    made.add_argument("--ways", type=whole_number(2), metavar="N", help="of the N-way accuracy (default: all classes)")
    made.add_argument("--before", nargs="+", default=[], metavar="SHARDS", help="the trials before their images")
    made.add_argument("--free", nargs="+", default=[], metavar="SHARDS", help="continuous signal, for pseudo-blocks")
    made.add_argument(
        "--prompt",
        nargs="+",
        default=["a {label}"],
        metavar="TEXT",
        help="of the baseline that classifies and prompts (default: 'a {label}')",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    from dreamjax.evaluation import probing, reconstruction
    from dreamjax.systems import opening

    probes = args.probe or args.fold_runs
    if not probes:
        refuse_without("--probe", args, *OF_PROBE)
    else:
        refuse_beside("the probe", args, *OF_RECONSTRUCTION, *OF_IMAGES)
        if args.fold_runs:
            refuse_beside("--fold-runs", args, "--folds", "--probe-steps")
    if opening.config_of(args.run).system == "dreamdiffusion":
        return _images(args)
    if idle := [name for name in OF_IMAGES if name in args.given]:
        raise UserError(f"{' and '.join(idle)} would do nothing: {args.run} makes no images; leave out {idle[0]}")
    if probes:
        labels = (args.probe_labels[0], args.probe_labels[1])
        wanted = probing.ProbeRequest(
            args.probe_data,
            labels,
            args.folds,
            tuple(args.fold_runs),
            args.with_reconstruction,
            args.probe_steps,
            args.seed,
            out=args.out,
        )
        return probing.evaluate(args.run, wanted)
    request = reconstruction.Request(
        tuple(args.data), args.split, args.step, args.best, args.windows, args.seed, out=args.out
    )
    return reconstruction.evaluate(args.run, request)


def _images(args: argparse.Namespace) -> dict[str, Any]:
    from dreamjax.evaluation import controls, image_sources, images
    from dreamjax.generation import from_trials

    refuse_beside("a dreamdiffusion run", args, "--windows", "--probe", "--fold-runs")
    same = {
        name: getattr(args, name) for name in ("split", "trials", "samples", "steps", "sampler", "guidance", "seed")
    }
    request = from_trials.Request(input=tuple(args.data), **same)
    _check_prompts(args.prompt)
    sources = image_sources.How(controls.Material(tuple(args.before), tuple(args.free)), tuple(args.prompt))
    judging = images.Judging(tuple(args.judge), args.classifier or "", args.ways, sources)
    return images.evaluate(args.run, request, judging, args.out, step=args.step, best=args.best)


def _check_prompts(prompts: list[str]) -> None:
    for text in prompts:
        try:
            said = text.format(label="dog")
        except (KeyError, IndexError, ValueError) as problem:
            raise UserError(f"--prompt {text!r}: only {{label}} may stand in braces") from problem
        if said == text:
            raise UserError(f"--prompt {text!r} does not name the class; put {{label}} where it belongs")


def render(result: dict[str, Any]) -> str:
    from dreamjax.evaluation import reconstruction_report
    from dreamjax.reports import image_report, tables

    if result.get("system") == "dreamdiffusion":
        return image_report.text(result)
    return tables.text(result, reconstruction_report.tables(result))
