# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Bases: the versions of Linux and QEMU that Debian's suites offer, and those
# the lab was built from. To be sourced after common.sh and apt.sh.
#
# A base of the lab is named by its series: "6.12", "qemu". lab/build/base tries the
# versions in the series' own suites, newest first, and then those in other suites. It
# takes the first version that patches and builds, and writes build/base-SERIES: a line
# "SUITE VERSION", for a kernel "SUITE VERSION RELEASE SERIES", and then a line for
# each version that it passed over.

# base_suites SERIES: print a line of its own suites, and a line of other suites
base_suites() {
	case $1 in
	6.1) printf '%s\n' "bookworm-security bookworm" "bookworm-proposed-updates" ;;
	6.12) printf '%s\n' "trixie-security trixie" \
		"trixie-proposed-updates bookworm-security bookworm-backports" ;;
	7.*) printf '%s\n' "trixie-backports" "forky sid experimental" ;;
	qemu) printf '%s\n' "trixie trixie-security" \
		"trixie-proposed-updates bookworm-backports" ;;
	qemu-10.2) printf '%s\n' "sid" "forky trixie-backports" ;;
	qemu-11.1) printf '%s\n' "sid" "forky trixie-backports experimental" ;;
	qemu*) die "QEMU_BASE=$QEMU_BASE: there are patches for QEMU $(qemu_series)" \
		"another tree: QEMU_SRC=DIR" ;;
	*) die "no suite of Debian is known to have Linux $1" \
		"there is 6.1, 6.12, and 7.x or one of these" ;;
	esac
}

# suite_root SUITE: print the path of the build root with that suite's compiler
suite_root() {
	# shellcheck disable=SC2153 # SUITE is of common.sh
	case $1 in
	"$SUITE" | "$SUITE"-*) echo "$ROOT" ;;
	experimental) echo "$ROOT-sid" ;;
	*) echo "$ROOT-${1%%-*}" ;;
	esac
}

# need_suite_root SUITE: make that build root
need_suite_root() {
	local root
	root=$(suite_root "$1")
	[ "$root" = "$ROOT" ] || "$REPO/lab/build/root" "${root#"$ROOT-"}"
}

# newest_first: sort lines "SUITE VERSION ..." by version
newest_first() { sort -s -k2,2Vr; }

# suite_kernels SUITE [SERIES]: print "SUITE VERSION RELEASE SOURCE-SERIES" for each
# linux-source package that has headers of the same version
suite_kernels() {
	local series=${2:-*}
	series=${series//[x*]/[0-9.]+}
	suite_packages "$1" | awk -v suite="$1" -v series="^linux-source-$series\$" '
		{ has[$1, $2] = 1 }
		$1 ~ series {
			sub(/^linux-source-/, "", $1); source[$1 " " $2]
		}
		# Leave out the flavours "cloud" and "rt".
		$1 ~ /^linux-headers-[0-9][^-]*(-[0-9]+)?-amd64$/ {
			sub(/^linux-headers-/, "", $1); headers[$1 " " $2]
		}
		END {
			for (s in source) for (h in headers) {
				split(s, src, " "); split(h, hdr, " ")
				common = "linux-headers-" hdr[1]
				sub(/-amd64$/, "-common", common)
				if (src[2] != hdr[2] || !has[common, hdr[2]])
					continue
				print suite, src[2], hdr[1], src[1]
			}
		}'
}

# suite_qemus SUITE [SERIES]: print "SUITE VERSION" for each source package of QEMU
suite_qemus() {
	suite_apt "src:$1" apt-cache showsrc --only-source qemu 2>/dev/null |
		awk -v suite="$1" -v series="${2:-}" '$1 == "Version:" {
			v = $2; sub(/^[0-9]+:/, "", v)
			if (series == "" || index(v, series ".") == 1) print suite, $2
		}'
}

# base_versions SERIES SUITE...: print the versions in these suites, newest first.
# A mirror may lack a suite.
base_versions() {
	local series=$1 s
	shift
	for s; do
		case $series in
		qemu*)
			suite_update "src:$s" || continue
			suite_qemus "$s" "$QEMU_BASE"
			;;
		*)
			suite_update "$s" || continue
			suite_kernels "$s" "$series"
			;;
		esac
	done | newest_first
}

# qemu_series: print the QEMU series that there are patches for
qemu_series() { (cd "$REPO/qemu/patches" && printf '%s\n' */) | tr -d / | paste -sd, | sed 's/,/ or /g'; }

# base_name SERIES VERSION
base_name() {
	case $1 in
	qemu*) echo "QEMU ${2#*:}" ;;
	*) echo "Linux $2" ;;
	esac
}

# base_line SERIES: print the base that lab/build/base is trying, or has chosen
base_line() {
	if [ "${BASE%% *}" = "$1" ]; then
		echo "${BASE#* }"
	else
		head -n 1 "$BUILD/base-$1" 2>/dev/null
	fi
}
BASE=${BASE:-}

# series_name SERIES
series_name() {
	case $1 in
	qemu*) echo "QEMU $QEMU_BASE" ;;
	*) echo "Linux $1" ;;
	esac
}

# kernel_release KERNEL: print its release, as uname -r does
kernel_release() { base_line "$1" | awk '{ print $3 }' | grep .; }

# kernel_root KERNEL: print the path of the build root with its headers and its
# suite's compiler. Debug kernels are built in the first build root.
kernel_root() {
	local suite=''
	case $1 in
	debug | kcsan) ;;
	*) read -r suite _ < <(base_line "$1") || : ;;
	esac
	suite_root "${suite:-$SUITE}"
}

# kernel_parts SUITE VERSION RELEASE SERIES [image]: print "PACKAGE=VERSION" for the
# packages of source and headers, and with "image" for those of the kernel and its
# modules. From 7.x on the image package is empty: kernel, modules and lists of modules
# have packages of their own, and the newest kernel may not be signed yet. Fail if one
# is missing in that version, with "no PACKAGE" or "no PACKAGE or PACKAGE" at the end.
kernel_parts() {
	suite_packages "$1" | awk -v v="$2" -v rel="$3" -v series="$4" -v all="${5:-}" '
		$2 == v { has[$1] = 1 }
		function show(p) { print p "=" v }
		function first(a, b) {
			if (has[a]) return show(a)
			if (has[b]) return show(b)
			print "no " a (a == b ? "" : " or " b)
			exit failed = 1
		}
		END {
			if (failed) exit 1
			short = rel; sub(/-amd64$/, "", short)
			show("linux-source-" series)
			show("linux-headers-" rel)
			show("linux-headers-" short "-common")
			first("linux-kbuild-" short, "linux-kbuild-" series)
			if (!all) exit
			if (has["linux-modules-" rel]) {
				first("linux-binary-" rel, "linux-binary-unsigned-" rel)
				show("linux-modules-" rel)
				show("linux-base-" rel)
			} else {
				first("linux-image-" rel, "linux-image-" rel "-unsigned")
			}
		}'
}
