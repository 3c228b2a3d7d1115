"""One description becomes a batch script, a request for TPUs or a JobSet; each is what its reader takes."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

from dreamjax.cli import main as cli
from dreamjax.errors import UserError
from dreamjax.pods import scripts
from dreamjax.pods.launch_config import Launch, place

TRAIN = (
    "train",
    "--config",
    "configs/pretrain/base.py",
    "--workdir",
    "gs://bucket/a run",
    "--config.data.path=gs://x/$y",
)


BRING = "gsutil cp -r gs://b/code . && cd code"


def launch(pod, slices=1, **changes):
    given = {"name": "eeg-1", "arguments": TRAIN, "pod": place(pod, slices), "environment": {"A": "it's", "B": "1"}}
    return Launch(**(given | changes))


def shellcheck(script):
    """Without the remark that a dollar in single quotes stays one, which is why it is quoted."""
    program = Path(sys.executable).parent / "shellcheck"
    done = subprocess.run(
        [program, "--shell=bash", "--exclude=SC2016", "-"], input=script, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stdout


SCRIPTS = {
    "slurm-gpus": lambda: scripts.slurm(launch("h100-64", setup="module load cuda"), time="24:00:00"),
    "slurm-gpu-each": lambda: scripts.slurm(launch("h200-16"), processes=8, partition="long", cpus=12),
    "slurm-cpus": lambda: scripts.slurm(launch("cpu-2", environment={})),
    "tpu": lambda: scripts.tpu(launch("v6e-256", setup=BRING), project="p", zone="us-east5-a"),
    "tpu-slices": lambda: scripts.tpu(
        launch("v5p-512", 4, setup="ulimit -n 65536"), project="p", zone="z", terms="spot"
    ),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_shell_scripts_are_clean(name):
    script = SCRIPTS[name]()
    shellcheck(script)
    for inner in re.findall(r"<<'DREAMJAX_HOST'\n(.*?)DREAMJAX_HOST\n", script, re.S):
        shellcheck(inner)
    assert "{{" not in script


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_command_arrives_as_it_was_given(name):
    """Spaces, dollars and quotes included, as a shell reads it."""
    line = next(line for line in SCRIPTS[name]().splitlines() if "dreamjax launch host" in line)
    words = shlex.split(line.removesuffix(" &"))
    at = words.index("dreamjax")
    assert words[at:] == ["dreamjax", "launch", "host", "--grace=120", "--", *TRAIN]


SWEEP = ("sweep", "--config", "c.py", "--workdir", "gs://b/s", "--config.base.data.path=gs://b/$x")


def test_a_sweep_is_an_array_whose_jobs_know_their_part():
    script = scripts.slurm(launch("h100-1", arguments=SWEEP, parts=8))
    shellcheck(script)
    found = options_of(script)
    assert (found["array"], found["output"], found["gpus-per-node"]) == ("0-7", "%x-%A_%a.log", "1")
    assert "DREAMJAX_COORDINATOR" not in script
    line = next(line for line in script.splitlines() if "dreamjax launch host" in line)
    words = shlex.split(line.removesuffix(" &"))
    assert words[words.index("--") + 1 :] == [*SWEEP, "--part=$SLURM_ARRAY_TASK_ID/8"]
    assert '"--part=$SLURM_ARRAY_TASK_ID/8"' in line  # which the shell fills in


COMPARE = ("compare", "--systems", "ridge,nice", "--data", "gs://b/d", "--target", "hog", "--workdir", "gs://b/c")


def test_jobs_of_a_comparison_have_the_same_command():
    """Each takes what no other has taken."""
    script = scripts.slurm(launch("h100-1", arguments=COMPARE, parts=4))
    shellcheck(script)
    assert options_of(script)["array"] == "0-3"
    line = next(line for line in script.splitlines() if "dreamjax launch host" in line)
    words = shlex.split(line.removesuffix(" &"))
    assert words[words.index("--") + 1 :] == [*COMPARE]
    sets = list(yaml.safe_load_all(scripts.gke(launch("v5e-8", arguments=COMPARE, parts=2), image="i")))
    assert [one["metadata"]["name"] for one in sets] == ["eeg-1-0", "eeg-1-1"]
    assert "--part" not in yaml.safe_dump(sets)


@pytest.mark.parametrize("pod", ["v5e-8", "h100-8"])
def test_of_a_sweep_each_part_is_a_jobset(pod):
    """Of its own name, without a coordinator to wait for."""
    text = scripts.gke(launch(pod, arguments=SWEEP, parts=3), image="i")
    found = list(yaml.safe_load_all(text))
    assert [one["metadata"]["name"] for one in found] == ["eeg-1-0", "eeg-1-1", "eeg-1-2"]
    for i, one in enumerate(found):
        jsonschema.validate(one, jobset_schema())
        (container,) = one["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"]
        assert container["command"][2].endswith(f" --part={i}/3")
        assert "DREAMJAX_COORDINATOR" not in {variable["name"] for variable in container["env"]}


def test_sweep_has_one_job_per_run_by_default(tmp_path, capsys):
    """Or for those that are trained as one."""
    config = str(Path(__file__).resolve().parents[2] / "configs/sweep/mask_ratio.py")
    words = ["launch", "slurm", "--topology", "cpu-1", "--dry-run"]
    command = ["--", "sweep", "--config", config, "--workdir", str(tmp_path)]
    assert cli.main([*words, *command, "--config.together=3"]) == 0
    assert "#SBATCH --array=0-13\n" in capsys.readouterr().out
    assert cli.main([*words, "--parts", "4", *command]) == 0
    assert "#SBATCH --array=0-3\n" in capsys.readouterr().out


def options_of(script):
    """#SBATCH --name=value"""
    return dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", script, re.M))


