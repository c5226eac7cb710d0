// SPDX-License-Identifier: GPL-2.0
/*
 * TUNGETSTATE and TUNSETSTATE on the queues of a macvtap or ipvtap device, beside the
 * older ioctls of tap.
 *
 * The test loads macvtap and ipvtap if they are not there.
 */
#include "../kselftest_harness.h"
#include "tun_state_util.h"
#include <linux/virtio_net.h>

#define QUEUES 4
#define GROUPS (TUN_STATE_IDENTITY | TUN_STATE_NETDEV | TUN_STATE_IFF |	\
		TUN_STATE_VNET | TUN_STATE_OFFLOAD | TUN_STATE_SNDBUF |	\
		TUN_STATE_QUEUE | TUN_STATE_QUEUES)
#define SET_GROUPS (GROUPS & ~(TUN_STATE_NETDEV | TUN_STATE_QUEUES))

static const char lower[IFNAMSIZ] = "low0", name[IFNAMSIZ] = "mv0";

#define ATTACHED TUN_STATE_QUEUE_ATTACHED
#define SELF TUN_STATE_QUEUE_SELF

FIXTURE(tap_state)
{
	int lower;
	int fd[QUEUES];
	struct state st;
};

FIXTURE_VARIANT(tap_state)
{
	const char *kind;
};

FIXTURE_VARIANT_ADD(tap_state, macvtap)
{
	.kind = "macvtap",
};

FIXTURE_VARIANT_ADD(tap_state, ipvtap)
{
	.kind = "ipvtap",
};

static struct rtattr *add_attr(struct link_req *req, int type, const void *data,
			       int len)
{
	struct rtattr *rta = (void *)req + NLMSG_ALIGN(req->nh.nlmsg_len);

	rta->rta_type = type;
	rta->rta_len = RTA_LENGTH(len);
	if (len)
		memcpy(RTA_DATA(rta), data, len);
	req->nh.nlmsg_len = NLMSG_ALIGN(req->nh.nlmsg_len) + RTA_ALIGN(rta->rta_len);
	return rta;
}

/* Return 0 or a negative errno */
static int make_link(const char *kind)
{
	struct link_req req = {
		.nh.nlmsg_len = NLMSG_LENGTH(sizeof(req.ifi)),
		.nh.nlmsg_type = RTM_NEWLINK,
		.nh.nlmsg_flags = NLM_F_CREATE | NLM_F_EXCL,
	};
	int index = netdev_index(lower);
	struct rtattr *info;

	add_attr(&req, IFLA_IFNAME, name, strlen(name) + 1);
	add_attr(&req, IFLA_LINK, &index, sizeof(index));
	info = add_attr(&req, IFLA_LINKINFO, NULL, 0);
	add_attr(&req, IFLA_INFO_KIND, kind, strlen(kind));
	info->rta_len = (char *)&req + req.nh.nlmsg_len - (char *)info;
	return rtnl_ack(&req);
}

/* The destination of flow_frame_make(), for ipvtap */
static int set_address(void)
{
	struct ifreq ifr = {};
	struct sockaddr_in *sin = (void *)&ifr.ifr_addr;

	sin->sin_family = AF_INET;
	sin->sin_addr.s_addr = htonl(0xc0000202);
	return netdev_ioctl(name, SIOCSIFADDR, &ifr);
}

static int open_queue(void)
{
	char path[32];

	snprintf(path, sizeof(path), "/dev/tap%d", netdev_index(name));
	return open(path, O_RDWR | O_NONBLOCK);
}

