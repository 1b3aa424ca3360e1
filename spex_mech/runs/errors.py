"""Errors of workers, apart from what they need to run, so that the command line can name them."""


class WorkerError(RuntimeError):
    """A worker was lost, or its game raised what cannot be sent here; the text says which."""


class WorkerTrace(Exception):
    """The traceback of an error on a worker, as text: the cause of the error here."""
