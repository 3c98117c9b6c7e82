"""Build an atlas of fetched art."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import chain
from pathlib import Path

from layerflow.core.atomic import whole_folder
from layerflow.mini.art import animated, characters, drawings, film, furniture, panoramas, photographs
from layerflow.mini.art.packages import listing
from layerflow.mini.art.pictures import SIDE, ArtError, BackgroundArt, Pixels, SpriteArt, cut, moves
from layerflow.mini.world.atlas import BACKGROUNDS, INDEX, SPRITES, Background, Sprite, index_of, write_array

SPRITE_SOURCES: dict[str, Callable[[Path], Iterable[SpriteArt]]] = {
    "animated emoji": animated.sprites,
    "drawn emoji": drawings.sprites,
    "furniture": furniture.sprites,
    "characters": characters.sprites,
}
BACKGROUND_SOURCES: dict[str, Callable[[Path], Iterable[BackgroundArt]]] = {
    "photographs": photographs.backgrounds,
    "panoramas": panoramas.backgrounds,
    "film": film.backgrounds,
}
_PROCESSES = 2


def build(art: Path, target: Path, report: Callable[[str], None] = print, sources: Iterable[str] | None = None) -> None:
    """Build an atlas; it appears whole or not at all, and replaces an earlier one.

    Args:
        art: folder that `packages.fetch` has filled.
        target: folder of the atlas.
        report: receives a line of progress for each source.
        sources: names in SPRITE_SOURCES and BACKGROUND_SOURCES to take; all by default.

    Raises:
        ArtError: art is missing or damaged, or a library to read it is not installed.
    """
    chosen = {*SPRITE_SOURCES, *BACKGROUND_SOURCES} if sources is None else set(sources)
    if unknown := chosen - {*SPRITE_SOURCES, *BACKGROUND_SOURCES}:
        known = ", ".join((*SPRITE_SOURCES, *BACKGROUND_SOURCES))
        raise ArtError(f"{', '.join(sorted(unknown))} is no source of art; choose of {known}")
    if not art.is_dir():
        raise ArtError(f"{art} is missing; fetch the art with `tools/atlas.py fetch`")
    with whole_folder(target, replace=True) as partial, ProcessPoolExecutor(_PROCESSES) as pool:
        items: list[SpriteArt] = []
        for name in (name for name in SPRITE_SOURCES if name in chosen):
            items += SPRITE_SOURCES[name](art)
            report(f"{name}: {len(items)} sprites so far")
        sprites: list[Sprite] = []
        write_array(partial / SPRITES, _phases(items, sprites, pool, report), (SIDE, SIDE, 4))
        backgrounds: list[Background] = []
        pieces = chain.from_iterable(source(art) for name, source in BACKGROUND_SOURCES.items() if name in chosen)
        write_array(partial / BACKGROUNDS, _frames(pieces, backgrounds), ())
        report(f"{len(sprites)} sprites, {len(backgrounds)} backgrounds")
        content = index_of(sprites, backgrounds, listing(), SIDE)
        (partial / INDEX).write_text(content, encoding="utf-8")


def _phases(
    items: list[SpriteArt], sprites: list[Sprite], pool: ProcessPoolExecutor, report: Callable[[str], None]
) -> Iterator[Pixels]:
    """Draw sprites in other processes; list each in `sprites` and yield its phases."""
    start = 0
    for number, (item, phases) in enumerate(zip(items, pool.map(_draw, items, chunksize=8), strict=True)):
        if number % 1000 == 999:
            report(f"drawn {number + 1} of {len(items)} sprites")
        sprites.append(
            Sprite(
                number, item.concept, item.name, item.words, item.verb, item.style, start, len(phases), item.kind,
                item.held_out, moves(phases), item.licence, item.author,
            )
        )  # fmt: skip
        start += len(phases)
        yield phases


def _draw(item: SpriteArt) -> Pixels:
    try:
        return cut(item.draw())
    except (OSError, ValueError) as error:
        raise ArtError(f"{item.name} ({item.concept}, {item.style}) cannot be drawn: {error}") from error


def _frames(pieces: Iterable[BackgroundArt], backgrounds: list[Background]) -> Iterator[Pixels]:
    """List backgrounds in `backgrounds` and yield their values, flat."""
    offset = 0
    for number, item in enumerate(pieces):
        frames, height, width, _ = item.pixels.shape
        backgrounds.append(
            Background(
                number, item.name, item.caption, item.kind, frames, height, width, offset, item.held_out, item.licence,
                item.author,
            )
        )  # fmt: skip
        offset += item.pixels.size
        yield item.pixels.reshape(-1)
