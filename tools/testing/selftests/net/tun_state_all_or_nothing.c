// SPDX-License-Identifier: GPL-2.0
/*
 * TUNSETSTATE is all or nothing: one group fails in the middle of a valid
 * change to all others, and every queue reports the state from before. Each
 * group fails in each of its ways: value, rights, memory, program, place of the
 * queue. Groups that TUNSETSTATE ignores hold garbage meanwhile.
 *
 * tun_state_values goes through the values of each field, tun_state_faults
 * injects faults.
 */
#include <sys/wait.h>

#include "../kselftest_harness.h"
#include "tun_state_util.h"

#define ATTACHED TUN_STATE_QUEUE_ATTACHED
#define HAS_FILTER TUN_STATE_QUEUE_SOCKFILTER

/* The way in which a group fails */
enum how {
	FIELD,			/* bad value of the changed field */
	NO_ADMIN,		/* good value, but no CAP_NET_ADMIN */
	USER_NAMESPACE,		/* good value, but in a user namespace */
	NO_QUEUE,		/* carrier on, but all queues detached */
	TXFILTER,		/* a valid filter, on a TUN */
	ADDR_UNUSED,		/* an address behind the last one in use */
	HASH_WITHOUT_FILTER,
	INSNS_BAD_CODE,
	INSNS_NO_RETURN,
	INSNS_JUMP_OUT,
	INSNS_LARGE,		/* too large for net.core.optmem_max */
	INSNS_UNMAPPED,		/* the last instruction is not mapped */
	INSNS_NONE,		/* no program, but the queue has it */
	PROG_BAD_FD,
	PROG_FILE,		/* fd of another file than a program */
	PROG_TYPE,		/* fd of an XDP program */
	PROG_STRANGER,		/* id of a program never attached here */
	PROG_NOT_HELD,		/* reported, but without TUN_STATE_F_HOLD */
	PROG_OTHER_GROUP,	/* held, but for the other group */
	PROG_OTHER_FILE,	/* held, but by another file */
	PROG_WRONG_TAG,		/* with the id of the attached program */
	PROG_WRONG_TYPE,
	QUEUE_BEYOND,		/* a place beyond the last queue */
	QUEUE_FILTER_OF_NONE,	/* the queue has a filter, the device none */
	QUEUE_DETACH_SINGLE,
};

/* Conditions for a failure */
#define TAP_ONLY	0x1
#define TUN_ONLY	0x2
#define MULTI_ONLY	0x4
#define SINGLE_ONLY	0x8
#define NO_BIG_ENDIAN	0x10

struct failure {
	struct state_change change;	/* of a field, or of a whole group */
	enum how how;
	int err;
	unsigned int needs;
};

#define SET(_group, member, _value)					\
	{ { STATE_FIELD(_group, member), .value = (_value) },		\
	  .err = EINVAL }
#define FLIP(_err, _group, member, _value)				\
	{ { STATE_FIELD(_group, member), .value = (_value),		\
	    .xor = true }, .err = (_err) }
