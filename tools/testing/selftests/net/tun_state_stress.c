// SPDX-License-Identifier: GPL-2.0
/*
 * Concurrency: TUNGETSTATE and TUNSETSTATE on all queues at once, while queues,
 * programs, packets and the device itself come and go. Some threads set one of
 * a few whole states, and a reader sees one of them, never a mix of two. Some of
 * the queues have NAPI. tun_state_vhost has vhost-net on the queues.
 *
 * TUN_STATE_CALLS is the number of calls that each thread makes.
 */
#include <poll.h>
#include <linux/userfaultfd.h>
#include <netinet/in.h>

#include "../kselftest_harness.h"
#include "tun_state_threads.h"
#include "tun_state_util.h"

#define QUEUES 4
#define STATES 3
#define FRESH STATES		/* the state of a new device */
#define TYPE (IFF_TAP | IFF_MULTI_QUEUE | IFF_VNET_HDR)
#define PI_SIZE sizeof(struct tun_pi)

/* The groups of a whole state, without those of each queue */
#define WHOLE (TUN_STATE_IFF | TUN_STATE_OWNER | TUN_STATE_VNET |	\
	       TUN_STATE_OFFLOAD | TUN_STATE_SNDBUF | TUN_STATE_LINK |	\
	       TUN_STATE_TXFILTER | TUN_STATE_SOCKFILTER |		\
	       TUN_STATE_STEERING | TUN_STATE_FILTER)
#define PROGS (TUN_STATE_STEERING | TUN_STATE_FILTER)

/* More flags of each queue. The first one makes the device, without IFF_NAPI. */
static const unsigned int open_flags[QUEUES] = {
	0, IFF_NAPI, IFF_NAPI | IFF_NAPI_FRAGS, 0,
};

#define NR_NAPI 2
#define NR_NAPI_FRAGS 1

/* One test; each has a process of its own */
static struct {
	char name[IFNAMSIZ];
	int fd[QUEUES];
	struct state whole[STATES + 1];
	atomic_uint made;	/* calls that had a device */

	/* Expectations */
	uint64_t groups;	/* only the setters change them */
	bool reopened;		/* with NAPI or without */
	bool one_queue;		/* setters and getters share one */
	bool own_filter;	/* some queues lack the device's filter */
	unsigned int more_queues;
} t;

/* The send buffer of a queue tells who has set it, and when */
static int32_t own_sndbuf(unsigned int queue, unsigned int k)
{
	return 1000000 * (queue + 1) + k;
}

static void make_prog(struct tun_state_prog *prog, int ret)
{
	prog->action = TUN_STATE_PROG_FD;
	prog->fd = prog_load_desc(ret, prog);
	if (prog->fd < 0)
		fail("no program: %m");
}

/* A state that differs from the others in every group, in most fields */
static void make_whole(unsigned int k)
{
	static const unsigned int offloads[] = {
		TUN_F_CSUM | TUN_F_TSO4, TUN_F_CSUM | TUN_F_TSO6, 0
	};
	static const unsigned int hdr_sizes[] = { 10, 12, 20 };
	static const unsigned int addrs[] = { 1, 8, 3 };
	static const unsigned int insns[] = { 2, 3, 5 };
	struct state *st = &t.whole[k];
	struct tun_state *s = &st->s;
	unsigned int i;

	s->iff.flags = TYPE | (k == 1 ? IFF_PERSIST : 0);
	s->owner.uid = 1000 + k;
	s->owner.gid = 2000 + k;
	s->vnet.hdr_size = hdr_sizes[k];
	s->vnet.flags = k == 1 ? TUN_STATE_VNET_LE : 0;
	s->offload.enabled = offloads[k];
	s->offload.wanted = offloads[(k + 1) % STATES];
	s->link.carrier = k != 1;
	s->link.msg_enable = 0x2000 << k;
	s->txfilter.count = addrs[k];
	s->txfilter.hash = 0x0101010101010101 << k;
	for (i = 0; i < addrs[k]; i++) {
		memset(s->txfilter.addr[i], 0x10 * k + i, ETH_ALEN);
		s->txfilter.addr[i][0] = 2;
	}
	s->sockfilter.count = insns[k];
	for (i = 0; i < insns[k]; i++)
		st->insns[i] = (struct sock_filter)
			{ BPF_LD | BPF_IMM, 0, 0, k };
	st->insns[i - 1] = (struct sock_filter){ BPF_RET | BPF_K, 0, 0, ~0 };
	if (k != 2)
		make_prog(&s->steering, 1 + k);
	if (k != 0)
		make_prog(&s->filter, 0xfff0 + k);
}

