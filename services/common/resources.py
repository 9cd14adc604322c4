"""Files that come with the project: from a checkout, or from an installed wheel."""

from __future__ import annotations

from pathlib import Path

_INSTALLED = Path(__file__).resolve().parent.parent / "resources"
_CHECKOUT = Path(__file__).resolve().parents[2]


def resource(name: str) -> Path:
    """The path of a file such as "descriptors/guildmesh.binpb", "openapi/openapi.json" or "gateway/envoy.yaml.j2".

    Raises:
        FileNotFoundError: neither a checkout nor the installed package has it.
    """
    for path in (_INSTALLED / name, _CHECKOUT / "gen" / name, _CHECKOUT / name):
        if path.exists():
            return path
    raise FileNotFoundError(f"{name} is neither in the checkout nor in the installed package; reinstall guildmesh")
