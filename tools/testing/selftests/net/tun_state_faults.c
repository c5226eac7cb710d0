// SPDX-License-Identifier: GPL-2.0
/*
 * Injected faults: each allocation and each copy to or from user space fails
 * once, in each call that reports or changes the state of a device. The call
 * succeeds or returns ENOMEM or EFAULT, after an error the state is the one
 * from before, and nothing leaks. tun_state_all_or_nothing is about all other
 * errors.
 *
 * For a kernel with fault injection and kmemleak.
 */
#include <sys/mount.h>

#include "../kselftest.h"
#include "tun_state_util.h"

#define NR_FDS 3
#define SETTABLE (ALL_GROUPS & ~GET_ONLY)
#define ATTACHED TUN_STATE_QUEUE_ATTACHED
#define HAS_FILTER TUN_STATE_QUEUE_SOCKFILTER
#define NR_FLOWS 3
/* More than any call has: beyond it, the failures would never end */
#define MAX_POINTS 3000

static char name[IFNAMSIZ] = "dev0", other[IFNAMSIZ] = "dev1";
static int fds[NR_FDS];
static int progs[2];
static struct tun_state_prog descs[2];
static struct state initial;
/* Each change uses new flows: to set a known one does not renew it */
static uint64_t flows_time;
static unsigned int flows_nr;

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
	unsigned int i;

	*st = initial;
	state_point(st);
	state_alternate(st, k);
	s->owner.uid = 1001 + k;
	s->owner.gid = 1003 + k;
	s->steering.action = TUN_STATE_PROG_FD;
	s->steering.fd = progs[k];
	s->filter.action = TUN_STATE_PROG_FD;
	s->filter.fd = progs[!k];
	s->flows.count = NR_FLOWS;
	for (i = 0; i < NR_FLOWS; i++)
		st->flows[i] = (struct tun_state_flow){
			.rxhash = flows_nr + i, .queue_index = i + k,
		};
	s->queue.flags &= ~(ATTACHED | HAS_FILTER);
	s->queue.flags |= k ? 0 : ATTACHED | HAS_FILTER;
	s->queue.index = k;
}

static bool set_target(int k)
{
	struct state st;

	flows_nr++;
	target(k, &st);
	flows_time = now_ms();
	return !state_set(fds[0], SETTABLE, &st);
}

static bool is_target(int k, uint64_t mask)
{
	struct state st;

	target(k, &st);
	if (state_check(fds[0], mask & SETTABLE, &st))
		return false;
	if (now_ms() - flows_time > 2000)
		st.s.mask &= ~TUN_STATE_FLOWS;
	if (st.s.mask)
		ksft_print_msg("not as it was set: %#llx\n",
			       (unsigned long long)st.s.mask);
	return !st.s.mask;
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
	unsigned int points;	/* at least; debugging adds its own */
	bool no_error;		/* the call cannot return an error */
};

static struct state st;

static int run_get(const struct call *c)
{
	st.s.mask = c->mask;
	return ioctl(fds[0], TUNGETSTATE, &st.s) ? errno : 0;
}