/* Two calls at a time must not use the same buffers */
static void whole_argument(struct state *st, unsigned int k, unsigned int queue)
{
	*st = t.whole[k];
	state_point(st);
	st->s.sndbuf.size = own_sndbuf(queue, k);
}

static const struct {
	uint64_t bit;
	size_t start;
	size_t end;
} compared[] = {
#define COMPARED(bit, first, next) {					\
	TUN_STATE_##bit, offsetof(struct tun_state, first),		\
	offsetof(struct tun_state, next) }
	COMPARED(IFF, iff, owner),
	COMPARED(OWNER, owner, vnet),
	COMPARED(VNET, vnet, offload),
	COMPARED(OFFLOAD, offload.enabled, offload.supported),
	COMPARED(LINK, link, coalesce),
	COMPARED(TXFILTER, txfilter, sockfilter),
	COMPARED(SOCKFILTER, sockfilter.count, sockfilter.entry_size),
	COMPARED(STEERING, steering, steering.action),
	COMPARED(FILTER, filter, filter.action),
};

static uint64_t differences(const struct state *got, unsigned int k)
{
	const struct state *want = &t.whole[k];
	uint64_t diff = 0;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(compared); i++) {
		if (memcmp((char *)&got->s + compared[i].start,
			   (char *)&want->s + compared[i].start,
			   compared[i].end - compared[i].start))
			diff |= compared[i].bit;
	}
	if (memcmp(got->insns, want->insns, sizeof(got->insns)))
		diff |= TUN_STATE_SOCKFILTER;
	if (t.one_queue && got->s.sndbuf.size != own_sndbuf(0, k))
		diff |= TUN_STATE_SNDBUF;
	return diff & t.groups;
}

static void check_whole(const struct state *st)
{
	unsigned int k, n = STATES + threads.recreated;

	for (k = 0; k < n; k++)
		if (!differences(st, k))
			return;
	fail("torn: differs from each whole state, by %llx %llx %llx",
	     (unsigned long long)differences(st, 0),
	     (unsigned long long)differences(st, 1),
	     (unsigned long long)differences(st, 2));
}

/* TUNSETSTATE leaves the send buffers of other queues alone. A new queue has the
 * largest.
 */
static void check_sndbuf(unsigned int queue, int32_t size)
{
	if (size / 1000000 != (int)queue + 1 &&
	    !((threads.recreated || t.reopened) && size == INT32_MAX))
		fail("queue %u has a send buffer of %d", queue, size);
}

static void check_queues(const struct state *st)
{
	const struct tun_state_array *all = &st->s.queues;
	const struct tun_state_queue *queue, *self = NULL;
	unsigned int i, n, napi = 0, frags = 0;
	bool filter, attached;

	if (all->count > QUEUES + t.more_queues ||
	    (!threads.recreated && all->count < QUEUES)) {
		fail("%u queues", all->count);
		return;
	}
	for (n = 0; n < all->count; n++)
		if (!(st->queues[n].flags & TUN_STATE_QUEUE_ATTACHED))
			break;
	for (i = 0; i < all->count; i++) {
		queue = &st->queues[i];
		attached = i < n;
		if (!!(queue->flags & TUN_STATE_QUEUE_ATTACHED) != attached ||
		    queue->index != i - (attached ? 0 : n))
			fail("queue %u, %u attached, has index %u, flags %x",
			     i, n, queue->index, queue->flags);
		if (queue->ring_size != st->queues[0].ring_size)
			fail("queue %u has another ring: %u, %u", i,
			     queue->ring_size, st->queues[0].ring_size);
		if (queue->ring_len > queue->ring_size)
			fail("%u packets in %u places", queue->ring_len,
			     queue->ring_size);
		filter = queue->flags & TUN_STATE_QUEUE_SOCKFILTER;
		if (filter != !!st->s.sockfilter.count &&
		    !(t.own_filter && !filter))
			fail("queue %u has flags %x, filter %u", i,
			     queue->flags, st->s.sockfilter.count);
		napi += !!(queue->flags & TUN_STATE_QUEUE_NAPI);
		frags += !!(queue->flags & TUN_STATE_QUEUE_NAPI_FRAGS);
		if (queue->flags & TUN_STATE_QUEUE_SELF) {
			if (self)
				fail("two queues are this one");
			self = queue;
		}
	}
	if (!self)
		fail("no queue is this one");
	else if (self->index != st->s.queue.index ||
		 self->flags != st->s.queue.flags ||
		 self->ring_size != st->s.queue.ring_size)
		fail("what queues and queue say is not the same");
	if (!threads.recreated && !t.reopened &&
	    (napi != NR_NAPI || frags != NR_NAPI_FRAGS))
		fail("%u queues have NAPI, %u NAPI_FRAGS", napi, frags);
}

