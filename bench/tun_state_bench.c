// SPDX-License-Identifier: GPL-2.0
/*
 * Cost of TUNGETSTATE and TUNSETSTATE, compared with older calls and other
 * devices:
 *  - set a device: one TUNSETSTATE, or the older ioctls, with new values each
 *    time or with those in force;
 *  - read a device: one TUNGETSTATE of all groups without flows, or older calls,
 *    which report less;
 *  - read a device with 256 queues, or one with 4096 flows;
 *  - read a device with 8 threads, or 1000 devices in turn; older calls do so, too;
 *  - pass packets through the device while another CPU reads its state.
 *
 * The alternatives take turns. Print the median and the quartiles of their
 * ratios, as lines of JSON: absolute figures of an emulated CPU mean little. Only the
 * time for which a call holds RTNL is printed in microseconds.
 */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <time.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "tun_calls.h"

#define ROUNDS	41
#define CALLS	100	/* per alternative and round */
#define FLOW_CALLS 10	/* with flows: tun lets them expire after 3 s */
#define PACKETS	1000	/* per direction, alternative and round */
#define QUEUES	4
#define THREADS	8
#define THREAD_CALLS 8000	/* of all threads, per alternative and round */
#define DEVICES	1000
#define FEW_DEVICES 100

#define TRACING "/sys/kernel/tracing/"

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static void print_figure(const char *what, const char *unit, double *v, int n)
{
	qsort(v, n, sizeof(*v), compare);
	printf("{\"what\": \"%s\", \"unit\": \"%s\", \"q1\": %.3f, ",
	       what, unit, v[n / 4]);
	printf("\"median\": %.3f, \"q3\": %.3f}\n", v[n / 2], v[n * 3 / 4]);
	fflush(stdout);
}

static void print_ratio(const char *what, double *ratios)
{
	print_figure(what, "ratio", ratios, ROUNDS);
}

/* Takes no lock, and looks at no device */
static void get_features(const struct device *dev)
{
	int value;

	MUST(ioctl(dev->fd, TUNGETFEATURES, &value));
}

static double time_of_calls(void (*call)(void), int n)
{
	double start = now();
	int i;

	for (i = 0; i < n; i++)
		call();
	return now() - start;
}

static double time_of(void (*call)(void))
{
	return time_of_calls(call, CALLS);
}

static void compare_calls(const char *what, void (*one)(void),
			  void (*many)(void))
{
	double ratios[ROUNDS], t;
	int i;

	for (i = 0; i < ROUNDS; i++) {
		if (i & 1) {
			t = time_of(one);
			ratios[i] = t / time_of(many);
		} else {
			t = time_of(many);
			ratios[i] = time_of(one) / t;
		}
	}
	print_ratio(what, ratios);
}

/* Larger devices, and more of them */

static struct device crowd[DEVICES];
static int wide;

static void get_wide(void)
{
	get(wide, NO_FLOWS);
}

static void get_flows(void)
{
	get(tap.fd, ALL_GROUPS);
}

/* Threads that read the same device: 1 is linear */

struct thread {
	pthread_t id;
	void (*call)(const struct device *dev);
	int calls;
	double start, end;
};

static pthread_barrier_t ready;

static void *call_in_thread(void *data)
{
	struct thread *thread = data;
	int i;

	thread->call(&tap);	/* faults in the buffers of this thread */
	pthread_barrier_wait(&ready);
	thread->start = now();
	for (i = 0; i < thread->calls; i++)
		thread->call(&tap);
	thread->end = now();
	return NULL;
}

/* Leave out the start of the threads: it takes as long as hundreds of calls. */
static double time_of_threads(void (*call)(const struct device *dev), int n)
{
	struct thread threads[THREADS];
	double start, end;
	int i;

	pthread_barrier_init(&ready, NULL, n);
	for (i = 0; i < n; i++) {
		threads[i].call = call;
		threads[i].calls = THREAD_CALLS / n;
		must(!pthread_create(&threads[i].id, NULL, call_in_thread,
				     &threads[i]), "pthread_create");
	}
	for (i = 0; i < n; i++) {
		pthread_join(threads[i].id, NULL);
		if (!i || threads[i].start < start)
			start = threads[i].start;
		if (!i || threads[i].end > end)
			end = threads[i].end;
	}
	pthread_barrier_destroy(&ready);
	return end - start;
}

static void compare_threads(void)
{
	static const struct {
		void (*call)(const struct device *dev);
		const char *what;
	} calls[] = {
		{ get_state, "TUNGETSTATE" },
		{ get_iff, "TUNGETIFF" },
		{ get_features, "TUNGETFEATURES, without RTNL," },
	};
	double ratios[ARRAY_SIZE(calls)][ROUNDS], t;
	unsigned int i, k;
	char what[80];

	for (i = 0; i < ROUNDS; i++) {
		for (k = 0; k < ARRAY_SIZE(calls); k++) {
			t = time_of_threads(calls[k].call, 1);
			ratios[k][i] = time_of_threads(calls[k].call, THREADS);
			ratios[k][i] /= t;
		}
	}
	for (k = 0; k < ARRAY_SIZE(calls); k++) {
		snprintf(what, sizeof(what),
			 "time of a %s by 8 threads to one by 1 thread",
			 calls[k].what);
		print_ratio(what, ratios[k]);
	}
}

