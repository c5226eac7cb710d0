/*
 * Unit tests of section net-tap: saving, loading and refusing a TAP queue
 *
 * Copyright (c) 2026 tapstate developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "tap-local-fixture.h"
#include "net/tap-kstate.h"

#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <linux/if_tun.h>
#include <linux/if_tun_state.h>

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
static int tun;
static int null;

static const NetdevTapOptions options = {
    .has_local_migration_supported = true,
    .local_migration_supported = true,
    .has_kernel_state = true,
    .kernel_state = ON_OFF_AUTO_OFF,
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

/* Fill in the fields of a section for @tap */
static void make_fields(uint8_t *fields)
{
    bool ufo = true, uso = true, tunnel = false;

    tap_kstate_get_supported(tap, &ufo, &uso, &tunnel);
    fields[FD] = ' ';
    fields[USING_VNET_HDR] = false;
    fields[HAS_UFO] = ufo;
    fields[HAS_USO] = uso;
    fields[HAS_TUNNEL] = false;
    fields[ENABLED] = true;
    stl_be_p(fields + LEN, HDR_LEN);
}

static void append_subsection(GByteArray *to, const char *name,
                              const void *data, uint32_t size)
{
    uint8_t head[] = { 5, strlen(name) };
    uint32_t version = cpu_to_be32(1), be_size = cpu_to_be32(size);

    g_byte_array_append(to, head, sizeof(head));
    g_byte_array_append(to, (const uint8_t *)name, strlen(name));
    g_byte_array_append(to, (uint8_t *)&version, sizeof(version));
    g_byte_array_append(to, (uint8_t *)&be_size, sizeof(be_size));
    g_byte_array_append(to, data, size);
}

static void new_source(const NetdevTapOptions *tap_options)
{
    uint8_t fields[FIELDS_SIZE];

    make_fields(fields);
    tap_local_fixture_new(tap_options, 0, dup(tap), RUN_STATE_RUNNING);
    fixture.queue = (TapLocalQueue) {
        .fd = fixture.queue.fd,
        .has_ufo = fields[HAS_UFO],
        .has_uso = fields[HAS_USO],
        .enabled = true,
        .host_vnet_hdr_len = HDR_LEN,
    };
}

/* Kernel with TUNGETSTATE and TUNSETSTATE, for hosts without them */
static struct {
    bool on;
    bool lacks;                 /* the ioctls after all */
    uint64_t without;           /* groups */
    struct tun_state state;     /* of every queue */
    unsigned int gets, holds, sets;
    struct tun_state set;       /* last argument of TUNSETSTATE */
    int set_errno;
    uint64_t set_failed;
} kernel;

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

