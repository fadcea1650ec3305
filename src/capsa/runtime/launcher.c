/* Where `capsa-runtime` begins: becomes Python, for what makes processes in containers from a read-only mount that is
 * nowhere in the file tree (see sealing.py, which does the same in a second start of Python where this one is not used).
 *
 * .ci/launcher compiles it, for a venv whose places are PYTHON, ENTRY, COMPILED and PACKAGES. It has no libc, whose
 * start would take longer than all of this, and nothing that an environment could change. To copy or to fill memory is
 * avoided: compilers call functions of a libc for that.
 */

/* A system call, see syscall(2): its number and five arguments. The process begins at _start. */
long call(long number, long a, long b, long c, long d, long e);

#if defined(__x86_64__)
enum { EXECVE = 59, EXIT = 60, STATX = 332, WRITE = 1 };
__asm__(".text\n.globl call, _start\n"
        "call:\n\tmov %rdi, %rax\n\tmov %rsi, %rdi\n\tmov %rdx, %rsi\n\tmov %rcx, %rdx\n\tmov %r8, %r10\n\tmov %r9, %r8\n"
        "\tsyscall\n\tret\n"
        "_start:\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall launch\n");
#elif defined(__aarch64__)
enum { EXECVE = 221, EXIT = 93, STATX = 291, WRITE = 64 };
__asm__(".text\n.globl call, _start\n"
        "call:\n\tmov x8, x0\n\tmov x0, x1\n\tmov x1, x2\n\tmov x2, x3\n\tmov x3, x4\n\tmov x4, x5\n\tsvc 0\n\tret\n"
        "_start:\n\tmov x0, sp\n\tbl launch\n");
#else
#error "capsa-runtime has no launcher for this machine"
#endif

/* The same numbers on all machines, see sealing.py. */
enum { OPEN_TREE = 428, MOUNT_SETATTR = 442 };
enum { CLONE = 1, CLOEXEC = 02000000, AT_FDCWD = -100, AT_EMPTY_PATH = 0x1000, RDONLY_NOSUID_NODEV = 1 | 2 | 4 };

static const char *const SEALED[] = {"create", "exec", "restore", "run"};

static int same(const char *one, const char *other)
{
	while (*one && *one == *other)
		one++, other++;
	return *one == *other;
}

static int makes_processes(char **word)
{
	for (; *word; word++)
		for (unsigned i = 0; i < sizeof SEALED / sizeof *SEALED; i++)
			if (same(*word, SEALED[i]))
				return 1;
	return 0;
}

/* When a file was changed, in nanoseconds since 1970; 0 if it is not there. */
static long long changed(const char *path)
{
	enum { STATX_MTIME = 0x40, AT_MTIME = 112 / 8 };
	long long found[256 / 8];
	if (call(STATX, AT_FDCWD, (long)path, 0, STATX_MTIME, (long)found))
		return 0;
	return found[AT_MTIME] * 1000000000 + *(unsigned *)(found + AT_MTIME + 1);
}

/* PYTHON on a read-only mount of its own, as a path; PYTHON itself without the right or on an old kernel. */
static const char *sealed(char path[32])
{
	long long attributes[4];
	attributes[0] = RDONLY_NOSUID_NODEV;
	attributes[1] = attributes[2] = attributes[3] = 0;
	long fd = call(OPEN_TREE, AT_FDCWD, (long)PYTHON, CLONE | CLOEXEC, 0, 0);
	if (fd < 0 || call(MOUNT_SETATTR, fd, (long)"", AT_EMPTY_PATH, (long)attributes, sizeof attributes))
		return PYTHON;
	const char *prefix = "/proc/self/fd/";
	char digits[20], *end = path;
	int count = 0;
	while (*prefix)
		*end++ = *prefix++;
	do
		digits[count++] = '0' + fd % 10;
	while (fd /= 10);
	while (count)
		*end++ = digits[--count];
	*end = 0;
	return path;
}

/* What the kernel put on the stack of a new process: the number of arguments, these, 0, the environment, 0. */
__attribute__((used, noreturn)) void launch(long *stack)
{
	static const char complaint[] = "capsa-runtime: cannot execute " PYTHON "\n";
	enum { OWN = 4 }; /* arguments that are put before the caller's, less the name */
	long count = *stack;
	char **given = (char **)(stack + 1), **environment = given + count + 1;
	char *arguments[OWN + count + 2];
	char path[32];
	arguments[0] = PYTHON;
	arguments[1] = "-I";
	arguments[2] = "-S";
	arguments[3] = changed(COMPILED) > changed(ENTRY) ? COMPILED : ENTRY;
	arguments[4] = PACKAGES;
	for (long i = 1; i <= count; i++)
		arguments[OWN + i] = given[i];
	if (count < 1)
		arguments[OWN + 1] = 0;
	call(EXECVE, (long)(makes_processes(arguments + OWN + 1) ? sealed(path) : PYTHON), (long)arguments,
	     (long)environment, 0, 0);
	call(WRITE, 2, (long)complaint, sizeof complaint - 1, 0, 0);
	for (;;)
		call(EXIT, 1, 0, 0, 0, 0);
}
