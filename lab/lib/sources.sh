# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Debian's sources of Linux and QEMU: apt downloads them into the cache and checks
# every signature; functions unpack them. To be sourced after common.sh.

SOURCES=$CACHE/sources
# Directories of big drivers that no kernel of the lab needs
BIG=('*/drivers/'{accel,gpu,iio,infiniband,media,net/wireless,scsi,staging} '*/sound')

# broken DOWNLOAD: end, as it cannot be unpacked
broken() { die "${1##*/} cannot be unpacked" "it is broken: rm -r '$1', then again"; }

# fetched NAME SUITE WHAT APT-GET-ARGUMENT...: have NAME in the cache, or end
fetched() {
	local name=$1 suite=$2 what=$3
	shift 3
	mkdir -p "$SOURCES"
	# Remove downloads that no build has used for a month.
	find "$SOURCES" -mindepth 1 -maxdepth 1 -mtime +30 -exec rm -rf {} +
	download "$SOURCES/$name" "$suite" "$@" && touch "$SOURCES/$name" && return
	die_of_download "a file of $what cannot be downloaded, though ${suite#src:} lists it"
}

# fetch_linux SUITE VERSION RELEASE SERIES [image]: download the packages of source and
# headers, or those of the kernel itself; set DEBS to their directory
fetch_linux() {
	local parts
	DEBS=linux-$2-$1${5:+-image}
	if [ ! -d "$SOURCES/$DEBS" ]; then
		parts=$(kernel_parts "$1" "$2" "$3" "$4" "${5:-}") ||
			die "Linux $2 is incomplete in $1: there is no ${parts##*no }" \
				"use another version, or try again later"
		mapfile -t parts <<<"$parts"
		# Leave out source and headers, the first four.
		[ -z "${5:-}" ] || parts=("${parts[@]:4}")
	fi
	fetched "$DEBS" "$1" "Linux $2" download "${parts[@]}"
	DEBS=$SOURCES/$DEBS
}

# linux_source DEBS DEST [full]: unpack the source; without "full", only directories
# that the module and the series need
linux_source() {
	local deb dest=$2 what name mark
	deb=$(echo "$1"/linux-source-*.deb)
	mark=$dest/.tapstate-${deb##*/}
	[ ! -f "$mark" ] || [ ! -f "$dest/drivers/net/tap.c" ] || return 0
	say "unpacking ${deb##*/}"
	rm -rf "$dest" "$dest.tmp"
	mkdir -p "$dest.tmp"
	name=${deb##*/}
	name=${name%%_*}
	if [ "${3:-}" = full ]; then
		# Keep Kconfig files of big drivers.
		what=("${BIG[@]/%//*.[chS]}" '*/Documentation/devicetree/*'
			'*/Documentation/translations/*' '*/arch/*/boot/dts/*')
		what=("${what[@]/#/--exclude=}")
	else
		what=('*/drivers/net/tun*' '*/drivers/net/tap.c' '*/include/uapi/linux/if_tun.h'
			'*/tools/testing/selftests/lib.mk'
			'*/tools/testing/selftests/kselftest*'
			'*/tools/testing/selftests/net/*'
			'*/Documentation/networking/*'
			'*/Documentation/userspace-api/ioctl/*' '*/MAINTAINERS')
	fi
	dpkg-deb --fsys-tarfile "$deb" |
		tar -xO "./usr/src/$name.tar.xz" |
		xz -dc -T0 |
		tar -x -C "$dest.tmp" --strip-components=1 --wildcards "${what[@]}" ||
		broken "$deb"
	: >"$dest.tmp/${mark##*/}"
	mv "$dest.tmp" "$dest"
}

# linux_headers DEBS ROOT: unpack the headers into a build root
linux_headers() {
	local deb
	for deb in "$1"/linux-{headers,kbuild}-*.deb; do
		[ ! -f "$2/etc/tapstate-headers/${deb##*/}" ] || continue
		say "unpacking ${deb##*/}"
		# Follow /lib, which older packages use: it is a link.
		dpkg-deb --fsys-tarfile "$deb" |
			tar -x -C "$2" --keep-directory-symlink || broken "$deb"
		mkdir -p "$2/etc/tapstate-headers"
		: >"$2/etc/tapstate-headers/${deb##*/}"
	done
}

# linux_image DEBS RELEASE DIR: unpack the kernel and its modules into DIR
linux_image() {
	local debs=$1 rel=$2 dir=$3 f vmlinuz='' mark
	local extract=build/src/linux-6.12/scripts/extract-vmlinux
	mark=$dir/.tapstate-${debs##*/}
	[ ! -f "$mark" ] || return 0
	[ -f "$REPO/$extract" ] || die "no $extract: run make lab"
	rm -rf "$dir" "$dir.tmp"
	mkdir -p "$dir.tmp/lib"
	for f in "$debs"/*.deb; do
		say "unpacking ${f##*/}"
		dpkg-deb --fsys-tarfile "$f" |
			tar -x -C "$dir.tmp" --wildcards "${BIG[@]/#/--exclude=}" \
				--exclude='*/usr/share/*' || broken "$f"
	done
	# Take modules from /lib or /usr/lib: Debian's packages use either.
	[ -d "$dir.tmp/lib/modules" ] || mv "$dir.tmp/usr/lib/modules" "$dir.tmp/lib/"
	rm -rf "$dir.tmp/usr"
	in_root depmod -b "/tapstate/${dir#"$REPO/"}.tmp" "$rel"
	for f in "boot/vmlinuz-$rel" "lib/modules/$rel"/vmlinuz{,.unsigned}; do
		[ ! -f "$dir.tmp/$f" ] || vmlinuz=${dir#"$REPO/"}.tmp/$f
	done
	# Decompress modules here: the lab's emulated processor takes longer.
	in_root sh -c "$extract $vmlinuz >${dir#"$REPO/"}.tmp/vmlinux" ||
		die "cannot unpack vmlinuz of $rel"
	echo "$rel" >"$dir.tmp/release"
	: >"$dir.tmp/${mark##*/}"
	mv "$dir.tmp" "$dir"
}

# fetch_qemu SUITE VERSION: download the source package; set DSC to its .dsc
fetch_qemu() {
	local dir=qemu-${2#*:}
	fetched "$dir" "src:$1" "the source of QEMU $2" \
		source --download-only --only-source "qemu=$2"
	# shellcheck disable=SC2034 # for the caller
	DSC=$(echo "$SOURCES/$dir"/*.dsc)
}

# qemu_source DSC DEST: unpack the source
qemu_source() {
	local dest=$2 mark=$2/.tapstate-${1##*/}
	[ ! -f "$mark" ] || return 0
	say "unpacking ${1##*/}"
	rm -rf "$dest" "$dest.tmp"
	# Skip the check: apt has checked the file against the signed index.
	in_root dpkg-source --no-check -x "/cache/${1#"$CACHE/"}" \
		"/tapstate/${dest#"$REPO/"}.tmp" >&2 || broken "${1%/*}"
	rm -rf "$dest.tmp/roms" "$BUILD"/src/qemu_*.tar.*
	: >"$dest.tmp/${mark##*/}"
	mv "$dest.tmp" "$dest"
}
