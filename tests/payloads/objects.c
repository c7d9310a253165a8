// Open files of every kind, mappings, and what two processes share of them: set up, some steps,
// then each is used and must be where it was. Nothing is written to a lasting file in between, so
// that a restart from any moment finds the files as they were.
#include "payload.h"
#include <dirent.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/timerfd.h>

static char where[4096];

static const char *at(const char *name) {
    static char path[4400];
    snprintf(path, sizeof path, "%s/%s", where, name);
    return path;
}

static int holding(const char *name, int flags, const char *text) {
    int fd = ok(open(at(name), flags | O_CREAT | O_TRUNC, 0644));
    if (write(fd, text, strlen(text)) != (ssize_t)strlen(text)) exit(2);
    return fd;
}

static long sum_of(int fd, off_t from, size_t len) {
    char text[4096] = "";
    ssize_t n = pread(fd, text, len, from);
    return n < 0 ? -errno : (long)fnv(n, text, n);
}

static long sum_of_text(const char *text) {
    return (long)fnv(strlen(text), text, strlen(text));
}

static char *map(int fd, int flags) {
    return must(mmap(NULL, 8192, PROT_READ | PROT_WRITE, flags, fd, 0));
}

// What is opened once and inherited.
static struct {
    int deleted, still_linked_deleted, memory, memory_read_only, event, semaphore, directory, null,
        zero, urandom, shared_offset, same_offset, own_offset, append, fifo_in, fifo_out, pipe[2],
        packets[2], ended[2], timer, distant, epoll, high, locked, flocked, sparse;
} fd;

static char *common, *file_shared, *file_private, *memory_shared, *guard, *deleted_map;

static void set_up(void) {
    // As shm_open(3) opens it.
    fd.deleted = holding("deleted", O_RDWR | O_NOFOLLOW, "nobody finds this any more");
    ok(unlink(at("deleted")));
    lseek(fd.deleted, 7, SEEK_SET);
    fd.still_linked_deleted = holding("linked", O_RDWR, "one of two names");
    ok(link(at("linked"), "other-name"));
    ok(unlink(at("linked")));
    int big = holding("deleted-map", O_RDWR, "mapped, then deleted");
    ok(ftruncate(big, 8192));
    deleted_map = map(big, MAP_SHARED);
    close(big);
    ok(unlink(at("deleted-map")));
    fd.sparse = holding("sparse", O_RDWR, "");
    ok(unlink(at("sparse")));
    if (pwrite(fd.sparse, "far", 3, 1L << 33) != 3) exit(2);

    fd.memory = ok(memfd_create("some memory", MFD_ALLOW_SEALING));
    if (write(fd.memory, "in a memfd", 10) != 10) exit(2);
    ok(ftruncate(fd.memory, 8192));
    memory_shared = map(fd.memory, MAP_SHARED);
    strcpy(memory_shared + 4096, "through its mapping");
    ok(fcntl(fd.memory, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW));
    char name[64];
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd.memory);
    fd.memory_read_only = ok(open(name, O_RDONLY));
    lseek(fd.memory_read_only, 3, SEEK_SET);

    fd.event = ok(eventfd(7, EFD_NONBLOCK));
    fd.semaphore = ok(eventfd(3, EFD_SEMAPHORE | EFD_CLOEXEC));
    fd.directory = ok(open(where, O_RDONLY | O_DIRECTORY));
    fd.null = ok(open("/dev/null", O_RDWR));
    fd.zero = ok(open("/dev/zero", O_RDONLY));
    fd.urandom = ok(open("/dev/urandom", O_RDONLY));

    fd.shared_offset = holding("offset", O_RDWR, "0123456789abcdefghijklmnopqrstuvwxyz");
    fd.same_offset = ok(dup(fd.shared_offset));
    fd.own_offset = ok(open(at("offset"), O_RDONLY));
    lseek(fd.shared_offset, 10, SEEK_SET);
    lseek(fd.own_offset, 20, SEEK_SET);
    fd.high = ok(fcntl(fd.shared_offset, F_DUPFD_CLOEXEC, 200));
    fd.append = holding("append", O_WRONLY | O_APPEND, "first ");
    fd.locked = holding("locked", O_RDWR, "bytes to lock");
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 2, .l_len = 3};
    ok(fcntl(fd.locked, F_SETLK, &lock));
    fd.flocked = holding("flocked", O_RDWR, "a whole file");
    ok(flock(fd.flocked, LOCK_EX));

    unlink(at("fifo"));
    ok(mkfifo(at("fifo"), 0600));
    fd.fifo_in = ok(open(at("fifo"), O_RDONLY | O_NONBLOCK));
    fd.fifo_out = ok(open(at("fifo"), O_WRONLY));
    if (write(fd.fifo_out, "in the fifo", 11) != 11) exit(2);
    ok(pipe2(fd.pipe, O_NONBLOCK));
    ok(fcntl(fd.pipe[1], F_SETPIPE_SZ, 1 << 17));
    if (write(fd.pipe[1], "left in the pipe", 16) != 16) exit(2);
    ok(pipe2(fd.packets, O_DIRECT));
    if (write(fd.packets[1], "one", 3) + write(fd.packets[1], "three", 5) != 8) exit(2);
    ok(pipe(fd.ended));
    if (write(fd.ended[1], "last words", 10) != 10) exit(2);
    close(fd.ended[1]);

    fd.timer = ok(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
    ok(timerfd_settime(fd.timer, 0, &(struct itimerspec){{0, 7000000}, {0, 7000000}}, NULL));
    fd.distant = ok(timerfd_create(CLOCK_REALTIME, 0));
    ok(timerfd_settime(fd.distant, 0, &(struct itimerspec){{0, 0}, {900, 0}}, NULL));
    fd.epoll = ok(epoll_create1(EPOLL_CLOEXEC));
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = 0xabcdef0123};
    ok(epoll_ctl(fd.epoll, EPOLL_CTL_ADD, fd.event, &event));
    event.data.u64 = 5;
    ok(epoll_ctl(fd.epoll, EPOLL_CTL_ADD, fd.distant, &event));

    int file = holding("mapped", O_RDWR, "a file, mapped twice");
    ok(ftruncate(file, 8192));
    file_shared = map(file, MAP_SHARED);
    file_private = map(file, MAP_PRIVATE);
    strcpy(file_shared + 4096, "written through");
    strcpy(file_private, "private to us");
    close(file);
    guard = must(mmap(NULL, 3 * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    ok(mprotect(guard + 4096, 4096, PROT_READ | PROT_WRITE));
    strcpy(guard + 4096, "between two guards");
    ok(mprotect(guard + 4096, 4096, PROT_READ));
}

// Whether the kernel may write there: it says EFAULT where we would get a signal.
static int writable(void *address) {
    int ends[2];
    ok(pipe(ends));
    if (write(ends[1], "w", 1) != 1) exit(2);
    int n = read(ends[0], address, 1);
    close(ends[0]);
    close(ends[1]);
    return n == 1;
}

static long read_text(int from) {
    char text[100] = "";
    ssize_t n = read(from, text, sizeof text - 1);
    return n < 0 ? -errno : sum_of_text(text);
}

// The child's turn: it sees and moves what it shares with its parent.
static int in_child(void) {
    int bad = lseek(fd.shared_offset, 0, SEEK_CUR) != 10;
    bad += lseek(fd.shared_offset, 5, SEEK_CUR) != 15;
    bad += strcmp(common, "from the parent") != 0;
    strcpy(common, "from the child");
    strcpy(memory_shared, "child was here");
    strcpy(deleted_map, "and here");
    bad += strcmp(file_private, "private to us") != 0;
    strcpy(file_private, "the child's own");
    // Record locks are the parent's alone, an flock belongs to the open file that both have.
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 3, .l_len = 1};
    bad += fcntl(fd.locked, F_SETLK, &lock) != -1;
    bad += flock(fd.flocked, LOCK_EX | LOCK_NB) != 0;
    int other = open(at("flocked"), O_RDWR);
    bad += flock(other, LOCK_EX | LOCK_NB) != -1 || errno != EWOULDBLOCK;
    return bad;
}