/*
 * Devices in turn. An older call and an access to a page per device show the cost of
 * memory that is in no cache.
 */

struct turns {
	double one, few, all;	/* devices */
};

char pages[DEVICES][4096];	/* not static: accesses stay */

static void access_page(const struct device *dev)
{
	pages[dev - crowd][0]++;
}

static double time_of_devices(void (*call)(const struct device *dev), int n)
{
	double start = now();
	int i;

	for (i = 0; i < DEVICES; i++)
		call(&crowd[i % n]);
	return now() - start;
}

static struct turns time_of_turns(void (*call)(const struct device *dev))
{
	struct turns t;

	t.one = time_of_devices(call, 1);
	t.few = time_of_devices(call, FEW_DEVICES);
	t.all = time_of_devices(call, DEVICES);
	return t;
}

static struct reader {
	void (*call)(const struct device *dev);
	const char *what;
	double to_one[ROUNDS], to_few[ROUNDS];
	double added[ROUNDS];	/* of the first reader to this one */
} readers[] = {
	{ .call = get_state, .what = "TUNGETSTATE" },
	{ .call = get_iff, .what = "TUNGETIFF" },
	{ .call = access_page, .what = "page access" },
};

static void print_turns(struct reader *reader)
{
	char what[80];

	snprintf(what, sizeof(what),
		 "time of a %s of 1000 devices in turn to one of 1",
		 reader->what);
	print_ratio(what, reader->to_one);
	snprintf(what, sizeof(what),
		 "time of a %s of 1000 devices in turn to one of 100",
		 reader->what);
	print_ratio(what, reader->to_few);
}

static void print_added(struct reader *reader)
{
	char what[80];

	snprintf(what, sizeof(what),
		 "time that 1000 devices add to a %s, to a %s",
		 readers[0].what, reader->what);
	print_ratio(what, reader->added);
}

static void compare_devices(void)
{
	double older[ROUNDS], added = 0;
	struct reader *r;
	struct turns t;
	int i;

	for (i = 0; i < ROUNDS; i++) {
		for (r = readers; r < readers + ARRAY_SIZE(readers); r++) {
			t = time_of_turns(r->call);
			r->to_one[i] = t.all / t.one;
			r->to_few[i] = t.all / t.few;
			if (r == readers)
				added = t.all - t.one;
			r->added[i] = added / (t.all - t.one);
		}
		older[i] = time_of_devices(get_state, DEVICES) /
			   time_of_devices(get_older, DEVICES);
	}
	print_turns(&readers[0]);
	print_turns(&readers[1]);
	print_added(&readers[1]);
	print_added(&readers[2]);
	print_ratio("time of TUNGETSTATE to the older calls, 1000 devices in turn",
		    older);
}

static void make_devices(void)
{
	char other[IFNAMSIZ] = "wide%d";
	struct rlimit limit = { 2048, 2048 };
	int i;

	MUST(setrlimit(RLIMIT_NOFILE, &limit));
	MUST(wide = tun_queue(other, TAP_FLAGS));
	for (i = 1; i < WIDE_QUEUES; i++)
		MUST(tun_queue(other, TAP_FLAGS));
	for (i = 0; i < DEVICES; i++) {
		snprintf(crowd[i].name, IFNAMSIZ, "crowd%d", i);
		MUST(crowd[i].fd = tun_queue(crowd[i].name, TAP_FLAGS));
		MUST(crowd[i].ifindex = netdev_index(crowd[i].name));
	}
}

static void compare_flows(void)
{
	double ratios[ROUNDS], t;
	int i;

	for (i = 0; i < ROUNDS; i++) {
		learn_flows(FLOWS + 64);
		t = time_of_calls(get_flows, FLOW_CALLS);
		must(get(tap.fd, ALL_GROUPS).flows.count > FLOWS / 2,
		     "flows expired while they were measured");
		ratios[i] = t / time_of_calls(get_one, FLOW_CALLS);
	}
	print_ratio("time of TUNGETSTATE with 4096 flows to one without", ratios);
}

/* Time for which a call holds RTNL, by probes of the kernel */

static bool trace_start(void)
{
	char filter[32];

	mount("tracefs", TRACING, "tracefs", 0, NULL);
	write_file(TRACING "kprobe_events", "r:got rtnl_lock");
	write_file(TRACING "kprobe_events", "p:put rtnl_unlock");
	snprintf(filter, sizeof(filter), "common_pid==%d", getpid());
	write_file(TRACING "events/kprobes/filter", filter);
	write_file(TRACING "events/kprobes/enable", "1");
	return !access(TRACING "events/kprobes/put", F_OK);
}

