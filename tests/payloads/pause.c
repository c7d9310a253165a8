// Memory that a copy-on-write copy of the process has, and memory that it has not; and a look for
// anything that a checkpoint may have left with the process. $WITH: plain, or subreaper.
#include "payload.h"
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>

enum { WORDS = 1 << 19, AREAS = 4 };

static volatile int told_of_children;
static volatile uint64_t beats;

static void on_child(int signal) { told_of_children += signal == SIGCHLD; }

static void *beat(void *unused) {
    for (;;) beats++;
    return unused;
}

// Not by /proc/self/fd: a checkpoint would find that open, and cannot bring it back everywhere.
static int descriptors(void) {
    int count = 0;
    for (int fd = 0; fd < 1024; fd++) count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

int main(int argc, char **argv) {
    begin(argc, argv, 150);
    const char *with = getenv("WITH");
    if (with && !strcmp(with, "subreaper")) ok(prctl(PR_SET_CHILD_SUBREAPER, 1));
    ok(sigaction(SIGCHLD, &(struct sigaction){.sa_handler = on_child}, NULL));
    pthread_t thread;
    ok(-pthread_create(&thread, NULL, beat, NULL));
    uint64_t *areas[AREAS];
    for (int i = 0; i < AREAS; i++) {
        int sharing = i == 3 ? MAP_SHARED : MAP_PRIVATE;
        areas[i] = must(mmap(NULL, WORDS * 8, PROT_READ | PROT_WRITE, sharing | MAP_ANONYMOUS, -1, 0));
    }
    ok(madvise(areas[1], WORDS * 8, MADV_DONTFORK));
    ok(madvise(areas[2], WORDS * 8, MADV_WIPEONFORK));
    int fds = descriptors();
    pid_t group = getpgrp(), session = getsid(0);
    uint64_t sum = 1;
    for (int step = 0; step < steps; step++) {
        // Every word is written in every step: a copy of another moment shows.
        for (size_t i = 0; i < WORDS; i++)
            for (int a = 0; a < AREAS; a++) {
                sum = (sum ^ areas[a][i]) * 0x9e3779b97f4a7c15u + i;
                areas[a][i] = sum >> 7;
            }
        int wrong = told_of_children != 0 || descriptors() != fds ||
                    (getpgrp() == group) != (getsid(0) == session);
        int status;
        if (waitpid(-1, &status, WNOHANG | __WALL) != -1 || errno != ECHILD) wrong |= 2;
        say("step %d %016llx %s", step, (unsigned long long)sum, wrong ? "WRONG" : "ok");
    }
    check("the thread goes on", beats > 0, 1);
    return finish(0);
}
