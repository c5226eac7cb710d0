/* SPDX-License-Identifier: GPL-2.0 */
/*
 * TUNGETSTATE and TUNSETSTATE, the older calls for the same, and the device that the
 * benchmarks call them on.
 */
#ifndef _TUN_CALLS_H
#define _TUN_CALLS_H

#include "tun_state_util.h"

#define WIDE_QUEUES 256
#define FLOWS	4096

#define TAP_FLAGS (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE)
#define VNET_HDR 10	/* struct virtio_net_hdr */

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

struct device {
	int fd, ifindex;
	char name[IFNAMSIZ];
};

static struct device tap = { .name = "bench%d" };
static int inet, rtnl, packet;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void must(bool good, const char *what)
{
	if (!good)
		die(what);
}

/* System calls through MUST() and set_one() */
static unsigned long calls;

#define MUST(call) (calls++, must((call) >= 0, #call))

/* Set a device: two states that differ in each value both ways can set */

#define BOTH_SET (TUN_STATE_OWNER | TUN_STATE_VNET | TUN_STATE_OFFLOAD | \
		  TUN_STATE_SNDBUF | TUN_STATE_LINK | TUN_STATE_TXFILTER | \
		  TUN_STATE_SOCKFILTER | TUN_STATE_STEERING | TUN_STATE_FILTER)

static struct state first, states[2];
static unsigned int turn, flip;

static void make_states(void)
{
	struct tun_state *s;
	int i, fd;

	must(!state_get(tap.fd, BOTH_SET, &first), "TUNGETSTATE");
	for (i = 0; i < 2; i++) {
		fd = prog_load(BPF_PROG_TYPE_SOCKET_FILTER, 0xffff);
		must(fd >= 0, "BPF_PROG_LOAD");

		states[i] = first;
		state_point(&states[i]);
		s = &states[i].s;
		s->owner.uid = 1000 + i;
		s->owner.gid = 1000 + i;
		s->vnet.hdr_size = i ? 12 : 20;
		s->vnet.flags = i ? TUN_STATE_VNET_LE : 0;
		s->offload.enabled = TUN_F_CSUM |
				     (i ? TUN_F_TSO4 : TUN_F_TSO6);
		s->offload.wanted = s->offload.enabled;
		s->sndbuf.size = 100000 + i;
		s->link.msg_enable = i;
		s->txfilter.count = 1;
		s->txfilter.addr[0][5] = i;
		s->sockfilter.count = 1;
		states[i].insns[0] = (struct sock_filter) {
			.code = BPF_RET | BPF_K, .k = 0xffff - i,
		};
		s->steering.action = TUN_STATE_PROG_FD;
		s->steering.fd = fd;
		s->filter.action = TUN_STATE_PROG_FD;
		s->filter.fd = fd;
	}
}

static void set_one(void)
{
	turn ^= flip;
	calls++;
	must(!state_set(tap.fd, BOTH_SET, &states[turn]), "TUNSETSTATE");
}

static void set_many(void)
{
	struct state *state = &states[turn ^= flip];
	struct sock_fprog prog = { .len = 1, .filter = state->insns };
	struct tun_state *s = &state->s;
	int hdr_size = s->vnet.hdr_size, le = s->vnet.flags;
	struct {
		struct tun_filter head;
		unsigned char addr[6];
	} addrs = { .head.count = 1 };

	memcpy(addrs.addr, s->txfilter.addr, sizeof(addrs.addr));
	MUST(ioctl(tap.fd, TUNSETOWNER, s->owner.uid));
	MUST(ioctl(tap.fd, TUNSETGROUP, s->owner.gid));
	MUST(ioctl(tap.fd, TUNSETVNETHDRSZ, &hdr_size));
	MUST(ioctl(tap.fd, TUNSETVNETLE, &le));
	MUST(ioctl(tap.fd, TUNSETOFFLOAD, s->offload.enabled));
	MUST(ioctl(tap.fd, TUNSETSNDBUF, &s->sndbuf.size));
	MUST(ioctl(tap.fd, TUNSETDEBUG, s->link.msg_enable));
	MUST(ioctl(tap.fd, TUNSETTXFILTER, &addrs));
	MUST(ioctl(tap.fd, TUNATTACHFILTER, &prog));
	MUST(ioctl(tap.fd, TUNSETSTEERINGEBPF, &s->steering.fd));
	MUST(ioctl(tap.fd, TUNSETFILTEREBPF, &s->filter.fd));
}

/* Read a device */

