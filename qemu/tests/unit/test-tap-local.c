/*
 * Unit tests of the hand-over of a TAP: states, section net-tap, repair
 *
 * Copyright (c) 2026 tapstate developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "tap-local-fixture.h"

#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>

#include "qapi/error.h"
#include "qemu/bswap.h"
#include "qemu/iov.h"
#include "qemu/units.h"

#define HDR_LEN 10
#define WIDE_HDR_LEN 12

/* Offsets of the fields in the section */
enum { FD, USING_VNET_HDR, HAS_UFO, HAS_USO, HAS_TUNNEL, ENABLED, LEN,
       FIELDS_SIZE = LEN + 4 };

static Error *no_tap;           /* reason why no TAP can be made here */
static int tap, plain, wide;    /* vnet header: HDR_LEN, none, WIDE_HDR_LEN */
static int multi[3];            /* queues of one TAP */
static int tun;
static int null;

static const NetdevTapOptions options = {
    .has_local_migration_supported = true,
    .local_migration_supported = true,
    .has_kernel_state = true,
    .kernel_state = ON_OFF_AUTO_OFF,
};

static const NetdevTapOptions automatic = {
    .has_local_migration_supported = true,
    .local_migration_supported = true,
};

static bool need_tap(void)
{
    if (no_tap) {
        g_test_skip(error_get_pretty(no_tap));
    }
    return !no_tap;
}

static void assert_contains(const char *text, const char *part)
{
    if (!text || !strstr(text, part)) {
        g_error("'%s' is not in '%s'", part, text ?: "nothing");
    }
}

static void assert_error(const char *part)
{
    assert_contains(fixture.error, part);
    g_clear_pointer(&fixture.error, g_free);
}

/*
 * Kernel with TUNGETSTATE and TUNSETSTATE, for hosts without them, and a record
 * of the ioctls that change a device
 */

enum { SET_HDR_LEN, SET_LE, SET_BE, SET_OFFLOAD, SET_STEERING, SET_SNDBUF,
       SET_ATTACHED, SET__MAX };

static struct {
    bool on;
    bool hidden;                /* otherwise: no TUNGETSTATE */
    int get_errno;
    uint64_t without;           /* groups */
    struct tun_state state;     /* of the device */
    struct {
        uint32_t index, flags;
    } queue[FIXTURE_QUEUES];
    unsigned int gets, holds, sets;
    struct tun_state set;       /* last argument of TUNSETSTATE */
    uint64_t set_mask;          /* groups that were set */
    int set_errno;              /* for groups in @set_failed */
    uint64_t set_failed;
} kernel;

static unsigned int applied[SET__MAX];
static int value[SET__MAX];

static const struct {
    uint64_t bit;
    size_t offset;
    size_t size;
} kernel_groups[] = {
#define GROUP(_number, _name, _member)                                      \
    { 1ULL << _number, offsetof(struct tun_state, _member),                 \
      sizeof_field(struct tun_state, _member) },
    __TUN_STATE_GROUPS(GROUP)
#undef GROUP
};

/* Start to record, with an emulated kernel or without one */
static void kernel_start(bool on)
{
    memset(&kernel, 0, sizeof(kernel));
    memset(applied, 0, sizeof(applied));
    kernel.on = on;
    kernel.state = (struct tun_state) {
        .identity = { .netns = 4026531840, .ifindex = 7, .type = 1 },
        .netdev = { .mtu = 1500, .up = 1, .addr_len = 6, .name = "tap0",
                    .addr = { 2, 0, 0, 0, 0, 1 } },
        .iff.flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR,
        .owner = { .uid = 1000, .gid = 1000 },
        .vnet.hdr_size = HDR_LEN,
        .offload.supported = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 |
                             TUN_F_TSO_ECN | TUN_F_USO4 | TUN_F_USO6,
        .sndbuf.size = INT_MAX,
        .link = { .carrier = 1, .msg_enable = 7 },
        .coalesce.rx_frames = 1,
        .steering = { .id = 3, .type = 3, .tag = { 3 } },
        .filter = { .id = 4, .type = 3, .tag = { 4 } },
        .queue.ring_size = 500,
    };
    for (unsigned int i = 0; i < FIXTURE_QUEUES; i++) {
        kernel.queue[i].index = i;
        kernel.queue[i].flags = TUN_STATE_QUEUE_ATTACHED;
    }
}

static void kernel_copy(struct tun_state *to, const struct tun_state *from,
                        uint64_t mask)
{
    for (size_t i = 0; i < ARRAY_SIZE(kernel_groups); i++) {
        if (mask & kernel_groups[i].bit) {
            memcpy((uint8_t *)to + kernel_groups[i].offset,
                   (uint8_t *)from + kernel_groups[i].offset,
                   kernel_groups[i].size);
        }
    }
}

/* Return the number of the queue that has @fd, or will have it */
static unsigned int kernel_queue(int fd)
{
    for (unsigned int i = 0; i < fixture.count; i++) {
        const TAPState *s = fixture.queues[i];

        if (s->fd >= 0 ? s->fd == fd : s->local && s->local->stream.fd == fd) {
            return i;
        }
    }
    return 0;
}

static int kernel_get(unsigned int queue, struct tun_state *st)
{
    struct tun_state answer = {
        .mask = st->mask,
        .flags = st->flags,
        .supported = ~kernel.without,
    };

    g_assert_cmphex(st->flags & ~TUN_STATE_F_HOLD, ==, 0);
    if (kernel.get_errno) {
        errno = kernel.get_errno;
        return -1;
    }
    if (st->mask & kernel.without) {
        st->supported = ~kernel.without;
        st->failed = st->mask & kernel.without;
        errno = EINVAL;
        return -1;
    }
    if (st->flags) {
        kernel.holds++;
    } else {
        kernel.gets++;
    }
    kernel.state.queue.index = kernel.queue[queue].index;
    kernel.state.queue.flags = kernel.queue[queue].flags;
    kernel_copy(&answer, &kernel.state, st->mask);
    *st = answer;
    return 0;
}

static int kernel_set(unsigned int queue, struct tun_state *st)
{
    g_assert_cmphex(st->flags, ==, 0);
    g_assert_cmphex(st->reserved, ==, 0);
    kernel.sets++;
    kernel.set = *st;
    if (st->mask & kernel.set_failed) {
        st->failed = st->mask & kernel.set_failed;
        errno = kernel.set_errno;
        return -1;
    }
    kernel.set_mask |= st->mask;
    kernel_copy(&kernel.state, st, st->mask & ~TUN_STATE_QUEUE);
    if (st->mask & TUN_STATE_QUEUE) {
        for (unsigned int i = 0; i < FIXTURE_QUEUES; i++) {
            if (kernel.queue[i].index == st->queue.index &&
                !((kernel.queue[i].flags ^ st->queue.flags) &
                  TUN_STATE_QUEUE_ATTACHED)) {
                kernel.queue[i].index = kernel.queue[queue].index;
            }
        }
        kernel.queue[queue].index = st->queue.index;
        kernel.queue[queue].flags = st->queue.flags;
    }
    return 0;
}

static void kernel_attach(unsigned int queue, bool attach)
{
    uint32_t before = kernel.queue[queue].index, last[2] = { };

    for (unsigned int i = 0; i < FIXTURE_QUEUES; i++) {
        last[kernel.queue[i].flags & TUN_STATE_QUEUE_ATTACHED]++;
    }
    /* The last queue moves to the place that becomes free */
    for (unsigned int i = 0; i < FIXTURE_QUEUES; i++) {
        if (i != queue && kernel.queue[i].flags == kernel.queue[queue].flags &&
            kernel.queue[i].index ==
            last[kernel.queue[i].flags & TUN_STATE_QUEUE_ATTACHED] - 1) {
            kernel.queue[i].index = before;
        }
    }
    kernel.queue[queue].index = last[attach];
    kernel.queue[queue].flags = attach ? TUN_STATE_QUEUE_ATTACHED : 0;
}

/* Return SET__MAX if @request changes nothing */
static int record(unsigned long request, void *arg)
{
    static const unsigned long requests[SET__MAX] = {
        [SET_HDR_LEN] = TUNSETVNETHDRSZ,
        [SET_LE] = TUNSETVNETLE,
        [SET_BE] = TUNSETVNETBE,
        [SET_OFFLOAD] = TUNSETOFFLOAD,
        [SET_STEERING] = TUNSETSTEERINGEBPF,
        [SET_SNDBUF] = TUNSETSNDBUF,
        [SET_ATTACHED] = TUNSETQUEUE,
    };
    int set = 0;

    while (set < SET__MAX && request != requests[set]) {
        set++;
    }
    if (set < SET__MAX) {
        applied[set]++;
        value[set] = set == SET_OFFLOAD ? (uintptr_t)arg :
                     set == SET_ATTACHED ? ((struct ifreq *)arg)->ifr_flags ==
                                           IFF_ATTACH_QUEUE : *(int *)arg;
    }
    return set;
}

/* Override that of the C library */
int ioctl(int fd, unsigned long request, ...)
{
    int set;
    va_list args;
    void *arg;

    va_start(args, request);
    arg = va_arg(args, void *);
    va_end(args);

    set = record(request, arg);
    if (!kernel.on) {
        if (kernel.hidden && request == TUNGETSTATE) {
            errno = EINVAL;
            return -1;
        }
        return syscall(SYS_ioctl, fd, request, arg);
    }
    switch (request) {
    case TUNGETSTATE:
        return kernel_get(kernel_queue(fd), arg);
    case TUNSETSTATE:
        return kernel_set(kernel_queue(fd), arg);
    case TUNGETVNETHDRSZ:
        *(int *)arg = kernel.state.vnet.hdr_size;
        return 0;
    case TUNGETVNETLE:
        *(int *)arg = !!(kernel.state.vnet.flags & TUN_STATE_VNET_LE);
        return 0;
    case TUNGETVNETBE:
        *(int *)arg = !!(kernel.state.vnet.flags & TUN_STATE_VNET_BE);
        return 0;
    }
    switch (set) {
    case SET_HDR_LEN:
        kernel.state.vnet.hdr_size = value[set];
        return 0;
    case SET_LE:
    case SET_BE:
        kernel.state.vnet.flags &= ~(set == SET_LE ? TUN_STATE_VNET_LE :
                                                     TUN_STATE_VNET_BE);
        if (value[set]) {
            kernel.state.vnet.flags |= set == SET_LE ? TUN_STATE_VNET_LE :
                                                       TUN_STATE_VNET_BE;
        }
        return 0;
    case SET_OFFLOAD:
        if (value[set] & ~kernel.state.offload.supported) {
            errno = EINVAL;
            return -1;
        }
        kernel.state.offload.enabled = kernel.state.offload.wanted = value[set];
        return 0;
    case SET_STEERING:
        kernel.state.steering.id = value[set] < 0 ? 0 : 100 + value[set];
        return 0;
    case SET_SNDBUF:
        kernel.state.sndbuf.size = value[set];
        return 0;
    case SET_ATTACHED:
        kernel_attach(kernel_queue(fd), value[set]);
        return 0;
    }
    return syscall(SYS_ioctl, fd, request, arg);
}

static unsigned int applied_total(void)
{
    unsigned int total = 0;

    for (unsigned int i = 0; i < SET__MAX; i++) {
        total += applied[i];
    }
    return total;
}

/*
 * Sources, targets and streams
 */

/* Fill in the fields of a section for @tap */
static void make_fields(uint8_t *fields)
{
    const unsigned int both = TUN_F_USO4 | TUN_F_USO6;
    bool ufo = true, uso = true;
    struct tun_state st;

    if (tap_kstate_read(tap, false, &st, NULL, NULL) &&
        (st.mask & TUN_STATE_OFFLOAD)) {
        ufo = st.offload.supported & TUN_F_UFO;
        uso = (st.offload.supported & both) == both;
    }
    fields[FD] = ' ';
    fields[USING_VNET_HDR] = false;
    fields[HAS_UFO] = ufo;
    fields[HAS_USO] = uso;
    fields[HAS_TUNNEL] = false;
    fields[ENABLED] = true;
    stl_be_p(fields + LEN, HDR_LEN);
}

static void append_be32(GByteArray *to, uint32_t number)
{
    uint32_t be = cpu_to_be32(number);

    g_byte_array_append(to, (uint8_t *)&be, sizeof(be));
}

static void append_head(GByteArray *to, const char *name)
{
    uint8_t head[] = { 5, strlen(name) };

    g_byte_array_append(to, head, sizeof(head));
    g_byte_array_append(to, (const uint8_t *)name, strlen(name));
    append_be32(to, 1);
}

static void append_subsection(GByteArray *to, const char *name,
                              const void *data, uint32_t size)
{
    append_head(to, name);
    append_be32(to, size);
    g_byte_array_append(to, data, size);
}

/* @data: a struct tun_state, or more or less of it */
static void append_kernel_state(GByteArray *to, const void *data,
                                uint32_t size, uint8_t steering)
{
    append_subsection(to, "net-tap/kernel-state", data, size);
    g_byte_array_append(to, &steering, sizeof(steering));
}

static void append_pending(GByteArray *to, const void *received,
                           uint32_t received_size, const void *sent,
                           uint32_t sent_size)
{
    append_subsection(to, "net-tap/pending", received, received_size);
    append_be32(to, sent_size);
    g_byte_array_append(to, sent, sent_size);
}

static GByteArray *new_section(void)
{
    GByteArray *section = g_byte_array_new();

    g_byte_array_set_size(section, FIELDS_SIZE);
    make_fields(section->data);
    return section;
}

/* A netdev with @count queues of TAP @multi, or one of @tap */
static void new_source_queues(const NetdevTapOptions *tap_options,
                              unsigned int count)
{
    uint8_t fields[FIELDS_SIZE];
    int fds[FIXTURE_QUEUES];

    make_fields(fields);
    for (unsigned int i = 0; i < count; i++) {
        fds[i] = dup(count > 1 ? multi[i] : tap);
        g_assert(fds[i] >= 0);
    }
    tap_local_fixture_new(tap_options, fds, count, RUN_STATE_RUNNING);
    for (unsigned int i = 0; i < count; i++) {
        fixture.queues[i]->has_ufo = fields[HAS_UFO];
        fixture.queues[i]->has_uso = fields[HAS_USO];
    }
}

static void new_source(const NetdevTapOptions *tap_options)
{
    new_source_queues(tap_options, 1);
}

static void new_target_queues(const NetdevTapOptions *tap_options,
                              unsigned int count)
{
    NetdevTapOptions incoming = *tap_options;

    incoming.has_incoming_fds = incoming.incoming_fds = true;
    tap_local_fixture_new(&incoming, NULL, count, RUN_STATE_INMIGRATE);
}

static void new_target(const NetdevTapOptions *tap_options)
{
    new_target_queues(tap_options, 1);
}

/* Sections of all queues */
typedef struct Stream {
    unsigned int count;
    GByteArray *data[FIXTURE_QUEUES];
    int fd[FIXTURE_QUEUES];
} Stream;

static void save_all(Stream *stream)
{
    stream->count = fixture.count;
    for (unsigned int i = 0; i < stream->count; i++) {
        stream->data[i] = tap_local_fixture_save(i, &stream->fd[i]);
        g_assert_null(fixture.error);
        g_assert_nonnull(stream->data[i]);
        g_assert_cmpint(stream->fd[i], >=, 0);
    }
}

/* Set up a migration, stop the virtual machine, and save */
static void hand_over(Stream *stream)
{
    g_assert_true(tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_SETUP));
    if (runstate_is_live(fixture.runstate)) {
        tap_local_fixture_run(RUN_STATE_FINISH_MIGRATE);
    }
    save_all(stream);
}

static bool load_all(const Stream *stream)
{
    for (unsigned int i = 0; i < stream->count; i++) {
        if (!tap_local_fixture_load(i, stream->data[i]->data,
                                    stream->data[i]->len, stream->fd[i], 1)) {
            return false;
        }
    }
    return tap_local_fixture_loaded();
}

static void free_stream(Stream *stream)
{
    for (unsigned int i = 0; i < stream->count; i++) {
        g_byte_array_free(stream->data[i], true);
        close(stream->fd[i]);
    }
    stream->count = 0;
}

/* Hand over to nobody: the stream is lost */
static void hand_over_to_nobody(void)
{
    Stream stream;

    hand_over(&stream);
    free_stream(&stream);
}

static TapLocalQueue *queue(unsigned int i)
{
    return tap_local_fixture_queue(i);
}

/* Check the state of the netdev, and the rights that all its queues have */
static void check_state(TapHandOver state, bool owns_device)
{
    bool owner = state == TAP_HAND_OVER_OWNER;

    g_assert_cmpstr(TapHandOver_str(fixture.local->state), ==,
                    TapHandOver_str(state));
    for (unsigned int i = 0; i < fixture.count; i++) {
        bool may_change = owner && !fixture.local->gone;
        bool may_read = may_change && fixture.runstate == RUN_STATE_RUNNING;

        g_assert_cmpint(tap_local_may_change(queue(i)), ==, may_change);
        g_assert_cmpint(tap_local_may_read(queue(i)), ==, may_read);
        g_assert_cmpint(fixture.reading[i], ==, may_read);
        g_assert_cmpint(tap_local_owns_device(queue(i)), ==, owns_device);
        g_assert_cmpint(fixture.queues[i]->fd >= 0, ==,
                        state != TAP_HAND_OVER_WAITING);
    }
}

/*
 * Options
 */

