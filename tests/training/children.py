"""Training in child processes that a test may kill, stop or join. JAX is imported once, in their server."""

import dataclasses
import json
import multiprocessing
import os
import resource
import socket
import sys
from pathlib import Path
from typing import Any

import jax

from dreamjax.errors import UserError
from dreamjax.parallel import processes
from dreamjax.training.config import TrainConfig
from dreamjax.training.loop import train
from tests.training.tiny_tasks import Regression

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.training.children"])


def start(workdir: Path, task: Any = None, *, devices: int = 1, join: Any = None, **config: Any) -> Any:
    """A child that trains `task` in `workdir`; `join` = (coordinator, processes, index). Its exit code is the verb's.

    `file_limit`: largest file it may write, bytes; `note`: folder for result and error instead of `workdir`.
    """
    child = CONTEXT.Process(target=_run, args=(workdir, task or Regression(), devices, join, config))
    child.start()
    return child


def _run(workdir: Path, task: Any, devices: int, join: tuple[str, int, int] | None, config: dict[str, Any]) -> None:
    if limit := config.pop("file_limit", None):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    note = config.pop("note", workdir)
    jax.config.update("jax_num_cpu_devices", devices)
    if join:
        names = (processes.COORDINATOR, processes.COUNT, processes.INDEX)
        os.environ.update(zip(names, map(str, join), strict=True))
        processes.initialize(heartbeat_s=10)
    workdir.mkdir(parents=True, exist_ok=True)
    defaults = {"steps": 40, "batch_size": 16, "log_every": 1, "tensorboard": False}
    settings = TrainConfig(**(defaults | config))
    text = json.dumps({"train": dataclasses.asdict(settings), "task": repr(task)})
    try:
        result = train(task, settings, workdir, config_json=text)
    except UserError as mistake:
        (note / "error.txt").write_text(str(mistake))
        sys.exit(2)
    index = join[2] if join else 0
    (note / f"result_{index}.json").write_text(json.dumps(result))
    sys.stdout.flush()
    os._exit(result["exit_code"])


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]
