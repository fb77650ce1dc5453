#!/usr/bin/env bash
# Builds the image that cells are made from: the agent (fetched, checked by hash), a base, the tools.
#
#   containerfiles/build.sh OUT_TAG
#
# `noclaw image build` runs it, and tests what it built before it serves. Podman is the service at
# $NOCLAW_PODMAN, or the user's own. Progress goes to stdout, details to stderr. It may be interrupted
# at any time: what is half done has no name yet, and the next attempt starts from what is whole.
set -eu

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/noclaw/agent
podman=(podman ${NOCLAW_PODMAN:+--url "unix://$NOCLAW_PODMAN"})
upstream=debian:trixie-slim

fail() { # STATUS MESSAGE HINT
    printf 'image: %s\nhint: %s\n' "$2" "$3" >&2
    exit "$1"
}

# The hash of everything that decides what is built; `noclaw image status` compares it.
recipe() {
    cd "$here"
    cat Containerfile agent-requirements.txt packages.txt base.sh build.sh | sha256sum | cut -d' ' -f1
}

packages() { sed -e 's/#.*//' -e '/^ *$/d' -e 's/ *$//' "$here/packages.txt" | paste -sd ,; }

# Sets $agent, a folder with `claude` and `claude.version`, named after the pin it was checked by.
# Its name appears when it is whole: who finds it needs no second check.
fetch_agent() {
    local pin
    pin=$(sha256sum <"$here/agent-requirements.txt" | cut -c1-16)
    agent=$cache/$pin-$(uname -m)
    if [ -x "$agent/claude" ]; then
        echo "step 1/3 the agent: fetched already"
        return
    fi
    echo "step 1/3 the agent: fetching (about 170 MB)"
    python3 -m pip --version >/dev/null 2>&1 ||
        fail 69 "Python's pip is missing, which fetches the agent" "install the package python3-pip"
    python3 -m pip download --disable-pip-version-check --no-cache-dir --no-deps --only-binary :all: \
        --require-hashes -r "$here/agent-requirements.txt" -d "$work/wheel" >&2 ||
        fail 69 "the agent could not be fetched" "is pip set up for a package index that has it?"
    python3 -m zipfile -e "$work"/wheel/*.whl "$work/wheel"
    chmod 755 "$work/wheel/claude_agent_sdk/_bundled/claude"
    # Another build may have been faster.
    mv -T "$work/wheel/claude_agent_sdk/_bundled" "$agent" || [ -x "$agent/claude" ]
}

# A base made here is good for a month: its packages don't get newer by themselves.
base_is_fresh() { # TAG
    local made month=2592000
    [ "$("${podman[@]}" image inspect --format '{{index .Labels "io.noclaw.packages"}}' "$1" \
        2>/dev/null)" = "$(packages)" ] || return 1
    made=$("${podman[@]}" image inspect --format '{{.Created.Unix}}' "$1")
    [ $(($(date +%s) - made)) -lt $month ]
}

# Sets $base and $network. Without a terminal Podman never asks which registry a short name means; it
# fails, and so it does without a registry. Either way there is still the machine's own distribution.
find_base() {
    local status=0 reason
    echo "step 2/3 the base: asking the container registry for $upstream"
    base=$(timeout 60 "${podman[@]}" pull --quiet "$upstream" </dev/null 2>"$work/pull") || status=$?
    network=()
    [ "$status" != 0 ] || return 0
    cat "$work/pull" >&2
    case $status:$(<"$work/pull") in
        124:*) reason="it did not answer within 60 s" ;;
        *short-name*) reason="no registry is named for it in registries.conf" ;;
        *) reason="no registry was reached" ;;
    esac
    base=localhost/noclaw-base:$(sed -n 's/^VERSION_CODENAME="\{0,1\}\([a-z]*\).*/\1/p' /etc/os-release)
    network=(--network=none)
    if base_is_fresh "$base"; then
        echo "step 2/3 the base: $reason; using $base, made here before"
    else
        echo "step 2/3 the base: $reason; making one from this machine's packages (about a minute)"
        "$here/base.sh" "$base" >&2
    fi
}

build() { # TAG
    echo "step 3/3 the image: building"
    mkdir "$work/context"
    cp "$here/Containerfile" "$here/packages.txt" "$work/context"
    ln "$agent/claude" "$work/context/claude"
    "${podman[@]}" build --pull=never "${network[@]}" --build-arg BASE="$base" \
        --label io.noclaw.agent="$version" --label io.noclaw.recipe="${NOCLAW_RECIPE:-$(recipe)}" \
        --tag "$1" "$work/context" </dev/null >&2 ||
        fail 70 "the image could not be built" "Podman's own words are above"
    # Images that had a name before and serve nobody any more.
    "${podman[@]}" image prune --force --filter label=io.noclaw.recipe >/dev/null || true
}

main() {
    [ $# = 1 ] || fail 64 "no name for the image" "containerfiles/build.sh OUT_TAG"
    mkdir -p "$cache"
    find "$cache" -maxdepth 1 -name 'build.*' -mmin +1440 -exec rm -rf {} + # left by a kill -9
    # In the cache and not in /tmp, so that the agent can be linked and renamed and is never copied.
    work=$(mktemp -d "$cache/build.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    trap 'exit 130' INT # also when the child of the moment takes it for an error of its own
    fetch_agent
    version=$(cut -d' ' -f1 "$agent/claude.version")
    find_base
    build "$1"
    echo "built: $1, Claude Code $version"
}

main "$@"
exit
