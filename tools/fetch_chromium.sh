#!/usr/bin/env bash
# Installs Debian's Chromium, with which tests/openai/test_page.py tests the page. Without it, and
# where this user may not install it, that test is skipped.
set -euo pipefail
command -v chromium > /dev/null && exit 0
if ! command -v apt-get > /dev/null || [ "$(id -u)" != 0 ]; then
  echo "No Chromium here: the tests of the page are skipped until \`apt-get install chromium\`." >&2
  exit 0
fi
export DEBIAN_FRONTEND=noninteractive
install() { apt-get -qq install --no-install-recommends -y chromium; }
# A fresh machine has no package lists yet.
install || { apt-get -q update && install; }
