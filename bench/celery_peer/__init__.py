"""Celery on Redis, broker and result backend, as its documentation sets it up."""
