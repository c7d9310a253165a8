/* ckpt: checkpoints that a program takes of its own arrays, or of itself as a whole.
 *
 * All functions but those that return something else return CKPT_OK or why they failed; ckpt_error()
 * has it in words. A store is used by one thread at a time; different stores may be used at once.
 *
 * Link with `pkg-config --cflags --libs ckpt`.
 */

#ifndef CKPT_H
#define CKPT_H

/* Made by cbindgen from ckpt-c/src: change it there, then `CKPT_BLESS=1 cargo test -p ckpt-c --test header`. */

#include <stddef.h>
#include <stdint.h>

// Compressed as hard as keeps the disk busy; for ckpt_options.level.
#define CKPT_LEVEL_AUTO 1000

// Dimensions of an array, at most.
#define CKPT_MAX_DIMS 16

// Higher than any version: the newest one is meant.
#define CKPT_NEWEST 9223372036854775807

// What became of a call; the numbers are those with which the commands exit (sysexits.h).
typedef enum ckpt_status {
    // All is well.
    CKPT_OK = 0,
    // The request itself makes no sense.
    CKPT_USAGE = 64,
    // An image is damaged or not ours.
    CKPT_DAMAGED = 65,
    // There is no such thing.
    CKPT_NOT_FOUND = 66,
    // Something cannot be saved or brought back here.
    CKPT_UNSUPPORTED = 69,
    // A defect of ckpt.
    CKPT_INTERNAL = 70,
    // The kernel refused something it should not have.
    CKPT_OS = 71,
    // A file could not be read or written, no space among others.
    CKPT_IO = 74,
    // It may work on another try.
    CKPT_BUSY = 75,
    // Permission denied.
    CKPT_PERMISSION = 77,
} ckpt_status;

// Why it is time.
typedef enum ckpt_reason {
    // It is not.
    CKPT_NOT_NOW = 0,
    // The last one was long ago.
    CKPT_INTERVAL = 1,
    // Slurm will end the job soon. Told once.
    CKPT_END = 2,
    // A signal has come that was named.
    CKPT_SIGNAL = 3,
} ckpt_reason;

// What an array is made of. Numbers are little-endian.
typedef enum ckpt_kind {
    // Bytes of which nothing else is known; also structures of the program's own.
    CKPT_BYTES = 0,
    // Signed integers.
    CKPT_SIGNED = 1,
    // Unsigned integers.
    CKPT_UNSIGNED = 2,
    // IEEE 754 floating point numbers.
    CKPT_FLOAT = 3,
} ckpt_kind;

// When a hook runs.
typedef enum ckpt_moment {
    // Before a checkpoint.
    CKPT_BEFORE = 0,
    // After it, in the same life, whether there is an image or not.
    CKPT_RESUMED = 1,
    // In a life that was restored from it.
    CKPT_RESTARTED = 2,
} ckpt_moment;

// When checkpoints are taken.
typedef struct ckpt_policy ckpt_policy;

// A program's versions in a directory.
typedef struct ckpt_store ckpt_store;

// How a store works. ckpt_options_init() fills in the usual.
typedef struct ckpt_options {
    // sizeof(ckpt_options), by which a later library knows an earlier program.
    size_t size;
    // zstd's, from -7 to 22; 0 stores the bytes as they are, or CKPT_LEVEL_AUTO.
    int32_t level;
    // Threads that compress and decompress; 0: one a core.
    uint32_t workers;
    // How many earlier versions one may refer to for what has not changed.
    uint32_t increments;
    // How many of the newest versions are kept, at least 1.
    uint32_t keep;
    // And each whose number this divides; 0: no others.
    uint64_t keep_every;
    // Which rank we are, from 0.
    uint32_t rank;
    // Of how many.
    uint32_t ranks;
} ckpt_options;

// An array in a version.
typedef struct ckpt_region {
    // Its name; valid until the next call with the same store.
    const char *name;
    // A ckpt_kind.
    uint32_t kind;
    // Bytes of an element.
    uint32_t size;
    // Elements in all.
    uint64_t elements;
    // Dimensions, the slowest first; the rest are 0. A single value has none.
    size_t dims;
    // Elements along each.
    uint64_t shape[CKPT_MAX_DIMS];
} ckpt_region;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Takes a checkpoint of this program, all its threads and its children, into `dir`, and returns when the image
// is durable, with `*restarted` = 0. In the program that `ckpt-restore` brings back from it returns as well, with
// `*restarted` = 1. In a job that ckpt-launch or ckpt-restore watches over, the checkpoint is one of the whole
// job, in its own directory.
//
// Of the options level, workers, increments and keep count; NULL for the usual ones. The program `ckpt` must be in
// $PATH, or named by $CKPT_HELPER.
enum ckpt_status ckpt_checkpoint_self(const char *dir,
                                      const struct ckpt_options *options,
                                      int32_t *restarted);

// Begins a critical section of this thread: no checkpoint is taken of the program until ckpt_defer_end() was
// called as often. Waits until one that has begun is over.
void ckpt_defer_begin(void);

// Ends the critical section that this thread began last.
enum ckpt_status ckpt_defer_end(void);

// Has `work(argument)` run at every ckpt_checkpoint_self() from now on, in the thread that calls it; `moment` is a
// ckpt_moment. Returns a number for ckpt_unhook(), or 0. Those before run in the order in which they were made,
// those after in the opposite one.
uint64_t ckpt_hook(uint32_t moment,
                   void (*work)(void*),
                   void *argument);

// The hook of this number runs no more. One that runs in another thread at this moment comes to its end first.
enum ckpt_status ckpt_unhook(uint64_t number);