/* The file has captured one program, and the device now has another */
static bool prepare_get(const struct call *c)
{
	if (ioctl(fds[1], TUNSETSTEERINGEBPF, &progs[0]) ||
	    ioctl(fds[1], TUNSETFILTEREBPF, &progs[1]) ||
	    state_get(fds[0], TUN_STATE_STEERING | TUN_STATE_FILTER, &st) ||
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

/* True if program @yes can be set by its id, and program @no cannot */
static bool captured(uint64_t group, int yes, int no)
{
	int none = -1;

	if (ioctl(fds[1], TUNSETSTEERINGEBPF, &none) ||
	    ioctl(fds[1], TUNSETFILTEREBPF, &none))
		return false;
	if (set_by_id(group, no) != EBADF || set_by_id(group, yes)) {
		ksft_print_msg("the file has another program\n");
		return false;
	}
	return true;
}

static bool after_get(const struct call *c, int err)
{
	bool s = !err && c->mask & TUN_STATE_STEERING;
	bool f = !err && c->mask & TUN_STATE_FILTER;

	return captured(TUN_STATE_STEERING, s, !s) &&
	       captured(TUN_STATE_FILTER, !f, f);
}

static bool prepare_set(const struct call *c)
{
	target(!c->from, &st);
	return true;
}

static int run_set(const struct call *c)
{
	return state_set(fds[0], c->mask, &st);
}

static bool after_set(const struct call *c, int err)
{
	return err || is_target(!c->from, c->mask);
}

static int run_check(const struct call *c)
{
	return state_check(fds[0], c->mask, &st);
}

static bool after_check(const struct call *c, int err)
{
	return err || (st.s.mask & SETTABLE & ~TUN_STATE_IDENTITY) ==
		      (c->mask & SETTABLE & ~TUN_STATE_IDENTITY);
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

	memcpy(ifr.ifr_name, name, IFNAMSIZ);
	return ioctl(extra, TUNSETIFF, &ifr) ? errno : 0;
}

static bool after_open(const struct call *c, int err)
{
	bool ok = err || (!state_get(extra, TUN_STATE_QUEUE, &st) &&
			  st.s.queue.flags & HAS_FILTER);

	close(extra);
	return ok;
}

/* A queue that was given the filter of the device, and has captured programs */
static bool prepare_close(const struct call *c)
{
	return prepare_open(c) && !run_open(c) &&
	       !state_get(extra, ALL_GROUPS, &st);
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
	return !state_set(extra, SETTABLE & ~(TUN_STATE_IDENTITY |
			  TUN_STATE_FLAGS | TUN_STATE_QUEUE), &st) &&
	       !state_get(extra, ALL_GROUPS, &st);
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
		/* Capture the programs */
		if (c->run != run_get)
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
		if (c->after && !c->after(c, err)) {
			ksft_print_msg("%u: wrong after %s\n", n,
				       strerror(err));
			return false;
		}
		if (err && c->run != run_get && !is_unchanged(before)) {
			ksft_print_msg("%u: changed by %s\n", n,
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
static unsigned int points_of(uint64_t mask, bool get, bool check)
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
		n += get ? 2 : check ? 3 : 3 + NR_FLOWS;
	if (mask & TUN_STATE_QUEUES)
		n += get ? 2 : check ? 3 : 0;
	return n;
}

static void test_get(uint64_t mask)
{
	const struct call get = {
		.name = "GET", .prepare = prepare_get, .run = run_get,
		.after = after_get, .mask = mask,
		.points = points_of(mask, true, false),
	};

	test(&get);
}

static void test_set(uint64_t mask, int from)
{
	const struct call set = {
		.name = "SET", .prepare = prepare_set, .run = run_set,
		.after = after_set, .from = from, .mask = mask,
		.points = points_of(mask, false, false),
	};

	test(&set);
}

static void test_check(uint64_t mask)
{
	const struct call check = {
		.name = "CHECK", .prepare = prepare_set, .run = run_check,
		.after = after_check, .mask = mask,
		.points = points_of(mask, false, true),
	};

	test(&check);
}

static void test_all_three(uint64_t mask)
{
	test_get(mask);
	test_set(mask, 0);
	test_check(mask);
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
	struct bpf_prog_info info;
	int i;

	for (i = 0; i < NR_FDS; i++) {
		fds[i] = tun_queue(name, IFF_TAP | IFF_MULTI_QUEUE);
		if (fds[i] < 0)
			ksft_exit_fail_perror("TUNSETIFF");
	}
	for (i = 0; i < 2; i++) {
		progs[i] = prog_load(BPF_PROG_TYPE_SOCKET_FILTER, 64 + i);
		if (progs[i] < 0 || prog_info(progs[i], &info))
			ksft_exit_fail_perror("eBPF");
		descs[i].id = info.id;
		descs[i].type = info.type;
		memcpy(descs[i].tag, info.tag, sizeof(info.tag));
	}
	if (tun_set_queue(fds[2], IFF_DETACH_QUEUE) ||
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

	/* Each of 15 groups, all; all and the queue the other way round */
	ksft_set_plan(3 * (15 + 1) + 2 + ARRAY_SIZE(others) + 2);
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
