"""Turn a SECap checkout (Xu et al. 2024, arXiv:2312.10381) into a unified manifest.

    python -m edgecloud.import_secap DIR OUT
    python launch.py task=specdec dataset=voices dataset.path=OUT

DIR holds `fid2captions.json` ({id: caption}), `text.txt` ("id transcript" a line) and `wav.scp` ("id path" a line) in
whichever folder. OUT gets manifest.json and wav/, hard links where the file system allows and copies elsewhere, so that
the manifest stays inside its folder. Run again, it writes the same.

Each clip has one Chinese caption, which stands under both caption types. It tells how the voice feels and sounds, never
what is said (the paper's mutual information learning parts emotion from content on purpose), so it is a right
reference for `audio_only`. It is also the data set's own unchanged text, which the reference study calls `original`;
expect lower scores there, because that instruction asks for the content too.
"""

from __future__ import annotations

import argparse
import filecmp
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import Any

from edgecloud.audio import clip_seconds
from edgecloud.instructions import CAPTION_TYPES
from suite.errors import UserError
from suite.records.store import write_atomic

SOURCES = ("fid2captions.json", "text.txt", "wav.scp")
NAME, LICENSE = "SECap", "not stated in the checkout; ask the authors (github.com/thuhcsi/SECap)"


def convert(checkout: Path, out: Path) -> tuple[int, list[str]]:
    """Write the manifest; the number of items written and a sentence for every row left out.

    Raises:
        UserError: the checkout lacks one of the three files or it cannot be read, or `out` holds something else.
    """
    captions_file, text_file, scp_file = (_find(checkout, name, out) for name in SOURCES)
    _prepare(out, captions_file.parent)
    broken: list[str] = []
    captions = _captions(captions_file)
    transcripts = dict(_lines(text_file, broken))
    wavs = dict(_lines(scp_file, broken))
    print(f"{len(captions)} captions, {len(transcripts)} transcripts, {len(wavs)} wavs")
    broken += [f"{name}: {captions_file.name} has no caption for it." for name in wavs.keys() - captions.keys()]
    by_name = {path.name: path for path in reversed(_files(checkout, "*", out))}

    items = []
    for name, caption in captions.items():
        try:
            if not re.fullmatch(r"\w[\w.-]*", name):
                raise UserError("the id must be letters, digits, '.', '_' or '-'.")
            if not isinstance(caption, str) or not caption.strip():
                raise UserError(f"{captions_file.name} gives no text as its caption.")
            if name not in wavs:
                raise UserError(f"{scp_file.name} has no line for it.")
            places = (checkout / wavs[name], scp_file.parent / wavs[name])
            clip = next(filter(Path.is_file, places), by_name.get(PureWindowsPath(wavs[name]).name))
            if clip is None:
                raise UserError(f"{wavs[name]!r} is not there, and no file of that name is under {checkout}.")
            seconds = round(clip_seconds(clip), 3)
        except UserError as error:
            broken.append(f"{name}: {error}")
            continue
        audio = f"wav/{name}{clip.suffix}"
        _bring(clip, out / audio)
        sha256 = hashlib.sha256(clip.read_bytes()).hexdigest()
        item: dict[str, Any] = {"id": name, "audio": audio, "seconds": seconds, "sha256": sha256}
        if transcript := transcripts.get(name):
            item["transcript"] = transcript
        items.append(item | {"captions": {kind: {"chinese": [caption.strip()]} for kind in CAPTION_TYPES}})

    items.sort(key=lambda item: str(item["id"]))
    content = {"version": 1, "name": NAME, "license": LICENSE, "items": items}
    if items:
        write_atomic(out / "manifest.json", json.dumps(content, ensure_ascii=False, indent=1) + "\n")
    return len(items), sorted(broken)


def _files(folder: Path, pattern: str, out: Path) -> list[Path]:
    """Files below `folder`, those nearest to it first; what an earlier run wrote to `out` does not count."""
    found = (path for path in folder.rglob(pattern) if path.is_file() and not path.is_relative_to(out))
    return sorted(found, key=lambda path: (len(path.parts), path))


def _find(checkout: Path, name: str, out: Path) -> Path:
    if found := _files(checkout, name, out):
        return found[0]
    raise UserError(f"{checkout} has no {name} outside OUT; give the folder of a SECap checkout and an OUT of its own.")


def _prepare(out: Path, source: Path) -> None:
    """Make `out` and its wav/, unless it holds anything but an earlier import."""
    if source.is_relative_to(out):
        raise UserError(f"{out} holds the checkout's own files; give OUT a folder of its own.")
    try:
        (out / "wav").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out} cannot be made a folder ({error.strerror}); choose another OUT.") from error
    manifest = out / "manifest.json"
    strange = sorted({path.name for path in out.iterdir()} - {"wav", manifest.name})
    if not strange and not manifest.exists() and any((out / "wav").iterdir()):
        strange = ["wav"]
    if not strange and manifest.exists() and f'"name": "{NAME}"' not in manifest.read_text(errors="replace"):
        strange = [manifest.name]
    if strange:
        raise UserError(f"{out} already holds {strange[0]}, which no import wrote; choose an empty OUT.")


def _captions(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError, OSError) as error:
        raise UserError(f"{path} is not JSON ({error}); fetch the checkout again.") from error
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path} must be one JSON object {{id: caption}}; fetch the checkout again.")
    return content


def _lines(path: Path, broken: list[str]) -> Iterator[tuple[str, str]]:
    """(id, rest of the line) of each line; a second line for an id is not used, and told."""
    seen: set[str] = set()
    for line in path.read_text(encoding="utf-8-sig", errors="replace").split("\n"):
        name, _, rest = line.strip().replace("\t", " ").partition(" ")
        if not name:
            continue
        if name in seen:
            broken.append(f"{name}: {path.name} has a second line for it, which is not used.")
        else:
            yield name, rest.strip()
        seen.add(name)


def _bring(clip: Path, target: Path) -> None:
    """Hard-link the clip to `target`, or copy it where that cannot be."""
    if target.exists() and filecmp.cmp(clip, target, shallow=False):
        return
    target.unlink(missing_ok=True)
    try:
        os.link(clip.resolve(), target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(clip, target)


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 a manifest was written (rows left out are listed), 1 none was, 2 wrong usage."""
    parser = argparse.ArgumentParser(
        prog="python -m edgecloud.import_secap", description="Turn a SECap checkout into a unified manifest."
    )
    parser.add_argument("checkout", type=Path, metavar="DIR", help="the checkout")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for manifest.json and wav/")
    given = parser.parse_args(arguments)
    if not given.checkout.is_dir():
        parser.error(f"{given.checkout} is no folder; give the folder of a SECap checkout.")
    try:
        written, broken = convert(given.checkout.resolve(), given.out.resolve())
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    for reason in broken:
        print(f"broken: {reason}")
    print(f"{written} items written to {given.out / 'manifest.json'}, {len(broken)} broken rows")
    return 0 if written else 1


if __name__ == "__main__":
    sys.exit(main())
