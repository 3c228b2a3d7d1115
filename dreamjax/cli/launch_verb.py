"""`dreamjax launch WHERE … -- train …`: the same command as several processes, here or on a cluster."""

import argparse

from dreamjax.cli import options
from dreamjax.errors import UserError
from dreamjax.pods.launch_config import IN_PARTS, VERBS
from dreamjax.typing import JsonDict

HELP = "run a command as several processes: on this machine, under SLURM, on TPU slices or in GKE"
EXAMPLE = (
    "dreamjax launch local --processes 2 --devices 2 -- train --config configs/pretrain/tiny.py --workdir runs/two\n"
    "  dreamjax launch slurm --topology h100-64 --time 24:00:00 --dry-run -- train --config … --workdir …\n"
    "  dreamjax launch gke --topology v5e-256 --slices 2 --image IMAGE --dry-run -- train --config … --workdir gs://…\n"
    "  dreamjax launch slurm --topology h100-1 --parts 8 --dry-run -- sweep --config … --workdir …"
)
TAKES_COMMAND = (*VERBS, *IN_PARTS)  # after --, where what stands is not this verb's own
WHERE = ("local", "slurm", "tpu", "gke", "host")
CLUSTERS = ("slurm", "tpu", "gke")

# option → the places in which it has an effect
FOR = {
    "--processes": ("local", "slurm"),
    "--devices": ("local",),
    "--grace": ("local", "host", *CLUSTERS),
    "--restarts": ("local", *CLUSTERS),
    **dict.fromkeys(("--topology", "--slices", "--name", "--setup", "--env", "--dry-run", "--out"), CLUSTERS),
    "--parts": ("slurm", "gke"),
    **dict.fromkeys(("--output", "--partition", "--account", "--qos", "--time", "--cpus"), ("slurm",)),
    **dict.fromkeys(("--project", "--zone", "--terms", "--package", "--runtime"), ("tpu",)),
    **dict.fromkeys(("--image", "--namespace", "--queue", "--service-account", "--spot"), ("gke",)),
}
NEEDED = {
    "local": ("--processes",),
    "slurm": ("--topology",),
    "tpu": ("--topology", "--project", "--zone"),
    "gke": ("--topology", "--image"),
    "host": (),
}


def configure(parser: argparse.ArgumentParser) -> None:
    whole = options.whole_number(1)
    parser.usage = "dreamjax launch {local,slurm,tpu,gke} [options] -- train …"
    add = parser.add_argument
    add("where", choices=WHERE, metavar="WHERE", help="local, slurm, tpu or gke (host: what their scripts run)")
    restarts = "after exit code 75 (default: 0 here, 100 on clusters)"
    add("--restarts", type=options.whole_number(0), metavar="N", help=restarts)
    grace = "seconds to save and leave after a SIGTERM, or once a process is lost (default: 30 here, 120 on clusters)"
    add("--grace", type=whole, metavar="S", help=grace)
    processes = "local: of the run; slurm: of each host (default: 1, which has all its GPUs)"
    add("--processes", type=whole, metavar="N", help=processes)

    add = parser.add_argument_group("local").add_argument
    add("--devices", type=whole, metavar="N", help="virtual CPU devices of each")

    add = parser.add_argument_group("slurm, tpu, gke").add_argument
    add("--topology", metavar="POD", help="v5e-256, h100-64, cpu-2 and so on")
    add("--slices", type=whole, default=1, metavar="N", help="number of slices")
    parts = "jobs of a sweep (default: one for each point, or for those trained as one) or of a comparison"
    add("--parts", type=whole, metavar="N", help=parts)
    add("--name", default="dreamjax", help="of the job")
    add("--setup", default="", metavar="LINE", help="of shell that each host runs first")
    add("--env", action="append", default=[], metavar="NAME=VALUE", help="for every process; repeatable")
    add("--dry-run", action="store_true", help="print the script and submit nothing")
    add("--out", metavar="FILE", help="write the script there and submit nothing")

    add = parser.add_argument_group("slurm").add_argument
    for name in ("partition", "account", "qos", "time"):
        add(f"--{name}", default="", metavar=name.upper(), help="as sbatch takes it")
    add("--output", default="", metavar="FILE", help="where a job's output goes (default: %%x-%%j.log)")
    add("--cpus", type=whole, metavar="N", help="of a task")

    add = parser.add_argument_group("tpu (queued resources)").add_argument
    add("--project", default="", help="of Google Cloud")
    add("--zone", default="", help="such as us-west4-a")
    add("--terms", choices=("on-demand", "spot", "reserved"), default="on-demand", help="of the request")
    add("--package", default="dreamjax[tpu,data]", help="what pip installs on each host")
    add("--runtime", default="", metavar="VERSION", help="of the hosts' software (default: the chip's)")

    add = parser.add_argument_group("gke (JobSet)").add_argument
    add("--image", default="", help="a container that holds dreamjax")
    add("--namespace", default="default", help="of the cluster")
    add("--queue", default="", help="of Kueue")
    add("--service-account", default="", metavar="NAME", help="that may write to the bucket")
    add("--spot", action="store_true", help="on spot nodes")


