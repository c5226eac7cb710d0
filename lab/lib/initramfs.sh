# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Initramfs archives, of the lab VM and of its guests. To be sourced after
# common.sh.

# initramfs_start DIR INIT: make DIR a file system with busybox and INIT
initramfs_start() {
	rm -rf "$1"
	mkdir -p "$1/bin" "$1/dev" "$1/modules"
	cp "$ROOT/usr/bin/busybox" "$1/bin/"
	ln -s busybox "$1/bin/sh"
	cp "$2" "$1/init"
	chmod 755 "$1/init"
	# The kernel opens it before /init can mount anything.
	mknod "$1/dev/console" c 5 1
}

# initramfs_modules DIR KERNEL MODULE...: add modules of build/kernel/KERNEL, and
# the modules that these need. Number them in the order of loading. Unpack them:
# the build machine does that faster than an emulated processor.
initramfs_modules() {
	local dir=$1 kernel=$2 release module file list='' number=100
	release=$(cat "$BUILD/kernel/$kernel/release")
	shift 2
	for module; do
		list+=$(in_root modprobe -d "/tapstate/build/kernel/$kernel" \
			-S "$release" --show-depends "$module") ||
			die "no $module in build/kernel/$kernel"
		list+=$'\n'
	done
	while read -r file; do
		number=$((number + 1))
		file=$REPO${file#/tapstate}
		case $file in
		*.xz) xz -dc "$file" >"$dir/modules/$number-$(basename "$file" .xz)" ;;
		*) cp "$file" "$dir/modules/$number-$(basename "$file")" ;;
		esac
	done < <(awk '$1 == "insmod" && !seen[$2]++ { print $2 }' <<<"$list")
}

# initramfs_end DIR OUTPUT: write the archive
initramfs_end() {
	# shellcheck disable=SC2016 # for the inner shell
	in_root -C "/tapstate/${1#"$REPO/"}" sh -c \
		'find . | cpio -o -H newc --quiet -R 0:0 >"/tapstate/$1"' - \
		"${2#"$REPO/"}.tmp"
	mv "$2.tmp" "$2"
}