static void check_flows(const struct state *st)
{
	unsigned int i;

	for (i = 0; i < st->s.flows.count; i++) {
		if (st->flows[i].queue_index > 255 ||
		    (i && st->flows[i].rxhash <= st->flows[i - 1].rxhash))
			fail("flow %u: hash %x queue %u", i,
			     st->flows[i].rxhash, st->flows[i].queue_index);
	}
}

/* A file holds programs of the states, unless others attach more */
static void check_held(unsigned int id, uint64_t group)
{
	const struct tun_state *s;
	unsigned int k;

	for (k = 0; k < STATES; k++) {
		s = &t.whole[k].s;
		if (id == (group == TUN_STATE_FILTER ? s->filter.id :
						       s->steering.id))
			return;
	}
	if (!id || t.groups & group)
		fail("program %u is held", id);
}

/* The calls; those without a device do not count */

static bool had_device(int err)
{
	if (no_device(err))
		return false;
	atomic_fetch_add(&t.made, 1);
	return true;
}

static void get_job(struct job *job)
{
	const uint64_t mask = ALL_GROUPS;
	unsigned int i, queue;
	struct state st;
	int err = 0;

	for (i = 0; calls_left(i); i += err != EBADFD) {
		queue = t.one_queue ? 0 : pick(job, QUEUES);
		/* One thread also takes references to the programs */
		err = state_get_flags(t.fd[queue], mask, &st,
				      job->nr ? TUN_STATE_F_HOLD : 0);
		if (!had_device(err))
			continue;
		if (err) {
			fail("GET: %s, failed %llx", strerror(err),
			     (unsigned long long)st.s.failed);
			return;
		}
		if (st.s.mask != mask)
			fail("GET: mask %llx", (unsigned long long)st.s.mask);
		check_whole(&st);
		check_sndbuf(queue, st.s.sndbuf.size);
		check_queues(&st);
		check_flows(&st);
		job->rounds++;
	}
}

static void set_job(struct job *job)
{
	unsigned int i, queue;
	struct state st;
	int err = 0;

	for (i = 0; calls_left(i); i += err != EBADFD) {
		queue = t.one_queue ? 0 : pick(job, QUEUES);
		whole_argument(&st, pick(job, STATES), queue);
		err = state_set(t.fd[queue], WHOLE, &st);
		if (!had_device(err))
			continue;
		if (!err && st.s.mask != WHOLE)
			fail("SET: mask %llx", (unsigned long long)st.s.mask);
		if (!err)
			job->rounds++;
		else
			fail("SET: %s, failed %llx", strerror(err),
			     (unsigned long long)st.s.failed);
	}
}

/* The programs that a file holds, as its fdinfo shows them. The kernel looks at
 * them under RTNL.
 */
static void fdinfo_job(struct job *job)
{
	char path[64], line[128];
	unsigned int id, i;
	FILE *f;

	for (i = 0; calls_left(i); i++) {
		snprintf(path, sizeof(path), "/proc/self/fdinfo/%d",
			 t.fd[t.one_queue ? 0 : pick(job, QUEUES)]);
		f = fopen(path, "r");
		while (f && fgets(line, sizeof(line), f)) {
			if (sscanf(line, "steering-held: %u", &id) == 1)
				check_held(id, TUN_STATE_STEERING);
			if (sscanf(line, "filter-held: %u", &id) == 1)
				check_held(id, TUN_STATE_FILTER);
		}
		if (f)
			fclose(f);
		else
			fail("%s: %m", path);
		job->rounds++;
	}
}

/* Other threads */

#define PACKET_LEN 64

static void make_packet(unsigned char *packet, unsigned int flow)
{
	static const unsigned char start[] = {
		2, 0, 0, 0, 0, 0, 2, 1, 1, 1, 1, 1, 8, 0,
		0x45, 0, 0, PACKET_LEN - ETH_HLEN, 0, 0, 0, 0, 64, 17, 0, 0,
		192, 0, 2, 2, 192, 0, 2, 1, 0, 0, 0, 9,
		0, PACKET_LEN - ETH_HLEN - 20, 0, 0,
	};

	memset(packet, 0, PACKET_LEN);
	memcpy(packet, start, sizeof(start));
	packet[34] = 1 + flow / 256;
	packet[35] = flow;
}

