"""A stand-in for a Vespa container: remembers every request, ranks a few documents crudely, fails on demand.

Only for tests of the clients (search, feeders, web): what real ranking answers is the engine's tests'
business.
"""

from __future__ import annotations

import base64
import io
import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from PIL import Image

Answer = tuple[int, dict[str, Any]]
DIM = 8


def unit(seed: int, dim: int = DIM) -> np.ndarray:
    """A random unit vector, (dim,) float32."""
    vector = np.random.default_rng(seed).normal(size=dim)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def jpeg(seed: int = 0, size: tuple[int, int] = (64, 48)) -> bytes:
    """A small JPEG of one colour."""
    colour = tuple(np.random.default_rng(seed).integers(40, 220, 3).tolist())
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "JPEG")
    return out.getvalue()


def placed(fields: dict[str, Any], area: dict[str, Any]) -> bool:
    """Whether a document lies between south and north, west and east."""
    if "latitude" not in fields:
        return False
    south, west, north, east = (float(area[side]) for side in ("south", "west", "north", "east"))
    return bool(west <= fields["longitude"] <= east and south <= fields["latitude"] <= north)


class FakeVespa:
    """State of the stand-in: ``documents`` by id, ``queries`` as sent, ``answer`` to override a request."""

    def __init__(self, dim: int = DIM) -> None:
        self.dim = dim
        self.documents: dict[str, dict[str, Any]] = {}
        self.queries: list[dict[str, Any]] = []
        self.requests: list[tuple[str, str]] = []
        self.answer: Callable[[str, str, dict[str, Any]], Answer | None] = lambda method, path, body: None
        self.url = ""
        self.lock = threading.Lock()

    def add(self, key: str, captions: list[str], seed: int, corpus: str = "demo", **fields: Any) -> str:
        """Put one document directly; returns its id."""
        document_id = f"id:{corpus}:image::{key}"
        self.documents[document_id] = {
            "captions": captions, "corpus": corpus, "split": "test", "image_uri": f"images/{key}", "width": 64,
            "height": 48, "embedding": unit(seed, self.dim).tolist(),
            "thumbnail": base64.b64encode(jpeg(seed)).decode(), **fields,
        }  # fmt: skip
        return document_id

    def handle(self, method: str, url: str, body: dict[str, Any]) -> Answer:
        """One request."""
        parts = urlsplit(url)
        with self.lock:
            self.requests.append((method, url))
            special = self.answer(method, url, body)
            if special:
                return special
            if parts.path == "/ApplicationStatus":
                return 200, {"application": {}}
            if parts.path == "/search/":
                self.queries.append(body)
                return self.search(body)
            return self.document(method, unquote(parts.path), parse_qs(parts.query), body)

    def document(self, method: str, path: str, query: dict[str, list[str]], body: dict[str, Any]) -> Answer:
        """document/v1 put and get."""
        if path == "/document/v1/":
            return self.visit(query)
        match = re.fullmatch(r"/document/v1/([^/]+)/image/docid/([^/]+)", path)
        if not match:
            return 404, {"pathId": path, "message": "no such path"}
        document_id = f"id:{match[1]}:image::{match[2]}"
        if method == "PUT":  # clients probe by updates on a condition that no image meets
            cells = body["fields"].get("embedding", {}).get("assign")
            if isinstance(cells, str) and len(cells) != 4 * self.dim:
                return 400, {"pathId": path, "message": f"Expected {self.dim} values, but got {len(cells) // 4}"}
            return 412, {"pathId": path, "id": document_id, "message": "the condition is not met"}
        if method == "POST":
            cells = body["fields"]["embedding"]
            if isinstance(cells, str) and len(cells) != 4 * self.dim:
                message = f"Expected {self.dim} values, but got {len(cells) // 4}"
                return 400, {"pathId": path, "message": message}
            self.documents[document_id] = body["fields"]
            return 200, {"pathId": path, "id": document_id}
        if document_id not in self.documents:
            return 404, {"pathId": path, "id": document_id}
        wanted = query.get("fieldSet", ["image:[document]"])[0].removeprefix("image:").split(",")
        fields = self.documents[document_id]
        chosen = fields if wanted == ["[document]"] else {k: v for k, v in fields.items() if k in wanted}
        return 200, {"pathId": path, "id": document_id, "fields": self.render(chosen)}

    def visit(self, query: dict[str, list[str]]) -> Answer:
        """All documents on one page, of the one cluster that there is."""
        if query.get("cluster") != ["images"]:
            return 400, {"pathId": "/document/v1/", "message": "there is no content cluster '*', only 'images'"}
        documents = [{"id": name, "fields": self.render(fields)} for name, fields in self.documents.items()]
        return 200, {"pathId": "/document/v1/", "documents": documents}

    def render(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Stored fields as Vespa shows them: tensors with their type."""
        shown = dict(fields)
        if "embedding" in shown:
            shown["embedding"] = {"type": f"tensor<bfloat16>(x[{self.dim}])", "values": self.cells(fields)}
        return shown

    def cells(self, fields: dict[str, Any]) -> list[float]:
        """The embedding as numbers."""
        stored = fields["embedding"]
        if not isinstance(stored, str):
            return list(stored)
        high = np.frombuffer(bytes.fromhex(stored), ">u2").astype(np.uint32)
        return (high << 16).view(np.float32).tolist()

    def search(self, body: dict[str, Any]) -> Answer:
        """Word overlap for BM25, a dot product for closeness."""
        words = set(str(body.get("text", "")).lower().split())
        hits = []
        for document_id, fields in self.documents.items():
            if any(body[f] != fields.get(f) for f in ("corpus", "label", "split") if f in body):
                continue
            if "south" in body and not placed(fields, body):
                continue
            lexical = float(sum(len(words & set(text.lower().split())) for text in fields["captions"]))
            semantic = 0.0
            vector = body.get("input.query(q)") or body.get("input.query(q_patches)")
            if vector:
                semantic = 1 / (2 - float(np.dot(vector, self.cells(fields))))
            if "userInput" not in body["yql"] or lexical or semantic:
                hits.append((lexical + semantic, document_id, lexical, semantic))
        hits.sort(key=lambda hit: (-hit[0], hit[1]))
        start = body.get("offset", 0)
        vectors = str(body.get("presentation.summary", "")).startswith("hit_vector")
        children = [self.child(*hit, vectors) for hit in hits[start : start + body.get("hits", 10)]]
        if "input.query(q_patches)" in body:
            for child in children:
                features = child["fields"]["matchfeatures"]
                features["closeness(field,patches)"] = features.pop("closeness(field,embedding)")
                features["closest(patches)"] = {"type": "tensor<float>(patch{})", "cells": {"0-250-500-750": 1.0}}
        if "| all(" in body["yql"]:
            children.append(self.facets([self.documents[hit[1]] for hit in hits]))
        root = {"id": "toplevel", "relevance": 1.0, "fields": {"totalCount": len(hits)}, "children": children}
        return 200, {"root": root}

    def facets(self, found: list[dict[str, Any]]) -> dict[str, Any]:
        """Counts of the three string fields in Vespa's result JSON."""
        lists = []
        for name in ("corpus", "label", "split"):
            counts = Counter(str(fields[name]) for fields in found if fields.get(name))
            groups = [
                {"id": f"group:string:{value}", "value": value, "relevance": 1.0, "fields": {"count()": count}}
                for value, count in counts.most_common()
            ]
            lists.append({"id": f"grouplist:{name}", "relevance": 1.0, "label": name, "children": groups})
        return {"id": "group:root:0", "relevance": 1.0, "children": lists}

    def child(
        self, score: float, document_id: str, lexical: float, semantic: float, vectors: bool = False
    ) -> dict[str, Any]:
        """One hit in Vespa's result JSON."""
        hidden = ("thumbnail",) if vectors else ("embedding", "thumbnail")
        shown = {k: v for k, v in self.documents[document_id].items() if k not in hidden}
        parts = {"bm25(captions)": lexical, "closeness(field,embedding)": semantic}
        fields = {"sddocname": "image", "documentid": document_id, "matchfeatures": parts, **shown}
        return {"id": document_id, "relevance": score, "source": "images", "fields": fields}


@contextmanager
def serve_fake(port: int = 0, dim: int = DIM) -> Iterator[FakeVespa]:
    """Serve a ``FakeVespa`` on loopback; its ``url`` says where."""
    fake = FakeVespa(dim)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def reply(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            raw = self.rfile.read(length)
            status, answer = fake.handle(self.command, self.path, json.loads(raw) if raw else {})
            data = json.dumps(answer).encode()
            head = f"HTTP/1.1 {status} x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
            self.wfile.write(head.encode() + data)

        do_GET = do_POST = do_PUT = do_DELETE = reply  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
