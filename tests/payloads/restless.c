// What a freeze may come in the middle of: a thread that executes the program anew, over and over,
// while others wait (mode exec); and calls that a freeze cuts short (mode calls).
#include "payload.h"
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

static char **words;
static int round_number;

static void *wait_for_ever(void *unused) {
    for (;;) pause();
    return unused;
}

static void *execute_anew(void *unused) {
    char number[20];
    snprintf(number, sizeof number, "%d", round_number + 1);
    setenv("ROUND", number, 1);
    execv(words[0], words);
    _exit(3);
    return unused;
}

// Each life lasts half a millisecond; the file is written on by each.
static void exec_mode(int argc, char **argv) {
    enum { LIVES = 4000, EACH = 100 };
    words = argv;
    round_number = getenv("ROUND") ? atoi(getenv("ROUND")) : 0;
    if (round_number == 0) {
        begin(argc, argv, 1);
        fcntl(out_fd, F_SETFD, 0);
        char fd[20];
        snprintf(fd, sizeof fd, "%d", out_fd);
        setenv("OUT_FD", fd, 1);
    } else {
        out_fd = atoi(getenv("OUT_FD"));
    }
    if (round_number % EACH == 0) say("step %d", round_number / EACH);
    if (round_number == LIVES) exit(finish(0));
    pthread_t thread;
    for (int i = 0; i < 8; i++)
        if (pthread_create(&thread, NULL, wait_for_ever, NULL)) exit(2);
    if (pthread_create(&thread, NULL, execute_anew, NULL)) exit(2);
    wait_for_ever(NULL);
}

static volatile int over;

static void *one_epoll(void *result) {
    struct epoll_event event;
    int set = ok(epoll_create1(0));
    *(long *)result = epoll_wait(set, &event, 1, -1);
    over = 1;
    return NULL;
}

static void *one_sigwait(void *result) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 3);
    *(long *)result = sigwaitinfo(&set, NULL);
    over = 1;
    return NULL;
}

static void *one_read(void *result) {
    int ends[2];
    struct timeval limit = {.tv_sec = 1000};
    char byte;
    ok(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    ok(setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
    *(long *)result = read(ends[0], &byte, 1);
    over = 1;
    return NULL;
}

// Nothing that these wait for ever comes; children end all the time, which is ignored.
static void calls_mode(int argc, char **argv) {
    begin(argc, argv, 150);
    int locked = getenv("LOCKED") != NULL;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 3);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    long results[3] = {99, 99, 99};
    pthread_t thread;
    void *(*const waits[])(void *) = {one_epoll, one_sigwait, one_read};
    // A socket makes every checkpoint fail, which must not be noticed either; so must a process that
    // cannot be traced.
    for (int i = 0; i < (locked ? 3 : 2); i++)
        if (pthread_create(&thread, NULL, waits[i], &results[i])) exit(2);
    if (locked && ok(fork()) == 0) {
        prctl(PR_SET_DUMPABLE, 0);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        wait_for_ever(NULL);
    }
    for (int step = 0; step < steps; step++) {
        pid_t child = ok(fork());
        if (child == 0) {
            nap(5);
            _exit(0);
        }
        nap(10);
        waitpid(child, NULL, 0);
        say("step %d", step);
    }
    check("a call that came back", over, 0);
    for (int i = 0; i < 3; i++) check("its result", results[i], 99);
    exit(finish(0));
}

// The limit is longer than the time between checkpoints; in whole seconds, as those come when they
// come.
static void limit_mode(int argc, char **argv) {
    begin(argc, argv, 1);
    struct epoll_event event;
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    int set = ok(epoll_create1(0));
    say("step 0");
    long result = epoll_wait(set, &event, 1, 1500);
    clock_gettime(CLOCK_MONOTONIC, &to);
    check("nothing came", result, 0);
    check("not too early", to.tv_sec - from.tv_sec + (to.tv_nsec - from.tv_nsec) / 1e9 >= 1.5, 1);
    exit(finish(0));
}

int main(int argc, char **argv) {
    const char *mode = getenv("MODE");
    if (mode && !strcmp(mode, "exec")) exec_mode(argc, argv);
    if (mode && !strcmp(mode, "limit")) limit_mode(argc, argv);
    calls_mode(argc, argv);
    return 1;
}