FIXTURE_SETUP(tap_state)
{
	const char *why = tun_state_enter();
	char device[IFNAMSIZ];
	char command[64];
	int i;

	if (why)
		SKIP(return, "%s", why);
	memcpy(device, lower, IFNAMSIZ);
	/* A device that a packet can be written to */
	self->lower = tun_queue(device, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR);
	ASSERT_GE(self->lower, 0);
	ASSERT_EQ(0, netdev_up(lower));

	snprintf(command, sizeof(command), "modprobe -q %s", variant->kind);
	if (system(command) || make_link(variant->kind))
		SKIP(return, "this kernel has no %s", variant->kind);
	ASSERT_EQ(0, netdev_up(name));
	ASSERT_EQ(0, set_address());
	for (i = 0; i < QUEUES; i++) {
		self->fd[i] = open_queue();
		ASSERT_GE(self->fd[i], 0);
	}
	if (state_get(self->fd[0], 0, &self->st))
		SKIP(return, "this tap has no TUNGETSTATE");
}

FIXTURE_TEARDOWN(tap_state)
{
	int i;

	for (i = 0; i < QUEUES; i++)
		close(self->fd[i]);
	close(self->lower);
}

TEST_F(tap_state, groups)
{
	struct tun_state *s = &self->st.s;
	struct link_info li;
	struct stat ns;
	unsigned int i;

	EXPECT_EQ(GROUPS, s->supported);
	ASSERT_EQ(0, state_hold(self->fd[1], GROUPS, &self->st));
	EXPECT_EQ(GROUPS, s->mask);
	ASSERT_EQ(0, netdev_info(name, &li));
	ASSERT_EQ(0, stat("/proc/self/ns/net", &ns));
	EXPECT_EQ(ns.st_ino, s->identity.netns);
	EXPECT_EQ(li.ifindex, s->identity.ifindex);
	EXPECT_EQ(li.type, s->identity.type);
	EXPECT_STREQ(name, (char *)s->netdev.name);
	EXPECT_EQ(li.mtu, s->netdev.mtu);
	EXPECT_EQ(1, s->netdev.up);
	ASSERT_EQ(li.addr_len, s->netdev.addr_len);
	EXPECT_EQ(0, memcmp(li.addr, s->netdev.addr, li.addr_len));
	EXPECT_EQ(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, s->iff.flags);
	EXPECT_EQ(10, s->vnet.hdr_size);
	EXPECT_EQ(0, s->vnet.flags);
	EXPECT_EQ(s->offload.enabled, s->offload.wanted);
	EXPECT_TRUE(s->offload.supported & TUN_F_UFO);
	EXPECT_EQ(1, s->queue.index);
	EXPECT_EQ(ATTACHED | SELF, s->queue.flags);
	EXPECT_EQ(QUEUES, s->queues.count);

	/* Groups that tap does not have */
	for (i = 0; i < NR_GROUPS; i++) {
		uint64_t bit = state_groups[i].bit;

		if (GROUPS & bit)
			continue;
		EXPECT_EQ(EINVAL, state_get(self->fd[0], bit | TUN_STATE_IFF,
					    &self->st));
		EXPECT_EQ(bit, s->failed);
		EXPECT_EQ(EINVAL, state_set(self->fd[0], bit, &self->st));
		EXPECT_EQ(bit, s->failed);
	}
}

/* The number of TUN_F_* flags that tap accepts */
TEST_F(tap_state, supported)
{
	struct tun_state_offload *o = &self->st.s.offload;
	unsigned int i;

	ASSERT_EQ(0, state_get(self->fd[0], TUN_STATE_OFFLOAD, &self->st));
	for (i = 0; i < 31; i++)
		EXPECT_EQ(o->supported >> i & 1,
			  !ioctl(self->fd[0], TUNSETOFFLOAD, 1UL << i));
}

