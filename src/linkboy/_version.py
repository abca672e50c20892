"""The version of linkboy, where every file can read it without importing the surface."""

__version__ = "0.1.0"