static void test_options(void)
{
#define SUPPORTED .has_local_migration_supported = true,                    \
                  .local_migration_supported = true
#define INCOMING SUPPORTED, .has_incoming_fds = true, .incoming_fds = true
    static const struct {
        NetdevTapOptions tap;
        RunState runstate;
        unsigned int mode;
        bool incoming;
        const char *error;
    } cases[] = {
        { { }, RUN_STATE_INMIGRATE, FIXTURE_LOCAL | FIXTURE_MACHINE_READY },
        { { .ifname = (char *)"tap0" }, RUN_STATE_INMIGRATE },
        { { SUPPORTED }, RUN_STATE_INMIGRATE,
          FIXTURE_LOCAL | FIXTURE_MACHINE_READY, true },
        { { SUPPORTED }, RUN_STATE_INMIGRATE, FIXTURE_LOCAL },
        { { SUPPORTED }, RUN_STATE_INMIGRATE, FIXTURE_MACHINE_READY },
        { { SUPPORTED }, RUN_STATE_RUNNING,
          FIXTURE_LOCAL | FIXTURE_MACHINE_READY },
        { { INCOMING }, RUN_STATE_INMIGRATE, 0, true },
        { { SUPPORTED, .has_incoming_fds = true, .incoming_fds = false },
          RUN_STATE_INMIGRATE, FIXTURE_LOCAL | FIXTURE_MACHINE_READY },
        { { .has_cpr = true, .cpr = true },
          RUN_STATE_INMIGRATE, FIXTURE_CPR, true },
        { { .has_cpr = true, .cpr = true }, RUN_STATE_INMIGRATE },
        /* Only cpr-transfer passes the queues in the stream */
        { { .has_cpr = true, .cpr = true }, RUN_STATE_INMIGRATE,
          FIXTURE_CPR_OTHER | FIXTURE_LOCAL | FIXTURE_MACHINE_READY },
        { { .has_kernel_state = true }, RUN_STATE_RUNNING, 0, false,
          "kernel-state= needs local-migration-supported=on" },
        { { .has_incoming_fds = true, .incoming_fds = true },
          RUN_STATE_INMIGRATE, 0, true,
          "incoming-fds=on needs local-migration-supported=on" },
        { { INCOMING }, RUN_STATE_RUNNING, 0, true, "use -incoming" },
        { { INCOMING, .has_queues = true, .queues = MAX_QUEUE_NUM + 1 },
          RUN_STATE_INMIGRATE, 0, true, "queues=1025 is not between 1 and" },
        { { INCOMING, .has_queues = true, .queues = 0 },
          RUN_STATE_INMIGRATE, 0, true, "queues=0 is not between 1 and" },
        { { INCOMING, .has_queues = true, .queues = MAX_QUEUE_NUM },
          RUN_STATE_INMIGRATE, 0, true },
        { { INCOMING, .fds = (char *)"3:4" },
          RUN_STATE_INMIGRATE, 0, true, "come with the migration stream" },
        { { INCOMING, .fd = (char *)"3" },
          RUN_STATE_INMIGRATE, 0, true, "come with the migration stream" },
        { { INCOMING, .helper = (char *)"/bin/false" },
          RUN_STATE_INMIGRATE, 0, true, "come with the migration stream" },
        /* A target would open the TAP that the guest uses */
        { { SUPPORTED, .ifname = (char *)"tap0" }, RUN_STATE_INMIGRATE,
          FIXTURE_MACHINE_READY, false, "would cut off the guest" },
        { { SUPPORTED, .ifname = (char *)"tap0", .has_incoming_fds = true },
          RUN_STATE_INMIGRATE, FIXTURE_MACHINE_READY },
        { { SUPPORTED, .ifname = (char *)"tap0" }, RUN_STATE_INMIGRATE,
          FIXTURE_LOCAL | FIXTURE_MACHINE_READY, true },
        { { SUPPORTED, .ifname = (char *)"tap0" }, RUN_STATE_RUNNING },
        /* The migration thread walks the list of sections */
        { { SUPPORTED }, RUN_STATE_RUNNING, FIXTURE_MIGRATING, false,
          "cannot be added during a migration" },
        { { SUPPORTED }, RUN_STATE_INMIGRATE, FIXTURE_LOADING, false,
          "cannot be added during a migration" },
        { { }, RUN_STATE_RUNNING, FIXTURE_MIGRATING | FIXTURE_LOADING },
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        const NetdevTapOptions *o = &cases[i].tap;
        bool supported = o->local_migration_supported || o->cpr;
        g_autoptr(TapLocal) local = NULL;
        Error *err = NULL;
        bool ok;

        fixture.runstate = cases[i].runstate;
        fixture.mode = cases[i].mode;
        ok = tap_local_new(o, "net0", &local, &err);
        if (cases[i].error) {
            g_assert_false(ok);
            g_assert_null(local);
            assert_contains(error_get_pretty(err), "netdev 'net0'");
            assert_contains(error_get_pretty(err), cases[i].error);
        } else {
            g_assert_true(ok);
            g_assert_cmpint(tap_local_is_incoming(local), ==,
                            cases[i].incoming);
            g_assert_cmpint(!!local, ==, supported);
        }
        error_free(err);
    }
    fixture.mode = FIXTURE_LOCAL;
    g_assert_cmpuint(fixture.handlers, ==, 0);
}

/* A NIC keeps a deleted netdev; another one must not be taken for it */
static void test_options_same_id(void)
{
    g_autoptr(TapLocal) local = NULL;
    Error *err = NULL;

    new_target(&options);
    g_assert_false(tap_local_new(&options, "net0", &local, &err));
    assert_contains(error_get_pretty(err), "unplug the NIC first");
    error_free(err);
    tap_local_fixture_free();

    g_assert_true(tap_local_new(&options, "net0", &local, &error_abort));
}

/* Queues that are not those of a TAP, or that kernel-state=on cannot verify */
static void test_add_queue(void)
{
    NetdevTapOptions on = options;
    g_autoptr(TapLocal) local = NULL;
    g_autofree TAPState *s = g_new0(TAPState, 1);
    Error *err = NULL;

    fixture.runstate = RUN_STATE_RUNNING;
    on.kernel_state = ON_OFF_AUTO_ON;
    kernel_start(true);
    g_assert_true(tap_local_new(&on, "net0", &local, &error_abort));
    s->fd = tap;
    kernel.get_errno = EPERM;
    g_assert_false(tap_local_add_queue(local, s, &err));
    assert_contains(error_get_pretty(err), "netdev 'net0' queue 0: ");
    assert_contains(error_get_pretty(err), "kernel-state=on, but TUNGETSTATE "
                    "failed: Operation not permitted");
    g_clear_pointer(&err, error_free);
    kernel.get_errno = EINVAL;
    g_assert_false(tap_local_add_queue(local, s, &err));
    assert_contains(error_get_pretty(err), "does not report TAP state");
    g_clear_pointer(&err, error_free);
    kernel.on = false;
    s->fd = null;
    g_assert_false(tap_local_add_queue(local, s, &err));
    assert_contains(error_get_pretty(err), "TUNGETIFF failed");
    error_free(err);
    g_assert_null(s->local);
    g_assert_true(tap_local_add_queue(NULL, s, &error_abort));
    g_assert_null(s->local);
}

/*
 * Kernel state
 */

static bool decode(const uint8_t *data, uint32_t size, struct tun_state *st,
                   bool *unknown, Error **errp)
{
    const TapKState ks = { .size = size, .data = (uint8_t *)data };

    return tap_kstate_decode(&ks, st, unknown, errp);
}

/* QEMU refuses state that lacks a part, and leaves out unknown groups */
static void test_kernel_state_format(void)
{
    const size_t size = sizeof(struct tun_state);
    const struct {
        uint32_t size;
        uint64_t mask;
        uint64_t decoded;
        const char *error;
    } cases[] = {
        { size, 0, 0 },
        { size, TUN_STATE_IFF, TUN_STATE_IFF },
        { 32, 0, 0 },
        { 32, TUN_STATE_IFF, 0, "32 bytes is damaged: iff.flags is missing" },
        { offsetof(struct tun_state, iff.flags) + 3, TUN_STATE_IFF, 0,
          "iff.flags is missing" },
        { offsetof(struct tun_state, iff.flags) + 4, TUN_STATE_IFF,
          TUN_STATE_IFF },
        { offsetof(struct tun_state, queue.flags) + 3, TUN_STATE_QUEUE, 0,
          "queue.flags is missing" },
        { TAP_KSTATE_MAX_SIZE, TUN_STATE_IFF, TUN_STATE_IFF },
        /* Groups of a newer QEMU, or that are not compared */
        { size, 1ULL << 63, 0 },
        { size, TUN_STATE_SOCKFILTER | TUN_STATE_FLOWS | TUN_STATE_QUEUES, 0 },
        { size, TUN_STATE_NETDEV | TUN_STATE_OWNER | TUN_STATE_IFF,
          TUN_STATE_IFF },
        { 32, 1ULL << 63, 0 },
    };
    g_autofree uint8_t *data = g_malloc0(TAP_KSTATE_MAX_SIZE);

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        Error *err = NULL;
        struct tun_state st;
        bool unknown;

        memcpy(data, &cases[i].mask, sizeof(cases[i].mask));
        g_assert_cmpint(decode(data, cases[i].size, &st, &unknown, &err), ==,
                        !cases[i].error);
        if (cases[i].error) {
            assert_contains(error_get_pretty(err), cases[i].error);
        } else {
            g_assert_cmphex(st.mask, ==, cases[i].decoded);
            g_assert_cmpint(unknown, ==, cases[i].mask != cases[i].decoded);
        }
        error_free(err);
    }
}

/* What a field means for a TAP that has another value */
typedef enum Outcome { REFUSED, OBSERVED, IGNORED } Outcome;

typedef struct FieldCase {
    const char *name;
    size_t offset;
    size_t size;
    uint32_t bits;              /* to invert; 0: one in each byte */
    Outcome outcome;
    bool guard;                 /* refused, and cannot be restored */
    bool stays;                 /* is not in the stream */
} FieldCase;

#define FIELD_BITS(_field, _outcome, _bits, ...)                            \
    { #_field, offsetof(struct tun_state, _field),                          \
      sizeof_field(struct tun_state, _field), _bits, _outcome, __VA_ARGS__ }
#define FIELD(_field, _outcome, ...)                                        \
    FIELD_BITS(_field, _outcome, 0, __VA_ARGS__)
#define GUARD .guard = true
#define STAYS .stays = true

static const FieldCase field_cases[] = {
    FIELD(identity.netns, OBSERVED),
    FIELD(identity.ifindex, REFUSED, GUARD),
    FIELD(identity.type, REFUSED, GUARD),
    FIELD(identity.reserved, IGNORED),
    FIELD(netdev.mtu, OBSERVED, STAYS),
    FIELD(netdev.up, OBSERVED, STAYS),
    FIELD(netdev.addr_len, IGNORED),
    FIELD(netdev.reserved, IGNORED),
    FIELD(netdev.name, OBSERVED, STAYS),
    FIELD(netdev.addr, OBSERVED, STAYS),
    FIELD(iff.flags, REFUSED, GUARD),
    FIELD_BITS(iff.flags, REFUSED, IFF_VNET_HDR, GUARD),
    FIELD_BITS(iff.flags, OBSERVED, IFF_PERSIST),
    FIELD(iff.reserved, IGNORED),
    FIELD(owner.uid, OBSERVED, STAYS),
    FIELD(owner.gid, OBSERVED, STAYS),
    FIELD(owner.flags, IGNORED),
    FIELD(owner.reserved, IGNORED),
    FIELD(vnet.hdr_size, REFUSED),
    FIELD(vnet.flags, REFUSED),
    FIELD(offload.enabled, REFUSED),
    FIELD(offload.wanted, OBSERVED),
    FIELD(offload.supported, IGNORED),
    FIELD(offload.reserved, IGNORED),
    FIELD(sndbuf.size, REFUSED),
    FIELD(sndbuf.reserved, IGNORED),
    FIELD(link.carrier, REFUSED),
    FIELD(link.msg_enable, OBSERVED),
    FIELD(coalesce.rx_frames, OBSERVED, STAYS),
    FIELD(coalesce.reserved, IGNORED),
    FIELD(txfilter.count, REFUSED),
    FIELD(txfilter.reserved, IGNORED),
    FIELD(txfilter.hash, REFUSED),
    FIELD(txfilter.addr, REFUSED),
    FIELD(steering.id, REFUSED),
    FIELD(steering.type, REFUSED),
    FIELD(steering.tag, REFUSED),
    FIELD(steering.action, IGNORED),
    FIELD(steering.fd, IGNORED),
    FIELD(filter.id, REFUSED),
    FIELD(filter.type, REFUSED),
    FIELD(filter.tag, REFUSED),
    FIELD(filter.action, IGNORED),
    FIELD(filter.fd, IGNORED),
    FIELD(xdp.drv_prog_id, OBSERVED, STAYS),
    FIELD(xdp.skb_prog_id, OBSERVED, STAYS),
    FIELD(queue.index, IGNORED),
    FIELD_BITS(queue.flags, REFUSED, TUN_STATE_QUEUE_ATTACHED),
    FIELD_BITS(queue.flags, REFUSED, TUN_STATE_QUEUE_NAPI, GUARD),
    FIELD_BITS(queue.flags, REFUSED, TUN_STATE_QUEUE_NAPI_FRAGS, GUARD),
    FIELD_BITS(queue.flags, REFUSED, TUN_STATE_QUEUE_SOCKFILTER),
    FIELD_BITS(queue.flags, IGNORED, TUN_STATE_QUEUE_SELF),
    FIELD_BITS(queue.flags, IGNORED, 1U << 31),
    FIELD(queue.ring_size, IGNORED),
    FIELD(queue.ring_len, IGNORED),
};

static void check_differences(const struct tun_state *expected,
                              const struct tun_state *actual,
                              const FieldCase *field, Outcome outcome)
{
    unsigned int guard = BIT(TAP_KPOLICY_GUARD);
    unsigned int verified = BIT(TAP_KPOLICY_VERIFIED);
    g_autofree char *refused = NULL, *observed = NULL, *one = NULL;

    refused = tap_kstate_differences(expected, actual, guard | verified);
    observed = tap_kstate_differences(expected, actual,
                                      BIT(TAP_KPOLICY_OBSERVED));
    if (outcome == REFUSED) {
        one = tap_kstate_differences(expected, actual,
                                     field->guard ? guard : verified);
        assert_contains(refused, field->name);
        assert_contains(refused, " instead of ");
        g_assert_cmpstr(refused, ==, one);
        g_assert_null(strchr(refused, ','));
    } else {
        g_assert_null(refused);
    }
    if (outcome == OBSERVED) {
        assert_contains(observed, field->name);
        assert_contains(observed, " instead of ");
        g_assert_null(strchr(observed, ','));
    } else {
        g_assert_null(observed);
    }
}

/* Compare @before with a copy that has another byte, directly and as stream */
static void check_field(const struct tun_state *before, const FieldCase *field,
                        size_t byte)
{
    g_autofree uint8_t *data = g_malloc0(TAP_KSTATE_MAX_SIZE);
    TapKState ks = { .data = data };
    struct tun_state after = *before, sent;
    uint8_t *p = (uint8_t *)&after + field->offset;
    bool unknown;

    if (field->bits) {
        *(uint32_t *)p ^= field->bits;
    } else {
        p[byte] ^= 1;
    }
    check_differences(before, &after, field, field->outcome);

    tap_kstate_encode(before, &ks);
    g_assert_true(tap_kstate_decode(&ks, &sent, &unknown, &error_abort));
    g_assert_false(unknown);
    g_assert_true(tap_kstate_complete(&sent, before));
    check_differences(&sent, &after, field,
                      field->stays ? IGNORED : field->outcome);
}

/* Change one byte after another of a state, which is then compared */
static void test_kernel_state_fields(void)
{
    uint64_t arrays = TUN_STATE_SOCKFILTER | TUN_STATE_FLOWS | TUN_STATE_QUEUES;
    bool covered[sizeof(struct tun_state)] = { };
    struct tun_state before, after;

    kernel_start(true);
    g_assert_true(tap_kstate_read(-1, false, &before, NULL, &error_abort));

    for (size_t i = 0; i < ARRAY_SIZE(field_cases); i++) {
        const FieldCase *field = &field_cases[i];

        for (size_t j = 0; j < (field->bits ? 1 : field->size); j++) {
            check_field(&before, field, j);
        }
        memset(covered + field->offset, true, field->size);
    }
    for (size_t i = 0; i < ARRAY_SIZE(kernel_groups); i++) {
        for (size_t j = 0; j < kernel_groups[i].size; j++) {
            g_assert_cmpint(covered[kernel_groups[i].offset + j], ==,
                            !(kernel_groups[i].bit & arrays));
        }
    }

    /* A device may get another index in another network namespace */
    after = before;
    after.identity.netns++;
    after.identity.ifindex++;
    g_assert_null(tap_kstate_differences(&before, &after,
                                         BIT(TAP_KPOLICY_GUARD) |
                                         BIT(TAP_KPOLICY_VERIFIED)));
    g_assert_cmpuint(kernel.holds, ==, 0);
    g_assert_cmpuint(kernel.sets, ==, 0);
    kernel.on = false;
}

