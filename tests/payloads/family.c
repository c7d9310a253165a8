// A tree of processes: children, grandchildren, an orphan whose session leader is gone, zombies,
// process groups, a stopped child, and a ring of pipes between them with data in the pipes. Each
// knows its ids from the start and compares at the end.
#include "payload.h"
#include <sched.h>
#include <signal.h>

enum { RING = 6, CARGO = 40000 };

// What the processes tell each other without words: shared anonymous memory.
static struct board {
    volatile pid_t orphan, orphan_session, middle;
    volatile int orphan_done, orphan_wrong, stopped_went_on, ready[RING], wrong[RING];
} *board;

struct ids {
    pid_t pid, tid, parent, group, session;
};

static pid_t first_process;

// A group and a session from outside of the job may be others after a restart, but remain the same
// ones for all that are in them: they count as 0.
static struct ids ids_now(void) {
    pid_t group = getpgrp(), session = getsid(0);
    if (group == getpgid(first_process)) group = 0;
    if (session == getsid(first_process)) session = 0;
    return (struct ids){getpid(), syscall(SYS_gettid), getppid(), group, session};
}

// How many of them differ; the parent only where it is one of ours.
static int differing(const struct ids *then, int with_parent) {
    struct ids now = ids_now();
    return (now.pid != then->pid) + (now.tid != then->tid) + (now.group != then->group) +
           (now.session != then->session) + (with_parent && now.parent != then->parent);
}

// Moves a token and the cargo from one pipe into the next until its input ends.
static void station(int me, int from, int to) {
    static unsigned char cargo[CARGO];
    uint64_t token;
    if (me == 2) ok(setpgid(0, 0));
    if (me == 4) ok(setsid());
    struct ids then = ids_now();
    board->ready[me] = 1;
    while (read(from, &token, sizeof token) == sizeof token) {
        for (size_t at = 0; at < CARGO;) {
            ssize_t n = read(from, cargo + at, CARGO - at);
            if (n <= 0) _exit(1);
            at += n;
        }
        token = churn(token + me, 10);
        cargo[token % CARGO] ^= me + 1;
        if (write(to, &token, sizeof token) != sizeof token) _exit(2);
        for (size_t at = 0; at < CARGO;) {
            ssize_t n = write(to, cargo + at, CARGO - at);
            if (n <= 0) _exit(3);
            at += n;
        }
    }
    board->wrong[me] = differing(&then, 1);
    _exit(40 + me);
}

// A daemon as they are made: fork, setsid, fork again; session leader and parent are gone.
static void orphan(int stop_when_closed) {
    if (ok(fork())) return;
    board->orphan_session = setsid();
    board->middle = getpid();
    if (ok(fork())) _exit(0);
    while (getppid() == board->middle) sched_yield();
    struct ids then = ids_now();
    board->orphan = then.pid;
    char byte;
    while (read(stop_when_closed, &byte, 1) < 0 && errno == EINTR) {}
    board->orphan_wrong = differing(&then, 0);
    board->orphan_done = 1;
    _exit(0);
}

static pid_t zombie(int status, int signal) {
    pid_t pid = ok(fork());
    if (pid == 0) {
        if (signal) raise(signal);
        _exit(status);
    }
    siginfo_t info;
    ok(waitid(P_PID, pid, &info, WEXITED | WNOWAIT));
    return pid;
}

static int reaped(pid_t pid) {
    int status;
    return waitpid(pid, &status, 0) == pid ? status : -1;
}

int main(int argc, char **argv) {
    begin(argc, argv, 50);
    board = shared(sizeof *board);
    first_process = getpid();
    int pipes[RING + 1][2], alive[2];
    ok(pipe(alive));
    pid_t first = ok(fork());
    if (first == 0) {
        close(alive[1]);
        orphan(alive[0]);
        _exit(0);
    }
    check("the orphan's grandparent", reaped(first), 0);
    pid_t dead = zombie(42, 0), killed = zombie(0, SIGKILL);
    pid_t group_dead = ok(fork());
    if (group_dead == 0) {
        // A zombie that leads a group in which its sibling lives on.
        setpgid(0, 0);
        _exit(9);
    }
    setpgid(group_dead, group_dead);
    pid_t stopped = ok(fork());
    if (stopped == 0) {
        close(alive[1]);
        ok(setpgid(0, group_dead));
        struct ids then = ids_now();
        raise(SIGSTOP);
        board->stopped_went_on = 1;
        _exit(5 + differing(&then, 1));
    }
    int status;
    check("stopped", waitpid(stopped, &status, WUNTRACED) == stopped && WIFSTOPPED(status), 1);
    while (!board->orphan) sched_yield();

    for (int i = 0; i <= RING; i++) ok(pipe(pipes[i]));
    pid_t stations[RING];
    for (int i = 0; i < RING; i++) {
        stations[i] = ok(fork());
        if (stations[i]) continue;
        close(alive[1]);
        for (int j = 0; j <= RING; j++) {
            if (j != i) close(pipes[j][0]);
            if (j != i + 1) close(pipes[j][1]);
        }
        station(i, pipes[i][0], pipes[i + 1][1]);
    }
    for (int i = 0; i < RING; i++) {
        close(pipes[i + 1][1]);
        while (!board->ready[i]) sched_yield();
    }
    struct ids then = ids_now();
    pid_t orphan_group = getpgid(board->orphan);

    // Two tokens are always on their way, so that some pipe holds cargo at any moment.
    static unsigned char cargo[CARGO];
    uint64_t token = 1, other = 1000;
    for (int i = 0; i < CARGO; i++) cargo[i] = i * 7;
    for (int step = -1; step < steps; step++) {
        if (step >= 0) {
            if (read(pipes[RING][0], &token, sizeof token) != sizeof token) return 1;
            for (size_t at = 0; at < CARGO;) {
                ssize_t n = read(pipes[RING][0], cargo + at, CARGO - at);
                if (n <= 0) return 1;
                at += n;
            }
            say("step %d token %016llx cargo %016llx", step, (unsigned long long)token,
                (unsigned long long)fnv(0, cargo, CARGO));
        }
        for (int n = step < 0 ? 2 : step < steps - 2; n > 0; n--) {
            uint64_t next = n == 2 ? other : token;
            if (write(pipes[0][1], &next, sizeof next) != sizeof next) return 1;
            for (size_t at = 0; at < CARGO;) {
                ssize_t m = write(pipes[0][1], cargo + at, CARGO - at);
                if (m <= 0) return 1;
                at += m;
            }
        }
    }
    close(pipes[0][1]);
    for (int i = 0; i < RING; i++) {
        check("station", reaped(stations[i]), (40 + i) << 8);
        check("its ids", board->wrong[i], 0);
    }
    check("own ids", differing(&then, 0), 0);
    check("the orphan's session", getsid(board->orphan), board->orphan_session);
    check("the orphan's group", getpgid(board->orphan), orphan_group);
    check("still stopped", board->stopped_went_on, 0);
    ok(kill(-group_dead, SIGCONT));
    check("goes on", reaped(stopped), 5 << 8);
    check("group's leader", reaped(group_dead), 9 << 8);
    check("zombie", reaped(dead), 42 << 8);
    check("killed zombie", reaped(killed), SIGKILL);
    check("the orphan still waits", board->orphan_done, 0);
    close(alive[1]);
    while (!board->orphan_done) sched_yield();
    check("the orphan's ids", board->orphan_wrong, 0);
    check("no child left", wait(NULL), -1);
    return finish(6);
}
