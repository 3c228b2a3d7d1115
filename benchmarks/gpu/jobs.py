"""The jobs by name, in order of value; what each one does is in its module's class `Work`, or the one that is named."""

from dataclasses import dataclass

DREAMJAX, EAGER, COMPILED, GRAPHS = "dreamjax", "torch eager", "torch.compile", "torch.compile, CUDA graphs"
SEEDS = 4
TOGETHER = f"{DREAMJAX}, {SEEDS} seeds as one"


@dataclass(frozen=True)
class Job:
    """`budget_s`: after which it is stopped, so that one that hangs leaves time for the rest."""

    name: str
    title: str
    module: str
    budget_s: float
    sides: tuple[str, ...] = (DREAMJAX, COMPILED)
    profiled: bool = False
    smoke_sides: tuple[str, ...] = (DREAMJAX, EAGER)  # PyTorch is not compiled there, which would take minutes

    def contestants(self, *, smoke: bool) -> tuple[str, ...]:
        """Return the sides that take turns."""
        return self.smoke_sides if smoke else self.sides


def is_ours(side: str) -> bool:
    return side.startswith(DREAMJAX)


CEILING = "ceiling"
SEVERAL = (DREAMJAX, TOGETHER)
JOBS = {
    job.name: job
    for job in (
        Job(CEILING, "large product in bfloat16", "gpu.ceiling", 50, ()),
        Job("pretraining", "pretraining, dreamdiffusion_paper", "gpu.pretraining", 140, profiled=True),
        Job("unet_training", "Stable Diffusion 1.5 training, 512²", "gpu.unet_training", 240),
        Job("sampling", "Stable Diffusion 1.5 sampling, 30 steps, guided", "gpu.unet_sampling", 130),
        Job("small", "small network (the size of NICE)", "gpu.small", 90, (DREAMJAX, COMPILED, GRAPHS)),
        Job(
            "nice",
            "NICE",
            "gpu.retrieval_training:Nice",
            90,
            (*SEVERAL, COMPILED, GRAPHS),
            smoke_sides=(*SEVERAL, EAGER),
        ),
        Job("atm", "ATM-S", "gpu.retrieval_training:Atm", 90, (*SEVERAL, COMPILED)),
        Job("brain_module", "brain module", "gpu.retrieval_training:BrainModule", 90, (*SEVERAL, COMPILED)),
        Job("stage_b", "DreamDiffusion stage B, 512²", "gpu.stage_b_training", 180),
    )
}
