// SPDX-License-Identifier: GPL-2.0
/*
 * Values of each group, compared with the older interfaces to the same state:
 * TUNGETSTATE reports the values that they set, and they report the values that
 * TUNSETSTATE restores. tun_state_behaviour looks at packets instead.
 */
#include <poll.h>
#include <sys/wait.h>

#include "../kselftest_harness.h"
#include "tun_state_util.h"

FIXTURE(dev)
{
	char name[IFNAMSIZ];
	int fd;
	struct state st;
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
	.flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE,
};

FIXTURE_VARIANT_ADD(dev, tun_multi_queue)
{
	.flags = IFF_TUN | IFF_MULTI_QUEUE | IFF_ONE_QUEUE,
};

FIXTURE_VARIANT_ADD(dev, tap_napi)
{
	.flags = IFF_TAP | IFF_NAPI | IFF_NAPI_FRAGS | IFF_MULTI_QUEUE,
};

FIXTURE_SETUP(dev)
{
	const char *why = tun_state_enter();

	if (why)
		SKIP(return, "%s", why);
	memcpy(self->name, "dev0", 5);
	self->fd = tun_queue(self->name, variant->flags);
	ASSERT_GE(self->fd, 0);
}

FIXTURE_TEARDOWN(dev)
{
	close(self->fd);
}

#define GET(group) ASSERT_EQ(0, state_get(self->fd, (group), &self->st))
#define SET(group) ASSERT_EQ(0, state_set(self->fd, (group), &self->st))
#define SET_FAILS(err, group)						\
	do {								\
		uint64_t _group = (group);				\
									\
		ASSERT_EQ(err, state_set(self->fd, _group, &self->st));	\
		EXPECT_EQ(_group, self->st.s.failed);			\
	} while (0)

TEST_F(dev, identity)
{
	struct tun_state_identity *id = &self->st.s.identity;
	struct ifreq ifr = { .ifr_mtu = 1400 };
	struct link_info li;
	struct stat netns;

	ASSERT_EQ(0, netdev_ioctl(self->name, SIOCSIFMTU, &ifr));
	ASSERT_EQ(0, netdev_info(self->name, &li));
	ASSERT_EQ(0, stat("/proc/self/ns/net", &netns));
	GET(TUN_STATE_IDENTITY);
	EXPECT_EQ(netns.st_ino, id->netns);
	EXPECT_EQ(li.ifindex, id->ifindex);
	EXPECT_EQ(1400, id->mtu);
	EXPECT_EQ(li.type, id->type);
	EXPECT_EQ(variant->flags & IFF_TAP ? ARPHRD_ETHER : ARPHRD_NONE,
		  id->type);
	EXPECT_EQ(li.addr_len, id->addr_len);
	EXPECT_EQ(0, memcmp(li.addr, id->addr, sizeof(id->addr)));
	EXPECT_EQ(0, memcmp("dev0\0\0\0\0\0\0\0\0\0\0\0", id->name, 16));

	/* A link type with a longer address than Ethernet's */
	ASSERT_EQ(0, ioctl(self->fd, TUNSETLINK, ARPHRD_TUNNEL6));
	GET(TUN_STATE_IDENTITY);
	EXPECT_EQ(ARPHRD_TUNNEL6, id->type);
	EXPECT_EQ(16, id->addr_len);

	SET(TUN_STATE_IDENTITY);
	EXPECT_EQ(TUN_STATE_IDENTITY, self->st.s.mask);
	id->mtu++;
	SET_FAILS(EXDEV, TUN_STATE_IDENTITY);
}

TEST_F(dev, flags)
{
	uint32_t *flags = &self->st.s.device.flags;
	struct link_info li;
	struct ifreq ifr;

	GET(TUN_STATE_FLAGS);
	EXPECT_EQ(variant->flags, *flags);

	*flags ^= IFF_NO_PI;
	SET(TUN_STATE_FLAGS);
	ASSERT_EQ(0, netdev_info(self->name, &li));
	EXPECT_EQ(!(*flags & IFF_NO_PI), li.pi);

	*flags ^= IFF_VNET_HDR;
	SET(TUN_STATE_FLAGS);
	ASSERT_EQ(0, netdev_info(self->name, &li));
	EXPECT_EQ(!!(*flags & IFF_VNET_HDR), li.vnet_hdr);

	/* TUNGETIFF shows a queue without a filter as IFF_NO_PI */
	*flags ^= IFF_ONE_QUEUE | IFF_NAPI;
	*flags &= ~IFF_NAPI_FRAGS;
	SET(TUN_STATE_FLAGS);
	ASSERT_EQ(0, ioctl(self->fd, TUNGETIFF, &ifr));
	EXPECT_EQ(*flags | IFF_NOFILTER, (uint16_t)ifr.ifr_flags);
	GET(TUN_STATE_FLAGS);
	EXPECT_EQ((uint16_t)ifr.ifr_flags & ~IFF_NOFILTER,
		  *flags & ~IFF_NO_PI);
}

TEST_F(dev, persist)
{
	uint32_t *flags = &self->st.s.device.flags;
	struct link_info li;

	ASSERT_EQ(0, ioctl(self->fd, TUNSETPERSIST, 1));
	GET(TUN_STATE_FLAGS);
	EXPECT_EQ(variant->flags | IFF_PERSIST, *flags);
	*flags &= ~IFF_PERSIST;
	SET(TUN_STATE_FLAGS);
	ASSERT_EQ(0, netdev_info(self->name, &li));
	EXPECT_FALSE(li.persist);

	*flags |= IFF_PERSIST;
	SET(TUN_STATE_FLAGS);
	ASSERT_EQ(0, netdev_info(self->name, &li));
	EXPECT_TRUE(li.persist);
	close(self->fd);
	EXPECT_EQ(li.ifindex, netdev_index(self->name));

	self->fd = tun_queue(self->name, variant->flags);
	ASSERT_GE(self->fd, 0);
	GET(TUN_STATE_FLAGS);
	*flags &= ~IFF_PERSIST;
	SET(TUN_STATE_FLAGS);
	close(self->fd);
	EXPECT_EQ(-1, netdev_index(self->name));
}

/* IFF_PERSIST takes and puts one reference to the module */
TEST_F(dev, persist_module_references)
{
	const char *path = "/sys/module/tun/refcnt";
	uint32_t *flags = &self->st.s.device.flags;
	char before[16] = "", held[16] = "", after[16] = "";
	FILE *f;
	int i;

	for (i = 0; i < 2; i++) {
		f = fopen(path, "r");
		if (!f)
			return; /* built in */
		ASSERT_NE(NULL, fgets(i ? after : before, 16, f));
		fclose(f);
		if (i)
			break;

		GET(TUN_STATE_FLAGS);
		*flags |= IFF_PERSIST;
		SET(TUN_STATE_FLAGS);
		SET(TUN_STATE_FLAGS);
		f = fopen(path, "r");
		ASSERT_NE(NULL, f);
		ASSERT_NE(NULL, fgets(held, 16, f));
		fclose(f);
		EXPECT_EQ(atoi(before) + 1, atoi(held));
		*flags &= ~IFF_PERSIST;
		SET(TUN_STATE_FLAGS);
		SET(TUN_STATE_FLAGS);
	}
	EXPECT_EQ(atoi(before), atoi(after));
}

/* The same conditions as for TUNSETIFF */
TEST_F(dev, napi_frags)
{
	uint32_t *flags = &self->st.s.device.flags;

	/* Without an owner, some kernels require CAP_NET_ADMIN for any flag */
	ASSERT_EQ(0, ioctl(self->fd, TUNSETOWNER, getuid()));
	GET(TUN_STATE_FLAGS);
	*flags = (*flags & ~IFF_NAPI) | IFF_NAPI_FRAGS;
	SET_FAILS(EINVAL, TUN_STATE_FLAGS);
	*flags |= IFF_NAPI;
	if (variant->flags & IFF_TUN) {
		SET_FAILS(EINVAL, TUN_STATE_FLAGS);
		return;
	}

	*flags &= ~(IFF_NAPI | IFF_NAPI_FRAGS);
	SET(TUN_STATE_FLAGS);
	*flags |= IFF_NAPI | IFF_NAPI_FRAGS;
	ASSERT_EQ(0, net_admin(false));
	SET_FAILS(EPERM, TUN_STATE_FLAGS);
	*flags &= ~IFF_NAPI_FRAGS;
	SET(TUN_STATE_FLAGS);

	ASSERT_EQ(0, net_admin(true));
	*flags |= IFF_NAPI_FRAGS;
	SET(TUN_STATE_FLAGS);

	/* A flag that is set already needs no capability */
	ASSERT_EQ(0, net_admin(false));
	*flags ^= IFF_ONE_QUEUE;
	SET(TUN_STATE_FLAGS);
	GET(TUN_STATE_FLAGS);
	EXPECT_EQ((variant->flags | IFF_NAPI | IFF_NAPI_FRAGS) ^ IFF_ONE_QUEUE,
		  *flags);
}