static void kernel_start(void)
{
    uint8_t *p = (uint8_t *)&kernel.state;
    const size_t start = offsetof(struct tun_state, identity);

    memset(&kernel, 0, sizeof(kernel));
    kernel.on = true;
    for (size_t i = start; i < sizeof(kernel.state); i++) {
        p[i] = i;
    }
    /* Values of fields that are zero in a state */
    memset(kernel.state.identity.reserved, 0, 2);
    memset(kernel.state.netdev.reserved, 0, 2);
    kernel.state.iff.reserved = 0;
    kernel.state.owner.reserved = 0;
    kernel.state.offload.reserved = 0;
    kernel.state.sndbuf.reserved = 0;
    kernel.state.coalesce.reserved = 0;
    kernel.state.txfilter.reserved = 0;
    kernel.state.steering.action = TUN_STATE_PROG_ID;
    kernel.state.steering.fd = 0;
    kernel.state.filter.action = TUN_STATE_PROG_ID;
    kernel.state.filter.fd = 0;
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

static int kernel_get(struct tun_state *st)
{
    struct tun_state answer = {
        .mask = st->mask,
        .flags = st->flags,
        .supported = ~kernel.without,
    };

    g_assert_cmphex(st->flags & ~TUN_STATE_F_HOLD, ==, 0);
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
    kernel_copy(&answer, &kernel.state, st->mask);
    *st = answer;
    return 0;
}

static int kernel_set(struct tun_state *st)
{
    g_assert_cmphex(st->flags, ==, 0);
    g_assert_cmphex(st->reserved, ==, 0);
    kernel.sets++;
    kernel.set = *st;
    st->supported = UINT64_MAX;
    st->failed = kernel.set_failed;
    if (kernel.set_errno) {
        errno = kernel.set_errno;
        return -1;
    }
    kernel_copy(&kernel.state, st, st->mask);
    return 0;
}

/* Override that of the C library */
int ioctl(int fd, unsigned long request, ...)
{
    va_list args;
    void *arg;

    va_start(args, request);
    arg = va_arg(args, void *);
    va_end(args);

    if (!kernel.on || (request != TUNGETSTATE && request != TUNSETSTATE)) {
        return syscall(SYS_ioctl, fd, request, arg);
    }
    if (kernel.lacks) {
        errno = EINVAL;
        return -1;
    }
    return request == TUNGETSTATE ? kernel_get(arg) : kernel_set(arg);
}

static void new_target(const NetdevTapOptions *tap_options)
{
    tap_local_fixture_new(tap_options, 0, -1, RUN_STATE_INMIGRATE);
}

static void test_incoming_options(void)
{
    static const struct {
        NetdevTapOptions tap;
        RunState runstate;
        unsigned int mode;
        bool incoming;
        const char *error;
    } cases[] = {
        { { }, RUN_STATE_INMIGRATE, FIXTURE_LOCAL | FIXTURE_MACHINE_READY },
        { { .has_local_migration_supported = true,
            .local_migration_supported = true },
          RUN_STATE_INMIGRATE, FIXTURE_LOCAL | FIXTURE_MACHINE_READY, true },
        { { .has_local_migration_supported = true,
            .local_migration_supported = true },
          RUN_STATE_INMIGRATE, FIXTURE_LOCAL },
        { { .has_local_migration_supported = true,
            .local_migration_supported = true },
          RUN_STATE_INMIGRATE, FIXTURE_MACHINE_READY },
        { { .has_local_migration_supported = true,
            .local_migration_supported = true },
          RUN_STATE_RUNNING, FIXTURE_LOCAL | FIXTURE_MACHINE_READY },
        { { .has_local_migration_supported = true,
            .local_migration_supported = true,
            .has_incoming_fds = true, .incoming_fds = true },
          RUN_STATE_INMIGRATE, 0, true },
        { { .has_local_migration_supported = true,
            .local_migration_supported = true,
            .has_incoming_fds = true, .incoming_fds = false },
          RUN_STATE_INMIGRATE, FIXTURE_LOCAL | FIXTURE_MACHINE_READY },
        { { .has_cpr = true, .cpr = true },
          RUN_STATE_INMIGRATE, FIXTURE_CPR, true },
        { { .has_cpr = true, .cpr = true }, RUN_STATE_INMIGRATE },
        { { .has_kernel_state = true }, RUN_STATE_RUNNING, 0, false,
          "kernel-state= needs local-migration-supported=on" },
        { { .has_incoming_fds = true, .incoming_fds = true },
          RUN_STATE_INMIGRATE, 0, true,
          "incoming-fds=on needs local-migration-supported=on" },
        { { .has_local_migration_supported = true,
            .local_migration_supported = true,
            .has_incoming_fds = true, .incoming_fds = true },
          RUN_STATE_RUNNING, 0, true, "use -incoming" },
        { { .has_local_migration_supported = true,
            .local_migration_supported = true,
            .has_incoming_fds = true, .incoming_fds = true,
            .has_queues = true, .queues = MAX_QUEUE_NUM + 1 },
          RUN_STATE_INMIGRATE, 0, true, "is more than the" },
        { { .has_local_migration_supported = true,
            .local_migration_supported = true,
            .has_incoming_fds = true, .incoming_fds = true,
            .has_queues = true, .queues = MAX_QUEUE_NUM },
          RUN_STATE_INMIGRATE, 0, true },
        { { .has_local_migration_supported = true,
            .local_migration_supported = true,
            .has_incoming_fds = true, .incoming_fds = true,
            .fds = (char *)"3:4" },
          RUN_STATE_INMIGRATE, 0, true, "come with the migration stream" },
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        g_autoptr(Error) err = NULL;
        bool incoming, ok;

        fixture.runstate = cases[i].runstate;
        fixture.mode = cases[i].mode;
        ok = tap_local_incoming(&cases[i].tap, "net0", &incoming, &err);
        if (cases[i].error) {
            g_assert_false(ok);
            assert_contains(error_get_pretty(err), "netdev 'net0'");
            assert_contains(error_get_pretty(err), cases[i].error);
        } else {
            g_assert_true(ok);
            g_assert_cmpint(incoming, ==, cases[i].incoming);
        }
    }
    fixture.mode = FIXTURE_LOCAL;
}

/* QEMU refuses malformed state itself, before it asks the kernel */
static void test_kernel_state_format(void)
{
    static const struct {
        uint32_t size;
        uint64_t mask;
        const char *error;
    } cases[] = {
        { 0, TUN_STATE_IFF, "has 0 bytes" },
        { 31, TUN_STATE_IFF, "has 31 bytes" },
        { TAP_KSTATE_MAX_SIZE + 1, TUN_STATE_IFF, "has 4097 bytes" },
        { sizeof(struct tun_state), 0, "groups 0x0" },
        { sizeof(struct tun_state), 1ULL << 63, "groups 0x8000000000000000" },
        { sizeof(struct tun_state), TUN_STATE_SOCKFILTER, "groups 0x400" },
        { sizeof(struct tun_state), TUN_STATE_FLOWS, "groups 0x4000" },
        { sizeof(struct tun_state), TUN_STATE_QUEUES, "groups 0x10000" },
        { 32, TUN_STATE_IFF, "32 bytes is damaged: iff.flags is missing" },
        { offsetof(struct tun_state, iff.reserved) + 3, TUN_STATE_IFF,
          "iff.reserved is missing" },
        { offsetof(struct tun_state, owner), TUN_STATE_IFF,
          "TUNGETSTATE failed" },
        { sizeof(struct tun_state), TUN_STATE_IFF, "TUNGETSTATE failed" },
        { TAP_KSTATE_MAX_SIZE, TUN_STATE_IFF, "TUNGETSTATE failed" },
    };
    g_autofree uint8_t *data = g_malloc0(TAP_KSTATE_MAX_SIZE);

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        TapKState ks = { .size = cases[i].size, .data = data };
        char *observed;
        Error *err = NULL;

        memcpy(data, &cases[i].mask, sizeof(cases[i].mask));
        g_assert_false(tap_kstate_check(-1, &ks, &observed, &err));
        g_assert_null(observed);
        assert_contains(error_get_pretty(err), cases[i].error);
        g_clear_pointer(&err, error_free);
        g_assert_false(tap_kstate_restore(-1, &ks, &err));
        assert_contains(error_get_pretty(err), cases[i].error);
        error_free(err);
    }
}

/* What a field means for a TAP that has another value */
typedef enum Outcome { REFUSED, OBSERVED, IGNORED, DAMAGED } Outcome;

typedef struct FieldCase {
    const char *name;
    size_t offset;
    size_t size;
    uint32_t bits;              /* to invert; 0: one in each byte */
    Outcome outcome;
} FieldCase;

#define FIELD_BITS(_field, _outcome, _bits)                                 \
    { #_field, offsetof(struct tun_state, _field),                          \
      sizeof_field(struct tun_state, _field), _bits, _outcome }
#define FIELD(_field, _outcome) FIELD_BITS(_field, _outcome, 0)

