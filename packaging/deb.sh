#!/usr/bin/env bash
# `make deb`: a package for Debian 12 and newer, and what is made from it. (packaging/README.md says
# by which tools, and why.)
# shellcheck source=packaging/steps.sh
. "$(dirname "${BASH_SOURCE[0]}")/steps.sh"

version=$(package_version)
SOURCE_DATE_EPOCH=$(package_time)
export SOURCE_DATE_EPOCH
deb=$packages/noclaw_${version}_$(dpkg --print-architecture).deb
work=$packages/source # stays, without the stage: what autopkgtest wants to see of a source
stage=$work/stage

copyright() {
    cat <<END
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: NoClaw
Comment: The program contains the crates of crates.txt, beside this file, under the licences that
 are named there.

Files: *
Copyright: 2026 The NoClaw authors
License: MIT or Apache-2.0

License: MIT
$(sed 's/^$/./; s/^/ /' LICENSE-MIT)

License: Apache-2.0
 Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except in
 compliance with the License. You may obtain a copy of the License at
 .
     http://www.apache.org/licenses/LICENSE-2.0
 .
 Unless required by applicable law or agreed to in writing, software distributed under the License is
 distributed on an "AS IS" BASIS, WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or
 implied. See the License for the specific language governing permissions and limitations under the
 License.
 .
 On Debian systems, the full text of the Apache License 2.0 is in
 /usr/share/common-licenses/Apache-2.0.
END
}

changelog() {
    cat <<END
noclaw ($version) unstable; urgency=medium

  * See /usr/share/doc/noclaw/NEWS.gz for what is new.

 -- NoClaw maintainers <maintainers@noclaw.invalid>  $(LC_ALL=C date -ud "@$SOURCE_DATE_EPOCH" -R)
END
}

stage_files() {
    local doc=$stage/usr/share/doc/noclaw
    make --no-print-directory install DESTDIR="$stage" PREFIX=/usr \
        ZSHDIR=/usr/share/zsh/vendor-completions >&2
    copyright >"$doc/copyright"
    gzip -9nc "$work/debian/changelog" >"$doc/changelog.gz"
    gzip -9nc CHANGELOG.md >"$doc/NEWS.gz"
    crates >"$doc/crates.txt"
    install -Dm 644 packaging/debian/lintian-overrides "$stage/usr/share/lintian/overrides/noclaw"
}

# The control file, with what the program needs of the C library; checksums; scripts.
describe() {
    local control=$stage/DEBIAN
    mkdir -p "$control"
    (cd "$work" && dpkg-shlibdeps -Tsubstvars "$stage/usr/bin/noclaw" &&
        dpkg-gencontrol -Tsubstvars -P"$stage") >&2
    install -m 755 packaging/debian/postinst packaging/debian/prerm packaging/debian/postrm "$control"
    (cd "$stage" && find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum) >"$control/md5sums"
}

# Nothing of who makes it, and when: the same source makes the same package.
pack() {
    find "$stage" -type d -exec chmod 755 {} +
    find "$stage" -newermt "@$SOURCE_DATE_EPOCH" -exec touch -hd "@$SOURCE_DATE_EPOCH" {} +
    dpkg-deb --root-owner-group --uniform-compression -Zxz --threads-max=1 --build "$stage" "$deb" >&2
}

check() { lintian --allow-root --fail-on error,warning "$deb" >&2; }

packaging/needs.sh --deb
build_release
build_launcher
rm -rf "$work"
mkdir -p "$work"
cp -R packaging/debian "$work/debian"
changelog >"$work/debian/changelog"
stage_files
describe
rm -f "$packages"/noclaw_*.deb # of another version
pack
rm -rf "$stage" "$work"/{substvars,debian/files}
check
echo "$deb"
