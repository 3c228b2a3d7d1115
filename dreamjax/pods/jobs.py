"""The jobs that can be planned: a step of a config's training, or a batch of images that its model generates."""

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.stages import Traced

from dreamjax.diffusion import sampling
from dreamjax.errors import UserError
from dreamjax.generation import batches
from dreamjax.models import flops
from dreamjax.parallel import sharding
from dreamjax.parallel.mesh import AXES, AnyMesh
from dreamjax.pods import ahead, collectives
from dreamjax.pods.collectives import Collective
from dreamjax.pods.inspect import local_bytes
from dreamjax.pods.topologies import Pod
from dreamjax.runs.latent_diffusion import LatentDiffusion
from dreamjax.signals.datasets import pipeline
from dreamjax.systems import registry
from dreamjax.systems.base import GeneratesFromText, GeneratesFromTrials, Plans, Signals, offered
from dreamjax.training.task import PyTree, State

PARTS = ("params", "opt", "ema", "frozen", "extra")


@dataclass(frozen=True)
class ConfigJob:
    """A job of a config that can be planned."""

    config: Any

    @functools.cached_property
    def task(self) -> Any:
        return registry.build(self.config)


@dataclass(frozen=True)
class TrainingStep(ConfigJob):
    """A step of a config's own training. A job is this or `Images`, which has the same methods."""

    what: ClassVar[str] = "a step"

    @functools.cached_property
    def state(self) -> State:
        return jax.eval_shape(self.task.init, jax.random.key(0))

    def check_data(self) -> None:
        """Refuse data that training would refuse, as far as it is on this machine."""
        if signals := offered(self.task, Signals):
            pipeline.check_training_data(signals.signal)

    @property
    def examples(self) -> int:
        """Return the number of examples of one run of the program, on all devices."""
        return self.config.train.batch_size

    @property
    def unit(self) -> int:
        """Return the number that a device's examples must be a multiple of."""
        return self.config.train.microbatches or 1

    @property
    def runs(self) -> int:
        """Return how often the program runs; 0 where that is open."""
        return self.task.length

    @functools.cached_property
    def flop(self) -> float | None:
        """Return the operations of an example; None where they are not counted analytically."""
        return self.task.flops()

    def with_examples(self, count: int) -> "TrainingStep":
        """Return the same job with that many examples."""
        train = dataclasses.replace(self.config.train, batch_size=count)
        return TrainingStep(dataclasses.replace(self.config, train=train))

    def trace(self, mesh: Mesh) -> Traced:
        """Trace the program on the devices of a mesh, which need not be attached."""
        return ahead.trace_step(self.task, mesh, self.examples, self.task.example())

    def stored(self, mesh: AnyMesh) -> dict[str, float]:
        """Return the stored bytes of a device by part."""
        trees = {name: getattr(self.state, name) for name in PARTS}
        return {name: local_bytes(tree, mesh) for name, tree in trees.items() if jax.tree.leaves(tree)}

    def passing(self, mesh: AnyMesh) -> dict[str, float | None]:
        """Return the temporary bytes of a device, as far as they can be counted; None where they cannot."""
        sharding.check_batch(self.examples, mesh, self.unit)
        bytes_of: dict[str, float | None] = {"gradients": local_bytes(self.state.params, mesh), "activations": None}
        if plans := offered(self.task, Plans):
            rows = self.examples // (mesh.shape["data"] * mesh.shape["fsdp"]) // self.unit
            bytes_of["activations"] = plans.activation_bytes(self.state.params) * rows
        return bytes_of

    def moved(self, mesh: AnyMesh, pod: Pod) -> list[Collective]:
        """Return the collectives that the layout requires."""
        return collectives.of_training(_count(self.state.params), mesh, pod)

    def unsharded(self, mesh: AnyMesh) -> float:
        """Return the share of the larger arrays' bytes that every device of an fsdp mesh holds whole."""
        if mesh.shape["fsdp"] == 1:
            return 0.0
        places = sharding.shardings(self.state, mesh, self.task.sharding_rules)
        return sharding.unsharded_share(self.state, places)[0]


@dataclass(frozen=True)
class Images(ConfigJob):
    """A batch of images from contexts: every step of the sampler, then the autoencoder. In bfloat16.

    The program does not contain the run's own conditioner, which is small in comparison.
    """

    how: batches.Sampling
    examples: int = batches.AT_ONCE
    what: ClassVar[str] = "a batch of images"
    unit: ClassVar[int] = 1
    runs: ClassVar[int] = 0

    def __post_init__(self) -> None:
        if not (offered(self.task, GeneratesFromText) or offered(self.task, GeneratesFromTrials)):
            raise UserError(f"{self.config.system} does not generate images; leave out --images")

    @functools.cached_property
    def flop(self) -> float | None:
        """Return the operations of the U-Net alone."""
        model = self._model(AbstractMesh((1, 1, 1), AXES))
        size = model.latent_size(self.how.height, self.how.width)
        each = flops.unet(model.unet.arguments, *size, self.task.context_shape[0])
        return self._plan(model).calls * (2 if self.how.guided else 1) * each

    def with_examples(self, count: int) -> "Images":
        return dataclasses.replace(self, examples=count)

    def _model(self, mesh: AnyMesh) -> LatentDiffusion:
        return LatentDiffusion.open(self.task.parts, cast(Mesh, mesh), dtype=jnp.bfloat16, text=False, weights=False)

    def _plan(self, model: LatentDiffusion) -> sampling.SamplingPlan:
        how = self.how
        return sampling.plan(how.sampler, model.schedule, how.steps, eta=how.eta, karras=how.karras)

    def trace(self, mesh: Mesh) -> Traced:
        sharding.check_batch(self.examples, mesh)
        model, rows, context = self._model(mesh), sharding.batch_sharding(mesh), self.task.context_shape
        batch = {"index": jax.ShapeDtypeStruct((self.examples,), jnp.uint32, sharding=rows)}
        batch["context"] = jax.ShapeDtypeStruct((self.examples, *context), jnp.float32, sharding=rows)
        given: dict[str, Any] = {name: jax.ShapeDtypeStruct((), jnp.float32) for name in ("scale", "rescale")}
        given["seed"] = jax.ShapeDtypeStruct((), jnp.uint32)
        if self.how.guided:
            whole = NamedSharding(mesh, P())
            given["unconditional"] = {"context": jax.ShapeDtypeStruct((1, *context), jnp.float32, sharding=whole)}
        params = {"unet": model.unet.params, "vae": model.vae.params}
        size = model.latent_size(self.how.height, self.how.width)
        with jax.set_mesh(mesh):
            return model.program.trace(params, self._plan(model), batch, given, size=size, rescales=False)

    def stored(self, mesh: AnyMesh) -> dict[str, float]:
        model = self._model(mesh)
        return {"params": local_bytes({"unet": model.unet.params, "vae": model.vae.params}, mesh)}

    def passing(self, mesh: AnyMesh) -> dict[str, float | None]:
        sharding.check_batch(self.examples, mesh)
        return {"activations": None}

    def moved(self, mesh: AnyMesh, pod: Pod) -> list[Collective]:
        model = self._model(mesh)
        return collectives.gathered(_count(model.unet.params), mesh, pod, self._plan(model).calls)

    def unsharded(self, mesh: AnyMesh) -> float:
        if mesh.shape["fsdp"] == 1:
            return 0.0
        params = self._model(mesh).unet.params
        return sharding.unsharded_share(params, sharding.shardings(params, mesh))[0]


def _count(params: PyTree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


Job = TrainingStep | Images
