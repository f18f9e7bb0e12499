"""The one exception that means "the person asked for something that cannot be done"."""


class InputError(Exception):
    """Wrong use or wrong input.

    The message stands alone: it names the thing, the value and what is allowed. The command line
    prints it on standard error and ends with exit code 2, without a traceback.
    """
