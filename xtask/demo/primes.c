// The demo's job: four threads count primes, a line for every stretch of numbers. Nothing in it
// knows of checkpoints.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum { THREADS = 4, STRETCH = 400000, LINES = 24 };

static long found[THREADS];
static long from;
static pthread_barrier_t begin, end;

static int is_prime(long n) {
    if (n < 2 || n % 2 == 0) return n == 2;
    for (long d = 3; d * d <= n; d += 2)
        if (n % d == 0) return 0;
    return 1;
}

static void *count(void *arg) {
    for (long me = (long)arg;;) {
        pthread_barrier_wait(&begin);
        long sum = 0;
        for (long n = from + me; n < from + STRETCH; n += THREADS) sum += is_prime(n);
        found[me] = sum;
        pthread_barrier_wait(&end);
    }
    return NULL;
}

int main(void) {
    pthread_barrier_init(&begin, NULL, THREADS + 1);
    pthread_barrier_init(&end, NULL, THREADS + 1);
    for (long i = 0; i < THREADS; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, count, (void *)i)) return 1;
    }
    long total = 0;
    for (int line = 0; line < LINES; line++) {
        from = (long)line * STRETCH;
        pthread_barrier_wait(&begin);
        pthread_barrier_wait(&end);
        for (int i = 0; i < THREADS; i++) total += found[i];
        printf("%8ld primes below %ld\n", total, from + STRETCH);
        fflush(stdout);
    }
    return 0;
}