/* TUNSETIFF is for the owner, TUNSETPERSIST for any holder of the file */
TEST_F(dev, flags_of_another_owner)
{
	uint32_t *flags = &self->st.s.device.flags;

	ASSERT_EQ(0, ioctl(self->fd, TUNSETOWNER, 4711));
	ASSERT_EQ(0, net_admin(false));
	GET(TUN_STATE_FLAGS);
	*flags ^= IFF_VNET_HDR;
	SET_FAILS(EPERM, TUN_STATE_FLAGS);
	*flags ^= IFF_VNET_HDR | IFF_PERSIST;
	SET(TUN_STATE_FLAGS);
	*flags ^= IFF_PERSIST;
	SET(TUN_STATE_FLAGS);

	ASSERT_EQ(0, ioctl(self->fd, TUNSETOWNER, 0));
	*flags ^= IFF_VNET_HDR;
	SET(TUN_STATE_FLAGS);
}

TEST_F(dev, owner)
{
	struct tun_state_owner *owner = &self->st.s.owner;
	struct link_info li;

	GET(TUN_STATE_OWNER);
	EXPECT_EQ((uint32_t)-1, owner->uid);
	EXPECT_EQ((uint32_t)-1, owner->gid);
	ASSERT_EQ(0, ioctl(self->fd, TUNSETOWNER, 1234));
	GET(TUN_STATE_OWNER);
	EXPECT_EQ(1234, owner->uid);
	EXPECT_EQ((uint32_t)-1, owner->gid);
	ASSERT_EQ(0, ioctl(self->fd, TUNSETGROUP, 5678));
	GET(TUN_STATE_OWNER);
	EXPECT_EQ(1234, owner->uid);
	EXPECT_EQ(5678, owner->gid);

	owner->uid = 77;
	owner->gid = 78;
	SET(TUN_STATE_OWNER);
	ASSERT_EQ(0, netdev_info(self->name, &li));
	EXPECT_EQ(77, li.owner);
	EXPECT_EQ(78, li.group);

	owner->uid = -1;
	SET(TUN_STATE_OWNER);
	ASSERT_EQ(0, netdev_info(self->name, &li));
	EXPECT_FALSE(li.has_owner);
	EXPECT_TRUE(li.has_group);
	owner->gid = -1;
	SET(TUN_STATE_OWNER);
	ASSERT_EQ(0, netdev_info(self->name, &li));
	EXPECT_FALSE(li.has_group);
}

/* A user namespace that maps root only */
static int owner_in_userns(int fd)
{
	struct state st, before;

	if (unshare(CLONE_NEWUSER))
		return 10;
	write_file("/proc/self/setgroups", "deny");
	write_file("/proc/self/uid_map", "0 0 1");
	write_file("/proc/self/gid_map", "0 0 1");

	if (state_get(fd, TUN_STATE_OWNER, &st))
		return 11;
	if (st.s.owner.uid != 65534 || st.s.owner.gid != 65534)
		return 12;
	/* Setting the overflow uid leaves the unknown owner alone */
	if (state_check(fd, TUN_STATE_OWNER, &st) || st.s.mask)
		return 13;
	if (state_set(fd, TUN_STATE_OWNER, &st))
		return 14;
	before = st;
	st.s.owner.uid = 4242;
	if (state_set(fd, TUN_STATE_OWNER, &st) != EINVAL ||
	    st.s.failed != TUN_STATE_OWNER)
		return 15;
	st = before;
	st.s.owner.gid = 4242;
	if (state_set(fd, TUN_STATE_OWNER, &st) != EINVAL)
		return 16;
	/* Set a known uid, leave the unknown gid alone */
	st = before;
	st.s.owner.gid = 0;
	if (state_set(fd, TUN_STATE_OWNER, &st))
		return 17;
	return 0;
}

TEST_F(dev, owner_user_namespace)
{
	int status;
	pid_t pid;

	ASSERT_EQ(0, ioctl(self->fd, TUNSETOWNER, 1234));
	ASSERT_EQ(0, ioctl(self->fd, TUNSETGROUP, 5678));
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid)
		_exit(owner_in_userns(self->fd));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	ASSERT_TRUE(WIFEXITED(status));
	EXPECT_EQ(0, WEXITSTATUS(status));
	GET(TUN_STATE_OWNER);
	EXPECT_EQ(1234, self->st.s.owner.uid);
	EXPECT_EQ(0, self->st.s.owner.gid);
}

TEST_F(dev, vnet)
{
	struct tun_state_vnet *vnet = &self->st.s.vnet;
	int size = 12, le = 1, be = 1, cross;

	GET(TUN_STATE_VNET);
	EXPECT_EQ(10, vnet->hdr_size);
	EXPECT_EQ(0, vnet->flags);
	ASSERT_EQ(0, ioctl(self->fd, TUNSETVNETHDRSZ, &size));
	ASSERT_EQ(0, ioctl(self->fd, TUNSETVNETLE, &le));
	GET(TUN_STATE_VNET);
	EXPECT_EQ(12, vnet->hdr_size);
	EXPECT_EQ(TUN_STATE_VNET_LE, vnet->flags);

	vnet->hdr_size = 20;
	vnet->flags = 0;
	SET(TUN_STATE_VNET);
	ASSERT_EQ(0, ioctl(self->fd, TUNGETVNETHDRSZ, &size));
	ASSERT_EQ(0, ioctl(self->fd, TUNGETVNETLE, &le));
	EXPECT_EQ(20, size);
	EXPECT_EQ(0, le);
	vnet->flags = TUN_STATE_VNET_LE;
	SET(TUN_STATE_VNET);
	ASSERT_EQ(0, ioctl(self->fd, TUNGETVNETLE, &le));
	EXPECT_EQ(1, le);

	vnet->flags = TUN_STATE_VNET_BE;
	cross = !ioctl(self->fd, TUNSETVNETBE, &be);
	if (!cross) {
		SET_FAILS(EINVAL, TUN_STATE_VNET);
	} else {
		be = 0;
		ASSERT_EQ(0, ioctl(self->fd, TUNSETVNETBE, &be));
		SET(TUN_STATE_VNET);
		ASSERT_EQ(0, ioctl(self->fd, TUNGETVNETBE, &be));
		EXPECT_EQ(1, be);
		GET(TUN_STATE_VNET);
		EXPECT_EQ(TUN_STATE_VNET_BE, vnet->flags);
	}
	/* The kernel keeps the other flags of the device in the same word */
	GET(TUN_STATE_FLAGS);
	EXPECT_EQ(variant->flags, self->st.s.device.flags);
}

