"""The second part of the demo: a small latent diffusion model, trained on drawn images with captions.

draw → autoencoder → CLIP → U-Net → a diffusers folder → text to image → share of images that agree with the prompt
"""

import json
from pathlib import Path
from typing import Any

PLACES = ("at the top left", "on the left", "at the top", "in the middle", "on the right", "at the bottom")
SIZES = ("small", "large")
CONFIGS = "configs/image"


def run(demo: Any, classes: int, count: int, steps: int) -> None:
    """Run all stages: `count` images of the first `classes` shapes, `steps` of the U-Net's training."""
    images, folder = demo.path("images"), "--config.data.folder"
    words = ["simulate", "--captioned", str(count), "--classes", str(classes), "--out", images]
    drawn = demo.stage("7 draw images", 30, lambda: demo.run(words))
    demo.show(f'{drawn["images"]} images, {drawn["captions"]} captions, such as "{drawn["example"]}"')

    def part(system: str, name: str) -> dict[str, Any]:
        config = ["--config", f"{CONFIGS}/{system}_shapes.py", "--workdir", demo.path(f"{name}-run")]
        result = demo.run(["train", *config, f"{folder}={images}"])
        demo.run(["export", demo.path(f"{name}-run"), "--to", "diffusers", "--out", demo.path(name)])
        return result["val"]

    val = demo.stage("8 autoencoder", 90, lambda: part("autoencoder", "vae"))
    demo.show(f"PSNR of reconstructed held-out images: {val['psnr']:.1f} dB")
    val = demo.stage("9 CLIP", 60, lambda: part("clip", "clip"))
    accuracy, chance = val["image_to_text"], val["chance"]
    demo.show(f"retrieval of the caption of a held-out image within its batch: {accuracy:.0%} (chance {chance:.0%})")

    def unet() -> dict[str, Any]:
        words = ["train", "--config", f"{CONFIGS}/text_to_image_shapes.py:steps={steps}"]
        words += ["--workdir", demo.path("unet-run"), f"{folder}={images}", f"--config.data.bank={demo.path('bank')}"]
        words += [f"--config.model.vae={demo.path('vae')}"]
        words += [f"--config.model.{name}={demo.path(f'clip/{name}')}" for name in ("text_encoder", "tokenizer")]
        result = demo.run(words)
        demo.run(["export", demo.path("unet-run"), "--to", "diffusers", "--out", demo.path("pipeline")])
        return result["val"]

    val = demo.stage("10 U-Net", 300, unet)
    demo.show(f"held-out loss {val['loss']:.3f} (predicting zero: 1)")

    def generate(prompt_options: list[str], out: str) -> list[dict[str, Any]]:
        words = ["generate", "--model", demo.path("pipeline"), *prompt_options, "--out", demo.path(out)]
        demo.run([*words, "--steps", "20", "--sampler", "ddim", "--guidance", "2"])
        return [json.loads(line) for line in (demo.work / out / "images.jsonl").read_text().splitlines()]

    (demo.work / "prompts.txt").write_text("\n".join(prompts(classes, 6 * classes)) + "\n")
    prompt_options = ["--prompt-file", demo.path("prompts.txt")]
    rows = demo.stage("11 text to image", 45, lambda: generate(prompt_options, "text_to_image"))
    shares = as_prompted(demo.work / "text_to_image", rows, classes)
    summary = ", ".join(
        f"{name} {s.share:.0%} ({s.low:.0%} to {s.high:.0%}; chance {s.chance:.0%})" for name, s in shares.items()
    )
    demo.show(f"of {len(rows)} images, the share that agrees with the prompt: {summary}")


def prompts(classes: int, count: int) -> list[str]:
    """Return `count` captions with all shapes equally frequent, and the other attributes spread over them."""
    from dreamjax.signals.simulation.captions import COLOURS
    from dreamjax.signals.simulation.stimuli import SHAPES

    captions = []
    for i in range(count):
        turn, shape = divmod(i, classes)
        size, colour = SIZES[turn // len(COLOURS) % 2], COLOURS[turn % len(COLOURS)]
        captions.append(f"a {size} {colour} {SHAPES[shape]} {PLACES[(i + turn) % len(PLACES)]}")
    return captions


def as_prompted(folder: Path, rows: list[dict[str, Any]], classes: int) -> dict[str, Any]:
    """Return the shares of `drawn.as_prompted` for the images that `generate` wrote."""
    import drawn  # in this folder
    import numpy as np
    from PIL import Image

    images = [np.asarray(Image.open(folder / row["file"], formats=["PNG"]).convert("RGB")) for row in rows]
    return drawn.as_prompted(images, [row["prompt"] for row in rows], classes)
