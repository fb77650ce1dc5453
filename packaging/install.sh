#!/usr/bin/env bash
# What a package has beside the programs: units, catalog, man pages, completions, documents.
#
#   packaging/install.sh ROOT PREFIX ZSHDIR   below ROOT, for programs that will be in PREFIX
#
# The programs are there already (Makefile): pages and completions are the program's own.
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$1$2 prefix=$2 zsh=$1$3
noclaw=$root/bin/noclaw
units=$root/lib/systemd/user
umask 022

install -d "$units" "$root/lib/systemd/user-preset" "$root/share/user-tmpfiles.d" \
    "$root/share/man/man1" "$root/share/doc/noclaw" "$root/lib/systemd/catalog"
for unit in systemd/*.service systemd/*.socket; do
    sed "s|/usr/bin/noclaw|$prefix/bin/noclaw|" "$unit" >"$units/${unit##*/}"
done
install -m 644 systemd/noclaw.catalog "$root/lib/systemd/catalog/noclaw.catalog"
install -m 644 systemd/noclaw.preset "$root/lib/systemd/user-preset/90-noclaw.preset"
install -m 644 systemd/noclaw.tmpfiles "$root/share/user-tmpfiles.d/noclaw.conf"

"$noclaw" generate man "$root/share/man/man1" --prefix "$prefix"
chmod 755 "$root/share/man/man1"
chmod 644 "$root"/share/man/man1/*.1
gzip -9nf "$root"/share/man/man1/*.1
install -d "$root/share/bash-completion/completions" "$zsh" "$root/share/fish/vendor_completions.d"
"$noclaw" generate completions bash >"$root/share/bash-completion/completions/noclaw"
"$noclaw" generate completions zsh >"$zsh/_noclaw"
"$noclaw" generate completions fish >"$root/share/fish/vendor_completions.d/noclaw.fish"

install -m 644 README.md ARCHITECTURE.md SECURITY.md "$root/share/doc/noclaw"
# Named by them, below the same folder. Policy and prices are compiled in: these are to be read.
install -Dm 644 systemd/README.md "$root/share/doc/noclaw/systemd/README.md"
install -d "$root/share/doc/noclaw/data" "$root/share/noclaw/skills"
install -m 644 data/*.json "$root/share/doc/noclaw/data"
install -m 644 skills/README.md "$root/share/noclaw/skills"
