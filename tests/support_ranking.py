"""Probes of ranking: ARCHITECTURE.md's tables of rank features, operators and functions of expressions."""

from __future__ import annotations

from typing import Any

from support_world import INPUTS, Probe, Probes, World, close, deploys, not_deployed

_FIRST = "first-phase { expression: bm25(title) }\n"
_NEAR = "{targetHits: 9, label: 'l'}nearestNeighbor(vector, v)"
_MAPPED = "{targetHits: 9}nearestNeighbor(patches, v)"
_WORDS = "title contains 'red' and title contains 'river'"

# Feature: what finds documents, and the feature's value for each of them in the order of their years.
FEATURE_VALUES: dict[str, tuple[str, list[Any]]] = {
    "age(day)": ("year = 2000", []),
    "attribute(price)": ("true", [1.5, 2.5, 8.0, -1.0]),
    "attribute(sizes,1)": ("year < 2002", [5, 0]),
    "attribute(tags,a).weight": ("year < 2002", [3, 1]),
    "attribute(sizes).count": ("year < 2002", [2, 1]),
    "bm25(title)": ("title contains 'sea'", [1.428781004]),
    "closeness(field,vector)": (_NEAR, [1, 0.5, 0.25, 1 / 11]),
    "closeness(label,l)": (_NEAR, [1, 0.5, 0.25, 1 / 11]),
    "closest(patches)": (_MAPPED, [{"a": 1.0}, {"a": 1.0}, {"b": 1.0}]),
    "constant(two)": ("year = 2000", [2]),
    "distance(field,vector)": (_NEAR, [0, 1, 3, 10]),
    "elementCompleteness(title)": (_WORDS, [5 / 6, 2 / 3]),
    "fieldLength(title)": (_WORDS, [3, 6]),
    "fieldTermMatch(title,0)": (_WORDS, [1, 1]),
    "freshness(day)": ("year = 2000", [0]),
    "itemRawScore(mine)": ("{label: 'mine'}dotProduct(tags, {'a': 2})", [6, 2]),
    "matchCount(title)": (_WORDS, [2, 2]),
    "matches(title)": (_WORDS, [1, 1]),
    "now": ("year = 2000", []),
    "query(a)": ("year = 2000", [2]),
    "queryCompleteness(title)": (_WORDS, [2, 2]),
    "queryTermCount": (_WORDS, [2, 2]),
    "rawScore(tags)": ("dotProduct(tags, {'b': 2})", [2, 20]),
    "tensorFromLabels(attribute(sizes),s)": ("year = 2000", [{"4": 1.0, "5": 1.0}]),
    "tensorFromWeightedSet(attribute(tags),t)": ("year = 2000", [{"a": 3.0, "b": 1.0}]),
    "term(0).weight": ("title contains ({weight: 250}'sea')", [250]),
}

