// SPDX-License-Identifier: GPL-2.0
/*
 * Injected faults: each allocation and each copy to or from user space fails
 * once, in each call that reports or changes the state of a device. The call
 * succeeds or returns ENOMEM or EFAULT, after an error the state is the one
 * from before, the file holds the programs that it held before, and nothing
 * leaks. tun_state_all_or_nothing is about all other errors.
 *
 * For a kernel with fault injection and kmemleak.
 */
#include <sys/mount.h>

#include "../kselftest.h"
#include "tun_state_util.h"

#define NR_FDS 3
#define RESTORED (ALL_GROUPS & ~GET_ONLY)
#define ATTACHED TUN_STATE_QUEUE_ATTACHED
#define HAS_FILTER TUN_STATE_QUEUE_SOCKFILTER
#define NR_FLOWS 3
#define PROGS (TUN_STATE_STEERING | TUN_STATE_FILTER)
/* More than any call has: beyond it, the failures would never end */
#define MAX_POINTS 3000

static char name[IFNAMSIZ] = "dev0", other[IFNAMSIZ] = "dev1";
static int fds[NR_FDS];
static int progs[2];
static struct tun_state_prog descs[2];
static struct state initial;
static uint64_t flows_time;	/* of the last packet of each flow */

/* Faults */

#define DEBUGFS "/sys/kernel/debug/"
#define MIN_ORDER DEBUGFS "fail_page_alloc/min-order"

static int fail_nth;

static void arm(unsigned int n)
{
	char text[16];
	int len = snprintf(text, sizeof(text), "%u", n);

	if (pwrite(fail_nth, text, len, 0) != len)
		ksft_exit_fail_perror("fail-nth");
}

/* True if the n-th failure has happened. The rest of the count may also run out
 * in the calls here.
 */
static bool disarm(void)
{
	char text[16] = "";
	ssize_t n = pread(fail_nth, text, sizeof(text) - 1, 0);
	bool reached = n > 0 && !atoi(text);
	int err = errno;

	n = pwrite(fail_nth, "0", 1, 0);
	if (n != 1 && errno != EFAULT)
		ksft_exit_fail_perror("fail-nth");
	errno = err;
	return reached;
}

static struct knob {
	const char *path;
	const char *value;
	char saved[16];
} knobs[] = {
	/* Nearly all allocations may sleep: fail these, too */
	{ DEBUGFS "failslab/ignore-gfp-wait", "N" },
	{ DEBUGFS "failslab/cache-filter", "N" },
	{ DEBUGFS "failslab/verbose", "0" },
	{ DEBUGFS "fail_page_alloc/ignore-gfp-wait", "N" },
	{ DEBUGFS "fail_page_alloc/ignore-gfp-highmem", "N" },
	{ MIN_ORDER, "0" },
	{ DEBUGFS "fail_page_alloc/verbose", "0" },
	{ DEBUGFS "fail_usercopy/verbose", "0" },
};

static bool set_knob(struct knob *k)
{
	int fd = open(k->path, O_RDONLY);
	bool ok = fd >= 0 && read(fd, k->saved, sizeof(k->saved) - 1) > 0;

	close(fd);
	if (ok)
		write_file(k->path, k->value);
	return ok;
}

static void restore_knobs(void)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(knobs); i++)
		write_file(knobs[i].path, knobs[i].saved);
}

/* States */

static void target(int k, struct state *st)
{
	struct tun_state *s = &st->s;

	*st = initial;
	state_point(st);
	state_alternate(st, k);
	s->owner.uid = 1001 + k;
	s->owner.gid = 1003 + k;
	s->steering.action = TUN_STATE_PROG_FD;
	s->steering.fd = progs[k];
	s->filter.action = TUN_STATE_PROG_FD;
	s->filter.fd = progs[!k];
	s->queue.flags &= ~(ATTACHED | HAS_FILTER);
	s->queue.flags |= k ? 0 : ATTACHED | HAS_FILTER;
	s->queue.index = k;
}

static bool set_target(int k)
{
	struct state st;

	target(k, &st);
	return !state_set(fds[0], RESTORED, &st);
}

static bool is_target(int k, uint64_t mask)
{
	struct state st;
	uint64_t diff;

	target(k, &st);
	st.s.steering = descs[k];
	st.s.filter = descs[!k];
	diff = state_compare(fds[0], mask & RESTORED, &st);
	if (diff)
		ksft_print_msg("not as it was set: %#llx\n",
			       (unsigned long long)diff);
	return !diff;
}

