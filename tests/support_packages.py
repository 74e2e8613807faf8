"""Probes of what a package may hold: ARCHITECTURE.md's tables of schemas, rank profiles and services."""

from __future__ import annotations

from support_world import CONTENT, OPEN_NLP, SERVICES, Probes, deploys, not_deployed

CONSTANT = '{"values": [1, 2]}'


def _attribute(kind: str) -> dict[str, str]:
    return {"document": f"field a type {kind} {{ indexing: attribute }}"}


def _string(setting: str, indexing: str = "index") -> str:
    return f"field a type string {{\n indexing: {indexing}\n {setting}\n}}"


def _vector(setting: str, kind: str = "tensor(x[2])") -> str:
    return f"field a type {kind} {{\n indexing: attribute | index\n {setting}\n}}"


SCHEMAS: tuple[Probes, Probes] = (
    {
        "document": deploys(),
        "field": deploys("field a type string { indexing: summary }"),
        "field outside the document": deploys(beside="field b type string { indexing: input title | index }"),
        "fieldset": deploys(beside="fieldset two { fields: title, label }"),
        "document-summary": deploys(beside="document-summary s {\n summary title {}\n from-disk\n }"),
        "summary source": deploys(beside="document-summary s { summary shown { source: title } }"),
        "document-summary inherits": deploys(
            beside="document-summary s { summary title {} }\ndocument-summary t inherits s { }"
        ),
        "schema inherits": deploys(
            services=SERVICES.replace("<document type=", '<document type="kind" mode="index"/><document type='),
            **{"schemas/base.sd": "schema base { document base { field z type int { indexing: attribute } } }",
               "schemas/kind.sd": "schema kind inherits base { document kind inherits base { } }"},
        ),
        "rank-profile": deploys(profile="first-phase { expression: 1 }"),
        ".profile files": deploys(**{"schemas/song/extra.profile": "rank-profile extra { }"}),
        "constant": deploys(
            beside="constant w {\n file: w.json\n type: tensor(x[2])\n }", **{"w.json": CONSTANT}
        ),
        "stemming": deploys(beside="stemming: none"),
        "compression": deploys("compression {\n type: lz4\n }"),
        "raw-as-base64-in-summary: true": deploys(beside="raw-as-base64-in-summary: true"),
        "validation-overrides.xml": deploys(**{"validation-overrides.xml": "<validation-overrides/>"}),
    },
    {
        "struct": not_deployed("'struct'", "struct s {\n field x type int {}\n }"),
        "import field": not_deployed("'import'", beside="import field other.name as name {}"),
        "index outside a field": not_deployed("'index'", beside="index title { stemming: none }"),
        "annotation": not_deployed("'annotation'", beside="annotation person { }"),
        "onnx-model": not_deployed("'onnx-model'", beside="onnx-model m {\n file: m.onnx\n }"),
        "fieldset match": not_deployed("'match'", beside="fieldset f {\n fields: title\n match: gram\n }"),
        "summary dynamic": not_deployed("'dynamic'", beside="document-summary s { summary title { dynamic } }"),
        "summary bolding": not_deployed("'bolding'", beside="document-summary s { summary title { bolding: on } }"),
        "summary matched-elements-only": not_deployed(
            "'matched-elements-only'", beside="document-summary s { summary title { matched-elements-only } }"
        ),
        "raw-as-base64-in-summary: false": not_deployed(
            "'raw-as-base64-in-summary: false'", beside="raw-as-base64-in-summary: false"
        ),
        "constant uri": not_deployed("'uri'", beside="constant w { uri: http/x\n type: tensor(x[2]) }"),
    },
)  # fmt: skip

