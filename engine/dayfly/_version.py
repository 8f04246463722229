"""The version, in one place: the build reads it, and so do the image and its labels."""

__version__ = "0.1.0"
