"""Denoising diffusion: noise schedules, samplers, guidance, images started from images.

    schedule = pipeline_config.from_json(json.load(file))  # or NoiseSchedule(...), or STABLE_DIFFUSION
    plan = sampling.plan("ddim", schedule, steps=50)  # every coefficient, computed on the host in float64
    x = sampling.starts(plan, sampling.draw_noise(seed, index, "start", (64, 64, 4)))
    x0 = sampling.sample(predict, x, plan, seed=seed, index=index)  # one scan, whatever the sampler

`predict(x, t)` is any traceable function; `guidance.guided` makes one of a conditional network. The first axis counts
images, the others are the network's affair.
"""