TYPES: tuple[Probes, Probes] = (
    {
        **{kind: deploys(**_attribute(kind)) for kind in ("string", "byte", "int", "long", "float", "double", "bool")},
        "raw": deploys("field a type raw { indexing: summary }"),
        "array<string>": deploys("field a type array<string> { indexing: index | attribute | summary }"),
        **{f"array<{kind}>": deploys(**_attribute(f"array<{kind}>"))
           for kind in ("byte", "int", "long", "float", "double")},
        **{f"weightedset<{kind}>": deploys(**_attribute(f"weightedset<{kind}>"))
           for kind in ("string", "byte", "int", "long")},
        "tensor, dense": deploys(**_attribute("tensor(x[2],y[3])")),
        "tensor, mapped": deploys(**_attribute("tensor(p{},q{})")),
        "tensor, mixed": deploys(**_attribute("tensor(p{},x[2])")),
        **{f"tensor<{cell}>": deploys(**_attribute(f"tensor<{cell}>(x[2])"))
           for cell in ("double", "float", "bfloat16", "int8")},
    },
    {
        "map": not_deployed("'map'", "field a type map<string,int> { indexing: summary }"),
        "a struct's name": not_deployed("field type 's'", "field a type s {}"),
        **{kind: not_deployed(f"'{kind}'", f"field a type {kind} {{ indexing: attribute }}")
           for kind in ("position", "predicate", "uri")},
        "reference": not_deployed("'reference'", "field a type reference<song> { indexing: attribute }"),
        **{f"array<{kind}>": not_deployed(f"'array<{kind}>'", f"field a type array<{kind}> {{}}")
           for kind in ("bool", "raw", "tensor(x[2])")},
        **{f"weightedset<{kind}>": not_deployed(f"'weightedset<{kind}>'", f"field a type weightedset<{kind}> {{}}")
           for kind in ("double", "float", "bool")},
        "weightedset with an index": not_deployed(
            "weightedset with an index", "field a type weightedset<string> { indexing: index }"
        ),
    },
)  # fmt: skip

SETTINGS: tuple[Probes, Probes] = (
    {
        **{f"attribute: {name}": deploys(_string(f"attribute: {name}", "attribute"))
           for name in ("fast-search", "fast-access", "fast-rank", "paged", "mutable")},
        **{f"distance-metric: {name}": deploys(_vector(f"attribute {{ distance-metric: {name} }}"))
           for name in ("euclidean", "angular", "prenormalized-angular", "dotproduct", "geodegrees")},
        "distance-metric: hamming": deploys(_vector("attribute { distance-metric: hamming }", "tensor<int8>(x[2])")),
        "index: enable-bm25": deploys(_string("index: enable-bm25")),
        **{f"hnsw: {name}": deploys(_vector(f"index {{ hnsw {{ {name}: {value} }} }}"))
           for name, value in {"max-links-per-node": "8", "neighbors-to-explore-at-insert": "50",
                               "multi-threaded-indexing": "false"}.items()},
        **{f"match: {name}": deploys(_string(f"match: {name}"))
           for name in ("text", "token", "word", "exact", "cased", "uncased")},
        **{f"rank: {name}": deploys(_string(f"rank: {name}")) for name in ("filter", "normal")},
        **{f"stemming: {name}": deploys(_string(f"stemming: {name}"))
           for name in ("none", "best", "shortest", "multiple")},
        "normalizing": deploys(_string("normalizing: none")),
        **{f"dictionary: {name}": deploys(_string(f"dictionary: {name}", "attribute"))
           for name in ("btree", "hash", "uncased")},
        "id": deploys(_string("id: 7")),
        "bolding: off": deploys(_string("bolding: off")),
        **{f"summary: {name}": deploys(_string(f"summary: {name}")) for name in ("full", "static")},
    },
    {
        **{f"match: {name}": not_deployed(f"match setting '{name}'", _string(f"match: {name}"))
           for name in ("gram", "prefix", "suffix", "substring")},
        "exact-terminator": not_deployed("'exact-terminator: @'", _string('match { exact-terminator: "@" }')),
        **{f"rank: {name}": not_deployed(f"rank setting '{name}'", _string(f"rank: {name}"))
           for name in ("literal", "identity")},
        **{setting: not_deployed(f"'{setting}'", _string(setting))
           for setting in ("rank-type: tags", "weight: 300", "bolding: on", "summary: dynamic", "alias: b")},
        "sorting": not_deployed("'sorting: descending'", _string("sorting: descending", "attribute")),
        "dictionary: cased": not_deployed("'dictionary: cased'", _string("dictionary: cased", "attribute")),
        "linguistics": not_deployed("'linguistics'", _string("linguistics { profile: x }")),
    },
)  # fmt: skip