def test_slurm_has_a_task_for_each_process():
    one, each = options_of(SCRIPTS["slurm-gpus"]()), options_of(SCRIPTS["slurm-gpu-each"]())
    assert (one["nodes"], one["ntasks-per-node"], one["gpus-per-node"], one["time"]) == ("8", "1", "8", "24:00:00")
    assert (each["nodes"], each["ntasks-per-node"], each["gpus-per-node"]) == ("2", "8", "8")
    assert (each["partition"], each["cpus-per-task"]) == ("long", "12")
    assert one["signal"] == "TERM@120"
    assert "requeue" in one
    assert "DREAMJAX_LOCAL_DEVICES=8" in SCRIPTS["slurm-gpus"]()  # else JAX would take the first of them alone
    assert "DREAMJAX_LOCAL_DEVICES" not in SCRIPTS["slurm-gpu-each"]()
    assert "gpus-per-node" not in options_of(SCRIPTS["slurm-cpus"]())


@pytest.mark.parametrize(
    ("pod", "kind", "runtime"),
    [
        ("v4-128", "v4-128", "tpu-ubuntu2204-base"),
        ("v5e-256", "v5litepod-256", "v2-alpha-tpuv5-lite"),
        ("v5p-512", "v5p-512", "v2-alpha-tpuv5"),
        ("v6e-16", "v6e-16", "v2-alpha-tpuv6e"),
    ],
)
def test_tpus_are_asked_for_by_their_names(pod, kind, runtime):
    script = scripts.tpu(launch(pod, setup=BRING), project="p", zone="z")
    assert f"--accelerator-type={kind} " in script
    assert f"--runtime-version={runtime} " in script
    assert "--node-id=eeg-1 " in script


def test_several_slices_are_nodes_of_one_request():
    script = SCRIPTS["tpu-slices"]()
    assert "--node-count=4 " in script
    assert "--node-prefix=eeg-1 " in script
    assert "--spot " in script
    assert "--node-id" not in script


