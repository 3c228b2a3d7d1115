"""What a model of brain signals is fitted to: images, what networks see in them, and their latents.

pixels = preprocessing.from_json(json.load(file), "preprocessor_config.json")(images)   # (B, H, W, 3) float32
"""
