/* Where our programs begin: a program goes on from a snapshot of a Python that has everything loaded (snapshot.py), or
 * starts Python where that does not fit.
 *
 * .ci/launcher compiles it for each of them. What it has to define, strings and lists of strings:
 *
 *   PROGRAM, PYTHON     names: the process's, and what is executed where the snapshot does not fit
 *   ARGUMENTS           Python's, before the caller's
 *   SNAPSHOT, MARK      the file, and what it begins with
 *   OTHERS              words of the command line with which it starts Python in any case
 *   WISHES, HARMLESS    where Python heeds its environment: with what variables begin for which it starts, but for some
 *   SEALED              words with which it makes processes in containers; then what is executed is on a read-only mount
 *                       that is nowhere in the file tree (capsa/runtime/sealing.py does that without this launcher)
 *
 * It has no libc, whose start would take longer than all of this, and nothing that an environment could change. To copy
 * or to fill memory is avoided: compilers call functions of a libc for that.
 */

typedef unsigned long long word;

/* A system call, see syscall(2): its number and six arguments. The process begins at _start. */
long call(long number, long a, long b, long c, long d, long e, long f);

#if defined(__x86_64__)
#define SNAPSHOTS 1
enum { ARCH_PRCTL = 158, CLOSE = 3, EXECVE = 59, EXIT = 60, MMAP = 9, OPENAT = 257, PERSONALITY = 135, PRCTL = 157 };
enum { RT_SIGACTION = 13, STATX = 332, WRITE = 1 };
__asm__(".text\n.globl call, go_on, identify, _start\n"
        "call:\n\tmov %rdi, %rax\n\tmov %rsi, %rdi\n\tmov %rdx, %rsi\n\tmov %rcx, %rdx\n\tmov %r8, %r10\n\tmov %r9, %r8\n"
        "\tmov 8(%rsp), %r9\n\tsyscall\n\tret\n"
        /* What a called function has to preserve (System V ABI), and where it returns to; what it returns is %rsi. */
        "go_on:\n\tmov %rsi, %rax\n\tmov 0(%rdi), %rbx\n\tmov 8(%rdi), %rbp\n\tmov 16(%rdi), %r12\n\tmov 24(%rdi), %r13\n"
        "\tmov 32(%rdi), %r14\n\tmov 40(%rdi), %r15\n\tmov 48(%rdi), %rsp\n\tmov 56(%rdi), %rdi\n\tjmp *%rdi\n"
        "identify:\n\tpush %rbx\n\tmov %edi, %eax\n\txor %ecx, %ecx\n\tmov %rsi, %r8\n\tcpuid\n\tmov %eax, 0(%r8)\n"
        "\tmov %ebx, 4(%r8)\n\tmov %ecx, 8(%r8)\n\tmov %edx, 12(%r8)\n\tpop %rbx\n\tret\n"
        "_start:\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall launch\n");
#elif defined(__aarch64__)
#define SNAPSHOTS 0
enum { EXECVE = 221, EXIT = 93, STATX = 291, WRITE = 64 };
__asm__(".text\n.globl call, _start\n"
        "call:\n\tmov x8, x0\n\tmov x0, x1\n\tmov x1, x2\n\tmov x2, x3\n\tmov x3, x4\n\tmov x4, x5\n\tmov x5, x6\n\tsvc 0\n\tret\n"
        "_start:\n\tmov x0, sp\n\tbl launch\n");
#else
#error "there is no launcher for this machine"
#endif

/* The same numbers on all machines, see sealing.py. */
enum { OPEN_TREE = 428, MOUNT_SETATTR = 442 };
enum { CLONE = 1, CLOEXEC = 02000000, AT_FDCWD = -100, AT_EMPTY_PATH = 0x1000, RDONLY_NOSUID_NODEV = 1 | 2 | 4 };

static int begins(const char *text, const char *with)
{
	while (*with && *text == *with)
		text++, with++;
	return !*with;
}

__attribute__((unused)) static int is_same(const char *one, const char *other)
{
	return begins(one, other) && begins(other, one);
}

/* Whether a text of this list, which ends with 0, is or begins with one of that list. */
__attribute__((unused)) static int any(char *const *texts, const char *const *wanted, int (*does)(const char *, const char *))
{
	for (; *texts; texts++)
		for (const char *const *each = wanted; *each; each++)
			if (does(*texts, *each))
				return 1;
	return 0;
}

struct known {
	word changed; /* nanoseconds since 1970; 0 if it is not there */
	word size;
};

static struct known known;

static struct known *look(const char *path)
{
	enum { STATX_MTIME = 0x40, STATX_SIZE = 0x200, AT_SIZE = 40 / 8, AT_MTIME = 112 / 8 };
	word found[256 / 8];
	known.changed = known.size = 0;
	if (!call(STATX, AT_FDCWD, (long)path, 0, STATX_MTIME | STATX_SIZE, (long)found, 0)) {
		known.changed = found[AT_MTIME] * 1000000000 + (unsigned)found[AT_MTIME + 1];
		known.size = found[AT_SIZE];
	}
	return &known;
}

