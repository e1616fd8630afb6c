"""The seal of a JSON document: its first field is the SHA-256 of the text without it, so that an edit shows."""

import hashlib

_START, _SEAL = "{\n", '{\n "digest": "'
_LENGTH = len(_SEAL) + 64 + len('",\n')


def sealed(text: str) -> str:
    """Return an indented JSON object with ``digest`` as its first field."""
    return _seal(text) + text.removeprefix(_START)


def unsealed(text: str) -> str:
    """Return a document without its seal, as it is where it has none; ``ValueError`` where it was changed since."""
    text = text.rstrip()
    if not text.startswith(_SEAL):
        return text
    whole = _START + text[_LENGTH:]
    if text[:_LENGTH] != _seal(whole):
        raise ValueError("it was changed after it was written")
    return whole


def _seal(text: str) -> str:
    return f'{_SEAL}{hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()}",\n'
