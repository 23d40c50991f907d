"""Evaluating a run, exporting its model for fast engines, and answering for recordings.

What lies behind answers: features, explanations, found cycles, the quality of recordings.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lungsound.cli.shared import NOTICE, DataOption, DeviceOption, LabelMapOption, console, print_error, print_report
from lungsound.errors import LungsoundError, SettingsError

if TYPE_CHECKING:
    from lungsound.inference.bulk import Done
    from lungsound.inference.predictor import Predictor


NUM_NAMED = 10  # files in the last lines


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a trained run.")],
    data: DataOption = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the report; default: the run's.")] = None,
    device: DeviceOption = None,
    label_map: LabelMapOption = None,
) -> None:
    """Evaluate a run again on its test set, or with --data on another corpus; write predictions and report.

    Another corpus in words of its own is read by --label-map, else by the map of the run.
    """
    from lungsound.training.evaluate import evaluate as evaluate_run

    print_report(evaluate_run(run, data_root=data, label_map=label_map, out_dir=out, device=device, console=console))


EngineOption = Annotated[
    str,
    typer.Option(
        "--engine",
        help="What computes: exact (float32 torch's probabilities to 1e-4), auto (the fastest that 'export' found to "
        "answer alike), torch, torch-bf16, onnx, openvino, openvino-bf16.",
    ),
]


FormatOption = Annotated[
    list[str] | None,
    typer.Option(
        "--format",
        help="With --out; repeatable: csv (default), jsonl, parquet, audacity, raven, textgrid, icbhi, sprsound, fhir, "
        "html.",
    ),
]


CyclesOption = Annotated[
    Literal["auto", "annotation", "segmentation", "windows"],
    typer.Option(help="Where cycles come from; auto: the first of the others that there is."),
]
PatientOption = Annotated[
    str | None, typer.Option(metavar="REGEX", help="Its group finds the patient in a name, e.g. '^(\\d+)_'.")
]


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a trained run, or with --data a model file.")],
    to: Annotated[
        Literal["engines", "hf", "onnx", "openvino", "torch"],
        typer.Option(
            help="engines: for 'predict'; hf: a folder for transformers; the others: one model for a waveform."
        ),
    ] = "engines",
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where files for other programs go.")] = None,
    data: DataOption = None,
    cycles: Annotated[int, typer.Option(help="How many test cycles it is measured on.")] = 500,
) -> None:
    """Export a run's model, and measure on real cycles how nearly it answers as torch does.

    Without --to for the fast engines (ONNX Runtime, OpenVINO): 'predict' then takes the fastest that answers alike.
    """
    from lungsound.inference.export import export_files, export_run

    if to == "engines":
        path = export_run(run, data_root=data, num_cycles=cycles, console=console)
        console.print(f"engines: {path}", highlight=False, soft_wrap=True)
        return
    if out is None:
        raise SettingsError(f"export --to {to} needs a folder for its files: give --out DIR")
    export_files(run, to=to, out=out, data_root=data, num_cycles=cycles, console=console)
    console.print(f"written: {out}", highlight=False, soft_wrap=True)


def predict(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run, its model.safetensors, or hf://OWNER/NAME.")],
    paths: Annotated[list[Path], typer.Argument(metavar="PATH", help="Sound files, folders of them, or patterns.")],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Write the answers into this folder.")] = None,
    formats: FormatOption = None,
    cycles: CyclesOption = "auto",
    workers: Annotated[int, typer.Option(min=1, help="Recordings that are read at the same time.")] = 2,
    skip_existing: Annotated[bool, typer.Option(help="Leave out recordings that DIR has answers for.")] = False,
    patient_pattern: PatientOption = None,
    stethoscope: Annotated[str | None, typer.Option(metavar="NAME", help="What they were recorded with.")] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show on html pages which patches answers rest on.")
    ] = False,
    device: DeviceOption = None,
    engine: EngineOption = "auto",
) -> None:
    """Answer for recordings, cycle by cycle: those of the annotation beside a recording, else those found in it.

    Without --out the answers are shown; recordings that fail are named at the end, and the exit code is 1.
    """
    from lungsound.inference.bulk import predict_many, sound_files
    from lungsound.inference.predictor import Predictor

    predictor = Predictor.load(run, device=device or "cpu", engine=engine, find_by=cycles)
    _check_explained(predictor, explain, is_page_written=out is not None and "html" in (formats or ()))
    if out is None:
        files = sound_files(paths)
        errors = _show(predictor, files, stethoscope)
        num_answered = len(files) - len(errors)
    else:
        done = predict_many(
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
        errors, num_answered = done.errors, done.num_new + done.num_skipped
        _tell(done)
    if num_answered:
        _tell_of_model(predictor)
    for error in errors:
        print_error(error)
    if errors:
        raise typer.Exit(1)


def _check_explained(predictor: "Predictor", is_explained: bool, *, is_page_written: bool) -> None:
    """SettingsError where answers are to be explained but cannot be, or have no page: before anything is answered."""
    from lungsound.inference.explain import check_explainable

    if not is_explained:
        return
    if not is_page_written:
        raise SettingsError("--explain shows patches on html pages: give --out DIR and --format html too")
    check_explainable(predictor.trained)


def _tell_of_model(predictor: "Predictor") -> None:
    from lungsound.training.checkpoint import unfinished

    if told := predictor.path and unfinished(predictor.path.parent):
        console.print(f"Warning: {told}; these are answers of an epoch on the way.", highlight=False, soft_wrap=True)
    console.print(f"{what_probabilities_are(predictor)} {NOTICE}", highlight=False)


def _tell(done: "Done") -> None:
    told = f"{done.num_new} answered, {done.num_skipped} were there, {len(done.errors)} failed"
    console.print(told, highlight=False)
    for file in done.files[:NUM_NAMED]:
        console.print(f"written: {file}", highlight=False, soft_wrap=True)
    if len(done.files) > NUM_NAMED:
        console.print(f"and {len(done.files) - NUM_NAMED} more", highlight=False)


def _show(predictor: "Predictor", paths: Sequence[Path], stethoscope: str | None) -> tuple[str, ...]:
    """Print the answers for each recording; what failed."""
    from lungsound.cli.demo import print_cycles
    from lungsound.inference.bulk import failure
    from lungsound.inference.withholding import UNKNOWN_DEVICE

    errors = []
    for path in paths:
        try:
            found = predictor.predict(path, device=stethoscope)
        except LungsoundError as error:
            errors.append(failure(path, error))
            continue
        whole = "no answer" if found.aggregate is None else found.aggregate.caption
        said = [f"{each} (--stethoscope NAME)" if each == UNKNOWN_DEVICE else each for each in found.quality]
        remarks = f"; {', '.join(said)}" if said else ""
        title = f"{path.name}, by {found.cycles_from}: {whole}{remarks}"
        print_cycles(title, found.cycles, console, classes=predictor.classes)
    return tuple(errors)


def what_probabilities_are(predictor: "Predictor") -> str:
    """A line below the answers: whether the probabilities are scaled, and what "uncertain" means."""
    calibration = predictor.trained.calibration
    if calibration is None:
        return "Probabilities are not calibrated."
    told = f"Probabilities: {calibration.scaling.in_words} ({calibration.reason})"
    if calibration.abstain is None:
        return f"{told}."
    return f"{told}; uncertain: better withheld, by the errors on validation patients."


def embed(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a trained run, or its model.safetensors.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help=".npz, .csv or .parquet.")],
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="[PATH]", help="Sound files, folders, patterns.")
    ] = None,
    data: DataOption = None,
    cycles: CyclesOption = "auto",
    device: DeviceOption = None,
) -> None:
    """Write the model's features of cycles: of recordings, of a corpus, or of the one that the run was trained on."""
    from lungsound.inference.embed import embed as embed_cycles

    found = embed_cycles(
        run, paths or (), out=out, data_root=data, find_by=cycles, device=device or "cpu", console=console
    )
    console.print(f"{len(found.cycles)} cycles, {found.features.shape[1]} features: {out}", highlight=False)
    for error in found.errors:
        print_error(error)
    if found.errors:
        raise typer.Exit(1)
