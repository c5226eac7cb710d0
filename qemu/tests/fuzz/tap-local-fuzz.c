/*
 * Fuzz section net-tap of a migration stream
 *
 * Load the section with QEMU's own code, real TAPs and a real socket, in the
 * fixture of the unit tests.
 *
 * The input is a byte of options, a byte with the kind of file descriptor and
 * the number of its copies, and the section: see tap-local-seeds.py. The fuzzer
 * needs the permission to make a network namespace.
 *
 * Copyright (c) 2026 tapstate developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "../unit/tap-local-fixture.h"

#include <net/if.h>
#include <sys/ioctl.h>
#include <linux/if_tun.h>

#include "qapi/error.h"
#include "qemu/error-report.h"

#include "libfuzzer.h"

enum {
    OPT_KERNEL_STATE = 0x03,
    OPT_NO_VNET_HDR = 0x04,
    OPT_IFNAME = 0x08,
    OPT_USING_VNET_HDR = 0x10,
    OPT_NO_NIC = 0x20,
};

static int taps[2];             /* with and without a vnet header */
static int other_fds[6];

unsigned int fuzz_accepted;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    Error *err = NULL;
    int size = 12;

    if (!tap_local_fixture_init(&err)) {
        error_report_err(err);
        exit(EXIT_FAILURE);
    }
    fixture.mode = FIXTURE_LOCAL | FIXTURE_MACHINE_READY;

    taps[0] = tap_local_fixture_open_tun("tap0",
                                         IFF_TAP | IFF_NO_PI | IFF_VNET_HDR);
    taps[1] = tap_local_fixture_open_tun("tap1", IFF_TAP | IFF_NO_PI);
    other_fds[0] = tap_local_fixture_open_tun("tun0", IFF_TUN | IFF_NO_PI |
                                              IFF_VNET_HDR);
    other_fds[1] = tap_local_fixture_open_tun("tap2", IFF_TAP | IFF_NO_PI |
                                              IFF_VNET_HDR | IFF_MULTI_QUEUE);
    if (ioctl(other_fds[1], TUNSETVNETHDRSZ, &size)) {
        error_report("cannot set the vnet header: %s", strerror(errno));
        exit(EXIT_FAILURE);
    }
    other_fds[2] = open("/dev/net/tun", O_RDWR);
    other_fds[3] = open("/dev/null", O_RDWR);
    other_fds[4] = open("/", O_PATH);
    other_fds[5] = socket(AF_UNIX, SOCK_STREAM, 0);

    return 0;
}

/* Values that a load must not change */
static void read_device(int fd, int values[3])
{
    struct ifreq ifr = { };

    g_assert(!ioctl(fd, TUNGETIFF, &ifr));
    values[0] = ifr.ifr_flags;
    g_assert(!ioctl(fd, TUNGETSNDBUF, &values[1]));
    g_assert(!ioctl(fd, TUNGETVNETHDRSZ, &values[2]));
}

static void check_device(int fd, const int before[3])
{
    int after[3];

    read_device(fd, after);
    g_assert(!memcmp(before, after, sizeof(after)));
}

static void check_loaded(void)
{
    g_autofree uint8_t *buf = g_malloc(NET_BUFSIZE);
    TapLocalQueue *queue = tap_local_fixture_queue(0);
    TAPState *s = fixture.queues[0];
    struct ifreq ifr = { };
    uint64_t carried;
    size_t size;

    g_assert(fixture.local->state == TAP_HAND_OVER_ARRIVED);
    g_assert(tap_local_check_ready(queue, true, NULL));
    g_assert(!tap_local_may_change(queue));
    g_assert(!tap_local_owns_device(queue));
    g_assert(!tap_pending_has_received(queue));
    g_assert(!ioctl(s->fd, TUNGETIFF, &ifr));
    g_assert(ifr.ifr_flags & IFF_TAP);

    carried = fixture.local->carried;
    tap_local_fixture_run(RUN_STATE_RUNNING);
    g_assert(fixture.local->state == TAP_HAND_OVER_OWNER);
    g_assert(tap_local_may_read(queue));

    size = tap_pending_take_received(queue, buf);
    g_assert(!size || size >= s->host_vnet_hdr_len + ETH_HLEN);
    g_assert(size <= NET_BUFSIZE);
    g_assert(tap_pending_flush_sent(queue));
    g_assert(fixture.local->delivered == carried);
}

static void check_failed(void)
{
    tap_local_fixture_fail();
    g_assert(fixture.local->state == TAP_HAND_OVER_WAITING);
    g_assert(fixture.queues[0]->fd < 0);
    g_assert(!fixture.local->carried);
    g_assert(!tap_local_check_ready(tap_local_fixture_queue(0), false, NULL));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const OnOffAuto kernel_state[] = {
        ON_OFF_AUTO_AUTO, ON_OFF_AUTO_ON, ON_OFF_AUTO_OFF, ON_OFF_AUTO_AUTO
    };
    NetdevTapOptions options = {
        .has_local_migration_supported = true,
        .local_migration_supported = true,
        .has_incoming_fds = true,
        .incoming_fds = true,
        .has_kernel_state = true,
        .has_vnet_hdr = true,
    };
    int before[2][3], tap, fd, kind, next_fd;
    uint8_t opt;

    if (size < 2) {
        return -1;
    }
    opt = data[0];
    options.kernel_state = kernel_state[opt & OPT_KERNEL_STATE];
    options.vnet_hdr = !(opt & OPT_NO_VNET_HDR);
    options.ifname = opt & OPT_IFNAME ? (char *)"tap0" : NULL;
    tap = taps[!options.vnet_hdr];
    kind = data[1] & 0x0f;
    for (int i = 0; i < ARRAY_SIZE(taps); i++) {
        read_device(taps[i], before[i]);
    }
    next_fd = tap_local_fixture_next_fd();

    tap_local_fixture_new(&options, NULL, 1, RUN_STATE_INMIGRATE);
    fixture.queues[0]->using_vnet_hdr = opt & OPT_USING_VNET_HDR;
    if (opt & OPT_NO_NIC) {
        fixture.queues[0]->nc.peer = NULL;
    }

    fd = kind < ARRAY_SIZE(other_fds) ? other_fds[kind] : tap;
    if (tap_local_fixture_load(0, data + 2, size - 2, fd,
                               (data[1] >> 4) % 5) &&
        tap_local_fixture_loaded()) {
        g_assert(!fixture.error);
        check_loaded();
        fuzz_accepted++;
    } else {
        check_failed();
    }
    for (int i = 0; i < ARRAY_SIZE(taps); i++) {
        check_device(taps[i], before[i]);
    }
    tap_local_fixture_free();
    g_assert(tap_local_fixture_next_fd() == next_fd);
    return 0;
}