/* TUNSETSTATE takes the offloads that TUNSETOFFLOAD takes, and no others */
TEST_F(dev, offload)
{
	struct tun_state_offload *offload = &self->st.s.offload;
	char name[IFNAMSIZ] = "dev1";
	struct state other;
	uint32_t f, valid = 0;
	int fd;

	fd = tun_queue(name, variant->flags);
	ASSERT_GE(fd, 0);
	for (f = 0; f < 1024; f++) {
		int err;

		/* Start from a value that differs from the next one */
		ASSERT_EQ(0, ioctl(fd, TUNSETOFFLOAD, f ? 0 : TUN_F_CSUM));
		ASSERT_EQ(0, ioctl(self->fd, TUNSETOFFLOAD,
				   f ? 0 : TUN_F_CSUM));
		err = ioctl(fd, TUNSETOFFLOAD, f) ? errno : 0;
		GET(TUN_STATE_OFFLOAD);
		if (!err)
			valid |= f;
		offload->enabled = f;
		offload->supported = f;
		ASSERT_EQ(err, state_set(self->fd, TUN_STATE_OFFLOAD,
					 &self->st)) {
			TH_LOG("offloads %#x", f);
		}
		ASSERT_EQ(0, state_get(fd, TUN_STATE_OFFLOAD, &other));
		GET(TUN_STATE_OFFLOAD);
		EXPECT_EQ(other.s.offload.enabled, offload->enabled);
		EXPECT_EQ(err ? !f : f & ~TUN_F_UFO, offload->enabled);
	}
	EXPECT_EQ(valid, offload->supported);

	/* Without effect there is no difference to report */
	offload->enabled = TUN_F_CSUM;
	SET(TUN_STATE_OFFLOAD);
	offload->enabled = TUN_F_CSUM | TUN_F_UFO;
	ASSERT_EQ(0, state_check(self->fd, TUN_STATE_OFFLOAD, &self->st));
	EXPECT_EQ(0, self->st.s.mask);

	offload->enabled = 0x80000000;
	SET_FAILS(EINVAL, TUN_STATE_OFFLOAD);
	close(fd);
}

/* The network stack sees the offloads, too */
TEST_F(dev, offload_features)
{
	struct tun_state_offload *offload = &self->st.s.offload;
	struct ethtool_value tso = { .cmd = ETHTOOL_GTSO };

	GET(TUN_STATE_OFFLOAD);
	offload->enabled = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
	SET(TUN_STATE_OFFLOAD);
	ASSERT_EQ(0, netdev_ethtool(self->name, &tso));
	EXPECT_EQ(1, tso.data);

	/* A no-op must not undo the choice of the administrator */
	tso.cmd = ETHTOOL_STSO;
	tso.data = 0;
	ASSERT_EQ(0, netdev_ethtool(self->name, &tso));
	SET(TUN_STATE_OFFLOAD);
	tso.cmd = ETHTOOL_GTSO;
	ASSERT_EQ(0, netdev_ethtool(self->name, &tso));
	EXPECT_EQ(0, tso.data);

	offload->enabled = TUN_F_CSUM;
	SET(TUN_STATE_OFFLOAD);
	offload->enabled = TUN_F_CSUM | TUN_F_TSO4;
	SET(TUN_STATE_OFFLOAD);
	ASSERT_EQ(0, netdev_ethtool(self->name, &tso));
	EXPECT_EQ(1, tso.data);
}

TEST_F(dev, sndbuf)
{
	struct tun_state_sndbuf *sndbuf = &self->st.s.sndbuf;
	int value = 50000;

	ASSERT_EQ(0, ioctl(self->fd, TUNSETSNDBUF, &value));
	GET(TUN_STATE_SNDBUF | TUN_STATE_QUEUE);
	EXPECT_EQ(50000, sndbuf->device);
	EXPECT_EQ(50000, sndbuf->queue);
	EXPECT_EQ(50000, self->st.s.queue.sndbuf);

	sndbuf->device = 70000;
	sndbuf->queue = 60000;
	SET(TUN_STATE_SNDBUF);
	ASSERT_EQ(0, ioctl(self->fd, TUNGETSNDBUF, &value));
	EXPECT_EQ(60000, value);
	GET(TUN_STATE_SNDBUF);
	EXPECT_EQ(70000, sndbuf->device);
	EXPECT_EQ(60000, sndbuf->queue);
}

TEST_F(dev, sndbuf_of_one_queue)
{
	struct tun_state_sndbuf *sndbuf = &self->st.s.sndbuf;
	int value = 50000, fd;

	if (!(variant->flags & IFF_MULTI_QUEUE))
		return;
	fd = tun_queue(self->name, variant->flags);
	ASSERT_GE(fd, 0);
	ASSERT_EQ(0, ioctl(fd, TUNSETSNDBUF, &value));
	GET(TUN_STATE_SNDBUF);
	sndbuf->queue = 60000;
	SET(TUN_STATE_SNDBUF);
	ASSERT_EQ(0, ioctl(fd, TUNGETSNDBUF, &value));
	EXPECT_EQ(50000, value);
	GET(TUN_STATE_QUEUES);
	EXPECT_EQ(60000, self->st.queues[0].sndbuf);
	EXPECT_EQ(50000, self->st.queues[1].sndbuf);
	close(fd);
}

TEST_F(dev, link)
{
	struct ethtool_coalesce coal = { .cmd = ETHTOOL_SCOALESCE };
	struct ethtool_value level = { .cmd = ETHTOOL_GMSGLVL };
	struct tun_state_link *link = &self->st.s.link;
	unsigned int carrier = 0;
	struct link_info li;

	GET(TUN_STATE_LINK);
	EXPECT_EQ(1, link->carrier);
	EXPECT_EQ(0, link->msg_enable);
	EXPECT_EQ(0, link->rx_batched);

	ASSERT_EQ(0, ioctl(self->fd, TUNSETCARRIER, &carrier));
	ASSERT_EQ(0, ioctl(self->fd, TUNSETDEBUG, 0x4000));
	coal.rx_max_coalesced_frames = 64;
	ASSERT_EQ(0, netdev_ethtool(self->name, &coal));
	GET(TUN_STATE_LINK);
	EXPECT_EQ(0, link->carrier);
	EXPECT_EQ(0x4000, link->msg_enable);
	EXPECT_EQ(64, link->rx_batched);

	link->carrier = 1;
	link->msg_enable = 0x2000;
	link->rx_batched = 32;
	SET(TUN_STATE_LINK);
	ASSERT_EQ(0, netdev_up(self->name));
	ASSERT_EQ(0, netdev_info(self->name, &li));
	EXPECT_TRUE(li.carrier);
	ASSERT_EQ(0, netdev_ethtool(self->name, &level));
	EXPECT_EQ(0x2000, level.data);
	coal.cmd = ETHTOOL_GCOALESCE;
	ASSERT_EQ(0, netdev_ethtool(self->name, &coal));
	EXPECT_EQ(32, coal.rx_max_coalesced_frames);

	link->carrier = 0;
	SET(TUN_STATE_LINK);
	ASSERT_EQ(0, netdev_info(self->name, &li));
	EXPECT_FALSE(li.carrier);
}

/* Batching needs a capability, as for ethtool */
TEST_F(dev, link_capability)
{
	struct tun_state_link *link = &self->st.s.link;

	GET(TUN_STATE_LINK);
	ASSERT_EQ(0, net_admin(false));
	link->rx_batched = 8;
	SET_FAILS(EPERM, TUN_STATE_LINK);
	link->rx_batched = 0;
	link->msg_enable = 0x2000;
	link->carrier = 0;
	SET(TUN_STATE_LINK);
}

TEST_F(dev, xdp)
{
	struct link_info li;
	struct state st;
	int prog;

	GET(TUN_STATE_XDP);
	EXPECT_EQ(TUN_STATE_XDP, self->st.s.mask);
	EXPECT_EQ(0, self->st.s.xdp.id);
	if (!(variant->flags & IFF_TAP))
		return;

	prog = prog_load(BPF_PROG_TYPE_XDP, XDP_PASS);
	ASSERT_GE(prog, 0);
	ASSERT_EQ(0, netdev_xdp(self->name, prog));
	close(prog);
	ASSERT_EQ(0, netdev_info(self->name, &li));
	ASSERT_NE(0, li.xdp_id);
	GET(TUN_STATE_XDP);
	EXPECT_EQ(li.xdp_id, self->st.s.xdp.id);

	/* Only reported: TUNSETSTATE passes it over, or compares it */
	st = self->st;
	st.s.xdp.id++;
	ASSERT_EQ(0, state_set(self->fd, TUN_STATE_XDP, &st));
	EXPECT_EQ(0, st.s.mask);
	ASSERT_EQ(0, state_check(self->fd, TUN_STATE_XDP, &st));
	EXPECT_EQ(TUN_STATE_XDP, st.s.mask);
	ASSERT_EQ(0, state_check(self->fd, TUN_STATE_XDP, &self->st));
	EXPECT_EQ(0, self->st.s.mask);
	EXPECT_EQ(0, netdev_xdp(self->name, -1));
	GET(TUN_STATE_XDP);
	EXPECT_EQ(0, self->st.s.xdp.id);
}

/* Both places for an eBPF program */