# ----------------------------------------------------------------------------------------------------------------- GKE
def jobset_schema():
    """What a JobSet of v1alpha2 must be, of the parts that are used; its jobs are checked as Kubernetes' own."""
    label = {"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$"}
    action = {"enum": ["FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"]}
    reasons = {"items": {"enum": ["BackoffLimitExceeded", "DeadlineExceeded", "FailedIndexes", "PodFailurePolicy"]}}
    rule = {
        "required": ["name", "action"],
        "properties": {"name": label, "action": action, "onJobFailureReasons": reasons},
        "additionalProperties": False,
    }
    policy = {
        "properties": {"maxRestarts": {"type": "integer", "minimum": 0}, "rules": {"items": rule}},
        "additionalProperties": False,
    }
    job = {
        "required": ["name", "template"],
        "properties": {"name": label, "replicas": {"type": "integer", "minimum": 1}, "template": {"type": "object"}},
        "additionalProperties": False,
    }
    spec = {
        "required": ["replicatedJobs"],
        "properties": {"failurePolicy": policy, "replicatedJobs": {"type": "array", "items": job}},
        "additionalProperties": False,
    }
    return {
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {
            "apiVersion": {"const": "jobset.x-k8s.io/v1alpha2"},
            "kind": {"const": "JobSet"},
            "metadata": {"required": ["name"], "properties": {"name": label}},
            "spec": spec,
        },
        "additionalProperties": False,
    }


def jobset(pod, slices=1, **cluster):
    text = scripts.gke(launch(pod, slices), image="gcr.io/p/dreamjax:1", **cluster)
    found = yaml.safe_load(text)
    jsonschema.validate(found, jobset_schema())
    for job in found["spec"]["replicatedJobs"]:
        whole = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, "spec": job["template"]["spec"]}
        kubernetes_validate.validate(whole, kubernetes_validate.latest_version(), strict=True)
    return found


