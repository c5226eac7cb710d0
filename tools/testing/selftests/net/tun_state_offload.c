// SPDX-License-Identifier: GPL-2.0
/*
 * Offloads: TUNSETOFFLOAD enables those that the reader of a device accepts, and
 * ethtool leaves some of them wanted. TUNGETSTATE reports both sets, TUNSETSTATE
 * puts both back.
 */
#include "../kselftest_harness.h"
#include "tun_state_util.h"

#define CSUM TUN_F_CSUM
#define TSO4 TUN_F_TSO4
#define TSO6 TUN_F_TSO6
#define ECN TUN_F_TSO_ECN
#define USO (TUN_F_USO4 | TUN_F_USO6)

FIXTURE(dev)
{
	char name[IFNAMSIZ];
	int fd;
	struct state st;
	struct tun_state_offload *offload;
};

FIXTURE_VARIANT(dev)
{
	unsigned int flags;
};

FIXTURE_VARIANT_ADD(dev, tap)
{
	.flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR,
};

FIXTURE_VARIANT_ADD(dev, tun)
{
	.flags = IFF_TUN | IFF_MULTI_QUEUE,
};

FIXTURE_SETUP(dev)
{
	const char *why = tun_state_enter();

	if (why)
		SKIP(return, "%s", why);
	memcpy(self->name, "dev0", 5);
	self->fd = tun_queue(self->name, variant->flags);
	ASSERT_GE(self->fd, 0);
	self->offload = &self->st.s.offload;
}

FIXTURE_TEARDOWN(dev)
{
	close(self->fd);
}

#define GET() ASSERT_EQ(0, state_get(self->fd, TUN_STATE_OFFLOAD, &self->st))
#define SET() ASSERT_EQ(0, state_set(self->fd, TUN_STATE_OFFLOAD, &self->st))
#define SET_FAILS()							\
	STATE_SET_FAILS(EINVAL, self->fd, TUN_STATE_OFFLOAD, &self->st)

#define EXPECT_OFFLOAD(_enabled, _wanted)				\
	do {								\
		GET();							\
		EXPECT_EQ(_enabled, self->offload->enabled);		\
		EXPECT_EQ(_wanted, self->offload->wanted);		\
	} while (0)

/* Features of network devices by ethtool */

#define MAX_FEATURES 128
#define FEATURE_BLOCKS (MAX_FEATURES / 32)

struct features {
	struct ethtool_gfeatures head;
	struct ethtool_get_features_block block[FEATURE_BLOCKS];
};

/* The number of a feature, or -1 */
static int feature_number(const char *name, const char *feature)
{
	static struct {
		struct ethtool_gstrings head;
		char name[MAX_FEATURES][ETH_GSTRING_LEN];
	} strings = {
		.head = { ETHTOOL_GSTRINGS, ETH_SS_FEATURES },
	};
	unsigned int i;

	/* A length must be right, if the caller gives one */
	strings.head.len = 0;
	if (netdev_ethtool(name, &strings) || strings.head.len > MAX_FEATURES)
		return -1;
	for (i = 0; i < strings.head.len; i++)
		if (!strncmp(strings.name[i], feature, ETH_GSTRING_LEN))
			return i;
	return -1;
}

/* As "ethtool -K NAME FEATURE on|off" does */
static int feature_set(const char *name, const char *feature, bool on)
{
	struct {
		struct ethtool_sfeatures head;
		struct ethtool_set_features_block block[FEATURE_BLOCKS];
	} req = {
		.head = { ETHTOOL_SFEATURES, FEATURE_BLOCKS },
	};
	int bit = feature_number(name, feature);

	if (bit < 0)
		return -1;
	/* As many blocks as the kernel has */
	req.head.size = bit / 32 + 1;
	for (;; req.head.size++) {
		req.block[bit / 32].valid = 1U << bit % 32;
		req.block[bit / 32].requested = on ? 1U << bit % 32 : 0;
		if (netdev_ethtool(name, &req) >= 0)
			return 0;
		if (req.head.size == FEATURE_BLOCKS)
			return -1;
	}
}

static int features_get(const char *name, struct features *f)
{
	memset(f, 0, sizeof(*f));
	f->head.cmd = ETHTOOL_GFEATURES;
	f->head.size = FEATURE_BLOCKS;
	return netdev_ethtool(name, f);
}

static bool features_equal(const char *name, const struct features *want)
{
	struct features now;

	return !features_get(name, &now) && !memcmp(&now, want, sizeof(now));
}

/* The legacy "ethtool -K NAME tso on|off", for several features at once */
static int tso_set(const char *name, bool on)
{
	struct ethtool_value tso = { .cmd = ETHTOOL_STSO, .data = on };

	return netdev_ethtool(name, &tso);
}

static int tso_get(const char *name)
{
	struct ethtool_value tso = { .cmd = ETHTOOL_GTSO };

	return netdev_ethtool(name, &tso) ? -1 : (int)tso.data;
}