static void compare_files(void) {
    struct stat info;
    check("deleted file's offset", lseek(fd.deleted, 0, SEEK_CUR), 7);
    check("deleted file", sum_of(fd.deleted, 0, 100), sum_of_text("nobody finds this any more"));
    check("its links", fstat(fd.deleted, &info) ? -1 : (long)info.st_nlink, 0);
    check("file with one name less", sum_of(fd.still_linked_deleted, 0, 99),
          sum_of_text("one of two names"));
    check("sparse file", sum_of(fd.sparse, 1L << 33, 3), sum_of_text("far"));
    check("is still sparse", fstat(fd.sparse, &info) ? -1 : info.st_blocks < 1000, 1);
    check("directory", faccessat(fd.directory, "append", F_OK, 0), 0);
    check("/dev/null", write(fd.null, "x", 1) + read(fd.null, where, 0), 1);
    char zeros[4] = "xxx";
    check("/dev/zero", read(fd.zero, zeros, 4) + zeros[0] + zeros[3], 4);
    check("/dev/urandom", read(fd.urandom, zeros, 4), 4);
    check("offset, moved by the child", lseek(fd.shared_offset, 0, SEEK_CUR), 15);
    check("dup's offset", lseek(fd.same_offset, 0, SEEK_CUR), 15);
    check("high dup's offset", lseek(fd.high, 0, SEEK_CUR), 15);
    check("other open file's offset", lseek(fd.own_offset, 0, SEEK_CUR), 20);
    check("close-on-exec", fcntl(fd.high, F_GETFD), FD_CLOEXEC);
    check("no close-on-exec", fcntl(fd.shared_offset, F_GETFD), 0);
    check("append's flags", fcntl(fd.append, F_GETFL) & (O_APPEND | O_ACCMODE), O_APPEND | O_WRONLY);
    lseek(fd.append, 0, SEEK_SET);
    check("append", write(fd.append, "last", 4), 4);
    int again = open(at("append"), O_RDONLY);
    check("appended", sum_of(again, 0, 99), sum_of_text("first last"));
}

