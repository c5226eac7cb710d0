// SPDX-License-Identifier: GPL-2.0
/*
 * Properties of TUNSETSTATE, with random valid states of random devices:
 *  - TUNGETSTATE returns the state that was set, for all queues, and what
 *    rtnetlink, ethtool and packets own stays as it was;
 *  - to set it again is a no-op, without a notification and without rights;
 *  - on a fresh device of the same shape it makes the same state;
 *  - a file can put back by their ids the programs that it holds.
 * tun_state_fuzz makes random calls that may be invalid.
 *
 * usage: tun_state_property [RUNS [SEED]]
 *
 * TUN_STATE_RUNS and TUN_STATE_SEED in the environment are the defaults. Equal
 * seeds make equal states. Each state has a seed of its own, so that a check
 * that is left out because it took too long does not change the next states.
 */
#include <stdarg.h>
#include <time.h>

#include "../kselftest.h"
#include "tun_state_util.h"

#define RUNS		10000
#define PER_DEVICE	24	/* states of a device before a fresh one */
#define PER_SHAPE	4	/* devices of a shape */

#define MAX_OLD		64	/* devices to delete at a time */

#define NR_QUEUES	8
#define NR_INSNS	400
#define NR_PROGS	5

#ifndef TUN_F_USO4
#define TUN_F_USO4	0x20
#define TUN_F_USO6	0x40
#endif
#ifndef TUN_F_UDP_TUNNEL_GSO
#define TUN_F_UDP_TUNNEL_GSO		0x080
#define TUN_F_UDP_TUNNEL_GSO_CSUM	0x100
#endif

#define ATTACHED	TUN_STATE_QUEUE_ATTACHED
#define HAS_FILTER	TUN_STATE_QUEUE_SOCKFILTER

/* struct tun_state with its user buffers */
struct full {
	struct tun_state s;
	struct sock_filter insns[NR_INSNS];
	struct tun_state_flow flows[1];
	struct tun_state_queue queues[NR_QUEUES + 1];
};

struct shape {
	unsigned int flags;		/* IFF_TAP or IFF_TUN, perhaps more */
	int nr_queues;
	unsigned int open[NR_QUEUES];	/* more flags of each queue */
};

struct device {
	struct shape shape;
	char name[IFNAMSIZ];
	int fd[NR_QUEUES];
	int ifindex;
	/* The expected state */
	struct full want;
	struct tun_state_queue queue[NR_QUEUES];
	int32_t sndbuf[NR_QUEUES];
	int order[NR_QUEUES];		/* attached ones first */
	int attached;
	/* The programs that each file holds */
	struct tun_state_prog held[NR_QUEUES][2];
};

static uint64_t seed;
static unsigned int state_nr;
static bool vnet_be;
static unsigned int max_weight;		/* of a classic program */
static struct {
	int fd;
	struct tun_state_prog desc;
} progs[NR_PROGS];

static int link_events;			/* socket for RTM_NEWLINK */
static bool glink_waits;
static int nr_old;
static unsigned long nr_sets, nr_gets, nr_devices, nr_fresh, nr_noops;
static unsigned long nr_notified, nr_moves, nr_insns, nr_put_back;

/* Random numbers: splitmix64 */

static uint64_t rnd_state;

