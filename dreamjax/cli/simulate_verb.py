"""`dreamjax simulate`."""

import argparse
import dataclasses

from dreamjax.cli.options import refuse_beside, refuse_without, whole_number
from dreamjax.console import counted
from dreamjax.typing import JsonDict

HELP = "write forward-modelled EEG of people who look at images, with known ground truth; or images with captions"
EXAMPLE = "dreamjax simulate --out runs/simulated --subjects 6 --minutes 3 --channels 32 --strength 1.0"
NEEDS = ("PIL",)

OF_RECORDINGS = (
    *("--subjects", "--minutes", "--channels", "--images-per-class", "--strength", "--order", "--format", "--sfreq"),
    *("--alpha-hz", "--missing-channels"),
)
THINGS = tuple(
    f"things-eeg2-{name}" for name in ("original", "nice", "ubp", "neurobridge", "adabrain", "raw", "alljoined")
)
BESIDE_LAYOUT = ("--minutes", "--order", "--format", "--sfreq", "--alpha-hz", "--missing-channels", "--pixels")


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--out", required=True, help="folder to create: a BIDS root with stimuli/ and truth.json")
    captioned = "draw N images with captions (metadata.jsonl) in place of recordings"
    add("--captioned", type=whole_number(1), metavar="N", help=captioned)
    layout = (
        "eeg-imagenet: cut trials, splits and images as that corpus publishes them, classes in blocks; things-eeg2-…: "
        "as THINGS-EEG2 is passed on, --classes training and as many test concepts; things-meg: MEG runs (FIF in place "
        "of CTF folders), tables and epochs as that corpus publishes them (default: bids)"
    )
    add("--layout", choices=("bids", "eeg-imagenet", "things-meg", *THINGS), default="bids", help=layout)
    add("--corrupt", action="store_true", help="with --layout eeg-imagenet: one image is damaged")
    add("--pixels", type=whole_number(1), default=64, help="side of the captioned images")
    add("--subjects", type=int, default=6, help="people to simulate")
    add("--minutes", type=float, default=3.0, help="length of each subject's recording")
    add("--channels", type=int, default=32, help="electrodes, 4 to 128 (19 is the 10-20 system)")
    add(
        "--classes",
        type=int,
        default=4,
        help="kinds of image, 1 to 19; in layouts of THINGS up to 114, tested ones too",
    )
    add("--test-images", type=whole_number(1), metavar="N", help="of things-meg, one of each of N classes (default: 4)")
    add("--images-per-class", type=int, default=12, help="all subjects see the same")
    add("--strength", type=float, default=1.0, help="of the evoked responses; 0 gives a null set")
    add("--order", choices=("random", "block"), default="random", help="of the classes in time")
    add("--format", choices=("edf", "brainvision"), default="edf", help="of the recordings")
    add("--sfreq", type=float, default=250.0, help="sampling rate in Hz")
    add("--alpha-hz", type=float, default=10.0, help="mean alpha frequency over subjects, 7.5 to 13")
    add("--missing-channels", type=int, default=0, help="electrodes lost, others in each subject")
    add("--seed", type=whole_number(0), default=0, help="the same seed gives the same files")


def run(args: argparse.Namespace) -> JsonDict:
    if args.layout != "things-meg":
        refuse_without("--layout things-meg", args, "--test-images")
    if args.captioned is not None:
        from dreamjax.signals.simulation import captions

        refuse_beside("--captioned", args, *OF_RECORDINGS, "--layout", "--corrupt")
        return captions.write(args.out, args.captioned, classes=args.classes, pixels=args.pixels, seed=args.seed)
    if args.layout == "eeg-imagenet":
        from dreamjax.signals.simulation import eeg_imagenet_files

        refuse_beside("--layout eeg-imagenet", args, *BESIDE_LAYOUT)
        same = ("subjects", "classes", "images_per_class", "strength", "seed", "corrupt")
        channels = args.channels if "--channels" in args.given else 128
        layout = eeg_imagenet_files.Layout(channels=channels, **{name: getattr(args, name) for name in same})
        return eeg_imagenet_files.write(args.out, layout)
    if args.layout == "things-meg":
        from dreamjax.signals.simulation import things_meg_files

        refuse_beside("--layout things-meg", args, *(o for o in BESIDE_LAYOUT if o != "--sfreq"), "--corrupt")
        names = [f.name for f in dataclasses.fields(things_meg_files.Layout) if hasattr(args, f.name)]
        chosen = {name: getattr(args, name) for name in names if f"--{name.replace('_', '-')}" in args.given}
        return things_meg_files.write(args.out, things_meg_files.Layout(**chosen))
    if args.layout in THINGS:
        from dreamjax.signals.simulation.things_eeg2_files import write_things_eeg2

        refuse_beside(f"--layout {args.layout}", args, *BESIDE_LAYOUT, "--channels", "--corrupt")
        size = {name: getattr(args, name) for name in ("subjects", "strength", "seed")}
        concepts = {
            "concepts": args.classes,
            "test_concepts": args.classes,
            "images_per_concept": args.images_per_class,
        }
        return write_things_eeg2(args.out, args.layout.removeprefix("things-eeg2-"), **size, **concepts)
    from dreamjax.signals.simulation import simulate

    refuse_without("--layout eeg-imagenet", args, "--corrupt")
    refuse_without("--captioned", args, "--pixels")

    names = [f.name for f in dataclasses.fields(simulate.SimulationSettings) if hasattr(args, f.name)]
    return simulate.simulate(args.out, simulate.SimulationSettings(**{name: getattr(args, name) for name in names}))


def render(result: JsonDict) -> str:
    classes = counted(len(result.get("classes", ())), "class", "classes")
    if "captions" in result:
        return (
            f"{counted(result['images'], 'image')} of {result['pixels']} x {result['pixels']} pixels with "
            f'{counted(result["captions"], "caption")}, such as "{result["example"]}", in {result["out"]} '
            f"({result['seconds']} s)"
        )
    if result.get("layout") == "things-meg":
        return (
            f"{counted(result['trials'], 'trial')} of {counted(result['subjects'], 'person', 'people')} at "
            f"{counted(result['images'], 'image')} ({classes}, strength {result['strength']:g}) in {result['out']}: "
            f"runs in {', '.join(result['files'])}, epochs in {result['epochs']}, images in {result['images_folder']} "
            f"({result['seconds']} s)"
        )
    if result.get("layout") in THINGS:
        return (
            f"trials of {counted(result['subjects'], 'person', 'people')} at {result['train_images']} training and "
            f"{result['test_images']} test images ({result['channels']} channels, strength {result['strength']:g}) in "
            f"{result['eeg']}, images in {result['images']}"
        )
    if "layout" in result:
        return (
            f"{counted(result['trials'], 'trial')} of {counted(result['subjects'], 'person', 'people')} at "
            f"{counted(result['images'], 'image')} ({classes}, a block each, strength {result['strength']:g}) in "
            f"{result['out']}: {', '.join(result['files'] + result['split_files'])}, images in {result['imagenet']} "
            f"({result['seconds']} s)"
        )
    return (
        f"{counted(result['subjects'], 'subject')} x {result['minutes']:g} min, {result['channels']} channels at "
        f"{result['sfreq']:g} Hz, an image shown {result['trials']:,} times ({classes}, {result['order']} order, "
        f"strength {result['strength']:g})\n"
        f"recordings in {result['out']}, ground truth in {result['truth']} ({result['seconds']} s)"
    )
