// SPDX-License-Identifier: GPL-2.0
/*
 * Rights that TUNGETSTATE and TUNSETSTATE need: those of the ioctls that set
 * the same values, neither more nor fewer. The callers are a process with
 * nothing but the file, processes in a user namespace of their own, and root.
 *
 * A table lists each change that TUNSETSTATE can express. TUNSETSTATE makes it
 * on one device, and the older ioctl on another.
 */
#include <grp.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "../kselftest_harness.h"
#include "tun_state_util.h"

#define NOBODY 4711

/* Drop all rights except for open files */
static int drop_everything(void)
{
	struct __user_cap_header_struct hdr = {
		.version = _LINUX_CAPABILITY_VERSION_3,
	};
	struct __user_cap_data_struct none[2] = {};
	struct stat st;

	if (setgroups(0, NULL) || setresgid(NOBODY, NOBODY, NOBODY) ||
	    setresuid(NOBODY, NOBODY, NOBODY) ||
	    syscall(__NR_capset, &hdr, none))
		return -1;
	/* Check that the rights are gone */
	return stat("/proc/1/ns/net", &st) ? 0 : -1;
}

/* Enter a user namespace that knows one user and group only */
static int enter_userns(int more)
{
	unsigned int uid = getuid(), gid = getgid();
	char map[64];

	if (prctl(PR_SET_DUMPABLE, 1) || unshare(CLONE_NEWUSER | more))
		return -1;
	write_file("/proc/self/setgroups", "deny");
	snprintf(map, sizeof(map), "0 %u 1", uid);
	write_file("/proc/self/uid_map", map);
	snprintf(map, sizeof(map), "0 %u 1", gid);
	write_file("/proc/self/gid_map", map);
	return getuid() || getgid() ? -1 : 0;
}

static int become_nobody(void)
{
	return setgroups(0, NULL) || setresgid(NOBODY, NOBODY, NOBODY) ||
	       setresuid(NOBODY, NOBODY, NOBODY) ? -1 : 0;
}

/* Run a function in a child; return its result, 0 for success */
#define IN_CHILD(call)							\
	do {								\
		int _status;						\
		pid_t _pid = fork();					\
									\
		ASSERT_GE(_pid, 0);					\
		if (!_pid)						\
			_exit(call);					\
		ASSERT_EQ(_pid, waitpid(_pid, &_status, 0));		\
		ASSERT_TRUE(WIFEXITED(_status));			\
		EXPECT_EQ(0, WEXITSTATUS(_status));			\
	} while (0)

/* Each change that TUNSETSTATE can express, beside its older ioctl */

#define FLAGS (IFF_TAP | IFF_MULTI_QUEUE)

/* Two devices of one shape, for TUNSETSTATE and for older ioctls */
struct devices {
	char name[2][IFNAMSIZ];
	int fd[2];
	int other[2];		/* a second queue of each */
	int prog;
};

enum verdict {
	ALIKE,		/* allowed where the ioctl is, with its effect */
	REFUSED,	/* for anybody */
	IGNORED,	/* for anybody */
	NEW,		/* allowed, and no ioctl can do it */
	CAPABLE,	/* NEW with CAP_NET_ADMIN, otherwise EPERM */
};

struct right {
	const char *what;
	struct state_change change;
	void (*edit)(struct devices *d, struct state *st);
	enum verdict verdict;
	int err;		/* when it has to be refused */
	/* The older ioctl, with a value or a pointer to one, or more */
	unsigned long request;
	long value;
	bool by_value;
	int (*ioctl)(struct devices *d);
};

/* The owner to set is known, even if the current one is not */
static void edit_uid(struct devices *d, struct state *st)
{
	st->s.owner.flags &= ~TUN_STATE_OWNER_UID_UNMAPPED;
}

static void edit_gid(struct devices *d, struct state *st)
{
	st->s.owner.flags &= ~TUN_STATE_OWNER_GID_UNMAPPED;
}

