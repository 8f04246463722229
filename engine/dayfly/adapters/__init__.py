"""Adapters to frameworks, one module each. None is imported by anything else in dayfly, and each
needs its framework installed."""