static const FieldCase field_cases[] = {
    { "flags", offsetof(struct tun_state, flags), 4, 0, DAMAGED },
    { "reserved", offsetof(struct tun_state, reserved), 4, 0, DAMAGED },
    FIELD(identity.netns, REFUSED),
    FIELD(identity.ifindex, REFUSED),
    FIELD(identity.type, REFUSED),
    FIELD(identity.reserved, DAMAGED),
    FIELD(netdev.mtu, OBSERVED),
    FIELD(netdev.up, OBSERVED),
    FIELD(netdev.addr_len, OBSERVED),
    FIELD(netdev.reserved, DAMAGED),
    FIELD(netdev.name, OBSERVED),
    FIELD(netdev.addr, OBSERVED),
    FIELD(iff.flags, REFUSED),
    FIELD_BITS(iff.flags, REFUSED, IFF_VNET_HDR),
    FIELD_BITS(iff.flags, OBSERVED, IFF_PERSIST),
    FIELD(iff.reserved, DAMAGED),
    FIELD(owner.uid, OBSERVED),
    FIELD(owner.gid, OBSERVED),
    FIELD(owner.flags, OBSERVED),
    FIELD(owner.reserved, DAMAGED),
    FIELD(vnet.hdr_size, REFUSED),
    FIELD(vnet.flags, REFUSED),
    FIELD(offload.enabled, REFUSED),
    FIELD(offload.wanted, OBSERVED),
    FIELD(offload.supported, OBSERVED),
    FIELD(offload.reserved, DAMAGED),
    FIELD(sndbuf.size, REFUSED),
    FIELD(sndbuf.reserved, DAMAGED),
    FIELD(link.carrier, REFUSED),
    FIELD(link.msg_enable, OBSERVED),
    FIELD(coalesce.rx_frames, OBSERVED),
    FIELD(coalesce.reserved, DAMAGED),
    FIELD(txfilter.count, REFUSED),
    FIELD(txfilter.reserved, DAMAGED),
    FIELD(txfilter.hash, REFUSED),
    FIELD(txfilter.addr, REFUSED),
    FIELD(steering.id, REFUSED),
    FIELD(steering.type, REFUSED),
    FIELD(steering.tag, REFUSED),
    FIELD(steering.action, DAMAGED),
    FIELD(steering.fd, DAMAGED),
    FIELD(filter.id, REFUSED),
    FIELD(filter.type, REFUSED),
    FIELD(filter.tag, REFUSED),
    FIELD(filter.action, DAMAGED),
    FIELD(filter.fd, DAMAGED),
    FIELD(xdp.drv_prog_id, OBSERVED),
    FIELD(xdp.skb_prog_id, OBSERVED),
    FIELD(queue.index, REFUSED),
    FIELD_BITS(queue.flags, REFUSED, TUN_STATE_QUEUE_ATTACHED),
    FIELD_BITS(queue.flags, REFUSED, TUN_STATE_QUEUE_NAPI),
    FIELD_BITS(queue.flags, REFUSED, TUN_STATE_QUEUE_NAPI_FRAGS),
    FIELD_BITS(queue.flags, REFUSED, TUN_STATE_QUEUE_SOCKFILTER),
    FIELD_BITS(queue.flags, OBSERVED, TUN_STATE_QUEUE_SELF),
    FIELD_BITS(queue.flags, OBSERVED, 1U << 31),
    FIELD(queue.ring_size, OBSERVED),
    FIELD(queue.ring_len, IGNORED),
};

/* Compare with the kernel's state a copy in which byte @offset is changed */
static void check_field(const TapKState *ks, const FieldCase *field,
                        uint32_t bits, size_t byte)
{
    g_autofree uint8_t *data = g_memdup2(ks->data, ks->size);
    TapKState changed = { .size = ks->size, .data = data };
    g_autofree char *observed = NULL;
    g_autoptr(Error) err = NULL;
    bool ok;

    if (bits) {
        *(uint32_t *)(data + field->offset) ^= bits;
    } else {
        data[field->offset + byte] ^= 1;
    }
    ok = tap_kstate_check(-1, &changed, &observed, &err);
    switch (field->outcome) {
    case REFUSED:
        g_assert_false(ok);
        assert_contains(error_get_pretty(err), "not the expected one");
        assert_contains(error_get_pretty(err), field->name);
        g_assert_null(observed);
        break;
    case OBSERVED:
        g_assert_true(ok);
        assert_contains(observed, field->name);
        assert_contains(observed, " instead of ");
        break;
    case IGNORED:
        g_assert_true(ok);
        g_assert_null(observed);
        break;
    case DAMAGED:
        g_assert_false(ok);
        assert_contains(error_get_pretty(err), "is damaged: ");
        assert_contains(error_get_pretty(err), field->name);
        g_assert_null(observed);
        break;
    }
}

/* Change one byte after another of a state that the kernel then compares */
static void test_kernel_state_fields(void)
{
    uint64_t arrays = TUN_STATE_SOCKFILTER | TUN_STATE_FLOWS | TUN_STATE_QUEUES;
    bool covered[sizeof(struct tun_state)] = { };
    g_autofree uint8_t *data = g_malloc0(TAP_KSTATE_MAX_SIZE);
    TapKState ks = { .data = data };
    char *observed;

    kernel_start();
    g_assert_true(tap_kstate_hold(-1, &ks, &error_abort));
    g_assert_true(tap_kstate_check(-1, &ks, &observed, &error_abort));
    g_assert_null(observed);

    for (size_t i = 0; i < ARRAY_SIZE(field_cases); i++) {
        const FieldCase *field = &field_cases[i];

        for (size_t j = 0; j < (field->bits ? 1 : field->size); j++) {
            check_field(&ks, field, field->bits, j);
        }
        memset(covered + field->offset, true, field->size);
    }
    for (size_t i = 0; i < ARRAY_SIZE(kernel_groups); i++) {
        for (size_t j = 0; j < kernel_groups[i].size; j++) {
            g_assert_cmpint(covered[kernel_groups[i].offset + j], ==,
                            !(kernel_groups[i].bit & arrays));
        }
    }

    /* A longer struct, whose other groups this QEMU does not know */
    ks.size = sizeof(struct tun_state) + 8;
    g_assert_true(tap_kstate_check(-1, &ks, &observed, &error_abort));
    check_field(&ks, &(FieldCase) { "the part behind the groups",
                sizeof(struct tun_state), 8, 0, DAMAGED }, 0, 7);

    g_assert_cmpuint(kernel.holds, ==, 1);
    g_assert_cmpuint(kernel.sets, ==, 0);
    kernel.on = false;
}

/* A macvtap has fewer groups: read, compare and restore those */
static void test_kernel_state_fewer_groups(void)
{
    g_autofree uint8_t *data = g_malloc0(TAP_KSTATE_MAX_SIZE);
    TapKState ks = { .data = data };
    const struct tun_state *st = (void *)data;
    struct tun_state *now = &kernel.state;
    char *observed;
    Error *err = NULL;

    kernel_start();
    kernel.without = ~(TUN_STATE_IDENTITY | TUN_STATE_IFF | TUN_STATE_VNET |
                       TUN_STATE_QUEUE);
    g_assert_true(tap_kstate_hold(-1, &ks, &error_abort));
    g_assert_cmphex(st->mask, ==, ~kernel.without);
    g_assert_true(tap_kstate_check(-1, &ks, &observed, &error_abort));
    g_assert_null(observed);

    now->link.carrier++;
    g_assert_true(tap_kstate_check(-1, &ks, &observed, &error_abort));
    now->vnet.hdr_size++;
    g_assert_false(tap_kstate_check(-1, &ks, &observed, &err));
    assert_contains(error_get_pretty(err), "vnet.hdr_size is 0x");
    error_free(err);
    g_assert_true(tap_kstate_restore(-1, &ks, &error_abort));
    g_assert_cmphex(kernel.set.mask, ==, TUN_STATE_VNET);

    /* None that this QEMU knows */
    kernel.without = UINT64_MAX >> 1;
    err = NULL;
    g_assert_false(tap_kstate_hold(-1, &ks, &err));
    assert_contains(error_get_pretty(err), "TUNGETSTATE failed");
    error_free(err);
    kernel.on = false;
}

