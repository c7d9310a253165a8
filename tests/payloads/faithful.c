// One thing that a restart must not change, chosen by WHAT. It is set up, "ready" is said, and when
// OUTPUT.go is there it is looked at. A job goes on after its last checkpoint: when OUTPUT.spoil is
// there, it spoils what it has set up, once, and says so by OUTPUT.spoilt.
#include "payload.h"
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/timerfd.h>

enum { PAGE = 4096, MIB = 1 << 20 };

static char output[4000];

static const char *beside(const char *ending) {
    static char path[4096];
    snprintf(path, sizeof path, "%s.%s", output, ending);
    return path;
}

static int made(const char *ending, int flags) {
    return ok(open(beside(ending), flags | O_CREAT | O_TRUNC, 0644));
}

static char *map(int fd, size_t len, int protection, int flags) {
    return must(mmap(NULL, len, protection, flags, fd, 0));
}

// ---- pages of mapped files that are zero at the checkpoint

static char *shared_pages, *private_pages, *hole;

static void set_up_zeroes(void) {
    char page[PAGE];
    int file = made("shared", O_RDWR), clean = made("clean", O_RDWR), sparse = made("sparse", O_RDWR);
    for (int i = 0; i < 4; i++) {
        memset(page, i == 2 ? 0 : i + 1, PAGE);
        if (write(file, page, PAGE) != PAGE) exit(2);
        memset(page, 'c', PAGE);
        if (write(clean, page, PAGE) != PAGE) exit(2);
    }
    ok(ftruncate(sparse, 64 * MIB));
    shared_pages = map(file, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED);
    private_pages = map(clean, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    memset(private_pages + PAGE, 0, PAGE);
    hole = map(sparse, 64 * MIB, PROT_READ | PROT_WRITE, MAP_SHARED);
    hole[32 * MIB] = 1;
}

static void spoil_zeroes(void) {
    shared_pages[0] = 77;
    shared_pages[2 * PAGE + 5] = 78;
    hole[PAGE] = 79;
}

static void look_at_zeroes(void) {
    char byte = 99;
    int file = ok(open(beside("shared"), O_RDONLY));
    check("shared page", shared_pages[0], 1);
    check("shared zero page", shared_pages[2 * PAGE + 5], 0);
    check("it is in the file", pread(file, &byte, 1, 2 * PAGE + 5) + byte, 1);
    check("private zero page", private_pages[PAGE + 7], 0);
    check("private page", private_pages[2 * PAGE], 'c');
    check("hole", hole[PAGE] * 2 + hole[32 * MIB], 1);
    struct stat info;
    check("is sparse", stat(beside("sparse"), &info) ? -1 : info.st_blocks < 1000, 1);
}

// ---- files that a refused restart must leave alone

static volatile char *claimed;
static int appended;

static void set_up_claims(void) {
    ok(flock(made("lock", O_RDWR), LOCK_EX));
    int file = made("shared", O_RDWR);
    ok(ftruncate(file, PAGE));
    claimed = map(file, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED);
    claimed[0] = 1;
    appended = made("appended", O_WRONLY | O_APPEND);
    if (write(appended, "first ", 6) != 6) exit(2);
}

static void spoil_claims(void) {
    claimed[0] = 2;
    if (write(appended, "second", 6) != 6) exit(2);
}

static void look_at_claims(void) {
    struct stat info;
    check("shared page", claimed[0], 1);
    check("appended", fstat(appended, &info) ? -1 : info.st_size, 6);
}

// ---- what a mapping may be turned into

static char *closed_for_now, *never_open;

static void set_up_rights(void) {
    int file = made("shared", O_RDWR);
    ok(ftruncate(file, PAGE));
    closed_for_now = map(file, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED);
    closed_for_now[0] = 1;
    ok(mprotect(closed_for_now, PAGE, PROT_READ));
    close(file);
    never_open = map(made("other", O_RDONLY), PAGE, PROT_READ, MAP_SHARED);
}

static void spoil_rights(void) {
    ok(mprotect(closed_for_now, PAGE, PROT_READ | PROT_WRITE));
    closed_for_now[0] = 2;
    ok(mprotect(closed_for_now, PAGE, PROT_READ));
}

static void look_at_rights(void) {
    check("page", closed_for_now[0], 1);
    check("opened again", mprotect(closed_for_now, PAGE, PROT_READ | PROT_WRITE), 0);
    check("never opened", mprotect(never_open, PAGE, PROT_READ | PROT_WRITE), -1);
}

// ---- epoll sets

static int set, one[2], two[2], three[2], disarmed[2], full[2], event, other_event;

static void watch(int fd, unsigned events, uint64_t data) {
    struct epoll_event wanted = {.events = events, .data.u64 = data};
    ok(epoll_ctl(set, EPOLL_CTL_ADD, fd, &wanted));
}

static long next(void) {
    struct epoll_event found = {0};
    int n = epoll_wait(set, &found, 1, 100);
    return n < 0 ? -errno : n ? (long)found.data.u64 : 0;
}

static void drain(int fd) {
    char bytes[8];
    if (read(fd, bytes, 8) < 1) exit(2);
}

static void set_up_watches(void) {
    set = ok(epoll_create1(0));
    ok(pipe(one)), ok(pipe(two)), ok(pipe(three)), ok(pipe(disarmed)), ok(pipe2(full, O_NONBLOCK));
    event = ok(eventfd(0, 0)), other_event = ok(eventfd(0, 0));
    // Added by numbers that lead elsewhere later, or nowhere.
    watch(ok(dup2(one[0], 50)), EPOLLIN, 1);
    ok(dup2(two[0], 50));
    watch(ok(dup2(three[0], 60)), EPOLLIN, 3);
    close(60);
    watch(ok(dup2(event, 70)), EPOLLIN, 7);
    ok(dup2(other_event, 70));
    watch(disarmed[0], EPOLLIN | EPOLLONESHOT, 4);
    if (write(disarmed[1], "x", 1) != 1 || next() != 4) exit(2);
    drain(disarmed[0]);
    watch(full[1], EPOLLOUT | EPOLLONESHOT, 5);
    if (next() != 5) exit(2);
    while (write(full[1], set_up_watches, PAGE) > 0) {}
}

static void look_at_watches(void) {
    check("nothing yet", next(), 0);
    check("first", write(one[1], "x", 1) == 1 ? next() : -1, 1);
    drain(one[0]);
    check("not watched", write(two[1], "x", 1) == 1 ? next() : -1, 0);
    check("closed number", write(three[1], "x", 1) == 1 ? next() : -1, 3);
    drain(three[0]);
    check("event", eventfd_write(event, 1) ? -1 : next(), 7);
    drain(event);
    check("other event", eventfd_write(other_event, 1) ? -1 : next(), 0);
    check("disarmed", write(disarmed[1], "yz", 2) == 2 ? next() : -1, 0);
    char bytes[8];
    check("nothing else in it", read(disarmed[0], bytes, 8), 2);
    close(disarmed[1]);
    check("disarmed and hung up", next(), 0);
    struct epoll_event again = {.events = EPOLLIN, .data.u64 = 44};
    check("armed again", epoll_ctl(set, EPOLL_CTL_MOD, disarmed[0], &again) ? -1 : next(), 44);
    ok(epoll_ctl(set, EPOLL_CTL_DEL, disarmed[0], NULL));
    long length = 0;
    for (char page[PAGE]; read(full[0], page, PAGE) == PAGE && !memcmp(page, set_up_watches, PAGE);) {
        length += PAGE;
        if (length == 16 * PAGE) break;
    }
    check("full", length, 16 * PAGE);
    close(full[0]);
    check("disarmed and broken", next(), 0);
    check("wrong number", epoll_ctl(set, EPOLL_CTL_DEL, 50, NULL), -1);
    check("right number", epoll_ctl(set, EPOLL_CTL_DEL, dup2(one[0], 50), NULL), 0);
    check("what 70 is", eventfd_write(70, 1) ? -1 : read(other_event, bytes, 8), 8);
}

// ---- a watched file that only a process without the set has open

static pid_t keeper;
static int leash[2];

static void set_up_lost_watch(void) {
    set = ok(epoll_create1(0));
    ok(pipe(one)), ok(pipe(leash));
    watch(one[0], EPOLLIN, 1);
    keeper = ok(fork());
    if (keeper == 0) {
        char byte;
        close(set), close(leash[1]);
        _exit(read(leash[0], &byte, 1) != 0);
    }
    close(one[0]);
}

static void look_at_lost_watch(void) {
    int status;
    close(leash[1]);
    check("keeper", waitpid(keeper, &status, 0) == keeper ? status : -1, 0);
}

// ---- packets in pipes

static int packet[2], last_packet[2], stream[2];

static void set_up_packets(void) {
    ok(pipe2(packet, O_DIRECT | O_NONBLOCK)), ok(pipe2(last_packet, O_DIRECT | O_NONBLOCK));
    ok(pipe(stream));
    if (write(packet[1], "abc", 3) + write(last_packet[1], "last", 4) != 7) exit(2);
    close(last_packet[1]);
    if (write(stream[1], "stream", 6) != 6) exit(2);
    ok(fcntl(stream[1], F_SETFL, O_DIRECT));
}

static void look_at_packets(void) {
    char bytes[100];
    if (write(packet[1], "defg", 4) != 4) exit(2);
    check("packet", read(packet[0], bytes, 100), 3);
    check("next packet", read(packet[0], bytes, 100), 4);
    check("part of a packet", read(last_packet[0], bytes, 2), 2);
    check("the rest is gone", read(last_packet[0], bytes, 100), 0);
    check("part of a stream", read(stream[0], bytes, 2), 2);
    check("the rest is there", read(stream[0], bytes, 100), 4);
}

// ---- timers

static int wall_clock, periodic;
static struct timespec due;

static void set_up_timers(void) {
    wall_clock = ok(timerfd_create(CLOCK_REALTIME, 0));
    clock_gettime(CLOCK_REALTIME, &due);
    due.tv_sec += 4;
    ok(timerfd_settime(wall_clock, TFD_TIMER_ABSTIME, &(struct itimerspec){{0, 0}, due}, NULL));
    periodic = ok(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
    ok(timerfd_settime(periodic, 0, &(struct itimerspec){{0, 4000000}, {0, 4000000}}, NULL));
    nap(2000);
}

static void look_at_timers(void) {
    uint64_t count = 0;
    check("ticks", read(periodic, &count, 8) == 8 && count >= 500, 1);
    struct timespec now;
    do {
        nap(10);
        clock_gettime(CLOCK_REALTIME, &now);
    } while (now.tv_sec < due.tv_sec || (now.tv_sec == due.tv_sec && now.tv_nsec < due.tv_nsec));
    check("absolute timer", poll(&(struct pollfd){wall_clock, POLLIN, 0}, 1, 20), 1);
}

// ---- a working directory that is no more

static void set_up_lost_directory(void) {
    ok(mkdir(beside("folder"), 0755));
    ok(chdir(beside("folder")));
    ok(rmdir(beside("folder")));
}

static void look_at_lost_directory(void) {
    ok(chdir("/"));
}

// ---- a directory whose name only looks like that of a deleted one

static void set_up_odd_directory(void) {
    ok(mkdir(beside("folder (deleted)"), 0755));
    ok(chdir(beside("folder (deleted)")));
}

static void look_at_odd_directory(void) {
    char now[4096];
    check("cwd", strcmp(getcwd(now, sizeof now) ? now : "", beside("folder (deleted)")), 0);
}

// ---- files of procfs

static int own_maps;

static void set_up_own_maps(void) {
    char some[64];
    own_maps = ok(open("/proc/self/maps", O_RDONLY));
    check("read", read(own_maps, some, sizeof some), sizeof some);
}

static void look_at_own_maps(void) {
    static char rest[1 << 16];
    ssize_t length = 0, more;
    while ((more = read(own_maps, rest + length, sizeof rest - 1 - length)) > 0) length += more;
    check("rest", length > 0 && strstr(rest, "[stack]") != NULL, 1);
}

// ---- sealed memory

static int sealed, never_executed;
static char *sealed_map, *sealed_copy;

static void set_up_seals(void) {
    sealed = ok(memfd_create("sealed", MFD_ALLOW_SEALING));
    ok(ftruncate(sealed, PAGE));
    if (write(sealed, "hi", 2) != 2) exit(2);
    ok(fcntl(sealed, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW));
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", sealed);
    // Before Linux 6.7 a sealed file is mapped through a read-only descriptor or not at all.
    int reader = ok(open(path, O_RDONLY));
    sealed_map = map(reader, PAGE, PROT_READ, MAP_SHARED);
    sealed_copy = map(reader, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    sealed_copy[0] = 'H';
    close(reader);
    never_executed = memfd_create("no exec", 8 /* MFD_NOEXEC_SEAL, Linux 6.3 */);
}

static void look_at_seals(void) {
    check("seals", fcntl(sealed, F_GET_SEALS), F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW);
    check("sealed", strcmp(sealed_map, "hi"), 0);
    check("copy", strcmp(sealed_copy, "Hi"), 0);
    check("write", write(sealed, "x", 1), -1);
    check("opened", mprotect(sealed_map, PAGE, PROT_READ | PROT_WRITE), -1);
    check("other seals", never_executed < 0 ? 0x20 : fcntl(never_executed, F_GET_SEALS), 0x20);
}

// ---- a child in a session that neither it nor its parent could have made

static void set_up_sessions(void) {
    ok(prctl(PR_SET_CHILD_SUBREAPER, 1));
    ok(pipe(leash)), ok(pipe(one));
    pid_t leader = ok(fork());
    if (leader == 0) {
        ok(setsid());
        pid_t child = ok(fork());
        if (child == 0) {
            char byte;
            close(leash[1]);
            _exit(read(leash[0], &byte, 1) != 0);
        }
        _exit(write(one[1], &child, sizeof child) != sizeof child);
    }
    int status;
    if (waitpid(leader, &status, 0) != leader || status) exit(2);
    if (read(one[0], &keeper, sizeof keeper) != sizeof keeper) exit(2);
}

static const struct {
    const char *name;
    void (*set_up)(void), (*spoil)(void), (*look)(void);
} KINDS[] = {
    {"zeroes", set_up_zeroes, spoil_zeroes, look_at_zeroes},
    {"claims", set_up_claims, spoil_claims, look_at_claims},
    {"rights", set_up_rights, spoil_rights, look_at_rights},
    {"watches", set_up_watches, NULL, look_at_watches},
    {"lost watch", set_up_lost_watch, NULL, look_at_lost_watch},
    {"packets", set_up_packets, NULL, look_at_packets},
    {"timers", set_up_timers, NULL, look_at_timers},
    {"lost directory", set_up_lost_directory, NULL, look_at_lost_directory},
    {"odd directory", set_up_odd_directory, NULL, look_at_odd_directory},
    {"own maps", set_up_own_maps, NULL, look_at_own_maps},
    {"seals", set_up_seals, NULL, look_at_seals},
    {"sessions", set_up_sessions, NULL, look_at_lost_watch},
};

int main(int argc, char **argv) {
    begin(argc, argv, 10);
    const char *what = getenv("WHAT");
    unsigned kind = 0;
    while (strcmp(KINDS[kind].name, what ? what : "")) {
        if (++kind == sizeof KINDS / sizeof *KINDS) return 2;
    }
    snprintf(output, sizeof output, "%s", argv[1]);
    KINDS[kind].set_up();
    say("ready");
    int spoilt = 0;
    while (access(beside("go"), F_OK) != 0) {
        nap(5);
        if (spoilt || access(beside("spoil"), F_OK) != 0) continue;
        KINDS[kind].spoil();
        spoilt = 1;
        close(ok(creat(beside("spoilt"), 0644)));
    }
    KINDS[kind].look();
    say("looked");
    uint64_t x = 5;
    for (int step = 0; step < steps; step++) {
        x = churn(x, 40);
        say("step %d %016llx", step, (unsigned long long)x);
    }
    return finish(0);
}
