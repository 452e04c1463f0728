"""chatlab: a messaging service with a five-second cache, and notebooks that explain it stage by stage."""

__version__ = "0.1.0"
