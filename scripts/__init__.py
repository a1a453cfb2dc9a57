"""The commands; installed, this folder is the package `costgrad`."""
