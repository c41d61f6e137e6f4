#!/bin/sh
# Makes sure that what the Makefile needs from the machine is there.
#
#   need.sh command NAME=PACKAGE...   each command, from its Debian package where it is missing
#   need.sh venv FOLDER PYTHON        a new virtual environment, made by the first Python >= 3.11
#
# Packages are installed when that is possible without a question: as root, or through sudo without
# a password. Otherwise the one command that is missing is printed, and the exit code is 1.
#
# Debian's package of Prometheus brings a service of its own (port 9090), which a machine that runs
# systemd starts after the installation; `systemctl disable --now prometheus` ends it. The demo and
# the tests start their own Prometheus on other ports and do not need it.
set -eu

stop() {
    printf '%s\n' "$@" >&2
    exit 1
}

# install_packages REASON PACKAGE...
install_packages() {
    reason=$1
    shift
    install="apt-get install --yes --no-install-recommends $*"
    if ! command -v apt-get >/dev/null; then
        stop "$reason; please install: $*"
    elif [ "$(id -u)" -eq 0 ]; then
        as_root=""
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        as_root="sudo -n"
    else
        stop "$reason; this command is missing:" "  sudo $install"
    fi
    echo "$reason; running: $install"
    apt="$as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300"
    # A new machine has no package lists yet, and old lists may name files that are gone.
    $apt install --yes --no-install-recommends "$@" >/dev/null 2>&1 || {
        $apt update >/dev/null
        $apt install --yes --no-install-recommends "$@" >/dev/null
    }
}

need_commands() {
    missing=""
    packages=""
    for pair in "$@"; do
        if ! command -v "${pair%%=*}" >/dev/null; then
            missing="$missing ${pair%%=*}"
            packages="$packages ${pair#*=}"
        fi
    done
    # Unquoted: one word a package.
    [ -z "$missing" ] || install_packages "not on the PATH:$missing" $packages
}

make_venv() {
    folder=$1
    for python in "$2" python3 python3.14 python3.13 python3.12 python3.11 ""; do
        [ -n "$python" ] || stop "no Python of version 3.11 or later found (make PYTHON=... names one)"
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break
    done
    if ! "$python" -c 'import ensurepip' 2>/dev/null; then
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        install_packages "$python cannot make virtual environments" "python$version-venv"
    fi
    "$python" -m venv --clear "$folder"
}

case "${1:-}" in
    command) shift; need_commands "$@" ;;
    venv) make_venv "$2" "$3" ;;
    *) stop "usage: need.sh command NAME=PACKAGE... | need.sh venv FOLDER PYTHON" ;;
esac
