/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A foreign program: plain C and libc, no knowledge of the library. Walks the errnos of a real kernel with mtty and
 * says for each whether it got them. Numbers are written out, so that no header is needed and none can be wrong with us.
 *
 * walk group UUID GROUP UUID GROUP     two one-port mtty devices, kernel 6.12
 * walk cdev X Y                        two one-port mtty devices, kernel 7.3
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { STOP = 1, RUNNING, STOP_COPY, RESUMING, RUNNING_P2P, PRE_COPY, PRE_COPY_P2P };
enum { GET = 1 << 16, SET = 1 << 17, PROBE = 1 << 18 };

static int failures, checks;
/* A null pointer that the compiler does not see through. */
static void *volatile nowhere;

/* A result as one number: the value, or the negative errno. */
static long res(long r) { return r < 0 ? -errno : r; }

static void expect(const char *what, long got, long wanted)
{
    checks++;
    if (got == wanted)
        return;
    failures++;
    printf("FAIL %s: expected %ld, got %ld\n", what, wanted, got);
}

struct feature { uint32_t argsz, flags; uint64_t words[8]; };

static long feature(int fd, uint32_t argsz, uint32_t flags, struct feature *f)
{
    f->argsz = argsz;
    f->flags = flags;
    return res(ioctl(fd, 0x3b75, f));
}

static long bare(int fd, uint32_t argsz, uint32_t flags)
{
    struct feature f = { 0 };
    return feature(fd, argsz, flags, &f);
}

/* SET; *data_fd is the field of the answer. */
static long set(int fd, uint32_t state, int *data_fd)
{
    struct { uint32_t argsz, flags, state; int32_t fd; } f = { 16, SET | 2, state, 77 };
    long r = res(ioctl(fd, 0x3b75, &f));
    if (data_fd)
        *data_fd = f.fd;
    return r;
}

static long get(int fd)
{
    struct { uint32_t argsz, flags, state; int32_t fd; } f = { 16, GET | 2, 99, 77 };
    long r = res(ioctl(fd, 0x3b75, &f));
    return r < 0 ? r : f.fd == -1 ? (long)f.state : -1000;
}

static void reset(int fd) { expect("RESET", res(ioctl(fd, 0x3b6f)), 0); }

struct precopy { uint32_t argsz, flags; uint64_t initial, dirty; };

static long precopy(int fd, uint32_t argsz, uint32_t flags, struct precopy *p)
{
    *p = (struct precopy){ argsz, flags, 0, 0 };
    return res(ioctl(fd, 0x3b79, p));
}

static uint64_t bar0;

/* A length that the compiler does not know: built with _FORTIFY_SOURCE, the calls become __pread_chk and the like. */
static volatile size_t one = 1;

static int reg(int fd, int r)
{
    unsigned char b = 0xee;
    return pread(fd, &b, one, bar0 + r) == 1 ? b : -1;
}

static void put(int fd, int r, int v)
{
    unsigned char b = v;
    expect("register write", pwrite(fd, &b, 1, bar0 + r), 1);
}

static void information(int d)
{
    uint32_t info[4] = { 16 }, irq[4] = { 16 };
    struct { uint32_t argsz, flags, index, cap; uint64_t size, offset; } region = { .argsz = 32 };
    expect("GET_INFO", res(ioctl(d, 0x3b6b, info)), 0);
    expect("info flags", info[1], 2);
    expect("regions", info[2], 9);
    expect("irqs", info[3], 5);
    info[0] = 15;
    expect("GET_INFO short", res(ioctl(d, 0x3b6b, info)), -EINVAL);
    region.index = 7;
    expect("config region", res(ioctl(d, 0x3b6c, &region)), 0);
    expect("config size", region.size, 0xff);
    expect("config offset", region.offset == 0x70000000000, 1);
    expect("config flags", region.flags, 3);
    region.index = 9;
    expect("region 9", res(ioctl(d, 0x3b6c, &region)), -EINVAL);
    region.index = 0;
    expect("BAR0", res(ioctl(d, 0x3b6c, &region)), 0);
    expect("BAR0 size", region.size, 8);
    bar0 = region.offset;
    irq[2] = 1;
    expect("IRQ_INFO", res(ioctl(d, 0x3b6d, irq)), 0);
    expect("MSI count", irq[3], 1);
    irq[2] = 5;
    expect("IRQ 5", res(ioctl(d, 0x3b6d, irq)), -EINVAL);
    expect("region info at NULL", res(ioctl(d, 0x3b6c, NULL)), -EFAULT);
    expect("mmap", mmap(NULL, 4096, PROT_READ, MAP_SHARED, d, bar0) == MAP_FAILED ? -errno : 0, -EINVAL);
}

