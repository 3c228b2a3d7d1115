"""`dreamjax generate`: prompts → images, by a Stable Diffusion folder or a run; trials → images."""

import argparse
from collections.abc import Mapping
from typing import Any

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


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", metavar="FOLDER", help="a diffusers folder, a hub id, or a run that generates from text"
    )
    parser.add_argument(
        "--prompt", nargs="+", default=[], metavar="TEXT", help="what to generate; one image or more of each"
    )
    parser.add_argument("--prompt-file", metavar="FILE", help="a text file with one prompt a line")
    parser.add_argument(
        "--out",
        required=True,
        metavar="DIR",
        help="folder to write; with --checkpoint the same command continues in it",
    )
    parser.add_argument("--n", type=whole_number(1), default=1, metavar="N", help="images of each prompt")
    parser.add_argument("--steps", type=whole_number(1), default=30, metavar="N", help="of the sampler")
    parser.add_argument("--seed", type=whole_number(0), default=0, help="image i has the noise of (seed, i)")
    parser.add_argument("--height", type=whole_number(1), metavar="PIXELS", help="(default: the model's)")
    parser.add_argument("--width", type=whole_number(1), metavar="PIXELS", help="(default: the model's)")
    brain = parser.add_argument_group("from brain signals")
    brain.add_argument(
        "--checkpoint", metavar="RUN", help="a run that generates from trials, in place of --model and --prompt"
    )
    brain.add_argument(
        "--input",
        nargs="+",
        default=[],
        metavar="PATH",
        help="dataset folders, or recordings with --at or --events (default: what the run was trained on)",
    )
    brain.add_argument("--at", nargs="+", type=number(0), default=[], metavar="S", help="times in a recording, s")
    brain.add_argument("--events", default="", metavar="file|TABLE", help="its events, as in dreamjax prepare")
    brain.add_argument("--event-codes", nargs="+", default=[], metavar="CODE", help="only these of them")
    brain.add_argument("--split", choices=["train", "val", "test"], default="test", help="of the images seen")
    brain.add_argument(
        "--trials", type=whole_number(1), metavar="N", help="a number of trials, drawn at random (default: all)"
    )
    brain.add_argument("--samples", type=whole_number(1), default=1, metavar="N", help="images of each trial")
    how = parser.add_argument_group("how")
    how.add_argument(
        "--sampler",
        metavar="NAME",
        help="ddim, ddpm, plms, dpmpp_2m, euler or euler_ancestral (default: the model's)",
    )
    how.add_argument("--guidance", type=number(0), default=7.5, metavar="W", help="1: none")
    how.add_argument("--guidance-rescale", type=number(0, 1), default=0.0, metavar="SHARE", help="against overexposure")
    how.add_argument("--negative-prompt", default="", metavar="TEXT", help="what guidance leads away from")
    how.add_argument("--eta", type=number(0, 1), default=0.0, help="noise of ddim: from 0 (none) to 1 (as ddpm)")
    how.add_argument("--karras", action="store_true", help="Karras's noise levels, for dpmpp_2m and euler")
    how.add_argument("--clip-skip", type=whole_number(0), default=0, metavar="N", help="leave out the last text blocks")
    start = parser.add_argument_group("from a given start")
    start.add_argument("--init-image", metavar="FILE", help="an image to change")
    start.add_argument("--mask-image", metavar="FILE", help="white where the image is generated again; of its size")
    start.add_argument(
        "--strength", type=number(0, 1), metavar="SHARE", help="how much is changed (default: 0.8; 1 with a mask)"
    )
    start.add_argument("--latents", metavar="FILE.npy", help="the noise to start from: (n, channels, h, w)")
    machine = parser.add_argument_group("on what")
    machine.add_argument("--batch", type=whole_number(1), metavar="N", help="images at a time")
    machine.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the computation")
    machine.add_argument(
        "--attention", choices=["auto", "xla", "cudnn", "pallas", "saved"], default="auto", help="implementation"
    )
    machine.add_argument("--variant", metavar="NAME", help="of the weights, such as fp16")


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    from dreamjax.generation import from_prompts
    from dreamjax.training import compile_cache

    if not args.checkpoint:
        refuse_without("--checkpoint", args, *OF_TRIALS)
        if not args.model:
            raise UserError("generate takes --model FOLDER and --prompt TEXT, or --checkpoint RUN")
    else:
        refuse_beside("--checkpoint", args, "--model", *OF_TEXT)
        refuse_without("--events", args, *([] if args.events else ["--event-codes"]))
        if args.at or args.events:
            refuse_beside("--at" if args.at else "--events", args, "--split")
    if not args.checkpoint:
        from_prompts.refuse_existing(args.out)  # before gigabytes of weights are read
    compile_cache.use("auto")
    return _from_trials(args) if args.checkpoint else _from_text(args)


def _how(args: argparse.Namespace) -> JsonDict:
    """Return what both ways have in common."""
    same = {name: getattr(args, name) for name in ("steps", "sampler", "seed", "guidance", "eta", "batch")}
    size = {"height": args.height, "width": args.width}
    return same | size | {"rescale": args.guidance_rescale, "karras": args.karras or None}


def _from_trials(args: argparse.Namespace) -> Mapping[str, Any]:
    from dreamjax.generation import folder, from_trials
    from dreamjax.generation.recording_windows import EventTimes

    times = EventTimes(tuple(args.at), args.events, tuple(args.event_codes)) if args.at or args.events else None
    request = from_trials.TrialRequest(
        input=tuple(args.input), split=args.split, trials=args.trials, samples=args.samples, **_how(args)
    )
    return folder.generate(args.checkpoint, request, args.out, times=times, dtype=args.dtype, attention=args.attention)


def _from_text(args: argparse.Namespace) -> Mapping[str, Any]:
    from dreamjax.generation import from_prompts

    prompts = [*args.prompt, *(_lines(args.prompt_file) if args.prompt_file else [])]
    request = from_prompts.TextRequest(
        prompts=tuple(prompts),
        negative=args.negative_prompt,
        per_prompt=args.n,
        clip_skip=args.clip_skip,
        init_image=args.init_image,
        mask_image=args.mask_image,
        strength=args.strength,
        latents=args.latents,
        **_how(args),
    )
    return from_prompts.generate(
        from_prompts.open_model(args.model, args.dtype, args.attention, args.variant), request, args.out
    )


def _lines(path: str) -> list[str]:
    from etils import epath

    place = epath.Path(path)
    if not place.is_file():
        raise UserError(f"{path}: no such file; --prompt-file is a text file with one prompt a line")
    try:
        return [line.strip() for line in place.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as problem:
        raise UserError(f"{path}: it is not a text file; --prompt-file has one prompt a line") from problem


def render(result: Mapping[str, Any]) -> str:
    height, width = result["size"]
    if "trials" in result:
        split = f" of split {result['split']}" if result["split"] else ""
        return (
            f"{result['out']}: {counted(result['images'], 'image')} of {height} x {width} from "
            f"{result['trials']} of {result['of']} trials{split}, {result['sampler']}, {result['steps']} steps, "
            f"guidance {result['guidance']:g}, seed {result['seed']}; see {result['gallery']}"
        )
    return (
        f"{result['out']}: {counted(result['images'], 'image')} of {height} x {width}, "
        f"{result['sampler']}, {result['steps']} steps, guidance {result['guidance']:g}, seed {result['seed']}; "
        f"all of them in {result['grid']}"
    )
