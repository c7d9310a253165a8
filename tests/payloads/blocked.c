// Every call that can block, in a thread and in a process each: with a timeout that runs out, and
// without one until the main thread, well into its steps, makes the awaited thing happen. What
// each returned is the output; that none woke up early is checked by what is known to be so.
#include "payload.h"
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/select.h>
#include <sys/timerfd.h>

// One blocked call's place: what it waits for, what came of it. Shared, for the processes' sake.
struct place {
    int go[2], event;
    uint32_t futex;
    pthread_mutex_t lock;
    pthread_cond_t moved;
    sem_t sem;
    int flag;
    volatile int ready, woken;
    long result, error, extra, in_time;
    pid_t id;
};

static const int LENGTH_MS = 1700;

static struct timespec later(clockid_t clock, int ms) {
    struct timespec t;
    clock_gettime(clock, &t);
    t.tv_nsec += ms % 1000 * 1000000L;
    t.tv_sec += ms / 1000 + t.tv_nsec / 1000000000;
    t.tv_nsec %= 1000000000;
    return t;
}

static struct timespec span(void) {
    return (struct timespec){LENGTH_MS / 1000, LENGTH_MS % 1000 * 1000000L};
}

// Until a time: these must have slept it all.
static long do_nanosleep(struct place *p) {
    struct timespec t = span();
    p->extra = 7;
    return nanosleep(&t, NULL);
}
static long do_clock_relative(struct place *p) {
    struct timespec t = span();
    p->extra = 8;
    return clock_nanosleep(CLOCK_MONOTONIC, 0, &t, NULL);
}
static long do_clock_absolute(struct place *p) {
    struct timespec t = later(CLOCK_MONOTONIC, LENGTH_MS);
    p->extra = 9;
    return clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}
static long do_poll_time(struct place *p) {
    struct pollfd fd = {p->go[0], POLLIN, 0};
    long n = poll(&fd, 1, LENGTH_MS);
    p->extra = fd.revents;
    return n;
}
static long do_ppoll_time(struct place *p) {
    struct pollfd fd = {p->go[0], POLLIN, 0};
    struct timespec t = span();
    sigset_t none;
    sigemptyset(&none);
    return ppoll(&fd, 1, &t, &none);
}
static long do_select_time(struct place *p) {
    fd_set set;
    FD_ZERO(&set);
    FD_SET(p->go[0], &set);
    struct timeval t = {LENGTH_MS / 1000, LENGTH_MS % 1000 * 1000};
    long n = select(p->go[0] + 1, &set, NULL, NULL, &t);
    p->extra = FD_ISSET(p->go[0], &set);
    return n;
}
static long do_epoll_time(struct place *p) {
    struct epoll_event event = {.events = EPOLLIN};
    int ep = ok(epoll_create1(0));
    ok(epoll_ctl(ep, EPOLL_CTL_ADD, p->go[0], &event));
    return epoll_wait(ep, &event, 1, LENGTH_MS);
}
static long do_futex_time(struct place *p) {
    struct timespec t = span();
    return syscall(SYS_futex, &p->futex, FUTEX_WAIT, 0, &t, NULL, 0);
}
static long do_futex_bitset_time(struct place *p) {
    struct timespec t = later(CLOCK_MONOTONIC, LENGTH_MS);
    return syscall(SYS_futex, &p->futex, FUTEX_WAIT_BITSET, 0, &t, NULL, FUTEX_BITSET_MATCH_ANY);
}
static long do_cond_time(struct place *p) {
    struct timespec t = later(CLOCK_REALTIME, LENGTH_MS);
    pthread_mutex_lock(&p->lock);
    long n = 0;
    while (!p->flag && n == 0) n = pthread_cond_timedwait(&p->moved, &p->lock, &t);
    pthread_mutex_unlock(&p->lock);
    return n;
}
static long do_sem_time(struct place *p) {
    struct timespec t = later(CLOCK_REALTIME, LENGTH_MS);
    return sem_timedwait(&p->sem, &t);
}
static long do_sigtimedwait(struct place *p) {
    (void)p;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 9); // nobody sends it
    struct timespec t = span();
    return sigtimedwait(&set, NULL, &t);
}
static long do_timerfd(struct place *p) {
    int fd = ok(timerfd_create(CLOCK_MONOTONIC, 0));
    struct itimerspec t = {{0, 0}, span()};
    uint64_t count = 0;
    ok(timerfd_settime(fd, 0, &t, NULL));
    long n = read(fd, &count, 8);
    p->extra = count;
    return n;
}

