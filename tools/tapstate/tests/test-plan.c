// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Tests of the target's command line: how values are taken apart, and the rules
 * for options that need no running QEMU
 */
#include <string.h>
#include <unistd.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "../cmd/plan.h"

static void test_values(void)
{
    static const struct {
        const char *value, *implied, *key, *found, *text;
    } cases[] = {
        { "tap,id=a", "type", "type", "tap", "tap,id=a" },
        { "file=a,,b,if=virtio", NULL, "file", "a,b", "file=a,,b,if=virtio" },
        { "socket,server,nowait", "backend", "wait", "off",
          "socket,server=on,wait=off" },
        { "type=tap,id=a", "type", "id", "a", "tap,id=a" },
        { "{\"type\":\"tap\",\"queues\":2}", "type", "queues", "2",
          "{\"type\":\"tap\",\"queues\":2}" },
        { "{\"vhost\":true}", "type", "vhost", "on", "{\"vhost\":true}" },
        { "{broken", "type", "type", "{broken", "{broken" },
        { "", "type", "type", NULL, "" },
    };

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_auto(Props) props = props_parse(cases[i].value, cases[i].implied);
        g_autofree char *found = props_get(&props, cases[i].key);
        g_autofree char *text = props_text(&props);

        g_assert_cmpstr(found, ==, cases[i].found);
        g_assert_cmpstr(text, ==, cases[i].text);
    }
}

/* All that qapi_bool_parse() of QEMU takes */
static void test_boolean(void)
{
    static const char *const on[] = { "on", "yes", "true", "y" };

    for (guint i = 0; i < G_N_ELEMENTS(on); i++) {
        g_autofree char *value = g_strdup_printf("x,share=%s", on[i]);
        g_auto(Props) props = props_parse(value, "type");

        g_assert_true(props_is(&props, "share", "on"));
        g_assert_false(props_is(&props, "share", "off"));
    }
}

static void test_json_types(void)
{
    g_auto(Props) props = props_parse("{\"fd\":\"7\"}", "type");
    g_autofree char *text = NULL;

    props_set(&props, "fd", "12");
    props_set(&props, "queues", "4");
    props_set(&props, "incoming-fds", "on");
    text = props_text(&props);
    g_assert_cmpstr(text, ==,
                    "{\"fd\":\"12\",\"queues\":4,\"incoming-fds\":true}");
}

static void test_options(void)
{
    static const char *argv[] = { "qemu", "-S", "--name", "a", "disk", "-nodefaults",
                                  "-m", "64", NULL };
    g_autoptr(GPtrArray) options = cmdline_parse((char **)argv);
    static const struct {
        const char *name, *value;
    } expected[] = {
        { "S", NULL }, { "name", "a" }, { NULL, "disk" },
        { "nodefaults", NULL }, { "m", "64" },
    };

    g_assert_cmpuint(options->len, ==, G_N_ELEMENTS(expected));
    for (guint i = 0; i < options->len; i++) {
        const Option *option = options->pdata[i];

        g_assert_cmpstr(option->name, ==, expected[i].name);
        g_assert_cmpstr(option->value, ==, expected[i].value);
    }
}

/* Return the arguments that a rule adds, in one line */
static char *apply(void (*rule)(Plan *, const Option *), const char *name,
                   const char *value, guint *refusals, guint *moves)
{
    static TapstateQueue *none;
    g_autoptr(Process) self = process_open(getpid(), NULL);
    Source source = {
        .socket = (char *)"/nonexistent", .queues = &none, .process = self,
    };
    Option option = { .name = (char *)name, .value = (char *)value };
    g_autoptr(Plan) plan = plan_new(&source);

    plan->suffix = SUFFIX_1;
    rule(plan, &option);
    *refusals = plan_refusals(plan);
    *moves = plan->moves->len;
    g_ptr_array_add(plan->argv, NULL);
    return g_strjoinv(" ", (char **)plan->argv->pdata);
}

