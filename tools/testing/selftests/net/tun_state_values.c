// SPDX-License-Identifier: GPL-2.0
/*
 * Values that TUNSETSTATE takes and refuses, field by field: a good value is
 * reported by TUNGETSTATE, a bad one changes nothing. Also no-ops, groups that
 * TUNSETSTATE ignores, notifications, and the state of a device on a fresh one.
 *
 * tun_state_all_or_nothing is about calls that fail for any other reason.
 */
#include <poll.h>

#include "../kselftest_harness.h"
#include "tun_state_util.h"

/*
 * A change to the answer of TUNGETSTATE. A good one has no @err; a bad one is
 * refused with @err.
 */
struct change {
	struct state_change change;
	int err;
	bool tap_only;		/* a TUN refuses it */
};

#define TO(_group, member, _value)					\
	{ { STATE_FIELD(_group, member), .value = (_value) } }
#define TO_TAP(_group, member, _value)					\
	{ { STATE_FIELD(_group, member), .value = (_value) },		\
	  .tap_only = true }
#define FLIP(_group, member, _value)					\
	{ { STATE_FIELD(_group, member), .value = (_value), .xor = true } }
/* Refused on this device */
#define NOT_HERE(_err, _group, member, _value)				\
	{ { STATE_FIELD(_group, member), .value = (_value),		\
	    .xor = true }, .err = (_err) }
/* Refused anywhere */
#define INVALID(_group, member, _value)					\
	{ { STATE_FIELD(_group, member), .value = (_value) },		\
	  .err = EINVAL }

static const struct change good[] = {
	FLIP(IFF, tmpl.iff.flags, IFF_PERSIST),
	TO(OWNER, tmpl.owner.uid, 1001),
	TO(OWNER, tmpl.owner.gid, 1002),
	TO(VNET, tmpl.vnet.hdr_size, 12),
	FLIP(VNET, tmpl.vnet.flags, TUN_STATE_VNET_LE),
	TO(OFFLOAD, tmpl.offload.enabled, TUN_F_CSUM),
	TO(OFFLOAD, tmpl.offload.enabled, TUN_F_CSUM | TUN_F_TSO4),
	TO(OFFLOAD, tmpl.offload.enabled, TUN_F_CSUM | TUN_F_TSO6),
	TO(OFFLOAD, tmpl.offload.enabled,
	   TUN_F_CSUM | TUN_F_TSO6 | TUN_F_TSO_ECN),
	TO(OFFLOAD, tmpl.offload.enabled, TUN_F_CSUM | TUN_F_USO4 | TUN_F_USO6),
	TO(OFFLOAD, tmpl.offload.wanted, 0),
	TO(OFFLOAD, tmpl.offload.wanted, TUN_F_TSO4),
	TO(OFFLOAD, tmpl.offload.wanted, TUN_F_TSO_ECN),
	TO(OFFLOAD, tmpl.offload.wanted, TUN_F_USO4 | TUN_F_USO6),
	TO(OFFLOAD, tmpl.offload.wanted, TUN_F_CSUM | TUN_F_TSO6),
	TO(SNDBUF, tmpl.sndbuf.size, 200000),
	TO(LINK, tmpl.link.carrier, 0),
	TO(LINK, tmpl.link.msg_enable, 0x2000),
	TO_TAP(TXFILTER, tmpl.txfilter.count, 2),
	TO_TAP(SOCKFILTER, tmpl.sockfilter.count, 1),
};

