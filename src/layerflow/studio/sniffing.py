"""Detection of a file's kind by its first bytes, regardless of its name."""

PICTURES = ("png", "jpg", "gif", "webp", "avif")
KINDS = (*PICTURES, "mp4", "mkv", "avi")
"""Accepted kinds; mp4 includes QuickTime, mkv includes WebM."""


def sniff(head: bytes) -> str | None:
    """Return the kind of a file by its first 32 bytes, one of `KINDS`; None for anything else."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if head[:4] == b"RIFF":
        return {b"WEBP": "webp", b"AVI ": "avi"}.get(head[8:12])
    if head[4:8] == b"ftyp":
        return "avif" if head[8:12] in (b"avif", b"avis") else "mp4"
    if head[4:8] in (b"moov", b"mdat", b"wide", b"free"):
        return "mp4"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "mkv"
    return None
