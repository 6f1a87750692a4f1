"""Cases for runtimes: `lab` is a `RuntimeLab`."""
