/*
 * Feed section net-tap of a migration stream with anything
 *
 * What loads it is the real thing, on real file descriptors that pass through
 * a real socket. Around it is as little of QEMU as it needs.
 *
 * The input is a byte with options, a byte that says which file descriptor
 * comes along, and how often, and the section's content: see
 * tap-local-seeds.py. It needs the right to make a network namespace.
 *
 * Copyright (c) 2026 tapstate developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "net/tap-local.h"
#include "net/tap_int.h"

#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <linux/if_tun.h>

#include "hw/vmstate-if.h"
#include "io/channel-socket.h"
#include "migration/cpr.h"
#include "migration/migration.h"
#include "migration/client-options.h"
#include "migration/misc.h"
#include "migration/qemu-file.h"
#include "migration/vmstate.h"
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/module.h"
#include "qemu/units.h"
#include "system/runstate.h"

#include "libfuzzer.h"

#define MAX_FDS 4

enum {
    OPT_KERNEL_STATE = 0x03,
    OPT_NO_VNET_HDR = 0x04,
    OPT_IFNAME = 0x08,
    OPT_USING_VNET_HDR = 0x10,
    OPT_QUEUE_1 = 0x20,
};

static int taps[2];             /* the second one without a vnet header */
static int other_fds[6];

/* The object under test, and what it told QEMU about itself */
static TapLocal *local;
static NetClientState client;
static const VMStateDescription *section;
static VMChangeStateHandler *vm_change;
static NotifierWithReturn *incoming;
static RunState runstate;
static TapLocalQueue queue;
static bool reported;

unsigned int fuzz_accepted;

/* The TAP backend */

static void get_queue(NetClientState *nc, TapLocalQueue *q)
{
    *q = queue;
}

static void set_queue(NetClientState *nc, const TapLocalQueue *q,
                      const char *ifname)
{
    queue = *q;
    g_assert(strnlen(ifname, IFNAMSIZ) < IFNAMSIZ);
}

static void update(NetClientState *nc)
{
}

static void apply(NetClientState *nc, TapSetting setting, int value)
{
    g_assert(setting < TAP_SETTING__MAX);
}

static bool transmit(NetClientState *nc, const uint8_t *data, uint32_t size)
{
    g_autofree uint8_t *copy = g_memdup2(data, size);

    g_assert(size && size <= NET_BUFSIZE);
    return true;
}

static const TapLocalOps ops = {
    .get_queue = get_queue,
    .set_queue = set_queue,
    .update = update,
    .apply = apply,
    .transmit = transmit,
};

TapLocal *tap_get_local(NetClientState *nc)
{
    return local;
}

/* The rest of QEMU */

int vmstate_register_with_alias_id(VMStateIf *obj, uint32_t instance_id,
                                   const VMStateDescription *vmsd,
                                   void *opaque, int alias_id,
                                   int required_for_version, Error **errp)
{
    section = vmsd;
    return 0;
}

void vmstate_unregister(VMStateIf *obj, const VMStateDescription *vmsd,
                        void *opaque)
{
    g_assert(vmsd == section);
}

void vmstate_register_hint(const char *name, const char *hint)
{
}

VMChangeStateEntry *
qemu_add_vm_change_state_handler(VMChangeStateHandler *cb, void *opaque)
{
    vm_change = cb;
    return NULL;
}

void qemu_del_vm_change_state_handler(VMChangeStateEntry *e)
{
}

void migration_add_incoming_notifier(NotifierWithReturn *notify,
                                     MigrationIncomingNotifyFunc func)
{
    incoming = notify;
    notify->notify = (NotifierWithReturnFunc)func;
}

void migration_add_notifier(NotifierWithReturn *notify,
                            MigrationNotifyFunc func)
{
}

void migration_add_notifier_mode(NotifierWithReturn *notify,
                                 MigrationNotifyFunc func, MigMode mode)
{
}

void migration_remove_notifier(NotifierWithReturn *notify)
{
}

void migration_remove_incoming_notifier(NotifierWithReturn *notify)
{
}

void migration_report_error(Error *err)
{
    g_assert(strlen(error_get_pretty(err)));
    error_free(err);
    reported = true;
}

