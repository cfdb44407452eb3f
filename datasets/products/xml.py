"""Small XML files: read without document types, entities, or anything else that could grow or name other files."""

import xml.parsers.expat
from dataclasses import dataclass, field
from pathlib import Path

_LARGEST = 2**25  # bytes; metadata of EnMAP are 1 MB
_DEEPEST = 64


@dataclass
class Element:
    """An element: its name, attributes, text and children."""

    name: str
    attributes: dict[str, str]
    text: str = ""
    children: list["Element"] = field(default_factory=list)

    def all(self, path: str) -> list["Element"]:
        """The elements at a path of names, such as "specific/bandCharacterisation/bandID"."""
        found = [self]
        for name in path.split("/"):
            found = [child for element in found for child in element.children if child.name == name]
        return found

    def one(self, path: str) -> str | None:
        """The text of the first element at a path; None if there is none."""
        return next((element.text.strip() for element in self.all(path)), None)


def read_xml(path: Path) -> Element:
    """Read a file and return its root.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not XML, larger than 32 MiB, nested more than 64 times, or with a document type, which no product has and
            entities without bounds are made of.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"{path}: {path.stat().st_size} bytes, expected metadata of up to {_LARGEST}")
    open_elements = [Element("", {})]

    def start(name: str, attributes: dict[str, str]) -> None:
        if len(open_elements) > _DEEPEST:
            raise ValueError(f"{path}: elements nested more than {_DEEPEST} times")
        element = Element(name, attributes)
        open_elements[-1].children.append(element)
        open_elements.append(element)

    def end(name: str) -> None:
        del name
        open_elements.pop()

    def characters(text: str) -> None:
        open_elements[-1].text += text

    def document_type(*_: object) -> None:
        raise ValueError(f"{path}: has a document type, which is not read")

    parser = xml.parsers.expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = characters, document_type
    try:
        parser.Parse(path.read_bytes(), True)
    except xml.parsers.expat.ExpatError as error:
        raise ValueError(f"{path}: truncated or not XML ({error})") from error
    return open_elements[0].children[0]
