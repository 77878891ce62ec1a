"""What the commands of the command line do, a file for each group of them."""