/* Values as people write them */
static void test_kernel_state_text(void)
{
    g_autofree char *text = NULL;
    struct tun_state a, b;

    kernel_start(true);
    g_assert_true(tap_kstate_read(-1, false, &a, NULL, &error_abort));
    b = a;
    b.identity.netns = 4026532000;
    b.netdev.addr[5] = 0xfe;
    memcpy(b.netdev.name, "a\nb", 4);
    b.owner.uid = 1001;
    b.link.msg_enable = 0x10;
    text = tap_kstate_differences(&a, &b, BIT(TAP_KPOLICY_OBSERVED));
    g_assert_cmpstr(text, ==,
                    "identity.netns is 4026532000 instead of 4026531840, "
                    "netdev.name is a?b instead of tap0, "
                    "netdev.addr is 02:00:00:00:00:fe instead of "
                    "02:00:00:00:00:01, owner.uid is 1001 instead of 1000, "
                    "link.msg_enable is 0x10 instead of 0x7");
    kernel.on = false;
}

/* A macvtap has fewer groups: read, compare and restore those */
static void test_kernel_state_fewer_groups(void)
{
    g_autofree char *differences = NULL, *why = NULL;
    struct tun_state before, after;
    Error *err = NULL;

    kernel_start(true);
    kernel.without = ~(TUN_STATE_IDENTITY | TUN_STATE_IFF | TUN_STATE_VNET |
                       TUN_STATE_QUEUE);
    g_assert_true(tap_kstate_read(-1, true, &before, &why, &error_abort));
    g_assert_null(why);
    g_assert_cmphex(before.mask, ==, ~kernel.without);
    g_assert_true(tap_kstate_complete(&before, &before));
    after = before;
    after.supported |= TUN_STATE_LINK;
    g_assert_false(tap_kstate_complete(&before, &after));

    kernel.state.link.carrier++;
    kernel.state.vnet.hdr_size++;
    g_assert_true(tap_kstate_read(-1, false, &after, NULL, &error_abort));
    differences = tap_kstate_differences(&before, &after, UINT_MAX);
    g_assert_cmpstr(differences, ==, "vnet.hdr_size is 11 instead of 10");
    g_assert_null(tap_kstate_restore(-1, &before, &after));
    g_assert_cmphex(kernel.set.mask, ==, TUN_STATE_VNET);
    g_assert_cmpuint(kernel.state.vnet.hdr_size, ==, before.vnet.hdr_size);

    /* None that this QEMU knows */
    kernel.without = UINT64_MAX >> 1;
    g_assert_false(tap_kstate_read(-1, false, &after, &why, &err));
    g_assert_null(why);
    error_free(err);
    kernel.on = false;
}

/* A kernel that does not report state, or an LSM that forbids it */
static void test_kernel_state_older(void)
{
    static const struct {
        int error;
        const char *why;
    } cases[] = {
        { EINVAL, "this kernel does not report TAP state (TUNGETSTATE)" },
        { EPERM, "TUNGETSTATE failed: Operation not permitted" },
        { EACCES, "TUNGETSTATE failed: Permission denied" },
    };

    kernel_start(true);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        g_autofree char *why = NULL;
        struct tun_state st;

        kernel.get_errno = cases[i].error;
        g_assert_true(tap_kstate_read(tap, true, &st, &why, &error_abort));
        g_assert_cmpstr(why, ==, cases[i].why);
        g_assert_cmphex(st.supported, ==, 0);
        g_assert_cmphex(st.mask, ==, TUN_STATE_IFF | TUN_STATE_VNET |
                        TUN_STATE_QUEUE);
        g_assert_cmpstr((char *)st.netdev.name, ==, "tap0");
        g_assert_cmphex(st.iff.flags, ==, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR);
        g_assert_cmpuint(st.vnet.hdr_size, ==, HDR_LEN);
        g_assert_cmpuint(st.vnet.flags, ==, 0);
        g_assert_cmphex(st.queue.flags, ==, TUN_STATE_QUEUE_ATTACHED);
    }
    g_assert_cmpuint(applied_total(), ==, 0);
    kernel.on = false;
}

static char *restore(const struct tun_state *expected)
{
    struct tun_state actual;

    g_assert_true(tap_kstate_read(-1, false, &actual, NULL, &error_abort));
    return tap_kstate_restore(-1, expected, &actual);
}

/* Restore what is verified and differs, one group after another */
static void test_kernel_state_restore(void)
{
    struct tun_state *now = &kernel.state, saved, before;
    g_autofree char *err = NULL;

    kernel_start(true);
    g_assert_true(tap_kstate_read(-1, true, &before, NULL, &error_abort));
    saved = *now;
    g_assert_null(restore(&before));
    g_assert_cmpuint(kernel.sets, ==, 0);

    /* An administrator's settings stay, also in groups that are restored */
    now->identity.netns++;
    now->netdev.mtu++;
    now->iff.flags ^= IFF_PERSIST;
    now->owner.uid++;
    now->offload.wanted++;
    now->coalesce.rx_frames++;
    now->link.msg_enable++;
    now->xdp.drv_prog_id++;
    g_assert_null(restore(&before));
    g_assert_cmpuint(kernel.sets, ==, 0);
    now->link.carrier ^= 1;
    now->sndbuf.size--;
    now->txfilter.addr[7][5]++;
    now->steering.id = now->steering.type = 0;
    now->filter.tag[7]++;
    kernel.queue[0].flags ^= TUN_STATE_QUEUE_SOCKFILTER;
    now->queue.ring_len++;
    g_assert_null(restore(&before));
    g_assert_cmpuint(kernel.sets, ==, 6);
    g_assert_cmphex(kernel.set_mask, ==, TUN_STATE_LINK | TUN_STATE_SNDBUF |
                    TUN_STATE_TXFILTER | TUN_STATE_STEERING | TUN_STATE_FILTER |
                    TUN_STATE_QUEUE);
    g_assert_cmphex(kernel.queue[0].flags, ==, TUN_STATE_QUEUE_ATTACHED);
    g_assert_cmpuint(now->link.msg_enable, ==, saved.link.msg_enable + 1);
    now->link.msg_enable--;
    kernel_copy(&saved, now, TUN_STATE_IDENTITY | TUN_STATE_NETDEV |
                TUN_STATE_IFF | TUN_STATE_OWNER | TUN_STATE_OFFLOAD |
                TUN_STATE_COALESCE | TUN_STATE_XDP | TUN_STATE_QUEUE);
    g_assert_cmpmem(now, sizeof(*now), &saved, sizeof(saved));

    /* TUNSETOFFLOAD has changed both */
    now->offload.enabled++;
    now->offload.wanted = now->offload.enabled;
    g_assert_null(restore(&before));
    g_assert_cmpuint(kernel.sets, ==, 7);
    g_assert_cmphex(kernel.set.mask, ==, TUN_STATE_OFFLOAD);
    g_assert_cmpuint(now->offload.enabled, ==, saved.offload.enabled);
    g_assert_cmpuint(now->offload.wanted, ==, before.offload.wanted);

    /* TUNSETSTATE cannot change the guards */
    now->identity.ifindex++;
    now->iff.flags ^= IFF_VNET_HDR;
    kernel.queue[0].flags |= TUN_STATE_QUEUE_NAPI;
    now->vnet.hdr_size++;
    g_assert_null(restore(&before));
    g_assert_cmpuint(kernel.sets, ==, 8);
    g_assert_cmphex(kernel.set.mask, ==, TUN_STATE_VNET);
    kernel.queue[0].flags |= TUN_STATE_QUEUE_SOCKFILTER;
    g_assert_null(restore(&before));
    g_assert_cmphex(kernel.set.queue.flags, ==,
                    TUN_STATE_QUEUE_ATTACHED | TUN_STATE_QUEUE_NAPI);

    /* One group that the kernel refuses does not keep the others */
    kernel.set_errno = EBADF;
    kernel.set_failed = TUN_STATE_STEERING | TUN_STATE_SNDBUF;
    kernel.set_mask = 0;
    now->vnet.hdr_size++;
    now->sndbuf.size--;
    now->steering.id++;
    now->filter.id++;
    err = restore(&before);
    g_assert_cmpstr(err, ==, "sndbuf: Bad file descriptor, "
                    "steering: Bad file descriptor");
    g_assert_cmphex(kernel.set_mask, ==, TUN_STATE_VNET | TUN_STATE_FILTER);
    g_assert_cmpuint(now->vnet.hdr_size, ==, before.vnet.hdr_size);
    g_assert_cmpuint(now->filter.id, ==, before.filter.id);
    g_assert_cmpuint(kernel.holds, ==, 1);
    kernel.on = false;
}

/* The real kernel's state, where it reports one */
static void test_kernel_state(void)
{
    NetdevTapOptions on = options;
    g_autoptr(GByteArray) data = g_byte_array_new();
    g_autofree uint8_t *bytes = g_malloc0(TAP_KSTATE_MAX_SIZE);
    TapKState ks = { .data = bytes };
    struct tun_state before, after;
    int sndbuf, changed = 4711;
    Stream stream;

    g_assert_true(tap_kstate_read(tap, false, &before, NULL, &error_abort));
    if (!before.supported) {
        g_test_skip("this kernel does not report TAP state");
        return;
    }
    on.kernel_state = ON_OFF_AUTO_ON;
    new_source(&on);
    hand_over(&stream);
    tap_local_fixture_free();
    tap_kstate_encode(&before, &ks);
    g_byte_array_set_size(data, FIELDS_SIZE);
    make_fields(data->data);
    append_kernel_state(data, ks.data, ks.size, false);
    g_assert_cmpmem(stream.data[0]->data, stream.data[0]->len, data->data,
                    data->len);

    new_target(&on);
    g_assert_true(load_all(&stream));
    tap_local_fixture_free();

    g_assert(!ioctl(tap, TUNGETSNDBUF, &sndbuf));
    g_assert(!ioctl(tap, TUNSETSNDBUF, &changed));
    new_target(&on);
    g_assert_false(load_all(&stream));
    assert_error("sndbuf.size is 4711 instead of ");
    tap_local_fixture_fail();
    tap_local_fixture_free();

    /* The source restores its state */
    g_assert_true(tap_kstate_read(tap, false, &after, NULL, &error_abort));
    g_assert_null(tap_kstate_restore(tap, &before, &after));
    g_assert_true(tap_kstate_read(tap, false, &after, NULL, &error_abort));
    g_assert_null(tap_kstate_differences(&before, &after, UINT_MAX));
    g_assert(!ioctl(tap, TUNGETSNDBUF, &changed));
    g_assert_cmpint(changed, ==, sndbuf);
    free_stream(&stream);
}

/* Only a source holds programs, and each side sets what it has read itself */
static void test_kernel_state_of_stream(void)
{
    g_autoptr(GByteArray) data = NULL;
    struct tun_state st;
    Stream stream;

    kernel_start(true);
    new_source(&automatic);
    g_assert_true(tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_SETUP));
    g_assert_cmpuint(kernel.holds, ==, 0);
    hand_over(&stream);
    g_assert_cmpuint(kernel.holds, ==, 1);
    g_assert_cmpuint(kernel.sets, ==, 0);

    /* The source resumes and restores its own state */
    kernel.state.sndbuf.size--;
    tap_local_fixture_run(RUN_STATE_RUNNING);
    g_assert_cmpuint(kernel.sets, ==, 1);
    g_assert_cmphex(kernel.set.mask, ==, TUN_STATE_SNDBUF);
    assert_contains(fixture.local->restored, "sndbuf.size");
    g_assert_null(fixture.local->failed);
    tap_local_fixture_run(RUN_STATE_PAUSED);
    kernel.state.sndbuf.size--;
    tap_local_fixture_run(RUN_STATE_RUNNING);
    g_assert_cmpuint(kernel.sets, ==, 1);
    kernel.state.sndbuf.size++;
    tap_local_fixture_free();
    g_assert_cmpuint(kernel.holds, ==, 1);

    /* A target compares, and sets nothing before it starts */
    new_target(&automatic);
    kernel.gets = 0;
    g_assert_true(load_all(&stream));
    g_assert_cmpuint(kernel.gets, >, 0);
    g_assert_null(fixture.local->unverified);
    g_assert_cmpuint(kernel.sets, ==, 1);
    kernel.state.sndbuf.size--;
    tap_local_fixture_run(RUN_STATE_RUNNING);
    g_assert_cmpuint(kernel.sets, ==, 2);
    g_assert_cmphex(kernel.set.mask, ==, TUN_STATE_SNDBUF);
    g_assert_cmpint(kernel.state.sndbuf.size, ==, INT_MAX);
    tap_local_fixture_free();
    g_assert_cmpuint(kernel.holds, ==, 1);

    new_target(&automatic);
    kernel.state.sndbuf.size--;
    g_assert_false(load_all(&stream));
    assert_error("the kernel state is not the expected one: sndbuf.size");
    kernel.state.sndbuf.size++;
    tap_local_fixture_fail();
    tap_local_fixture_free();

    /* Migrate on without having run: only what this QEMU reads itself counts */
    data = new_section();
    st = kernel.state;
    st.mask = TUN_STATE_OFFLOAD | TUN_STATE_NETDEV;
    st.offload.wanted++;
    append_kernel_state(data, &st, sizeof(st), false);
    for (int lacks = 0; lacks < 2; lacks++) {
        kernel.get_errno = lacks ? EINVAL : 0;
        new_target(&automatic);
        g_assert_true(tap_local_fixture_load(0, data->data, data->len, tap, 1));
        g_assert_true(tap_local_fixture_loaded());
        fixture.runstate = RUN_STATE_PAUSED;
        hand_over_to_nobody();
        kernel.get_errno = 0;
        kernel.state.offload.enabled++;
        kernel.state.offload.wanted = kernel.state.offload.enabled;
        tap_local_fixture_run(RUN_STATE_RUNNING);
        /* What could not be read stays */
        g_assert_cmpuint(kernel.sets, ==, 3);
        g_assert_cmpuint(kernel.state.offload.enabled, ==, lacks);
        g_assert_cmpuint(kernel.state.offload.wanted, ==, lacks);
        tap_local_fixture_free();
    }
    g_assert_cmpuint(kernel.holds, ==, 1);
    free_stream(&stream);
    kernel.on = false;
}

/* A difference that does no harm is logged once, and nothing is restored */
static void test_kernel_state_observed(void)
{
    Stream stream;

    kernel_start(true);
    new_source(&automatic);
    hand_over(&stream);
    kernel.state.netdev.mtu = 9000;
    kernel.state.iff.flags |= IFF_PERSIST;
    tap_local_fixture_run(RUN_STATE_RUNNING);
    assert_contains(tap_local_fixture_take_log(),
                    "netdev 'net0': somebody changed the TAP during the "
                    "migration, which does no harm: netdev.mtu is 9000 instead "
                    "of 1500, iff.flags is ");
    assert_contains(fixture.local->observed, "netdev.mtu is 9000");
    g_assert_null(fixture.local->restored);
    g_assert_null(fixture.local->failed);
    g_assert_cmpuint(kernel.sets, ==, 0);
    tap_local_fixture_free();

    /* The stream has no group netdev */
    new_target(&automatic);
    g_assert_true(load_all(&stream));
    g_assert_cmpstr(fixture.local->observed, ==,
                    "iff.flags is 0x5802 instead of 0x5002");
    tap_local_fixture_free();
    free_stream(&stream);
    kernel.on = false;
}

/*
 * Kernel state of another version, or none: kernel-state=auto hands over and
 * says so, kernel-state=on refuses
 */
static void test_kernel_state_unverified(void)
{
#define MACVTAP_WITHOUT (TUN_STATE_TXFILTER | TUN_STATE_STEERING |          \
                         TUN_STATE_FILTER | TUN_STATE_LINK |                \
                         TUN_STATE_OWNER | TUN_STATE_COALESCE | TUN_STATE_XDP)
    static const struct {
        const char *what;
        int get_errno;
        uint64_t without, source, more, fewer;
        uint32_t longer;
        bool none;
        const char *why;            /* NULL: verified */
    } cases[] = {
        { "the same" },
        { "a longer struct", .longer = 8 },
        { "unknown groups", .more = 1ULL << 40, .longer = 8,
          .why = "do not know the same parts of the state" },
        { "fewer groups", .fewer = TUN_STATE_STEERING,
          .why = "do not know the same parts of the state" },
        { "macvtap", .without = MACVTAP_WITHOUT, .source = MACVTAP_WITHOUT },
        { "macvtap, and a source that knows more", .without = MACVTAP_WITHOUT,
          .why = "do not know the same parts of the state" },
        { "no state", .none = true, .why = "the migration stream holds no "
                                           "kernel state" },
        { "LSM", .get_errno = EPERM,
          .why = "TUNGETSTATE failed: Operation not permitted" },
        { "LSM on both sides", .get_errno = EACCES, .none = true,
          .why = "TUNGETSTATE failed: Permission denied" },
        { "older kernel", .get_errno = EINVAL, .none = true,
          .why = "this kernel does not report TAP state" },
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        g_autoptr(GByteArray) data = NULL;
        g_autofree uint8_t *bytes = g_malloc0(TAP_KSTATE_MAX_SIZE);
        TapKState ks = { .data = bytes };
        struct tun_state st;

        g_test_message("%s", cases[i].what);
        kernel_start(true);
        kernel.without = cases[i].source;
        g_assert_true(tap_kstate_read(tap, false, &st, NULL, &error_abort));
        tap_kstate_encode(&st, &ks);
        memcpy(&st.mask, bytes, sizeof(st.mask));
        st.mask = (st.mask & ~cases[i].fewer) | cases[i].more;
        memcpy(bytes, &st.mask, sizeof(st.mask));
        data = new_section();
        if (!cases[i].none) {
            append_kernel_state(data, bytes, ks.size + cases[i].longer, false);
        }
        kernel.get_errno = cases[i].get_errno;
        kernel.without = cases[i].without;
        for (int on = 0; on < 2; on++) {
            NetdevTapOptions o = options;
            bool ok;

            o.kernel_state = on ? ON_OFF_AUTO_ON : ON_OFF_AUTO_AUTO;
            new_target(&o);
            ok = tap_local_fixture_load(0, data->data, data->len, tap, 1);
            g_assert_cmpint(ok, ==, !on || !cases[i].why);
            if (!ok) {
                assert_error("kernel-state=on, but ");
                tap_local_fixture_fail();
            } else if (cases[i].why) {
                assert_contains(fixture.local->unverified, cases[i].why);
                assert_contains(tap_local_fixture_take_log(),
                                "it is handed over unverified");
            } else {
                g_assert_null(fixture.local->unverified);
                g_assert_cmpstr(fixture.log->str, ==, "");
            }
            tap_local_fixture_free();
        }
    }
    kernel.on = false;
}

