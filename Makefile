# SPDX-License-Identifier: GPL-2.0-or-later
#
# The front door. What a target does is in lab/; each script there looks by
# itself at what changed and does only that.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: bench demo test test-full test-install soak test-all-kernels test-debug shell lab
.PHONY: lab-kernels lab-debug modules deb deb-qemu livepatch qemu test-qemu-10.2 tools selftests
.PHONY: series series-check clean distclean help test-parts root checks kernel live guest image
.PHONY: qemu-stock bases disk root-bookworm kernel-6.1 kernel-7.x

# These go to the build scripts, from the command line or the environment.
export KDIR KSRC TUN_KO VMLINUX QEMU_SRC DEBIAN_MIRROR DEBIAN_SECURITY_MIRROR KERNEL JOBS QUICK

# Building the parts one after the other leaves a third of two processors idle. Several
# goals, such as "clean test", want an order.
ifeq ($(words $(MAKECMDGOALS)),1)
ifneq ($(filter test test-full,$(MAKECMDGOALS)),)
MAKEFLAGS += -j2
endif
endif

demo: lab ## live-update a guest twice under traffic and check that nothing is lost
	@lab/build/base --passed-over
	lab/run -- python3 lab/tests/demo.py

test: lab lab-kernels live qemu-stock selftests test-parts ## every test, in the lab; one line of numbers at the end
	lab/test

test-all-kernels: lab lab-kernels selftests test-parts ## kernel selftests and basic tests of the hand-over, on each of three kernels
	lab/test selftests selftests_kernels basic_in_lab basic_kernels

test-full: test ## and all that takes longer, but for soak, test-debug and the other kernels
	lab/test full

soak: lab test-parts ## a thousand live updates under traffic; nothing may be lost or left behind
	lab/test soak_1000

test-qemu-10.2: lab lab-kernels test-parts ## the tests of the hand-over, with QEMU 10.2, and between 10.0 and 10.2
	QEMU_BASE=10.2 lab/build/base qemu
	QEMU_BASE=10.2 lab/build/qemu stock
	QEMU_BASE=10.2 lab/build/qemu patched
	QEMU_BASE=10.2 lab/series/write qemu
	QEMU_BASE=10.2 lab/test hand_over full versions

test-debug: lab-debug selftests test-parts ## the kernel selftests, hand-overs and more, with KASAN, lockdep, kmemleak, KCSAN
	lab/test selftests_debug selftests_kcsan vhost_debug live_debug

bench: lab qemu-stock ## measure a live update against its alternatives, in build/bench; QUICK=1 for less
	bench/run

shell: lab qemu-stock ## a prompt in the lab
	lab/run --shell

lab: guest image modules qemu tools ## what the lab needs to run the demo

lab-kernels: kernel-6.1 kernel-7.x image ## the other kernels, for lab/run --kernel 6.1|7.x
	lab/build/initrd 6.1
	lab/build/initrd 7.x

bases: lab selftests ## every kernel and QEMU that Debian offers now: patch, build, table; or KERNEL=series
	lab/checks/bases

ifeq ($(KDIR),)
modules: kernel ## tun.ko for the lab; or for your kernel: KDIR=build-dir KSRC=source
else
modules: ## tun.ko for the lab; or for your kernel: KDIR=build-dir KSRC=source
	lab/build/modules
endif

ifeq ($(KDIR),)
livepatch: kernel ## tun_state_live.ko, for a tun that is in use; or for your kernel, as "modules"
else
livepatch: ## tun_state_live.ko, for a tun that is in use; or for your kernel, as "modules"
endif
	lab/build/livepatch

qemu: root ## QEMU with tapstate; from your own tree: QEMU_SRC=directory
	lab/build/base qemu

tools: root ## the tapstate command
	lab/build/tools

deb: root ## Debian packages of this commit, in build/deb
	lab/build/deb

deb-qemu: qemu ## Debian 13's source package of QEMU with the series, in build/deb-qemu
	lab/build/deb-qemu source

test-install: lab deb ## install, upgrade and remove the packages on a plain Debian 13
	lab/build/host-image
	lab/test packages install_host

selftests: kernel checks ## the kernel selftests
	lab/build/selftests

lab-debug: lab ## kernels that find their own faults: lab/run --kernel debug|kcsan
	lab/build/debug-kernel debug
	lab/build/debug-kernel kcsan

series: kernel qemu ## mailable patch series for Linux and QEMU, in build/series
	lab/series/write

series-check: lab qemu-stock test-parts ## apply both series patch by patch; build each step, and test the kernel's
	lab/series/check-kernel
	lab/series/check-qemu

clean: ## remove build/; the cache stays
	lab/build/clean

distclean: ## remove the cache, too
	lab/build/clean --all

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9.-]+:.*## / && !seen[$$1]++ { printf "  %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

root:
	@lab/build/root
root-bookworm:
	@lab/build/root bookworm
checks: root
	@lab/build/root checks
kernel: root
	@env -u KDIR lab/build/base 6.12
kernel-6.1: kernel root-bookworm
	@env -u KDIR lab/build/base 6.1
kernel-7.x: kernel
	@env -u KDIR lab/build/base 7.x
live: kernel
	@env -u KDIR lab/build/livepatch
guest: kernel
	@lab/build/guest
disk: root
	@lab/build/image
image: disk kernel
	@lab/build/initrd 6.12
qemu-stock: qemu
	@lab/build/qemu stock
# What the tests want beyond the demo: programs of QEMU's tree, and a guest that
# boots faster but has to be compiled first
test-parts: qemu checks kernel
	@lab/build/qemu patched
	@lab/build/guest small
