"""What the base model read of traces, kept in a folder, or for a moment in memory.

The base is frozen and reads a trace alike in every epoch, in every run of another recipe, and whenever validation is judged: it is
most of the work of training a verifier, and of scoring traces. What is kept in a folder is named by what was read (model and
inputs), so that nothing else can be found. In memory the last batch is kept, while several verifiers score it in turn, above the
folder if there is one.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import disk_usage

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import pad

from trueplex.engine.memory import gib
from trueplex.errors import OptionError, StoreError, reason
from trueplex.files import failure, write_with
from trueplex.models.backbone import Backbone
from trueplex.models.lanes import KeyValue

Stored = dict[int, KeyValue]  # keys and values [B, kv heads, N, D] by layer
KEPT = "reads of the base"

log = logging.getLogger(__name__)


def keep_reads(backbone: Backbone, folder: str | Path, tokens: int) -> None:
    """From now on, what this model reads of whole traces is kept in the folder, and taken from there; of ``tokens`` in all.

    Raises:
        OptionError: the model has recurrent layers, whose probes read states at positions that differ each time; or the disk
            has less room than that takes.
        StoreError: the folder cannot be made.
    """
    if backbone.kinds.recurrent:
        raise OptionError(f"{backbone.name} has recurrent layers, whose states are not kept. Try: without --keep-base")
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        kept, free = sum(f.stat().st_size for f in Path(folder).glob("*.safetensors")), disk_usage(folder).free
    except OSError as error:
        raise failure("write", folder, error) from error
    size = tokens * backbone.token_bytes
    log.info(f"what the base reads takes {gib(size)} in {folder}, of which {gib(kept)} are there")
    if size - kept > free:
        raise OptionError(
            f"{folder} has room for {gib(free)}. Try: another disk, fewer --traces, or without --keep-base"
        )
    backbone.kept[KEPT] = KeptReads(folder, f"{backbone.fingerprint} {backbone.dtype}")


@contextmanager
def shared_reads(backbone: Backbone, anew: bool = False) -> Iterator[SharedReads]:
    """While this lasts, verifiers that score the same traces share what this model reads of them, or has kept; or reads ``anew``."""
    before = backbone.kept.get(KEPT)
    reads = SharedReads(None if anew else before)
    backbone.kept[KEPT] = reads
    try:
        yield reads
    finally:
        backbone.kept[KEPT] = before


class SharedReads:
    """Keys and values of the last batch, given to all who ask for it in a row; never two, so that no more memory is held than one reading takes.

    ``folder``: where reads are kept as well, and looked for first.

    Attributes:
        spent: seconds that reading took.
        due: seconds that it would have taken if nothing had been shared.
    """

    def __init__(self, folder: KeptReads | SharedReads | None = None) -> None:
        self._folder = folder
        self._last: tuple[Tensor, Stored, float] | None = None
        self.spent = self.due = 0.0

    def __call__(self, inputs: Tensor, read: Callable[[Tensor], Stored]) -> Stored:
        """The keys and values of inputs [B, N, H]; ``read`` gives those of a batch that is new."""
        if self._last is None or not torch.equal(self._last[0], inputs):
            self.forget()  # before another is read
            began = time.perf_counter()
            stored = self._folder(inputs, read) if self._folder else read(inputs)
            if inputs.is_cuda:
                torch.cuda.synchronize(inputs.device)
            self._last = inputs, stored, time.perf_counter() - began
            self.spent += self._last[2]
        _, stored, seconds = self._last
        self.due += seconds
        return stored

    def forget(self) -> None:
        self._last = None


class KeptReads:
    """One file a trace: its keys and values [kv heads, N, D] by layer. ``base`` names the model and its dtype."""

    def __init__(self, folder: str | Path, base: str) -> None:
        self._folder, self._base = Path(folder), base.encode()

    def __call__(self, inputs: Tensor, read: Callable[[Tensor], Stored]) -> Stored:
        """The keys and values of inputs [B, N, H], padded behind with zeros; ``read`` gives those of rows that are not kept.

        Raises:
            StoreError: a file cannot be read or written.
        """
        lengths = (inputs != 0).any(-1).cumsum(1).argmax(1) + 1
        names = [self._name(row[:length]) for row, length in zip(inputs, lengths, strict=True)]
        new = [i for i, name in enumerate(names) if not name.exists()]
        if new:
            stored = read(inputs[new, : int(lengths[new].max())])
            for at, i in enumerate(new):
                self._write(names[i], {n: (k[at, :, : lengths[i]], v[at, :, : lengths[i]]) for n, (k, v) in stored.items()})  # fmt: skip
        rows = [self._read(name) for name in names]

        def whole(key: str) -> Tensor:
            columns = inputs.shape[1]
            return torch.stack([pad(row[key], (0, 0, 0, columns - row[key].shape[1])) for row in rows])

        layers = sorted({int(key[1:]) for key in rows[0]})
        return {n: (whole(f"k{n}").to(inputs.device), whole(f"v{n}").to(inputs.device)) for n in layers}

    def _name(self, row: Tensor) -> Path:
        digest = hashlib.blake2b(
            row.contiguous().view(torch.uint8).cpu().numpy().tobytes(), key=self._base[:64], digest_size=16
        )
        return self._folder / f"{digest.hexdigest()}.safetensors"

    def _write(self, path: Path, layers: Stored) -> None:
        tensors = {
            f"{name}{n}": t.contiguous() for n, layer in layers.items() for name, t in zip("kv", layer, strict=True)
        }
        write_with(path, lambda file: save_file(tensors, file))

    def _read(self, path: Path) -> dict[str, Tensor]:
        try:
            return load_file(path)
        except Exception as error:  # safetensors raises its own kinds
            raise StoreError(
                f"{path} cannot be read ({reason(error)}). Try: delete it, and it is made again"
            ) from error
