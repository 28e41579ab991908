"""The one error that means "the data were refused"."""


class DataError(ValueError):
    """Bad input, found before training starts; the launcher turns it into exit code 3.

    The message names the file, the row or key, and how to mend it.
    """
