"""A new model without downtime: its embeddings beside the old, filled by partial updates, judged, then switched to.

::

    package.py       the package's folder <-> appwriter's Application; hand-made changes are kept or refused
    deploying.py     the deploy API: what is deployed, deploy, wait until every service has it
    filling.py       the new embedding of every document that lacks it
    judging.py       both generations on held-out captions, through the query API
    reembedding.py   these in a row: what ``clipsearch reembed`` does
"""
