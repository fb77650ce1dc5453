#!/usr/bin/env bash
# What a package has beside the programs: units, catalog, man pages, completions, documents.
#
#   packaging/install.sh ROOT PREFIX   below ROOT, for programs that will be in PREFIX
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$1 prefix=$2
noclaw=target/release/noclaw
units=$root/lib/systemd/user
umask 022

# Defaults are shown as anybody's, not as of whoever makes the package.
generate() { env -i HOME=/~ XDG_RUNTIME_DIR=/run/user/UID "$noclaw" generate "$@"; }

install -d "$units" "$root/lib/systemd/user-preset" "$root/share/user-tmpfiles.d" \
    "$root/share/man/man1" "$root/share/doc/noclaw" "$root/lib/systemd/catalog"
for unit in systemd/*.service systemd/*.socket; do
    sed "s|/usr/bin/noclaw|$prefix/bin/noclaw|" "$unit" >"$units/${unit##*/}"
done
install -m 644 systemd/noclaw.catalog "$root/lib/systemd/catalog/noclaw.catalog"
install -m 644 systemd/noclaw.preset "$root/lib/systemd/user-preset/90-noclaw.preset"
install -m 644 systemd/noclaw.tmpfiles "$root/share/user-tmpfiles.d/noclaw.conf"

generate man "$root/share/man/man1"
chmod 755 "$root/share/man/man1"
chmod 644 "$root"/share/man/man1/*.1
gzip -9nf "$root"/share/man/man1/*.1
install -d "$root/share/bash-completion/completions" "$root/share/zsh/vendor-completions" \
    "$root/share/fish/vendor_completions.d"
generate completions bash >"$root/share/bash-completion/completions/noclaw"
generate completions zsh >"$root/share/zsh/vendor-completions/_noclaw"
generate completions fish >"$root/share/fish/vendor_completions.d/noclaw.fish"

install -m 644 README.md ARCHITECTURE.md SECURITY.md "$root/share/doc/noclaw"
install -d "$root/share/noclaw/skills"
install -m 644 skills/README.md "$root/share/noclaw/skills"