static bool is_unchanged(struct state before[NR_FDS])
{
	struct state now;
	int i;

	for (i = 0; i < NR_FDS; i++) {
		if (state_snapshot(fds[i], &now))
			return false;
		/* Flows expire after 3 s */
		if (now_ms() - flows_time > 2000) {
			state_drop_flows(&before[i]);
			state_drop_flows(&now);
		}
		if (!state_equal(&before[i], &now))
			return false;
	}
	return true;
}

/* The ids of the programs that a file holds, as its fdinfo shows them */
static void held_ids(int fd, unsigned int ids[2])
{
	char line[128];
	FILE *f;

	ids[0] = 0;
	ids[1] = 0;
	snprintf(line, sizeof(line), "/proc/self/fdinfo/%d", fd);
	f = fopen(line, "r");
	if (!f)
		ksft_exit_fail_perror("fdinfo");
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "steering-held: %u", &ids[0]) == 1)
			continue;
		if (sscanf(line, "filter-held: %u", &ids[1]) == 1)
			break;
	}
	fclose(f);
}

static bool holds(unsigned int steering, unsigned int filter)
{
	unsigned int ids[2];

	held_ids(fds[0], ids);
	if (ids[0] == steering && ids[1] == filter)
		return true;
	ksft_print_msg("programs %u and %u are held, not %u and %u\n", ids[0],
		       ids[1], steering, filter);
	return false;
}

/* Calls with faults. They return 0 or an errno. */

struct call {
	const char *name;
	/* Without faults, after the first state is set */
	bool (*prepare)(const struct call *c);
	int (*run)(const struct call *c);
	/* Without faults; err is the result of the call */
	bool (*after)(const struct call *c, int err);
	int from;		/* the state at the start */
	uint64_t mask;
	uint32_t flags;
	unsigned int points;	/* at least; debugging adds its own */
	bool no_error;		/* the call cannot return an error */
};

static struct state st;

static int run_get(const struct call *c)
{
	st.s.mask = c->mask;
	st.s.flags = c->flags;
	return ioctl(fds[0], TUNGETSTATE, &st.s) ? errno : 0;
}

/* Have the device learn flows, which a steering program would prevent */
static bool learn_flows(void)
{
	unsigned char packet[sizeof(struct tun_pi) + FRAME_SIZE] = {
		0, 0, 8, 0,			/* struct tun_pi: IPv4 */
		2, 0, 0, 0, 0, 0, 2, 1, 1, 1, 1, 1, 8, 0,
		0x45, 0, 0, FRAME_SIZE - ETH_HLEN, 0, 0, 0, 0, 64, 17, 0, 0,
		192, 0, 2, 2, 192, 0, 2, 1,
		0, 0, 0, 9, 0, FRAME_SIZE - ETH_HLEN - 20,
	};
	int none = -1, i;

	if (ioctl(fds[1], TUNSETSTEERINGEBPF, &none))
		return false;
	flows_time = now_ms();
	for (i = 0; i < NR_FLOWS; i++) {
		packet[sizeof(struct tun_pi) + ETH_HLEN + 20] = 1 + i;
		if (write(fds[1], packet, sizeof(packet)) != sizeof(packet))
			return false;
	}
	return true;
}

/* The file holds one program, and the device now has another */
static bool prepare_get(const struct call *c)
{
	if (!learn_flows() ||
	    ioctl(fds[1], TUNSETSTEERINGEBPF, &progs[0]) ||
	    ioctl(fds[1], TUNSETFILTEREBPF, &progs[1]) ||
	    state_hold(fds[0], PROGS, &st) ||
	    ioctl(fds[1], TUNSETSTEERINGEBPF, &progs[1]) ||
	    ioctl(fds[1], TUNSETFILTEREBPF, &progs[0]))
		return false;
	memset(&st, 0, sizeof(st));
	state_point(&st);
	st.s.sockfilter.count = MAX_INSNS;
	st.s.flows.count = MAX_FLOWS;
	st.s.queues.count = MAX_QUEUES;
	return true;
}

static int set_by_id(uint64_t group, int nr)
{
	static struct state by_id;

	by_id.s.steering = descs[nr];
	by_id.s.filter = descs[nr];
	return state_set(fds[0], group, &by_id);
}

/* True if a program can be set by its id, and the other one cannot; -1: none */
static bool can_set(uint64_t group, int nr)
{
	int none = -1, i;

	if (ioctl(fds[1], TUNSETSTEERINGEBPF, &none) ||
	    ioctl(fds[1], TUNSETFILTEREBPF, &none))
		return false;
	for (i = 0; i < 2; i++)
		if (i != nr && set_by_id(group, i) != EBADF) {
			ksft_print_msg("program %d of %#llx can be set\n", i,
				       (unsigned long long)group);
			return false;
		}
	if (nr >= 0 && set_by_id(group, nr)) {
		ksft_print_msg("program %d of %#llx cannot be set\n", nr,
			       (unsigned long long)group);
		return false;
	}
	return true;
}