/* Restore what is verified and differs, with one TUNSETSTATE */
static void test_kernel_state_restore(void)
{
    g_autofree uint8_t *data = g_malloc0(TAP_KSTATE_MAX_SIZE);
    TapKState ks = { .data = data };
    struct tun_state *now = &kernel.state, saved;
    Error *err = NULL;

    kernel_start();
    now->queue.flags = TUN_STATE_QUEUE_ATTACHED;
    g_assert_true(tap_kstate_hold(-1, &ks, &error_abort));
    saved = kernel.state;
    g_assert_true(tap_kstate_restore(-1, &ks, &error_abort));
    g_assert_cmpuint(kernel.sets, ==, 0);

    /* An administrator's settings stay, also in groups that are restored */
    now->netdev.mtu++;
    now->iff.flags ^= IFF_PERSIST;
    now->owner.uid++;
    now->offload.wanted++;
    now->coalesce.rx_frames++;
    now->link.msg_enable++;
    g_assert_true(tap_kstate_restore(-1, &ks, &error_abort));
    g_assert_cmpuint(kernel.sets, ==, 0);
    now->link.carrier ^= 1;
    now->sndbuf.size++;
    now->txfilter.addr[7][5]++;
    now->steering.id = now->steering.type = 0;
    now->filter.tag[7]++;
    now->queue.index++;
    now->queue.flags = TUN_STATE_QUEUE_SOCKFILTER;
    now->queue.ring_len++;
    g_assert_true(tap_kstate_restore(-1, &ks, &error_abort));
    g_assert_cmpuint(kernel.sets, ==, 1);
    g_assert_cmphex(kernel.set.mask, ==, TUN_STATE_LINK | TUN_STATE_SNDBUF |
                    TUN_STATE_TXFILTER | TUN_STATE_STEERING | TUN_STATE_FILTER |
                    TUN_STATE_QUEUE);
    g_assert_cmpuint(now->link.msg_enable, ==, saved.link.msg_enable + 1);
    now->link.msg_enable--;
    now->queue.ring_len--;
    kernel_copy(&saved, now, TUN_STATE_NETDEV | TUN_STATE_IFF |
                TUN_STATE_OWNER | TUN_STATE_OFFLOAD | TUN_STATE_COALESCE);
    g_assert_cmpmem(now, sizeof(*now), &saved, sizeof(saved));

    /* TUNSETOFFLOAD has changed both */
    now->offload.enabled++;
    now->offload.wanted = now->offload.enabled;
    g_assert_true(tap_kstate_restore(-1, &ks, &error_abort));
    g_assert_cmpuint(kernel.sets, ==, 2);
    g_assert_cmphex(kernel.set.mask, ==, TUN_STATE_OFFLOAD);
    g_assert_cmpuint(now->offload.enabled, ==, saved.offload.enabled);
    g_assert_cmpuint(now->offload.wanted, ==, saved.offload.wanted - 1);

    /* TUNSETSTATE cannot change the guards */
    now->identity.ifindex++;
    now->iff.flags ^= IFF_VNET_HDR;
    now->queue.flags |= TUN_STATE_QUEUE_NAPI;
    now->vnet.hdr_size++;
    g_assert_false(tap_kstate_restore(-1, &ks, &err));
    assert_contains(error_get_pretty(err), "identity.ifindex is 0x");
    assert_contains(error_get_pretty(err), "iff.flags is 0x");
    assert_contains(error_get_pretty(err), "queue.flags is 0x3 instead of 0x1");
    g_assert_null(strstr(error_get_pretty(err), "vnet.hdr_size"));
    g_clear_pointer(&err, error_free);
    g_assert_cmpuint(kernel.sets, ==, 3);
    g_assert_cmphex(kernel.set.mask, ==, TUN_STATE_VNET);
    now->queue.index++;
    g_assert_false(tap_kstate_restore(-1, &ks, &err));
    g_clear_pointer(&err, error_free);
    g_assert_cmphex(kernel.set.queue.flags, ==,
                    TUN_STATE_QUEUE_ATTACHED | TUN_STATE_QUEUE_NAPI);

    /* The kernel refuses one group, and sets none */
    kernel.set_errno = EBADF;
    kernel.set_failed = TUN_STATE_STEERING;
    now->steering.id++;
    now->sndbuf.size++;
    g_assert_false(tap_kstate_restore(-1, &ks, &err));
    assert_contains(error_get_pretty(err), "sndbuf.size is 0x");
    assert_contains(error_get_pretty(err), "steering.id is 0x");
    assert_contains(error_get_pretty(err),
                    "TUNSETSTATE failed at group steering: ");
    error_free(err);
    g_assert_cmpuint(kernel.holds, ==, 1);
    kernel.on = false;
}

/* Only a source holds programs, and sets what it has read itself */
static void test_kernel_state_of_stream(void)
{
    NetdevTapOptions automatic = options;
    g_autoptr(GByteArray) data = NULL, stream = g_byte_array_new();
    struct tun_state st;
    uint8_t fields[FIELDS_SIZE];
    int fd;

    automatic.kernel_state = ON_OFF_AUTO_AUTO;
    kernel_start();
    make_fields(fields);
    new_source(&automatic);
    tap_local_fixture_run(RUN_STATE_FINISH_MIGRATE);
    data = tap_local_fixture_save(&fd);
    g_assert_cmpuint(kernel.holds, ==, 1);
    g_assert_cmpuint(kernel.sets, ==, 0);

    /* The source resumes and restores its own state */
    kernel.state.sndbuf.size++;
    kernel.gets = 0;
    tap_local_fixture_run(RUN_STATE_RUNNING);
    g_assert_cmpuint(kernel.sets, ==, 1);
    g_assert_cmphex(kernel.set.mask, ==, TUN_STATE_SNDBUF);
    tap_local_fixture_run(RUN_STATE_PAUSED);
    kernel.state.sndbuf.size++;
    tap_local_fixture_run(RUN_STATE_RUNNING);
    g_assert_cmpuint(kernel.sets, ==, 1);
    kernel.state.sndbuf.size--;
    tap_local_fixture_free();
    g_assert_cmpuint(kernel.holds, ==, 1);

    /* A target compares, and never sets */
    new_target(&automatic);
    kernel.gets = 0;
    g_assert_true(tap_local_fixture_load(data->data, data->len, fd, 1));
    g_assert_cmpuint(kernel.gets, >, 0);
    kernel.state.sndbuf.size++;
    tap_local_fixture_run(RUN_STATE_RUNNING);
    kernel.state.sndbuf.size--;
    tap_local_fixture_free();
    g_assert_cmpuint(kernel.sets, ==, 1);
    g_assert_cmpuint(kernel.holds, ==, 1);

    /* Migrate on without having run: only what this QEMU reads itself counts */
    g_byte_array_append(stream, fields, sizeof(fields));
    st = kernel.state;
    st.mask = TUN_STATE_OFFLOAD | TUN_STATE_NETDEV;
    st.offload.wanted++;
    append_subsection(stream, "net-tap/kernel-state", &st, sizeof(st));
    for (int lacks = 0; lacks < 2; lacks++) {
        int again;

        new_target(&automatic);
        g_assert_true(tap_local_fixture_load(stream->data, stream->len, fd, 1));
        kernel.lacks = lacks;
        g_byte_array_free(tap_local_fixture_save(&again), true);
        close(again);
        kernel.lacks = false;
        kernel.state.offload.enabled++;
        tap_local_fixture_run(RUN_STATE_RUNNING);
        g_assert_cmpuint(kernel.sets, ==, 2);
        g_assert_cmpuint(kernel.holds, ==, 2);
        g_assert_cmpuint(kernel.set.offload.wanted, ==,
                         kernel.state.offload.wanted);
        tap_local_fixture_free();
    }
    close(fd);
    kernel.on = false;
}

