#!/usr/bin/env bash
# Builds the image that cells are made from: the agent (fetched, checked by hash), a base, the tools.
#
#   containerfiles/build.sh OUT_TAG      builds it; OUT_TAG moves only to an image that works
#   containerfiles/build.sh --recipe     prints the hash of everything that decides what is built
#
# `noclaw image build` runs it. Podman is the service at $NOCLAW_PODMAN, or the user's own. Progress
# goes to stdout, a line a step; details to stderr. It may be interrupted at any time: what is half
# done has no name yet, and the next attempt starts from what is whole.
set -eu

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/noclaw/agent
podman=(podman ${NOCLAW_PODMAN:+--url "unix://$NOCLAW_PODMAN"})
upstream=debian:trixie-slim

fail() { # STATUS MESSAGE HINT
    printf 'image: %s\nhint: %s\n' "$2" "$3" >&2
    exit "$1"
}

recipe() {
    (cd "$here" && sha256sum Containerfile agent-requirements.txt base.sh build.sh packages.txt) |
        sha256sum | cut -d' ' -f1
}

packages() { sed -e 's/#.*//' -e '/^ *$/d' -e 's/ *$//' "$here/packages.txt" | paste -sd ,; }

# Sets $agent, a folder with `claude` and `claude.version`, named after the pin it was checked by.
# Its name appears when it is whole: who finds it needs no second check.
fetch_agent() {
    local pin
    pin=$(sha256sum <"$here/agent-requirements.txt" | cut -c1-16)
    agent=$cache/$pin-$(uname -m)
    if [ -x "$agent/claude" ]; then
        echo "step 1/4 the agent: fetched already"
        return
    fi
    echo "step 1/4 the agent: fetching (about 170 MB)"
    python3 -m pip download --disable-pip-version-check --no-cache-dir --no-deps --only-binary :all: \
        --require-hashes -r "$here/agent-requirements.txt" -d "$work/wheel" >&2 ||
        fail 69 "the agent could not be fetched" "is pip set up for a package index that has it?"
    python3 -m zipfile -e "$work"/wheel/*.whl "$work/wheel"
    chmod 755 "$work/wheel/claude_agent_sdk/_bundled/claude"
    rm -rf "$agent"
    mv "$work/wheel/claude_agent_sdk/_bundled" "$agent"
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
    echo "step 2/4 the base: asking the container registry for $upstream"
    base=$(timeout 60 "${podman[@]}" pull --quiet "$upstream" </dev/null 2>"$work/pull") || status=$?
    network=(--network=private)
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
        echo "step 2/4 the base: $reason; using $base, made here before"
    else
        echo "step 2/4 the base: $reason; making one from this machine's packages (about a minute)"
        "$here/base.sh" "$base" >&2
    fi
}

build() {
    echo "step 3/4 the image: building"
    mkdir "$work/context"
    cp "$here/Containerfile" "$here/packages.txt" "$work/context"
    ln "$agent/claude" "$work/context/claude"
    "${podman[@]}" build --pull=never "${network[@]}" --build-arg BASE="$base" \
        --build-arg AGENT_VERSION="$version" --build-arg RECIPE="$(recipe)" \
        --iidfile "$work/id" "$work/context" </dev/null >&2 ||
        fail 70 "the image could not be built" "Podman's own words are above"
    image=$(<"$work/id")
}

# Runs the agent as a cell would, before the tag moves. It also makes Podman's copy of the image for
# this mapping of users, which the first message would wait for.
check() {
    local said
    echo "step 4/4 the image: checking"
    said=$("${podman[@]}" run --rm --network none --read-only --cap-drop all \
        --security-opt no-new-privileges --userns keep-id:uid=1000,gid=1000 \
        "$image" claude --version </dev/null) || said="nothing"
    [ "$said" = "$version (Claude Code)" ] ||
        fail 70 "the agent in the new image says '$said', not '$version'" "the old image still serves"
}

# The image that had the name before goes, unless a cell is still made of it.
name() { # TAG
    local old
    old=$("${podman[@]}" image inspect --format '{{.Id}}' "$1" 2>/dev/null) || old=''
    "${podman[@]}" tag "$image" "$1"
    [ -z "$old" ] || [ "sha256:$old" = "$image" ] || [ "$old" = "$image" ] ||
        "${podman[@]}" image rm "$old" >/dev/null 2>&1 || true
    echo "done: $1 is Claude Code $version"
}

main() {
    case ${1:-} in
        --recipe) recipe && return ;;
        '' | -*) fail 64 "no name for the image" "containerfiles/build.sh OUT_TAG" ;;
    esac
    mkdir -p "$cache"
    # In the cache and not in /tmp, so that the agent can be linked and renamed and is never copied.
    work=$(mktemp -d "$cache/build.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    fetch_agent
    version=$(cut -d' ' -f1 "$agent/claude.version")
    find_base
    build
    check
    name "$1"
}

main "$@"
exit
