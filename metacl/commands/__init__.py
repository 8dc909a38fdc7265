"""What the commands do, from the words of a command line on."""