FIXTURE(prog)
{
	char name[IFNAMSIZ];
	int fd;
	int prog[2];
	uint32_t id[2];
	struct state st;
	struct tun_state_prog *p;
};

FIXTURE_VARIANT(prog)
{
	uint64_t group;
	size_t offset;
	unsigned long request;
	unsigned int flags;
};

FIXTURE_VARIANT_ADD(prog, steering)
{
	.group = TUN_STATE_STEERING,
	.offset = offsetof(struct tun_state, steering),
	.request = TUNSETSTEERINGEBPF,
	.flags = IFF_TAP | IFF_MULTI_QUEUE,
};

FIXTURE_VARIANT_ADD(prog, filter)
{
	.group = TUN_STATE_FILTER,
	.offset = offsetof(struct tun_state, filter),
	.request = TUNSETFILTEREBPF,
	.flags = IFF_TAP,
};

FIXTURE_VARIANT_ADD(prog, filter_tun)
{
	.group = TUN_STATE_FILTER,
	.offset = offsetof(struct tun_state, filter),
	.request = TUNSETFILTEREBPF,
	.flags = IFF_TUN,
};

FIXTURE_SETUP(prog)
{
	const char *why = tun_state_enter();
	struct bpf_prog_info info;
	int i;

	if (why)
		SKIP(return, "%s", why);
	memcpy(self->name, "dev0", 5);
	self->fd = tun_queue(self->name, variant->flags);
	ASSERT_GE(self->fd, 0);
	for (i = 0; i < 2; i++) {
		self->prog[i] = prog_load(BPF_PROG_TYPE_SOCKET_FILTER, 64 + i);
		ASSERT_GE(self->prog[i], 0);
		ASSERT_EQ(0, prog_info(self->prog[i], &info));
		self->id[i] = info.id;
	}
	self->p = (void *)&self->st + offsetof(struct state, s) +
		  variant->offset;
}

FIXTURE_TEARDOWN(prog)
{
	close(self->fd);
	close(self->prog[0]);
	close(self->prog[1]);
}

TEST_F(prog, get)
{
	struct bpf_prog_info info;
	int none = -1;

	GET(variant->group);
	EXPECT_EQ(0, self->p->id);
	EXPECT_EQ(0, self->p->type);
	ASSERT_EQ(0, ioctl(self->fd, variant->request, &self->prog[0]));
	ASSERT_EQ(0, prog_info(self->prog[0], &info));
	GET(TUN_STATE_STEERING | TUN_STATE_FILTER);
	EXPECT_EQ(info.id, self->p->id);
	EXPECT_EQ(BPF_PROG_TYPE_SOCKET_FILTER, self->p->type);
	EXPECT_EQ(0, memcmp(info.tag, self->p->tag, sizeof(info.tag)));
	EXPECT_EQ(TUN_STATE_PROG_ID, self->p->action);
	EXPECT_EQ(0, self->p->fd);
	/* A call for one of the two programs leaves the other alone */
	EXPECT_EQ(info.id, self->st.s.steering.id + self->st.s.filter.id);

	ASSERT_EQ(0, ioctl(self->fd, variant->request, &none));
	GET(variant->group);
	EXPECT_EQ(0, self->p->id);
}

TEST_F(prog, set_fd)
{
	self->p->action = TUN_STATE_PROG_FD;
	self->p->fd = self->prog[0];
	SET(variant->group);
	GET(TUN_STATE_STEERING | TUN_STATE_FILTER);
	EXPECT_EQ(self->id[0], self->p->id);
	EXPECT_EQ(self->id[0], self->st.s.steering.id + self->st.s.filter.id);

	/* Replace the program by another, and by itself */
	self->p->action = TUN_STATE_PROG_FD;
	self->p->fd = self->prog[1];
	ASSERT_EQ(0, state_check(self->fd, variant->group, &self->st));
	EXPECT_EQ(variant->group, self->st.s.mask);
	SET(variant->group);
	ASSERT_EQ(0, state_check(self->fd, variant->group, &self->st));
	EXPECT_EQ(0, self->st.s.mask);
	SET(variant->group);
	GET(variant->group);
	EXPECT_EQ(self->id[1], self->p->id);
}

TEST_F(prog, set_id)
{
	ASSERT_EQ(0, ioctl(self->fd, variant->request, &self->prog[0]));
	GET(variant->group);
	SET(variant->group);
	GET(variant->group);
	EXPECT_EQ(self->id[0], self->p->id);

	/* A program other than the attached one */
	self->p->id = self->id[1];
	SET_FAILS(EBADF, variant->group);
	GET(variant->group);
	self->p->tag[7]++;
	SET_FAILS(EBADF, variant->group);
	GET(variant->group);
	self->p->type++;
	SET_FAILS(EBADF, variant->group);

	/* None */
	self->p->id = 0;
	SET_FAILS(EINVAL, variant->group);
	GET(variant->group);
	self->p->id = 0;
	self->p->type = 0;
	SET_FAILS(EINVAL, variant->group);
	GET(variant->group);
	EXPECT_EQ(self->id[0], self->p->id);
	memset(self->p, 0, sizeof(*self->p));
	SET(variant->group);
	GET(variant->group);
	EXPECT_EQ(0, self->p->id);
}

TEST_F(prog, keep)
{
	int i;

	for (i = 0; i < 2; i++) {
		self->p->action = TUN_STATE_PROG_KEEP;
		self->p->id = 12345;
		SET(variant->group);
		EXPECT_EQ(variant->group, self->st.s.mask);
		ASSERT_EQ(0, state_check(self->fd, variant->group, &self->st));
		EXPECT_EQ(0, self->st.s.mask);
		GET(variant->group);
		EXPECT_EQ(i ? self->id[0] : 0, self->p->id);
		ASSERT_EQ(0, ioctl(self->fd, variant->request,
				   &self->prog[0]));
	}
}

TEST_F(prog, bad)
{
	struct state before;
	int null, wrong;

	ASSERT_EQ(0, ioctl(self->fd, variant->request, &self->prog[0]));
	ASSERT_EQ(0, state_snapshot(self->fd, &before));
	null = open("/dev/null", O_RDONLY);
	wrong = prog_load(BPF_PROG_TYPE_XDP, XDP_PASS);
	ASSERT_GE(wrong, 0);

	self->p->action = TUN_STATE_PROG_FD;
	self->p->fd = -1;
	SET_FAILS(EBADF, variant->group);
	self->p->fd = 1000;
	SET_FAILS(EBADF, variant->group);
	self->p->fd = null;
	SET_FAILS(EINVAL, variant->group);
	self->p->fd = wrong;
	SET_FAILS(EINVAL, variant->group);
	self->p->fd = self->prog[1];
	close(self->prog[1]);
	SET_FAILS(EBADF, variant->group);

	self->p->action = TUN_STATE_PROG_KEEP;
	SET_FAILS(EINVAL, variant->group);
	self->p->action = 3;
	self->p->fd = 0;
	SET_FAILS(EINVAL, variant->group);
	self->p->action = TUN_STATE_PROG_ID;
	self->p->id = self->id[0];
	self->p->fd = 1;
	SET_FAILS(EINVAL, variant->group);
	EXPECT_TRUE(state_unchanged(self->fd, &before));
	close(null);
	close(wrong);
}

/* Each reference is put once, also when a call fails */
TEST_F(prog, lifetime)
{
	int i;

	for (i = 0; i < 2; i++) {
		self->p->action = TUN_STATE_PROG_FD;
		self->p->fd = self->prog[i];
		SET(variant->group);
		ASSERT_EQ(0, state_check(self->fd, variant->group, &self->st));
		SET(variant->group);
		self->st.s.sndbuf.device = -1;
		ASSERT_EQ(EINVAL, state_set(self->fd, variant->group |
					    TUN_STATE_SNDBUF, &self->st));
	}
	close(self->prog[0]);
	EXPECT_TRUE(prog_gone(self->id[0]));
	close(self->prog[1]);
	self->prog[0] = -1;
	self->prog[1] = -1;
	usleep(100000);
	EXPECT_TRUE(prog_there(self->id[1]));
	memset(self->p, 0, sizeof(*self->p));
	SET(variant->group);
	EXPECT_TRUE(prog_gone(self->id[1]));
}

