"""Text that can be stored: Python's strings may hold characters that no file can."""

from collections.abc import Sequence

from pellucid.core.errors import DataError

__all__ = ["check_text", "listed", "printable"]


def check_text(text: str, what: str) -> None:
    r"""Raise `DataError` if text cannot be stored as UTF-8; `what` names it in the message.

    Python reads names of files and arguments that are not UTF-8 as lone surrogates, such as U+DCFF.

    >>> check_text("caf\udce9", "a class name")
    Traceback (most recent call last):
    pellucid.core.errors.DataError: a class name is 'caf\udce9', which cannot be stored as UTF-8; rename it.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{what} is {text!a}, which cannot be stored as UTF-8; rename it.") from error


def printable(text: str) -> str:
    r"""Return text with characters that cannot be stored as UTF-8 replaced by escapes.

    >>> printable("caf\udce9")
    'caf\\udce9'
    """
    return text.encode("utf-8", "backslashreplace").decode()


def listed(words: Sequence[str], last: str = "and") -> str:
    """Join words to a phrase.

    >>> listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"], "or")
    ('a', 'a and b', 'a, b or c')
    """
    return f" {last} ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part)