/* Send packets from the host to the device */
static void send_job(struct job *job)
{
	int fd = socket(AF_PACKET, SOCK_RAW, 0);
	unsigned char packet[PACKET_LEN];

	do {
		make_packet(packet, pick(job, 8));
		if (send_packet(fd, t.name, packet, sizeof(packet)))
			job->rounds++;
	} while (go_on(job));
	close(fd);
}

static void udp_job(struct job *job)
{
	static const int expected[] = {
		ENETDOWN, ENETUNREACH, EHOSTUNREACH, ENOBUFS, EINVAL, EAGAIN,
		EPERM, 0
	};
	struct sockaddr_in sin = {
		.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(0xc0000202),
		.sin_port = htons(9),
	};
	char byte = 0;
	int fd;

	do {
		fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
		if (sendto(fd, &byte, 1, 0, (void *)&sin, sizeof(sin)) < 0)
			expect_errno("UDP", expected);
		close(fd);
		job->rounds++;
	} while (go_on(job));
}

static void read_job(struct job *job)
{
	/* EFAULT is how tun says that the device has gone while it waited */
	static const int expected[] = { EAGAIN, EBADFD, EFAULT, EIO, 0 };
	char packet[2048];
	ssize_t n;

	do {
		n = read(t.fd[pick(job, QUEUES)], packet, sizeof(packet));
		if (n < 0)
			expect_errno("read", expected);
		else if (n < ETH_HLEN)
			fail("read %zd bytes of a packet", n);
		if (n < 0)
			sched_yield();
		job->rounds++;
	} while (go_on(job));
}

/* The header of a packet may belong to a state that has just been replaced */
static void write_job(struct job *job)
{
	static const unsigned int headers[] = { 0, 4, 10, 14, 12, 16, 20, 24 };
	/* EBUSY: a queue with NAPI is detached */
	static const int expected[] = {
		EINVAL, EIO, EBADFD, EAGAIN, EFAULT, ENOMEM, EBUSY, 0
	};
	unsigned char packet[24 + PACKET_LEN];
	unsigned int header;

	do {
		header = headers[pick(job, ARRAY_SIZE(headers))];
		memset(packet, 0, sizeof(packet));
		make_packet(packet + header, pick(job, 8));
		if (write(t.fd[pick(job, QUEUES)], packet,
			  header + PACKET_LEN) < 0)
			expect_errno("write", expected);
		job->rounds++;
	} while (go_on(job));
}

/* The first queue stays attached: the carrier needs one */
static void attach_job(struct job *job)
{
	static const int expected[] = { EINVAL, 0 };
	unsigned int flags;

	do {
		flags = pick(job, 2) ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE;
		if (tun_set_queue(t.fd[1 + pick(job, QUEUES - 1)], flags))
			expect_errno("TUNSETQUEUE", expected);
		else
			job->rounds++;
	} while (go_on(job));
}

/* EINVAL: the queue has changed since it was read */
static void place_job(struct job *job)
{
	unsigned int queue;
	struct state st;
	int err;

	do {
		queue = pick(job, QUEUES);
		err = state_get(t.fd[queue], TUN_STATE_QUEUE, &st);
		if (err) {
			if (err != EBADFD || !threads.recreated)
				fail("GET queue: %s", strerror(err));
			continue;
		}
		if (queue)
			st.s.queue.flags ^= TUN_STATE_QUEUE_ATTACHED *
					    pick(job, 2);
		st.s.queue.index = pick(job, QUEUES);
		err = state_set(t.fd[queue], TUN_STATE_QUEUE, &st);
		if (!err)
			job->rounds++;
		else if (err != EINVAL && !(err == EBADFD && threads.recreated))
			fail("SET queue: %s", strerror(err));
	} while (go_on(job));
}

/* Replace a file, which closes its queue; a call may still use it */
static void reopen_job(struct job *job)
{
	unsigned int queue;
	struct state st;
	int fd, err;

	do {
		queue = 1 + pick(job, QUEUES - 1);
		fd = tun_queue(t.name, TYPE | (pick(job, 2) ? IFF_NAPI : 0));
		if (fd < 0) {
			fail("reopen: %m");
			return;
		}
		err = state_get(fd, ALL_GROUPS, &st);
		if (err)
			fail("GET of a new queue: %s", strerror(err));
		else
			check_queues(&st);
		dup2(fd, t.fd[queue]);
		close(fd);
		job->rounds++;
	} while (go_on(job));
}

static void up_down_job(struct job *job)
{
	struct ifreq ifr;

	do {
		ifr.ifr_flags = job->rounds % 2 ? IFF_UP : 0;
		if (netdev_ioctl(t.name, SIOCSIFFLAGS, &ifr) &&
		    !(errno == ENODEV && threads.recreated))
			fail("SIOCSIFFLAGS: %m");
		job->rounds++;
	} while (go_on(job));
}

