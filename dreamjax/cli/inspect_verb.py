"""`dreamjax inspect`: print the size and cost of a config without allocating anything."""

import argparse
from typing import TYPE_CHECKING

from dreamjax.cli import options

if TYPE_CHECKING:
    from dreamjax.pods.inspect import Inspection

HELP = "print a config's parameters, operations per window, memory per device and shapes; allocates nothing"
EXAMPLE = "dreamjax inspect --config configs/pretrain/dreamdiffusion_paper.py --devices 8 --config.train.mesh.fsdp=8"


def configure(parser: argparse.ArgumentParser) -> None:
    options.add_config(parser)
    devices = "devices of the planned run (default: those that the mesh names)"
    parser.add_argument("--devices", type=options.whole_number(1), help=devices)


def run(args: argparse.Namespace) -> "Inspection":
    from dreamjax.pods.inspect import inspect

    return inspect(options.load_config(args), devices=args.devices)


def render(result: "Inspection") -> str:
    from dreamjax.reports.pages import Page, Section
    from dreamjax.reports.tables import Table

    count, memory, run = result.parameters, result.memory_gib_per_device, result.run
    shapes, flops = result.shapes, result.gflop_per_window  # of a system that plans
    whole = ["encoder", "whole"] if shapes else ["trained"]
    sizes = {**count["parts"], **({"fixed positions": sum(count["fixed_positions"].values())} if shapes else {})}
    rows = [[name, f"{size:,}"] for name, size in sizes.items()]
    rows += [[name, f"{count[name]:,} ({count[name] / 1e6:.2f} M)"] for name in whole]
    sections = [Section(table=Table(["parameters", "count"], rows))]
    devices = f"{memory['devices']} device(s)"
    note = f"{run['steps']:,} steps of {run['batch_size']:,} = {run.get('examples', 0):,} examples"
    if each := run.get("gflop_per_example"):
        sections.append(Section(table=Table(["operations", "GFLOP per example"], [["train", f"{each:,.4g}"]])))
    if not run["steps"]:
        note = f"epochs of batches of {run['batch_size']:,}: their steps depend on the data, which are not here"
    elif each:
        note += f", {run['exaflop']:g} EFLOP"
    if shapes and flops:
        operations = [[name, f"{flop:,.3f}"] for name, flop in flops.items()]
        sections.append(Section(table=Table(["operations", "GFLOP per window"], operations)))
        devices += f", {memory['windows_per_device']} windows each at a time"
        note = (
            f"{run['steps']:,} steps of {run['batch_size']:,} windows = {run['windows']:,} windows, "
            f"{run['exaflop']:g} EFLOP"
        )
    counts = ("devices", "windows_per_device")
    held = [[name, f"{size:.3f}"] for name, size in memory.items() if name not in counts]
    without = "" if shapes else ", without activations"
    sections.append(Section(table=Table(["memory", "GiB per device"], held), notes=[f"{devices}{without}"]))
    if shapes:
        samples, channels = shapes["patch"]
        notes = [
            f"signal {shapes['signal']} at {shapes['sfreq']:g} Hz ({shapes['seconds']:g} s) → {shapes['tokens']} "
            f"tokens of {samples} samples × {channels} channels; encoder sees at most {shapes['encoder_tokens']}",
            f"features {shapes['features']}, prediction {shapes['prediction']}",
        ]
        sections.append(Section(notes=notes))
    return Page(f"run of {result.system}: {note}", sections).text()