static void trace_stop(void)
{
	write_file(TRACING "events/kprobes/enable", "0");
	write_file(TRACING "kprobe_events", "-:got");
	write_file(TRACING "kprobe_events", "-:put");
}

static int read_holds(double *us, int max)
{
	FILE *f = fopen(TRACING "trace", "r");
	double at, got = 0;
	char line[256], what[8];
	const char *p;
	int n = 0;

	must(f, TRACING "trace");
	while (n < max && fgets(line, sizeof(line), f)) {
		p = strchr(line, ']');
		if (!p || sscanf(p, "] %*s %lf: %7[a-z]:", &at, what) != 2)
			continue;
		if (!strcmp(what, "got"))
			got = at;
		else if (got)
			us[n++] = (at - got) * 1e6;
	}
	fclose(f);
	return n;
}

static void print_hold(const char *what, void (*call)(void), int times)
{
	double us[CALLS];
	int i, n;

	MUST(i = open(TRACING "trace", O_WRONLY | O_TRUNC));
	close(i);
	for (i = 0; i < times; i++)
		call();
	n = read_holds(us, times);
	must(n > times / 2, "too few probes");
	print_figure(what, "us of RTNL", us, n);
}

static void print_holds(void)
{
	if (!trace_start()) {
		fprintf(stderr, "no kprobes: no time under RTNL\n");
		return;
	}
	print_hold("TUNGETSTATE without flows", get_one, CALLS);
	learn_flows(FLOWS + 64);
	print_hold("TUNGETSTATE with 4096 flows", get_flows, FLOW_CALLS);
	print_hold("TUNGETSTATE with 256 queues", get_wide, CALLS);
	trace_stop();
}

static double time_of_packets(void)
{
	double start;
	int i;

	make_frame();
	start = now();
	for (i = 0; i < PACKETS; i++) {
		packet_to_host();
		packet_from_host();
	}
	return now() - start;
}

static void on_cpu(unsigned int nr)
{
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(nr, &cpus);
	MUST(sched_setaffinity(0, sizeof(cpus), &cpus));
}

static double packets_beside(void (*call)(void))
{
	int status;
	double t;
	pid_t pid;

	MUST(pid = fork());
	if (!pid) {
		on_cpu(1);
		while (1)
			call();
	}
	usleep(20000);
	t = time_of_packets();
	kill(pid, SIGKILL);
	must(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status),
	     "the process beside");
	return t;
}

static void idle(void)
{
	pause();
}

static void get_nothing(void)
{
	get_features(&tap);
}

static void compare_packets(void)
{
	static const struct {
		void (*call)(void);
		const char *what;
	} beside[] = {
		{ get_one, "TUNGETSTATE" },
		{ idle, "an idle CPU" },
		{ get_nothing, "a call that looks at no device" },
		{ get_many, "the older calls" },
	};
	double times[ARRAY_SIZE(beside)], ratios[ARRAY_SIZE(beside)][ROUNDS];
	unsigned int i, n, k;
	cpu_set_t cpus;
	char what[80];

	MUST(sched_getaffinity(0, sizeof(cpus), &cpus));
	on_cpu(0);
	for (i = 0; i < ROUNDS; i++) {
		for (n = 0; n < ARRAY_SIZE(beside); n++) {
			k = (n + i) % ARRAY_SIZE(beside);
			times[k] = packets_beside(beside[k].call);
		}
		for (k = 0; k < ARRAY_SIZE(beside); k++)
			ratios[k][i] = times[k] / times[0];
	}
	for (k = 1; k < ARRAY_SIZE(beside); k++) {
		snprintf(what, sizeof(what), "packets/s beside %s to beside %s",
			 beside[0].what, beside[k].what);
		print_ratio(what, ratios[k]);
	}
	MUST(sched_setaffinity(0, sizeof(cpus), &cpus));
}

int main(void)
{
	const char *why = tun_state_enter();

	if (why) {
		fprintf(stderr, "%s\n", why);
		return 4;
	}
	make_device(QUEUES);
	make_states();

	flip = 1;
	compare_calls("time of TUNSETSTATE to the older calls, new values",
		      set_one, set_many);
	flip = 0;
	compare_calls("time of TUNSETSTATE to the older calls, same values",
		      set_one, set_many);
	compare_calls("time of TUNGETSTATE to the older calls", get_one,
		      get_many);

	must(!state_set(tap.fd, BOTH_SET, &first), "TUNSETSTATE");
	compare_packets();
	make_devices();
	compare_calls("time of TUNGETSTATE with 256 queues to one with 4",
		      get_wide, get_one);
	compare_flows();
	compare_threads();
	compare_devices();
	print_holds();
	return 0;
}