static void test_save_fields(void)
{
    uint8_t expected[FIELDS_SIZE];
    int fd;

    for (int bit = USING_VNET_HDR; bit <= ENABLED; bit++) {
        g_autoptr(GByteArray) data = NULL;

        new_source(&options);
        fixture.queue.using_vnet_hdr = bit == USING_VNET_HDR;
        fixture.queue.has_ufo = bit == HAS_UFO;
        fixture.queue.has_uso = bit == HAS_USO;
        fixture.queue.has_tunnel = bit == HAS_TUNNEL;
        fixture.queue.enabled = bit == ENABLED;
        tap_local_fixture_run(RUN_STATE_FINISH_MIGRATE);
        data = tap_local_fixture_save(&fd);
        g_assert_cmpint(fd, >=, 0);
        close(fd);

        memset(expected, 0, sizeof(expected));
        expected[FD] = ' ';
        expected[bit] = true;
        stl_be_p(expected + LEN, HDR_LEN);
        g_assert_cmpmem(data->data, data->len, expected, sizeof(expected));
        g_assert_true(tap_local_is_held(fixture.local));
        tap_local_fixture_free();
    }
}

static void test_save_while_waiting(void)
{
    int fd;

    new_target(&options);
    g_assert_null(tap_local_fixture_save(&fd));
    assert_contains(fixture.error, "netdev 'net0' queue 0: ");
    tap_local_fixture_free();
}

static void test_load_fields(void)
{
    uint8_t fields[FIELDS_SIZE];

    make_fields(fields);
    new_target(&options);
    g_assert_true(tap_local_fixture_load(fields, sizeof(fields), tap, 1));
    g_assert_null(fixture.error);
    g_assert_cmpint(fixture.queue.fd, >=, 0);
    g_assert_cmpint(fixture.queue.has_ufo, ==, fields[HAS_UFO]);
    g_assert_cmpint(fixture.queue.has_uso, ==, fields[HAS_USO]);
    g_assert_false(fixture.queue.has_tunnel);
    g_assert_true(fixture.queue.enabled);
    g_assert_cmpuint(fixture.queue.host_vnet_hdr_len, ==, HDR_LEN);

    /* The target leaves the TAP alone before it runs */
    g_assert_true(tap_local_is_held(fixture.local));
    g_assert_false(tap_local_owns_device(fixture.local));
    g_assert_false(tap_local_may_read(fixture.local));
    tap_local_fixture_run(RUN_STATE_RUNNING);
    g_assert_false(tap_local_is_held(fixture.local));
    g_assert_true(tap_local_owns_device(fixture.local));
    g_assert_true(tap_local_may_read(fixture.local));
    tap_local_fixture_free();
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
    { "tunnel", HAS_TUNNEL, 1, &tap, 1, "UDP tunnels" },
    { "detached", ENABLED, 0, &tap, 1,
      "the queue is attached, and detached in the stream" },
    { "vnet-hdr-len", LEN + 3, WIDE_HDR_LEN, &tap, 1,
      "vnet header of 10 bytes, and of 12 bytes in the stream" },
    { "vnet-hdr-too-long", LEN + 3, WIDE_HDR_LEN, &wide, 1,
      "vnet header of 12 bytes, and with this NIC model there are at most 10" },
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
    g_assert_false(tap_local_fixture_load(fields, sizeof(fields), *refusal->fd,
                                          refusal->count));
    assert_contains(fixture.error, "netdev 'net0' queue 0: ");
    assert_contains(fixture.error, refusal->error);

    /* The queue has no fd, and can load another stream */
    tap_local_fixture_fail();
    g_assert_cmpint(fixture.queue.fd, <, 0);
    g_assert_false(tap_local_check_ready(fixture.local, NULL));
    make_fields(fields);
    g_clear_pointer(&fixture.error, g_free);
    g_assert_true(tap_local_fixture_load(fields, sizeof(fields), tap, 1));
    tap_local_fixture_free();
    g_assert_cmpint(tap_local_fixture_next_fd(), ==, fd);
}

static void test_load_other_ifname(void)
{
    NetdevTapOptions other = options;
    uint8_t fields[FIELDS_SIZE];

    make_fields(fields);
    other.ifname = (char *)"tap9";
    new_target(&other);
    g_assert_false(tap_local_fixture_load(fields, sizeof(fields), tap, 1));
    assert_contains(fixture.error, "the TAP is 'tap0'");
    assert_contains(fixture.error, "ifname=tap9");
    tap_local_fixture_free();
}

static void test_load_without_kernel_state(void)
{
    NetdevTapOptions on = options;
    uint8_t fields[FIELDS_SIZE];

    make_fields(fields);
    on.kernel_state = ON_OFF_AUTO_ON;
    new_target(&on);
    g_assert_false(tap_local_fixture_load(fields, sizeof(fields), tap, 1));
    assert_contains(fixture.error, "the stream holds no kernel state");
    tap_local_fixture_free();
}