TEST_F(tap_state, iff)
{
	static const unsigned int flags[] = {
		0, IFF_VNET_HDR, IFF_MULTI_QUEUE, IFF_VNET_HDR | IFF_MULTI_QUEUE
	};
	struct ifreq ifr = {};
	unsigned int i;

	for (i = 0; i < 4; i++) {
		ifr.ifr_flags = IFF_TAP | IFF_NO_PI | flags[i];
		ASSERT_EQ(0, ioctl(self->fd[0], TUNSETIFF, &ifr));
		ASSERT_EQ(0, state_get(self->fd[0], TUN_STATE_IFF, &self->st));
		EXPECT_EQ((unsigned short)ifr.ifr_flags, self->st.s.iff.flags);
		EXPECT_EQ(0, state_set(self->fd[0], TUN_STATE_IFF, &self->st));
	}
	/* A flag of this queue alone */
	ASSERT_EQ(0, state_get(self->fd[1], TUN_STATE_IFF, &self->st));
	EXPECT_EQ(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, self->st.s.iff.flags);
}

TEST_F(tap_state, vnet)
{
	struct tun_state_vnet *vnet = &self->st.s.vnet;
	int value = 12;

	ASSERT_EQ(0, ioctl(self->fd[0], TUNSETVNETHDRSZ, &value));
	ASSERT_EQ(0, ioctl(self->fd[0], TUNSETVNETLE, &value));
	ASSERT_EQ(0, state_get(self->fd[0], TUN_STATE_VNET, &self->st));
	EXPECT_EQ(12, vnet->hdr_size);
	EXPECT_EQ(TUN_STATE_VNET_LE, vnet->flags);

	vnet->hdr_size = 20;
	vnet->flags = 0;
	ASSERT_EQ(0, state_set(self->fd[0], TUN_STATE_VNET, &self->st));
	ASSERT_EQ(0, ioctl(self->fd[0], TUNGETVNETHDRSZ, &value));
	EXPECT_EQ(20, value);
	ASSERT_EQ(0, ioctl(self->fd[0], TUNGETVNETLE, &value));
	EXPECT_EQ(0, value);
	vnet->flags = TUN_STATE_VNET_LE;
	ASSERT_EQ(0, state_set(self->fd[0], TUN_STATE_VNET, &self->st));
	ASSERT_EQ(0, ioctl(self->fd[0], TUNGETVNETLE, &value));
	EXPECT_EQ(1, value);
	/* Other flags of the queue stay */
	ASSERT_EQ(0, state_get(self->fd[0], TUN_STATE_IFF, &self->st));
	EXPECT_EQ(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, self->st.s.iff.flags);

	ASSERT_EQ(0, ioctl(self->fd[1], TUNGETVNETHDRSZ, &value));
	EXPECT_EQ(10, value);
	ASSERT_EQ(0, ioctl(self->fd[1], TUNGETVNETLE, &value));
	EXPECT_EQ(0, value);
}

TEST_F(tap_state, sndbuf)
{
	struct tun_state_sndbuf *sndbuf = &self->st.s.sndbuf;
	int value = 12345, other;

	ASSERT_EQ(0, state_get(self->fd[1], TUN_STATE_SNDBUF, &self->st));
	other = sndbuf->size;
	ASSERT_EQ(0, ioctl(self->fd[0], TUNSETSNDBUF, &value));
	ASSERT_EQ(0, state_get(self->fd[0], TUN_STATE_SNDBUF, &self->st));
	EXPECT_EQ(12345, sndbuf->size);
	sndbuf->size = 54321;
	ASSERT_EQ(0, state_set(self->fd[0], TUN_STATE_SNDBUF, &self->st));
	ASSERT_EQ(0, state_get(self->fd[0], TUN_STATE_SNDBUF, &self->st));
	EXPECT_EQ(54321, sndbuf->size);
	ASSERT_EQ(0, state_get(self->fd[1], TUN_STATE_SNDBUF, &self->st));
	EXPECT_EQ(other, sndbuf->size);
}