static void edit_offload(struct devices *d, struct state *st)
{
	st->s.offload.enabled = TUN_F_CSUM | TUN_F_TSO4;
	st->s.offload.wanted = TUN_F_CSUM | TUN_F_TSO4;
}

static void edit_no_offload(struct devices *d, struct state *st)
{
	st->s.offload.enabled = 0;
	st->s.offload.wanted = 0;
}

static void edit_txfilter(struct devices *d, struct state *st)
{
	memset(&st->s.txfilter, 0, sizeof(st->s.txfilter));
	st->s.txfilter.count = 1;
	memset(st->s.txfilter.addr[0], 0x50, 6);
}

static int ioctl_txfilter(struct devices *d)
{
	union {
		struct tun_filter head;
		unsigned char bytes[sizeof(struct tun_filter) + 6];
	} f = {
		.head.count = 1,
	};

	memset(f.bytes + sizeof(f.head), 0x50, 6);
	return ioctl(d->fd[1], TUNSETTXFILTER, &f);
}

static void edit_no_txfilter(struct devices *d, struct state *st)
{
	memset(&st->s.txfilter, 0, sizeof(st->s.txfilter));
}

static int ioctl_no_txfilter(struct devices *d)
{
	struct tun_filter f = {};

	return ioctl(d->fd[1], TUNSETTXFILTER, &f);
}

static const struct sock_filter accept_all = { BPF_RET | BPF_K, 0, 0, 0xffff };
static const struct sock_filter invalid = { 0xffff, 0, 0, 0 };

static void edit_sockfilter(struct devices *d, struct state *st)
{
	st->s.sockfilter.count = 1;
	st->insns[0] = accept_all;
}

static int ioctl_sockfilter(struct devices *d)
{
	return tun_attach_filter(d->fd[1], &accept_all, 1);
}

static void edit_invalid_sockfilter(struct devices *d, struct state *st)
{
	st->s.sockfilter.count = 1;
	st->insns[0] = invalid;
}

static int ioctl_invalid_sockfilter(struct devices *d)
{
	return tun_attach_filter(d->fd[1], &invalid, 1);
}

static void edit_no_sockfilter(struct devices *d, struct state *st)
{
	st->s.sockfilter.count = 0;
}

static int ioctl_no_sockfilter(struct devices *d)
{
	return tun_detach_filter(d->fd[1]);
}

/* For a queue with a filter, taking the device's filter away does more */
static void edit_queue_without_filter(struct devices *d, struct state *st)
{
	st->s.queue.flags &= ~TUN_STATE_QUEUE_SOCKFILTER;
}

static void edit_queue_with_filter(struct devices *d, struct state *st)
{
	st->s.queue.flags |= TUN_STATE_QUEUE_SOCKFILTER;
}

static void edit_steering_fd(struct devices *d, struct state *st)
{
	st->s.steering.action = TUN_STATE_PROG_FD;
	st->s.steering.fd = d->prog;
}

static int ioctl_steering_fd(struct devices *d)
{
	return ioctl(d->fd[1], TUNSETSTEERINGEBPF, &d->prog);
}

static void edit_filter_fd(struct devices *d, struct state *st)
{
	st->s.filter.action = TUN_STATE_PROG_FD;
	st->s.filter.fd = d->prog;
}

static int ioctl_filter_fd(struct devices *d)
{
	return ioctl(d->fd[1], TUNSETFILTEREBPF, &d->prog);
}

static void edit_no_steering(struct devices *d, struct state *st)
{
	memset(&st->s.steering, 0, sizeof(st->s.steering));
}

static void edit_no_filter(struct devices *d, struct state *st)
{
	memset(&st->s.filter, 0, sizeof(st->s.filter));
}

