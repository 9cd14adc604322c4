"""A quick look at protovalidate's rules, in Python: whether a message surely obeys them.

protovalidate asks a google message for its fields one by one through Python's reflection, and looks at each field of each nested
message, with rules or without: 7 to 9 µs for a small task. Most messages obey, and for the kinds of rule that the contracts use
that can be told for about a third of it. Whoever is not surely good is shown to protovalidate, which alone says what is wrong; so
everything here may answer no where it does not know, and must never answer yes where protovalidate would not.

The test of a type is one expression of Python, such as `len(m.request_id) <= 64 and m.parent_attempt >= 0`, compiled once: as
functions that call each other it took 3.3 µs for a task, where one written by hand takes 1.7.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from keyword import iskeyword
from typing import Any

from buf.validate import validate_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

Test = Callable[[Any], object]
"""Tells, by its truth, whether a message (or a value) surely obeys."""

_NUMBERS = frozenset({"float", "double", "int32", "int64", "uint32", "uint64"})
_NANOS = 1_000_000_000
_REMEMBERED, _REMEMBERED_LENGTH = 256, 64


class _Unknown(Exception):
    """A kind of rule that is not known here."""


def quick_test(descriptor: Descriptor) -> Test | None:
    """The test of a message type; None where the type has a rule that is not known here."""
    try:
        return _message_test(descriptor, ()) or _anything
    except _Unknown:
        return None


def _anything(_message: Message) -> bool:
    return True


def _message_test(descriptor: Descriptor, within: tuple[str, ...]) -> Test | None:
    """The test of a message type; None when neither it nor what it holds has rules."""
    if descriptor.full_name in within:
        # Google's Struct and Value hold each other and have no rules; nothing of ours holds itself.
        if descriptor.full_name.startswith("google.protobuf."):
            return None
        raise _Unknown
    if descriptor.GetOptions().Extensions[validate_pb2.message].ListFields():
        raise _Unknown
    within = (*within, descriptor.full_name)
    terms = _Terms()
    for oneof in descriptor.oneofs:
        if oneof.GetOptions().Extensions[validate_pb2.oneof].required:
            raise _Unknown
    for field in descriptor.fields:
        _add_field(terms, field, within)
    return terms.test("m")


class _Terms:
    """Terms of one expression, joined by `and`, and the objects that they name."""

    def __init__(self, names: dict[str, object] | None = None) -> None:
        self._terms: list[str] = []
        self._names = {} if names is None else names

    def name(self, value: object) -> str:
        name = f"_{len(self._names)}"
        self._names[name] = value
        return name

    def add(self, term: str) -> None:
        self._terms.append(f"({term})")

    def __bool__(self) -> bool:
        return bool(self._terms)

    def add_all(self, other: _Terms) -> None:
        self._terms += other._terms

    def take(self) -> str:
        """All terms as one, which are then no longer part of the expression; empty when there are none."""
        terms, self._terms = self._terms, []
        return " and ".join(terms)

    def test(self, argument: str) -> Test | None:
        expression = self.take()
        if not expression:
            return None
        # Its text is made of names and numbers of the contracts only, which are part of this program.
        # With the name of this file, so that a profile says whose time it is.
        test: Test = eval(compile(f"lambda {argument}: {expression}", __file__, "eval"), self._names)  # noqa: S307
        return test


def _add_field(terms: _Terms, field: FieldDescriptor, within: tuple[str, ...]) -> None:
    rules = field.GetOptions().Extensions[validate_pb2.field]
    if rules.ignore == validate_pb2.IGNORE_ALWAYS:
        return
    if rules.ignore != validate_pb2.IGNORE_UNSPECIFIED:
        raise _Unknown
    if iskeyword(field.name):
        raise _Unknown
    read, is_set = f"m.{field.name}", f"m.HasField({field.name!r})"
    inner = _Terms(terms._names)
    if field.is_repeated:
        _add_repeated(inner, field, rules, read, within)
    elif field.message_type is None:
        _add_value(inner, field, rules, read)
    else:
        _add_message(inner, field, rules, read, within)
    value = inner.take()
    if rules.required:
        terms.add(is_set if field.has_presence else read)
    if not value:
        return
    if rules.required or not field.has_presence:
        terms.add(value)
    elif field.message_type is None:
        # To read a number is cheaper than to ask whether it is set.
        terms.add(f"({value}) or not {is_set}")
    else:
        terms.add(f"not {is_set} or ({value})")


def _add_message(
    terms: _Terms, field: FieldDescriptor, rules: validate_pb2.FieldRules, read: str, within: tuple[str, ...]
) -> None:
    _only(rules, "required", "duration")
    if rules.HasField("duration"):
        terms.add(f"{terms.name(_duration(rules.duration))}({read})")
    elif field.message_type is not None and (test := _message_test(field.message_type, within)):
        terms.add(f"{terms.name(test)}({read})")


def _add_repeated(
    terms: _Terms, field: FieldDescriptor, rules: validate_pb2.FieldRules, read: str, within: tuple[str, ...]
) -> None:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        _add_map(terms, field.message_type, rules, read, within)
        return
    _only(rules, "required", "repeated")
    own = rules.repeated
    _only(own, "min_items", "max_items", "items")
    most = own.max_items if own.HasField("max_items") else None
    inner = _Terms(terms._names)
    if own.items.ignore != validate_pb2.IGNORE_ALWAYS and (each := _each(field, own.items, within)):
        inner.add(f"{terms.name(each)}({read})")
    if own.min_items or not inner:
        _add_range(terms, f"len({read})", own.min_items or None, most)
        terms.add_all(inner)
        return
    # Most are empty, and that is seen faster than an iteration ends.
    _add_range(inner, f"len({read})", None, most)
    terms.add(f"not len({read}) or {inner.take()}")


def _add_map(terms: _Terms, entry: Descriptor, rules: validate_pb2.FieldRules, read: str, within: tuple[str, ...]) -> None:
    _only(rules, "required", "map")
    own = rules.map
    _only(own, "min_pairs", "max_pairs", "keys", "values")
    _add_range(terms, f"len({read})", own.min_pairs or None, own.max_pairs if own.HasField("max_pairs") else None)
    for rule, side, items in ((own.keys, "key", read), (own.values, "value", f"{read}.values()")):
        if each := _each(entry.fields_by_name[side], rule, within):
            # Most maps are empty, and that is seen faster than an iteration ends.
            terms.add(f"not len({read}) or {terms.name(each)}({items})")


def _each(field: FieldDescriptor, rules: validate_pb2.FieldRules, within: tuple[str, ...]) -> Test | None:
    """The test of all items of a repeated field, or of all keys or values of a map; None when they have no rules."""
    terms = _Terms()
    if rules.required:
        raise _Unknown
    if field.message_type is None:
        _add_value(terms, field, rules, "v")
    else:
        _only(rules)
        if test := _message_test(field.message_type, within):
            terms.add(f"{terms.name(test)}(v)")
    one = terms.test("v")
    return None if one is None else lambda values: all(map(one, values))


def _add_value(terms: _Terms, field: FieldDescriptor, rules: validate_pb2.FieldRules, read: str) -> None:
    """The terms of one number or text."""
    kind = rules.WhichOneof("type")
    _only(rules, "required", kind or "required")
    if kind is None:
        return
    own = getattr(rules, kind)
    if kind == "string":
        _add_string(terms, own, read)
    elif kind == "enum" and field.enum_type is not None:
        _only(own, "defined_only")
        if own.defined_only:
            terms.add(f"{read} in {terms.name(frozenset(field.enum_type.values_by_number))}")
    elif kind in _NUMBERS:
        _only(own, "gte", "gt", "lte", "in")
        _add_range(terms, read, own.gte if own.HasField("gte") else None, own.lte if own.HasField("lte") else None)
        if own.HasField("gt"):
            if own.HasField("lte") and own.lte <= own.gt:
                # To protovalidate this means outside of both.
                raise _Unknown
            terms.add(f"{read} > {own.gt!r}")
        if allowed := frozenset(getattr(own, "in")):
            terms.add(f"{read} in {terms.name(allowed)}")
    else:
        raise _Unknown


def _add_string(terms: _Terms, rules: validate_pb2.StringRules, read: str) -> None:
    _only(rules, "min_len", "max_len", "max_bytes", "pattern", "in")
    if rules.HasField("pattern"):
        # A class such as \d or a flag can mean other things in other engines; what is left means the same in all. To match as a
        # whole is more than to be found somewhere, which is what protovalidate asks for.
        if "\\" in rules.pattern or "(?" in rules.pattern or not rules.pattern.isascii():
            raise _Unknown
        terms.add(f"{terms.name(_pattern(re.compile(rules.pattern).fullmatch))}({read})")
    _add_range(terms, f"len({read})", rules.min_len or None, rules.max_len if rules.HasField("max_len") else None)
    if rules.HasField("max_bytes"):
        # A character has at most four bytes of UTF-8, and to count characters is faster.
        terms.add(f"len({read}) <= {rules.max_bytes // 4} or len({read}.encode()) <= {rules.max_bytes}")
    if allowed := frozenset(getattr(rules, "in")):
        terms.add(f"{read} in {terms.name(allowed)}")


def _add_range(terms: _Terms, value: str, least: float | None, most: float | None) -> None:
    if not all(map(math.isfinite, filter(None, (least, most)))):
        raise _Unknown
    if least is not None and most is not None:
        if most < least:
            # To protovalidate this means outside of both.
            raise _Unknown
        terms.add(f"{least!r} <= {value} <= {most!r}")
    elif least is not None:
        terms.add(f"{value} >= {least!r}")
    elif most is not None:
        terms.add(f"{value} <= {most!r}")


def _pattern(matches: Callable[[str], object]) -> Test:
    """Remembers short texts that matched: names of queues and kinds come again and again, and are found faster than matched."""
    known: set[str] = set()

    def test(text: str) -> bool:
        if text in known:
            return True
        if matches(text) is None:
            return False
        if len(text) <= _REMEMBERED_LENGTH and len(known) < _REMEMBERED:
            known.add(text)
        return True

    return test


def _duration(rules: validate_pb2.DurationRules) -> Test:
    _only(rules, "gte", "lte")
    terms = _Terms()
    least = rules.gte.ToNanoseconds() if rules.HasField("gte") else None
    most = rules.lte.ToNanoseconds() if rules.HasField("lte") else None
    terms.add(f"0 <= v.nanos < {_NANOS}")
    _add_range(terms, f"v.seconds * {_NANOS} + v.nanos", least, most)
    return terms.test("v") or _anything


def _only(rules: Message, *known: str) -> None:
    if {rule.name for rule, _ in rules.ListFields()} - {*known, "example"}:
        raise _Unknown