TEST_F(tap_state, bad_values)
{
	static const struct {
		struct state_change c;
		int err;
	} bad[] = {
		{ { STATE_FIELD(IDENTITY, tmpl.identity.ifindex), 1, true }, EXDEV },
		{ { STATE_FIELD(IDENTITY, tmpl.identity.netns), 1, true }, EXDEV },
		{ { STATE_FIELD(IDENTITY, tmpl.identity.type), 1, true }, EXDEV },
		{ { STATE_FIELD(IDENTITY, tmpl.identity.reserved[1]), 1 }, EINVAL },
		{ { STATE_FIELD(IFF, tmpl.iff.flags), IFF_PERSIST, true }, EINVAL },
		{ { STATE_FIELD(IFF, tmpl.iff.flags), IFF_VNET_HDR, true }, EINVAL },
		{ { STATE_FIELD(IFF, tmpl.iff.flags), IFF_MULTI_QUEUE, true }, EINVAL },
		{ { STATE_FIELD(IFF, tmpl.iff.reserved), 1 }, EINVAL },
		{ { STATE_FIELD(VNET, tmpl.vnet.hdr_size), 9 }, EINVAL },
		{ { STATE_FIELD(VNET, tmpl.vnet.hdr_size), 0x80000000 }, EINVAL },
		{ { STATE_FIELD(VNET, tmpl.vnet.flags), 4 }, EINVAL },
		{ { STATE_FIELD(OFFLOAD, tmpl.offload.enabled), 0x40000000, true }, EINVAL },
		{ { STATE_FIELD(OFFLOAD, tmpl.offload.enabled), TUN_F_TSO4, true }, EINVAL },
		{ { STATE_FIELD(OFFLOAD, tmpl.offload.wanted), TUN_F_TSO4, true }, EINVAL },
		{ { STATE_FIELD(OFFLOAD, tmpl.offload.reserved), 1 }, EINVAL },
		{ { STATE_FIELD(SNDBUF, tmpl.sndbuf.size), 0 }, EINVAL },
		{ { STATE_FIELD(SNDBUF, tmpl.sndbuf.size), -1 }, EINVAL },
		{ { STATE_FIELD(SNDBUF, tmpl.sndbuf.reserved), 1 }, EINVAL },
		{ { STATE_FIELD(QUEUE, tmpl.queue.index), QUEUES }, EINVAL },
		{ { STATE_FIELD(QUEUE, tmpl.queue.index), -1 }, EINVAL },
		{ { STATE_FIELD(QUEUE, tmpl.queue.flags), TUN_STATE_QUEUE_NAPI, true }, EINVAL },
		{ { STATE_FIELD(QUEUE, tmpl.queue.flags), TUN_STATE_QUEUE_SOCKFILTER, true },
		  EINVAL },
		{ { STATE_FIELD(QUEUE, tmpl.queue.flags), ATTACHED, true }, EINVAL },
	};
	struct state before;
	unsigned int i;

	ASSERT_EQ(0, ioctl(self->fd[2], TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4));
	ASSERT_EQ(0, state_get(self->fd[2], GROUPS, &before));
	for (i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		TH_LOG("%u: %s", i, bad[i].c.what);
		self->st = before;
		state_point(&self->st);
		/* All groups but the bad one have a change or are equal */
		self->st.s.vnet.hdr_size = 12;
		self->st.s.sndbuf.size = 100000;
		state_change(&self->st, &bad[i].c);
		EXPECT_EQ(bad[i].err, state_set(self->fd[2], SET_GROUPS, &self->st));
		EXPECT_EQ(bad[i].c.group, self->st.s.failed);
		ASSERT_EQ(0, state_get(self->fd[2], GROUPS, &self->st));
		EXPECT_TRUE(state_equal(&before, &self->st));
	}
}

#define EXPECT_ORDER(...)							\
	do {									\
		static const int _order[] = { __VA_ARGS__ };			\
		int _i;								\
										\
		for (_i = 0; _i < QUEUES; _i++) {				\
			EXPECT_EQ(0, state_get(self->fd[_order[_i]],		\
					       TUN_STATE_QUEUES, &self->st));	\
			EXPECT_EQ(QUEUES, self->st.s.queues.count);		\
			EXPECT_EQ(SELF, self->st.queues[_i].flags & SELF);	\
		}								\
	} while (0)