static uint64_t rnd(void)
{
	uint64_t z = (rnd_state += 0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}

static unsigned int below(unsigned int n)
{
	return (rnd() >> 32) * n >> 32;
}

static bool one_in(unsigned int n)
{
	return !below(n);
}

static void rnd_bytes(void *to, size_t n)
{
	unsigned char *p = to;

	while (n--)
		*p++ = rnd();
}

static __noreturn __printf(1, 2) void fail(const char *fmt, ...)
{
	va_list ap;
	char text[256];

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	ksft_exit_fail_msg("%s; state %u, TUN_STATE_SEED=%llu\n", text,
			   state_nr, (unsigned long long)seed);
}

static const char *names(uint64_t mask)
{
	static char text[256];
	unsigned int i;

	text[0] = 0;
	for (i = 0; i < ARRAY_SIZE(state_groups); i++) {
		if (!(state_groups[i].bit & mask))
			continue;
		strcat(text, " ");
		strcat(text, state_groups[i].name);
	}
	return text;
}

/* Ioctls */

static void full_point(struct full *st)
{
	st->s.sockfilter.entries = (uintptr_t)st->insns;
	st->s.sockfilter.entry_size = sizeof(st->insns[0]);
	st->s.flows.entries = (uintptr_t)st->flows;
	st->s.flows.entry_size = sizeof(st->flows[0]);
	st->s.queues.entries = (uintptr_t)st->queues;
	st->s.queues.entry_size = sizeof(st->queues[0]);
}

static void full_copy(struct full *to, const struct full *from)
{
	to->s = from->s;
	memcpy(to->insns, from->insns,
	       from->s.sockfilter.count * sizeof(to->insns[0]));
	memcpy(to->queues, from->queues, sizeof(to->queues));
	full_point(to);
}

/* Read a state, with the buffer sizes of the expected one or the largest */
static void get(struct device *d, int q, struct full *st,
		const struct full *want)
{
	memset(&st->s, 0, sizeof(st->s));
	full_point(st);
	st->s.mask = ALL_GROUPS;
	st->s.sockfilter.count = want ? want->s.sockfilter.count : NR_INSNS;
	st->s.flows.count = ARRAY_SIZE(st->flows);
	st->s.queues.count = d->shape.nr_queues;
	if (ioctl(d->fd[q], TUNGETSTATE, &st->s))
		fail("GET: %s, failed:%s", strerror(errno),
		     names(st->s.failed));
	if (st->s.mask != ALL_GROUPS)
		fail("GET without%s", names(ALL_GROUPS & ~st->s.mask));
	nr_gets++;
}

/* Have a file hold the programs of these groups, and of no other */
static void hold(struct device *d, int q, uint64_t mask)
{
	static const struct tun_state_prog none;
	struct tun_state s = { .mask = mask, .flags = TUN_STATE_F_HOLD };

	if (ioctl(d->fd[q], TUNGETSTATE, &s))
		fail("HOLD: %s, failed:%s", strerror(errno), names(s.failed));
	d->held[q][0] = mask & TUN_STATE_STEERING ? s.steering : none;
	d->held[q][1] = mask & TUN_STATE_FILTER ? s.filter : none;
	nr_gets++;
}

static void set(struct device *d, int q, uint64_t mask, struct full *st)
{
	st->s.mask = mask;
	st->s.flags = 0;
	st->s.reserved = 0;
	if (ioctl(d->fd[q], TUNSETSTATE, &st->s))
		fail("SET: %s, failed:%s", strerror(errno),
		     names(st->s.failed));
	if (st->s.mask != (mask & ~GET_ONLY))
		fail("SET of%s says%s", names(mask), names(st->s.mask));
	nr_sets++;
}

/* Notifications */

/* Return the number of RTM_NEWLINK of a device, or -1 if some are lost. A change of
 * the carrier is notified later, up to the next ETHTOOL_GLINK.
 */
static int notifications(const char *name, int ifindex)
{
	struct ethtool_value link = { .cmd = ETHTOOL_GLINK };
	static union {
		struct nlmsghdr nh;
		char room[32768];
	} buf;
	struct nlmsghdr *nh;
	struct ifinfomsg *ifi;
	int len, n = 0;

	if (netdev_ethtool(name, &link))
		fail("ETHTOOL_GLINK: %s", strerror(errno));
	for (;;) {
		len = recv(link_events, &buf, sizeof(buf), MSG_DONTWAIT);
		if (len < 0 && errno == ENOBUFS) {
			n = -1;
			continue;
		}
		if (len < 0)
			return n;
		for (nh = &buf.nh; NLMSG_OK(nh, (unsigned int)len);
		     nh = NLMSG_NEXT(nh, len)) {
			ifi = NLMSG_DATA(nh);
			if (n >= 0 && nh->nlmsg_type == RTM_NEWLINK &&
			    ifi->ifi_index == ifindex)
				n++;
		}
	}
}

static void open_link_events(void)
{
	struct sockaddr_nl sa = {
		.nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK,
	};

	link_events = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
	if (link_events < 0 || bind(link_events, (void *)&sa, sizeof(sa)))
		ksft_exit_fail_msg("rtnetlink: %s\n", strerror(errno));
}

/* Find out if ETHTOOL_GLINK waits for the carrier: not before Linux 6.8. There,
 * changes of the carrier are limited to one a second, and may be notified any time.
 */
static void find_glink(void)
{
	char name[IFNAMSIZ] = "glink";
	int fd = tun_queue(name, IFF_TAP), carrier, i;

	if (fd < 0 || netdev_up(name))
		ksft_exit_fail_msg("TUNSETIFF: %s\n", strerror(errno));
	glink_waits = true;
	for (i = 0; i < 6; i++) {
		notifications(name, netdev_index(name));
		carrier = i % 2;
		if (ioctl(fd, TUNSETCARRIER, &carrier))
			fail("TUNSETCARRIER: %s", strerror(errno));
		if (!notifications(name, netdev_index(name)))
			glink_waits = false;
	}
	close(fd);
	if (!glink_waits)
		ksft_print_msg("notifications not compared, before Linux 6.8\n");
}

/* The expected state, as a queue reports it */

static int place_of(const struct device *d, int q)
{
	int i;

	for (i = 0; d->order[i] != q; i++)
		;
	return i;
}

static bool is_attached(const struct device *d, int q)
{
	return place_of(d, q) < d->attached;
}

static void see(struct device *d, int q)
{
	struct full *want = &d->want;
	int i;

	for (i = 0; i < d->shape.nr_queues; i++) {
		struct tun_state_queue *queue = &want->queues[i];

		*queue = d->queue[d->order[i]];
		queue->index = i < d->attached ? i : i - d->attached;
		queue->flags |= i < d->attached ? ATTACHED : 0;
		if (d->order[i] == q) {
			queue->flags |= TUN_STATE_QUEUE_SELF;
			want->s.queue = *queue;
		}
	}
	want->s.queues.count = d->shape.nr_queues;
	want->s.sndbuf.size = d->sndbuf[q];
}

/* Groups in which two answers of TUNGETSTATE differ */
static uint64_t differences(const struct full *a, const struct full *b)
{
	struct tun_state x = a->s, y = b->s;
	uint64_t diff = 0;
	unsigned int i;
	size_t offset;

	/* Ignore the addresses of the buffers */
	y.sockfilter.entries = x.sockfilter.entries;
	y.flows.entries = x.flows.entries;
	y.queues.entries = x.queues.entries;
	for (i = 0; i < ARRAY_SIZE(state_groups); i++) {
		offset = state_groups[i].offset;
		if (memcmp((char *)&x + offset, (char *)&y + offset,
			   state_groups[i].size))
			diff |= state_groups[i].bit;
	}
	if (memcmp(a->insns, b->insns,
		   x.sockfilter.count * sizeof(a->insns[0])))
		diff |= TUN_STATE_SOCKFILTER;
	if (memcmp(a->queues, b->queues,
		   x.queues.count * sizeof(a->queues[0])))
		diff |= TUN_STATE_QUEUES;
	return diff;
}

static void verify(struct device *d, int q, const char *after)
{
	static struct full got;
	uint64_t diff;

	see(d, q);
	get(d, q, &got, &d->want);
	diff = differences(&d->want, &got);
	if (diff)
		fail("GET after %s differs in%s", after, names(diff));
	nr_insns += got.s.sockfilter.count;
}

/* Devices */

static void rnd_shape(struct shape *sh)
{
	bool tap = below(2);
	int i;

	sh->flags = tap ? IFF_TAP : IFF_TUN;
	sh->nr_queues = 1;
	if (!one_in(4)) {
		sh->flags |= IFF_MULTI_QUEUE;
		sh->nr_queues = 1 + below(NR_QUEUES);
	}
	for (i = 0; i < sh->nr_queues; i++) {
		sh->open[i] = 0;
		if (below(2))
			sh->open[i] |= IFF_NO_PI;
		if (below(2))
			sh->open[i] |= IFF_VNET_HDR;
		if (below(2))
			sh->open[i] |= IFF_NAPI;
		if (tap && sh->open[i] & IFF_NAPI && below(2))
			sh->open[i] |= IFF_NAPI_FRAGS;
	}
}

static void make(struct device *d, const struct shape *sh)
{
	static const struct tun_state_queue none;
	static unsigned int nr;
	int i;

	memset(&d->want.s, 0, sizeof(d->want.s));
	memset(d->held, 0, sizeof(d->held));
	d->shape = *sh;
	memset(d->name, 0, sizeof(d->name));
	snprintf(d->name, sizeof(d->name), "p%u", nr++);
	for (i = 0; i < sh->nr_queues; i++) {
		d->fd[i] = tun_queue(d->name, sh->flags | sh->open[i]);
		if (d->fd[i] < 0)
			fail("queue %d of %#x %#x: %s", i, sh->flags,
			     sh->open[i], strerror(errno));
	}
	d->attached = sh->nr_queues;
	d->ifindex = netdev_index(d->name);
	/* Only then are most changes notified */
	if (one_in(3) && netdev_up(d->name))
		fail("%s: %s", d->name, strerror(errno));
	get(d, 0, &d->want, NULL);
	for (i = 0; i < sh->nr_queues; i++) {
		struct tun_state_queue *queue = &d->queue[i];

		*queue = none;
		if (sh->open[i] & IFF_NAPI)
			queue->flags |= TUN_STATE_QUEUE_NAPI;
		if (sh->open[i] & IFF_NAPI_FRAGS)
			queue->flags |= TUN_STATE_QUEUE_NAPI_FRAGS;
		queue->ring_size = d->want.queues[i].ring_size;
		d->sndbuf[i] = d->want.s.sndbuf.size;
		d->order[i] = i;
	}
	nr_devices++;
	verify(d, 0, "TUNSETIFF");
}

/* SETLINK: put a device into the group of old ones. DELLINK without a name:
 * delete that group.
 */
static void old_group(int type, const char *name)
{
	struct link_req req = {
		.nh.nlmsg_len = NLMSG_LENGTH(sizeof(req.ifi)),
		.nh.nlmsg_type = type,
		.ifi.ifi_index = name ? netdev_index(name) : 0,
	};
	struct rtattr *group = (void *)req.data;
	int err;

	group->rta_type = IFLA_GROUP;
	group->rta_len = RTA_LENGTH(sizeof(int));
	*(int *)RTA_DATA(group) = 1;
	req.nh.nlmsg_len += group->rta_len;
	err = rtnl_ack(&req);
	if (err)
		fail("group of old devices: %s", strerror(-err));
}

static void delete_old(void)
{
	if (nr_old)
		old_group(RTM_DELLINK, NULL);
	nr_old = 0;
}

/* Keep an old device for now: to delete one takes longer than the rest of its
 * test, and to delete many at a time takes no longer than one.
 */
static void retire(struct device *d)
{
	int i;

	if (ioctl(d->fd[0], TUNSETPERSIST, 1))
		fail("TUNSETPERSIST: %s", strerror(errno));
	for (i = 0; i < d->shape.nr_queues; i++)
		close(d->fd[i]);
	old_group(RTM_SETLINK, d->name);
	if (++nr_old == MAX_OLD)
		delete_old();
}

/* Moves of a queue, as TUNSETQUEUE and TUNSETSTATE make them */

static void model_detach(struct device *d, int q)
{
	int i = place_of(d, q), last = --d->attached;

	d->order[i] = d->order[last];
	for (i = last; i < d->shape.nr_queues - 1; i++)
		d->order[i] = d->order[i + 1];
	d->order[i] = q;
}

static void model_attach(struct device *d, int q)
{
	int i;

	for (i = place_of(d, q); i > d->attached; i--)
		d->order[i] = d->order[i - 1];
	d->order[i] = q;
	d->attached++;
}

static void model_place(struct device *d, int q, unsigned int index)
{
	int from = place_of(d, q);
	int to = index + (from < d->attached ? 0 : d->attached);

	d->order[from] = d->order[to];
	d->order[to] = q;
}

static void detach_some(struct device *d)
{
	int n, q;

	if (!(d->shape.flags & IFF_MULTI_QUEUE))
		return;
	for (n = below(d->shape.nr_queues + 1); n; n--) {
		q = below(d->shape.nr_queues);
		if (!is_attached(d, q))
			continue;
		if (tun_set_queue(d->fd[q], IFF_DETACH_QUEUE))
			fail("TUNSETQUEUE: %s", strerror(errno));
		model_detach(d, q);
	}
}

/* States */

static void rnd_iff(const struct device *d, struct tun_state_iff *g)
{
	g->reserved = 0;
	g->flags = d->want.s.iff.flags ^ (below(2) ? IFF_PERSIST : 0);
}

static void rnd_owner(struct tun_state_owner *g)
{
	g->uid = one_in(4) ? (uint32_t)-1 : rnd();
	g->gid = one_in(4) ? (uint32_t)-1 : rnd();
	g->flags = 0;
	g->reserved = 0;
}

static void rnd_vnet(struct tun_state_vnet *g)
{
	static const uint32_t usual[] = { 10, 12, 20, 24 };

	g->hdr_size = one_in(4) ? 10 + below(INT32_MAX - 9) :
				  usual[below(ARRAY_SIZE(usual))];
	g->flags = rnd() & (TUN_STATE_VNET_LE |
			    (vnet_be ? TUN_STATE_VNET_BE : 0));
}

static void rnd_offload(const struct device *d, struct tun_state_offload *g)
{
	const uint32_t tso = TUN_F_TSO4 | TUN_F_TSO6;
	const uint32_t uso = TUN_F_USO4 | TUN_F_USO6;
	uint32_t f = rnd() & d->want.s.offload.supported;

	g->supported = rnd();
	if (!(f & tso))
		f &= ~TUN_F_TSO_ECN;
	if ((f & uso) != uso)
		f &= ~uso;
	if (!(f & (tso | uso)))
		f &= ~TUN_F_UDP_TUNNEL_GSO;
	if (!(f & TUN_F_UDP_TUNNEL_GSO))
		f &= ~TUN_F_UDP_TUNNEL_GSO_CSUM;
	g->enabled = f ? f | TUN_F_CSUM : 0;

	/* ethtool changes them one by one, but USO4 and USO6 are one */
	f = rnd() & d->want.s.offload.supported & ~TUN_F_UFO;
	if ((f & uso) != uso)
		f &= ~uso;
	g->wanted = f;
	g->reserved = 0;
}

static void rnd_sndbuf(struct tun_state_sndbuf *g)
{
	g->size = 1 + below(INT32_MAX);
	g->reserved = 0;
}

/* The number of attached queues, with this one attached or not */
static int attached_after(const struct device *d, int q, bool attached)
{
	return d->attached - is_attached(d, q) + attached;
}

static void rnd_link(const struct device *d, bool any_queue,
		     struct tun_state_link *g)
{
	g->carrier = below(2);
	if (!any_queue && !d->want.s.link.carrier)
		g->carrier = 0;
	g->msg_enable = rnd();
}

static void rnd_txfilter(const struct device *d, struct tun_state_txfilter *g)
{
	memset(g, 0, sizeof(*g));
	if (d->shape.flags & IFF_TUN || one_in(4))
		return;
	g->count = 1 + below(TUN_STATE_TXFILTER_ADDRS);
	g->hash = rnd();
	rnd_bytes(g->addr, g->count * sizeof(g->addr[0]));
}

#define ST(k) ((struct sock_filter){ BPF_ST, 0, 0, (k) })

/* A random instruction before the last one, with @left instructions after it.
 * Return the most that it grows in the translation to eBPF.
 */
static unsigned int rnd_insn(struct sock_filter *insn, unsigned int left)
{
	static const uint16_t load[] = {
		BPF_LD | BPF_W | BPF_ABS, BPF_LD | BPF_H | BPF_ABS,
		BPF_LD | BPF_B | BPF_ABS, BPF_LD | BPF_W | BPF_IND,
		BPF_LD | BPF_H | BPF_IND, BPF_LD | BPF_B | BPF_IND,
		BPF_LDX | BPF_B | BPF_MSH,
	};
	static const uint16_t plain[] = {
		BPF_LD | BPF_IMM, BPF_LD | BPF_W | BPF_LEN, BPF_LDX | BPF_IMM,
		BPF_LDX | BPF_W | BPF_LEN, BPF_MISC | BPF_TAX,
		BPF_MISC | BPF_TXA, BPF_ALU | BPF_NEG, BPF_RET | BPF_K,
		BPF_RET | BPF_A, BPF_ALU | BPF_DIV | BPF_X,
		BPF_ALU | BPF_MOD | BPF_X, BPF_ALU | BPF_LSH | BPF_X,
	};
	static const uint16_t mem[] = {
		BPF_ST, BPF_STX, BPF_LD | BPF_MEM, BPF_LDX | BPF_MEM,
	};
	static const uint16_t alu[] = {
		BPF_ADD, BPF_SUB, BPF_MUL, BPF_DIV, BPF_OR, BPF_AND, BPF_LSH,
		BPF_RSH, BPF_MOD, BPF_XOR,
	};
	static const uint16_t jump[] = { BPF_JEQ, BPF_JGT, BPF_JGE, BPF_JSET };

	memset(insn, 0, sizeof(*insn));
	insn->k = rnd();
	switch (below(6)) {
	case 0:
		insn->code = load[below(ARRAY_SIZE(load))];
		/* The highest offsets are ancillary data, or invalid */
		insn->k %= below(2) ? 128 : INT32_MAX;
		return 16;
	case 1:
		insn->code = plain[below(ARRAY_SIZE(plain))];
		return 5;
	case 2:
		/* Read only words that were written: see rnd_sockfilter() */
		insn->code = mem[below(ARRAY_SIZE(mem))];
		insn->k %= 2;
		return 1;
	case 3:
		insn->code = BPF_ALU | alu[below(ARRAY_SIZE(alu))];
		insn->k = 1 + insn->k % 31;
		return 4;
	case 4:
		insn->code = BPF_JMP | BPF_JA;
		insn->k %= left;
		return 3;
	default:
		insn->code = BPF_JMP | jump[below(ARRAY_SIZE(jump))] |
			     (below(2) ? BPF_X : BPF_K);
		insn->jt = below(left < 256 ? left : 256);
		insn->jf = below(left < 256 ? left : 256);
		return 3;
	}
}

static void rnd_sockfilter(const struct device *d, struct full *st)
{
	struct tun_state_array *g = &st->s.sockfilter;
	unsigned int n, i, weight = 20;

	g->count = 0;
	if (d->shape.flags & IFF_TUN || one_in(4))
		return;

	n = 1 + (one_in(10) ? below(NR_INSNS) : below(16));
	if (n < 3)
		goto end;
	st->insns[0] = ST(0);
	st->insns[1] = ST(1);
	for (i = 2; i < n - 1; i++) {
		weight += rnd_insn(&st->insns[i], n - i - 1);
		/* Jumps must stay within the program */
		if (weight > max_weight)
			st->insns[i] = ST(1);
	}
end:
	for (i = n < 3 ? 0 : n - 1; i < n; i++)
		st->insns[i] = (struct sock_filter){
			BPF_RET | (below(2) ? BPF_K : BPF_A), 0, 0, rnd()
		};
	g->count = n;
}

/* Return the description of the program that will be attached */
static struct tun_state_prog rnd_prog(const struct tun_state_prog *now,
				      const struct tun_state_prog *held,
				      struct tun_state_prog *g)
{
	static const struct tun_state_prog none;
	int i = below(NR_PROGS);

	*g = none;
	switch (below(6)) {
	case 0:
		return none;
	case 1:
		rnd_bytes(g, offsetof(struct tun_state_prog, action));
		g->action = TUN_STATE_PROG_KEEP;
		return *now;
	case 2:
		*g = below(2) ? *now : *held;
		nr_put_back += g->id && g->id != now->id;
		return *g;
	default:
		rnd_bytes(g, offsetof(struct tun_state_prog, action));
		g->action = TUN_STATE_PROG_FD;
		g->fd = progs[i].fd;
		return progs[i].desc;
	}
}

static void rnd_queue(struct device *d, int q, bool filter,
		      struct tun_state_queue *g)
{
	bool attached = is_attached(d, q);
	int places;

	if (d->shape.flags & IFF_MULTI_QUEUE && one_in(3))
		attached = !attached;
	places = attached_after(d, q, attached);
	if (!attached)
		places = d->shape.nr_queues - places;

	rnd_bytes(g, sizeof(*g));
	g->index = below(places);
	g->flags = d->queue[q].flags & ~HAS_FILTER;
	g->flags |= attached ? ATTACHED : 0;
	g->flags |= below(2) ? TUN_STATE_QUEUE_SELF : 0;
	if (filter && below(2))
		g->flags |= HAS_FILTER;
}

/* Make a random state of some groups, and the state to expect */
static void rnd_state_of(struct device *d, int q, uint64_t mask,
			 struct full *st, struct full *next)
{
	struct tun_state *s = &st->s, *n = &next->s;
	bool any_queue = d->attached;

	/* Other groups are ignored, and some even if they are in the mask */
	rnd_bytes(s, sizeof(*s));
	s->sockfilter.entries = (uintptr_t)st->insns;
	s->sockfilter.entry_size = sizeof(st->insns[0]);
	full_copy(next, &d->want);

	if (mask & TUN_STATE_IFF) {
		rnd_iff(d, &s->iff);
		n->iff = s->iff;
	}
	if (mask & TUN_STATE_OWNER) {
		rnd_owner(&s->owner);
		n->owner = s->owner;
	}
	if (mask & TUN_STATE_VNET) {
		rnd_vnet(&s->vnet);
		n->vnet = s->vnet;
	}
	if (mask & TUN_STATE_OFFLOAD) {
		rnd_offload(d, &s->offload);
		n->offload.enabled = s->offload.enabled & ~TUN_F_UFO;
		n->offload.wanted = s->offload.wanted;
	}
	if (mask & TUN_STATE_SNDBUF) {
		rnd_sndbuf(&s->sndbuf);
		n->sndbuf = s->sndbuf;
	}
	if (mask & TUN_STATE_TXFILTER) {
		rnd_txfilter(d, &s->txfilter);
		n->txfilter = s->txfilter;
	}
	if (mask & TUN_STATE_SOCKFILTER) {
		rnd_sockfilter(d, st);
		n->sockfilter.count = s->sockfilter.count;
		memcpy(next->insns, st->insns,
		       s->sockfilter.count * sizeof(st->insns[0]));
	}
	if (mask & TUN_STATE_STEERING)
		n->steering = rnd_prog(&d->want.s.steering,
				       &d->held[q][0], &s->steering);
	if (mask & TUN_STATE_FILTER)
		n->filter = rnd_prog(&d->want.s.filter,
				     &d->held[q][1], &s->filter);
	if (mask & TUN_STATE_QUEUE) {
		rnd_queue(d, q, n->sockfilter.count, &s->queue);
		any_queue = attached_after(d, q, s->queue.flags & ATTACHED);
	}
	if (mask & TUN_STATE_LINK) {
		rnd_link(d, any_queue, &s->link);
		n->link = s->link;
	}
}

static bool same_program(const struct full *a, const struct full *b)
{
	return a->s.sockfilter.count == b->s.sockfilter.count &&
	       !memcmp(a->insns, b->insns,
		       a->s.sockfilter.count * sizeof(a->insns[0]));
}

/* Expect the state that was set through a queue */
static void expect(struct device *d, int q, uint64_t mask,
		   const struct full *st, const struct full *next)
{
	int i;

	if (mask & TUN_STATE_SOCKFILTER && !same_program(&d->want, next)) {
		for (i = 0; i < d->shape.nr_queues; i++) {
			d->queue[i].flags &= ~HAS_FILTER;
			if (next->s.sockfilter.count)
				d->queue[i].flags |= HAS_FILTER;
		}
	}
	if (mask & TUN_STATE_SNDBUF)
		d->sndbuf[q] = st->s.sndbuf.size;
	if (mask & TUN_STATE_QUEUE) {
		if (st->s.queue.flags & ATTACHED && !is_attached(d, q)) {
			model_attach(d, q);
			nr_moves++;
		} else if (!(st->s.queue.flags & ATTACHED) &&
			   is_attached(d, q)) {
			model_detach(d, q);
			nr_moves++;
		}
		model_place(d, q, st->s.queue.index);
		d->queue[q].flags &= ~HAS_FILTER;
		d->queue[q].flags |= st->s.queue.flags & HAS_FILTER;
	}
	full_copy(&d->want, next);
}

/* Set a state that is in force already, with the fd as the only right */
static void set_again(struct device *d, int q, uint64_t mask, struct full *st)
{
	if (notifications(d->name, d->ifindex) > 0)
		nr_notified++;
	if (net_admin(false))
		fail("capset: %s", strerror(errno));
	set(d, q, mask, st);
	if (net_admin(true))
		fail("capset: %s", strerror(errno));
	if (notifications(d->name, d->ifindex) && glink_waits)
		fail("SET of what is in force notifies");
	verify(d, below(d->shape.nr_queues), "SET of what is in force");
}

static void rnd_set(struct device *d, int q, uint64_t mask)
{
	static struct full st, next, got;

	if (one_in(3))
		hold(d, q, rnd() & (TUN_STATE_STEERING | TUN_STATE_FILTER));
	rnd_state_of(d, q, mask, &st, &next);
	set(d, q, mask | (GET_ONLY & rnd()), &st);
	expect(d, q, mask, &st, &next);
	verify(d, q, "SET");

	set_again(d, q, mask, &st);
	get(d, q, &got, NULL);
	set_again(d, q, ALL_GROUPS, &got);
	nr_noops++;
}

static int prog_fd(uint32_t id)
{
	int i;

	for (i = 0; i < NR_PROGS; i++)
		if (progs[i].desc.id == id)
			return progs[i].fd;
	fail("unknown program %u", id);
}

/* No file of the other device holds these programs: give fds, or none */
static void give_prog(struct tun_state_prog *prog, bool give)
{
	if (!give) {
		prog->action = TUN_STATE_PROG_KEEP;
	} else if (prog->id) {
		prog->fd = prog_fd(prog->id);
		prog->action = TUN_STATE_PROG_FD;
	}
}

/* Set the state of a device on a fresh one, queue by queue in ascending order,
 * the attached ones or the detached ones first
 */
static void move_to_fresh(struct device *from, struct device *to)
{
	static const struct tun_state_prog none;
	static struct full states[NR_QUEUES];
	int n = from->shape.nr_queues, i, q;
	bool detached_first = below(2);
	bool give[2] = { !one_in(4), !one_in(4) };

	for (q = 0; q < n; q++) {
		see(from, q);
		get(from, q, &states[q], &from->want);
	}
	for (i = 0; i < n; i++) {
		q = from->order[detached_first ? (i + from->attached) % n : i];
		give_prog(&states[q].s.steering, give[0]);
		give_prog(&states[q].s.filter, give[1]);
		set(to, q, ALL_GROUPS & ~TUN_STATE_IDENTITY, &states[q]);
	}

	/* Expect the same state with another identity */
	from->want.s.identity = to->want.s.identity;
	from->want.s.netdev = to->want.s.netdev;
	if (!give[0])
		from->want.s.steering = none;
	if (!give[1])
		from->want.s.filter = none;
	full_copy(&to->want, &from->want);
	memcpy(to->queue, from->queue, sizeof(to->queue));
	memcpy(to->sndbuf, from->sndbuf, sizeof(to->sndbuf));
	memcpy(to->order, from->order, sizeof(to->order));
	to->attached = from->attached;
	for (q = 0; q < n; q++)
		verify(to, q, "SET on a fresh device");
	nr_fresh++;
}

static void run(unsigned int runs)
{
	static struct device devices[2];
	struct device *d = &devices[0], *other = &devices[1], *tmp;
	unsigned int i, nr_of_shape = 0;
	bool there = false, last;
	struct shape shape;
	uint64_t mask;
	int q;

	for (i = 0; i < runs; i++) {
		state_nr = i;
		rnd_state = seed + i * 0xd1342543de82ef95;
		if (!there) {
			rnd_shape(&shape);
			make(d, &shape);
			detach_some(d);
			there = true;
			nr_of_shape = 1;
		}
		last = i % PER_DEVICE == PER_DEVICE - 1 || i == runs - 1;
		if (last)
			make(other, &shape);

		q = below(shape.nr_queues);
		mask = one_in(3) ? rnd() & SETTABLE : SETTABLE;
		rnd_set(d, q, last ? SETTABLE : mask);
		if (!last)
			continue;

		move_to_fresh(d, other);
		retire(d);
		tmp = d;
		d = other;
		other = tmp;
		if (nr_of_shape++ == PER_SHAPE || i == runs - 1) {
			retire(d);
			there = false;
		}
	}
	delete_old();
}

static void find_limits(void)
{
	char name[IFNAMSIZ] = "probe", text[16] = "";
	unsigned int optmem = 2560 * sizeof(long);
	int fd = tun_queue(name, IFF_TAP), value, file;

	if (fd < 0)
		ksft_exit_fail_msg("TUNSETIFF: %s\n", strerror(errno));
	vnet_be = !ioctl(fd, TUNGETVNETBE, &value);
	close(fd);

	/* A program must fit, at 8 bytes an instruction */
	file = open("/proc/sys/net/core/optmem_max", O_RDONLY);
	if (file >= 0) {
		if (read(file, text, sizeof(text) - 1) > 0)
			optmem = atoi(text);
		close(file);
	}
	max_weight = optmem / 8 - 100;
}

static void load_progs(void)
{
	int i;

	for (i = 0; i < NR_PROGS; i++) {
		progs[i].fd = prog_load_desc(i, &progs[i].desc);
		if (progs[i].fd < 0)
			ksft_exit_fail_msg("eBPF: %s\n", strerror(errno));
	}
}

static uint64_t number(int argc, char **argv, int arg, const char *env,
		       uint64_t otherwise)
{
	const char *text = argc > arg ? argv[arg] : getenv(env);
	uint64_t value;
	char *end;

	if (!text || !*text)
		return otherwise;
	errno = 0;
	value = strtoull(text, &end, 0);
	if (errno || *end)
		ksft_exit_fail_msg("what is %s?\n", text);
	return value;
}

int main(int argc, char **argv)
{
	struct timespec ts;
	const char *why;
	uint64_t runs;

	ksft_print_header();
	clock_gettime(CLOCK_REALTIME, &ts);
	runs = number(argc, argv, 1, "TUN_STATE_RUNS", RUNS);
	seed = number(argc, argv, 2, "TUN_STATE_SEED",
		      ts.tv_sec * 1000000000ULL + ts.tv_nsec);
	why = tun_state_enter();
	if (why)
		ksft_exit_skip("%s\n", why);
	ksft_set_plan(4);
	ksft_print_msg("TUN_STATE_RUNS=%llu TUN_STATE_SEED=%llu\n",
		       (unsigned long long)runs, (unsigned long long)seed);

	find_limits();
	load_progs();
	open_link_events();
	find_glink();
	run(runs);

	ksft_print_msg("%llu states, %lu devices, %lu SETs, %lu GETs\n",
		       (unsigned long long)runs, nr_devices, nr_sets, nr_gets);
	ksft_print_msg("%lu queues moved, %lu instructions, %lu notified\n",
		       nr_moves, nr_insns, nr_notified);
	/* Without a failure, check that all cases have occurred */
	ksft_test_result(runs && (runs < 100 || (nr_insns && nr_moves)),
			 "%llu states are as they were set\n",
			 (unsigned long long)runs);
	ksft_test_result(nr_noops == runs && (nr_notified || runs < 100),
			 "%lu of them, set again, change and notify nothing\n",
			 nr_noops);
	ksft_test_result(nr_fresh, "%lu are the same on a fresh device\n",
			 nr_fresh);
	ksft_test_result(nr_put_back || runs < 100,
			 "%lu held programs are put back\n", nr_put_back);
	ksft_finished();
}