static void features(int d, int v2)
{
    struct feature f = { 0 };
    expect("MIGRATION", feature(d, 16, GET | 1, &f), 0);
    expect("flags", f.words[0], 7);
    expect("argsz 64", bare(d, 64, GET | 1), 0);
    expect("argsz 15", bare(d, 15, GET | 1), -EINVAL);
    expect("argsz 8", bare(d, 8, GET | 1), -EINVAL);
    expect("argsz 7", bare(d, 7, GET | 1), -EINVAL);
    expect("argsz 7 probe", bare(d, 7, PROBE | 1), -EINVAL);
    expect("probe needs no payload", bare(d, 8, PROBE | GET | 1), 0);
    expect("probe GET|SET on 2", bare(d, 8, PROBE | GET | SET | 2), 0);
    expect("probe GET|SET on 1", bare(d, 8, PROBE | GET | SET | 1), -EINVAL);
    expect("GET|SET", bare(d, 16, GET | SET | 2), -EINVAL);
    expect("neither", bare(d, 16, 2), -EINVAL);
    expect("SET on GET-only", bare(d, 16, SET | 1), -EINVAL);
    expect("reserved flag", bare(d, 16, GET | 1 | 1 << 19), -EINVAL);
    expect("reserved flag with probe", bare(d, 16, PROBE | 1 | 1u << 31), -EINVAL);
    expect("unknown feature", bare(d, 16, GET | 999), -ENOTTY);
    expect("unknown feature, probe", bare(d, 16, PROBE | 999), -ENOTTY);
    expect("unknown feature, GET|SET", bare(d, 16, GET | SET | 999), -EINVAL);
    expect("header at NULL", res(ioctl(d, 0x3b75, NULL)), -EFAULT);
    expect("header at 1", res(ioctl(d, 0x3b75, (void *)1)), -EFAULT);
    expect("data size", feature(d, 16, GET | 9, &f), 0);
    expect("bytes", f.words[0], 60);
    expect("v2 probe", bare(d, 8, PROBE | 12), v2 ? 0 : -ENOTTY);
    expect("v2 probe SET", bare(d, 8, PROBE | SET | 12), v2 ? 0 : -ENOTTY);
    expect("v2 GET", bare(d, 8, GET | 12), v2 ? -EINVAL : -ENOTTY);
    expect("v2 bare", bare(d, 8, 12), v2 ? -EINVAL : -ENOTTY);
    expect("0x3b79 on a device", res(ioctl(d, 0x3b79, &f)), -ENOTTY);
    /* The payload of a struct that ends at the end of mapped memory. */
    char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(page + 4096, 4096);
    uint32_t *edge = (uint32_t *)(page + 4088);
    edge[0] = 16;
    edge[1] = GET | 2;
    expect("payload beyond the page", res(ioctl(d, 0x3b75, edge)), -EFAULT);
    munmap(page, 4096);
}

