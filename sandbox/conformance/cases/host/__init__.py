"""Cases for hosts: `lab` is a `HostLab`."""
