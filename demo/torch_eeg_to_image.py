"""Generate images from EEG with diffusers, without JAX: `python demo/torch_eeg_to_image.py EXPORT FOLDER`.

Open the folder of `dreamjax export RUN --to diffusers`, generate images from the EEG and the noise that are stored in
it, and write them to FOLDER, each next to the image that dreamjax generated from the same input.
"""

import json
import sys
from pathlib import Path

from torch_encoder import FORBIDDEN  # in this folder

LEAST = 45.0  # dB


def main(export: str, folder: str) -> int:
    sys.modules.update(dict.fromkeys(FORBIDDEN))  # type: ignore[arg-type]  # importing one of them raises ImportError
    import torch
    from diffusers import DiffusionPipeline
    from diffusers.utils import logging
    from PIL import Image
    from safetensors.torch import load_file

    logging.disable_progress_bar()
    pipe = DiffusionPipeline.from_pretrained(export, trust_remote_code=True, low_cpu_mem_usage=False)
    pipe.set_progress_bar_config(disable=True)
    stored = load_file(Path(export) / "parity.safetensors")
    how = {"num_inference_steps": int(stored["steps"]), "guidance_scale": float(stored["guidance"])}
    images = pipe(stored["eeg"], scale=stored.get("scale"), latents=stored["latents"], output_type="pt", **how).images
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    for i, pair in enumerate(zip(stored["image"], images, strict=True)):
        both = torch.cat([image.clamp(0, 1) for image in pair], dim=2).permute(1, 2, 0)
        Image.fromarray((255 * both).round().byte().numpy()).save(out / f"{i}.png")
    psnr = float(-10 * (images - stored["image"]).square().mean().log10())
    imported = any(sys.modules.get(name) for name in FORBIDDEN)
    print(json.dumps({"images": len(images), "psnr": psnr, "least": LEAST, "jax_imported": imported}))
    return int(psnr < LEAST or imported)


if __name__ == "__main__":
    if len(sys.argv) != 3 or not Path(sys.argv[1], "pipeline.py").is_file():
        usage = "give the folder of an export (dreamjax export RUN --to diffusers --out EXPORT), and one to write to"
        print(usage, file=sys.stderr)
        sys.exit(2)
    sys.exit(main(*sys.argv[1:]))
