/* Put before the C library: ends the process, as SIGKILL does, before the n-th act that changes a file below a folder. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[4096];
static size_t length;
static long left;

void end_before(const char *below, long act) {
    strncpy(folder, below, sizeof folder - 1);
    length = strlen(folder);
    left = act;
}

static void act(void) {
    if (__sync_sub_and_fetch(&left, 1) == 0) kill(getpid(), SIGKILL);
}

static void on_descriptor(int fd) {
    char link[64], path[4096];
    if (!length) return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n > 0 && (size_t)n >= length && !strncmp(path, folder, length)) act();
}

static void on_path(int at, const char *path) {
    if (!length || !path) return;
    if (path[0] != '/' && at != AT_FDCWD) on_descriptor(at);
    else if (!strncmp(path, folder, length)) act();
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(int, #name, const char *, int, ...); \
        va_list list; va_start(list, flags); mode_t mode = va_arg(list, mode_t); va_end(list); \
        if (flags & (O_CREAT | O_TRUNC)) on_path(AT_FDCWD, path); \
        return real(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
    int name(int at, const char *path, int flags, ...) { \
        REAL(int, #name, int, const char *, int, ...); \
        va_list list; va_start(list, flags); mode_t mode = va_arg(list, mode_t); va_end(list); \
        if (flags & (O_CREAT | O_TRUNC)) on_path(at, path); \
        return real(at, path, flags, mode); \
    }
OPENAT(openat)
OPENAT(openat64)

#define PATH1(name) \
    int name(const char *path) { REAL(int, #name, const char *); on_path(AT_FDCWD, path); return real(path); }
PATH1(unlink)
PATH1(rmdir)

#define PATH2(name) \
    int name(const char *path, const char *to) { \
        REAL(int, #name, const char *, const char *); on_path(AT_FDCWD, to); return real(path, to); \
    }
PATH2(rename)
PATH2(link)

int mkdir(const char *path, mode_t mode) {
    REAL(int, "mkdir", const char *, mode_t);
    on_path(AT_FDCWD, path);
    return real(path, mode);
}
int mkdirat(int at, const char *path, mode_t mode) {
    REAL(int, "mkdirat", int, const char *, mode_t);
    on_path(at, path);
    return real(at, path, mode);
}
int unlinkat(int at, const char *path, int flags) {
    REAL(int, "unlinkat", int, const char *, int);
    on_path(at, path);
    return real(at, path, flags);
}
int renameat(int at, const char *path, int into, const char *to) {
    REAL(int, "renameat", int, const char *, int, const char *);
    on_path(into, to);
    return real(at, path, into, to);
}
int renameat2(int at, const char *path, int into, const char *to, unsigned flags) {
    REAL(int, "renameat2", int, const char *, int, const char *, unsigned);
    on_path(into, to);
    return real(at, path, into, to, flags);
}
int linkat(int at, const char *path, int into, const char *to, int flags) {
    REAL(int, "linkat", int, const char *, int, const char *, int);
    on_path(into, to);
    return real(at, path, into, to, flags);
}

#define DESCRIPTOR(name) \
    int name(int fd) { REAL(int, #name, int); on_descriptor(fd); return real(fd); }
DESCRIPTOR(fsync)
DESCRIPTOR(fdatasync)

ssize_t write(int fd, const void *from, size_t n) {
    REAL(ssize_t, "write", int, const void *, size_t);
    on_descriptor(fd);
    return real(fd, from, n);
}
ssize_t writev(int fd, const struct iovec *from, int n) {
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    on_descriptor(fd);
    return real(fd, from, n);
}
ssize_t pwrite64(int fd, const void *from, size_t n, off64_t at) {
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    on_descriptor(fd);
    return real(fd, from, n, at);
}
int ftruncate64(int fd, off64_t size) {
    REAL(int, "ftruncate64", int, off64_t);
    on_descriptor(fd);
    return real(fd, size);
}
