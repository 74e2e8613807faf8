"""Syntax trees to typed, vectorised programs: one evaluator for all phases.

Types are checked here, once, when a profile is deployed; what comes out is a closure over numpy operations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from clipsearch.engine.ranking import result_types as types
from clipsearch.engine.ranking.batch import Batch, Environment, Value, as_batch, as_scalar, per_candidate
from clipsearch.engine.ranking.functions import BINARY, OPERATORS, UNARY
from clipsearch.engine.ranking.nodes import (
    Binary,
    Boolean,
    Call,
    Cells,
    Generate,
    If,
    Lambda,
    Membership,
    Node,
    Number,
    Paren,
    Reference,
    Slice,
    TensorCall,
    Text,
    Tuple,
    Unary,
)
from clipsearch.engine.ranking.operations import join
from clipsearch.engine.ranking.slicing import slice_batch
from clipsearch.engine.tensors.types import SCALAR, TensorType
from clipsearch.engine.tensors.value import cast
from clipsearch.errors import ExpressionError

MOST_CELLS = 1 << 24
_SWAPPED_BY_JAVA = ("^", "<", "<=", ">", ">=")


@dataclass(frozen=True, slots=True)
class Compiled:
    """An expression of static ``type``; ``run`` gives its value for a batch. ``constant``: its text is a number."""

    type: TensorType
    run: Callable[[Environment], Value]

    def batch(self, env: Environment) -> Batch:
        """The value as a ``Batch``, scalars included."""
        return as_batch(self.run(env))


class Resolver(Protocol):
    """Gives a meaning to names that are not lambda parameters."""

    def reference(self, node: Reference, compiler: Compiler) -> Compiled:
        """The feature or function; raises ``ExpressionError`` when there is none."""
        ...


class Compiler:
    """Compiles trees whose free names are ``locals`` (lambda parameters) or what ``resolver`` knows (None: nothing)."""

    def __init__(
        self, resolver: Resolver | None, locals: Mapping[str, TensorType] | None = None, dialect: str = "cpp"
    ) -> None:
        self.resolver = resolver
        self.locals = dict(locals or {})
        self.dialect = dialect

    def compile(self, node: Node) -> Compiled:
        """``node``, type-checked. Raises ``ExpressionError`` that quotes what does not fit."""
        handler = _HANDLERS.get(type(node))
        if handler is None:
            raise ExpressionError(f"'{node}' is not a value")
        compiled: Compiled = handler(self, node)
        if np.prod([float(size) for size in compiled.type.shape]) > MOST_CELLS:
            raise ExpressionError(f"'{node}' is a {compiled.type}: more cells than the local engine supports")
        return compiled

    def scalar(self, node: Node, what: str) -> Compiled:
        """``node``, which must be a scalar: ``what`` names it in the error."""
        compiled = self.compile(node)
        if compiled.type.dimensions:
            raise ExpressionError(f"{what} must be a number, but '{node}' is a {compiled.type}")
        return compiled

    def cellwise(self, function: Lambda) -> Callable[..., Any]:
        """A lambda over cells (join, map, merge): a function of arrays of any one shape."""
        body = Compiler(None, dict.fromkeys(function.parameters, SCALAR), self.dialect).scalar(
            function.body, "the function of a tensor's cells"
        )

        def apply(*cells: Any) -> Any:
            return body.run(Environment(1, None, dict(zip(function.parameters, cells, strict=True))))

        return apply


def constant(value: float) -> Compiled:
    """A number."""
    return Compiled(SCALAR, lambda env: value)


def _number(compiler: Compiler, node: Number) -> Compiled:
    return constant(node.value)


def _boolean(compiler: Compiler, node: Boolean) -> Compiled:
    return constant(float(node.value))


def _paren(compiler: Compiler, node: Paren) -> Compiled:
    return compiler.compile(node.inner)


def _reference(compiler: Compiler, node: Reference) -> Compiled:
    if node.arguments is None and not node.output and node.name in compiler.locals:
        name = node.name
        return Compiled(compiler.locals[name], lambda env: env.locals[name])
    if compiler.resolver is None:
        raise ExpressionError(f"'{node}' cannot be used here: a tensor function sees only its parameters")
    return compiler.resolver.reference(node, compiler)


def _text(compiler: Compiler, node: Text) -> Compiled:
    raise ExpressionError(f"the string {node} can only be compared with another string")


def _unwrap(node: Node) -> Node:
    while isinstance(node, Paren):
        node = node.inner
    return node


def _unary(compiler: Compiler, node: Unary) -> Compiled:
    return map_cells(compiler.compile(node.operand), UNARY[node.operator])


def _call(compiler: Compiler, node: Call) -> Compiled:
    operands = [compiler.compile(argument) for argument in node.arguments]
    if len(operands) == 1:
        return map_cells(operands[0], UNARY[node.name])
    return join_cells(operands[0], operands[1], BINARY[node.name])


def _binary(compiler: Compiler, node: Binary) -> Compiled:
    left, right = _unwrap(node.left), _unwrap(node.right)
    if isinstance(left, Text) and isinstance(right, Text) and node.operator in ("==", "!="):
        return constant(float((left.value == right.value) == (node.operator == "==")))
    one, two = compiler.compile(left), compiler.compile(right)
    if compiler.dialect == "java" and two.type.dimensions and not one.type.dimensions:
        return _java_scalar_with_tensor(one, two, node)
    return join_cells(one, two, OPERATORS[node.operator])


def _java_scalar_with_tensor(left: Compiled, right: Compiled, node: Binary) -> Compiled:
    """Vespa's Java evaluator swaps the sides of some operators here (``2 < t`` is answered as ``t < 2``)."""
    if node.operator in "/%":
        verb = "divide" if node.operator == "/" else "modulo"
        raise ExpressionError(f"Cannot perform {verb} on {right.type} and {node.left}: use join(a, b, f(a,b)(...))")
    if node.operator not in _SWAPPED_BY_JAVA:
        return join_cells(left, right, OPERATORS[node.operator])
    if not isinstance(_unwrap(node.left), Number):
        raise ExpressionError(
            f"'{node}' is not supported by the local engine in a global phase: Vespa may swap its sides. "
            "Write the tensor on the left, or join(a, b, f(a,b)(...))"
        )
    return join_cells(right, left, OPERATORS[node.operator])


