"""clipsearch: hybrid image search on Vespa, with CLIP models fine-tuned on your own domain."""

__version__ = "0.1.0"
