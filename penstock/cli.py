"""`penstock …`: what is not a stage of the graph. Every command imports what it needs when it runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from penstock.console import USER_ERROR, fail, progress, say
from penstock.deploy.commands import deploy
from penstock.errors import PenstockError
from penstock.experiments.commands import experiment
from penstock.loading.commands import ingest
from penstock.maintenance.commands import maintain
from penstock.monitoring.commands import monitor
from penstock.rollout.commands import rollout
from penstock.serving.commands import keys, serve
from penstock.serving.recommender.commands import recommend
from penstock.stream.commands import stream

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="From raw data to a served model. The graph itself runs by `dvc repro` and `dvc exp run`.",
)

app.add_typer(ingest, name="ingest")
app.add_typer(stream, name="stream")
app.add_typer(deploy, name="deploy")
app.add_typer(rollout, name="rollout")
app.add_typer(monitor, name="monitor")
app.add_typer(maintain, name="maintain")
app.command()(serve)
app.add_typer(keys, name="keys")
app.add_typer(recommend, name="recommend")
app.add_typer(experiment, name="experiment")


@app.command()
def params(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Hydra overrides, such as dataset=churn.")
    ] = None,
    check: Annotated[bool, typer.Option(help="Write nothing; fail if params.yaml is out of step.")] = False,
) -> None:
    """Compose params.yaml from conf/, as `dvc exp run` does, without running anything."""
    from penstock.composition import in_step, write_params

    root = Path()
    if not check:
        say(f"{write_params(root, overrides or ())} composed from conf/")
    elif not in_step(root):
        raise PenstockError("params.yaml is not the composition of conf/", hint="compose it: `make params`")


@app.command()
def dataset(
    name: Annotated[str, typer.Argument(help="What to call it; becomes conf/dataset/NAME.yaml.")],
    path: Annotated[
        Path,
        typer.Argument(
            help="A CSV, Parquet or JSON-lines file, a table that a load keeps (data/lake/NAME), or a folder with one "
            "folder of pictures for each class."
        ),
    ],
    target: Annotated[str | None, typer.Option(help="Of a table, the column to predict.")] = None,
    positive: Annotated[
        str | None, typer.Option(help="Of two classes, the one whose probability counts.")
    ] = None,
    user: Annotated[str | None, typer.Option(help="Of interactions, the column that says who.")] = None,
    item: Annotated[str | None, typer.Option(help="Of interactions, the column that says what.")] = None,
    time: Annotated[str | None, typer.Option(help="Of interactions, the column that says when.")] = None,
    force: Annotated[bool, typer.Option(help="Replace the file if it is there.")] = False,
) -> None:
    """Write the settings of a new data set, with a contract inferred from a file or a folder."""
    from penstock.scaffold import infer, infer_interactions, infer_pictures
    from penstock.storage import write_text

    out = Path("conf/dataset") / f"{name}.yaml"
    if not name.isidentifier():
        raise PenstockError(
            f"{name!r} is no name for a data set", hint="letters, digits and _; it becomes a key"
        )
    if out.exists() and not force:
        raise PenstockError(f"{out}: exists", hint="choose another name, or --force")
    if path.is_dir() and not (path / "_penstock").is_dir():
        write_text(out, infer_pictures(path, name))
    elif user is not None and item is not None and time is not None:
        write_text(out, infer_interactions(path, name, user=user, item=item, time=time))
    elif user is not None or item is not None or time is not None:
        raise PenstockError(f"{path}: interactions need three columns", hint="name --user, --item and --time")
    elif target is None:
        raise PenstockError(
            f"{path}: which column is to be predicted?",
            hint="name it: --target COLUMN; or, of interactions, --user, --item and --time",
        )
    else:
        write_text(out, infer(path, name, target=target, positive=positive))
    say(f"{out} written. Read it, then: penstock params && dvc repro --glob '*@{name}'")


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="Folder of an artefact, such as models/churn.")],
    path: Annotated[
        Path,
        typer.Argument(
            help="CSV, Parquet or JSON lines, of any size. For pictures: a folder of them, one of them, or a "
            "file with a column `path`."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the answers go; format by suffix.")],
    quarantine: Annotated[
        Path | None, typer.Option(help="Where rows go that do not fit. [default: beside OUT]")
    ] = None,
    keep: Annotated[str, typer.Option(help="Columns of the input to carry over, separated by commas.")] = "",
    batch_rows: Annotated[int, typer.Option(min=1, help="Rows in memory at a time, for each core.")] = 65_536,
    variant: Annotated[
        Literal["fp32", "int8"], typer.Option(help="Which file of an artefact for pictures.")
    ] = "fp32",
) -> None:
    """Score a file, or pictures, with an artefact. What breaks its contract goes to quarantine, and is counted."""
    from penstock.artifact.picture_manifest import is_of_pictures
    from penstock.artifact.recommender_manifest import is_of_interactions

    if is_of_interactions(model):
        raise PenstockError(
            f"{model}: recommends items, and scores no rows",
            hint="penstock.artifact.recommender_model.load(folder).recommend([[id, …]])",
        )
    rejects = quarantine or out.with_name(f"{out.name.split('.')[0]}.quarantine.parquet")
    if is_of_pictures(model):
        if keep:
            raise PenstockError("--keep is for tables", hint="join the answers to the list by their `path`")
        _predict_pictures(model, path, out, rejects, variant)
        return
    if variant != "fp32":
        raise PenstockError(f"{model}: has no {variant} variant", hint="models of tables have one file only")
    from penstock.artifact.model import load
    from penstock.artifact.score import count_rows, reasons_in_words, score_file
    from penstock.reproducible import available_cores

    loaded = load(model)
    total = count_rows(path) if path.is_file() else None
    with progress(f"predict {path.name}", total, unit="rows") as advance:
        scored = score_file(
            loaded,
            path,
            out,
            rejects,
            keep=[name for name in keep.split(",") if name],
            batch_rows=batch_rows,
            workers=available_cores(),
            advance=advance,
        )
    say(f"{scored.rows} rows scored: {out}")
    if scored.rejected:
        say(f"{scored.rejected} rows do not fit: {rejects}\n{reasons_in_words(scored.reasons)}")


def _predict_pictures(
    model: Path, path: Path, out: Path, rejects: Path, variant: Literal["fp32", "int8"]
) -> None:
    from penstock.artifact.picture_model import load
    from penstock.artifact.picture_score import score_pictures, wanted
    from penstock.artifact.score import reasons_in_words
    from penstock.reproducible import available_cores

    loaded = load(model, variant)
    pictures = wanted(path)
    with progress(f"predict {path.name}", len(pictures), unit="pictures") as advance:
        scored = score_pictures(loaded, pictures, out, rejects, workers=available_cores(), advance=advance)
    say(f"{scored.rows} pictures classified: {out}")
    if scored.rejected:
        say(f"{scored.rejected} pictures cannot be used: {rejects}\n{reasons_in_words(scored.reasons)}")


@app.command()
def reproduce(
    dataset: Annotated[str | None, typer.Option(help="Only the stages of one data set.")] = None,
    clones: Annotated[int, typer.Option(min=1, help="Fresh clones to build side by side.")] = 2,
    here: Annotated[bool, typer.Option(help="Build nothing: compare what was built in this folder.")] = False,
) -> None:
    """Build the graph in fresh clones without a cache; name the first output that differs."""
    from penstock.reproduction import arrived
    from penstock.reproduction import reproduce as run

    if here:
        found = arrived(Path())
        if found:
            raise PenstockError(
                f"not what was committed: {found}", hint="commit what was built, or find what changed it"
            )
        say("what was built here is what was committed")
        return
    difference = run(Path(), clones=clones, dataset=dataset)
    if difference:
        raise PenstockError(
            f"not reproduced: {difference}", hint="`dvc repro --force` here, and compare what changes"
        )
    say(f"{clones} fresh clones arrive at the committed dvc.lock, hash for hash")


@app.command()
def forget(
    user: Annotated[
        str | None, typer.Argument(help="As clients send it (X-User-Id).", show_default=False)
    ] = None,
    device: Annotated[str | None, typer.Option(help="Whose readings go, too.", show_default=False)] = None,
    stream: Annotated[
        list[str] | None, typer.Option(help="Of conf/stream/, where they are; may be repeated.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The report as JSON.")] = False,
) -> None:
    """Remove a person, or a device, from logs and state; say what cannot be reached, and until when it is there."""
    from penstock.forgetting import forget as forgotten
    from penstock.stream.declared import declared as stream_declared

    if user is None and device is None:
        raise PenstockError(
            "whom?", hint="penstock forget USER; penstock forget --device NAME --stream embedded"
        )
    streams = [stream_declared(name) for name in stream or ([] if device is None else ["embedded"])]
    done = forgotten(user, device=device, streams=streams)
    if as_json:
        import json

        print(json.dumps(done.dump(), indent=2))
        return
    for place, count in done.removed.items():
        print(f"removed  {count:>8}  {place}")
    for place, words in done.left.items():
        print(f"left               {place}: {words}")


@app.command()
def sign(
    model: Annotated[
        Path | None, typer.Argument(help="Folder of an artefact, such as models/churn.", show_default=False)
    ] = None,
    key: Annotated[
        Path | None, typer.Option(help="The private key: PEM, P-256, P-384 or P-521.", show_default=False)
    ] = None,
    make_key: Annotated[
        Path | None,
        typer.Option(
            help="Make a key pair first: this file, and beside it the public one as .pub.", show_default=False
        ),
    ] = None,
) -> None:
    """Sign an artefact (OpenSSF model signing) and attest where it comes from (in-toto, SLSA)."""
    from penstock.artifact import provenance, signature

    if make_key is not None:
        say(f"{make_key} made; what verifies needs {signature.make_key(make_key)}")
        key = key or make_key
    if model is None:
        if make_key is None:
            raise PenstockError("nothing to sign", hint="penstock sign models/churn --key PRIVATE_KEY")
        return
    if key is None:
        raise PenstockError(
            "which key?", hint="name it: --key PRIVATE_KEY; or make one: --make-key PRIVATE_KEY"
        )
    attestation = provenance.attest(model, key, Path())
    say(f"{signature.sign(model, key)} and {attestation} written")


@app.command()
def verify(
    model: Annotated[Path, typer.Argument(help="Folder of an artefact, such as models/churn.")],
    key: Annotated[Path, typer.Option(help="The public key.")],
    provenance: Annotated[bool, typer.Option(help="Ask for its attestation too, and print it.")] = True,
) -> None:
    """Verify that an artefact is the one that was signed, file by file; exit code 2 if not."""
    from penstock.artifact.signature import verify as verified

    digest = verified(model, key)
    if provenance:
        import json

        from penstock.artifact.provenance import attested

        print(json.dumps(attested(model, key)["predicate"], indent=2))
    say(f"{model}: signed by {key}, sha256:{digest}")


def main() -> None:
    """Entry point of the console script."""
    try:
        code = app(standalone_mode=False)
    except PenstockError as error:
        sys.exit(fail(error, where="penstock"))
    except typer.Abort:
        sys.exit(130)
    except Exception as error:
        # Typer's usage errors know how to show themselves; anything else is a defect and keeps its traceback.
        if hasattr(error, "show"):
            error.show()
            sys.exit(getattr(error, "exit_code", USER_ERROR))
        raise
    if isinstance(code, int):  # of typer.Exit, which comes back as a value
        sys.exit(code)


if __name__ == "__main__":
    main()
