"""Files of the former format, which this version reads if they are trusted, and never writes.

Agents were saved as Stable-Baselines3 saves, with pickled objects, which can run code. Few-shot
learners were saved by ``torch.save``, without checksums.
"""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any, BinaryIO, cast

import torch
from stable_baselines3.common.save_util import load_from_zip_file

LEARNER = "a few-shot learner"
"""Owner of a learner's file, which tells the class only when it is read."""


def former_owner(file: BinaryIO) -> str | None:
    """Returns whose file of the former format this is, without running anything in it.

    Args:
        file: File that is open for reading.

    Returns:
        Name of the agent's class, ``"another library"``, or :data:`LEARNER`; ``None`` for a file
        that does not have the former format.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            if any(name.endswith("/data.pkl") for name in names):
                return LEARNER
            if "_stable_baselines3_version" not in names:
                return None
            if archive.getinfo("data").compress_type != zipfile.ZIP_STORED:
                return None
            return str(json.loads(archive.read("data")).get("algorithm", "another library"))
    except Exception:  # damaged files raise all kinds
        return None


def read_former(file: BinaryIO, device: torch.device | str) -> tuple[str, dict[str, Any]]:
    """Reads a file of the former format; an agent's file may run code.

    Args:
        file: File that is open for reading.
        device: Device of the tensors.

    Returns:
        The name of the class, and the content in today's layout. The policy of an agent is a class
        in place of a name.
    """
    file.seek(0)
    if former_owner(file) == LEARNER:
        file.seek(0)
        content = torch.load(file, map_location=device, weights_only=True)
        del content["format"]
        return content.pop("learner"), content
    attributes, parameters, _ = load_from_zip_file(cast(io.BufferedIOBase, file), device=device)
    if attributes is None:
        raise ValueError("it describes no agent")
    if "entropy_schedule" in attributes:
        attributes["entropy_coefficient"] = attributes.pop("entropy_schedule")
    attributes.pop("lr_schedule", None)
    owner = attributes.pop("algorithm")
    return owner, {"attributes": attributes, "parameters": parameters, "left_out": []}
