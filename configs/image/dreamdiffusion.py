r"""DreamDiffusion, stage B, ours at the published size.

From the published files to images (docs/guides/eeg_imagenet.md):

    dreamjax prepare eeg_5_95_std.pth --out TRIALS --split-by subject --hold-out 4 --stimuli IMAGENET
    dreamjax train --config configs/pretrain/dreamdiffusion.py --workdir ENCODER --config.data.path=TRIALS
    dreamjax train --config configs/image/dreamdiffusion.py --workdir runs/dream \
        --config.data.path=TRIALS --config.target.folder=IMAGENET --config.target.splits=prepared \
        --config.encoder.path=ENCODER --config.model.path=stable-diffusion-v1-5/stable-diffusion-v1-5 \
        --config.target.embedding.path=openai/clip-vit-large-patch14

Half a second at 256 Hz, each person's own scale, in both stages; another person and other images are tested. The
U-Net's cross-attention, the encoder and the maps are trained, 130.6 M parameters, in bfloat16; a tenth of the trials
sees the empty caption, so that guidance works; the weights are averaged. For one accelerator of 16 GiB or more: 64
trials a step are two microbatches of 32 (`--config.train.microbatches=2`). Not run by this project at this size.

Published on these data, of one person whose trials come in blocks of one class: 45.8 % (arXiv 2306.16934, table 1,
50-way top-1 of 5 samples over 164 trials, chosen on them). A score on another person's trials is not comparable.

Compiled and not run (docs/scaling.md): 11.96 GiB of one 16 GiB chip at 32 trials; 13.49 a chip of v5e:4x4 at 64.
With 8 trials a chip of v5e:4x4, at once 1.85 of 15.75 GiB; predicted there: 104 to 1,243 ms a step, 0.29 to 3.45 hours,
4.6 to 55 chip-hours, the upper ends those of the compiler's least effort (`tests/recipes/dreamdiffusion.json`).
On H200s with 64 trials a GPU:

    h200-1     13.81 of 98.49 GiB     378 to 516 ms a step
    h200-8     15.38 of 98.49 GiB     379 to 518 ms a step
    h200-64    15.38 of 98.49 GiB     381 to 520 ms a step

    pod = "v5e:4x4", 16 chips, fsdp 16, or "h200-1", "h200-8", "h200-64", for a plan (docs/scaling.md)
"""

from ml_collections import ConfigDict

from dreamjax.systems.dreamdiffusion_presets import Pod, planned


def get_config(pod: Pod = "none", per_chip: int = 8) -> ConfigDict:
    """Return the config. `pod`: only sizes, on a mesh of its chips, `per_chip` trials each, to be compiled only."""
    return planned("ours", pod, per_chip)