static void states(int d)
{
    int fd, i;
    reset(d);
    expect("starts", get(d), RUNNING);
    expect("RUNNING again", set(d, RUNNING, &fd), 0);
    expect("no fd", fd, -1);
    expect("ERROR", set(d, 0, &fd), -EINVAL);
    expect("fd after error", fd, -1);
    for (i = 8; i < 12; i++)
        expect("unknown state", set(d, i, NULL), -EINVAL);
    expect("state 2^31", set(d, 1u << 31, NULL), -EINVAL);
    expect("unchanged", get(d), RUNNING);
    expect("STOP_COPY", set(d, STOP_COPY, &fd), 0);
    expect("an fd", fd >= 0, 1);
    expect("cloexec", fcntl(fd, F_GETFD), FD_CLOEXEC);
    expect("read only", fcntl(fd, F_GETFL) & O_ACCMODE, O_RDONLY);
    expect("blocked arc", set(d, PRE_COPY, NULL), -EINVAL);
    expect("blocked arc P2P", set(d, PRE_COPY_P2P, NULL), -EINVAL);
    expect("unchanged", get(d), STOP_COPY);
    expect("STOP_COPY again", set(d, STOP_COPY, &i), 0);
    expect("no second fd", i, -1);
    expect("fd alive", poll(&(struct pollfd){ fd, POLLIN | POLLOUT, 0 }, 1, 0), 1);
    expect("to RESUMING", set(d, RESUMING, &i), 0);
    expect("write only", fcntl(i, F_GETFL) & O_ACCMODE, O_WRONLY);
    expect("old fd dead", res(read(fd, &i, 1)), -ENODEV);
    close(fd);
    close(i);
    reset(d);
    expect("after RESET", get(d), RUNNING);
}

static void saving(int d)
{
    struct pollfd p;
    struct precopy info;
    char buf[128];
    int fd, none;
    reset(d);
    expect("PRE_COPY", set(d, PRE_COPY, &fd), 0);
    expect("info", precopy(fd, 24, 0xdeadbeef, &info), 0);
    expect("initial", info.initial, 24);
    expect("dirty", info.dirty, 0);
    expect("flags echoed", info.flags == 0xdeadbeef, 1);
    expect("short argsz", precopy(fd, 23, 0, &info), -EINVAL);
    expect("info at NULL", res(ioctl(fd, 0x3b79, NULL)), -EFAULT);
    expect("other request", res(ioctl(fd, 0x3b75, buf)), -ENOTTY);
    expect("write", res(write(fd, buf, 1)), -EBADF);
    expect("pread", res(pread(fd, buf, 1, 0)), -ESPIPE);
    expect("lseek", res(lseek(fd, 0, SEEK_CUR)), -ESPIPE);
    expect("read to NULL", res(read(fd, nowhere, 8)), -EFAULT);
    expect("read nothing", res(read(fd, buf, 0)), 0);
    expect("read", res(read(fd, buf, 20)), 20);
    expect("magic", memcmp(buf, "\x4e\x2c\x3e\x8c\x89\x09\x9d\x7e", 8), 0);
    expect("falls", precopy(fd, 24, 0, &info) == 0 ? (long)info.initial : -1, 4);
    expect("read, fortified", res(read(fd, buf, one)), 1);
    expect("rest", res(readv(fd, (struct iovec[]){ { buf, 2 }, { buf + 2, 90 } }, 2)), 3);
    expect("temporary end", res(read(fd, buf, 1)), 0);
    p = (struct pollfd){ fd, POLLIN | POLLOUT, 0 };
    expect("poll", poll(&p, 1, 0), 1);
    expect("poll bits", p.revents, POLLIN | POLLOUT);
    expect("PRE_COPY again", set(d, PRE_COPY, &none), 0);
    expect("no fd", none, -1);
    expect("P2P", set(d, PRE_COPY_P2P, &none), 0);
    expect("same session", none, -1);
    expect("STOP_COPY", set(d, STOP_COPY, &none), 0);
    expect("same session", none, -1);
    expect("info in STOP_COPY", precopy(fd, 24, 0, &info), -EINVAL);
    expect("port", res(read(fd, buf, 128)), 36);
    expect("end", res(read(fd, buf, 1)), 0);
    expect("RUNNING", set(d, RUNNING, &none), 0);
    expect("dead", res(read(fd, buf, 1)), -ENODEV);
    expect("dead, info", precopy(fd, 24, 0, &info), -EINVAL);
    p.revents = 0;
    expect("poll after death", poll(&p, 1, 0) == 1 ? p.revents : -1, POLLIN | POLLOUT);
    close(fd);
    /* A lost fd loses the data, not the state. */
    expect("PRE_COPY", set(d, PRE_COPY, &fd), 0);
    close(fd);
    expect("STOP_COPY without fd", set(d, STOP_COPY, &none), 0);
    expect("no fd", none, -1);
    reset(d);
}

