# mypy: allow-untyped-calls, allow-untyped-defs
"""Runs one program inside a sandbox, and says on a channel of its own what came of it.

This file is the only thing of ours that enters a sandbox: its text is given to the sandbox's Python as `-c TEXT`, so it may
import nothing but the standard library. The program and its arguments arrive as data on standard input: a line with the
number of bytes, then that many bytes of JSON {"source", "arguments", "limits"}. What the program prints goes to standard
output, its standard error included. Standard error itself carries our frames, one a line: BEGAN when the program is here, then at
the end a JSON object {"error", "result", "memory"}. The program could forge that; it would only lie about itself.
"""

import json
import os
import sys

RESULT_LIMIT = 1024 * 1024
ERROR_LIMIT = 16 * 1024


def main() -> None:
    """Runs the program that standard input brings."""
    control = os.dup(2)
    os.dup2(1, 2)
    if os.getpid() == 1:
        _become_init()
    payload = _read_payload()
    os.write(control, b"BEGAN\n")
    for name, value in payload["limits"].items():
        import resource

        resource.setrlimit(getattr(resource, name), (value, value))
    os.environ.clear()
    os.environ.update(PATH="/usr/local/bin:/usr/bin:/bin", HOME="/tmp", LANG="C.UTF-8")  # noqa: S108  the sandbox's own
    sys.argv = ["tool.py"]
    _open_standard_streams()
    try:
        code, frame = _run(payload["source"], payload["arguments"])
    except MemoryError:
        code, frame = 137, {"memory": True}
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except Exception:  # noqa: S110  the program may have closed or replaced them
        pass
    data = json.dumps(frame).encode() + b"\n"
    while data:
        data = data[os.write(control, data) :]
    os._exit(code)


def _become_init() -> None:
    # The kernel gives the first process of a namespace no default signal actions, so a program could not even abort.
    # The program runs in a child; this process reaps, and ends as the child does, which ends all others.
    child = os.fork()
    if child == 0:
        return
    while True:
        try:
            pid, status = os.wait()
        except InterruptedError:
            continue
        if pid == child:
            os._exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status))


def _read_payload():
    source = open(0, "rb", closefd=False)  # noqa: SIM115  it lives as long as the process
    length = source.readline(32)
    if not length:
        os._exit(0)
    data = source.read(int(length))
    return json.loads(data)


def _open_standard_streams() -> None:
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    # A lone surrogate or a program's own encoding must not break its print.
    sys.stdout = open(1, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115


def _run(source, arguments):
    import linecache
    import threading
    import traceback
    import types

    # A real module, so that classes defined in the program find their module (pickle, dataclasses).
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    module.__dict__["arguments"] = arguments
    linecache.cache["tool.py"] = (len(source), None, source.splitlines(keepends=True), "tool.py")
    code = 0
    error = ""
    try:
        exec(compile(source, "tool.py", "exec", dont_inherit=True), module.__dict__)  # noqa: S102  this is the sandbox
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
    except MemoryError:
        raise
    except SystemExit as end:
        if end.code is None:
            code = 0
        elif isinstance(end.code, int):
            code = end.code & 0xFF
        else:
            print(end.code, file=sys.stderr)  # noqa: T201  as Python does
            code = 1
    except BaseException as failure:  # whatever the program raises is its answer
        code = 1
        trace = failure.__traceback__
        failure.__traceback__ = trace.tb_next if trace else None
        error = "".join(traceback.format_exception(failure))
        if len(error) > ERROR_LIMIT:
            error = error[:2048] + "\n[…]\n" + error[-(ERROR_LIMIT - 2048) :]
    result = None
    if code == 0:
        try:
            result = json.loads(json.dumps(getattr(module, "result", None), allow_nan=False))
            size = len(json.dumps(result, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace"))
            if size > RESULT_LIMIT:
                raise ValueError(f"it takes {size} bytes as JSON, at most {RESULT_LIMIT} are given back; print it or give a part")
        except MemoryError:
            raise
        except Exception as failure:
            code, result = 1, None
            error = f"RESULT_NOT_JSON: `result` cannot be given back: {failure}"[:ERROR_LIMIT]
    return code, {"error": error, "result": result}


if __name__ == "__main__":
    main()
