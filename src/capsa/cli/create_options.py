"""The options that ``capsa create`` and ``capsa run`` share: docker's."""

CREATE = """
      --add-host list             Add a line to /etc/hosts (host:ip)
      --annotation list           Add an annotation to the container's OCI configuration (name=value)
  -a, --attach list               Attach to STDIN, STDOUT or STDERR
      --blkio-weight int          Block IO weight, between 10 and 1000, or 0 to disable (default 0)
      --blkio-weight-device list  Block IO weight of a device (path:weight)
      --cap-add list              Add Linux capabilities
      --cap-drop list             Drop Linux capabilities
      --cgroup-parent string      Parent cgroup of the container
      --cgroupns string           Cgroup namespace (host or private)
      --cidfile string            Write the container's ID to a file
      --cpu-period int            CFS (Completely Fair Scheduler) period, in microseconds
      --cpu-quota int             CFS quota, in microseconds
      --cpu-rt-period int         Real-time period, in microseconds
      --cpu-rt-runtime int        Real-time runtime, in microseconds
  -c, --cpu-shares int            CPU shares (relative weight)
      --cpus decimal              Number of CPUs
      --cpuset-cpus string        CPUs to run on (0-3, 0,1)
      --cpuset-mems string        Memory nodes to use (0-3, 0,1)
      --device list               Add a host device (path[:path in container[:rwm]])
      --device-cgroup-rule list   Add a rule to the devices the container may use ('c 42:* rmw')
      --device-read-bps list      Limit reads from a device (path:bytes a second)
      --device-read-iops list     Limit reads from a device (path:operations a second)
      --device-write-bps list     Limit writes to a device (path:bytes a second)
      --device-write-iops list    Limit writes to a device (path:operations a second)
      --dns list                  Set DNS servers
      --dns-option list           Set DNS options
      --dns-search list           Set DNS search domains
      --domainname string         NIS domain name of the container
      --entrypoint string         Run this instead of the image's entry point
  -e, --env list                  Set an environment variable (name=value, or name to pass on one's own)
      --env-file list             Read environment variables from a file
      --expose list               Expose a port or a range of ports
      --gpus list                 GPUs to add to the container (all, or count=...,device=...)
      --group-add list            Join additional groups
      --health-cmd string         Command to run to check health
      --health-interval duration  Time between running the check (1m30s)
      --health-retries int        Failures in a row that it takes to report unhealthy
      --health-start-interval duration  Time between checks during the start period
      --health-start-period duration    Time for the container to start before failures count
      --health-timeout duration   Longest time one check may take
  -h, --hostname string           Host name of the container
      --init                      Run an init inside the container that forwards signals and reaps processes
  -i, --interactive               Keep standard input open even if not attached
      --ip string                 IPv4 address
      --ip6 string                IPv6 address
      --ipc string                IPC mode to use
      --isolation string          Isolation technology (default)
      --kernel-memory bytes       Kernel memory limit
  -l, --label list                Set metadata on the container
      --label-file list           Read labels from a file, one a line
      --link list                 Add a link to another container
      --link-local-ip list        IPv4 or IPv6 link-local address
      --log-driver string         Logging driver of the container
      --log-opt list              Options of the logging driver (max-size=10m)
      --mac-address string        MAC address of the container (92:d0:c6:0a:29:33)
  -m, --memory bytes              Memory limit
      --memory-reservation bytes  Soft memory limit
      --memory-swap bytes         Limit of memory and swap together; -1 for unlimited swap
      --memory-swappiness int     Tune swappiness (0 to 100)
      --mount list                Attach a file system mount (type=bind,source=...,target=...)
      --name string               Assign a name to the container
      --network list              Connect the container to a network: bridge, none, host, container:NAME, a name, or
                                  name=...,alias=...,ip=...,ip6=...,mac-address=...,driver-opt=...,gw-priority=...
      --network-alias list        Add a name by which the network knows the container
      --no-healthcheck            Disable the image's health check
      --oom-kill-disable          Disable the kernel's out-of-memory killer
      --oom-score-adj int         Tune the host's preferences when out of memory (-1000 to 1000)
      --pid string                PID namespace to use (host or container:NAME)
      --pids-limit int            Limit of processes (-1 for unlimited)
      --platform string           Platform of the image, where it has several (os/architecture)
      --privileged                Give extended privileges to the container
  -p, --publish list              Publish a container's port to the host ([[ip:]port:]port[/protocol])
  -P, --publish-all               Publish all exposed ports to random ports
      --pull string               Pull the image before creating (always, missing, never) (default "missing")
  -q, --quiet                     Do not show how the pull goes on
      --read-only                 Mount the container's root file system read-only
      --restart string            When to restart the container (no, always, unless-stopped, on-failure[:times])
      --rm                        Remove the container and its anonymous volumes when it exits
      --runtime string            Runtime to use for this container
      --security-opt list         Security options (seccomp=FILE, no-new-privileges, ...)
      --shm-size bytes            Size of /dev/shm
      --stop-signal string        Signal to stop the container
      --stop-timeout int          Seconds to wait for the container to stop before it is killed
      --storage-opt list          Options of the container's storage
      --sysctl list               Set a kernel parameter in the container's namespaces (name=value)
      --tmpfs list                Mount a tmpfs directory (path[:options])
  -t, --tty                       Give the container a terminal
      --ulimit list               Set a resource limit (name=soft[:hard])
  -u, --user string               User name or UID (user[:group])
      --userns string             User namespace to use
      --uts string                UTS namespace to use
  -v, --volume list               Bind mount a volume or directory (source:target[:options])
      --volume-driver string      Driver of the container's volumes
      --volumes-from list         Mount the volumes of another container
  -w, --workdir string            Working directory inside the container
"""

RUN = (
    CREATE
    + """  -d, --detach                    Run the container in the background and print its ID
      --detach-keys string        Keys that detach from the container (default "ctrl-p,ctrl-q")
      --sig-proxy                 Pass signals on to the process (default true)
"""
)

_WINDOWS = "that is for Windows containers"
# What docker's create and run know besides, and why it is refused.
REFUSED = {
    "cpu-count": f"{_WINDOWS} (use --cpus)",
    "cpu-percent": f"{_WINDOWS} (use --cpus)",
    "disable-content-trust": "there is no content trust to switch off",
    "io-maxbandwidth": f"{_WINDOWS} (use --device-read-bps and --device-write-bps)",
    "io-maxiops": f"{_WINDOWS} (use --device-read-iops and --device-write-iops)",
    "use-api-socket": "mount the engine's socket with --volume where a container is to command the engine",
}
