r"""DreamDiffusion, stage B, as published: the released code's sizes and settings.

From the published files to images (docs/guides/eeg_imagenet.md):

    dreamjax prepare eeg_5_95_std.pth --out TRIALS --reading dreamdiffusion --subject 4 \
        --split-file block_splits_by_image_single.pth --stimuli IMAGENET
    dreamjax train --config configs/pretrain/dreamdiffusion_code.py --workdir ENCODER \
        --config.data.path=TRIALS
    dreamjax train --config configs/image/dreamdiffusion_code.py --workdir runs/dream \
        --config.data.path=TRIALS --config.target.folder=IMAGENET --config.target.splits=prepared \
        --config.encoder.path=ENCODER --config.model.path=stable-diffusion-v1-5/stable-diffusion-v1-5 \
        --config.target.embedding.path=openai/clip-vit-large-patch14

Both stages divide by 10 here (the released code does so in stage A alone), and pretraining reads no test trial.
What the code did by accident is left out: the target of the alignment does not drift, positions stay fixed, and no
gradient is kept of what is not trained. One more difference: images are cropped to their middle, not squashed.
Published, of one person whose trials come in blocks of one class (arXiv 2306.16934, table 1, 50-way top-1 of 5 samples
over 164 trials, chosen on them): 45.8 % for an encoder of 297 M parameters, 36.6 % for one of 162 M. In such blocks
slow drift alone reveals the classes (Li et al. 2021, TPAMI 43:316). Not run by this project at this size.

Compiled and not run (docs/scaling.md): 7.41 GiB of one 16 GiB chip at 8 trials, 12.92 at 32; 2.54 a chip of v5e:4x4.

    pod = "v5e:4x4", 16 chips, fsdp 16, or "h200-1", "h200-8", "h200-64", for a plan (docs/scaling.md)
"""

from ml_collections import ConfigDict

from dreamjax.systems.dreamdiffusion_presets import Pod, planned


def get_config(pod: Pod = "none", per_chip: int = 8) -> ConfigDict:
    """Return the config. `pod`: only sizes, on a mesh of its chips, `per_chip` trials each, to be compiled only."""
    return planned("code", pod, per_chip)
