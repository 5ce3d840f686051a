#!/usr/bin/env bash
# Puts `prometheus` and `promtool` into build/prometheus, from Debian's package `prometheus`: tests/deploy
# runs both. The package is unpacked, not installed, so nothing of it runs by itself.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=build/prometheus
[ -x "$folder/promtool" ] && [ -x "$folder/prometheus" ] && exit 0
if ! command -v apt-get > /dev/null || ! command -v dpkg-deb > /dev/null; then
  echo "No apt-get and dpkg-deb here: put prometheus and promtool on PATH, or into $folder." >&2
  exit 1
fi
mkdir -p "$folder"
unpacked=$(mktemp -d)
trap 'rm -rf "$unpacked"' EXIT
# As root apt would download as another user, who may not write here.
download() { (cd "$unpacked" && apt-get -q -o APT::Sandbox::User="$(id -un)" download prometheus); }
# A fresh machine has no package lists yet.
download || { apt-get -q update && download; }
dpkg-deb -x "$unpacked"/prometheus_*.deb "$unpacked"
mv "$unpacked/usr/bin/prometheus" "$unpacked/usr/bin/promtool" "$folder"
