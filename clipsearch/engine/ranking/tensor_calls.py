"""Compilation of tensor functions: reduce, map, join, generated tensors and their kin."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np

from clipsearch.engine.ranking import operations as ops
from clipsearch.engine.ranking import result_types as types
from clipsearch.engine.ranking.batch import Batch, Environment, Value, as_batch, as_blocks, as_scalar
from clipsearch.engine.ranking.compiler import Compiled, Compiler, join_cells, map_cells
from clipsearch.engine.ranking.nodes import (
    Binary,
    Cells,
    Generate,
    Lambda,
    Node,
    Paren,
    Reference,
    TensorCall,
)
from clipsearch.engine.tensors.types import SCALAR, TensorType
from clipsearch.engine.tensors.value import cast
from clipsearch.errors import ExpressionError

MOST_GENERATED = 1 << 16
_CHUNK = 4096


def compile_tensor_call(compiler: Compiler, node: TensorCall) -> Compiled:
    """One tensor function, by name."""
    if node.name == "reduce":
        return _reduce(compiler, node)
    operands = [compiler.compile(operand) for operand in node.operands]
    if node.function is not None:
        return _with_lambda(compiler, node, operands, node.function)
    if node.name == "rename":
        half = len(node.names) // 2
        names = dict(zip(node.names[:half], node.names[half:], strict=True))
        result = types.rename_type(operands[0].type, names)
        return _plain(operands[0], result, lambda v, env: ops.rename(v, operands[0].type, result, names))
    if node.name == "concat":
        left, right = operands
        sides = (left.type, right.type, types.concat_type(left.type, right.type, node.names[0]))
        return Compiled(
            sides[2],
            lambda env: ops.concat(left.batch(env), right.batch(env), sides, node.names[0], env),
        )
    return _one_operand(node, operands[0])


def _plain(operand: Compiled, result: TensorType, f: Any) -> Compiled:
    """``f(batch, env)`` of a tensor; a scalar stays a scalar."""

    def run(env: Environment) -> Value:
        found = f(operand.batch(env), env)
        return found if result.dimensions else as_scalar(found)

    return Compiled(result, run)


def _one_operand(node: TensorCall, operand: Compiled) -> Compiled:
    type = operand.type
    if node.name == "cell_cast":
        result = types.cast_type(type, node.names[0])
        if not type.dimensions:
            return operand
        return _plain(operand, result, lambda v, env: Batch(cast(v.cells, result.cell), v.labels, v.rows))
    if node.name == "cell_order":
        result = types.map_type(type)
        return _plain(operand, result, lambda v, env: ops.cell_order(v, result, node.names[0] == "max"))
    result = types.unpack_type(type, node.names[0])
    return _plain(operand, result, lambda v, env: ops.unpack_bits(v, result, node.names[1] == "big"))


def _with_lambda(compiler: Compiler, node: TensorCall, operands: list[Compiled], function: Lambda) -> Compiled:
    if node.name == "map":
        return map_cells(operands[0], compiler.cellwise(function))
    if node.name == "join":
        return join_cells(operands[0], operands[1], compiler.cellwise(function))
    if node.name == "merge":
        left, right = operands
        result = types.merge_type(left.type, right.type)
        f = compiler.cellwise(function)
        if not result.mapped:
            return join_cells(left, right, f)
        return Compiled(result, lambda env: ops.merge(left.batch(env), right.batch(env), result, f, env))
    return _subspaces(compiler, node.name, operands[0], function)


def _subspaces(compiler: Compiler, name: str, operand: Compiled, function: Lambda) -> Compiled:
    """map_subspaces and filter_subspaces: each dense block is a candidate of its own to the function."""
    inner_type = types.subspace_type(operand.type)
    parameter = function.parameters[0]
    body = Compiler(None, {parameter: inner_type}, compiler.dialect).compile(function.body)
    mapping = name == "map_subspaces"
    if not mapping and not operand.type.dimensions:
        raise ExpressionError("filter_subspaces() and top() need a tensor, but got a number")
    result = types.map_subspaces_type(operand.type, body.type) if mapping else operand.type
    if not mapping and body.type.mapped:
        raise ExpressionError(f"filter_subspaces(): '{function}' makes a tensor with mapped dimensions")

    def run(env: Environment) -> Value:
        value = operand.batch(env)
        size = len(value.cells)
        block: Value = Batch(value.cells) if inner_type.dimensions else value.cells.astype(np.float64)
        made = (
            as_batch(body.run(env.inner(size, {parameter: block}))) if size else Batch(np.zeros((0, *body.type.shape)))
        )
        cells = np.broadcast_to(made.cells, (size, *body.type.shape))
        if not mapping:
            return ops.filter_subspaces(value, (cells != 0).any(axis=tuple(range(1, cells.ndim))))
        mapped = Batch(cast(cells, result.cell), value.labels, value.rows)
        return mapped if result.dimensions else as_scalar(mapped)

    return Compiled(result, run)


def _reduce(compiler: Compiler, node: TensorCall) -> Compiled:
    aggregator, dimensions = node.names[0], node.names[1:]
    operand_node = node.operands[0]
    if aggregator == "sum":
        fused = _dot_product(compiler, operand_node, dimensions)
        if fused is not None:
            return fused
    operand = compiler.compile(operand_node)
    result = types.reduce_type(operand.type, dimensions)
    if not operand.type.dimensions:
        if aggregator == "count":
            return Compiled(SCALAR, lambda env: 1.0)
        return operand
    return _plain(operand, result, lambda v, env: ops.reduce(v, operand.type, result, aggregator, env))


def _factors(node: Node) -> tuple[Node, Node] | None:
    while isinstance(node, Paren):
        node = node.inner
    if isinstance(node, Binary) and node.operator == "*":
        return node.left, node.right
    if isinstance(node, TensorCall) and node.name == "join" and node.function is not None:
        names = tuple(Reference(name) for name in node.function.parameters)
        if node.function.body == Binary("*", *names):
            return node.operands[0], node.operands[1]
    return None


def _dot_product(compiler: Compiler, node: Node, dimensions: tuple[str, ...]) -> Compiled | None:
    """``sum(a * b)`` over indexed dimensions that both have, without making the products; None: not of that kind."""
    factors = _factors(node)
    if factors is None:
        return None
    left, right = compiler.compile(factors[0]), compiler.compile(factors[1])
    joined = types.join_type(left.type, right.type)
    result = types.reduce_type(joined, dimensions)
    gone = {d.name for d in joined.dimensions} - {d.name for d in result.dimensions}
    shared = set(ops.indexed(left.type)) & set(ops.indexed(right.type))
    if not gone or not gone <= shared or (left.type.mapped and right.type.mapped):
        return None

    def run(env: Environment) -> Value:
        a, b, labels, rows = ops.pair(left.batch(env), right.batch(env), (left.type, right.type, joined), 1)
        dots = Batch(cast(_einsum(a, b, left.type, right.type, result), result.cell), labels, rows)
        return dots if result.dimensions else as_scalar(dots)

    return Compiled(result, run)


def _einsum(a: Any, b: Any, left: TensorType, right: TensorType, result: TensorType) -> Any:
    """Blocks of ``a`` with blocks of ``b`` (or the one of either), in float64, a few thousand at a time."""
    letters = {name: chr(97 + i) for i, name in enumerate(sorted({*ops.indexed(left), *ops.indexed(right)}))}
    of = {type: "".join(letters[n] for n in ops.indexed(type)) for type in (left, right, result)}
    if len(a) == 1 and len(b) != 1:
        a, b, left, right = b, a, right, left
    shared = len(b) == 1
    formula = f"Z{of[left]},{'' if shared else 'Z'}{of[right]}->Z{of[result]}"
    other = b[0].astype(np.float64) if shared else b
    pieces = []  # einsum, not BLAS: a row's rounding must not depend on its neighbours, or equal hits do not tie
    for i in range(0, max(len(a), 1), _CHUNK):
        second = other if shared else other[i : i + _CHUNK].astype(np.float64)
        pieces.append(np.einsum(formula, a[i : i + _CHUNK].astype(np.float64), second))
    return np.concatenate(pieces)


def compile_generate(compiler: Compiler, node: Generate) -> Compiled:
    """``tensor(x[2])(body)``: in one step when the body needs nothing but the position, else cell by cell."""
    type = node.type
    if type.mapped:
        raise ExpressionError(f"'{node}': a generated tensor has only indexed dimensions")
    names = [d.name for d in type.dimensions]
    size = math.prod(type.shape)
    if size > MOST_GENERATED:
        raise ExpressionError(f"'{node}' generates {size} cells; at most {MOST_GENERATED} are supported")
    positions = np.indices(type.shape, np.float64).reshape(len(names), -1)
    scope = {**compiler.locals, **dict.fromkeys(names, SCALAR)}
    try:
        free = Compiler(None, dict.fromkeys(names, SCALAR), compiler.dialect).scalar(node.body, "a cell")
    except ExpressionError:
        body = Compiler(compiler.resolver, scope, compiler.dialect).scalar(node.body, "a generated cell")
        return _by_cell(type, [(dict(zip(names, at, strict=True)), body) for at in positions.T.tolist()])

    def run(env: Environment) -> Value:
        values = free.run(env.inner(positions.shape[1], dict(zip(names, positions, strict=True))))
        cells = np.broadcast_to(values, positions.shape[1:]).reshape((1, *type.shape))
        return Batch(cast(cells, type.cell)) if names else as_scalar(Batch(cells))

    return Compiled(type, run)


def _by_cell(type: TensorType, cells: list[tuple[dict[str, Any], Compiled]]) -> Compiled:
    """A dense tensor from one scalar program per cell, in order, each with its own extra locals."""

    def run(env: Environment) -> Value:
        values = [body.run(env.with_locals(extra) if extra else env) for extra, body in cells]
        stacked = np.stack(np.broadcast_arrays(*map(np.atleast_1d, values)), axis=1)
        batch = Batch(cast(stacked.astype(np.float64).reshape((-1, *type.shape)), type.cell))
        return batch if type.dimensions else as_scalar(batch)

    return Compiled(type, run)


def compile_cells(compiler: Compiler, node: Cells) -> Compiled:
    """``tensor(x[2]):[a,b]`` and ``tensor(k{}):{a:1}``: each cell is an expression."""
    type = node.type
    bodies = {address: compiler.scalar(value, "a cell") for address, value in node.cells}
    if not type.mapped:
        zero = Compiled(SCALAR, lambda env: 0.0)
        places = product(*(map(str, range(size)) for size in type.shape))
        return _by_cell(type, [({}, bodies.get(place, zero)) for place in places])
    return _mapped_cells(type, bodies)


def _mapped_cells(type: TensorType, bodies: dict[tuple[str, ...], Compiled]) -> Compiled:
    names = [d.name for d in type.dimensions]
    blocks: dict[tuple[str, ...], list[tuple[tuple[int, ...], Compiled]]] = {}
    for address, body in bodies.items():
        place = dict(zip(names, address, strict=True))
        index = tuple(int(place[name]) for name in ops.indexed(type))
        blocks.setdefault(tuple(place[name] for name in ops.mapped(type)), []).append((index, body))

    def run(env: Environment) -> Batch:
        made = [[(index, body.run(env)) for index, body in block] for block in blocks.values()]
        varying = any(np.ndim(value) > 0 for block in made for _, value in block)
        size = env.count if varying else 1
        cells = np.zeros((size, len(made), *type.shape))
        for at, block in enumerate(made):
            for index, value in block:
                place: Any = (slice(None), at, *index)
                cells[place] = value
        numbers = [[env.labels.number(label) for label in key] for key in blocks]
        labels = np.array(numbers, np.int64).reshape(len(numbers), len(type.mapped))
        rows = np.repeat(np.arange(size), len(made)) if varying else None
        flat = cells.reshape((-1, *type.shape))
        return as_blocks(Batch(cast(flat, type.cell), np.tile(labels, (size, 1)), rows))

    return Compiled(type, run)
