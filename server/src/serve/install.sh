#!/bin/sh
# Makes this machine a device of the muster server at @URL@
#
#   curl -fsSk --pinnedpubkey @PIN@ @URL@/install.sh |
#       MUSTER_ENROLL_TOKEN=TOKEN sudo --preserve-env=MUSTER_ENROLL_TOKEN sh -s
#
# What each error code means, and what to do: docs/joining.md.
set -eu

URL='@URL@'
PIN='@PIN@'
# One line for each architecture: its name, and the SHA-256 of its agent.
AGENTS='@AGENTS@'

usage() {
    cat <<EOF
usage: MUSTER_ENROLL_TOKEN=TOKEN sh -s -- [--name NAME] [--label KEY=VALUE]... [--force] [--no-start]

  MUSTER_ENROLL_TOKEN   the enrollment token (mse_...); not an argument, which every user of this
                        machine could read
  --token-file          a file that contains it instead
  --name       the device's name; default: derived from the host name
  --label      a label of the device
  --force      enroll although this machine is already a device
  --no-start   install and enroll, but do not start the agent

MUSTER_PREFIX (/usr/local) is where the agent is installed, MUSTER_AGENT_DATA
(/var/lib/muster-agent) where it keeps its keys and its events.
EOF
}

step() { printf '%s %s\n' "[$1/6]" "$2" >&2; }
good() { printf '      %s\n' "$1" >&2; }
fail() {
    printf '\nerror %s: %s\n       %s\n       (%s in docs/joining.md)\n' "$1" "$2" "$3" "$1" >&2
    exit 1
}

fetch() { # from, to
    curl -fsSk --pinnedpubkey "$PIN" --connect-timeout 15 --retry 3 -o "$2" "$URL$1"
}

check_machine() {
    [ "$(uname -s)" = Linux ] || fail M01 "this is $(uname -s), not Linux" "the agent runs on Linux"
    for tool in curl sha256sum mktemp uname; do
        command -v "$tool" >/dev/null 2>&1 ||
            fail M02 "$tool is missing" "install it with this system's package manager, and run the same line again"
    done
    # All users may run the agent; only its own user may read the data folder.
    (umask 022 && mkdir -p "$PREFIX/bin" "$(dirname "$DATA")") 2>/dev/null &&
        mkdir -p "$DATA" 2>/dev/null && [ -w "$PREFIX/bin" ] && [ -w "$DATA" ] ||
        fail M03 "cannot write to $PREFIX/bin and $DATA" "run it as root: ... | sudo --preserve-env=MUSTER_ENROLL_TOKEN sh -s"
    arch=$(uname -m)
    hash=$(printf '%s\n' "$AGENTS" | while read -r name sum; do
        [ "$name" = "$arch" ] && printf '%s' "$sum"
    done || true)
    if [ -z "$hash" ]; then
        have=$(printf '%s\n' "$AGENTS" | while read -r name sum; do printf '%s ' "$name"; done)
        fail M04 "this server has no agent for $arch (it has: ${have:-none})" \
            "build one, and put it next to the server as muster-agent-$arch: see docs/joining.md"
    fi
    good "$arch, $(. /etc/os-release 2>/dev/null && printf '%s' "${PRETTY_NAME:-Linux}" || printf Linux)"
}

download() {
    new=$(mktemp "$PREFIX/bin/.muster-agent.XXXXXX")
    trap 'rm -f "$new" "${secret:-}"' EXIT INT TERM
    fetch "/agent/$arch" "$new" ||
        fail M05 "the agent could not be downloaded from $URL" \
            "check that the server is reachable from here, and that the line is as the server printed it: a server with another key is refused"
}

check() {
    sum=$(sha256sum "$new" | cut -d' ' -f1)
    [ "$sum" = "$hash" ] ||
        fail M06 "the downloaded agent has the hash $sum, not $hash as announced by the server" \
            "run the same line again; if the error persists, a proxy between here and the server modifies downloads"
    good "$sum"
}

install_agent() {
    chmod 755 "$new"
    version=$("$new" --version 2>&1) ||
        fail M07 "the agent does not run here: $version" \
            "it needs the C library that it was linked with or a newer one, and a file system that is not mounted noexec"
    mv -f "$new" "$AGENT"
    good "$AGENT ($version)"
}

enroll() {
    if [ -z "$force" ] && known=$("$AGENT" --data "$DATA" status --json 2>/dev/null); then
        name=$(printf '%s' "$known" | sed -n 's/^ *"name": *"\([^"]*\)".*/\1/p' | head -n 1)
        good "this machine is already the device ${name:-of unknown name}; its agent is updated (--force enrolls it again)"
        return
    fi
    [ -n "$token" ] || fail M08 "no enrollment token was given" "create one: muster token create"
    secret=$(mktemp "$DATA/.token.XXXXXX")
    printf '%s' "$token" >"$secret"
    "$AGENT" --data "$DATA" enroll --url "$URL" --token-file "$secret" "$@" >&2 ||
        fail M09 "the server refused the enrollment" \
            "see the reason above; if the token has expired or is used up, create another: muster token create"
    rm -f "$secret"
}

