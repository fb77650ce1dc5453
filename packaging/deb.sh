#!/usr/bin/env bash
# `make deb`: a package for Debian 12 and newer, and what is made from it. (packaging/README.md says
# why by dpkg-deb alone.)
# shellcheck source=packaging/steps.sh
. "$(dirname "${BASH_SOURCE[0]}")/steps.sh"

version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
version=${NOCLAW_VERSION:-$version} # another one, to try an upgrade
arch=$(dpkg --print-architecture)
stage=$checkout/target/packages/stage
deb=$checkout/target/packages/noclaw_${version}_$arch.deb
# The same source makes the same package: its files are as old as the last change.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md)}
export SOURCE_DATE_EPOCH

# What the program needs of the C library, as Debian names it.
needed_libraries() {
    local work=$checkout/target/packages/shlibs
    mkdir -p "$work/debian"
    printf 'Source: noclaw\n\nPackage: noclaw\nArchitecture: any\n' >"$work/debian/control"
    (cd "$work" && dpkg-shlibdeps -O "$stage/usr/bin/noclaw") | sed 's/^shlibs:Depends=//'
}

control() {
    local size
    size=$(du -sk --apparent-size "$stage/usr" | cut -f1)
    cat <<END
Package: noclaw
Version: $version
Architecture: $arch
Maintainer: NoClaw maintainers <maintainers@noclaw.invalid>
Installed-Size: $size
Depends: $(needed_libraries), podman (>= 4.3), crun, uidmap, slirp4netns | passt, netavark, dbus-user-session, systemd (>= 252)
Recommends: catatonit, ca-certificates, tzdata, python3-pip, mmdebstrap, libpam-systemd
Section: net
Priority: optional
Description: personal assistant that answers in measured containers
 NoClaw is a self-hosted personal AI assistant. Messages come by the command
 line or by HTTP; each is answered by an agent in a fresh rootless container,
 and the agent starts only once that container was measured to be what was
 planned: no network, no key, no capability, a filter of system calls,
 Landlock, limits.
 .
 It runs as a service of an ordinary user, started by the first connection to
 its socket, and never as root.
END
}

copyright() {
    cat <<END
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: NoClaw

Files: *
Copyright: 2026 The NoClaw authors
License: MIT or Apache-2.0

License: MIT
$(sed 's/^$/./; s/^/ /' LICENSE-MIT)

License: Apache-2.0
 On Debian systems, the full text of the Apache License 2.0 is in
 /usr/share/common-licenses/Apache-2.0.
END
}

changelog() {
    cat <<END
noclaw ($version) unstable; urgency=medium

  * See /usr/share/doc/noclaw/NEWS.gz for what is new.

 -- NoClaw maintainers <maintainers@noclaw.invalid>  $(date -ud "@$SOURCE_DATE_EPOCH" -R)
END
}

stage_files() {
    local doc=$stage/usr/share/doc/noclaw
    rm -rf "$stage"
    mkdir -p "$stage/DEBIAN"
    make --no-print-directory install DESTDIR="$stage" PREFIX=/usr >&2
    copyright >"$doc/copyright"
    changelog | gzip -9n >"$doc/changelog.gz"
    gzip -9nc CHANGELOG.md >"$doc/NEWS.gz"
    install -Dm 644 packaging/debian/lintian-overrides "$stage/usr/share/lintian/overrides/noclaw"
    find "$stage" -type d -exec chmod 755 {} +
    control >"$stage/DEBIAN/control"
    install -m 755 packaging/debian/postinst packaging/debian/prerm packaging/debian/postrm \
        "$stage/DEBIAN"
    (cd "$stage" && find usr -type f -print0 | sort -z | xargs -0 md5sum) >"$stage/DEBIAN/md5sums"
    find "$stage" -newermt "@$SOURCE_DATE_EPOCH" -exec touch -hd "@$SOURCE_DATE_EPOCH" {} +
}

packaging/needs.sh --deb
build_release
build_launcher
stage_files
dpkg-deb --root-owner-group --build "$stage" "$deb" >&2
rm -rf "$stage" "$checkout/target/packages/shlibs"
echo "$deb"
