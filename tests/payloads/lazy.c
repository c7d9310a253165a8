// Memory that a restart fills late, and one thing that is done with it: by the program itself, or by the
// kernel on its behalf. WITH says which. Bytes that came wrong, late or not at all show in the sums.
#include "payload.h"
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/sem.h>
#include <sys/stat.h>
#include <sys/uio.h>

enum { PAGE = 4096, MIB = 1 << 20, BIG = 24 * MIB, PART = 4 * MIB };

static char *big, *part, *other, *heap, path[4096];
static int pipes[2], file, events;
static pthread_t helper;
static long helped[2];
static atomic_int is_helped;

// What threads share, in memory that comes late.
static struct meeting {
    pthread_mutex_t mutex;
    pthread_cond_t condition;
    volatile int waits, is_due;
    struct pollfd polled[2];
} *meeting;

static void fill(char *area, size_t length, uint64_t seed) {
    for (size_t at = 0; at < length; at += 8) {
        seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
        *(uint64_t *)(area + at) = seed;
    }
}

static char *area(size_t length, uint64_t seed) {
    char *area = must(mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    fill(area, length, seed);
    return area;
}

static void sum(const char *what, const void *area, size_t length) {
    say("%s %016llx", what, (unsigned long long)fnv(1, area, length));
}

static int exists(const char *ending) {
    char name[4200];
    snprintf(name, sizeof name, "%s.%s", path, ending);
    return access(name, F_OK) == 0;
}

// --- What the program does itself.

static void touch(void) {
    for (int at = 0; at < BIG; at += 3 * MIB) say("%d %d", at, big[at + 17]);
    for (int at = MIB; at < BIG; at += 5 * MIB) big[at] = 7;
    sum("written to", big + 6 * MIB - PAGE, 2 * PAGE);
    // Pages that never were.
    char *holes = part + 3 * MIB;
    say("%d %d", holes[PAGE], holes[5 * PAGE]);
    holes[9 * PAGE] = 1;
    sum("holes", holes, MIB);
}

// --- What the kernel reads and writes for it.

static void transfer(void) {
    check("write", write(file, part + 100, MIB), MIB);
    check("pread", pread(file, other + PAGE / 2, MIB / 2, 50), MIB / 2);
    sum("around", other, MIB);
}

static void vectors(void) {
    struct iovec *list = (void *)(big + 9 * MIB);
    list[0] = (struct iovec){part + 5 * PAGE, 7 * PAGE}, list[1] = (struct iovec){other, PAGE + 1};
    check("writev", writev(file, list, 2), 8 * PAGE + 1);
    list[0].iov_base = big + 3 * MIB, list[1].iov_base = big + 4 * MIB + 3;
    check("preadv", lseek(file, 0, SEEK_SET) + readv(file, list, 2), 8 * PAGE + 1);
    // Addresses, which are others each time.
    memset(list, 0, 2 * sizeof *list);
    sum("vectors", big + 3 * MIB, 2 * MIB);
}

static void names(void) {
    snprintf(other + 2 * MIB, 2 * PAGE, "%s.made", path);
    int made = open(other + 2 * MIB, O_CREAT | O_RDWR, 0600);
    check("write", write(made, part, PAGE), PAGE);
    struct stat *about = (void *)(other + 3 * MIB);
    check("fstat", fstat(made, about), 0);
    check("size", about->st_size, PAGE);
    check("unlink", unlink(other + 2 * MIB), 0);
    sum("names", other + 3 * MIB + PAGE, PAGE);
}

// New memory beside the old.
static void grow(void) {
    char *more = area(2 * MIB, 77);
    sum("new", more, 2 * MIB);
    check("munmap", munmap(more, 2 * MIB), 0);
    check("sbrk", (char *)sbrk(MIB) == heap + PART, 1);
    fill(heap + PART - PAGE / 2, PAGE, 78);
    sum("heap", heap + PART - PAGE, 2 * PAGE);
}

// --- Threads that stand in a call at the checkpoint. They stay: a thread's end would take all along.

__attribute__((noreturn)) static void *stay(void) {
    for (is_helped = 1;;) pause();
}

static void *until_signalled(void *nothing) {
    pthread_mutex_lock(&meeting->mutex);
    meeting->waits = 1;
    while (!meeting->is_due) pthread_cond_wait(&meeting->condition, &meeting->mutex);
    pthread_mutex_unlock(&meeting->mutex);
    return nothing ? nothing : stay();
}

static void *until_readable(void *nothing) {
    meeting->waits = 1;
    helped[0] = poll(meeting->polled, 2, 1000000);
    helped[1] = meeting->polled[1].revents;
    return nothing ? nothing : stay();
}

static void *until_read(void *nothing) {
    meeting->waits = 1;
    helped[0] = read(pipes[0], part + 2 * MIB - 3, 6);
    return nothing ? nothing : stay();
}

static void *until_event(void *nothing) {
    struct epoll_event event = {0};
    meeting->waits = 1;
    helped[0] = epoll_wait(events, &event, 1, -1);
    helped[1] = event.events;
    return nothing ? nothing : stay();
}

static void *until_signal(void *nothing) {
    sigset_t set;
    sigemptyset(&set), sigaddset(&set, SIGUSR2);
    meeting->waits = 1;
    helped[0] = sigwaitinfo(&set, NULL);
    return nothing ? nothing : stay();
}

static void signalled(void) {
    pthread_mutex_lock(&meeting->mutex);
    meeting->is_due = 1;
    pthread_cond_signal(&meeting->condition);
    pthread_mutex_unlock(&meeting->mutex);
    while (!is_helped) nap(1);
    say("met");
}

static void written_to(void) {
    check("write", write(pipes[1], "abcdef", 6), 6);
    while (!is_helped) nap(1);
    say("%ld %ld", helped[0], helped[1]);
    sum("read", part + 2 * MIB - PAGE, 2 * PAGE);
}

// Calls that a tracer's stop would cut short go on when all is there, and begin when they were held.
static void uncut(void) {
    check("mprotect", mprotect(part, PART, PROT_READ), 0);
    while (!exists("go")) nap(1);
    check("not yet", is_helped, 0);
    kill(getpid(), SIGUSR2);
    written_to();
}

static void held(void) {
    struct epoll_event event;
    struct timespec soon = {0, 30000000};
    check("epoll_pwait2", syscall(SYS_epoll_pwait2, events, &event, 1, &soon, NULL, 8), 0);
    struct sembuf none = {0, 0, IPC_NOWAIT};
    check("semop", syscall(SYS_semtimedop, -1, &none, 1, &soon) < 0 && errno != EINTR, 1);
}

// --- What takes all of the memory along.

static void reap(pid_t pid) {
    int status = -1;
    check("waitpid", waitpid(pid, &status, 0), pid);
    check("status", status, 0);
}

static void copied(void) {
    pid_t pid = ok(fork());
    if (pid == 0) {
        sum("child", big, BIG);
        sum("child", part, PART);
        _exit(0);
    }
    reap(pid);
    sum("parent", big, BIG);
}

static void spawned(void) {
    pid_t pid;
    char *words[] = {strcpy(part + MIB, "sh"), "-c", "exit 0", NULL};
    check("spawn", posix_spawnp(&pid, words[0], NULL, NULL, words, NULL), 0);
    reap(pid);
}

static void *in_thread(void *nothing) {
    sum("thread", other, PART);
    return nothing;
}

static void threaded(void) {
    check("thread", pthread_create(&helper, NULL, in_thread, NULL), 0);
    pthread_join(helper, NULL);
}

static void moved(void) {
    char *now = must(mremap(part, PART, 2 * PART, MREMAP_MAYMOVE));
    sum("moved", now, 2 * PART);
}

static void dropped(void) {
    check("madvise", madvise(part + MIB, MIB, MADV_DONTNEED), 0);
    sum("dropped", part, PART);
    check("munmap", munmap(other, PART / 2), 0);
    sum("cut", other + PART / 2, PART / 2);
    must(mmap(other, PART / 2, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
    sum("anew", other, PART);
    char *end = sbrk(-2 * MIB);
    check("sbrk", end == heap + PART, 1);
    check("sbrk", sbrk(2 * MIB) == heap + PART / 2, 1);
    sum("heap", heap, PART);
}

static void protected(void) {
    check("mprotect", mprotect(part, PART, PROT_READ), 0);
    sum("protected", part, PART);
    check("mlock", mlock(other, PAGE), 0);
    sum("locked", other, PAGE);
}

static void peeked(void) {
    struct iovec to = {other, PAGE}, from = {big + 7 * MIB, PAGE};
    check("peek", process_vm_readv(getpid(), &to, 1, &from, 1, 0), PAGE);
    sum("peeked", other, PAGE);
    int memory = ok(open("/proc/self/mem", O_RDONLY));
    check("pread", pread(memory, other, PAGE, (off_t)(big + 8 * MIB)), PAGE);
    sum("peeked", other, PAGE);
}

static volatile int handled;
static void handler(int signal) { handled = signal; }

static void interrupted(void) {
    check("kill", kill(getpid(), SIGUSR1), 0);
    while (!handled) nap(1);
    check("handled", handled, SIGUSR1);
    sum("stack", other + MIB, 64 << 10 >> 4);
}

// --- Others than the first process.

// Outlives its parent.
static void heir(void) {
    pid_t parent = getppid();
    uint64_t before = fnv(1, big, BIG);
    say("ready");
    while (getppid() == parent) nap(1);
    check("heir", fnv(1, big, BIG) == before, 1);
    exit(0);
}

// Copies its memory to a file for ever; what is copied is marked.
static void spill(void) {
    char name[4200];
    snprintf(name, sizeof name, "%s.spill", path);
    int fd = ok(open(name, O_CREAT | O_RDWR | O_TRUNC, 0600));
    ok(ftruncate(fd, BIG + 2 * PAGE));
    char *to = must(mmap(NULL, BIG + 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    say("ready");
    while (!exists("act")) nap(1);
    for (int page = 0; page < BIG / PAGE; page++) {
        memcpy(to + (page + 2) * PAGE, big + page * PAGE, PAGE);
        atomic_store((_Atomic char *)(to + page), 1);
    }
    for (;;) pause();
}

static void executed(void) {
    char *words[] = {"sh", "-c", strcpy(part, "echo executed >>\"$0\""), path, NULL};
    execvp("sh", words);
}

static const struct act {
    const char *name;
    void (*act)(void);
    void *(*helper)(void *);
} acts[] = {
    {"touch", touch, 0},           {"transfer", transfer, 0},
    {"vectors", vectors, 0},       {"names", names, 0},
    {"grow", grow, 0},             {"signalled", signalled, until_signalled},
    {"polled", written_to, until_readable}, {"read", written_to, until_read},
    {"copied", copied, 0},         {"spawned", spawned, 0},
    {"threaded", threaded, 0},     {"moved", moved, 0},
    {"dropped", dropped, 0},       {"protected", protected, 0},
    {"peeked", peeked, 0},         {"interrupted", interrupted, 0},
    {"executed", executed, 0},     {"heard", uncut, until_event},
    {"awaited", uncut, until_signal}, {"held", held, 0},
};

int main(int argc, char **argv) {
    begin(argc, argv, 0);
    snprintf(path, sizeof path, "%s", argv[1]);
    heap = sbrk(PART);
    big = area(BIG, 1), part = area(PART, 2), other = area(PART, 3), fill(heap, PART, 4);
    check("madvise", madvise(part + 3 * MIB, MIB, MADV_DONTNEED), 0);
    char name[] = "late-XXXXXX";
    file = ok(mkstemp(name));
    unlink(name), ok(pipe(pipes));
    events = ok(epoll_create1(0));
    struct epoll_event wanted = {.events = EPOLLIN};
    ok(epoll_ctl(events, EPOLL_CTL_ADD, pipes[0], &wanted));
    sigset_t set;
    sigemptyset(&set), sigaddset(&set, SIGUSR2), sigprocmask(SIG_BLOCK, &set, NULL);
    stack_t stack = {.ss_sp = other + MIB, .ss_size = 64 << 10};
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_ONSTACK};
    sigaltstack(&stack, NULL), sigaction(SIGUSR1, &action, NULL);
    meeting = (void *)(big + 20 * MIB);
    memset(meeting, 0, sizeof *meeting);
    pthread_mutex_init(&meeting->mutex, NULL), pthread_cond_init(&meeting->condition, NULL);
    meeting->polled[0] = (struct pollfd){-1, 0, 0};
    meeting->polled[1] = (struct pollfd){pipes[0], POLLIN, 0};

    const char *with = getenv("WITH");
    if (with && !strcmp(with, "spill")) spill();
    if (with && !strcmp(with, "heir")) {
        if (ok(fork()) == 0) heir();
        while (!exists("act")) nap(1);
        return 4;
    }
    const struct act *act = acts;
    while (strcmp(act->name, with ? with : "touch")) act++;
    if (act->helper) pthread_create(&helper, NULL, act->helper, NULL);
    while (act->helper && !meeting->waits) sched_yield();
    say("ready");
    while (!exists("act") && !exists("go")) nap(1);
    act->act();
    say("acted");
    while (!exists("go")) nap(1);
    memset(meeting, 0, sizeof *meeting);
    sum("big", big, BIG);
    return finish(3);
}
