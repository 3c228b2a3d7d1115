"""`dreamjax evaluate`: score a run on held-out data, with baselines and intervals."""

import argparse
from typing import TYPE_CHECKING

from dreamjax.cli import options
from dreamjax.cli.options import number, refuse_beside, refuse_without, whole_number

if TYPE_CHECKING:
    from dreamjax.evaluation.drivers import Result

HELP = "score a run on people or images that its training never saw, with controls and intervals"
NEEDS = ("matplotlib",)
EXAMPLE = "dreamjax evaluate runs/tiny --split test --out runs/tiny/evaluation"
MEASURES = ("images", "reconstruction", "retrieval", "prediction", "probe")


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", metavar="RUN", help="work directory of dreamjax train")
    add("--data", nargs="+", default=[], metavar="SHARDS", help="dataset folders (default: the run's)")
    add("--split", default="test", help="which split to score (default: test)")
    add("--out", metavar="FOLDER", help="where tables and images go (default: RUN/evaluation)")
    which = parser.add_mutually_exclusive_group().add_argument
    which("--step", type=whole_number(0), metavar="N", help="a saved step (default: the newest intact one)")
    which("--best", action="store_true", help="the saved step with the best held-out score")
    add("--windows", type=whole_number(1), metavar="N", help="score an even choice of N windows")
    add("--seed", type=whole_number(0), default=0, help="of masks, intervals, the shown window (default: 0)")
    add("--measure", choices=MEASURES, help="what to score (default: the first of these that the run's system can do)")
    options.add_folders(parser)

    add = parser.add_argument_group("the frozen linear probe").add_argument
    add("--probe", action="store_true", help="pretrain again without each fold's subjects, and probe")
    add("--fold-runs", nargs="+", default=[], metavar="RUN", help="encoders that left out subjects")
    add("--probe-steps", type=whole_number(1), metavar="N", help="of each pretraining (default: the run's)")
    add("--probe-data", metavar="SHARDS", help="the labelled dataset (default: the run's that is)")
    add("--probe-labels", nargs=2, default=["rest", "arithmetic"], metavar="LABEL", help="the two classes")
    add("--with-reconstruction", action="store_true", help="also score every subject by its fold's model")
    add("--folds", type=whole_number(2), default=3, metavar="N", help="how many pretrainings (default: 3)")

    add = parser.add_argument_group("retrieval").add_argument
    nearest = "targets shown on the page for each example (default: 5)"
    add("--nearest", type=whole_number(1), default=5, metavar="K", help=nearest)

    add = parser.add_argument_group("images generated from trials").add_argument
    add("--trials", type=whole_number(1), metavar="N", help="a number of trials, drawn at random (default: all)")
    add("--samples", type=whole_number(1), default=1, metavar="N", help="images of each trial")
    add("--steps", type=whole_number(1), default=30, metavar="N", help="of the sampler")
    add("--sampler", metavar="NAME", help="see dreamjax generate (default: the model's)")
    add("--guidance", type=number(0), default=7.5, metavar="W", help="1: none")
    add("--judge", nargs="+", default=[], metavar="FOLDER", help="vision models that compare images")
    add("--classifier", metavar="FOLDER", help="a ViT that names them: N-way accuracy")
    add("--ways", type=whole_number(2), metavar="N", help="of the N-way accuracy (default: all classes)")
    add("--before", nargs="+", default=[], metavar="SHARDS", help="the trials before their images")
    add("--free", nargs="+", default=[], metavar="SHARDS", help="continuous signal, for pseudo-blocks")
    prompt = "of the baseline that classifies and prompts (default: 'a {label}')"
    add("--prompt", nargs="+", default=["a {label}"], metavar="TEXT", help=prompt)


def run(args: argparse.Namespace) -> "Result":
    from dreamjax import api
    from dreamjax.evaluation import drivers

    measure = "probe" if args.probe or args.fold_runs else args.measure
    if args.fold_runs:
        refuse_beside("--fold-runs", args, "--folds", "--probe-steps")
    if measure is None:
        refuse_without("--probe", args, *drivers.options_of("probe"))
    else:
        refuse_beside(f"the {measure}", args, *drivers.options_of(measure, others=True))
    options.relocate(args.run, args)
    of_drivers = {word.removeprefix("--").replace("-", "_") for word in args.given} - {"measure", "json", "verbose"}
    values = {name: getattr(args, name) for name in of_drivers}
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return api.evaluate(args.run, measure, **values)


def render(result: "Result") -> str:
    return result.text()
