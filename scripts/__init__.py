"""The commands; each is a file that runs as it is, and a sub-command of `costgrad`."""
