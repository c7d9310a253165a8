// ticker KIND MIB DUMP [threads N] [vmas N] [processes N]: memory of that kind and size in small pages,
// its bytes also in the file DUMP ("-": in none), so many more threads, areas and processes that do
// nothing; then a tick every millisecond. What it says, a line each:
//   fork SECONDS       what a bare fork() takes
//   ready PID          it ticks from here on
//   late WHEN SECONDS  a tick came that long after the one before
//   touched PAGES      SIGUSR1: it has written to one page in a hundred, other ones each time
//   here               SIGHUP: everything up to now has been said
// Ticks go by the wall clock: after a restart the time in between shows as one.
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, APART = 100 };

static volatile sig_atomic_t to_touch, to_answer;

static void heard(int signal) {
    *(signal == SIGUSR1 ? &to_touch : &to_answer) = 1;
}

static double now(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void fill(uint64_t *words, size_t count, int mixed) {
    uint64_t state = 88172645463325252u;
    for (size_t i = 0; i < count; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        double smooth = 1.0 + i * 1e-6;
        switch (mixed ? i * 4 / count : 0) {
        case 0: words[i] = state; break;
        case 1: memcpy(&words[i], &smooth, 8); break;
        case 2: words[i] = i * 7 % 97; break;
        default: words[i] = 0;
        }
    }
}

static void *idle(void *nothing) {
    for (;;) pause();
    return nothing;
}

// Where a system gives huge pages to all, nothing but advice keeps pages small.
static int huge_by_default(void) {
    char text[64] = "";
    int file = open("/sys/kernel/mm/transparent_hugepage/enabled", O_RDONLY);
    if (file < 0) return 0;
    ssize_t n = read(file, text, sizeof text - 1);
    close(file);
    return n > 0 && strstr(text, "[always]");
}

static void *memory(size_t bytes) {
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) exit(1);
    if (huge_by_default()) madvise(at, bytes, MADV_NOHUGEPAGE);
    return at;
}

static void grow(const char *what, int count) {
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 64 << 10);
    char *areas = !strcmp(what, "vmas") ? memory((size_t)count * PAGE) : NULL;
    for (int i = 0; i < count; i++) {
        pthread_t thread;
        if (areas) {
            areas[(size_t)i * PAGE] = 1;
            // Every other one is another kind of area, so that they do not melt into one.
            if (i % 2) mprotect(areas + (size_t)i * PAGE, PAGE, PROT_READ);
        } else if (!strcmp(what, "threads")) {
            if (pthread_create(&thread, &small, idle, NULL)) exit(1);
        } else if (fork() == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            idle(NULL);
        }
    }
}

static void dump(const char *name, const char *words, size_t bytes) {
    int file = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    for (size_t at = 0; at < bytes;) {
        ssize_t n = write(file, words + at, bytes - at);
        if (n <= 0) exit(1);
        at += n;
    }
    close(file);
}

static double bare_fork(void) {
    double least = 1e9;
    for (int i = 0; i < 5; i++) {
        double before = now(CLOCK_MONOTONIC);
        pid_t child = fork();
        if (child == 0) _exit(0);
        double took = now(CLOCK_MONOTONIC) - before;
        waitpid(child, NULL, 0);
        if (took < least) least = took;
    }
    return least;
}

static long touch(char *memory, size_t bytes, int round) {
    long count = 0;
    for (size_t page = round * 37 % APART; page < bytes / PAGE; page += APART, count++)
        memory[page * PAGE + 8] ^= 1 + round % 7;
    return count;
}

int main(int argc, char **argv) {
    if (argc < 4) return 2;
    size_t bytes = (size_t)atoi(argv[2]) << 20;
    for (int i = 4; i + 1 < argc; i += 2) grow(argv[i], atoi(argv[i + 1]));
    uint64_t *words = memory(bytes);
    fill(words, bytes / 8, !strcmp(argv[1], "mixed"));
    if (strcmp(argv[3], "-")) dump(argv[3], (char *)words, bytes);
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("fork %.6f\n", bare_fork());
    signal(SIGUSR1, heard);
    signal(SIGHUP, heard);
    printf("ready %d\n", getpid());
    double last = now(CLOCK_REALTIME);
    // A bench that was killed leaves nothing behind for longer than this.
    for (long ticks = 0; ticks < 1800000; ticks++) {
        nanosleep(&(struct timespec){0, 1000000}, NULL);
        double here = now(CLOCK_REALTIME);
        if (here - last > 0.002) printf("late %.6f %.6f\n", here, here - last);
        static int round;
        if (to_touch) {
            to_touch = 0;
            printf("touched %ld\n", touch((char *)words, bytes, round++));
            here = now(CLOCK_REALTIME);
        }
        if (to_answer) {
            to_answer = 0;
            printf("here\n");
        }
        last = here;
    }
}
