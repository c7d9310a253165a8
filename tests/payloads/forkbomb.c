// 200 short-lived children in flight at any time: plain ones, ones with a child or a thread of
// their own, ones that exec another program by posix_spawn (that is, vfork).
#include "payload.h"
#include <pthread.h>
#include <spawn.h>

enum { IN_FLIGHT = 200, PER_STEP = 60 };

extern char **environ;
static char *no_op[] = {"true", NULL};

static void *count(void *arg) {
    *(uint64_t *)arg = churn(*(uint64_t *)arg, 1);
    return NULL;
}

static void child(int n) {
    uint64_t x = n;
    if (n % 4 == 1) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, count, &x) || pthread_join(thread, NULL)) _exit(99);
    } else if (n % 4 == 2) {
        int status;
        pid_t grandchild = fork();
        if (grandchild < 0) _exit(98);
        if (grandchild == 0) _exit(churn(n, 1) ? 7 : 8);
        if (waitpid(grandchild, &status, 0) != grandchild || status >> 8 != 7) _exit(97);
    } else {
        x = churn(x, 1);
    }
    _exit(n % 50);
}

static void start(int n) {
    pid_t pid;
    if (n % 5 == 4) {
        int error = posix_spawnp(&pid, "true", NULL, NULL, no_op, environ);
        if (error) {
            say("posix_spawn failed: %d", error);
            exit(2);
        }
        return;
    }
    if (ok(fork()) == 0) child(n);
}

int main(int argc, char **argv) {
    begin(argc, argv, 40);
    long started = 0, ended = 0, total = (long)steps * PER_STEP, sum = 0, strange = 0;
    while (started < IN_FLIGHT && started < total) start(started++);
    while (ended < total) {
        int status;
        pid_t pid = wait(&status);
        if (pid < 0 && errno == EINTR) continue;
        ok(pid);
        ended++;
        if (WIFEXITED(status)) sum += WEXITSTATUS(status);
        else strange++;
        if (started < total) start(started++);
        // Which child comes first is chance, how many have come is not.
        if (ended % PER_STEP == 0) say("reaped %ld", ended);
    }
    say("exit codes %ld", sum);
    check("killed children", strange, 0);
    check("no child left", wait(NULL), -1);
    return finish(0);
}