/* Programs that were attached, without and with a hold on them */
static void edit_gone(struct devices *d, struct state *st, uint32_t flags)
{
	int none = -1;

	if (ioctl(d->fd[0], TUNSETSTEERINGEBPF, &d->prog) ||
	    ioctl(d->fd[0], TUNSETFILTEREBPF, &d->prog) ||
	    state_get_flags(d->fd[0], ALL_GROUPS, st, flags) ||
	    ioctl(d->fd[0], TUNSETSTEERINGEBPF, &none) ||
	    ioctl(d->fd[0], TUNSETFILTEREBPF, &none))
		memset(st, 0xff, sizeof(*st));
}

static void edit_not_held(struct devices *d, struct state *st)
{
	edit_gone(d, st, 0);
}

static void edit_held(struct devices *d, struct state *st)
{
	edit_gone(d, st, TUN_STATE_F_HOLD);
}

static int ioctl_detach(struct devices *d)
{
	return tun_set_queue(d->fd[1], IFF_DETACH_QUEUE);
}

/* TUNSETQUEUE makes it the last one of both */
static void edit_attach(struct devices *d, struct state *st)
{
	st->s.queue.flags |= TUN_STATE_QUEUE_ATTACHED;
	st->s.queue.index = 1;
}

static int ioctl_attach(struct devices *d)
{
	return tun_set_queue(d->fd[1], IFF_ATTACH_QUEUE);
}

/* Carrier on, after both devices have lost it and all queues */
static void edit_carrier_without_queue(struct devices *d, struct state *st)
{
	unsigned int off = 0;
	int i;

	for (i = 0; i < 2; i++)
		if (ioctl(d->fd[i], TUNSETCARRIER, &off) ||
		    tun_set_queue(d->fd[i], IFF_DETACH_QUEUE) ||
		    tun_set_queue(d->other[i], IFF_DETACH_QUEUE))
			memset(st, 0xff, sizeof(*st));
	st->s.link.carrier = 1;
}

/* TUNSETIFF is not for a file that has a device already */
static int ioctl_setiff(struct devices *d)
{
	struct ifreq ifr = { .ifr_flags = FLAGS | IFF_VNET_HDR };

	memcpy(ifr.ifr_name, d->name[1], IFNAMSIZ);
	return ioctl(d->fd[1], TUNSETIFF, &ifr);
}

#define SET_TO(_group, member, _value)					\
	.change = { STATE_FIELD(_group, member), .value = (_value) }
#define FLIP(_group, member, _value)					\
	.change = { STATE_FIELD(_group, member), .value = (_value),	\
		    .xor = true }