static void resuming(int d, const char *stream)
{
    static char bad[60];
    int fd, none;
    struct precopy info;
    reset(d);
    put(d, 7, 0x11);
    expect("RESUMING", set(d, RESUMING, &fd), 0);
    expect("info", precopy(fd, 24, 0, &info), -ENOTTY);
    expect("read", res(read(fd, bad, 1)), -EBADF);
    expect("pwrite", res(pwrite(fd, bad, 1, 0)), -ESPIPE);
    expect("nothing: STOP", set(d, STOP, NULL), -EINVAL);
    expect("nothing: RUNNING", set(d, RUNNING, NULL), -EINVAL);
    expect("nothing: PRE_COPY", set(d, PRE_COPY, NULL), -EINVAL);
    expect("stays", get(d), RESUMING);
    expect("write from NULL", res(write(fd, nowhere, 8)), -EFAULT);
    expect("too long", res(write(fd, stream, 61)), -ENOMEM);
    expect("too long, from NULL", res(write(fd, nowhere, 61)), -ENOMEM);
    expect("59", res(write(fd, stream, 59)), 59);
    expect("incomplete", set(d, STOP, NULL), -EINVAL);
    expect("RESUMING again", set(d, RESUMING, &none), 0);
    expect("no fd", none, -1);
    expect("not loaded", reg(d, 7), 0x11);
    expect("last", res(write(fd, stream + 59, 1)), 1);
    expect("one more", res(write(fd, stream, 1)), -ENOMEM);
    expect("complete", set(d, STOP, NULL), 0);
    expect("loaded", reg(d, 7), 0x5a);
    expect("dead", res(write(fd, stream, 1)), -ENODEV);
    close(fd);
    /* A refused header is kept, and loaded. */
    reset(d);
    put(d, 7, 0x22);
    memcpy(bad, stream, 60);
    bad[0] ^= 1;
    expect("RESUMING", set(d, RESUMING, &fd), 0);
    expect("before the end of the header", res(write(fd, bad, 23)), 23);
    expect("refused", res(write(fd, bad + 23, 1)), -EFAULT);
    expect("stored", res(write(fd, bad + 24, 36)), 36);
    expect("loads", set(d, RUNNING, NULL), 0);
    expect("loaded", reg(d, 7), 0x5a);
    close(fd);
    reset(d);
}

static void exhaustion(int d)
{
    struct rlimit old, low;
    struct { uint32_t argsz, flags, state; int32_t fd; } f = { 16, SET | 2, PRE_COPY, 77 };
    int fd, last = -1;
    long r;
    reset(d);
    getrlimit(RLIMIT_NOFILE, &old);
    low = old;
    low.rlim_cur = 64;
    setrlimit(RLIMIT_NOFILE, &low);
    while ((fd = dup(0)) >= 0)
        last = fd;
    r = res(ioctl(d, 0x3b75, &f));
    expect("SET without a descriptor", r, -EMFILE);
    expect("field untouched", f.fd, 77);
    expect("new state all the same", get(d), PRE_COPY);
    expect("STOP_COPY", set(d, STOP_COPY, &fd), 0);
    expect("no fd", fd, -1);
    for (fd = last; fd > 2 && fcntl(fd, F_GETFD) >= 0 && fd != d; fd--)
        close(fd);
    setrlimit(RLIMIT_NOFILE, &old);
    reset(d);
}

