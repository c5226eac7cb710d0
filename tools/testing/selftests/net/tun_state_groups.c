// SPDX-License-Identifier: GPL-2.0
/*
 * Values of each setting, compared with the older interfaces to the same state:
 * TUNGETSTATE reports the values that they set, and they report the values that
 * TUNSETSTATE restores. tun_state_offload, tun_state_prog and tun_state_queues
 * do so for their subjects; tun_state_behaviour looks at packets instead.
 */
#include <limits.h>
#include <sys/epoll.h>
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
	STATE_SET_FAILS(err, self->fd, group, &self->st)

/* Fail on any bit that @flip inverts, and leave all as it is */
#define FLIP_FAILS(err, group, field, flip)				\
	do {								\
		__auto_type _field = &(field);				\
		__typeof__(field) _was = *_field;			\
									\
		*_field ^= (flip);					\
		SET_FAILS(err, group);					\
		*_field = _was;						\
	} while (0)

TEST_F(dev, identity)
{
	struct tun_state_identity *id = &self->st.s.identity;
	struct link_info li;
	struct stat netns;

	ASSERT_EQ(0, netdev_info(self->name, &li));
	ASSERT_EQ(0, stat("/proc/self/ns/net", &netns));
	GET(TUN_STATE_IDENTITY);
	EXPECT_EQ(netns.st_ino, id->netns);
	EXPECT_EQ(li.ifindex, id->ifindex);
	EXPECT_EQ(li.type, id->type);
	EXPECT_EQ(variant->flags & IFF_TAP ? ARPHRD_ETHER : ARPHRD_NONE,
		  id->type);

	SET(TUN_STATE_IDENTITY);
	EXPECT_EQ(TUN_STATE_IDENTITY, self->st.s.mask);
	FLIP_FAILS(EXDEV, TUN_STATE_IDENTITY, id->netns, 1);
	FLIP_FAILS(EXDEV, TUN_STATE_IDENTITY, id->ifindex, 1);
	FLIP_FAILS(EXDEV, TUN_STATE_IDENTITY, id->type, 1);

	/* Without a guard, the link type stays where TUNSETLINK put it */
	ASSERT_EQ(0, ioctl(self->fd, TUNSETLINK, ARPHRD_TUNNEL6));
	SET_FAILS(EXDEV, TUN_STATE_IDENTITY);
	GET(TUN_STATE_IDENTITY);
	EXPECT_EQ(ARPHRD_TUNNEL6, id->type);
	SET(TUN_STATE_IDENTITY);
}

TEST_F(dev, netdev)
{
	struct tun_state_netdev *netdev = &self->st.s.netdev;
	static const char longest[IFNAMSIZ] = "a_longer_name_0";
	struct ifreq ifr = { .ifr_mtu = 1400 };
	struct link_info li;

	GET(TUN_STATE_NETDEV);
	EXPECT_EQ(1500, netdev->mtu);
	EXPECT_EQ(0, netdev->up);
	EXPECT_EQ(0, memcmp("dev0\0\0\0\0\0\0\0\0\0\0\0", netdev->name, 16));
	ASSERT_EQ(0, netdev_info(self->name, &li));
	EXPECT_EQ(variant->flags & IFF_TAP ? ETH_ALEN : 0, netdev->addr_len);
	EXPECT_EQ(li.addr_len, netdev->addr_len);
	EXPECT_EQ(0, memcmp(li.addr, netdev->addr, sizeof(netdev->addr)));

	ASSERT_EQ(0, netdev_ioctl(self->name, SIOCSIFMTU, &ifr));
	memset(&ifr, 0, sizeof(ifr));
	memcpy(ifr.ifr_newname, longest, IFNAMSIZ);
	ASSERT_EQ(0, netdev_ioctl(self->name, SIOCSIFNAME, &ifr));
	memcpy(self->name, longest, IFNAMSIZ);
	/* A link type with a longer address than Ethernet's */
	ASSERT_EQ(0, ioctl(self->fd, TUNSETLINK, ARPHRD_TUNNEL6));
	ASSERT_EQ(0, netdev_up(self->name));
	GET(TUN_STATE_NETDEV);
	EXPECT_EQ(1400, netdev->mtu);
	EXPECT_EQ(1, netdev->up);
	EXPECT_EQ(0, memcmp(longest, netdev->name, 16));
	ASSERT_EQ(0, netdev_info(self->name, &li));
	EXPECT_EQ(16, netdev->addr_len);
	EXPECT_EQ(16, li.addr_len);
	EXPECT_EQ(0, memcmp(li.addr, netdev->addr, sizeof(netdev->addr)));
}

