"""`dreamjax generate`: prompts → images, by a Stable Diffusion folder or a run; trials → images."""

import argparse
from collections.abc import Mapping
from typing import Any

from dreamjax.cli import options
from dreamjax.cli.options import number, refuse_beside, refuse_without, whole_number
from dreamjax.console import counted
from dreamjax.errors import UserError
from dreamjax.typing import JsonDict

HELP = "generate images from text with a Stable Diffusion folder or a trained run, or from brain signals with a run"
EXAMPLE = 'dreamjax generate --model FOLDER --prompt "a red circle" --steps 30 --seed 0 --out images'
OF_TEXT = (
    *("--prompt", "--prompt-file", "--n", "--negative-prompt", "--clip-skip", "--init-image", "--mask-image"),
    *("--strength", "--latents", "--variant"),
)
OF_TRIALS = ("--input", "--split", "--trials", "--samples", "--at", "--events", "--event-codes")
SAMPLERS = "ddim, ddpm, plms, dpmpp_2m, euler or euler_ancestral (default: the model's)"
SIGNALS = "dataset folders, or recordings with --at or --events (default: what the run was trained on)"


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", metavar="FOLDER", help="a diffusers folder, a hub id, or a run that generates from text")
    add("--prompt", nargs="+", default=[], metavar="TEXT", help="what to generate; one image or more of each")
    add("--prompt-file", metavar="FILE", help="a text file with one prompt a line")
    out = "folder to write; with --checkpoint the same command continues in it"
    add("--out", required=True, metavar="DIR", help=out)
    add("--n", type=whole_number(1), default=1, metavar="N", help="images of each prompt")
    add("--steps", type=whole_number(1), default=30, metavar="N", help="of the sampler")
    add("--seed", type=whole_number(0), default=0, help="image i has the noise of (seed, i)")
    add("--height", type=whole_number(1), metavar="PIXELS", help="(default: the model's)")
    add("--width", type=whole_number(1), metavar="PIXELS", help="(default: the model's)")
    options.add_folders(parser)

    add = parser.add_argument_group("from brain signals").add_argument
    add("--checkpoint", metavar="RUN", help="a run that generates from trials, in place of --model and --prompt")
    add("--input", nargs="+", default=[], metavar="PATH", help=SIGNALS)
    add("--at", nargs="+", type=number(0), default=[], metavar="S", help="times in a recording, s")
    add("--events", default="", metavar="file|TABLE", help="its events, as in dreamjax prepare")
    add("--event-codes", nargs="+", default=[], metavar="CODE", help="only these of them")
    add("--split", choices=["train", "val", "test"], default="test", help="of the images seen")
    add("--trials", type=whole_number(1), metavar="N", help="a number of trials, drawn at random (default: all)")
    add("--samples", type=whole_number(1), default=1, metavar="N", help="images of each trial")

    add = parser.add_argument_group("how").add_argument
    add("--sampler", metavar="NAME", help=SAMPLERS)
    add("--guidance", type=number(0), default=7.5, metavar="W", help="1: none")
    add("--guidance-rescale", type=number(0, 1), default=0.0, metavar="SHARE", help="against overexposure")
    add("--negative-prompt", default="", metavar="TEXT", help="what guidance leads away from")
    add("--eta", type=number(0, 1), default=0.0, help="noise of ddim: from 0 (none) to 1 (as ddpm)")
    add("--karras", action="store_true", help="Karras's noise levels, for dpmpp_2m and euler")
    add("--clip-skip", type=whole_number(0), default=0, metavar="N", help="leave out the last text blocks")

    add = parser.add_argument_group("from a given start").add_argument
    add("--init-image", metavar="FILE", help="an image to change")
    add("--mask-image", metavar="FILE", help="white where the image is generated again; of its size")
    changed = "how much is changed (default: 0.8; 1 with a mask)"
    add("--strength", type=number(0, 1), metavar="SHARE", help=changed)
    add("--latents", metavar="FILE.npy", help="the noise to start from: (n, channels, h, w)")

    add = parser.add_argument_group("on what").add_argument
    add("--batch", type=whole_number(1), metavar="N", help="images at a time")
    add("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the computation")
    attention = ["auto", "xla", "cudnn", "pallas", "saved"]
    add("--attention", choices=attention, default="auto", help="implementation")
    add("--variant", metavar="NAME", help="of the weights, such as fp16")


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    from dreamjax import api

    source = args.checkpoint or args.model
    if args.checkpoint:
        refuse_beside("--checkpoint", args, "--model", *OF_TEXT)
        refuse_without("--events", args, *([] if args.events else ["--event-codes"]))
        if args.at or args.events:
            refuse_beside("--at" if args.at else "--events", args, "--split")
    else:
        refuse_without("--checkpoint", args, *OF_TRIALS)
        if not args.model:
            raise UserError("generate takes --model FOLDER and --prompt TEXT, or --checkpoint RUN")
    options.relocate(source, args)
    request, more = _trials(args) if args.checkpoint else _text(args)
    return api.generate(source, request, args.out, dtype=args.dtype, attention=args.attention, **more)


def _sampling(args: argparse.Namespace) -> JsonDict:
    """Return what both ways have in common."""
    same = ("steps", "sampler", "seed", "guidance", "eta", "batch", "height", "width")
    values = {name: getattr(args, name) for name in same}
    return values | {"rescale": args.guidance_rescale, "karras": args.karras or None}


def _trials(args: argparse.Namespace) -> tuple[Any, JsonDict]:
    """Return the request, and what else the API takes."""
    from dreamjax.generation.from_trials import TrialRequest
    from dreamjax.generation.recording_windows import EventTimes

    times = EventTimes(tuple(args.at), args.events, tuple(args.event_codes)) if args.at or args.events else None
    which = {"input": tuple(args.input), "split": args.split, "trials": args.trials, "samples": args.samples}
    return TrialRequest(**which, **_sampling(args)), {"times": times}


def _text(args: argparse.Namespace) -> tuple[Any, JsonDict]:
    """Return the request, and what else the API takes."""
    from dreamjax.generation.from_prompts import TextRequest

    request = TextRequest(
        prompts=(*args.prompt, *(_lines(args.prompt_file) if args.prompt_file else [])),
        negative=args.negative_prompt,
        per_prompt=args.n,
        **{name: getattr(args, name) for name in ("clip_skip", "init_image", "mask_image", "strength", "latents")},
        **_sampling(args),
    )
    return request, {"variant": args.variant}


def _lines(path: str) -> list[str]:
    from etils import epath

    from dreamjax.storage import presence

    place = epath.Path(path)
    if not presence.is_file(place):
        raise UserError(f"{path}: no such file; --prompt-file is a text file with one prompt a line")
    try:
        return [line.strip() for line in place.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as problem:
        raise UserError(f"{path}: it is not a text file; --prompt-file has one prompt a line") from problem


def render(result: Mapping[str, Any]) -> str:
    height, width = result["size"]
    trials, grid = "", f"; all of them in {result['grid']}"
    if "trials" in result:
        split = f" of split {result['split']}" if result["split"] else ""
        trials, grid = f" from {result['trials']} of {result['of']} trials{split}", f"; see {result['gallery']}"
    return (
        f"{result['out']}: {counted(result['images'], 'image')} of {height} x {width}{trials}, {result['sampler']}, "
        f"{result['steps']} steps, guidance {result['guidance']:g}, seed {result['seed']}{grid}"
    )