static void dirty_log(int d, long report)
{
    struct { uint64_t iova, length; } range = { 0x1000, 0x2000 }, odd = { 0x1800, 0x1000 }, top = { -0x1000ull, 0x1000 };
    struct { uint32_t argsz, flags; uint64_t page; uint32_t n, rsvd; void *ranges; } start = { 32, SET | 6, 4096, 1, 0, &range };
    struct { uint32_t argsz, flags; uint64_t iova, length, page; void *bitmap; } rep = { 40, GET | 8, 0x1000, 0x2000, 4096, NULL };
    uint64_t bitmap = 0;
    expect("probe 6", bare(d, 8, PROBE | 6), 0);
    expect("probe 7", bare(d, 8, PROBE | 7), 0);
    expect("probe 8", bare(d, 8, PROBE | 8), 0);
    expect("START", res(ioctl(d, 0x3b75, &start)), 0);
    expect("START twice", res(ioctl(d, 0x3b75, &start)), 0);
    expect("page size unchanged", start.page, 4096);
    start.n = 0;
    expect("no ranges", res(ioctl(d, 0x3b75, &start)), -EINVAL);
    start.n = 257;
    expect("257 ranges", res(ioctl(d, 0x3b75, &start)), -E2BIG);
    start.n = 1000000;
    expect("a million", res(ioctl(d, 0x3b75, &start)), -E2BIG);
    start.n = 1;
    start.ranges = &odd;
    expect("unaligned", res(ioctl(d, 0x3b75, &start)), -EINVAL);
    start.ranges = &top;
    expect("ends at 2^64", res(ioctl(d, 0x3b75, &start)), -EOVERFLOW);
    start.ranges = NULL;
    expect("ranges at NULL", res(ioctl(d, 0x3b75, &start)), -EFAULT);
    rep.bitmap = &bitmap;
    expect("REPORT", res(ioctl(d, 0x3b75, &rep)), report);
    expect("no bits", bitmap, 0);
    rep.page = 2048;
    expect("page 2048", res(ioctl(d, 0x3b75, &rep)), -EINVAL);
    rep.page = 0x3000;
    expect("page 3*4096", res(ioctl(d, 0x3b75, &rep)), -EINVAL);
    rep.page = 4096;
    rep.iova = -0x2000ull;
    expect("REPORT to 2^64", res(ioctl(d, 0x3b75, &rep)), -EOVERFLOW);
    expect("STOP", bare(d, 8, SET | 7), 0);
    expect("STOP twice", bare(d, 8, SET | 7), 0);
}

/* Sets up the source as the notes on the real driver did, and moves it to the target; the 60 bytes end in `stream`. */
static void migrate(int source, int target, char *stream)
{
    static const unsigned char writes[][2] =
        { { 2, 1 }, { 3, 0x80 }, { 0, 0x0c }, { 1, 1 }, { 3, 3 }, { 4, 0x0b }, { 7, 0x5a }, { 1, 5 } };
    int save, load, i;
    char rx[6] = { 0 };
    reset(source);
    reset(target);
    for (i = 0; i < 8; i++)
        put(source, writes[i][0], writes[i][1]);
    for (i = 0; i < 5; i++)
        put(source, 0, "hello"[i]);
    expect("PRE_COPY", set(source, PRE_COPY, &save), 0);
    expect("header", res(read(save, stream, 60)), 24);
    expect("STOP_COPY", set(source, STOP_COPY, NULL), 0);
    expect("port", res(read(save, stream + 24, 60)), 36);
    expect("RESUMING", set(target, RESUMING, &load), 0);
    for (i = 0; i < 60; i += 12)
        expect("write", res(write(load, stream + i, 12)), 12);
    expect("RUNNING", set(target, RUNNING, NULL), 0);
    expect("source to STOP", set(source, STOP, NULL), 0);
    expect("SCR", reg(target, 7), 0x5a);
    expect("LCR", reg(target, 3), 3);
    expect("MCR", reg(target, 4), 0x0b);
    expect("IER", reg(target, 1), 5);
    expect("IIR", reg(target, 2), 0xc4);
    expect("LSR with data", reg(target, 5), 1);
    for (i = 0; i < 5; i++)
        rx[i] = reg(target, 0);
    expect("hello", strcmp(rx, "hello"), 0);
    expect("LSR empty", reg(target, 5), 0x60);
    close(save);
    close(load);
}

