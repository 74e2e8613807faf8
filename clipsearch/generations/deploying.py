"""The deploy API of a Vespa config server, or of the local engine: what is deployed, deploy, wait for it.

Source: Vespa's deploy API (``/application/v2``): ``prepareandactivate``, ``content`` and ``serviceconverge``.
"""

from __future__ import annotations

import io
import time
import zipfile
from collections.abc import Mapping
from typing import Any, Literal

import httpr

from clipsearch.errors import InputError, RejectedError, UnreachableError

DEFAULT_URL = "http://127.0.0.1:19071"
_TENANT = "/application/v2/tenant/default"
_INSTANCE = f"{_TENANT}/application/default/environment/prod/region/default/instance/default"
_TIMEOUT = 120.0  # seconds for one request: a config server may build an application for a minute


class ConfigServer:
    """The config server at ``url``; one application, default.default.default, as everywhere outside Vespa Cloud."""

    def __init__(self, url: str = DEFAULT_URL) -> None:
        if not url.startswith(("http://", "https://")):
            raise InputError(f"{url!r} is not the URL of a config server: give one like {DEFAULT_URL}")
        self.url = url.rstrip("/")
        self._client = httpr.Client(timeout=_TIMEOUT, follow_redirects=False)

    def __enter__(self) -> ConfigServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def deployed(self, path: str) -> bytes | None:
        """A file of the deployed package; None when nothing is deployed, or it has no such file."""
        response = self._request("GET", f"{_INSTANCE}/content/{path}")
        return None if response.status_code == 404 else bytes(self._good(response).content)

    def deploy(self, files: Mapping[str, bytes], *, patience: float = 300.0) -> list[str]:
        """Deploy a package and wait until all services have it; its warnings, and what must be restarted.

        ``patience``: seconds. Raises ``RejectedError`` in the server's words, with nothing changed.
        """
        response = self._request(
            "POST", f"{_TENANT}/prepareandactivate", content=_zip(files), headers={"content-type": "application/zip"}
        )
        reply: dict[str, Any] = self._good(response).json()
        self._converge(int(reply.get("session-id", 0)), patience)
        lines = [str(line.get("message", "")) for line in reply.get("log", ()) if line.get("level") == "WARNING"]
        actions = reply.get("configChangeActions", {})
        return lines + [f"Vespa asks for a {kind}: {each}" for kind in sorted(actions) for each in actions[kind]]

    def _converge(self, session: int, patience: float) -> None:
        deadline = time.monotonic() + patience
        while True:
            reply = self._good(self._request("GET", f"{_INSTANCE}/serviceconverge")).json()
            if reply.get("converged") and int(reply.get("currentGeneration", 0)) >= session:
                return
            if time.monotonic() > deadline:
                raise UnreachableError(
                    f"the package is deployed at {self.url}, but not all services took it within {patience:g} s: "
                    "look at 'vespa status', and run the same command again"
                )
            time.sleep(0.2)

    def _request(self, method: Literal["GET", "POST"], path: str, **more: Any) -> Any:
        try:
            return self._client.request(method, self.url + path, **more)
        except httpr.RequestError as error:
            raise UnreachableError(
                f"nobody answers at {self.url} ({error}): give the config server's URL with --deploy-url"
            ) from error

    def _good(self, response: Any) -> Any:
        if response.status_code == 200:
            return response
        try:
            message = str(response.json().get("message", ""))
        except (ValueError, RuntimeError, AttributeError):
            message = ""
        raise RejectedError(response.status_code, message or str(response.text)[:300])


def _zip(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name), files[name])
    return buffer.getvalue()
