"""The demo's end: what the same training would need on a TPU pod, found out here.

plan → memory, what crosses chips, a range of step times; compiled where TPU's compiler is installed, else counted
"""

from typing import Any

CONFIG = "configs/pretrain/pod_windows_120k.py"


def run(demo: Any) -> None:
    """The stage, with the verb's own tables."""
    demo.stage("20 a plan for a pod", 60, lambda: plan(demo))
    demo.say(
        "everything of it is predicted; docs/scaling.md tells what was held against what"
        if compiles()
        else "counted; with TPU's own compiler (pip install 'dreamjax[tpu]') the real program is compiled for the pod"
    )


def plan(demo: Any) -> None:
    from dreamjax.cli import plan_verb

    fast = ["--effort", "-1"] if compiles() else []  # seconds in place of a minute; the times are then too long
    result = demo.run(["plan", "--config", CONFIG, "--topology", "v5e-64", *fast, "--out", demo.path("plan")])
    print(plan_verb.render(result), flush=True)


def compiles() -> bool:
    from dreamjax.pods import ahead

    return ahead.available()