/* The one that was changed last, the second one if in doubt. */
__attribute__((unused)) static const char *newer(const char *one, const char *other)
{
	word changed = look(one)->changed;
	return changed > look(other)->changed ? one : other;
}

__attribute__((unused)) static const char SELF[] = "/proc/self/fd/";

/* A file on a read-only mount of its own: a descriptor; negative without the right to do that, or on an old kernel. */
__attribute__((unused)) static long sealed(const char *file)
{
	word attributes[4];
	attributes[0] = RDONLY_NOSUID_NODEV;
	attributes[1] = attributes[2] = attributes[3] = 0;
	long fd = call(OPEN_TREE, AT_FDCWD, (long)file, CLONE | CLOEXEC, 0, 0, 0);
	if (fd >= 0 && call(MOUNT_SETATTR, fd, (long)"", AT_EMPTY_PATH, (long)attributes, sizeof attributes, 0))
		return -1;
	return fd;
}

/* The name of a descriptor. */
__attribute__((unused)) static const char *name_of(long fd, char path[36])
{
	char digits[20], *end = path;
	int count = 0;
	for (const char *each = SELF; *each; each++)
		*end++ = *each;
	do
		digits[count++] = '0' + fd % 10;
	while (fd /= 10);
	while (count)
		*end++ = digits[--count];
	*end = 0;
	return path;
}

#if SNAPSHOTS
enum { ADDR_NO_RANDOMIZE = 0x40000 };

/* The beginning of a snapshot, see snapshot.py. */
struct header {
	char mark[8];
	word length; /* bytes, all of it */
	word files, regions; /* how many follow, one kind after the other */
	unsigned processor[8];
	word registers[8]; /* as go_on takes them */
	word thread; /* the base of the segment register fs */
	word trial; /* whether it is one whose use is being tried */
};

struct file {
	word changed, size;
	word path; /* where it is in the header */
};

struct region {
	word address, length, protection;
	word place; /* where it is in the snapshot; 0: there is nothing in it */
};

/* What the process that goes on has to be told, see identity.py. */
static struct told {
	long *stack;
	word ignored; /* signals: bit 0 is for the first one */
} told;

enum { HEAD = 1 << 18 }; /* bytes: what comes before the first region */

void go_on(word *registers, long result);
void identify(int leaf, unsigned *registers);

static void identify_all(unsigned processor[8])
{
	identify(1, processor);
	processor[1] = 0; /* which of the processors it is, of this kind */
	identify(7, processor + 4);
}

/* For who makes a snapshot: what kind of processor this is. */
static void tell_processor(void)
{
	unsigned processor[8];
	identify_all(processor);
	call(WRITE, 1, (long)processor, sizeof processor, 0, 0, 0);
	call(EXIT, 0, 0, 0, 0, 0, 0);
}

/* The snapshot, if it is whole and of this processor: its descriptor, and its head. */
static long opened(struct header **found)
{
	enum { READ = 1, PRIVATE = 2 };
	unsigned processor[8];
#ifdef SEALED
	/* What a process in a container could reach of it, by what is mapped, cannot be written either. */
	char path[36];
	long tree = sealed(SNAPSHOT);
	if (tree < 0)
		return -1;
	long fd = call(OPENAT, AT_FDCWD, (long)name_of(tree, path), CLOEXEC, 0, 0, 0);
	call(CLOSE, tree, 0, 0, 0, 0, 0);
#else
	long fd = call(OPENAT, AT_FDCWD, (long)SNAPSHOT, CLOEXEC, 0, 0, 0);
#endif
	if (fd < 0)
		return -1;
	long mapped = call(MMAP, 0, HEAD, READ, PRIVATE, fd, 0);
	word length = look(SNAPSHOT)->size;
	if ((mapped < 0 && mapped > -4096) || length < HEAD)
		return -1;
	struct header *head = (struct header *)mapped;
	for (int i = 0; i < 8; i++)
		if (head->mark[i] != MARK[i])
			return -1;
	identify_all(processor);
	for (int i = 0; i < 8; i++)
		if (head->processor[i] != processor[i])
			return -1;
	*found = head;
	return length == head->length ? fd : -1;
}

/* Whether all that the process had read is still as it was then. */
static int is_current(struct header *head)
{
	struct file *file = (struct file *)(head + 1);
	for (word i = 0; i < head->files; i++, file++) {
		struct known *now = look((char *)head + file->path);
		if (now->changed != file->changed || now->size != file->size)
			return 0;
	}
	return 1;
}

static word ignored_signals(void)
{
	enum { SIGNALS = 64, SIG_IGN = 1 };
	word action[4], found = 0; /* a handler, flags, what it returns to, a mask */
	for (int number = 1; number <= SIGNALS; number++)
		if (!call(RT_SIGACTION, number, 0, (long)action, 8, 0, 0) && action[0] == SIG_IGN)
			found |= 1ull << (number - 1);
	return found;
}

