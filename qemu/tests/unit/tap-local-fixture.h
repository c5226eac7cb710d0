/*
 * Test fixture: a TAP netdev that can be handed over, and a minimal QEMU
 *
 * Copyright (c) 2026 tapstate developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_UNIT_TAP_LOCAL_FIXTURE_H
#define TESTS_UNIT_TAP_LOCAL_FIXTURE_H

#include "migration/misc.h"
#include "net/tap-local-int.h"
#include "system/runstate.h"

#define FIXTURE_QUEUES 4

/**
 * TapLocalFixture: the netdev under test and the state of the QEMU around it
 *
 * @local: netdev under test, with @count queues; invalid without queues
 * @queues: its TAP backends, with real file descriptors
 * @count: their number
 * @reading: the backend may read from the queue, as of its last tap_update()
 * @info: texts of the last tap_set_info() of each queue, or NULL
 * @runstate: state of the virtual machine
 * @mode: OR of the FIXTURE_* below
 * @peer_deleted: netdev_del was called, and the NIC still uses the netdev
 * @log: warnings and errors of the netdev under test
 * @error: error that it reported to the migration, or NULL
 * @restore_failed: number of events NETDEV_TAP_RESTORE_FAILED
 * @transmitted: packets written to the device, concatenated
 * @blocked: the device takes no packets, but for the next @takes
 * @full: the device takes no packets, but when its sndbuf is unlimited
 * @takes: number of packets that it takes nevertheless
 * @handlers: number of handlers and notifiers that are registered
 */
typedef struct TapLocalFixture {
    TapLocal *local;
    TAPState *queues[FIXTURE_QUEUES];
    unsigned int count;
    bool reading[FIXTURE_QUEUES];
    char *info[FIXTURE_QUEUES];
    RunState runstate;
    unsigned int mode;
    bool peer_deleted;
    GString *log;
    char *error;
    unsigned int restore_failed;
    GByteArray *transmitted;
    bool blocked;
    bool full;
    unsigned int takes;
    unsigned int handlers;
} TapLocalFixture;

#define FIXTURE_LOCAL           0x01    /* migration parameter local is set */
#define FIXTURE_CPR             0x02    /* mode is cpr-transfer */
#define FIXTURE_CPR_OTHER       0x04    /* mode is another one of cpr */
#define FIXTURE_MACHINE_READY   0x08    /* -netdev is from a monitor */
#define FIXTURE_NO_FD_PASS      0x10    /* the channel is no UNIX socket */
#define FIXTURE_MIGRATING       0x20    /* a migration runs */
#define FIXTURE_CANCELLED       0x40    /* the last migration was cancelled */
#define FIXTURE_LOADING         0x80    /* a stream is being loaded */

extern TapLocalFixture fixture;

/* Enter a new network namespace; false when this is not permitted */
bool tap_local_fixture_init(Error **errp);

/* Open a queue of a new device, or one more with IFF_MULTI_QUEUE */
int tap_local_fixture_open_tun(const char *name, int flags);

/*
 * Make the netdev with @count queues
 *
 * @fds: their file descriptors; NULL: the queues wait for them
 */
void tap_local_fixture_new(const NetdevTapOptions *options, const int *fds,
                           unsigned int count, RunState runstate);

/* Free the netdev, and close its file descriptors */
void tap_local_fixture_free(void);

/* Return the object of a queue */
TapLocalQueue *tap_local_fixture_queue(unsigned int i);

/* Return the log of the netdev under test, and start a new one */
const char *tap_local_fixture_take_log(void);

/*
 * Save a queue
 *
 * @fd: set to the file descriptor in the stream, which the caller closes, or -1
 *
 * Returns: the section without its footer, or NULL when the queue is not needed
 * in the stream, or refuses and sets fixture.error
 */
GByteArray *tap_local_fixture_save(unsigned int i, int *fd);

/*
 * Load @data and a footer. The first byte comes with @count copies of @fd.
 *
 * Returns: false when the stream is refused: by the object under test, which
 * sets fixture.error, or by vmstate_load_state(), which does not
 */
bool tap_local_fixture_load(unsigned int i, const void *data, size_t size,
                            int fd, int count);

/* Load @data without a footer, as if the stream ended there */
bool tap_local_fixture_load_end(unsigned int i, const void *data, size_t size,
                                int fd, int count);

/* Tell the netdev that all was loaded; if it refuses, it sets fixture.error */
bool tap_local_fixture_loaded(void);

/* Tell the netdev that the incoming migration failed */
void tap_local_fixture_fail(void);

/*
 * Tell the netdev about an event of the outgoing migration; if it refuses, it
 * sets fixture.error
 */
bool tap_local_fixture_outgoing(MigrationEventType type);

/* Reset the netdev, as the machine does */
void tap_local_fixture_reset(ResetType type);

/* Start or stop the virtual machine */
void tap_local_fixture_run(RunState runstate);

/* The file descriptor that the next open() returns: it grows with each leak */
int tap_local_fixture_next_fd(void);

#endif /* TESTS_UNIT_TAP_LOCAL_FIXTURE_H */
