"""The one error tree of clipsearch.

::

    ClipsearchError            what the command line prints as one sentence, with exit code 1
    ├── InputError             something the user gave: a file, an option, a document; says which and what to do
    │   ├── CorpusError        a corpus folder that cannot be read as a corpus
    │   ├── ImageError         one image that cannot be decoded (never stops a run)
    │   ├── CheckpointError    a model folder that cannot be loaded, or does not fit the data
    │   └── ShardError         an embedding shard folder that cannot be read, or does not fit
    ├── ServiceError           Vespa or the local engine did not do what was asked
    │   ├── UnreachableError   nobody answers at the URL
    │   └── RejectedError      it answered with an error (``status``, ``message``)
    └── EngineError            raised inside the local engine; rendered as Vespa's error JSON
        ├── PackageError       the application package: file, line and construct are named
        ├── ExpressionError    a ranking expression or tensor
        ├── QueryError         a query; carries Vespa's error ``code`` and ``summary``
        ├── DocumentError      a document operation; carries the HTTP ``status``
        └── StoreError         the data folder: locked, full, or damaged
"""

from __future__ import annotations


class ClipsearchError(Exception):
    """Base of every error that clipsearch raises on purpose; ``str()`` is a sentence for a person."""


class InputError(ClipsearchError):
    """Something the user gave is wrong: names the file, document or option and what to do about it."""


class CorpusError(InputError):
    """A folder that cannot be read as an image-caption corpus."""


class ImageError(InputError):
    """One image that cannot be decoded; ``str()`` is the reason. Ledgers record it, runs go on."""


class CheckpointError(InputError):
    """A model folder that cannot be loaded, or whose size does not fit what it is used with."""


class ShardError(InputError):
    """An embedding shard folder that cannot be read, or was written by another model or size."""


class ServiceError(ClipsearchError):
    """Vespa, or the local engine that stands in for it, did not do what was asked."""


class UnreachableError(ServiceError):
    """Nobody answers at the endpoint's URL."""


class RejectedError(ServiceError):
    """The endpoint answered with an error.

    ``status`` is the HTTP status, ``message`` the endpoint's own words.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"HTTP {status}: {message}")
        self.status = status
        self.message = message


class EngineError(ClipsearchError):
    """Raised inside the local engine; its HTTP rooms render it as Vespa's error JSON."""


class PackageError(EngineError):
    """The application package cannot be deployed; names file, line and construct where they are known."""

    def __init__(self, message: str, *, file: str = "", line: int = 0) -> None:
        where = f"{file}, line {line}: " if file and line else f"{file}: " if file else ""
        super().__init__(where + message)
        self.file = file
        self.line = line


class ExpressionError(EngineError):
    """A ranking expression, tensor type or tensor literal that cannot be parsed or is not supported."""


class QueryError(EngineError):
    """A query that Vespa would refuse, or that the local engine does not support.

    ``code`` and ``summary`` are Vespa's (``com.yahoo.container.protect.Error``): 3 "Illegal query",
    4 "Invalid query parameter", 12 "Timeout". ``status`` is the HTTP status of the answer.
    """

    def __init__(self, message: str, *, code: int = 4, summary: str = "", status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.summary = summary or {3: "Illegal query", 4: "Invalid query parameter", 12: "Timed out"}[code]
        self.status = status


class DocumentError(EngineError):
    """A document operation that fails with HTTP ``status`` (400 parse, 404 missing, 412 condition, ...)."""

    def __init__(self, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class StoreError(EngineError):
    """The engine's data folder cannot be used: says why (locked, full, damaged) and what to do."""
