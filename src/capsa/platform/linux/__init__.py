"""The Linux platform: namespaces, cgroups and mounts, one sub-init per container."""
