/* A disk that can fail: preloaded below SQLite and below the engine's own files.
 *
 * Counts, logs and, at one chosen operation, fails everything that changes files below one folder: creating and
 * truncating opens, writes, fsyncs, renames, unlinks, mkdirs. The log holds every byte written and every sync, so that
 * a folder can be rebuilt as a loss of power would leave it. Nothing happens before faults_arm, which is called in a
 * forked child (ctypes). A call that would change a file past this log (writev, link, ...) is logged as UNSEEN, and the
 * reader of the log refuses it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { NOTE, CREATE, WRITE, TRUNCATE, SYNC, SYNC_FOLDER, RENAME, UNLINK, MKDIR, UNSEEN };
enum { NOTHING, NO_SPACE, IO_ERROR, TORN_ERROR, TORN_EXIT, EXIT, SHORT };
#define STOPPED 77

struct record {
    uint32_t type, path_length, data_length, failed;
    uint64_t inode;
    int64_t offset;
};

static char root[PATH_MAX];
static size_t root_length;
static int log_file = -1, kind, lasting;
static long count, target;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

#define REAL(result, name, ...)                                        \
    static result (*real_##name)(__VA_ARGS__);                         \
    static void find_##name(void) {                                    \
        if (!real_##name) *(void **)&real_##name = dlsym(RTLD_NEXT, #name); \
    }
REAL(int, open, const char *, int, ...)
REAL(int, openat, int, const char *, int, ...)
REAL(ssize_t, write, int, const void *, size_t)
REAL(ssize_t, pwrite, int, const void *, size_t, off_t)
REAL(int, fsync, int)
REAL(int, fdatasync, int)
REAL(int, renameat, int, const char *, int, const char *)
REAL(int, ftruncate, int, off_t)
REAL(int, unlinkat, int, const char *, int)
REAL(int, mkdirat, int, const char *, mode_t)

static void put(const void *data, size_t size) {
    find_write();
    while (size > 0) {
        ssize_t done = real_write(log_file, data, size);
        if (done <= 0) _exit(78);
        data = (const char *)data + done;
        size -= (size_t)done;
    }
}

static void log_it(int type, const char *path, uint64_t inode, int64_t offset, const void *data, size_t size, int failed) {
    struct record r = {(uint32_t)type, (uint32_t)strlen(path), (uint32_t)size, (uint32_t)failed, inode, offset};
    put(&r, sizeof r);
    put(path, r.path_length);
    put(data, size);
}

/* The absolute path of a file descriptor, or of path below one; false when it is not below root. */
static int below(int folder, const char *path, char *out) {
    char base[PATH_MAX] = "";
    if (log_file < 0) return 0;
    if (!path || path[0] != '/') {
        char link[64];
        if (folder == AT_FDCWD) {
            if (!getcwd(base, sizeof base)) return 0;
        } else {
            snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
            ssize_t length = readlink(link, base, sizeof base - 1);
            if (length < 0) return 0;
            base[length] = 0;
        }
    }
    int length = path && path[0] == '/' ? snprintf(out, PATH_MAX, "%s", path)
                 : path                 ? snprintf(out, PATH_MAX, "%s/%s", base, path)
                                        : snprintf(out, PATH_MAX, "%s", base);
    return length < PATH_MAX && !strncmp(out, root, root_length) && (out[root_length] == '/' || !out[root_length]);
}

/* Counts one operation; what to do with it. */
static int next(void) {
    count++;
    int now = count == target || (lasting && target && count > target && count < target + lasting);
    if (!now) return NOTHING;
    if (kind == EXIT) _exit(STOPPED);
    return kind;
}

static int error_of(int what) { return what == NO_SPACE || what == TORN_ERROR ? ENOSPC : EIO; }

void faults_arm(const char *folder, const char *log, long at, int what, int repeats) {
    find_open();
    snprintf(root, sizeof root, "%s", folder);
    root_length = strlen(root);
    count = 0, target = at, kind = what, lasting = repeats;
    log_file = real_open(log, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0600);
}

long faults_count(void) { return count; }

