/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libtapstate: read, save, compare and restore the state of tun/tap devices
 */
#ifndef TAPSTATE_H
#define TAPSTATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <glib.h>
#include <linux/if_tun_state.h>

G_BEGIN_DECLS

/**
 * TAPSTATE_ERROR:
 *
 * Domain of the #GError of all functions. Its codes are #TapstateError.
 */
#define TAPSTATE_ERROR tapstate_error_quark()
GQuark tapstate_error_quark(void);

/**
 * TapstateError:
 * @TAPSTATE_ERROR_NO_DEVICE: there is no such device
 * @TAPSTATE_ERROR_NOT_TUN: it is not a tun, tap or macvtap device or queue
 * @TAPSTATE_ERROR_NO_HOLDER: no process has it open
 * @TAPSTATE_ERROR_NO_KERNEL: the kernel lacks TUNGETSTATE
 * @TAPSTATE_ERROR_PERMISSION: the caller lacks a right
 * @TAPSTATE_ERROR_FORMAT: a text is not the state of a device
 * @TAPSTATE_ERROR_SYSTEM: a system call failed
 * @TAPSTATE_ERROR_RESTORE: the device cannot have this state
 */
typedef enum {
    TAPSTATE_ERROR_NO_DEVICE,
    TAPSTATE_ERROR_NOT_TUN,
    TAPSTATE_ERROR_NO_HOLDER,
    TAPSTATE_ERROR_NO_KERNEL,
    TAPSTATE_ERROR_PERMISSION,
    TAPSTATE_ERROR_FORMAT,
    TAPSTATE_ERROR_SYSTEM,
    TAPSTATE_ERROR_RESTORE,
} TapstateError;

/**
 * TapstateDevice:
 *
 * State of a device and its queues, read from the kernel or from JSON.
 */
typedef struct TapstateDevice TapstateDevice;

TapstateDevice *tapstate_get(const int *fds, unsigned int n, GError **errp);
TapstateDevice *tapstate_get_fd(pid_t pid, int fd, GError **errp);
TapstateDevice *tapstate_get_device(const char *name, GError **errp);
void tapstate_free(TapstateDevice *dev);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TapstateDevice, tapstate_free)

const struct tun_state *tapstate_state(const TapstateDevice *dev);
void tapstate_find_pins(TapstateDevice *dev);
bool tapstate_use_program(TapstateDevice *dev, uint64_t group,
                          const char *program, GError **errp);

/**
 * TAPSTATE_FORMAT:
 *
 * Version of the JSON, which is its member "tapstate".
 */
#define TAPSTATE_FORMAT 2

char *tapstate_encode(const TapstateDevice *dev, bool pretty);
TapstateDevice *tapstate_decode(const char *text, size_t len, GError **errp);

/**
 * TapstateKind:
 * @TAPSTATE_KIND_RESTORABLE: TUNSETSTATE sets the field
 * @TAPSTATE_KIND_DEVICE: TUNSETSTATE never sets it
 * @TAPSTATE_KIND_VOLATILE: it changes with the traffic
 */
typedef enum {
    TAPSTATE_KIND_RESTORABLE,
    TAPSTATE_KIND_DEVICE,
    TAPSTATE_KIND_VOLATILE,
} TapstateKind;

/**
 * TapstateField:
 * @name: path of the field in the JSON, such as "owner.uid"
 * @kind: who changes it
 * @unit: unit of a number, or %NULL
 * @a: value as text
 * @b: value in the other device, or %NULL where it has none
 *
 * Field of one device, or of two that are compared. Then @a, too, is %NULL
 * where the device does not have the field.
 */
typedef struct TapstateField {
    const char *name;
    TapstateKind kind;
    const char *unit;
    const char *a;
    const char *b;
} TapstateField;

/**
 * TapstateFieldFunc:
 * @field: field, valid during the call
 * @data: of the caller
 *
 * Receives each field of a walk or a comparison.
 */
typedef void (*TapstateFieldFunc)(const TapstateField *field, void *data);

void tapstate_foreach(const TapstateDevice *dev, TapstateFieldFunc func,
                      void *data);
unsigned int tapstate_compare(const TapstateDevice *a, const TapstateDevice *b,
                              bool device, TapstateFieldFunc func,
                              void *data);

/**
 * TapstateQueue:
 * @pid: process
 * @fd: its file descriptor
 * @comm: name of the process
 * @name: name of the device
 * @type: "tun", "tap" or "macvtap" (which stands for ipvtap, too)
 * @patched: 1 if the kernel has TUNGETSTATE, 0 if not, -1 if not known
 * @attached: 1 or 0, or -1 if not known
 * @index: as in struct tun_state_queue, or -1 if not known
 * @ifindex: index of the device, or 0 if not known
 * @netns: inode number of its network namespace, or 0 if not known
 *
 * Queue that a process has open. It is not known what takes a right that the
 * caller lacks, or TUNGETSTATE.
 */
typedef struct TapstateQueue {
    pid_t pid;
    int fd;
    char comm[16];
    char name[17];
    const char *type;
    int patched;
    int attached;
    int index;
    uint32_t ifindex;
    uint64_t netns;
} TapstateQueue;

TapstateQueue **tapstate_list(pid_t pid, unsigned int *closed, GError **errp);
void tapstate_list_free(TapstateQueue **queues);
int tapstate_borrow(pid_t pid, int fd, GError **errp);
int *tapstate_borrow_device(const char *name, const TapstateDevice *like,
                            unsigned int *n, GError **errp);
void tapstate_close(int *fds, unsigned int n);

bool tapstate_probe(uint64_t *groups, GError **errp);
const char *tapstate_group_name(uint64_t group);
uint64_t tapstate_group_bit(const char *name);

/**
 * TAPSTATE_RESTORED:
 *
 * Groups that TUNSETSTATE restores.
 */
#define TAPSTATE_RESTORED                                                  \
    (TUN_STATE_IFF | TUN_STATE_OWNER | TUN_STATE_VNET | TUN_STATE_OFFLOAD | \
     TUN_STATE_SNDBUF | TUN_STATE_LINK | TUN_STATE_TXFILTER |               \
     TUN_STATE_SOCKFILTER | TUN_STATE_STEERING | TUN_STATE_FILTER |         \
     TUN_STATE_QUEUE)

/**
 * TapstateReport:
 * @group: TUN_STATE_* of the group
 * @why: reason and remedy
 * @data: of the caller
 *
 * Receives each group that was left out.
 */
typedef void (*TapstateReport)(uint64_t group, const char *why, void *data);

bool tapstate_check(const TapstateDevice *dev, const int *fds, unsigned int n,
                    uint64_t groups, TapstateReport report, void *data,
                    GError **errp);
bool tapstate_set(const TapstateDevice *dev, const int *fds, unsigned int n,
                  uint64_t groups, TapstateReport report, void *data,
                  GError **errp);
int *tapstate_rebuild(const TapstateDevice *dev, const char *name,
                      uint64_t groups, unsigned int *n, TapstateReport report,
                      void *data, GError **errp);

G_END_DECLS

#endif