TEST_F(dev, iff)
{
	uint32_t *flags = &self->st.s.iff.flags;
	struct ifreq ifr;
	uint32_t bit;

	GET(TUN_STATE_IFF);
	EXPECT_EQ(variant->flags, *flags);
	/* TUNGETIFF shows a queue without a filter as IFF_NO_PI */
	ASSERT_EQ(0, ioctl(self->fd, TUNGETIFF, &ifr));
	EXPECT_EQ(*flags | IFF_NOFILTER, (uint16_t)ifr.ifr_flags);

	/* Flags that only TUNSETIFF sets, and unknown ones */
	for (bit = 1; bit; bit <<= 1)
		if (bit != IFF_PERSIST)
			FLIP_FAILS(EINVAL, TUN_STATE_IFF, *flags, bit);
	FLIP_FAILS(EINVAL, TUN_STATE_IFF, *flags, IFF_TAP | IFF_TUN);
	FLIP_FAILS(EINVAL, TUN_STATE_IFF, *flags, IFF_PERSIST | IFF_VNET_HDR);
	GET(TUN_STATE_IFF);
	EXPECT_EQ(variant->flags, *flags);
	SET(TUN_STATE_IFF);
}

/* IFF_PERSIST takes and puts one reference to the module. Ahead of the other tests
 * of the flag: without references they would let the module go.
 */
TEST_F(dev, persist_module_references)
{
	const char *path = "/sys/module/tun/refcnt";
	uint32_t *flags = &self->st.s.iff.flags;
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

		GET(TUN_STATE_IFF);
		*flags |= IFF_PERSIST;
		SET(TUN_STATE_IFF);
		SET(TUN_STATE_IFF);
		f = fopen(path, "r");
		ASSERT_NE(NULL, f);
		ASSERT_NE(NULL, fgets(held, 16, f));
		fclose(f);
		EXPECT_EQ(atoi(before) + 1, atoi(held));
		/* A refused call takes and puts nothing */
		FLIP_FAILS(EINVAL, TUN_STATE_IFF, *flags,
			   IFF_PERSIST | IFF_NO_PI);
		*flags &= ~IFF_PERSIST;
		SET(TUN_STATE_IFF);
		SET(TUN_STATE_IFF);
		FLIP_FAILS(EINVAL, TUN_STATE_IFF, *flags,
			   IFF_PERSIST | IFF_NO_PI);
	}
	EXPECT_EQ(atoi(before), atoi(after));
}

TEST_F(dev, persist)
{
	uint32_t *flags = &self->st.s.iff.flags;
	struct link_info li;

	ASSERT_EQ(0, ioctl(self->fd, TUNSETPERSIST, 1));
	GET(TUN_STATE_IFF);
	EXPECT_EQ(variant->flags | IFF_PERSIST, *flags);
	*flags &= ~IFF_PERSIST;
	SET(TUN_STATE_IFF);
	ASSERT_EQ(0, netdev_info(self->name, &li));
	EXPECT_FALSE(li.persist);

	*flags |= IFF_PERSIST;
	SET(TUN_STATE_IFF);
	ASSERT_EQ(0, netdev_info(self->name, &li));
	EXPECT_TRUE(li.persist);
	close(self->fd);
	EXPECT_EQ(li.ifindex, netdev_index(self->name));

	self->fd = tun_queue(self->name, variant->flags);
	ASSERT_GE(self->fd, 0);
	GET(TUN_STATE_IFF);
	*flags &= ~IFF_PERSIST;
	SET(TUN_STATE_IFF);
	close(self->fd);
	EXPECT_EQ(-1, netdev_index(self->name));
}