MigrationState *migrate_get_current(void)
{
    g_assert_not_reached();
}

bool migrate_local(void)
{
    return true;
}

MigMode migrate_mode(void)
{
    return MIG_MODE_NORMAL;
}

bool cpr_is_incoming(void)
{
    return false;
}

bool phase_check(MachineInitPhase phase)
{
    return true;
}

RunState runstate_get(void)
{
    return runstate;
}

bool runstate_check(RunState state)
{
    return runstate == state;
}

void qemu_flush_queued_packets(NetClientState *nc)
{
}

int qemu_find_net_clients_except(const char *id, NetClientState **ncs,
                                 NetClientDriver type, int max)
{
    if (max) {
        ncs[0] = &client;
    }
    return 1;
}

/* The test */

static int open_tun(const char *name, int flags)
{
    struct ifreq ifr = { .ifr_flags = flags };
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK);

    pstrcpy(ifr.ifr_name, sizeof(ifr.ifr_name), name);
    if (fd < 0 || ioctl(fd, TUNSETIFF, &ifr)) {
        error_report("cannot make %s: %s", name, strerror(errno));
        exit(EXIT_FAILURE);
    }
    return fd;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    int size = 12;

    if (unshare(CLONE_NEWNET)) {
        error_report("cannot make a network namespace: %s", strerror(errno));
        exit(EXIT_FAILURE);
    }
    module_call_init(MODULE_INIT_QOM);

    taps[0] = open_tun("tap0", IFF_TAP | IFF_NO_PI | IFF_VNET_HDR);
    taps[1] = open_tun("tap1", IFF_TAP | IFF_NO_PI);
    other_fds[0] = open_tun("tun0", IFF_TUN | IFF_NO_PI | IFF_VNET_HDR);
    if (ioctl(taps[0], TUNSETVNETHDRSZ, &size) ||
        ioctl(other_fds[0], TUNSETVNETHDRSZ, &size)) {
        error_report("cannot set the vnet header: %s", strerror(errno));
        exit(EXIT_FAILURE);
    }
    other_fds[1] = open_tun("tap2", IFF_TAP | IFF_NO_PI | IFF_VNET_HDR |
                            IFF_MULTI_QUEUE);
    other_fds[2] = open("/dev/net/tun", O_RDWR);
    other_fds[3] = open("/dev/null", O_RDWR);
    other_fds[4] = open("/", O_PATH);
    other_fds[5] = socket(AF_UNIX, SOCK_STREAM, 0);

    return 0;
}

/* What a load must leave alone */
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

static int next_fd(void)
{
    int fd = dup(STDIN_FILENO);

    g_assert(fd >= 0);
    close(fd);
    return fd;
}

/* Which fd, in the lower half of @selector, and how often in the upper one */
static QEMUFile *send_section(uint8_t selector, int tap, const uint8_t *data,
                              size_t size)
{
    static const uint8_t footer[] = { 0x7e, 0, 0, 0, 0 };
    char control[CMSG_SPACE(sizeof(int) * MAX_FDS)] = { };
    struct iovec iov = { .iov_base = (void *)data, .iov_len = 1 };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
    struct cmsghdr *cmsg;
    unsigned int kind = selector & 0x0f;
    int count = (selector >> 4) % (MAX_FDS + 1);
    int buffer = 4 * MiB;
    int socks[2], fds[MAX_FDS];
    QIOChannelSocket *sioc;
    QEMUFile *file;

    g_assert(!socketpair(AF_UNIX, SOCK_STREAM, 0, socks));
    setsockopt(socks[0], SOL_SOCKET, SO_SNDBUFFORCE, &buffer, sizeof(buffer));
    if (size) {
        for (int i = 0; i < count; i++) {
            fds[i] = kind < ARRAY_SIZE(other_fds) ? other_fds[kind] : tap;
        }
        if (count) {
            msg.msg_control = control;
            msg.msg_controllen = CMSG_SPACE(sizeof(int) * count);
            cmsg = CMSG_FIRSTHDR(&msg);
            cmsg->cmsg_level = SOL_SOCKET;
            cmsg->cmsg_type = SCM_RIGHTS;
            cmsg->cmsg_len = CMSG_LEN(sizeof(int) * count);
            memcpy(CMSG_DATA(cmsg), fds, sizeof(int) * count);
        }
        g_assert(sendmsg(socks[0], &msg, 0) == 1);
        /*
         * What does not fit is a stream that ends early. Else more follows, as
         * always: without it, looking for one more subsection is an error.
         */
        if (send(socks[0], data + 1, size - 1, MSG_DONTWAIT) == size - 1) {
            (void)!send(socks[0], footer, sizeof(footer), MSG_DONTWAIT);
        }
    }
    close(socks[0]);

    sioc = qio_channel_socket_new_fd(socks[1], &error_abort);
    file = qemu_file_new_input(QIO_CHANNEL(sioc));
    object_unref(OBJECT(sioc));
    return file;
}

