#!/usr/bin/env bash
# Installs what keepwell is measured against: restic, borg, pgBackRest, Barman, PostgreSQL's programs, zstd, openssl; and nginx.
# Repeatable; quiet unless something fails. Needs Debian (or a relative) and root, or sudo, for what is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=.cache/bench
mkdir -p "$cache"

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

want=()
command -v restic >/dev/null || want+=(restic)
command -v zstd >/dev/null || want+=(zstd)
command -v openssl >/dev/null || want+=(openssl)
command -v pgbackrest >/dev/null || want+=(pgbackrest)
[ -x /usr/sbin/nginx ] || want+=(nginx-light)
ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || want+=(postgresql)
if ((${#want[@]})); then
    as_root apt-get -qq update
    # Runlevel 1: nothing is started by its installation.
    as_root env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 install --no-install-recommends \
        "${want[@]}" >"$cache/apt.log" 2>&1 || { cat "$cache/apt.log" >&2; exit 1; }
fi

# borg from PyPI is the current release; Debian's is years older. It compiles, so it needs headers,
# and where that fails Debian's package is the peer (RESULTS.md names the version that was measured).
if [ ! -x "$cache/borg/bin/borg" ]; then
    as_root apt-get -qq update
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 install --no-install-recommends \
        gcc pkg-config libacl1-dev libssl-dev liblz4-dev libzstd-dev libxxhash-dev \
        >"$cache/apt.log" 2>&1 || { cat "$cache/apt.log" >&2; exit 1; }
    "${PYTHON:-python3}" -m venv "$cache/borg"
    if ! "$cache/borg/bin/pip" --disable-pip-version-check -q install borgbackup >"$cache/pip.log" 2>&1; then
        rm -rf "$cache/borg"
        echo "borg does not build here (see $cache/pip.log); taking Debian's" >&2
        command -v borg >/dev/null || as_root env DEBIAN_FRONTEND=noninteractive \
            apt-get -qq -o Dpkg::Use-Pty=0 install --no-install-recommends borgbackup >"$cache/apt.log" 2>&1 ||
            { cat "$cache/apt.log" >&2; exit 1; }
    fi
fi

if [ ! -x "$cache/barman/bin/barman" ]; then
    "${PYTHON:-python3}" -m venv "$cache/barman"
    "$cache/barman/bin/pip" --disable-pip-version-check -q install barman psycopg2-binary >"$cache/pip.log" 2>&1 ||
        { rm -rf "$cache/barman"; cat "$cache/pip.log" >&2; exit 1; }
fi
