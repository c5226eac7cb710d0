// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Tests of calls that fail before they open or change a device
 */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "../lib/private.h"
#include "samples.h"

#define TWO_QUEUES "\"vnet_hdr\",\"multi_queue\""

static TapstateDevice *decode(const char *sample, const char *from,
                              const char *to)
{
    g_auto(GStrv) parts = g_strsplit(sample, from, 2);
    g_autofree char *text = g_strjoinv(to, parts);
    GError *err = NULL;
    TapstateDevice *dev = tapstate_decode(text, strlen(text), &err);

    g_assert_no_error(err);
    g_assert_cmpuint(g_strv_length(parts), ==, 2);
    return dev;
}

static void test_rebuild(void)
{
    static const struct {
        const char *sample, *from, *to, *name, *message;
        int code;
    } cases[] = {
        { SAMPLE_MACVTAP, "1", "1", "t7", "macvtap or ipvtap",
          TAPSTATE_ERROR_RESTORE },
        { SAMPLE_TAP, "\"iff\":{\"flags\":[\"tap\",\"vnet_hdr\"]},", "", "t7",
          "without 'iff'", TAPSTATE_ERROR_RESTORE },
        { SAMPLE_TAP, "\"vnet_hdr\"]", "\"vnet_hdr\"]", "t7",
          "'iff.flags' and 2 queues", TAPSTATE_ERROR_RESTORE },
        /* IFF_TUN_EXCL, and a bit that TUNSETIFF would cut off */
        { SAMPLE_TAP, "\"vnet_hdr\"]", TWO_QUEUES ",\"0x8000\"]", "t7",
          "'iff.flags'", TAPSTATE_ERROR_RESTORE },
        { SAMPLE_TAP, "\"vnet_hdr\"]", TWO_QUEUES ",\"0x80000000\"]", "t7",
          "'iff.flags'", TAPSTATE_ERROR_RESTORE },
        { SAMPLE_TAP, "\"vnet_hdr\"]", TWO_QUEUES "]", "",
          "not the name", TAPSTATE_ERROR_NO_DEVICE },
        { SAMPLE_TAP, "\"vnet_hdr\"]", TWO_QUEUES "]", "t%d",
          "not the name", TAPSTATE_ERROR_NO_DEVICE },
        { SAMPLE_TAP, "\"vnet_hdr\"]", TWO_QUEUES "]", "0123456789abcdef",
          "not the name", TAPSTATE_ERROR_NO_DEVICE },
    };

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(TapstateDevice) dev = decode(cases[i].sample, cases[i].from,
                                               cases[i].to);
        g_autoptr(GError) err = NULL;
        unsigned int n;

        g_assert_null(tapstate_rebuild(dev, cases[i].name, TAPSTATE_RESTORED,
                                       &n, NULL, NULL, &err));
        g_assert_error(err, TAPSTATE_ERROR, cases[i].code);
        g_test_message("%s", err->message);
        g_assert_nonnull(strstr(err->message, cases[i].message));
    }
}

static void test_descriptors(void)
{
    g_autoptr(TapstateDevice) dev = decode(SAMPLE_TAP, "1", "1");
    g_autoptr(GError) none = NULL, other = NULL, set = NULL;
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

    g_assert_null(tapstate_get(NULL, 0, &none));
    g_assert_error(none, TAPSTATE_ERROR, TAPSTATE_ERROR_NO_DEVICE);
    g_assert_null(tapstate_get(&fd, 1, &other));
    g_assert_error(other, TAPSTATE_ERROR, TAPSTATE_ERROR_NOT_TUN);
    g_assert_false(tapstate_set(dev, NULL, 0, TAPSTATE_RESTORED, NULL, NULL,
                                &set));
    g_assert_error(set, TAPSTATE_ERROR, TAPSTATE_ERROR_NO_DEVICE);
    close(fd);
    tapstate_close(NULL, 3);
}

/* A process that has ended, and a descriptor that is closed */
static void test_gone(void)
{
    g_autoptr(GError) list = NULL, borrow = NULL, closed = NULL;
    pid_t pid = fork();

    if (!pid) {
        _exit(0);
    }
    g_assert_cmpint(waitpid(pid, NULL, 0), ==, pid);
    g_assert_null(tapstate_list(pid, NULL, &list));
    g_assert_error(list, TAPSTATE_ERROR, TAPSTATE_ERROR_NO_HOLDER);
    g_assert_cmpint(tapstate_borrow(pid, 0, &borrow), ==, -1);
    g_assert_error(borrow, TAPSTATE_ERROR, TAPSTATE_ERROR_NO_HOLDER);
    g_assert_cmpint(tapstate_borrow(getpid(), 9999, &closed), ==, -1);
    g_assert_error(closed, TAPSTATE_ERROR, TAPSTATE_ERROR_NO_HOLDER);
}

/* Without descriptors of its own, a list would lack queues */
static void test_limit(void)
{
    struct rlimit old, low;
    int next = dup(0);

    close(next);
    g_assert_cmpint(getrlimit(RLIMIT_NOFILE, &old), ==, 0);
    for (int room = 0; room < 2; room++) {
        g_autoptr(GError) err = NULL;
        TapstateQueue **queues;

        low = (struct rlimit) { next + room, old.rlim_max };
        g_assert_cmpint(setrlimit(RLIMIT_NOFILE, &low), ==, 0);
        queues = tapstate_list(0, NULL, &err);
        g_assert_cmpint(setrlimit(RLIMIT_NOFILE, &old), ==, 0);
        g_assert_null(queues);
        g_assert_error(err, TAPSTATE_ERROR, TAPSTATE_ERROR_SYSTEM);
        g_assert_nonnull(strstr(err->message, "Too many open files"));
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/calls/rebuild", test_rebuild);
    g_test_add_func("/calls/descriptors", test_descriptors);
    g_test_add_func("/calls/gone", test_gone);
    g_test_add_func("/calls/limit", test_limit);
    return g_test_run();
}
