"""Targets of models of brain signals: images with captions, their latents, and embeddings by vision models.

pixels = preprocessing.from_json(json.load(file), "preprocessor_config.json")(images)   # (B, H, W, 3) float32
"""
