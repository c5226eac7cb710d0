/*
 * Test fixture: a TAP netdev that can be handed over, and a minimal QEMU
 *
 * Copyright (c) 2026 tapstate developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "tap-local-fixture.h"

#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <linux/if_tun.h>

#include "io/channel-socket.h"
#include "migration/cpr.h"
#include "migration/migration.h"
#include "migration/client-options.h"
#include "migration/misc.h"
#include "migration/qemu-file.h"
#include "migration/vmstate.h"
#include "monitor/monitor.h"
#include "qapi/error.h"
#include "qapi/qapi-emit-events.h"
#include "qapi/qapi-events-net.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/iov.h"
#include "qemu/module.h"
#include "qemu/units.h"
#include "system/reset.h"
#include "standard-headers/linux/virtio_net.h"

#define MAX_FDS 4

TapLocalFixture fixture;

/* Handlers that the netdev under test registered */
static const VMStateDescription *section;
static VMChangeStateHandler *vm_change, *vm_change_last;
static void *vm_opaque;
static NotifierWithReturn *incoming, *outgoing[MIG_MODE__MAX];
static Object *resettable;

/* The NIC, and what a migration has */
static NICState nic;
static NetClientInfo nic_info = { .type = NET_CLIENT_DRIVER_NIC };
static NetClientState peer = { .info = &nic_info, .name = (char *)"nic0" };
static MigrationState migration;

/* Stand-ins for tap.c */

static unsigned int index_of(const TAPState *s)
{
    for (unsigned int i = 0; i < fixture.count; i++) {
        if (fixture.queues[i] == s) {
            return i;
        }
    }
    g_assert_not_reached();
}

void tap_update(TAPState *s)
{
    fixture.reading[index_of(s)] = tap_local_may_read(s->local);
}

ssize_t tap_write_packet(TAPState *s, const struct iovec *iov, int iovcnt)
{
    size_t size = iov_size(iov, iovcnt);
    g_autofree uint8_t *data = g_malloc(size);

    g_assert_true(tap_local_may_change(s->local));
    g_assert(size && size <= NET_BUFSIZE);
    if (fixture.blocked && !fixture.takes) {
        return 0;
    }
    if (fixture.full) {
        int sndbuf;

        g_assert(!ioctl(s->fd, TUNGETSNDBUF, &sndbuf));
        if (sndbuf != INT_MAX) {
            return 0;
        }
    }
    fixture.takes -= !!fixture.takes;
    iov_to_buf(iov, iovcnt, 0, data, size);
    g_byte_array_append(fixture.transmitted, data, size);
    return size;
}

void tap_write_offload(TAPState *s, unsigned int offload)
{
    /* As tap_fd_set_offload(), whose arguments differ between versions */
    if (ioctl(s->fd, TUNSETOFFLOAD, (unsigned long)offload)) {
        ioctl(s->fd, TUNSETOFFLOAD, (unsigned long)(offload & ~TUN_F_UFO));
    }
}

void tap_set_info(TAPState *s, const char *ifname)
{
    unsigned int i = index_of(s);

    /* The name is known when the queue is there, and only then */
    g_assert_cmpint(!!ifname, ==, s->fd >= 0);
    g_assert(!ifname || strlen(ifname) < IFNAMSIZ);
    g_free(fixture.info[i]);
    fixture.info[i] = g_strdup(ifname);
}

/* Stand-ins for QEMU's monitor, migration and run state */

int monitor_vprintf(Monitor *mon, const char *fmt, va_list ap)
{
    g_autofree char *text = g_strdup_vprintf(fmt, ap);

    if (fixture.log) {
        g_string_append(fixture.log, text);
    }
    if (!getenv("QTEST_SILENT_ERRORS")) {
        fputs(text, stderr);
    }
    return strlen(text);
}

/* In QEMU 11.1 and later, error_vprintf() is no stub: it calls the above */
int __attribute__((weak)) error_vprintf(const char *fmt, va_list ap)
{
    return monitor_vprintf(NULL, fmt, ap);
}