/* TUNSETPERSIST is for any holder of the file */
TEST_F(dev, persist_of_another_owner)
{
	uint32_t *flags = &self->st.s.iff.flags;

	ASSERT_EQ(0, ioctl(self->fd, TUNSETOWNER, 4711));
	ASSERT_EQ(0, net_admin(false));
	GET(TUN_STATE_IFF);
	*flags ^= IFF_PERSIST;
	SET(TUN_STATE_IFF);
	GET(TUN_STATE_IFF);
	EXPECT_EQ(variant->flags | IFF_PERSIST, *flags);
	*flags ^= IFF_PERSIST;
	SET(TUN_STATE_IFF);
	FLIP_FAILS(EINVAL, TUN_STATE_IFF, *flags, IFF_VNET_HDR);
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

/* Without an owner, some kernels let anybody attach */
TEST_F(dev, owner_removed)
{
	struct tun_state_owner *owner = &self->st.s.owner;

	ASSERT_EQ(0, net_admin(false));
	GET(TUN_STATE_OWNER);
	SET(TUN_STATE_OWNER);
	owner->uid = 5;
	SET(TUN_STATE_OWNER);
	owner->gid = 6;
	SET(TUN_STATE_OWNER);
	owner->uid = -1;
	SET_FAILS(EPERM, TUN_STATE_OWNER);
	owner->gid = -1;
	SET_FAILS(EPERM, TUN_STATE_OWNER);
	owner->uid = 5;
	SET_FAILS(EPERM, TUN_STATE_OWNER);
	GET(TUN_STATE_OWNER);
	EXPECT_EQ(5, owner->uid);
	EXPECT_EQ(6, owner->gid);

	ASSERT_EQ(0, net_admin(true));
	owner->uid = -1;
	owner->gid = -1;
	SET(TUN_STATE_OWNER);
	GET(TUN_STATE_OWNER);
	EXPECT_EQ((uint32_t)-1, owner->uid);
	EXPECT_EQ((uint32_t)-1, owner->gid);
}

#define UID_UNMAPPED TUN_STATE_OWNER_UID_UNMAPPED
#define GID_UNMAPPED TUN_STATE_OWNER_GID_UNMAPPED

static bool owner_is(int fd, uint32_t uid, uint32_t gid, uint32_t flags)
{
	struct state st;

	return !state_get(fd, TUN_STATE_OWNER, &st) &&
	       st.s.owner.uid == uid && st.s.owner.gid == gid &&
	       st.s.owner.flags == flags;
}

static int owner_set(int fd, uint32_t uid, uint32_t gid, uint32_t flags)
{
	struct state st = {};
	int err;

	st.s.owner = (struct tun_state_owner){ uid, gid, flags };
	err = state_set(fd, TUN_STATE_OWNER, &st);
	return err && st.s.failed != TUN_STATE_OWNER ? -1 : err;
}

/* A user namespace that maps root only */
static int owner_in_userns(int fd)
{
	const uint32_t unmapped = UID_UNMAPPED | GID_UNMAPPED;

	if (unshare(CLONE_NEWUSER))
		return 10;
	write_file("/proc/self/setgroups", "deny");
	write_file("/proc/self/uid_map", "0 0 1");
	write_file("/proc/self/gid_map", "0 0 1");

	if (!owner_is(fd, 65534, 65534, unmapped))
		return 11;
	/* Leave both alone, or try to set them */
	if (owner_set(fd, 65534, 65534, unmapped))
		return 12;
	if (owner_set(fd, 65534, 65534, 0) != EINVAL ||
	    owner_set(fd, 65534, 65534, UID_UNMAPPED) != EINVAL ||
	    owner_set(fd, 65534, 65534, GID_UNMAPPED) != EINVAL ||
	    owner_set(fd, 4242, 65534, GID_UNMAPPED) != EINVAL ||
	    owner_set(fd, 65534, 4242, UID_UNMAPPED) != EINVAL ||
	    owner_set(fd, 4242, 65534, unmapped) != EINVAL ||
	    owner_set(fd, 65534, 4242, unmapped) != EINVAL)
		return 13;
	if (owner_set(fd, -1, 65534, GID_UNMAPPED) != EPERM ||
	    owner_set(fd, 65534, -1, UID_UNMAPPED) != EPERM)
		return 14;
	if (!owner_is(fd, 65534, 65534, unmapped))
		return 15;
	/* Set a known gid, and leave the unknown uid alone */
	if (owner_set(fd, 65534, 0, UID_UNMAPPED) ||
	    !owner_is(fd, 65534, 0, UID_UNMAPPED))
		return 16;
	/* The gid is known now */
	if (owner_set(fd, 65534, 65534, unmapped) != EINVAL)
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
	EXPECT_EQ(0, self->st.s.owner.flags);
}

/* A device without an owner has none that is unmapped */
TEST_F(dev, owner_unmapped_on_fresh_device)
{
	EXPECT_EQ(EINVAL, owner_set(self->fd, 65534, -1, UID_UNMAPPED));
	EXPECT_EQ(EINVAL, owner_set(self->fd, -1, 65534, GID_UNMAPPED));
	EXPECT_EQ(EINVAL, owner_set(self->fd, 5, 6, 4));
	ASSERT_EQ(0, owner_set(self->fd, 5, 6, 0));
	EXPECT_EQ(EINVAL, owner_set(self->fd, 5, 65534, GID_UNMAPPED));
	EXPECT_EQ(EINVAL, owner_set(self->fd, 65534, 6, UID_UNMAPPED));
	EXPECT_TRUE(owner_is(self->fd, 5, 6, 0));

	/* The overflow ids are users like others where they are known */
	ASSERT_EQ(0, owner_set(self->fd, 65534, 65534, 0));
	EXPECT_TRUE(owner_is(self->fd, 65534, 65534, 0));
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
	GET(TUN_STATE_IFF);
	EXPECT_EQ(variant->flags, self->st.s.iff.flags);
}

TEST_F(dev, sndbuf)
{
	struct tun_state_sndbuf *sndbuf = &self->st.s.sndbuf;
	int value = 50000;

	GET(TUN_STATE_SNDBUF);
	EXPECT_EQ(INT_MAX, sndbuf->size);
	ASSERT_EQ(0, ioctl(self->fd, TUNSETSNDBUF, &value));
	GET(TUN_STATE_SNDBUF);
	EXPECT_EQ(50000, sndbuf->size);

	sndbuf->size = 60000;
	SET(TUN_STATE_SNDBUF);
	ASSERT_EQ(0, ioctl(self->fd, TUNGETSNDBUF, &value));
	EXPECT_EQ(60000, value);
	GET(TUN_STATE_SNDBUF);
	EXPECT_EQ(60000, sndbuf->size);
}

/* TUNSETSNDBUF is about all queues of the device, TUNSETSTATE about one */
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
	EXPECT_EQ(50000, sndbuf->size);
	sndbuf->size = 60000;
	SET(TUN_STATE_SNDBUF);
	ASSERT_EQ(0, ioctl(fd, TUNGETSNDBUF, &value));
	EXPECT_EQ(50000, value);
	ASSERT_EQ(0, ioctl(self->fd, TUNGETSNDBUF, &value));
	EXPECT_EQ(60000, value);

	/* The next queue has a send buffer of its own, too */
	close(fd);
	fd = tun_queue(self->name, variant->flags);
	ASSERT_GE(fd, 0);
	ASSERT_EQ(0, state_get(fd, TUN_STATE_SNDBUF, &self->st));
	EXPECT_EQ(INT_MAX, sndbuf->size);
	close(fd);
}

