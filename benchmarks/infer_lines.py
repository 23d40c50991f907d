"""The lines of answering: waveforms of cycles to probabilities, beside the library transformers in float32."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from benchmarks import ours
from benchmarks.answering import forward_flops, prepare
from benchmarks.cycles import Cycles, draw
from benchmarks.kept import kept_in
from benchmarks.line import Line, seconds_in_numbers
from benchmarks.measure import seconds_of, spread
from benchmarks.peers import TransformersAnswers
from benchmarks.plan import Plan
from lungsound.errors import SettingsError
from lungsound.inference import engines as kinds
from lungsound.inference.engines import AUTO, EXACT, Engine, Parity, select
from lungsound.models.ast import AudioSpectrogramTransformer
from lungsound.training.checkpoint import TrainedModel, load_model, model_file

WANTED = {"exact": 2.3, "fast": 5.0, "real": 12.0}


@dataclass(frozen=True)
class Measured:
    """A model whose engines are measured, the folder that keeps how they decide, and on what cycles."""

    trained: TrainedModel
    folder: Path
    agreements: Mapping[str, Parity]
    source: str


def infer_lines(plan: Plan) -> list[Line]:
    """Cycles of the whole input by the exact and the fast engine; then, padding not encoded, cycles of real lengths.

    A trained model answers as it was trained, so the last line is there for one that does not encode padding.
    """
    with kept_in(plan.work / "engines"):
        whole, cycles = _measured(plan, is_padding_encoded=True)
        name, peer = f"{_named(plan, whole.trained)} inference", "transformers fp32"
        front_end = whole.trained.front_end
        full = ours.waveforms(front_end, [front_end.audio.duration_s] * plan.batch_size)
        length = f"{front_end.audio.duration_s:g} s cycles"
        found = [
            _line(plan, whole, "exact", full, f"{name}, {length}, exact engine / {peer}"),
            _line(plan, whole, "fast", full, f"{name}, {length}, fast default / {peer}"),
        ]
        if plan.model is not None and whole.trained.front_end.is_padding_encoded:
            return found
        own, cycles = (whole, cycles) if plan.model is not None else _measured(plan, is_padding_encoded=False)
        source = f"{len(cycles.timed)} cycles ({cycles.source}), padding-aware"
        return [*found, _line(plan, own, "real", cycles.timed, f"{name}, {source}, fast default / {peer}")]


def _measured(plan: Plan, *, is_padding_encoded: bool) -> tuple[Measured, Cycles]:
    plan.say(f"engines, {'whole inputs' if is_padding_encoded else 'padding-aware'}: export, and what they decide")
    if plan.model is None:
        config = ours.run_config(
            plan.answering_size, precision="fp32", is_quick=plan.is_quick, is_padding_encoded=is_padding_encoded
        )
        trained = ours.trained_model(config)
    else:
        trained = _trained(plan.model)
    cycles, folder = draw(plan, trained.front_end), plan.work / trained.sha256
    agreements = prepare(trained, folder, cycles, is_random=plan.model is None, is_exported=not plan.is_quick)
    return Measured(trained, folder, agreements, cycles.source), cycles


def _trained(run: Path) -> TrainedModel:
    """The model of a run; SettingsError for one that the peer has nothing to set beside."""
    trained = load_model(model_file(run))
    encoder = trained.model.encoder
    if not isinstance(encoder, AudioSpectrogramTransformer) or encoder.pooling != "class_token":
        raise SettingsError(
            f"{run} is not what transformers' AST is, which it would be measured against: give a run with "
            "model.architecture 'ast' and model.pooling 'class_token'"
        )
    return trained


def _named(plan: Plan, trained: TrainedModel) -> str:
    if plan.model is None:
        return f"AST-{plan.answering_size.title()}"
    encoder = trained.model.patch_encoder
    return f"{plan.model.absolute().name} (AST of {len(encoder.blocks)} blocks of width {encoder.dim}, trained)"


def _line(plan: Plan, model: Measured, kind: str, cycles: Sequence[Tensor], what: str) -> Line:
    plan.say(what)
    trained = model.trained
    chosen = select(EXACT if kind == "exact" else AUTO, trained, folder=model.folder, device=plan.device)
    numbers: dict[str, float] = {
        "num_cycles": len(cycles),
        "gflop": forward_flops(trained, cycles) / 1e9,
    }
    if not plan.is_against:
        numbers["ours_s"] = spread(plan.alone(lambda: chosen.predict(cycles))).median
        return Line(f"infer-{kind}", what, "x", WANTED[kind], None, note=_note(plan, model, kind, chosen, numbers))
    peer = TransformersAnswers(trained.model, trained.front_end, mean=trained.mean, std=trained.std)
    # The peer takes as long for a short cycle as for a long one: no more pairs than needed.
    found = plan.compare(lambda: chosen.predict(cycles), lambda: peer(cycles), least_pairs=2)
    numbers |= seconds_in_numbers(found) | {"peer_features_s": seconds_of(lambda: peer.features(cycles))}
    if trained.front_end.is_padding_encoded:  # else they are asked something else
        numbers["largest_difference"] = float((chosen.predict(cycles) - peer(cycles)).abs().max())
    return Line(
        f"infer-{kind}",
        what,
        "x",
        WANTED[kind],
        found.ratio,
        note=_note(plan, model, kind, chosen, numbers),
        numbers=numbers,
    )


def _note(plan: Plan, model: Measured, kind: str, chosen: Engine, numbers: dict[str, float]) -> str:
    """Milliseconds a cycle of both sides, which engine it is and why; what goes into it is kept in `numbers`.

    Engines were compared with torch from the fastest on; the last of them is the one that was chosen.
    """
    dtype = "bf16" if kinds.REGISTRY[chosen.name].is_bf16 else "fp32"
    ours_ms = 1e3 * numbers["ours_s"] / numbers["num_cycles"]
    share = 1e3 * numbers["gflop"] / ours_ms / plan.ceilings[dtype]
    numbers |= {"ours_ms": ours_ms, "ceiling_share": share}
    rate = f"{numbers['gflop']:.3g} GFLOP, {100 * share:.0f} % of the {dtype} ceiling"
    told = f"{chosen.name}, {ours_ms:.0f} ms a cycle, {rate}"
    for name, agreed in model.agreements.items() if kind != "exact" else ():
        numbers[f"same_decisions_{name}"] = agreed.share
        told += f"; {name} decides as torch fp32 in {agreed.share:.1%} of {agreed.num_cycles} cycles ({model.source})"
    if "peer_s" not in numbers:
        return told
    peer_ms, features_ms = (1e3 * numbers[name] / numbers["num_cycles"] for name in ("peer_s", "peer_features_s"))
    told += f"; peer {peer_ms:.0f} ms, of which {features_ms:.0f} ms its features; {numbers['num_pairs']:g} pairs"
    if "largest_difference" not in numbers:
        return told
    return f"{told}; probabilities differ by {numbers['largest_difference']:.1g} at most"