_MADE = {
    "lowercase": "input title | lowercase", "trim": "input title | trim", "normalize": "input title | normalize",
    "to_string": "input year | to_string", "substring": "input title | substring 0 3",
    "input": "input title", "_": "input title | _", ".": 'input title . "-" . input label',
    "||": 'input title || "none"',
}  # fmt: skip
_OTHER = {
    "to_int": ("int", "input price | to_int"), "to_long": ("long", "input price | to_long"),
    "to_float": ("float", "input year | to_float"), "to_double": ("double", "input year | to_double"),
    "to_bool": ("bool", "input year | to_bool"), "to_array": ("array<string>", "input title | to_array"),
    "split": ("array<string>", 'input title | split " "'),
    "for_each": ("array<string>", 'input title | split " " | for_each { trim }'),
    "binarize": ("tensor<float>(x[2])", "input vector | binarize 0.5"),
    "pack_bits": ("tensor<int8>(x[1])", "input vector | pack_bits"),
}  # fmt: skip
_MISSING = (
"base64decode", "base64encode", "chunk", "clear_state", "echo", "exact", "flatten", "get_field",
    "get_language", "get_var", "guard", "hash", "hexdecode", "hexencode", "hostname", "ngram", "optimize_predicate",
    "random", "select_input", "set_var", "switch", "to_epoch_second", "to_pos", "to_uri", "to_wset", "tokenize",
    "zcurve",
)  # fmt: skip
INDEXING: tuple[Probes, Probes] = (
    {
        **{word: deploys(f"field a type string {{ indexing: {word} }}") for word in ("attribute", "index", "summary")},
        "passthrough": deploys("field a type string { indexing: passthrough }"),
        **{word: deploys(beside=f"field b type string {{ indexing: {text} | index }}")
           for word, text in _MADE.items()},
        **{word: deploys(beside=f"field b type {kind} {{ indexing: {text} | attribute }}")
           for word, (kind, text) in _OTHER.items()},
        "join": deploys('field c type array<string> { indexing: summary }',
                        'field b type string { indexing: input c | join ", " | index }'),
        "now": deploys("field a type long { indexing: now | attribute }"),
        "set_language": deploys('field a type string { indexing: "en" | set_language }'),
    },
    {
        **{word: not_deployed(f"'{word}", beside=f"field b type string {{ indexing: input title | {word} | index }}")
           for word in _MISSING},
        "if": not_deployed("'if'", "field a type string { indexing: if (1 < 2) { index } }"),
        "+": not_deployed("'+'", "field a type int { indexing: input a + 1 | attribute }"),
        "now outside the document": not_deployed(
            "'now' outside", beside="field b type long { indexing: now | attribute }"
        ),
        "set_language of another language": not_deployed(
            "language 'no'", 'field a type string { indexing: "no" | set_language }'
        ),
    },
)  # fmt: skip