def map_cells(operand: Compiled, f: Callable[[Any], Any]) -> Compiled:
    """``f`` of each cell."""
    if not operand.type.dimensions:
        return Compiled(SCALAR, lambda env: f(operand.run(env)))
    result = types.map_type(operand.type)

    def run(env: Environment) -> Batch:
        value = operand.run(env)
        return Batch(cast(np.asarray(f(value.cells.astype(np.float64))), result.cell), value.labels, value.rows)

    return Compiled(result, run)


def join_cells(left: Compiled, right: Compiled, f: Callable[[Any, Any], Any]) -> Compiled:
    """``f`` of each pair of cells."""
    result = types.join_type(left.type, right.type)
    if not result.dimensions:
        return Compiled(SCALAR, lambda env: f(left.run(env), right.run(env)))
    sides = (left.type, right.type, result)
    return Compiled(result, lambda env: join(left.batch(env), right.batch(env), sides, f, env))


def _membership(compiler: Compiler, node: Membership) -> Compiled:
    left = _unwrap(node.left)
    if isinstance(left, Text):
        if not all(isinstance(item, Text) for item in node.items):
            raise ExpressionError(f"'{node}': a string is only in a list of strings")
        return constant(float(any(isinstance(i, Text) and i.value == left.value for i in node.items)))
    value = compiler.compile(left)
    if value.type.dimensions:
        return _tensor_membership(value, node)
    items = [compiler.scalar(item, "each item of 'in'") for item in node.items]

    def run(env: Environment) -> Value:
        found: Any = np.False_
        needle = value.run(env)
        for item in items:
            found = np.logical_or(found, np.equal(needle, item.run(env)))
        return np.asarray(found, np.float64)

    return Compiled(SCALAR, run)


def _tensor_membership(value: Compiled, node: Membership) -> Compiled:
    """Each cell of a tensor in a list of numbers."""
    wanted: list[float] = []
    for item in node.items:
        inner = item.operand if isinstance(item, Unary) and item.operator == "-" else item
        if not isinstance(inner, Number):
            message = f"'{node}': a tensor in a list of anything but numbers"
            raise ExpressionError(f"{message} is not supported by the local engine")
        wanted.append(inner.value if inner is item else -inner.value)
    return map_cells(value, lambda cells: np.isin(cells, wanted).astype(np.float64))


