"""Read the `scheduler_config.json` of a diffusers pipeline into a NoiseSchedule.

A key that the file leaves out has the default of the file's own scheduler class, or, where that depends on the sampler
(`timestep_spacing`, `set_alpha_to_one`), of the sampler that is used in the end, as in diffusers. Keys that change
nothing here are ignored; a value that would change the images, and is not built, is refused.
"""

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from dreamjax.diffusion.schedule import NoiseSchedule, SamplerName
from dreamjax.errors import UserError, nearest

SAMPLER_OF_CLASS: dict[str, SamplerName] = {
    "DDIMScheduler": "ddim",
    "DDPMScheduler": "ddpm",
    "PNDMScheduler": "plms",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler_ancestral",
}

_APART = ("variance_type", "trained_betas", "sampler")  # read otherwise
_KIND_OF_FIELD: dict[str, type] = {
    **{field.name: type(field.default) for field in fields(NoiseSchedule) if field.name not in _APART},
    **{"timestep_spacing": str, "set_alpha_to_one": bool},
}

# the values of other keys that mean what is built here
_BUILT: dict[str, tuple[object, ...]] = {
    **dict.fromkeys(("thresholding", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas"), (False,)),
    **dict.fromkeys(("use_flow_sigmas", "use_dynamic_shifting", "euler_at_final"), (False,)),
    **dict.fromkeys(("skip_prk_steps", "lower_order_final"), (True,)),
    **dict.fromkeys(("sigma_min", "sigma_max"), ()),  # none but null
    **{"algorithm_type": ("dpmsolver++",), "solver_order": (2,), "solver_type": ("midpoint",)},
    **{"final_sigmas_type": ("zero",), "interpolation_type": ("linear",), "timestep_type": ("discrete",)},
    "lambda_min_clipped": (-math.inf, "-inf"),
    "variance_type": ("fixed_small", "fixed_small_log", "fixed_large"),  # the first two are the same variance
}


def from_json(config: Mapping[str, object]) -> NoiseSchedule:
    """Return the schedule of a parsed `scheduler_config.json`, its class as `sampler`.

    Raises UserError, naming the field, for a value that is not supported.
    """
    name = config.get("_class_name")
    if not isinstance(name, str) or name not in SAMPLER_OF_CLASS:
        raise _refused("_class_name", name, tuple(SAMPLER_OF_CLASS))
    sampler = SAMPLER_OF_CLASS[name]

    for field, built in _BUILT.items():
        value = config.get(field)
        if value is not None and value not in built:
            raise _refused(field, value, built or ("null",))
    if sampler == "plms" and not config.get("skip_prk_steps"):  # diffusers' default is false
        raise _refused("skip_prk_steps", config.get("skip_prk_steps", False), (True,))

    given: dict[str, Any] = {field: config[field] for field in _KIND_OF_FIELD if config.get(field) is not None}
    for field, value in given.items():
        kind = _KIND_OF_FIELD[field]
        if isinstance(value, bool) != (kind is bool) or not isinstance(value, (int, float) if kind is float else kind):
            words = {int: "a whole number", float: "a number", str: "a word", bool: "true or false"}
            raise UserError(f"scheduler_config.json: {field} is {value!r}, but it must be {words[kind]}")
    if given.get("prediction_type") == "original_sample":
        given["prediction_type"] = "sample"
    if sampler in ("ddim", "ddpm"):
        given.setdefault("clip_sample", True)
    if config.get("variance_type") == "fixed_large":
        given["variance_type"] = "fixed_large"
    if (trained := config.get("trained_betas")) is not None:
        if not isinstance(trained, list) or not all(isinstance(beta, float) for beta in trained):
            raise UserError("scheduler_config.json: trained_betas must be a list of numbers")
        given["trained_betas"] = tuple(trained)
    try:
        return NoiseSchedule(**given, sampler=sampler)
    except ValueError as problem:
        raise UserError(f"scheduler_config.json: {problem}") from problem


def _refused(field: str, value: object, built: tuple[object, ...]) -> UserError:
    near = nearest(value, [b for b in built if isinstance(b, str)]) if isinstance(value, str) else None
    hint = f"; did you mean {near!r}?" if near and len(built) > 1 else ""
    supported = ", ".join(b if isinstance(b, str) else repr(b).lower() for b in built)
    return UserError(f"scheduler_config.json: {field} is {value!r}, but it must be one of {supported}{hint}")