/* The file holds the programs of the call before, unless this one has held others */
static bool after_get(const struct call *c, int err)
{
	bool replaced = !err && c->flags & TUN_STATE_F_HOLD;
	int steering = 0, filter = 1;

	if (!err && c->mask & TUN_STATE_FLOWS && st.s.flows.count != NR_FLOWS &&
	    now_ms() - flows_time < 2000) {
		ksft_print_msg("%u flows\n", st.s.flows.count);
		return false;
	}
	if (replaced) {
		steering = c->mask & TUN_STATE_STEERING ? 1 : -1;
		filter = c->mask & TUN_STATE_FILTER ? 0 : -1;
	}
	return holds(steering < 0 ? 0 : descs[steering].id,
		     filter < 0 ? 0 : descs[filter].id) &&
	       can_set(TUN_STATE_STEERING, steering) &&
	       can_set(TUN_STATE_FILTER, filter);
}

static bool prepare_set(const struct call *c)
{
	if (state_hold(fds[0], PROGS, &st))
		return false;
	target(!c->from, &st);
	return true;
}

static int run_set(const struct call *c)
{
	return state_set(fds[0], c->mask, &st);
}

/* A call that sets other programs leaves the held ones alone */
static bool after_set(const struct call *c, int err)
{
	return holds(descs[c->from].id, descs[!c->from].id) &&
	       (err || is_target(!c->from, c->mask));
}

static int run_attach_filter(const struct call *c)
{
	struct sock_filter insns[2] = {
		{ BPF_LD | BPF_W | BPF_ABS }, { BPF_RET | BPF_A },
	};

	return tun_attach_filter(fds[0], insns, 2) ? errno : 0;
}

static bool after_attach_filter(const struct call *c, int err)
{
	int i;

	if (err)
		return true;
	for (i = 0; i < NR_FDS; i++) {
		if (state_get(fds[i], TUN_STATE_SOCKFILTER | TUN_STATE_QUEUE,
			      &st))
			return false;
		if (!(st.s.queue.flags & HAS_FILTER) ||
		    st.s.sockfilter.count != 2 ||
		    st.insns[1].code != (BPF_RET | BPF_A))
			return false;
	}
	return true;
}

static int run_steering(const struct call *c)
{
	return ioctl(fds[0], TUNSETSTEERINGEBPF, &progs[!c->from]) ? errno : 0;
}

static bool after_steering(const struct call *c, int err)
{
	return err || is_target(!c->from, TUN_STATE_STEERING);
}

static int run_attach_queue(const struct call *c)
{
	return tun_set_queue(fds[2], IFF_ATTACH_QUEUE) ? errno : 0;
}

static bool after_attach_queue(const struct call *c, int err)
{
	if (err)
		return true;
	return !state_get(fds[2], TUN_STATE_QUEUE, &st) &&
	       st.s.queue.flags & ATTACHED &&
	       !tun_set_queue(fds[2], IFF_DETACH_QUEUE);
}

static int extra;

static bool prepare_open(const struct call *c)
{
	extra = tun_open();
	return extra >= 0;
}

static int run_open(const struct call *c)
{
	struct ifreq ifr = {
		.ifr_flags = IFF_TAP | IFF_MULTI_QUEUE | IFF_NAPI,
	};

	int err;

	memcpy(ifr.ifr_name, name, IFNAMSIZ);
	if (!ioctl(extra, TUNSETIFF, &ifr))
		return 0;
	/* TUNSETIFF attaches the queue before it copies the name, so EFAULT leaves
	 * it attached.
	 */
	err = errno;
	close(extra);
	extra = -1;
	return err;
}

static bool after_open(const struct call *c, int err)
{
	bool ok = err || (!state_get(extra, TUN_STATE_QUEUE, &st) &&
			  st.s.queue.flags & HAS_FILTER);

	close(extra);
	return ok;
}

/* A queue that was given the filter of the device, and holds programs */
static bool prepare_close(const struct call *c)
{
	return prepare_open(c) && !run_open(c) &&
	       !state_hold(extra, ALL_GROUPS, &st);
}

static int run_close(const struct call *c)
{
	return close(extra) ? errno : 0;
}

static bool after_close(const struct call *c, int err)
{
	return !state_get(fds[0], TUN_STATE_QUEUES, &st) &&
	       st.s.queues.count == NR_FDS;
}