/* A caller with nothing but the file can restore programs read through it */
static int restore_without_rights(int fd, uint64_t group, struct state *st)
{
	struct __user_cap_header_struct hdr = {
		.version = _LINUX_CAPABILITY_VERSION_3,
	};
	struct __user_cap_data_struct none[2] = {};

	if (syscall(__NR_capset, &hdr, none) ||
	    prog_load(BPF_PROG_TYPE_XDP, XDP_PASS) >= 0)
		return 10;
	if (state_check(fd, group, st) || st->s.mask != group)
		return 11;
	return state_set(fd, group, st);
}

#define RESTORE_WITHOUT_RIGHTS(result)					\
	do {								\
		int _status;						\
		pid_t _pid = fork();					\
									\
		ASSERT_GE(_pid, 0);					\
		if (!_pid)						\
			_exit(restore_without_rights(self->fd,		\
						     variant->group,	\
						     &self->st));	\
		ASSERT_EQ(_pid, waitpid(_pid, &_status, 0));		\
		ASSERT_TRUE(WIFEXITED(_status));			\
		EXPECT_EQ(result, WEXITSTATUS(_status));		\
	} while (0)

TEST_F(prog, captured)
{
	struct state other;
	int none = -1, i;

	ASSERT_EQ(0, ioctl(self->fd, variant->request, &self->prog[0]));
	GET(variant->group);
	ASSERT_EQ(0, ioctl(self->fd, variant->request, &self->prog[1]));
	for (i = 0; i < 2; i++) {
		close(self->prog[i]);
		self->prog[i] = -1;
	}
	for (i = 0; i < 3; i++) {
		RESTORE_WITHOUT_RIGHTS(0);
		ASSERT_EQ(0, state_check(self->fd, variant->group, &self->st));
		EXPECT_EQ(0, self->st.s.mask);
		ASSERT_EQ(0, ioctl(self->fd, variant->request, &none));
	}
	/* The other program has gone with its last user */
	EXPECT_TRUE(prog_gone(self->id[1]));

	/* Id, type and tag must all match */
	self->p->tag[7]++;
	RESTORE_WITHOUT_RIGHTS(EBADF);
	self->p->tag[7]--;
	self->p->type++;
	RESTORE_WITHOUT_RIGHTS(EBADF);
	self->p->type--;
	self->p->id++;
	RESTORE_WITHOUT_RIGHTS(EBADF);
	self->p->id--;

	/* A steering program is not captured as a filter */
	memset(&other, 0, sizeof(other));
	other.s.steering = *self->p;
	other.s.filter = *self->p;
	EXPECT_EQ(EBADF, state_set(self->fd, (TUN_STATE_STEERING |
					      TUN_STATE_FILTER) ^
				   variant->group, &other));
	RESTORE_WITHOUT_RIGHTS(0);
}

/* A file holds a program until the group is read again or the file is closed */
TEST_F(prog, captured_lifetime)
{
	int none = -1, i, fd;
	struct state st;

	ASSERT_EQ(0, ioctl(self->fd, variant->request, &self->prog[0]));
	GET(variant->group);
	ASSERT_EQ(0, ioctl(self->fd, variant->request, &none));
	close(self->prog[0]);
	self->prog[0] = -1;

	/* Calls for other groups, and calls that fail early or late */
	ASSERT_EQ(0, state_get(self->fd, ALL_GROUPS & ~variant->group, &st));
	memset(&st, 0, sizeof(st));
	st.s.mask = variant->group | TUN_STATE_QUEUES;
	state_point(&st);
	ASSERT_EQ(-1, ioctl(self->fd, TUNGETSTATE, &st.s));
	ASSERT_EQ(ENOSPC, errno);
	st.s.queues.count = MAX_QUEUES;
	st.s.queues.queues = 8;
	ASSERT_EQ(-1, ioctl(self->fd, TUNGETSTATE, &st.s));
	ASSERT_EQ(EFAULT, errno);
	usleep(100000);
	EXPECT_TRUE(prog_there(self->id[0]));
	RESTORE_WITHOUT_RIGHTS(0);
	ASSERT_EQ(0, ioctl(self->fd, variant->request, &none));

	ASSERT_EQ(0, state_get(self->fd, variant->group, &st));
	EXPECT_TRUE(prog_gone(self->id[0]));
	RESTORE_WITHOUT_RIGHTS(EBADF);

	/* Replace it again and again */
	ASSERT_EQ(0, ioctl(self->fd, variant->request, &self->prog[1]));
	for (i = 0; i < 100; i++)
		GET(variant->group);
	ASSERT_EQ(0, ioctl(self->fd, variant->request, &none));
	close(self->prog[1]);
	self->prog[1] = -1;
	usleep(100000);
	EXPECT_TRUE(prog_there(self->id[1]));

	/* A duplicated fd is the same file; the device may go */
	fd = dup(self->fd);
	ASSERT_GE(fd, 0);
	close(self->fd);
	self->fd = fd;
	ASSERT_EQ(0, netdev_delete(self->name));
	usleep(100000);
	EXPECT_TRUE(prog_there(self->id[1]));
	close(self->fd);
	EXPECT_TRUE(prog_gone(self->id[1]));
}

/* Another queue of the device has not read anything */
TEST_F(prog, captured_by_file)
{
	int fd, none = -1;

	if (!(variant->flags & IFF_MULTI_QUEUE))
		return;
	fd = tun_queue(self->name, variant->flags);
	ASSERT_GE(fd, 0);
	ASSERT_EQ(0, ioctl(self->fd, variant->request, &self->prog[0]));
	GET(variant->group);
	ASSERT_EQ(0, ioctl(self->fd, variant->request, &none));
	EXPECT_EQ(EBADF, state_set(fd, variant->group, &self->st));
	EXPECT_EQ(variant->group, self->st.s.failed);
	SET(variant->group);
	close(fd);
}

/* The queues of a device with several */

FIXTURE(queues)
{
	char name[IFNAMSIZ];
	int fd[4];
	struct state st;
};

FIXTURE_VARIANT(queues)
{
	unsigned int flags;
};

FIXTURE_VARIANT_ADD(queues, tap)
{
	.flags = IFF_TAP,
};

FIXTURE_VARIANT_ADD(queues, tun)
{
	.flags = IFF_TUN,
};

/* Every second queue has NAPI */
FIXTURE_SETUP(queues)
{
	const char *why = tun_state_enter();
	int i;

	if (why)
		SKIP(return, "%s", why);
	memcpy(self->name, "dev0", 5);
	for (i = 0; i < 4; i++) {
		self->fd[i] = tun_queue(self->name,
					variant->flags | IFF_MULTI_QUEUE |
					(i & 1 ? IFF_NAPI : 0));
		ASSERT_GE(self->fd[i], 0);
	}
}

FIXTURE_TEARDOWN(queues)
{
	int i;

	for (i = 0; i < 4; i++)
		close(self->fd[i]);
}

#define ATTACHED TUN_STATE_QUEUE_ATTACHED
#define NAPI TUN_STATE_QUEUE_NAPI
#define SELF TUN_STATE_QUEUE_SELF

#define EXPECT_QUEUE(_index, _flags, queue)		\
	do {						\
		struct tun_state_queue _q = (queue);	\
							\
		EXPECT_EQ(_index, _q.index);		\
		EXPECT_EQ(_flags, _q.flags);		\
	} while (0)

/* Detach and attach with TUNSETQUEUE */
#define ATTACH(i) ASSERT_EQ(0, tun_set_queue(self->fd[i], IFF_ATTACH_QUEUE))
#define DETACH(i) ASSERT_EQ(0, tun_set_queue(self->fd[i], IFF_DETACH_QUEUE))

