#!/usr/bin/env bash
# Proves that a backup can be restored: puts it into a throw-away Postgres, brings the schema up to date, starts the
# gateway on it with the keys of the environment, and has it answer one message with the built-in model. Nothing of the
# real database is touched, nothing outside is called, and everything is removed at the end.
#
#   scripts/restore-drill.sh DUMP
#
# DUMP is what `pg_dump --format=custom` wrote. The environment must hold the secrets of that time, as the gateway's did:
# JWT_SECRET, BETTER_AUTH_SECRET, and ENCRYPTION_KEY where one was set. Exit code 0: this backup and these keys are enough.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
export PATH="$here/node_modules/.bin:$PATH"

say() { echo "restore-drill: $*"; }
fail() { echo "restore-drill: FAILED: $*" >&2; exit 1; }

[ -r "${1:-}" ] || { sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2; }
dump=$(realpath "$1")
work=$(mktemp -d)
chmod 711 "$work"
gateway=''
clean_up() {
  if [ -n "$gateway" ]; then kill "$gateway" 2>/dev/null && wait "$gateway" 2>/dev/null || true; fi
  bash "$here/scripts/postgres-test.sh" stop "$work/postgres" --delete >/dev/null 2>&1 || true
  rm -rf "$work"
}
trap clean_up EXIT

[ -f "$here/dist/main.js" ] || (cd "$here" && npm run --silent build)
lobu() { node "$here/dist/main.js" "$@"; }

started=$(bash "$here/scripts/postgres-test.sh" start "$work/postgres" --fast)
server=${started#TEST_DATABASE_URL=}
psql --quiet "$server" -c 'create database lobu' -c 'create role lobu_tenant nologin'
url=${server%/*}/lobu
say 'restoring'
pg_restore --dbname "$url" --no-owner --exit-on-error "$dump" || fail 'the dump does not restore'

found=$(psql --quiet --tuples-only --no-align "$url" -c "select format('%s organizations, %s people, %s conversations, %s messages, %s sealed secrets',
  (select count(*) from organizations), (select count(*) from users), (select count(*) from conversations), (select count(*) from messages),
  (select count(*) from secrets))")

export DATABASE_URL=$url NODE_ENV=production LOBU_DATA_DIR=$work/data PORT=0 HOST=127.0.0.1
# What the backup's users set up must not be called from here.
unset SKIP_MIGRATIONS DATABASE_DIRECT_URL SMTP_URL OIDC_ISSUER WEBHOOK_ALLOWED_HOSTS SENTRY_DSN METRICS_PORT ${!OTEL_@}
export DEFAULT_MODEL=demo/demo LOG_PRETTY=0 LOG_LEVEL=info
lobu migrate >"$work/migrate.log" 2>&1 || { cat "$work/migrate.log" >&2; fail 'the schema can not be brought up to date'; }
# Owed calls and unfinished turns belong to the real gateway: here they would be made a second time.
psql --quiet "$url" -c 'delete from outbox' \
  -c "update runs set state = 'cancelled', lease_until = null, ended_at = now() where ended_at is null"
key=$(lobu bootstrap 2>"$work/bootstrap.log") || { cat "$work/bootstrap.log" >&2; fail 'no API key can be made'; }

node "$here/dist/main.js" serve >"$work/serve.log" 2>&1 &
gateway=$!
base=''
for _ in $(seq 600); do
  kill -0 "$gateway" 2>/dev/null || { gateway=''; tail -n 3 "$work/serve.log" >&2; fail 'the gateway does not start: are these the keys of that time?'; }
  port=$(sed -n 's/.*"port":\([0-9]*\).*"msg":"listening".*/\1/p' "$work/serve.log" | head -n 1)
  base=http://127.0.0.1:$port
  if [ -n "$port" ] && curl -sf "$base/health/ready" >/dev/null; then break; fi
  sleep 0.1
done
curl -sf "$base/health/ready" >/dev/null || fail 'the gateway does not become ready'

auth="authorization: Bearer $key"
id=$(curl -sf -X POST "$base/api/v1/agents" -H "$auth" -H 'content-type: application/json' -d '{"forceNew":true,"model":"demo/demo"}' |
  sed 's/.*"agentId":"\([^"]*\)".*/\1/') || fail 'no conversation can be opened'
curl -sf -X POST "$base/api/v1/agents/$id/messages" -H "$auth" -H 'content-type: application/json' \
  -d '{"content":"/echo restored","messageId":"drill"}' >/dev/null || fail 'the message is refused'
events=$(timeout 60 curl -sN "$base/api/v1/agents/$id/events?lastEventId=0" -H "$auth" | sed '/^event: complete/{n;q}') || true
case $events in *'"finalText":"restored"'*) ;; *) fail 'the turn did not end with its answer' ;; esac

say "restored $found; the keys open them, and a turn was answered"
