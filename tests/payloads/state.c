// What the kernel keeps of a process besides memory and descriptors: everything is set up, some
// steps pass, and everything is compared with what it was.
#include "payload.h"
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>

static char alternate[32768];
static char page[4096] __attribute__((aligned(4096)));
static pthread_mutex_t *robust;
static timer_t ticking, distant, counting;

static void noop(int signal) {
    (void)signal;
}

// Sets `what` once and for all, and compares later: "is" is read both times.
#define SAME(NAME, IS)                                                                             \
    {                                                                                              \
        static long was;                                                                           \
        long is = (long)(IS);                                                                      \
        if (first) was = is;                                                                       \
        else check(NAME, is, was);                                                                 \
    }

static long text_of(const char *path) {
    char text[8192];
    int fd = open(path, O_RDONLY);
    if (fd < 0) return -errno;
    long n = read(fd, text, sizeof text);
    close(fd);
    return n < 0 ? -errno : (long)fnv(0, text, n);
}

static long link_of(const char *path) {
    char text[4096];
    long n = readlink(path, text, sizeof text);
    return n < 0 ? -errno : (long)fnv(0, text, n);
}

static long limit(int which, int hard) {
    struct rlimit limit;
    ok(getrlimit(which, &limit));
    return hard ? limit.rlim_max : limit.rlim_cur;
}

static long mask_of(int pending) {
    sigset_t set;
    if (pending) sigpending(&set);
    else pthread_sigmask(SIG_SETMASK, NULL, &set);
    long bits = 0;
    for (int i = 1; i < 64; i++) bits |= (long)(sigismember(&set, i) == 1) << i;
    return bits;
}

static long action_of(int signal) {
    struct sigaction action;
    ok(sigaction(signal, NULL, &action));
    return (long)action.sa_handler ^ ((long)action.sa_flags << 48) ^
           ((long)sigismember(&action.sa_mask, SIGHUP) << 40);
}

static long stack_of(void) {
    stack_t stack;
    ok(sigaltstack(NULL, &stack));
    return (long)stack.ss_sp ^ (stack.ss_size << 48) ^ stack.ss_flags;
}

static long name_of(void) {
    char name[16] = "";
    prctl(PR_GET_NAME, name);
    return fnv(0, name, strlen(name));
}

static long robust_head(void) {
    void *head = NULL;
    size_t len = 0;
    ok(syscall(SYS_get_robust_list, 0, &head, &len));
    return (long)head ^ (len << 50);
}

static long affinity(void) {
    cpu_set_t set;
    CPU_ZERO(&set);
    ok(sched_getaffinity(0, sizeof set, &set));
    return fnv(0, &set, sizeof set);
}

static long interval(int which) {
    struct itimerval t;
    ok(getitimer(which, &t));
    // What remains of it goes down, but neither to nothing nor up.
    int sane = t.it_value.tv_sec < 1000 && (t.it_value.tv_sec || t.it_value.tv_usec);
    return t.it_interval.tv_sec * 10 + sane;
}

static long posix_timer(timer_t timer) {
    struct itimerspec t;
    ok(timer_gettime(timer, &t));
    int armed = t.it_value.tv_sec || t.it_value.tv_nsec;
    return t.it_interval.tv_nsec * 10 + armed * 2 + (t.it_value.tv_sec <= 900);
}

static long all_ids(void) {
    gid_t groups[256];
    uid_t r, e, s;
    int n = getgroups(256, groups);
    uint64_t sum = fnv(n, groups, n > 0 ? n * sizeof *groups : 0);
    getresuid(&r, &e, &s);
    sum = sum * 31 + r + e * 7 + s * 11;
    getresgid(&r, &e, &s);
    return sum * 31 + r + e * 7 + s * 11;
}

