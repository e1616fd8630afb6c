"""The pictures of a page: what is shown many times is kept once."""

import hashlib

import numpy as np
from markupsafe import Markup

from gifthorse.report.figures import Picture, picture_row


class Pictures:
    """Gives pictures a number each, and those that are equal the same one.

    A page shows picture n in an element of the class ``pn``, for which the style sheet at the page's end has the file
    as the background. So it is there without a script, is decoded once it is seen, and takes its room once.
    """

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}
        self._pictures: list[Picture] = []

    def number(self, pixels: np.ndarray) -> int:
        """Return the number of pictures ``uint8 (N, C, H, W)`` side by side."""
        identity = hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).digest()
        if identity not in self._numbers:
            self._numbers[identity] = len(self._pictures)
            self._pictures.append(picture_row(pixels))
        return self._numbers[identity]

    def style_sheet(self) -> Markup:
        """Return a rule for every picture so far."""
        rule = Markup(".p{}{{width:{}px;aspect-ratio:{}/{};background-image:url({})}}\n")
        return Markup("").join(
            rule.format(number, picture.width, picture.width, picture.height, picture.uri)
            for number, picture in enumerate(self._pictures)
        )