TEST_F(queues, order)
{
	struct tun_state_queue *q = self->st.queues;
	struct link_info li;
	int i;

	for (i = 0; i < 4; i++) {
		ASSERT_EQ(0, state_get(self->fd[i], TUN_STATE_QUEUE |
				       TUN_STATE_QUEUES, &self->st));
		EXPECT_QUEUE(i, ATTACHED | SELF | (i & 1 ? NAPI : 0),
			     self->st.s.queue);
		EXPECT_EQ(4, self->st.s.queues.count);
		EXPECT_QUEUE(i, ATTACHED | SELF | (i & 1 ? NAPI : 0), q[i]);
		EXPECT_QUEUE(!i, ATTACHED | (i ? 0 : NAPI), q[!i]);
	}

	/* The last queue takes the place of a detached one */
	DETACH(1);
	DETACH(0);
	ASSERT_EQ(0, state_get(self->fd[0], TUN_STATE_QUEUE | TUN_STATE_QUEUES,
			       &self->st));
	EXPECT_EQ(2, self->st.s.queues.attached);
	EXPECT_EQ(2, self->st.s.queues.detached);
	EXPECT_QUEUE(1, SELF, self->st.s.queue);
	EXPECT_QUEUE(0, ATTACHED, q[0]);
	EXPECT_QUEUE(1, ATTACHED | NAPI, q[1]);
	EXPECT_QUEUE(0, NAPI, q[2]);
	EXPECT_QUEUE(1, SELF, q[3]);
	ASSERT_EQ(0, netdev_info(self->name, &li));
	EXPECT_EQ(2, li.queues);
	EXPECT_EQ(2, li.disabled);

	ATTACH(1);
	ASSERT_EQ(0, state_get(self->fd[0], TUN_STATE_QUEUE, &self->st));
	EXPECT_QUEUE(0, SELF, self->st.s.queue);
	ASSERT_EQ(0, state_get(self->fd[1], TUN_STATE_QUEUE, &self->st));
	EXPECT_QUEUE(2, ATTACHED | SELF | NAPI, self->st.s.queue);
}

TEST_F(queues, set)
{
	struct tun_state_queue *queue = &self->st.s.queue;
	struct link_info li;
	struct ifreq ifr;

	DETACH(3);
	ASSERT_EQ(0, state_get(self->fd[1], TUN_STATE_QUEUE, &self->st));
	queue->flags &= ~ATTACHED;
	queue->index = 2;
	ASSERT_EQ(EINVAL, state_set(self->fd[1], TUN_STATE_QUEUE, &self->st));
	EXPECT_EQ(TUN_STATE_QUEUE, self->st.s.failed);
	queue->index = 1;
	ASSERT_EQ(0, state_set(self->fd[1], TUN_STATE_QUEUE, &self->st));
	ASSERT_EQ(0, netdev_info(self->name, &li));
	EXPECT_EQ(2, li.queues);
	EXPECT_EQ(2, li.disabled);
	ASSERT_EQ(0, ioctl(self->fd[1], TUNGETIFF, &ifr));
	EXPECT_TRUE(ifr.ifr_flags & IFF_DETACH_QUEUE);
	ASSERT_EQ(0, state_set(self->fd[1], TUN_STATE_QUEUE, &self->st));

	queue->flags |= ATTACHED;
	queue->index = 3;
	ASSERT_EQ(EINVAL, state_set(self->fd[1], TUN_STATE_QUEUE, &self->st));
	EXPECT_EQ(TUN_STATE_QUEUE, self->st.s.failed);
	queue->index = 2;
	ASSERT_EQ(0, state_set(self->fd[1], TUN_STATE_QUEUE, &self->st));
	ASSERT_EQ(0, netdev_info(self->name, &li));
	EXPECT_EQ(3, li.queues);
	EXPECT_EQ(1, li.disabled);
	ASSERT_EQ(0, ioctl(self->fd[1], TUNGETIFF, &ifr));
	EXPECT_FALSE(ifr.ifr_flags & IFF_DETACH_QUEUE);
	ASSERT_EQ(0, state_get(self->fd[1], TUN_STATE_QUEUE, &self->st));
	EXPECT_QUEUE(2, ATTACHED | NAPI | SELF, *queue);

	/* TUNSETSTATE cannot change the NAPI of a queue */
	queue->flags &= ~NAPI;
	ASSERT_EQ(EINVAL, state_set(self->fd[1], TUN_STATE_QUEUE, &self->st));
}

#define EXPECT_INDEX(i, _index, attached)				\
	do {								\
		ASSERT_EQ(0, state_get(self->fd[i], TUN_STATE_QUEUE,	\
				       &self->st));			\
		EXPECT_EQ(_index, self->st.s.queue.index);		\
		EXPECT_EQ((attached) ? ATTACHED : 0,			\
			  self->st.s.queue.flags & ATTACHED);		\
	} while (0)

#define PLACE(err, i, _index, attached)					\
	ASSERT_EQ(err, queue_place(self->fd[i], &self->st, _index, attached))

static int queue_place(int fd, struct state *st, unsigned int index,
		       bool attached)
{
	int err;

	err = state_get(fd, TUN_STATE_QUEUE, st);
	if (err)
		return -err;
	st->s.queue.index = index;
	st->s.queue.flags &= ~ATTACHED;
	st->s.queue.flags |= attached ? ATTACHED : 0;
	return state_set(fd, TUN_STATE_QUEUE, st);
}

/* A queue swaps places with the queue at its new index */
TEST_F(queues, place)
{
	PLACE(0, 3, 1, true);
	EXPECT_INDEX(0, 0, true);
	EXPECT_INDEX(1, 3, true);
	EXPECT_INDEX(2, 2, true);
	EXPECT_INDEX(3, 1, true);
	PLACE(EINVAL, 3, 4, true);
	PLACE(EINVAL, 3, 0x10001, true);

	/* Into the middle of the detached ones, and of the attached ones */
	DETACH(0);
	DETACH(1);
	PLACE(EINVAL, 2, 3, false);
	PLACE(0, 2, 0, false);
	EXPECT_INDEX(2, 0, false);
	EXPECT_INDEX(1, 1, false);
	EXPECT_INDEX(0, 2, false);
	EXPECT_INDEX(3, 0, true);
	PLACE(EINVAL, 2, 3, false);
	PLACE(0, 0, 1, false);
	EXPECT_INDEX(2, 0, false);
	EXPECT_INDEX(0, 1, false);
	EXPECT_INDEX(1, 2, false);
	PLACE(EINVAL, 1, 2, true);
	PLACE(0, 1, 0, true);
	EXPECT_INDEX(1, 0, true);
	EXPECT_INDEX(3, 1, true);
	EXPECT_INDEX(2, 0, false);
	EXPECT_INDEX(0, 1, false);
}

/* Any order can be rebuilt, one queue after the other, from any other order */
TEST_F(queues, rebuild)
{
	static const int order[][4] = {
		{ 0, 1, 2, 3 }, { 3, 2, 1, 0 }, { 1, 2, 3, 0 }, { 2, 0, 3, 1 },
	};
	unsigned int o, attached, i;

	for (o = 0; o < ARRAY_SIZE(order); o++) {
		for (attached = 0; attached <= 4; attached++) {
			for (i = 0; i < 4; i++)
				PLACE(0, order[o][i], i < attached ?
				      i : i - attached, i < attached);
			for (i = 0; i < 4; i++)
				EXPECT_INDEX(order[o][i], i < attached ?
					     i : i - attached, i < attached);
		}
	}
}

/* Detaching deletes flows, and the same call restores them */
TEST_F(queues, detach_with_flows)
{
	const uint64_t mask = TUN_STATE_FLOWS | TUN_STATE_QUEUE;

	ASSERT_EQ(0, state_get(self->fd[3], mask, &self->st));
	self->st.s.flows.count = 2;
	self->st.flows[0] = (struct tun_state_flow){ 1, 4, 0, 0 };
	self->st.flows[1] = (struct tun_state_flow){ 2, 0, 0, 0 };
	ASSERT_EQ(0, state_set(self->fd[3], mask, &self->st));
	self->st.s.queue.flags &= ~ATTACHED;
	self->st.s.queue.index = 0;
	ASSERT_EQ(0, state_set(self->fd[3], mask, &self->st));
	ASSERT_EQ(0, state_check(self->fd[3], mask, &self->st));
	EXPECT_EQ(0, self->st.s.mask);

	/* Without the group, the flows are gone */
	ATTACH(3);
	DETACH(3);
	ASSERT_EQ(0, state_check(self->fd[3], mask, &self->st));
	EXPECT_EQ(TUN_STATE_FLOWS, self->st.s.mask);
}

