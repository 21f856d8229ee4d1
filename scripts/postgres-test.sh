#!/usr/bin/env bash
# A throw-away Postgres with pgvector for tests and for development, on Debian and its children.
#
#   scripts/postgres-test.sh install
#       Postgres, pgvector and PgBouncer, by apt; needs root. Does nothing when they are there.
#   scripts/postgres-test.sh start DIR [--port N] [--fast] [--max-connections N]
#       Makes a cluster in DIR unless there is one, starts it unless it runs, prints TEST_DATABASE_URL=…
#       --fast gives up surviving a power cut (fsync off); a killed process still loses nothing.
#   scripts/postgres-test.sh stop DIR [--delete]
#       Stops it, and with --delete removes DIR.
#
# The cluster listens on 127.0.0.1 alone and trusts whoever connects: nothing of value belongs in it.
set -euo pipefail

say() { echo "postgres-test: $*" >&2; }
fail() { say "$*"; exit 1; }

# The newest Postgres whose server is installed.
find_bin() {
  local dir
  for dir in $(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -rV) /usr/local/pgsql/bin; do
    [ -x "$dir/initdb" ] && [ -x "$dir/pg_ctl" ] && { echo "$dir"; return; }
  done
  command -v initdb >/dev/null && dirname "$(command -v initdb)"
}

has_vector() { [ -f "$("$1/pg_config" --sharedir 2>/dev/null)/extension/vector.control" ]; }

apt_get() { DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 "$@" </dev/null >&2; }

install() {
  local bin major
  bin=$(find_bin || true)
  if [ -n "$bin" ] && has_vector "$bin" && command -v pgbouncer >/dev/null; then return; fi
  [ "$(id -u)" = 0 ] || fail 'install needs root'
  command -v apt-get >/dev/null || fail 'install knows apt only; install Postgres and pgvector by hand'
  apt_get update
  [ -n "$bin" ] || apt_get install --no-install-recommends postgresql
  # Only its program is used, for the tests of transaction pooling; the service of the package is not wanted.
  command -v pgbouncer >/dev/null || { apt_get install --no-install-recommends pgbouncer; stop_packaged_pgbouncer; }
  bin=$(find_bin) || fail 'apt installed no Postgres server'
  has_vector "$bin" && return
  major=$("$bin/pg_config" --version | sed -E 's/^[^0-9]*([0-9]+).*/\1/')
  if apt-cache show "postgresql-$major-pgvector" >/dev/null 2>&1; then
    apt_get install --no-install-recommends "postgresql-$major-pgvector"
  else
    build_vector "$major"
  fi
  has_vector "$bin" || fail 'pgvector is still missing after its installation'
}

stop_packaged_pgbouncer() { { invoke-rc.d pgbouncer stop && update-rc.d pgbouncer disable; } >/dev/null 2>&1 || true; }

# Debian packages pgvector from trixie on; its source builds against older servers as well. The source is fetched with
# a configuration of its own that names the mirror this machine uses already, so apt's own settings stay as they are.
build_vector() (
  major=$1
  say "building pgvector for Postgres $major"
  apt_get install --no-install-recommends "postgresql-server-dev-$major" gcc make libc6-dev dpkg-dev
  mirror=$(apt-get indextargets --format '$(REPO_URI)|$(LABEL)|$(COMPONENT)' 'Created-By: Packages' |
    awk -F'|' '$2 == "Debian" && $3 == "main" { print $1; exit }')
  [ -n "$mirror" ] || fail 'apt names no Debian mirror'
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  chmod 755 "$work"
  mkdir -p "$work/lists/partial" "$work/source"
  printf 'deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s trixie main\n' "$mirror" >"$work/list"
  own=(-o "Dir::Etc::SourceList=$work/list" -o Dir::Etc::SourceParts=/dev/null -o "Dir::State::Lists=$work/lists"
    -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=)
  apt_get "${own[@]}" update
  cd "$work/source"
  apt_get "${own[@]}" -o APT::Sandbox::User=root source --only-source pgvector
  cd pgvector-*/
  # No LLVM: bitcode serves only the server's JIT. No -march: what is built here may run elsewhere.
  flags=(PG_CONFIG="/usr/lib/postgresql/$major/bin/pg_config" with_llvm=no OPTFLAGS=)
  make -j"$(nproc)" "${flags[@]}" >"$work/make.log" 2>&1 || { tail -n 20 "$work/make.log" >&2; fail 'pgvector did not build'; }
  make "${flags[@]}" install >>"$work/make.log" 2>&1
)

# Postgres refuses to run as root.
as_owner() {
  if [ "$(id -u)" = 0 ]; then
    (cd / && runuser -u postgres -- "$@")
  else
    "$@"
  fi
}

is_running() { as_owner "$bin/pg_ctl" -D "$1/data" status >/dev/null 2>&1; }

start() {
  local dir='' port='' fast='' connections=300 try
  while [ $# -gt 0 ]; do
    case $1 in
      --port) port=$2; shift 2 ;;
      --fast) fast=1; shift ;;
      --max-connections) connections=$2; shift 2 ;;
      *) dir=$(realpath -m "$1"); shift ;;
    esac
  done
  [ -n "$dir" ] || fail 'start needs a folder'
  bin=$(find_bin) || fail 'no Postgres here; run: scripts/postgres-test.sh install'
  has_vector "$bin" || fail 'Postgres has no pgvector; run: scripts/postgres-test.sh install'
  if ! is_running "$dir"; then
    [ -f "$dir/data/PG_VERSION" ] || make_cluster "$dir" "$connections" "$fast"
    # Another process may take a port between the look and the start, hence the tries.
    for try in 1 2 3 4 5; do
      launch "$dir" "${port:-$(free_port)}" && break
      if [ -n "$port" ] || [ "$try" = 5 ]; then tail -n 20 "$dir/log" >&2; fail "the cluster in $dir does not start"; fi
    done
  fi
  echo "TEST_DATABASE_URL=postgres://postgres@127.0.0.1:$(sed -n 4p "$dir/data/postmaster.pid")/postgres"
}

make_cluster() {
  local dir=$1
  mkdir -p "$dir"
  [ "$(id -u)" != 0 ] || chown postgres: "$dir"
  as_owner "$bin/initdb" -D "$dir/data" -U postgres -A trust -E UTF8 --locale=C.UTF-8 --no-sync >/dev/null
  as_owner tee -a "$dir/data/postgresql.conf" >/dev/null <<CONF
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = $2
shared_buffers = 256MB
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] %d '
CONF
  [ -z "$3" ] || printf 'fsync = off\nfull_page_writes = off\n' | as_owner tee -a "$dir/data/postgresql.conf" >/dev/null
}

launch() { as_owner "$bin/pg_ctl" -D "$1/data" -w -t 60 -l "$1/log" -o "-p $2" start >/dev/null 2>&1 </dev/null; }

free_port() {
  local port
  while :; do
    port=$((20000 + RANDOM % 12000))
    (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
  done
}

stop() {
  local dir
  dir=$(realpath -m "${1:?stop needs a folder}")
  bin=$(find_bin) || return 0
  if is_running "$dir"; then as_owner "$bin/pg_ctl" -D "$dir/data" -w -t 60 -m immediate stop >/dev/null; fi
  if [ "${2:-}" = --delete ] && [ -f "$dir/data/PG_VERSION" ]; then rm -rf "$dir"; fi
}

command=${1:-}
[ $# -eq 0 ] || shift
case $command in
  install | start | stop) "$command" "$@" ;;
  *) sed -n '2,13s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