static void compare_pipes(void) {
    check("fifo's text", read_text(fd.fifo_in), sum_of_text("in the fifo"));
    check("fifo", write(fd.fifo_out, "more", 4) + (read_text(fd.fifo_in) == sum_of_text("more")), 5);
    check("pipe's text", read_text(fd.pipe[0]), sum_of_text("left in the pipe"));
    check("pipe does not block", read_text(fd.pipe[0]), -EAGAIN);
    check("pipe's size", fcntl(fd.pipe[0], F_GETPIPE_SZ), 1 << 17);
    check("first packet", read_text(fd.packets[0]), sum_of_text("one"));
    check("second packet", read_text(fd.packets[0]), sum_of_text("three"));
    check("text of a pipe without writer", read_text(fd.ended[0]), sum_of_text("last words"));
    check("its end", read_text(fd.ended[0]), sum_of_text(""));
    uint64_t count = 0;
    check("event", read(fd.event, &count, 8) * 100 + count, 807);
    check("event does not block", read(fd.event, &count, 8), -1);
    for (int i = 0; i < 3; i++) check("semaphore", read(fd.semaphore, &count, 8) + count, 9);
    struct pollfd due = {fd.timer, POLLIN, 0};
    check("timer comes", poll(&due, 1, -1), 1);
    check("timer", read(fd.timer, &count, 8) + (count > 0), 9);
    struct itimerspec t;
    ok(timerfd_gettime(fd.timer, &t));
    check("timer's interval", t.it_interval.tv_nsec, 7000000);
    ok(timerfd_gettime(fd.distant, &t));
    check("distant timer", t.it_value.tv_sec > 0 && t.it_value.tv_sec <= 900, 1);
    struct epoll_event event = {0};
    check("epoll has nothing", epoll_wait(fd.epoll, &event, 1, 0), 0);
    check("event is told", eventfd_write(fd.event, 1), 0);
    check("epoll", epoll_wait(fd.epoll, &event, 1, -1), 1);
    check("epoll's data", event.data.u64, 0xabcdef0123);
}

static void compare_memory(void) {
    check("shared memory", strcmp(common, "from the child"), 0);
    check("memfd", sum_of(fd.memory, 0, 14), sum_of_text("child was here"));
    check("memfd, read only", sum_of(fd.memory_read_only, 4096, 19), sum_of_text("through its mapping"));
    check("its own offset", lseek(fd.memory_read_only, 0, SEEK_CUR), 3);
    check("is read only", fcntl(fd.memory_read_only, F_GETFL) & O_ACCMODE, O_RDONLY);
    check("memfd's seals", fcntl(fd.memory, F_GET_SEALS), F_SEAL_SHRINK | F_SEAL_GROW);
    check("mapping of a deleted file", strcmp(deleted_map, "and here"), 0);
    strcpy(file_shared + 4096, "at the end");
    int file = open(at("mapped"), O_RDONLY);
    check("mapped file", sum_of(file, 4096, 10), sum_of_text("at the end"));
    check("mapped file's start", sum_of(file, 0, 20), sum_of_text("a file, mapped twice"));
    check("private page", strcmp(file_private, "private to us"), 0);
    check("private mapping's clean page", strcmp(file_private + 4096, "at the end"), 0);
    check("guarded", strcmp(guard + 4096, "between two guards"), 0);
    check("guards", writable(guard) + writable(guard + 4096) * 2 + writable(guard + 8192) * 4, 0);
    check("written to", writable(common + 4095), 1);
}

int main(int argc, char **argv) {
    begin(argc, argv, 40);
    snprintf(where, sizeof where, "%s.d", argc > 1 ? argv[1] : "objects");
    mkdir(where, 0755);
    char cwd[4096];
    if (where[0] != '/' && getcwd(cwd, sizeof cwd)) {
        char relative[4096];
        strcpy(relative, where);
        if (snprintf(where, sizeof where, "%.2000s/%.2000s", cwd, relative) < 0) return 2;
    }
    ok(chdir(where));
    unlink("other-name");
    common = shared(4096);
    strcpy(common, "from the parent");
    int go[2];
    set_up();
    ok(pipe(go));
    pid_t child = ok(fork());
    if (child == 0) {
        char byte;
        if (read(go[0], &byte, 1) != 1) _exit(99);
        _exit(in_child());
    }
    uint64_t x = 3;
    for (int step = 0; step < steps; step++) {
        x = churn(x, 30);
        nap(20);
        say("step %d %016llx", step, (unsigned long long)x);
    }
    int status;
    if (write(go[1], "g", 1) != 1) return 2;
    ok(waitpid(child, &status, 0));
    check("the child's view", status, 0);
    compare_files();
    compare_pipes();
    compare_memory();
    char now[4096];
    check("cwd", strcmp(getcwd(now, sizeof now) ? now : "", where), 0);
    return finish(0);
}
