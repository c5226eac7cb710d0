/*
 * Test fixture: a TAP queue that can be handed over, and a minimal QEMU
 *
 * Copyright (c) 2026 tapstate developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "tap-local-fixture.h"
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

#define MAX_FDS 4

TapLocalFixture fixture;

/* Handlers that the object under test registered */
static NetClientState client;
static const VMStateDescription *section;
static VMChangeStateHandler *vm_change, *vm_change_last;
static NotifierWithReturn *incoming, *normal;

/* Stand-in for the TAP backend */

static void get_queue(NetClientState *nc, TapLocalQueue *queue)
{
    *queue = fixture.queue;
}

static void set_queue(NetClientState *nc, const TapLocalQueue *queue,
                      const char *ifname)
{
    fixture.queue = *queue;
    g_assert(strnlen(ifname, IFNAMSIZ) < IFNAMSIZ);
}

static void update(NetClientState *nc)
{
}

static void apply(NetClientState *nc, TapSetting setting, int value)
{
    g_assert(setting < TAP_SETTING__MAX);
    fixture.applied[setting]++;
    fixture.value[setting] = value;
}

static bool transmit(NetClientState *nc, const uint8_t *data, uint32_t size)
{
    g_assert(size && size <= NET_BUFSIZE);
    if (!fixture.blocked) {
        g_byte_array_append(fixture.transmitted, data, size);
    }
    return !fixture.blocked;
}

static const TapLocalOps ops = {
    .get_queue = get_queue,
    .set_queue = set_queue,
    .update = update,
    .apply = apply,
    .transmit = transmit,
};

/* Stand-ins for QEMU's migration and run state */

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

VMChangeStateEntry *
qemu_add_vm_change_state_handler_prio(VMChangeStateHandler *cb, void *opaque,
                                      int priority)
{
    g_assert_cmpint(priority, ==, INT_MAX);
    vm_change_last = cb;
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
    normal = notify;
    notify->notify = (NotifierWithReturnFunc)func;
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
    g_assert(!fixture.error);
    fixture.error = g_strdup(error_get_pretty(err));
    error_free(err);
    g_assert(strlen(fixture.error));
}

MigrationState *migrate_get_current(void)
{
    static MigrationState state = { .state = MIGRATION_STATUS_FAILED };

    return &state;
}

bool migrate_local(void)
{
    return fixture.mode & FIXTURE_LOCAL;
}

MigMode migrate_mode(void)
{
    return fixture.mode & FIXTURE_CPR ? MIG_MODE_CPR_TRANSFER : MIG_MODE_NORMAL;
}

bool cpr_is_incoming(void)
{
    return fixture.mode & FIXTURE_CPR;
}

bool phase_check(MachineInitPhase phase)
{
    return fixture.mode & FIXTURE_MACHINE_READY;
}

RunState runstate_get(void)
{
    return fixture.runstate;
}

bool runstate_check(RunState state)
{
    return fixture.runstate == state;
}

void qemu_flush_queued_packets(NetClientState *nc)
{
}

NICState *qemu_get_nic(NetClientState *nc)
{
    g_assert_not_reached();
}

/* Functions for tests */

bool tap_local_fixture_init(Error **errp)
{
    client.name = (char *)"net0";
    fixture.queue.fd = -1;
    fixture.transmitted = g_byte_array_new();
    module_call_init(MODULE_INIT_QOM);
    if (access("/dev/net/tun", R_OK | W_OK)) {
        error_setg_errno(errp, errno, "cannot open /dev/net/tun");
        return false;
    }
    if (unshare(CLONE_NEWNET)) {
        error_setg_errno(errp, errno, "cannot make a network namespace");
        return false;
    }
    return true;
}

int tap_local_fixture_open_tun(const char *name, int flags)
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

void tap_local_fixture_new(const NetdevTapOptions *options, int index, int fd,
                           RunState runstate)
{
    g_assert(!fixture.local);
    fixture.runstate = runstate;
    fixture.queue.fd = fd;
    memset(fixture.applied, 0, sizeof(fixture.applied));
    g_byte_array_set_size(fixture.transmitted, 0);
    fixture.blocked = false;
    g_clear_pointer(&fixture.error, g_free);
    fixture.local = tap_local_new(&client, options, index, fd, &ops,
                                  &error_abort);
}

void tap_local_fixture_free(void)
{
    tap_local_free(fixture.local);
    fixture.local = NULL;
    if (fixture.queue.fd >= 0) {
        close(fixture.queue.fd);
    }
    fixture.queue = (TapLocalQueue) { .fd = -1 };
}

static QEMUFile *open_file(int fd, bool input)
{
    QIOChannelSocket *sioc = qio_channel_socket_new_fd(fd, &error_abort);
    QEMUFile *file = input ? qemu_file_new_input(QIO_CHANNEL(sioc)) :
                             qemu_file_new_output(QIO_CHANNEL(sioc));

    object_unref(OBJECT(sioc));
    return file;
}

