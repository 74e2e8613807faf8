"""Corpus + checkpoint -> embedding shards: decoded in threads, embedded in batches, resumable.

What was encoded before is known by content hash and model id, and is not encoded again: a second run does
only what is new or changed, a killed run goes on where it stopped and does at most one batch again. A bad image
becomes a line in ``ledger.jsonl``; it never stops the run.
"""

from clipsearch.encoding.corpus import Encoder, encode_corpus, load_model
from clipsearch.encoding.encode import BATCH, EncodeSummary, encode
from clipsearch.encoding.ledger import LEDGER
from clipsearch.encoding.models import ImageModel
from clipsearch.images.patches import PatchPlan, parse_patches

__all__ = [
    "BATCH",
    "LEDGER",
    "EncodeSummary",
    "Encoder",
    "ImageModel",
    "PatchPlan",
    "encode",
    "encode_corpus",
    "load_model",
    "parse_patches",
]