static void resize_job(struct job *job)
{
	struct ifreq ifr;

	do {
		ifr.ifr_qlen = 1 + pick(job, 600);
		if (netdev_ioctl(t.name, SIOCSIFTXQLEN, &ifr) &&
		    !(errno == ENODEV && threads.recreated))
			fail("SIOCSIFTXQLEN: %m");
		ifr.ifr_mtu = 1000 + pick(job, 500);
		if (netdev_ioctl(t.name, SIOCSIFMTU, &ifr) &&
		    !(errno == ENODEV && threads.recreated))
			fail("SIOCSIFMTU: %m");
		job->rounds++;
	} while (go_on(job));
}

static void filter_job(struct job *job)
{
	static const struct sock_filter insns[] = {
		{ BPF_LD | BPF_IMM, 0, 0, 9 },
		{ BPF_LD | BPF_IMM, 0, 0, 8 },
		{ BPF_LD | BPF_IMM, 0, 0, 7 },
		{ BPF_RET | BPF_K, 0, 0, 0xffff },
	};
	unsigned int queue;
	int err;

	do {
		queue = pick(job, QUEUES);
		if (pick(job, 2))
			err = tun_attach_filter(t.fd[queue], insns,
						ARRAY_SIZE(insns));
		else
			err = tun_detach_filter(t.fd[queue]);
		if (err && !(errno == EBADFD && threads.recreated))
			fail("filter: %m");
		job->rounds++;
	} while (go_on(job));
}

/* Put held programs back after others have replaced the attached ones. No other
 * thread holds programs by the file of this queue.
 */
static void prog_job(struct job *job)
{
	struct state st, now;
	unsigned int request;
	int fd, prog, err;

	fd = tun_queue(t.name, TYPE);
	if (fd < 0) {
		fail("queue for programs: %m");
		return;
	}
	do {
		prog = prog_load(BPF_PROG_TYPE_SOCKET_FILTER,
				 0x10000 + job->rounds);
		request = job->rounds % 2 ? TUNSETSTEERINGEBPF :
					    TUNSETFILTEREBPF;
		if (prog < 0 || ioctl(fd, request, &prog))
			fail("program: %m");
		close(prog);
		err = state_hold(fd, PROGS, &st);
		if (err)
			fail("HOLD: %s", strerror(err));
		/* To read does not let go of them */
		err = state_get(fd, PROGS, &now);
		if (err)
			fail("GET programs: %s", strerror(err));
		prog = -1;
		if (ioctl(fd, request, &prog))
			fail("no program: %m");
		err = state_set(fd, PROGS, &st);
		if (err)
			fail("SET programs by id: %s", strerror(err));
		job->rounds++;
	} while (go_on(job) && !threads.failures);
	close(fd);
}

/* On a shared queue: EBADF after another thread has held other programs by it */
static void held_job(struct job *job)
{
	unsigned int queue;
	struct state st;
	int err;

	do {
		queue = pick(job, QUEUES);
		err = state_hold(t.fd[queue], PROGS, &st);
		if (!err)
			err = state_set(t.fd[queue], PROGS, &st);
		if (err == EBADFD && threads.recreated)
			continue;
		if (!err)
			job->rounds++;
		else if (err != EBADF)
			fail("held: %s", strerror(err));
	} while (go_on(job));
}

/* Make the device again, through the files that have lost it */
static void recreate(void)
{
	unsigned int flags[QUEUES];
	struct state st;
	unsigned int i;

	for (i = 0; i < QUEUES; i++) {
		if (state_get(t.fd[i], 0, &st) != EBADFD)
			fail("queue %u is not without a device", i);
		flags[i] = TYPE | open_flags[i];
	}
	remake_device(t.name, t.fd, flags, QUEUES);
}

/* Let the device live for some calls */
static void wait_for_calls(void)
{
	unsigned int made = atomic_load(&t.made);

	while (atomic_load(&threads.callers) &&
	       atomic_load(&t.made) - made < 50)
		usleep(1000);
}

static void delete_job(struct job *job)
{
	int err;

	do {
		wait_for_calls();
		err = netdev_delete(t.name);
		if (err) {
			fail("cannot delete the device: %s", strerror(-err));
			return;
		}
		recreate();
		job->rounds++;
	} while (go_on(job));
}

static bool wait_for_ebadfd(void)
{
	struct state st;
	int i;

	for (i = 0; i < 2000; i++) {
		if (state_get(t.fd[0], 0, &st) == EBADFD)
			return true;
		usleep(10000);
	}
	return false;
}

