"""The third part of the demo: images from the EEG of people who looked at drawn images, with all controls.

a classifier to judge by → trials → stage B of DreamDiffusion → table → gallery → export → the same images in PyTorch
"""

from typing import Any

GUIDANCE = ("--steps", "20", "--sampler", "ddim", "--guidance", "3")
PROMPTS = ("a red {label} in the middle", "a blue {label} on the left")  # of the baseline that uses only the class


def run(demo: Any, classes: int, prepared: list[str], steps: int, trials: int) -> None:
    """Run all stages: `steps` of stage B, `trials` to score."""
    val = demo.stage("12 a classifier to judge", 45, lambda: judge(demo, classes))
    demo.show(
        f"accuracy {val['accuracy']:.0%} on held-out images; none of its images are used for generation or testing"
    )
    demo.stage("13 trials", 45, lambda: prepare(demo, prepared))
    val = demo.stage("14 EEG to image", 150, lambda: train(demo, steps))
    demo.show(f"held-out loss {val['loss']:.3f}")
    demo.stage("15 table", 120, lambda: evaluate(demo, trials))
    demo.stage("16 gallery", 30, lambda: gallery(demo))
    export = ["export", demo.path("dream"), "--to", "diffusers", "--out", demo.path("dreamer")]
    demo.stage("17 export", 45, lambda: demo.run(export))
    torch = ["demo/torch_eeg_to_image.py", demo.path("dreamer"), demo.path("dreamer-in-torch")]
    result = demo.stage("18 images in PyTorch", 30, lambda: demo.python(*torch))
    demo.show(f"PSNR against JAX's images of the same noise: {result['psnr']:.0f} dB (required: {result['least']:g})")


def judge(demo: Any, classes: int) -> dict[str, float]:
    """Train a small ViT that classifies drawn images, on images that are used nowhere else."""
    drawn = ["--captioned", "1200", "--classes", str(classes), "--seed", "7"]
    demo.run(["simulate", *drawn, "--out", demo.path("others")])
    words = ["train", "--config", "configs/image/classifier_shapes.py", "--workdir", demo.path("classifier-run")]
    result = demo.run([*words, f"--config.data.folder={demo.path('others')}"])
    demo.run(["export", demo.path("classifier-run"), "--to", "diffusers", "--out", demo.path("classifier")])
    return result["val"]


def prepare(demo: Any, how: list[str]) -> None:
    """Prepare windows from each image's onset, and from the half second before it, for the control."""
    for name, first, last in (("trials", "0", "0.8"), ("before", "-0.5", "0")):
        words = ["prepare", demo.path("recordings"), "--out", demo.path(name), "--events", "file", *how]
        demo.run([*words, "--tmin", first, "--tmax", last])


def train(demo: Any, steps: int) -> dict[str, float]:
    """Train stage B with the encoder of stage 3, the latent diffusion model of stage 10 and the CLIP of stage 9."""
    words = ["train", "--config", f"configs/image/dreamdiffusion_shapes.py:steps={steps}"]
    words += ["--workdir", demo.path("dream"), f"--config.data.path={demo.path('trials')}"]
    words += [f"--config.target.bank={demo.path('bank')}"]
    words += [f"--config.target.folder={demo.path('recordings/stimuli')}"]
    words += [f"--config.encoder.path={demo.path('run')}", f"--config.model.path={demo.path('pipeline')}"]
    words += [f"--config.target.embedding.path={demo.path('clip/image_encoder')}"]
    return demo.run(words)["val"]


def evaluate(demo: Any, trials: int) -> dict[str, Any]:
    """Evaluate trials of held-out images with all controls that this corpus allows, and print the table."""
    from dreamjax.reports import image_report

    words = ["evaluate", demo.path("dream"), *GUIDANCE, "--trials", str(trials)]
    words += ["--classifier", demo.path("classifier"), "--before", demo.path("before"), "--free", demo.path("shards")]
    result = demo.run([*words, "--prompt", *PROMPTS])
    print(image_report.text(result), flush=True)
    return result


def gallery(demo: Any) -> None:
    words = ["generate", "--checkpoint", demo.path("dream"), "--out", demo.path("gallery"), *GUIDANCE]
    demo.run([*words, "--trials", "12", "--samples", "3"])
