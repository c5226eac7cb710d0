# SPDX-License-Identifier: GPL-2.0-or-later
#
# The front door. What a target does is in lab/; each script there looks by
# itself at what changed and does only that.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: demo test shell lab modules qemu tools selftests series clean distclean help
.PHONY: root sources guest image qemu-stock

# Both go to the build scripts, from the command line or the environment.
export KDIR KSRC QEMU_SRC DEBIAN_MIRROR JOBS

demo: lab ## live-update a guest twice under traffic and check that nothing is lost
	lab/run -- python3 lab/demo.py

test: lab qemu-stock selftests ## every test, in the lab; one line of numbers at the end
	lab/test

shell: lab qemu-stock ## a prompt in the lab
	lab/run --shell

lab: guest image modules qemu tools ## what the lab needs to run the demo

ifeq ($(KDIR),)
modules: sources ## tun.ko for the lab; or for your kernel: KDIR=build-dir KSRC=source
	lab/build-modules
else
modules: ## tun.ko for the lab; or for your kernel: KDIR=build-dir KSRC=source
	lab/build-modules
endif

qemu: sources ## QEMU with tapstate; from your own tree: QEMU_SRC=directory
	lab/build-qemu ours

tools: root ## the tapstate command
	lab/build-tools

selftests: sources ## the kernel selftests
	lab/build-selftests

series: sources ## mailable patch series for Linux and QEMU, in build/series
	lab/series

clean: ## remove build/; downloads and ccache stay
	lab/clean

distclean: ## remove the cache, too
	lab/clean --all

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / && !seen[$$1]++ { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

root:
	@lab/build-root
sources: root
	@lab/build-sources
guest: sources
	@lab/build-guest
image: sources
	@lab/build-image
qemu-stock: sources
	@lab/build-qemu stock
