#!/bin/sh
# Makes sure that what the Makefile needs from the machine is there.
#
#   need.sh commands NAME=PACKAGE...            the commands, each with its Debian package
#   need.sh venv FOLDER PYTHON NAME=PACKAGE...  the commands, and a new virtual environment, made by
#                                               the first Python >= 3.11
#
# Packages are installed when that is possible without a question: as root, or through sudo without
# a password. Otherwise the one command that is missing is printed, and the exit code is 1.
#
# Debian's packages of Prometheus (port 9090), VictoriaMetrics (8428), memcached (11211), nginx (80)
# and HAProxy bring services of their own. They are not started here, but a machine that runs systemd
# starts them when it boots; `systemctl disable prometheus victoria-metrics memcached nginx haproxy`
# prevents that.
# The demo, the tests and the benchmark start their own on other ports and do not need them.
set -eu

# Where Debian has nginx, HAProxy and logrotate, and not every user looks.
PATH=$PATH:/usr/sbin

stop() {
    printf '%s\n' "$@" >&2
    exit 1
}

missing=""
packages=""

# want NAME PACKAGE: note that this is missing, and which package has it.
want() {
    missing="$missing $1"
    case "$packages " in
        *" $2 "*) ;;
        *) packages="$packages $2" ;;
    esac
}

want_commands() {
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null || want "${pair%%=*}" "${pair#*=}"
    done
}

# Have Debian's invoke-rc.d start nothing until this script ends, unless somebody governs that already.
hold_services() {
    policy=/usr/sbin/policy-rc.d
    [ ! -e "$policy" ] || return 0
    trap '$as_root rm -f "$policy"' EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
    $as_root chmod 755 "$policy"
}

install_wanted() {
    [ -n "$missing" ] || return 0
    install="apt-get install --yes --no-install-recommends$packages"
    if ! command -v apt-get >/dev/null; then
        stop "missing:$missing; please install:$packages"
    elif [ "$(id -u)" -eq 0 ]; then
        as_root=""
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        as_root="sudo -n"
    else
        stop "missing:$missing; please run:" "  sudo $install"
    fi
    echo "missing:$missing; running: $install"
    hold_services
    apt="$as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300"
    install="$apt install --yes --no-install-recommends$packages"
    # A new machine has no package lists yet, and old lists may name files that are gone.
    $install >/dev/null 2>&1 || {
        $apt update >/dev/null
        $install >/dev/null
    }
}

find_python() {
    for python in "$1" python3 python3.14 python3.13 python3.12 python3.11; do
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && return
    done
    stop "no Python of version 3.11 or later found; make PYTHON=... names one"
}

make_venv() {
    folder=$1
    find_python "$2"
    shift 2
    if ! "$python" -c 'import ensurepip' 2>/dev/null; then
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        want "ensurepip for $python" "python$version-venv"
    fi
    want_commands "$@"
    install_wanted
    "$python" -m venv --clear "$folder"
}

case "${1:-}" in
    commands)
        shift
        want_commands "$@"
        install_wanted
        ;;
    venv)
        shift
        make_venv "$@"
        ;;
    *) stop "usage: need.sh commands NAME=PACKAGE... | venv FOLDER PYTHON NAME=PACKAGE..." ;;
esac
