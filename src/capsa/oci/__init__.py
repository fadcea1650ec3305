"""Types of the OCI specifications."""