/*
 * A source whose kernel does not tell hands over, and says so once a netdev and
 * migration, while the guest runs
 */
static void test_kernel_state_unverified_source(void)
{
    Stream stream;
    const char *log;

    kernel_start(true);
    kernel.get_errno = EPERM;
    new_source_queues(&automatic, 3);
    g_assert_true(tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_SETUP));
    log = tap_local_fixture_take_log();
    assert_contains(log, "netdev 'net0': TUNGETSTATE failed: Operation not "
                    "permitted: it is handed over unverified");
    g_assert_null(strstr(strstr(log, "unverified") + 1, "unverified"));
    tap_local_fixture_run(RUN_STATE_FINISH_MIGRATE);
    save_all(&stream);
    g_assert_cmpstr(fixture.log->str, ==, "");
    for (unsigned int i = 0; i < 3; i++) {
        g_assert_cmpuint(stream.data[i]->len, ==, FIELDS_SIZE);
    }
    g_assert_true(tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_FAILED));
    assert_contains(tap_local_fixture_take_log(), "the migration failed");
    free_stream(&stream);

    hand_over(&stream);
    assert_contains(tap_local_fixture_take_log(), "it is handed over unverified");
    tap_local_fixture_run(RUN_STATE_RUNNING);
    g_assert_cmpuint(kernel.sets, ==, 0);
    tap_local_fixture_free();
    free_stream(&stream);
    kernel.on = false;
}

static void keep_sent(const void *data, size_t size)
{
    /* In two pieces, as a guest may pass a packet */
    struct iovec iov[] = {
        { (void *)data, size / 3 },
        { (void *)data + size / 3, size - size / 3 },
    };

    g_assert_true(tap_pending_keep_sent(queue(0), iov, ARRAY_SIZE(iov)));
}

/* Keep a received packet, if @received, and @count sent ones */
static void keep_packets(bool received, int count, GByteArray *packets,
                         GByteArray *expected)
{
    uint8_t packet[300];

    if (received) {
        memset(packet, 0xa5, sizeof(packet));
        tap_pending_keep_received(queue(0), packet, 200);
        /* The last one counts */
        memset(packet, 0x5a, sizeof(packet));
        tap_pending_keep_received(queue(0), packet, 100);
    }
    for (int i = 0; i < count; i++) {
        uint32_t size = 100 * (i + 1);

        memset(packet, i, sizeof(packet));
        keep_sent(packet, size);
        g_byte_array_append(expected, packet, size);
        append_be32(packets, size);
        g_byte_array_append(packets, packet, size);
    }
}

/*
 * States of a netdev
 */

/* OWNER, SUSPENDED, and back: the migration failed */
static void test_state_source_resumes(void)
{
    Stream stream;

    new_source_queues(&options, 3);
    check_state(TAP_HAND_OVER_OWNER, true);
    g_assert_true(tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_SETUP));
    check_state(TAP_HAND_OVER_OWNER, true);
    tap_local_fixture_run(RUN_STATE_FINISH_MIGRATE);
    check_state(TAP_HAND_OVER_OWNER, true);
    save_all(&stream);
    check_state(TAP_HAND_OVER_SUSPENDED, true);

    /* The VM that ran before starts first */
    tap_local_fixture_run(RUN_STATE_RUNNING);
    check_state(TAP_HAND_OVER_OWNER, true);
    g_assert_true(tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_FAILED));
    check_state(TAP_HAND_OVER_OWNER, true);
    assert_contains(tap_local_fixture_take_log(), "netdev 'net0': the "
                    "migration failed with its 3 queue(s) in the stream");
    free_stream(&stream);

    /* A VM that was paused stays so */
    tap_local_fixture_run(RUN_STATE_PAUSED);
    check_state(TAP_HAND_OVER_OWNER, true);
    hand_over_to_nobody();
    check_state(TAP_HAND_OVER_SUSPENDED, true);
    g_assert_true(tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_FAILED));
    check_state(TAP_HAND_OVER_SUSPENDED, true);
    assert_contains(tap_local_fixture_take_log(), "the migration failed");

    /* SUSPENDED and handed over again */
    hand_over_to_nobody();
    check_state(TAP_HAND_OVER_SUSPENDED, true);
    fixture.mode |= FIXTURE_CANCELLED;
    g_assert_true(tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_FAILED));
    g_assert_cmpstr(fixture.log->str, ==, "");
    fixture.mode = FIXTURE_LOCAL;
    tap_local_fixture_run(RUN_STATE_RUNNING);
    check_state(TAP_HAND_OVER_OWNER, true);

    /* A migration that fails before it comes to the netdev */
    g_assert_true(tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_SETUP));
    g_assert_true(tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_FAILED));
    check_state(TAP_HAND_OVER_OWNER, true);
    g_assert_cmpstr(fixture.log->str, ==, "");
    tap_local_fixture_free();
}

/* SUSPENDED, HANDED_OVER, and back: the target is gone, an operator resumes */
static void test_state_handed_over(void)
{
    new_source_queues(&options, 3);
    hand_over_to_nobody();
    check_state(TAP_HAND_OVER_SUSPENDED, true);

    /* Complete, before the notifier is called */
    fixture.runstate = RUN_STATE_POSTMIGRATE;
    check_state(TAP_HAND_OVER_SUSPENDED, false);
    g_assert_true(tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_DONE));
    check_state(TAP_HAND_OVER_HANDED_OVER, false);

    /* Another migration, without the TAP: the target still owns it */
    fixture.mode = 0;
    for (int done = 0; done < 2; done++) {
        g_assert_true(tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_SETUP));
        check_state(TAP_HAND_OVER_HANDED_OVER, false);
        g_assert_true(tap_local_fixture_outgoing(done ?
                                                 MIG_EVENT_PRECOPY_DONE :
                                                 MIG_EVENT_PRECOPY_FAILED));
        check_state(TAP_HAND_OVER_HANDED_OVER, false);
    }
    g_assert_cmpstr(fixture.log->str, ==, "");
    fixture.mode = FIXTURE_LOCAL;

    tap_local_fixture_run(RUN_STATE_RUNNING);
    check_state(TAP_HAND_OVER_OWNER, true);

    /* A migration without the TAP that completes */
    fixture.mode = 0;
    g_assert_true(tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_SETUP));
    tap_local_fixture_run(RUN_STATE_FINISH_MIGRATE);
    fixture.runstate = RUN_STATE_POSTMIGRATE;
    check_state(TAP_HAND_OVER_OWNER, true);
    g_assert_true(tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_DONE));
    check_state(TAP_HAND_OVER_OWNER, true);
    fixture.mode = FIXTURE_LOCAL;

    /* A migration with the TAP that fails */
    hand_over_to_nobody();
    fixture.runstate = RUN_STATE_POSTMIGRATE;
    check_state(TAP_HAND_OVER_SUSPENDED, false);
    g_assert_true(tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_FAILED));
    check_state(TAP_HAND_OVER_SUSPENDED, true);
    tap_local_fixture_free();
}

/* The operator resumes the source before QEMU tells that it is complete */
static void test_state_resumed_before_done(void)
{
    new_source(&options);
    hand_over_to_nobody();
    tap_local_fixture_run(RUN_STATE_RUNNING);
    check_state(TAP_HAND_OVER_OWNER, true);
    g_assert_true(tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_DONE));
    check_state(TAP_HAND_OVER_OWNER, true);
    tap_local_fixture_free();
}

/* WAITING, ARRIVED, OWNER */
static void test_state_target(void)
{
    Error *err = NULL;
    Stream stream;

    new_source_queues(&options, 3);
    hand_over(&stream);
    tap_local_fixture_free();

    new_target_queues(&options, 3);
    check_state(TAP_HAND_OVER_WAITING, false);
    g_assert_false(tap_local_check_ready(queue(2), false, &err));
    assert_contains(error_get_pretty(err), "netdev 'net0' queue 0: ");
    error_free(err);
    g_assert_true(load_all(&stream));
    check_state(TAP_HAND_OVER_ARRIVED, false);
    for (unsigned int i = 0; i < 3; i++) {
        g_assert_cmpstr(fixture.info[i], ==, "multi0");
        g_assert_true(tap_local_check_ready(queue(i), true, &error_abort));
        g_assert_true(fixture.queues[i]->nc.not_moved);
    }
    g_assert_cmpstr(fixture.local->ifname, ==, "multi0");
    g_assert_false(tap_local_is_incoming(fixture.local));
    tap_local_fixture_run(RUN_STATE_RUNNING);
    check_state(TAP_HAND_OVER_OWNER, true);

    /* Nobody announces the NIC, until the VM has moved in another way */
    g_assert_true(fixture.queues[0]->nc.not_moved);
    tap_local_fixture_run(RUN_STATE_PAUSED);
    for (unsigned int i = 0; i < 3; i++) {
        g_assert_false(fixture.queues[i]->nc.not_moved);
    }
    tap_local_fixture_run(RUN_STATE_RUNNING);

    /* Events of another incoming migration mean nothing to it */
    tap_local_fixture_fail();
    g_assert_true(tap_local_fixture_loaded());
    check_state(TAP_HAND_OVER_OWNER, true);
    g_assert_cmpstr(fixture.log->str, ==, "");
    tap_local_fixture_free();
    free_stream(&stream);
}

/* WAITING or ARRIVED, and back: the source resumes */
static void test_state_given_back(void)
{
    int fd = tap_local_fixture_next_fd();
    Stream stream;

    new_source_queues(&options, 3);
    hand_over(&stream);
    tap_local_fixture_free();
    fd = tap_local_fixture_next_fd();

    new_target_queues(&options, 3);
    for (unsigned int count = 0; count <= 4; count++) {
        for (unsigned int i = 0; i < MIN(count, 3); i++) {
            g_assert_true(tap_local_fixture_load(i, stream.data[i]->data,
                                                 stream.data[i]->len,
                                                 stream.fd[i], 1));
        }
        /* Some queues, all of them, or all and the end of the stream */
        if (count == 4) {
            g_assert_true(tap_local_fixture_loaded());
        }
        tap_local_fixture_fail();
        check_state(TAP_HAND_OVER_WAITING, false);
        g_assert_cmpint(tap_local_fixture_next_fd(), ==, fd);
        for (unsigned int i = 0; i < 3; i++) {
            g_assert_null(fixture.info[i]);
            g_assert_cmpint(fixture.queues[i]->fd, ==, -1);
        }
    }
    g_assert_true(load_all(&stream));
    check_state(TAP_HAND_OVER_ARRIVED, false);
    tap_local_fixture_free();
    free_stream(&stream);
}

/* A stream that does not have all queues */
static void test_state_queue_missing(void)
{
    Stream stream;

    new_source_queues(&options, 2);
    hand_over(&stream);
    tap_local_fixture_free();

    new_target_queues(&options, 3);
    g_assert_false(load_all(&stream));
    assert_error("netdev 'net0' queue 2: its file descriptor is not in the "
                 "migration stream, which has 2 of the 3 queues");
    g_assert_cmpint(fixture.local->state, ==, TAP_HAND_OVER_WAITING);

    /* The virtual machine starts all the same: it has no network */
    tap_local_fixture_run(RUN_STATE_RUNNING);
    assert_contains(tap_local_fixture_take_log(), "2 of the 3 queues");
    g_assert_cmpint(fixture.local->state, ==, TAP_HAND_OVER_WAITING);
    g_assert_false(fixture.reading[0]);
    tap_local_fixture_fail();
    check_state(TAP_HAND_OVER_WAITING, false);
    tap_local_fixture_free();
    free_stream(&stream);
}

/* A target learns it from the kernel, if that reports it */
static bool kernel_has_tunnel(void)
{
    struct tun_state st;

    return tap_kstate_read(tap, false, &st, NULL, NULL) &&
           (st.mask & TUN_STATE_OFFLOAD) && (st.offload.supported & 0x080);
}

/* ARRIVED, SUSPENDED: migrated on without having run here */
static void test_state_migrated_on(void)
{
    Stream stream, next;

    new_source_queues(&options, 3);
    for (unsigned int i = 0; i < 3; i++) {
        fixture.queues[i]->has_tunnel = kernel_has_tunnel();
    }
    hand_over(&stream);
    tap_local_fixture_free();

    new_target_queues(&options, 3);
    g_assert_true(load_all(&stream));
    fixture.runstate = RUN_STATE_PAUSED;
    hand_over(&next);
    check_state(TAP_HAND_OVER_SUSPENDED, true);
    for (unsigned int i = 0; i < 3; i++) {
        g_assert_cmpmem(next.data[i]->data, next.data[i]->len,
                        stream.data[i]->data, stream.data[i]->len);
    }
    fixture.runstate = RUN_STATE_POSTMIGRATE;
    g_assert_true(tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_DONE));
    check_state(TAP_HAND_OVER_HANDED_OVER, false);
    tap_local_fixture_free();
    free_stream(&next);
    free_stream(&stream);
}

/*
 * Outgoing migrations: the latch, refusals, repair
 */

static void check_needed(bool needed)
{
    for (unsigned int i = 0; i < fixture.count; i++) {
        GByteArray *data;
        int fd;

        data = tap_local_fixture_save(i, &fd);
        g_assert_null(fixture.error);
        g_assert_cmpint(!!data, ==, needed);
        if (data) {
            g_byte_array_free(data, true);
            close(fd);
        }
    }
}

/* Decide when the migration is set up, and forget it when the migration ends */
static void test_latch(void)
{
    static const MigrationEventType ends[] = { MIG_EVENT_PRECOPY_FAILED,
                                               MIG_EVENT_PRECOPY_DONE };

    for (size_t i = 0; i < ARRAY_SIZE(ends); i++) {
        new_source_queues(&options, 2);
        /* A snapshot is no migration */
        check_needed(false);
        check_state(TAP_HAND_OVER_OWNER, true);

        /* The parameter is reset while the migration runs */
        g_assert_true(tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_SETUP));
        fixture.mode = 0;
        tap_local_fixture_run(RUN_STATE_FINISH_MIGRATE);
        check_needed(true);
        check_state(TAP_HAND_OVER_SUSPENDED, true);
        g_assert_true(tap_local_fixture_outgoing(ends[i]));
        fixture.mode = FIXTURE_LOCAL;
        check_needed(false);
        tap_local_fixture_run(RUN_STATE_RUNNING);

        /* And set */
        fixture.mode = 0;
        g_assert_true(tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_SETUP));
        fixture.mode = FIXTURE_LOCAL;
        tap_local_fixture_run(RUN_STATE_FINISH_MIGRATE);
        check_needed(false);
        check_state(TAP_HAND_OVER_OWNER, true);
        g_assert_true(tap_local_fixture_outgoing(ends[i]));
        check_state(TAP_HAND_OVER_OWNER, true);
        tap_local_fixture_free();
    }
}

static void test_latch_cpr(void)
{
    new_source(&options);
    fixture.mode = FIXTURE_CPR;
    g_assert_true(tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_SETUP));
    tap_local_fixture_run(RUN_STATE_FINISH_MIGRATE);
    check_needed(true);
    fixture.runstate = RUN_STATE_POSTMIGRATE;
    g_assert_true(tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_DONE));
    check_state(TAP_HAND_OVER_HANDED_OVER, false);
    fixture.mode = FIXTURE_LOCAL;
    tap_local_fixture_free();
}

/* A deleted netdev that a NIC still uses is not on the other side */
static void test_latch_netdev_deleted(void)
{
    new_source(&options);
    fixture.peer_deleted = true;
    g_assert_true(tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_SETUP));
    tap_local_fixture_run(RUN_STATE_FINISH_MIGRATE);
    check_needed(false);
    check_state(TAP_HAND_OVER_OWNER, true);
    g_assert_true(tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_FAILED));

    /* A netdev without a NIC is handed over */
    fixture.queues[0]->nc.peer = NULL;
    g_assert_true(tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_SETUP));
    check_needed(true);
    tap_local_fixture_free();
}

