"""Peak memory of mixing generated images into batches, which are read from their files row by row.

    python benchmarks/synthetic_memory.py [--images 200000] [--files 2] [--epochs 3] [--folder DIR]

Writes the files (0.6 GB each for 200,000 images of 32x32x3), then reads the batches of some epochs of 50,000 images,
70 % of each batch generated, in a fresh process, and prints its peak resident memory before and after.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from robustbench_gkl.data import ImageSet
from robustbench_gkl.data.synthetic import SyntheticImages
from robustbench_gkl.training.batches import Batches

REAL, SHAPE, CLASSES = 50_000, (3, 32, 32), 10


def write(path: Path, *, images: int, seed: int) -> None:
    """Write one uncompressed .npz file."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (images, 32, 32, 3), dtype=np.uint8)
    np.savez(path, image=pixels, label=generator.integers(0, CLASSES, images))


def peak() -> float:
    """Return the peak resident memory of this process in MiB (Linux; unlike getrusage's, not that of its parent)."""
    status = Path("/proc/self/status").read_text()
    return float(status.partition("VmHWM:")[2].split()[0]) / 1024


def read(folder: Path, epochs: int) -> None:
    """Read all batches of ``epochs`` and print what it cost."""
    files = sorted(folder.glob("*.npz"))
    real = ImageSet(torch.zeros(REAL, *SHAPE, dtype=torch.uint8), torch.arange(REAL) % CLASSES, tuple("0123456789"))
    before = peak()
    synthetic = SyntheticImages(files, shape=SHAPE, num_classes=CLASSES)
    source = Batches(real, batch_size=512, seed=0, device=torch.device("cpu"), synthetic=synthetic, fraction=0.7)
    started, shown = time.perf_counter(), 0
    for epoch in range(epochs):
        for batch in source.epoch(epoch):
            shown += len(batch.images)
    seconds = time.perf_counter() - started
    size = sum(file.stat().st_size for file in files) / 2**20
    print(f"{len(files)} files, {len(synthetic):,} generated images, {size:.0f} MiB on disk")
    print(f"peak resident memory {before:.0f} MiB before, {peak():.0f} MiB after {epochs} epochs")
    print(f"{shown / seconds:,.0f} images/s")


def main() -> None:
    """Write the files and read them in a fresh process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--files", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the files go; a temporary folder if not given")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read is not None:
        read(options.read, options.epochs)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for number in range(options.files):
            write(Path(folder) / f"{number}.npz", images=options.images, seed=number)
        subprocess.run([sys.executable, __file__, "--read", folder, "--epochs", str(options.epochs)], check=True)


if __name__ == "__main__":
    main()
