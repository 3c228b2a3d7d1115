"""The demo's second half: a small latent diffusion model, trained on captioned images that it draws.

draw → autoencoder → CLIP → U-Net → a folder of diffusers → text to image → what is on the images
"""

import json
from pathlib import Path
from typing import Any

PLACES = ("at the top left", "on the left", "at the top", "in the middle", "on the right", "at the bottom")
SIZES = ("small", "large")
CONFIGS = "configs/image"


def run(demo: Any, classes: int, count: int, steps: int) -> None:
    """Every stage; `count` images of the first `classes` shapes, `steps` of the U-Net's training."""
    images, folder = demo.path("images"), "--config.data.folder"
    words = ["simulate", "--captioned", str(count), "--classes", str(classes), "--out", images]
    drawn = demo.stage("7 draw images", 30, lambda: demo.run(words))
    demo.say(f'{drawn["images"]} images, {drawn["captions"]} captions, such as "{drawn["example"]}"')

    def part(system: str, name: str) -> dict[str, Any]:
        config = ["--config", f"{CONFIGS}/{system}_shapes.py", "--workdir", demo.path(f"{name}-run")]
        result = demo.run(["train", *config, f"{folder}={images}"])
        demo.run(["export", demo.path(f"{name}-run"), "--to", "diffusers", "--out", demo.path(name)])
        return result["val"]

    val = demo.stage("8 autoencoder", 90, lambda: part("autoencoder", "vae"))
    demo.say(f"held-out images come back with {val['psnr']:.1f} dB")
    val = demo.stage("9 CLIP", 60, lambda: part("clip", "clip"))
    found, chance = val["image_to_text"], val["chance"]
    demo.say(f"{found:.0%} of held-out images find a caption of theirs in their batch ({chance:.0%} by chance)")

    def unet() -> dict[str, Any]:
        words = ["train", "--config", f"{CONFIGS}/text_to_image_shapes.py:steps={steps}"]
        words += ["--workdir", demo.path("unet-run"), f"{folder}={images}", f"--config.data.bank={demo.path('bank')}"]
        words += [f"--config.model.vae={demo.path('vae')}"]
        words += [f"--config.model.{name}={demo.path(f'clip/{name}')}" for name in ("text_encoder", "tokenizer")]
        result = demo.run(words)
        demo.run(["export", demo.path("unet-run"), "--to", "diffusers", "--out", demo.path("pipeline")])
        return result["val"]

    val = demo.stage("10 U-Net", 300, unet)
    demo.say(f"held-out loss {val['loss']:.3f} (answering zero: 1)")

    def generate(given: list[str], out: str) -> list[dict[str, Any]]:
        words = ["generate", "--model", demo.path("pipeline"), *given, "--out", demo.path(out)]
        demo.run([*words, "--steps", "20", "--sampler", "ddim", "--guidance", "2"])
        return [json.loads(line) for line in (demo.work / out / "images.jsonl").read_text().splitlines()]

    (demo.work / "prompts.txt").write_text("\n".join(prompts(classes, 6 * classes)) + "\n")
    given = ["--prompt-file", demo.path("prompts.txt")]
    made = demo.stage("11 text to image", 45, lambda: generate(given, "text_to_image"))
    shares = as_prompted(demo.work / "text_to_image", made, classes)
    told = ", ".join(
        f"{name} {s.share:.0%} ({s.low:.0%} to {s.high:.0%}; chance {s.chance:.0%})" for name, s in shares.items()
    )
    demo.say(f"of {len(made)}, as many show what their prompt says: {told}")


def prompts(classes: int, count: int) -> list[str]:
    """Captions of `count` images, in which shapes are as frequent as can be, and the rest is spread over them."""
    from dreamjax.signals.simulation.captions import COLOURS
    from dreamjax.signals.simulation.stimuli import SHAPES

    found = []
    for i in range(count):
        turn, shape = divmod(i, classes)
        size, colour = SIZES[turn // len(COLOURS) % 2], COLOURS[turn % len(COLOURS)]
        found.append(f"a {size} {colour} {SHAPES[shape]} {PLACES[(i + turn) % len(PLACES)]}")
    return found


def as_prompted(folder: Path, made: list[dict[str, Any]], classes: int) -> dict[str, Any]:
    """`drawn.as_prompted` of the images that `generate` wrote."""
    import numpy as np
    from PIL import Image

    from dreamjax.signals.simulation import drawn

    images = [np.asarray(Image.open(folder / row["file"]).convert("RGB")) for row in made]
    return drawn.as_prompted(images, [row["prompt"] for row in made], classes)
