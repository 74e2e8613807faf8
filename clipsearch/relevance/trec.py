"""TREC's files as judgments: qrels, ``query iteration document grade`` a line, and the topics' words beside them."""

from __future__ import annotations

from pathlib import Path

from clipsearch.errors import InputError
from clipsearch.relevance.judgments import JudgedQuery
from clipsearch.relevance.topics import Topic


def read_qrels(qrels: Path, queries: Path, corpus: str = "") -> list[Topic]:
    """The topics of ``qrels`` with the words that ``queries`` (``number<TAB>words`` a line) gives them.

    A document is named by its whole id, or, with ``corpus``, by its key there. Grades above 0 are relevant; they are
    divided by the highest of the file, as pyvespa takes grades from 0 to 1 only, and nDCG is the same for it.
    ``InputError`` names a file and line that makes no sense, and a topic without words.
    """
    words = _words(queries)
    grades: dict[str, dict[str, float]] = {}
    for number, line in enumerate(_text(qrels).splitlines(), 1):
        if not line.strip():
            continue
        columns = line.split()
        try:
            topic, _, document, grade = columns
            value = float(grade)
        except ValueError:
            raise InputError(f"{qrels}, line {number} is not “query iteration document grade”: {line[:80]}") from None
        if topic not in words:
            raise InputError(f"{qrels}, line {number} judges query {topic}, and {queries} has no words for it")
        if not document.startswith("id:"):
            if not corpus:
                raise InputError(
                    f"{qrels}, line {number}: {document} is no document id (id:<corpus>:image::<key>): name the "
                    "corpus that it is a key of with --corpus"
                )
            document = f"id:{corpus}:image::{document}"
        grades.setdefault(topic, {})[document] = max(value, 0.0)  # some tracks have -1 and -2 for spam
    best = max((grade for found in grades.values() for grade in found.values()), default=0.0) or 1.0
    return [
        Topic(topic, JudgedQuery(q=words[topic]), {document: grade / best for document, grade in found.items()})
        for topic, found in grades.items()
    ]


def _words(path: Path) -> dict[str, str]:
    words: dict[str, str] = {}
    for number, line in enumerate(_text(path).splitlines(), 1):
        if line.strip():
            topic, tab, text = line.partition("\t")
            if not tab or not text.strip():
                raise InputError(f"{path}, line {number} is not “number<TAB>words”: {line[:80]}")
            words[topic.strip()] = text.strip()
    return words


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise InputError(f"{path} is no UTF-8 text") from None
