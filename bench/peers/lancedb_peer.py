"""LanceDB: IVF_HNSW_SQ, its full-text index, a scalar index on the bucket, and its RRF reranker."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("LANCEDB_LOG", "error")  # a hybrid query cannot select both scores, and is warned of that
import lancedb
import pyarrow as pa
from common import RRF, TOP, Answer, Workload, serve
from lancedb.index import FTS, BTree, HnswSq
from lancedb.rerankers import RRFReranker
from workload import DIMENSION, batches

_REFINE, _EF = 2, 64


class Maker:
    """Builds and opens."""

    def build(self, folder: Path, workload: Workload) -> None:
        """One graph (its advice below a million rows), its full-text index without stemming and stop words."""
        schema = pa.schema(
            [
                ("id", pa.int32()),
                ("caption", pa.string()),
                ("bucket", pa.int32()),
                ("vector", pa.list_(pa.float32(), DIMENSION)),
            ]
        )

        def tables() -> Iterator[pa.RecordBatch]:
            for rows, vectors in batches(workload, 10_000):
                cells = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIMENSION)
                captions = [workload.captions[row] for row in rows]
                buckets = pa.array(workload.buckets[rows.start : rows.stop])
                columns = [pa.array(rows, pa.int32()), pa.array(captions), buckets, cells]
                yield pa.RecordBatch.from_arrays(columns, schema=schema)

        table = lancedb.connect(str(folder)).create_table("captions", tables(), schema=schema)
        table.create_index("vector", config=HnswSq(distance_type="cosine", num_partitions=1))
        table.create_index("caption", config=FTS(stem=False, remove_stop_words=False))
        table.create_index("bucket", config=BTree())
        table.optimize()

    def open(self, folder: Path) -> Lance:
        """The table."""
        return Lance(lancedb.connect(str(folder)).open_table("captions"))


class Lance:
    """Queries through the synchronous builder."""

    def __init__(self, table: Any) -> None:
        self._table, self._fused = table, RRFReranker(RRF)

    def lexical(self, text: str) -> Answer:
        """BM25 over any of the words."""
        return _answer(self._table.search(text, query_type="fts", fts_columns="caption"), "_score")

    def vector(self, vector: Any) -> Answer:
        """The graph, refined with the original vectors."""
        return _answer(self._near(vector), "_distance")

    def filtered(self, vector: Any, below: int) -> Answer:
        """The same behind a prefilter."""
        return _answer(self._near(vector).where(f"bucket < {below}"), "_distance")

    def hybrid(self, text: str, vector: Any) -> Answer:
        """Both, fused by its reranker; how deep the lists are is LanceDB's."""
        query = self._table.search(query_type="hybrid", vector_column_name="vector", fts_columns="caption")
        query = query.vector(vector).text(text).distance_type("cosine").ef(_EF).refine_factor(_REFINE)
        return _answer(query.rerank(self._fused))

    def _near(self, vector: Any) -> Any:
        query = self._table.search(vector, vector_column_name="vector").distance_type("cosine")
        return query.ef(_EF).refine_factor(_REFINE)


def _answer(query: Any, *scores: str) -> Answer:
    found = query.select(["id", "caption", *scores]).limit(TOP).to_arrow()
    return list(zip(found["id"].to_pylist(), found["caption"].to_pylist(), strict=True))


if __name__ == "__main__":
    serve(Maker())