static int set_queue(int fd, uint32_t index, uint32_t flags)
{
	struct state st = { .s.queue = { .index = index, .flags = flags } };

	return state_set(fd, TUN_STATE_QUEUE, &st);
}

TEST_F(tap_state, order)
{
	EXPECT_ORDER(0, 1, 2, 3);
	/* TUNSETQUEUE gives the place to the last queue */
	ASSERT_EQ(0, tun_set_queue(self->fd[0], IFF_DETACH_QUEUE));
	EXPECT_ORDER(3, 1, 2, 0);
	EXPECT_EQ(0, self->st.queues[3].index);
	EXPECT_EQ(0, self->st.queues[3].flags & ATTACHED);
	/* Swap */
	ASSERT_EQ(0, set_queue(self->fd[1], 0, ATTACHED));
	EXPECT_ORDER(1, 3, 2, 0);
	EXPECT_EQ(EINVAL, set_queue(self->fd[1], 3, ATTACHED));
	/* Attach in a place */
	ASSERT_EQ(0, set_queue(self->fd[0], 0, ATTACHED));
	EXPECT_ORDER(0, 3, 2, 1);
	EXPECT_EQ(-1, tun_set_queue(self->fd[0], IFF_ATTACH_QUEUE));
	/* Detach: the order of opening, and another */
	EXPECT_EQ(EINVAL, set_queue(self->fd[3], 1, 0));
	ASSERT_EQ(0, set_queue(self->fd[3], 0, 0));
	EXPECT_ORDER(0, 1, 2, 3);
	EXPECT_EQ(-1, tun_set_queue(self->fd[3], IFF_DETACH_QUEUE));
	ASSERT_EQ(0, set_queue(self->fd[1], 1, 0));
	EXPECT_ORDER(0, 2, 3, 1);
	ASSERT_EQ(0, set_queue(self->fd[1], 0, 0));
	EXPECT_ORDER(0, 2, 1, 3);
	/* Nothing is lost or doubled */
	ASSERT_EQ(0, tun_set_queue(self->fd[1], IFF_ATTACH_QUEUE));
	ASSERT_EQ(0, tun_set_queue(self->fd[3], IFF_ATTACH_QUEUE));
	EXPECT_ORDER(0, 2, 1, 3);
	close(self->fd[2]);
	self->fd[2] = open_queue();
	EXPECT_ORDER(0, 3, 1, 2);
}

/* Places count detached queues only: an attached one was opened first */
TEST_F(tap_state, detached)
{
	int i;

	for (i = 1; i < QUEUES; i++)
		ASSERT_EQ(0, tun_set_queue(self->fd[i], IFF_DETACH_QUEUE));
	EXPECT_ORDER(0, 1, 2, 3);
	EXPECT_EQ(EINVAL, set_queue(self->fd[3], 3, 0));
	ASSERT_EQ(0, set_queue(self->fd[3], 1, 0));
	EXPECT_ORDER(0, 1, 3, 2);
	ASSERT_EQ(0, set_queue(self->fd[2], 0, 0));
	EXPECT_ORDER(0, 2, 3, 1);
}

/* Send a UDP packet to the device, with a checksum to be completed */
static int send_packet(int lower_fd)
{
	struct {
		struct virtio_net_hdr hdr;
		unsigned char frame[FRAME_SIZE];
	} packet = {
		.hdr.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
		.hdr.csum_start = 34,
		.hdr.csum_offset = 6,
	};
	struct link_info li;

	if (netdev_info(name, &li))
		return -1;
	flow_frame_make(packet.frame, true, 1, false);
	memcpy(packet.frame, li.addr, ETH_ALEN);
	return write(lower_fd, &packet, sizeof(packet)) == sizeof(packet) ? 0 : -1;
}

