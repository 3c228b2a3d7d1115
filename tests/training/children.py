"""Training in child processes that a test may kill, stop or join. JAX is imported once, in their server."""

import dataclasses
import json
import logging
import multiprocessing
import os
import resource
import socket
import sys
from pathlib import Path
from typing import Any

import jax

from dreamjax.console import log
from dreamjax.errors import UserError
from dreamjax.parallel import environment, processes
from dreamjax.training.loop import train
from dreamjax.training.train_config import TrainConfig
from tests.training.tiny_tasks import Regression

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.training.children"])


def start(workdir: Path, task: Any = None, *, devices: int = 1, join: Any = None, **config: Any) -> Any:
    """A child that trains `task` in `workdir`; `join` = (coordinator, processes, index). Its exit code is the verb's.

    `file_limit`: largest file it may write, bytes; `note`: folder for result, error and what was said instead of
    `workdir`; `order`: of the devices in the mesh.
    """
    child = CONTEXT.Process(target=_run, args=(workdir, task or Regression(), devices, join, config))
    child.start()
    return child


def _run(workdir: Path, task: Any, devices: int, join: tuple[str, int, int] | None, config: dict[str, Any]) -> None:
    if limit := config.pop("file_limit", None):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    note, order = config.pop("note", workdir), config.pop("order", None)
    index = join[2] if join else 0
    workdir.mkdir(parents=True, exist_ok=True)
    log.addHandler(_Lines(note / f"said_{index}.jsonl"))
    jax.config.update("jax_num_cpu_devices", devices)
    if "compile_cache" in config:  # not the tests' own
        os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    if join:
        names = (environment.COORDINATOR, environment.COUNT, environment.INDEX)
        os.environ.update(zip(names, map(str, join), strict=True))
        os.environ[environment.HEARTBEAT] = "10"
        processes.initialize()
    defaults = {"steps": 40, "batch_size": 16, "log_every": 1, "tensorboard": False}
    settings = TrainConfig(**(defaults | config))
    text = json.dumps({"train": dataclasses.asdict(settings), "task": repr(task)})
    try:
        chosen = None if order is None else [jax.devices()[i] for i in order]
        result = train(task, settings, workdir, config_json=text, devices=chosen)
    except UserError as mistake:
        (note / "error.txt").write_text(str(mistake))
        if join:
            processes.leave(2)
        sys.exit(2)
    except jax.errors.JaxRuntimeError as problem:
        processes.lost_peer(problem)  # waits, as the verb does, for what ends the process by name
        raise
    (note / f"result_{index}.json").write_text(json.dumps(result))
    sys.stdout.flush()
    os._exit(result["exit_code"])


class _Lines(logging.Handler):
    """What dreamjax logs, a JSON string a line."""

    def __init__(self, path: Path) -> None:
        super().__init__(logging.INFO)
        log.setLevel(logging.INFO)
        self.path = path

    def emit(self, record: logging.LogRecord) -> None:
        with self.path.open("a") as stream:
            stream.write(json.dumps(record.getMessage()) + "\n")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]