static struct tun_state get(int fd, uint64_t mask)
{
	static __thread struct sock_filter insns[BPF_MAXINSNS];
	static __thread struct tun_state_flow flows[FLOWS];
	static __thread struct tun_state_queue queues[WIDE_QUEUES];
	struct tun_state s = {
		.mask = mask,
		.sockfilter = {
			(uintptr_t)insns, ARRAY_SIZE(insns), sizeof(insns[0])
		},
		.flows = {
			(uintptr_t)flows, ARRAY_SIZE(flows), sizeof(flows[0])
		},
		.queues = {
			(uintptr_t)queues, ARRAY_SIZE(queues), sizeof(queues[0])
		},
	};

	MUST(ioctl(fd, TUNGETSTATE, &s));
	return s;
}

#define NO_FLOWS (ALL_GROUPS & ~TUN_STATE_FLOWS)

static void get_state(const struct device *dev)
{
	get(dev->fd, NO_FLOWS);
}

/* Takes RTNL, too, and reports name and flags */
static void get_iff(const struct device *dev)
{
	struct ifreq ifr;

	MUST(ioctl(dev->fd, TUNGETIFF, &ifr));
}

static void get_ethtool(const struct device *dev, void *data)
{
	struct ifreq ifr = { .ifr_data = data };

	memcpy(ifr.ifr_name, dev->name, IFNAMSIZ);
	MUST(ioctl(inet, SIOCETHTOOL, &ifr));
}

static void get_link(const struct device *dev)
{
	struct link_req req = {
		.nh.nlmsg_len = NLMSG_LENGTH(sizeof(req.ifi)),
		.nh.nlmsg_type = RTM_GETLINK,
		.nh.nlmsg_flags = NLM_F_REQUEST,
		.ifi.ifi_index = dev->ifindex,
	};
	static char answer[32768];

	MUST(send(rtnl, &req, req.nh.nlmsg_len, 0));
	MUST(recv(rtnl, answer, sizeof(answer), 0));
}

static void get_older(const struct device *dev)
{
	struct {
		struct ethtool_gfeatures head;
		struct ethtool_get_features_block blocks[4];
	} features = { .head.cmd = ETHTOOL_GFEATURES, .head.size = 4 };
	struct sock_fprog prog;
	struct ifreq ifr;
	int value;

	get_iff(dev);
	MUST(ioctl(dev->fd, TUNGETVNETHDRSZ, &value));
	MUST(ioctl(dev->fd, TUNGETSNDBUF, &value));
	MUST(ioctl(dev->fd, TUNGETFILTER, &prog));
	MUST(ioctl(dev->fd, SIOCGIFHWADDR, &ifr));
	get_ethtool(dev, &features);
	get_link(dev);
}

static void get_one(void)
{
	get_state(&tap);
}

static void get_many(void)
{
	get_older(&tap);
}

/* Have the device learn flows, which expire after 3 s, from packets into the host */
static void learn_flows(int flows)
{
	unsigned char frame[VNET_HDR + 64] = {}, *eth = frame + VNET_HDR;
	int i;

	eth[0] = 2;		/* to another host */
	eth[12] = 8;
	eth[14] = 0x45;
	eth[17] = 50;
	eth[22] = 64;
	eth[23] = IPPROTO_UDP;
	for (i = 0; i < flows; i++) {
		eth[28] = i >> 8;	/* source */
		eth[29] = i;
		MUST(write(tap.fd, frame, sizeof(frame)));
	}
}

/* Packets, to the host and back to the same queue */

static char frame[VNET_HDR + 64];

static void make_frame(void)
{
	memset(frame, 0, sizeof(frame));
	memset(frame + VNET_HDR, 0xff, 6);
	frame[VNET_HDR + 12] = 0x88;	/* a protocol without a receiver */
	frame[VNET_HDR + 13] = 0xb5;
}

static void packet_to_host(void)
{
	MUST(write(tap.fd, frame, sizeof(frame)));
}

static void packet_from_host(void)
{
	MUST(send(packet, frame + VNET_HDR, sizeof(frame) - VNET_HDR, 0));
	MUST(read(tap.fd, frame, sizeof(frame)));
}

static void make_device(int queues)
{
	struct sockaddr_ll sll = { .sll_family = AF_PACKET };
	int i;

	MUST(tap.fd = tun_queue(tap.name, TAP_FLAGS));
	for (i = 1; i < queues; i++)
		MUST(tun_queue(tap.name, TAP_FLAGS));
	MUST(netdev_up(tap.name));
	MUST(tap.ifindex = netdev_index(tap.name));
	MUST(inet = socket(AF_INET, SOCK_DGRAM, 0));
	MUST(rtnl = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
	MUST(packet = socket(AF_PACKET, SOCK_RAW, 0));
	sll.sll_ifindex = tap.ifindex;
	MUST(bind(packet, (void *)&sll, sizeof(sll)));
}

#endif
