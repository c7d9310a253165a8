/* What VeloC's programs call, by ckpt: link with `pkg-config --cflags --libs ckpt`.
 *
 * The configuration file has lines NAME = VALUE: `persistent` (else `scratch`) is the folder, `mode` is sync or async,
 * `max_versions` how many are kept (0: all). Images are ckpt's: see `ckpt list` and `ckpt inspect`.
 *
 * VELOC_Init is there where <mpi.h> was included before this file; this library does not link MPI.
 * Not offered: VELOC_Route_file, VELOC_Region_*, VELOC_Cleanup.
 */
#ifndef CKPT_VELOC_H
#define CKPT_VELOC_H

#include <stddef.h>

#define VELOC_SUCCESS (0)
#define VELOC_FAILURE (-1)

#define VELOC_MAX_NAME (1024)

#define VELOC_RECOVER_ALL (0)
#define VELOC_RECOVER_SOME (1)
#define VELOC_RECOVER_REST (2)

#define VELOC_CKPT_ALL (0)
#define VELOC_CKPT_SOME (1)
#define VELOC_CKPT_REST (2)

#ifdef __cplusplus
extern "C" {
#endif

/* The process of this number, by itself. */
int VELOC_Init_single(unsigned int id, const char *cfg_file);
/* Rank `rank` of `ranks`: a version counts when all of them have it. */
int VELOC_Init_ranks(int rank, int ranks, const char *cfg_file);
int VELOC_Finalize(int cleanup);

int VELOC_Mem_protect(int id, void *ptr, size_t count, size_t base_size);
int VELOC_Mem_unprotect(int id);
int VELOC_Mem_clear(void);

int VELOC_Checkpoint_begin(const char *name, int version);
int VELOC_Checkpoint_selective(int mode, const int *ids, int id_count);
int VELOC_Checkpoint_mem(void);
int VELOC_Checkpoint_end(int success);
int VELOC_Checkpoint_wait(void);
int VELOC_Checkpoint_finished(void);
int VELOC_Checkpoint(const char *name, int version);

/* The newest version below `needed_version`, or of all for 0; VELOC_FAILURE if there is none. */
int VELOC_Restart_test(const char *name, int needed_version);
int VELOC_Restart_begin(const char *name, int version);
int VELOC_Recover_selective(int mode, const int *ids, int id_count);
int VELOC_Recover_size(int id);
int VELOC_Recover_mem(void);
int VELOC_Restart_end(int success);
int VELOC_Restart(const char *name, int version);

#ifdef __cplusplus
}
#endif

#ifdef MPI_VERSION
static inline int VELOC_Init(MPI_Comm comm, const char *cfg_file) {
    int rank, ranks;
    if (MPI_Comm_rank(comm, &rank) || MPI_Comm_size(comm, &ranks)) return VELOC_FAILURE;
    return VELOC_Init_ranks(rank, ranks, cfg_file);
}
#endif

#endif
