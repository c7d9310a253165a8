// A program that was written for DMTCP: it declares what it uses as dmtcp.h does. $PART says which
// part is played.
#include "payload.h"
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>

#define WEAK __attribute__((weak))
int dmtcp_is_enabled(void) WEAK;
int dmtcp_checkpoint(void) WEAK;
int dmtcp_disable_ckpt(void) WEAK;
int dmtcp_enable_ckpt(void) WEAK;
int dmtcp_get_coordinator_status(int *peers, int *running) WEAK;
int dmtcp_get_local_status(int *checkpoints, int *restarts) WEAK;
const char *dmtcp_get_ckpt_dir(void) WEAK;
const char *dmtcp_get_ckpt_filename(void) WEAK;
const char *dmtcp_get_uniquepid_str(void) WEAK;
const char *dmtcp_get_computation_id_str(void) WEAK;
uint32_t dmtcp_get_generation(void) WEAK;
int dmtcp_get_restart_env(const char *name, char *value, size_t room) WEAK;
int dmtcp_set_ckpt_dir(const char *) WEAK;

#define dmtcp_is_enabled() (dmtcp_is_enabled ? dmtcp_is_enabled() : 0)
#define dmtcp_checkpoint() (dmtcp_checkpoint ? dmtcp_checkpoint() : 3)
#define dmtcp_disable_ckpt() (dmtcp_disable_ckpt ? dmtcp_disable_ckpt() : 3)
#define dmtcp_enable_ckpt() (dmtcp_enable_ckpt ? dmtcp_enable_ckpt() : 3)
#define dmtcp_get_coordinator_status(p, r) \
    (dmtcp_get_coordinator_status ? dmtcp_get_coordinator_status(p, r) : 3)
#define dmtcp_get_local_status(c, r) (dmtcp_get_local_status ? dmtcp_get_local_status(c, r) : 3)
#define dmtcp_get_ckpt_dir() (dmtcp_get_ckpt_dir ? dmtcp_get_ckpt_dir() : "")
#define dmtcp_get_ckpt_filename() (dmtcp_get_ckpt_filename ? dmtcp_get_ckpt_filename() : NULL)
#define dmtcp_get_uniquepid_str() (dmtcp_get_uniquepid_str ? dmtcp_get_uniquepid_str() : NULL)
#define dmtcp_set_ckpt_dir(d) (dmtcp_set_ckpt_dir ? dmtcp_set_ckpt_dir(d) : 3)

static volatile int children_ended;

static void on_child(int signal) {
    (void)signal;
    children_ended++;
}

static void say_restart_env(const char *name, size_t room) {
    char value[100] = "untouched";
    int result = dmtcp_get_restart_env ? dmtcp_get_restart_env(name, value, room) : -99;
    say("restart env %s: %d \"%s\"", name, result, value);
}

static void say_all(void) {
    say("enabled %d", dmtcp_is_enabled());
    int a = -1, b = -1;
    int result = dmtcp_get_coordinator_status(&a, &b);
    say("coordinator %d: peers %d, running %d", result, a, b);
    a = b = -1;
    result = dmtcp_get_local_status(&a, &b);
    say("local %d: checkpoints %d, restarts %d", result, a, b);
    say("generation %ld", dmtcp_get_generation ? (long)dmtcp_get_generation() : -1);
    const char *name = dmtcp_get_ckpt_filename();
    say("image %s", name ? name : "(null)");
    say("directory %s", dmtcp_get_ckpt_dir());
    say_restart_env("WHERE_NOW", 100);
    say_restart_env("WHERE_NOW", 5);
    say_restart_env("WHERE", 100);
    if (dmtcp_get_restart_env) say("null %d", dmtcp_get_restart_env(NULL, NULL, 0));
    say("set %d", dmtcp_set_ckpt_dir("/"));
}

static void await_go(char **argv) {
    char name[4400];
    snprintf(name, sizeof name, "%s.go", argv[1]);
    struct stat there;
    while (stat(name, &there) < 0) nap(2);
}