/* Every other group can be read and set while the queue is detached */
TEST_F(queues, detached)
{
	uint64_t mask = TUN_STATE_IDENTITY | TUN_STATE_FLAGS |
			TUN_STATE_OWNER | TUN_STATE_VNET | TUN_STATE_OFFLOAD |
			TUN_STATE_SNDBUF | TUN_STATE_LINK | TUN_STATE_QUEUE;
	struct state st;
	int value = 0;

	DETACH(2);
	ASSERT_EQ(0, state_get(self->fd[2], mask, &st));
	EXPECT_EQ(mask, st.s.mask);
	st.s.owner.uid = 5;
	st.s.vnet.hdr_size = 12;
	st.s.offload.enabled = TUN_F_CSUM;
	st.s.sndbuf.queue = 44444;
	st.s.link.msg_enable = 0x2000;
	ASSERT_EQ(0, state_set(self->fd[2], mask, &st));
	ASSERT_EQ(0, state_check(self->fd[2], mask, &st));
	EXPECT_EQ(0, st.s.mask);
	ASSERT_EQ(0, ioctl(self->fd[0], TUNGETVNETHDRSZ, &value));
	EXPECT_EQ(12, value);
	ASSERT_EQ(0, ioctl(self->fd[2], TUNGETSNDBUF, &value));
	EXPECT_EQ(44444, value);
}

/* Carrier needs a queue, as for TUNSETCARRIER; the same call may attach it */
TEST_F(queues, carrier_without_queues)
{
	uint64_t mask = TUN_STATE_LINK | TUN_STATE_QUEUE;
	unsigned int carrier = 0;
	struct state st, before;
	int i;

	ASSERT_EQ(0, ioctl(self->fd[0], TUNSETCARRIER, &carrier));
	for (i = 0; i < 4; i++)
		DETACH(i);
	ASSERT_EQ(0, state_snapshot(self->fd[0], &before));
	ASSERT_EQ(0, state_get(self->fd[0], mask, &st));
	st.s.link.carrier = 1;
	ASSERT_EQ(EPERM, state_set(self->fd[0], TUN_STATE_LINK, &st));
	EXPECT_EQ(TUN_STATE_LINK, st.s.failed);
	ASSERT_EQ(EPERM, state_set(self->fd[0], mask, &st));
	EXPECT_TRUE(state_unchanged(self->fd[0], &before));

	st.s.queue.flags |= ATTACHED;
	ASSERT_EQ(0, state_set(self->fd[0], mask, &st));
	ASSERT_EQ(0, state_get(self->fd[0], mask, &st));
	EXPECT_EQ(1, st.s.link.carrier);
	EXPECT_QUEUE(0, ATTACHED | SELF, st.s.queue);

	/* The same call may detach the last queue */
	st.s.link.carrier = 0;
	ASSERT_EQ(0, state_set(self->fd[0], TUN_STATE_LINK, &st));
	st.s.link.carrier = 1;
	st.s.queue.flags &= ~ATTACHED;
	st.s.queue.index = 3;
	ASSERT_EQ(EPERM, state_set(self->fd[0], mask, &st));
	st.s.link.carrier = 0;
	ASSERT_EQ(0, state_set(self->fd[0], mask, &st));
}

TEST_F(queues, check)
{
	struct tun_state_queue *q = self->st.queues;
	struct state good;
	int i;

	DETACH(2);
	ASSERT_EQ(0, state_get(self->fd[0], TUN_STATE_QUEUES, &good));
#define DIFFERS(yes)							\
	do {								\
		ASSERT_EQ(0, state_check(self->fd[0], TUN_STATE_QUEUES,	\
					 &self->st));			\
		EXPECT_EQ((yes) ? TUN_STATE_QUEUES : 0, self->st.s.mask); \
		self->st = good;					\
		state_point(&self->st);					\
	} while (0)

	self->st = good;
	state_point(&self->st);
	DIFFERS(false);

	/* A comparison ignores fields that change by themselves */
	for (i = 0; i < 4; i++) {
		q[i].ring_len++;
		q[i].flags ^= SELF;
	}
	DIFFERS(false);

	for (i = 0; i < 4; i++) {
		q[i].index++;
		DIFFERS(true);
		q[i].flags ^= ATTACHED;
		DIFFERS(true);
		q[i].flags ^= NAPI;
		DIFFERS(true);
		q[i].flags ^= TUN_STATE_QUEUE_NAPI_FRAGS;
		DIFFERS(true);
		q[i].flags ^= TUN_STATE_QUEUE_SOCKFILTER;
		DIFFERS(true);
		q[i].sndbuf--;
		DIFFERS(true);
	}
	self->st.s.queues.count--;
	DIFFERS(true);
	self->st.s.queues.count++;
	DIFFERS(true);
	self->st.s.queues.count = 0;
	DIFFERS(true);
	self->st.s.queues.count = -1;
	DIFFERS(true);

	/* A wrong entry size is an error, not a difference */
	self->st.s.queues.entry_size--;
	EXPECT_EQ(EINVAL, state_check(self->fd[0], TUN_STATE_QUEUES,
				      &self->st));
	EXPECT_EQ(TUN_STATE_QUEUES, self->st.s.failed);
	self->st = good;
	state_point(&self->st);
	q[3].reserved = 1;
	EXPECT_EQ(EINVAL, state_check(self->fd[0], TUN_STATE_QUEUES,
				      &self->st));
	q[3].reserved = 0;
	q[3].flags |= 0x20;
	EXPECT_EQ(EINVAL, state_check(self->fd[0], TUN_STATE_QUEUES,
				      &self->st));
	self->st.s.queues.queues = 8;
	EXPECT_EQ(EFAULT, state_check(self->fd[0], TUN_STATE_QUEUES,
				      &self->st));
#undef DIFFERS
}

/* A buffer that is too small is left alone; the needed size is returned */
TEST_F(queues, room)
{
	struct tun_state_queues *queues = &self->st.s.queues;
	static const struct tun_state_queue none;
	unsigned int room;

	DETACH(2);
	for (room = 0; room < 4; room++) {
		memset(&self->st, 0, sizeof(self->st));
		self->st.s.mask = TUN_STATE_QUEUES | TUN_STATE_FLAGS;
		state_point(&self->st);
		queues->count = room;
		ASSERT_EQ(-1, ioctl(self->fd[0], TUNGETSTATE, &self->st.s));
		EXPECT_EQ(ENOSPC, errno);
		EXPECT_EQ(TUN_STATE_QUEUES, self->st.s.failed);
		EXPECT_EQ(TUN_STATE_QUEUES | TUN_STATE_FLAGS, self->st.s.mask);
		EXPECT_EQ(4, queues->count);
		EXPECT_EQ(3, queues->attached);
		EXPECT_EQ(1, queues->detached);
		EXPECT_EQ((uintptr_t)self->st.queues, queues->queues);
		EXPECT_EQ(0, memcmp(&none, self->st.queues, sizeof(none)));
	}
	/* The returned size is enough */
	ASSERT_EQ(0, ioctl(self->fd[0], TUNGETSTATE, &self->st.s));
	EXPECT_QUEUE(0, NAPI * 0 + ATTACHED + SELF, self->st.queues[0]);
	EXPECT_QUEUE(0, 0, self->st.queues[3]);
	EXPECT_EQ(0, memcmp(&none, self->st.queues + 4, sizeof(none)));

	queues->entry_size = 0;
	ASSERT_EQ(-1, ioctl(self->fd[0], TUNGETSTATE, &self->st.s));
	EXPECT_EQ(EINVAL, errno);
	queues->entry_size = sizeof(none) + 8;
	ASSERT_EQ(-1, ioctl(self->fd[0], TUNGETSTATE, &self->st.s));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(TUN_STATE_QUEUES, self->st.s.failed);

	/* An absurd size leads to no huge allocation */
	queues->entry_size = sizeof(none);
	queues->count = -1;
	ASSERT_EQ(0, ioctl(self->fd[0], TUNGETSTATE, &self->st.s));
	EXPECT_EQ(4, queues->count);
	queues->queues = 8;
	ASSERT_EQ(-1, ioctl(self->fd[0], TUNGETSTATE, &self->st.s));
	EXPECT_EQ(EFAULT, errno);
}

