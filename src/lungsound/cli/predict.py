"""Commands with a trained model: evaluate, export, predict, embed, explain."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lungsound.cli.shared import NOTICE, DataOption, DeviceOption, LabelMapOption, console, print_error, print_report
from lungsound.errors import LungsoundError, SettingsError

if TYPE_CHECKING:
    from lungsound.inference.bulk import BulkResult
    from lungsound.inference.predictor import Predictor

NUM_NAMED = 10  # files in the last lines

PathsArgument = Annotated[list[Path], typer.Argument(metavar="PATH", help="Sound files, folders of them, or patterns.")]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", metavar="MODEL", help="Run folder, model file, or hf://OWNER/NAME."),
]
EngineOption = Annotated[
    str,
    typer.Option(
        "--engine",
        metavar="ENGINE",
        help="auto (fastest that 'export' measured to decide as torch), exact (fastest that equals torch to 1e-4), "
        "torch, torch-bf16, onnx, openvino, or openvino-bf16.",
    ),
]
CyclesOption = Annotated[
    Literal["auto", "annotation", "segmentation", "windows"],
    typer.Option(
        metavar="SOURCE",
        help="annotation (a .txt beside the recording), segmentation (breathing found in it), windows, or auto: the "
        "first of these that there is.",
    ),
]


def required_model(model: str | None) -> str:
    """The model that was given; SettingsError without one."""
    if model is None:
        raise SettingsError(
            "no model was given, and a default one comes only with a later version: give --model MODEL, a run folder, "
            "a model file, or hf://OWNER/NAME"
        )
    return model


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a trained run.")],
    data: DataOption = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for the report; default: the run's.")] = None,
    device: DeviceOption = None,
    label_map: LabelMapOption = None,
) -> None:
    """Evaluate a run again on its test set, or with --data on another corpus.

    Writes predictions and a report. Another corpus in words of its own is read by --label-map, else by the map of the
    run.
    """
    from lungsound.training.evaluate import evaluate as evaluate_run

    print_report(evaluate_run(run, data_root=data, label_map=label_map, out_dir=out, device=device, console=console))


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a trained run, or with --data a model file.")],
    to: Annotated[
        Literal["engines", "hf", "onnx", "openvino", "torch"],
        typer.Option(
            metavar="TARGET",
            help="engines (for 'predict'), hf (a folder for transformers), or onnx, openvino, torch (one model file "
            "from waveform to probabilities).",
        ),
    ] = "engines",
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for files for other programs.")] = None,
    data: DataOption = None,
    num_cycles: Annotated[int, typer.Option(metavar="NUMBER", help="Test cycles to check on.")] = 500,
) -> None:
    """Export a run's model, and check on real cycles that it still predicts alike.

    Without --to for the fast engines (ONNX Runtime, OpenVINO): 'predict' then uses the fastest that predicts alike.
    """
    from lungsound.inference.export import export_files, export_run

    if to == "engines":
        path = export_run(run, data_root=data, num_cycles=num_cycles, console=console)
        console.print(f"engines: {path}", highlight=False, soft_wrap=True)
        return
    if out is None:
        raise SettingsError(f"export --to {to} needs a folder for its files: give --out DIR")
    export_files(run, to=to, out=out, data_root=data, num_cycles=num_cycles, console=console)
    console.print(f"written: {out}", highlight=False, soft_wrap=True)


def predict(
    paths: PathsArgument,
    model: ModelOption = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Write predictions into this folder.")] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="With --out; repeatable: csv (default), jsonl, parquet, audacity, raven, textgrid, icbhi, sprsound, "
            "fhir, html.",
        ),
    ] = None,
    cycles: CyclesOption = "auto",
    workers: Annotated[int, typer.Option(min=1, metavar="NUMBER", help="Recordings to read at the same time.")] = 2,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Skip recordings whose predictions DIR holds.")
    ] = False,
    patient_pattern: Annotated[
        str | None,
        typer.Option(metavar="REGEX", help="Pattern with a group for the patient in a name, as '^(\\d+)_'."),
    ] = None,
    stethoscope: Annotated[str | None, typer.Option(metavar="NAME", help="Device that recorded them all.")] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Draw on html pages which patches the predictions rest on.")
    ] = False,
    device: DeviceOption = None,
    engine: EngineOption = "auto",
) -> None:
    """Predict crackles and wheezes in recordings, cycle by cycle.

    Without --out the predictions are shown. Recordings that fail are named at the end, and the exit code is 1.
    """
    from lungsound.inference.bulk import predict_many, sound_files
    from lungsound.inference.predictor import Predictor

    if explain and (out is None or "html" not in (formats or ())):
        raise SettingsError("--explain draws on html pages: give --out DIR and --format html too")
    predictor = Predictor.load(required_model(model), device=device or "cpu", engine=engine, find_by=cycles)
    if out is None:
        files = sound_files(paths)
        errors = _show(predictor, files, stethoscope)
        num_predicted = len(files) - len(errors)
    else:
        result = predict_many(
            predictor,
            paths,
            out=out,
            formats=formats or ("csv",),
            num_workers=workers,
            is_existing_skipped=skip_existing,
            patient_pattern=patient_pattern,
            stethoscope=stethoscope,
            is_explained=explain,
            console=console,
        )
        errors, num_predicted = result.errors, result.num_new + result.num_skipped
        counts = f"{result.num_new} predicted, {result.num_skipped} skipped, {len(errors)} failed"
        console.print(counts, highlight=False)
        _print_files(result)
    if num_predicted:
        _print_model_facts(predictor)
    _print_errors(errors)


def embed(
    out: Annotated[Path, typer.Option(metavar="FILE", help="File to write: .npz, .csv or .parquet.")],
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="[PATH]", help="Sound files, folders of them, or patterns.")
    ] = None,
    model: ModelOption = None,
    data: DataOption = None,
    cycles: CyclesOption = "auto",
    device: DeviceOption = None,
) -> None:
    """Write the model's features of cycles.

    Of the recordings PATH, or with --data of a corpus; with neither of the corpus that the run was trained on.
    """
    from lungsound.inference.embed import embed as embed_cycles

    embeddings = embed_cycles(
        required_model(model),
        paths or (),
        out=out,
        data_root=data,
        find_by=cycles,
        device=device or "cpu",
        console=console,
    )
    num_cycles, dim = embeddings.features.shape
    console.print(f"{num_cycles} cycles, {dim} features: {out}", highlight=False)
    _print_errors(embeddings.errors)


def explain(
    paths: PathsArgument,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for pages and numbers.")],
    model: ModelOption = None,
    cycles: CyclesOption = "auto",
    device: DeviceOption = None,
) -> None:
    """Explain the prediction of each cycle: the relevance of each moment and frequency.

    Writes for each recording an HTML page with the relevance drawn, and the numbers as .npz. It takes about a second a
    cycle and needs a model of patches (AST). 'predict --explain' draws only the most uncertain cycles.
    """
    from lungsound.inference.bulk import explain_many
    from lungsound.inference.predictor import Predictor

    predictor = Predictor.load(required_model(model), device=device or "cpu", engine="torch", find_by=cycles)
    result = explain_many(predictor, paths, out=out, console=console)
    console.print(f"{result.num_new} explained, {len(result.errors)} failed", highlight=False)
    _print_files(result)
    if result.num_new:
        _print_model_facts(predictor)
    _print_errors(result.errors)


def _show(predictor: "Predictor", paths: list[Path], stethoscope: str | None) -> tuple[str, ...]:
    """Print the predictions for each recording; returns what failed."""
    from lungsound.cli.demo import print_cycles
    from lungsound.inference.bulk import failure
    from lungsound.inference.withholding import UNKNOWN_DEVICE

    errors = []
    for path in paths:
        try:
            prediction = predictor.predict(path, device=stethoscope)
        except LungsoundError as error:
            errors.append(failure(path, error))
            continue
        aggregate = "no answer" if prediction.aggregate is None else prediction.aggregate.caption
        remarks = [f"{each} (--stethoscope NAME)" if each == UNKNOWN_DEVICE else each for each in prediction.quality]
        title = f"{path.name}, by {prediction.cycles_from}: {aggregate}{'; ' if remarks else ''}{', '.join(remarks)}"
        print_cycles(title, prediction.cycles, console, classes=predictor.classes)
    return tuple(errors)


def _print_files(result: "BulkResult") -> None:
    for file in result.files[:NUM_NAMED]:
        console.print(f"written: {file}", highlight=False, soft_wrap=True)
    if len(result.files) > NUM_NAMED:
        console.print(f"and {len(result.files) - NUM_NAMED} more", highlight=False)


def _print_model_facts(predictor: "Predictor") -> None:
    from lungsound.training.checkpoint import unfinished

    if predictor.path and (warning := unfinished(predictor.path.parent)):
        console.print(
            f"Warning: {warning}; these are predictions of an epoch on the way.", highlight=False, soft_wrap=True
        )
    console.print(f"{probabilities_text(predictor)} {NOTICE}", highlight=False)


def _print_errors(errors: tuple[str, ...]) -> None:
    """Print what failed; exit code 1 if anything did."""
    for error in errors:
        print_error(error)
    if errors:
        raise typer.Exit(1)


def probabilities_text(predictor: "Predictor") -> str:
    """A sentence on how probabilities are scaled, and what "uncertain" means."""
    calibration = predictor.trained.calibration
    if calibration is None:
        return "Probabilities are not calibrated."
    text = f"Probabilities: {calibration.scaling} ({calibration.reason})"
    if calibration.abstain is None:
        return f"{text}."
    return f"{text}; uncertain: better withheld, by the errors on validation patients."
