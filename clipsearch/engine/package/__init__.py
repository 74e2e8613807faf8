"""The application package: from files to an ``ApplicationPackage`` that the rest of the engine reads.

::

    read_folder | read_zip | read_tar_gz     files of a package, path -> bytes   (archive.py)
    load_package                             schemas, services and query profiles, checked, immutable
      syntax.py + schema.lark              .sd and .profile text -> syntax nodes
      indexing.py + indexing.lark          indexing statements -> nodes with types
      fields.py, profiles.py, schemas.py   syntax nodes -> model.py, inheritance resolved, references checked
      constants.py                         tensor constants in files of the package
      services.py, embedders.py            services.xml, search/query-profiles/*.xml
    synthetic.for_document                 a put's fields -> what their own indexing statements make of them, to store
    synthetic.with_synthetic               stored fields -> the same with the fields outside the document
"""

from __future__ import annotations

from collections.abc import Mapping

from clipsearch.engine.package.archive import read_folder, read_tar_gz, read_zip, write_zip
from clipsearch.engine.package.model import ApplicationPackage
from clipsearch.engine.package.schemas import load_schemas
from clipsearch.engine.package.services import parse_query_profiles, parse_services
from clipsearch.errors import PackageError

__all__ = ["deploy_warnings", "load_package", "read_folder", "read_tar_gz", "read_zip", "write_zip"]


def load_package(files: Mapping[str, bytes]) -> ApplicationPackage:
    """The application package in ``files`` (path -> bytes).

    Raises ``PackageError`` that names file, line and construct: for what Vespa would refuse, and for what the local
    engine does not support.
    """
    try:
        return _load(files)
    except RecursionError:
        raise PackageError("the application package is nested too deeply") from None


def _load(files: Mapping[str, bytes]) -> ApplicationPackage:
    services = parse_services(files)
    _refuse_code(files)
    schemas = load_schemas(files, services.embedders)
    for name in services.documents:
        if name not in schemas:
            raise PackageError(f"document type '{name}' has no schemas/{name}.sd", file="services.xml")
    return ApplicationPackage(
        schemas={name: schemas[name] for name in services.documents},
        query_profiles=parse_query_profiles(files),
        content_cluster=services.content_cluster,
        container_cluster=services.container_cluster,
        snowball_english=services.snowball_english,
        files=dict(files),
        embedders=services.embedders,
    )


def deploy_warnings(package: ApplicationPackage) -> list[str]:
    """Sentences for the deploy log: what is legal, but makes the local engine answer unlike Vespa."""
    warnings = []
    for schema in package.schemas.values():
        texts = [f.name for f in schema.fields.values() if f.index and f.type.kind != "tensor" and f.stemming != "none"]
        if not texts:
            continue
        if not any(field.language for field in schema.fields.values()):
            warnings.append(
                f"schema '{schema.name}' sets no language: Vespa guesses one per document, the local engine takes "
                f"English. Add a field with 'indexing: \"en\" | set_language'."
            )
        if not package.snowball_english:
            warnings.append(
                f"schema '{schema.name}' is stemmed by Vespa's default English stemmer, which the local engine does "
                f"not have: set snowballStemmingForEnglish in services.xml."
            )
    return warnings


def _refuse_code(files: Mapping[str, bytes]) -> None:
    for path in sorted(files):
        if path.startswith("components/") and path.endswith(".jar"):
            raise PackageError("Java components are not supported by the local engine", file=path)
        if path.startswith(("search/page-templates/", "search/chains/", "docproc/", "rules/")) and path.endswith(
            (".xml", ".sr")
        ):
            raise PackageError("this kind of configuration is not supported by the local engine", file=path)
