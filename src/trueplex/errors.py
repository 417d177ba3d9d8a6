"""What can go wrong, named. Every error says what, why and how to fix it.

Each leaf is also the builtin that callers would catch without knowing trueplex, so
``except ValueError`` keeps working.
"""


def reason(error: Exception, most: int = 300) -> str:
    """What an error says, as part of a line: its first line without advice, or else its kind, cut to so many characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].partition(". Try: ")[0][:most]


class TrueplexError(Exception):
    """Root of every error that trueplex raises on purpose; the command line prints it as one line."""


class OptionError(TrueplexError, ValueError):
    """An option is unknown, out of range, contradictory, or could not act in the chosen mode."""


class InputError(TrueplexError, ValueError):
    """A problem, file or line that the user gave cannot be used."""


class ModelError(TrueplexError, ValueError):
    """A model cannot be found, read, or trusted to give right results here."""


class VerifierError(TrueplexError, ValueError):
    """A verifier cannot be read or was trained for another base model."""


class StoreError(TrueplexError, OSError):
    """Traces or results cannot be written or read."""


class MissingExtra(TrueplexError, ImportError):
    """An optional dependency is absent; the message names the extra that brings it."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed. Try: pip install 'trueplex[{extra}]'")