#define EDIT(_group, function)						\
	.change = { .what = #function, .group = TUN_STATE_##_group },	\
	.edit = function
#define POINTER(_request, _value)					\
	.request = (_request), .value = (_value)
#define VALUE(_request, _value)						\
	.request = (_request), .value = (_value), .by_value = true

#define SET_OWNER(id, _value)						\
	SET_TO(OWNER, tmpl.owner.id, _value), .edit = edit_##id

/* An owner that a user namespace may not know */
#define STRANGER 4242

static const struct right rights[] = {
	{ SET_TO(IDENTITY, tmpl.identity.ifindex, 1), .verdict = REFUSED,
	  .err = EXDEV },
	{ SET_TO(NETDEV, tmpl.netdev.mtu, 1000), .verdict = IGNORED },
	{ SET_TO(NETDEV, tmpl.netdev.up, 1), .verdict = IGNORED },

	{ FLIP(IFF, tmpl.iff.flags, IFF_PERSIST), VALUE(TUNSETPERSIST, 1) },
	{ FLIP(IFF, tmpl.iff.flags, IFF_PERSIST), VALUE(TUNSETPERSIST, 0) },
	{ FLIP(IFF, tmpl.iff.flags, IFF_VNET_HDR), .ioctl = ioctl_setiff },
	{ FLIP(IFF, tmpl.iff.flags, IFF_NO_PI), .verdict = REFUSED,
	  .err = EINVAL },
	{ FLIP(IFF, tmpl.iff.flags, IFF_NAPI | IFF_NAPI_FRAGS),
	  .verdict = REFUSED, .err = EINVAL },

	{ SET_OWNER(uid, 0), VALUE(TUNSETOWNER, 0) },
	{ SET_OWNER(uid, STRANGER), VALUE(TUNSETOWNER, STRANGER) },
	{ SET_OWNER(uid, NOBODY), VALUE(TUNSETOWNER, NOBODY) },
	{ SET_OWNER(gid, 0), VALUE(TUNSETGROUP, 0) },
	{ SET_OWNER(gid, STRANGER), VALUE(TUNSETGROUP, STRANGER) },
	{ SET_OWNER(gid, NOBODY), VALUE(TUNSETGROUP, NOBODY) },
	{ SET_OWNER(uid, -1), VALUE(TUNSETOWNER, -1), .verdict = CAPABLE },
	{ SET_OWNER(gid, -1), VALUE(TUNSETGROUP, -1), .verdict = CAPABLE },

	{ SET_TO(VNET, tmpl.vnet.hdr_size, 12), POINTER(TUNSETVNETHDRSZ, 12) },
	{ SET_TO(VNET, tmpl.vnet.hdr_size, 9), POINTER(TUNSETVNETHDRSZ, 9) },
	{ FLIP(VNET, tmpl.vnet.flags, TUN_STATE_VNET_LE),
	  POINTER(TUNSETVNETLE, 1) },
	{ FLIP(VNET, tmpl.vnet.flags, TUN_STATE_VNET_LE),
	  POINTER(TUNSETVNETLE, 0) },
	{ FLIP(VNET, tmpl.vnet.flags, TUN_STATE_VNET_BE),
	  POINTER(TUNSETVNETBE, 1) },

	{ EDIT(OFFLOAD, edit_offload),
	  VALUE(TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4) },
	{ SET_TO(OFFLOAD, tmpl.offload.enabled, TUN_F_TSO4),
	  VALUE(TUNSETOFFLOAD, TUN_F_TSO4) },
	{ SET_TO(OFFLOAD, tmpl.offload.wanted, TUN_F_CSUM), .verdict = NEW },
	{ EDIT(OFFLOAD, edit_no_offload), VALUE(TUNSETOFFLOAD, 0) },

	{ SET_TO(SNDBUF, tmpl.sndbuf.size, 54321),
	  POINTER(TUNSETSNDBUF, 54321) },
	{ SET_TO(SNDBUF, tmpl.sndbuf.size, 0), POINTER(TUNSETSNDBUF, 0) },

	{ SET_TO(LINK, tmpl.link.carrier, 0), POINTER(TUNSETCARRIER, 0) },
	{ SET_TO(LINK, tmpl.link.carrier, 1), POINTER(TUNSETCARRIER, 1) },
	{ SET_TO(LINK, tmpl.link.msg_enable, 0x2000),
	  VALUE(TUNSETDEBUG, 0x2000) },
	{ SET_TO(COALESCE, tmpl.coalesce.rx_frames, 8), .verdict = IGNORED },

	{ EDIT(TXFILTER, edit_txfilter), .ioctl = ioctl_txfilter },
	{ SET_TO(TXFILTER, tmpl.txfilter.hash, 4), .verdict = NEW },
	{ EDIT(TXFILTER, edit_no_txfilter), .ioctl = ioctl_no_txfilter },

	{ EDIT(SOCKFILTER, edit_sockfilter), .ioctl = ioctl_sockfilter },
	{ EDIT(SOCKFILTER, edit_invalid_sockfilter),
	  .ioctl = ioctl_invalid_sockfilter },
	{ EDIT(QUEUE, edit_queue_without_filter),
	  .ioctl = ioctl_no_sockfilter },
	{ EDIT(QUEUE, edit_queue_with_filter), .ioctl = ioctl_sockfilter },
	{ EDIT(SOCKFILTER, edit_no_sockfilter), .ioctl = ioctl_no_sockfilter },

	{ EDIT(STEERING, edit_not_held), .verdict = REFUSED, .err = EBADF },
	{ EDIT(FILTER, edit_not_held), .verdict = REFUSED, .err = EBADF },
	{ EDIT(STEERING, edit_steering_fd), .ioctl = ioctl_steering_fd },
	{ EDIT(STEERING, edit_no_steering), POINTER(TUNSETSTEERINGEBPF, -1) },
	{ EDIT(FILTER, edit_filter_fd), .ioctl = ioctl_filter_fd },
	{ EDIT(FILTER, edit_no_filter), POINTER(TUNSETFILTEREBPF, -1) },
	{ EDIT(STEERING, edit_held), .verdict = NEW },
	{ EDIT(FILTER, edit_held), .verdict = NEW },

	{ SET_TO(XDP, tmpl.xdp.drv_prog_id, 1), .verdict = IGNORED },
	{ SET_TO(XDP, tmpl.xdp.skb_prog_id, 1), .verdict = IGNORED },
	{ SET_TO(FLOWS, tmpl.flows.count, 1), .verdict = IGNORED },
	{ SET_TO(QUEUES, tmpl.queues.count, 1), .verdict = IGNORED },

	{ SET_TO(QUEUE, tmpl.queue.index, 1), .verdict = NEW },
	{ SET_TO(QUEUE, tmpl.queue.index, 0), .verdict = NEW },
	{ SET_TO(QUEUE, tmpl.queue.index, 2), .verdict = REFUSED,
	  .err = EINVAL },
	{ FLIP(QUEUE, tmpl.queue.flags, TUN_STATE_QUEUE_NAPI),
	  .verdict = REFUSED, .err = EINVAL },
	{ FLIP(QUEUE, tmpl.queue.flags, TUN_STATE_QUEUE_ATTACHED),
	  .ioctl = ioctl_detach },
	{ EDIT(QUEUE, edit_attach), .ioctl = ioctl_attach },
	{ EDIT(LINK, edit_carrier_without_queue), POINTER(TUNSETCARRIER, 1),
	  .err = EPERM },
};

static int devices_make(struct devices *d)
{
	int i;

	memset(d, 0, sizeof(*d));
	d->prog = -1;
	for (i = 0; i < 2; i++) {
		snprintf(d->name[i], IFNAMSIZ, "two%d", i);
		d->fd[i] = tun_queue(d->name[i], FLAGS);
		d->other[i] = tun_queue(d->name[i], FLAGS);
		if (d->fd[i] < 0 || d->other[i] < 0)
			return -1;
	}
	return 0;
}

static int right_ioctl(struct devices *d, const struct right *r)
{
	int value = r->value;

	if (r->ioctl)
		return r->ioctl(d);
	return r->by_value ? ioctl(d->fd[1], r->request, r->value) :
			     ioctl(d->fd[1], r->request, &value);
}

/* Return NULL or an error message */
static const char *right_try(struct devices *d, const struct right *r,
			     bool capable)
{
	uint64_t group = r->change.group;
	struct state before, st, after, other;
	int err, old = -1;

	if (state_get(d->fd[0], ALL_GROUPS, &st))
		return "cannot read the state";
	if (r->edit)
		r->edit(d, &st);
	state_change(&st, &r->change);
	if (state_snapshot(d->fd[0], &before))
		return "cannot read the state after the edit";
	state_point(&st);
	err = state_set(d->fd[0], group, &st);
	if (state_snapshot(d->fd[0], &after))
		return "cannot read the state again";

	if (r->request || r->ioctl)
		old = right_ioctl(d, r) < 0 ? errno : 0;
	if (state_get(d->fd[1], ALL_GROUPS, &other))
		return "cannot read the other state";

	if (err && !state_equal(&before, &after))
		return "refused, with effect";
	switch (r->verdict) {
	case ALIKE:
		if (r->err && err != r->err)
			return "not refused as it should be";
		if (!err != !old)
			return err ? "refused, unlike the ioctl" :
				     "allowed, unlike the ioctl";
		if (!err && state_differs(&after, &other) & group)
			return "not the effect of the ioctl";
		if (!err && !(state_differs(&before, &after) & group))
			return "allowed, without effect";
		return NULL;
	case REFUSED:
		if (!old)
			return "the ioctl is allowed";
		return err == r->err ? NULL : "not refused as it should be";
	case IGNORED:
		if (err || st.s.mask)
			return "not ignored";
		return state_equal(&before, &after) ? NULL : "not ignored";
	case CAPABLE:
		if (!old)
			return "the ioctl is allowed";
		if (!capable)
			return err == EPERM ? NULL : "not refused as it should be";
		break;
	case NEW:
		break;
	}
	if (err)
		return "refused";
	return state_differs(&before, &after) & group ? NULL : "without effect";
}

/* The driver restores the classic filter */
static bool sets_sockfilter;

static bool right_possible(const struct right *r)
{
	return sets_sockfilter || (r->change.group != TUN_STATE_SOCKFILTER &&
				   r->edit != edit_queue_with_filter &&
				   r->edit != edit_queue_without_filter);
}

static int rights_try(struct devices *d, bool capable)
{
	unsigned int i, wrong = 0;
	const char *why;

	for (i = 0; i < ARRAY_SIZE(rights); i++) {
		if (!right_possible(&rights[i]))
			continue;
		why = right_try(d, &rights[i], capable);
		if (!why)
			continue;
		fprintf(stderr, "# row %u, %s: %s\n", i, rights[i].change.what,
			why);
		wrong++;
	}
	return !!wrong;
}

/* It got the devices from root in the first user namespace, or made them inside
 * its own
 */
struct caller {
	bool nobody;		/* another user */
	bool userns;		/* another user namespace */
	bool inside;		/* the devices are in it */
	bool capable;		/* has CAP_NET_ADMIN over the devices */
};

FIXTURE(rights)
{
	struct devices d;
};

FIXTURE_VARIANT(rights)
{
	struct caller caller;
};

FIXTURE_VARIANT_ADD(rights, root)
{
	.caller.capable = true,
};

FIXTURE_VARIANT_ADD(rights, nobody)
{
	.caller.nobody = true,
};

FIXTURE_VARIANT_ADD(rights, root_in_userns)
{
	.caller.userns = true,
};

FIXTURE_VARIANT_ADD(rights, nobody_in_userns)
{
	.caller.nobody = true,
	.caller.userns = true,
};

FIXTURE_VARIANT_ADD(rights, inside)
{
	.caller.nobody = true,
	.caller.userns = true,
	.caller.inside = true,
	.caller.capable = true,
};

FIXTURE_SETUP(rights)
{
	const char *why = tun_state_enter();
	int i;

	if (why)
		SKIP(return, "%s", why);
	sets_sockfilter = !no_sockfilter();
	ASSERT_EQ(0, devices_make(&self->d));
	for (i = 0; i < 2; i++)
		ASSERT_EQ(0, ioctl(self->d.fd[i], TUNSETOWNER, 1));
	self->d.prog = prog_load(BPF_PROG_TYPE_SOCKET_FILTER, 64);
	ASSERT_GE(self->d.prog, 0);
}

FIXTURE_TEARDOWN(rights)
{
	int i;

	for (i = 0; i < 2; i++) {
		close(self->d.fd[i]);
		close(self->d.other[i]);
	}
	close(self->d.prog);
}

static int rights_of_caller(struct devices *d, const struct caller *caller)
{
	int prog = d->prog;

	if (caller->nobody && !caller->userns && drop_everything())
		return 10;
	if (caller->nobody && caller->userns && become_nobody())
		return 11;
	if (caller->userns && enter_userns(caller->inside ? CLONE_NEWNET : 0))
		return 12;
	if (caller->inside) {
		if (devices_make(d))
			return 13;
		d->prog = prog;
	}
	return rights_try(d, caller->capable);
}

TEST_F(rights, as_with_older_ioctls)
{
	IN_CHILD(rights_of_caller(&self->d, &variant->caller));
}

/* State that a caller reads, and owners in its eyes */

struct file {
	char name[IFNAMSIZ];
	int fd;
	int prog;
	struct state st;
};

FIXTURE(file)
{
	struct file f;
};

FIXTURE_SETUP(file)
{
	const char *why = tun_state_enter();

	if (why)
		SKIP(return, "%s", why);
	memcpy(self->f.name, "dev0", 5);
	self->f.fd = tun_queue(self->f.name, FLAGS);
	ASSERT_GE(self->f.fd, 0);
	self->f.prog = prog_load(BPF_PROG_TYPE_SOCKET_FILTER, 64);
	ASSERT_GE(self->f.prog, 0);
	ASSERT_EQ(0, state_get(self->f.fd, ALL_GROUPS, &self->f.st));
	self->f.st.insns[0] = accept_all;
}

FIXTURE_TEARDOWN(file)
{
	close(self->f.fd);
	close(self->f.prog);
}

/* All groups can be read, and set to the values they have, by anybody. Programs
 * can be held, too.
 */
static int restore_all(struct file *self)
{
	struct state st;
	int none = -1;

	if (drop_everything() || state_get(self->fd, ALL_GROUPS, &st) ||
	    st.s.mask != ALL_GROUPS)
		return 1;
	if (state_set(self->fd, ALL_GROUPS, &st) ||
	    st.s.mask != (ALL_GROUPS & ~GET_ONLY))
		return 2;
	if (state_hold(self->fd, ALL_GROUPS, &st) ||
	    ioctl(self->fd, TUNSETSTEERINGEBPF, &none))
		return 3;
	if (state_set(self->fd, ALL_GROUPS, &st) ||
	    state_compare(self->fd, ALL_GROUPS, &st))
		return 4;
	return 0;
}

TEST_F(file, read_and_restore)
{
	ASSERT_EQ(0, ioctl(self->f.fd, TUNSETOWNER, 1));
	ASSERT_EQ(0, ioctl(self->f.fd, TUNSETSTEERINGEBPF, &self->f.prog));
	ASSERT_EQ(0, tun_attach_filter(self->f.fd, self->f.st.insns, 1));
	IN_CHILD(restore_all(&self->f));
}

/* The device is in another network namespace than the process */
static int in_other_netns(struct file *self)
{
	struct stat here;
	struct state st;

	if (unshare(CLONE_NEWNET) || stat("/proc/self/ns/net", &here))
		return 1;
	if (state_get(self->fd, ALL_GROUPS, &st))
		return 2;
	if (st.s.identity.netns != self->st.s.identity.netns ||
	    st.s.identity.netns == here.st_ino)
		return 3;
	if (state_set(self->fd, ALL_GROUPS, &st))
		return 4;
	/* A capability must be for the namespace of the device */
	st.s.owner.uid = 0;
	if (state_set(self->fd, TUN_STATE_OWNER, &st))
		return 5;
	if (enter_userns(CLONE_NEWNET))
		return 6;
	st.s.owner.uid = -1;
	if (state_set(self->fd, TUN_STATE_OWNER, &st) != EPERM)
		return 7;
	return 0;
}

TEST_F(file, other_netns)
{
	IN_CHILD(in_other_netns(&self->f));
}

/* A device in a user namespace that an unprivileged user has made */
static int in_own_userns(struct file *self)
{
	char name[IFNAMSIZ] = "dev1";
	struct state st;
	int fd;

	if (become_nobody() || enter_userns(CLONE_NEWNET))
		return 1;
	fd = tun_queue(name, FLAGS);
	if (fd < 0)
		return 2;

	/* Root here is that user; no other user has an id here */
	if (ioctl(fd, TUNSETOWNER, 0) || ioctl(fd, TUNSETGROUP, 0) ||
	    state_get(fd, ALL_GROUPS, &st) ||
	    st.s.owner.uid || st.s.owner.gid || st.s.owner.flags)
		return 3;
	st.s.owner.uid = NOBODY;
	if (state_set(fd, TUN_STATE_OWNER, &st) != EINVAL)
		return 4;
	/* A capability for the device's namespace is enough */
	st.s.owner.uid = -1;
	if (state_set(fd, TUN_STATE_OWNER, &st))
		return 5;

	/* An owner outside has no id here */
	if (state_get(self->fd, TUN_STATE_OWNER, &st) ||
	    st.s.owner.uid != 65534 ||
	    st.s.owner.flags != TUN_STATE_OWNER_UID_UNMAPPED)
		return 6;
	/* Nor has the device here an owner that is unknown: the answer of the
	 * one is no state of the other
	 */
	if (state_set(fd, TUN_STATE_OWNER, &st) != EINVAL)
		return 7;
	return 0;
}

TEST_F(file, own_userns)
{
	ASSERT_EQ(0, ioctl(self->f.fd, TUNSETOWNER, 1));
	IN_CHILD(in_own_userns(&self->f));
}

/* An owner has different ids inside and outside of a user namespace */
static int owner_in_map(struct file *self)
{
	const char *map = "0 0 1\n1 100001 10\n";
	int ready[2], mapped[2];
	char path[64], c = 0;
	struct state st;
	int status;
	pid_t pid;

	/* Only a process outside may map more than one user */
	if (pipe(ready) || pipe(mapped))
		return 1;
	pid = fork();
	if (pid < 0)
		return 2;
	if (pid) {
		if (read(ready[0], &c, 1) != 1)
			return 3;
		snprintf(path, sizeof(path), "/proc/%d/uid_map", pid);
		write_file(path, map);
		snprintf(path, sizeof(path), "/proc/%d/gid_map", pid);
		write_file(path, map);
		if (write(mapped[1], &c, 1) != 1 ||
		    waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
			return 4;
		return WEXITSTATUS(status);
	}

	if (unshare(CLONE_NEWUSER) || write(ready[1], &c, 1) != 1 ||
	    read(mapped[0], &c, 1) != 1)
		_exit(5);
	if (state_get(self->fd, TUN_STATE_OWNER, &st) ||
	    st.s.owner.uid != 5 || st.s.owner.gid != 65534 ||
	    st.s.owner.flags != TUN_STATE_OWNER_GID_UNMAPPED)
		_exit(6);
	if (state_set(self->fd, TUN_STATE_OWNER, &st))
		_exit(7);
	st.s.owner.uid = 6;
	st.s.owner.gid = 7;
	st.s.owner.flags = 0;
	if (state_set(self->fd, TUN_STATE_OWNER, &st))
		_exit(8);
	_exit(0);
}

TEST_F(file, mapped_owner)
{
	ASSERT_EQ(0, ioctl(self->f.fd, TUNSETOWNER, 100005));
	ASSERT_EQ(0, ioctl(self->f.fd, TUNSETGROUP, 200005));
	IN_CHILD(owner_in_map(&self->f));
	ASSERT_EQ(0, state_get(self->f.fd, TUN_STATE_OWNER, &self->f.st));
	EXPECT_EQ(100006, self->f.st.s.owner.uid);
	EXPECT_EQ(100007, self->f.st.s.owner.gid);
}

TEST_HARNESS_MAIN
