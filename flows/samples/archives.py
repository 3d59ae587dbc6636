"""Exports in archives as people pack them (the folder, its parent, only the files), and broken archives."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable

from flows.samples.chats import SINGLE_TYPES
from flows.samples.exports import Export, Maker

#: One date for all members, so that the same seed writes the same bytes.
_DATE = (2024, 5, 1, 12, 0, 0)
_ENCRYPTED = 0x1
#: A cut at this share of result.json leaves complete messages and the beginning of one.
_CUT = 0.6
#: So many bytes end within the name of the first member of a ZIP.
_IN_FIRST_HEADER = 35


class Packed:
    """The bytes of one source file and a realistic name."""

    def __init__(self, name: str, data: bytes, *exports: Export) -> None:
        """Count the chats and messages of ``exports``; there are none in an unreadable archive."""
        self.name = name
        self.data = data
        self.chats = sum(export.chats for export in exports)
        self.messages = sum(export.messages for export in exports)


def zipped(files: dict[str, bytes]) -> bytes:
    """Return a ZIP archive of ``files``: texts deflated, media stored, as archivers do."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, content in files.items():
            info = zipfile.ZipInfo(path, _DATE)
            info.external_attr = 0o644 << 16
            text = path.endswith((".json", ".html", ".txt"))
            info.compress_type = zipfile.ZIP_DEFLATED if text else zipfile.ZIP_STORED
            archive.writestr(info, content, compresslevel=6)
    return buffer.getvalue()


def _below(export: Export, prefix: str | None = None) -> dict[str, bytes]:
    prefix = f"{export.folder}/" if prefix is None else prefix
    return {prefix + path: content for path, content in export.files.items()}


def _kind(maker: Maker) -> str:
    return SINGLE_TYPES[maker.spec.index % len(SINGLE_TYPES)]


def _named(maker: Maker) -> str:
    kind = _kind(maker)
    return "private_supergroup" if kind == "saved_messages" else kind


def _folder(maker: Maker) -> Packed:
    export = maker.json(_kind(maker), maker.spec.messages)
    return Packed(f"{export.folder}.zip", zipped(_below(export)), export)


def _account(maker: Maker) -> Packed:
    export = maker.account_json(maker.spec.messages)
    return Packed(f"{export.folder}.zip", zipped(_below(export)), export)


def pages(maker: Maker) -> Packed:
    """Pack a chat with a name, in HTML."""
    export = maker.html(_named(maker), maker.spec.messages)
    return Packed(f"{export.folder}.zip", zipped(_below(export)), export)


def _only_files(maker: Maker) -> Packed:
    export = maker.json(_kind(maker), maker.spec.messages)
    return Packed("Архив чата.zip", zipped(_below(export, "")), export)


def both(maker: Maker) -> Packed:
    """Pack a chat with a name, in both JSON and HTML."""
    export = maker.both(_named(maker), maker.spec.messages)
    return Packed(f"{export.folder} both.zip", zipped(_below(export)), export)


def updated(maker: Maker) -> Packed:
    """Pack a later export of the chat that :func:`both` packs."""
    export = maker.updated(_named(maker), maker.spec.messages)
    return Packed(f"{export.folder}.zip", zipped(_below(export)), export)


def _several(maker: Maker) -> Packed:
    counts = iter(
        [
            maker.spec.messages // 3,
            maker.spec.messages // 3,
            maker.spec.messages - 2 * (maker.spec.messages // 3),
        ]
    )
    exports = [
        maker.json(_kind(maker), next(counts)),
        maker.html("private_group", next(counts)),
        maker.json("public_channel", next(counts)),
    ]
    files: dict[str, bytes] = {}
    for number, export in enumerate(exports):
        files |= _below(export, f"exports/{number}/{export.folder}/")
    return Packed("exports.zip", zipped(files), *exports)


def _parent(maker: Maker) -> Packed:
    export = maker.json(_kind(maker), maker.spec.messages)
    beside = {"Downloads/read me.txt": b"old chats\n", "Downloads/photo.jpg": b"\xff\xd8\xff\xe0 not a photo"}
    return Packed(
        "Downloads.zip",
        zipped(beside | _below(export, f"Downloads/Telegram Desktop/{export.folder}/")),
        export,
    )


def _account_pages(maker: Maker) -> Packed:
    export = maker.account_html(maker.spec.messages)
    return Packed(f"{export.folder} html.zip", zipped(_below(export)), export)


def _bare(maker: Maker) -> Packed:
    export = maker.json(_kind(maker), maker.spec.messages)
    return Packed("result.json", export.files["result.json"], export)


#: The ways to pack an export, in the order in which the generator uses them.
PACKINGS: list[Callable[[Maker], Packed]] = [
    _folder, _account, pages, _only_files, both, _several, _parent, _account_pages, _bare,
]  # fmt: skip


def _cut_off(maker: Maker) -> Packed:
    data = _folder(maker).data
    return Packed("cut off.zip", data[:_IN_FIRST_HEADER])  # of what is whole before a cut, all is read


def _encrypted(maker: Maker) -> Packed:
    data = bytearray(_folder(maker).data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for info in archive.infolist():
            data[info.header_offset + 6] |= _ENCRYPTED
        entry = archive.start_dir
    while data[entry : entry + 4] == b"PK\x01\x02":
        data[entry + 8] |= _ENCRYPTED
        entry += 46 + sum(int.from_bytes(data[entry + at : entry + at + 2], "little") for at in (28, 30, 32))
    return Packed("encrypted.zip", bytes(data))


def _not_an_export(maker: Maker) -> Packed:
    return Packed(
        "holiday.zip",
        zipped({"holiday/DSC_0001.jpg": maker.rng.randbytes(500), "holiday/list.txt": b"socks\n"}),
    )


def _not_an_archive(maker: Maker) -> Packed:
    return Packed("not an archive.zip", b"MZ" + maker.rng.randbytes(1_000))


def _cut_json(maker: Maker) -> Packed:
    export = maker.json(_kind(maker), maker.spec.messages)
    text = export.files["result.json"]
    text = text[: int(len(text) * _CUT)]
    export.files["result.json"] = text
    # The cut may directly follow a message, before its comma.
    export.messages = len(re.findall(rb"\n  \}(?=,\n|,?\Z)", text)) if maker.spec.messages else 0
    return Packed("interrupted.zip", zipped(_below(export)), export)


def _empty(maker: Maker) -> Packed:
    return Packed("empty.zip", b"")


#: The ways to break an archive, with the expected outcome of each.
BREAKAGES: list[tuple[Callable[[Maker], Packed], str]] = [
    (_cut_off, "quarantined"),
    (_cut_json, "partial"),
    (_encrypted, "quarantined"),
    (_not_an_export, "quarantined"),
    (_not_an_archive, "quarantined"),
    (_empty, "quarantined"),
]
