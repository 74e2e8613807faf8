"""What the long tests of feeding share: documents that tell their version, shards of them, what an index holds."""

from __future__ import annotations

import hashlib
import http.client
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlencode

import numpy as np
import orjson

from clipsearch.records import Embedded, Record
from clipsearch.shards import Manifest, ShardWriter, write_manifest
from feeders.documents import bfloat16_hex
from feeders.operations import Operation

DIM = 512
ROOT = Path(__file__).resolve().parent.parent
FEED = """
import sys
from pathlib import Path
from feeders.shards import feed_shards
print("feeding", flush=True)
print(feed_shards(Path(sys.argv[1]), sys.argv[2], progress=False).as_json())
"""


def unit(seed: int) -> np.ndarray:
    """(512,) float32 of unit norm."""
    vector = np.random.default_rng(seed).standard_normal(DIM, dtype=np.float32)
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


def write_shards(folder: Path, count: int) -> Path:
    """``count`` documents k:0000000 and so on, as ``clipsearch encode`` leaves them."""
    folder.mkdir(parents=True)
    vectors = [unit(seed) for seed in range(500)]
    with ShardWriter(folder, DIM) as writer:
        for number in range(count):
            record = Record("k", f"{number:07}", f"images/{number}.jpg", (f"caption number {number}",), "train")
            digest = hashlib.sha256(str(number).encode()).hexdigest()
            writer.add(Embedded(record, vectors[number % 500], b"", 64, 48, digest, "stand-in"))
    write_manifest(folder, Manifest("k", "stand-in", DIM, count, complete=True))
    return folder


def start_feed(folder: Path, url: str) -> subprocess.Popen[str]:
    """A feed as a process of its own; returns when it begins."""
    process = subprocess.Popen(
        [sys.executable, "-c", FEED, str(folder), url], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "feeding\n"
    return process


def versions(count: int, ids: int, seed: int) -> Iterator[tuple[str, int | None]]:
    """``count`` operations on ``ids`` documents, many on the same ones: id and version; None removes."""
    random = Random(seed)
    for version in range(count):
        number = random.randrange(ids) if version >= ids else version
        yield f"id:k:image::{number:07}", None if version >= ids and random.random() < 0.1 else version


def operation(document_id: str, version: int | None) -> Operation:
    """A put of this version, or a remove."""
    if version is None:
        return Operation("remove", document_id)
    fields = {"corpus": "k", "width": version, "captions": [f"version {version}"], "embedding": bfloat16_hex(unit(0))}
    return Operation("put", document_id, fields)


def contents(port: int) -> list[tuple[str, Any]]:
    """Id and width of every document of an engine, by a visit."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    options = urlencode({"stream": "true", "fieldSet": "image:width"})
    connection.request("GET", f"/document/v1/k/image/docid/?{options}", headers={"Accept": "application/jsonl"})
    lines = connection.getresponse().read().splitlines()
    connection.close()
    found = [orjson.loads(line) for line in lines if line.startswith(b'{"put"')]
    assert b"documentCount" in lines[-1], f"the visit was cut short: {lines[-1]!r}"
    return [(line["put"], line["fields"].get("width")) for line in found]


def count(port: int) -> int:
    """How many documents are in the index."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    body = orjson.dumps({"yql": "select * from image where true", "hits": 0})
    connection.request("POST", "/search/", body, {"Content-Type": "application/json"})
    answer = orjson.loads(connection.getresponse().read())
    connection.close()
    return int(answer["root"]["fields"]["totalCount"])
