r"""The 15 rows of DreamDiffusion's ablation (arXiv 2306.16934, table 1), all pretrained, fine-tuned and scored alike.

    dreamjax sweep --config configs/sweep/dreamdiffusion_ablation.py --workdir runs/ablation \
        --config.pretrain.data.path=runs/trials --config.base.data.path=runs/trials \
        --config.base.target.folder=IMAGENET --config.base.model.path=SD15 \
        --config.base.target.embedding.path=CLIP --config.score.classifier=VIT
    dreamjax report runs/ablation

`runs/trials` is EEG-ImageNet as `dreamjax prepare` leaves it, IMAGENET the folder of its images; the others are
folders or hub ids of Stable Diffusion 1.5, a CLIP vision model with its projection, a ViT for ImageNet's classes.

The paper compares single runs of one person on 164 images, where 95 % of chance alone is ± 7.6 points, and chose its
steps on the images that it reports. Here every row has three seeds, is scored on split val, and is tested against the
highest one; rows of the same encoder and mask ratio share one pretraining. What the paper printed, 50-way top-1 in %:

    row       pretrained  CLIP  hidden  tuned            encoder    published
    full      yes         yes   0.75    encoder + heads  303 M      45.8
    1         no          no    -       encoder + heads  303 M       4.2
    2         no          no    -       encoder + heads  18 M        3.7
    3         no          yes   -       encoder + heads  303 M      32.3
    4         no          yes   -       encoder + heads  18 M       24.5
    5         yes         yes   0.25    encoder + heads  303 M      19.7
    6         yes         yes   0.5     encoder + heads  303 M      38.3
    7         yes         yes   0.85    encoder + heads  303 M      33.4
    8         yes         yes   0.75    encoder + heads  454 M      38.5
    9         yes         yes   0.75    encoder + heads  163 M      36.6
    10        yes         yes   0.75    encoder + heads  76 M       29.8
    11        yes         yes   0.75    encoder + heads  18 M       28.7
    12        yes         yes   0.75    encoder          303 M      22.4
    13        yes         no    0.75    encoder + heads  303 M      28.3
    14        yes         no    0.75    heads            303 M      20.9

Heads are the U-Net's cross-attention. The paper gives encoders by their parameters (297, 458, 162, 74 and 18.3 M, of
two layers); widths and depths here are the nearest ones. Eight chips of 16 GiB or more; `sizes=small` is the same sweep
in the small, which the tests run.
"""

from typing import Any, Literal

from ml_collections import ConfigDict

from dreamjax.sweeps import axes, sweep_config
from dreamjax.systems import dreamdiffusion_presets, masked_presets

# parameters of the encoder, in M → width, depth, heads
PAPER = {303: (1024, 24, 16), 454: (1024, 36, 16), 163: (768, 23, 12), 76: (512, 24, 8), 18: (864, 2, 16)}
SMALL = {303: (32, 3, 4), 454: (32, 4, 4), 163: (24, 3, 4), 76: (16, 3, 2), 18: (32, 2, 4)}


def get_config(sizes: Literal["paper", "small"] = "paper") -> ConfigDict:
    """Return the config. `sizes`: those of the paper, or small ones."""
    small = sizes == "small"
    pretrain = masked_presets.preset("tiny" if small else "dreamdiffusion_paper")
    base = dreamdiffusion_presets.preset("shapes" if small else "paper")
    base.encoder.cls_token = True
    for config in (pretrain, base):
        config.train.update({"eval_every": 0, "tensorboard": False})
    pretrain.train.image_every = 0
    pretrain.train.checkpoint.keep_last = 1
    if small:
        pretrain.model.update({"channels": 128, "decoder_dim": 16, "decoder_heads": 2, "decoder_depth": 1})
        pretrain.data.update({"montage": "own", "samples": 128})
    rows = axes.rows("row", **{name: _row(SMALL if small else PAPER, *row) for name, row in ROWS.items()})
    return sweep_config.config(
        "dreamdiffusion_ablation",
        base,
        [rows],
        pretrain=pretrain,
        seeds=(0, 1, 2),
        compare=("examples",),
        score={
            "rank": "images",
            "windows": None,
            "ways": None if small else 50,
            "guidance": 1.0,
            "samples": 1 if small else 5,
        },
    )


# name → pretrained, aligned with CLIP, share hidden, what is tuned, encoder
ROWS: dict[str, tuple[bool, bool, float, str, int]] = {
    "full": (True, True, 0.75, "both", 303),
    "1": (False, False, 0.75, "both", 303),
    "2": (False, False, 0.75, "both", 18),
    "3": (False, True, 0.75, "both", 303),
    "4": (False, True, 0.75, "both", 18),
    "5": (True, True, 0.25, "both", 303),
    "6": (True, True, 0.5, "both", 303),
    "7": (True, True, 0.85, "both", 303),
    "8": (True, True, 0.75, "both", 454),
    "9": (True, True, 0.75, "both", 163),
    "10": (True, True, 0.75, "both", 76),
    "11": (True, True, 0.75, "both", 18),
    "12": (True, True, 0.75, "encoder", 303),
    "13": (True, False, 0.75, "both", 303),
    "14": (True, False, 0.75, "heads", 303),
}


def _row(
    sizes: dict[int, tuple[int, int, int]], pretrained: bool, aligned: bool, hidden: float, tuned: str, millions: int
) -> dict[str, Any]:
    dim, depth, heads = sizes[millions]
    return {
        "encoder.start": "weights" if pretrained else "random",
        "encoder.trainable": tuned != "heads",
        "loss.alignment": "cosine" if aligned else "none",
        "model.trainable": "none" if tuned == "encoder" else "cross_attention",
        "pretrain.mask.ratio": hidden,
        "pretrain.model.dim": dim,
        "pretrain.model.depth": depth,
        "pretrain.model.heads": heads,
    }