/* Queues with and without the filter of the device, and one that gets it */
TEST_F(queues, sockfilter)
{
	struct sock_filter pass = { BPF_RET | BPF_K, 0, 0, 0xffff };
	const uint32_t has = TUN_STATE_QUEUE_SOCKFILTER;
	struct tun_state_queue *queue = &self->st.s.queue;
	struct ifreq ifr;
	int i;

	if (!(variant->flags & IFF_TAP))
		return;
	/* A queue cannot have a filter if the device has none */
	ASSERT_EQ(0, state_get(self->fd[1], TUN_STATE_QUEUE, &self->st));
	queue->flags |= has;
	ASSERT_EQ(EINVAL, state_set(self->fd[1], TUN_STATE_QUEUE, &self->st));

	DETACH(3);
	ASSERT_EQ(0, tun_attach_filter(self->fd[0], &pass, 1));
	DETACH(1);
	ASSERT_EQ(0, state_get(self->fd[0], TUN_STATE_QUEUES, &self->st));
	EXPECT_QUEUE(0, ATTACHED | SELF | has, self->st.queues[0]);
	EXPECT_QUEUE(1, ATTACHED | has, self->st.queues[1]);
	EXPECT_QUEUE(0, NAPI | has, self->st.queues[2]);
	EXPECT_QUEUE(1, NAPI | has, self->st.queues[3]);

	ASSERT_EQ(0, state_get(self->fd[1], TUN_STATE_QUEUE, &self->st));
	queue->flags |= ATTACHED;
	queue->index = 2;
	ASSERT_EQ(0, state_set(self->fd[1], TUN_STATE_QUEUE, &self->st));
	ASSERT_EQ(0, state_get(self->fd[1], TUN_STATE_QUEUE, &self->st));
	EXPECT_QUEUE(2, ATTACHED | SELF | NAPI | has, *queue);
	ASSERT_EQ(0, ioctl(self->fd[1], TUNGETIFF, &ifr));
	EXPECT_FALSE(ifr.ifr_flags & (IFF_DETACH_QUEUE | IFF_NOFILTER));

	/* Change this queue only, with and without a move */
	for (i = 0; i < 2; i++) {
		queue->flags &= ~has;
		ASSERT_EQ(0, state_set(self->fd[1], TUN_STATE_QUEUE,
				       &self->st));
		ASSERT_EQ(0, state_get(self->fd[1], TUN_STATE_QUEUE,
				       &self->st));
		EXPECT_QUEUE(i ? 0 : 2, ATTACHED | SELF | NAPI, *queue);
		ASSERT_EQ(0, ioctl(self->fd[1], TUNGETIFF, &ifr));
		EXPECT_TRUE(ifr.ifr_flags & IFF_NOFILTER);
		ASSERT_EQ(0, ioctl(self->fd[0], TUNGETIFF, &ifr));
		EXPECT_FALSE(ifr.ifr_flags & IFF_NOFILTER);
		queue->flags |= has;
		queue->index = 0;
		ASSERT_EQ(0, state_set(self->fd[1], TUN_STATE_QUEUE,
				       &self->st));
		ASSERT_EQ(0, state_get(self->fd[1], TUN_STATE_QUEUE,
				       &self->st));
		EXPECT_QUEUE(0, ATTACHED | SELF | NAPI | has, *queue);
	}

	ASSERT_EQ(0, tun_detach_filter(self->fd[0]));
	ASSERT_EQ(0, state_get(self->fd[1], TUN_STATE_QUEUE, &self->st));
	EXPECT_QUEUE(0, ATTACHED | SELF | NAPI, *queue);
}

/* A call with both groups decides about its own queue */
TEST_F(queues, sockfilter_and_queue)
{
	const uint64_t mask = TUN_STATE_SOCKFILTER | TUN_STATE_QUEUE;
	const uint32_t has = TUN_STATE_QUEUE_SOCKFILTER;
	struct state with, without, st;

	if (!(variant->flags & IFF_TAP))
		return;
	ASSERT_EQ(0, state_get(self->fd[0], mask, &without));
	state_point(&without);
	with = without;
	state_point(&with);
	with.s.sockfilter.count = 1;
	with.insns[0] = (struct sock_filter){ BPF_RET | BPF_K, 0, 0, 0xffff };

	/* All other queues get it */
	ASSERT_EQ(0, state_set(self->fd[0], mask, &with));
	ASSERT_EQ(0, state_get(self->fd[0], ALL_GROUPS, &st));
	EXPECT_EQ(1, st.s.sockfilter.count);
	EXPECT_QUEUE(0, ATTACHED | SELF, st.queues[0]);
	EXPECT_QUEUE(1, ATTACHED | NAPI | has, st.queues[1]);
	EXPECT_QUEUE(3, ATTACHED | NAPI | has, st.queues[3]);

	/* The same program, and this queue gets it, too */
	with.s.queue.flags |= has;
	ASSERT_EQ(0, state_set(self->fd[0], mask, &with));
	ASSERT_EQ(0, state_get(self->fd[0], mask, &st));
	EXPECT_QUEUE(0, ATTACHED | SELF | has, st.s.queue);

	/* No program, but this queue has it: refused */
	without.s.queue.flags |= has;
	ASSERT_EQ(EINVAL, state_set(self->fd[0], mask, &without));
	EXPECT_EQ(TUN_STATE_SOCKFILTER, without.s.failed);
	ASSERT_EQ(0, state_get(self->fd[0], mask, &st));
	EXPECT_EQ(1, st.s.sockfilter.count);
	without.s.queue.flags &= ~has;
	ASSERT_EQ(0, state_set(self->fd[0], mask, &without));
	ASSERT_EQ(0, state_get(self->fd[0], ALL_GROUPS, &st));
	EXPECT_EQ(0, st.s.sockfilter.count);
	EXPECT_QUEUE(0, ATTACHED | SELF, st.queues[0]);
	EXPECT_QUEUE(1, ATTACHED | NAPI, st.queues[1]);
}

/* Packets in the ring of a queue: none, some, a full ring */

FIXTURE(ring)
{
	char name[IFNAMSIZ];
	int fd;
	struct state st;
};

FIXTURE_SETUP(ring)
{
	const char *why = tun_state_enter();
	struct ifreq ifr = { .ifr_qlen = 4 };

	if (why)
		SKIP(return, "%s", why);
	memcpy(self->name, "dev0", 5);
	self->fd = tun_queue(self->name, IFF_TAP | IFF_NO_PI | IFF_MULTI_QUEUE);
	ASSERT_GE(self->fd, 0);
	ASSERT_EQ(0, netdev_ioctl(self->name, SIOCSIFTXQLEN, &ifr));
	ASSERT_EQ(0, netdev_up(self->name));
}

FIXTURE_TEARDOWN(ring)
{
	close(self->fd);
}

TEST_F(ring, length)
{
	struct tun_state_queue *queue = &self->st.s.queue;
	char buf[128];
	int i, n;

	/* Each round starts at another place of the ring */
	for (i = 0; i < 6; i++) {
		GET(TUN_STATE_QUEUE);
		EXPECT_EQ(4, queue->ring_size);
		EXPECT_EQ(0, queue->ring_len);
		for (n = 1; n <= 5; n++) {
			ASSERT_EQ(1, send_packets(self->name, 1));
			GET(TUN_STATE_QUEUE | TUN_STATE_QUEUES);
			EXPECT_EQ(n > 4 ? 4 : n, queue->ring_len);
			EXPECT_EQ(n > 4 ? 4 : n, self->st.queues[0].ring_len);
		}
		for (n = 3; n >= 0; n--) {
			ASSERT_EQ(64, read(self->fd, buf, sizeof(buf)));
			GET(TUN_STATE_QUEUE);
			EXPECT_EQ(n, queue->ring_len);
		}
		ASSERT_EQ(1, send_packets(self->name, 1));
		ASSERT_EQ(64, read(self->fd, buf, sizeof(buf)));
	}

	/* Reading and setting the state leave the packets alone */
	ASSERT_EQ(3, send_packets(self->name, 3));
	ASSERT_EQ(0, state_snapshot(self->fd, &self->st));
	state_point(&self->st);
	ASSERT_EQ(0, state_set(self->fd, self->st.s.mask, &self->st));
	GET(TUN_STATE_QUEUE);
	EXPECT_EQ(3, queue->ring_len);
	/* A queue that is detached loses its packets, as with TUNSETQUEUE */
	queue->flags &= ~ATTACHED;
	SET(TUN_STATE_QUEUE);
	GET(TUN_STATE_QUEUE);
	EXPECT_EQ(0, queue->ring_len);
}

TEST_HARNESS_MAIN
