// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * eBPF programs: name, pin, and a descriptor
 */
#include <errno.h>
#include <ftw.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>
#include <sys/syscall.h>
#include <linux/bpf.h>

#include "private.h"

#define BPFFS "/sys/fs/bpf"

static int bpf(int cmd, union bpf_attr *attr)
{
    return syscall(SYS_bpf, cmd, attr, sizeof(*attr));
}

static int open_id(guint32 id)
{
    union bpf_attr attr = { .prog_id = id };

    return bpf(BPF_PROG_GET_FD_BY_ID, &attr);
}

/* @pin is escaped: a path may have bytes that JSON cannot have */
static int open_pin(const char *pin)
{
    char path[PATH_MAX];
    union bpf_attr attr = { .pathname = (guintptr)path };

    if (!tapstate__unescape(pin, path, sizeof(path))) {
        errno = ENOENT;
        return -1;
    }
    return bpf(BPF_OBJ_GET, &attr);
}

/* Fail on a map, whose info is shorter than a tag */
static bool get_info(int fd, struct bpf_prog_info *info)
{
    union bpf_attr attr = {
        .info = {
            .bpf_fd = fd,
            .info_len = sizeof(*info),
            .info = (guintptr)info,
        },
    };
    g_autofree char *path = g_strdup_printf("/proc/self/fdinfo/%d", fd);
    g_autofree char *text = NULL;

    memset(info, 0, sizeof(*info));
    return g_file_get_contents(path, &text, NULL, NULL) &&
           strstr(text, "prog_tag:") &&
           bpf(BPF_OBJ_GET_INFO_BY_FD, &attr) == 0;
}

/* It takes CAP_SYS_ADMIN */
char *tapstate__prog_name(guint32 id)
{
    struct bpf_prog_info info;
    char *name = NULL;
    int fd;

    fd = id ? open_id(id) : -1;
    if (fd < 0) {
        return NULL;
    }
    if (get_info(fd, &info) && *info.name) {
        name = tapstate__escape(info.name, sizeof(info.name));
    }
    close(fd);
    return name;
}

static bool is_prog(int fd, const struct tun_state_prog *prog)
{
    struct bpf_prog_info info;

    return get_info(fd, &info) && info.type == prog->type &&
           !memcmp(info.tag, prog->tag, sizeof(prog->tag));
}

int tapstate__open_prog(const struct tun_state_prog *prog, const Prog *info,
                        GError **errp)
{
    int fd = -1;

    if (info->pin) {
        fd = open_pin(info->pin);
        if (fd >= 0 && !is_prog(fd, prog)) {
            close(fd);
            fd = -1;
        }
    }
    if (fd < 0) {
        fd = open_id(prog->id);
    }
    if (fd >= 0 && is_prog(fd, prog)) {
        return fd;
    }
    if (fd >= 0) {
        close(fd);
    }
    g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_RESTORE,
                "no access to the program with id %u and its tag%s%s; load it, "
                "pin it there, and run with CAP_BPF and CAP_SYS_ADMIN",
                prog->id, info->pin ? ", nor at " : "",
                info->pin ? info->pin : "");
    return -1;
}

static int open_named(const char *program)
{
    g_autofree char *pin = tapstate__escape(program, strlen(program));
    guint64 id;

    if (strchr(program, '/')) {
        return open_pin(pin);
    }
    if (g_ascii_string_to_unsigned(program, 10, 1, G_MAXUINT32, &id, NULL)) {
        return open_id(id);
    }
    errno = EINVAL;
    return -1;
}

static bool fail_program(const char *program, int err, GError **errp)
{
    g_autofree char *shown = tapstate__escape(program, strlen(program));

    if (err == EPERM) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_PERMISSION,
                    "program %s: %s; run as root or with CAP_BPF and "
                    "CAP_SYS_ADMIN", shown, g_strerror(err));
    } else {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_RESTORE,
                    "%s is neither the pin nor the id of a program of type "
                    "socket_filter; see 'bpftool prog'", shown);
    }
    return false;
}

/**
 * tapstate_use_program:
 * @dev: state to restore
 * @group: %TUN_STATE_STEERING or %TUN_STATE_FILTER
 * @program: path of a pinned eBPF program, with a slash, or its id
 * @errp: return location for an error
 *
 * Replaces the program in @dev, for tapstate_set() and tapstate_rebuild(). It
 * has to stay pinned or attached until then.
 *
 * Returns: %true, or %false if there is no such program
 */
bool tapstate_use_program(TapstateDevice *dev, uint64_t group,
                          const char *program, GError **errp)
{
    int i = group == TUN_STATE_FILTER, fd = open_named(program), err = errno;
    struct tun_state_prog *prog = i ? &dev->st.filter : &dev->st.steering;
    Prog *text = &dev->progs[i];
    struct bpf_prog_info info;
    bool ok = fd >= 0 && get_info(fd, &info) &&
              info.type == BPF_PROG_TYPE_SOCKET_FILTER;

    if (fd >= 0) {
        close(fd);
    }
    if (!ok) {
        return fail_program(program, fd < 0 ? err : 0, errp);
    }
    *prog = (struct tun_state_prog) { .id = info.id, .type = info.type };
    memcpy(prog->tag, info.tag, sizeof(prog->tag));
    g_free(text->name);
    g_free(text->pin);
    text->name = *info.name ? tapstate__escape(info.name, sizeof(info.name)) :
                              NULL;
    text->pin = strchr(program, '/') ?
                tapstate__escape(program, strlen(program)) : NULL;
    dev->st.mask |= group;
    return true;
}

/* nftw() passes nothing to its function */
static __thread TapstateDevice *pin_device;

static int check_pin(const char *path, const struct stat *st, int type,
                     struct FTW *ftw)
{
    const struct tun_state *s = &pin_device->st;
    guint32 ids[] = { s->steering.id, s->filter.id };
    g_autofree char *pin = NULL;
    struct bpf_prog_info info;
    int fd;

    (void)st;
    (void)ftw;
    pin = tapstate__escape(path, strlen(path));
    fd = type == FTW_F ? open_pin(pin) : -1;
    if (fd < 0) {
        return 0;
    }
    if (get_info(fd, &info)) {
        for (guint i = 0; i < G_N_ELEMENTS(ids); i++) {
            if (ids[i] == info.id && !pin_device->progs[i].pin) {
                pin_device->progs[i].pin = g_strdup(pin);
            }
        }
    }
    close(fd);
    return 0;
}

/**
 * tapstate_find_pins:
 * @dev: state that was just read
 *
 * Looks below /sys/fs/bpf for the eBPF programs of @dev, so that
 * tapstate_set() can attach them to another device, or after their ids have
 * changed.
 */
void tapstate_find_pins(TapstateDevice *dev)
{
    if (dev->st.steering.id || dev->st.filter.id) {
        pin_device = dev;
        nftw(BPFFS, check_pin, 16, FTW_PHYS);
        pin_device = NULL;
    }
}