Monitor *monitor_cur(void)
{
    return NULL;
}

void qapi_event_emit(QAPIEvent event, QDict *qdict)
{
}

void qapi_event_send_netdev_tap_restore_failed(const char *netdev_id,
                                               const char *reason)
{
    g_assert_cmpstr(netdev_id, ==, "net0");
    g_assert(strlen(reason));
    fixture.restore_failed++;
}

int vmstate_register_with_alias_id(VMStateIf *obj, uint32_t instance_id,
                                   const VMStateDescription *vmsd,
                                   void *opaque, int alias_id,
                                   int required_for_version, Error **errp)
{
    g_assert(opaque == obj);
    section = vmsd;
    fixture.handlers++;
    return 0;
}

void vmstate_unregister(VMStateIf *obj, const VMStateDescription *vmsd,
                        void *opaque)
{
    g_assert(vmsd == section && opaque == obj);
    fixture.handlers--;
}

void qemu_register_resettable(Object *obj)
{
    g_assert_null(resettable);
    resettable = obj;
}

void vmstate_register_hint(const char *name, const char *hint)
{
    g_assert_cmpstr(name, ==, "net-tap");
}

VMChangeStateEntry *
qemu_add_vm_change_state_handler(VMChangeStateHandler *cb, void *opaque)
{
    vm_change = cb;
    vm_opaque = opaque;
    fixture.handlers++;
    return (VMChangeStateEntry *)&vm_change;
}

VMChangeStateEntry *
qemu_add_vm_change_state_handler_prio(VMChangeStateHandler *cb, void *opaque,
                                      int priority)
{
    g_assert_cmpint(priority, ==, INT_MAX);
    g_assert(opaque == vm_opaque);
    vm_change_last = cb;
    fixture.handlers++;
    return (VMChangeStateEntry *)&vm_change_last;
}

void qemu_del_vm_change_state_handler(VMChangeStateEntry *e)
{
    g_assert((void *)e == &vm_change || (void *)e == &vm_change_last);
    fixture.handlers--;
}

static void add_notifier(NotifierWithReturn **place, NotifierWithReturn *notify,
                         NotifierWithReturnFunc func)
{
    *place = notify;
    notify->notify = func;
    fixture.handlers++;
}

void migration_add_incoming_notifier(NotifierWithReturn *notify,
                                     NotifierWithReturnFunc func)
{
    add_notifier(&incoming, notify, func);
}

void migration_add_notifier_mode(NotifierWithReturn *notify,
                                 MigrationNotifyFunc func, MigMode mode)
{
    add_notifier(&outgoing[mode], notify, (NotifierWithReturnFunc)func);
}

static void remove_notifier(NotifierWithReturn *notify)
{
    if (notify->notify) {
        notify->notify = NULL;
        fixture.handlers--;
    }
}

void migration_remove_notifier(NotifierWithReturn *notify)
{
    g_assert(notify != incoming);
    remove_notifier(notify);
}

void migration_remove_incoming_notifier(NotifierWithReturn *notify)
{
    g_assert(notify == incoming);
    remove_notifier(notify);
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
    migration.state = fixture.mode & FIXTURE_CANCELLED ?
                      MIGRATION_STATUS_CANCELLED : MIGRATION_STATUS_FAILED;
    return &migration;
}

bool migration_is_running(void)
{
    return fixture.mode & FIXTURE_MIGRATING;
}

bool migration_incoming_is_loading(void)
{
    return fixture.mode & FIXTURE_LOADING;
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
    return fixture.mode & (FIXTURE_CPR | FIXTURE_CPR_OTHER);
}

MigMode cpr_get_incoming_mode(void)
{
    return fixture.mode & FIXTURE_CPR ? MIG_MODE_CPR_TRANSFER :
           fixture.mode & FIXTURE_CPR_OTHER ? MIG_MODE_CPR_REBOOT :
                                              MIG_MODE_NONE;
}

