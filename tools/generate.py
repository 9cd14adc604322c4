"""Generates everything in gen/ from proto/: Python, Go, OpenAPI, AsyncAPI, and what the gateway and reflection read.

`buf build` makes one image; every generator reads that image, so that all outputs come from the same contracts. Without Go on
the machine (--python-only) the Go and OpenAPI outputs are left as they are.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from google.protobuf import descriptor_pb2

ROOT = Path(__file__).resolve().parent.parent
GEN = ROOT / "gen"
GO_PLUGINS = {
    "protoc-gen-go": "google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.11",
    "protoc-gen-go-grpc": "google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.0",
    "protoc-gen-openapi": "github.com/google/gnostic/cmd/protoc-gen-openapi@v0.7.1",
}


def run(*command: str | Path, env: dict[str, str] | None = None) -> None:
    """Runs a command and stops the generation when it fails."""
    subprocess.run([str(part) for part in command], cwd=ROOT, check=True, env=env)


def build_image(folder: Path) -> tuple[Path, list[str]]:
    """Builds the image of all modules; gives its path and the names of our own files."""
    image = folder / "image.binpb"
    run(Path(sys.executable).parent / "buf", "build", "-o", image)
    files = descriptor_pb2.FileDescriptorSet.FromString(image.read_bytes()).file
    return image, sorted(file.name for file in files if file.name.startswith("guildmesh/"))


def protoc(image: Path, files: list[str], *options: str, path: str | None = None) -> None:
    """Runs protoc over the image, with the plugins found on `path`."""
    env = {
        **os.environ,
        "PATH": os.pathsep.join(filter(None, [path, str(Path(sys.executable).parent), os.environ["PATH"]])),
    }
    run(sys.executable, "-m", "grpc_tools.protoc", f"--descriptor_set_in={image}", *options, *files, env=env)


def generate_python(image: Path, files: list[str]) -> None:
    """Writes gen/python: messages, stubs and their types."""
    out = fresh(GEN / "python")
    # Google's own protos come from googleapis-common-protos; buf.validate has no such package, so its module is ours to ship.
    protoc(image, [*files, "buf/validate/validate.proto"], f"--python_out={out}", f"--mypy_out={out}")
    services = [file for file in files if file.endswith("_service.proto")]
    protoc(image, services, f"--grpc_python_out={out}", f"--mypy_grpc_out={out}")
    for folder in out.rglob("*"):
        if folder.is_dir() and any(folder.glob("*_pb2.py")):
            (folder / "py.typed").touch()


def generate_descriptors() -> None:
    """Writes gen/descriptors/guildmesh.binpb: the transcoder's and reflection's view of every contract, without comments.

    It keeps every option (google.api.http, the policies) and google.rpc's error details, which the gateway reads.
    """
    out = fresh(GEN / "descriptors") / "guildmesh.binpb"
    run(Path(sys.executable).parent / "buf", "build", "--as-file-descriptor-set", "--exclude-source-info", "-o", out)


def generate_go(image: Path, files: list[str], plugins: Path) -> None:
    """Writes gen/go (module guildmesh.dev/gen/go) for workers and clients in Go."""
    out = fresh(GEN / "go", keep=("go.mod", "go.sum"))
    options = "module=guildmesh.dev/gen/go"
    validate = "Mbuf/validate/validate.proto=buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
    protoc(
        image, files,
        f"--go_out={out}", f"--go_opt={options},{validate}",
        f"--go-grpc_out={out}", f"--go-grpc_opt={options},{validate}",
        path=str(plugins),
    )  # fmt: skip


def generate_openapi(image: Path, files: list[str], plugins: Path) -> None:
    """Writes gen/openapi/openapi.json (OpenAPI 3) of the REST surface."""
    out = fresh(GEN / "openapi")
    options = "naming=proto,title=guildmesh,version=v1,enum_type=string,default_response=true"
    protoc(image, files, f"--openapi_out={out}", f"--openapi_opt={options}", path=str(plugins))
    # In a process of its own, which reads the generated code as it is now.
    run(sys.executable, ROOT / "tools" / "openapi.py")


def install_go_plugins() -> Path:
    """Installs the pinned Go plugins below .cache/ and gives their folder."""
    folder = ROOT / ".cache" / "bin"
    folder.mkdir(parents=True, exist_ok=True)
    for name, package in GO_PLUGINS.items():
        marker = folder / f".{name}-{package.rsplit('@', 1)[1]}"
        if not marker.exists():
            run("go", "install", package, env={**os.environ, "GOBIN": str(folder)})
            marker.touch()
    return folder


def fresh(folder: Path, keep: tuple[str, ...] = ()) -> Path:
    """Empties a folder, but for the names to keep."""
    folder.mkdir(parents=True, exist_ok=True)
    for entry in folder.iterdir():
        if entry.name not in keep:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    return folder


def main() -> None:
    """Generates what the machine has the tools for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python-only", action="store_true", help="leave Go and OpenAPI as they are")
    parser.add_argument("--check", action="store_true", help="fail when the committed gen/ differs from what is generated")
    arguments = parser.parse_args()
    generate(python_only=arguments.python_only)
    if arguments.check:
        fail_on_difference()


def generate(*, python_only: bool) -> None:
    """Generates everything that the machine's tools can."""
    with tempfile.TemporaryDirectory() as folder:
        image, files = build_image(Path(folder))
        generate_python(image, files)
        generate_descriptors()
        # In a process of its own, which reads the generated code as it is now.
        run(sys.executable, ROOT / "tools" / "asyncapi.py")
        if python_only or shutil.which("go") is None:
            print("skipped: gen/go and gen/openapi (no Go on this machine)", file=sys.stderr)
            return
        plugins = install_go_plugins()
        generate_go(image, files, plugins)
        generate_openapi(image, files, plugins)


def fail_on_difference() -> None:
    """Ends with exit code 1 when gen/ is not what git has."""
    changed = subprocess.run(
        ["git", "status", "--porcelain", "--", "gen"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    if changed:
        sys.exit(f"gen/ differs from the contracts; run `make gen` and commit what it writes:\n{changed}")


if __name__ == "__main__":
    main()
