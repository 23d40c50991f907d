"""Commands with a trained model: models, evaluate, export, predict, embed, explain."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from lungsound.cli.shared import (
    DEVICES,
    NOTICE,
    DataOption,
    DeviceOption,
    LabelMapOption,
    argument,
    console,
    end_with,
    flag,
    option,
    print_lines,
    print_table,
)
from lungsound.cluster import check_address
from lungsound.errors import SettingsError
from lungsound.extras import BOX, BOX_DISTRIBUTION, box_file
from lungsound.storage import as_uri

if TYPE_CHECKING:
    from lungsound.inference.bulk import BulkResult
    from lungsound.inference.predictor import Predictor

NUM_NAMED = 10  # files in the last lines

PathsArgument = Annotated[list[Path], argument("PATH", "Sound files, folders of them, or glob patterns.")]
ModelOption = Annotated[
    str,
    option(
        "MODEL",
        "Run folder, model file, hf://OWNER/NAME, or box: the model of lungsound-box, trained on real recordings.",
        "--model",
    ),
]
EngineOption = Annotated[
    str,
    option(
        "ENGINE",
        "auto (the fastest whose predicted classes 'export' verified), exact (the fastest within 1e-4 of torch), "
        "torch, torch-bf16, onnx, openvino, or openvino-bf16.",
        "--engine",
    ),
]
CyclesOption = Annotated[
    Literal["auto", "annotation", "segmentation", "windows"],
    option(
        "SOURCE",
        "annotation (a .txt beside the recording), segmentation (breathing cycles detected in it), windows, or "
        "auto: the first of these that is available.",
    ),
]


def models() -> None:
    """List the model in the box and the known weights.

    Of the model in the box: data, scores with 95 % intervals over patients, licence. Weights are named by --set
    model.pretrained=NAME; what is not in the cache is downloaded then.
    """
    from importlib.metadata import metadata

    from lungsound.evaluation.evidence import UNKNOWN
    from lungsound.models.hub import KNOWN_WEIGHTS, is_cached
    from lungsound.training.model_file import read_facts

    try:
        file = box_file()
    except SettingsError as error:
        print_lines(f"{BOX}: {error}")
    else:
        evidence = read_facts(file).evidence
        facts = [UNKNOWN] if evidence is None else [evidence.trained_on, *(each.summary for each in evidence.groups)]
        facts += [f"licence: {metadata(BOX_DISTRIBUTION)['License-Expression']}", NOTICE]
        print_lines(f"{BOX}: {file}", *(f"    {fact}" for fact in facts))
    print_lines("")
    known = ((name, is_cached(name), each) for name, each in KNOWN_WEIGHTS.items())
    rows = [(name, each.trained_on, each.licence, "yes" if is_there else "no") for name, is_there, each in known]
    print_table(("weights", "trained on", "licence", "cached"), rows)


def evaluate(
    run: Annotated[Path, argument("RUN", "Folder of a trained run.")],
    data: DataOption = None,
    out: Annotated[Path | None, option("DIR", "Folder for the report.  [default: RUN]")] = None,
    device: Annotated[str | None, option("DEVICE", f"{DEVICES}  [default: that of the run]")] = None,
    label_map: LabelMapOption = None,
) -> None:
    """Evaluate a run on its test set or on another corpus.

    Writes predictions and a report. The labels of another corpus are translated by --label-map, else by the label map
    of the run.
    """
    from lungsound.training.evaluate import evaluate as evaluate_run

    report = evaluate_run(run, data_root=data, label_map=label_map, out_dir=out, device=device, console=console)
    print_lines(f"report: {report}")


def export(
    run: Annotated[
        str, argument("RUN", "Folder of a trained run, or with --data a model file, hf://OWNER/NAME, or box.")
    ],
    to: Annotated[
        Literal["engines", "hf", "onnx", "openvino", "torch"],
        option(
            "TARGET",
            "engines (for 'predict'), hf (a folder for Hugging Face transformers), or onnx, openvino, torch (one "
            "model file, waveform in, probabilities out).",
        ),
    ] = "engines",
    out: Annotated[Path | None, option("DIR", "Folder for the files of --to hf, onnx, openvino or torch.")] = None,
    data: DataOption = None,
    num_cycles: Annotated[int, option("N", "Number of test cycles to check on.")] = 500,
) -> None:
    """Export a run's model for fast engines or other programs.

    Checks on test cycles that the exported model predicts as PyTorch does. By default it exports for ONNX Runtime and
    OpenVINO, of which 'predict' then uses the fastest.
    """
    from lungsound.inference.export import export_files, export_run

    if to == "engines":
        path = export_run(run, data_root=data, num_cycles=num_cycles, console=console)
        print_lines(f"engines: {path}")
        return
    if out is None:
        raise SettingsError(f"export --to {to} needs a folder for its files: give --out DIR")
    export_files(run, to=to, out=out, data_root=data, num_cycles=num_cycles, console=console)
    print_lines(f"written: {out}")


def predict(
    paths: Annotated[
        list[str], argument("PATH", "Sound files, folders of them, or glob patterns; with --on also their URIs.")
    ],
    model: ModelOption = BOX,
    out: Annotated[str | None, option("DIR", "Write predictions into this folder.")] = None,
    formats: Annotated[
        list[str] | None,
        option(
            "FORMAT",
            "csv, jsonl, parquet, audacity, raven, textgrid, icbhi, sprsound, fhir or html, with --out. "
            "Repeatable.  [default: csv]",
            "--format",
        ),
    ] = None,
    cycles: CyclesOption = "auto",
    workers: Annotated[
        int | None,
        option("N", "Number of processes that read and predict.  [default: as many as processors]", min=1),
    ] = None,
    skip_existing: Annotated[
        bool, flag("--skip-existing", "Skip recordings whose predictions are already in --out.")
    ] = False,
    patient_pattern: Annotated[
        str | None,
        option("REGEX", "Regular expression whose first group is the patient ID in a file name, e.g. '^(\\d+)_'."),
    ] = None,
    stethoscope: Annotated[
        str | None, option("NAME", "Stethoscope of all these recordings, by its name in 'lungsound models'.")
    ] = None,
    age: Annotated[str | None, option("YEARS", "Age of the patient of all these recordings.")] = None,
    explain: Annotated[
        bool, flag("--explain", "Draw the relevance of each patch on the pages of --format html.")
    ] = False,
    device: DeviceOption = None,
    engine: EngineOption = "auto",
    on: Annotated[
        str | None,
        option(
            "CLUSTER",
            "Predict an archive on a Ray cluster, ray (started here) or ray://HOST:PORT: into a Parquet file for each "
            "part of it; a second call goes on. PATH and --out may be URIs (s3, gs, az, https).",
            "--on",
        ),
    ] = None,
) -> None:
    """Predict crackles and wheezes in recordings, cycle by cycle.

    A prediction without evidence for it is withheld ("uncertain"), with the reasons and the best guess beside it.
    Without --out the predictions are printed. Recordings that fail are listed at the end, with exit code 1.
    """
    from lungsound.inference.bulk import predict_many
    from lungsound.inference.prediction import as_stated
    from lungsound.inference.predictor import Predictor

    stethoscope, age_years = as_stated(stethoscope, age)
    if explain and (out is None or "html" not in (formats or ())):
        raise SettingsError("--explain draws on html pages: give --out DIR and --format html too")
    if formats and out is None:
        raise SettingsError(f"--format {formats[0]} needs a folder for its files: give --out DIR")
    uris = [each for each in (*paths, out or "") if as_uri(each)]
    if on is None and uris:
        raise SettingsError(f"{uris[0]} is read or written with --on ray, into a folder of Parquet files")
    if on is not None:
        if formats or skip_existing or device or explain:
            raise SettingsError(
                "--on writes Parquet and always goes on, on CPUs: leave out --format, --skip-existing, --device"
            )
        check_address(on)
        if out is None:
            raise SettingsError("--on needs a folder for its files: give --out DIR, or a URI")
    predictor = Predictor.load(model, device=device or "cpu", engine=engine, find_by=cycles)
    console.print(predictor.evidence)
    if out is None:
        result = _show(predictor, [Path(path) for path in paths], stethoscope, age_years)
    elif on is not None:
        from lungsound.inference.archive import predict_archive

        result = predict_archive(
            predictor,
            paths,
            out=out,
            on=on,
            num_workers=workers,
            patient_pattern=patient_pattern,
            stethoscope=stethoscope,
            age_years=age_years,
            console=console,
        )
    else:
        result = predict_many(
            predictor,
            [Path(path) for path in paths],
            out=Path(out),
            formats=formats or ("csv",),
            num_workers=workers,
            is_existing_skipped=skip_existing,
            patient_pattern=patient_pattern,
            stethoscope=stethoscope,
            age_years=age_years,
            is_explained=explain,
            console=console,
        )
    if out is not None:
        console.print(f"{result.num_new} predicted, {result.num_skipped} skipped, {len(result.errors)} failed")
    _finish(predictor, result)


def embed(
    out: Annotated[Path, option("FILE", "Output file: .npz, .csv or .parquet.")],
    paths: Annotated[list[Path] | None, argument("PATH", "Sound files, folders of them, or glob patterns.")] = None,
    model: ModelOption = BOX,
    data: DataOption = None,
    cycles: CyclesOption = "auto",
    device: DeviceOption = None,
) -> None:
    """Write the encoder's features of each cycle to a file.

    The cycles are those of the recordings PATH, of the corpus --data, or else of the corpus that the run was trained
    on.
    """
    from lungsound.inference.embed import embed as embed_cycles

    embeddings = embed_cycles(
        model, paths or (), out=out, data_root=data, find_by=cycles, device=device or "cpu", console=console
    )
    num_cycles, dim = embeddings.features.shape
    console.print(f"{num_cycles} cycles, {dim} features: {out}" if num_cycles else f"no cycles: {out} was not written")
    end_with(embeddings.errors, exit_code=1)


def explain(
    paths: PathsArgument,
    out: Annotated[Path, option("DIR", "Folder for the pages and the .npz files.")],
    model: ModelOption = BOX,
    cycles: CyclesOption = "auto",
    device: DeviceOption = None,
) -> None:
    """Map the times and frequencies that each prediction rests on.

    Writes an HTML page with relevance maps for each recording, and the numbers as .npz. Takes about a second per cycle
    and needs a patch-based model (AST). 'predict --explain' maps only the most uncertain cycles.
    """
    from lungsound.inference.bulk import explain_many
    from lungsound.inference.predictor import Predictor

    predictor = Predictor.load(model, device=device or "cpu", engine="torch", find_by=cycles)
    console.print(predictor.evidence)
    result = explain_many(predictor, paths, out=out, console=console)
    console.print(f"{result.num_new} explained, {len(result.errors)} failed")
    _finish(predictor, result)


def _show(predictor: "Predictor", paths: list[Path], stethoscope: str | None, age_years: float | None) -> "BulkResult":
    from lungsound.cli.cycles import print_cycles
    from lungsound.inference.bulk import BulkResult, find_sounds
    from lungsound.inference.parallel import Asked, for_each, predict_group
    from lungsound.inference.prediction import MEANINGS, Reason
    from lungsound.inference.predictor import AGE_NOT_STATED, STETHOSCOPE_NOT_STATED
    from lungsound.processor import num_threads

    options = {AGE_NOT_STATED: "--age YEARS", STETHOSCOPE_NOT_STATED: "--stethoscope NAME"}

    found, errors, reasons = find_sounds(paths), [], set[Reason]()
    asked = [Asked(path, stethoscope=stethoscope, age_years=age_years) for path in found.files]
    for each, prediction in for_each(predictor, asked, predict_group, num_workers=num_threads()):
        if isinstance(prediction, str):
            errors.append(prediction)
            continue
        title = f"{each.path.name}, cycles by {prediction.cycles_from}: "
        title += "no prediction" if prediction.aggregate is None else prediction.aggregate.caption
        if prediction.quality:
            stated = (f"{each} ({options[each]})" if each in options else each for each in prediction.quality)
            title += f"\nremarks: {', '.join(stated)}"
        print_cycles(title, prediction.cycles, console, classes=predictor.classes)
        reasons.update(reason for cycle in prediction.cycles for reason in cycle.reasons)
    print_lines(*(f"{reason}: {MEANINGS[reason]}" for reason in Reason.in_order(reasons)))
    num_new = len(found.files) - len(errors)
    return BulkResult(num_new, 0, (*errors, *found.unreadable), (), found.num_hidden)


def _finish(predictor: "Predictor", result: "BulkResult") -> None:
    from lungsound.training.model_file import unfinished

    print_lines(*(f"written: {file}" for file in result.files[:NUM_NAMED]))
    if len(result.files) > NUM_NAMED:
        console.print(f"and {len(result.files) - NUM_NAMED} more")
    if result.num_hidden:
        console.print(f"{result.num_hidden} files and folders whose names begin with a dot were passed over")
    if result.num_new + result.num_skipped:
        if predictor.path and (warning := unfinished(predictor.path.parent)):
            print_lines(f"Warning: {warning}; these are predictions of an intermediate epoch.")
        console.print(f"{probabilities_text(predictor)} {NOTICE}")
    end_with(result.errors, exit_code=1)


def probabilities_text(predictor: "Predictor") -> str:
    """Sentences on how probabilities are scaled, and how a class is chosen by them."""
    calibration = predictor.trained.calibration
    if calibration is None:
        return "Probabilities are not calibrated."
    decision = "" if calibration.normal_threshold is None else f" {calibration.decision}."
    return f"Probabilities: {calibration.scaling}.{decision}"
