"""images_evaluate: the hold-out through onnxruntime and the artefact alone, beside what the phases answered."""

from __future__ import annotations

from dataclasses import replace

from penstock.artifact.picture_model import load
from penstock.config import ImageEvaluateView, load_view
from penstock.console import progress, run_stage, say
from penstock.storage import write_bytes, write_csv, write_json
from penstock.vision import holdout as judged
from penstock.vision.holdout import FINAL, PHASES, QUANTISED, Answers
from penstock.vision.showing import explained_sheet, wrong_sheet
from stages.layout import ImageLayout


def main(dataset: str) -> None:
    """Judge the artefact of ``dataset``, and each phase, on pictures that nothing was learnt from."""
    layout = ImageLayout(dataset)
    view = load_view(ImageEvaluateView, dataset)
    scoring, seed, scaled = view.scoring, view.seed, view.export.temperature
    holdout = judged.read_holdout(layout.raw, layout.split)
    model = load(layout.model, "fp32")
    classes, temperature = model.manifest.classes, model.manifest.temperature
    answers = {
        phase: judged.read_phase(layout.answers(phase), holdout, classes, scaled=scaled) for phase in PHASES
    }
    quantised = load(layout.model, "int8") if model.manifest.int8 is not None else None
    steps = judged.steps(len(holdout), quantised=quantised is not None, corrupted=scoring.corrupted)
    with progress(f"evaluate {dataset}", steps, unit="pictures") as advance:
        final = judged.answer(model, holdout, advance)
        answers[FINAL] = replace(answers[FINAL], probabilities=final, temperature=temperature)
        if quantised is not None:
            answers[QUANTISED] = Answers(judged.answer(quantised, holdout, advance))
        corrupted = judged.robustness(
            model, holdout, classes, count=scoring.corrupted, seed=seed, advance=advance
        )
    result = judged.evaluate(answers, holdout, classes, corrupted, scoring=scoring, seed=seed)
    write_bytes(layout.reports / "wrong.jpg", wrong_sheet(holdout, result.wrong))
    places, codes = result.to_explain(scoring.explained, seed)
    sheet, any_shown = explained_sheet(layout.weights(FINAL), view.backbone, holdout, places, codes)
    write_bytes(layout.reports / "explained.jpg", sheet)
    explained = judged.listed(holdout, answers[FINAL], classes, places if any_shown else places[:0])
    for name, table in {**result.tables, "explained": explained}.items():
        write_csv(layout.reports / "evaluation" / f"{name}.csv", table)
    write_json(layout.reports / "evaluation.json", result.metrics)
    say(f"{dataset}: top-1 {result.metrics[FINAL]['top1']:.4g} on {len(holdout)} pictures set apart")


if __name__ == "__main__":
    run_stage("images_evaluate", main)
