#!/bin/sh
# Makes or repairs the environment in .venv. It counts as ready only when a stamp says that a whole install of this
# very constraints.txt and pyproject.toml was completed at this very place, so an interrupted install repairs itself.
#   PYTHON=/path/to/python sh scripts/setup.sh     builds from that interpreter
set -eu
cd "$(dirname "$0")/.."

VENV=.venv
VENV_PYTHON=$VENV/bin/python
STAMP=$VENV/.spectune-installed
NEEDED_MB=3000
NEEDED_WITH_CUDA_MB=8000
LEFT_MB=300
CANDIDATES="python3.11 python3.12 python3.13 python3 python"
CHECK_VERSION='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))'
CHECK_VENV='import ensurepip, venv'

fail() {
    echo "setup: $1" >&2
    exit 1
}

# An interpreter is judged by running it: a shim on the PATH may name a version that is not installed.
runs() {
    "$1" -c "$2" >/dev/null 2>&1
}

find_python() {
    without_venv=
    if [ -n "${PYTHON:-}" ]; then
        runs "$PYTHON" "$CHECK_VERSION" || fail "PYTHON=$PYTHON is not a Python 3.11, 3.12 or 3.13 that runs; name another one"
        set -- "$PYTHON"
    else
        # shellcheck disable=SC2086  # a list of words
        set -- $CANDIDATES
    fi
    for candidate in "$@"; do
        runs "$candidate" "$CHECK_VERSION" || continue
        if runs "$candidate" "$CHECK_VENV"; then
            FOUND=$candidate
            return
        fi
        without_venv=${without_venv:-$candidate}
    done
    if [ -n "$without_venv" ]; then
        version=$("$without_venv" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        fail "$without_venv has no venv module; install it (Debian, Ubuntu: apt install python$version-venv) or name another Python with PYTHON=/path/to/python"
    fi
    fail "no Python 3.11, 3.12 or 3.13 found; install one (python.org, your packages, pyenv, uv) or name it with PYTHON=/path/to/python"
}

free_mb() {
    df -Pk . | awk 'NR == 2 { print int($4 / 1024) }'
}

check_disk() {
    free=$(free_mb)
    [ "${free:-0}" -ge "$NEEDED_MB" ] ||
        fail "only ${free:-0} MB free here; make room for $NEEDED_MB MB ($NEEDED_WITH_CUDA_MB MB with NVIDIA's packages), or unpack the project on a larger disk"
}

# What pip said is above; a full disk it only names somewhere in a traceback.
fail_to_install() {
    free=$(free_mb)
    [ "${free:-0}" -ge "$LEFT_MB" ] ||
        fail "the disk is full (${free:-0} MB left); make room for $NEEDED_MB MB ($NEEDED_WITH_CUDA_MB MB with NVIDIA's packages) and run the same command again"
    fail "the install failed (see above); with the network or the package index mended, run the same command again"
}

# What the stamp must hold: the hash of the two files, and the place, since a moved environment points at the old one.
signature() {
    "$VENV_PYTHON" -c '
import hashlib, os
print(hashlib.sha256(b"".join(open(name, "rb").read() for name in ("constraints.txt", "pyproject.toml"))).hexdigest())
print(os.getcwd())'
}

ready() {
    [ -f "$STAMP" ] && runs "$VENV_PYTHON" "$CHECK_VERSION" && [ "$(cat "$STAMP")" = "$(signature)" ]
}

same_version_as_asked() {
    [ -z "${PYTHON:-}" ] || [ "$("$PYTHON" -c 'import sys; print(sys.version_info[:2])' 2>/dev/null)" = \
        "$("$VENV_PYTHON" -c 'import sys; print(sys.version_info[:2])')" ]
}

# Only an environment with a working Python and pip, made at this place, is worth repairing; any other is rebuilt.
repairable() {
    runs "$VENV_PYTHON" "$CHECK_VERSION" && runs "$VENV_PYTHON" 'import pip._internal.cli.main' &&
        { [ ! -f "$STAMP" ] || [ "$(sed -n 2p "$STAMP")" = "$(pwd -P)" ]; }
}

if ready && same_version_as_asked; then
    exit 0
fi

if repairable && same_version_as_asked; then
    echo "setup: completing the environment in $VENV"
    "$VENV_PYTHON" scripts/forget_broken_packages.py
    runs "$VENV_PYTHON" 'import torch' || check_disk
else
    find_python
    check_disk
    echo "setup: making the environment in $VENV with $FOUND"
    "$FOUND" -m venv --clear "$VENV" || fail "$FOUND could not make $VENV; delete $VENV and try again, or name another Python with PYTHON=/path/to/python"
fi

rm -f "$STAMP"
echo "setup: installing (a download of about 0.5 GB without, 3 GB with NVIDIA's packages); this takes minutes"
"$VENV_PYTHON" -m pip install --quiet -c constraints.txt -e '.[dev]' || fail_to_install
signature >"$STAMP.part"
mv "$STAMP.part" "$STAMP"
echo "setup: ready"
