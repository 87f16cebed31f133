"""What a person did wrong, and what to do about it.

A `UserError` is one clear line: the command line prints it and exits with status 2. Any other exception that
reaches the top is a bug of ours and exits with status 1.
"""


class UserError(Exception):
    """A mistake a person can mend; the message says what is wrong and what to do."""


class ConfigError(UserError):
    """The run file, an override or an option is wrong."""


class DataError(UserError):
    """The data cannot be read, or does not say what the run file claims."""


class ModelError(UserError):
    """The base model or its tokenizer cannot be used."""


class AdapterError(UserError):
    """An adapter, its configuration or its use is wrong."""


class RunError(UserError):
    """The run directory is in the way, damaged, or belongs to another run."""


class ElsewhereError(RunError):
    """Another process of the run has failed and says how; this one ends without a word."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message that is not empty; its type where the message says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def one_line(text: str) -> str:
    """A text on one line, control characters written out."""
    return visible(" ".join(text.split()))


def visible(text: str) -> str:
    """A text with its control characters written out: what a file holds must not steer a terminal."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


class Interrupted(BaseException):
    """A signal asked the run to stop, and it did; the message says what is saved and how to go on.

    No Exception, so that nothing on the way takes it for an error to be handled; and no KeyboardInterrupt, which the
    command line's parser turns into an ending of its own.
    """

    def __init__(self, signum: int, message: str = "") -> None:
        super().__init__(message)
        self.signum = signum

    @property
    def status(self) -> int:
        """The exit status that a shell gives a process ended by this signal: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.signum