#define HOW(_err, _group, _how, _needs)					\
	{ { .what = #_how, .group = TUN_STATE_##_group },		\
	  .how = (_how), .err = (_err), .needs = (_needs) }
#define HOW_AT(_err, _group, _how, _needs, member, _value)		\
	{ { STATE_FIELD(_group, member), .value = (_value),		\
	    .xor = true },						\
	  .how = (_how), .err = (_err), .needs = (_needs) }

static const struct failure failures[] = {
	FLIP(EXDEV, IDENTITY, tmpl.identity.netns, 1),
	FLIP(EXDEV, IDENTITY, tmpl.identity.ifindex, 1),
	FLIP(EXDEV, IDENTITY, tmpl.identity.type, 1),
	SET(IDENTITY, tmpl.identity.reserved[0], 1),
	SET(IDENTITY, tmpl.identity.reserved[1], 1),

	SET(IFF, tmpl.iff.reserved, 1),
	FLIP(EINVAL, IFF, tmpl.iff.flags, IFF_NO_CARRIER),
	FLIP(EINVAL, IFF, tmpl.iff.flags, 0x80000000),
	FLIP(EINVAL, IFF, tmpl.iff.flags, IFF_TUN | IFF_TAP),
	FLIP(EINVAL, IFF, tmpl.iff.flags, IFF_MULTI_QUEUE),
	FLIP(EINVAL, IFF, tmpl.iff.flags, IFF_NO_PI),
	FLIP(EINVAL, IFF, tmpl.iff.flags, IFF_VNET_HDR),
	FLIP(EINVAL, IFF, tmpl.iff.flags, IFF_ONE_QUEUE),
	FLIP(EINVAL, IFF, tmpl.iff.flags, IFF_NAPI),
	FLIP(EINVAL, IFF, tmpl.iff.flags, IFF_NAPI_FRAGS),

	SET(OWNER, tmpl.owner.reserved, 1),
	SET(OWNER, tmpl.owner.flags, 4),
	SET(OWNER, tmpl.owner.flags, TUN_STATE_OWNER_UID_UNMAPPED),
	SET(OWNER, tmpl.owner.flags, TUN_STATE_OWNER_GID_UNMAPPED),
	HOW_AT(EINVAL, OWNER, USER_NAMESPACE, 0, tmpl.owner.uid, 4242),
	HOW_AT(EINVAL, OWNER, USER_NAMESPACE, 0, tmpl.owner.gid, 4242),
	/* To remove the owner 0 */
	HOW_AT(EPERM, OWNER, NO_ADMIN, 0, tmpl.owner.uid, (uint32_t)-1),
	HOW_AT(EPERM, OWNER, NO_ADMIN, 0, tmpl.owner.gid, (uint32_t)-1),
	HOW_AT(EPERM, OWNER, USER_NAMESPACE, 0, tmpl.owner.uid, (uint32_t)-1),
	HOW_AT(EPERM, OWNER, USER_NAMESPACE, 0, tmpl.owner.gid, (uint32_t)-1),

	SET(VNET, tmpl.vnet.hdr_size, 0),
	SET(VNET, tmpl.vnet.hdr_size, 9),
	SET(VNET, tmpl.vnet.hdr_size, 0x80000000),
	SET(VNET, tmpl.vnet.flags, 4),
	HOW_AT(EINVAL, VNET, FIELD, NO_BIG_ENDIAN, tmpl.vnet.flags,
	       TUN_STATE_VNET_BE),

	SET(OFFLOAD, tmpl.offload.reserved, 1),
	SET(OFFLOAD, tmpl.offload.enabled, 0x40000000),
	SET(OFFLOAD, tmpl.offload.enabled, TUN_F_TSO4),
	SET(OFFLOAD, tmpl.offload.enabled, TUN_F_CSUM | TUN_F_TSO_ECN),
	SET(OFFLOAD, tmpl.offload.enabled, TUN_F_CSUM | TUN_F_USO4),
	SET(OFFLOAD, tmpl.offload.wanted, 0x40000000),
	SET(OFFLOAD, tmpl.offload.wanted, TUN_F_CSUM | TUN_F_USO6),

	SET(SNDBUF, tmpl.sndbuf.reserved, 1),
	SET(SNDBUF, tmpl.sndbuf.size, 0),
	SET(SNDBUF, tmpl.sndbuf.size, -1),
	SET(SNDBUF, tmpl.sndbuf.size, 0x80000000),

	SET(LINK, tmpl.link.carrier, 2),
	HOW_AT(EPERM, LINK, NO_QUEUE, MULTI_ONLY, tmpl.link.carrier, 1),

	SET(TXFILTER, tmpl.txfilter.reserved, 1),
	SET(TXFILTER, tmpl.txfilter.count, 9),
	HOW(EINVAL, TXFILTER, ADDR_UNUSED, 0),
	HOW(EINVAL, TXFILTER, HASH_WITHOUT_FILTER, 0),
	HOW(EINVAL, TXFILTER, TXFILTER, TUN_ONLY),

	SET(SOCKFILTER, tmpl.sockfilter.entry_size, 0),
	SET(SOCKFILTER, tmpl.sockfilter.entry_size, 7),
	SET(SOCKFILTER, tmpl.sockfilter.entry_size, 16),
	SET(SOCKFILTER, tmpl.sockfilter.count, BPF_MAXINSNS + 1),
	SET(SOCKFILTER, tmpl.sockfilter.count, 0xffffffff),
	HOW(EINVAL, SOCKFILTER, INSNS_BAD_CODE, 0),
	HOW(EINVAL, SOCKFILTER, INSNS_NO_RETURN, 0),
	HOW(EINVAL, SOCKFILTER, INSNS_JUMP_OUT, 0),
	HOW(EFAULT, SOCKFILTER, INSNS_UNMAPPED, 0),
	HOW(ENOMEM, SOCKFILTER, INSNS_LARGE, TAP_ONLY),
	HOW(EINVAL, SOCKFILTER, INSNS_LARGE, TUN_ONLY),
	HOW(EINVAL, SOCKFILTER, INSNS_NONE, TAP_ONLY),

	SET(STEERING, tmpl.steering.action, 3),
	SET(STEERING, tmpl.steering.action, 0xffffffff),
	/* An fd, which this action must not have */
	SET(STEERING, tmpl.steering.action, TUN_STATE_PROG_KEEP),
	HOW(EBADF, STEERING, PROG_BAD_FD, 0),
	HOW(EINVAL, STEERING, PROG_FILE, 0),
	HOW(EINVAL, STEERING, PROG_TYPE, 0),
	HOW(EBADF, STEERING, PROG_STRANGER, 0),
	HOW(EBADF, STEERING, PROG_NOT_HELD, 0),
	HOW(EBADF, STEERING, PROG_OTHER_GROUP, 0),
	HOW(EBADF, STEERING, PROG_OTHER_FILE, MULTI_ONLY),
	HOW(EBADF, STEERING, PROG_WRONG_TAG, 0),
	HOW(EBADF, STEERING, PROG_WRONG_TYPE, 0),

	SET(FILTER, tmpl.filter.action, 3),
	SET(FILTER, tmpl.filter.action, 0xffffffff),
	/* An fd, which this action must not have */
	SET(FILTER, tmpl.filter.action, TUN_STATE_PROG_KEEP),
	HOW(EBADF, FILTER, PROG_BAD_FD, 0),
	HOW(EINVAL, FILTER, PROG_FILE, 0),
	HOW(EINVAL, FILTER, PROG_TYPE, 0),
	HOW(EBADF, FILTER, PROG_STRANGER, 0),
	HOW(EBADF, FILTER, PROG_NOT_HELD, 0),
	HOW(EBADF, FILTER, PROG_OTHER_GROUP, 0),
	HOW(EBADF, FILTER, PROG_OTHER_FILE, MULTI_ONLY),
	HOW(EBADF, FILTER, PROG_WRONG_TAG, 0),
	HOW(EBADF, FILTER, PROG_WRONG_TYPE, 0),

	SET(QUEUE, tmpl.queue.flags, 0x20),
	FLIP(EINVAL, QUEUE, tmpl.queue.flags, TUN_STATE_QUEUE_NAPI),
	FLIP(EINVAL, QUEUE, tmpl.queue.flags, TUN_STATE_QUEUE_NAPI_FRAGS),
	FLIP(EINVAL, QUEUE, tmpl.queue.index, 0x10000),
	HOW(EINVAL, QUEUE, QUEUE_BEYOND, 0),
	HOW(EINVAL, QUEUE, QUEUE_FILTER_OF_NONE, 0),
	HOW(EINVAL, QUEUE, QUEUE_DETACH_SINGLE, SINGLE_ONLY),
};

#define NR_FDS 4

/* The state of a device, read through each of its queues */
struct snapshot {
	struct state of[NR_FDS];
};

FIXTURE(dev)
{
	char name[IFNAMSIZ];
	int n, fd[NR_FDS];
	int me;			/* the queue that sets the state */
	int prog[2], xdp, stranger;
	struct tun_state_prog desc[2], stranger_desc;
	unsigned int round;
	char *edge;		/* end of mapped memory */
	struct snapshot before;
};

FIXTURE_VARIANT(dev)
{
	unsigned int flags;
};

FIXTURE_VARIANT_ADD(dev, tap)
{
	.flags = IFF_TAP,
};

FIXTURE_VARIANT_ADD(dev, tun)
{
	.flags = IFF_TUN,
};

FIXTURE_VARIANT_ADD(dev, tap_multi_queue)
{
	.flags = IFF_TAP | IFF_MULTI_QUEUE,
};

FIXTURE_VARIANT_ADD(dev, tun_multi_queue)
{
	.flags = IFF_TUN | IFF_MULTI_QUEUE,
};

static bool is_tap(const struct _test_data_dev *d)
{
	return d->before.of[0].s.iff.flags & IFF_TAP;
}

static int take_snapshot(const struct _test_data_dev *d, struct snapshot *snap)
{
	int i, err;

	for (i = 0; i < d->n; i++) {
		err = state_snapshot(d->fd[i], &snap->of[i]);
		if (err)
			return err;
	}
	return 0;
}

static bool unchanged(const struct _test_data_dev *d, struct snapshot *before)
{
	struct snapshot now;
	int i;

	if (take_snapshot(d, &now))
		return false;
	for (i = 0; i < d->n; i++)
		if (!state_equal(&before->of[i], &now.of[i]))
			return false;
	return true;
}

/* One of two valid states that differ in every group */
static void valid_state(const struct _test_data_dev *d, unsigned int round,
			struct state *st)
{
	const struct state *now = &d->before.of[d->me];
	struct tun_state *s = &st->s;
	unsigned int k = round & 1;

	*st = *now;
	state_point(st);
	memset(st->insns, 0, sizeof(st->insns));
	state_alternate(st, k);
	/* The caller must remain an owner */
	s->owner.uid = k ? 0 : -1;
	s->owner.gid = k ? -1 : 0;
	s->steering.action = TUN_STATE_PROG_FD;
	s->steering.fd = d->prog[k];
	s->filter.action = TUN_STATE_PROG_FD;
	s->filter.fd = d->prog[!k];
	if (is_tap(d))
		s->queue.flags ^= HAS_FILTER;
	/* Attach a detached queue and detach an attached one. Of the four
	 * queues, one of each kind is another one, to swap with.
	 */
	if (s->iff.flags & IFF_MULTI_QUEUE) {
		s->queue.flags ^= ATTACHED;
		s->queue.index = k;
	}
	/* Ignored */
	memset(&s->netdev, 0xa5, sizeof(s->netdev));
	memset(&s->coalesce, 0xa5, sizeof(s->coalesce));
	memset(&s->xdp, 0xa5, sizeof(s->xdp));
	memset(&s->flows, 0xa5, sizeof(s->flows));
	memset(&s->queues, 0xa5, sizeof(s->queues));
}

/* Turn a state that was set into the report to expect */
static void as_reported(const struct _test_data_dev *d, unsigned int round,
			struct state *st)
{
	unsigned int n = st->s.sockfilter.count;

	st->s.steering = d->desc[round & 1];
	st->s.filter = d->desc[!(round & 1)];
	/* Other ways to have no program may have left some */
	if (n < MAX_INSNS)
		memset(st->insns + n, 0, (MAX_INSNS - n) * sizeof(*st->insns));
}

static int set_valid(struct _test_data_dev *d, unsigned int round,
		     uint64_t mask)
{
	struct state st;

	valid_state(d, round, &st);
	return state_set(d->fd[d->me], mask, &st);
}

FIXTURE_SETUP(dev)
{
	const char *why = tun_state_enter();
	long page = sysconf(_SC_PAGESIZE);
	char *map;
	int i;

	if (why)
		SKIP(return, "%s", why);
	if (variant->flags & IFF_TAP && no_sockfilter())
		SKIP(return, "%s", no_sockfilter());
	memcpy(self->name, "dev0", 5);
	self->n = variant->flags & IFF_MULTI_QUEUE ? NR_FDS : 1;
	for (i = 0; i < self->n; i++) {
		self->fd[i] = tun_queue(self->name, variant->flags |
					(i & 1 ? IFF_NAPI : 0));
		ASSERT_GE(self->fd[i], 0);
	}
	self->me = self->n > 1;
	if (self->n > 1)
		ASSERT_EQ(0, tun_set_queue(self->fd[3], IFF_DETACH_QUEUE));
	for (i = 0; i < 2; i++) {
		self->prog[i] = prog_load_desc(64 + i, &self->desc[i]);
		ASSERT_GE(self->prog[i], 0);
	}
	self->stranger = prog_load_desc(66, &self->stranger_desc);
	ASSERT_GE(self->stranger, 0);
	self->xdp = prog_load(BPF_PROG_TYPE_XDP, XDP_PASS);
	ASSERT_GE(self->xdp, 0);

	map = mmap(NULL, 32 * page, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, map);
	self->edge = map + 16 * page;
	munmap(self->edge, 16 * page);

	ASSERT_EQ(0, take_snapshot(self, &self->before));
	ASSERT_EQ(0, set_valid(self, 1, ALL_GROUPS));
}

FIXTURE_TEARDOWN(dev)
{
	int i;

	for (i = 0; i < self->n; i++)
		close(self->fd[i]);
	netdev_delete(self->name);
}

static struct sock_filter *large_program(const struct _test_data_dev *d)
{
	struct sock_filter *insns = (void *)d->edge;
	unsigned int i;

	insns -= BPF_MAXINSNS;
	for (i = 0; i < BPF_MAXINSNS; i++)
		insns[i] = (struct sock_filter){
			BPF_LD | BPF_W | BPF_ABS, 0, 0, 0
		};
	insns[i - 1] = (struct sock_filter){ BPF_RET | BPF_K };
	return insns;
}

/* The number of queues that are attached, or detached, as this one is to be */
static unsigned int queues_like(const struct _test_data_dev *d,
				const struct tun_state *s)
{
	const struct state *now = &d->before.of[d->me];
	unsigned int n = 1, i;

	for (i = 0; i < now->s.queues.count; i++)
		n += !((now->queues[i].flags ^ s->queue.flags) & ATTACHED) &&
		     !(now->queues[i].flags & TUN_STATE_QUEUE_SELF);
	return n;
}

/* Spoil one group of a valid state */
static void spoil(const struct _test_data_dev *d, struct state *st,
		  const struct failure *f)
{
	const struct tun_state *now = &d->before.of[d->me].s;
	struct tun_state *s = &st->s;
	struct tun_state_prog *prog = f->change.group == TUN_STATE_STEERING ?
				      &s->steering : &s->filter;
	const struct tun_state_prog *attached = prog == &s->steering ?
						&now->steering : &now->filter;

	state_change(st, &f->change);
	switch (f->how) {
	case TXFILTER:
		s->txfilter.count = 1;
		break;
	case ADDR_UNUSED:
		s->txfilter.addr[s->txfilter.count][0] = 1;
		break;
	case HASH_WITHOUT_FILTER:
		memset(&s->txfilter, 0, sizeof(s->txfilter));
		s->txfilter.hash = 1ULL << 63;
		break;
	case INSNS_BAD_CODE:
		s->sockfilter.count = 2;
		st->insns[0] = (struct sock_filter){ 0xffff };
		st->insns[1] = (struct sock_filter){ BPF_RET | BPF_K };
		break;
	case INSNS_NO_RETURN:
		s->sockfilter.count = 1;
		st->insns[0] = (struct sock_filter){ BPF_LD | BPF_IMM };
		break;
	case INSNS_JUMP_OUT:
		s->sockfilter.count = 2;
		st->insns[0] = (struct sock_filter){
			BPF_JMP | BPF_JA, 0, 0, 1
		};
		st->insns[1] = (struct sock_filter){ BPF_RET | BPF_K };
		break;
	case INSNS_LARGE:
		s->sockfilter.entries = (uintptr_t)large_program(d);
		s->sockfilter.count = BPF_MAXINSNS;
		break;
	case INSNS_UNMAPPED:
		s->sockfilter.entries = (uintptr_t)(large_program(d) + 1);
		s->sockfilter.count = BPF_MAXINSNS;
		break;
	case INSNS_NONE:
		s->sockfilter.count = 0;
		s->queue.flags |= HAS_FILTER;
		break;
	case PROG_BAD_FD:
		prog->fd = -1;
		break;
	case PROG_FILE:
		prog->fd = d->fd[0];
		break;
	case PROG_TYPE:
		prog->fd = d->xdp;
		break;
	case PROG_STRANGER:
	case PROG_NOT_HELD:
	case PROG_OTHER_GROUP:
	case PROG_OTHER_FILE:
		*prog = d->stranger_desc;
		break;
	case PROG_WRONG_TAG:
		*prog = *attached;
		prog->tag[7]++;
		break;
	case PROG_WRONG_TYPE:
		*prog = *attached;
		prog->type++;
		break;
	case QUEUE_BEYOND:
		s->queue.index = d->n == 1 ? 1 : queues_like(d, s);
		break;
	case QUEUE_FILTER_OF_NONE:
		s->sockfilter.count = 0;
		s->queue.flags |= HAS_FILTER;
		break;
	case QUEUE_DETACH_SINGLE:
		s->queue.flags &= ~ATTACHED;
		break;
	default:
		break;
	}
}

/* The changes to the other groups must not need the rights that are dropped */
static void adapt(const struct _test_data_dev *d, struct state *st,
		  const struct failure *f)
{
	const struct tun_state *now = &d->before.of[d->me].s;

	switch (f->how) {
	case NO_ADMIN:
	case USER_NAMESPACE:
		st->s.owner.uid = 0;
		st->s.owner.gid = 0;
		break;
	case NO_QUEUE:
		/* The queue stays detached and moves to another place */
		st->s.link.carrier = now->link.carrier;
		st->s.queue.flags &= ~ATTACHED;
		st->s.queue.index = !now->queue.index;
		break;
	case QUEUE_DETACH_SINGLE:
		/* Without a queue the carrier would fail first */
		st->s.link.carrier = now->link.carrier;
		break;
	default:
		break;
	}
}

static bool applies(const struct _test_data_dev *d, const struct failure *f)
{
	int value;

	if (f->needs & TAP_ONLY && !is_tap(d))
		return false;
	if (f->needs & TUN_ONLY && is_tap(d))
		return false;
	if (f->needs & MULTI_ONLY && d->n == 1)
		return false;
	if (f->needs & SINGLE_ONLY && d->n > 1)
		return false;
	if (f->needs & NO_BIG_ENDIAN && !ioctl(d->fd[0], TUNGETVNETBE, &value))
		return false;
	return true;
}

/* Have a file hold a program for one group, or only report it */
static bool was_attached(struct _test_data_dev *d, const struct failure *f,
			 int fd, int request, uint64_t group, uint32_t flags)
{
	int back = d->prog[0];
	struct state st;

	return !ioctl(d->fd[0], request, &d->stranger) &&
	       !state_get_flags(fd, group, &st, flags) &&
	       !ioctl(d->fd[0], request, &back);
}

static bool prepare_prog(struct _test_data_dev *d, const struct failure *f)
{
	uint64_t group = f->change.group, other;
	bool steering = group == TUN_STATE_STEERING;
	int request = steering ? TUNSETSTEERINGEBPF : TUNSETFILTEREBPF;
	int request_other = steering ? TUNSETFILTEREBPF : TUNSETSTEERINGEBPF;
	struct state st;
	int i;

	other = steering ? TUN_STATE_FILTER : TUN_STATE_STEERING;
	/* Let go of the programs of other failures */
	for (i = 0; i < d->n; i++)
		if (state_hold(d->fd[i], 0, &st))
			return false;
	switch (f->how) {
	case PROG_NOT_HELD:
		return was_attached(d, f, d->fd[d->me], request, group, 0);
	case PROG_OTHER_GROUP:
		return was_attached(d, f, d->fd[d->me], request_other, other,
				    TUN_STATE_F_HOLD);
	case PROG_OTHER_FILE:
		return was_attached(d, f, d->fd[0], request, group,
				    TUN_STATE_F_HOLD);
	default:
		return true;
	}
}

/* Prepare the device for the failure, with all rights */
static bool prepare(struct _test_data_dev *d, const struct failure *f)
{
	unsigned int carrier = 0;
	int i;

	switch (f->how) {
	case NO_ADMIN:
	case USER_NAMESPACE:
		return !ioctl(d->fd[0], TUNSETOWNER, 0) &&
		       !ioctl(d->fd[0], TUNSETGROUP, 0);
	case NO_QUEUE:
		/* The carrier needs an attached queue to change */
		tun_set_queue(d->fd[0], IFF_ATTACH_QUEUE);
		if (ioctl(d->fd[0], TUNSETCARRIER, &carrier))
			return false;
		for (i = 0; i < d->n; i++)
			tun_set_queue(d->fd[i], IFF_DETACH_QUEUE);
		return true;
	case QUEUE_FILTER_OF_NONE:
		/* With a filter, the group sockfilter would fail first */
		if (is_tap(d))
			return !tun_detach_filter(d->fd[0]);
		return true;
	default:
		return prepare_prog(d, f);
	}
}

static bool drop_rights(const struct failure *f)
{
	switch (f->how) {
	case NO_ADMIN:
		return !net_admin(false);
	case USER_NAMESPACE:
		if (unshare(CLONE_NEWUSER))
			return false;
		write_file("/proc/self/setgroups", "deny");
		write_file("/proc/self/uid_map", "0 0 1");
		write_file("/proc/self/gid_map", "0 0 1");
		return !getuid();
	default:
		return true;
	}
}

static int expect_error(const struct _test_data_dev *d, const struct failure *f,
			struct state *st, uint64_t mask, int want)
{
	int err = state_set(d->fd[d->me], mask, st);

	if (err != want) {
		fprintf(stderr, "# errno %d, not %d\n", err, want);
		return 1;
	}
	if (!err)
		mask &= ~GET_ONLY;
	if (st->s.failed != (err ? f->change.group : 0) ||
	    st->s.mask != mask ||
	    st->s.supported != d->before.of[0].s.supported) {
		fprintf(stderr, "# failed %#llx mask %#llx\n",
			(long long)st->s.failed, (long long)st->s.mask);
		return 1;
	}
	return 0;
}

/* Return 0, or the number of the step that went wrong. On success the other
 * groups have the new state.
 */
static int fail_one(struct _test_data_dev *d, const struct failure *f)
{
	uint64_t mask = ALL_GROUPS;
	struct state st;

	if (!drop_rights(f) || take_snapshot(d, &d->before))
		return 1;
	valid_state(d, d->round, &st);
	adapt(d, &st, f);
	spoil(d, &st, f);

	if (expect_error(d, f, &st, mask, f->err))
		return 2;
	if (!unchanged(d, &d->before))
		return 3;

	/* Without this group the call succeeds, and sets the others */
	mask &= ~f->change.group;
	if (expect_error(d, f, &st, mask, 0))
		return 4;
	if (!(state_compare(d->fd[d->me], mask & SETTABLE,
			    &d->before.of[d->me])))
		return 5;
	as_reported(d, d->round, &st);
	if (state_compare(d->fd[d->me], mask & ~GET_ONLY, &st))
		return 6;
	return 0;
}

/* Fail in a child, which drops rights for good */
static int fail_one_in_child(struct _test_data_dev *d, const struct failure *f)
{
	int status;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (!pid)
		_exit(fail_one(d, f));
	if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		return 100;
	return WEXITSTATUS(status);
}

/* Twice each: every success attaches or detaches the queue */
TEST_F_TIMEOUT(dev, all_or_nothing, 300)
{
	unsigned int i, twice, done = 0, kinds = 0;
	uint64_t groups = 0;
	int step;

	for (i = 0; i < ARRAY_SIZE(failures); i++) {
		const struct failure *f = &failures[i];

		if (!applies(self, f))
			continue;
		for (twice = 0; twice < 2; twice++) {
			ASSERT_EQ(0, take_snapshot(self, &self->before));
			kinds |= 1 << !!(self->before.of[self->me].s.queue.flags
					 & ATTACHED);
			/* Set the group that failed before, too */
			ASSERT_EQ(0, set_valid(self, self->round, ALL_GROUPS &
					       ~TUN_STATE_QUEUE));
			self->round++;
			ASSERT_TRUE(prepare(self, f));

			step = fail_one_in_child(self, f);
			ASSERT_EQ(0, step) {
				TH_LOG("step %d of %s (%#llx), how %d, group %#llx",
				       step, f->change.what,
				       (long long)f->change.value, f->how,
				       (long long)f->change.group);
			}
			done++;
			/* With a queue the carrier can change again */
			if (f->how == NO_QUEUE)
				ASSERT_EQ(0, tun_set_queue(self->fd[0],
							   IFF_ATTACH_QUEUE));
		}
		groups |= f->change.group;
	}
	EXPECT_EQ(ALL_GROUPS & ~GET_ONLY, groups);
	EXPECT_EQ(self->n > 1 ? 3 : 2, kinds);
	EXPECT_LT(100, done);
}

/* A detached queue still counts, so it can be attached again when the device is
 * full. The other limit of tun_attach() is IFF_MULTI_QUEUE, which a device with
 * a detached queue has.
 */
TEST_F_TIMEOUT(dev, attach_when_full, 120)
{
	int fd[256 - NR_FDS], i;
	struct state st;

	if (!(variant->flags & IFF_MULTI_QUEUE))
		return;
	for (i = 0; i < 256 - NR_FDS; i++) {
		fd[i] = tun_queue(self->name, variant->flags);
		ASSERT_GE(fd[i], 0);
	}
	EXPECT_EQ(-1, tun_queue(self->name, variant->flags));
	EXPECT_EQ(E2BIG, errno);

	ASSERT_EQ(0, state_get(self->fd[3], TUN_STATE_QUEUE, &st));
	ASSERT_EQ(0, st.s.queue.flags & ATTACHED);
	st.s.queue.flags |= ATTACHED;
	st.s.queue.index = 3;
	ASSERT_EQ(0, state_set(self->fd[3], TUN_STATE_QUEUE, &st));
	ASSERT_EQ(0, state_get(self->fd[3], TUN_STATE_QUEUE, &st));
	EXPECT_EQ(3, st.s.queue.index);
	EXPECT_EQ(ATTACHED, st.s.queue.flags & ATTACHED);
	for (i = 0; i < 256 - NR_FDS; i++)
		close(fd[i]);
}

TEST_HARNESS_MAIN
