"""The syntax tree of a ranking expression; ``str(node)`` is Vespa's canonical text of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from clipsearch.engine.tensors.types import TensorType


@dataclass(frozen=True, slots=True)
class Number:
    """A constant. ``text`` is how it was written."""

    value: float
    text: str

    def __str__(self) -> str:
        return str(int(self.text)) if self.text.isdigit() else java_double(self.value)


@dataclass(frozen=True, slots=True)
class Boolean:
    """``true`` or ``false``."""

    value: bool

    def __str__(self) -> str:
        return "true" if self.value else "false"


_ESCAPES = {"\\": "\\\\", '"': '\\"', "\t": "\\t", "\n": "\\n", "\r": "\\r", "\f": "\\f"}


@dataclass(frozen=True, slots=True)
class Text:
    """A quoted string; only comparable for equality."""

    value: str

    def __str__(self) -> str:
        return '"' + "".join(_ESCAPES.get(c, c if ord(c) > 31 else f"\\x{ord(c):02x}") for c in self.value) + '"'


@dataclass(frozen=True, slots=True)
class Reference:
    """A feature, a profile function, a lambda's parameter or a bare word. ``arguments`` None: no parentheses."""

    name: str
    arguments: tuple[Node, ...] | None = None
    output: str = ""

    def __str__(self) -> str:
        inside = "" if self.arguments is None else f"({','.join(map(str, self.arguments))})"
        return f"{self.name}{inside}{'.' + self.output if self.output else ''}"


@dataclass(frozen=True, slots=True)
class Paren:
    """Parentheses, kept for printing."""

    inner: Node

    def __str__(self) -> str:
        return f"({self.inner})"


@dataclass(frozen=True, slots=True)
class Tuple:
    """``(x, y)``: dimension names of rename."""

    items: tuple[Node, ...]

    def __str__(self) -> str:
        return f"({', '.join(map(str, self.items))})"


@dataclass(frozen=True, slots=True)
class Unary:
    """``-operand`` or ``!operand``."""

    operator: str
    operand: Node

    def __str__(self) -> str:
        return f"{self.operator}{self.operand}"


@dataclass(frozen=True, slots=True)
class Binary:
    """An infix operator. Printed flat: parentheses are nodes of their own."""

    operator: str
    left: Node
    right: Node

    def __str__(self) -> str:
        return f"{self.left} {self.operator} {self.right}"


@dataclass(frozen=True, slots=True)
class Membership:
    """``left in [items]``."""

    left: Node
    items: tuple[Node, ...]

    def __str__(self) -> str:
        return f"{self.left} in [{', '.join(map(str, self.items))}]"


@dataclass(frozen=True, slots=True)
class If:
    """``if (condition, yes, no)``; the ``probability`` of yes, which may be written behind, changes no result."""

    condition: Node
    yes: Node
    no: Node
    probability: Node | None = None

    def __str__(self) -> str:
        behind = "" if self.probability is None else f", {self.probability}"
        return f"if ({self.condition}, {self.yes}, {self.no}{behind})"


@dataclass(frozen=True, slots=True)
class Call:
    """A scalar function, applied to each cell of a tensor."""

    name: str
    arguments: tuple[Node, ...]

    def __str__(self) -> str:
        return f"{self.name}({','.join(map(str, self.arguments))})"


@dataclass(frozen=True, slots=True)
class Lambda:
    """``f(a,b)(body)``."""

    parameters: tuple[str, ...]
    body: Node

    def __str__(self) -> str:
        return f"f({','.join(self.parameters)})({self.body})"


@dataclass(frozen=True, slots=True)
class TensorCall:
    """A tensor function: operands, an optional lambda, and names (dimensions, aggregator, cell type)."""

    name: str
    operands: tuple[Node, ...]
    names: tuple[str, ...] = ()
    function: Lambda | None = None

    def __str__(self) -> str:
        if self.name == "unpack_bits":
            return f"unpack_bits({self.operands[0]},{','.join(self.names)})"
        if self.name == "rename":
            half = len(self.names) // 2
            old, new = (", ".join(part) for part in (self.names[:half], self.names[half:]))
            return f"rename({self.operands[0]}, ({old}), ({new}))"
        parts = [*map(str, self.operands), *self.names, *([str(self.function)] if self.function else [])]
        return f"{self.name}({', '.join(parts)})"


@dataclass(frozen=True, slots=True)
class Slice:
    """``tensor{x:1}``, ``tensor{a}`` or ``tensor[2]``; dimension "" is the only one."""

    tensor: Node
    entries: tuple[tuple[str, str | Node], ...]
    brackets: bool = False

    def __str__(self) -> str:
        if self.brackets:
            return f"{self.tensor}[{self.entries[0][1]}]"
        return f"{self.tensor}{{{', '.join(_entry(name, label) for name, label in self.entries)}}}"


@dataclass(frozen=True, slots=True)
class Generate:
    """``tensor(x[2])(body)``: the body sees the position as ``x``."""

    type: TensorType
    body: Node

    def __str__(self) -> str:
        body = f"({self.body})" if isinstance(self.body, (Number, Paren)) else f"(({self.body}))"
        return f"{self.type}{body}"


@dataclass(frozen=True, slots=True)
class Cells:
    """``tensor(x[2]):[a,b]``: addresses are one label per dimension, values are expressions."""

    type: TensorType
    cells: tuple[tuple[tuple[str, ...], Node], ...]

    def __str__(self) -> str:
        names = [d.name for d in self.type.dimensions]
        if not names:
            return f"{self.type}:{{{self.cells[0][1]}}}"
        written = []
        for address, value in self.cells:
            place = ",".join(f"{name}:{label}" for name, label in zip(names, address, strict=True))
            written.append(f"{{{place}}}:{value}")
        return f"{self.type}:{{{','.join(written)}}}"


Node = (
    Number | Boolean | Text | Reference | Paren | Tuple | Unary | Binary | Membership | If | Call | Lambda
    | TensorCall | Slice | Generate | Cells
)  # fmt: skip


def _entry(name: str, label: str | Node) -> str:
    text = label if isinstance(label, str) else f"({label})"
    return f"{name}:{text}" if name else text


def java_double(value: float) -> str:
    """``value`` as Java's ``Double.toString`` prints it: ``1.0``, ``1.0E308``."""
    if math.isinf(value):
        return "Infinity"
    if value == 0 or 1e-3 <= abs(value) < 1e7:
        return repr(float(value))
    mantissa, _, exponent = f"{float(value)!r}".lower().partition("e")
    if not exponent:
        mantissa, _, exponent = f"{value:.16e}".partition("e")
        mantissa = repr(float(mantissa))
    if "." not in mantissa:
        mantissa += ".0"
    return f"{mantissa}E{int(exponent)}"