def run(args: argparse.Namespace) -> JsonDict:
    from dreamjax.cli import main as cli
    from dreamjax.pods import local

    where = args.where
    for option in args.given:
        if option in FOR and where not in FOR[option]:
            raise UserError(f"{option} has no effect with {where}; it is for {' and '.join(FOR[option])}")
        if getattr(args, option.removeprefix("--").replace("-", "_")) == "":
            raise UserError(f"{option} is empty; give it a value or leave it out")
    if missing := [option for option in NEEDED[where] if option not in args.given]:
        raise UserError(f"dreamjax launch {where} needs {' and '.join(missing)}")
    if where in ("local", "host") and args.json:
        after = "belongs after --, as it is the command that prints a result"
        raise UserError(f"--json of dreamjax launch {where} {after}")
    if where == "host":
        return {"exit_code": local.host(args.command, args.grace or 120)}
    if args.command:
        cli.parsed(args.command)
        if args.command[0] in IN_PARTS and where not in FOR["--parts"]:
            here = {
                "sweep": "dreamjax sweep --processes N runs it",
                "compare": "start dreamjax compare in several terminals, and they share its jobs",
            }
            raise UserError(
                f"{args.command[0]} is launched by {' and '.join(FOR['--parts'])}, a job for each part; on one "
                f"machine, {here[args.command[0]]}"
            )
    if where == "local":
        code = local.here(args.command, args.processes, args.devices, args.grace or 30, args.restarts or 0)
        return {"exit_code": code}
    script = _script(args)
    return local.submit(where, script, out=args.out, dry_run=args.dry_run) | {"script": script}


def _script(args: argparse.Namespace) -> str:
    from dreamjax.pods import scripts
    from dreamjax.pods.launch_config import Launch, place

    launch = Launch(
        name=args.name,
        arguments=tuple(args.command),
        pod=place(args.topology, args.slices),
        setup=args.setup,
        environment=_variables(args.env),
        restarts=100 if args.restarts is None else args.restarts,
        grace_s=args.grace or 120,
        parts=_parts(args),
    )
    names = {
        "slurm": ("processes", "partition", "account", "qos", "time", "output", "cpus"),
        "tpu": ("project", "zone", "terms", "package", "runtime"),
        "gke": ("image", "namespace", "queue", "service_account", "spot"),
    }[args.where]
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return getattr(scripts, args.where)(launch, **given)


def _parts(args: argparse.Namespace) -> int | None:
    """Return the number of jobs: the requested one, or of a sweep one for each point that is trained alone."""
    if args.command[:1] == ["compare"] and args.parts is None:
        raise UserError("dreamjax launch needs --parts N for a comparison: the number of jobs that share its systems")
    if args.command[:1] != ["sweep"]:
        return args.parts
    from dreamjax.cli import main as cli
    from dreamjax.cli import sweep_verb

    return sweep_verb.jobs(cli.parsed(args.command), args.parts)


def _variables(pairs: list[str]) -> dict[str, str]:
    variables = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise UserError(f"--env {pair} has no value; write NAME=VALUE")
        variables[name] = value
    return variables


def render(result: JsonDict) -> str:
    if "script" not in result:
        return ""
    return result.get("said") or result["script"].rstrip("\n")
