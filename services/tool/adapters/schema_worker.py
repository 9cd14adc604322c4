"""Checks JSON Schemas in a process of its own; `schema_checker` starts it by its path and speaks to it in lines of JSON.

A schema of a tenant can ask for endless work (a regular expression that backtracks, references that multiply), so the process
may be killed at any time and shares nothing with the service. A request is {"schema", "arguments"?}, an answer {"problem"}.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Iterator
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_MEMORY = 512 * 1024 * 1024
_MESSAGE_LENGTH = 300


def problem_of_schema(schema: Any) -> str | None:
    """What is wrong with a schema of arguments, or None."""
    if schema.get("$schema", DIALECT) not in (DIALECT, DIALECT + "#"):
        return f"$schema must be {DIALECT}, or be left out."
    if schema.get("type", "object") != "object":
        return 'type must be "object": arguments are a JSON object.'
    error = best_match(Draft202012Validator(Draft202012Validator.META_SCHEMA).iter_errors(schema))
    if error is not None:
        return _sentence("", error)
    resolver = DRAFT202012.create_resource(schema)
    registry = Registry().with_resource("", resolver).resolver()
    for reference in _references(schema):
        if not reference.startswith("#"):
            return f"the reference {reference!r} leaves the schema; refer only to its own parts, such as #/$defs/name."
        try:
            registry.lookup(reference)
        except Unresolvable:
            return f"the reference {reference!r} names nothing in the schema."
    # Finds what shows only in use: patterns that do not compile, references in a circle.
    return _trial(schema)


def problem_of_arguments(schema: Any, arguments: Any) -> str | None:
    """How arguments break a schema, or None."""
    # An empty registry, so that no reference is ever fetched.
    error = best_match(Draft202012Validator(schema, registry=Registry()).iter_errors(arguments))
    return None if error is None else _sentence("arguments", error)


def _trial(schema: Any) -> str | None:
    try:
        problem_of_arguments(schema, {})
    except RecursionError:
        return "its references run in a circle."
    except Exception as error:
        return f"it cannot be used: {error}"[:_MESSAGE_LENGTH]
    for pattern in _patterns(schema):
        import re

        try:
            re.compile(pattern)
        except (re.error, OverflowError, RecursionError) as error:
            return f"the pattern {pattern[:80]!r} is not a regular expression: {error}."
    return None


def _references(value: Any) -> Iterator[str]:
    for key, item in _pairs(value):
        if key in ("$ref", "$dynamicRef") and isinstance(item, str):
            yield item


def _patterns(value: Any) -> Iterator[str]:
    for key, item in _pairs(value):
        if key == "pattern" and isinstance(item, str):
            yield item
        if key == "patternProperties" and isinstance(item, dict):
            yield from item


def _pairs(value: Any) -> Iterator[tuple[str, Any]]:
    items = value.items() if isinstance(value, dict) else ()
    yield from items
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _pairs(child)


def _sentence(root: str, error: ValidationError) -> str:
    path = root
    for step in error.absolute_path:
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else str(step)
    message = error.message
    if error.absolute_path and error.absolute_path[-1] == "type" and error.validator in ("anyOf", "enum"):
        message = f"{error.instance!r} is not one of the JSON types"
    if len(message) > _MESSAGE_LENGTH:
        message = f"{message[: _MESSAGE_LENGTH // 2]} … {message[-_MESSAGE_LENGTH // 2 :]}"
    return f"{path}: {message}." if path else f"{message}."


def main() -> None:
    """Answers requests until standard input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    for line in sys.stdin.buffer:
        request = json.loads(line)
        try:
            if "arguments" in request:
                problem = problem_of_arguments(request["schema"], request["arguments"])
            else:
                problem = problem_of_schema(request["schema"])
        except RecursionError:
            problem = "the schema's references run in a circle."
        except MemoryError:
            problem = "checking takes too much memory; make the schema simpler."
        sys.stdout.write(json.dumps({"problem": problem}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