static void test_set_up_refused(void)
{
    NetdevTapOptions on = options;

    new_source(&options);
    fixture.mode |= FIXTURE_NO_FD_PASS;
    g_assert_false(tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_SETUP));
    assert_error("netdev 'net0' cannot be handed over: parameter 'local' and "
                 "mode cpr-transfer require a channel that passes file "
                 "descriptors: use a UNIX socket");
    check_needed(false);
    /* Not handed over: the channel does not matter */
    fixture.mode = FIXTURE_NO_FD_PASS;
    g_assert_true(tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_SETUP));
    fixture.mode = FIXTURE_LOCAL;
    tap_local_fixture_free();

    /* The kernel stops to tell, which kernel-state=on cannot accept */
    on.kernel_state = ON_OFF_AUTO_ON;
    kernel_start(true);
    new_source(&on);
    kernel.get_errno = EPERM;
    g_assert_false(tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_SETUP));
    assert_error("netdev 'net0' queue 0: kernel-state=on, but TUNGETSTATE "
                 "failed: Operation not permitted");
    check_needed(false);
    check_state(TAP_HAND_OVER_OWNER, true);
    kernel.get_errno = 0;
    g_assert_true(tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_SETUP));
    tap_local_fixture_free();
    kernel.on = false;

    new_target(&options);
    g_assert_false(tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_SETUP));
    assert_error("netdev 'net0' queue 0: its file descriptor is not in the "
                 "migration stream");
    check_needed(false);
    tap_local_fixture_free();
}

/* Delete a device, as "ip link del" does */
static void delete_link(const char *name)
{
    struct {
        struct nlmsghdr nl;
        struct ifinfomsg info;
        struct nlmsghdr ack;
        char room[64];
    } msg = {
        .nl = { .nlmsg_len = NLMSG_LENGTH(sizeof(msg.info)),
                .nlmsg_type = RTM_DELLINK,
                .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK },
        .info.ifi_index = if_nametoindex(name),
    };
    int fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);

    g_assert(fd >= 0 && msg.info.ifi_index);
    g_assert(send(fd, &msg, msg.nl.nlmsg_len, 0) == msg.nl.nlmsg_len);
    g_assert(recv(fd, &msg.ack, sizeof(msg) - offsetof(typeof(msg), ack),
                  0) > 0);
    close(fd);
    g_assert_cmpuint(if_nametoindex(name), ==, 0);
}

static void new_source_of_own_tap(const NetdevTapOptions *tap_options)
{
    int fd = tap_local_fixture_open_tun("gone0", IFF_TAP | IFF_NO_PI |
                                        IFF_VNET_HDR);

    tap_local_fixture_new(tap_options, &fd, 1, RUN_STATE_RUNNING);
}

/* Somebody deletes the TAP of a guest: it cannot be handed over */
static void test_gone_before(void)
{
    new_source_of_own_tap(&automatic);
    delete_link("gone0");
    g_assert_false(tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_SETUP));
    assert_error("netdev 'net0' queue 0: the TAP is gone: use netdev_del, and "
                 "add one again: ");
    check_needed(false);
    check_state(TAP_HAND_OVER_OWNER, true);
    tap_local_fixture_free();

    /* After the set-up */
    new_source_of_own_tap(&automatic);
    g_assert_true(tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_SETUP));
    delete_link("gone0");
    tap_local_fixture_run(RUN_STATE_FINISH_MIGRATE);
    for (int i = 0; i < 2; i++) {
        int fd;

        g_assert_null(tap_local_fixture_save(0, &fd));
        assert_error("the TAP is gone");
        check_state(TAP_HAND_OVER_OWNER, true);
    }
    tap_local_fixture_free();
}

/* A read of a running guest tells that the device is gone: leave it alone */
static void test_gone_while_running(void)
{
    static const int harmless[] = { EAGAIN, EIO, EBADF };
    uint8_t byte;

    new_source_of_own_tap(&automatic);
    for (size_t i = 0; i < ARRAY_SIZE(harmless); i++) {
        errno = harmless[i];
        tap_local_read_failed(queue(0));
        check_state(TAP_HAND_OVER_OWNER, true);
        g_assert_false(fixture.local->gone);
    }
    delete_link("gone0");
    g_assert_cmpint(read(fixture.queues[0]->fd, &byte, 1), ==, -1);
    tap_local_read_failed(queue(0));
    g_assert_true(fixture.local->gone);
    check_state(TAP_HAND_OVER_OWNER, true);
    g_assert_false(fixture.reading[0]);
    g_assert_false(tap_local_set(queue(0), TAP_SETTING_OFFLOAD, 0));
    tap_local_fixture_run(RUN_STATE_PAUSED);
    tap_local_fixture_run(RUN_STATE_RUNNING);
    check_state(TAP_HAND_OVER_OWNER, true);
    g_assert_cmpuint(applied_total(), ==, 0);
    tap_local_read_failed(NULL);
    tap_local_fixture_free();
}

/* The guest resumes without a network, and QEMU does not abort */
static void test_gone_while_suspended(void)
{
    Stream stream;

    for (int target = 0; target < 2; target++) {
        g_autoptr(GByteArray) expected = g_byte_array_new();
        g_autoptr(GByteArray) packets = g_byte_array_new();

        new_source_of_own_tap(&automatic);
        tap_local_fixture_run(RUN_STATE_FINISH_MIGRATE);
        keep_packets(false, 2, packets, expected);
        hand_over(&stream);
        if (target) {
            tap_local_fixture_free();
            new_target(&automatic);
            g_assert_true(load_all(&stream));
        }
        delete_link("gone0");
        /* Settings that the NIC model makes meanwhile */
        fixture.queues[0]->host_vnet_hdr_len = WIDE_HDR_LEN;
        g_assert_false(tap_local_set(queue(0), TAP_SETTING_OFFLOAD,
                                     TUN_F_CSUM));
        g_assert_false(tap_local_set(queue(0), TAP_SETTING_VNET_LE, 1));
        kernel_start(false);
        tap_local_fixture_run(RUN_STATE_RUNNING);
        check_state(TAP_HAND_OVER_OWNER, true);
        assert_contains(fixture.local->failed, "the TAP is gone");
        assert_contains(tap_local_fixture_take_log(),
                        "netdev 'net0': the TAP is not as the guest needs it");
        g_assert_cmpuint(fixture.restore_failed, ==, 1);
        g_assert_true(fixture.local->gone);

        /* Nor do later settings and packets */
        g_assert_false(tap_local_set(queue(0), TAP_SETTING_OFFLOAD, 0));
        g_assert_false(tap_pending_flush_sent(queue(0)));
        tap_local_fixture_run(RUN_STATE_PAUSED);
        tap_local_fixture_run(RUN_STATE_RUNNING);
        g_assert_cmpuint(applied_total(), ==, 0);
        g_assert_cmpuint(fixture.restore_failed, ==, 1);
        g_assert_false(tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_SETUP));
        assert_error("the TAP is gone");
        tap_local_fixture_free();
        free_stream(&stream);
    }
}

/* Let somebody else change what the guest needs, or put it right */
static void disturb(bool harm)
{
    kernel.state.vnet.hdr_size = harm ? 8 : HDR_LEN;
    kernel.state.vnet.flags = harm ? TUN_STATE_VNET_BE : TUN_STATE_VNET_LE;
    kernel.state.offload.enabled = harm ? TUN_F_CSUM : TUN_F_CSUM | TUN_F_TSO4;
    kernel.queue[1].flags = harm ? 0 : TUN_STATE_QUEUE_ATTACHED;
    kernel.queue[1].index = harm ? 0 : 1;
    kernel.queue[2].index = harm ? 1 : 2;
    kernel.queue[3].index = harm ? 2 : 3;
}

static void check_undisturbed(void)
{
    g_assert_cmpuint(kernel.state.vnet.hdr_size, ==, HDR_LEN);
    g_assert_cmphex(kernel.state.vnet.flags, ==, TUN_STATE_VNET_LE);
    g_assert_cmphex(kernel.state.offload.enabled, ==, TUN_F_CSUM | TUN_F_TSO4);
    g_assert_cmphex(kernel.queue[1].flags, ==, TUN_STATE_QUEUE_ATTACHED);
}

/* Settings of the guest's NIC, as a NIC model makes them */
static void set_nic(void)
{
    bool now = tap_local_may_change(queue(0));

    g_assert_cmpint(tap_local_set(queue(0), TAP_SETTING_VNET_LE, 1), ==, now);
    g_assert_cmpint(tap_local_set(queue(0), TAP_SETTING_VNET_BE, 0), ==, now);
    g_assert_cmpint(tap_local_set(queue(0), TAP_SETTING_OFFLOAD, TUN_F_CSUM |
                                  TUN_F_TSO4 | TUN_F_UFO), ==, now);
}

/* Somebody changes the TAP of a running guest: a migration puts it back */
static void test_put_back(void)
{
    const char *log;

    kernel_start(true);
    new_source_queues(&automatic, 3);
    set_nic();
    disturb(false);
    g_assert_true(tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_SETUP));
    g_assert_cmpuint(applied_total(), ==, 0);
    g_assert_cmpstr(fixture.log->str, ==, "");

    disturb(true);
    g_assert_true(tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_SETUP));
    check_undisturbed();
    log = tap_local_fixture_take_log();
    assert_contains(log, "netdev 'net0': somebody changed the TAP of this "
                    "guest, restored: ");
    assert_contains(log, "vnet.hdr_size is 8 instead of 10");
    assert_contains(log, "vnet.flags is 0x2 instead of 0x1");
    assert_contains(log, "offload.enabled is 0x1 instead of 0x3");
    assert_contains(log, "queue.flags is 0x0 instead of 0x1");
    /* Once, not once a queue */
    g_assert_cmpuint(applied[SET_HDR_LEN], ==, 1);
    g_assert_cmpuint(applied[SET_LE], ==, 1);
    g_assert_cmpuint(applied[SET_BE], ==, 1);
    g_assert_cmpuint(applied[SET_ATTACHED], ==, 1);
    g_assert_cmpuint(kernel.sets, ==, 0);
    check_state(TAP_HAND_OVER_OWNER, true);

    /* A migration that leaves the TAP alone, and one that is refused */
    disturb(true);
    memset(applied, 0, sizeof(applied));
    fixture.mode = 0;
    g_assert_true(tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_SETUP));
    fixture.mode = FIXTURE_LOCAL | FIXTURE_NO_FD_PASS;
    g_assert_false(tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_SETUP));
    g_clear_pointer(&fixture.error, g_free);
    fixture.mode = FIXTURE_LOCAL;
    g_assert_cmpuint(applied_total(), ==, 0);
    tap_local_fixture_free();

    /* Settings that no NIC model has made are none of QEMU's */
    new_source(&automatic);
    kernel.state.vnet.flags = TUN_STATE_VNET_LE;
    kernel.state.offload.enabled = TUN_F_CSUM;
    kernel.state.vnet.hdr_size = HDR_LEN;
    g_assert_true(tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_SETUP));
    g_assert_cmpuint(applied_total(), ==, 0);
    tap_local_fixture_free();
    kernel.on = false;
}

/* The same for a guest that was paused when its last migration failed */
static void test_put_back_suspended(void)
{
    kernel_start(true);
    new_source_queues(&automatic, 3);
    set_nic();
    disturb(false);
    tap_local_fixture_run(RUN_STATE_PAUSED);
    hand_over_to_nobody();
    g_assert_true(tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_FAILED));
    tap_local_fixture_take_log();

    disturb(true);
    kernel.state.sndbuf.size = 4711;
    g_assert_true(tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_SETUP));
    check_undisturbed();
    g_assert_cmpint(kernel.state.sndbuf.size, ==, INT_MAX);
    assert_contains(tap_local_fixture_take_log(), "netdev 'net0': somebody "
                    "changed the TAP during the migration, restoring: ");
    g_assert_null(fixture.local->failed);
    check_state(TAP_HAND_OVER_SUSPENDED, true);

    /* Nothing changed: nothing is written */
    kernel.sets = 0;
    memset(applied, 0, sizeof(applied));
    g_assert_true(tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_SETUP));
    g_assert_cmpuint(kernel.sets + applied_total(), ==, 0);
    g_assert_cmpstr(fixture.log->str, ==, "");
    tap_local_fixture_free();
    kernel.on = false;
}

/* A kernel without TUNGETSTATE tells less: the vnet header and the queues */
static void test_put_back_older(void)
{
    const int narrow = HDR_LEN, other = WIDE_HDR_LEN;
    int len;

    kernel_start(false);
    new_source(&automatic);
    g_assert_true(tap_local_set(queue(0), TAP_SETTING_OFFLOAD, TUN_F_CSUM));
    g_assert(!ioctl(tap, TUNSETVNETHDRSZ, &other));
    g_assert_true(tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_SETUP));
    g_assert(!ioctl(tap, TUNGETVNETHDRSZ, &len));
    g_assert_cmpint(len, ==, narrow);
    assert_contains(tap_local_fixture_take_log(),
                    "vnet.hdr_size is 12 instead of 10");
    tap_local_fixture_free();
}

/* What a source cannot repair is named once, in the log and in an event */
static void test_restore_failed(void)
{
    const char *log;

    kernel_start(true);
    new_source_queues(&automatic, 3);
    hand_over_to_nobody();
    kernel.set_failed = TUN_STATE_STEERING;
    kernel.set_errno = EBADF;
    kernel.state.steering.id = 0;
    kernel.state.vnet.hdr_size = 8;
    tap_local_fixture_run(RUN_STATE_RUNNING);
    check_state(TAP_HAND_OVER_OWNER, true);
    g_assert_cmpuint(kernel.state.vnet.hdr_size, ==, HDR_LEN);
    log = tap_local_fixture_take_log();
    assert_contains(log, "cannot be restored: steering.id is 0 instead of 3; "
                    "queue 0: steering: Bad file descriptor");
    g_assert_null(strstr(log, "queue 1"));
    assert_contains(fixture.local->failed, "steering.id is 0 instead of 3");
    g_assert_null(strstr(fixture.local->failed, "vnet.hdr_size"));
    assert_contains(fixture.local->restored,
                    "vnet.hdr_size is 8 instead of 10");
    g_assert_cmpuint(fixture.restore_failed, ==, 1);
    g_assert_true(tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_FAILED));
    tap_local_fixture_take_log();

    /* The next migration works, and so does its way back */
    hand_over_to_nobody();
    kernel.set_failed = 0;
    tap_local_fixture_run(RUN_STATE_RUNNING);
    g_assert_null(fixture.local->failed);
    g_assert_cmpuint(fixture.restore_failed, ==, 1);
    g_assert_cmpstr(fixture.log->str, ==, "");
    tap_local_fixture_free();
    kernel.on = false;
}

/* Another device instead: nothing can bring back the old one */
static void test_restore_guard(void)
{
    kernel_start(true);
    new_source(&automatic);
    hand_over_to_nobody();
    kernel.state.iff.flags |= IFF_MULTI_QUEUE;
    kernel.state.sndbuf.size = 4711;
    tap_local_fixture_run(RUN_STATE_RUNNING);
    g_assert_cmpstr(fixture.local->failed, ==,
                    "iff.flags is 0x5102 instead of 0x5002");
    g_assert_cmpint(kernel.state.sndbuf.size, ==, INT_MAX);
    g_assert_cmpuint(fixture.restore_failed, ==, 1);
    tap_local_fixture_free();
    kernel.on = false;
}

/*
 * Order of queues
 */

static void set_places(uint32_t a, uint32_t b, uint32_t c, uint32_t foreign)
{
    kernel.queue[0].index = a;
    kernel.queue[1].index = b;
    kernel.queue[2].index = c;
    kernel.queue[3].index = foreign;
}

/* Return the order of the netdev's queues, such as 012 */
static unsigned int order(void)
{
    unsigned int number = 0;

    for (uint32_t place = 0; place < 10; place++) {
        for (unsigned int i = 0; i < 3; i++) {
            if (kernel.queue[i].index == place) {
                number = number * 10 + i;
            }
        }
    }
    return number;
}

/* What counts is the order among the netdev's own queues */
static void test_places_source(void)
{
    static const uint32_t changed[][4] = {
        { 1, 0, 2, 3 }, { 2, 1, 0, 3 }, { 1, 2, 0, 3 }, { 2, 0, 1, 3 },
        { 3, 1, 0, 2 },
    };

    for (size_t i = 0; i < ARRAY_SIZE(changed); i++) {
        kernel_start(true);
        new_source_queues(&automatic, 3);
        hand_over_to_nobody();
        /* One file of the device holds its programs */
        g_assert_cmpuint(kernel.holds, ==, 1);
        set_places(changed[i][0], changed[i][1], changed[i][2], changed[i][3]);
        g_assert_cmpuint(order(), !=, 12);
        tap_local_fixture_run(RUN_STATE_RUNNING);
        g_assert_cmpuint(order(), ==, 12);
        g_assert_cmphex(kernel.set_mask, ==, TUN_STATE_QUEUE);
        /* A foreign queue keeps its place */
        g_assert_cmpuint(kernel.queue[3].index, ==, changed[i][3]);
        assert_contains(fixture.local->restored, " is in the place of queue ");
        g_assert_null(fixture.local->failed);
        tap_local_fixture_free();
    }

    /* A foreign queue has come before, or has gone */
    kernel_start(true);
    new_source_queues(&automatic, 3);
    set_places(1, 2, 3, 0);
    hand_over_to_nobody();
    set_places(0, 1, 2, 3);
    tap_local_fixture_run(RUN_STATE_RUNNING);
    hand_over_to_nobody();
    set_places(1, 2, 3, 0);
    tap_local_fixture_run(RUN_STATE_RUNNING);
    g_assert_cmpuint(kernel.sets, ==, 0);
    g_assert_null(fixture.local->restored);
    tap_local_fixture_free();
    kernel.on = false;
}

