"""The lines of answering: waveforms of cycles to probabilities, beside the library transformers in float32."""

from collections.abc import Sequence

from torch import Tensor

from lungsound.app.bench import ours
from lungsound.app.bench.answering import engine, export, forward_flops
from lungsound.app.bench.kept import kept_in
from lungsound.app.bench.line import Line, seconds_in_numbers
from lungsound.app.bench.measure import seconds_of, spread
from lungsound.app.bench.peers import TransformersAnswers
from lungsound.app.bench.plan import Plan
from lungsound.app.bench.stand_in import durations_s
from lungsound.build import corpora
from lungsound.checkpoint import TrainedModel
from lungsound.config import DataSettings
from lungsound.data.cut_cycles import waveforms_of
from lungsound.engines import kinds
from lungsound.engines.engine import Engine

WANTED = {"exact": 2.3, "fast": 5.0, "real": 12.0}
NUM_REAL_CYCLES = 16


def infer_lines(plan: Plan) -> list[Line]:
    """Cycles of the whole input by the exact and the fast engine, then cycles of real lengths."""
    config = ours.run_config(plan.answering_size, precision="fp32", is_quick=plan.is_quick)
    trained = ours.trained_model(config)
    full = ours.waveforms(trained.front_end, [trained.front_end.duration_s] * plan.batch_size)
    cycles, source = _cycles(plan, trained)
    name, peer = f"AST-{plan.answering_size.title()} inference", "transformers fp32"
    length = f"{trained.front_end.duration_s:g} s cycles"
    with kept_in(plan.work / "engines"):
        if not plan.is_quick:
            plan.say("exporting graphs")
            export(trained, cycles)
        return [
            _line(plan, trained, "exact", full, f"{name}, {length}, exact engine / {peer}"),
            _line(plan, trained, "fast", full, f"{name}, {length}, fast default / {peer}"),
            _line(plan, trained, "real", cycles, f"{name}, {source}, fast default / {peer}"),
        ]


def _cycles(plan: Plan, trained: TrainedModel) -> tuple[list[Tensor], str]:
    """Some cycles, spread evenly over a corpus, as they are cut; noise of ICBHI's lengths without one."""
    if plan.data is None:
        lengths = durations_s(plan.batch_size if plan.is_quick else NUM_REAL_CYCLES)
        return ours.waveforms(trained.front_end, lengths), "noise of the lengths of ICBHI's cycles"
    corpus = corpora.corpus(DataSettings(root=str(plan.data), modes=("sc",), is_strict=False))
    chosen = corpus.cycles[:: max(1, len(corpus.cycles) // NUM_REAL_CYCLES)][:NUM_REAL_CYCLES]
    cycles = waveforms_of(chosen, trained.front_end)
    return cycles, f"{len(cycles)} real cycles of {corpus.name}-SC"


def _line(plan: Plan, trained: TrainedModel, kind: str, cycles: Sequence[Tensor], what: str) -> Line:
    plan.say(what)
    chosen, share = engine(trained, is_exact=kind == "exact", cycles=cycles)
    numbers: dict[str, float] = {"num_cycles": len(cycles), "same_decisions": share}
    if not plan.is_against:
        numbers["ours_s"] = spread(plan.alone(lambda: chosen.answer(cycles))).median
        return Line(f"infer-{kind}", what, "x", WANTED[kind], None, note=_note(plan, trained, chosen, numbers))
    peer = TransformersAnswers(trained.model, trained.front_end, mean=trained.mean, std=trained.std)
    # The peer takes as long for a short cycle as for a long one: no more pairs than needed.
    found = plan.compare(lambda: chosen.answer(cycles), lambda: peer(cycles), least_pairs=2)
    numbers |= seconds_in_numbers(found) | {"peer_features_s": seconds_of(lambda: peer.features(cycles))}
    numbers["largest_difference"] = float((chosen.answer(cycles) - peer(cycles)).abs().max())
    note = _note(plan, trained, chosen, numbers)
    return Line(f"infer-{kind}", what, "x", WANTED[kind], found.ratio, note=note, numbers=numbers)


def _note(plan: Plan, trained: TrainedModel, chosen: Engine, numbers: dict[str, float]) -> str:
    """Milliseconds a cycle of both sides; what goes into it is kept in `numbers`."""
    dtype = "fp32" if kinds.KINDS[chosen.name].is_float32 else "bf16"
    ours_ms = 1e3 * numbers["ours_s"] / numbers["num_cycles"]
    gflop = forward_flops(trained) / 1e9
    share = 1e3 * gflop / ours_ms / plan.ceilings[dtype]
    numbers |= {"ours_ms": ours_ms, "gflop": gflop, "ceiling_share": share}
    told = f"{chosen.name}, {ours_ms:.0f} ms a cycle, {100 * share:.0f} % of the {dtype} ceiling for a whole input"
    if "peer_s" not in numbers:
        return told
    peer_ms, features_ms = (1e3 * numbers[name] / numbers["num_cycles"] for name in ("peer_s", "peer_features_s"))
    return (
        f"{told}; peer {peer_ms:.0f} ms, of which {features_ms:.0f} ms its features; {numbers['num_pairs']:g} pairs; "
        f"probabilities differ by "
        f"{numbers['largest_difference']:.1g} at most"
    )