static void paces(void) {
    for (int i = 0; i < steps; i++) {
        nap(50);
        say("step %d", i);
    }
}

// A checkpoint in the middle.
static void middle(void) {
    signal(SIGCHLD, on_child);
    const char *name = dmtcp_get_uniquepid_str();
    char before[100] = "", job[100] = "";
    if (name) snprintf(before, sizeof before, "%s", name);
    if (dmtcp_get_computation_id_str)
        snprintf(job, sizeof job, "%s", dmtcp_get_computation_id_str());
    say_all();
    errno = 77;
    int result = dmtcp_checkpoint();
    check("errno", errno, 77);
    say("checkpoint %d", result);
    say_all();
    name = dmtcp_get_uniquepid_str();
    check("unique pid", name ? strcmp(name, before) : 0, 0);
    check("computation id", name ? strcmp(dmtcp_get_computation_id_str(), job) : 0, 0);
    check("ended children", children_ended, 0);
    check("a child to wait for", waitpid(-1, NULL, WNOHANG), -1);
    paces();
    int disabled = dmtcp_disable_ckpt();
    say("disable %d, enable %d", disabled, dmtcp_enable_ckpt());
}

// No checkpoint until the test says so, in a parent with a child that lives on.
static void held(char **argv) {
    say("too early %d", dmtcp_enable_ckpt());
    say("disable %d %d", dmtcp_disable_ckpt(), dmtcp_disable_ckpt());
    pid_t child = ok(fork());
    if (child == 0) {
        // It has a copy of everything but the hold.
        if (dmtcp_enable_ckpt() > 0) _exit(1);
        if (dmtcp_disable_ckpt() != 1 || dmtcp_enable_ckpt() != 1) _exit(2);
        pause();
        _exit(0);
    }
    say("enable %d", dmtcp_enable_ckpt());
    say("held");
    await_go(argv);
    int enabled = dmtcp_enable_ckpt();
    say("enable %d, once more %d", enabled, dmtcp_enable_ckpt());
    paces();
    ok(kill(child, SIGKILL));
    int status = 0;
    ok(waitpid(child, &status, 0));
    check("child", WTERMSIG(status), SIGKILL);
}

enum { PROCESSES = 4, THREADS = 3, ROUNDS = 6 };

static int *taken, *back, *failed;

static void *ask(void *unused) {
    (void)unused;
    for (int i = 0; i < ROUNDS; i++) {
        int a, b;
        if (dmtcp_disable_ckpt() != 1) __sync_add_and_fetch(failed, 1);
        churn(i, 1);
        if (dmtcp_enable_ckpt() != 1) __sync_add_and_fetch(failed, 1);
        if (dmtcp_get_local_status(&a, &b) != 4) __sync_add_and_fetch(failed, 1);
        int result = dmtcp_checkpoint();
        __sync_add_and_fetch(result == 1 ? taken : result == 2 ? back : failed, 1);
        nap(20);
    }
    return NULL;
}

// All threads of several processes at once.
static void crowd(void) {
    taken = shared(4096);
    back = taken + 1;
    failed = taken + 2;
    pid_t children[PROCESSES];
    say("begun");
    for (int i = 0; i < PROCESSES; i++) {
        children[i] = ok(fork());
        if (children[i] > 0) continue;
        pthread_t threads[THREADS];
        for (int t = 0; t < THREADS; t++) ok(-pthread_create(&threads[t], NULL, ask, NULL));
        for (int t = 0; t < THREADS; t++) pthread_join(threads[t], NULL);
        _exit(0);
    }
    for (int i = 0; i < PROCESSES; i++) {
        int status = 1;
        ok(waitpid(children[i], &status, 0));
        check("child", status, 0);
    }
    check("failures", *failed, 0);
    check("results", *taken + *back, PROCESSES * THREADS * ROUNDS);
}

int main(int argc, char **argv) {
    begin(argc, argv, 40);
    const char *part = getenv("PART");
    if (part && !strcmp(part, "held")) held(argv);
    else if (part && !strcmp(part, "crowd")) crowd();
    else middle();
    say("done");
    return 7;
}
