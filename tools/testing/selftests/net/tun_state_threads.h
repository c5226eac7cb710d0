/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Threads of the tests of concurrency: callers, which make a number of calls,
 * and others, which go on until all callers are done. Each of them counts its
 * rounds, and any of them can fail.
 */
#ifndef TUN_STATE_THREADS_H
#define TUN_STATE_THREADS_H

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>

#include "tun_state_util.h"

#define MAX_JOBS 24
#define TIMEOUT 1200		/* a slow kernel on a slow machine */

struct job {
	pthread_t thread;
	void (*run)(struct job *job);
	bool caller;
	unsigned int nr;
	unsigned int rounds;
	uint32_t random;
};

/* The threads of one test; each test has a process of its own */
static struct {
	struct job jobs[MAX_JOBS];
	unsigned int nr_jobs;
	unsigned int calls;
	atomic_uint callers;	/* threads that are not done yet */
	atomic_uint failures;
	bool recreated;		/* the device goes and comes: EBADFD */
} threads;

static inline void fail(const char *format, ...)
{
	va_list ap;

	/* Print the first failures only */
	if (atomic_fetch_add(&threads.failures, 1) > 20)
		return;
	va_start(ap, format);
	flockfile(stdout);
	printf("# ");
	vprintf(format, ap);
	printf("\n");
	funlockfile(stdout);
	va_end(ap);
}

static inline unsigned int pick(struct job *job, unsigned int n)
{
	job->random ^= job->random << 13;
	job->random ^= job->random >> 17;
	job->random ^= job->random << 5;
	return job->random % n;
}

/* Go on while there are calls, and until one has succeeded */
static inline bool go_on(struct job *job)
{
	return atomic_load(&threads.callers) ||
	       (!job->rounds && !threads.failures);
}

/* True until a caller has made all its calls, or a thread has failed */
static inline bool calls_left(unsigned int made)
{
	return made < threads.calls && !threads.failures;
}

/* Calls without a device do not count */
static inline bool no_device(int err)
{
	if (err != EBADFD || !threads.recreated)
		return false;
	usleep(100);
	return true;
}

/* Fail unless errno is one of these, with a 0 behind them */
static inline void expect_errno(const char *what, const int *expected)
{
	for (; *expected; expected++)
		if (errno == *expected)
			return;
	fail("%s: %m", what);
}

/* Send a packet from the host, by a packet socket; return false without a
 * device of this name
 */
static inline bool send_packet(int fd, const char *name, const void *packet,
			       size_t len)
{
	static const int expected[] = { ENETDOWN, ENXIO, ENOBUFS, ENODEV, 0 };
	struct sockaddr_ll sll = {
		.sll_family = AF_PACKET,
		.sll_protocol = htons(ETH_P_IP),
		.sll_ifindex = netdev_index(name),
	};

	if (sll.sll_ifindex < 0)
		return false;
	if (sendto(fd, packet, len, 0, (void *)&sll, sizeof(sll)) < 0)
		expect_errno("send", expected);
	return true;
}

/* Make the device again, through the files that have lost it. @flags: those of
 * each queue.
 */
static inline void remake_device(const char *name, const int *fd,
				 const unsigned int *flags, unsigned int n)
{
	struct ifreq ifr = {};
	int ifindex = 0;
	unsigned int i;

	/* Reset the ifindex: a former queue has its queue index there */
	if (ioctl(fd[0], TUNSETIFINDEX, &ifindex))
		fail("TUNSETIFINDEX: %m");
	for (i = 0; i < n; i++) {
		ifr.ifr_flags = flags[i];
		memcpy(ifr.ifr_name, name, IFNAMSIZ);
		if (ioctl(fd[i], TUNSETIFF, &ifr))
			fail("TUNSETIFF: %m");
	}
}

/* Number of calls from the environment; 0 if that is not a number */
static inline unsigned int calls_of_thread(void)
{
	const char *calls = getenv("TUN_STATE_CALLS");

	return calls ? atoi(calls) : 200;
}

static inline void *run_job(void *arg)
{
	struct job *job = arg;

	job->run(job);
	if (job->caller)
		atomic_fetch_sub(&threads.callers, 1);
	return NULL;
}

static inline void add_jobs(void (*run)(struct job *job), unsigned int n,
			    bool caller)
{
	struct job *job;
	unsigned int i;

	for (i = 0; i < n; i++) {
		if (threads.nr_jobs == MAX_JOBS)
			abort();
		job = &threads.jobs[threads.nr_jobs++];
		job->run = run;
		job->nr = i;
		job->caller = caller;
		job->random = 0x9e3779b9 * threads.nr_jobs;
		if (caller)
			atomic_fetch_add(&threads.callers, 1);
	}
}

/* Add threads that make calls */
static inline void callers(void (*run)(struct job *job), unsigned int n)
{
	add_jobs(run, n, true);
}

/* Add threads that go on while others make calls */
static inline void meanwhile(void (*run)(struct job *job), unsigned int n)
{
	add_jobs(run, n, false);
}

/* Start all threads, and wait for their end */
static inline void run_all(void)
{
	struct job *job = threads.jobs;
	unsigned int i;

	for (i = 0; i < threads.nr_jobs; i++)
		if (pthread_create(&job[i].thread, NULL, run_job, &job[i]))
			abort();
	for (i = 0; i < threads.nr_jobs; i++)
		pthread_join(job[i].thread, NULL);
	for (i = 0; i < threads.nr_jobs && !threads.failures; i++)
		if (!job[i].rounds)
			fail("thread %u has not done anything", i);
}

#endif /* TUN_STATE_THREADS_H */