static void by_group(char **arg)
{
    char path[80], stream[64] = { 0 };
    struct stat st;
    char link[64] = { 0 }, *resolved;
    uint32_t status[2] = { 8 };
    int container, group[2], d[2], again, i, other = open("/dev/null", O_RDWR), bad = 1000;
    struct { uint32_t argsz, flags; uint64_t vaddr, iova, size; } map = { 32, 3, 0x10000, 0x100000, 0x2000 };
    expect("stat", res(stat("/dev/vfio/vfio", &st)), 0);
    expect("character device", S_ISCHR(st.st_mode), 1);
    snprintf(path, sizeof path, "/sys/bus/mdev/devices/%.36s", arg[0]);
    expect("readlink", readlink(path, link, 63 * one) > 36, 1);
    resolved = realpath(path, NULL);
    expect("realpath", resolved && !strncmp(resolved, "/sys/devices/virtual/mtty/", 26), 1);
    free(resolved);
    expect("no cdevs", res(open("/dev/vfio/devices/vfio0", O_RDWR)), -ENOENT);
    expect("no iommufd", res(open("/dev/iommu", O_RDWR)), -ENOENT);
    expect("no such group", res(open("/dev/vfio/99", O_RDWR)), -ENOENT);
    container = open("/dev/vfio/vfio", O_RDWR);
    expect("API", res(ioctl(container, 0x3b64)), 0);
    expect("TYPE1v2", res(ioctl(container, 0x3b65, 3)), 1);
    expect("no such extension", res(ioctl(container, 0x3b65, 1234)), 0);
    expect("SET_IOMMU without group", res(ioctl(container, 0x3b66, 3)), -EINVAL);
    for (i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "/dev/vfio/%s", arg[2 * i + 1]);
        group[i] = open(path, O_RDWR | O_CLOEXEC);
        expect("group", group[i] >= 0, 1);
        expect("cloexec", fcntl(group[i], F_GETFD), FD_CLOEXEC);
        expect("second open", res(open(path, O_RDWR)), -EBUSY);
        expect("device before container", res(ioctl(group[i], 0x3b6a, arg[2 * i])), -EINVAL);
        expect("FEATURE on a group", res(ioctl(group[i], 0x3b75, status)), -ENOTTY);
        expect("status", res(ioctl(group[i], 0x3b67, status)), 0);
        expect("viable", status[1], 1);
        expect("container: bad fd", res(ioctl(group[i], 0x3b68, &bad)), -EBADF);
        expect("container: foreign fd", res(ioctl(group[i], 0x3b68, &other)), -EBADFD);
        expect("container", res(ioctl(group[i], 0x3b68, &container)), 0);
        expect("container twice", res(ioctl(group[i], 0x3b68, &container)), -EINVAL);
        expect("status", res(ioctl(group[i], 0x3b67, status)), 0);
        expect("container set", status[1], 3);
        if (i == 0) {
            expect("device before IOMMU", res(ioctl(group[i], 0x3b6a, arg[0])), -EINVAL);
            expect("SET_IOMMU", res(ioctl(container, 0x3b66, 3)), 0);
            expect("SET_IOMMU twice", res(ioctl(container, 0x3b66, 3)), -EINVAL);
        }
        d[i] = ioctl(group[i], 0x3b6a, arg[2 * i]);
        expect("device", d[i] >= 0, 1);
    }
    expect("no such device", res(ioctl(group[0], 0x3b6a, "nobody")), -ENODEV);
    expect("device of another group", res(ioctl(group[0], 0x3b6a, arg[2])), -ENODEV);
    again = ioctl(group[0], 0x3b6a, arg[0]);
    expect("two device fds", again >= 0, 1);
    expect("MAP", res(ioctl(container, 0x3b71, &map)), 0);
    map.iova = 0x101000;
    expect("MAP overlap", res(ioctl(container, 0x3b71, &map)), -EEXIST);
    expect("feature request on a container", res(ioctl(container, 0x3b75, &(uint32_t[16]){ 16, GET | 2 })), -EINVAL);
    expect("leave while open", res(ioctl(group[0], 0x3b69)), -EBUSY);
    expect("ATTACH by group", res(ioctl(d[0], 0x3b77, status)), -ENOTTY);
    information(d[0]);
    features(d[0], 0);
    states(d[0]);
    saving(d[0]);
    dirty_log(d[0], -EOPNOTSUPP);
    migrate(d[0], d[1], stream);
    resuming(d[1], stream);
    /* Last, because its closing of descriptors goes down to the devices. */
    expect("shared", set(d[0], STOP, NULL), 0);
    expect("shared state", get(again), STOP);
    close(again);
    expect("shared state stays", get(d[0]), STOP);
    close(d[0]);
    expect("leave", res(ioctl(group[0], 0x3b69)), 0);
    expect("enter", res(ioctl(group[0], 0x3b68, &container)), 0);
    d[0] = ioctl(group[0], 0x3b6a, arg[0]);
    expect("survives a close", get(d[0]), STOP);
    close(d[1]);
    exhaustion(d[0]);
}

