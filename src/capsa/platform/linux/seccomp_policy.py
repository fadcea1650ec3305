"""The default seccomp policy: what Docker's allows, grouped by what the calls are for.

Everything is refused with EPERM but what is listed. Left out on purpose, among others: keyrings, io_uring, userfaultfd,
kexec, swap, the clock, modules, quotas, new mounts and namespaces, ``AF_VSOCK`` and ``AF_ALG`` sockets. Some of those
come with a capability, as a process with it could do the like anyway.
"""

from __future__ import annotations

import errno

from capsa.oci.runtime import Seccomp, SeccompArg, SyscallRule

_FILES = """
    open openat openat2 creat close close_range read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2
    lseek _llseek dup dup2 dup3 fcntl fcntl64 ioctl flock fsync fdatasync sync syncfs sync_file_range
    truncate truncate64 ftruncate ftruncate64 fallocate fadvise64 fadvise64_64 readahead cachestat
    sendfile sendfile64 splice tee vmsplice copy_file_range
    stat stat64 lstat lstat64 fstat fstat64 fstatat64 newfstatat statx statfs statfs64 fstatfs fstatfs64
    access faccessat faccessat2 chmod fchmod fchmodat fchmodat2 umask
    chown chown32 fchown fchown32 lchown lchown32 fchownat utime utimes utimensat utimensat_time64 futimesat
    link linkat symlink symlinkat unlink unlinkat readlink readlinkat rename renameat renameat2
    mkdir mkdirat rmdir mknod mknodat getdents getdents64 chdir fchdir getcwd name_to_handle_at
    getxattr lgetxattr fgetxattr getxattrat setxattr lsetxattr fsetxattr setxattrat
    listxattr llistxattr flistxattr listxattrat removexattr lremovexattr fremovexattr removexattrat
    pipe pipe2 memfd_create memfd_secret statmount listmount
"""
_WAITING = """
    select _newselect pselect6 pselect6_time64 poll ppoll ppoll_time64
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_wait epoll_wait_old epoll_pwait epoll_pwait2
    eventfd eventfd2 signalfd signalfd4 inotify_init inotify_init1 inotify_add_watch inotify_rm_watch fanotify_mark
    io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents io_pgetevents_time64
"""
_SOCKETS = """
    socketpair socketcall bind listen accept accept4 connect shutdown getsockname getpeername getsockopt setsockopt
    send sendto sendmsg sendmmsg recv recvfrom recvmsg recvmmsg recvmmsg_time64
"""
_MEMORY = """
    brk mmap mmap2 munmap mremap mprotect madvise msync mincore mseal remap_file_pages map_shadow_stack
    mlock mlock2 mlockall munlock munlockall membarrier pkey_alloc pkey_free pkey_mprotect
"""
_PROCESSES = """
    fork vfork execve execveat exit exit_group wait4 waitid waitpid process_mrelease pidfd_open pidfd_send_signal
    kill tkill tgkill pause alarm restart_syscall sigreturn rt_sigreturn sigprocmask sigaltstack
    rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64
    rt_tgsigqueueinfo futex futex_time64 futex_waitv futex_wait futex_wake futex_requeue
    set_robust_list get_robust_list rseq set_tid_address set_thread_area get_thread_area prctl uretprobe
    getpid getppid gettid getpgid getpgrp setpgid getsid setsid
    getpriority setpriority ioprio_get ioprio_set getrlimit ugetrlimit setrlimit prlimit64 getrusage times
    sched_getaffinity sched_setaffinity sched_getattr sched_setattr sched_getparam sched_setparam
    sched_getscheduler sched_setscheduler sched_get_priority_max sched_get_priority_min
    sched_rr_get_interval sched_rr_get_interval_time64 sched_yield getcpu riscv_hwprobe
    seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self
    ptrace process_vm_readv process_vm_writev
"""
_IDENTITY = """
    getuid getuid32 geteuid geteuid32 getgid getgid32 getegid getegid32 getgroups getgroups32 setgroups setgroups32
    getresuid getresuid32 getresgid getresgid32 setuid setuid32 setgid setgid32 setreuid setreuid32 setregid setregid32
    setresuid setresuid32 setresgid setresgid32 setfsuid setfsuid32 setfsgid setfsgid32 capget capset
"""
_TIME = """
    time gettimeofday nanosleep clock_nanosleep clock_nanosleep_time64 clock_gettime clock_gettime64
    clock_getres clock_getres_time64 clock_adjtime clock_adjtime64 adjtimex getitimer setitimer
    timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64
    timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64
"""
_MESSAGES = """
    ipc shmget shmat shmdt shmctl semget semop semctl semtimedop semtimedop_time64 msgget msgsnd msgrcv msgctl
    mq_open mq_unlink mq_notify mq_getsetattr mq_timedsend mq_timedsend_time64 mq_timedreceive mq_timedreceive_time64
"""
_SYSTEM = "uname sysinfo getrandom"
_ALWAYS = " ".join((_FILES, _WAITING, _SOCKETS, _MEMORY, _PROCESSES, _IDENTITY, _TIME, _MESSAGES, _SYSTEM)).split()

