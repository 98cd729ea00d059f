"""The pages: links lead somewhere, nothing of one machine is in them, the changelog knows the version."""

import re
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT

from bit_axon import __version__

SKIPPED_FOLDERS = {".venv", ".git", "outputs", "node_modules", "build", "dist"}
PAGES = sorted(
    path for path in ROOT.rglob("*.md") if not SKIPPED_FOLDERS.intersection(path.relative_to(ROOT).parts)
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
# A home, a temporary or a work folder of some machine; system folders such as /proc are everyone's.
MACHINE_PATH = re.compile(r"(?<![\w.~:}])/(?:work|root|home|Users|tmp|mnt|private)/[\w.-]+")
TEXT_SUFFIXES = {".py", ".md", ".yaml", ".yml", ".toml", ".txt", ".cfg", ".json", ".jsonl", ".sh", ""}


def page_id(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """The anchors a page's headings get where it is shown."""
    found = set()
    for line in FENCED.sub("", page.read_text(encoding="utf-8")).splitlines():
        if line.startswith("#"):
            title = re.sub(r"[`*\\]", "", line.lstrip("#").strip()).lower()
            found.add(re.sub(r"[^\w\- ]", "", title).replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_internal_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in LINK.findall(FENCED.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(link)
    assert not broken


def text_files() -> list[Path]:
    """What belongs to the project: tracked files, and new ones that are not ignored."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    if done.returncode:
        pytest.skip("not a git checkout")
    paths = (ROOT / name for name in done.stdout.split("\0") if name)
    return [path for path in paths if path.suffix in TEXT_SUFFIXES and path.is_file()]


def test_no_path_of_one_machine() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]}"
        for path in text_files()
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        for match in MACHINE_PATH.finditer(line)
        if path != Path(__file__)
    ]
    assert not found, "\n".join(found)


def test_the_changelog_has_the_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[([^\]]+)\]", changelog, re.MULTILINE)
    assert headings[0] == __version__
    assert len(headings) == len(set(headings))