_T, _P = "tensor(x[3]):[1,2,6]", "tensor(p{}):{a:1,b:4}"
# Function: an expression that uses it, and its value.
FUNCTION_VALUES: dict[str, tuple[str, float]] = {
    "abs": ("abs(-2)", 2), "acos": ("acos(1)", 0), "asin": ("asin(0)", 0), "atan": ("atan(0)", 0),
    "ceil": ("ceil(1.2)", 2), "cos": ("cos(0)", 1), "cosh": ("cosh(0)", 1), "elu": ("elu(3)", 3),
    "erf": ("erf(0)", 0), "exp": ("exp(0)", 1), "fabs": ("fabs(-3)", 3), "floor": ("floor(1.8)", 1),
    "isNan": ("isNan(0/0)", 1), "log": ("log(1)", 0), "log10": ("log10(100)", 2), "relu": ("relu(-1)", 0),
    "round": ("round(2.5)", 3), "sigmoid": ("sigmoid(0)", 0.5), "sign": ("sign(-4)", -1), "sin": ("sin(0)", 0),
    "sinh": ("sinh(0)", 0), "sqrt": ("sqrt(9)", 3), "square": ("square(3)", 9), "tan": ("tan(0)", 0),
    "tanh": ("tanh(0)", 0), "atan2": ("atan2(0, 1)", 0), "bit": ("bit(5, 2)", 1), "fmod": ("fmod(7, 4)", 3),
    "hamming": ("hamming(3, 0)", 2), "ldexp": ("ldexp(3, 2)", 12), "max": ("max(2, 3)", 3), "min": ("min(2, 3)", 2),
    "pow": ("pow(2, 3)", 8), "if": ("if (2 > 1, 5, 6)", 5),
    "avg": (f"avg({_T})", 3), "count": (f"count({_T})", 3), "median": (f"median({_T})", 2),
    "prod": (f"prod({_T})", 12), "sum": (f"sum({_T})", 9),
    "reduce": (f"reduce({_T}, max, x)", 6), "map": (f"sum(map({_T}, f(a)(a + 1)))", 12),
    "join": (f"sum(join({_T}, {_T}, f(a,b)(a * b)))", 41),
    "merge": (f"sum(merge({_P}, tensor(p{{}}):{{b:5}}, f(a,b)(a + b)))", 10),
    "map_subspaces": ("sum(map_subspaces(tensor(p{},x[2]):{a:[1,2],b:[3,4]}, f(t)(sum(t))))", 10),
    "filter_subspaces": (f"sum(filter_subspaces({_P}, f(t)(t > 2)))", 4),
    "rename": (f"rename({_T}, x, y){{y:2}}", 6), "concat": (f"sum(concat({_T}, {_T}, x))", 18),
    "cell_cast": ("sum(cell_cast(tensor(x[1]):[2.5], int8))", 2), "cell_order": (f"cell_order({_T}, max){{x:0}}", 2),
    "unpack_bits": ("sum(unpack_bits(tensor<int8>(x[1]):[5]))", 2),
    "matmul": ("sum(matmul(tensor(a[1],x[2]):[[1,2]], tensor(x[2],b[1]):[[3],[4]], x))", 11),
    "xw_plus_b": ("sum(xw_plus_b(tensor(x[2]):[1,2], tensor(x[2],y[1]):[[3],[4]], tensor(y[1]):[5], x))", 16),
    "cosine_similarity": (f"cosine_similarity({_T}, {_T}, x)", 1),
    "euclidean_distance": ("euclidean_distance(tensor(x[2]):[0,0], tensor(x[2]):[3,4], x)", 5),
    "l1_normalize": ("l1_normalize(tensor(x[2]):[1,3], x){x:1}", 0.75),
    "l2_normalize": ("l2_normalize(tensor(x[2]):[3,4], x){x:0}", 0.6),
    "softmax": (f"sum(softmax({_T}, x))", 1), "argmax": (f"argmax({_T}, x){{x:2}}", 1),
    "argmin": (f"argmin({_T}, x){{x:0}}", 1), "expand": ("sum(expand(tensor(x[2]):[1,2], y))", 3),
    "top": (f"sum(top(1, {_P}))", 4),
}  # fmt: skip
OPERATOR_VALUES: dict[str, tuple[str, float]] = {
    "+": ("1 + 2", 3), "-": ("3 - 1", 2), "*": ("2 * 3", 6), "/": ("3 / 2", 1.5), "%": ("7 % 4", 3), "^": ("2 ^ 3", 8),
    "<": ("1 < 2", 1), "<=": ("2 <= 2", 1), ">": ("1 > 2", 0), ">=": ("1 >= 2", 0), "==": ("1 == 1", 1),
    "!=": ("1 != 1", 0), "~=": ("1 ~= 1.00000001", 1), "&&": ("1 && 0", 0), "||": ("1 || 0", 1), "!": ("!0", 1),
    "in": ("3 in [1, 3]", 1), "slice": (f"{_T}{{x:1}}", 2), "slice by an expression": (f"{_T}{{x:(1 + 1)}}", 6),
    "tensor literal": (f"sum({_T})", 9), "generated tensor": ("sum(tensor(x[4])(x * 2))", 12),
    "string comparison": ('if ("a" == "b", 1, 2)', 2),
}  # fmt: skip
_EXPRESSIONS = [text for text, _ in (*FUNCTION_VALUES.values(), *OPERATOR_VALUES.values())]
_EACH = "\n".join(f"function e{number}() {{ expression {{ {text} }} }}" for number, text in enumerate(_EXPRESSIONS))
_NAMES = " ".join([*FEATURE_VALUES, *(f"e{number}" for number in range(len(_EXPRESSIONS)))])
MATCH_FEATURES = f"constants {{ two: 2 }}\n{_EACH}\nmatch-features {{ {_NAMES} }}"


