# Sourced by ci/uenv and ci/test: prepares this checkout's own Python environment and the system packages it needs.
# It does nothing when all is there. Settings: PYTHON (an interpreter, 3.11 or newer), UENV_VENV (the environment's folder),
# UENV_NO_INSTALL=1 (never install system packages).

say() { printf 'uenv: %s\n' "$*" >&2; }

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    say "Python 3.11 or newer is needed; set PYTHON to its path"
    return 6
}

# Installs those of the given Debian packages that are missing: as root, else with sudo where that asks no password.
install_packages() {
    local missing=() package root=()
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    [ "${#missing[@]}" -gt 0 ] || return 0
    if [ "${UENV_NO_INSTALL:-}" = 1 ] || ! command -v apt-get >/dev/null; then
        say "not installed, and not installing: ${missing[*]}"
        return 0
    fi
    if [ "$(id -u)" -ne 0 ]; then
        if ! sudo -n true 2>/dev/null; then
            say "needs these packages: sudo apt-get install ${missing[*]}"
            return 0
        fi
        root=(sudo -n)
    fi
    say "installing ${missing[*]}"
    "${root[@]}" apt-get -qq update >&2 &&
        DEBIAN_FRONTEND=noninteractive "${root[@]}" apt-get -qq install -y --no-install-recommends \
            -o Dpkg::Use-Pty=0 "${missing[@]}" >&2
}

# prepare EXTRA: makes the virtual environment with this checkout installed in it; EXTRA is "" or "[test]".
prepare() {
    local python stamp wanted
    venv=${UENV_VENV:-$checkout/.venv}
    python=$(find_python) || return
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        install_packages python3-venv
    fi
    wanted=$(cat "$checkout/pyproject.toml" "$checkout/ci/constraints.txt" | cksum)
    stamp="$venv/.uenv-builder$1"
    if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted $checkout" ]; then
        return 0
    fi
    say "preparing the Python environment in ${venv#"$PWD"/}"
    "$python" -m venv "$venv" &&
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
            --constraint "$checkout/ci/constraints.txt" --editable "$checkout$1" >&2 &&
        printf '%s' "$wanted $checkout" > "$stamp"
}

build_packages=(bubblewrap debian-archive-keyring gpgv mount qemu-user-static squashfs-tools squashfuse uidmap util-linux)
test_packages=(busybox-static ca-certificates dpkg-dev gcc git gpg libc6-dev podman runc shellcheck skopeo umoci)