// Until the main thread does something; these must not return before.
static long do_read(struct place *p) {
    char text[8] = "";
    long n = read(p->go[0], text, 8);
    p->extra = text[0];
    return n;
}
static long do_write(struct place *p) {
    // The pipe is full and drained later: as any program must, this one goes on after a short count.
    static char block[100000];
    long n = 0, at = 0;
    while (at < (long)sizeof block && (n = write(p->go[1], block + at, sizeof block - at)) > 0) at += n;
    return n < 0 ? n : at;
}
static long do_poll(struct place *p) {
    struct pollfd fd = {p->go[0], POLLIN, 0};
    long n = poll(&fd, 1, -1);
    p->extra = fd.revents;
    return n;
}
static long do_epoll(struct place *p) {
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = 0x123456789abcdef};
    int ep = ok(epoll_create1(0));
    ok(epoll_ctl(ep, EPOLL_CTL_ADD, p->go[0], &event));
    event.data.u64 = 0;
    long n = epoll_wait(ep, &event, 1, -1);
    p->extra = event.data.u64 == 0x123456789abcdef;
    return n;
}
static long do_futex(struct place *p) {
    return syscall(SYS_futex, &p->futex, FUTEX_WAIT, 0, NULL, NULL, 0);
}
static long do_cond(struct place *p) {
    pthread_mutex_lock(&p->lock);
    long n = 0;
    while (!p->flag && n == 0) n = pthread_cond_wait(&p->moved, &p->lock);
    pthread_mutex_unlock(&p->lock);
    return n;
}
static long do_sem(struct place *p) {
    return sem_wait(&p->sem);
}
static long do_sigwait(struct place *p) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 5);
    siginfo_t info;
    long n = sigwaitinfo(&set, &info);
    p->extra = info.si_code;
    return n - SIGRTMIN;
}
static long do_pause(struct place *p) {
    (void)p;
    return pause();
}
static long do_eventfd(struct place *p) {
    uint64_t count = 0;
    long n = read(p->event, &count, 8);
    p->extra = count;
    return n;
}
static long do_lock(struct place *p) {
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1};
    return fcntl(p->event, F_SETLKW, &lock);
}
static long do_wait4(struct place *p) {
    // The child waits for the event; its parent waits for the child.
    int status;
    char byte;
    pid_t child = ok(fork());
    if (child == 0) _exit(read(p->go[0], &byte, 1) == 1 ? 33 : 34);
    long n = wait4(child, &status, 0, NULL);
    p->extra = status >> 8;
    return n == child ? 1 : n;
}

enum { TIMED, WOKEN };
static const struct call {
    const char *name;
    long (*run)(struct place *);
    int kind;
} CALLS[] = {
    {"nanosleep", do_nanosleep, TIMED},
    {"clock_nanosleep relative", do_clock_relative, TIMED},
    {"clock_nanosleep absolute", do_clock_absolute, TIMED},
    {"poll, timed", do_poll_time, TIMED},
    {"ppoll, timed", do_ppoll_time, TIMED},
    {"select, timed", do_select_time, TIMED},
    {"epoll_wait, timed", do_epoll_time, TIMED},
    {"futex, timed", do_futex_time, TIMED},
    {"futex bitset, timed", do_futex_bitset_time, TIMED},
    {"pthread_cond_timedwait", do_cond_time, TIMED},
    {"sem_timedwait", do_sem_time, TIMED},
    {"sigtimedwait", do_sigtimedwait, TIMED},
    {"timerfd read", do_timerfd, TIMED},
    {"read", do_read, WOKEN},
    {"write", do_write, WOKEN},
    {"poll", do_poll, WOKEN},
    {"epoll_wait", do_epoll, WOKEN},
    {"futex", do_futex, WOKEN},
    {"pthread_cond_wait", do_cond, WOKEN},
    {"sem_wait", do_sem, WOKEN},
    {"sigwaitinfo", do_sigwait, WOKEN},
    {"pause", do_pause, WOKEN},
    {"eventfd read", do_eventfd, WOKEN},
    {"F_SETLKW", do_lock, WOKEN},
    {"wait4", do_wait4, WOKEN},
};
enum { COUNT = sizeof CALLS / sizeof *CALLS };

// A record lock binds processes, not threads of one.
static int left_out(int i) {
    return i < COUNT && CALLS[i].run == do_lock;
}

struct task {
    const struct call *call;
    struct place *place;
};

static void on_signal(int signal) {
    (void)signal;
}

static void *run(void *arg) {
    struct task *t = arg;
    struct place *p = t->place;
    struct timespec from, to;
    // These two count by the wall clock.
    int wall = t->call->run == do_cond_time || t->call->run == do_sem_time;
    clockid_t clock = wall ? CLOCK_REALTIME : CLOCK_MONOTONIC;
    p->id = gettid();
    clock_gettime(clock, &from);
    p->ready = 1;
    errno = 0;
    p->result = t->call->run(p);
    p->error = p->result < 0 ? errno : 0;
    clock_gettime(clock, &to);
    long ns = (to.tv_sec - from.tv_sec) * 1000000000 + to.tv_nsec - from.tv_nsec;
    p->in_time = t->call->kind == TIMED ? ns >= LENGTH_MS * 1000000L : p->woken;
    return NULL;
}

