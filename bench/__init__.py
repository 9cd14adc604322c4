"""Benchmarks: the mesh beside what people use today, in one run on one machine: `make bench NAME=tasks`.

Nothing here reaches site-packages. A benchmark ends with one line of JSON on standard output; what it tells people goes to
standard error. See docs/benchmarks.md.
"""
