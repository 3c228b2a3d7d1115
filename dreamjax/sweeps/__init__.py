"""Sweeps: expand a description into points, run them where there is room, score them alike, say what they show."""