static void prepare(struct place *p, const struct call *call) {
    pthread_mutexattr_t lock;
    pthread_condattr_t cond;
    pthread_mutexattr_init(&lock);
    pthread_mutexattr_setpshared(&lock, 1);
    pthread_condattr_init(&cond);
    pthread_condattr_setpshared(&cond, 1);
    pthread_mutex_init(&p->lock, &lock);
    pthread_cond_init(&p->moved, &cond);
    sem_init(&p->sem, 1, 0);
    ok(pipe(p->go));
    p->event = -1;
    if (call->run == do_eventfd) p->event = ok(eventfd(0, 0));
    if (call->run == do_write) {
        static char full[65536];
        if (write(p->go[1], full, sizeof full) != sizeof full) exit(2);
    }
}

// Makes the awaited thing happen.
static void wake(struct place *p, const struct call *call, int process) {
    p->woken = 1;
    if (call->run == do_futex) {
        p->futex = 1;
        syscall(SYS_futex, &p->futex, FUTEX_WAKE, 1, NULL, NULL, 0);
    } else if (call->run == do_cond) {
        pthread_mutex_lock(&p->lock);
        p->flag = 1;
        pthread_cond_signal(&p->moved);
        pthread_mutex_unlock(&p->lock);
    } else if (call->run == do_sem) {
        sem_post(&p->sem);
    } else if (call->run == do_sigwait || call->run == do_pause) {
        int signal = call->run == do_pause ? SIGUSR1 : SIGRTMIN + 5;
        ok(process ? kill(p->id, signal) : (int)syscall(SYS_tgkill, getpid(), p->id, signal));
    } else if (call->run == do_eventfd) {
        uint64_t count = 5;
        if (write(p->event, &count, 8) != 8) exit(2);
    } else if (call->run == do_lock) {
        struct flock lock = {.l_type = F_UNLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1};
        ok(fcntl(p->event, F_SETLK, &lock));
    } else if (call->run == do_write) {
        static char drained[65536];
        for (long at = 0; at < 165536;) {
            long n = read(p->go[0], drained, sizeof drained);
            if (n <= 0) exit(2);
            at += n;
        }
    } else {
        // The writer is a child born for it.
        pid_t child = ok(fork());
        if (child == 0) _exit(write(p->go[1], "x", 1) != 1);
        int status;
        while (waitpid(child, &status, 0) < 0) {}
    }
}

int main(int argc, char **argv) {
    begin(argc, argv, 60);
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGUSR1, &action, NULL);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 5);
    sigaddset(&set, SIGRTMIN + 9);
    pthread_sigmask(SIG_BLOCK, &set, NULL);

    // Places 0..COUNT are the threads', the rest the processes'.
    struct place *places = shared(2 * COUNT * sizeof *places);
    struct task tasks[2 * COUNT];
    pthread_t threads[COUNT];
    pid_t children[COUNT];
    char name[4096];
    snprintf(name, sizeof name, "%s.lock", argc > 1 ? argv[1] : "blocked");
    for (int i = 0; i < 2 * COUNT; i++) {
        tasks[i] = (struct task){&CALLS[i % COUNT], &places[i]};
        prepare(&places[i], tasks[i].call);
        if (tasks[i].call->run != do_lock || left_out(i)) continue;
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1};
        places[i].event = ok(open(name, O_RDWR | O_CREAT, 0644));
        ok(fcntl(places[i].event, F_SETLK, &lock));
    }
    for (int i = 0; i < COUNT; i++) {
        children[i] = ok(fork());
        if (children[i] == 0) {
            run(&tasks[COUNT + i]);
            _exit(0);
        }
    }
    for (int i = 0; i < COUNT; i++)
        if (!left_out(i) && pthread_create(&threads[i], NULL, run, &tasks[i])) return 2;
    for (int i = 0; i < 2 * COUNT; i++)
        while (!places[i].ready && !left_out(i)) sched_yield();

    uint64_t x = 5;
    for (int step = 0; step < steps; step++) {
        x = churn(x, 20);
        nap(20);
        say("step %d %016llx", step, (unsigned long long)x);
    }
    for (int i = 0; i < 2 * COUNT; i++)
        if (tasks[i].call->kind == WOKEN && !left_out(i)) wake(&places[i], tasks[i].call, i >= COUNT);
    for (int i = 0; i < COUNT; i++) {
        int status = -1;
        if (!left_out(i)) pthread_join(threads[i], NULL);
        ok(waitpid(children[i], &status, 0));
        if (status) say("%s: its process ended with %x", CALLS[i].name, status);
    }
    for (int i = 0; i < 2 * COUNT; i++) {
        struct place *p = &places[i];
        if (left_out(i)) continue;
        say("%s in a %s: %ld errno %ld extra %ld in time %ld", tasks[i].call->name,
            i < COUNT ? "thread" : "process", p->result, p->error, p->extra, p->in_time);
    }
    unlink(name);
    return finish(0);
}