/* The device goes with its namespace, to which nothing else refers */
static void netns_job(struct job *job)
{
	int home = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	int other;

	do {
		wait_for_calls();
		if (unshare(CLONE_NEWNET)) {
			fail("unshare: %m");
			break;
		}
		other = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
		if (setns(home, CLONE_NEWNET))
			fail("setns: %m");
		if (netdev_move(t.name, other))
			fail("cannot move the device");
		close(other);
		if (!wait_for_ebadfd()) {
			fail("the device stays");
			break;
		}
		recreate();
		job->rounds++;
	} while (go_on(job));
	close(home);
}

/* Learn flows from packets, and fill the table */
static void learn_job(struct job *job)
{
	static const int expected[] = { EINVAL, EIO, EBADFD, EAGAIN, EBUSY, 0 };
	unsigned char packet[PI_SIZE + 10 + PACKET_LEN] = {};

	do {
		make_packet(packet + PI_SIZE + 10, pick(job, 6000));
		if (write(t.fd[pick(job, QUEUES)], packet, sizeof(packet)) < 0)
			expect_errno("write", expected);
		job->rounds++;
	} while (go_on(job));
}

#define ALL_FLOWS 4096

static void flows_job(struct job *job)
{
	struct tun_state_flow *flows = calloc(ALL_FLOWS, sizeof(*flows));
	const unsigned int calls = threads.calls / 10 + 1;
	struct tun_state s;
	unsigned int i, n, seen = 0;
	int fd;

	for (n = 0; (n < calls || !seen) && !threads.failures; n++) {
		fd = t.fd[pick(job, QUEUES)];
		memset(&s, 0, sizeof(s));
		s.mask = TUN_STATE_FLOWS;
		s.flows.entries = (uintptr_t)flows;
		s.flows.entry_size = sizeof(*flows);
		s.flows.count = pick(job, 2) ? ALL_FLOWS : pick(job, 100);
		if (ioctl(fd, TUNGETSTATE, &s)) {
			if (errno != ENOSPC || s.flows.count > ALL_FLOWS)
				fail("GET flows: %m, %u", s.flows.count);
			continue;
		}
		for (i = 0; i < s.flows.count; i++) {
			if (flows[i].queue_index > 255 ||
			    (i && flows[i].rxhash <= flows[i - 1].rxhash))
				fail("flow %u of %u: %x", i, s.flows.count,
				     flows[i].rxhash);
		}
		seen += s.flows.count;
		/* Ignored */
		if (ioctl(fd, TUNSETSTATE, &s))
			fail("SET flows: %m");
		job->rounds++;
	}
	free(flows);
}

static void unload_job(struct job *job)
{
	do {
		if (!syscall(__NR_delete_module, "tun", O_NONBLOCK))
			fail("the module went while it was in use");
		else if (errno != EWOULDBLOCK && errno != EBUSY)
			fail("delete_module: %m");
		job->rounds++;
		usleep(1000);
	} while (go_on(job));
}

/* The end of a test */

static int drain(void)
{
	char packet[2048];
	int i, n = 0;

	for (i = 0; i < QUEUES; i++)
		while (read(t.fd[i], packet, sizeof(packet)) > 0)
			n++;
	return n;
}

/* Wait for the link, which comes up late */
static bool traffic_out(void)
{
	int i;

	for (i = 0; i < 500; i++) {
		send_packets(t.name, 1);
		if (drain())
			break;
		usleep(10000);
	}
	drain();
	return send_packets(t.name, 32) == 32 && drain() == 32;
}

static bool traffic_in(void)
{
	struct sockaddr_ll sll = {
		.sll_family = AF_PACKET,
		.sll_protocol = htons(ETH_P_IP),
		.sll_ifindex = netdev_index(t.name),
	};
	int fd = socket(AF_PACKET, SOCK_RAW, 0);
	struct pollfd pfd = { .fd = fd, .events = POLLIN };
	unsigned char packet[PI_SIZE + 10 + PACKET_LEN] = {};
	unsigned char got[PACKET_LEN + 1];
	int i, n = 0;

	bind(fd, (void *)&sll, sizeof(sll));
	for (i = 0; i < QUEUES; i++) {
		make_packet(packet + PI_SIZE + 10, i);
		if (write(t.fd[i], packet, sizeof(packet)) != sizeof(packet))
			break;
		if (poll(&pfd, 1, 20000) == 1 &&
		    recv(fd, got, sizeof(got), 0) == PACKET_LEN &&
		    !memcmp(packet + PI_SIZE + 10, got, PACKET_LEN))
			n++;
	}
	close(fd);
	return n == QUEUES;
}

