"""A server that accepts every document and keeps none: what a feeding client can do at most on this machine.

python bench/stub.py PORT
"""

from __future__ import annotations

import sys
from typing import Any

from clipsearch.serving import Listener, run

_HEADERS = [(b"content-type", b"application/json")]
_ANSWER = b'{"pathId":"/document/v1/bench/image/docid/0","id":"id:bench:image::0"}'


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Reads the body and answers 200."""
    if scope["type"] != "http":
        return
    more = True
    while more:
        more = (await receive()).get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": _ANSWER})


if __name__ == "__main__":
    run([Listener(application, "127.0.0.1", int(sys.argv[1]))])
