"""Validation of messages: protovalidate's rules and the ones that they cannot say.

Beyond protovalidate: strings hold no NUL (PostgreSQL cannot store it) and no more than 50,000 characters unless their field says
otherwise; `json_max_bytes` measures a Struct or Value as compact JSON in UTF-8; `plain_text` is stripped of HTML, then checked
again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import protovalidate
from buf.validate import validate_pb2
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from guildmesh.common.v1 import policy_pb2

from services.common.errors import InvalidRequest
from services.common.json_values import size_of
from services.common.plain_text import strip_html
from services.common.rules import quick_test

MAX_STRING = 50_000
# JSON is at most this many times longer than the protobuf encoding of the same value (control characters become \u00XX), so a
# value whose encoding is small enough need not be measured.
_JSON_GROWTH = 7

_validator = protovalidate.Validator()
Violation = tuple[str, str]
_Check = Callable[[Message, str, list[Violation]], None]
"""Adds what is wrong with a field of a message; the text is the path of the message, with a full stop at its end."""


def validate(message: Message) -> None:
    """Checks a message, stripping HTML from its plain-text fields.

    Raises:
        InvalidRequest: one or more fields break their rules; each is named.
    """
    contract = _contract(type(message))
    _validate(message, contract, contract.surely_clean(message))


def validate_each(holder: Message, name: str) -> list[InvalidRequest | None]:
    """Checks each message of a repeated field that is validated_singly, and strips it, as `validate` does.

    Returns:
        What is wrong with each, in their order; None where nothing is.
    """
    messages = getattr(holder, name)
    if not messages:
        return []
    contract = _contract(type(messages[0]))
    encoded = contract.surely_clean_encoding(holder)
    answers: list[InvalidRequest | None] = []
    for message in messages:
        try:
            _validate(message, contract, encoded or contract.surely_clean(message))
        except InvalidRequest as error:
            answers.append(error)
        else:
            answers.append(None)
    return answers


def _validate(message: Message, contract: _Contract, clean: bool) -> None:
    violations: list[Violation] = []
    if contract.quick_test is None or not contract.quick_test(message):
        violations = _rule_violations(message)
    if not violations and not clean:
        _check(message, contract, "", violations)
    if not violations and contract.holds_plain_text and _strip(message, contract):
        violations = _rule_violations(message)
    if violations:
        raise InvalidRequest(violations)


def json_size(value: Message) -> int:
    """Bytes of a Struct or Value as compact JSON in UTF-8."""
    return size_of(json_format.MessageToDict(value))


class _Contract:
    """What is known of a message type, told once from its descriptor."""

    def __init__(self, descriptor: Descriptor) -> None:
        self.quick_test = quick_test(descriptor)
        self.checks = tuple(check for field in descriptor.fields if (check := _field_check(field)) is not None)
        self.plain_text, self.nested_plain_text = _plain_text_fields(descriptor)
        self.holds_plain_text = bool(self.plain_text or self.nested_plain_text)
        self._json_is_large = _smallest_json_limit(descriptor) >= MAX_STRING * _JSON_GROWTH

    def surely_clean(self, message: Message) -> bool:
        """Whether the checks of this module would find nothing."""
        return not self.checks or self.surely_clean_encoding(message)

    def surely_clean_encoding(self, holder: Message) -> bool:
        """The same of every message of this type in `holder`, told from the encoding alone, which is far cheaper.

        A message this short has no string that is too long and no JSON that is too large; every NUL has a byte 0, and so have
        infinity and the usual NaN.
        """
        if not self._json_is_large:
            return False
        encoded = holder.SerializeToString()
        return len(encoded) < MAX_STRING and b"\x00" not in encoded


_contracts: dict[type[Message], _Contract] = {}


def _contract(message_class: type[Message]) -> _Contract:
    contract = _contracts.get(message_class)
    if contract is None:
        descriptor: Any = message_class.DESCRIPTOR
        contract = _contracts[message_class] = _Contract(descriptor)
    return contract


def _check(message: Message, contract: _Contract, prefix: str, violations: list[Violation]) -> None:
    for check in contract.checks:
        check(message, prefix, violations)


@cache
def _smallest_json_limit(descriptor: Descriptor) -> int:
    """The smallest json_max_bytes of a message type and what it holds; a large number when there is none."""
    limits = [1 << 30]
    pending, seen = [descriptor], set()
    while pending:
        current = pending.pop()
        if current.full_name in seen:
            continue
        seen.add(current.full_name)
        for field in current.fields:
            limit = field.GetOptions().Extensions[policy_pb2.json_max_bytes]
            if limit:
                limits.append(limit)
            if field.message_type is not None:
                pending.append(field.message_type)
    return min(limits)


def _rule_violations(message: Message) -> list[Violation]:
    return [
        (_path(violation.proto.field), violation.proto.message or violation.proto.rule_id)
        for violation in _validator.collect_violations(message)
    ]


def _path(field: Any) -> str:
    text = ""
    for element in field.elements if field is not None else ():
        text += f".{element.field_name}" if text else element.field_name
        subscript = element.subscript
        if subscript is not None:
            text += f"[{getattr(subscript, 'value', subscript)}]"
    return text


def _field_check(field: FieldDescriptor) -> _Check | None:
    if field.type == FieldDescriptor.TYPE_STRING:
        return _string_check(field)
    if field.type != FieldDescriptor.TYPE_MESSAGE:
        return None
    message_type = _message_type(field)
    name = message_type.full_name
    if name in ("google.protobuf.Struct", "google.protobuf.Value", "google.protobuf.ListValue"):
        return _json_check(field)
    if name.startswith("google.protobuf."):
        return None
    if message_type.GetOptions().map_entry:
        return _map_check(field)
    return _message_check(field)


def _string_check(field: FieldDescriptor) -> _Check:
    rules = field.GetOptions().Extensions[validate_pb2.field].string
    own_limit = rules.HasField("max_len") or rules.HasField("pattern") or len(getattr(rules, "in")) > 0
    limit = None if own_limit else MAX_STRING
    name = field.name

    def check(message: Message, prefix: str, violations: list[Violation]) -> None:
        value = getattr(message, name)
        for text in (value,) if isinstance(value, str) else value:
            if "\x00" in text:
                violations.append((prefix + name, "must not contain the NUL character (U+0000)"))
            elif limit is not None and len(text) > limit:
                violations.append((prefix + name, f"must have at most {limit:,} characters"))

    return check


def _json_check(field: FieldDescriptor) -> _Check:
    limit = field.GetOptions().Extensions[policy_pb2.json_max_bytes]
    name = field.name

    def check(message: Message, prefix: str, violations: list[Violation]) -> None:
        if not field.is_repeated and not message.HasField(name):
            return
        value = getattr(message, name)
        for item in value if field.is_repeated else (value,):
            encoded = item.SerializeToString()
            # Every NUL has this byte, and so have infinity and the usual NaN.
            if b"\x00" in encoded and (problem := _unwritable(item)):
                violations.append((prefix + name, problem))
            elif limit and len(encoded) * _JSON_GROWTH > limit:
                size = json_size(item)
                if size > limit:
                    text = f"must be at most {limit:,} bytes as compact JSON in UTF-8, and is {size:,}"
                    violations.append((prefix + name, text))

    return check


def _map_check(field: FieldDescriptor) -> _Check | None:
    value_field = _message_type(field).fields_by_name["value"]
    if value_field.type != FieldDescriptor.TYPE_STRING:
        return None
    name = field.name

    def check(message: Message, prefix: str, violations: list[Violation]) -> None:
        for key, value in getattr(message, name).items():
            if "\x00" in str(key) or "\x00" in value:
                violations.append((f"{prefix}{name}[{key!r}]", "must not contain the NUL character (U+0000)"))

    return check


def _message_check(field: FieldDescriptor) -> _Check | None:
    name = field.name
    if field.GetOptions().Extensions[policy_pb2.validated_singly]:
        # The method checks each item for itself.
        return None

    repeated, message_class = field.is_repeated, GetMessageClass(_message_type(field))

    def check(message: Message, prefix: str, violations: list[Violation]) -> None:
        contract = _contract(message_class)
        if repeated:
            surely_clean = contract.surely_clean
            for index, item in enumerate(getattr(message, name)):
                # A message of many is often too long as a whole, and its items are short.
                if not surely_clean(item):
                    _check(item, contract, f"{prefix}{name}[{index}].", violations)
        elif message.HasField(name):
            _check(getattr(message, name), contract, f"{prefix}{name}.", violations)

    return check


@cache
def _plain_text_fields(descriptor: Descriptor) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the plain-text fields of a message type, and of the message fields that may hold some."""
    own = tuple(f.name for f in descriptor.fields if f.GetOptions().Extensions[policy_pb2.plain_text])
    nested = tuple(
        f.name
        for f in descriptor.fields
        if f.type == FieldDescriptor.TYPE_MESSAGE
        and not f.is_repeated
        and _message_type(f).full_name.startswith("guildmesh.")
        and any(_plain_text_fields(_message_type(f)))
    )
    return own, nested


def _strip(message: Message, contract: _Contract) -> bool:
    """Strips HTML from the plain-text fields; tells whether anything changed."""
    changed = False
    for name in contract.plain_text:
        before = getattr(message, name)
        after = strip_html(before)
        if after is None:
            raise InvalidRequest([(name, "nests HTML tags too deeply; send plain text")])
        if after != before:
            setattr(message, name, after)
            changed = True
    for name in contract.nested_plain_text:
        if message.HasField(name):
            inner = getattr(message, name)
            changed = _strip(inner, _contract(type(inner))) or changed
    return changed


def _message_type(field: FieldDescriptor) -> Descriptor:
    if field.message_type is None:
        raise TypeError(f"{field.full_name} does not hold a message")
    return field.message_type


def _unwritable(value: Message) -> str | None:
    """Why a Struct or Value cannot be stored as JSON, or None."""
    try:
        body = json_format.MessageToDict(value)
    except (ValueError, json_format.Error):
        return "must hold finite numbers only; JSON has neither NaN nor infinity"
    return "must not contain the NUL character (U+0000)" if _has_nul(body) else None


def _has_nul(value: object) -> bool:
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            if "\x00" in item:
                return True
        elif isinstance(item, dict):
            stack.extend(item.keys())
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
    return False
