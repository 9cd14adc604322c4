"""The Celery application: its one task, and where its Redis is (CELERY_BROKER_URL, CELERY_RESULT_BACKEND, which Celery reads)."""

from __future__ import annotations

from celery import Celery  # type: ignore[import-not-found,import-untyped,unused-ignore]

from bench import payload

app = Celery("bench")


def _echo(text: str) -> str:
    return payload.echo(text)


echo = app.task(_echo, name=payload.KIND)