/* From now on nothing fails any more; the log goes on. */
void faults_heal(void) {
    pthread_mutex_lock(&mutex);
    target = 0;
    pthread_mutex_unlock(&mutex);
}

void faults_note(const char *text) {
    pthread_mutex_lock(&mutex);
    if (log_file >= 0) log_it(NOTE, text, 0, 0, "", 0, 0);
    pthread_mutex_unlock(&mutex);
}

static int opened(int folder, const char *path, int flags, mode_t mode) {
    char full[PATH_MAX];
    struct stat before, after;
    find_openat();
    if (!(flags & (O_CREAT | O_TRUNC)) || !below(folder, path, full)) return real_openat(folder, path, flags, mode);
    pthread_mutex_lock(&mutex);
    int existed = !stat(full, &before), result = -1;
    if (existed && !(flags & O_TRUNC && before.st_size)) {
        result = real_openat(folder, path, flags, mode);
    } else {
        int what = next();
        if (what == NO_SPACE || what == IO_ERROR) {
            pthread_mutex_unlock(&mutex);
            errno = error_of(what);
            return -1;
        }
        result = real_openat(folder, path, flags, mode);
        if (result >= 0 && !fstat(result, &after))
            log_it(existed ? TRUNCATE : CREATE, full, after.st_ino, 0, "", 0, 0);
    }
    int saved = errno;
    pthread_mutex_unlock(&mutex);
    errno = saved;
    return result;
}

#define OPEN(name, first, folder)                \
    int name(first const char *path, int flags, ...) { \
        va_list rest;                            \
        va_start(rest, flags);                   \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                            \
        return opened(folder, path, flags, mode); \
    }
#define COMMA ,
OPEN(open, , AT_FDCWD)
OPEN(open64, , AT_FDCWD)
OPEN(openat, int folder COMMA, folder)
OPEN(openat64, int folder COMMA, folder)

/* offset -1: where the file stands. */
static ssize_t written(int file, const void *data, size_t size, off_t offset) {
    char full[PATH_MAX];
    struct stat info;
    find_write(), find_pwrite();
    if (!below(file, NULL, full)) return offset < 0 ? real_write(file, data, size) : real_pwrite(file, data, size, offset);
    pthread_mutex_lock(&mutex);
    fstat(file, &info);
    off_t at = offset >= 0                      ? offset
               : fcntl(file, F_GETFL) & O_APPEND ? info.st_size
                                                 : lseek(file, 0, SEEK_CUR);
    int what = next(), error = 0;
    size_t part = what == NOTHING ? size : what == NO_SPACE || what == IO_ERROR ? 0 : size / 2;
    ssize_t done = 0;
    if (part) done = offset < 0 ? real_write(file, data, part) : real_pwrite(file, data, part, offset);
    if (done > 0) log_it(WRITE, full, info.st_ino, at, data, (size_t)done, what != NOTHING);
    if (done < 0) error = errno;
    if (what == TORN_EXIT) _exit(STOPPED);
    if (what == NO_SPACE || what == IO_ERROR || what == TORN_ERROR) done = -1, error = error_of(what);
    pthread_mutex_unlock(&mutex);
    if (done < 0) errno = error;
    return done;
}

ssize_t write(int file, const void *data, size_t size) { return written(file, data, size, -1); }
ssize_t pwrite(int file, const void *data, size_t size, off_t offset) { return written(file, data, size, offset); }
ssize_t pwrite64(int file, const void *data, size_t size, off_t offset) { return written(file, data, size, offset); }

/* A failing sync also forgets, as Linux does: what was written before it counts as not on the disk. */
static int synced(int file, int (*real)(int)) {
    char full[PATH_MAX];
    struct stat info;
    if (!below(file, NULL, full)) return real(file);
    pthread_mutex_lock(&mutex);
    fstat(file, &info);
    int what = next();
    int failed = what == NO_SPACE || what == IO_ERROR || what == TORN_ERROR;
    if (what == TORN_EXIT) _exit(STOPPED);
    log_it(S_ISDIR(info.st_mode) ? SYNC_FOLDER : SYNC, full, info.st_ino, 0, "", 0, failed);
    pthread_mutex_unlock(&mutex);
    if (failed) errno = error_of(what);
    return failed ? -1 : 0; /* the real disk need not wait: the log is the disk */
}
int fsync(int file) { find_fsync(); return synced(file, real_fsync); }
int fdatasync(int file) { find_fdatasync(); return synced(file, real_fdatasync); }