/* Check that the device works as before */
static void finish(void)
{
	struct ifreq ifr = { .ifr_qlen = 500 };
	struct state st, now;
	unsigned int i, k;

	for (i = 0; i < QUEUES; i++)
		tun_set_queue(t.fd[i], IFF_ATTACH_QUEUE);
	for (k = 0; k < STATES; k++) {
		whole_argument(&st, k, k);
		if (state_set(t.fd[k], WHOLE, &st))
			fail("the last SET: %m");
		if (state_get(t.fd[(k + 1) % QUEUES], WHOLE, &now) ||
		    differences(&now, k))
			fail("the last GET is not what was set");
	}

	memset(&st, 0, sizeof(st));
	state_point(&st);
	st.s.iff.flags = TYPE;
	st.s.owner.uid = -1;
	st.s.owner.gid = -1;
	st.s.vnet.hdr_size = 10;
	st.s.sndbuf.size = INT32_MAX;
	st.s.link.carrier = 1;
	if (state_set(t.fd[0], WHOLE, &st))
		fail("SET of defaults: %m");
	if (netdev_ioctl(t.name, SIOCSIFTXQLEN, &ifr) || netdev_up(t.name))
		fail("cannot set the device up: %m");
	if (!traffic_out())
		fail("no packets come out");
	if (!traffic_in())
		fail("no packets go in");
}

FIXTURE(stress)
{
};

FIXTURE_SETUP(stress)
{
	const char *why = tun_state_enter();
	struct state st;
	unsigned int i;

	if (why)
		SKIP(return, "%s", why);
	threads.calls = calls_of_thread();
	ASSERT_GT(threads.calls, 0);
	t.groups = WHOLE;
	memcpy(t.name, "stress", 7);
	for (i = 0; i < QUEUES; i++) {
		t.fd[i] = tun_queue(t.name, TYPE | open_flags[i]);
		ASSERT_GE(t.fd[i], 0);
	}
	ASSERT_EQ(0, netdev_up(t.name));
	ASSERT_EQ(0, state_get(t.fd[0], ALL_GROUPS, &t.whole[FRESH]));
	for (i = 0; i < STATES; i++)
		make_whole(i);
	for (i = 0; i < QUEUES; i++) {
		whole_argument(&st, 0, i);
		ASSERT_EQ(0, state_set(t.fd[i], WHOLE, &st));
	}
	ASSERT_EQ(0, threads.failures);
	callers(get_job, 2);
	callers(set_job, 2);
	callers(fdinfo_job, 1);
}

FIXTURE_TEARDOWN(stress)
{
	unsigned int i;

	for (i = 0; i < QUEUES; i++)
		close(t.fd[i]);
	EXPECT_EQ(-1, netdev_index(t.name));
}

#define STRESS(name) TEST_F_TIMEOUT(stress, name, TIMEOUT)
#define RUN()							\
	do {							\
		run_all();					\
		finish();					\
		EXPECT_EQ(0, threads.failures);			\
	} while (0)

/* On one file: the groups of the queue belong to the whole state, too */
STRESS(one_queue)
{
	t.one_queue = true;
	run_all();
	t.one_queue = false;
	finish();
	EXPECT_EQ(0, threads.failures);
}

STRESS(all_queues)
{
	RUN();
}

STRESS(traffic)
{
	struct arpreq arp = { .arp_flags = ATF_COM | ATF_PERM };
	struct sockaddr_in *sin;
	struct ifreq ifr = {};
	int fd;

	sin = (void *)&ifr.ifr_addr;
	sin->sin_family = AF_INET;
	sin->sin_addr.s_addr = htonl(0xc0000201);
	ASSERT_EQ(0, netdev_ioctl(t.name, SIOCSIFADDR, &ifr));
	sin->sin_addr.s_addr = htonl(0xffffff00);
	ASSERT_EQ(0, netdev_ioctl(t.name, SIOCSIFNETMASK, &ifr));
	sin = (void *)&arp.arp_pa;
	sin->sin_family = AF_INET;
	sin->sin_addr.s_addr = htonl(0xc0000202);
	arp.arp_ha.sa_family = ARPHRD_ETHER;
	arp.arp_ha.sa_data[0] = 2;
	memcpy(arp.arp_dev, t.name, IFNAMSIZ);
	fd = socket(AF_INET, SOCK_DGRAM, 0);
	ASSERT_EQ(0, ioctl(fd, SIOCSARP, &arp));
	close(fd);

	meanwhile(send_job, 1);
	meanwhile(udp_job, 1);
	meanwhile(read_job, 1);
	meanwhile(write_job, 1);
	RUN();
}

