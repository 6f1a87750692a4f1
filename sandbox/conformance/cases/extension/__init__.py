"""Cases for extensions: `lab` is an `ExtensionLab`."""
