"""Conditions: small expressions on features, as an engineer writes them, compiled to Python once.

A condition compares features and numbers with `<  <=  >  >=`, computes with `+ - * /`, `min(...)`, `max(...)`, and
joins with `and`, `or`, `not`; `unknown(feature)` is true where a feature is not known. A condition that was given a
name, a *term*, may stand in others by that name. Its logic has three values: a feature that is not known is NaN, which
makes a comparison neither true nor false. `met` is the condition as written, `not_met` its negation pushed down to the
comparisons; with NaN both are false: not assessable.
"""

import ast
from collections.abc import Callable, Mapping, Sequence
from math import inf, isfinite, nan
from typing import Any, Final

from esp_ingestd.core.feature import FEATURE_INDEX, FEATURES

Predicate = Callable[[Sequence[float]], bool]
MetBits = Callable[[int, Sequence[float]], int]

_MIRROR: Final = {ast.Lt: ">=", ast.LtE: ">", ast.Gt: "<=", ast.GtE: "<"}
_SIGN: Final = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}
_TURNED: Final = {ast.Lt: ">", ast.LtE: ">=", ast.Gt: "<", ast.GtE: "<="}
_ARITHMETIC: Final = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}

LONGEST: Final = 2000
"""Characters of one min() or max(), as compiled: each doubles what stands in it."""


class ConditionError(ValueError):
    """A condition that cannot be compiled; the text says why."""


class Condition:
    """One condition of the file, parsed; `met` and `not_met` are Python expressions over feature names.

    Args:
        text: as an engineer wrote it.
        terms: what stands behind a name.

    Raises:
        ConditionError: naming what is not understood.
    """

    def __init__(self, text: str, terms: "Mapping[str, Condition] | None" = None) -> None:
        self.text = text
        try:
            root = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ConditionError(f"{text!r} is no condition") from error
        self._root = self._spelt_out(root, terms or {})
        self.features = tuple(dict.fromkeys(self._names(self._root)))
        self.met = self._logic(self._root, want=True, deadband={})
        self.not_met = self.cleared({})

    def cleared(self, deadband: Mapping[str, float]) -> str:
        """The expression that is true when the condition is not met even with its limits moved by `deadband`."""
        return self._logic(self._root, want=False, deadband=deadband)

    def limits(self) -> tuple[list[tuple[str, str, float]], bool]:
        """The plain limits that must all hold, each (feature, sign, number), and whether they are all it asks."""
        parts = _parts(self._root)
        limits: list[tuple[str, str, float]] = []
        pairs = 0
        for part in parts:
            left = part.left
            for sign, right in zip(part.ops, part.comparators, strict=True):
                pairs += 1
                if isinstance(left, ast.Name) and isinstance(right, ast.Constant):
                    limits.append((left.id, _SIGN[type(sign)], _float(right)))
                elif isinstance(left, ast.Constant) and isinstance(right, ast.Name):
                    limits.append((right.id, _TURNED[type(sign)], _float(left)))
                left = right
        return limits, 0 < pairs == len(limits)

    def _spelt_out(self, node: ast.expr, terms: "Mapping[str, Condition]") -> ast.expr:
        """The same with what stands behind each term in its place."""
        if isinstance(node, ast.Name):
            if node.id not in terms:
                raise ConditionError(f"{self.text!r}: {node.id!r} compares nothing, and is no term")
            return terms[node.id]._root  # noqa: SLF001  (a condition of the same tree)
        if isinstance(node, ast.BoolOp):
            node.values = [self._spelt_out(value, terms) for value in node.values]
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            node.operand = self._spelt_out(node.operand, terms)
        return node

    def _logic(self, node: ast.expr, *, want: bool, deadband: Mapping[str, float]) -> str:
        if isinstance(node, ast.BoolOp):
            word = "and" if isinstance(node.op, ast.And) is want else "or"
            return "(" + f" {word} ".join(self._logic(v, want=want, deadband=deadband) for v in node.values) + ")"
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return self._logic(node.operand, want=not want, deadband=deadband)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "unknown":
            return self._unknown(node, want=want)
        if isinstance(node, ast.Compare):
            return self._comparison(node, want=want, deadband=deadband)
        raise ConditionError(f"{self.text!r}: {ast.unparse(node)!r} compares nothing")

    def _unknown(self, node: ast.Call, *, want: bool) -> str:
        if len(node.args) != 1 or node.keywords or not isinstance(node.args[0], ast.Name):
            raise ConditionError(f"{self.text!r}: unknown() asks about one feature")
        name = self._number(node.args[0])
        return f"({name} {'!=' if want else '=='} {name})"

    def _comparison(self, node: ast.Compare, *, want: bool, deadband: Mapping[str, float]) -> str:
        parts = []
        left = node.left
        for sign, right in zip(node.ops, node.comparators, strict=True):
            if type(sign) not in _SIGN:
                raise ConditionError(f"{self.text!r}: only < <= > >= compare")
            lhs, rhs = self._number(left), self._number(right)
            moved = 0.0 if want else max((deadband.get(n, 0.0) for n in self._names(left, right)), default=0.0)
            text = _SIGN[type(sign)] if want else _MIRROR[type(sign)]
            shift = "" if not moved else f" + {moved!r}" if text[0] == ">" else f" - {moved!r}"
            parts.append(f"{lhs} {text} {rhs}{shift}")
            left = right
        return "(" + (" and " if want else " or ").join(parts) + ")"

    def _number(self, node: ast.expr) -> str:
        if isinstance(node, ast.Name):
            if node.id not in FEATURE_INDEX:
                raise ConditionError(f"{self.text!r}: unknown feature {node.id!r}")
            return node.id
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            if not isfinite(_float(node)):
                raise ConditionError(f"{self.text!r}: a number is too large")
            return repr(_float(node))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return f"-{self._number(node.operand)}"
        if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
            if isinstance(node.op, ast.Div) and not (isinstance(node.right, ast.Constant) and node.right.value):
                raise ConditionError(f"{self.text!r}: divide by a number other than 0 only")
            return f"({self._number(node.left)} {_ARITHMETIC[type(node.op)]} {self._number(node.right)})"
        return self._call(node)

    def _call(self, node: ast.expr) -> str:
        names = {"min", "max"}
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names):
            raise ConditionError(f"{self.text!r}: {ast.unparse(node)!r} is not understood")
        if len(node.args) > 1 and not node.keywords:
            # Python's own min and max drop a NaN or not by its place; a sum carries it through. And they are calls,
            # which cost a third of all that is asked of a healthy well.
            sign = "<" if node.func.id == "min" else ">"
            found, *others = (self._number(argument) for argument in node.args)
            for other in others:
                found = f"({found} if {found} {sign} {other} else {other})"
                if len(found) > LONGEST:
                    raise ConditionError(f"{self.text!r}: min() and max() stand too deep in each other")
            known = "".join(f" + 0.0 * {name}" for name in dict.fromkeys(self._names(*node.args)))
            return f"({found}{known})"
        raise ConditionError(f"{self.text!r}: {node.func.id}() needs two values or more")

    @staticmethod
    def _names(*nodes: ast.expr) -> list[str]:
        return [
            part.id
            for node in nodes
            for part in ast.walk(node)
            if isinstance(part, ast.Name) and part.id not in {"min", "max", "unknown"}
        ]


