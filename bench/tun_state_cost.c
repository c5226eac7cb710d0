// SPDX-License-Identifier: GPL-2.0
/*
 * Instructions of TUNGETSTATE and TUNSETSTATE, of the older calls for the same, and of
 * packets through a TAP
 *
 * usage: tun_state_cost [packets]
 *
 * Print lines of JSON. Run it on a processor whose TSC counts instructions, as
 * LAB_ICOUNT=1 lab/run has: then figures repeat, as the least of some calls has no
 * interrupt in it. With "packets" it also runs on a tun without the ioctls.
 */
#include <limits.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "tun_calls.h"

#define REPEATS	25

static unsigned long counter(void)
{
	unsigned int low, high;

	asm volatile("lfence; rdtsc; lfence" : "=a" (low), "=d" (high) : : "memory");
	return (unsigned long)high << 32 | low;
}

static void nothing(void)
{
}

static unsigned long least(void (*call)(void))
{
	unsigned long start, cost, min = ULONG_MAX;
	int i;

	for (i = 0; i < REPEATS; i++) {
		start = counter();
		call();
		cost = counter() - start;
		if (cost < min)
			min = cost;
	}
	return min;
}

static unsigned long instructions(void (*call)(void))
{
	return least(call) - least(nothing);
}

static unsigned long calls_of(void (*call)(void))
{
	unsigned long before = calls;

	call();
	return calls - before;
}

static void get_flows(void)
{
	get(tap.fd, ALL_GROUPS);
}

static void one_queues(int queues)
{
	make_device(queues);
	make_states();
	flip = 1;
	printf("{\"queues\": %d, \"set\": %lu, ", queues, instructions(set_one));
	printf("\"set_older\": %lu, ", instructions(set_many));
	flip = 0;
	printf("\"set_same\": %lu, ", instructions(set_one));
	must(!state_set(tap.fd, BOTH_SET, &first), "TUNSETSTATE");
	printf("\"get\": %lu, ", instructions(get_one));
	printf("\"get_older\": %lu, ", instructions(get_many));
	printf("\"calls\": %lu, ", calls_of(get_one) + calls_of(set_one));
	printf("\"calls_older\": %lu}\n",
	       calls_of(get_many) + calls_of(set_many));
}

static void one_flows(int flows)
{
	make_device(4);
	MUST(netdev_up(tap.name));
	learn_flows(flows);
	printf("{\"flows\": %u, ", get(tap.fd, ALL_GROUPS).flows.count);
	printf("\"get\": %lu}\n", instructions(get_flows));
}

static bool stock;

static void print_packet(const char *way, void (*call)(void))
{
	printf("{\"tun\": \"%s\", \"way\": \"%s\", \"instructions\": %lu}\n",
	       stock ? "stock" : "patched", way, instructions(call));
}

static void packets(int queues)
{
	make_device(queues);
	make_frame();
	/* Let the host's caches of memory fill up. */
	instructions(packet_to_host);
	instructions(packet_from_host);
	print_packet("to the host", packet_to_host);
	print_packet("from the host", packet_from_host);
}

/* Use a process for each device: its end removes the device. */
static void in_child(void (*work)(int), int n)
{
	int status;
	pid_t pid;

	fflush(stdout);
	MUST(pid = fork());
	if (!pid) {
		work(n);
		fflush(stdout);
		_exit(0);
	}
	must(waitpid(pid, &status, 0) == pid && !status, "a child");
}

int main(int argc, char **argv)
{
	static const int queues[] = { 1, 4, 16, 64, 256 };
	static const int flows[] = { 0, 64, 256, 1024, 4096 };
	struct rlimit limit = { 2048, 2048 };
	bool only_packets = argc > 1 && !strcmp(argv[1], "packets");
	const char *why;
	unsigned int i;

	MUST(setrlimit(RLIMIT_NOFILE, &limit));
	why = tun_state_enter();
	stock = why;
	if (why && !only_packets) {
		fprintf(stderr, "%s\n", why);
		return 4;
	}
	if (only_packets) {
		in_child(packets, 4);
		return 0;
	}
	for (i = 0; i < ARRAY_SIZE(queues); i++)
		in_child(one_queues, queues[i]);
	for (i = 0; i < ARRAY_SIZE(flows); i++)
		in_child(one_flows, flows[i]);
	return 0;
}