static void test_rules(void)
{
    static const struct {
        void (*rule)(Plan *plan, const Option *option);
        const char *name, *value, *args;
        guint refusals, moves;
    } cases[] = {
        { plan_vnc, "vnc", "none", "-vnc none", 0, 0 },
        { plan_vnc, "vnc", "unix:/a,b=c", "-vnc unix:/a.tapstate-1,b=c", 0, 1 },
        { plan_vnc, "vnc", ":1", "-vnc :1", 1, 0 },
        { plan_vnc, "display", "vnc=:1", "-display vnc=:1", 1, 0 },
        { plan_vnc, "display", "gtk,gl=on", "-display gtk,gl=on", 0, 0 },
        { plan_spice, "spice", "port=1,plaintext-channel=a,plaintext-channel=b",
          "-spice port=1,plaintext-channel=a,plaintext-channel=b", 1, 0 },
        { plan_spice, "spice", "unix=on,addr=/s",
          "-spice unix=on,addr=/s.tapstate-1", 0, 1 },
        { plan_netdev, "netdev", "user,id=u,dnssearch=a,dnssearch=b",
          "-netdev user,id=u,dnssearch=a,dnssearch=b", 0, 0 },
        { plan_netdev, "netdev", "user,id=u,hostfwd=tcp::1-:2",
          "-netdev user,id=u,hostfwd=tcp::1-:2", 1, 0 },
        { plan_netdev, "netdev", "vhost-user,id=u,chardev=c",
          "-netdev vhost-user,id=u,chardev=c", 1, 0 },
        { plan_character, "gdb", "tcp::1234", "-gdb tcp::1234", 1, 0 },
        { plan_character, "serial", "udp::1@:2", "-serial udp::1@:2", 1, 0 },
        { plan_character, "serial", "mon:stdio", "-serial mon:stdio", 0, 0 },
        { plan_character, "monitor", "unix:/m.tapstate-2,server,nowait",
          "-monitor unix:/m.tapstate-1,server=on,wait=off", 0, 1 },
        { plan_chardev, "chardev", "socket,id=c,path=/c",
          "-chardev socket,id=c,path=/c", 0, 0 },
        { plan_chardev, "chardev", "socket,id=c,fd=7,server=on",
          "-chardev socket,id=c,fd=7,server=on", 1, 0 },
        { plan_chardev, "chardev", "file,id=c,path=/c",
          "-chardev file,id=c,path=/c,append=on", 0, 0 },
    };

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        guint refusals, moves;
        g_autofree char *args = apply(cases[i].rule, cases[i].name,
                                      cases[i].value, &refusals, &moves);

        g_assert_cmpstr(args, ==, cases[i].args);
        g_assert_cmpuint(refusals, ==, cases[i].refusals);
        g_assert_cmpuint(moves, ==, cases[i].moves);
    }
}

static int listen_at(const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    g_strlcpy(address.sun_path, path, sizeof(address.sun_path));
    g_assert_no_errno(bind(fd, (struct sockaddr *)&address, sizeof(address)));
    return fd;
}

/* As libvirt starts a QEMU: it binds the socket of the monitor */
static void test_socket_by_fd(void)
{
    g_autofree char *dir = g_dir_make_tmp("test-plan-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "monitor", NULL);
    int fd = listen_at(path);
    g_autofree char *value = g_strdup_printf("socket,id=c,fd=%d,server=on", fd);
    g_autofree char *wanted = g_strdup_printf("-chardev socket,id=c,server=on,"
                                              "path=%s" SUFFIX_1 ",wait=off",
                                              path);
    g_autofree char *refused = NULL, *args = NULL;
    guint refusals, moves;

    /* A client may have such an address, too. */
    refused = apply(plan_chardev, "chardev", value, &refusals, &moves);
    g_assert_cmpuint(refusals, ==, 1);
    g_assert_no_errno(listen(fd, 1));
    args = apply(plan_chardev, "chardev", value, &refusals, &moves);
    g_assert_cmpstr(args, ==, wanted);
    g_assert_cmpuint(refusals, ==, 0);
    g_assert_cmpuint(moves, ==, 1);
    close(fd);
    unlink(path);
    rmdir(dir);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/plan/values", test_values);
    g_test_add_func("/plan/boolean", test_boolean);
    g_test_add_func("/plan/json-types", test_json_types);
    g_test_add_func("/plan/options", test_options);
    g_test_add_func("/plan/rules", test_rules);
    g_test_add_func("/plan/socket-by-fd", test_socket_by_fd);
    return g_test_run();
}