@pytest.mark.parametrize(
    ("pod", "slices", "jobs", "hosts", "chips", "topology", "label"),
    [
        ("v5e-256", 2, 2, 64, 4, "16x16", "tpu-v5-lite-podslice"),
        ("v5e-8", 1, 1, 1, 8, "2x4", "tpu-v5-lite-podslice"),
        ("v6e-16", 1, 1, 4, 4, "4x4", "tpu-v6e-slice"),
        ("v5p-128", 1, 1, 16, 4, "4x4x4", "tpu-v5p-slice"),
        ("tpu7x-128", 1, 1, 16, 4, "4x4x4", "tpu7x"),
    ],
)
def test_a_slice_is_a_job_and_a_host_a_pod(pod, slices, jobs, hosts, chips, topology, label):
    (job,) = jobset(pod, slices, spot=True, queue="q", service_account="writer")["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    inner = spec["template"]["spec"]
    assert (job["replicas"], spec["parallelism"], spec["completions"]) == (jobs, hosts, hosts)
    assert inner["containers"][0]["resources"]["limits"] == {"google.com/tpu": chips}
    assert inner["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == topology
    assert inner["nodeSelector"]["cloud.google.com/gke-tpu-accelerator"] == label
    assert inner["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    assert inner["serviceAccountName"] == "writer"


def test_nodes_of_gpus_are_one_job_that_knows_its_coordinator():
    found = jobset("h100-32")
    (job,) = found["spec"]["replicatedJobs"]
    container = job["template"]["spec"]["template"]["spec"]["containers"][0]
    values = {one["name"]: one.get("value") for one in container["env"]}
    assert job["template"]["spec"]["parallelism"] == 4
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}
    assert values["DREAMJAX_COORDINATOR"] == "eeg-1-nodes-0-0.eeg-1:8476"
    assert values["DREAMJAX_PROCESSES"] == "4"
    assert values["A"] == "it's"
    assert found["metadata"]["name"] == "eeg-1"


def test_a_mistake_is_not_started_again():
    found = jobset("v5e-16")
    policy = found["spec"]["replicatedJobs"][0]["template"]["spec"]["podFailurePolicy"]["rules"][0]
    assert policy["action"] == "FailJob"
    assert policy["onExitCodes"]["values"] == [1, 2]
    assert found["spec"]["failurePolicy"]["rules"][0]["action"] == "FailJobSet"


# ----------------------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: launch("v5e-16", name="My run"), "--name is 'My run'"),
        (lambda: launch("v5e-16", arguments=()), "give the command after --"),
        (
            lambda: launch("v5e-16", arguments=("prepare", "x")),
            "'prepare', but it is one of train, generate, sweep and compare",
        ),
        (lambda: launch("v5e-16", environment={"A B": "1"}), "not a valid variable name"),
        (lambda: launch("v5e-16", environment={"DREAMJAX_PROCESS": "1"}), "is set by the launcher"),
        (lambda: launch("v5e-16", environment={"A": "1\nDREAMJAX_HOST\nx"}), "A has more than one line"),
        (lambda: launch("v5e-16", setup="a\nb"), "--setup has more than one line"),
        (lambda: launch("v5e-16", setup="echo 'a"), "is not a complete shell command"),
        (lambda: launch("v5e-16", setup="true; }; rm x; { true"), "is not a complete shell command"),
        (lambda: launch("v5e-16", setup="module load x # and"), "is not a complete shell command"),
        (lambda: scripts.tpu(launch("v5e-16"), **QUEUED), "let --setup bring it"),
        (lambda: scripts.tpu(launch("v5e:2x8", setup=BRING), **QUEUED), "v5e-16 is v5e:4x4"),
        (lambda: scripts.tpu(launch("v5e-16", setup=BRING), **MULTILINE), "--project has more than one line"),
        (lambda: launch("v5e:3x3"), "v5e:3x3 is not a slice; each side has 1, 2, 4, 8 or 16 chips"),
        (lambda: launch("v5p-200000000"), "no slice has that many"),
        (
            lambda: scripts.gke(launch("v5e-16", arguments=(*TRAIN, "--config.data.path=eeg")), **IMAGE),
            "--config.data.path eeg",
        ),
        (
            lambda: scripts.gke(launch("v5e-16", arguments=("train", "--workdir", "file:///x")), **IMAGE),
            "file:///x would",
        ),
        (lambda: launch("v5e-16", arguments=SWEEP, parts=2), "has 4 hosts, but a part is one process"),
        (lambda: launch("v5e-8", arguments=SWEEP), "give --parts with -- sweep or -- compare alone"),
        (lambda: launch("v5e-8", parts=2), "give --parts with -- sweep or -- compare alone"),
        (lambda: launch("v5e-8", arguments=(*SWEEP, "--part=0/2"), parts=2), "--part after -- sweep is for one"),
        (
            lambda: scripts.slurm(launch("cpu-1", arguments=SWEEP, parts=2), processes=2),
            "a part is one process",
        ),
        (lambda: scripts.slurm(launch("v5e-16")), "v5e-16 are TPUs"),
        (lambda: scripts.slurm(launch("h100-8"), processes=3), "give 1 or 8"),
        (lambda: scripts.slurm(launch("h100-8"), time="1 day"), "it has no spaces"),
        (lambda: scripts.tpu(launch("h100-8"), **QUEUED), "are no TPUs; launch slurm"),
        (lambda: scripts.tpu(launch("tpu7x-128"), **QUEUED), "through Kubernetes alone; launch gke"),
        (lambda: scripts.tpu(launch("v5e-16", arguments=LOCAL), **QUEUED), "runs/x would be on every host's own disk"),
        (lambda: scripts.gke(launch("cpu-2"), image="i"), "are no nodes of GKE"),
        (
            lambda: scripts.gke(launch("v5e-16", arguments=LOCAL), image="i"),
            "give an object store's path",
        ),
    ],
)
def test_reports_what_cannot_be_launched(make, said):
    with pytest.raises(UserError, match=re.escape(said)):
        make()