# The proxy settings of this machine, for the unit.
proxies() {
    for name in HTTPS_PROXY https_proxy ALL_PROXY all_proxy NO_PROXY no_proxy; do
        eval "value=\${$name:-}"
        # systemd expands %.
        [ -z "$value" ] || printf 'Environment="%s=%s"\n' "$name" "$value" | sed 's/%/%%/g'
    done
}

start() {
    if [ -d /run/systemd/system ] && [ "$PREFIX" = /usr/local ]; then
        cat >/etc/systemd/system/muster-agent.service <<EOF
[Unit]
Description=muster agent
Documentation=$URL/docs
Wants=network-online.target
After=network-online.target

[Service]
ExecStart=$AGENT --data $DATA run
$(proxies)
Restart=always
RestartSec=2
KillMode=mixed
WatchdogSec=120

[Install]
WantedBy=multi-user.target
EOF
        # It may contain the proxy's password.
        chmod 600 /etc/systemd/system/muster-agent.service
        systemctl daemon-reload && systemctl enable --quiet muster-agent.service &&
            systemctl restart muster-agent.service ||
            fail M10 "systemd could not start the agent" "see: systemctl status muster-agent; journalctl -u muster-agent"
        good "systemd unit muster-agent.service"
        return
    fi
    if [ -f "$DATA/agent.pid" ]; then
        old=$(cat "$DATA/agent.pid")
        # Only if that process is an agent: another process may have the number now.
        case $(cat "/proc/$old/cmdline" 2>/dev/null | tr '\0' ' ') in
        *muster-agent*)
            kill "$old" 2>/dev/null || true
            # It has a few seconds to stop cleanly; two agents cannot share a folder.
            for _ in 1 2 3 4 5 6 7 8 9 10; do
                kill -0 "$old" 2>/dev/null || break
                sleep 1
            done
            kill -9 "$old" 2>/dev/null || true
            ;;
        esac
    fi
    : >>"$DATA/agent.log"
    # The agent's children create files with the default modes.
    umask 022
    nohup "$AGENT" --data "$DATA" run >>"$DATA/agent.log" 2>&1 </dev/null &
    echo $! >"$DATA/agent.pid"
    good "systemd does not run here: the agent runs in the background until the next reboot (log: $DATA/agent.log)"
}

wait_online() {
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30; do
        case $("$AGENT" --data "$DATA" status --json 2>/dev/null | tr -d ' \n') in
        *'"connected_since":"'*)
            good "connected"
            return
            ;;
        esac
        sleep 1
    done
    fail M11 "the agent runs, but is not connected after 30 seconds" \
        "diagnose it: $AGENT --data $DATA doctor"
}

main() {
    PREFIX=${MUSTER_PREFIX:-/usr/local}
    DATA=${MUSTER_AGENT_DATA:-/var/lib/muster-agent}
    AGENT=$PREFIX/bin/muster-agent
    token=${MUSTER_ENROLL_TOKEN:-} force='' run=yes
    # Child processes do not inherit it.
    unset MUSTER_ENROLL_TOKEN
    umask 077
    # Arguments for `enroll` are appended to the list.
    count=$#
    while [ "$count" -gt 0 ]; do
        word=$1
        shift
        count=$((count - 1))
        case $word in
        -h | --help)
            usage
            exit 0
            ;;
        --force)
            force=yes
            set -- "$@" --force
            ;;
        --no-start) run='' ;;
        --name | --label)
            [ "$count" -gt 0 ] || fail M12 "$word needs a value" "see --help: ... | sh -s -- --help"
            set -- "$@" "$word" "$1"
            shift
            count=$((count - 1))
            ;;
        --token-file)
            [ "$count" -gt 0 ] || fail M12 "$word needs a value" "see --help: ... | sh -s -- --help"
            token=$(cat "$1") || fail M08 "the token file $1 cannot be read" "name another one, or set MUSTER_ENROLL_TOKEN"
            shift
            count=$((count - 1))
            ;;
        mse_*)
            fail M13 "a token was given as an argument, which every user of this machine can read" \
                "set MUSTER_ENROLL_TOKEN, or use --token-file; if others use this machine, revoke that token"
            ;;
        *) fail M12 "'$word' is not an option" "see --help: ... | sh -s -- --help" ;;
        esac
    done
    step 1 'checking this machine'
    check_machine
    step 2 "downloading the agent from $URL"
    download
    step 3 'verifying it'
    check
    step 4 'installing it'
    install_agent
    step 5 'enrolling'
    enroll "$@"
    if [ -z "$run" ]; then
        step 6 "not started, as requested; start it with: $AGENT --data $DATA run"
        return
    fi
    step 6 'starting it'
    start
    wait_online
}

main "$@"
