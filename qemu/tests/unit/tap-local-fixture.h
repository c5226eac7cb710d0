/*
 * A TAP that a migration hands over, with as little of QEMU around as it needs
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
 * TapLocalFixture: the object under test, and what surrounds it
 *
 * @local: what is tested, real as it is
 * @queue: what the TAP backend knows, real as the file descriptor is
 * @runstate: of the machine
 * @mode: OR of the FIXTURE_* below
 * @error: what the object under test told the migration, or NULL
 * @applied: how often each setting was written to the device
 * @value: and what was written last
 * @transmitted: packets that were written to the device, end to end
 * @blocked: the device takes no packet
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

/* Make a network namespace of our own; false if that is not possible here */
bool tap_local_fixture_init(Error **errp);

/* A queue of a new device, or of an old one with IFF_MULTI_QUEUE */
int tap_local_fixture_open_tun(const char *name, int flags);

/* A queue that has @fd, or waits for it with -1; in @runstate */
void tap_local_fixture_new(const NetdevTapOptions *options, int index, int fd,
                           RunState runstate);

/* Ends it, and closes its fd */
void tap_local_fixture_free(void);

/*
 * What the migration stream holds of it, without its end; NULL when it refuses
 *
 * @fd: where to put the file descriptor that came along, which is the caller's
 *      to close, or -1
 */
GByteArray *tap_local_fixture_save(int *fd);

/*
 * Load @data, whose first byte brings @count times @fd along. What follows it
 * in a stream is added.
 *
 * Returns: false when it is refused; with what is not in the format of a stream
 * it is not the object under test that does, and there is no @error
 */
bool tap_local_fixture_load(const void *data, size_t size, int fd, int count);

/* The same, of a stream that ends with @data */
bool tap_local_fixture_load_end(const void *data, size_t size, int fd,
                                int count);

/* Tell the queue that the incoming migration failed */
void tap_local_fixture_fail(void);

/* Tell the queue how far the outgoing migration is */
void tap_local_fixture_outgoing(MigrationEventType type);

/* Start and stop the machine */
void tap_local_fixture_run(RunState runstate);

/* The file descriptor that the next open() gets: tells whether one is lost */
int tap_local_fixture_next_fd(void);

#endif /* TESTS_UNIT_TAP_LOCAL_FIXTURE_H */
