"""The version. The build reads it, and so do the image and its labels.

The runner, which shares no code with this side, has it as VERSION. A test compares the two.
"""

__version__ = "0.1.0"
