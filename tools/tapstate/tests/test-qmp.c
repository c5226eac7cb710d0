// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Tests of the QMP client with a server that sends what QEMU sends rarely
 */
#include <string.h>
#include <unistd.h>
#include <sys/socket.h>

#include "../cmd/qmp.h"

#define GREETING "{\"QMP\": {}}\n"
#define READY "{\"return\": {}, \"id\": 1}\n"

/* Connect to a server that has sent @text already, and sends no more */
static Qmp *serve(const char *text, GError **errp)
{
    int fds[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), ==, 0);
    g_assert_cmpint(write(fds[1], text, strlen(text)), ==,
                    (ssize_t)strlen(text));
    shutdown(fds[1], SHUT_WR);
    /* Keep the other end open: the client writes to it. */
    return qmp_open_fd(fds[0], "test", errp);
}

/* The answer of a command that was given up comes before that of the next */
static void test_late_answer(void)
{
    g_autoptr(GError) err = NULL;
    g_autoptr(Qmp) qmp = serve(GREETING READY
                               "{\"return\": {\"status\": \"late\"}, \"id\": 1}\n"
                               "{\"return\": {\"status\": \"new\"}, \"id\": 2}\n",
                               &err);
    g_autoptr(JsonObject) status = NULL;

    g_assert_no_error(err);
    status = qmp_query(qmp, "query-status", NULL, &err);
    g_assert_no_error(err);
    g_assert_cmpstr(member_string(status, "status"), ==, "new");
}

static void test_events_between(void)
{
    g_autoptr(Qmp) qmp = serve(GREETING READY "{\"event\": \"STOP\"}\n"
                               "{\"return\": {}, \"id\": 2}\n"
                               "{\"event\": \"RESUME\"}\n", NULL);
    static const char *const names[] = { "STOP", "RESUME" };

    g_assert_true(qmp_do(qmp, "stop", NULL, NULL));
    for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autoptr(JsonObject) event = qmp_next_event(qmp);

        g_assert_cmpstr(member_string(event, "event"), ==, names[i]);
    }
    g_assert_null(qmp_next_event(qmp));
}

static void test_refusal(void)
{
    g_autoptr(GError) err = NULL;
    g_autoptr(Qmp) qmp = serve(GREETING READY "{\"error\": {\"desc\": \"busy\"}, "
                               "\"id\": 2}\n", NULL);

    g_assert_false(qmp_do(qmp, "cont", NULL, &err));
    g_assert_error(err, QMP_ERROR, QMP_ERROR_ANSWER);
    g_assert_cmpstr(err->message, ==, "cont: busy");
    g_assert_false(qmp_is_closed(qmp));
}

/* Only then is a command in doubt */
static void test_end(void)
{
    g_autoptr(GError) err = NULL;
    g_autoptr(Qmp) qmp = serve(GREETING READY, NULL);

    g_assert_false(qmp_do(qmp, "cont", NULL, &err));
    g_assert_error(err, QMP_ERROR, QMP_ERROR_CONNECTION);
    g_assert_true(qmp_is_closed(qmp));
}

static void test_other_types(void)
{
    g_autoptr(GError) err = NULL;
    g_autoptr(Qmp) qmp = serve(GREETING READY "{\"return\": [], \"id\": 2}\n"
                               "{\"return\": {}, \"id\": 3}\n", NULL);

    g_assert_null(qmp_query(qmp, "query-status", NULL, &err));
    g_assert_error(err, QMP_ERROR, QMP_ERROR_ANSWER);
    g_clear_error(&err);
    g_assert_null(qmp_list(qmp, "query-block", NULL, &err));
    g_assert_error(err, QMP_ERROR, QMP_ERROR_ANSWER);
}

static void test_not_qmp(void)
{
    static const char *const texts[] = {
        "", "220 ESMTP\n", "{}\n", "[]\n", "{\"QMP\": {}}\n{}\n",
        GREETING "{\"error\": {}, \"id\": 1}\n",
    };

    for (guint i = 0; i < G_N_ELEMENTS(texts); i++) {
        g_autoptr(GError) err = NULL;
        g_autoptr(Qmp) qmp = serve(texts[i], &err);

        g_assert_null(qmp);
        g_assert_error(err, QMP_ERROR, QMP_ERROR_CONNECTION);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/qmp/late-answer", test_late_answer);
    g_test_add_func("/qmp/events-between", test_events_between);
    g_test_add_func("/qmp/refusal", test_refusal);
    g_test_add_func("/qmp/end", test_end);
    g_test_add_func("/qmp/other-types", test_other_types);
    g_test_add_func("/qmp/not-qmp", test_not_qmp);
    return g_test_run();
}
