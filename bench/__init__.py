"""``make bench``: capsa beside docker, podman, runc and crun, measured in one run on one machine."""
