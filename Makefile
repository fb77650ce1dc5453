# The one entry point, for people and for CI. Each target says below what it does.
.DEFAULT_GOAL := help
.PHONY: help run test vm-test escape chaos check bench ground build install install-cell deb rpm repro \
	clean

PREFIX ?= /usr/local
# Where distributions differ: programs for programs, and functions for zsh.
LIBEXECDIR ?= $(PREFIX)/lib
ZSHDIR ?= $(PREFIX)/share/zsh/site-functions
TRIPLE := $(shell uname -m)-unknown-linux-gnu
CELL := target/cell/$(TRIPLE)/release/noclaw-cell

# A message is anybody's text: what stands on make's command line is passed on as it is, without
# make's or a shell's expansion.
define verbatim
ifneq ($(origin $(1)),undefined)
override $(1) := $$(value $(1))
export $(1)
endif
endef
$(foreach name,MESSAGE MODEL_API API_KEY_FILE YES,$(eval $(call verbatim,$(name))))

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

run: ## try NoClaw: [MESSAGE=…] [MODEL_API=URL] [API_KEY_FILE=FILE] [YES=1]
	@packaging/run.sh

test: ## all tests that need no virtual machine, on real cells: [ARGS="--test story"]
	@packaging/test.sh $(ARGS)

vm-test: ## the package on Debian machines with systemd and all limits, by QEMU: [VM=bookworm] [ARGS=home|escape|THEME]
	@tests/vm/machine.sh $(ARGS)

escape: ## attack a real cell from inside, and tell what it held against: [ARGS=--json]
	@packaging/escape.sh $(ARGS)

chaos: ## kills under load, time-outs and cancels, racing mounts: [ROUNDS=300] [SEED=…] [ENDS=20] [RACES=1000]
	@NOCLAW_RACE_ROUNDS=$(or $(RACES),1000) \
		packaging/test.sh --test mounts swapped_all_the_time -- --nocapture
	@NOCLAW_CHAOS_ROUNDS=$(or $(ROUNDS),300) NOCLAW_CHAOS_SEED=$(SEED) NOCLAW_ENDS=$(ENDS) \
		packaging/test.sh --test chaos --test ends -- --nocapture

check: ## format, lints, documentation, tidiness, dependencies
	@packaging/check.sh

bench: ## figures: a cold message against one by hand, accepts per fsync, memory, sizes [AGAINST=DIR]
	@packaging/bench.sh

ground: ## a command in the test ground, for root: ARGS="podman ps -a"
	@tests/ground.sh $(ARGS)

build: ## the program and the launcher, for release
	@packaging/build.sh

install: install-cell ## what `make build` made: [DESTDIR=] [PREFIX=/usr/local]
	install -Dm 755 target/release/noclaw "$(DESTDIR)"$(PREFIX)/bin/noclaw
	packaging/install.sh "$(DESTDIR)" $(PREFIX) $(ZSHDIR)

deb: ## a package for Debian, in target/packages
	@packaging/deb.sh

rpm: ## a package for Fedora, in target/packages
	@packaging/rpm.sh

repro: ## builds the package for Debian twice, in two places, and compares
	@packaging/repro.sh

install-cell: ## the launcher and the image's recipe alone
	install -Dm 755 $(CELL) "$(DESTDIR)"$(LIBEXECDIR)/noclaw/noclaw-cell
	install -d "$(DESTDIR)"$(PREFIX)/share/noclaw/containerfiles
	install -m 644 containerfiles/Containerfile containerfiles/*.txt \
		"$(DESTDIR)"$(PREFIX)/share/noclaw/containerfiles
	install -m 755 containerfiles/*.sh "$(DESTDIR)"$(PREFIX)/share/noclaw/containerfiles

clean: ## everything that was built; not the image
	cargo clean