static const struct change bad[] = {
	NOT_HERE(EXDEV, IDENTITY, tmpl.identity.netns, 1),
	NOT_HERE(EXDEV, IDENTITY, tmpl.identity.netns, 1ULL << 63),
	NOT_HERE(EXDEV, IDENTITY, tmpl.identity.ifindex, 1),
	NOT_HERE(EXDEV, IDENTITY, tmpl.identity.type, 1),
	INVALID(IDENTITY, tmpl.identity.reserved[0], 1),
	INVALID(IDENTITY, tmpl.identity.reserved[1], 1),
	NOT_HERE(EINVAL, IFF, tmpl.iff.flags, IFF_TUN | IFF_TAP),
	NOT_HERE(EINVAL, IFF, tmpl.iff.flags, IFF_TUN),
	NOT_HERE(EINVAL, IFF, tmpl.iff.flags, IFF_TAP),
	NOT_HERE(EINVAL, IFF, tmpl.iff.flags, IFF_MULTI_QUEUE),
	NOT_HERE(EINVAL, IFF, tmpl.iff.flags, IFF_NAPI),
	NOT_HERE(EINVAL, IFF, tmpl.iff.flags, IFF_NAPI_FRAGS),
	NOT_HERE(EINVAL, IFF, tmpl.iff.flags, IFF_NO_PI),
	NOT_HERE(EINVAL, IFF, tmpl.iff.flags, IFF_VNET_HDR),
	NOT_HERE(EINVAL, IFF, tmpl.iff.flags, IFF_VNET_HDR | IFF_PERSIST),
	NOT_HERE(EINVAL, IFF, tmpl.iff.flags, IFF_ONE_QUEUE),
	INVALID(IFF, tmpl.iff.flags, IFF_NO_CARRIER),
	INVALID(IFF, tmpl.iff.flags, 0x80000000),
	INVALID(IFF, tmpl.iff.reserved, 1),
	INVALID(OWNER, tmpl.owner.flags, 4),
	INVALID(OWNER, tmpl.owner.flags, 0x80000000),
	INVALID(OWNER, tmpl.owner.reserved, 1),
	NOT_HERE(EINVAL, OWNER, tmpl.owner.flags, TUN_STATE_OWNER_UID_UNMAPPED),
	NOT_HERE(EINVAL, OWNER, tmpl.owner.flags, TUN_STATE_OWNER_GID_UNMAPPED),
	INVALID(VNET, tmpl.vnet.hdr_size, 0),
	INVALID(VNET, tmpl.vnet.hdr_size, 9),
	INVALID(VNET, tmpl.vnet.hdr_size, 0x80000000),
	INVALID(VNET, tmpl.vnet.flags, 4),
	INVALID(OFFLOAD, tmpl.offload.enabled, 0x40000000),
	INVALID(OFFLOAD, tmpl.offload.enabled, TUN_F_TSO4),
	INVALID(OFFLOAD, tmpl.offload.enabled, TUN_F_UFO),
	INVALID(OFFLOAD, tmpl.offload.enabled, TUN_F_CSUM | TUN_F_TSO_ECN),
	INVALID(OFFLOAD, tmpl.offload.enabled, TUN_F_CSUM | TUN_F_USO4),
	INVALID(OFFLOAD, tmpl.offload.enabled, TUN_F_CSUM | TUN_F_USO6),
	INVALID(OFFLOAD, tmpl.offload.wanted, 0x40000000),
	INVALID(OFFLOAD, tmpl.offload.wanted, TUN_F_CSUM | TUN_F_UFO),
	INVALID(OFFLOAD, tmpl.offload.wanted, TUN_F_CSUM | TUN_F_USO4),
	INVALID(OFFLOAD, tmpl.offload.wanted, TUN_F_CSUM | TUN_F_USO6),
	INVALID(OFFLOAD, tmpl.offload.reserved, 1),
	INVALID(SNDBUF, tmpl.sndbuf.size, 0),
	INVALID(SNDBUF, tmpl.sndbuf.size, -1),
	INVALID(SNDBUF, tmpl.sndbuf.reserved, 1),
	INVALID(LINK, tmpl.link.carrier, 2),
	INVALID(TXFILTER, tmpl.txfilter.count, 9),
	INVALID(TXFILTER, tmpl.txfilter.count, -1),
	INVALID(TXFILTER, tmpl.txfilter.reserved, 1),
	INVALID(TXFILTER, tmpl.txfilter.hash, 1),
	INVALID(TXFILTER, tmpl.txfilter.addr[0][0], 2),
	INVALID(TXFILTER, tmpl.txfilter.addr[7][5], 1),
	INVALID(SOCKFILTER, tmpl.sockfilter.entry_size, 0),
	INVALID(SOCKFILTER, tmpl.sockfilter.entry_size, 7),
	INVALID(SOCKFILTER, tmpl.sockfilter.entry_size, 16),
	INVALID(SOCKFILTER, tmpl.sockfilter.count, BPF_MAXINSNS + 1),
	INVALID(SOCKFILTER, tmpl.sockfilter.count, 0x10001),
	/* The second instruction of the buffer is invalid */
	INVALID(SOCKFILTER, tmpl.sockfilter.count, 2),
	NOT_HERE(EBADF, STEERING, tmpl.steering.id, 0x1000000),
	NOT_HERE(EBADF, FILTER, tmpl.filter.id, 0x1000000),
	INVALID(STEERING, tmpl.steering.action, 3),
	INVALID(FILTER, tmpl.filter.action, 3),
	INVALID(STEERING, tmpl.steering.type, 1),
	INVALID(FILTER, tmpl.filter.tag[0], 1),
	INVALID(STEERING, tmpl.steering.fd, 3),
	INVALID(FILTER, tmpl.filter.fd, -1),
	NOT_HERE(EINVAL, QUEUE, tmpl.queue.index, 1),
	NOT_HERE(EINVAL, QUEUE, tmpl.queue.flags, TUN_STATE_QUEUE_NAPI),
	NOT_HERE(EINVAL, QUEUE, tmpl.queue.flags, TUN_STATE_QUEUE_NAPI_FRAGS),
	INVALID(QUEUE, tmpl.queue.flags, 0x20),
};

