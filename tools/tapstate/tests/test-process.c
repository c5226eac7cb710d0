// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Tests of the wait for a process on a machine where time jumps
 */
#include <signal.h>
#include <unistd.h>
#include <sys/wait.h>

#include "../cmd/process.h"

static gint64 jump; /* us between two looks at the clock */

/* In place of GLib's: a busy machine may run others between any two calls. */
gint64 g_get_monotonic_time(void)
{
    static gint64 now;

    return now += jump;
}

static Process *start(void)
{
    g_autoptr(GError) err = NULL;
    Process *process;
    pid_t pid = fork();

    if (pid == 0) {
        pause();
        _exit(0);
    }
    process = process_open(pid, &err);
    g_assert_no_error(err);
    return process;
}

static void end(Process *process)
{
    process_kill(process, SIGKILL);
    g_assert_cmpint(waitpid(process->pid, NULL, 0), ==, process->pid);
    g_assert_true(process_wait(process, 0));
    process_free(process);
}

/* A wait without an end would be ended by the alarm, and the test with it. */
static void test_wait(void)
{
    Process *process = start();

    for (jump = 0; jump < 5000; jump += 100) {
        g_assert_false(process_wait(process, 0));
    }
    for (jump = 900000; jump < 3000000; jump += 100000) {
        g_assert_false(process_wait(process, 1));
    }
    end(process);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/process/wait", test_wait);
    alarm(20);
    return g_test_run();
}
