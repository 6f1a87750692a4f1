"""What is done to a target, a folder for each kind. A case knows its laboratory, and neither reports nor the command line."""
