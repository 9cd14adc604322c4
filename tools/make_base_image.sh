#!/usr/bin/env bash
# Makes sure that the engine has the image python:3.11-slim, on which our own images are built.
#
#   tools/make_base_image.sh            use the image the engine has, else pull it, else make it
#   tools/make_base_image.sh --no-pull  make it from Debian's packages without asking a registry
#
# Where no registry can be reached the image is made from Debian 12, the release whose own Python is 3.11:
# debootstrap, then `docker import`. That needs root and debootstrap (`apt-get install debootstrap`).
# DEBIAN_MIRROR names another mirror; PIP_CERT, when the host sets it, is carried into the image, because a host
# that needs its own certificate authority for pip needs it in `docker build` too.
set -euo pipefail

readonly image="python:3.11-slim"
readonly suite="bookworm"
readonly mirror="${DEBIAN_MIRROR:-http://deb.debian.org/debian}"

say() { printf 'make_base_image: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

docker version >/dev/null 2>&1 || die "no Docker engine answers; start one, or set DOCKER_HOST"
if docker image inspect "$image" >/dev/null 2>&1; then
  say "$image is here already"
  exit 0
fi
if [[ "${1:-}" != "--no-pull" ]] && timeout 300 docker pull --quiet "$image" >/dev/null 2>&1; then
  say "$image was pulled"
  exit 0
fi

say "$image cannot be pulled; making it from Debian $suite"
[[ "$(id -u)" == 0 ]] || die "debootstrap needs root; run this as root, or make a registry reachable"
command -v debootstrap >/dev/null || die "debootstrap is missing; apt-get install debootstrap"

work="$(mktemp -d)"
trap 'rm -rf -- "$work"' EXIT
root="$work/root"
log="$work/debootstrap.log"
# python3-venv brings ensurepip: `python -m venv` then works as it does in the official image.
debootstrap --variant=minbase --include=ca-certificates,python3.11,python3-venv,libexpat1 \
  "$suite" "$root" "$mirror" >"$log" 2>&1 || { tail -n 20 "$log" >&2; die "debootstrap failed"; }

for name in python python3 python3.11; do
  ln -sf /usr/bin/python3.11 "$root/usr/local/bin/$name"
done
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale}/*

changes=(
  --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
  --change 'ENV LANG=C.UTF-8'
  --change 'CMD ["python3"]'
)
if [[ -n "${PIP_CERT:-}" && -r "${PIP_CERT:-}" ]]; then
  install -m 0644 "$PIP_CERT" "$root/etc/ssl/certs/ca-certificates.crt"
  changes+=(--change 'ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt')
fi

tar --numeric-owner --one-file-system -C "$root" -c . | docker import "${changes[@]}" - "$image" >/dev/null
say "$image was made: $(docker run --rm "$image" python --version)"
