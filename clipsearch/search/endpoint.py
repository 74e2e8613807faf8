"""One Vespa endpoint through pyvespa's synchronous client, with our errors in place of its own.

pyvespa reports trouble as ``VespaError``, requests' ``HTTPError``, httpr's errors or a ``RuntimeError`` for
a body that is not JSON. Here each becomes ``UnreachableError`` (nobody answers, or something that is not Vespa: which
URL, what to do) or ``RejectedError`` (an answer that is an error: status and the endpoint's own words). This module
is shared by searching and feeding.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import httpr
import orjson
from requests.exceptions import HTTPError
from vespa.application import Vespa, VespaSync
from vespa.exceptions import VespaError

from clipsearch.errors import InputError, RejectedError, UnreachableError

DEFAULT_URL = "http://127.0.0.1:8080"
SCHEMA = "image"
PAGE = 500
"""Documents that one request of a visit asks for: with thumbnails about 10 MB."""

_PAGE_ATTEMPTS = 6  # for one page of a visit: with the waits between them about 6 s
_ID = re.compile(r"id:([a-z0-9][a-z0-9_-]*):image::([A-Za-z0-9][A-Za-z0-9._-]*)")


def parse_id(document_id: str) -> tuple[str, str]:
    """The corpus and key of ``id:<corpus>:image::<key>``; ``InputError`` for anything else.

    Only URL-safe keys pass: in pyvespa's paths a ``/`` or ``..`` would reach another document or another
    handler.
    """
    match = _ID.fullmatch(document_id)
    if match is None:
        raise InputError(f"{document_id!r} is not the id of an image (id:<corpus>:image::<key>)")
    return match[1], match[2]


def is_id(document_id: str) -> bool:
    """Whether ``parse_id`` takes it: another client may have fed documents whose keys no path can name."""
    return _ID.fullmatch(document_id) is not None


class Endpoint:
    """One long-lived connection pool to a Vespa container; its methods may be called from many threads.

    ``timeout``: seconds for one request. pyvespa's own retries are off: an interactive search must fail at
    once, and the feeder has retries of its own.
    """

    def __init__(self, url: str = DEFAULT_URL, *, timeout: float = 20.0) -> None:
        if not _is_endpoint(url):
            raise InputError(f"{url!r} is not the URL of an endpoint: give one like {DEFAULT_URL}")
        self.url = url.rstrip("/")
        app = Vespa(url=self.url)
        self._pool = httpr.Client(headers=app.base_headers, timeout=timeout, follow_redirects=False)
        self._session: VespaSync = app.syncio(session=self._pool, compress=False, num_retries_429=0)

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()

    def status(self) -> dict[str, Any]:
        """What ``/ApplicationStatus`` says: raises when nobody answers or nothing is deployed yet."""
        response = self._answer(lambda: self._pool.get(f"{self.url}/ApplicationStatus"))
        if response.status_code == 404:
            raise self._not_vespa("HTTP 404")
        if response.status_code != 200:
            raise RejectedError(response.status_code, _message(_json(response)) or "no application is deployed")
        about = _json(response)
        return about if isinstance(about, dict) else {}

    def query(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """POST ``body`` to ``/search/``; the reply's JSON. Errors beside hits are raised too."""
        response = self._answer(lambda: self._session.query(body=dict(body)))
        reply: dict[str, Any] = response.json
        if response.status_code != 200 or not isinstance(reply, dict) or not isinstance(reply.get("root"), dict):
            raise self._not_vespa(f"HTTP {response.status_code} to a query")
        errors = reply["root"].get("errors")
        if errors:
            raise RejectedError(200, _message({"root": {"errors": errors}}))
        return reply

    def put(self, corpus: str, key: str, fields: Mapping[str, Any]) -> None:
        """Put one document; returns when the endpoint has acknowledged it."""
        response = self._answer(
            lambda: self._session.feed_data_point(schema=SCHEMA, namespace=corpus, data_id=key, fields=dict(fields))
        )
        if response.status_code != 200:  # pyvespa takes 404 and redirects for success
            raise self._not_vespa(f"HTTP {response.status_code} to a document")

    def refusal(self, corpus: str, key: str, fields: Mapping[str, Any]) -> str:
        """Why the application would refuse ``fields`` of a document (400), "" when it would take them.

        Nothing is written: an update is asked for on a condition that no image meets, and fields are read before.
        """
        try:
            response = self._answer(
                lambda: self._session.update_data(
                    schema=SCHEMA, namespace=corpus, data_id=key, fields=dict(fields), condition=f"not {SCHEMA}"
                )
            )
        except RejectedError as error:
            if error.status not in (400, 412):
                raise
            return error.message if error.status == 400 else ""
        if response.status_code != 200:
            raise self._not_vespa(f"HTTP {response.status_code} to a document")
        return ""

    def get(self, corpus: str, key: str, fields: str) -> dict[str, Any] | None:
        """The fields named by the field set ``fields`` ("image:thumbnail") of one document; None if it is not
        there.
        """
        response = self._answer(
            lambda: self._session.get_data(schema=SCHEMA, namespace=corpus, data_id=key, fieldSet=fields)
        )
        if response.status_code == 404 and "pathId" in response.json:
            return None
        if response.status_code != 200:
            raise self._not_vespa(f"HTTP {response.status_code} to a document")
        values: dict[str, Any] = response.json.get("fields", {})
        return values

    def visit(
        self, corpus: str = "", *, fields: str = "[document]", selection: str = "", slices: int = 1, slice_id: int = 0
    ) -> Iterator[dict[str, Any]]:
        """Every document of ``corpus`` ("": of all), page by page, as ``{"id": ..., "fields": {...}}``.

        ``fields``: names with commas between them, "[document]" (all) or "[id]" (none); tensors come as hex.
        ``selection``: Vespa's document selection (``image.label == "river"``). ``slices`` part the documents into as
        many disjoint visits, of which this is number ``slice_id``. Documents that are written meanwhile may be seen as
        before or after. A page that fails for 429, 503 or no answer is asked for again; pyvespa's ``visit`` is not
        used because it needs the content cluster's name, which a path with a corpus does not.
        """
        path = f"/document/v1/{corpus}/{SCHEMA}/docid/" if corpus else "/document/v1/"
        names = fields if fields == "[id]" else f"{SCHEMA}:{fields}"
        asked = {"fieldSet": names, "wantedDocumentCount": str(PAGE), "format.tensors": "hex"}
        if not corpus:
            asked["cluster"] = self._content_cluster()
            selection = f"{SCHEMA} and ({selection})" if selection else SCHEMA
        if selection:
            asked["selection"] = selection
        if slices > 1:
            asked |= {"slices": str(slices), "sliceId": str(slice_id)}
        while True:
            page = self._page(path, asked)
            yield from page["documents"]
            if not page.get("continuation"):
                return
            asked["continuation"] = page["continuation"]

    def _page(self, path: str, asked: Mapping[str, str]) -> dict[str, Any]:
        for attempt in range(_PAGE_ATTEMPTS):
            try:
                return self._ask(path, asked)
            except (UnreachableError, RejectedError) as error:
                passing = not isinstance(error, RejectedError) or error.status in (429, 503)
                if not passing or attempt + 1 == _PAGE_ATTEMPTS:
                    raise
            time.sleep(0.2 * 2**attempt)
        raise AssertionError("unreachable")

    def _ask(self, path: str, asked: Mapping[str, str]) -> dict[str, Any]:
        response = self._answer(lambda: self._pool.get(self.url + path, params=dict(asked)))
        try:
            reply = orjson.loads(response.content)
        except orjson.JSONDecodeError:
            reply = None
        if not isinstance(reply, dict) or "pathId" not in reply:
            raise self._not_vespa(f"HTTP {response.status_code} to a visit")
        if response.status_code != 200 or "documents" not in reply:
            raise RejectedError(response.status_code, str(reply.get("message", "it gives no documents")))
        return reply

    def _content_cluster(self) -> str:
        """The content cluster's name, as ``vespa visit`` finds it: out of the refusal of a name that cannot be one."""
        try:
            self._page("/document/v1/", {"cluster": "*"})
        except RejectedError as error:
            names = re.findall(r"'([^',]+)'", error.message.partition("only ")[2])
            if error.status == 400 and names:
                return str(names[0])
            raise
        return "*"

    def _answer(self, send: Callable[[], Any]) -> Any:
        """Send, and once more where the pooled connection was closed while it was idle: httpr notices only then.

        All that is sent here may be repeated.
        """
        try:
            try:
                return send()
            except httpr.TimeoutException:
                raise
            except httpr.RequestError:
                return send()
        except httpr.RequestError as error:
            raise UnreachableError(
                f"nobody answers at {self.url} ({_short(error)}): start it with "
                '"clipsearch engine --data DIR", or give the URL of a running Vespa with --url'
            ) from error
        except (VespaError, HTTPError) as error:
            raise _rejected(error) from error
        except RuntimeError as error:  # httpr's error for a body that is not JSON
            raise self._not_vespa(_short(error)) from error

    def _not_vespa(self, sign: str) -> UnreachableError:
        return UnreachableError(
            f"what answers at {self.url} is not a Vespa container ({sign}): give the port of queries and documents "
            "with --url, by default 8080, not that of deployments or of the search page"
        )


def _is_endpoint(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # an IPv6 address without its bracket, a port that is no number or beyond 65535
        return False


def _rejected(error: VespaError | HTTPError) -> RejectedError:
    cause = error if isinstance(error, HTTPError) else error.__cause__
    response = getattr(cause, "response", None)
    if response is None:
        return RejectedError(500, str(error))
    return RejectedError(int(response.status_code), _message(_json(response)) or str(response.text)[:300])


def _json(response: Any) -> Any:
    try:
        return response.json()
    except (ValueError, RuntimeError):
        return {}


def _message(reply: Any) -> str:
    """The human part of an error reply: a query's ``root.errors`` or a document operation's ``message``."""
    if not isinstance(reply, dict):
        return ""
    root = reply.get("root")
    errors = root.get("errors") if isinstance(root, dict) else None
    if errors:
        return "; ".join(str(item.get("message") or item.get("summary") or item) for item in errors)
    return str(reply.get("message", ""))


def _short(error: BaseException) -> str:
    text = str(error)
    kind = {"ConnectError": "connection refused", "ReadTimeout": "timed out", "ConnectTimeout": "timed out"}
    return kind.get(type(error).__name__, text[:120] or type(error).__name__)
