"""One module a group of commands. Heavy imports happen inside the functions that need them."""
