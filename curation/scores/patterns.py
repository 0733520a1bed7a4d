"""What captions are made of that says nothing of the picture, and what must not be in them.

Every pattern is linear in the length of a caption, however hostile.
"""

import re

FLAGS = re.IGNORECASE

URL = re.compile(r"(?:https?://|www\.)\S+", FLAGS)
EXTENSION = re.compile(r"\.(?:jpe?g|png|webp|gif|bmp|tiff?|html?)\b", FLAGS)

MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]{0,6}\.?"
DATE = re.compile(
    r"\b(?:"
    r"\d{4}([-/.])\d{1,2}\1\d{1,2}"  # 2019-10-31
    r"|\d{1,2}([-/.])\d{1,2}\2(?:\d{4}|\d{2})"  # 31.10.2019, 10/31/19
    rf"|\d{{1,2}}(?:st|nd|rd|th)? {MONTH} \d{{4}}"  # 31 October 2019
    rf"|{MONTH} \d{{1,2}}(?:st|nd|rd|th)?,? \d{{4}}"  # Oct 31st, 2019
    r")\b",
    FLAGS,
)

# A caption that is nothing but one of these was written by a camera or a program.
FILE_NAME = re.compile(
    r"(?:"
    r"(?:img|dsc[nf]?|pict|p|mvi|gopr|pxl|sam|screen ?shot|whatsapp image|photo|image|picture|pic)"
    r"[-_ ]?\(?\d[\d_ .:()-]*(?:at [\d.:-]+)?"  # IMG_1234, Screenshot 2019-10-31 at 10.11.12
    r"|[0-9a-f]{16,}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"  # a digest, a UUID
    r"|[\d_ .:()/-]+"  # nothing but numbers
    r"|\S+(?=\.(?:jpe?g|png|webp|gif|bmp|tiff?)$)"  # any one word with an extension
    r")(?:\.(?:jpe?g|png|webp|gif|bmp|tiff?))?",
    FLAGS,
)
EMPTY_WORDS = frozenset((
    "avatar", "background", "banner", "cover", "default", "dummy", "gallery", "header", "hero",
    "icon", "image", "images", "img", "loading", "logo", "no image", "no-image", "none", "null",
    "photo", "photos", "pic", "picture", "placeholder", "preview", "profile", "slide", "slider",
    "spacer", "test", "thumb", "thumbnail", "undefined", "unknown", "unnamed", "untitled",
))  # fmt: skip
PHRASES = (
    "stock photo", "stock image", "stock vector", "stock illustration", "stock footage",
    "royalty free", "royalty-free", "shutterstock", "gettyimages", "getty images", "istock",
    "alamy", "dreamstime", "depositphotos", "123rf", "adobe stock", "bigstock",
    "click here", "click to enlarge", "click to view", "click to zoom", "view larger image",
    "view full size", "no image available", "no photo available", "image not found",
    "image not available", "image coming soon", "photo coming soon", "image may contain",
    "image result for", "all rights reserved",
)  # fmt: skip

EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[a-z]{2,24}\b", FLAGS)
NUMBER = re.compile(r"(?<![\w.])\+?\(?\d[\d ().-]{5,30}\d(?![\w])")
DIGIT = re.compile(r"\d")


def url_characters(caption: str) -> int:
    """Characters in web addresses and file names."""
    found = sum(len(match) for match in URL.findall(caption))
    for word in URL.sub(" ", caption).split():
        ends = [match.end() for match in EXTENSION.finditer(word, 1)]
        found += ends[-1] if ends else 0
    return found


def date_characters(caption: str) -> int:
    """Characters in dates; a year alone is none."""
    return sum(match.end() - match.start() for match in DATE.finditer(caption))


def is_file_name(caption: str) -> bool:
    """Whether a caption, stripped, is a camera's or a program's name for a file."""
    return bool(FILE_NAME.fullmatch(caption))


def is_boilerplate(folded: str) -> bool:
    """Whether a casefolded caption says nothing: an empty word, or a stock agency's phrase."""
    return folded.strip(" .!:-_()[]") in EMPTY_WORDS or any(map(folded.__contains__, PHRASES))


def phones_and_cards(caption: str) -> tuple[int, int]:
    """Telephone numbers (9 to 15 digits, grouped or with +; not a date) and card numbers.

    A card number has 13 to 19 digits, starts with 2 to 6 and passes the Luhn check (ISO/IEC 7812).
    """
    phones = cards = 0
    for match in NUMBER.finditer(caption):
        text = match.group()
        digits = "".join(sign for sign in text if "0" <= sign <= "9")
        if 13 <= len(digits) <= 19 and digits[0] in "23456" and luhn(digits):
            cards += 1
        elif 9 <= len(digits) <= 15 and (text[0] == "+" or len(text) - len(digits) >= 2):
            phones += DATE.search(text) is None
    return phones, cards


def luhn(digits: str) -> bool:
    """The check digit of card numbers."""
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(doubled)) % 10 == 0
