"""services.xml and the query profiles: which documents, which clusters, which linguistics, which query defaults.

What changes no answer (nodes, tuning, redundancy, resource limits, ...) is read over; what would change one and is not
supported is refused by its name. XML is parsed by defusedxml: no entities, no external references.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any
from xml.etree.ElementTree import Element, ParseError, TreeBuilder

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from clipsearch.engine.embedding import Embedder
from clipsearch.engine.package.embedders import LINE, line_of, parse_embedder
from clipsearch.errors import PackageError

OPEN_NLP = "ai.vespa.opennlp.open-nlp"
_CONTAINER_REFUSED = frozenset(
    ["handler", "processing", "include", "model-evaluation", "server", "secret-store", "renderer"]
) | {"client", "clients", "binding", "filter", "rest-api"}


@dataclass(frozen=True, slots=True)
class Services:
    """``documents``: the document types with an index. The others: see ``ApplicationPackage``."""

    documents: tuple[str, ...]
    content_cluster: str
    container_cluster: str
    snowball_english: bool
    embedders: Mapping[str, Embedder] = field(default_factory=dict)


def parse_services(files: Mapping[str, bytes]) -> Services:
    """services.xml. Raises ``PackageError``."""
    file = "services.xml"
    if file not in files:
        raise PackageError("the application package has no services.xml", file=file)
    root = _parse(files[file], file)
    if root.tag != "services":
        raise PackageError(f"the root element is <{root.tag}>, not <services>", file=file, line=line_of(root))
    containers = [each for each in root if _tag(each) in ("container", "jdisc")]
    contents = [each for each in root if _tag(each) == "content"]
    for each in root:
        if _tag(each) not in ("container", "jdisc", "content", "admin", "config"):
            raise PackageError(f"<{_tag(each)}> is not supported by the local engine", file=file, line=line_of(each))
    if len(contents) != 1:
        raise PackageError(
            f"the local engine takes one <content> cluster, here are {len(contents)}",
            file=file,
            line=line_of(contents[-1] if contents else root),
        )
    searching = [each for each in containers if _child(each, "search") is not None]
    if not searching:
        raise PackageError("no <container> has <search/>", file=file, line=line_of(root))
    content = contents[0]
    return Services(
        documents=_documents(content, file),
        content_cluster=content.get("id", "content"),
        container_cluster=searching[0].get("id", "default"),
        snowball_english=_snowball(root, containers, file),
        embedders=_embedders(containers, files),
    )


def _embedders(containers: list[Element], files: Mapping[str, bytes]) -> dict[str, Embedder]:
    """Of all container clusters: a cluster that only feeds has the same embedder as the one that searches."""
    found: dict[str, Embedder] = {}
    for component in (each for container in containers for each in container if _tag(each) == "component"):
        embedder = parse_embedder(component, files)
        before = found.setdefault(embedder.config.id, embedder)
        if before.config != embedder.config:
            raise PackageError(
                f"component '{embedder.config.id}': the containers differ in it: documents and queries would be "
                "embedded differently",
                file="services.xml",
                line=line_of(component),
            )
    return found


def _snowball(root: Element, containers: list[Element], file: str) -> bool:
    """Whether all containers that feed or search stem English with Snowball; their own config overrides the root's."""
    found = set()
    common = [_open_nlp(each, file) for each in root if _tag(each) == "config"]
    for container in containers:
        _check_container(container, file)
        own = [_open_nlp(each, file) for each in container if _tag(each) == "config"]
        found.add(any(own or common))
    if len(found) > 1:
        message = f"the containers differ in {OPEN_NLP}: documents and queries would be stemmed differently"
        raise PackageError(message, file=file, line=line_of(containers[-1]))
    return found.pop()


def _check_container(container: Element, file: str) -> None:
    for each in container:
        if _tag(each) in _CONTAINER_REFUSED:
            name = each.get("id") or each.get("type") or each.get("class") or ""
            raise PackageError(
                f"<{_tag(each)}> {name}: not supported by the local engine", file=file, line=line_of(each)
            )
        if _tag(each) in ("search", "document-processing"):
            for inner in each:
                if _tag(inner) in ("chain", "searcher", "documentprocessor", "provider", "renderer"):
                    message = f"<{_tag(inner)}> in <{_tag(each)}> is not supported by the local engine"
                    raise PackageError(message, file=file, line=line_of(inner))
        if _tag(each) == "document-api" and _child(each, "ignore-undefined-fields") is not None:
            raise PackageError(
                "<ignore-undefined-fields> is not supported by the local engine", file=file, line=line_of(each)
            )


def _open_nlp(config: Element, file: str) -> bool:
    if config.get("name") != OPEN_NLP:
        raise PackageError(
            f"<config name='{config.get('name')}'> is not supported by the local engine",
            file=file,
            line=line_of(config),
        )
    snowball = False
    for each in config:
        if _tag(each) != "snowballStemmingForEnglish":
            raise PackageError(
                f"<{_tag(each)}> of {OPEN_NLP} is not supported by the local engine", file=file, line=line_of(each)
            )
        snowball = (each.text or "").strip() == "true"
    return snowball


