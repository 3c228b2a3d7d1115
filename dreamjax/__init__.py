"""dreamjax: brain signals to images, in JAX.

Nothing is imported here, so that a machine without an optional package (mne, grain, torch) can import the rest.
"""

__version__ = "0.2.0.dev0"