/* The driver restores the classic filter */
static bool sets_sockfilter;

/* True if this device on this kernel can have the value of a good change */
static bool possible(const struct state *st, const struct change *c)
{
	if (!sets_sockfilter && !c->err &&
	    c->change.group == TUN_STATE_SOCKFILTER)
		return false;
	if (c->tap_only && st->s.iff.flags & IFF_TUN)
		return false;
	return c->err || c->change.group != TUN_STATE_OFFLOAD ||
	       !(c->change.value & ~(uint64_t)st->s.offload.supported);
}

/* Fill the user buffer; the count says how much of it is used */
static void fill_buffer(struct state *st)
{
	st->insns[0] = (struct sock_filter){ BPF_RET | BPF_K, 0, 0, 0xffff };
	st->insns[1] = (struct sock_filter){ 0xffff, 0, 0, 0 };
}

static void apply(struct state *st, const struct change *c)
{
	if (!possible(st, c))
		return;
	fill_buffer(st);
	state_change(st, &c->change);
}

/* Apply all good changes, except those of one group */
static void apply_others(struct state *st, uint64_t group)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(good); i++)
		if (good[i].change.group != group)
			apply(st, &good[i]);
}

/* The state to expect after this one is set through the first queue */
static struct state result(const struct state *st)
{
	struct state want = *st;
	unsigned int i;

	if (st->s.sockfilter.count) {
		/* queue.flags keeps the program from the first queue */
		for (i = 1; i < st->s.queues.count; i++)
			want.queues[i].flags |= TUN_STATE_QUEUE_SOCKFILTER;
	}
	memset(want.insns + st->s.sockfilter.count, 0,
	       sizeof(want.insns) - st->s.sockfilter.count *
	       sizeof(want.insns[0]));
	return want;
}

FIXTURE(dev)
{
	char name[IFNAMSIZ];
	int fd;
	struct state before;	/* snapshot of all groups */
	struct state st;
	uint64_t all;		/* groups that can be set */
};

FIXTURE_VARIANT(dev)
{
	unsigned int flags;
};

FIXTURE_VARIANT_ADD(dev, tap)
{
	.flags = IFF_TAP | IFF_NO_PI,
};

FIXTURE_VARIANT_ADD(dev, tun)
{
	.flags = IFF_TUN,
};