/* An order that could not be read when the queues were suspended */
static void test_places_unknown(void)
{
    kernel_start(true);
    new_source_queues(&automatic, 3);
    set_places(1, 0, 2, 3);
    kernel.state.iff.flags |= IFF_MULTI_QUEUE;
    kernel.get_errno = EPERM;
    hand_over_to_nobody();
    kernel.get_errno = 0;
    tap_local_fixture_run(RUN_STATE_RUNNING);
    g_assert_cmpuint(kernel.sets, ==, 0);
    g_assert_null(fixture.local->restored);

    /* Nor when something else is repaired */
    kernel.get_errno = EPERM;
    hand_over_to_nobody();
    kernel.get_errno = 0;
    kernel.state.vnet.hdr_size = WIDE_HDR_LEN;
    tap_local_fixture_run(RUN_STATE_RUNNING);
    g_assert_cmphex(kernel.set_mask, ==, TUN_STATE_VNET);
    g_assert_cmpuint(kernel.queue[0].index, ==, 1);
    g_assert_null(fixture.local->failed);
    tap_local_fixture_free();
    kernel.on = false;
}

/* Detached queues have an order of their own, behind the attached ones */
static void test_places_detached(void)
{
    kernel_start(true);
    new_source_queues(&automatic, 3);
    fixture.queues[1]->enabled = fixture.queues[2]->enabled = false;
    kernel.queue[1].flags = kernel.queue[2].flags = 0;
    set_places(0, 0, 1, 2);
    hand_over_to_nobody();
    set_places(0, 2, 0, 1);
    tap_local_fixture_run(RUN_STATE_RUNNING);
    g_assert_cmpuint(kernel.queue[0].index, ==, 0);
    g_assert_cmpuint(kernel.queue[1].index, ==, 0);
    g_assert_cmpuint(kernel.queue[2].index, ==, 2);
    g_assert_null(fixture.local->failed);

    /* A foreign detached queue closes */
    kernel.sets = 0;
    set_places(0, 1, 2, 0);
    hand_over_to_nobody();
    set_places(0, 0, 1, 2);
    tap_local_fixture_run(RUN_STATE_RUNNING);
    g_assert_cmpuint(kernel.sets, ==, 0);
    g_assert_null(fixture.local->restored);
    tap_local_fixture_free();
    kernel.on = false;
}

static void test_places_target(void)
{
    static const struct {
        uint32_t place[4];
        const char *error;
    } cases[] = {
        { { 0, 1, 2, 3 } },
        { { 1, 2, 3, 0 } },
        { { 0, 2, 3, 1 } },
        { { 1, 0, 2, 3 }, "queue 1 is in the place of queue 0" },
        { { 0, 2, 1, 3 }, "queue 2 is in the place of queue 1" },
        /* Queue 1 is the first now */
        { { 2, 0, 1, 3 }, "queue 1 is in the place of queue 0" },
    };
    Stream stream;

    kernel_start(true);
    new_source_queues(&automatic, 3);
    hand_over(&stream);
    tap_local_fixture_free();
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        const uint32_t *place = cases[i].place;

        new_target_queues(&automatic, 3);
        set_places(place[0], place[1], place[2], place[3]);
        g_assert_cmpint(load_all(&stream), ==, !cases[i].error);
        if (cases[i].error) {
            assert_error(cases[i].error);
            tap_local_fixture_fail();
            check_state(TAP_HAND_OVER_WAITING, false);
        } else {
            check_state(TAP_HAND_OVER_ARRIVED, false);
        }
        tap_local_fixture_free();
    }
    g_assert_cmpuint(kernel.sets, ==, 0);

    /* One queue twice, instead of two */
    new_target_queues(&automatic, 3);
    set_places(0, 1, 1, 2);
    g_assert_false(load_all(&stream));
    assert_error("queues 1 and 2 are the same");
    tap_local_fixture_fail();
    tap_local_fixture_free();
    free_stream(&stream);
    kernel.on = false;
}

/*
 * Settings by NIC models
 */

/* A source that resumes applies deferred settings that are not in force */
static void test_settings_source(void)
{
    kernel_start(true);
    new_source(&automatic);
    g_assert_true(tap_local_set(queue(0), TAP_SETTING_OFFLOAD, TUN_F_CSUM));
    kernel.state.offload.enabled = TUN_F_CSUM;
    g_assert_true(tap_local_set(queue(0), TAP_SETTING_STEERING, 9));
    hand_over_to_nobody();
    g_assert_false(tap_local_set(queue(0), TAP_SETTING_VNET_LE, 0));
    g_assert_false(tap_local_set(queue(0), TAP_SETTING_OFFLOAD, TUN_F_CSUM));
    fixture.queues[0]->host_vnet_hdr_len = WIDE_HDR_LEN;
    g_assert_false(tap_local_set(queue(0), TAP_SETTING_STEERING, -1));
    g_assert_cmpuint(applied_total(), ==, 0);
    g_unix_set_fd_nonblocking(fixture.queues[0]->fd, false, NULL);
    tap_local_fixture_run(RUN_STATE_RUNNING);

    check_state(TAP_HAND_OVER_OWNER, true);
    g_assert_true(fcntl(fixture.queues[0]->fd, F_GETFL) & O_NONBLOCK);
    g_assert_cmpuint(applied[SET_ATTACHED], ==, 0);
    g_assert_cmpuint(applied[SET_LE], ==, 0);
    g_assert_cmpuint(applied[SET_OFFLOAD], ==, 0);
    g_assert_cmpuint(applied[SET_SNDBUF], ==, 0);
    g_assert_cmpuint(applied[SET_HDR_LEN], ==, 1);
    g_assert_cmpint(value[SET_HDR_LEN], ==, WIDE_HDR_LEN);
    /* The guest has switched off RSS */
    g_assert_cmpuint(applied[SET_STEERING], ==, 1);
    g_assert_cmpint(value[SET_STEERING], ==, -1);

    /* Once */
    memset(applied, 0, sizeof(applied));
    hand_over_to_nobody();
    tap_local_fixture_run(RUN_STATE_RUNNING);
    g_assert_cmpuint(applied_total(), ==, 0);
    tap_local_fixture_free();
    kernel.on = false;
}

static void set_vnet_hdr_len(unsigned int len)
{
    for (unsigned int i = 0; i < fixture.count; i++) {
        fixture.queues[i]->host_vnet_hdr_len = len;
    }
}

/* A stream holds what the device has, not the deferred settings */
static void test_settings_not_saved(void)
{
    for (int reports = 0; reports < 2; reports++) {
        Stream first, second;

        kernel_start(reports);
        new_source_queues(&options, 3);
        tap_local_fixture_run(RUN_STATE_PAUSED);
        hand_over(&first);
        g_assert_true(tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_FAILED));

        fixture.queues[2]->enabled = false;
        set_vnet_hdr_len(WIDE_HDR_LEN);
        memset(applied, 0, sizeof(applied));
        hand_over(&second);
        for (unsigned int i = 0; i < 3; i++) {
            g_assert_cmpmem(second.data[i]->data, second.data[i]->len,
                            first.data[i]->data, first.data[i]->len);
        }
        g_assert_cmpuint(applied_total(), ==, 0);
        free_stream(&first);
        free_stream(&second);

        tap_local_fixture_run(RUN_STATE_RUNNING);
        g_assert_cmpuint(applied[SET_ATTACHED], ==, 1);
        g_assert_cmpint(value[SET_ATTACHED], ==, 0);
        g_assert_cmpuint(applied[SET_HDR_LEN], ==, 1);
        g_assert_cmpint(value[SET_HDR_LEN], ==, WIDE_HDR_LEN);

        /* And back, with the next migration */
        hand_over_to_nobody();
        memset(applied, 0, sizeof(applied));
        fixture.queues[2]->enabled = true;
        set_vnet_hdr_len(HDR_LEN);
        tap_local_fixture_run(RUN_STATE_RUNNING);
        g_assert_cmpuint(applied[SET_ATTACHED], ==, 1);
        g_assert_cmpint(value[SET_ATTACHED], ==, 1);
        g_assert_cmpuint(applied[SET_HDR_LEN], ==, 1);
        tap_local_fixture_free();
    }
    kernel.on = false;
}

/* The target drops settings from reset: the guest had others on the source */
static void test_settings_target(void)
{
    NetdevTapOptions sndbuf = automatic;
    Stream stream;

    sndbuf.has_sndbuf = true;
    sndbuf.sndbuf = 4711;
    kernel_start(true);
    new_source(&automatic);
    hand_over(&stream);
    tap_local_fixture_free();

    new_target(&sndbuf);
    fixture.queues[0]->host_vnet_hdr_len = WIDE_HDR_LEN;
    g_assert_false(tap_local_set(queue(0), TAP_SETTING_OFFLOAD, TUN_F_CSUM));
    g_assert_false(tap_local_set(queue(0), TAP_SETTING_STEERING, 9));
    g_assert_true(load_all(&stream));
    g_assert_cmpuint(fixture.queues[0]->host_vnet_hdr_len, ==, HDR_LEN);
    g_assert_false(tap_local_set(queue(0), TAP_SETTING_VNET_LE, 0));
    g_assert_cmpuint(applied_total(), ==, 0);
    tap_local_fixture_run(RUN_STATE_RUNNING);
    g_assert_cmpuint(applied[SET_SNDBUF], ==, 1);
    g_assert_cmpint(value[SET_SNDBUF], ==, 4711);
    g_assert_cmpuint(applied_total(), ==, 1);
    /* Later, the option is none of QEMU's, as with a TAP that it opened */
    kernel.state.sndbuf.size = 815;
    hand_over_to_nobody();
    tap_local_fixture_run(RUN_STATE_RUNNING);
    g_assert_cmpuint(applied_total(), ==, 1);
    tap_local_fixture_free();
    kernel.state.sndbuf.size = INT_MAX;

    /* Settings that the NIC model makes after the load */
    new_target(&automatic);
    g_assert_true(load_all(&stream));
    g_assert_false(tap_local_set(queue(0), TAP_SETTING_OFFLOAD, TUN_F_CSUM));
    tap_local_fixture_run(RUN_STATE_RUNNING);
    g_assert_cmpint(value[SET_OFFLOAD], ==, TUN_F_CSUM);
    tap_local_fixture_free();
    free_stream(&stream);
    kernel.on = false;
}

/*
 * A source's own steering program dies with it: the target's replaces it, or
 * none. A program that somebody else attached stays.
 */
static void test_settings_steering(void)
{
    static const struct {
        int source, target;     /* program, -1 for none, or 0: not set */
        unsigned int applied;
        int value;
    } cases[] = {
        { 0, 0, 0 }, { 0, -1, 0 }, { 0, 9, 1, 9 },
        { -1, 0, 0 }, { -1, -1, 0 }, { -1, 9, 1, 9 },
        { 8, 0, 1, -1 }, { 8, -1, 1, -1 }, { 8, 9, 1, 9 },
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        for (int hops = 1; hops < 3; hops++) {
            Stream stream;

            kernel_start(true);
            new_source_queues(&automatic, 3);
            if (cases[i].source) {
                g_assert_true(tap_local_set(queue(0), TAP_SETTING_STEERING,
                                            cases[i].source));
            }
            hand_over(&stream);
            tap_local_fixture_free();

            /* Through a target that does not run, and on */
            for (int hop = 0; hop < hops; hop++) {
                if (hop) {
                    fixture.runstate = RUN_STATE_PAUSED;
                    free_stream(&stream);
                    hand_over(&stream);
                    tap_local_fixture_free();
                }
                new_target_queues(&automatic, 3);
                g_assert_true(load_all(&stream));
            }
            if (cases[i].target) {
                g_assert_false(tap_local_set(queue(0), TAP_SETTING_STEERING,
                                             cases[i].target));
            }
            g_assert_cmpuint(applied[SET_STEERING], ==, 0);
            tap_local_fixture_run(RUN_STATE_RUNNING);
            g_assert_cmpuint(applied[SET_STEERING], ==, cases[i].applied);
            if (cases[i].applied) {
                g_assert_cmpint(value[SET_STEERING], ==, cases[i].value);
            }

            /* Once */
            hand_over_to_nobody();
            tap_local_fixture_run(RUN_STATE_RUNNING);
            g_assert_cmpuint(applied[SET_STEERING], ==, cases[i].applied);
            tap_local_fixture_free();
            free_stream(&stream);
        }
    }
    kernel.on = false;
}

/*
 * Section net-tap
 */

static void test_save_fields(void)
{
    uint8_t expected[FIELDS_SIZE];

    kernel_start(true);
    for (int bit = USING_VNET_HDR; bit <= ENABLED; bit++) {
        Stream stream;
        TAPState *s;

        new_source(&options);
        s = fixture.queues[0];
        s->using_vnet_hdr = bit == USING_VNET_HDR;
        s->has_ufo = bit == HAS_UFO;
        s->has_uso = bit == HAS_USO;
        s->has_tunnel = bit == HAS_TUNNEL;
        s->enabled = bit == ENABLED;
        kernel.queue[0].flags = bit == ENABLED ? TUN_STATE_QUEUE_ATTACHED : 0;
        hand_over(&stream);

        memset(expected, 0, sizeof(expected));
        expected[FD] = ' ';
        expected[bit] = true;
        stl_be_p(expected + LEN, HDR_LEN);
        g_assert_cmpmem(stream.data[0]->data, stream.data[0]->len, expected,
                        sizeof(expected));
        tap_local_fixture_free();
        free_stream(&stream);
    }
    kernel.on = false;
}

/* The same of the real kernel, and a TAP without a vnet header */
static void test_save_fields_real(void)
{
    NetdevTapOptions no_hdr = options;
    uint8_t expected[FIELDS_SIZE];
    int fd = dup(plain);
    Stream stream;

    make_fields(expected);
    new_source(&options);
    hand_over(&stream);
    g_assert_cmpmem(stream.data[0]->data, stream.data[0]->len, expected,
                    sizeof(expected));
    tap_local_fixture_free();
    free_stream(&stream);

    no_hdr.has_vnet_hdr = true;
    tap_local_fixture_new(&no_hdr, &fd, 1, RUN_STATE_RUNNING);
    hand_over(&stream);
    g_assert_cmpuint(ldl_be_p(stream.data[0]->data + LEN), ==, 0);
    tap_local_fixture_free();
    new_target(&no_hdr);
    g_assert_true(load_all(&stream));
    tap_local_fixture_free();
    free_stream(&stream);
}

static void test_save_while_waiting(void)
{
    int fd;

    new_target(&options);
    /* Even when the latch is set */
    fixture.local->outgoing = true;
    g_assert_null(tap_local_fixture_save(0, &fd));
    assert_error("netdev 'net0' queue 0: ");
    g_assert_cmpint(fd, ==, -1);
    check_state(TAP_HAND_OVER_WAITING, false);
    tap_local_fixture_free();
}

static void test_load_fields(void)
{
    uint8_t fields[FIELDS_SIZE];
    TAPState *s;

    make_fields(fields);
    new_target(&options);
    s = fixture.queues[0];
    g_assert_true(tap_local_fixture_load(0, fields, sizeof(fields), tap, 1));
    g_assert_null(fixture.error);
    g_assert_cmpint(s->fd, >=, 0);
    g_assert_cmpint(s->has_ufo, ==, fields[HAS_UFO]);
    g_assert_cmpint(s->has_uso, ==, fields[HAS_USO]);
    g_assert_cmpint(s->has_tunnel, ==, kernel_has_tunnel());
    g_assert_true(s->enabled);
    g_assert_cmpuint(s->host_vnet_hdr_len, ==, HDR_LEN);

    /* The target leaves the TAP alone before it runs */
    g_assert_true(tap_local_fixture_loaded());
    check_state(TAP_HAND_OVER_ARRIVED, false);
    tap_local_fixture_run(RUN_STATE_RUNNING);
    check_state(TAP_HAND_OVER_OWNER, true);
    tap_local_fixture_free();
}

/* Each offload of the device, or, where the kernel does not tell, the stream */
static void test_load_offloads(void)
{
    static const struct {
        uint32_t supported;
        bool ufo, uso, tunnel;
    } cases[] = {
        { TUN_F_CSUM },
        { TUN_F_UFO, .ufo = true },
        { TUN_F_USO4 },
        { TUN_F_USO6 },
        { TUN_F_USO4 | TUN_F_USO6, .uso = true },
        { 0x080, .tunnel = true },
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        for (int reports = 0; reports < 2; reports++) {
            uint8_t fields[FIELDS_SIZE];
            TAPState *s;

            kernel_start(true);
            kernel.state.offload.supported = cases[i].supported;
            kernel.get_errno = reports ? 0 : EINVAL;
            make_fields(fields);
            fields[HAS_UFO] = cases[i].ufo ^ reports;
            fields[HAS_USO] = cases[i].uso ^ reports;
            fields[HAS_TUNNEL] = cases[i].tunnel ^ reports;
            new_target(&options);
            g_assert_true(tap_local_fixture_load(0, fields, sizeof(fields),
                                                 tap, 1));
            s = fixture.queues[0];
            g_assert_cmpint(s->has_ufo, ==, cases[i].ufo);
            g_assert_cmpint(s->has_uso, ==, cases[i].uso);
            g_assert_cmpint(s->has_tunnel, ==, cases[i].tunnel);
            tap_local_fixture_free();
        }
    }
    kernel.on = false;
}

typedef struct Refusal {
    const char *name;
    int at;             /* offset of a field to change, or -1 */
    uint8_t value;
    int *fd;
    int count;
    const char *error;
} Refusal;

