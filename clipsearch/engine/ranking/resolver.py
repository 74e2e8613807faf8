"""What names mean in one phase of a rank profile: functions, inputs, constants, normalisers, raw features.

Source: Vespa's rank profile and rank feature reference. A function is a macro: its arguments replace its parameters.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np

from clipsearch.engine.package.model import RankProfile, Schema
from clipsearch.engine.ranking.batch import Batch, Environment, Value, from_source, from_tensor, no_blocks
from clipsearch.engine.ranking.compiler import Compiled, Compiler, constant
from clipsearch.engine.ranking.features import raw_feature
from clipsearch.engine.ranking.nodes import Node, Number, Paren, Reference
from clipsearch.engine.ranking.normalizers import RANK_CONSTANT, normalize_linear, reciprocal_rank
from clipsearch.engine.ranking.parser import parse_expression
from clipsearch.engine.ranking.source import Feature
from clipsearch.engine.tensors.decode import parse_literal, parse_query_input
from clipsearch.engine.tensors.types import SCALAR, TensorType
from clipsearch.engine.tensors.value import DTYPES, Tensor
from clipsearch.errors import ExpressionError

NORMALIZERS = ("normalize_linear", "reciprocal_rank", "reciprocal_rank_fusion")
PHASES = ("first-phase", "second-phase", "global-phase", "match-features", "summary-features")


class ProfileResolver:
    """Names in ``phase`` (one of ``PHASES``) of ``profile``; ``features`` collects the raw features that are used."""

    def __init__(self, profile: RankProfile, schema: Schema, phase: str) -> None:
        self.profile = profile
        self.schema = schema
        self.phase = phase
        self.dialect = "java" if phase == "global-phase" else "cpp"
        self.features: set[Feature] = set()
        self.uses_tensors = False
        self._open: list[str] = []

    def compile(self, expression: str) -> Compiled:
        """``expression`` in this phase. Raises ``ExpressionError``."""
        return Compiler(self, dialect=self.dialect).compile(parse_expression(expression, self.dialect))

    def reference(self, node: Reference, compiler: Compiler) -> Compiled:
        """What ``node`` means here. Raises ``ExpressionError`` when it means nothing, or nothing in this phase."""
        if node.name == "rankingExpression" and len(node.arguments or ()) == 1:
            return self.reference(Reference(str((node.arguments or ())[0])), compiler)
        if node.name in self.profile.functions:
            return self._function(node, compiler)
        if node.name in NORMALIZERS:
            return self._normalizer(node, compiler)
        if node.name == "query":
            return self._query(node)
        special = self._special(node)
        if special is not None:
            return special
        feature, type = raw_feature(node, self.schema)
        return self._raw(feature, type)

    def _raw(self, feature: Feature, type: TensorType) -> Compiled:
        self.features.add(feature)
        self.uses_tensors |= bool(type.dimensions)

        def run(env: Environment) -> Value:
            if feature not in env.memo:
                env.memo[feature] = _read(feature, type, env)
            return env.memo[feature]

        return Compiled(type, run)

    def _special(self, node: Reference) -> Compiled | None:
        name, count = node.name, len(node.arguments or ())
        if node.output:
            return None
        if name == "constant" and count == 1:
            return self._constant(str((node.arguments or ())[0]))
        if node.arguments is None and name in self.profile.constants:
            return self._constant(name)
        if name == "value" and count == 1 and isinstance((node.arguments or (None,))[0], Number):
            return constant(float(str((node.arguments or ())[0])))
        if name in ("firstPhase", "secondPhase") and not node.arguments:
            return self._phase_score(name)
        if name == "relevanceScore" and not node.arguments:
            if self.phase != "global-phase":
                raise ExpressionError(f"relevanceScore can only be used in global-phase, not in {self.phase}")
            return Compiled(SCALAR, lambda env: env.relevance)
        return None

    def _phase_score(self, name: str) -> Compiled:
        phase = self.profile.first_phase if name == "firstPhase" else self.profile.second_phase
        if phase is None or self.phase == "first-phase" or (name == "secondPhase" and self.phase == "second-phase"):
            raise ExpressionError(f"{name} cannot be used in {self.phase} of this profile")
        return self._macro(name, parse_expression(phase.expression, "cpp"))

    def _constant(self, name: str) -> Compiled:
        text = self.profile.constants.get(name)
        if text is None:
            raise ExpressionError(f"constant({name}): the profile has no such constant")
        if isinstance(text, Tensor):
            return Compiled(text.type, lambda env: from_tensor(text, env.labels))
        if not text.strip().startswith("tensor"):
            try:
                return constant(float(text))
            except ValueError as error:
                message = f"constant({name}): '{text[:60]}' is neither a number nor a tensor with its type in front"
                raise ExpressionError(message) from error
        tensor = parse_literal(text)
        return Compiled(tensor.type, lambda env: from_tensor(tensor, env.labels))

    def _query(self, node: Reference) -> Compiled:
        if len(node.arguments or ()) != 1 or node.output:
            raise ExpressionError(f"'{node}': query() takes one name")
        name = str((node.arguments or ())[0])
        declared = self.profile.inputs.get(name)
        type = declared.type if declared is not None else SCALAR
        if declared is not None and declared.default:
            parse_query_input(declared.default, type)  # a default that does not parse is found at deploy
        return self._raw(Feature("query", (name,)), type)

    def _function(self, node: Reference, compiler: Compiler) -> Compiled:
        function = self.profile.functions[node.name]
        arguments = node.arguments or ()
        if node.output or len(arguments) != len(function.arguments):
            raise ExpressionError(f"'{node}': {node.name}() takes {len(function.arguments)} arguments")
        body = parse_expression(function.expression, self.dialect)
        if not arguments:
            return self._macro(node.name, body)
        bound: dict[str, Node] = {
            parameter: argument if isinstance(argument, (Reference, Number)) else Paren(argument)
            for parameter, argument in zip(function.arguments, arguments, strict=True)
        }
        with_arguments = substitute(body, bound)
        return self._guarded(node.name, lambda: compiler.compile(with_arguments))

    def _macro(self, name: str, body: Node) -> Compiled:
        """A function without arguments, evaluated once per batch however often it is named."""
        compiled = self._guarded(name, lambda: Compiler(self, dialect=self.dialect).compile(body))
        key = ("function", self.phase, name)

        def run(env: Environment) -> Value:
            if key not in env.memo:
                env.memo[key] = compiled.run(env)
            return env.memo[key]

        return Compiled(compiled.type, run)

    def _guarded(self, name: str, compile: Any) -> Compiled:
        if name in self._open:
            raise ExpressionError(f"the function '{name}' calls itself: {' -> '.join([*self._open, name])}")
        self._open.append(name)
        try:
            compiled: Compiled = compile()
        finally:
            self._open.pop()
        return compiled

    def _normalizer(self, node: Reference, compiler: Compiler) -> Compiled:
        if self.phase != "global-phase" or self._open or compiler.locals:
            raise ExpressionError(f"'{node}': {node.name} can only be used in the expression of global-phase")
        arguments = node.arguments or ()
        if node.name == "reciprocal_rank_fusion":
            if len(arguments) < 2:
                raise ExpressionError(f"'{node}': reciprocal_rank_fusion takes at least two arguments")
            parts = [self._normalized(node, argument, compiler) for argument in arguments]
            return Compiled(SCALAR, lambda env: sum(reciprocal_rank(part(env)) for part in parts))
        k = RANK_CONSTANT
        if node.name == "reciprocal_rank" and len(arguments) == 2:
            if not isinstance(arguments[1], Number):
                raise ExpressionError(f"'{node}': the second argument must be a number")
            k = arguments[1].value
        elif len(arguments) != 1:
            raise ExpressionError(f"'{node}': {node.name} got {len(arguments)} arguments")
        part = self._normalized(node, arguments[0], compiler)
        if node.name == "normalize_linear":
            return Compiled(SCALAR, lambda env: normalize_linear(part(env)))
        return Compiled(SCALAR, lambda env: reciprocal_rank(part(env), k))

    def _normalized(self, node: Reference, argument: Node, compiler: Compiler) -> Any:
        if not isinstance(argument, Reference):
            raise ExpressionError(f"'{node}': '{argument}' must be a feature or a function name; make it a function")
        value = compiler.scalar(argument, f"the input of {node.name}")
        return lambda env: np.broadcast_to(np.asarray(value.run(env), np.float64), (env.count,))


def _read(feature: Feature, type: TensorType, env: Environment) -> Value:
    if env.source is None:
        raise ExpressionError(f"the rank feature '{feature}' has no value here")
    value = from_source(env.source.value(feature), env.labels)
    if isinstance(value, Batch) or not type.dimensions:
        return value
    # A query tensor that was not sent: no cells, or zeros.
    if type.mapped:
        return no_blocks(type)
    return Batch(np.zeros((1, *type.shape), DTYPES[type.cell]))


def substitute(node: Any, bound: dict[str, Node]) -> Any:
    """``node`` with each bare word that ``bound`` names replaced, also in feature arguments."""
    if isinstance(node, Reference) and node.arguments is None:
        return bound.get(node.name, node)
    if isinstance(node, tuple):
        return tuple(substitute(item, bound) for item in node)
    if not is_dataclass(node) or isinstance(node, (TensorType, type)):
        return node
    if hasattr(node, "parameters"):
        bound = {name: value for name, value in bound.items() if name not in node.parameters}
    return replace(node, **{f.name: substitute(getattr(node, f.name), bound) for f in fields(node)})
