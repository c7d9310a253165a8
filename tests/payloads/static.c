// Linked statically: no preload reaches it. Threads, memory by sbrk, mmap and malloc.
#include "payload.h"
#include <pthread.h>

enum { THREADS = 8, BLOCK = 1 << 20 };

static uint64_t results[THREADS];
static pthread_barrier_t barrier;

static void *worker(void *arg) {
    uintptr_t me = (uintptr_t)arg;
    uint64_t x = me + 1;
    for (int step = 0; step < steps; step++) {
        size_t len = 4096 * (1 + (me * 7 + step) % 64);
        uint64_t *scratch = must(malloc(len));
        for (size_t i = 0; i < len / 8; i++) scratch[i] = x = x * 6364136223846793005u + i;
        x = fnv(churn(x, 8), scratch, len);
        free(scratch);
        results[me] = x;
        pthread_barrier_wait(&barrier);
        pthread_barrier_wait(&barrier);
    }
    return NULL;
}

int main(int argc, char **argv) {
    begin(argc, argv, 60);
    pthread_barrier_init(&barrier, NULL, THREADS + 1);
    pthread_t threads[THREADS];
    for (uintptr_t i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, worker, (void *)i)) return 2;
    unsigned char *heap = sbrk(BLOCK), *map = NULL;
    if (heap == (void *)-1) return 2;
    memset(heap, 1, BLOCK);
    size_t moved = 0;
    for (int step = 0; step < steps; step++) {
        pthread_barrier_wait(&barrier);
        // The break grows, and one mapping grows and moves.
        unsigned char *more = sbrk(8192);
        memset(more, step, 8192);
        unsigned char *old = map;
        size_t pages = (size_t)(step + 1) * 16384;
        map = must(step ? mremap(map, pages - 16384, pages, MREMAP_MAYMOVE)
                        : mmap(NULL, pages, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        moved += map != old;
        memset(map + pages - 16384, step * 3, 16384);
        uint64_t sum = fnv(fnv(fnv(step, results, sizeof results), heap, 4096), map, pages);
        say("step %d %016llx", step, (unsigned long long)fnv(sum, more, 8192));
        pthread_barrier_wait(&barrier);
    }
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    check("mapped", moved > 0, 1);
    return finish(5);
}
