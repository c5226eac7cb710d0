# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Bases: the versions of Linux and QEMU that Debian's suites offer, and those
# the lab was built from. To be sourced after common.sh and apt.sh.
#
# A base of the lab is a series, "6.12" or "qemu". Its versions come from its
# own suites, newest first, and after them from others. lab/build/base takes the
# first that patches and builds, and writes what it took to build/base-SERIES:
# SUITE, VERSION and, of a kernel, RELEASE; then a line a version it passed over.

# base_suites SERIES: its own suites, one line; those to fall back to, another
base_suites() {
	case $1 in
	6.1) printf '%s\n' "bookworm-security bookworm" "bookworm-proposed-updates" ;;
	6.12) printf '%s\n' "trixie-security trixie" \
		"trixie-proposed-updates bookworm-security bookworm-backports" ;;
	7.*) printf '%s\n' "trixie-backports" "forky sid experimental" ;;
	qemu) printf '%s\n' "trixie trixie-security" \
		"trixie-proposed-updates bookworm-backports" ;;
	qemu-10.2) printf '%s\n' "sid" "forky trixie-backports" ;;
	qemu*) die "QEMU_BASE=$QEMU_BASE: there are patches for QEMU $(qemu_series)" \
		"another tree: QEMU_SRC=DIR" ;;
	*) die "no suite of Debian is known to have Linux $1" \
		"there is 6.1, 6.12, and 7.x or one of these" ;;
	esac
}

# suite_root SUITE: the build root with that suite's compiler
suite_root() {
	# shellcheck disable=SC2153 # SUITE is of common.sh
	case $1 in
	"$SUITE" | "$SUITE"-*) echo "$ROOT" ;;
	experimental) echo "$ROOT-sid" ;;
	*) echo "$ROOT-${1%%-*}" ;;
	esac
}

# need_suite_root SUITE: have that build root
need_suite_root() {
	local root
	root=$(suite_root "$1")
	[ "$root" = "$ROOT" ] || "$REPO/lab/build/root" "${root#"$ROOT-"}"
}

# newest_first: sort lines "SUITE VERSION ..." by version
newest_first() {
	local sorted=() line version other i
	while read -r line; do
		read -r _ version _ <<<"$line"
		for ((i = 0; i < ${#sorted[@]}; i++)); do
			read -r _ other _ <<<"${sorted[i]}"
			dpkg --compare-versions "$version" le "$other" || break
		done
		sorted=("${sorted[@]:0:i}" "$line" "${sorted[@]:i}")
	done
	[ ${#sorted[@]} = 0 ] || printf '%s\n' "${sorted[@]}"
}

# suite_kernels SUITE [SERIES]: "SUITE VERSION RELEASE SOURCE-SERIES" for each
# linux-source package whose headers are there in its version.
suite_kernels() {
	local series=${2:-*}
	series=${series//[x*]/[0-9.]+}
	suite_packages "$1" | awk -v suite="$1" -v series="^linux-source-$series\$" '
		{ has[$1, $2] = 1 }
		$1 ~ series {
			sub(/^linux-source-/, "", $1); source[$1 " " $2]
		}
		# Neither "cloud" nor "rt" comes before the architecture.
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

# suite_qemus SUITE [SERIES]: "SUITE VERSION" for each source package of QEMU
suite_qemus() {
	suite_apt "src:$1" apt-cache showsrc --only-source qemu 2>/dev/null |
		awk -v suite="$1" -v series="${2:-}" '$1 == "Version:" {
			v = $2; sub(/^[0-9]+:/, "", v)
			if (series == "" || index(v, series ".") == 1) print suite, $2
		}'
}

# base_versions SERIES SUITE...: what these suites offer of it, newest first;
# a suite that the mirror does not have offers nothing.
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

# qemu_series: those there are patches for
qemu_series() { (cd "$REPO/qemu/patches" && printf '%s\n' */) | tr -d / | paste -sd, | sed 's/,/ or /g'; }

# base_name SERIES VERSION
base_name() {
	case $1 in
	qemu*) echo "QEMU ${2#*:}" ;;
	*) echo "Linux $2" ;;
	esac
}

# base_line SERIES: the base that lab/build/base tries, or has chosen
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

# kernel_release K: the release of it, as uname -r says it
kernel_release() { base_line "$1" | awk '{ print $3 }' | grep .; }

# kernel_root K: the build root with its headers and its suite's compiler. The
# kernels that the lab builds itself are built in the first one.
kernel_root() {
	local suite=''
	case $1 in
	debug | kcsan) ;;
	*) read -r suite _ < <(base_line "$1") || : ;;
	esac
	suite_root "${suite:-$SUITE}"
}

# kernel_parts SUITE VERSION RELEASE SERIES: "PACKAGE=VERSION" of source and
# headers, and with a fifth argument of the kernel and its modules, too. From
# 7.x on the image package is empty: kernel, modules, and the lists of them, are
# packages of their own, and the newest kernel may not be signed yet. Where one is
# not there in that version, fail, and end with "no PACKAGE" or with "no PACKAGE or
# PACKAGE".
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
