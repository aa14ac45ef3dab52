# Sourced by ci/uenv and ci/test: prepares this checkout's own Python environment and the system packages it needs.
# It does nothing when all is there. Settings: PYTHON (an interpreter, 3.11 or newer), UENV_VENV (the environment's folder),
# UENV_NO_INSTALL=1 (never install system packages).

say() { printf 'uenv: %s\n' "$*" >&2; }

# Prints the path of the interpreter: PYTHON alone where that is set, else the first that is new enough.
find_python() {
    local candidate found candidates=(python3 python3.14 python3.13 python3.12 python3.11)
    [ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
    for candidate in "${candidates[@]}"; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    found=$("${candidates[0]}" -V 2>&1) || found=missing
    say "Python 3.11 or newer is needed, and ${candidates[0]} is $found; set PYTHON to the path of a newer one"
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
    if ! "${root[@]}" apt-get -qq update >&2 ||
        ! "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends \
            -o Dpkg::Use-Pty=0 "${missing[@]}" >&2; then
        say "apt-get failed, see above; with UENV_NO_INSTALL=1 this goes on without ${missing[*]}"
        return 6
    fi
}

# prepare EXTRA: makes the virtual environment with this checkout installed in it; EXTRA is "" or "[test]".
# The stamp is written last, so that whatever was interrupted is done again.
prepare() {
    local python stamp wanted clear=()
    venv=${UENV_VENV:-$checkout/.venv}
    python=$(find_python) || return
    wanted="$("$python" -V) $(cat "$checkout/pyproject.toml" "$checkout/ci/constraints.txt" | cksum) $checkout"
    stamp="$venv/.uenv-builder$1"
    if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && "$venv/bin/python" -V >/dev/null 2>&1; then
        return 0
    fi
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        install_packages python3-venv
    fi
    # venv keeps the links of the interpreter that was there; another one needs a new environment.
    if [ -e "$venv/pyvenv.cfg" ] && [ "$("$venv/bin/python" -V 2>/dev/null)" != "$("$python" -V)" ]; then
        clear=(--clear)
    fi
    say "preparing the Python environment in ${venv#"$PWD"/}"
    rm -f "$stamp" &&
        "$python" -m venv "${clear[@]}" "$venv" &&
        "$venv/bin/python" -m pip install -qq --disable-pip-version-check \
            --constraint "$checkout/ci/constraints.txt" --editable "$checkout$1" >&2 &&
        printf '%s' "$wanted" > "$stamp"
}

# shellcheck disable=SC2034  # the scripts that source this file read both
build_packages=(bubblewrap debian-archive-keyring gpgv mount qemu-user-static squashfuse uidmap util-linux)
# shellcheck disable=SC2034
test_packages=(busybox-static ca-certificates docker-registry dpkg-dev gcc gcc-aarch64-linux-gnu git gpg libc6-dev munge podman python3 runc shellcheck skopeo slurm-client slurmctld slurmd squashfs-tools umoci)