static void by_cdev(char **arg)
{
    struct { uint32_t argsz, flags; int32_t fd; uint32_t id; uint64_t token, tail; } bind = { .argsz = 24 };
    struct { uint32_t argsz, flags, pt, pasid; } attach = { .argsz = 12 };
    uint32_t ioas[3] = { 12 }, odd[3] = { 8 }, info[4] = { 16 };
    char path[80], stream[64] = { 0 };
    int iommu = open("/dev/iommu", O_RDWR), d[2], i, other = open("/dev/null", O_RDWR), second, group;
    struct precopy p;
    struct stat st;
    expect("iommufd", iommu >= 0, 1);
    expect("IOAS_ALLOC short", res(ioctl(iommu, 0x3b81, odd)), -EINVAL);
    expect("IOAS_ALLOC", res(ioctl(iommu, 0x3b81, ioas)), 0);
    for (i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "/dev/vfio/devices/vfio%s", arg[i]);
        d[i] = open(path, O_RDWR);
        expect("cdev", d[i] >= 0, 1);
        expect("fstat", res(fstat(d[i], &st)), 0);
        expect("character device", S_ISCHR(st.st_mode), 1);
        expect("before bind: info", res(ioctl(d[i], 0x3b6b, info)), -EINVAL);
        expect("before bind: state", get(d[i]), -EINVAL);
        expect("before bind: read", res(pread(d[i], path, 1, 0)), -EINVAL);
        expect("before bind: attach", res(ioctl(d[i], 0x3b77, &attach)), -EINVAL);
        bind.fd = -1;
        expect("bind: negative", res(ioctl(d[i], 0x3b76, &bind)), -EINVAL);
        bind.fd = 1000;
        expect("bind: not open", res(ioctl(d[i], 0x3b76, &bind)), -EBADF);
        bind.fd = other;
        expect("bind: not an iommufd", res(ioctl(d[i], 0x3b76, &bind)), -EBADFD);
        bind.fd = iommu;
        bind.flags = 2;
        expect("bind: flags", res(ioctl(d[i], 0x3b76, &bind)), -EINVAL);
        bind.flags = 0;
        bind.argsz = 32;
        bind.tail = 1;
        expect("bind: tail", res(ioctl(d[i], 0x3b76, &bind)), -E2BIG);
        bind.argsz = 15;
        expect("bind: short", res(ioctl(d[i], 0x3b76, &bind)), -EINVAL);
        bind.argsz = 16;
        expect("bind", res(ioctl(d[i], 0x3b76, &bind)), 0);
        expect("bind twice", res(ioctl(d[i], 0x3b76, &bind)), -EINVAL);
        bind.argsz = 24;
        attach.pt = 12345;
        expect("attach: no such id", res(ioctl(d[i], 0x3b77, &attach)), -ENOENT);
        attach.pt = ioas[2];
        expect("attach", res(ioctl(d[i], 0x3b77, &attach)), 0);
        expect("same id", attach.pt, ioas[2]);
    }
    snprintf(path, sizeof path, "/dev/vfio/devices/vfio%s", arg[0]);
    second = open(path, O_RDWR);
    expect("second cdev: bind", res(ioctl(second, 0x3b76, &bind)), -EINVAL);
    close(second);
    group = open("/dev/vfio/1", O_RDWR);
    expect("group of a bound device", res(group), -EBUSY);
    expect("HW_INFO of an mdev", res(ioctl(iommu, 0x3b8a, &(uint32_t[10]){ 40, 0, bind.id })), -ENOENT);
    expect("tracking of an IOAS", res(ioctl(iommu, 0x3b8b, &(uint32_t[4]){ 16, 1, ioas[2] })), -ENOENT);
    expect("unknown request", res(ioctl(iommu, 0x3b92, ioas)), -ENOTTY);
    information(d[0]);
    features(d[0], 1);
    states(d[0]);
    saving(d[0]);
    dirty_log(d[0], 0);
    migrate(d[0], d[1], stream);
    resuming(d[1], stream);
    expect("detach", res(ioctl(d[0], 0x3b78, &(uint32_t[2]){ 8, 0 })), 0);
    expect("detach again", res(ioctl(d[0], 0x3b78, &(uint32_t[2]){ 8, 0 })), 0);
    /* The opt-in lasts as long as the device is open. */
    expect("opt in", bare(d[1], 8, SET | 12), 0);
    expect("PRE_COPY", set(d[1], PRE_COPY, &i), 0);
    expect("info", precopy(i, 24, 0xdeadbeef, &p), 0);
    expect("flags are an output", p.flags, 0);
    close(i);
    reset(d[1]);
    close(d[1]);
    snprintf(path, sizeof path, "/dev/vfio/devices/vfio%s", arg[1]);
    d[1] = open(path, O_RDWR);
    expect("bind again", res(ioctl(d[1], 0x3b76, &bind)), 0);
    expect("PRE_COPY", set(d[1], PRE_COPY, &i), 0);
    expect("info", precopy(i, 24, 0xdeadbeef, &p), 0);
    expect("flags are echoed again", p.flags == 0xdeadbeef, 1);
    /* dup shares the file; dup2 onto the last descriptor releases it. */
    second = dup(d[1]);
    close(d[1]);
    expect("alive through its duplicate", get(second), PRE_COPY);
    dup2(other, second);
    expect("not a device any more", get(second), -ENOTTY);
    expect("session over", precopy(i, 24, 0, &p), -ENODEV);
    expect("group is free when both are closed", (close(d[0]), res(open("/dev/vfio/1", O_RDWR))) >= 0, 1);
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IONBF, 0);
    if (argc == 6 && !strcmp(argv[1], "group"))
        by_group(argv + 2);
    else if (argc == 4 && !strcmp(argv[1], "cdev"))
        by_cdev(argv + 2);
    else
        return 2;
    printf("%d checks, %d failures\n", checks, failures);
    return failures > 0;
}
