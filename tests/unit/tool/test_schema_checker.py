"""JSON Schema (2020-12) on schemas that want harm."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.tool.adapters.schema_checker import ProcessSchemaChecker


@pytest.fixture
async def checker() -> AsyncIterator[ProcessSchemaChecker]:
    opened = ProcessSchemaChecker(seconds=1.0)
    yield opened
    await opened.close()


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object"},
        {"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object"},
        {"properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"type": ["string", "null"]}}},
        {"properties": {"tree": {"$ref": "#"}}},
        {"patternProperties": {"^x_": {"type": "integer"}}, "additionalProperties": False},
        {"dependentRequired": {"a": ["b"]}, "prefixItems": [{}], "unevaluatedProperties": False},
        {"properties": {"$ref": {"type": "string"}}},
    ],
)
async def test_a_schema_of_an_object_is_taken(checker: ProcessSchemaChecker, schema: dict[str, Any]) -> None:
    assert await checker.problem_of_schema(schema) is None


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"type": "strin"}, 'type must be "object"'),
        ({"type": "array"}, 'type must be "object"'),
        ({"type": ["object", "null"]}, 'type must be "object"'),
        ({"properties": {"a": {"type": "strin"}}}, "properties.a.type: 'strin' is not one of the JSON types."),
        ({"properties": [1]}, "properties: [1] is not of type 'object'."),
        ({"required": "a"}, "required: 'a' is not of type 'array'."),
        ({"$schema": "http://json-schema.org/draft-07/schema#"}, "$schema must be"),
        ({"properties": {"a": {"$ref": "http://example.com/x.json"}}}, "leaves the schema"),
        ({"properties": {"a": {"$ref": "file:///etc/passwd"}}}, "leaves the schema"),
        ({"properties": {"a": {"$ref": "#/$defs/none"}}}, "names nothing"),
        ({"$ref": "#"}, "run in a circle"),
        ({"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"$ref": "#/$defs/a"}}}, "run in a circle"),
        ({"properties": {"a": {"pattern": "("}}}, "is not a regular expression"),
        ({"patternProperties": {"(": {}}}, "is not a regular expression"),
    ],
)
async def test_a_wrong_schema_is_refused_and_says_why(
    checker: ProcessSchemaChecker, schema: dict[str, Any], problem: str
) -> None:
    said = await checker.problem_of_schema(schema)
    assert said is not None
    assert problem in said


async def test_work_that_multiplies_is_cut_off_and_the_next_check_works(checker: ProcessSchemaChecker) -> None:
    definitions = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)} | {"d40": {}}
    said = await checker.problem_of_schema({"$ref": "#/$defs/d0", "$defs": definitions})
    assert said == "checking takes longer than 1 s; make the schema simpler."
    assert await checker.problem_of_schema({}) is None


async def test_a_pattern_that_backtracks_is_cut_off(checker: ProcessSchemaChecker) -> None:
    schema: dict[str, Any] = {"properties": {"a": {"pattern": "^(a+)+$"}}}
    assert await checker.problem_of_schema(schema) is None
    said = await checker.problem_of_arguments(schema, {"a": "a" * 64 + "b"})
    assert said == "checking takes longer than 1 s; make the schema simpler."


async def test_arguments_are_checked_and_a_long_value_is_not_repeated(checker: ProcessSchemaChecker) -> None:
    schema: dict[str, Any] = {"properties": {"n": {"type": "integer"}, "list": {"items": {"type": "string"}}}}
    assert await checker.problem_of_arguments(schema, {"n": 3, "list": ["x"]}) is None
    assert await checker.problem_of_arguments(schema, {"n": 1.5}) == "arguments.n: 1.5 is not of type 'integer'."
    assert await checker.problem_of_arguments(schema, {"list": ["x", 2]}) == "arguments.list[1]: 2 is not of type 'string'."
    said = await checker.problem_of_arguments(schema, {"n": "x" * 1_000_000})
    assert said is not None
    assert len(said) < 400
