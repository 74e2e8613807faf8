"""zvec: HNSW, its full-text index, an inverted index on the bucket, and its own reciprocal rank fusion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import zvec
from common import RRF, TOP, Answer, Workload, serve
from workload import DIMENSION, batches
from zvec.extension import RrfReRanker

_EF = 64  # the smallest power of two that finds 99 % here


class Maker:
    """Builds and opens."""

    def build(self, folder: Path, workload: Workload) -> None:
        """M 16 and efConstruction 200, Vespa's own defaults; optimized at the end, as its docs ask for."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        zvec.init(log_dir=str(folder.parent / "zvec-logs"))
        near = zvec.HnswIndexParam(zvec.MetricType.COSINE, m=16, ef_construction=200)
        schema = zvec.CollectionSchema(
            "captions",
            [
                zvec.FieldSchema("caption", zvec.DataType.STRING, index_param=zvec.FtsIndexParam("whitespace")),
                zvec.FieldSchema(
                    "bucket", zvec.DataType.INT32, index_param=zvec.InvertIndexParam(enable_range_optimization=True)
                ),
            ],
            [zvec.VectorSchema("embedding", zvec.DataType.VECTOR_FP32, DIMENSION, near)],
        )
        collection = zvec.create_and_open(str(folder), schema)
        for rows, vectors in batches(workload, 500):
            documents = [
                zvec.Doc(
                    str(row),
                    vectors={"embedding": vector},
                    fields={"caption": workload.captions[row], "bucket": int(workload.buckets[row])},
                )
                for row, vector in zip(rows, vectors, strict=True)
            ]
            failed = [status for status in collection.insert(documents) if not status.ok()]
            if failed:
                raise RuntimeError(str(failed[0]))
        collection.optimize()
        collection.flush()
        collection.close()

    def open(self, folder: Path) -> Zvec:
        """The collection, for reading."""
        zvec.init(log_dir=str(folder.parent / "zvec-logs"))
        return Zvec(zvec.open(str(folder), zvec.CollectionOption(read_only=True)))


class Zvec:
    """Queries through ``Collection.query``."""

    def __init__(self, collection: Any) -> None:
        self._collection = collection

    def lexical(self, text: str) -> Answer:
        """BM25 over any of the words."""
        return self._ask(self._words(text))

    def vector(self, vector: Any) -> Answer:
        """The graph."""
        return self._ask(self._near(vector))

    def filtered(self, vector: Any, below: int) -> Answer:
        """The graph, or a scan of what passes: zvec chooses."""
        return self._ask(self._near(vector), filter=f"bucket < {below}")

    def hybrid(self, text: str, vector: Any) -> Answer:
        """Both in one call, fused by its RRF; how deep the lists are is zvec's."""
        return self._ask([self._near(vector), self._words(text)], reranker=RrfReRanker(RRF))

    def _near(self, vector: Any) -> Any:
        return zvec.Query("embedding", vector=vector, param=zvec.HnswQueryParam(ef=_EF))

    def _words(self, text: str) -> Any:
        return zvec.Query("caption", fts=zvec.Fts(match_string=text))

    def _ask(self, queries: Any, **options: Any) -> Answer:
        found = self._collection.query(queries, topk=TOP, output_fields=["caption"], **options)
        return [(int(document.id), document.field("caption")) for document in found]


if __name__ == "__main__":
    serve(Maker())