_NEW_NAMESPACES = "clone clone3 unshare setns"
# What comes with a capability.
_PRIVILEGED = {
    "CAP_BPF": "bpf",
    "CAP_DAC_READ_SEARCH": "open_by_handle_at",
    "CAP_PERFMON": "perf_event_open",
    "CAP_SYSLOG": "syslog",
    "CAP_SYS_ADMIN": f"""
        {_NEW_NAMESPACES} mount umount umount2 move_mount open_tree mount_setattr fsopen fsconfig fsmount fspick
        bpf perf_event_open fanotify_init quotactl quotactl_fd lookup_dcookie syslog sethostname setdomainname
        lsm_get_self_attr lsm_set_self_attr lsm_list_modules
    """,
    "CAP_SYS_BOOT": "reboot",
    "CAP_SYS_CHROOT": "chroot",
    "CAP_SYS_MODULE": "init_module finit_module delete_module",
    "CAP_SYS_NICE": "get_mempolicy set_mempolicy set_mempolicy_home_node mbind",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_PTRACE": "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace",
    "CAP_SYS_RAWIO": "iopl ioperm",
    "CAP_SYS_TIME": "settimeofday stime clock_settime clock_settime64",
    "CAP_SYS_TTY_CONFIG": "vhangup",
}


class _Machine:
    """What differs between machines: architectures (its own first), calls of its own, the place of clone's flags."""

    def __init__(self, architectures: str, calls: str = "", clone_flags: int = 0) -> None:
        self.architectures = [f"SCMP_ARCH_{name}" for name in architectures.split()]
        self.calls = calls.split()
        self.clone_flags = clone_flags


_ARM = "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls"
_MACHINES = {
    "x86_64": _Machine("X86_64 X86 X32", "arch_prctl modify_ldt"),
    "i686": _Machine("X86", "modify_ldt"),
    "aarch64": _Machine("AARCH64 ARM", _ARM),
    "armv7l": _Machine("ARM", _ARM),
    "riscv64": _Machine("RISCV64", "riscv_flush_icache"),
    "ppc64le": _Machine("PPC64LE", "sync_file_range2 swapcontext"),
    "s390x": _Machine("S390X S390", "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr", clone_flags=1),
}

# linux/sched.h: new mount, cgroup, UTS, IPC, user, PID and network namespaces.
_CLONE_NEW = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
_AF_ALG, _AF_VSOCK = 38, 40
# sys/personality.h: Linux, with 32-bit uname, with uname 2.6; 0xFFFFFFFF only asks.
_PERSONALITIES = (0x0, 0x0008, 0x20000, 0x20008, 0xFFFFFFFF)


def policy(capabilities: frozenset[str], machine: str) -> Seccomp:
    """The policy for a process with these capabilities on a machine (uname(2)); one unknown gets what all have."""
    here = _MACHINES.get(machine, _Machine(""))
    granted = {name for capability in capabilities for name in _PRIVILEGED.get(capability, "").split()}
    rules = [
        _allow([*_ALWAYS, *here.calls, *sorted(granted.difference(_ALWAYS))]),
        _allow(["socket"], SeccompArg(index=0, op="SCMP_CMP_LT", value=_AF_ALG)),
        _allow(["socket"], SeccompArg(index=0, op="SCMP_CMP_EQ", value=_AF_ALG + 1)),
        _allow(["socket"], SeccompArg(index=0, op="SCMP_CMP_GT", value=_AF_VSOCK)),
    ]
    rules += [_allow(["personality"], SeccompArg(index=0, op="SCMP_CMP_EQ", value=value)) for value in _PERSONALITIES]
    if "CAP_SYS_ADMIN" not in capabilities:
        flags = SeccompArg(index=here.clone_flags, op="SCMP_CMP_MASKED_EQ", value=_CLONE_NEW, value_two=0)
        rules.append(_allow(["clone"], flags))
        # clone3 has its flags in memory, where no filter sees them: C libraries fall back to clone.
        rules.append(SyscallRule(names=["clone3"], action="SCMP_ACT_ERRNO", errno_ret=errno.ENOSYS))
    return Seccomp(
        default_action="SCMP_ACT_ERRNO",
        default_errno_ret=errno.EPERM,
        architectures=here.architectures,
        syscalls=rules,
    )


def _allow(names: list[str], *arguments: SeccompArg) -> SyscallRule:
    return SyscallRule(names=names, action="SCMP_ACT_ALLOW", args=list(arguments))