_QUICK = (
    "num-threads-per-search: 4", "min-hits-per-thread: 100", "num-search-partitions: 2", "termwise-limit: 0.5",
    "strict: true", "ignore-default-rank-features", "post-filter-threshold: 0.5", "approximate-threshold: 0.1",
    "target-hits-max-adjustment-factor: 2", "filter-first-threshold: 0.3", "filter-first-exploration: 0.3",
    "exploration-slack: 0.1",
)  # fmt: skip
_FIRST = "first-phase { expression: bm25(title) }\n"
PROFILES: tuple[Probes, Probes] = (
    {
        "inherits": deploys(beside="rank-profile a { }\nrank-profile b { }\nrank-profile c inherits a, b { }"),
        "inputs": deploys(profile="inputs { query(q) tensor<float>(x[2]): [1, 2]\n query(a) double: 0.5 }"),
        "function": deploys(profile="function f(x, y) { expression: x * y }\nfirst-phase { expression: f(2, 3) }"),
        "inline": deploys(profile="function inline f() { expression: 1 }"),
        "constants": deploys(profile="constants { pi: 3.14\n w tensor(x[2]): [1,2] }"),
        "constant file": deploys(
            profile="constant r {\n file: r.json\n type: tensor(x[2])\n }", **{"r.json": CONSTANT}
        ),
        "first-phase": deploys(profile=_FIRST),
        "keep-rank-count": deploys(profile="first-phase { keep-rank-count: 10\n expression: 1 }"),
        "rank-score-drop-limit": deploys(profile="first-phase { rank-score-drop-limit: 0.1\n expression: 1 }"),
        "second-phase": deploys(profile=f"{_FIRST}second-phase {{ expression: firstPhase }}"),
        "rerank-count": deploys(profile=f"{_FIRST}second-phase {{ rerank-count: 10\n expression: 2 }}"),
        "total-rerank-count": deploys(profile=f"{_FIRST}second-phase {{ total-rerank-count: 10\n expression: 2 }}"),
        "total-keep-rank-count": deploys(profile="first-phase { total-keep-rank-count: 10\n expression: 1 }"),
        "global-phase": deploys(profile=f"{_FIRST}global-phase {{ expression: normalize_linear(bm25(title)) }}"),
        "match-features": deploys(profile="match-features: bm25(title) attribute(year)"),
        "summary-features": deploys(profile="summary-features {\n bm25(title)\n }"),
        "rank-features": deploys(profile="rank-features: bm25(title)"),
        "rank-properties": deploys(profile="rank-properties {\n bm25(title).k1: 1.5\n }"),
        **{line.partition(":")[0]: deploys(profile=line) for line in _QUICK},
    },
    {
        "match-phase": not_deployed("'match-phase'", profile="match-phase {\n attribute: year\n }"),
        "diversity": not_deployed("'diversity'", profile="diversity {\n attribute: year\n min-groups: 2\n }"),
        "mutate": not_deployed("'mutate'", profile="mutate {\n on-match { year += 1 }\n }"),
        "weakand": not_deployed("'weakand'", profile="weakand { stopword-limit: 0.6 }"),
        "filter-threshold": not_deployed("'filter-threshold'", profile="filter-threshold: 0.1"),
        "rank": not_deployed("'rank'", profile="rank title: filter"),
        "rank-type": not_deployed("'rank-type'", profile="rank-type title: identity"),
        "onnx-model": not_deployed("'onnx-model'", profile="onnx-model m { file: m.onnx }"),
        "significance": not_deployed("'significance'", profile="significance { use-model: true }"),
        "an inner rank-profile": not_deployed("'rank-profile'", profile="rank-profile inner { }"),
        "an input of type string": not_deployed("string inputs", profile="inputs { query(s) string }"),
        "expression: file:": not_deployed(
            "an expression in a file", profile="first-phase { expression: file:f.expression }"
        ),
        "rank-properties vespa.*": not_deployed(
            "'vespa.hitcollector.heapsize'", profile="rank-properties { vespa.hitcollector.heapsize: 5 }"
        ),
        "$ in a name": not_deployed("'titlematch$'", profile="function titlematch$(a) { expression: a }"),
    },
)  # fmt: skip


def _services(container: str = "", content: str = CONTENT, more: str = "", inside: str = "") -> str:
    opened = f'<services version="1.0"><container id="d" version="1.0"><search/>{inside}<document-api/>'
    return f"{opened}{OPEN_NLP}{container}</container>{content}{more}</services>"


def _profile(inside: str, name: str = "default") -> dict[str, str]:
    return {f"search/query-profiles/{name}.xml": f'<query-profile id="{name}">{inside}</query-profile>'}