/* Receive a packet. Return the queue that got it, or -1 without one, or with several */
static int receive_packet(const int *fd, struct virtio_net_hdr *hdr)
{
	unsigned char buf[256];
	int i, n = 0, queue = -1;

	for (i = 0; i < QUEUES; i++) {
		if (read(fd[i], buf, sizeof(buf)) < (ssize_t)sizeof(*hdr))
			continue;
		memcpy(hdr, buf, sizeof(*hdr));
		queue = i;
		n++;
	}
	return n == 1 ? queue : -1;
}

TEST_F(tap_state, packets)
{
	struct virtio_net_hdr hdr;
	int from, to;

	ASSERT_EQ(0, send_packet(self->lower));
	from = receive_packet(self->fd, &hdr);
	ASSERT_GE(from, 0);

	/* The packets of a flow stay with the index */
	to = (from + 1) % QUEUES;
	ASSERT_EQ(0, set_queue(self->fd[to], from, ATTACHED));
	ASSERT_EQ(0, send_packet(self->lower));
	ASSERT_EQ(0, state_get(self->fd[to], TUN_STATE_QUEUE, &self->st));
	EXPECT_EQ(1, self->st.s.queue.ring_len);
	EXPECT_EQ(to, receive_packet(self->fd, &hdr));

	/* A detached queue gets none */
	ASSERT_EQ(0, set_queue(self->fd[to], 0, 0));
	ASSERT_EQ(0, send_packet(self->lower));
	from = receive_packet(self->fd, &hdr);
	EXPECT_GE(from, 0);
	EXPECT_NE(to, from);
}

TEST_F(tap_state, offload)
{
	const uint32_t some = TUN_F_CSUM | TUN_F_TSO4;
	struct tun_state_offload *o = &self->st.s.offload;
	struct virtio_net_hdr hdr = {};

	ASSERT_EQ(0, ioctl(self->fd[0], TUNSETOFFLOAD, some));
	ASSERT_EQ(0, state_get(self->fd[1], TUN_STATE_OFFLOAD, &self->st));
	EXPECT_EQ(some, o->enabled);
	EXPECT_EQ(some, o->wanted);
	ASSERT_EQ(0, send_packet(self->lower));
	ASSERT_GE(receive_packet(self->fd, &hdr), 0);
	EXPECT_EQ(VIRTIO_NET_HDR_F_NEEDS_CSUM, hdr.flags);

	/* Without TUN_F_CSUM, others have no effect */
	o->enabled = TUN_F_TSO4;
	o->wanted = 0;
	ASSERT_EQ(0, state_set(self->fd[0], TUN_STATE_OFFLOAD, &self->st));
	ASSERT_EQ(0, state_get(self->fd[0], TUN_STATE_OFFLOAD, &self->st));
	EXPECT_EQ(0, o->enabled);
	ASSERT_EQ(0, send_packet(self->lower));
	ASSERT_GE(receive_packet(self->fd, &hdr), 0);
	EXPECT_EQ(0, hdr.flags);

	o->enabled = some | TUN_F_UFO;
	o->wanted = some;
	ASSERT_EQ(0, state_set(self->fd[0], TUN_STATE_OFFLOAD, &self->st));
	ASSERT_EQ(0, state_get(self->fd[0], TUN_STATE_OFFLOAD, &self->st));
	EXPECT_EQ(some, o->enabled);
	ASSERT_EQ(0, send_packet(self->lower));
	ASSERT_GE(receive_packet(self->fd, &hdr), 0);
	EXPECT_EQ(VIRTIO_NET_HDR_F_NEEDS_CSUM, hdr.flags);
}