/* A larger send buffer wakes those who wait to write. Epoll looks at a file
 * again only after it was woken.
 */
TEST_F(dev, sndbuf_wakes)
{
	struct epoll_event event = { .events = EPOLLOUT };
	int value = 1, fd;

	ASSERT_EQ(0, netdev_up(self->name));
	ASSERT_EQ(0, ioctl(self->fd, TUNSETSNDBUF, &value));
	fd = epoll_create1(0);
	ASSERT_GE(fd, 0);
	ASSERT_EQ(0, epoll_ctl(fd, EPOLL_CTL_ADD, self->fd, &event));
	EXPECT_EQ(0, epoll_wait(fd, &event, 1, 0));

	/* Still too small */
	GET(TUN_STATE_SNDBUF);
	self->st.s.sndbuf.size = 2;
	SET(TUN_STATE_SNDBUF);
	EXPECT_EQ(0, epoll_wait(fd, &event, 1, 0));

	self->st.s.sndbuf.size = 100000;
	SET(TUN_STATE_SNDBUF);
	ASSERT_EQ(1, epoll_wait(fd, &event, 1, 0));
	EXPECT_EQ(EPOLLOUT, event.events);
	close(fd);
}

TEST_F(dev, link)
{
	struct ethtool_value level = { .cmd = ETHTOOL_GMSGLVL };
	struct tun_state_link *link = &self->st.s.link;
	unsigned int carrier = 0;
	struct link_info li;

	GET(TUN_STATE_LINK);
	EXPECT_EQ(1, link->carrier);
	EXPECT_EQ(0, link->msg_enable);

	ASSERT_EQ(0, ioctl(self->fd, TUNSETCARRIER, &carrier));
	ASSERT_EQ(0, ioctl(self->fd, TUNSETDEBUG, 0x4000));
	GET(TUN_STATE_LINK);
	EXPECT_EQ(0, link->carrier);
	EXPECT_EQ(0x4000, link->msg_enable);

	link->carrier = 1;
	link->msg_enable = 0x2000;
	SET(TUN_STATE_LINK);
	ASSERT_EQ(0, netdev_up(self->name));
	ASSERT_EQ(0, netdev_info(self->name, &li));
	EXPECT_TRUE(li.carrier);
	ASSERT_EQ(0, netdev_ethtool(self->name, &level));
	EXPECT_EQ(0x2000, level.data);

	link->carrier = 0;
	SET(TUN_STATE_LINK);
	ASSERT_EQ(0, netdev_info(self->name, &li));
	EXPECT_FALSE(li.carrier);
}