_MODES = ("streaming", "store-only")
SERVICE_ELEMENTS: tuple[Probes, Probes] = (
    {
        "container": deploys(), "search": deploys(), "document-api": deploys(), "content": deploys(),
        "documents": deploys(), "document mode=index": deploys(),
        "config ai.vespa.opennlp.open-nlp": deploys(),
        **{tag: deploys(services=_services(f"<{tag}/>")) for tag in ("document-processing", "nodes", "http",
                                                                     "accesslog")},
        **{tag: deploys(services=_services(content=CONTENT.replace("<documents>", f"<{tag}/><documents>")))
           for tag in ("redundancy", "min-redundancy", "engine", "tuning", "group")},
        "admin": deploys(services=_services(more='<admin version="2.0"/>')),
    },
    {
        **{tag: not_deployed(f"<{tag}>", services=_services(f"<{tag}/>"))
           for tag in ("handler", "processing", "include", "model-evaluation", "server", "secret-store", "renderer",
                       "client", "clients", "binding", "filter", "rest-api")},
        **{f"search {tag}": not_deployed(f"<{tag}> in <search>", services=_services(inside="").replace(
            "<search/>", f"<search><{tag}/></search>")) for tag in ("chain", "searcher", "provider")},
        "document-processing chain": not_deployed(
            "<chain> in <document-processing>",
            services=_services("<document-processing><chain id='x'/></document-processing>"),
        ),
        "ignore-undefined-fields": not_deployed(
            "<ignore-undefined-fields>",
            services=_services().replace(
                "<document-api/>", "<document-api><ignore-undefined-fields/></document-api>"
            ),
        ),
        "config of another name": not_deployed("'my.config'", services=_services('<config name="my.config"/>')),
        **{f"document mode={mode}": not_deployed(f"'{mode}'", services=_services(
            content=CONTENT.replace('"index"', f'"{mode}"'))) for mode in _MODES},
        "document selection": not_deployed("'song.year'", services=_services(
            content=CONTENT.replace('mode="index"', 'mode="index" selection="song.year"'))),
        "garbage-collection": not_deployed("garbage collection", services=_services(
            content=CONTENT.replace("<documents>", '<documents garbage-collection="true">'))),
        "two content clusters": not_deployed("here are 2", services=_services(content=CONTENT + CONTENT)),
        "routing": not_deployed("<routing>", services=_services(more="<routing/>")),
        **{f"component {kind}": not_deployed(f"clip {kind}", services=_services(
            f'<component id="clip" type="{kind}"/>')) for kind in ("colbert-embedder", "splade-embedder",
                                                                  "bert-embedder")},
        "component class": not_deployed("my.Class", services=_services('<component id="x" class="my.Class"/>')),
        "components/*.jar": not_deployed("Java components", **{"components/x.jar": ""}),
        **{f"{folder}/": not_deployed("this kind of configuration", **{f"{folder}/x.xml": ""})
           for folder in ("search/chains", "search/page-templates", "docproc")},
        "rules/": not_deployed("this kind of configuration", **{"rules/x.sr": ""}),
    },
)  # fmt: skip

QUERY_PROFILES: tuple[Probes, Probes] = (
    {
        "field": deploys(**_profile('<field name="hits">5</field>')),
        "fields in fields": deploys(**_profile('<field name="ranking"><field name="profile">p</field></field>')),
        "description": deploys(**_profile("<description>about</description>")),
        "inherits": deploys(
            **_profile(""), **{"search/query-profiles/b.xml": '<query-profile id="b" inherits="default"/>'}
        ),
        "an empty query-profile-type": deploys(
            **{"search/query-profiles/types/root.xml": '<query-profile-type id="root" inherits="native"/>'}
        ),
    },
    {
        "%{...}": not_deployed("substitution", **_profile('<field name="yql">select %{a}</field>')),
        "overridable=false": not_deployed("overridable", **_profile('<field name="a" overridable="false">1</field>')),
        **{tag: not_deployed(f"<{tag}>", **_profile(f"<{tag}>a</{tag}>"))
           for tag in ("dimensions", "query-profile", "ref")},
        "query-profile-type with fields": not_deployed(
            "query profile types",
            **{"search/query-profiles/types/root.xml":
               '<query-profile-type id="root"><field name="a" type="string"/></query-profile-type>'},
        ),
    },
)  # fmt: skip
