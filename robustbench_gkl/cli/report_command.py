"""``gklbench report``."""

from __future__ import annotations

from pathlib import Path

from robustbench_gkl.cli import options, sections


@sections.command(examples=["gklbench report --out report"])
@sections.output("--out", type=options.PATH, required=True, help="The folder that the pages are written to.")
@options.strict
@options.results_dir
@options.checkpoints_dir
@options.quiet
def command(out: Path, strict: bool, results_dir: Path, checkpoints_dir: Path, quiet: bool) -> None:
    """Write static pages over all records: the leaderboard, pictures, and a page per model.

    They open from disk and need no network. Needs the extra: pip install 'gklbench[report]'.
    """
    from robustbench_gkl.report.html import write_report
    from robustbench_gkl.report.terminal import make_console

    written = write_report(out, results_dir=results_dir, checkpoints_dir=checkpoints_dir, strict=strict)
    counts = {"model": written.models, "record": written.records}
    told = ", ".join(f"{count} {name}{'' if count == 1 else 's'}" for name, count in counts.items())
    make_console(quiet=quiet).print(f"wrote {written.index}: {told}", markup=False)
