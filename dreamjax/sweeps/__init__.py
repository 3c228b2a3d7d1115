"""Sweeps: expand a description into points, run them, score them in the same way, and report the results."""
