"""qdrant-edge: dense HNSW beside its own BM25 as sparse vectors, and its own reciprocal rank fusion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import qdrant_edge as q
from common import DEPTH, RRF, TOP, Answer, Workload, serve
from workload import DIMENSION, batches

_EF = 64  # the smallest power of two that finds 99 % here, with room to spare


def _bm25() -> Any:
    return q.Bm25(q.Bm25Config(avg_len=13.0))


class Maker:
    """Builds and opens."""

    def build(self, folder: Path, workload: Workload) -> None:
        """M 16, ef_construct 100 (its defaults), an index on the bucket, optimized at the end."""
        folder.mkdir(parents=True)
        shard = q.EdgeShard.create(
            str(folder),
            q.EdgeConfig(
                vectors={"image": q.EdgeVectorParams(DIMENSION, q.Distance.Cosine)},
                sparse_vectors={"words": q.EdgeSparseVectorParams(modifier=q.Modifier.Idf)},
                hnsw_config=q.HnswIndexConfig(m=16, ef_construct=100, full_scan_threshold=10_000),
            ),
        )
        shard.update(q.UpdateOperation.create_field_index("bucket", q.IntegerIndexParams(lookup=True, range=True)))
        words = _bm25()
        for rows, vectors in batches(workload, 1000):
            shard.update(
                q.UpdateOperation.upsert_points(
                    [
                        q.Point(
                            row,
                            {"image": vector.tolist(), "words": words.embed_document(workload.captions[row])},
                            {"caption": workload.captions[row], "bucket": int(workload.buckets[row])},
                        )
                        for row, vector in zip(rows, vectors, strict=True)
                    ]
                )
            )
        shard.optimize()
        shard.flush()
        shard.close()

    def open(self, folder: Path) -> Qdrant:
        """The shard."""
        return Qdrant(q.EdgeShard.load(str(folder)))


class Qdrant:
    """Queries through ``EdgeShard.query``."""

    def __init__(self, shard: Any) -> None:
        self._shard, self._bm25 = shard, _bm25()

    def lexical(self, text: str) -> Answer:
        """BM25 as a product of sparse vectors."""
        return self._ask(query=self._words(text))

    def vector(self, vector: Any) -> Answer:
        """The graph."""
        return self._ask(query=self._near(vector), params=q.SearchParams(hnsw_ef=_EF))

    def filtered(self, vector: Any, below: int) -> Answer:
        """The graph, or a scan of what passes: qdrant chooses."""
        passes = q.Filter(must=[q.FieldCondition("bucket", range=q.RangeFloat(lt=below))])
        return self._ask(query=self._near(vector), params=q.SearchParams(hnsw_ef=_EF), filter=passes)

    def hybrid(self, text: str, vector: Any) -> Answer:
        """Two prefetched lists, fused by its RRF."""
        lists = [
            q.Prefetch(DEPTH, query=self._near(vector), params=q.SearchParams(hnsw_ef=_EF)),
            q.Prefetch(DEPTH, query=self._words(text)),
        ]
        return self._ask(query=q.Fusion.Rrf(RRF), prefetches=lists)

    def _near(self, vector: Any) -> Any:
        return q.Query.Nearest(vector.tolist(), using="image")

    def _words(self, text: str) -> Any:
        return q.Query.Nearest(self._bm25.embed_query(text), using="words")

    def _ask(self, **options: Any) -> Answer:
        found = self._shard.query(q.QueryRequest(TOP, with_payload=q.PayloadSelector.Include(["caption"]), **options))
        return [(point.id, point.payload["caption"]) for point in found]


if __name__ == "__main__":
    serve(Maker())
