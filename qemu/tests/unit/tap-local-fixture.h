/*
 * Test fixture: a TAP queue that can be handed over, and a minimal QEMU
 *
 * Copyright (c) 2026 tapstate developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_UNIT_TAP_LOCAL_FIXTURE_H
#define TESTS_UNIT_TAP_LOCAL_FIXTURE_H

#include "migration/misc.h"
#include "net/tap-local.h"
#include "system/runstate.h"

/**
 * TapLocalFixture: the object under test and the state of the QEMU around it
 *
 * @local: object under test
 * @queue: state of the TAP backend, with a real file descriptor
 * @runstate: state of the virtual machine
 * @mode: OR of the FIXTURE_* below
 * @error: error that the object under test reported, or NULL
 * @applied: number of writes of each setting to the device
 * @value: value of the last write of each setting
 * @transmitted: packets written to the device, concatenated
 * @blocked: the device takes no packets
 */
typedef struct TapLocalFixture {
    TapLocal *local;
    TapLocalQueue queue;
    RunState runstate;
    unsigned int mode;
    char *error;
    unsigned int applied[TAP_SETTING__MAX];
    int value[TAP_SETTING__MAX];
    GByteArray *transmitted;
    bool blocked;
} TapLocalFixture;

#define FIXTURE_LOCAL           0x01    /* migration parameter local is set */
#define FIXTURE_CPR             0x02    /* mode is cpr-transfer */
#define FIXTURE_MACHINE_READY   0x04    /* -netdev is from a monitor */

extern TapLocalFixture fixture;

/* Enter a new network namespace; false when this is not permitted */
bool tap_local_fixture_init(Error **errp);

/* Open a queue of a new device, or one more with IFF_MULTI_QUEUE */
int tap_local_fixture_open_tun(const char *name, int flags);

/* Make the queue; with @fd -1 it waits for its file descriptor */
void tap_local_fixture_new(const NetdevTapOptions *options, int index, int fd,
                           RunState runstate);

/* Free the queue, and close its file descriptor */
void tap_local_fixture_free(void);

/*
 * Save the queue
 *
 * @fd: set to the file descriptor in the stream, which the caller closes, or -1
 *
 * Returns: the section without its footer, or NULL when the queue refuses
 */
GByteArray *tap_local_fixture_save(int *fd);

/*
 * Load @data and a footer. The first byte comes with @count copies of @fd.
 *
 * Returns: false when the stream is refused: by the object under test, which
 * sets fixture.error, or by vmstate_load_state(), which does not
 */
bool tap_local_fixture_load(const void *data, size_t size, int fd, int count);

/* Load @data without a footer, as if the stream ended there */
bool tap_local_fixture_load_end(const void *data, size_t size, int fd,
                                int count);

/* Tell the queue that the incoming migration failed */
void tap_local_fixture_fail(void);

/* Tell the queue about an event of the outgoing migration */
void tap_local_fixture_outgoing(MigrationEventType type);

/* Start or stop the virtual machine */
void tap_local_fixture_run(RunState runstate);

/* The file descriptor that the next open() returns: it grows with each leak */
int tap_local_fixture_next_fd(void);

#endif /* TESTS_UNIT_TAP_LOCAL_FIXTURE_H */