FIXTURE_VARIANT_ADD(dev, tap_multi_queue)
{
	.flags = IFF_TAP | IFF_VNET_HDR | IFF_MULTI_QUEUE,
};

FIXTURE_VARIANT_ADD(dev, tun_multi_queue)
{
	.flags = IFF_TUN | IFF_VNET_HDR | IFF_MULTI_QUEUE,
};

FIXTURE_SETUP(dev)
{
	const char *why = tun_state_enter();

	if (why)
		SKIP(return, "%s", why);
	sets_sockfilter = !no_sockfilter();
	memcpy(self->name, "dev0", 5);
	self->fd = tun_queue(self->name, variant->flags);
	ASSERT_GE(self->fd, 0);
	ASSERT_EQ(0, state_snapshot(self->fd, &self->before));
	self->all = self->before.s.mask & ~GET_ONLY;
	self->st = self->before;
	state_point(&self->st);
}

FIXTURE_TEARDOWN(dev)
{
	close(self->fd);
}

TEST_F(dev, good)
{
	struct state want, back;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(good); i++) {
		const struct change *c = &good[i];

		if (!possible(&self->before, c))
			continue;
		self->st = self->before;
		state_point(&self->st);
		apply(&self->st, c);
		want = result(&self->st);

		ASSERT_EQ(0, state_set(self->fd, self->all, &self->st)) {
			TH_LOG("%s %#llx", c->change.what,
			       (long long)c->change.value);
		}
		EXPECT_EQ(self->all, self->st.s.mask);
		EXPECT_TRUE(state_unchanged(self->fd, &want)) {
			TH_LOG("%s %#llx", c->change.what,
			       (long long)c->change.value);
		}

		back = self->before;
		state_point(&back);
		ASSERT_EQ(0, state_set(self->fd, c->change.group, &back));
		EXPECT_EQ(c->change.group, back.s.mask);
		EXPECT_TRUE(state_unchanged(self->fd, &self->before)) {
			TH_LOG("%s %#llx", c->change.what,
			       (long long)c->change.value);
		}
	}
}

TEST_F(dev, all_at_once)
{
	struct state want;

	apply_others(&self->st, 0);
	want = result(&self->st);
	ASSERT_EQ(0, state_set(self->fd, self->all, &self->st));
	EXPECT_TRUE(state_unchanged(self->fd, &want));
}

/* Groups outside the mask are ignored */
TEST_F(dev, mask)
{
	uint64_t bit;

	for (bit = 1; bit <= TUN_STATE_QUEUES; bit <<= 1) {
		if (!(self->all & bit))
			continue;
		memset(&self->st, 0xff, sizeof(self->st));
		self->st.s.reserved = 0;
		memcpy(&self->st.s.identity, &self->before.s.identity,
		       sizeof(self->st.s) - offsetof(struct tun_state, identity));
		apply_others(&self->st, bit);
		ASSERT_EQ(0, state_set(self->fd, bit, &self->st));
		EXPECT_EQ(bit, self->st.s.mask);
		EXPECT_EQ(0, self->st.s.failed);
		EXPECT_EQ(self->before.s.supported, self->st.s.supported);
		EXPECT_TRUE(state_unchanged(self->fd, &self->before));
	}
}

/* Each bad change alone, and in the middle of a good change to all others */
TEST_F(dev, bad)
{
	unsigned int i, others;

	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		const struct change *c = &bad[i];

		for (others = 0; others < 2; others++) {
			self->st = self->before;
			state_point(&self->st);
			apply(&self->st, c);
			if (others)
				apply_others(&self->st, c->change.group);
			EXPECT_EQ(c->err, state_set(self->fd, self->all,
						    &self->st)) {
				TH_LOG("%s %#llx", c->change.what,
				       (long long)c->change.value);
			}
			EXPECT_EQ(c->change.group, self->st.s.failed);
			EXPECT_EQ(self->all, self->st.s.mask);
			EXPECT_EQ(self->before.s.supported,
				  self->st.s.supported);
			ASSERT_TRUE(state_unchanged(self->fd, &self->before)) {
				TH_LOG("%s %#llx", c->change.what,
				       (long long)c->change.value);
			}
		}
	}
}