/* The target expects the state that the kernel reported on the source */
static void test_kernel_state(void)
{
    NetdevTapOptions on = options;
    g_autoptr(GByteArray) data = NULL, stream = g_byte_array_new();
    g_autofree uint8_t *state = g_malloc0(TAP_KSTATE_MAX_SIZE);
    TapKState ks = { .data = state };
    char *observed;
    int fd, sndbuf, changed = 4711;

    g_assert_true(tap_kstate_get(tap, &ks, &error_abort));
    if (!ks.size) {
        g_test_skip("this kernel does not report TAP state");
        return;
    }
    on.kernel_state = ON_OFF_AUTO_ON;
    new_source(&on);
    tap_local_fixture_run(RUN_STATE_FINISH_MIGRATE);
    data = tap_local_fixture_save(&fd);
    tap_local_fixture_free();
    g_assert_true(tap_kstate_get(fd, &ks, &error_abort));
    g_byte_array_set_size(stream, FIELDS_SIZE);
    make_fields(stream->data);
    append_subsection(stream, "net-tap/kernel-state", ks.data, ks.size);
    g_assert_cmpmem(data->data, data->len, stream->data, stream->len);

    new_target(&on);
    g_assert_true(tap_local_fixture_load(data->data, data->len, fd, 1));
    tap_local_fixture_free();

    g_assert(!ioctl(fd, TUNGETSNDBUF, &sndbuf));
    g_assert(!ioctl(fd, TUNSETSNDBUF, &changed));
    new_target(&on);
    g_assert_false(tap_local_fixture_load(data->data, data->len, fd, 1));
    assert_contains(fixture.error, "sndbuf.size is 0x1267 instead of ");
    tap_local_fixture_free();

    /* The source restores its state */
    g_assert_true(tap_kstate_restore(fd, &ks, &error_abort));
    g_assert_true(tap_kstate_check(fd, &ks, &observed, &error_abort));
    g_assert_null(observed);
    g_assert(!ioctl(fd, TUNGETSNDBUF, &changed));
    g_assert_cmpint(changed, ==, sndbuf);
    close(fd);
}

static void test_load_twice(void)
{
    uint8_t fields[FIELDS_SIZE];

    make_fields(fields);
    new_target(&options);
    g_assert_true(tap_local_fixture_load(fields, sizeof(fields), tap, 1));
    g_assert_false(tap_local_fixture_load(fields, sizeof(fields), tap, 1));
    assert_contains(fixture.error, "twice in the migration stream");
    tap_local_fixture_free();

    new_source(&options);
    g_assert_false(tap_local_fixture_load(fields, sizeof(fields), tap, 1));
    assert_contains(fixture.error, "use incoming-fds=on");
    tap_local_fixture_free();
}

/* A migration that fails after the section was loaded: the source resumes */
static void test_load_given_back(void)
{
    uint8_t fields[FIELDS_SIZE];
    int fd = tap_local_fixture_next_fd();

    make_fields(fields);
    new_target(&options);
    for (int i = 0; i < 3; i++) {
        g_assert_true(tap_local_fixture_load(fields, sizeof(fields), tap, 1));
        g_assert_cmpint(fixture.queue.fd, >=, 0);
        tap_local_fixture_fail();
        g_assert_cmpint(fixture.queue.fd, <, 0);
        g_assert_cmpint(tap_local_fixture_next_fd(), ==, fd);
        g_assert_false(tap_local_may_read(fixture.local));
    }
    tap_local_fixture_free();
}

static void keep_sent(const void *data, size_t size)
{
    /* In two pieces, as a guest may pass a packet */
    struct iovec iov[] = {
        { (void *)data, size / 3 },
        { (void *)data + size / 3, size - size / 3 },
    };

    g_assert_true(tap_local_keep_sent(fixture.local, iov, ARRAY_SIZE(iov)));
}

/* Pending packets reach the target once and in order */
static void test_packets(void)
{
    g_autoptr(GByteArray) data = NULL, expected = g_byte_array_new();
    g_autoptr(GByteArray) packets = g_byte_array_new();
    g_autoptr(GByteArray) stream = g_byte_array_new();
    uint8_t received[100], buf[NET_BUFSIZE], sent[300];
    int fd;

    memset(received, 0x5a, sizeof(received));
    new_source(&options);
    g_assert_false(tap_local_has_received(fixture.local));
    tap_local_fixture_run(RUN_STATE_FINISH_MIGRATE);
    tap_local_keep_received(fixture.local, received, sizeof(received));
    for (int i = 0; i < 3; i++) {
        uint32_t size = 100 * (i + 1), be_size = cpu_to_be32(size);

        memset(sent, i, sizeof(sent));
        keep_sent(sent, size);
        g_byte_array_append(expected, sent, size);
        g_byte_array_append(packets, (uint8_t *)&be_size, sizeof(be_size));
        g_byte_array_append(packets, sent, size);
    }
    data = tap_local_fixture_save(&fd);
    g_assert_nonnull(data);
    g_byte_array_set_size(stream, FIELDS_SIZE);
    make_fields(stream->data);
    append_subsection(stream, "net-tap/received", received, sizeof(received));
    append_subsection(stream, "net-tap/sent", packets->data, packets->len);
    g_assert_cmpmem(data->data, data->len, stream->data, stream->len);
    g_assert_cmpuint(fixture.transmitted->len, ==, 0);
    tap_local_fixture_free();

    new_target(&options);
    g_assert_true(tap_local_fixture_load(data->data, data->len, fd, 1));
    close(fd);
    g_assert_false(tap_local_has_received(fixture.local));
    g_assert_false(tap_local_flush_sent(fixture.local));
    fixture.blocked = true;
    tap_local_fixture_run(RUN_STATE_RUNNING);
    g_assert_false(tap_local_flush_sent(fixture.local));
    fixture.blocked = false;
    g_assert_true(tap_local_flush_sent(fixture.local));
    g_assert_true(tap_local_flush_sent(fixture.local));
    g_assert_cmpmem(fixture.transmitted->data, fixture.transmitted->len,
                    expected->data, expected->len);
    g_assert_true(tap_local_has_received(fixture.local));
    g_assert_cmpuint(tap_local_take_received(fixture.local, buf), ==,
                     sizeof(received));
    g_assert_cmpmem(buf, sizeof(received), received, sizeof(received));
    g_assert_false(tap_local_has_received(fixture.local));
    g_assert_cmpuint(tap_local_take_received(fixture.local, buf), ==, 0);
    tap_local_fixture_free();
}

