"""PyGAD's gene constraints as data: the text of a lambda in a small part of Python, which is computed part by part.

A constraint must run where genes change: at the aggregator, in a trainer's local search, and when a run is replayed
for a report. Code that travels would need the sandbox at each of them. A text of comparisons and arithmetic does not:

    lambda solution, values: [value for value in values if value + solution[0] <= 10]

It may index `solution` and `values`, compare, compute, and call a few functions of numbers. It has no attribute, no
other name, no text, no power and no shift, so that it can reach nothing, and its work is bounded.
"""

from __future__ import annotations

import ast
import inspect
import linecache
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from itertools import count
from typing import Any

import numpy as np

from fedmq.errors import BadConfiguration

Constraint = Callable[[Any, Any], Any]  # (solution, values) -> the values that are allowed
Values = Mapping[str, Any]  # of names
Evaluator = Callable[[Values], Any]
TEXT_MAX = 1000  # characters
LOOPS_MAX = 2  # comprehensions in one constraint: each multiplies its work by the number of values or genes
STEPS_MAX = 100_000  # of its loops, for one gene of one candidate: nothing else could cancel them
FUNCTIONS = {one.__name__: one for one in (abs, all, any, bool, float, int, len, max, min, round, sum)}
CONSTANT_MAX = 1e15
_STEPS = ""  # no name: where the values of names have the counter of steps
_UNARY: Mapping[type, Callable[[Any], Any]] = {ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Not: operator.not_}
_BINARY: Mapping[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_COMPARISONS: Mapping[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda value, found: value in found,
    ast.NotIn: lambda value, found: value not in found,
}
_SEQUENCES = (ast.List, ast.Tuple, ast.ListComp, ast.GeneratorExp)


@cache
def constraint_of(text: str) -> Constraint:
    """Return the constraint with this text; its arguments become arrays, its result a list.

    Nothing is compiled: each allowed part of the expression becomes a small function of the values of names.

    Raises:
        BadConfiguration: it is no lambda of two arguments, or uses what a constraint may not.
    """
    top = _checked(text)
    names = [one.arg for one in top.args.args]
    try:
        result = _evaluator(top.body, frozenset(names))
    except BadConfiguration as error:
        raise BadConfiguration(
            f"gene_constraint {text!r:.80}: expected comparisons and arithmetic of solution and values, got {error}"
        ) from error

    def constraint(solution: Any, values: Any) -> list[Any]:
        given = dict(zip(names, (np.asarray(solution), np.asarray(values)), strict=True))
        return list(result({**given, _STEPS: count(1)}))

    return constraint


def text_of_function(function: Callable[..., Any]) -> str:
    """Return the text of a lambda, or of a function that only returns an expression, as a lambda.

    Raises:
        BadConfiguration: its source is not found, or it is more than that.
    """
    code = getattr(function, "__code__", None)
    if code is None:
        raise BadConfiguration(f"gene_constraint: expected a lambda, got {type(function).__name__}")
    source = "".join(linecache.getlines(code.co_filename)) or _source(function)
    for node in ast.walk(ast.parse(source)) if source else ():
        if isinstance(node, ast.Lambda) and _is_of(node, code):
            return ast.unparse(node)
        if isinstance(node, ast.FunctionDef) and node.name == code.co_name and _returns_only(node, code):
            returned = node.body[-1]
            assert isinstance(returned, ast.Return)
            assert returned.value is not None
            names = ", ".join(one.arg for one in node.args.args)  # without annotations, which a lambda cannot have
            return f"lambda {names}: {ast.unparse(returned.value)}"
    raise BadConfiguration(
        f"gene_constraint: expected a lambda, or a function that only returns an expression, got {function.__name__}: "
        'write it as a text, such as "lambda solution, values: [v for v in values if v > solution[0]]"'
    )


def _source(function: Callable[..., Any]) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return ""


def _is_of(node: ast.Lambda, code: Any) -> bool:
    """Return whether a lambda in a source is the one that was compiled to this code, by line and column."""
    places = [place for place in code.co_positions() if place[0] is not None and place[2] is not None]
    body = node.body
    first = (body.lineno, body.col_offset)
    last = (body.end_lineno, body.end_col_offset)
    return bool(places) and any((start, column) == first and (end, to) == last for start, end, column, to in places)


def _returns_only(node: ast.FunctionDef, code: Any) -> bool:
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    first = min(node.lineno, *(one.lineno for one in node.decorator_list), node.lineno)
    return first == code.co_firstlineno and len(body) == 1 and isinstance(body[0], ast.Return) and bool(body[0].value)


def _checked(text: str) -> ast.Lambda:
    """Return the lambda of a text, whose size, loops and lists are bounded."""
    what = f"gene_constraint {text!r:.80}: "
    if len(text) > TEXT_MAX:
        raise BadConfiguration(f"{what}expected at most {TEXT_MAX} characters, got {len(text)}")
    try:
        top = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BadConfiguration(f"{what}expected a lambda, got {type(error).__name__}") from error
    if not isinstance(top, ast.Lambda) or len(top.args.args) != 2 or _has_more_arguments(top.args):
        raise BadConfiguration(f"{what}expected `lambda solution, values: ...`, which returns the values allowed")
    nodes = list(ast.walk(top))
    if len([one for one in nodes if isinstance(one, ast.comprehension)]) > LOOPS_MAX:
        raise BadConfiguration(f"{what}expected at most {LOOPS_MAX} loops, got more")
    bounded = {id(one) for one in _places_of_lists(top, nodes)}
    if any(isinstance(one, _SEQUENCES) and id(one) not in bounded for one in nodes):
        raise BadConfiguration(f"{what}expected a loop over a list, got arithmetic of a list")
    return top


def _places_of_lists(top: ast.Lambda, nodes: Sequence[ast.AST]) -> Iterator[ast.AST]:
    """Yield what may be a list: the result, an argument, what is looped over or looked into; so none is multiplied."""
    result: ast.AST = top.body
    while isinstance(result, ast.IfExp):
        yield result.body
        result = result.orelse
    yield result
    for node in nodes:
        if isinstance(node, ast.Call):
            yield from node.args
        elif isinstance(node, ast.comprehension):
            yield node.iter
        elif isinstance(node, ast.Compare) and all(isinstance(one, ast.In | ast.NotIn) for one in node.ops):
            yield from node.comparators


def _has_more_arguments(arguments: ast.arguments) -> bool:
    return bool(
        arguments.posonlyargs or arguments.kwonlyargs or arguments.vararg or arguments.kwarg or arguments.defaults
    )


def _evaluator(node: ast.AST, names: frozenset[str]) -> Evaluator:  # noqa: C901  a case for each part of a constraint
    """Return the function that computes an expression from the values of names.

    Raises:
        BadConfiguration: names in words what a constraint may not have.
    """

    def of(one: ast.AST) -> Evaluator:
        return _evaluator(one, names)

    match node:
        case ast.Constant(value=int() | float() as value) if abs(value) <= CONSTANT_MAX:
            return lambda _env: value
        case ast.Name(id=name) if name in names:
            return lambda env: env[name]
        case ast.UnaryOp(op=sign, operand=operand) if type(sign) in _UNARY:
            compute, inner = _UNARY[type(sign)], of(operand)
            return lambda env: compute(inner(env))
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _BINARY:
            combine, first, second = _BINARY[type(sign)], of(left), of(right)
            return lambda env: combine(first(env), second(env))
        case ast.BoolOp(op=sign, values=parts):
            every, terms = isinstance(sign, ast.And), [of(one) for one in parts]
            return lambda env: (all if every else any)(term(env) for term in terms)
        case ast.Compare(left=left, ops=signs, comparators=others) if all(type(one) in _COMPARISONS for one in signs):
            tests = [(_COMPARISONS[type(sign)], of(other)) for sign, other in zip(signs, others, strict=True)]
            return partial(_compared, of(left), tests)
        case ast.IfExp(test=test, body=body, orelse=orelse):
            condition, yes, no = of(test), of(body), of(orelse)
            return lambda env: yes(env) if condition(env) else no(env)
        case ast.Subscript(value=value, slice=ast.Slice(lower=lower, upper=upper, step=step)):
            whole, ends = of(value), [None if one is None else of(one) for one in (lower, upper, step)]
            return lambda env: whole(env)[slice(*(end and end(env) for end in ends))]
        case ast.Subscript(value=value, slice=index):
            whole, place = of(value), of(index)
            return lambda env: whole(env)[place(env)]
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in FUNCTIONS and name not in names:
            function, given = FUNCTIONS[name], [of(one) for one in arguments]
            return lambda env: function(*(one(env) for one in given))
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            items = [of(one) for one in parts]
            return lambda env: [item(env) for item in items]
        case ast.ListComp(elt=element, generators=loops) | ast.GeneratorExp(elt=element, generators=loops):
            return _loop(element, loops, names)
        case ast.Name(id=name):
            raise BadConfiguration(f"the name {name}: write numbers out, and call only {', '.join(FUNCTIONS)}")
        case _:
            raise BadConfiguration(type(node).__name__)


def _compared(left: Evaluator, tests: Sequence[tuple[Callable[[Any, Any], Any], Evaluator]], env: Values) -> Any:
    """Return whether each comparison of a chain holds."""
    value: Any = left(env)
    for compare, other in tests:
        following = other(env)
        if not compare(value, following):
            return False
        value = following
    return True


def _loop(element: ast.AST, loops: Sequence[ast.comprehension], names: frozenset[str]) -> Evaluator:
    """Return the evaluator of a comprehension, as a list."""
    if not loops:
        item = _evaluator(element, names)
        return lambda env: [item(env)]
    loop, *others = loops
    if not isinstance(loop.target, ast.Name) or loop.is_async:
        raise BadConfiguration("a loop over several names")
    name, over, within = loop.target.id, _evaluator(loop.iter, names), names | {loop.target.id}
    conditions = [_evaluator(one, within) for one in loop.ifs]
    inner = _loop(element, others, within)

    def run(env: Values) -> list[Any]:
        found: list[Any] = []
        for value in over(env):
            if next(env[_STEPS]) > STEPS_MAX:
                raise BadConfiguration(
                    f"gene_constraint: expected at most {STEPS_MAX} steps of its loops, got more: lower sample_size, "
                    "or take one loop"
                )
            here = {**env, name: value}
            if all(condition(here) for condition in conditions):
                found += inner(here)
        return found

    return run
