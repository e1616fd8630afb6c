"""The two ways in which a request can end early."""


class RequestError(ValueError):
    """The request was wrong; the message is one clear line for the person who made it."""


class StoreError(OSError):
    """The store could not be written; what was finished is kept, and the next run continues."""
