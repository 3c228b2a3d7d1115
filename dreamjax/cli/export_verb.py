"""`dreamjax export`: a run as a folder that PyTorch users load in one line."""

import argparse

from dreamjax.cli.options import refuse_beside

HELP = "write a trained run as a folder for PyTorch, or for diffusers and transformers: weights, card, parity file"
EXAMPLE = "dreamjax export runs/tiny --to torch --out exported/tiny"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="work directory of dreamjax train or dreamjax import")
    parser.add_argument("--to", choices=["torch", "diffusers"], default="torch", help="what to export to")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write; must not exist")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--step", type=int, metavar="N", help="a saved step (default: the newest)")
    which.add_argument("--best", action="store_true", help="the step with the best held-out score")
    parser.add_argument(
        "--weights",
        choices=["ema", "params"],
        default="ema",
        help="averaged weights where the run kept them, or the last ones",
    )
    parser.add_argument(
        "--licence", metavar="ID", help="licence of the weights; a permissive one is refused over restricted corpora"
    )


def run(args: argparse.Namespace) -> dict[str, object]:
    from dreamjax.export import driver

    if args.to == "diffusers":
        refuse_beside("--to diffusers", args, "--licence")
    which = {"step": args.step, "best": args.best, "weights": args.weights}
    return driver.export(args.run, args.out, to=args.to, licence=args.licence, **which).as_json()


def render(result: dict) -> str:
    lines = [f"{result['out']}: step {result['step']}, {result['parameters']:,} parameters ({result['weights']})"]
    if result["differences"] is None:
        lines.append("not compared with PyTorch, which is not installed here")
    else:
        differences = ", ".join(f"{name} {value:.1e}" for name, value in result["differences"].items())
        lines.append(f"largest relative differences to PyTorch: {differences} (at most {result['tolerance']:g})")
    return "\n".join(lines)
