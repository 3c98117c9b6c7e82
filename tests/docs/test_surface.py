"""The public surface is frozen: public names, options of the commands, fields of the requests."""

from surface import LISTING, surface


def test_surface_is_as_listed() -> None:
    listed, actual = LISTING.read_text("utf-8").splitlines(), surface().splitlines()
    gone, new = sorted(set(listed) - set(actual)), sorted(set(actual) - set(listed))
    assert actual == listed, (
        f"the public surface changed: gone {gone}, new {new}. If this is intended, run `python tests/docs/surface.py`, "
        "commit tests/docs/surface.txt with the change, and name it in CHANGELOG.md"
    )
