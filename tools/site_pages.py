"""Hook of mkdocs: pages outside docs/ join the site, and links work there as they do in the repository.

README.md becomes the index. A link is resolved as a path in the repository; a file that is not a page (a script, a
licence) is copied into the site.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
INDEX = "README.md"
PAGES = (
    INDEX,
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "examples/README.md",
    "integrations/comfyui/README.md",
    "src/layerflow/mini/weights/README.md",
)
"""Pages outside docs/, by their paths in the repository."""
LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside docs/, and the files of the repository that any page links to."""
    for path in PAGES:
        files.append(File.generated(config, site_path(path), abs_src_path=str(ROOT / path)))
    for page in [file for file in files if file.src_uri.endswith(".md")]:
        for target in linked(page.content_string, source_path(page.src_uri)):
            if (ROOT / target).is_file() and files.get_file_from_path(site_path(target)) is None:
                files.append(File.generated(config, site_path(target), abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return a page with its links rewritten from paths in the repository to paths in the site."""
    uri = page.file.src_uri
    here = posixpath.dirname(source_path(uri))

    def rewritten(match: re.Match[str]) -> str:
        before, link, anchor, after = match.groups()
        if re.match(r"[a-z]+:", link):
            return match[0]
        target = posixpath.normpath(posixpath.join(here, link))
        if (ROOT / target / INDEX).is_file():  # a link to a folder leads to its README
            target = f"{target}/{INDEX}"
        return before + posixpath.relpath(site_path(target), posixpath.dirname(uri) or ".") + (anchor or "") + after

    return LINK.sub(rewritten, markdown)


def linked(markdown: str, source: str) -> set[str]:
    """Return the paths in the repository that a page links to."""
    links = {match[2] for match in LINK.finditer(markdown) if not re.match(r"[a-z]+:", match[2])}
    return {posixpath.normpath(posixpath.join(posixpath.dirname(source), link)) for link in links}


def site_path(path: str) -> str:
    """Return where a file of the repository stands in the site."""
    return "index.md" if path == INDEX else path.removeprefix("docs/")


def source_path(uri: str) -> str:
    """Return where a file of the site stands in the repository."""
    if uri == "index.md":
        return INDEX
    return uri if uri in PAGES else f"docs/{uri}"
