"""Query inputs: the tensors and numbers that a request, or the profile's defaults, give a rank profile."""

from __future__ import annotations

import numpy as np

from clipsearch.engine.embedding import embed_input, is_embed
from clipsearch.engine.package.model import ApplicationPackage, RankProfile
from clipsearch.engine.query.parameters import TextParameters, Values, text
from clipsearch.engine.tensors import parse_query_input
from clipsearch.engine.tensors.types import TensorType
from clipsearch.engine.tensors.value import Tensor
from clipsearch.errors import ExpressionError, QueryError

_MAX_SHOWN = 200


def read_inputs(values: Values, profile: RankProfile, package: ApplicationPackage) -> dict[str, Tensor]:
    """The inputs by name. Raises ``QueryError`` for a value that is not of the type that ``profile`` declares."""
    found: dict[str, Tensor] = {}
    for name, declared in profile.inputs.items():
        value = values.get(f"query({name})")
        if value is not None:
            try:
                if is_embed(value):
                    found[name] = embed_input(value, declared.type, package.embedders, TextParameters(values))
                else:
                    found[name] = parse_query_input(value, declared.type)
            except ExpressionError as error:
                message = f"Could not set 'ranking.features.query({name})' to '{_shorten(text(value))}': {error}"
                raise QueryError(message, code=4) from error
        elif declared.default:
            found[name] = parse_query_input(declared.default, declared.type)
    for key, value in values.items():
        if key.startswith("query(") and key[6:-1] not in profile.inputs:
            try:
                found[key[6:-1]] = Tensor(TensorType(), np.asarray(float(text(value))))
            except ValueError as error:
                message = f"Expected '{key}' to be a tensor, but it is a string. "
                message += f"The rank profile '{profile.name}' does not declare this input"
                raise QueryError(message, code=3) from error
    return found


def _shorten(shown: str) -> str:
    return shown if len(shown) <= _MAX_SHOWN else f"{shown[:_MAX_SHOWN]}..."