def _documents(content: Element, file: str) -> tuple[str, ...]:
    documents = _child(content, "documents")
    if documents is None:
        raise PackageError("<content> has no <documents>", file=file, line=line_of(content))
    if documents.get("selection") or documents.get("garbage-collection") == "true":
        raise PackageError(
            "garbage collection of documents is not supported by the local engine", file=file, line=line_of(documents)
        )
    names = []
    for each in documents:
        if _tag(each) != "document":
            continue  # document-processing only says which container cluster feeds
        if each.get("mode") != "index" or each.get("selection"):
            shown = each.get("selection") or each.get("mode")
            raise PackageError(
                f"<document type='{each.get('type')}'>: '{shown}' is not supported, only mode='index'",
                file=file,
                line=line_of(each),
            )
        names.append(each.get("type", ""))
    if not names:
        raise PackageError("<documents> lists no document type", file=file, line=line_of(documents))
    return tuple(names)


def parse_query_profiles(files: Mapping[str, bytes]) -> dict[str, dict[str, str]]:
    """``search/query-profiles/*.xml`` as flat maps, inheritance resolved. Raises ``PackageError``."""
    elements: dict[str, tuple[Element, str]] = {}
    for path in sorted(files):
        if not path.startswith("search/query-profiles/") or not path.endswith(".xml"):
            continue
        element = _parse(files[path], path)
        if path.startswith("search/query-profiles/types/"):
            _check_profile_type(element, path)
            continue
        name = element.get("id", "")
        if element.tag != "query-profile" or name.replace("/", "_") != PurePosixPath(path).stem:
            raise PackageError(
                f"expected <query-profile id='{PurePosixPath(path).stem}'>", file=path, line=line_of(element)
            )
        elements[name] = (element, path)
    return {name: _flatten(name, elements, ()) for name in elements}


def _flatten(name: str, elements: Mapping[str, tuple[Element, str]], path: tuple[str, ...]) -> dict[str, str]:
    element, file = elements[name]
    result: dict[str, str] = {}
    for parent in element.get("inherits", "").split():
        if parent not in elements or parent in (*path, name):
            message = f"query profile '{name}' inherits '{parent}', which does not exist or inherits it"
            raise PackageError(message, file=file, line=line_of(element))
        result.update(_flatten(parent, elements, (*path, name)))
    for key, value in _properties(element, "", file):
        if "%{" in value:
            raise PackageError(f"'{key}': %{{...}} substitution is not supported by the local engine", file=file)
        result[key] = value
    return result


def _properties(element: Element, prefix: str, file: str) -> Iterator[tuple[str, str]]:
    for each in element:
        if _tag(each) == "description":
            continue
        if _tag(each) != "field" or not each.get("name"):
            raise PackageError(
                f"<{_tag(each)}> in a query profile is not supported by the local engine", file=file, line=line_of(each)
            )
        if each.get("overridable", "true") != "true":
            raise PackageError(
                f"field '{each.get('name')}': overridable='false' is not supported", file=file, line=line_of(each)
            )
        key = f"{prefix}{each.get('name')}"
        if len(each):
            yield from _properties(each, f"{key}.", file)
        else:
            yield key, (each.text or "").strip()


def _check_profile_type(element: Element, file: str) -> None:
    """A type that declares no field changes nothing (pyvespa writes one); any other is refused."""
    if (
        element.tag != "query-profile-type"
        or element.get("strict") == "true"
        or any(_tag(e) == "field" for e in element)
    ):
        message = (
            "query profile types are not supported by the local engine: declare query tensors as rank profile inputs"
        )
        raise PackageError(message, file=file, line=line_of(element))


class _LineBuilder(TreeBuilder):
    """Builds elements that know their line; ``position``: the parser that is at it."""

    position: Any = None

    def start(self, tag: Any, attrs: Any, /) -> Element:
        element = super().start(tag, attrs)
        element.set(LINE, str(self.position.CurrentLineNumber))
        return element


def _parse(content: bytes, file: str) -> Element:
    builder = _LineBuilder()
    parser = DefusedXMLParser(target=builder, forbid_dtd=True)
    builder.position = parser.parser
    try:
        parser.feed(content)
        root: Element = parser.close()
        return root
    except ParseError as error:
        raise PackageError(f"not well-formed XML: {error}", file=file, line=error.position[0]) from error
    except (DefusedXmlException, ValueError, LookupError) as error:
        raise PackageError(f"not accepted as XML: {error}", file=file) from error


def _tag(element: Element) -> str:
    """The tag without its name space; processing instructions and comments do not reach here."""
    return re.sub(r"^\{.*\}", "", element.tag)


def _child(element: Element, tag: str) -> Element | None:
    return next((each for each in element if _tag(each) == tag), None)
