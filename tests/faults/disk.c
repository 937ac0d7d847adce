/* A disk that fails on request, and remembers what a power cut would take: preloaded into the gate by the suites.
 *
 * Sees only files below TOLLGATE_DISK_DIR. TOLLGATE_DISK_CONTROL is a file of eight 64-bit words, shared with the test:
 *   0  the n-th sync from now fails with EIO (once; the next one succeeds, as on Linux)
 *   1  the n-th write from now fails with EIO (once)
 *   2  one more than the bytes that there is room for; then ENOSPC for as long as it stays 1
 *   3  while not 0, opening fails with this error; with EROFS only where it is for writing
 *   4  syncs seen   5  writes seen   6  failures made
 *   7  milliseconds that a sync takes longer
 * TOLLGATE_DISK_LOG, where set, gets a record of every change, with what it replaced; TOLLGATE_DISK_TRASH keeps files that
 * were removed or replaced. From these the test takes back what was not synced. */
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
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static char dir[PATH_MAX];
static size_t dir_len;
static volatile uint64_t *control;
static int log_fd = -1;
static char trash[PATH_MAX - 64];
static uint64_t trashed;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void start(void) {
  const char *d = getenv("TOLLGATE_DISK_DIR"), *c = getenv("TOLLGATE_DISK_CONTROL");
  const char *l = getenv("TOLLGATE_DISK_LOG"), *t = getenv("TOLLGATE_DISK_TRASH");
  if (!d || !c) return;
  int fd = syscall(SYS_openat, AT_FDCWD, c, O_RDWR | O_CLOEXEC);
  if (fd < 0) abort();
  void *map = mmap(NULL, 64, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (map == MAP_FAILED) abort();
  syscall(SYS_close, fd);
  control = map;
  if (l) {
    log_fd = syscall(SYS_openat, AT_FDCWD, l, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (log_fd < 0) abort();
  }
  if (t) snprintf(trash, sizeof trash, "%s", t);
  snprintf(dir, sizeof dir, "%s", d);
  dir_len = strlen(dir);
}

static int below(const char *path) {
  return dir_len && !strncmp(path, dir, dir_len) && (path[dir_len] == '/' || !path[dir_len]);
}

/* The path of a descriptor below the directory, or 0. */
static int watched(int fd, char *path) {
  if (!dir_len || fd < 0) return 0;
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
  if (n <= 0) return 0;
  path[n] = 0;
  return below(path);
}

/* The absolute path that a call means, or 0 where it is not ours. */
static int resolved(int at, const char *path, char *out) {
  if (!dir_len || !path) return 0;
  if (path[0] == '/') {
    snprintf(out, PATH_MAX, "%s", path);
  } else {
    char base[PATH_MAX];
    ssize_t n;
    if (at == AT_FDCWD) {
      n = syscall(SYS_readlinkat, AT_FDCWD, "/proc/self/cwd", base, sizeof base - 1);
    } else {
      char link[64];
      snprintf(link, sizeof link, "/proc/self/fd/%d", at);
      n = syscall(SYS_readlinkat, AT_FDCWD, link, base, sizeof base - 1);
    }
    if (n <= 0) return 0;
    base[n] = 0;
    if (snprintf(out, PATH_MAX, "%s/%s", base, path) >= PATH_MAX) return 0;
  }
  return below(out);
}

/* Counts word `w` down; 1 when it is this one's turn to fail. */
static int turn(int w) {
  uint64_t left = __atomic_load_n(&control[w], __ATOMIC_SEQ_CST);
  if (!left) return 0;
  __atomic_store_n(&control[w], left - 1, __ATOMIC_SEQ_CST);
  return left == 1;
}

static int fails(int with) {
  __atomic_fetch_add(&control[6], 1, __ATOMIC_SEQ_CST);
  errno = with;
  return -1;
}

struct head {
  uint64_t kind, ino, offset, length, path, old, new;
};

static void raw(const void *data, size_t len) {
  const char *at = data;
  while (len) {
    ssize_t n = syscall(SYS_write, log_fd, at, len);
    if (n <= 0) abort();
    at += n;
    len -= n;
  }
}

static void record(char kind, uint64_t ino, uint64_t offset, uint64_t length, const char *path, const void *old,
                   size_t old_len, const void *new, size_t new_len) {
  if (log_fd < 0) return;
  struct head head = {kind, ino, offset, length, strlen(path), old_len, new_len};
  raw(&head, sizeof head);
  raw(path, head.path);
  raw(old, old_len);
  raw(new, new_len);
}

/* Keeps a file that is about to lose its name; its name in the trash. */
static void keep(const char *path, char *name) {
  name[0] = 0;
  if (log_fd < 0 || !trash[0]) return;
  snprintf(name, PATH_MAX, "%s/%d-%llu", trash, (int)getpid(), (unsigned long long)trashed++);
  if (syscall(SYS_linkat, AT_FDCWD, path, AT_FDCWD, name, 0)) name[0] = 0;
}

/* What stands in [offset, offset + len) of the file; the caller frees it. */
static char *before(int fd, uint64_t offset, size_t *len, uint64_t size) {
  if (offset >= size) {
    *len = 0;
    return NULL;
  }
  if (*len > size - offset) *len = size - offset;
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  int reader = syscall(SYS_openat, AT_FDCWD, link, O_RDONLY | O_CLOEXEC);
  char *old = malloc(*len);
  size_t done = 0;
  while (reader >= 0 && old && done < *len) {
    ssize_t n = syscall(SYS_pread64, reader, old + done, *len - done, offset + done);
    if (n <= 0) break;
    done += n;
  }
  if (reader >= 0) syscall(SYS_close, reader);
  *len = done;
  return old;
}

/* Writes `len` bytes at `offset`, or at the descriptor's place where that is -1. */
static ssize_t put(int fd, const char *path, const void *data, size_t len, int64_t offset) {
  pthread_mutex_lock(&lock);
  ssize_t wrote;
  __atomic_fetch_add(&control[5], 1, __ATOMIC_SEQ_CST);
  uint64_t room = __atomic_load_n(&control[2], __ATOMIC_SEQ_CST);
  if (turn(1)) {
    wrote = fails(EIO);
  } else if (room == 1 && len) {
    wrote = fails(ENOSPC);
  } else {
    if (room && len > room - 1) len = room - 1;
    struct stat st;
    if (fstat(fd, &st)) st.st_size = 0, st.st_ino = 0;
    int append = fcntl(fd, F_GETFL) & O_APPEND;
    uint64_t at = append ? (uint64_t)st.st_size : offset >= 0 ? (uint64_t)offset : (uint64_t)lseek(fd, 0, SEEK_CUR);
    size_t old_len = len;
    char *old = log_fd < 0 ? NULL : before(fd, at, &old_len, st.st_size);
    if (!old) old_len = 0;
    wrote = offset >= 0 ? syscall(SYS_pwrite64, fd, data, len, offset) : syscall(SYS_write, fd, data, len);
    if (wrote > 0) {
      if ((size_t)wrote < old_len) old_len = wrote;
      record('W', st.st_ino, at, st.st_size, path, old, old_len, data, wrote);
      if (room) __atomic_store_n(&control[2], room - wrote, __ATOMIC_SEQ_CST);
    }
    free(old);
  }
  pthread_mutex_unlock(&lock);
  return wrote;
}

ssize_t write(int fd, const void *data, size_t len) {
  char path[PATH_MAX];
  if (watched(fd, path)) return put(fd, path, data, len, -1);
  return syscall(SYS_write, fd, data, len);
}

ssize_t pwrite64(int fd, const void *data, size_t len, off64_t offset) {
  char path[PATH_MAX];
  if (watched(fd, path)) return put(fd, path, data, len, offset);
  return syscall(SYS_pwrite64, fd, data, len, offset);
}

ssize_t pwrite(int fd, const void *data, size_t len, off_t offset) { return pwrite64(fd, data, len, offset); }

ssize_t writev(int fd, const struct iovec *parts, int count) {
  char path[PATH_MAX];
  if (!watched(fd, path)) return syscall(SYS_writev, fd, parts, count);
  /* A short write is allowed: the first part that has something. */
  for (int i = 0; i < count; i++)
    if (parts[i].iov_len) return put(fd, path, parts[i].iov_base, parts[i].iov_len, -1);
  return 0;
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
  char path[PATH_MAX];
  if (!watched(fd, path)) return syscall(SYS_pwritev, fd, parts, count, offset, 0);
  for (int i = 0; i < count; i++)
    if (parts[i].iov_len) return put(fd, path, parts[i].iov_base, parts[i].iov_len, offset);
  return 0;
}

static int sync_it(int fd, long call) {
  char path[PATH_MAX];
  if (!watched(fd, path)) return syscall(call, fd);
  pthread_mutex_lock(&lock);
  __atomic_fetch_add(&control[4], 1, __ATOMIC_SEQ_CST);
  uint64_t slow = __atomic_load_n(&control[7], __ATOMIC_SEQ_CST);
  int done;
  if (turn(0)) {
    done = fails(EIO);
  } else {
    struct timespec time = {slow / 1000, (slow % 1000) * 1000000};
    if (slow) nanosleep(&time, NULL);
    done = syscall(call, fd);
    struct stat st;
    if (!done && !fstat(fd, &st)) record(S_ISDIR(st.st_mode) ? 'D' : 'S', st.st_ino, 0, 0, path, NULL, 0, NULL, 0);
  }
  pthread_mutex_unlock(&lock);
  return done;
}

int fsync(int fd) { return sync_it(fd, SYS_fsync); }
int fdatasync(int fd) { return sync_it(fd, SYS_fdatasync); }

static int resize(int fd, int64_t to, long call, int64_t a, int64_t b) {
  char path[PATH_MAX];
  if (!watched(fd, path)) return call == SYS_ftruncate ? syscall(call, fd, to) : syscall(call, fd, 0, a, b);
  pthread_mutex_lock(&lock);
  struct stat st;
  int done;
  if (__atomic_load_n(&control[2], __ATOMIC_SEQ_CST) == 1 && !fstat(fd, &st) && to > st.st_size) {
    done = fails(ENOSPC);
  } else {
    if (fstat(fd, &st)) st.st_size = 0, st.st_ino = 0;
    size_t old_len = to < st.st_size ? st.st_size - to : 0;
    char *old = log_fd < 0 ? NULL : before(fd, to, &old_len, st.st_size);
    if (!old) old_len = 0;
    done = call == SYS_ftruncate ? syscall(call, fd, to) : syscall(call, fd, 0, a, b);
    if (!done) record('T', st.st_ino, to, st.st_size, path, old, old_len, NULL, 0);
    free(old);
  }
  pthread_mutex_unlock(&lock);
  return done;
}

int ftruncate64(int fd, off64_t to) { return resize(fd, to, SYS_ftruncate, 0, 0); }
int ftruncate(int fd, off_t to) { return resize(fd, to, SYS_ftruncate, 0, 0); }

int fallocate64(int fd, int mode, off64_t offset, off64_t len) {
  if (mode) return syscall(SYS_fallocate, fd, mode, offset, len);
  return resize(fd, offset + len, SYS_fallocate, offset, len);
}
int fallocate(int fd, int mode, off_t offset, off_t len) { return fallocate64(fd, mode, offset, len); }

static int open_it(int at, const char *name, int flags, mode_t mode) {
  char path[PATH_MAX];
  if (!resolved(at, name, path)) return syscall(SYS_openat, at, name, flags, mode);
  int refused = __atomic_load_n(&control[3], __ATOMIC_SEQ_CST);
  int writes = (flags & O_ACCMODE) != O_RDONLY || flags & (O_CREAT | O_TRUNC);
  if (refused && (refused != EROFS || writes)) return fails(refused);
  pthread_mutex_lock(&lock);
  struct stat st;
  int is_new = (flags & O_CREAT) && syscall(SYS_newfstatat, AT_FDCWD, path, &st, 0);
  int64_t cut = !is_new && (flags & O_TRUNC) && !stat(path, &st) ? st.st_size : 0;
  int fd = syscall(SYS_openat, at, name, flags & (cut ? ~O_TRUNC : ~0), mode);
  if (fd >= 0 && is_new && !fstat(fd, &st)) record('C', st.st_ino, 0, 0, path, NULL, 0, NULL, 0);
  pthread_mutex_unlock(&lock);
  /* What a truncating open takes away is written down as any other truncation. */
  if (fd >= 0 && cut && ftruncate64(fd, 0)) {
    syscall(SYS_close, fd);
    return -1;
  }
  return fd;
}

#define MODE                        \
  mode_t mode = 0;                  \
  if (flags & (O_CREAT | __O_TMPFILE)) { \
    va_list rest;                   \
    va_start(rest, flags);          \
    mode = va_arg(rest, mode_t);    \
    va_end(rest);                   \
  }

int open(const char *name, int flags, ...) { MODE return open_it(AT_FDCWD, name, flags, mode); }
int open64(const char *name, int flags, ...) { MODE return open_it(AT_FDCWD, name, flags | O_LARGEFILE, mode); }
int openat(int at, const char *name, int flags, ...) { MODE return open_it(at, name, flags, mode); }
int openat64(int at, const char *name, int flags, ...) { MODE return open_it(at, name, flags | O_LARGEFILE, mode); }

static int rename_it(int from_at, const char *from, int to_at, const char *to, unsigned flags) {
  char old[PATH_MAX], new[PATH_MAX], kept[PATH_MAX];
  if (!resolved(from_at, from, old) || !resolved(to_at, to, new))
    return syscall(SYS_renameat2, from_at, from, to_at, to, flags);
  pthread_mutex_lock(&lock);
  keep(new, kept);
  int done = syscall(SYS_renameat2, from_at, from, to_at, to, flags);
  if (!done) record('R', 0, 0, 0, old, new, strlen(new), kept, strlen(kept));
  pthread_mutex_unlock(&lock);
  return done;
}

int rename(const char *from, const char *to) { return rename_it(AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int a, const char *from, int b, const char *to) { return rename_it(a, from, b, to, 0); }
int renameat2(int a, const char *from, int b, const char *to, unsigned f) { return rename_it(a, from, b, to, f); }

static int unlink_it(int at, const char *name, int flags) {
  char path[PATH_MAX], kept[PATH_MAX];
  if ((flags & AT_REMOVEDIR) || !resolved(at, name, path)) return syscall(SYS_unlinkat, at, name, flags);
  pthread_mutex_lock(&lock);
  keep(path, kept);
  int done = syscall(SYS_unlinkat, at, name, flags);
  if (!done) record('U', 0, 0, 0, path, NULL, 0, kept, strlen(kept));
  pthread_mutex_unlock(&lock);
  return done;
}

int unlink(const char *name) { return unlink_it(AT_FDCWD, name, 0); }
int unlinkat(int at, const char *name, int flags) { return unlink_it(at, name, flags); }