/* Each queue in ascending order, through one file each: all is as before */
TEST_F(tap_state, restore)
{
	struct state before[QUEUES];
	int i, value = 12;

	ASSERT_EQ(0, set_queue(self->fd[2], 0, 0));
	ASSERT_EQ(0, set_queue(self->fd[3], 1, ATTACHED));
	ASSERT_EQ(0, ioctl(self->fd[3], TUNSETVNETHDRSZ, &value));
	ASSERT_EQ(0, ioctl(self->fd[3], TUNSETOFFLOAD, TUN_F_CSUM));
	for (i = 0; i < QUEUES; i++)
		ASSERT_EQ(0, state_get(self->fd[i], GROUPS, &before[i]));

	ASSERT_EQ(0, tun_set_queue(self->fd[0], IFF_DETACH_QUEUE));
	value = 20;
	ASSERT_EQ(0, ioctl(self->fd[3], TUNSETVNETHDRSZ, &value));
	ASSERT_EQ(0, ioctl(self->fd[3], TUNSETSNDBUF, &value));
	ASSERT_EQ(0, ioctl(self->fd[3], TUNSETOFFLOAD, 0));

	for (i = 0; i < QUEUES; i++) {
		/* Order 0, 3, 1, then 2, which is detached */
		static const int order[] = { 0, 3, 1, 2 };
		int k = order[i];

		self->st = before[k];
		ASSERT_EQ(0, state_set(self->fd[k], SET_GROUPS, &self->st));
		EXPECT_EQ(SET_GROUPS, self->st.s.mask);
	}
	for (i = 0; i < QUEUES; i++) {
		ASSERT_EQ(0, state_get(self->fd[i], GROUPS, &self->st));
		EXPECT_TRUE(state_equal(&before[i], &self->st));
	}
}

TEST_F(tap_state, buffer)
{
	struct tun_state_array *queues = &self->st.s.queues;
	uint32_t index[QUEUES];
	struct tun_state s = {
		.mask = TUN_STATE_QUEUES,
		.queues = { .entries = (uintptr_t)index, .count = QUEUES,
			    .entry_size = sizeof(*index) },
	};
	int i;

	ASSERT_EQ(0, ioctl(self->fd[0], TUNGETSTATE, &s));
	for (i = 0; i < QUEUES; i++)
		EXPECT_EQ(i, index[i]);

	self->st.s.mask = TUN_STATE_QUEUES;
	state_point(&self->st);
	queues->count = QUEUES - 1;
	ASSERT_EQ(-1, ioctl(self->fd[0], TUNGETSTATE, &self->st.s));
	EXPECT_EQ(ENOSPC, errno);
	EXPECT_EQ(TUN_STATE_QUEUES, self->st.s.failed);
	EXPECT_EQ(QUEUES, queues->count);
	queues->entry_size = 0;
	ASSERT_EQ(-1, ioctl(self->fd[0], TUNGETSTATE, &self->st.s));
	EXPECT_EQ(EINVAL, errno);
}

TEST_F(tap_state, unprivileged)
{
	struct tun_state *s = &self->st.s;

	ASSERT_EQ(0, state_get(self->fd[3], GROUPS, &self->st));
	ASSERT_EQ(0, net_admin(false));
	s->vnet.hdr_size = 12;
	s->offload.enabled = TUN_F_CSUM;
	s->offload.wanted = TUN_F_CSUM;
	s->sndbuf.size = 100000;
	s->queue.index = 0;
	EXPECT_EQ(0, state_set(self->fd[3], SET_GROUPS, &self->st));
	ASSERT_EQ(0, net_admin(true));
}

TEST_F(tap_state, deleted)
{
	ASSERT_EQ(0, state_get(self->fd[0], GROUPS, &self->st));
	ASSERT_EQ(0, netdev_delete(name));
	EXPECT_EQ(EBADFD, state_set(self->fd[0], SET_GROUPS, &self->st));
	EXPECT_EQ(EBADFD, state_get(self->fd[0], GROUPS, &self->st));
	EXPECT_EQ(GROUPS, self->st.s.supported);
}

TEST_HARNESS_MAIN