bool phase_check(MachineInitPhase phase)
{
    return fixture.mode & FIXTURE_MACHINE_READY;
}

RunState runstate_get(void)
{
    return fixture.runstate;
}

int monitor_fd_param(Monitor *mon, const char *fdname, Error **errp)
{
    return atoi(fdname);
}

bool runstate_check(RunState state)
{
    return fixture.runstate == state;
}

NICState *qemu_get_nic(NetClientState *nc)
{
    g_assert(nc == &peer);
    nic.peer_deleted = fixture.peer_deleted;
    return &nic;
}

/* Functions for tests */

bool tap_local_fixture_init(Error **errp)
{
    fixture.transmitted = g_byte_array_new();
    fixture.log = g_string_new(NULL);
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

TapLocalQueue *tap_local_fixture_queue(unsigned int i)
{
    g_assert(i < fixture.count);
    return fixture.queues[i]->local;
}

const char *tap_local_fixture_take_log(void)
{
    static char *log;

    g_free(log);
    log = g_strdup(fixture.log->str);
    g_string_truncate(fixture.log, 0);
    return log;
}

void tap_local_fixture_new(const NetdevTapOptions *options, const int *fds,
                           unsigned int count, RunState runstate)
{
    g_autoptr(TapLocal) local = NULL;

    g_assert(!fixture.count && count && count <= FIXTURE_QUEUES);
    g_assert_cmpuint(fixture.handlers, ==, 0);
    fixture.runstate = runstate;
    fixture.restore_failed = 0;
    fixture.blocked = false;
    fixture.full = false;
    fixture.takes = 0;
    fixture.peer_deleted = false;
    g_byte_array_set_size(fixture.transmitted, 0);
    g_string_truncate(fixture.log, 0);
    g_clear_pointer(&fixture.error, g_free);

    /* Each queue has a reference, too */
    tap_local_new(options, "net0", &local, &error_abort);
    g_assert_cmpint(tap_local_is_incoming(local), ==, !fds);
    fixture.local = local;
    for (unsigned int i = 0; i < count; i++) {
        TAPState *s = g_new0(TAPState, 1);

        s->fd = fds ? fds[i] : -1;
        s->nc.name = (char *)"net0";
        s->nc.peer = &peer;
        s->enabled = true;
        if (!options->has_vnet_hdr || options->vnet_hdr) {
            s->host_vnet_hdr_len = sizeof(struct virtio_net_hdr);
        }
        fixture.queues[fixture.count++] = s;
        tap_local_add_queue(local, s, &error_abort);
        g_assert_nonnull(s->local);
        tap_update(s);
    }
}

void tap_local_fixture_free(void)
{
    for (unsigned int i = 0; i < fixture.count; i++) {
        TAPState *s = fixture.queues[i];

        tap_local_remove_queue(s->local);
        g_assert_null(s->local);
        if (s->fd >= 0) {
            close(s->fd);
        }
        g_clear_pointer(&fixture.info[i], g_free);
        g_free(s);
    }
    fixture.count = 0;
    fixture.local = NULL;
    g_assert_cmpuint(fixture.handlers, ==, 0);
}

static QEMUFile *open_file(int fd, bool input)
{
    QIOChannelSocket *sioc = qio_channel_socket_new_fd(fd, &error_abort);
    QEMUFile *file = input ? qemu_file_new_input(QIO_CHANNEL(sioc)) :
                             qemu_file_new_output(QIO_CHANNEL(sioc));

    object_unref(OBJECT(sioc));
    return file;
}

GByteArray *tap_local_fixture_save(unsigned int i, int *fd)
{
    TapLocalQueue *queue = tap_local_fixture_queue(i);
    GByteArray *data;
    char control[CMSG_SPACE(sizeof(int))], chunk[4096];
    struct iovec iov = { .iov_base = chunk, .iov_len = sizeof(chunk) };
    int socks[2], ret;
    QEMUFile *file;
    ssize_t size;

    *fd = -1;
    if (!section->needed(queue)) {
        return NULL;
    }
    data = g_byte_array_new();
    g_assert(!socketpair(AF_UNIX, SOCK_STREAM, 0, socks));
    file = open_file(socks[0], false);
#if QEMU_VERSION_MAJOR == 10 && QEMU_VERSION_MINOR < 2
    ret = vmstate_save_state(file, section, queue, NULL);
#else
    ret = vmstate_save_state(file, section, queue, NULL, NULL);
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

static bool load(unsigned int i, int socket)
{
    TapLocalQueue *queue = tap_local_fixture_queue(i);
    QEMUFile *file = open_file(socket, true);
    int ret;

#if QEMU_VERSION_MAJOR == 10 && QEMU_VERSION_MINOR < 2
    ret = vmstate_load_state(file, section, queue, section->version_id);
#else
    Error *err = NULL;

    ret = vmstate_load_state(file, section, queue, section->version_id,
                             &err);
    /* QEMU prepends to the reason that it expects */
    g_assert_cmpint(!!ret, ==, !!err);
    error_free(err);
#endif
    if (!ret) {
        ret = qemu_file_get_error(file);
    }
    qemu_fclose(file);
    return !ret;
}

bool tap_local_fixture_load(unsigned int i, const void *data, size_t size,
                            int fd, int count)
{
    /* vmstate_load_state() looks for one more subsection behind the data */
    static const uint8_t footer[] = { 0x7e, 0, 0, 0, 0 };

    return load(i, connect_section(data, size, fd, count, footer,
                                   sizeof(footer)));
}

bool tap_local_fixture_load_end(unsigned int i, const void *data, size_t size,
                                int fd, int count)
{
    return load(i, connect_section(data, size, fd, count, NULL, 0));
}

static bool call_notifier(NotifierWithReturn *notifier, void *event)
{
    Error *err = NULL;
    int ret = notifier->notify(notifier, event, &err);

    g_assert_cmpint(!!ret, ==, !!err);
    if (err) {
        migration_report_error(err);
    }
    return !ret;
}

bool tap_local_fixture_loaded(void)
{
    return call_notifier(incoming, &fixture);
}

void tap_local_fixture_fail(void)
{
    g_assert_true(call_notifier(incoming, NULL));
}

bool tap_local_fixture_outgoing(MigrationEventType type)
{
    MigrationEvent event = { .type = type };
    int socks[2];
    bool ok;

    g_assert(!socketpair(AF_UNIX, SOCK_STREAM, 0, socks));
    if (fixture.mode & FIXTURE_NO_FD_PASS) {
        QIOChannelSocket *sioc = qio_channel_socket_new();

        migration.to_dst_file = qemu_file_new_output(QIO_CHANNEL(sioc));
        object_unref(OBJECT(sioc));
        close(socks[0]);
    } else {
        migration.to_dst_file = open_file(socks[0], false);
    }
    ok = call_notifier(outgoing[migrate_mode()], &event);
    qemu_fclose(g_steal_pointer(&migration.to_dst_file));
    close(socks[1]);
    return ok;
}

void tap_local_fixture_reset(ResetType type)
{
    resettable_reset(resettable, type);
}

void tap_local_fixture_run(RunState runstate)
{
    bool running = runstate == RUN_STATE_RUNNING;

    fixture.runstate = runstate;
    if (running) {
        vm_change(vm_opaque, true, runstate);
        /* The main loop may run before the NIC has started */
        g_assert_false(fixture.reading[0]);
        g_assert_false(tap_local_may_read(tap_local_fixture_queue(0)));
        vm_change_last(vm_opaque, true, runstate);
    } else {
        vm_change_last(vm_opaque, false, runstate);
        g_assert_false(fixture.reading[0]);
        vm_change(vm_opaque, false, runstate);
    }
}

int tap_local_fixture_next_fd(void)
{
    int fd = open("/dev/null", O_RDONLY);

    g_assert(fd >= 0);
    close(fd);
    return fd;
}
