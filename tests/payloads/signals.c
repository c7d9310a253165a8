// SIGALRM every millisecond on an alternate stack, SIGVTALRM and a POSIX timer besides, while four
// threads compute. How many signals come depends on the clock; that they keep coming does not.
#include "payload.h"
#include <pthread.h>
#include <signal.h>
#include <sys/time.h>

enum { THREADS = 4 };

static volatile sig_atomic_t alarms, ticks, queued, off_stack, wrong_value;
static char alternate[64 * 1024];

static void on_alarm(int signal) {
    (void)signal;
    char here;
    if (&here < alternate || &here >= alternate + sizeof alternate) off_stack++;
    alarms++;
}

static void on_tick(int signal) {
    (void)signal;
    ticks++;
}

static void on_queued(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)context;
    if (info->si_value.sival_int != 4711 || info->si_code != SI_TIMER) wrong_value++;
    queued++;
}

static void *compute(void *arg) {
    uint64_t x = (uintptr_t)arg;
    for (int step = 0; step < steps; step++) x = churn(x, 20);
    return (void *)x;
}

int main(int argc, char **argv) {
    begin(argc, argv, 50);
    struct sigaction alarm_action = {.sa_handler = on_alarm, .sa_flags = SA_ONSTACK | SA_RESTART};
    struct sigaction tick_action = {.sa_handler = on_tick};
    struct sigaction queued_action = {.sa_sigaction = on_queued, .sa_flags = SA_SIGINFO};
    sigaction(SIGALRM, &alarm_action, NULL);
    sigaction(SIGVTALRM, &tick_action, NULL);
    sigaction(SIGRTMIN + 3, &queued_action, NULL);

    // The workers block everything: the main thread alone, on its own stack, takes the signals.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_t threads[THREADS];
    for (uintptr_t i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, compute, (void *)(i + 1))) return 2;
    pthread_sigmask(SIG_SETMASK, &before, NULL);

    stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate};
    ok(sigaltstack(&stack, NULL));
    struct itimerval each_ms = {{0, 1000}, {0, 1000}}, each_10ms = {{0, 10000}, {0, 10000}};
    ok(setitimer(ITIMER_REAL, &each_ms, NULL));
    ok(setitimer(ITIMER_VIRTUAL, &each_10ms, NULL));
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 3};
    event.sigev_value.sival_int = 4711;
    timer_t timer;
    ok(timer_create(CLOCK_MONOTONIC, &event, &timer));
    struct itimerspec each_3ms = {{0, 3000000}, {0, 3000000}};
    ok(timer_settime(timer, 0, &each_3ms, NULL));

    uint64_t x = 99;
    for (int step = 0; step < steps; step++) {
        int alarms_before = alarms, ticks_before = ticks, queued_before = queued;
        x = churn(x, 20);
        // If one of them no longer comes, this never ends, and the harness says where it stood.
        while (alarms == alarms_before || ticks == ticks_before || queued == queued_before) {}
        say("step %d %016llx", step, (unsigned long long)x);
    }
    timer_delete(timer);
    struct itimerval stop = {0};
    setitimer(ITIMER_REAL, &stop, NULL);
    setitimer(ITIMER_VIRTUAL, &stop, NULL);
    for (int i = 0; i < THREADS; i++) {
        void *last;
        pthread_join(threads[i], &last);
        say("thread %d %016llx", i, (unsigned long long)last);
    }
    check("handler on its stack", off_stack, 0);
    check("timer's value", wrong_value, 0);
    return finish(0);
}
