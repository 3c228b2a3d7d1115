"""Both sides of a retrieval system's training: its real task in dreamjax, and a PyTorch twin; data on the device.

The twin has the network that the system exports to and the same objective, and trains as a careful user of PyTorch
does: batches are chosen by index from tensors that stay on the device, and AdamW is fused.
"""

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Sizes:
    """The shapes of an input, and the examples of a batch."""

    channels: int
    samples: int
    features: int
    people: int
    batch: int


PUBLISHED = {  # THINGS-EEG2, one model a person; THINGS-MEG, one model for four people
    "nice": Sizes(63, 250, 768, 1, 1000),
    "atm": Sizes(63, 250, 1024, 1, 1024),
    "brain_module": Sizes(272, 181, 768, 4, 128),
}
SMALLEST = {
    "nice": Sizes(4, 80, 8, 1, 4),
    "atm": Sizes(4, 80, 8, 1, 4),
    "brain_module": Sizes(6, 20, 8, 2, 4),
}


def task_of(name: str, sizes: Sizes, seed: int = 0, *, small: bool = False) -> Any:
    """Return the system's task for these sizes, whose sensors lie at random positions; `small`: a narrow network."""
    from dreamjax.systems import registry
    from dreamjax.systems.retrieval_data import SizesConfig

    kind = registry.find(name)
    config, shape = kind.Config(), SizesConfig(sizes.channels, sizes.samples, sizes.people, sizes.features)
    model = replace(config.model, outputs=6, dim=8) if small and name == "brain_module" else config.model
    train = replace(config.train, batch_size=sizes.batch)
    task = registry.build(replace(config, seed=seed, sizes=shape, model=model, train=train, epochs=1))
    xyz = np.random.default_rng(1).uniform(-0.1, 0.1, (sizes.channels, 3)).astype(np.float32)
    task.__dict__["positions"] = xyz  # in place of those of a dataset
    return task


def flops_of(task: Any) -> float:
    """Return the operations of a training step for one example, counted as our network computes them."""
    return float(task.flops())


def examples_of(sizes: Sizes, count: int) -> dict[str, np.ndarray]:
    """Return so many examples, each of an image of its own, and the images' vectors."""
    rng = np.random.default_rng(0)
    return {
        "signal": rng.standard_normal((count, sizes.channels, sizes.samples), np.float32),
        "subject": rng.integers(0, sizes.people, count).astype(np.int32),
        "image": np.arange(count, dtype=np.int32),
        "vector": rng.standard_normal((count, sizes.features), np.float32),
    }


def batch_of(sizes: Sizes) -> dict[str, np.ndarray]:
    """Return one batch as the loop gives it to a step."""
    index = np.stack([np.zeros(sizes.batch), np.arange(sizes.batch)], 1).astype(np.uint32)
    return examples_of(sizes, sizes.batch) | {"index": index, "weight": np.ones(sizes.batch, np.float32)}


# ------------------------------------------------------------------------------------------------------------ dreamjax
class Ours:
    """The epoch of several seeds as one program, compiled as in `training.in_memory.train`."""

    def __init__(self, tasks: list[Any], sizes: Sizes, steps: int, options: Mapping[str, Any] | None = None):
        import jax.numpy as jnp

        from dreamjax.systems.retrieval_base import gathered
        from dreamjax.training import in_memory

        self.runs, self.steps, self.number = len(tasks), steps, 0
        data = examples_of(sizes, steps * sizes.batch)
        self.vectors = {"vector": jnp.asarray(data.pop("vector"))}
        self.arrays = {name: jnp.asarray(x)[None] for name, x in data.items()}
        self.sets, self.seeds = jnp.zeros(self.runs, jnp.int32), jnp.arange(self.runs)
        self.state = in_memory.initial(tasks)
        epoch = in_memory.epoch_of(tasks[0], steps * sizes.batch, sizes.batch, gathered)
        self.compiled = epoch.lower(*self._arguments()).compile(dict(options or {}))

    def _arguments(self) -> tuple[Any, ...]:
        return self.state, self.sets, self.seeds, np.int32(self.number), self.arrays, self.vectors, {}

    def run(self, epochs: int) -> None:
        import jax

        for _ in range(epochs):
            self.state, self.loss, _ = self.compiled(*self._arguments())
            self.number += 1
        jax.block_until_ready(self.state.params)


def our_parameters(params: Any) -> int:
    """Return the number of parameters and running statistics of one run; positions of sensors are not among them."""
    import jax

    return sum(x.size for name, tree in params.items() if name != "positions" for x in jax.tree.leaves(tree))


