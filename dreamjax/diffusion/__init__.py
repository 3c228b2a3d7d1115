"""Denoising diffusion: noise schedules, samplers, guidance, images started from images.

    schedule = pipeline_config.from_json(json.load(file))  # or NoiseSchedule(...), or STABLE_DIFFUSION
    plan = sampling.plan("ddim", schedule, steps=50)  # every coefficient, computed on the host in float64
    x = editing.starts(plan, noise.draw(seed, index, "start", (64, 64, 4)))
    x0 = sampling.sample(predict, x, plan, seed=seed, index=index)  # one scan, whatever the sampler

`predict(x, t)` is any traceable function; `guidance.guided` makes one of a conditional network. Nothing here knows a
network, and nothing depends on the layout: the first axis counts images, the others are the network's affair.
"""