static void compare(int first) {
    struct sched_param param = {0};
    SAME("pid", getpid());
    SAME("tid", syscall(SYS_gettid));
    SAME("credentials", all_ids());
    mode_t mask = umask(0);
    umask(mask);
    SAME("umask", mask);
    char *cwd = getcwd(NULL, 0);
    SAME("cwd", fnv(0, cwd, strlen(cwd)));
    free(cwd);
    SAME("exe", link_of("/proc/self/exe"));
    SAME("cmdline", text_of("/proc/self/cmdline"));
    SAME("environ", text_of("/proc/self/environ"));
    SAME("auxv", text_of("/proc/self/auxv"));
    SAME("name", name_of());
    SAME("nice", getpriority(PRIO_PROCESS, 0));
    SAME("policy", sched_getscheduler(0));
    SAME("priority", (sched_getparam(0, &param), param.sched_priority));
    SAME("affinity", affinity());
    SAME("I/O priority", syscall(SYS_ioprio_get, 1, 0));
    SAME("soft limit", limit(RLIMIT_NOFILE, 0));
    SAME("hard limit", limit(RLIMIT_CORE, 1));
    SAME("stack limit", limit(RLIMIT_STACK, 0));
    SAME("signal mask", mask_of(0));
    SAME("pending signals", mask_of(1));
    SAME("handler", action_of(SIGUSR1));
    SAME("ignored", action_of(SIGUSR2));
    SAME("alternate stack", stack_of());
    SAME("robust list", robust_head());
    SAME("real interval timer", interval(ITIMER_REAL));
    SAME("profiling interval timer", interval(ITIMER_PROF));
    SAME("ticking timer", posix_timer(ticking));
    SAME("distant timer", posix_timer(distant));
    SAME("CPU clock timer", posix_timer(counting));
    SAME("break", sbrk(0));
    SAME("no_new_privs", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    SAME("dumpable", prctl(PR_GET_DUMPABLE));
    SAME("THP", prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0));
    SAME("timer slack", prctl(PR_GET_TIMERSLACK));
    int parent_death = 0, subreaper = 0;
    prctl(PR_GET_PDEATHSIG, &parent_death);
    prctl(PR_GET_CHILD_SUBREAPER, &subreaper);
    SAME("parent-death signal", parent_death);
    SAME("subreaper", subreaper);
    SAME("personality", personality(0xffffffff));
}

static void block_signals(void) {
    sigset_t blocked;
    sigemptyset(&blocked);
    int signals[] = {SIGUSR1, SIGTERM, SIGRTMIN + 1, SIGRTMIN + 2, SIGRTMIN + 4};
    for (int i = 0; i < 5; i++) sigaddset(&blocked, signals[i]);
    pthread_sigmask(SIG_BLOCK, &blocked, NULL);
}

static void set_up(void) {
    umask(0137);
    ok(prctl(PR_SET_NAME, "a (b) \n\xff"));
    ok(setpriority(PRIO_PROCESS, 0, getpriority(PRIO_PROCESS, 0) + 3));
    ok(sched_setscheduler(0, SCHED_BATCH, &(struct sched_param){0}));
    ok(syscall(SYS_ioprio_set, 1, 0, 2 << 13 | 6));
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(0, &set);
    ok(sched_setaffinity(0, sizeof set, &set));
    struct rlimit limit;
    ok(getrlimit(RLIMIT_NOFILE, &limit));
    limit.rlim_cur = 333;
    ok(setrlimit(RLIMIT_NOFILE, &limit));
    ok(setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0}));
    ok(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    ok(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
    ok(prctl(PR_SET_TIMERSLACK, 70000));
    ok(prctl(PR_SET_PDEATHSIG, SIGURG));
    ok(prctl(PR_SET_CHILD_SUBREAPER, 1));
    personality(ADDR_NO_RANDOMIZE); // refused in some containers; then it stays as it is

    struct sigaction action = {.sa_handler = noop, .sa_flags = SA_RESTART | SA_ONSTACK};
    sigaddset(&action.sa_mask, SIGHUP);
    ok(sigaction(SIGUSR1, &action, NULL));
    signal(SIGUSR2, SIG_IGN);
    ok(sigaltstack(&(stack_t){.ss_sp = alternate, .ss_size = sizeof alternate}, NULL));
    // Pending for the process, for the thread, and several queued with values.
    ok(kill(getpid(), SIGTERM));
    ok(syscall(SYS_tgkill, getpid(), gettid(), SIGUSR1));
    for (int i = 0; i < 3; i++) ok(sigqueue(getpid(), SIGRTMIN + 1, (union sigval){.sival_int = 100 + i}));
    siginfo_t info = {.si_signo = SIGRTMIN + 2, .si_code = SI_QUEUE};
    info.si_value.sival_int = 77;
    ok(syscall(SYS_rt_tgsigqueueinfo, getpid(), gettid(), SIGRTMIN + 2, &info));

    ok(setitimer(ITIMER_REAL, &(struct itimerval){{5000, 0}, {900, 0}}, NULL));
    ok(setitimer(ITIMER_PROF, &(struct itimerval){{6000, 0}, {900, 0}}, NULL));
    struct sigevent silent = {.sigev_notify = SIGEV_NONE};
    struct sigevent to_thread = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN + 4};
    to_thread._sigev_un._tid = gettid();
    to_thread.sigev_value.sival_int = 55;
    timer_t gone;
    ok(timer_create(CLOCK_MONOTONIC, &silent, &gone)); // so that the ids have a gap
    ok(timer_create(CLOCK_MONOTONIC, &to_thread, &ticking));
    ok(timer_create(CLOCK_REALTIME, &silent, &distant));
    ok(timer_create(CLOCK_PROCESS_CPUTIME_ID, &silent, &counting));
    ok(timer_delete(gone));
    ok(timer_settime(ticking, 0, &(struct itimerspec){{0, 5000000}, {0, 5000000}}, NULL));
    ok(timer_settime(distant, 0, &(struct itimerspec){{0, 0}, {900, 0}}, NULL));
    ok(timer_settime(counting, 0, &(struct itimerspec){{0, 0}, {900, 0}}, NULL));
    // It must have come once, for its signal to be pending when the comparison is made.
    while (!(mask_of(1) >> (SIGRTMIN + 4) & 1)) {}
    ok(mlock(page, sizeof page));
    memset(must(sbrk(100000)), 5, 100000);
}

