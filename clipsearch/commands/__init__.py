"""One command a file: each parses its options and calls one function of a room, imported when it is called."""