STRESS(attach)
{
	meanwhile(attach_job, 2);
	RUN();
}

STRESS(place)
{
	t.own_filter = true;
	meanwhile(place_job, 2);
	RUN();
}

STRESS(reopen)
{
	t.reopened = true;
	/* A queue stays as long as there are calls on its file */
	t.more_queues = 1 + threads.nr_jobs;
	meanwhile(reopen_job, 1);
	RUN();
}

STRESS(up_down)
{
	meanwhile(up_down_job, 1);
	RUN();
}

STRESS(resize)
{
	meanwhile(resize_job, 1);
	meanwhile(send_job, 1);
	RUN();
}

STRESS(delete_device)
{
	threads.recreated = true;
	meanwhile(delete_job, 1);
	RUN();
}

STRESS(delete_netns)
{
	threads.recreated = true;
	meanwhile(netns_job, 1);
	RUN();
}

STRESS(classic_filter)
{
	t.groups &= ~TUN_STATE_SOCKFILTER;
	meanwhile(filter_job, 2);
	RUN();
}

STRESS(programs)
{
	t.groups &= ~PROGS;
	t.more_queues = 2;
	meanwhile(prog_job, 2);
	meanwhile(held_job, 1);
	RUN();
}

/* Flows only: a steering program would end the learning */
STRESS(flows)
{
	struct state st;

	ASSERT_EQ(0, state_get(t.fd[0], WHOLE, &st));
	st.s.steering = (struct tun_state_prog){};
	st.s.sndbuf.size = INT32_MAX;
	ASSERT_EQ(0, state_set(t.fd[0], TUN_STATE_STEERING | TUN_STATE_SNDBUF,
			       &st));
	threads.nr_jobs = 0;
	threads.callers = 0;
	callers(flows_job, 3);
	meanwhile(learn_job, 2);
	meanwhile(attach_job, 1);
	RUN();
}

/* A call that waits for its argument while nothing else holds the file */
struct blocked {
	int fd;
	struct tun_state *s;
	int err;
};

static void *blocked_call(void *arg)
{
	struct blocked *call = arg;

	call->err = ioctl(call->fd, TUNGETSTATE, call->s) ? errno : 0;
	return NULL;
}

STRESS(module_in_use)
{
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	struct uffdio_zeropage zero = {};
	struct uffdio_api api = { .api = UFFD_API };
	long page = sysconf(_SC_PAGESIZE);
	struct blocked call = {};
	struct uffd_msg msg;
	pthread_t thread;
	unsigned int i;
	int uffd;

	if (access("/sys/module/tun/refcnt", F_OK))
		SKIP(return, "tun is not a module that can be unloaded");
	meanwhile(unload_job, 1);
	RUN();

	uffd = syscall(__NR_userfaultfd, O_CLOEXEC);
	if (uffd < 0)
		SKIP(return, "no userfaultfd");
	ASSERT_EQ(0, ioctl(uffd, UFFDIO_API, &api));
	call.s = mmap(NULL, page, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, (void *)call.s);
	reg.range.start = (uintptr_t)call.s;
	reg.range.len = page;
	ASSERT_EQ(0, ioctl(uffd, UFFDIO_REGISTER, &reg));

	call.fd = t.fd[0];
	ASSERT_EQ(0, pthread_create(&thread, NULL, blocked_call, &call));
	ASSERT_EQ(sizeof(msg), read(uffd, &msg, sizeof(msg)));
	for (i = 0; i < QUEUES; i++)
		close(t.fd[i]);
	EXPECT_EQ(-1, syscall(__NR_delete_module, "tun", O_NONBLOCK));
	EXPECT_TRUE(errno == EWOULDBLOCK || errno == EBUSY);
	EXPECT_GT(netdev_index(t.name), 0);
	zero.range = reg.range;
	ASSERT_EQ(0, ioctl(uffd, UFFDIO_ZEROPAGE, &zero));
	pthread_join(thread, NULL);
	EXPECT_EQ(0, call.err);
	EXPECT_NE(0, call.s->supported);
	close(uffd);
}

STRESS(everything)
{
	t.groups &= ~(TUN_STATE_SOCKFILTER | PROGS);
	threads.recreated = true;
	t.own_filter = true;
	meanwhile(send_job, 1);
	meanwhile(read_job, 1);
	meanwhile(write_job, 1);
	meanwhile(attach_job, 1);
	meanwhile(place_job, 1);
	meanwhile(up_down_job, 1);
	meanwhile(resize_job, 1);
	meanwhile(filter_job, 1);
	meanwhile(held_job, 1);
	meanwhile(delete_job, 1);
	RUN();
}

TEST_HARNESS_MAIN