// Sets the usual options: level 3, a thread a core, 8 increments, 2 versions, rank 0 of 1.
enum ckpt_status ckpt_options_init(struct ckpt_options *options);

// A policy that says so `every` seconds (0: never for that), and `margin` seconds before Slurm ends the job (0:
// not). Free it with ckpt_policy_free(). NULL, and ckpt_error(), for times that make no sense.
struct ckpt_policy *ckpt_policy_new(double every,
                                    double margin);

// Says so as well when this signal has come, of which note is taken from now on.
enum ckpt_status ckpt_policy_on_signal(struct ckpt_policy *policy, int32_t signal);

// Whether it is time: a ckpt_reason. Each is told once: whoever asks is expected to act upon it.
enum ckpt_reason ckpt_should_checkpoint(struct ckpt_policy *policy);

// Tells how many seconds a checkpoint took: the end must leave time for it.
enum ckpt_status ckpt_policy_took(struct ckpt_policy *policy, double seconds);

// Frees it. NULL is none.
void ckpt_policy_free(struct ckpt_policy *policy);

// How many ranks have made a version.
enum ckpt_status ckpt_ranks(struct ckpt_store *store, uint64_t version, uint32_t *ranks);

// The array of this name that a rank has saved in a version.
enum ckpt_status ckpt_describe(struct ckpt_store *store,
                               uint64_t version,
                               uint32_t rank,
                               const char *name,
                               struct ckpt_region *region);

// The arrays that a rank has saved in a version, by their number from 0; CKPT_NOT_FOUND behind the last.
enum ckpt_status ckpt_region_at(struct ckpt_store *store,
                                uint64_t version,
                                uint32_t rank,
                                size_t index,
                                struct ckpt_region *region);

// Reads `count` elements of an array that a rank has saved in a version, from the one numbered `first` on. `kind`
// and `size` must be those of the array.
enum ckpt_status ckpt_read(struct ckpt_store *store,
                           uint64_t version,
                           uint32_t rank,
                           const char *name,
                           uint32_t kind,
                           uint32_t size,
                           uint64_t first,
                           uint64_t count,
                           void *into);

// What the last call of this thread that failed has said: what failed, on which object, why, and what to do.
// Never NULL; valid until the next call of the same thread.
const char *ckpt_error(void);

// The version of the library: "0.1.0".
const char *ckpt_version(void);

// Opens the store of this name in a directory, which is made if there is none. `options` may be NULL for the
// usual ones. Close it with ckpt_close().
enum ckpt_status ckpt_open(const char *dir,
                           const char *name,
                           const struct ckpt_options *options,
                           struct ckpt_store **store);

// Waits until a version that is being written is durable, and closes the store. NULL is none.
void ckpt_close(struct ckpt_store *store);

// From now on the array is part of each version, under this name, until ckpt_unprotect(). `kind` is a
// ckpt_kind, `size` the bytes of an element, `shape` the number of elements along `dims` dimensions, the slowest
// first (none for a single value). Called again with the same name, the array has moved or grown.
//
// It must stay where it is until it is unprotected or protected anew, and nobody may write to it during
// ckpt_save(), ckpt_save_async() and ckpt_load().
enum ckpt_status ckpt_protect(struct ckpt_store *store,
                              const char *name,
                              uint32_t kind,
                              uint32_t size,
                              const uint64_t *shape,
                              size_t dims,
                              void *data);

// The array is no part of later versions.
enum ckpt_status ckpt_unprotect(struct ckpt_store *store, const char *name);

// Writes all protected arrays as a version, whose number is higher than the one before; returns when it is
// durable.
enum ckpt_status ckpt_save(struct ckpt_store *store,
                           uint64_t version);

// Copies all protected arrays, and writes the copy meanwhile: they may be written to as soon as this returns.
// It is durable when ckpt_wait() has said so. Waits for one that is being written already, and fails if that
// did.
enum ckpt_status ckpt_save_async(struct ckpt_store *store,
                                 uint64_t version);

// Waits until what ckpt_save_async() has begun is durable, or tells why it will never be.
enum ckpt_status ckpt_wait(struct ckpt_store *store);

// Whether ckpt_wait() would return at once: 1, or 0.
int32_t ckpt_is_over(struct ckpt_store *store);

// The newest version up to `limit` (CKPT_NEWEST) that all ranks have; CKPT_NOT_FOUND if there is none.
enum ckpt_status ckpt_latest(struct ckpt_store *store,
                             uint64_t limit,
                             uint64_t *version);

// Reads all protected arrays from the newest version up to `limit` (CKPT_NEWEST), and tells which that was. A
// damaged one is set aside, and the one before it is read (ckpt_passed_over() tells how many). CKPT_NOT_FOUND if
// there is none; CKPT_USAGE, with nothing written to, if an array was not saved, or is of another size now, or the
// version is of another number of ranks (ckpt_read() reads any rank's). `loaded` may be NULL.
//
// What our rank has of newer versions is removed, as it is of a past that is given up. Ranks do not hear of each
// other: let them compare what they have loaded, and those with a higher version load the lowest; none may save
// before all have loaded.
enum ckpt_status ckpt_load(struct ckpt_store *store,
                           uint64_t limit,
                           uint64_t *loaded);

// How many damaged versions the last ckpt_load() has passed over.
size_t ckpt_passed_over(struct ckpt_store *store);

// Looks at every byte of our own rank's image of a version, and takes it out of the way (*.bad) if it is damaged, as
// ckpt_read() may have said. ckpt_load() does so by itself.
enum ckpt_status ckpt_set_aside(struct ckpt_store *store,
                                uint64_t version);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* CKPT_H */