static void test_packets_malformed(void)
{
    static const uint8_t zero[4], too_long[] = { 0, 0, 0, 2, 0 },
                         no_length[] = { 0, 0, 0, 1, 9, 0, 0 };
    static const uint8_t huge[NET_BUFSIZE + 1];
    static const struct {
        const char *name;
        const uint8_t *data;
        size_t size;
        const char *error;      /* NULL: vmstate_load_state() refuses */
    } cases[] = {
        { "net-tap/sent", zero, 0, "packets to send of 0 bytes" },
        { "net-tap/sent", zero, sizeof(zero), "the 4 bytes that they have" },
        { "net-tap/sent", too_long, sizeof(too_long), "the 5 bytes that" },
        { "net-tap/sent", no_length, sizeof(no_length), "the 7 bytes that" },
        { "net-tap/received", zero, 0, "received packet of 0 bytes" },
        { "net-tap/received", huge, HDR_LEN + 13, "packet of 23 bytes" },
        { "net-tap/received", huge, sizeof(huge), "packet of 69633 bytes" },
        { "net-tap/kernel-state", zero, 0, "kernel state of 0 bytes" },
        { "net-tap/kernel-state", huge, TAP_KSTATE_MAX_SIZE + 1,
          "kernel state of 4097 bytes" },
        { "net-tap/nobody-knows", zero, 1, NULL },
    };
    int fd = tap_local_fixture_next_fd();

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        g_autoptr(GByteArray) data = g_byte_array_new();

        g_byte_array_set_size(data, FIELDS_SIZE);
        make_fields(data->data);
        append_subsection(data, cases[i].name, cases[i].data, cases[i].size);
        new_target(&options);
        g_assert_false(tap_local_fixture_load(data->data, data->len, tap, 1));
        if (cases[i].error) {
            assert_contains(fixture.error, "netdev 'net0' queue 0: ");
            assert_contains(fixture.error, cases[i].error);
        }
        tap_local_fixture_fail();
        g_assert_cmpint(fixture.queue.fd, <, 0);
        tap_local_fixture_free();
        g_assert_cmpint(tap_local_fixture_next_fd(), ==, fd);
    }
}

/* vhost takes packets from the kernel only, and cannot deliver pending ones */
static void test_packets_for_vhost(void)
{
    static const char *const names[] = { NULL, "net-tap/received",
                                         "net-tap/sent" };
    static const uint8_t packets[] = { [3] = 60, [63] = 0 };

    g_assert_true(tap_local_check_none_kept(NULL, NULL));
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        g_autoptr(GByteArray) data = g_byte_array_new();
        g_autoptr(Error) err = NULL;

        g_byte_array_set_size(data, FIELDS_SIZE);
        make_fields(data->data);
        if (names[i]) {
            append_subsection(data, names[i], packets, sizeof(packets));
        }
        new_target(&options);
        g_assert_true(tap_local_fixture_load(data->data, data->len, tap, 1));
        g_assert_cmpint(tap_local_check_none_kept(fixture.local, &err), ==,
                        !names[i]);
        if (names[i]) {
            assert_contains(error_get_pretty(err), "netdev 'net0' queue 0: ");
            assert_contains(error_get_pretty(err), "use vhost=off");
        }
        tap_local_fixture_free();
    }
}

/* A stream that ends early, after each of its bytes */
static void test_truncated(void)
{
    g_autoptr(GByteArray) data = g_byte_array_new();
    static const uint8_t packet[72];
    int fd = tap_local_fixture_next_fd();

    g_byte_array_set_size(data, FIELDS_SIZE);
    make_fields(data->data);
    append_subsection(data, "net-tap/received", packet, sizeof(packet));
    for (size_t size = 0; size <= data->len; size++) {
        new_target(&options);
        g_assert_false(tap_local_fixture_load_end(data->data, size, tap, 1));
        tap_local_fixture_fail();
        g_assert_cmpint(fixture.queue.fd, <, 0);
        tap_local_fixture_free();
        g_assert_cmpint(tap_local_fixture_next_fd(), ==, fd);
    }
    new_target(&options);
    g_assert_true(tap_local_fixture_load(data->data, data->len, tap, 1));
    tap_local_fixture_free();
}

/* A source that resumes applies deferred settings that are not in force */
static void test_source_resumes(void)
{
    int fd;

    new_source(&options);
    g_assert_false(tap_local_defer(fixture.local, TAP_SETTING_VNET_HDR_LEN,
                                   10));
    tap_local_fixture_run(RUN_STATE_FINISH_MIGRATE);
    g_byte_array_free(tap_local_fixture_save(&fd), true);
    g_assert_true(tap_local_owns_device(fixture.local));
    tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_DONE);
    g_assert_false(tap_local_owns_device(fixture.local));
    g_assert_false(tap_local_may_read(fixture.local));

    g_assert_true(tap_local_defer(fixture.local, TAP_SETTING_ENABLED, 1));
    g_assert_true(tap_local_defer(fixture.local, TAP_SETTING_VNET_HDR_LEN, 8));
    g_assert_true(tap_local_defer(fixture.local, TAP_SETTING_VNET_HDR_LEN, 12));
    g_assert_true(tap_local_defer(fixture.local, TAP_SETTING_STEERING, -1));
    g_unix_set_fd_nonblocking(fd, false, NULL);
    tap_local_fixture_run(RUN_STATE_RUNNING);

    g_assert_true(tap_local_owns_device(fixture.local));
    g_assert_true(tap_local_may_read(fixture.local));
    g_assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
    g_assert_cmpuint(fixture.applied[TAP_SETTING_ENABLED], ==, 0);
    g_assert_cmpuint(fixture.applied[TAP_SETTING_VNET_HDR_LEN], ==, 1);
    g_assert_cmpint(fixture.value[TAP_SETTING_VNET_HDR_LEN], ==, 12);
    g_assert_cmpuint(fixture.applied[TAP_SETTING_STEERING], ==, 1);
    close(fd);
    tap_local_fixture_free();
}

/* A stream holds what the device has, not the deferred settings */
static void test_put_off_and_saved(void)
{
    g_autoptr(GByteArray) data = NULL;
    uint8_t fields[FIELDS_SIZE];
    int fd;

    make_fields(fields);
    new_source(&options);
    tap_local_fixture_run(RUN_STATE_PAUSED);
    g_byte_array_free(tap_local_fixture_save(&fd), true);
    close(fd);
    tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_FAILED);

    g_assert_true(tap_local_defer(fixture.local, TAP_SETTING_ENABLED, 0));
    g_assert_true(tap_local_defer(fixture.local, TAP_SETTING_VNET_HDR_LEN, 12));
    fixture.queue.enabled = false;
    fixture.queue.host_vnet_hdr_len = 12;
    data = tap_local_fixture_save(&fd);
    g_assert_cmpmem(data->data, data->len, fields, sizeof(fields));
    close(fd);
    tap_local_fixture_run(RUN_STATE_RUNNING);
    g_assert_cmpuint(fixture.applied[TAP_SETTING_ENABLED], ==, 1);
    g_assert_cmpuint(fixture.applied[TAP_SETTING_VNET_HDR_LEN], ==, 1);
    tap_local_fixture_free();
}

