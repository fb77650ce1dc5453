#!/usr/bin/env bash
# Names what is missing on this machine to build and run NoClaw, and installs it: on a terminal after
# asking; at once with YES=1, or as root without a terminal. Otherwise it prints the command and exits
# 69. Silent and quick when nothing is missing. It knows Debian's and Fedora's families. With --checks:
# also what `make check` needs; with --vm: what `make vm-test` does; with --deb or --rpm: what
# `make deb` or `make rpm` does.
set -eu

# What is looked for, the package that has it in Debian and in Fedora ("-": not needed there), why.
needs='
podman          podman             podman           makes the cells
crun            crun               crun             starts them
newuidmap       uidmap             shadow-utils     gives a user the ids of a cell
slirp4netns     slirp4netns        passt            network while the image is built
catatonit       catatonit          catatonit        holds the namespaces of a user
netavark        netavark           netavark         a part of Podman
dbus-user       dbus-user-session  -                systemd makes the cgroups of cells with it
mmdebstrap      mmdebstrap         -                makes an image without a container registry
pip             python3-pip        python3-pip      fetches the agent
gcc             gcc                gcc              links
libc.a          libc6-dev          glibc-static     links the program in the cell statically
curl            curl               curl             asks the service whether it is ready
flock           util-linux         util-linux-core  the test ground
setpriv         util-linux         util-linux       the test ground
systemd-analyze systemd            systemd          hands sockets to the service in tests, checks its units
git             git                git              keeps the source
ca-roots        ca-certificates    ca-certificates  TLS to the model
zones           tzdata             tzdata           time zones of users
script          bsdutils           util-linux-script gives a test a terminal
'
[ "${1:-}" != --checks ] || needs+='
shellcheck      shellcheck         ShellCheck       checks these scripts
'
[ "${1:-}" != --deb ] || needs+='
shlibdeps       dpkg-dev           -                names the libraries that the package needs
lintian         lintian            -                checks the package
'
[ "${1:-}" != --rpm ] || needs+='
rpmbuild        rpm                rpm-build        makes the package
rpmlint         rpmlint            rpmlint          checks it
'
[ "${1:-}" != --vm ] || needs+='
qemu            qemu-system-x86    -                runs a machine; 8 or newer (7.2 corrupts it without KVM)
mke2fs          e2fsprogs          e2fsprogs        makes its disk
debian-keys     debian-archive-keyring -            signed its packages
'

any() { # FILE…
    local file
    for file; do [ ! -e "$file" ] || return 0; done
    return 1
}

present() { # NAME: commands, but also helpers outside of the PATH, modules and files
    case $1 in
        slirp4netns) command -v slirp4netns || command -v pasta ;;
        catatonit | netavark) command -v "$1" || any /usr/lib{,exec}/podman/"$1" ;;
        dbus-user) ! any /run/systemd/system || any /usr/lib/systemd/user/dbus.socket ;;
        # The test ground's user has the system's Python; a person may have another one.
        pip) any /usr/lib/python3*/{dist,site}-packages/pip || { [ "$EUID" != 0 ] && command -v pip3; } ;;
        libc.a) any /usr/lib/*-linux-gnu/libc.a /usr/lib64/libc.a /usr/lib/libc.a ;;
        ca-roots) any /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt ;;
        zones) any /usr/share/zoneinfo/Europe/Berlin ;;
        qemu) qemu_is_new ;;
        shlibdeps) command -v dpkg-shlibdeps ;;
        mke2fs) any /sbin/mke2fs /usr/sbin/mke2fs ;;
        debian-keys) any /usr/share/keyrings/debian-archive-keyring.* ;;
        *) command -v "$1" ;;
    esac >/dev/null
}

qemu_is_new() {
    local major
    major=$(qemu-system-x86_64 --version 2>/dev/null | sed -n '1s/.* version \([0-9]*\).*/\1/p')
    [ "${major:-0}" -ge 8 ]
}

say() { printf '%s\n' "$@" >&2; }

# Sets $family and $command; there is no other package manager that this script would guess at.
find_manager() {
    if command -v apt-get >/dev/null && [ -e /etc/debian_version ]; then
        family=debian
        install='apt-get install -y --no-install-recommends'
        command="apt-get update && $install"
        codename=$(sed -n 's/^VERSION_CODENAME="\{0,1\}\([a-z]*\).*/\1/p' /etc/os-release)
    elif command -v dnf >/dev/null; then
        family=fedora
        command='dnf install -y'
    else
        family=unknown
        command=''
    fi
}

# The mirror that this machine's own release comes from, as apt's sources have it.
own_mirror() {
    # shellcheck disable=SC2016 # apt's own variables; one that it knows no value of stays as it is
    apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN)' \
        'Created-By: Packages' | awk -v suite="$codename" \
        '$2 == suite && $3 == "main" && $4 ~ /^(Debian|\$\(ORIGIN\))$/ { print $1; exit }'
}

# Debian 12's own QEMU is too old. Its backports have a newer one; apt takes nothing from there that
# was not asked for by name.
prefer_backports() {
    local suite=$codename-backports known
    case "$codename $packages" in bookworm\ *qemu-system-x86*) ;; *) return 0 ;; esac
    # shellcheck disable=SC2016
    known=" $(apt-get indextargets --format '$(RELEASE)' | tr '\n' ' ')"
    command="apt-get update && $install -t $suite qemu-system-x86 && $install"
    case $known in *" $suite "*) return ;; esac
    command="echo 'deb $(own_mirror) $suite main' >/etc/apt/sources.list.d/$suite.list && $command"
}

# Sets $packages, and $missing: a line each for a person.
find_missing() {
    local name debian fedora why package
    packages='' missing=''
    while read -r name debian fedora why; do
        if [ -z "$name" ] || present "$name"; then continue; fi
        case $family in fedora) package=$fedora ;; *) package=$debian ;; esac
        [ "$package" != - ] || continue
        missing+="  $package: $why"$'\n'
        case " $packages " in *" $package "*) ;; *) packages+="${packages:+ }$package" ;; esac
    done <<<"$needs"
}

allowed() {
    local answer
    [ "${YES:-}" != 1 ] || return 0
    if [ -t 0 ] && [ -t 2 ]; then
        read -r -p 'Install them now? [y/N] ' answer
        [[ $answer = [yY]* ]]
    else
        [ "$EUID" = 0 ]
    fi
}

install_them() {
    local as_root=()
    if [ "$EUID" != 0 ]; then
        as_root=(sudo)
        command -v sudo >/dev/null || return 69
    fi
    # stdout is the reply's, never a package manager's
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive sh -c "$command $packages" </dev/null >&2
}

check_cargo() {
    command -v cargo >/dev/null && return
    say "missing: cargo, with the toolchain that rust-toolchain.toml names" \
        "hint: install it with rustup; a distribution's own is mostly too old"
    exit 69
}

find_manager
if [ "${1:-}" = --mirror ]; then # prints it; nothing when the distribution is not Debian
    [ "$family" != debian ] || own_mirror
    exit
fi
find_missing
[ "$family" != debian ] || prefer_backports
if [ -n "$packages" ]; then
    say "missing on this machine:" "${missing%$'\n'}"
    if [ "$family" = unknown ]; then
        say "hint: install these, or what is their like here (the names are Debian's)"
        exit 69
    fi
    say "to install: $command $packages"
    if ! allowed || ! install_them; then
        say "hint: run, as root: $command $packages"
        exit 69
    fi
    find_missing
    [ -z "$packages" ] || { say "still missing: $packages" && exit 69; }
fi
check_cargo