/* Only a multi-queue device can detach its last queue */
TEST_F(dev, detach)
{
	int expected = variant->flags & IFF_MULTI_QUEUE ? 0 : EINVAL;

	self->st.s.queue.flags &= ~TUN_STATE_QUEUE_ATTACHED;
	ASSERT_EQ(expected, state_set(self->fd, TUN_STATE_QUEUE, &self->st));
	if (expected)
		EXPECT_TRUE(state_unchanged(self->fd, &self->before));
}

/* A queue stays attached if another group of the call fails */
TEST_F(dev, detach_or_nothing)
{
	self->st.s.queue.flags &= ~TUN_STATE_QUEUE_ATTACHED;
	self->st.s.identity.type++;
	ASSERT_EQ(EXDEV, state_set(self->fd, self->all, &self->st));
	EXPECT_TRUE(state_unchanged(self->fd, &self->before));
}

static int link_monitor(void)
{
	struct sockaddr_nl sa = {
		.nl_family = AF_NETLINK,
		.nl_groups = RTMGRP_LINK,
	};
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK, NETLINK_ROUTE);

	if (bind(fd, (void *)&sa, sizeof(sa)))
		return -1;
	return fd;
}

/* Count the messages */
static int link_events(int fd)
{
	char buf[8192];
	int n = 0;

	while (recv(fd, buf, sizeof(buf), 0) > 0)
		n++;
	return n;
}

/* Run CALL while the device is up, and expect no link message. A message about
 * the link itself may come late, but does not repeat.
 */
#define EXPECT_SILENT(events, CALL)					\
	do {								\
		int _fd = (events), _late;				\
									\
		for (_late = 0; _late < 5; _late++) {			\
			link_events(_fd);				\
			CALL;						\
			if (!link_events(_fd))				\
				break;					\
		}							\
		EXPECT_LT(_late, 5);					\
	} while (0)

/* To set the current state is a no-op in every group */
TEST_F(dev, noop)
{
	struct state next;
	int events, i;

	/* A device that is down is silent */
	ASSERT_EQ(0, netdev_up(self->name));
	/* Twice: with the defaults, and with all groups changed */
	for (i = 0; i < 2; i++) {
		events = link_monitor();
		ASSERT_GE(events, 0);
		ASSERT_EQ(0, state_snapshot(self->fd, &self->before));
		EXPECT_SILENT(events, {
			ASSERT_EQ(0, state_get(self->fd, ALL_GROUPS,
					       &self->st));
			EXPECT_EQ(self->st.s.supported, self->st.s.mask);
			ASSERT_EQ(0, state_set(self->fd, self->st.s.mask,
					       &self->st));
			EXPECT_EQ(self->all, self->st.s.mask);
			EXPECT_TRUE(state_unchanged(self->fd, &self->before));
		});

		/* Check that changes do send messages */
		next = self->before;
		state_point(&next);
		apply_others(&next, 0);
		ASSERT_EQ(0, state_set(self->fd, self->all, &next));
		EXPECT_LT(0, link_events(events));
		close(events);
	}
}

