"""Tensor constants whose values lie in files of the package (``constant weights { file: constants/weights.json }``)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath

import orjson

from clipsearch.engine.package.syntax import ConstantSyntax
from clipsearch.engine.tensors import Tensor, parse_feed, parse_type
from clipsearch.errors import ExpressionError, PackageError


def read_constant(syntax: ConstantSyntax, files: Mapping[str, bytes], file: str) -> Tensor:
    """The constant's value, strict in its size. Raises ``PackageError`` that names the constant and its line."""

    def fail(message: str) -> PackageError:
        return PackageError(f"constant '{syntax.name}': {message}", file=file, line=syntax.line)

    for setting in syntax.settings:
        if setting.word != "file" or len(setting.values) != 1:
            raise fail(f"'{setting.word}' is not supported by the local engine: 'file' and a tensor 'type' are")
    if not syntax.settings or not syntax.type:
        raise fail("it needs 'file: <path in the package>' and 'type: tensor(...)'")
    path = PurePosixPath(syntax.settings[-1].values[0]).as_posix()
    if path not in files:
        raise fail(f"the application package has no file '{path}'")
    if not path.endswith(".json"):
        raise fail(f"a constant in a file like '{path}' is not supported by the local engine: only .json is")
    try:
        return parse_feed(orjson.loads(files[path]), parse_type(syntax.type))
    except orjson.JSONDecodeError as error:
        raise fail(f"'{path}' is not JSON: {error}") from error
    except (ExpressionError, ValueError) as error:
        raise fail(f"'{path}': {error}") from error
