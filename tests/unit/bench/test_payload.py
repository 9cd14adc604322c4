"""Every peer carries the same bytes."""

from __future__ import annotations

import json

from bench import payload


def test_as_many_bytes_go_in_and_out_as_are_said() -> None:
    context = payload.context()

    assert len(json.dumps(context, separators=(",", ":"))) == payload.BYTES_IN
    assert len(payload.argument()) == payload.BYTES_IN
    assert len(json.dumps(payload.echo(payload.of(dict(context))))) == payload.BYTES_OUT
    assert len(json.dumps(payload.echo(payload.argument()))) == payload.BYTES_OUT