/* TUNSETSTATE ignores groups that others change, and the buffers of these */
TEST_F(dev, report_only)
{
	static const int garbage[] = { 0, 0x55, 0xff };
	struct tun_state *s = &self->st.s;
	int events;
	unsigned int i;

	ASSERT_EQ(GET_ONLY, self->before.s.supported & GET_ONLY);
	ASSERT_EQ(0, netdev_up(self->name));
	events = link_monitor();
	ASSERT_GE(events, 0);
	ASSERT_EQ(0, state_snapshot(self->fd, &self->before));
	for (i = 0; i < ARRAY_SIZE(garbage); i++) {
		self->st = self->before;
		state_point(&self->st);
		memset(&s->netdev, garbage[i], sizeof(s->netdev));
		memset(&s->coalesce, garbage[i], sizeof(s->coalesce));
		memset(&s->xdp, garbage[i], sizeof(s->xdp));
		memset(&s->flows, garbage[i], sizeof(s->flows));
		memset(&s->queues, garbage[i], sizeof(s->queues));
		EXPECT_SILENT(events, {
			/* Alone, each alone, and beside all others */
			uint64_t bit;

			ASSERT_EQ(0, state_set(self->fd, GET_ONLY, &self->st));
			EXPECT_EQ(0, s->mask);
			EXPECT_EQ(0, s->failed);
			for (bit = 1; bit <= GET_ONLY; bit <<= 1) {
				if (!(bit & GET_ONLY))
					continue;
				ASSERT_EQ(0, state_set(self->fd, bit,
						       &self->st));
				EXPECT_EQ(0, s->mask);
			}
			ASSERT_EQ(0, state_set(self->fd, s->supported,
					       &self->st));
			EXPECT_EQ(self->all, s->mask);
			EXPECT_TRUE(state_unchanged(self->fd, &self->before));
		});
	}
	/* Large counts and entries with bad and with good addresses */
	state_point(&self->st);
	s->flows.count = -1;
	s->queues.count = -1;
	s->queues.entries = 8;
	s->queues.entry_size = 0;
	ASSERT_EQ(0, state_set(self->fd, s->supported, &self->st));
	EXPECT_EQ(self->all, s->mask);
	EXPECT_TRUE(state_unchanged(self->fd, &self->before));
	close(events);
}

/* A group that changes a value of RTM_NEWLINK sends that message */
TEST_F(dev, notify)
{
	const uint64_t mask = TUN_STATE_IFF | TUN_STATE_OWNER;
	int events, late;
	bool good;

	ASSERT_EQ(0, netdev_up(self->name));
	events = link_monitor();
	ASSERT_GE(events, 0);

	/* A message about the link itself comes late, see above */
	for (late = 0; late < 5; late++) {
		link_events(events);
		self->st.s.iff.flags ^= IFF_PERSIST;
		ASSERT_EQ(0, state_set(self->fd, mask, &self->st));
		good = link_events(events) == 1;
		self->st.s.owner.uid = 1000 + late;
		ASSERT_EQ(0, state_set(self->fd, mask, &self->st));
		good &= link_events(events) == 1;
		self->st.s.owner.gid = 1000 + late;
		ASSERT_EQ(0, state_set(self->fd, mask, &self->st));
		good &= link_events(events) == 1;
		/* One message for all groups; none for a value it lacks */
		self->st.s.owner.gid = 2000 + late;
		self->st.s.iff.flags ^= IFF_PERSIST;
		ASSERT_EQ(0, state_set(self->fd, mask, &self->st));
		good &= link_events(events) == 1;
		self->st.s.vnet.hdr_size = 20 + late;
		ASSERT_EQ(0, state_set(self->fd, TUN_STATE_VNET, &self->st));
		good &= link_events(events) == 0;
		if (good)
			break;
	}
	EXPECT_LT(late, 5);
	close(events);
}

/* An error leaves the mask alone, with the groups that can only be read */
TEST_F(dev, failed_mask)
{
	uint64_t mask = self->before.s.supported;

	self->st.s.identity.type++;
	ASSERT_EQ(EXDEV, state_set(self->fd, mask, &self->st));
	EXPECT_EQ(mask, self->st.s.mask);
	EXPECT_EQ(TUN_STATE_IDENTITY, self->st.s.failed);
}

/* Programs that differ in one instruction */
TEST_F(dev, sockfilter_instruction)
{
	const uint64_t mask = TUN_STATE_SOCKFILTER;

	if (!(variant->flags & IFF_TAP))
		return;
	if (no_sockfilter())
		SKIP(return, "%s", no_sockfilter());
	self->st.s.sockfilter.count = 1;
	self->st.insns[0] = (struct sock_filter){ BPF_RET | BPF_K, 0, 0, 64 };
	ASSERT_EQ(0, state_set(self->fd, mask, &self->st));
	self->st.insns[0].k = 65;
	EXPECT_EQ(mask, state_compare(self->fd, mask, &self->st));
	ASSERT_EQ(0, state_set(self->fd, mask, &self->st));
	ASSERT_EQ(0, state_get(self->fd, mask, &self->st));
	EXPECT_EQ(65, self->st.insns[0].k);
}

