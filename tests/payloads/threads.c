// 64 threads, a barrier twice a step, a token handed around by condition variables, mutexes of
// every type. Priority-inheriting, recursive and error-checking ones hold thread ids.
#include "payload.h"
#include <pthread.h>

enum { THREADS = 64 };

static pthread_barrier_t barrier;
static pthread_mutex_t token_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t token_moved[THREADS];
static pthread_mutex_t checked, recursive, inheriting;
static int turn;
static uint64_t token = 1, total, states[THREADS];
static int lock_errors, identity_errors;
static __thread uint64_t own;

static void lock_type(pthread_mutex_t *lock, int type, int protocol) {
    pthread_mutexattr_t attr;
    pthread_mutexattr_init(&attr);
    pthread_mutexattr_settype(&attr, type);
    pthread_mutexattr_setprotocol(&attr, protocol);
    if (pthread_mutex_init(lock, &attr)) exit(2);
}

static void pass_token(int me) {
    pthread_mutex_lock(&token_lock);
    while (turn != me) pthread_cond_wait(&token_moved[me], &token_lock);
    token = token * 6364136223846793005u + states[me];
    turn = (me + 1) % THREADS;
    pthread_cond_signal(&token_moved[turn]);
    pthread_mutex_unlock(&token_lock);
}

static void *worker(void *arg) {
    int me = (int)(intptr_t)arg;
    pid_t tid = gettid();
    own = me + 1;
    for (int step = 0; step < steps; step++) {
        int errors = pthread_mutex_lock(&recursive);
        errors |= pthread_mutex_lock(&recursive);
        errors |= pthread_mutex_unlock(&recursive);
        errors |= pthread_mutex_unlock(&recursive);
        own = churn(own + step, 1);
        states[me] = own;
        errors |= pthread_mutex_lock(&inheriting);
        total += own;
        errors |= pthread_mutex_unlock(&inheriting);
        errors |= pthread_mutex_lock(&checked);
        lock_errors += errors | (pthread_mutex_lock(&checked) != EDEADLK);
        identity_errors += tid != syscall(SYS_gettid);
        pthread_mutex_unlock(&checked);
        pass_token(me);
        pthread_barrier_wait(&barrier);
        pthread_barrier_wait(&barrier);
    }
    return (void *)own;
}

int main(int argc, char **argv) {
    begin(argc, argv, 60);
    lock_type(&checked, PTHREAD_MUTEX_ERRORCHECK, PTHREAD_PRIO_NONE);
    lock_type(&recursive, PTHREAD_MUTEX_RECURSIVE, PTHREAD_PRIO_NONE);
    lock_type(&inheriting, PTHREAD_MUTEX_DEFAULT, PTHREAD_PRIO_INHERIT);
    pthread_barrier_init(&barrier, NULL, THREADS + 1);
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) pthread_cond_init(&token_moved[i], NULL);
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, worker, (void *)(intptr_t)i)) return 2;
    for (int step = 0; step < steps; step++) {
        pthread_barrier_wait(&barrier);
        say("step %d token %016llx total %016llx", step, (unsigned long long)token,
            (unsigned long long)total);
        pthread_barrier_wait(&barrier);
    }
    for (int i = 0; i < THREADS; i++) {
        void *last;
        pthread_join(threads[i], &last);
        token ^= (uint64_t)last;
    }
    say("token %016llx", (unsigned long long)token);
    check("locks", lock_errors, 0);
    check("thread ids", identity_errors, 0);
    return finish(0);
}