static bool prepare_close_last(const struct call *c)
{
	extra = tun_queue(other, IFF_TAP);
	if (extra < 0)
		return false;
	target(0, &st);
	return !state_set(extra, SETTABLE & ~(TUN_STATE_IFF | TUN_STATE_QUEUE),
			  &st) &&
	       !state_hold(extra, ALL_GROUPS, &st);
}

static bool after_close_last(const struct call *c, int err)
{
	return netdev_index(other) < 0;
}

/* Inject the n-th fault into a call, for each n. Return false on a failure. */
static bool inject(const struct call *c, unsigned int *faults,
		   unsigned int *errors)
{
	struct state before[NR_FDS];
	unsigned int n;
	bool reached;
	int i, err;

	for (n = 1; n < MAX_POINTS; n++) {
		if (!set_target(c->from) ||
		    (c->prepare && !c->prepare(c))) {
			ksft_print_msg("%u: no state to begin with: %s\n", n,
				       strerror(errno));
			return false;
		}
		for (i = 0; i < NR_FDS; i++)
			if (state_snapshot(fds[i], &before[i]))
				return false;

		arm(n);
		err = c->run(c);
		reached = disarm();

		if (err && (c->no_error || !reached ||
			    (err != ENOMEM && err != EFAULT))) {
			ksft_print_msg("%u: %s\n", n, strerror(err));
			return false;
		}
		*errors += !!err;
		*faults += reached;
		if ((err || c->run == run_get) && !is_unchanged(before)) {
			ksft_print_msg("%u: changed by %s\n", n,
				       strerror(err));
			return false;
		}
		if (c->after && !c->after(c, err)) {
			ksft_print_msg("%u: wrong after %s\n", n,
				       strerror(err));
			return false;
		}
		if (!reached)
			break;
	}
	return n < MAX_POINTS;
}

/* Fail each allocation in turn. First exclude allocations of whole pages, whose
 * number depends on the state of the caches.
 */
static void test(const struct call *c)
{
	static const char * const min_order[] = { "10", "0" };
	unsigned int faults = 0, errors = 0, i;
	bool ok = true;

	for (i = 0; ok && i < ARRAY_SIZE(min_order); i++) {
		write_file(MIN_ORDER, min_order[i]);
		ok = inject(c, &faults, &errors);
	}
	ok = ok && (c->no_error ? faults : errors) >= c->points;
	ksft_test_result(ok, "%s %#llx from %d: %u faults, %u errors, %u known\n",
			 c->name, (unsigned long long)c->mask, c->from, faults,
			 errors, c->points);
}

/* The least number of allocations and copies of each group, on any kernel */
static unsigned int points_of(uint64_t mask, bool get)
{
	/* The copies of the struct, in and out, and struct tun_state_call */
	unsigned int n = 3;

	if (mask & TUN_STATE_SOCKFILTER)
		n += get ? 2 : 5;
	if (mask & TUN_STATE_STEERING)
		n += get ? 0 : 1;
	if (mask & TUN_STATE_FILTER)
		n += get ? 0 : 1;
	if (mask & TUN_STATE_FLOWS)
		n += get ? 2 : 0;
	if (mask & TUN_STATE_QUEUES)
		n += get ? 2 : 0;
	return n;
}

static void test_get(uint64_t mask, uint32_t flags)
{
	const struct call get = {
		.name = flags & TUN_STATE_F_HOLD ? "GET and hold" : "GET",
		.prepare = prepare_get, .run = run_get, .after = after_get,
		.mask = mask, .flags = flags, .points = points_of(mask, true),
	};

	test(&get);
}

static void test_set(uint64_t mask, int from)
{
	const struct call set = {
		.name = "SET", .prepare = prepare_set, .run = run_set,
		.after = after_set, .from = from, .mask = mask,
		.points = points_of(mask, false),
	};

	test(&set);
}

static void test_all_three(uint64_t mask)
{
	test_get(mask, 0);
	test_get(mask, TUN_STATE_F_HOLD);
	test_set(mask, 0);
}

static const struct call others[] = {
	{
		.name = "TUNATTACHFILTER", .run = run_attach_filter,
		.after = after_attach_filter, .points = 5,
	}, {
		.name = "TUNSETSTEERINGEBPF", .run = run_steering,
		.after = after_steering, .points = 2,
	}, {
		.name = "TUNSETQUEUE", .run = run_attach_queue,
		.after = after_attach_queue, .points = 1,
	}, {
		.name = "TUNSETIFF", .prepare = prepare_open, .run = run_open,
		.after = after_open, .points = 2,
	}, {
		.name = "close", .prepare = prepare_close, .run = run_close,
		.after = after_close, .points = 1, .no_error = true,
	}, {
		.name = "close of the last queue",
		.prepare = prepare_close_last, .run = run_close,
		.after = after_close_last, .points = 1, .no_error = true,
	},
};

