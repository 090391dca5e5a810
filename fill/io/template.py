"""Jinja templates from anywhere: rendered without access to anything, within bounds.

A template is a program. Beside Jinja's sandbox, which guards what it may touch, this bounds the
steps that it may take, the time, and the text that it may make.
"""

from __future__ import annotations

import datetime
import functools
import json
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from .json_text import quote, shorten

MAX_STEPS = 1_000_000
"""Lines of Python that compiling, and then rendering, may run; chat templates need some thousand.
"""
MAX_SECONDS = 10.0
"""Of its own thread's time."""
MAX_CHARACTERS = 1 << 22
"""Of the result, of every text on the way, and entries of a list."""
MAX_BITS = 4096
"""Of a whole number."""
MAX_SOURCE = 1 << 18
_JOINS = ("str_join", "markup_join")
_FILTERS = (
    *("abs", "capitalize", "default", "d", "dictsort", "escape", "e", "first", "float", "int"),
    *("items", "last", "length", "count", "list", "lower", "map", "max", "min", "reject"),
    *("rejectattr", "reverse", "round", "safe", "select", "selectattr", "sort", "string", "sum"),
    *("title", "trim", "unique", "upper"),
)
"""Those of Jinja's whose result is about as large as what they get."""
_METHODS = (
    *("append", "capitalize", "count", "endswith", "find", "get", "index", "isalpha", "isdigit"),
    *("isspace", "items", "keys", "lower", "lstrip", "removeprefix", "removesuffix", "rfind"),
    *("rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "title", "upper"),
    *("values", "partition", "rpartition"),
)


def render_template(source: str, **variables: Any) -> str:
    """Render a template as transformers renders a chat template.

    Args:
        source: The template.
        **variables: What it may use, such as ``messages`` and ``add_generation_prompt``.

    Raises:
        ValueError: It is no template, raises an error, or takes too long or too much; says so.

    Example: ``render_template("{{ a }}!", a="Yes") == "Yes!"``.
    """
    try:
        template = _compile(source)
        with _bounds():
            return template.render(**variables)
    except _Stop as stop:
        raise ValueError(f"the template {stop}: it is stopped") from None
    except RecursionError:
        raise ValueError("the template is nested too deeply") from None
    except Exception as error:
        reason = shorten(f"{type(error).__name__}: {error}", 120)
        raise ValueError(f"the template fails ({reason})") from error


@functools.lru_cache(maxsize=16)
def _compile(source: str) -> Any:
    if len(source) > MAX_SOURCE:
        raise _Stop(f"is longer than {MAX_SOURCE:,} characters")
    environment = _environment()  # whose libraries are imported without a bound
    with _bounds():
        return environment.from_string(source)


class _Stop(BaseException):
    """Ends a template; no part of Jinja catches it."""


@contextmanager
def _bounds() -> Iterator[None]:
    """Stop what runs in the block after so many lines or seconds, wherever it loops."""
    end, steps = time.thread_time() + MAX_SECONDS, 0

    def trace(frame: Any, event: str, _: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps > MAX_STEPS or time.thread_time() > end:
            raise _Stop("does not end")
        if event == "call" and frame.f_code.co_name in _JOINS:
            _check_size(sum(len(str(part)) for part in frame.f_locals["seq"]))
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def _check_size(size: int) -> None:
    if size > MAX_CHARACTERS:
        raise _Stop(f"makes {size:,} characters or entries")


def _concat(parts: Iterable[str]) -> str:
    total, texts = 0, []
    for part in parts:
        total += len(part)
        _check_size(total)
        texts.append(part)
    return "".join(texts)


def _replace(text: str, old: str, new: str, count: int = -1) -> str:
    _check_size(len(text) + (text.count(old) if old else len(text) + 1) * len(new))
    return text.replace(old, new, -1 if count is None else count)


def _join(values: Iterable[Any], separator: str = "", attribute: str | None = None) -> str:
    texts = [str(value if attribute is None else value[attribute]) for value in values]
    _check_size(sum(map(len, texts)) + len(separator) * len(texts))
    return separator.join(texts)


def _to_json(value: Any, indent: int | None = None, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=min(indent, 8) if indent else None)


def _check_operation(operator: str, left: Any, right: Any) -> None:
    """Stop an operation that would take long or make much, all of it in one step."""
    sizes = [len(side) if isinstance(side, (str, list, tuple)) else 0 for side in (left, right)]
    if operator == "%" and isinstance(left, str):
        raise _Stop("formats text by %, which is not supported")
    if operator == "+":
        _check_size(sum(sizes))
    if operator == "*" and any(sizes):
        _check_size(max(sizes) * max(side for side in (left, right, 0) if isinstance(side, int)))
    if operator in ("*", "**"):
        bits = [side.bit_length() if isinstance(side, int) else 1 for side in (left, right)]
        is_power = operator == "**" and isinstance(right, int)
        if (bits[0] * max(right, 1) if is_power else sum(bits)) > MAX_BITS:
            raise _Stop(f"computes numbers of more than {MAX_BITS:,} bits")


@functools.cache
def _environment() -> Any:
    """Return the environment of all templates."""
    from jinja2 import TemplateError
    from jinja2.ext import loopcontrols

    def raise_exception(message: Any) -> None:
        raise TemplateError(str(message))

    environment = _bounded_environment()(
        trim_blocks=True, lstrip_blocks=True, extensions=[_generation_tag(), loopcontrols]
    )
    environment.filters = {name: environment.filters[name] for name in _FILTERS}
    environment.filters |= {"replace": _replace, "join": _join, "tojson": _to_json}
    environment.globals = {
        **{name: environment.globals[name] for name in ("range", "namespace")},
        "raise_exception": raise_exception,
        "strftime_now": lambda format: datetime.datetime.now().strftime(format[:100]),
    }
    return environment


def _bounded_environment() -> Any:
    """Return the class of the environment."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class BoundedEnvironment(ImmutableSandboxedEnvironment):
        """Jinja's sandbox that also looks at how much an operation or a method makes."""

        intercepted_binops = frozenset(("*", "**", "+", "%"))
        concat = staticmethod(_concat)

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            _check_operation(operator, left, right)
            return super().call_binop(context, operator, left, right)

        def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
            owner, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
            is_builtin = isinstance(owner, (str, int, float, list, dict, tuple))
            if isinstance(owner, str) and name == "replace":
                function = functools.partial(_replace, owner)
            elif isinstance(owner, str) and name == "join":
                function = functools.partial(_join, separator=owner)
            elif (is_builtin or name.startswith("format")) and name not in _METHODS:
                raise _Stop(f"calls {quote(name)}, which is not supported")
            base: Any = super()  # whose positional parameters pyright miscounts
            return base.call(context, function, *args, **kwargs)

    return BoundedEnvironment


def _generation_tag() -> Any:
    """Return the extension that knows the tag around what a model has said, and ignores it."""
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser

    class Generation(Extension):
        """The tag ``generation``."""

        tags = {"generation"}  # noqa: RUF012 - so Jinja declares it

        def parse(self, parser: Parser) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    return Generation