/* TUNSETSTATE takes the offloads that TUNSETOFFLOAD takes, and no others */
TEST_F(dev, enabled)
{
	char name[IFNAMSIZ] = "dev1";
	struct features features;
	uint32_t f, valid = 0;
	struct state other;
	int fd;

	fd = tun_queue(name, variant->flags);
	ASSERT_GE(fd, 0);
	for (f = 0; f < 1024; f++) {
		int err;

		/* Start from a value that differs from the next one */
		ASSERT_EQ(0, ioctl(fd, TUNSETOFFLOAD, f ? 0 : CSUM));
		ASSERT_EQ(0, ioctl(self->fd, TUNSETOFFLOAD, f ? 0 : CSUM));
		err = ioctl(fd, TUNSETOFFLOAD, f) ? errno : 0;
		ASSERT_EQ(0, state_get(fd, TUN_STATE_OFFLOAD, &other));
		ASSERT_EQ(0, features_get(name, &features));
		GET();
		if (!err)
			valid |= f;
		self->offload->enabled = f;
		self->offload->wanted = other.s.offload.wanted;
		self->offload->supported = f;
		ASSERT_EQ(err, state_set(self->fd, TUN_STATE_OFFLOAD,
					 &self->st)) {
			TH_LOG("offloads %#x", f);
		}
		GET();
		EXPECT_EQ(other.s.offload.enabled, self->offload->enabled);
		EXPECT_EQ(err ? !f : f & ~TUN_F_UFO, self->offload->enabled);
		EXPECT_EQ(other.s.offload.wanted, self->offload->wanted);
		EXPECT_TRUE(features_equal(self->name, &features));
	}
	EXPECT_EQ(valid, self->offload->supported);

	/* Accepted without effect, so never reported */
	self->offload->enabled = CSUM | TUN_F_UFO;
	self->offload->wanted = CSUM;
	SET();
	EXPECT_OFFLOAD(CSUM, CSUM);
	self->offload->enabled = 0x80000000;
	SET_FAILS();
	close(fd);
}

/* A device that was just made: the reader accepts nothing yet */
TEST_F(dev, fresh)
{
	struct features before;

	ASSERT_EQ(0, features_get(self->name, &before));
	GET();
	EXPECT_EQ(0, self->offload->enabled);
	EXPECT_EQ(self->offload->supported & ~TUN_F_UFO, self->offload->wanted);
	SET();
	EXPECT_TRUE(features_equal(self->name, &before));
}

/* TUNSETOFFLOAD sets both; ethtool changes one of them */
TEST_F(dev, wanted)
{
	struct features with, without;

	ASSERT_EQ(0, ioctl(self->fd, TUNSETOFFLOAD, CSUM | TSO4 | TSO6));
	EXPECT_OFFLOAD(CSUM | TSO4 | TSO6, CSUM | TSO4 | TSO6);
	ASSERT_EQ(0, features_get(self->name, &with));
	EXPECT_EQ(1, tso_get(self->name));

	ASSERT_EQ(0, tso_set(self->name, false));
	EXPECT_OFFLOAD(CSUM | TSO4 | TSO6, CSUM);
	ASSERT_EQ(0, features_get(self->name, &without));
	EXPECT_FALSE(features_equal(self->name, &with));

	/* Put back the one and the other */
	self->offload->wanted = CSUM | TSO4 | TSO6;
	SET();
	EXPECT_TRUE(features_equal(self->name, &with));
	EXPECT_EQ(1, tso_get(self->name));
	self->offload->wanted = CSUM;
	SET();
	EXPECT_TRUE(features_equal(self->name, &without));
	EXPECT_EQ(0, tso_get(self->name));
	EXPECT_OFFLOAD(CSUM | TSO4 | TSO6, CSUM);

	/* ethtool leaves more wanted than the reader accepts */
	ASSERT_EQ(0, tso_set(self->name, true));
	EXPECT_OFFLOAD(CSUM | TSO4 | TSO6, CSUM | TSO4 | TSO6 | ECN);
	EXPECT_EQ(1, tso_get(self->name));
}

/* A round trip leaves an administrator's choice alone, also on the way through
 * other values
 */
TEST_F(dev, round_trip)
{
	struct features features;
	struct state st;

	ASSERT_EQ(0, ioctl(self->fd, TUNSETOFFLOAD, CSUM | TSO4 | TSO6));
	ASSERT_EQ(0, tso_set(self->name, false));
	ASSERT_EQ(0, features_get(self->name, &features));
	GET();
	st = self->st;
	SET();
	EXPECT_TRUE(features_equal(self->name, &features));
	EXPECT_EQ(0, tso_get(self->name));

	ASSERT_EQ(0, ioctl(self->fd, TUNSETOFFLOAD, 0));
	EXPECT_FALSE(features_equal(self->name, &features));
	ASSERT_EQ(0, state_set(self->fd, TUN_STATE_OFFLOAD, &st));
	EXPECT_TRUE(features_equal(self->name, &features));
	EXPECT_OFFLOAD(CSUM | TSO4 | TSO6, CSUM);
}