/* The owner of the device runs downscript */
static void test_owner(void)
{
    int fd;

    new_source(&options);
    g_assert_true(tap_local_owns_device(fixture.local));
    tap_local_fixture_run(RUN_STATE_FINISH_MIGRATE);
    g_byte_array_free(tap_local_fixture_save(&fd), true);
    close(fd);
    g_assert_true(tap_local_owns_device(fixture.local));

    /* Complete, before the notifier is called */
    fixture.runstate = RUN_STATE_POSTMIGRATE;
    g_assert_false(tap_local_owns_device(fixture.local));
    tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_DONE);
    g_assert_false(tap_local_owns_device(fixture.local));

    /* Another migration, without the TAP: the target still owns it */
    fixture.mode = 0;
    for (int done = 0; done < 2; done++) {
        tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_SETUP);
        g_assert_false(tap_local_owns_device(fixture.local));
        tap_local_fixture_outgoing(done ? MIG_EVENT_PRECOPY_DONE :
                                      MIG_EVENT_PRECOPY_FAILED);
        g_assert_false(tap_local_owns_device(fixture.local));
    }

    /* A migration with the TAP that fails */
    fixture.mode = FIXTURE_LOCAL;
    fixture.runstate = RUN_STATE_FINISH_MIGRATE;
    g_byte_array_free(tap_local_fixture_save(&fd), true);
    close(fd);
    fixture.runstate = RUN_STATE_POSTMIGRATE;
    tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_FAILED);
    g_assert_true(tap_local_owns_device(fixture.local));

    /* A migration without the TAP that completes */
    fixture.mode = 0;
    tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_SETUP);
    tap_local_fixture_outgoing(MIG_EVENT_PRECOPY_DONE);
    g_assert_true(tap_local_owns_device(fixture.local));
    fixture.mode = FIXTURE_LOCAL;
    tap_local_fixture_free();
}

/* The target drops settings from reset: the guest had others on the source */
static void test_target_settings(void)
{
    uint8_t fields[FIELDS_SIZE];

    make_fields(fields);
    new_target(&options);
    g_assert_true(tap_local_defer(fixture.local, TAP_SETTING_VNET_HDR_LEN, 12));
    g_assert_true(tap_local_defer(fixture.local, TAP_SETTING_SNDBUF, 4711));
    g_assert_true(tap_local_fixture_load(fields, sizeof(fields), tap, 1));
    g_assert_true(tap_local_defer(fixture.local, TAP_SETTING_VNET_LE, 0));
    g_assert_true(tap_local_defer(fixture.local, TAP_SETTING_STEERING, -1));
    tap_local_fixture_run(RUN_STATE_RUNNING);
    g_assert_cmpuint(fixture.applied[TAP_SETTING_VNET_HDR_LEN], ==, 0);
    g_assert_cmpuint(fixture.applied[TAP_SETTING_SNDBUF], ==, 1);
    g_assert_cmpint(fixture.value[TAP_SETTING_SNDBUF], ==, 4711);
    g_assert_cmpuint(fixture.applied[TAP_SETTING_VNET_LE], ==, 0);
    /* The steering program of another process stays attached */
    g_assert_cmpuint(fixture.applied[TAP_SETTING_STEERING], ==, 0);
    tap_local_fixture_free();
}

/* Packets of invalid length, which a guest can send and no target accepts */
static void test_no_packet(void)
{
    static uint8_t data[NET_BUFSIZE + 1];
    struct iovec iov = { data, 0 };

    new_source(&options);
    tap_local_fixture_run(RUN_STATE_FINISH_MIGRATE);
    g_assert_true(tap_local_keep_sent(fixture.local, &iov, 1));
    iov.iov_len = sizeof(data);
    g_assert_true(tap_local_keep_sent(fixture.local, &iov, 1));
    tap_local_fixture_run(RUN_STATE_RUNNING);
    g_assert_cmpuint(fixture.transmitted->len, ==, 0);
    tap_local_fixture_free();
}

static void test_too_many_sent(void)
{
    static uint8_t packet[64 * KiB];
    struct iovec iov = { packet, sizeof(packet) };
    unsigned int count = 0;

    new_source(&options);
    g_assert_false(tap_local_keep_sent(fixture.local, &iov, 1));
    tap_local_fixture_run(RUN_STATE_FINISH_MIGRATE);
    while (count <= 256 && tap_local_keep_sent(fixture.local, &iov, 1)) {
        count++;
    }
    /* Limit: 16 MiB, in which each packet has its length in front */
    g_assert_cmpuint(count, ==, 255);
    tap_local_fixture_run(RUN_STATE_RUNNING);
    g_assert_cmpuint(fixture.transmitted->len, ==, count * sizeof(packet));
    tap_local_fixture_free();
}

typedef struct Test {
    const char *name;
    void (*run)(void);
    bool needs_no_tap;
} Test;

static const Test tests[] = {
    { "incoming-options", test_incoming_options, true },
    { "kernel-state-format", test_kernel_state_format, true },
    { "kernel-state-fields", test_kernel_state_fields, true },
    { "kernel-state-fewer-groups", test_kernel_state_fewer_groups, true },
    { "kernel-state-restore", test_kernel_state_restore, true },
    { "kernel-state-of-stream", test_kernel_state_of_stream },
    { "save/fields", test_save_fields },
    { "save/while-waiting", test_save_while_waiting, true },
    { "load/fields", test_load_fields },
    { "load/other-ifname", test_load_other_ifname },
    { "load/without-kernel-state", test_load_without_kernel_state },
    { "kernel-state", test_kernel_state },
    { "load/twice", test_load_twice },
    { "load/given-back", test_load_given_back },
    { "load/truncated", test_truncated },
    { "packets", test_packets },
    { "packets/malformed", test_packets_malformed },
    { "packets/for-vhost", test_packets_for_vhost },
    { "packets/too-many", test_too_many_sent },
    { "packets/none", test_no_packet },
    { "put-off-and-saved", test_put_off_and_saved },
    { "owner", test_owner },
    { "source-resumes", test_source_resumes },
    { "target-settings", test_target_settings },
};

static void run_test(const void *opaque)
{
    const Test *test = opaque;
    int fd = tap_local_fixture_next_fd();

    if (test->needs_no_tap || need_tap()) {
        test->run();
    }
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
