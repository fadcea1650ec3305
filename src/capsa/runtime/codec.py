"""Python's package ``encodings``, where ``capsa-runtime`` begins: UTF-8, and the real one once another is looked for.

No Python begins without. The real one takes it a twelfth of its time, most of that to find it among 200 others and for
a table of 330 names. So the launcher has Python begin with a library of which this is all (``pyvenv.cfg``), and puts in
here where the whole one is.
"""

import codecs
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

LIBRARY = ""  # put in by .ci/launcher
__path__ = [f"{LIBRARY}/encodings"]


def _decode(data: "Buffer", errors: str = "strict", /) -> tuple[str, int]:
    return codecs.utf_8_decode(data, errors, True)


class _Encoder(codecs.IncrementalEncoder):
    def encode(self, text: str, final: bool = False) -> bytes:
        return codecs.utf_8_encode(text, self.errors)[0]


class _Decoder(codecs.BufferedIncrementalDecoder):
    @staticmethod
    def _buffer_decode(data: bytes, errors: str, final: bool) -> tuple[str, int]:  # type: ignore[override]
        return codecs.utf_8_decode(data, errors, final)


_UTF_8 = codecs.CodecInfo(
    codecs.utf_8_encode, _decode, incrementalencoder=_Encoder, incrementaldecoder=_Decoder, name="utf-8"
)


def _search(name: str) -> codecs.CodecInfo | None:
    """What Python asks for the codec of this name; the whole package has one, too, that is asked from then on."""
    if name in ("utf-8", "utf_8", "utf8"):
        return _UTF_8
    if "search_function" not in globals():
        loader = sys.modules["_frozen_importlib_external"].SourceFileLoader
        loader(__name__, f"{__path__[0]}/__init__.py").exec_module(sys.modules[__name__])
        found: codecs.CodecInfo | None = globals()["search_function"](name)
        return found
    return None


if __name__ == "encodings":
    sys.path[:] = [LIBRARY, f"{LIBRARY}/lib-dynload"]
    __package__ = __name__  # though it was found as a module: the real one imports relative to it
    if __spec__ is not None:
        __spec__.submodule_search_locations = __path__
    codecs.register(_search)