static void check_loaded(void)
{
    g_autofree uint8_t *buf = g_malloc(NET_BUFSIZE);
    struct ifreq ifr = { };
    size_t size;

    g_assert(tap_local_check_ready(local, NULL));
    g_assert(tap_local_is_held(local));
    g_assert(!tap_local_owns_device(local));
    g_assert(!tap_local_has_received(local));
    g_assert(!ioctl(queue.fd, TUNGETIFF, &ifr));
    g_assert(ifr.ifr_flags & IFF_TAP);

    runstate = RUN_STATE_RUNNING;
    vm_change(local, true, runstate);
    g_assert(!tap_local_is_held(local));
    g_assert(tap_local_may_read(local));

    size = tap_local_take_received(local, buf);
    g_assert(!size || size > queue.host_vnet_hdr_len);
    g_assert(size <= NET_BUFSIZE);
    g_assert(tap_local_flush_sent(local));
    close(queue.fd);
}

static void check_failed(void)
{
    MigrationIncomingEvent event = { .type = MIG_INCOMING_FAILED };

    incoming->notify(incoming, &event, NULL);
    g_assert(queue.fd < 0);
    g_assert(!tap_local_check_ready(local, NULL));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const OnOffAuto kernel_state[] = {
        ON_OFF_AUTO_AUTO, ON_OFF_AUTO_ON, ON_OFF_AUTO_OFF, ON_OFF_AUTO_AUTO
    };
    int before[2][3], tap, fd;
    NetdevTapOptions options = {
        .has_local_migration_supported = true,
        .local_migration_supported = true,
        .has_kernel_state = true,
        .has_vnet_hdr = true,
    };
    QEMUFile *file;
    uint8_t opt;
    int ret;

    if (size < 2) {
        return -1;
    }
    opt = data[0];
    options.kernel_state = kernel_state[opt & OPT_KERNEL_STATE];
    options.vnet_hdr = !(opt & OPT_NO_VNET_HDR);
    options.ifname = opt & OPT_IFNAME ? (char *)"tap0" : NULL;
    tap = taps[!options.vnet_hdr];
    for (int i = 0; i < ARRAY_SIZE(taps); i++) {
        read_device(taps[i], before[i]);
    }
    fd = next_fd();

    client.name = (char *)"net0";
    runstate = RUN_STATE_INMIGRATE;
    reported = false;
    queue = (TapLocalQueue) {
        .fd = -1,
        .using_vnet_hdr = opt & OPT_USING_VNET_HDR,
    };
    local = tap_local_new(&client, &options, !!(opt & OPT_QUEUE_1), -1, &ops,
                          &error_abort);

    file = send_section(data[1], tap, data + 2, size - 2);
    ret = vmstate_load_state(file, section, local, section->version_id);
    if (!ret) {
        ret = qemu_file_get_error(file);
    }
    qemu_fclose(file);
    for (int i = 0; i < ARRAY_SIZE(taps); i++) {
        check_device(taps[i], before[i]);
    }

    if (ret) {
        check_failed();
    } else {
        g_assert(!reported);
        check_loaded();
        fuzz_accepted++;
    }
    tap_local_free(local);
    g_assert(next_fd() == fd);
    return 0;
}