def _float(node: ast.Constant) -> float:
    value = node.value
    try:
        return float(value) if isinstance(value, (int, float)) else nan
    except OverflowError:
        return inf


def _parts(node: ast.expr) -> list[ast.Compare]:
    """The comparisons that must all hold for `node`; none of them if it is anything but a conjunction."""
    values = node.values if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And) else [node]
    parts = [value for value in values if isinstance(value, ast.Compare)]
    return parts if len(parts) == len(values) else []


def _function(parameters: str, body: str) -> Callable[..., Any]:
    """Compile a function from conditions that were parsed, checked and written anew by Condition."""
    scope: dict[str, Any] = {"__builtins__": {}}
    exec(f"def compiled({parameters}):\n{body}", scope)  # noqa: S102  (source is made of checked parts only)
    function: Callable[..., Any] = scope["compiled"]
    return function


def predicate(expression: str, features: Sequence[str]) -> Predicate:
    """A function of a well's features that reads only those that `expression` names.

    Compiled when it is first asked: a tree has hundreds, which a healthy field never asks, and half of its loading
    would be theirs.
    """
    compiled: Predicate | None = None

    def ask(values: Sequence[float]) -> bool:
        nonlocal compiled
        if compiled is None:
            reads = "".join(f"  {name} = F[{FEATURE_INDEX[name]}]\n" for name in features)
            compiled = _function("F", f"{reads}  return {expression}")
        return compiled(values)

    return ask


def met_bits(questions: Sequence[tuple[int, int, str]], count: int) -> MetBits:
    """One function for many questions: (bit, states, expression) each; `count` features are unpacked at once."""
    names = ", ".join(feature.name for feature in FEATURES[:count])
    lines = [f"  {names} = F" if count == len(FEATURES) else f"  {names} = F[:{count}]", "  met = 0"]
    for states in dict.fromkeys(states for _, states, _ in questions):
        lines.append(f"  if S & {states}:")
        lines += [f"    if {text}: met |= {bit}" for bit, of, text in questions if of == states]
    return _function("S, F", "\n".join([*lines, "  return met"]))
