"""Tensor columns against plain numpy: cells, distances, neighbours by way of codes, blocks with labels, files."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from clipsearch.engine.index import vector_neighbors
from clipsearch.engine.index.growable import BlockedRows
from clipsearch.engine.index.vector_cells import Scorer
from clipsearch.engine.index.vectors import TensorColumn
from clipsearch.engine.package.model import Field, FieldType
from clipsearch.engine.ranking import distances as metrics
from clipsearch.engine.tensors import Tensor, parse_type
from clipsearch.engine.tensors.value import cast

METRICS = ("prenormalized-angular", "dotproduct", "angular", "euclidean")
DENSE = "tensor<bfloat16>(x[64])"
MIXED = "tensor<bfloat16>(patch{},x[64])"
SIZE = 6000


class Files:
    """The files of one part, in memory."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}

    def append(self, name: str, values: np.ndarray[Any, Any]) -> None:
        self.held[name] = self.held.get(name, b"") + values.tobytes()

    def array(self, name: str, dtype: Any) -> np.ndarray[Any, Any]:
        return self.mapped(name, dtype).copy()

    def mapped(self, name: str, dtype: Any) -> np.ndarray[Any, Any]:
        return np.frombuffer(self.held.get(name, b""), dtype)

    def replace(self, name: str, data: bytes) -> None:
        self.held[name] = data

    def read(self, name: str) -> bytes:
        return self.held.get(name, b"")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes from 4,000 vectors on, however many of these must be measured, so that tests need few."""
    monkeypatch.setattr(vector_neighbors, "MIN_ROWS", 4000)
    monkeypatch.setattr(vector_neighbors, "DEEPEST", 1)


def column(type: str = DENSE, metric: str = "prenormalized-angular", hnsw: bool = True) -> TensorColumn:
    kind = FieldType("tensor", tensor=parse_type(type))
    return TensorColumn(Field("e", kind, attribute=True, hnsw=hnsw, distance_metric=metric))


def tensors(cells: np.ndarray[Any, Any], type: str = DENSE) -> list[Tensor]:
    parsed = parse_type(type)
    return [Tensor(parsed, cast(row, parsed.cell)) for row in cells]


def clustered(random: np.random.Generator, count: int, width: int = 64, noise: float = 0.5) -> np.ndarray[Any, Any]:
    """Unit vectors around 300 centres that share a mean, as embeddings do."""
    centres = random.normal(size=(300, width)) + 1.5
    cells = centres[random.integers(0, 300, count)] + noise * random.normal(size=(count, width))
    found: np.ndarray[Any, Any] = cells / np.linalg.norm(cells, axis=1, keepdims=True)
    return found.astype(np.float32)


def best(column: TensorColumn, size: int, allowed: np.ndarray[Any, Any], wanted: int, scorer: Scorer) -> list[int]:
    """The nearest rows, which must have been found by way of codes."""
    found = column.nearest(size, allowed, wanted, scorer)
    assert found is not None
    rows, distances = found
    np.testing.assert_array_equal(rows, np.sort(rows))
    np.testing.assert_allclose(distances, column.distances(size, rows, scorer))
    return rows[np.argsort(distances, kind="stable")][:wanted].tolist()  # type: ignore[no-any-return]


def exact(column: TensorColumn, size: int, allowed: np.ndarray[Any, Any], wanted: int, scorer: Scorer) -> list[int]:
    distances = np.where(allowed, column.distances(size, None, scorer), np.inf)
    return np.argsort(distances, kind="stable")[:wanted].tolist()  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def coded() -> Iterator[dict[str, TensorColumn]]:
    """6,000 vectors under each metric, with codes."""
    patch = pytest.MonkeyPatch()
    patch.setattr(vector_neighbors, "MIN_ROWS", 4000)
    found = {}
    for metric in METRICS:
        random = np.random.default_rng(1)
        cells = clustered(random, SIZE) * (random.uniform(0.5, 2, (SIZE, 1)) if metric != METRICS[0] else 1)
        found[metric] = column(metric=metric)
        found[metric].extend(0, tensors(cells.astype(np.float32)))
        found[metric].settle()
    yield found
    patch.undo()


# ---- storage


def test_rows_are_the_same_whether_adopted_appended_or_extended() -> None:
    random = np.random.default_rng(0)
    values = random.integers(0, 99, (50, 3)).astype(np.uint16)
    rows = BlockedRows(3, np.uint16)
    rows.rows_per_block = 7
    rows.adopt(values[:11])
    rows.append(values[11])
    rows.extend(values[12:40])
    for value in values[40:49]:
        rows.append(value)
    rows.append(None)
    values[49] = 0
    for wanted in (random.integers(0, 50, 30), np.sort(random.integers(0, 50, 30)), np.arange(11), np.arange(0)):
        np.testing.assert_array_equal(rows.take(wanted), values[wanted])
    for start, size in ((0, 50), (3, 11), (11, 11), (12, 13), (5, 40)):
        pieces = list(rows.blocks(size, start))
        assert [first for first, _ in pieces] == [
            start + sum(len(p) for _, p in pieces[:i]) for i in range(len(pieces))
        ]
        joined = np.concatenate([piece for _, piece in pieces]) if pieces else values[:0]
        np.testing.assert_array_equal(joined, values[start:size])


def test_a_bfloat16_cell_takes_two_bytes_and_is_read_as_it_was_put() -> None:
    tested = column()
    cells = np.random.default_rng(0).normal(size=(5, 64)).astype(np.float32)
    cells[0, :5] = [0.0, -0.0, np.inf, -np.inf, 1e-40]
    for row, tensor in enumerate(tensors(cells)):
        tested.append(row, tensor)
    (piece,) = tested._vectors.unsaved(5)
    assert piece.nbytes == 5 * 64 * 2
    read = tested.batch(np.array([4, 0])).values
    assert isinstance(read, np.ndarray)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, cast(cells, "bfloat16")[[4, 0]])


@pytest.mark.parametrize("type", [DENSE, MIXED, "tensor<int8>(x[4])", "tensor(tag{})", "tensor<float>(a{},b{},x[2])"])
def test_bulk_append_is_a_loop_of_appends(type: str) -> None:
    random, parsed = np.random.default_rng(2), parse_type(type)
    values: list[Tensor | None] = []
    for _ in range(40):
        if not parsed.mapped:
            values.append(Tensor(parsed, cast(random.normal(size=parsed.shape) * 9, parsed.cell)))
        else:
            names = sorted({tuple(random.choice(list("abcd"), len(parsed.mapped))) for _ in range(random.integers(4))})
            cells = cast(random.normal(size=(len(names), *parsed.shape)), parsed.cell)
            values.append(Tensor(parsed, cells, tuple(tuple(map(str, name)) for name in names)))
    values[3] = values[9] = None
    one, bulk, copied = column(type), column(type), column(type)
    for row, value in enumerate(values):
        one.append(row, value)
    bulk.extend(0, values[:7])
    bulk.extend(7, values[7:])
    kept = np.array([0, 3, 4, 20, 39])
    bulk.copy_rows(kept, copied)
    np.testing.assert_array_equal(one.present(40), bulk.present(40))
    np.testing.assert_array_equal(copied.present(5), bulk.present(40)[kept])
    for tested, rows, expected in ((one, np.arange(40), np.arange(40)), (bulk, np.arange(40), np.arange(40)),
                                   (copied, np.arange(5), kept)):  # fmt: skip
        got = tested.batch(rows).values
        for position, row in enumerate(expected):
            held = values[row]
            if isinstance(got, list):
                assert got[position] == held if held is not None else not got[position].labels
            else:
                np.testing.assert_array_equal(got[position], 0 if held is None else held.cells)


def test_a_tensor_of_another_type_is_refused_and_nothing_is_added() -> None:
    tested = column()
    wrong = Tensor(parse_type("tensor<float>(x[64])"), np.zeros(64, np.float32))
    with pytest.raises(ValueError, match=r"expected tensor<bfloat16>\(x\[64\]\), but got tensor<float>"):
        tested.append(0, wrong)
    with pytest.raises(ValueError, match="but got str"):
        tested.extend(0, [None, "text"])
    assert len(tested.present(0)) == len(tested._vectors) == 0


# ---- distances


@pytest.mark.parametrize("metric", [*METRICS, "hamming"])
@pytest.mark.parametrize("cell", ["bfloat16", "float", "double", "int8"])
@pytest.mark.parametrize("width", [7, 64])
def test_distances_are_the_formulas(metric: str, cell: str, width: int) -> None:
    random = np.random.default_rng(3)
    cells = cast(random.normal(size=(900, width)) * (50 if cell == "int8" else 1), cell)
    tested = column(f"tensor<{cell}>(x[{width}])", metric)
    tested.extend(0, [None if row % 10 == 3 else t for row, t in enumerate(tensors(cells, str(tested.type)))])
    query = cast(random.normal(size=width) * (50 if cell == "int8" else 1), cell)
    expected = metrics.internal(metric, query, cells)
    expected[3::10] = np.inf
    scorer = Scorer(metric, query)
    np.testing.assert_allclose(tested.distances(900, None, scorer), expected, rtol=2e-5, atol=2e-5)
    for rows in (np.array([5, 899, 3, 17]), np.arange(0, 900, 2)):
        np.testing.assert_allclose(tested.distances(900, rows, scorer), expected[rows], rtol=2e-5, atol=2e-5)


def test_equal_vectors_are_equally_far_wherever_they_lie() -> None:
    tested = column(type="tensor<bfloat16>(x[512])")
    same = cast(np.random.default_rng(4).normal(size=512), "bfloat16")
    tested.extend(0, [Tensor(tested.type, same)] * 1111)
    scorer = Scorer("prenormalized-angular", cast(np.random.default_rng(5).normal(size=512), "bfloat16"))
    found = {*tested.distances(1111, None, scorer), *tested.distances(1111, np.arange(0, 1111, 7), scorer)}
    assert len(found) == 1


# ---- neighbours by way of codes


@pytest.mark.parametrize("metric", METRICS)
def test_the_neighbours_found_by_codes_are_the_nearest(coded: dict[str, TensorColumn], metric: str) -> None:
    random, everything = np.random.default_rng(6), np.ones(SIZE, np.bool_)
    recall = []
    for query in cast(clustered(random, 60), "bfloat16"):
        scorer = Scorer(metric, query)
        for wanted in (10, 100):
            if coded[metric].nearest(SIZE, everything, wanted, scorer) is not None:
                got = best(coded[metric], SIZE, everything, wanted, scorer)
                assert len(got) == wanted
                recall.append(len(set(got) & set(exact(coded[metric], SIZE, everything, wanted, scorer))) / wanted)
    assert len(recall) > 40, "codes answer most queries for ten"
    assert np.mean(recall) >= 0.99


def test_filters_are_obeyed_and_narrow_ones_are_left_to_measuring_every_row(coded: dict[str, TensorColumn]) -> None:
    tested, random = coded["prenormalized-angular"], np.random.default_rng(7)
    scorer = Scorer("prenormalized-angular", cast(clustered(random, 1)[0], "bfloat16"))
    for share in (0.9, 0.5, 0.25):
        allowed = random.random(SIZE) < share
        got = best(tested, SIZE, allowed, 20, scorer)
        assert allowed[got].all()
        assert len(set(got) & set(exact(tested, SIZE, allowed, 20, scorer))) >= 19
    assert tested.nearest(SIZE, random.random(SIZE) < 0.04, 20, scorer) is None
    assert tested.nearest(SIZE, np.ones(SIZE, np.bool_), 2000, scorer) is None


def test_rows_after_the_snapshot_are_not_found_and_rows_without_a_code_are() -> None:
    random = np.random.default_rng(8)
    cells = clustered(random, 5000)
    tested = column()
    tested.extend(0, tensors(cells))
    tested.settle()
    query = cast(cells[17], "bfloat16")
    tested.extend(5000, tensors(np.tile(query, (30, 1))))
    scorer = Scorer("prenormalized-angular", query)
    assert set(best(tested, 5030, np.ones(5030, np.bool_), 20, scorer)) <= {17, *range(5000, 5030)}
    assert max(best(tested, 5000, np.ones(5000, np.bool_), 20, scorer)) < 5000
    tested.settle()
    assert max(best(tested, 5000, np.ones(5000, np.bool_), 20, scorer)) < 5000
    assert max(best(tested, 5010, np.ones(5010, np.bool_), 20, scorer)) in range(5000, 5010)


def test_crowded_vectors_that_codes_cannot_tell_apart_are_all_measured() -> None:
    random = np.random.default_rng(9)
    tested = column()
    base = random.normal(size=64)
    tested.extend(0, tensors((base + 0.02 * random.normal(size=(SIZE, 64))).astype(np.float32)))
    tested.settle()
    everything, hits = np.ones(SIZE, np.bool_), 0
    for _ in range(10):
        scorer = Scorer("prenormalized-angular", cast(random.normal(size=64), "bfloat16"))
        expected = exact(tested, SIZE, everything, 10, scorer)
        found = tested.nearest(SIZE, everything, 10, scorer)
        hits += 10 if found is None else len(set(expected) & set(found[0].tolist()))
    assert hits >= 97


def test_vectors_that_are_no_numbers_or_zero_do_not_stop_the_others_from_being_found() -> None:
    random = np.random.default_rng(10)
    cells = clustered(random, 5000)
    cells[7], cells[8], cells[9] = np.nan, 0, np.inf
    cells[9, 5] = -np.inf
    values: list[Tensor | None] = [*tensors(cells)]
    values[100:200] = [None] * 100
    tested = column(metric="angular")
    tested.extend(0, values)
    tested.settle()
    allowed = tested.present(5000).copy()
    allowed[[7, 9]] = False
    scorer = Scorer("angular", cast(cells[50], "bfloat16"))
    assert best(tested, 5000, allowed, 10, scorer)[0] == 50
    assert tested.nearest(5000, allowed, 10, Scorer("angular", np.full(64, np.nan, np.float32))) is None


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("cell", [0.0, 1e-42, 3e38])
def test_a_query_that_codes_cannot_tell_vectors_by_is_measured(
    coded: dict[str, TensorColumn], metric: str, cell: float
) -> None:
    query = cast(np.full(64, cell, np.float32), parse_type(DENSE).cell)
    found = coded[metric].nearest(SIZE, np.ones(SIZE, np.bool_), 10, Scorer(metric, query))
    assert found is None or len(found[0]) >= 10  # None: every row is measured


def test_searches_beside_a_writer_see_their_snapshot() -> None:
    random = np.random.default_rng(11)
    cells = clustered(random, 6000)
    tested = column()
    tested.extend(0, tensors(cells[:4000]))
    failures: list[str] = []
    done = threading.Event()

    def read() -> None:
        mine = np.random.default_rng(threading.get_ident() % 1000)
        while not done.is_set():
            size = len(tested._vectors)
            row = int(mine.integers(0, size))
            query = cast(cells[row], "bfloat16")
            scorer = Scorer("prenormalized-angular", query)
            found = tested.nearest(size, np.ones(size, np.bool_), 10, scorer)
            if found is not None and (row not in found[0] or found[0].max() >= size):
                failures.append(f"{row} of {size}")

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for start in range(4000, 6000, 250):
        tested.extend(start, tensors(cells[start : start + 250]))
    tested.settle()
    done.set()
    for reader in readers:
        reader.join()
    assert not failures


def test_codes_are_half_as_long_where_half_the_axes_hold_nearly_everything() -> None:
    random = np.random.default_rng(14)
    few = random.normal(size=(4000, 10)) @ random.normal(size=(10, 128)) + 0.3 * random.normal(size=(4000, 128))
    many = random.normal(size=(4000, 128))
    lengths = []
    for cells in (few, many):
        tested = column("tensor<bfloat16>(x[128])")
        tested.extend(0, tensors(cells.astype(np.float32), str(tested.type)))
        tested.settle()
        assert tested._neighbors is not None
        assert tested._neighbors._codes is not None
        lengths.append(tested._neighbors._codes.codebook.bytes_per_vector)
    assert lengths == [8, 16]


def test_a_search_that_was_too_deep_for_codes_is_tried_with_them_again(coded: dict[str, TensorColumn]) -> None:
    tested, random = coded["prenormalized-angular"], np.random.default_rng(15)
    scorer = Scorer("prenormalized-angular", cast(clustered(random, 1)[0], "bfloat16"))
    everything = np.ones(SIZE, np.bool_)
    index = tested._neighbors
    assert index is not None
    assert tested.nearest(SIZE, everything, 10, scorer) is not None
    index._depths[(4, 0)] = SIZE + 20.0
    answers = [tested.nearest(SIZE, everything, 10, scorer) is not None for _ in range(3)]
    assert answers == [False, True, True]


def test_a_filter_that_leaves_only_what_is_far_from_the_query_gives_the_nearest_of_that(
    coded: dict[str, TensorColumn], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_neighbors, "DEEPEST", 4)
    tested, random = coded["prenormalized-angular"], np.random.default_rng(16)
    assert tested._neighbors is not None
    tested._neighbors._depths.clear()
    by_codes = 0
    for query in cast(clustered(random, 20), "bfloat16"):
        scorer = Scorer("prenormalized-angular", query)
        distances = tested.distances(SIZE, None, scorer)
        for allowed in (distances > np.quantile(distances, 0.8), distances > np.quantile(distances, 0.1)):
            found = tested.nearest(SIZE, allowed, 10, scorer)
            if found is not None:
                by_codes += 1
                assert set(found[0].tolist()) >= set(exact(tested, SIZE, allowed, 10, scorer))
    assert by_codes < 20, "what is far from a query, codes are of no use for"


@pytest.mark.parametrize("type", [DENSE, MIXED])
def test_rows_without_a_tensor_are_left_out_whichever_way_they_came(type: str) -> None:
    parsed = parse_type(type)
    shape = (1, 64) if parsed.mapped else (64,)
    value = Tensor(parsed, np.ones(shape, np.float32), (("a",),) if parsed.mapped else ())
    everything, files = np.ones(4, np.bool_), Files()
    full, bulk, single = column(type), column(type), column(type)
    full.extend(0, [value] * 4)
    assert full.with_tensor(4, everything) is everything
    bulk.extend(0, [value, None, value, value])
    for row, each in enumerate([value, None, value, value]):
        single.append(row, each)
    bulk.save(files)
    restored, copied, whole = column(type), column(type), column(type)
    restored.restore(files, 4)
    bulk.copy_rows(np.array([0, 1, 2, 3]), copied)
    bulk.copy_rows(np.array([0, 2, 3]), whole)
    for tested in (bulk, single, restored, copied):
        assert tested.with_tensor(4, everything).tolist() == [True, False, True, True]
    assert whole.with_tensor(3, everything[:3]).all()


# ---- blocks with labels


def test_a_document_is_as_near_as_its_closest_block_and_the_first_of_equals_wins() -> None:
    parsed = parse_type("tensor<float>(patch{},x[2])")
    tested = column(str(parsed), "euclidean")
    blocks = [[(1, 0), (0, 0), (3, 4)], [(9, 9)], None, [], [(0, 1), (1, 0), (1, 0)]]
    for row, block in enumerate(blocks):
        labels = tuple((f"p{i}",) for i in range(len(block or ())))
        cells = np.array(block or np.zeros((0, 2)), np.float32)
        tested.append(row, None if block is None else Tensor(parsed, cells, labels))
    scorer = Scorer("euclidean", np.array([1, 0], np.float32))
    expected = np.array([0, 145, np.inf, np.inf, 0])
    np.testing.assert_array_equal(tested.distances(5, None, scorer), expected)
    np.testing.assert_array_equal(tested.distances(5, np.array([4]), scorer), [0])
    found, distances = tested.closest(np.array([4, 2, 0, 3, 1]), scorer)
    np.testing.assert_array_equal(distances, expected[[4, 2, 0, 3, 1]])
    assert [str(t) for t in found] == [
        "tensor<float>(patch{}):{p1:1.0}", "tensor<float>(patch{}):{}", "tensor<float>(patch{}):{p0:1.0}",
        "tensor<float>(patch{}):{}", "tensor<float>(patch{}):{p0:1.0}",
    ]  # fmt: skip


def test_documents_of_many_blocks_are_found_by_codes_once_each() -> None:
    random, parsed = np.random.default_rng(12), parse_type(MIXED)
    count = 900
    cells = clustered(random, count * 9).reshape(count, 9, 64)
    tested = column(MIXED)
    labels = tuple((str(i),) for i in range(9))
    tested.extend(0, [Tensor(parsed, cast(block, "bfloat16"), labels) for block in cells])
    tested.settle()
    recall, allowed = [], random.random(count) < 0.7
    for query in cast(clustered(random, 20), "bfloat16"):
        scorer = Scorer("prenormalized-angular", query)
        expected = exact(tested, count, allowed, 10, scorer)
        np.testing.assert_allclose(
            tested.distances(count, None, scorer), 1 - (cast(cells, "bfloat16") @ query).max(axis=1), atol=1e-2
        )
        got = best(tested, count, allowed, 10, scorer)
        assert len(set(got)) == 10
        assert allowed[got].all()
        recall.append(len(set(got) & set(expected)) / 10)
    assert np.mean(recall) >= 0.98


# ---- files


@pytest.mark.parametrize("type", [DENSE, MIXED])
def test_what_was_saved_in_parts_is_restored_with_its_codes_and_goes_on_growing(
    type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    random, parsed = np.random.default_rng(13), parse_type(type)
    cells = clustered(random, 5003)

    def values(start: int, end: int) -> list[Tensor | None]:
        part = cast(cells[start:end], "bfloat16")
        if not parsed.mapped:
            return [None if i == 5 else Tensor(parsed, row) for i, row in enumerate(part)]
        return [None if i == 5 else Tensor(parsed, row[np.newaxis], ((f"é\n{i % 3}",),)) for i, row in enumerate(part)]

    files, first = Files(), column(type)
    for start, end in ((0, 10), (10, 4500), (4500, 4501)):
        first.extend(start, values(start, end))
        if start:
            first.settle()
        first.save(files)
    sizes = {name: len(data) for name, data in files.held.items()}
    first.save(files)
    assert sizes == {name: len(data) for name, data in files.held.items()}, "nothing new, nothing written"

    def refuse(*_: Any) -> None:
        raise AssertionError("learnt again")

    monkeypatch.setattr(vector_neighbors.Codebook, "train", refuse)
    second = column(type)
    second.restore(files, 4501)
    scorer = Scorer("prenormalized-angular", cast(cells[44], "bfloat16"))
    allowed = second.present(4501)
    np.testing.assert_array_equal(allowed, first.present(4501))
    assert best(second, 4501, allowed, 10, scorer) == best(first, 4501, allowed, 10, scorer)
    second.extend(4501, values(4501, 5003))
    second.settle()
    second.save(files)
    third = column(type)
    third.restore(files, 5003)
    third.settle()
    late = Scorer("prenormalized-angular", cast(cells[4999], "bfloat16"))
    assert best(third, 5003, third.present(5003), 10, late)[0] == 4999
    got, expected = third.batch(np.array([4999, 5, 3])).values, second.batch(np.array([4999, 5, 3])).values
    assert got == expected if isinstance(got, list) else np.array_equal(got, np.asarray(expected))


@pytest.mark.parametrize("type", [DENSE, MIXED])
def test_files_that_do_not_fit_together_are_refused(type: str) -> None:
    parsed = parse_type(type)
    value = Tensor(parsed, np.ones(parsed.shape if not parsed.mapped else (1, *parsed.shape), np.float32),
                   (("a",),) if parsed.mapped else ())  # fmt: skip
    files, first = Files(), column(type)
    first.extend(0, [value] * 5)
    first.save(files)
    with pytest.raises(ValueError, match="5 of 4 rows"):
        column(type).restore(files, 4)
    files.held["cells"] = files.held["cells"][:-2]
    with pytest.raises(ValueError, match="cells for"):
        column(type).restore(files, 5)


def test_equal_estimates_in_another_order_give_no_vector_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search for more vectors gives those whose estimates are equal in an order of its own."""
    random = np.random.default_rng(17)
    tested = column()
    tested.extend(0, tensors(np.repeat(clustered(random, 60), 100, axis=0)))
    tested.settle()
    search = vector_neighbors.Codes.search

    def shuffled(self: Any, query: Any, count: int) -> Any:
        rows, estimates = search(self, query, len(tested.present(6000)))
        order = np.lexsort((random.random(len(rows)), -0.0 + estimates))[:count]
        return rows[order], estimates[order]

    monkeypatch.setattr(vector_neighbors.Codes, "search", shuffled)
    everything, answered = np.ones(6000, np.bool_), 0
    for query in cast(clustered(random, 30), "bfloat16"):
        found = tested.nearest(6000, everything, 150, Scorer("prenormalized-angular", query))
        if found is not None:
            answered += 1
            assert len(np.unique(found[0])) == len(found[0])
    assert answered > 0