static const Refusal refusals[] = {
    { "no-fd", -1, 0, &tap, 0, "no file descriptor came with the stream" },
    { "tun", -1, 0, &tun, 1, "it is a TUN device" },
    { "no-device", -1, 0, &null, 1, "is not a TAP" },
    { "no-vnet-hdr", -1, 0, &plain, 1,
      "vnet_hdr=off, this netdev vnet_hdr=on" },
    { "using-vnet-hdr", USING_VNET_HDR, 1, &tap, 1,
      "use the same -device on both sides" },
    { "vnet-hdr-len", LEN + 3, WIDE_HDR_LEN, &tap, 1,
      "vnet header of 10 bytes, and of 12 bytes in the stream" },
};

static void test_load_refused(const void *opaque)
{
    const Refusal *refusal = opaque;
    uint8_t fields[FIELDS_SIZE];
    int fd;

    if (!need_tap()) {
        return;
    }
    fd = tap_local_fixture_next_fd();
    make_fields(fields);
    if (refusal->at >= 0) {
        g_assert_cmpint(fields[refusal->at], !=, refusal->value);
        fields[refusal->at] = refusal->value;
    }
    new_target(&options);
    g_assert_false(tap_local_fixture_load(0, fields, sizeof(fields),
                                          *refusal->fd, refusal->count));
    if (!refusal->count && !fixture.error) {
        /* QEMU 11.1 and later refuse it before the section is complete */
        assert_contains(tap_local_fixture_take_log(), "no FD come");
    } else {
        assert_contains(fixture.error, "netdev 'net0' queue 0: ");
        assert_error(refusal->error);
    }

    /* The queue has no fd, and can load another stream */
    tap_local_fixture_fail();
    check_state(TAP_HAND_OVER_WAITING, false);
    g_assert_false(tap_local_check_ready(queue(0), false, NULL));
    make_fields(fields);
    g_assert_true(tap_local_fixture_load(0, fields, sizeof(fields), tap, 1));
    tap_local_fixture_free();
    g_assert_cmpint(tap_local_fixture_next_fd(), ==, fd);
}

/* A queue is attached on one side and detached on the other */
static void test_load_detached(void)
{
    static const struct {
        bool reports, attached, in_stream;
        const char *error;
    } cases[] = {
        { true, true, true },
        { true, false, false },
        { true, true, false, "the queue is attached, and detached in the" },
        { true, false, true, "the queue is detached, and attached in the" },
        { false, true, true },
        /* Without TUNGETSTATE, it may look attached */
        { false, true, false },
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        uint8_t fields[FIELDS_SIZE];

        kernel_start(true);
        if (!cases[i].reports) {
            kernel.get_errno = EINVAL;
        }
        if (!cases[i].attached) {
            kernel.queue[0].flags = 0;
        }
        make_fields(fields);
        fields[ENABLED] = cases[i].in_stream;
        new_target(&options);
        g_assert_cmpint(tap_local_fixture_load(0, fields, sizeof(fields), tap,
                                               1), ==, !cases[i].error);
        if (cases[i].error) {
            assert_error(cases[i].error);
            tap_local_fixture_fail();
        } else {
            g_assert_true(tap_local_fixture_loaded());
            g_assert_cmpint(fixture.queues[0]->enabled, ==, cases[i].in_stream);
            /* Nothing to do when it starts */
            tap_local_fixture_run(RUN_STATE_RUNNING);
            g_assert_cmpuint(applied[SET_ATTACHED], ==, 0);
        }
        tap_local_fixture_free();
    }
    kernel.on = false;
}

/* The NIC model may use a longer vnet header, and a netdev without one any */
static void test_load_vnet_hdr(void)
{
    static const struct {
        bool using, no_nic;
        int len;
        const char *error;
    } cases[] = {
        { true, false, 12 },
        { true, false, 24 },
        { true, false, 25, "there are at most 24" },
        { false, true, 24 },
        { false, true, 25, "there are at most 24" },
        { false, false, 10 },
        { false, false, 24 },
        { false, false, 25, "there are at most 24" },
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        uint8_t fields[FIELDS_SIZE];

        kernel_start(true);
        kernel.state.vnet.hdr_size = cases[i].len;
        make_fields(fields);
        fields[USING_VNET_HDR] = cases[i].using;
        stl_be_p(fields + LEN, cases[i].len);
        new_target(&options);
        fixture.queues[0]->using_vnet_hdr = cases[i].using;
        if (cases[i].no_nic) {
            /* The NIC was unplugged on the source, or comes later */
            fixture.queues[0]->nc.peer = NULL;
            fields[USING_VNET_HDR] = true;
        }
        g_assert_cmpint(tap_local_fixture_load(0, fields, sizeof(fields), tap,
                                               1), ==, !cases[i].error);
        if (cases[i].error) {
            assert_error(cases[i].error);
        } else {
            g_assert_cmpuint(fixture.queues[0]->host_vnet_hdr_len, ==,
                             cases[i].len);
        }
        tap_local_fixture_fail();
        tap_local_fixture_free();
    }
    kernel.on = false;
}

static void test_load_ifname(void)
{
    NetdevTapOptions named = options;
    g_autoptr(GByteArray) data = new_section();

    named.ifname = (char *)"tap0";
    new_target(&named);
    g_assert_true(tap_local_fixture_load(0, data->data, data->len, tap, 1));
    tap_local_fixture_free();

    named.ifname = (char *)"tap9";
    new_target(&named);
    g_assert_false(tap_local_fixture_load(0, data->data, data->len, tap, 1));
    assert_error("the TAP is 'tap0', this netdev has ifname=tap9");
    tap_local_fixture_fail();
    tap_local_fixture_free();
}

/* Queues of two TAPs, of which each would be fine */
static void test_load_two_taps(void)
{
    g_autoptr(GByteArray) data = new_section();

    new_target_queues(&options, 2);
    g_assert_true(tap_local_fixture_load(0, data->data, data->len, tap, 1));
    g_assert_false(tap_local_fixture_load(1, data->data, data->len, multi[0],
                                          1));
    assert_error("netdev 'net0' queue 1: it belongs to TAP 'multi0', queue 0 "
                 "to 'tap0'");
    tap_local_fixture_fail();

    /* Another try, with the other one */
    g_assert_true(tap_local_fixture_load(1, data->data, data->len, multi[1],
                                         1));
    g_assert_true(tap_local_fixture_load(0, data->data, data->len, multi[0],
                                         1));
    g_assert_true(tap_local_fixture_loaded());
    tap_local_fixture_free();
}

static void test_load_twice(void)
{
    g_autoptr(GByteArray) data = new_section();

    new_target(&options);
    g_assert_true(tap_local_fixture_load(0, data->data, data->len, tap, 1));
    g_assert_false(tap_local_fixture_load(0, data->data, data->len, tap, 1));
    assert_error("twice in the migration stream");
    tap_local_fixture_fail();
    check_state(TAP_HAND_OVER_WAITING, false);
    tap_local_fixture_free();

    new_source(&options);
    g_assert_false(tap_local_fixture_load(0, data->data, data->len, tap, 1));
    assert_error("use incoming-fds=on");
    check_state(TAP_HAND_OVER_OWNER, true);
    tap_local_fixture_free();

    new_target(&options);
    g_assert_true(tap_local_fixture_load(0, data->data, data->len, tap, 1));
    g_assert_true(tap_local_fixture_loaded());
    g_assert_false(tap_local_fixture_load(0, data->data, data->len, tap, 1));
    g_clear_pointer(&fixture.error, g_free);
    tap_local_fixture_free();
}

/*
 * Pending packets
 */

/* Start, and take all pending packets once and in order */
static void check_delivered(bool received, const GByteArray *expected)
{
    uint8_t packet[100], buf[NET_BUFSIZE];

    memset(packet, 0x5a, sizeof(packet));
    g_assert_false(tap_pending_has_received(queue(0)));
    g_assert_cmpint(tap_pending_flush_sent(queue(0)), ==, !expected->len);
    fixture.blocked = true;
    tap_local_fixture_run(RUN_STATE_RUNNING);
    g_assert_cmpint(tap_pending_flush_sent(queue(0)), ==, !expected->len);
    g_assert_cmpuint(fixture.transmitted->len, ==, 0);
    fixture.blocked = false;
    g_assert_true(tap_pending_flush_sent(queue(0)));
    g_assert_true(tap_pending_flush_sent(queue(0)));
    g_assert_cmpmem(fixture.transmitted->data, fixture.transmitted->len,
                    expected->data, expected->len);
    g_assert_cmpint(tap_pending_has_received(queue(0)), ==, received);
    g_assert_cmpuint(tap_pending_take_received(queue(0), buf), ==,
                     received ? sizeof(packet) : 0);
    if (received) {
        g_assert_cmpmem(buf, sizeof(packet), packet, sizeof(packet));
    }
    g_assert_false(tap_pending_has_received(queue(0)));
    g_assert_cmpuint(tap_pending_take_received(queue(0), buf), ==, 0);
}

/* Packets of one direction or of both reach the target, in one subsection */
static void test_packets(void)
{
    for (int directions = 0; directions < 4; directions++) {
        bool received = directions & 1;
        int sent = directions & 2 ? 3 : 0;
        g_autoptr(GByteArray) expected = g_byte_array_new();
        g_autoptr(GByteArray) packets = g_byte_array_new();
        g_autoptr(GByteArray) data = NULL;
        uint8_t packet[100];
        Stream stream;

        memset(packet, 0x5a, sizeof(packet));
        data = new_section();
        new_source(&automatic);
        g_assert_false(tap_pending_has_received(queue(0)));
        tap_local_fixture_run(RUN_STATE_PAUSED);
        keep_packets(received, sent, packets, expected);
        if (directions) {
            append_pending(data, packet, received ? sizeof(packet) : 0,
                           packets->data, packets->len);
        }
        hand_over(&stream);
        g_assert_cmpmem(stream.data[0]->data, stream.data[0]->len, data->data,
                        data->len);
        g_assert_cmpuint(fixture.transmitted->len, ==, 0);
        g_assert_cmpuint(fixture.local->carried, ==, 0);
        tap_local_fixture_free();

        new_target(&automatic);
        g_assert_true(load_all(&stream));
        g_assert_cmpuint(fixture.local->carried, ==, received + sent);
        /* A load that fails afterwards does not count */
        tap_local_fixture_fail();
        g_assert_cmpuint(fixture.local->carried, ==, 0);
        g_assert_true(load_all(&stream));
        g_assert_cmpuint(fixture.local->carried, ==, received + sent);
        g_assert_cmpuint(fixture.local->delivered, ==, 0);
        check_delivered(received, expected);
        g_assert_cmpuint(fixture.local->delivered, ==, received + sent);
        tap_local_fixture_free();
        free_stream(&stream);
    }
}

/* A source that resumes delivers them itself; a target that runs keeps none */
static void test_packets_source_resumes(void)
{
    g_autoptr(GByteArray) expected = g_byte_array_new();
    g_autoptr(GByteArray) packets = g_byte_array_new();
    Stream stream;

    new_source(&automatic);
    tap_local_fixture_run(RUN_STATE_PAUSED);
    keep_packets(true, 2, packets, expected);
    hand_over_to_nobody();
    check_delivered(true, expected);
    hand_over(&stream);
    g_assert_cmpuint(stream.data[0]->len, ==, FIELDS_SIZE);
    tap_local_fixture_free();
    free_stream(&stream);
}

/* Packets of which the device takes some, and the rest later */
static void test_packets_some(void)
{
    g_autoptr(GByteArray) expected = g_byte_array_new();
    g_autoptr(GByteArray) packets = g_byte_array_new();
    Stream stream;

    new_source(&automatic);
    tap_local_fixture_run(RUN_STATE_PAUSED);
    keep_packets(false, 3, packets, expected);
    fixture.takes = 1;
    fixture.blocked = true;
    tap_local_fixture_run(RUN_STATE_RUNNING);
    g_assert_cmpuint(fixture.transmitted->len, ==, 100);
    g_assert_false(tap_pending_flush_sent(queue(0)));
    hand_over(&stream);
    /* Two packets and their lengths are left, of 200 and 300 bytes */
    g_assert_cmpuint(ldl_be_p(stream.data[0]->data + stream.data[0]->len -
                              (4 + 200 + 4 + 300) - 4), ==, 508);
    g_assert_cmpmem(stream.data[0]->data + stream.data[0]->len - 508, 508,
                    packets->data + 104, 508);
    tap_local_fixture_free();
    free_stream(&stream);
}

/* vhost does not overtake packets that a finite sndbuf keeps */
static void test_packets_before_vhost(void)
{
    for (int vhost = 0; vhost < 2; vhost++) {
        g_autoptr(GByteArray) expected = g_byte_array_new();
        g_autoptr(GByteArray) packets = g_byte_array_new();
        int sndbuf = 4711;

        new_source(&automatic);
        g_assert(!ioctl(tap, TUNSETSNDBUF, &sndbuf));
        tap_local_fixture_run(RUN_STATE_PAUSED);
        keep_packets(false, 3, packets, expected);
        fixture.full = true;
        fixture.queues[0]->vhost_net = vhost ? (void *)&fixture : NULL;
        tap_local_fixture_run(RUN_STATE_RUNNING);
        g_assert_cmpmem(fixture.transmitted->data, fixture.transmitted->len,
                        expected->data, vhost ? expected->len : 0);
        g_assert_cmpint(tap_pending_flush_sent(queue(0)), ==, vhost);
        sndbuf = 0;
        g_assert(!ioctl(tap, TUNGETSNDBUF, &sndbuf));
        g_assert_cmpint(sndbuf, ==, 4711);
        sndbuf = INT_MAX;
        g_assert(!ioctl(tap, TUNSETSNDBUF, &sndbuf));
        tap_local_fixture_free();
    }
}

/* While the virtual machine runs, nothing is kept */
static void test_packets_running(void)
{
    static uint8_t packet[100];
    struct iovec iov = { packet, sizeof(packet) };

    new_source(&automatic);
    tap_pending_keep_received(queue(0), packet, sizeof(packet));
    g_assert_false(tap_pending_has_received(queue(0)));
    g_assert_false(tap_pending_keep_sent(queue(0), &iov, 1));
    tap_local_fixture_free();

    /* Nor for a TAP that cannot be handed over */
    tap_pending_keep_received(NULL, packet, sizeof(packet));
    g_assert_false(tap_pending_has_received(NULL));
    g_assert_cmpuint(tap_pending_take_received(NULL, packet), ==, 0);
    g_assert_false(tap_pending_keep_sent(NULL, &iov, 1));
    g_assert_true(tap_pending_flush_sent(NULL));
}

/* Packets of the time line that loadvm leaves */
static void test_packets_loadvm(void)
{
    g_autoptr(GByteArray) expected = g_byte_array_new();
    g_autoptr(GByteArray) packets = g_byte_array_new();
    uint8_t buf[NET_BUFSIZE];

    new_source(&automatic);
    tap_local_fixture_run(RUN_STATE_PAUSED);
    keep_packets(true, 2, packets, expected);
    tap_local_fixture_reset(RESET_TYPE_SNAPSHOT_LOAD);
    tap_local_fixture_run(RUN_STATE_RUNNING);
    g_assert_cmpuint(fixture.transmitted->len, ==, 0);
    g_assert_false(tap_pending_has_received(queue(0)));
    g_assert_cmpuint(tap_pending_take_received(queue(0), buf), ==, 0);

    /* A reset of the machine is no other time line */
    tap_local_fixture_run(RUN_STATE_PAUSED);
    keep_packets(true, 2, packets, expected);
    tap_local_fixture_reset(RESET_TYPE_COLD);
    tap_local_fixture_run(RUN_STATE_RUNNING);
    g_assert_cmpuint(fixture.transmitted->len, ==, 300);
    g_assert_cmpuint(tap_pending_take_received(queue(0), buf), ==, 100);
    tap_local_fixture_free();
}

/* Set the link of the netdev, as set_link does */
static void set_link(bool up)
{
    for (unsigned int i = 0; i < fixture.count; i++) {
        fixture.queues[i]->nc.link_down = !up;
    }
    tap_pending_link_changed(queue(0));
}

/* A packet that came before the link went down does not arrive afterwards */
static void test_packets_link_down(void)
{
    static const uint8_t packet[100];
    g_autoptr(GByteArray) expected = g_byte_array_new();
    g_autoptr(GByteArray) packets = g_byte_array_new();
    g_autoptr(GByteArray) data = NULL;
    uint8_t buf[NET_BUFSIZE];
    Stream stream;

    data = new_section();
    tap_pending_link_changed(NULL);
    new_source_queues(&automatic, 2);
    tap_local_fixture_run(RUN_STATE_PAUSED);
    keep_packets(true, 2, packets, expected);
    tap_pending_keep_received(queue(1), packet, sizeof(packet));
    set_link(true);
    g_assert_cmpuint(queue(0)->pending.received_size, ==, 100);
    g_assert_cmpuint(queue(1)->pending.received_size, ==, 100);

    /* The guest has sent its own packets before */
    set_link(false);
    hand_over(&stream);
    append_pending(data, NULL, 0, packets->data, packets->len);
    g_assert_cmpmem(stream.data[0]->data, stream.data[0]->len, data->data,
                    data->len);
    g_assert_cmpuint(stream.data[1]->len, ==, FIELDS_SIZE);

    /* The source resumes, with a link that is up again */
    set_link(true);
    tap_local_fixture_run(RUN_STATE_RUNNING);
    g_assert_cmpmem(fixture.transmitted->data, fixture.transmitted->len,
                    expected->data, expected->len);
    for (unsigned int i = 0; i < 2; i++) {
        g_assert_false(tap_pending_has_received(queue(i)));
        g_assert_cmpuint(tap_pending_take_received(queue(i), buf), ==, 0);
    }
    tap_local_fixture_free();
    free_stream(&stream);
}

