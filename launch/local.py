"""Several processes of one run on this machine, watched by this one.

    python launch/local.py --processes 2 --devices 2 -- \\
        dreamjax train --config configs/pretrain/tiny.py --workdir runs/two

`--devices` gives each process so many virtual CPU devices (for trying out a mesh); without it each sees the machine's
own. Exit code 75: a process was lost or the run was told to stop; the same command continues from the last saved step.
"""

import argparse
import sys

from dreamjax.parallel.watcher import run_local


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--devices", type=int, help="virtual CPU devices of each process")
    parser.add_argument("--grace", type=float, default=30.0, help="seconds given to the others once one is lost")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND …")
    args = parser.parse_args()
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command or args.processes < 1:
        parser.error("give --processes N and, after --, the command to run")
    return run_local(command, args.processes, args.devices, args.grace)


if __name__ == "__main__":
    sys.exit(main())