def _feature(name: str) -> Probe:
    where, expected = FEATURE_VALUES[name]

    def probe(world: World) -> None:
        values = [row[name] for row in world.features(where)]
        cells = [value["cells"] if isinstance(value, dict) else value for value in values]
        if name in ("now", "age(day)"):
            assert all(value > 1_600_000_000 for value in cells)
        else:
            assert len(cells) == len(expected), cells
            assert all(close(found, wanted) for found, wanted in zip(cells, expected, strict=True)), cells

    return probe


def _value(text: str, expected: float) -> Probe:
    def probe(world: World) -> None:
        (row,) = world.features("year = 2000")
        assert close(row[f"e{_EXPRESSIONS.index(text)}"], expected), row[f"e{_EXPRESSIONS.index(text)}"]

    return probe


def _no(feature: str) -> Probe:
    return not_deployed(feature.partition("(")[0], profile=f"first-phase {{ expression: {feature} }}")


_CALLED = {
    "nativeFieldMatch": "(title)", "nativeAttributeMatch": "(label)", "fieldMatch": "(title)",
    "attributeMatch": "(label)", "textSimilarity": "(title)", "elementSimilarity": "(title)",
    "dotProduct": "(tags,q)", "matrix": "(a)", "termDistance": "(title,a,b)", "onnx": "(m)", "onnxModel": "(m)",
    "xgboost": '("m.json")', "lightgbm": '("m.json")', "foreach": "(terms,N,matches(title,N),true,sum)",
}  # fmt: skip
_REFUSED = (
    "nativeRank", "nativeFieldMatch", "nativeProximity", "nativeAttributeMatch", "nativeDotProduct", "fieldMatch",
    "attributeMatch", "textSimilarity", "elementSimilarity", "dotProduct", "matrix", "random", "randomNormal",
    "randomNormalStable", "termDistance", "firstPhaseRank", "globalSequence", "foreach", "onnx", "onnxModel",
    "xgboost", "lightgbm",
)  # fmt: skip
FEATURES: tuple[Probes, Probes] = (
    {
        **{name: _feature(name) for name in FEATURE_VALUES},
        "firstPhase": deploys(profile=f"{_FIRST}second-phase {{ expression: firstPhase + 1 }}"),
        "secondPhase": deploys(
            profile=f"{_FIRST}second-phase {{ expression: 1 }}\nglobal-phase {{ expression: secondPhase }}"
        ),
        "relevanceScore": deploys(profile=f"{_FIRST}global-phase {{ expression: relevanceScore }}"),
        "rankingExpression(f)": deploys(
            profile="function f() { expression: 1 }\nfirst-phase { expression: rankingExpression(f) }"
        ),
    },
    {
        **{name: _no(name + _CALLED.get(name, "")) for name in _REFUSED},
        "term, but for its weight": _no("term(0).significance"),
        "a string in attribute": _no("attribute(label)"),
    },
)  # fmt: skip


def _global(expression: str) -> Probe:
    return deploys(profile=f"{INPUTS}\n{_FIRST}global-phase {{ expression: {expression} }}")


def _refused_function(name: str) -> Probe:
    return not_deployed(f"{name}()", profile=f"first-phase {{ expression: sum({name}(1)) }}")


FUNCTIONS: tuple[Probes, Probes] = (
    {name: _value(*case) for name, case in FUNCTION_VALUES.items()},
    {name: _refused_function(name) for name in ("random", "range", "diag", "fill", "foreach")},
)
OPERATORS: tuple[Probes, Probes] = ({name: _value(*case) for name, case in OPERATOR_VALUES.items()}, {})
NORMALIZERS: tuple[Probes, Probes] = (
    {
        "normalize_linear": _global("normalize_linear(bm25(title))"),
        "reciprocal_rank": _global("reciprocal_rank(bm25(title), 10)"),
        "reciprocal_rank_fusion": _global("reciprocal_rank_fusion(bm25(title), attribute(year))"),
    },
    {},
)