QUEUED = {"project": "p", "zone": "z"}
MULTILINE = {"project": "p\nrm", "zone": "z"}
IMAGE = {"image": "i"}
LOCAL = ("train", "--config", "c.py", "--workdir=runs/x")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("local --processes 2 train --config c.py --workdir w", "comes after --, as in: dreamjax launch … -- train"),
        (
            "local --processes 2 --json -- train --config c.py --workdir w",
            "--json of dreamjax launch local belongs after",
        ),
        ("slurm --topology cpu-2 -- train --confg c.py --workdir w", "train has no option --confg"),
        ("slurm --topology cpu-2 -- train --config c.py", "the following arguments are required: --workdir"),
        (
            "slurm --topology cpu-2 --out FOLDER -- train --config c.py --workdir w",
            "is a folder; give the name of a file",
        ),
        ("slurm --topology cpu-2 --partition= -- train --config c.py --workdir w", "--partition is empty"),
        ("local -- train", "dreamjax launch local needs --processes"),
        ("slurm -- train", "dreamjax launch slurm needs --topology"),
        ("gke --topology v5e-16 -- train", "dreamjax launch gke needs --image"),
        ("slurm --topology cpu-2 --image x -- train", "--image has no effect with slurm; it is for gke"),
        ("local --processes 2 --dry-run -- train", "--dry-run has no effect with local"),
        ("slurm --topology cpu-0 -- train --config c.py --workdir w", "unknown pod"),
        ("slurm --topology cpu-2 --env A -- train --config c.py --workdir w", "--env A has no value"),
        ("slurm --topology cpu-2 -- fly", "there is no verb fly"),
        (
            "slurm --topology cpu-2 -- prepare x --out y",
            "'prepare', but it is one of train, generate, sweep and compare",
        ),
        ("local --processes 2 -- sweep --config c.py --workdir w", "on one machine, dreamjax sweep --processes N runs"),
        (f"slurm --topology h100-1 -- {' '.join(COMPARE)}", "needs --parts N for a comparison"),
        (f"local --processes 2 -- {' '.join(COMPARE)}", "in several terminals, and they share its jobs"),
        (
            f"gke --topology v5e-8 --image i --parts 2 -- {' '.join(COMPARE).replace('gs://b/d', 'd')}",
            "--data d would be on every host's own disk",
        ),
        (
            "slurm --topology cpu-1 --parts 2 -- train --config c.py --workdir w",
            "give --parts with -- sweep or -- compare alone",
        ),
        ("slurm --topology cpu-1 -- sweep --config c.py --workdir w", "c.py: no such config file"),
        ("slurm --topology cpu-2 --dry-run", "give the command after --"),
        ("cloud -- train", "invalid choice: 'cloud'"),
        ("slurm --topology cpu-2 --nodes 3 -- train", "dreamjax launch has no option --nodes"),
        (
            "tpu --topology v5e-16 --project p --zone z --setup true -- train --config c.py --workdir gs://b/x",
            "gcloud is not installed here",
        ),
    ],
)
def test_rejects_wrong_command(words, said, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "/nowhere")
    assert cli.main(["launch", *words.replace("FOLDER", str(tmp_path)).split()]) == 2
    shown = capsys.readouterr().err
    assert len(shown.strip().splitlines()) == 1
    assert said in shown


def test_a_script_is_written_or_shown(tmp_path, capsys):
    words = ["launch", "slurm", "--topology", "cpu-2", "--env", "A=b=c"]
    command = ["--", "train", "--config", "c.py", "--workdir", "w", "--config.optim.learning_rate=1e-3"]
    assert cli.main([*words, "--dry-run", *command]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("#!/bin/bash\n")
    assert "--config.optim.learning_rate=1e-3" in shown
    assert "export A=b=c\n" in shown
    assert cli.main([*words, "--out", str(tmp_path / "job.sh"), *command]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'job.sh'}: submit it with sbatch {tmp_path / 'job.sh'}\n"
    assert (tmp_path / "job.sh").read_text() == shown


def test_kubernetes_expands_nothing(tmp_path):
    """$(NAME) and $$ mean something to it."""
    text = scripts.gke(launch("v5e-16", environment={"A": "$(B) $$x"}, setup="echo $HOME"), **IMAGE)
    (job,) = yaml.safe_load(text)["spec"]["replicatedJobs"]
    container = job["template"]["spec"]["template"]["spec"]["containers"][0]
    assert container["env"][0] == {"name": "A", "value": "$$(B) $$$$x"}
    assert container["command"][2].startswith("{ echo $$HOME; } || exit 1\n")
    assert container["command"][2].endswith("--config.data.path=gs://x/$$y'")