/* A no-op needs no rights */
TEST_F(dev, noop_without_rights)
{
	ASSERT_EQ(0, ioctl(self->fd, TUNSETOWNER, 4711));
	ASSERT_EQ(0, ioctl(self->fd, TUNSETDEBUG, 1));
	ASSERT_EQ(0, state_get(self->fd, self->all, &self->st));
	ASSERT_EQ(0, net_admin(false));
	ASSERT_EQ(0, state_set(self->fd, self->all, &self->st));
	EXPECT_EQ(self->all, self->st.s.mask);
}

/* The state of one device on another one of the same shape */
TEST_F(dev, fresh)
{
	char name[IFNAMSIZ] = "dev1";
	struct state a[3], b[3], fds;
	int fd[2][3], prog[2];
	uint64_t mask;
	int n, i, d;

	n = variant->flags & IFF_MULTI_QUEUE ? 3 : 1;
	for (i = 0; i < n; i++) {
		fd[0][i] = i ? tun_queue(self->name, variant->flags | IFF_NAPI) :
			       self->fd;
		fd[1][i] = tun_queue(name, variant->flags |
				     (i ? IFF_NAPI : 0));
		ASSERT_GE(fd[0][i], 0);
		ASSERT_GE(fd[1][i], 0);
	}

	/* Change every group from its default */
	for (i = 0; i < 2; i++) {
		prog[i] = prog_load(BPF_PROG_TYPE_SOCKET_FILTER, 64 + i);
		ASSERT_GE(prog[i], 0);
	}
	ASSERT_EQ(0, ioctl(self->fd, TUNSETSTEERINGEBPF, &prog[0]));
	ASSERT_EQ(0, ioctl(self->fd, TUNSETFILTEREBPF, &prog[1]));
	for (i = n - 1; i >= 0; i--) {
		ASSERT_EQ(0, state_get(fd[0][i], ALL_GROUPS, &a[i]));
		apply_others(&a[i], 0);
		a[i].s.sndbuf.size += i;
		ASSERT_EQ(0, state_set(fd[0][i], self->all, &a[i]));
	}
	if (n > 1)
		ASSERT_EQ(0, tun_set_queue(fd[0][1], IFF_DETACH_QUEUE));

	for (i = 0; i < n; i++)
		ASSERT_EQ(0, state_get(fd[0][i], ALL_GROUPS, &a[i]));

	/* The attached queues in the order of their index, then the detached
	 * one. The files of the second device hold no programs: pass them as
	 * fds.
	 */
	mask = self->all & ~TUN_STATE_IDENTITY;
	for (d = 0; d < n; d++) {
		i = n > 1 ? (d * 2) % 3 : d;
		fds = a[i];
		state_point(&fds);
		fds.s.steering.action = TUN_STATE_PROG_FD;
		fds.s.steering.fd = prog[0];
		fds.s.filter.action = TUN_STATE_PROG_FD;
		fds.s.filter.fd = prog[1];
		ASSERT_EQ(0, state_set(fd[1][i], mask, &fds));
		EXPECT_EQ(mask, fds.s.mask);
	}

	for (i = 0; i < n; i++) {
		ASSERT_EQ(0, state_get(fd[1][i], ALL_GROUPS, &b[i]));
		b[i].s.identity = a[i].s.identity;
		b[i].s.netdev = a[i].s.netdev;
		EXPECT_TRUE(state_equal(&a[i], &b[i]));
		if (i)
			close(fd[0][i]);
	}
	/* Both devices are persistent by now */
	EXPECT_EQ(0, netdev_delete(name));
	EXPECT_EQ(0, netdev_delete(self->name));
}

TEST_HARNESS_MAIN
