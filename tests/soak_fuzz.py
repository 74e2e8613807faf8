"""Seeded requests that nobody should send: mutations of valid paths, bodies, YQL, tensors and schemas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import orjson
import soak_app
from soak_scenario import PREPARE

from clipsearch.engine.package import write_zip

METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "PROPFIND")
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, -0.0, 1e308, 2**31, -(2**63), 2**64, 10**30, "", "a", "\x00", "é\u200b😀", "1",
    "NaN",
    "Infinity", "a" * 5000, [], {}, [[]], [None], {"": None}, {"a": {"b": {"c": []}}}, [1, "a", None, {}],
    "{{x:0}:1}",
    [float(2**40)] * 9, {"cells": [{"address": {"x": "0"}, "value": 1}]}, {"blocks": {"a": [1]}}, "0011223344556677",
)  # fmt: skip
TEXTS = (
    "", " ", "\x00", "'", '"', "\\", "%", "%zz", "%00", "é", "😀", "\ud7ff", "(", ")", "{", "}", "[", "]", ",",
    ";", ":", "..",
    "/", "//", "*", "?", "&", "=", "@", "@x", "!", "not", "and", "or", "null", "true", "-1", "0", "1e999", "NaN",
    "infinity",
    "9" * 25, "a" * 3000, "(" * 300, "{" * 300, "not " * 200, "nearestNeighbor(vector,q)", "userInput(@x)",
    "rank(true)",
    "select * from note where", "weakAnd()", "phrase()", "near(", "{targetHits:1}", "{targetHits:-1}", "in (1,2)",
    "range(",
    "matches '(a*)*b'", "order by", "limit 5", "offset 99999", "all(group(number) each(output(count())))", "#",
    "--", "\n",
)  # fmt: skip
QUERIES = (
    'select * from note where caption contains "river"',
    "select * from note where userInput(@text)",
    "select * from note where {targetHits:5}nearestNeighbor(vector,q)",
    "select * from note where ({targetHits:5,approximate:false}nearestNeighbor(vector,q)) or userInput(@text)",
    "select number, caption from note where total > 3 and total <= 9000 and !(tags contains 't1') order by total desc",
    "select * from note where number in (1,2,3) and caption contains phrase('river','forest') limit 7 offset 1",
    "select * from note where {grammar:'all'}userInput('river forest') | all(group(number) each(output(count())))",
    "select * from note where rank(caption contains 'river', {distanceThreshold:5.5}nearestNeighbor(vector,q))",
    "select * from note where caption matches 'riv.*' or range(total, 3, 8) or number = 5",
    "select * from note where weakAnd(caption contains 'river', caption contains near('a','b'))",
)
PARAMETERS = (
    "hits", "offset", "ranking", "ranking.profile", "timeout", "text", "query", "type", "input.query(q)",
    "summary", "format",
    "presentation.timing", "presentation.format.tensors", "presentation.summary", "ranking.sorting", "model.restrict",
    "model.language", "model.sources", "ranking.features.query(q)", "ranking.rerankCount", "trace.level",
    "queryProfile",
    "wantedDocumentCount", "continuation", "selection", "condition", "create", "fieldSet", "stream", "slices",
    "sliceId",
    "cluster", "format.tensors", "dryRun", "route", "tracelevel", "bucketSpace", "fromTimestamp", "concurrency",
    "maxHits",
)  # fmt: skip
SELECTIONS = (
    "note",
    "note.total > 3",
    'note.caption == "a*"',
    "id.group == 1",
    "not note.tags",
    "note.vector == 1",
    "id =~ 'x'",
)
EXPRESSIONS = (
    "sum(query(q) * attribute(vector))", "closeness(field, vector) + 3 * bm25(caption)",
    "attribute(parts){a} / attribute(total)",
    "reduce(join(query(q), attribute(vector), f(a,b)(a - b)), max, x)",
    "if (attribute(total) > 3, log(attribute(total)), -1)",
    "map(attribute(parts), f(v)(v * v)) * rename(query(q), x, y)", "tensor(x[8])(x + 1) . query(q)",
    "distance(label, nothing)",
    "concat(query(q), attribute(vector), x)", "1 / 0", "sqrt(-1)", "fmod(attribute(number), 0)",
    "softmax(attribute(vector), x)",
    "sum(attribute(vector){x:3})", "matmul(query(q), attribute(vector), x)", "argmax(attribute(parts))",
    "2^10000", "tan(1e308)",
)  # fmt: skip
PATHS = (
    "/search/", "/document/v1/", "/document/v1/n/note/docid/1", "/document/v1/n/note/docid/",
    "/document/v1/n/note/number/3/7",
    "/document/v1/n/note/group/a/b", "/document/v1/n/none/docid/1", "/ApplicationStatus", "/state/v1/health",
    "/state/v1/metrics",
    "/metrics/v2/values", "/", "/status.html", "/nowhere", "/document/v1", "/prometheus/v1/values",
    "/state/v1/config",
)  # fmt: skip
DEPLOY_PATHS = (
    PREPARE, "/application/v2/tenant/default/session", "/application/v2/tenant/default/session/2/prepared",
    "/state/v1/health",
    "/application/v2/tenant/default/session/2/active",
    "/application/v2/tenant/default/session/2/content/schemas/note.sd",
    "/application/v2/tenant/default/application/default/environment/prod/region/default/instance/default/serviceconverge",
    "/application/v2/tenant/default/application/default", "/application/v2/tenant/x/session", "/",
    "/ApplicationStatus",
)  # fmt: skip
HEADERS = (
    ("content-type", "application/json"), ("content-type", "text/plain"), ("content-type", "multipart/form-data"),
    ("content-type", "application/zip"), ("content-type", "application/x-gzip"), ("content-type", "\xff"),
    ("accept", "*/*"),
    ("accept", "application/jsonl"), ("accept", "application/cbor"), ("accept-encoding", "gzip"),
    ("content-encoding", "gzip"),
    ("content-encoding", "br"), ("x-forwarded-for", "::"), ("content-type", "application/x-www-form-urlencoded"),
    ("content-type", "multipart/form-data; boundary=x"), ("content-type", "application/json; charset=utf-16"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fuzzed:
    """One request; ``deploy``: for the deploy port."""

    method: str
    path: str
    query: list[tuple[str, str]] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    deploy: bool = False


class Fuzzer:
    """Requests from one seed."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self._kinds: list[tuple[Callable[[], Fuzzed], int]] = [
            (self._query, 30), (self._feed, 30), (self._visit, 10), (self._anything, 15), (self._deploy, 15)
        ]  # fmt: skip

    def request(self) -> Fuzzed:
        """The next request."""
        makers, weights = zip(*self._kinds, strict=True)
        made: Fuzzed = self.random.choices(makers, weights)[0]()
        return made

    def _query(self) -> Fuzzed:
        body: dict[str, Any] = {
            "yql": self._cut_up(self.random.choice(QUERIES)),
            "text": self._cut_up("river forest"),
            "input.query(q)": self.random.choice(([1.0] * 8, "[1,2,3,4,5,6,7,8]", {"values": [2] * 8})),
            "ranking": self.random.choice(("near", "near", "default", "default", "extra", "none")),
        }
        for _ in range(self.random.randrange(3)):
            body[self._name(PARAMETERS)] = self._value()
        if self.random.random() < 0.2:
            return Fuzzed("GET", "/search/", [(name, _text(value)) for name, value in body.items()])
        return Fuzzed("POST", "/search/", [], self._headers({"content-type": "application/json"}), self._json(body))

    def _feed(self) -> Fuzzed:
        fields = soak_app.fields(self.random.randrange(30), self.random.randrange(3))
        method = self.random.choice(("POST", "POST", "PUT", "PUT", "DELETE"))
        if method == "PUT":
            operations = ("assign", "add", "remove", "increment", "divide", "modify", "match", "nonsense")
            odd = self.random.choice(tuple(fields))
            fields = {name: {"assign": value} for name, value in fields.items()}
            fields[odd] = {self.random.choice(operations): self.random.choice((fields[odd]["assign"], self._value()))}
        for _ in range(self.random.randrange(3)):
            fields[self._name(tuple(fields))] = self._value() if method == "POST" else {"assign": self._value()}
        path = f"/document/v1/n/note/docid/{self._cut_up(str(self.random.randrange(30)))}"
        return Fuzzed(method, path, self._parameters(), self._headers(), self._json({"fields": fields}))

    def _visit(self) -> Fuzzed:
        parameters = self._parameters()
        if self.random.random() < 0.7:
            parameters.append(("selection", self._cut_up(self.random.choice(SELECTIONS))))
        method = self.random.choice(("GET", "GET", "GET", "PUT", "DELETE", "POST"))
        body = self._json({"fields": {"total": {"increment": 1}}}) if method == "PUT" else b""
        if method != "GET":
            parameters.append(("cluster", "notes"))
        return Fuzzed(method, self.random.choice(PATHS[1:6]), parameters, self._headers(), body)

    def _anything(self) -> Fuzzed:
        deploy = self.random.random() < 0.3
        path = self._cut_up(self.random.choice(DEPLOY_PATHS if deploy else PATHS))
        body = self.random.choice(
            (b"", self.random.randbytes(40), self._json({"a": self._value()}), b"\x1f\x8b\x08junk")
        )
        return Fuzzed(
            self.random.choice(METHODS), "/" + path.lstrip("/"), self._parameters(), self._headers(), body, deploy
        )

    def _deploy(self) -> Fuzzed:
        files = dict(soak_app.app_files())
        name = self.random.choice(("schemas/note.sd", "schemas/note.sd", "schemas/note.sd", "services.xml"))
        lines = files[name].decode().splitlines()
        if name.endswith(".sd"):
            lines[-1:] = ["rank-profile extra inherits near {", "first-phase {", self._expression(), "}", "}", "}"]
        for _ in range(self.random.choice((0, 1, 1, 2, 3))):  # 0: so that the valid package comes back
            at = self.random.randrange(len(lines))
            change = self.random.randrange(5)
            if change == 0:
                del lines[at]
            elif change == 1:
                lines.insert(at, lines[self.random.randrange(len(lines))])
            elif change == 2:
                lines[at] = self._cut_up(lines[at])
            elif change == 3:
                words = lines[self.random.randrange(len(lines))].split() or [""]
                lines[at] = lines[at].replace(
                    self.random.choice(lines[at].split() or [" "]), self.random.choice(words), 1
                )
            else:
                other = self.random.randrange(len(lines))
                lines[at], lines[other] = lines[other], lines[at]
            lines = lines or [""]
        files[name] = "\n".join(lines).encode()
        packed = write_zip(files)
        if self.random.random() < 0.1:
            packed = packed[: self.random.randrange(len(packed))]
        return Fuzzed("POST", PREPARE, [], {"content-type": "application/zip"}, packed, True)

    def _expression(self) -> str:
        return f"expression: {self._cut_up(self.random.choice(EXPRESSIONS))}"

    def _cut_up(self, text: str) -> str:
        """``text`` with up to three edits, or none."""
        for _ in range(self.random.choice((0, 0, 0, 1, 2))):
            at, end = sorted((self.random.randrange(len(text) + 1), self.random.randrange(len(text) + 1)))
            piece = self.random.choice(TEXTS)
            text = self.random.choice(
                (text[:at] + piece + text[at:], text[:at] + text[end:], text[:at] + piece + text[end:])
            )
        return text

    def _name(self, names: tuple[str, ...]) -> str:
        name = self.random.choice(names)
        return name if self.random.random() < 0.85 else self._cut_up(name)

    def _value(self) -> Any:
        return self.random.choice((self.random.choice(VALUES), self.random.choice(TEXTS)))

    def _parameters(self) -> list[tuple[str, str]]:
        count = self.random.choice((0, 0, 1, 2))
        return [(self._name(PARAMETERS), _text(self._value())) for _ in range(count)]

    def _headers(self, some: dict[str, str] | None = None) -> dict[str, str]:
        return dict(some or {}) | (dict([self.random.choice(HEADERS)]) if self.random.random() < 0.3 else {})

    def _json(self, value: Any) -> bytes:
        """JSON, now and then damaged."""
        data = orjson.dumps(value, default=str) if not _huge(value) else repr(value).replace("'", '"').encode()
        if self.random.random() < 0.15 and data:
            at = self.random.randrange(len(data))
            cut = self.random.choice((b"", b"\xff", b"}", b'"', b"[" * 2000, b"1e999", b"\\u0000", b"\\ud800"))
            data = data[:at] + cut + data[at + self.random.randrange(3) :]
        return data


def _huge(value: Any) -> bool:
    try:
        orjson.dumps(value, default=str)
    except (TypeError, ValueError):
        return True
    return False


def _text(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)