int ftruncate(int file, off_t length) {
    char full[PATH_MAX];
    struct stat info;
    find_ftruncate();
    if (!below(file, NULL, full)) return real_ftruncate(file, length);
    pthread_mutex_lock(&mutex);
    fstat(file, &info);
    int what = next(), result = -1;
    if (what == NOTHING || what == SHORT) {
        result = real_ftruncate(file, length);
        if (!result && length != info.st_size) log_it(TRUNCATE, full, info.st_ino, length, "", 0, 0);
    } else {
        errno = error_of(what);
    }
    int saved = errno;
    pthread_mutex_unlock(&mutex);
    errno = saved;
    return result;
}
int ftruncate64(int file, off_t length) { return ftruncate(file, length); }

/* One change of a folder; real does it. */
#define FOLDER_CHANGE(type, full, extra, real)               \
    pthread_mutex_lock(&mutex);                              \
    int what = next(), result = -1;                          \
    if (what == NOTHING || what == SHORT) {                  \
        result = real;                                       \
        if (!result) log_it(type, full, 0, 0, extra, strlen(extra), 0); \
    } else {                                                 \
        errno = error_of(what);                              \
    }                                                        \
    int saved = errno;                                       \
    pthread_mutex_unlock(&mutex);                            \
    errno = saved;                                           \
    return result;

int renameat(int from, const char *old, int to, const char *new) {
    char full[PATH_MAX], target_path[PATH_MAX];
    find_renameat();
    if (!below(from, old, full) || !below(to, new, target_path)) return real_renameat(from, old, to, new);
    FOLDER_CHANGE(RENAME, full, target_path, real_renameat(from, old, to, new))
}
int rename(const char *old, const char *new) { return renameat(AT_FDCWD, old, AT_FDCWD, new); }

int unlinkat(int folder, const char *path, int flags) {
    char full[PATH_MAX];
    find_unlinkat();
    if (!below(folder, path, full)) return real_unlinkat(folder, path, flags);
    FOLDER_CHANGE(UNLINK, full, "", real_unlinkat(folder, path, flags))
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }
int remove(const char *path) { return unlinkat(AT_FDCWD, path, 0); }

int mkdirat(int folder, const char *path, mode_t mode) {
    char full[PATH_MAX];
    struct stat info;
    find_mkdirat();
    if (!below(folder, path, full) || !stat(full, &info)) return real_mkdirat(folder, path, mode);
    FOLDER_CHANGE(MKDIR, full, "", real_mkdirat(folder, path, mode))
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

#define PAST_THE_LOG(result, name, file, declared, passed)    \
    result name declared {                                    \
        static result (*real) declared;                       \
        char full[PATH_MAX];                                  \
        if (!real) *(void **)&real = dlsym(RTLD_NEXT, #name); \
        if (below(file, NULL, full)) {                        \
            pthread_mutex_lock(&mutex);                       \
            log_it(UNSEEN, full, 0, 0, #name, strlen(#name), 0); \
            pthread_mutex_unlock(&mutex);                     \
        }                                                     \
        return real passed;                                   \
    }
PAST_THE_LOG(ssize_t, writev, f, (int f, const struct iovec *v, int n), (f, v, n))
PAST_THE_LOG(ssize_t, pwritev, f, (int f, const struct iovec *v, int n, off_t o), (f, v, n, o))
PAST_THE_LOG(ssize_t, sendfile, f, (int f, int from, off_t *o, size_t n), (f, from, o, n))
PAST_THE_LOG(ssize_t, copy_file_range, f, (int from, off_t *a, int f, off_t *b, size_t n, unsigned g), (from, a, f, b, n, g))
PAST_THE_LOG(int, fallocate, f, (int f, int m, off_t o, off_t n), (f, m, o, n))
PAST_THE_LOG(int, posix_fallocate, f, (int f, off_t o, off_t n), (f, o, n))