def _if(compiler: Compiler, node: If) -> Compiled:
    condition = compiler.scalar(node.condition, "the condition of if()")
    yes, no = compiler.compile(node.yes), compiler.compile(node.no)
    if yes.type != no.type:
        both = f"{yes.type} and {no.type}"
        raise ExpressionError(f"'{node}': both results must have one type, {both} is not supported by the local engine")
    if not yes.type.dimensions:
        return Compiled(SCALAR, lambda env: np.where(np.not_equal(condition.run(env), 0), yes.run(env), no.run(env)))
    return Compiled(yes.type, lambda env: _choose(condition.run(env), yes, no, env))


def _choose(condition: Value, yes: Compiled, no: Compiled, env: Environment) -> Batch:
    holds = np.not_equal(condition, 0)
    if np.ndim(holds) == 0:
        return (yes if holds else no).batch(env)
    one, two = per_candidate(yes.batch(env), env.count), per_candidate(no.batch(env), env.count)
    if one.labels is None or two.labels is None or one.rows is None or two.rows is None:
        return Batch(np.where(holds.reshape(-1, *(1,) * (one.cells.ndim - 1)), one.cells, two.cells))
    mine, theirs = holds[one.rows], ~holds[two.rows]
    return Batch(
        np.concatenate([one.cells[mine], two.cells[theirs]]),
        np.concatenate([one.labels[mine], two.labels[theirs]]),
        np.concatenate([one.rows[mine], two.rows[theirs]]),
    )


def _slice(compiler: Compiler, node: Slice) -> Compiled:
    operand = compiler.compile(node.tensor)
    at: dict[str, str | Compiled] = {}
    for name, label in node.entries:
        dimension = _slice_dimension(operand.type, name, node)
        at[dimension] = label if isinstance(label, str) else compiler.scalar(label, "a label")
        size = next(d.size for d in operand.type.dimensions if d.name == dimension)
        if size is not None and isinstance(label, str) and not (label.isdigit() and int(label) < size):
            message = f"'{node}': {label} is not a position in dimension '{dimension}' of {operand.type}"
            raise ExpressionError(f"{message}: not supported by the local engine")
    result = types.slice_type(operand.type, at)

    def run(env: Environment) -> Value:
        places = {name: label if isinstance(label, str) else label.run(env) for name, label in at.items()}
        sliced = slice_batch(operand.batch(env), operand.type, result, places, env)
        return sliced if result.dimensions else as_scalar(sliced)

    return Compiled(result, run)


def _slice_dimension(type: TensorType, name: str, node: Slice) -> str:
    if name:
        if all(d.name != name for d in type.dimensions):
            raise ExpressionError(f"'{node}': {type} has no dimension '{name}'")
        return name
    only = type.indexed if node.brackets else type.mapped or type.dimensions
    if len(only) != 1:
        kind = "single indexed" if node.brackets else "single"
        raise ExpressionError(f"{node} slices a {kind} dimension, cannot be applied to {type}")
    return only[0].name


def _not_a_value(compiler: Compiler, node: Lambda | Tuple) -> Compiled:
    raise ExpressionError(f"'{node}' is not a value")


def _tensor_call(compiler: Compiler, node: TensorCall) -> Compiled:
    from clipsearch.engine.ranking.tensor_calls import compile_tensor_call

    return compile_tensor_call(compiler, node)


def _generate(compiler: Compiler, node: Generate) -> Compiled:
    from clipsearch.engine.ranking.tensor_calls import compile_generate

    return compile_generate(compiler, node)


def _cells(compiler: Compiler, node: Cells) -> Compiled:
    from clipsearch.engine.ranking.tensor_calls import compile_cells

    return compile_cells(compiler, node)


_HANDLERS: dict[type, Callable[[Compiler, Any], Compiled]] = {
    Number: _number,
    Boolean: _boolean,
    Text: _text,
    Reference: _reference,
    Paren: _paren,
    Unary: _unary,
    Binary: _binary,
    Membership: _membership,
    If: _if,
    Call: _call,
    Lambda: _not_a_value,
    Tuple: _not_a_value,
    TensorCall: _tensor_call,
    Slice: _slice,
    Generate: _generate,
    Cells: _cells,
}