/* Be what the snapshot is of; returns if that cannot be. Nothing of this program's memory is in its way. */
static void go_on_from(long fd, struct header *head, long *stack)
{
	enum { PRIVATE = 2, ANONYMOUS = 0x20, NORESERVE = 0x4000, FIXED_NOREPLACE = 0x100000 };
	enum { ARCH_SET_FS = 0x1002, PR_SET_NAME = 15 };
	struct region *region = (struct region *)((struct file *)(head + 1) + head->files);
	for (word i = 0; i < head->regions; i++, region++) {
		long flags = PRIVATE | FIXED_NOREPLACE | (region->place ? 0 : ANONYMOUS | NORESERVE);
		if (call(MMAP, region->address, region->length, region->protection, flags, region->place ? fd : -1, region->place) !=
		    (long)region->address)
			return;
	}
	call(PRCTL, PR_SET_NAME, (long)PROGRAM, 0, 0, 0, 0);
	call(CLOSE, fd, 0, 0, 0, 0, 0);
	told.stack = stack;
	told.ignored = ignored_signals();
	call(ARCH_PRCTL, ARCH_SET_FS, head->thread, 0, 0, 0, 0);
	go_on(head->registers, (long)&told);
}

/* Whether this program has executed itself: by what name the kernel found it. */
static int is_second(char **environment)
{
	enum { AT_NULL = 0, AT_EXECFN = 31 };
	while (*environment)
		environment++;
	for (word *entry = (word *)(environment + 1); entry[0] != AT_NULL; entry += 2)
		if (entry[0] == AT_EXECFN)
			return begins((char *)entry[1], "/proc/self/");
	return 0;
}

/* Go on from the snapshot. For that it takes a second execution, which puts the kernel's parts of the address space where
 * none of the snapshot are, and this program on a read-only mount if it has to be. Returns if it cannot be.
 */
static void try_snapshot(long *stack, char **given, char **environment)
{
	static const char *const others[] = {OTHERS, 0};
	struct header *head;
	if (any(given, others, is_same))
		return;
#ifdef HARMLESS
	static const char *const wishes[] = {WISHES, 0}, *const harmless[] = {HARMLESS, 0};
	for (char **each = environment; *each; each++) {
		char *one[] = {*each, 0};
		if (any(one, wishes, begins) && !any(one, harmless, begins))
			return;
	}
#endif
	long persona = call(PERSONALITY, 0xffffffff, 0, 0, 0, 0, 0), fd;
	if (persona < 0)
		return;
	if (persona & ADDR_NO_RANDOMIZE && is_second(environment)) {
		/* What comes after this has random addresses again. */
		if (call(PERSONALITY, persona & ~ADDR_NO_RANDOMIZE, 0, 0, 0, 0, 0) >= 0 && (fd = opened(&head)) >= 0)
			go_on_from(fd, head, stack);
	} else if (!(persona & ADDR_NO_RANDOMIZE) && opened(&head) >= 0 && is_current(head)) {
#ifdef SEALED
		char path[36];
		long self = sealed("/proc/self/exe");
		const char *again = self < 0 ? 0 : name_of(self, path);
#else
		const char *again = "/proc/self/exe";
#endif
		if (!again || call(PERSONALITY, persona | ADDR_NO_RANDOMIZE, 0, 0, 0, 0, 0) < 0)
			return;
		call(EXECVE, (long)again, (long)given, (long)environment, 0, 0, 0);
		call(PERSONALITY, persona, 0, 0, 0, 0, 0);
	}
}
#endif

/* What the kernel put on the stack of a new process: the number of arguments, these, 0, the environment, 0. */
__attribute__((used, noreturn)) void launch(long *stack)
{
	static const char complaint[] = PROGRAM ": cannot execute " PYTHON "\n";
	long count = *stack;
	char **given = (char **)(stack + 1), **environment = given + count + 1;
#if SNAPSHOTS
	if (count == 1 && is_same(*given, "processor"))
		tell_processor();
	try_snapshot(stack, given, environment);
#endif
	const char *own[] = {PYTHON, ARGUMENTS};
	enum { OWN = sizeof own / sizeof *own };
	const char *arguments[OWN + count + 1];
	for (long i = 0; i < OWN; i++)
		arguments[i] = own[i];
	arguments[OWN] = 0;
	for (long i = 1; i <= count; i++)
		arguments[OWN - 1 + i] = given[i];
#ifdef SEALED
	static const char *const words[] = {SEALED, 0};
	char path[36];
	long fd = any((char **)arguments + OWN, words, is_same) ? sealed(PYTHON) : -1;
	if (fd >= 0)
		call(EXECVE, (long)name_of(fd, path), (long)arguments, (long)environment, 0, 0, 0);
#endif
	call(EXECVE, (long)PYTHON, (long)arguments, (long)environment, 0, 0, 0);
	call(WRITE, 2, (long)complaint, sizeof complaint - 1, 0, 0, 0);
	for (;;)
		call(EXIT, 1, 0, 0, 0, 0, 0);
}
