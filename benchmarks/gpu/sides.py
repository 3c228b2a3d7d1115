"""One side of a job: a process that sets up its program, runs steps when asked, and reports its peak memory."""

import functools
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import diffusion_models

from gpu import jobs, kernels, stand_ins
from gpu.work import Ours, Theirs, Work

STEP, CHECK, FACTS, PROFILE = "step", "check", "facts", "profile"  # what it is asked for


def work_of(job: str, *, smoke: bool, batch: int | None) -> Work:
    stand_ins.add()
    module, _, name = jobs.JOBS[job].module.partition(":")
    return getattr(importlib.import_module(module), name or "Work")(smoke, batch)


def serve(job: str, side: str, *, smoke: bool, batch: int | None, out: Path) -> None:
    """Answer the process of the job."""
    work = work_of(job, smoke=smoke, batch=batch)
    if jobs.is_ours(side):
        made: Callable[[], Any] = functools.cache(work.together if side == jobs.TOGETHER else work.ours)
        facts = {
            CHECK: lambda: {"differences": work.check(), "most": work.most},
            FACTS: lambda: _facts(made(), work),
            PROFILE: lambda: _profile(made(), out / f"{job}.trace.json.gz"),
        }
        peak = diffusion_models.our_peak
    else:
        mode = "reduce-overhead" if side == jobs.GRAPHS else None
        made = functools.cache(functools.partial(_theirs, work, mode, compiled=side != jobs.EAGER))
        facts = {FACTS: lambda: {"parameters": made().parameters, "steps": made().steps}}
        peak = diffusion_models.their_peak
    common.serve({STEP: lambda: made().run}, peak, facts)


def _facts(ours: Ours, work: Work) -> dict[str, Any]:
    from dreamjax.pods import ahead

    memory = {kind: round(size / 2**20, 1) for kind, size in ahead.memory(ours.compiled).items()}
    return {
        "parameters": ours.parameters,
        "steps": ours.steps,
        "compile_s": round(ours.compile_s, 1),
        "predicted_mib": memory["peak"] or memory["total"],  # a compiler may not say how much is held at once
        "memory_analysis_mib": memory,
        "tflop": work.flops() / 1e12,
        "batch": work.batch,
    }


def _profile(ours: Ours, trace: Path) -> dict[str, Any]:
    """Return the largest kernels; a profiler that does not work here ends nothing."""
    try:
        return {"kernels": kernels.of(ours.run, trace), "problem": ""}
    except Exception as problem:
        return {"kernels": [], "problem": f"{type(problem).__name__}: {problem}"}


def _theirs(work: Work, mode: str | None, *, compiled: bool) -> Theirs:
    import torch

    if compiled and not torch.cuda.is_available():
        raise RuntimeError("PyTorch has no GPU here; --smoke runs on CPU")
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")  # as JAX on GPUs
    made = work.theirs(mode, compiled=compiled)
    if not compiled:
        torch.set_num_threads(1)  # the smoke test's sizes; threads would wait for each other
    return made
