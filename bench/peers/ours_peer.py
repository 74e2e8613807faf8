"""The local engine in process: from a request's bytes, with YQL, to the answer's bytes; no HTTP."""

from __future__ import annotations

import json
from collections import deque
from pathlib import Path
from typing import Any

import orjson
from app import fields, write_application
from common import DEPTH, TOP, Answer, Workload, serve
from workload import batches

from clipsearch.engine.engine import Engine
from clipsearch.engine.http.messages import Request
from clipsearch.engine.query import SearchHandler

_WAITING = 1024
_HEADERS = {"content-type": "application/json"}


class Maker:
    """Builds and opens."""

    def build(self, folder: Path, workload: Workload) -> None:
        """Puts by document/v1's handler, ``_WAITING`` at a time, each acknowledged when it is durable."""
        engine = Engine(folder, write_application(folder.with_name(f"{folder.name}-app")))
        waiting: deque[Any] = deque()
        for rows, vectors in batches(workload):
            for row, vector in zip(rows, vectors, strict=True):
                if len(waiting) >= _WAITING:
                    _accepted(waiting.popleft())
                made = fields(row, workload.captions[row], vector, int(workload.buckets[row]))
                path = f"/document/v1/bench/image/docid/{row:07}"
                waiting.append(
                    engine.documents.feed(Request("POST", path, (), _HEADERS, orjson.dumps({"fields": made})))
                )
        for answer in waiting:
            _accepted(answer)
        engine.close()

    def open(self, folder: Path) -> Ours:
        """The engine over what was fed."""
        return Ours(Engine(folder))


def _accepted(answer: Any) -> None:
    response = answer.result()
    if response.status != 200:
        raise RuntimeError(f"a put was answered {response.status}: {response.body!r}")


class Ours:
    """Queries through the search handler."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self._search = engine, SearchHandler(engine)

    def lexical(self, text: str) -> Answer:
        """Any of the words, by BM25."""
        return self._ask("userInput(@text)", "lexical", text=text)

    def vector(self, vector: Any) -> Answer:
        """The nearest, by cosine."""
        return self._ask(f"{{targetHits:{TOP}}}nearestNeighbor(embedding,q)", "vector", vector)

    def filtered(self, vector: Any, below: int) -> Answer:
        """The nearest of a part."""
        near = f"({{targetHits:{TOP}}}nearestNeighbor(embedding,q))"
        return self._ask(f"{near} and bucket < {below}", "vector", vector)

    def hybrid(self, text: str, vector: Any) -> Answer:
        """The application's own fusion of both lists."""
        near = f"({{targetHits:{DEPTH}}}nearestNeighbor(embedding,q))"
        return self._ask(f"{near} or userInput(@text)", "hybrid", vector, text=text)

    def _ask(self, where: str, profile: str, vector: Any = None, **values: str) -> Answer:
        body = {
            "yql": f"select documentid, captions from image where {where}",
            "ranking.profile": profile,
            "hits": TOP,
            "timeout": "60s",
            **values,
        }
        if vector is not None:
            body["input.query(q)"] = vector
        request = Request("POST", "/search/", (), _HEADERS, orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY))
        answer = self._search.handle(request)
        if answer.status != 200:
            raise RuntimeError(f"{where}: {answer.status} {answer.body!r}")
        root = orjson.loads(answer.body)["root"]
        if "errors" in root:
            raise RuntimeError(f"{where}: {json.dumps(root['errors'])}")
        hits = [child["fields"] for child in root.get("children", ())]
        return [(int(hit["documentid"].rsplit(":", 1)[1]), hit["captions"][0]) for hit in hits]


if __name__ == "__main__":
    serve(Maker())
