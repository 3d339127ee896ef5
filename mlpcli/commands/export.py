"""``mlpcli export``: write a network as ONNX or safetensors, or runs' curves as CSV or for TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from mlpcli.commands import output
from mlpcli.errors import RunError, UsageError, shown

if TYPE_CHECKING:
    from mlpcli.analysis.export import Export, InputType, Tensor

Format = Literal["onnx", "safetensors", "csv", "tensorboard"]
FORMATS: dict[str, Format] = {".onnx": "onnx", ".safetensors": "safetensors", ".csv": "csv"}
CURVES = ("csv", "tensorboard")  # of runs, several at once


@click.command()
@click.argument("runs", metavar="RUN|CHECKPOINT|FOLDER...", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    "file",
    metavar="FILE",
    required=True,
    help="The file to write; an existing file is replaced. For TensorBoard, the folder that you then pass to "
    "tensorboard --logdir.",
)
@click.option(
    "--to",
    type=click.Choice(["onnx", "safetensors", *CURVES]),
    help="The format. [default: by the suffix of FILE]",
)
@click.option(
    "--input",
    "input_type",
    type=click.Choice(["uint8", "float32"]),
    help="What the ONNX model takes: bytes from 0 to 255, or numbers from 0 to 1. [default: uint8]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(runs: tuple[str, ...], file: str, to: Format | None, input_type: InputType | None, as_json: bool) -> None:
    """Write a trained network as ONNX or safetensors, or the metrics of runs as CSV or for TensorBoard.

    RUN means the run's best checkpoint, or its last one if there is no best. The ONNX model takes images of shape (N,
    rows, columns). It returns the network's outputs p, of shape (N, outputs), and the predicted classes, of shape (N,).
    A safetensors file has the parameters W1, b1, W2 ... and the config. docs/export.md shows how to use both formats
    from Python. ONNX needs the package onnx: pip install 'mlpcli[export]'. CSV and TensorBoard take several runs, and
    folders of runs.

    \b
    Examples:
      mlpcli export runs/mnist-... -o digits.onnx
      mlpcli export runs/mnist-... -o digits.onnx --input float32
      mlpcli export runs/mnist-... -o digits.safetensors
      mlpcli export runs/mnist-.../checkpoints/last.npz --to onnx -o last.bin --json
      mlpcli export runs/* -o curves.csv
      mlpcli export runs/* --to tensorboard -o logs
    """
    path = Path(file)
    wanted = _format(path, to)
    if input_type is not None and wanted != "onnx":
        raise UsageError(f"--input is for ONNX models, and the format is {wanted}")

    if wanted in CURVES:
        _export_curves(runs, path, wanted, as_json)
        return
    output.check_file(path, *runs)
    if len(runs) > 1:
        raise UsageError(f"{len(runs)} runs are named, and the format {wanted} takes one network; csv takes several")

    from mlpcli.analysis import export
    from mlpcli.analysis.evaluation import open_model

    checkpoint = open_model(Path(runs[0])).checkpoint
    onnx = wanted == "onnx"
    made = export.to_onnx(checkpoint, input_type or "uint8") if onnx else export.to_safetensors(checkpoint)
    output.write_file(path, made.data)
    preprocessing = checkpoint.config.data.preprocessing
    document = {**_document(path, wanted, made), "preprocessing": preprocessing}
    if preprocessing:
        output.say(f"trained with data.preprocessing: {preprocessing}, which the file does not contain: apply it first")
    if as_json:
        output.result_json(document)
        return
    output.result(f"{shown(document['path'])}: {wanted}, {document['bytes']:,} bytes, sha256 {document['sha256']}")
    lines = [("input", made.inputs), ("output", made.outputs)] if onnx else [("tensor", made.tensors)]
    for kind, tensors in lines:
        for each in tensors:
            output.result(f"{kind:<7} {each.name:<10} {each.dtype:<8} {_shape(each)}")


def _export_curves(runs: tuple[str, ...], path: Path, wanted: Format, as_json: bool) -> None:
    """Write the epochs of ``runs``, also those in folders, to the file ``path``, or as event files to such a folder."""
    from mlpcli.analysis import curves
    from mlpcli.runs import ranking

    named = set(map(Path, runs))
    paths, left_out = [], []
    for run in ranking.collect(map(Path, runs)):
        if run.summary.problem and run.summary.path not in named:  # one of a folder
            left_out.append(run.summary.problem)
        elif not run.summary.problem and not run.summary.epochs:
            left_out.append(f"{shown(run.summary.path)}: has no epoch to export yet")
        else:
            paths.append(run.summary.path)
    if not paths and len(left_out) == 1:
        raise RunError(left_out[0])
    for message in left_out:
        output.say(f"mlpcli: {message}; left out")
    if not paths:
        raise RunError("there is no run left to write")
    if wanted == "csv":
        files = {path: curves.to_csv(paths)}
    else:
        files = {path / name: data for name, data in curves.to_tensorboard(paths).items()}
    for file, data in files.items():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{shown(file.parent)}: cannot be written: {error.strerror or error}") from None
        output.write_file(file, data)
    if as_json:
        names = [click.format_filename(file) for file in files]
        output.result_json({"format": wanted, "runs": len(paths), "files": names})
        return
    for file in files:
        output.result(shown(click.format_filename(file)))


def _format(path: Path, to: Format | None) -> Format:
    """Return the format. Raises ``UsageError`` if neither option nor suffix gives it, or if they contradict."""
    suffix = path.suffix.lower()
    named = FORMATS.get(suffix)
    if to is None:
        if named is None:
            raise UsageError(
                f"-o {shown(path)}: name it .onnx, .safetensors or .csv, or say --to onnx, safetensors, csv or "
                "tensorboard"
            )
        return named
    # .npz is the suffix of checkpoints, which must not be replaced by mistake.
    if named not in (None, to) or suffix == ".npz":
        raise UsageError(f"-o {shown(path)}: has the suffix of a {named or 'checkpoint'} file, but --to is {to}")
    return to


def _document(path: Path, wanted: Format, made: Export) -> dict[str, Any]:
    from dataclasses import asdict
    from hashlib import sha256

    return {
        "path": click.format_filename(path),
        "format": wanted,
        "bytes": len(made.data),
        "sha256": sha256(made.data).hexdigest(),
        "inputs": [asdict(each) for each in made.inputs],
        "outputs": [asdict(each) for each in made.outputs],
        "tensors": [asdict(each) for each in made.tensors],
    }


def _shape(tensor: Tensor) -> str:
    return f"({', '.join(map(str, tensor.shape))}{',' if len(tensor.shape) == 1 else ''})"
