"""Application packages as files: a folder, a zip file or a gzipped tar file, each to path -> bytes.

Archives come over the network: names that leave the package, links, and more than ``MAX_BYTES`` or ``MAX_FILES``
after unpacking are refused before anything is parsed.
"""

from __future__ import annotations

import io
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from clipsearch.errors import PackageError

MAX_BYTES = 512 * 1024 * 1024  # of all files together; models may be in it
MAX_FILES = 10_000


def read_folder(path: str | Path) -> dict[str, bytes]:
    """Every file below ``path``, but hidden ones. Raises ``PackageError`` when it is no folder, or too large."""
    root = Path(path)
    if not root.is_dir():
        raise PackageError(f"{root} is not a folder with an application package")
    budget, files = _Budget(), {}
    for each in sorted(root.rglob("*")):
        relative = each.relative_to(root)
        if any(part.startswith(".") for part in relative.parts) or not each.is_file():
            continue
        name = relative.as_posix()
        budget.take(name, each.stat().st_size)
        files[name] = each.read_bytes()
    return _at_root(files)


def read_zip(content: bytes) -> dict[str, bytes]:
    """The files of a zip archive. Raises ``PackageError``."""
    budget, files = _Budget(), {}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for info in archive.infolist():
                if info.is_dir():
                    continue
                name = _safe(info.filename)
                if (info.external_attr >> 16) & 0o170000 == 0o120000:
                    raise PackageError(f"'{name}' is a link: application packages hold plain files only")
                budget.take(name, info.file_size)
                files[name] = _limited(archive.open(info).read(info.file_size + 1), info.file_size, name)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError) as error:
        raise PackageError(f"the application package is not a zip file that can be read: {error}") from error
    return _at_root(files)


def read_tar_gz(content: bytes) -> dict[str, bytes]:
    """The files of a gzipped tar archive. Raises ``PackageError``."""
    budget, files = _Budget(), {}
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
            for info in archive:
                if info.isdir():
                    continue
                name = _safe(info.name)
                source = archive.extractfile(info) if info.isreg() else None
                if source is None:
                    raise PackageError(f"'{name}' is not a plain file: application packages hold plain files only")
                budget.take(name, info.size)
                files[name] = source.read()
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise PackageError(f"the application package is not a gzipped tar file that can be read: {error}") from error
    return _at_root(files)


def write_zip(files: Mapping[str, bytes]) -> bytes:
    """``files`` as a zip archive, e.g. to deploy a folder or to store what was deployed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name), files[name])
    return buffer.getvalue()


class _Budget:
    """Counts what is unpacked, by the sizes that the archive states; ``_limited`` holds it to them."""

    def __init__(self) -> None:
        self.bytes = 0
        self.files = 0

    def take(self, name: str, size: int) -> None:
        self.bytes += size
        self.files += 1
        if self.bytes > MAX_BYTES or self.files > MAX_FILES:
            limit = f"{MAX_BYTES // 2**20} MiB or {MAX_FILES} files"
            raise PackageError(f"the application package is too large at '{name}': more than {limit}")


def _limited(content: bytes, size: int, name: str) -> bytes:
    if len(content) > size:
        raise PackageError(f"'{name}' is larger than the archive says")
    return content


def _safe(name: str) -> str:
    """``name`` as a relative path with slashes. Raises ``PackageError`` when it would leave the package."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.parts or ":" in path.parts[0] or "\0" in name:
        raise PackageError(f"'{name}' is not a path inside the application package")
    return path.as_posix()


def _at_root(files: dict[str, bytes]) -> dict[str, bytes]:
    """As Vespa's tools: take the package from src/main/application/, or from the one folder that everything lies in."""
    if "services.xml" in files:
        return files
    tops = {name.partition("/")[0] for name in files}
    prefix = "src/main/application/" if "src/main/application/services.xml" in files else f"{min(tops, default='')}/"
    if len(tops) > 1 and not prefix.startswith("src/"):
        return files
    return {name[len(prefix) :]: each for name, each in files.items() if name.startswith(prefix)} or files
