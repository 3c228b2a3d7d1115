"""The last part of the demo: a plan of the published training for a TPU pod, computed on this machine.

plan → memory, traffic between chips, a range of step times; compiled where the TPU compiler is installed, else counted
"""

import shlex
from typing import Any

CONFIG = "configs/pretrain/pod_windows_120k.py"


def run(demo: Any) -> None:
    """Run the stage and print the tables."""
    demo.stage("21 a plan for a pod", 60, lambda: plan(demo))
    demo.show(
        "all of it is predicted; docs/scaling.md has the comparison with measurements"
        if compiles()
        else "counted; with the TPU compiler (pip install 'dreamjax[tpu]') the real program is compiled for the pod"
    )


def plan(demo: Any) -> None:
    fast = (
        ["--effort", "-1"] if compiles() else []
    )  # seconds instead of a minute; the predicted times are then too long
    words = ["plan", "--config", CONFIG, "--topology", "v5e-64", *fast, "--out", demo.path("plan")]
    demo.show(f"$ dreamjax {shlex.join(words)}")
    process = demo.start(words)
    table, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"demo: `dreamjax plan` ended with exit code {process.returncode}; see above")
    print(table, end="", flush=True)


def compiles() -> bool:
    from dreamjax.pods import ahead

    return ahead.available()