/* Leaks */

#define KMEMLEAK DEBUGFS "kmemleak"

/* Print the leaks of tun. Return their number, or -1. */
static int leaks(void)
{
	char line[512], object[8192] = "";
	bool guilty = false, any;
	int i, n = 0;
	FILE *f;

	for (i = 0; i < 2; i++) {
		/* kmemleak ignores young objects */
		sleep(6);
		f = fopen(KMEMLEAK, "w");
		if (!f || fputs("scan", f) < 0 || fclose(f))
			return -1;
	}
	f = fopen(KMEMLEAK, "r");
	if (!f)
		return -1;
	do {
		any = fgets(line, sizeof(line), f);
		if (!any || !strncmp(line, "unreferenced", 12)) {
			if (guilty)
				ksft_print_msg("%s\n", object);
			n += guilty;
			guilty = false;
			object[0] = 0;
		}
		if (strlen(object) + strlen(line) < sizeof(object) - 4) {
			strcat(object, "# ");
			strcat(object, line);
		}
		guilty |= strstr(line, "[tun]") || strstr(line, " tun_");
	} while (any);
	fclose(f);
	return n;
}

static void open_devices(void)
{
	int i;

	for (i = 0; i < NR_FDS; i++) {
		fds[i] = tun_queue(name, IFF_TAP | IFF_MULTI_QUEUE);
		if (fds[i] < 0)
			ksft_exit_fail_perror("TUNSETIFF");
	}
	for (i = 0; i < 2; i++) {
		progs[i] = prog_load_desc(64 + i, &descs[i]);
		if (progs[i] < 0)
			ksft_exit_fail_perror("eBPF");
	}
	if (netdev_up(name) || tun_set_queue(fds[2], IFF_DETACH_QUEUE) ||
	    state_snapshot(fds[0], &initial))
		ksft_exit_fail_perror("no device");
}

/* Look for memory that the calls have leaked */
static bool close_devices(void)
{
	int i;

	if (!set_target(1)) {
		ksft_print_msg("cannot be set any more: %s\n",
			       strerror(errno));
		return false;
	}
	for (i = 0; i < NR_FDS; i++)
		close(fds[i]);
	for (i = 0; i < 2; i++)
		close(progs[i]);
	if (netdev_index(name) >= 0) {
		ksft_print_msg("the device is still there\n");
		return false;
	}
	for (i = 0; i < 2; i++) {
		if (!prog_gone(descs[i].id)) {
			ksft_print_msg("program %d is still there\n", i);
			return false;
		}
	}
	return true;
}

int main(void)
{
	const char *why;
	unsigned int i;
	uint64_t bit;
	int n;

	ksft_print_header();
	why = tun_state_enter();
	if (why)
		ksft_exit_skip("%s\n", why);
	fail_nth = open("/proc/thread-self/fail-nth", O_RDWR);
	if (fail_nth < 0)
		ksft_exit_skip("this kernel has no fault injection\n");
	if (access(DEBUGFS "failslab", F_OK)) {
		if (unshare(CLONE_NEWNS) ||
		    mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
		    mount("debugfs", DEBUGFS, "debugfs", 0, NULL))
			ksft_exit_skip("no debugfs\n");
	}
	for (i = 0; i < ARRAY_SIZE(knobs); i++)
		if (!set_knob(&knobs[i]))
			ksft_exit_skip("no %s\n", knobs[i].path);
	atexit(restore_knobs);
	if (access(KMEMLEAK, W_OK))
		ksft_exit_skip("no kmemleak\n");

	/* Each group, all; all and the queue the other way round */
	ksft_set_plan(3 * (ARRAY_SIZE(state_groups) + 1) + 2 +
		      ARRAY_SIZE(others) + 2);
	open_devices();
	test_all_three(ALL_GROUPS);
	test_set(ALL_GROUPS, 1);
	test_set(TUN_STATE_QUEUE, 1);
	for (bit = 1; bit <= TUN_STATE_QUEUES; bit <<= 1)
		test_all_three(bit);
	for (i = 0; i < ARRAY_SIZE(others); i++)
		test(&others[i]);

	ksft_test_result(close_devices(), "the device and the programs go\n");
	n = leaks();
	ksft_test_result(!n, "%d leaks\n", n);
	ksft_finished();
}