static int next_signal(int signal, int *value) {
    sigset_t set;
    siginfo_t info;
    sigemptyset(&set);
    sigaddset(&set, signal);
    int n = sigtimedwait(&set, &info, &(struct timespec){0});
    *value = n > 0 ? info.si_value.sival_int : -1;
    return n;
}

// A process dies with a robust mutex locked that it took before the checkpoint.
static pid_t holder(int until_closed) {
    pthread_mutexattr_t attr;
    robust = shared(sizeof *robust);
    pthread_mutexattr_init(&attr);
    pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
    pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
    pthread_mutex_init(robust, &attr);
    pid_t pid = ok(fork());
    if (pid == 0) {
        char byte;
        pthread_mutex_lock(robust);
        while (read(until_closed, &byte, 1) < 0 && errno == EINTR) {}
        _exit(0);
    }
    while (pthread_mutex_trylock(robust) == 0) pthread_mutex_unlock(robust);
    return pid;
}

static void *idle(void *arg) {
    char byte;
    prctl(PR_SET_NAME, "idle");
    while (read(*(int *)arg, &byte, 1) < 0 && errno == EINTR) {}
    return (void *)(name_of() == (long)fnv(0, "idle", 4) ? 1L : 2L);
}

int main(int argc, char **argv) {
    int pipe_ends[2], value;
    begin(argc, argv, 40);
    ok(pipe(pipe_ends));
    pid_t child = ok(fork());
    if (child == 0) {
        close(pipe_ends[1]);
        pid_t inner = holder(pipe_ends[0]);
        int status, result;
        // The holder ends when the main process closes its end.
        if (waitpid(inner, &status, 0) != inner) _exit(1);
        result = pthread_mutex_lock(robust);
        _exit(result == EOWNERDEAD ? 21 : 22);
    }
    block_signals(); // in the other thread too, else it takes them
    pthread_t thread;
    if (pthread_create(&thread, NULL, idle, &pipe_ends[0])) return 2;
    set_up();
    compare(1);
    uint64_t x = 3;
    for (int step = 0; step < steps; step++) {
        x = churn(x, 30);
        nap(20);
        memset(page, step, sizeof page);
        say("step %d %016llx", step, (unsigned long long)x);
    }
    compare(0);
    for (int i = 0; i < 3; i++) {
        check("queued signal", next_signal(SIGRTMIN + 1, &value), SIGRTMIN + 1);
        check("its value", value, 100 + i);
    }
    check("thread's queued signal", next_signal(SIGRTMIN + 2, &value), SIGRTMIN + 2);
    check("its value", value, 77);
    check("process's pending signal", next_signal(SIGTERM, &value), SIGTERM);
    check("thread's pending signal", next_signal(SIGUSR1, &value), SIGUSR1);
    check("no more of them", next_signal(SIGRTMIN + 1, &value), -1);
    // Twice: one may have been waiting since before, the next comes of a timer that still runs.
    for (int i = 0; i < 2; i++) {
        while (next_signal(SIGRTMIN + 4, &value) < 0) {}
        check("timer's value", value, 55);
    }
    // rseq: the kernel must know where the thread's area is, else the CPU number stays as it was.
    for (int cpu = 1; cpu >= 0; cpu--) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(cpu, &set);
        if (sched_setaffinity(0, sizeof set, &set) == 0) check("CPU by rseq", sched_getcpu(), cpu);
        else say("CPU by rseq ok");
    }
    close(pipe_ends[1]);
    void *result;
    int status;
    pthread_join(thread, &result);
    check("thread's name", (long)result, 1);
    ok(waitpid(child, &status, 0));
    check("robust mutex", status, 21 << 8);
    return finish(0);
}