typedef struct Malformed {
    const char *what;
    const uint8_t *received;
    uint32_t received_size;
    const uint8_t *sent;
    uint32_t sent_size;
    const char *error;          /* NULL: accepted */
} Malformed;

static void test_packets_malformed(void)
{
    static const uint8_t zero[4], too_long[] = { 0, 0, 0, 2, 0 },
                         no_length[] = { 0, 0, 0, 1, 9, 0, 0 };
    static const uint8_t long_packet[] = { 0, 1, 0x10, 1, [69636] = 0 };
    static const uint8_t last_zero[] = { 0, 0, 0, 1, 9, 0, 0, 0, 0 };
    static const uint8_t huge[16 * MiB + 1];
    static const Malformed cases[] = {
        { "nothing", zero, 0, zero, 0 },
        { "zero length", zero, 0, zero, sizeof(zero), "the 4 bytes that they" },
        { "too long", zero, 0, too_long, sizeof(too_long), "the 5 bytes that" },
        { "no length", zero, 0, no_length, sizeof(no_length),
          "the 7 bytes that" },
        { "no packet at the end", zero, 0, last_zero, sizeof(last_zero),
          "the 9 bytes that" },
        { "three bytes", zero, 0, zero, 3, "the 3 bytes that" },
        { "longer than a packet", zero, 0, long_packet, sizeof(long_packet),
          "the 69637 bytes that" },
        { "no header", huge, HDR_LEN + 13, zero, 0, "packet of 23 bytes" },
        { "shortest", huge, HDR_LEN + 14, zero, 0 },
        { "longest", huge, NET_BUFSIZE, zero, 0 },
        { "huge", huge, NET_BUFSIZE + 1, zero, 0, "packet of 69633 bytes" },
        { "too many", zero, 0, huge, sizeof(huge),
          "packets to send of 16777217 bytes" },
    };
    int fd = tap_local_fixture_next_fd();

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        g_autoptr(GByteArray) data = new_section();
        bool ok;

        g_test_message("%s", cases[i].what);
        append_pending(data, cases[i].received, cases[i].received_size,
                       cases[i].sent, cases[i].sent_size);
        new_target(&automatic);
        ok = tap_local_fixture_load(0, data->data, data->len, tap, 1);
        g_assert_cmpint(ok, ==, !cases[i].error);
        if (cases[i].error) {
            assert_contains(fixture.error, "netdev 'net0' queue 0: ");
            assert_error(cases[i].error);
        }
        tap_local_fixture_fail();
        check_state(TAP_HAND_OVER_WAITING, false);
        /* query-tap-state shows no packets that the source delivers */
        g_assert_cmpuint(queue(0)->pending.received_size, ==, 0);
        g_assert_cmpuint(queue(0)->pending.sent_size, ==, 0);
        tap_local_fixture_free();
        g_assert_cmpint(tap_local_fixture_next_fd(), ==, fd);
    }
}

/* Other subsections that QEMU refuses */
static void test_subsections_malformed(void)
{
    static const uint8_t zero[TAP_KSTATE_MAX_SIZE + 1];
    static const struct {
        const char *name;
        size_t size;
        const char *error;      /* NULL: vmstate_load_state() refuses */
    } cases[] = {
        { "net-tap/kernel-state", 0, "kernel state of 0 bytes" },
        { "net-tap/kernel-state", 31, "kernel state of 31 bytes" },
        { "net-tap/kernel-state", TAP_KSTATE_MAX_SIZE + 1,
          "kernel state of 4097 bytes" },
        { "net-tap/nobody-knows", 1, NULL },
        { "net-tap/received", 100, NULL },
        { "net-tap/sent", 100, NULL },
    };
    int fd = tap_local_fixture_next_fd();

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        g_autoptr(GByteArray) data = new_section();

        append_subsection(data, cases[i].name, zero, cases[i].size);
        new_target(&automatic);
        g_assert_false(tap_local_fixture_load(0, data->data, data->len, tap,
                                              1));
        if (cases[i].error) {
            assert_contains(fixture.error, "netdev 'net0' queue 0: ");
            assert_error(cases[i].error);
        }
        tap_local_fixture_fail();
        check_state(TAP_HAND_OVER_WAITING, false);
        tap_local_fixture_free();
        g_assert_cmpint(tap_local_fixture_next_fd(), ==, fd);
    }
}

/* A subsection that comes twice: the second one counts */
static void test_packets_twice(void)
{
    static uint8_t packet[2][72], buf[NET_BUFSIZE];
    g_autoptr(GByteArray) data = new_section();

    memset(packet[1], 1, sizeof(packet[1]));
    for (int i = 0; i < 2; i++) {
        append_pending(data, packet[i], sizeof(packet[i]), NULL, 0);
    }
    new_target(&automatic);
    g_assert_true(tap_local_fixture_load(0, data->data, data->len, tap, 1));
    g_assert_true(tap_local_fixture_loaded());
    g_assert_cmpuint(fixture.local->carried, ==, 1);
    tap_local_fixture_run(RUN_STATE_RUNNING);
    g_assert_cmpuint(tap_pending_take_received(queue(0), buf), ==, 72);
    g_assert_cmpmem(buf, 72, packet[1], 72);
    tap_local_fixture_free();
}

/* vhost takes packets from the kernel only, and cannot deliver pending ones */
static void test_packets_for_vhost(void)
{
    static const uint8_t packets[] = { [3] = 60, [63] = 0 };

    g_assert_true(tap_local_check_ready(NULL, true, NULL));
    for (int directions = 0; directions < 4; directions++) {
        g_autoptr(GByteArray) data = new_section();
        Error *err = NULL;
        bool received = directions & 1;

        if (directions) {
            append_pending(data, packets, received ? sizeof(packets) : 0,
                           packets, directions & 2 ? sizeof(packets) : 0);
        }
        new_target(&automatic);
        g_assert_true(tap_local_fixture_load(0, data->data, data->len, tap, 1));
        g_assert_true(tap_local_fixture_loaded());
        g_assert_true(tap_local_check_ready(queue(0), true, &error_abort));
        fixture.queues[0]->vhost_net = (void *)&fixture;
        /* Sent ones go out before vhost starts */
        g_assert_cmpint(tap_local_check_ready(queue(0), true, &err), ==,
                        !received);
        if (received) {
            assert_contains(error_get_pretty(err), "netdev 'net0' queue 0: ");
            assert_contains(error_get_pretty(err), "use vhost=off");
        }
        error_free(err);
        /* The guest has no driver yet, or has switched off the queue */
        g_assert_true(tap_local_check_ready(queue(0), false, &error_abort));
        fixture.queues[0]->enabled = false;
        g_assert_true(tap_local_check_ready(queue(0), true, &error_abort));
        tap_local_fixture_free();
    }
}

/*
 * kernel-state=off: a section has no pending packets, as upstream refuses them.
 * Those of the guest are written; the one for the guest stays, for this side.
 */
static void test_packets_without_kernel_state(void)
{
    static const uint8_t packet[72] = { [71] = 7 };
    static uint8_t buf[NET_BUFSIZE];

    for (int received = 0; received < 2; received++) {
        struct iovec iov = { (void *)packet, sizeof(packet) };
        Stream stream;

        new_source(&options);
        g_assert_true(tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_SETUP));
        tap_local_fixture_run(RUN_STATE_FINISH_MIGRATE);
        g_assert_true(tap_pending_keep_sent(queue(0), &iov, 1));
        if (received) {
            tap_pending_keep_received(queue(0), packet, sizeof(packet));
        }
        fixture.full = true;
        save_all(&stream);
        fixture.full = false;
        g_assert_cmpuint(stream.data[0]->len, ==, FIELDS_SIZE);
        g_assert_cmpmem(fixture.transmitted->data, fixture.transmitted->len,
                        packet, sizeof(packet));
        if (received) {
            assert_contains(tap_local_fixture_take_log(),
                            "netdev 'net0' queue 0: 1 pending packet(s) are "
                            "lost if the guest runs on the target");
        } else {
            g_assert_cmpstr(tap_local_fixture_take_log(), ==, "");
        }
        free_stream(&stream);

        tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_FAILED);
        tap_local_fixture_run(RUN_STATE_RUNNING);
        g_assert_cmpuint(tap_pending_take_received(queue(0), buf), ==,
                         received ? sizeof(packet) : 0);
        tap_local_fixture_free();
    }
}

/* A stream that ends early, after each of its bytes */
static void test_truncated(void)
{
    g_autoptr(GByteArray) data = NULL;
    static const uint8_t packet[72] = { [3] = 68 };
    int fd = tap_local_fixture_next_fd();

    kernel_start(true);
    data = new_section();
    append_kernel_state(data, &kernel.state, sizeof(kernel.state), true);
    append_pending(data, packet, sizeof(packet), packet, sizeof(packet));
    for (size_t size = 0; size <= data->len; size++) {
        new_target(&automatic);
        g_assert_false(tap_local_fixture_load_end(0, data->data, size, tap, 1));
        tap_local_fixture_fail();
        check_state(TAP_HAND_OVER_WAITING, false);
        /* Not only when the netdev is deleted */
        g_assert_cmpint(tap_local_fixture_next_fd(), ==, fd);
        tap_local_fixture_free();
        g_assert_cmpint(tap_local_fixture_next_fd(), ==, fd);

        /* The netdev is deleted, and nobody told that the load failed */
        if (size % 50 == 0) {
            new_target(&automatic);
            g_assert_false(tap_local_fixture_load_end(0, data->data, size, tap,
                                                      1));
            tap_local_fixture_free();
            g_assert_cmpint(tap_local_fixture_next_fd(), ==, fd);
        }
    }
    new_target(&automatic);
    g_assert_true(tap_local_fixture_load(0, data->data, data->len, tap, 1));
    tap_local_fixture_free();
    kernel.on = false;
}

/* Packets of invalid length, which a guest can send and no target accepts */
static void test_no_packet(void)
{
    static uint8_t data[NET_BUFSIZE + 1];
    struct iovec iov = { data, 0 };

    new_source(&options);
    tap_local_fixture_run(RUN_STATE_FINISH_MIGRATE);
    g_assert_true(tap_pending_keep_sent(queue(0), &iov, 1));
    iov.iov_len = sizeof(data);
    g_assert_true(tap_pending_keep_sent(queue(0), &iov, 1));
    tap_local_fixture_run(RUN_STATE_RUNNING);
    g_assert_cmpuint(fixture.transmitted->len, ==, 0);
    tap_local_fixture_free();
}

static void test_too_many_sent(void)
{
    static uint8_t packet[64 * KiB];
    struct iovec iov = { packet, sizeof(packet) };
    unsigned int count = 0;
    Stream stream;

    new_source(&options);
    g_assert_false(tap_pending_keep_sent(queue(0), &iov, 1));
    tap_local_fixture_run(RUN_STATE_PAUSED);
    while (count <= 256 && tap_pending_keep_sent(queue(0), &iov, 1)) {
        count++;
    }
    assert_contains(tap_local_fixture_take_log(),
                    "netdev 'net0' queue 0: packets from the guest are lost");
    /* Limit: 16 MiB, in which each packet has its length in front */
    g_assert_cmpuint(count, ==, 255);
    tap_local_fixture_run(RUN_STATE_RUNNING);
    g_assert_cmpuint(fixture.transmitted->len, ==, count * sizeof(packet));
    g_assert_cmpuint(fixture.local->delivered, ==, count);

    /* A new life: the place is free again */
    tap_local_fixture_run(RUN_STATE_PAUSED);
    g_assert_true(tap_pending_keep_sent(queue(0), &iov, 1));
    hand_over(&stream);
    tap_local_fixture_free();
    free_stream(&stream);
}

typedef struct Test {
    const char *name;
    void (*run)(void);
    bool needs_no_tap;
} Test;

static const Test tests[] = {
    { "options", test_options, true },
    { "options/same-id", test_options_same_id, true },
    { "options/add-queue", test_add_queue },
    { "kernel-state-format", test_kernel_state_format, true },
    { "kernel-state-fields", test_kernel_state_fields, true },
    { "kernel-state-text", test_kernel_state_text, true },
    { "kernel-state-fewer-groups", test_kernel_state_fewer_groups, true },
    { "kernel-state-restore", test_kernel_state_restore, true },
    { "kernel-state-older", test_kernel_state_older },
    { "kernel-state-of-stream", test_kernel_state_of_stream },
    { "kernel-state-observed", test_kernel_state_observed },
    { "kernel-state-unverified", test_kernel_state_unverified },
    { "kernel-state-unverified/source", test_kernel_state_unverified_source },
    { "kernel-state", test_kernel_state },
    { "state/source-resumes", test_state_source_resumes },
    { "state/handed-over", test_state_handed_over },
    { "state/resumed-before-done", test_state_resumed_before_done },
    { "state/target", test_state_target },
    { "state/given-back", test_state_given_back },
    { "state/queue-missing", test_state_queue_missing },
    { "state/migrated-on", test_state_migrated_on },
    { "latch", test_latch },
    { "latch/cpr", test_latch_cpr },
    { "latch/netdev-deleted", test_latch_netdev_deleted },
    { "set-up/refused", test_set_up_refused },
    { "gone/before", test_gone_before },
    { "gone/while-running", test_gone_while_running },
    { "gone/while-suspended", test_gone_while_suspended },
    { "put-back", test_put_back },
    { "put-back/suspended", test_put_back_suspended },
    { "put-back/older", test_put_back_older },
    { "restore-failed", test_restore_failed },
    { "restore-failed/guard", test_restore_guard },
    { "places/source", test_places_source },
    { "places/unknown", test_places_unknown },
    { "places/detached", test_places_detached },
    { "places/target", test_places_target },
    { "settings/source", test_settings_source },
    { "settings/not-saved", test_settings_not_saved },
    { "settings/target", test_settings_target },
    { "settings/steering", test_settings_steering },
    { "save/fields", test_save_fields },
    { "save/fields-real", test_save_fields_real },
    { "save/while-waiting", test_save_while_waiting, true },
    { "load/fields", test_load_fields },
    { "load/offloads", test_load_offloads },
    { "load/detached", test_load_detached },
    { "load/vnet-hdr", test_load_vnet_hdr },
    { "load/ifname", test_load_ifname },
    { "load/two-taps", test_load_two_taps },
    { "load/twice", test_load_twice },
    { "load/truncated", test_truncated },
    { "load/subsections", test_subsections_malformed },
    { "packets", test_packets },
    { "packets/source-resumes", test_packets_source_resumes },
    { "packets/some", test_packets_some },
    { "packets/running", test_packets_running },
    { "packets/loadvm", test_packets_loadvm },
    { "packets/before-vhost", test_packets_before_vhost },
    { "packets/link-down", test_packets_link_down },
    { "packets/malformed", test_packets_malformed },
    { "packets/twice", test_packets_twice },
    { "packets/for-vhost", test_packets_for_vhost },
    { "packets/without-kernel-state", test_packets_without_kernel_state },
    { "packets/too-many", test_too_many_sent },
    { "packets/none", test_no_packet },
};

static void run_test(const void *opaque)
{
    const Test *test = opaque;
    int fd = tap_local_fixture_next_fd();

    kernel_start(false);
    /* Have no kernel state in sections with packets */
    kernel.hidden = g_str_has_prefix(test->name, "packets");
    if (test->needs_no_tap || need_tap()) {
        test->run();
    }
    g_assert_null(fixture.error);
    g_assert_cmpint(tap_local_fixture_next_fd(), ==, fd);
}

int main(int argc, char **argv)
{
    int hdr_len = WIDE_HDR_LEN;

    /* Keep the expected error messages out of the TAP output */
    g_setenv("QTEST_SILENT_ERRORS", "1", true);
    g_test_init(&argc, &argv, NULL);
    null = open("/dev/null", O_RDWR);
    if (tap_local_fixture_init(&no_tap)) {
        tap = tap_local_fixture_open_tun("tap0", IFF_TAP | IFF_NO_PI |
                                         IFF_VNET_HDR);
        plain = tap_local_fixture_open_tun("tap1", IFF_TAP | IFF_NO_PI);
        tun = tap_local_fixture_open_tun("tun0", IFF_TUN | IFF_NO_PI |
                                         IFF_VNET_HDR);
        wide = tap_local_fixture_open_tun("tap2", IFF_TAP | IFF_NO_PI |
                                          IFF_VNET_HDR);
        g_assert(!ioctl(wide, TUNSETVNETHDRSZ, &hdr_len));
        for (size_t i = 0; i < ARRAY_SIZE(multi); i++) {
            multi[i] = tap_local_fixture_open_tun("multi0", IFF_TAP |
                                                  IFF_NO_PI | IFF_VNET_HDR |
                                                  IFF_MULTI_QUEUE);
        }
    }
    fixture.mode = FIXTURE_LOCAL;

    for (size_t i = 0; i < ARRAY_SIZE(tests); i++) {
        g_autofree char *path = g_strdup_printf("/tap-local/%s",
                                                tests[i].name);

        g_test_add_data_func(path, &tests[i], run_test);
    }
    for (size_t i = 0; i < ARRAY_SIZE(refusals); i++) {
        g_autofree char *path = g_strdup_printf("/tap-local/load/refused/%s",
                                                refusals[i].name);

        g_test_add_data_func(path, &refusals[i], test_load_refused);
    }
    return g_test_run();
}