/* Each single feature that ethtool can leave wanted */
TEST_F(dev, each_feature)
{
	static const struct {
		const char *feature;
		uint32_t bits;
	} features[] = {
		{ "tx-checksum-ip-generic", CSUM },
		{ "tx-tcp-segmentation", TSO4 },
		{ "tx-tcp6-segmentation", TSO6 },
		{ "tx-tcp-ecn-segmentation", ECN },
		{ "tx-udp-segmentation", USO },
		/* TUN_F_UDP_TUNNEL_GSO and TUN_F_UDP_TUNNEL_GSO_CSUM */
		{ "tx-udp_tnl-segmentation", 0x080 },
		{ "tx-udp_tnl-csum-segmentation", 0x100 },
	};
	struct features off, on;
	unsigned int i;
	uint32_t all;

	GET();
	all = self->offload->supported & ~TUN_F_UFO;
	ASSERT_EQ(CSUM | TSO4 | TSO6 | ECN, all & (CSUM | TSO4 | TSO6 | ECN));
	for (i = 0; i < ARRAY_SIZE(features); i++) {
		const char *feature = features[i].feature;
		uint32_t bits = features[i].bits;

		if (!(all & bits))
			continue;
		ASSERT_EQ(0, ioctl(self->fd, TUNSETOFFLOAD, all));
		ASSERT_EQ(0, features_get(self->name, &on));
		ASSERT_EQ(0, feature_set(self->name, feature, false)) {
			TH_LOG("%s", feature);
		}
		ASSERT_EQ(0, features_get(self->name, &off));
		ASSERT_FALSE(features_equal(self->name, &on));
		EXPECT_OFFLOAD(all, all & ~bits);

		self->offload->wanted = all;
		SET();
		EXPECT_TRUE(features_equal(self->name, &on));
		self->offload->wanted = all & ~bits;
		SET();
		EXPECT_TRUE(features_equal(self->name, &off));
		EXPECT_OFFLOAD(all, all & ~bits);
	}
}

/* Other features are not in this group, and stay as ethtool left them */
TEST_F(dev, other_features)
{
	struct features off;

	ASSERT_EQ(0, ioctl(self->fd, TUNSETOFFLOAD, CSUM | TSO4));
	GET();
	ASSERT_EQ(0, feature_set(self->name, "tx-generic-segmentation", false));
	ASSERT_EQ(0, feature_set(self->name, "rx-gro", false));
	ASSERT_EQ(0, features_get(self->name, &off));
	SET();
	EXPECT_TRUE(features_equal(self->name, &off));
	self->offload->wanted = CSUM;
	SET();
	self->offload->wanted = CSUM | TSO4;
	SET();
	EXPECT_TRUE(features_equal(self->name, &off));
}

/* Offloads that ethtool cannot have left wanted */
TEST_F(dev, wanted_invalid)
{
	uint32_t good = CSUM | TSO4, bit;
	struct features before;

	ASSERT_EQ(0, ioctl(self->fd, TUNSETOFFLOAD, good));
	ASSERT_EQ(0, features_get(self->name, &before));
	GET();
	for (bit = 1; bit; bit <<= 1) {
		/* TUN_F_UFO, and one USO alone, are supported otherwise */
		if (bit & self->offload->supported & ~(USO | TUN_F_UFO))
			continue;
		self->offload->wanted = good | bit;
		SET_FAILS();
		self->offload->wanted = bit;
		SET_FAILS();
	}
	if (!(self->offload->supported & USO)) {
		self->offload->wanted = good | USO;
		SET_FAILS();
	}
	/* A bad one beside a good change of the other */
	self->offload->enabled = CSUM;
	self->offload->wanted = TUN_F_UFO;
	SET_FAILS();
	self->offload->enabled = TUN_F_TSO4;
	self->offload->wanted = CSUM;
	SET_FAILS();
	EXPECT_TRUE(features_equal(self->name, &before));
	EXPECT_OFFLOAD(good, good);
}

/* The features as a whole, on another device */
TEST_F(dev, other_device)
{
	char name[IFNAMSIZ] = "dev1";
	struct features features;
	int fd;

	fd = tun_queue(name, variant->flags);
	ASSERT_GE(fd, 0);
	ASSERT_EQ(0, ioctl(self->fd, TUNSETOFFLOAD, CSUM | TSO4 | TSO6 | ECN));
	ASSERT_EQ(0, feature_set(self->name, "tx-tcp6-segmentation", false));
	ASSERT_EQ(0, feature_set(self->name, "tx-tcp-ecn-segmentation", false));
	ASSERT_EQ(0, features_get(self->name, &features));
	ASSERT_FALSE(features_equal(name, &features));
	GET();
	ASSERT_EQ(0, state_set(fd, TUN_STATE_OFFLOAD, &self->st));
	EXPECT_TRUE(features_equal(name, &features));
	close(fd);
}

TEST_HARNESS_MAIN
