"""The last part of the demo: a plan of the published training for a TPU pod, computed on this machine.

plan → memory, traffic between chips, a range of step times; compiled where the TPU compiler is installed, else counted
"""

from typing import Any

CONFIG = "configs/pretrain/pod_windows_120k.py"


def run(demo: Any) -> None:
    """Run the stage and print the tables."""
    demo.stage("20 a plan for a pod", 60, lambda: plan(demo))
    demo.show(
        "all of it is predicted; docs/scaling.md has the comparison with measurements"
        if compiles()
        else "counted; with the TPU compiler (pip install 'dreamjax[tpu]') the real program is compiled for the pod"
    )


def plan(demo: Any) -> None:
    from dreamjax.cli import plan_verb

    fast = (
        ["--effort", "-1"] if compiles() else []
    )  # seconds instead of a minute; the predicted times are then too long
    result = demo.run(["plan", "--config", CONFIG, "--topology", "v5e-64", *fast, "--out", demo.path("plan")])
    print(plan_verb.render(result), flush=True)


def compiles() -> bool:
    from dreamjax.pods import ahead

    return ahead.available()
