"""Measure dreamjax and PyTorch side by side on one GPU, one job after another, each in processes of its own.

A job checks dreamjax on the GPU in bfloat16 against dreamjax on the CPU in float32, at a smaller size of its network,
then times both sides in turns. Every result is in OUT/results.json as soon as it exists, so a stop at any time keeps
what is done. Exit code 1 where a job failed or was not reached.
"""

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from gpu import jobs, running, table

LIMIT_S = 480.0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks/gpu.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/bench/gpu"), help="folder of the results (%(default)s)")
    parser.add_argument("--smoke", action="store_true", help="on CPU at the smallest sizes, PyTorch not compiled")
    parser.add_argument(
        "--jobs", nargs="+", choices=list(jobs.JOBS), default=list(jobs.JOBS), help="jobs to run (default: all)"
    )
    parser.add_argument("--batch", type=int, help="examples a step, in place of each job's number")
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="seconds for all jobs together (%(default).0f)")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the table of a results.json and stop")
    parser.add_argument("--job", choices=list(jobs.JOBS), help=argparse.SUPPRESS)  # this is the process of a job
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)  # … which writes its result here
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)  # … before this time, in seconds of the epoch
    parser.add_argument("--only", help=argparse.SUPPRESS)  # this is one side of a job
    return parser.parse_args()


@contextlib.contextmanager
def environment(*, smoke: bool) -> Iterator[None]:
    """Set the environment of the jobs. A program that is needed again, such as for a second try, is compiled once."""
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # so that both sides fit one GPU
    os.environ["JAX_PLATFORMS"] = "cpu" if smoke else "cuda,cpu"  # the CPU for the check
    if smoke:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
        os.environ |= {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        yield


def main() -> int:
    args = parsed()
    if args.table:
        print(table.of(running.read(args.table)))
        return 0
    if args.only:
        from gpu import sides

        sides.serve(args.job, args.only, smoke=args.smoke, batch=args.batch, out=args.out)
        return 0
    if args.job:
        from gpu import measuring

        measuring.measure(args.job, args.result, smoke=args.smoke, batch=args.batch, out=args.out, until=args.until)
        return 0
    options = [*(["--smoke"] if args.smoke else []), *(["--batch", str(args.batch)] if args.batch else [])]
    command = [sys.executable, "-m", "gpu", *options, "--out", str(args.out)]
    chosen = [jobs.JOBS[name] for name in jobs.JOBS if name in args.jobs]
    with environment(smoke=args.smoke):
        results = running.run(chosen, command, args.out, limit_s=args.limit)
    (args.out / "table.md").write_text(table.of(results))
    print(table.of(results))
    return 0 if all(one["status"] == running.DONE for one in results["jobs"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
