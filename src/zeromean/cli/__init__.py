"""The commands of the ``zeromean`` program, one file each."""
