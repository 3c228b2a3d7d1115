"""`dreamjax inspect`: what a config costs and yields, before anything is allocated."""

import argparse
from typing import Any

from dreamjax.cli import config_arguments, options

HELP = "print a config's parameters, operations per window, memory per device and shapes; allocates nothing"
EXAMPLE = "dreamjax inspect --config configs/pretrain/dreamdiffusion_paper.py --devices 8 --config.train.mesh.fsdp=8"


def configure(parser: argparse.ArgumentParser) -> None:
    config_arguments.add(parser)
    parser.add_argument(
        "--devices",
        type=options.whole_number(1),
        help="devices of the planned run (default: those that the mesh names)",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    from dreamjax.pods.inspect import inspect

    return inspect(config_arguments.load(args), devices=args.devices)


def render(result: dict[str, Any]) -> str:
    if "shapes" not in result:
        return _render_stored(result)
    count, memory, shapes, job = (result[k] for k in ("parameters", "memory_gib_per_device", "shapes", "run"))
    lines = ["parameters"]
    lines += [f"  {name:22} {size:>13,}" for name, size in count["parts"].items()]
    lines.append(f"  {'fixed positions':22} {sum(count['fixed_positions'].values()):>13,}")
    lines.append(f"  {'encoder':22} {count['encoder']:>13,}  ({count['encoder'] / 1e6:.2f} M)")
    lines.append(f"  {'whole':22} {count['whole']:>13,}  ({count['whole'] / 1e6:.2f} M)")
    lines.append("GFLOP per window")
    lines += [f"  {name:22} {flop:>13,.3f}" for name, flop in result["gflop_per_window"].items()]
    lines.append(
        f"run: {job['steps']:,} steps of {job['batch_size']:,} windows = {job['windows']:,} windows, "
        f"{job['exaflop']:g} EFLOP"
    )
    lines.append(
        f"GiB per device ({memory['devices']} device(s), {memory['windows_per_device']} windows each at a time)"
    )
    sizes = [(name, value) for name, value in memory.items() if name not in ("devices", "windows_per_device")]
    lines += [f"  {name:22} {value:>13.3f}" for name, value in sizes]
    lines.append(
        f"signal {shapes['signal']} at {shapes['sfreq']:g} Hz ({shapes['seconds']:g} s) → {shapes['tokens']} tokens of "
        f"{shapes['patch'][0]} samples × {shapes['patch'][1]} channels; encoder sees at most {shapes['encoder_tokens']}"
    )
    lines.append(f"features {shapes['features']}, prediction {shapes['prediction']}")
    return "\n".join(lines)


def _render_stored(result: dict[str, Any]) -> str:
    """Of a system whose activations are not counted."""
    count, memory, job = (result[k] for k in ("parameters", "memory_gib_per_device", "run"))
    lines = ["parameters"]
    lines += [f"  {name:22} {size:>13,}" for name, size in count["parts"].items()]
    lines.append(f"  {'trained':22} {count['trained']:>13,}  ({count['trained'] / 1e6:.2f} M)")
    lines.append(
        f"run of {result['system']}: {job['steps']:,} steps of {job['batch_size']:,} = {job['examples']:,} examples"
    )
    lines.append(f"GiB per device ({memory['devices']} device(s)), without activations")
    lines += [f"  {name:22} {value:>13.3f}" for name, value in memory.items() if name != "devices"]
    return "\n".join(lines)
