"""EEG → images, in PyTorch and diffusers alone (no JAX, no dreamjax).

from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("this/folder", trust_remote_code=True)
pipe(eeg).images[0].save("image.png")      # eeg: (batch, channels, time), µV, pipe.eeg_encoder.config.sfreq Hz

python pipeline.py                           # compares this machine's results with those stored in this folder
"""

import inspect
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, ImagePipelineOutput, UNet2DConditionModel
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.torch_utils import randn_tensor


class DreamDiffusionPipeline(DiffusionPipeline):
    """DreamDiffusion (Bai et al., arXiv 2306.16934): an EEG encoder in the place of Stable Diffusion's text encoder."""

    model_cpu_offload_seq = "eeg_encoder->unet->vae"

    def __init__(self, eeg_encoder: Any, unet: UNet2DConditionModel, vae: AutoencoderKL, scheduler: Any) -> None:
        super().__init__()
        # as StableDiffusionPipeline corrects old files: time steps begin at 1, latents are never clipped
        for name, wrong, right in (("steps_offset", 0, 1), ("clip_sample", True, False)):
            if getattr(scheduler.config, name, None) == wrong:
                scheduler.register_to_config(**{name: right})
        self.register_modules(eeg_encoder=eeg_encoder, unet=unet, vae=vae, scheduler=scheduler)
        self.vae_scale_factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self.image_processor = VaeImageProcessor(vae_scale_factor=self.vae_scale_factor)

    @torch.no_grad()
    def __call__(
        self,
        eeg: torch.Tensor | np.ndarray,
        sfreq: float | None = None,
        *,
        scale: torch.Tensor | float | None = None,
        valid: torch.Tensor | np.ndarray | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float | None = None,
        num_images_per_prompt: int = 1,
        height: int | None = None,
        width: int | None = None,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> Any:
        """Generate images of brain signals; `.images` has `num_images_per_prompt` of each window, window by window.

        Args:
          eeg: (batch, channels, time) in µV, with the channels, samples and rate that the model was trained on.
          sfreq: of eeg, in Hz; checked where given.
          scale, valid: see `EEGEncoder.forward`.
          guidance_scale: 1 for none; by default 7.5, or 1 where the model has no unconditional branch.
          height, width: of the images, in pixels; by default as trained.
          latents: the noise to start from, (images, channels, height / 8, width / 8).
          output_type: "pil", "np", "pt" or "latent".
        """
        device, encoder = self._execution_device, self.eeg_encoder
        if guidance_scale is None:
            guidance_scale = 7.5 if encoder.config.unconditional else 1.0
        eeg = torch.as_tensor(eeg, dtype=torch.float32, device=device)
        valid = None if valid is None else torch.as_tensor(valid, device=device)
        given = encoder(eeg, scale=scale, valid=valid, sfreq=sfreq)
        given = {
            name: value.repeat_interleave(num_images_per_prompt, dim=0).to(self.unet.dtype)
            for name, value in given.items()
            if name != "embedding"
        }
        count, guided = len(given["context"]), guidance_scale != 1
        if guided:
            empty = encoder.without_eeg()
            given = {
                name: torch.cat([empty[name].to(value.dtype).expand_as(value), value]) for name, value in given.items()
            }
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        latents = self._start(count, height, width, generator, latents)
        accepted = inspect.signature(self.scheduler.step).parameters
        extra = {name: value for name, value in (("eta", eta), ("generator", generator)) if name in accepted}
        for t in self.progress_bar(self.scheduler.timesteps):
            x = torch.cat([latents, latents]) if guided else latents
            x = self.scheduler.scale_model_input(x, t)
            predicted = self.predict(x, t, **given)
            if guided:
                without, within = predicted.chunk(2)
                predicted = without + guidance_scale * (within - without)
            latents = self.scheduler.step(predicted, t, latents, **extra).prev_sample
        if output_type == "latent":
            images = latents
        else:
            decoded = self.vae.decode((latents / self.vae.config.scaling_factor).to(self.vae.dtype)).sample
            images = self.image_processor.postprocess(decoded, output_type=output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def predict(self, latents: Any, t: Any, context: torch.Tensor, time_offset: torch.Tensor | None = None) -> Any:
        """Return the U-Net's prediction. `time_offset` is added to its embedding of the time step, after its layers."""
        return self.unet(latents, t, encoder_hidden_states=context, class_labels=time_offset).sample

    def _start(self, count: int, height: Any, width: Any, generator: Any, latents: Any) -> torch.Tensor:
        """Return the noise that sampling starts from, scaled as the scheduler requires."""
        usual = self.unet.config.sample_size
        usual = (usual, usual) if isinstance(usual, int) else tuple(usual)
        height, width = height or usual[0] * self.vae_scale_factor, width or usual[1] * self.vae_scale_factor
        if height % self.vae_scale_factor or width % self.vae_scale_factor:
            raise ValueError(f"height and width are multiples of {self.vae_scale_factor}, not {height} and {width}")
        size = (height // self.vae_scale_factor, width // self.vae_scale_factor)
        shape = (count, self.unet.config.in_channels, *size)
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=self._execution_device, dtype=self.unet.dtype)
        elif tuple(latents.shape) != shape:
            raise ValueError(f"latents of shape {tuple(latents.shape)} do not fit; they are {shape} here")
        latents = latents.to(device=self._execution_device, dtype=self.unet.dtype)
        return latents * self.scheduler.init_noise_sigma


@torch.no_grad()
def differences(folder: str | Path) -> dict[str, float]:
    """Return output → its largest difference from dreamjax's (parity.safetensors), relative to the largest value.

    `image`: the root mean square, of the whole range of an image.
    """
    from safetensors.torch import load_file

    pipe = DiffusionPipeline.from_pretrained(str(folder), trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    p = load_file(Path(folder) / "parity.safetensors")
    outputs = pipe.eeg_encoder(p["eeg"], scale=p.get("scale"))
    timed = {name: outputs[name] for name in ("time_offset",) if name in outputs}
    outputs["noise"] = pipe.predict(p["latents"], p["timesteps"], outputs["context"], **timed)
    largest = {name: float((value - p[name]).abs().max() / p[name].abs().max()) for name, value in outputs.items()}
    height, width = (side * pipe.vae_scale_factor for side in p["latents"].shape[-2:])
    made = pipe(
        p["eeg"],
        scale=p.get("scale"),
        num_inference_steps=int(p["steps"]),
        guidance_scale=float(p["guidance"]),
        height=height,
        width=width,
        latents=p["latents"],
        output_type="pt",
    ).images
    return largest | {"image": float((made - p["image"]).square().mean().sqrt())}


def main() -> int:
    folder = Path(__file__).parent
    tolerance = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))["parity_tolerance"]
    result = differences(folder)
    print(json.dumps({"tolerance": tolerance, "differences": result}))
    return int(not all(value <= tolerance for value in result.values()))


if __name__ == "__main__":
    sys.exit(main())