# ------------------------------------------------------------------------------------------------------------- PyTorch
class Theirs:
    """The twin of a task with its optimiser and its data. `compiled`: whether by `torch.compile`, and in which mode."""

    def __init__(self, task: Any, sizes: Sizes, steps: int, *, compiled: bool = False, mode: str | None = None):
        import torch

        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(0)
        module, name = task.torch_twin
        encoders = importlib.import_module(f"dreamjax.systems.pytorch.{module}")
        self.encoder = getattr(encoders, name)(**task.arguments()).to(self.device)
        self.loss = task.config.loss
        scale = torch.tensor(self.loss.initial, dtype=torch.float32, device=self.device)
        self.scale = torch.nn.Parameter(scale, requires_grad=self.loss.learned)
        self.extra = _further_inputs(task, self.device)
        data = examples_of(sizes, steps * sizes.batch)
        self.data = {name: torch.from_numpy(x).to(self.device) for name, x in data.items()}
        self.right = torch.arange(sizes.batch, device=self.device)
        self.optimiser = _adam(task.config.optim, [*self.encoder.parameters(), self.scale])
        self.count, self.batch = steps * sizes.batch, sizes.batch
        self.loss_of = torch.compile(self.eager, mode=mode) if compiled else self.eager

    @property
    def parameters(self) -> int:
        running = (x for x in self.encoder.buffers() if x.is_floating_point())
        return sum(x.numel() for x in (*self.encoder.parameters(), *running)) + 1

    def encode(self, signal: Any, subject: Any) -> Any:
        return self.encoder(signal, *self.extra(subject))

    def eager(self, signal: Any, subject: Any, vectors: Any) -> Any:
        """Return the contrastive loss of a batch whose images all differ."""
        from torch.nn import functional as F

        brain = self.encode(signal, subject)
        brain = F.normalize(brain, dim=-1) if self.loss.normalise == "both" else brain
        logits = self.scale.clamp(max=math.log(self.loss.largest)).exp() * brain @ F.normalize(vectors, dim=-1).T
        loss = F.cross_entropy(logits, self.right)
        return loss if self.loss.direction != "symmetric" else 0.5 * (loss + F.cross_entropy(logits.T, self.right))

    def run(self, epochs: int) -> None:
        import torch

        for _ in range(epochs):
            for rows in torch.randperm(self.count, device=self.device).split(self.batch):
                loss = self.loss_of(*(self.data[name][rows] for name in ("signal", "subject", "vector")))
                self.optimiser.zero_grad(set_to_none=True)
                loss.backward()
                self.optimiser.step()
        loss.item()  # waits for the device


def _further_inputs(task: Any, device: Any) -> Callable[[Any], tuple[Any, ...]]:
    """Return what the encoder takes after the signal, from the people of a batch."""
    import torch

    from dreamjax.models.brain_module import unit_positions

    if task.needs_positions:
        places = np.array(unit_positions(task.positions, task.arguments()["dims"]))[None]
        positions = torch.from_numpy(places).to(device)
        return lambda subject: (subject, positions)
    return (lambda subject: (subject,)) if task.arguments().get("people") else lambda subject: ()


def _adam(optim: Any, parameters: list[Any]) -> Any:
    """Return fused AdamW over what is trained; as ours it decays matrices only."""
    import torch

    trained = [x for x in parameters if x.requires_grad]
    groups = [
        {"params": [x for x in trained if x.ndim > 1], "weight_decay": optim.weight_decay},
        {"params": [x for x in trained if x.ndim <= 1], "weight_decay": 0.0},
    ]
    betas = (optim.beta1, optim.beta2)
    return torch.optim.AdamW(groups, lr=optim.learning_rate, betas=betas, eps=optim.epsilon, fused=True)


# --------------------------------------------------------------------------------------------------------- correctness
def differences(task: Any, ours: Ours, theirs: Theirs, sizes: Sizes) -> dict[str, float]:
    """Load the first run's weights into the twin; return how far vectors and loss of a batch are from each other.

    Without dropout; ‖a - b‖ / ‖b‖.
    """
    import jax
    import torch

    params = jax.tree.map(lambda x: x[0], ours.state.params)
    tensors = task.network.table.to_torch(params["encoder"])
    theirs.encoder.load_state_dict({n: torch.from_numpy(np.array(x)) for n, x in dict(tensors).items()}, strict=False)
    theirs.scale.data.fill_(float(params["logit_scale"]))
    batch = batch_of(sizes)

    @jax.jit
    def forward(params: Any) -> tuple[Any, Any]:
        total, weight, _ = task.loss(params, {}, batch, 0, training=False)
        return task.query(params, batch), total / weight

    names = ("signal", "subject", "vector")
    signal, subject, vectors = (torch.from_numpy(batch[name]).to(theirs.device) for name in names)
    with torch.no_grad():
        theirs.encoder.eval()
        expected = (theirs.encode(signal, subject).cpu().numpy(), float(theirs.eager(signal, subject, vectors)))
        theirs.encoder.train()
    return {
        name: float(np.linalg.norm(np.subtract(a, b)) / np.linalg.norm(b))
        for name, a, b in zip(("vectors", "loss"), forward(params), expected, strict=True)
    }