/* TUNSETCARRIER and TUNSETDEBUG are for any holder of the file */
TEST_F(dev, link_without_capability)
{
	struct tun_state_link *link = &self->st.s.link;

	ASSERT_EQ(0, ioctl(self->fd, TUNSETOWNER, 4711));
	GET(TUN_STATE_LINK);
	ASSERT_EQ(0, net_admin(false));
	link->carrier = 0;
	link->msg_enable = 0x2000;
	SET(TUN_STATE_LINK);
	link->carrier = 1;
	SET(TUN_STATE_LINK);
	GET(TUN_STATE_LINK);
	EXPECT_EQ(1, link->carrier);
	EXPECT_EQ(0x2000, link->msg_enable);
}

TEST_F(dev, coalesce)
{
	struct ethtool_coalesce coal = { .cmd = ETHTOOL_SCOALESCE };

	GET(TUN_STATE_COALESCE);
	EXPECT_EQ(0, self->st.s.coalesce.rx_frames);
	coal.rx_max_coalesced_frames = 64;
	ASSERT_EQ(0, netdev_ethtool(self->name, &coal));
	GET(TUN_STATE_COALESCE);
	EXPECT_EQ(64, self->st.s.coalesce.rx_frames);

	/* Not restored, even with all rights */
	self->st.s.coalesce.rx_frames = 32;
	SET(TUN_STATE_COALESCE);
	EXPECT_EQ(0, self->st.s.mask);
	coal.cmd = ETHTOOL_GCOALESCE;
	ASSERT_EQ(0, netdev_ethtool(self->name, &coal));
	EXPECT_EQ(64, coal.rx_max_coalesced_frames);
}

#define EXPECT_XDP(drv, skb)						\
	do {								\
		GET(TUN_STATE_XDP);					\
		EXPECT_EQ(TUN_STATE_XDP, self->st.s.mask);		\
		EXPECT_EQ(drv, self->st.s.xdp.drv_prog_id);		\
		EXPECT_EQ(skb, self->st.s.xdp.skb_prog_id);		\
	} while (0)

TEST_F(dev, xdp)
{
	struct link_info li;
	int prog;

	EXPECT_XDP(0, 0);
	prog = prog_load(BPF_PROG_TYPE_XDP, XDP_PASS);
	ASSERT_GE(prog, 0);
	ASSERT_EQ(0, netdev_xdp_mode(self->name, prog, XDP_FLAGS_SKB_MODE));
	ASSERT_EQ(0, netdev_info(self->name, &li));
	ASSERT_EQ(XDP_ATTACHED_SKB, li.xdp_mode);
	ASSERT_NE(0, li.xdp_id);
	EXPECT_XDP(0, li.xdp_id);

	/* Not restored, even with all rights */
	self->st.s.xdp.skb_prog_id = 0;
	SET(TUN_STATE_XDP);
	EXPECT_EQ(0, self->st.s.mask);
	EXPECT_XDP(0, li.xdp_id);
	ASSERT_EQ(0, netdev_xdp_mode(self->name, -1, XDP_FLAGS_SKB_MODE));
	EXPECT_XDP(0, 0);

	/* Only a TAP can run one in driver mode */
	if (variant->flags & IFF_TAP) {
		ASSERT_EQ(0, netdev_xdp_mode(self->name, prog,
					     XDP_FLAGS_DRV_MODE));
		ASSERT_EQ(0, netdev_info(self->name, &li));
		ASSERT_EQ(XDP_ATTACHED_DRV, li.xdp_mode);
		EXPECT_XDP(li.xdp_id, 0);
		ASSERT_EQ(0, netdev_xdp_mode(self->name, -1,
					     XDP_FLAGS_DRV_MODE));
		EXPECT_XDP(0, 0);
	}
	close(prog);
}

TEST_HARNESS_MAIN