GByteArray *tap_local_fixture_save(int *fd)
{
    GByteArray *data = g_byte_array_new();
    char control[CMSG_SPACE(sizeof(int))], chunk[4096];
    struct iovec iov = { .iov_base = chunk, .iov_len = sizeof(chunk) };
    int socks[2], ret;
    QEMUFile *file;
    ssize_t size;

    *fd = -1;
    g_assert(!socketpair(AF_UNIX, SOCK_STREAM, 0, socks));
    file = open_file(socks[0], false);
#if QEMU_VERSION_MAJOR == 10 && QEMU_VERSION_MINOR < 2
    ret = vmstate_save_state(file, section, fixture.local, NULL);
#else
    ret = vmstate_save_state(file, section, fixture.local, NULL, NULL);
#endif
    if (!ret) {
        ret = qemu_fflush(file);
    }
    qemu_fclose(file);

    do {
        struct msghdr msg = {
            .msg_iov = &iov,
            .msg_iovlen = 1,
            .msg_control = control,
            .msg_controllen = sizeof(control),
        };
        struct cmsghdr *cmsg;

        size = recvmsg(socks[1], &msg, 0);
        g_assert(size >= 0);
        cmsg = CMSG_FIRSTHDR(&msg);
        if (cmsg) {
            g_assert(*fd < 0 && cmsg->cmsg_len == CMSG_LEN(sizeof(int)));
            memcpy(fd, CMSG_DATA(cmsg), sizeof(int));
        }
        g_byte_array_append(data, (uint8_t *)chunk, size);
    } while (size);
    close(socks[1]);
    if (ret) {
        g_byte_array_free(data, true);
        return NULL;
    }
    return data;
}

static int connect_section(const uint8_t *data, size_t size, int fd, int count,
                           const uint8_t *footer, size_t footer_size)
{
    char control[CMSG_SPACE(sizeof(int) * MAX_FDS)] = { };
    struct iovec iov = { .iov_base = (void *)data, .iov_len = 1 };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
    int buffer = 4 * MiB;
    int socks[2];

    g_assert(count <= MAX_FDS);
    g_assert(!socketpair(AF_UNIX, SOCK_STREAM, 0, socks));
    setsockopt(socks[0], SOL_SOCKET, SO_SNDBUFFORCE, &buffer, sizeof(buffer));
    if (size) {
        if (count) {
            struct cmsghdr *cmsg;

            msg.msg_control = control;
            msg.msg_controllen = CMSG_SPACE(sizeof(int) * count);
            cmsg = CMSG_FIRSTHDR(&msg);
            cmsg->cmsg_level = SOL_SOCKET;
            cmsg->cmsg_type = SCM_RIGHTS;
            cmsg->cmsg_len = CMSG_LEN(sizeof(int) * count);
            for (int i = 0; i < count; i++) {
                memcpy(CMSG_DATA(cmsg) + i * sizeof(int), &fd, sizeof(int));
            }
        }
        g_assert(sendmsg(socks[0], &msg, 0) == 1);
        /* Data that does not fit makes a stream that ends early */
        if (send(socks[0], data + 1, size - 1, MSG_DONTWAIT) == size - 1) {
            (void)!send(socks[0], footer, footer_size, MSG_DONTWAIT);
        }
    }
    close(socks[0]);
    return socks[1];
}

static bool load(int socket)
{
    QEMUFile *file = open_file(socket, true);
    int ret;

#if QEMU_VERSION_MAJOR == 10 && QEMU_VERSION_MINOR < 2
    ret = vmstate_load_state(file, section, fixture.local, section->version_id);
#else
    Error *err = NULL;

    ret = vmstate_load_state(file, section, fixture.local, section->version_id,
                             &err);
    error_free(err);
#endif
    if (!ret) {
        ret = qemu_file_get_error(file);
    }
    qemu_fclose(file);
    return !ret;
}

bool tap_local_fixture_load(const void *data, size_t size, int fd, int count)
{
    /* vmstate_load_state() looks for one more subsection behind the data */
    static const uint8_t footer[] = { 0x7e, 0, 0, 0, 0 };

    return load(connect_section(data, size, fd, count, footer,
                                sizeof(footer)));
}

bool tap_local_fixture_load_end(const void *data, size_t size, int fd,
                                int count)
{
    return load(connect_section(data, size, fd, count, NULL, 0));
}

void tap_local_fixture_fail(void)
{
    MigrationIncomingEvent event = { .type = MIG_INCOMING_FAILED };

    incoming->notify(incoming, &event, NULL);
}

void tap_local_fixture_outgoing(MigrationEventType type)
{
    MigrationEvent event = { .type = type };
    Error *err = NULL;

    normal->notify(normal, &event, &err);
    g_assert_null(err);
}

void tap_local_fixture_run(RunState runstate)
{
    bool running = runstate == RUN_STATE_RUNNING;

    fixture.runstate = runstate;
    if (running) {
        vm_change(fixture.local, true, runstate);
        /* The main loop may run before the NIC has started */
        g_assert_false(tap_local_may_read(fixture.local));
        vm_change_last(fixture.local, true, runstate);
    } else {
        vm_change_last(fixture.local, false, runstate);
        vm_change(fixture.local, false, runstate);
    }
}

int tap_local_fixture_next_fd(void)
{
    int fd = open("/dev/null", O_RDONLY);

    g_assert(fd >= 0);
    close(fd);
    return fd;
}
